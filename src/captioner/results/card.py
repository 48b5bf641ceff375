"""The model card, `models/MODEL_CARD.md`: Markdown with the YAML head of Hugging Face's model cards.

All figures are read from the metrics and model files of the run.
"""

import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined, Template
from ruamel.yaml import YAML

from captioner.base.files import read_json, write_text
from captioner.model.captioner import load_model

MODELS = ("frozen", "finetuned")  # as metrics/evaluate.json calls them
METRICS = ("BLEU-1", "BLEU-2", "BLEU-3", "BLEU-4", "METEOR", "ROUGE-L", "CIDEr")
NAMES = {"flickr8k": "Flickr8k", "shapes": "coloured shapes, drawn by the pipeline", "own": "a dataset of the user's"}
SOURCES = {
    "official": "the official file",
    "mirror": "a mirror",
    "drawn": "drawn by the pipeline",
    "random": "random numbers",
    "file": "a file of the user's",
    "own": "files of the user's",
}
LEARNED_FROM = {
    "shapes": "It learned from pictures drawn by a program and sentences made by it, and knows nothing else."
}
PEOPLE = (
    "It learned from one kind of picture and what some annotators said of it, with their mistakes and their guesses "
    "about people; do not use it to describe or judge people, nor where an error could hurt."
)
TERMS = {
    "flickr8k": "Flickr8k is for research use, which goes for weights trained on it and for its captions in the file.",
    "shapes": "The pictures and their sentences are made by the same code.",
    "own": "The photos and captions keep their own terms, which may go for weights trained on them and go for the "
    "captions in the file.",
}
IMAGENET = "torchvision's ResNet-18 was trained on ImageNet, for non-commercial research."
OFFICIAL = {True: "yes", False: "NO", None: "-"}  # None: there is no official file
PARTS = {"images": "photos", "captions": "captions", "weights": "ResNet-18's first weights"}


def write_card(
    card: str | Path,
    *,
    model: str | Path,
    decoder: str | Path,
    metrics: Mapping[str, str | Path],
    beam: int,
    length_penalty: float,
    consensus: float,
) -> None:
    """Write the card of the fine-tuned `model` and of the `decoder` that it started from.

    `metrics` maps the names of the stages download, weights, captions, train, finetune and evaluate to their metrics
    files. `beam`, `length_penalty` and `consensus` are the settings of the search that wrote the test captions.
    Raises CaptionerError where a model file cannot be read.
    """
    records = {name: read_json(path) for name, path in metrics.items()}
    captioner, tuned = load_model(model)
    _, frozen = load_model(decoder)
    scores, download = records["evaluate"], records["download"]
    files = _input_files(download, records["weights"])
    foreign = [PARTS[part] for part, record in files.items() if record["official"] is False]
    measured = [name for name in METRICS if name in scores["finetuned"]]
    data = NAMES.get(download["dataset"], download["dataset"])
    text = _template().render(
        head=_head(data + _origin(files, foreign), download["dataset"], scores["finetuned"], measured),
        kind=_kind(frozen.decoder),
        parameters=sum(parameter.numel() for parameter in captioner.parameters()),
        foreign=foreign,
        metrics=records,
        scores=scores,
        measured=measured,
        score_rows=[
            [name, *(f"{100 * scores[name][metric]:.1f}" if metric in scores[name] else "-" for metric in measured)]
            for name in MODELS
        ],
        language_rows=[
            [name, *(f"{scores[model][name]:g}" for model in MODELS)]
            for name in scores["finetuned"]
            if name not in METRICS
        ],
        file_rows=[
            [
                PARTS[part],
                SOURCES.get(record["source"], record["source"]),
                OFFICIAL[record["official"]],
                f"`{record['md5']}`",
            ]
            for part, record in files.items()
        ],
        param_rows=[
            [f"`{key}`", f"`{value}`"] for key, value in (frozen.made["params"] | tuned.made["params"]).items()
        ],
        share=records["finetune"]["interpolation"]["share"],
        beam=beam,
        length_penalty=length_penalty,
        consensus=consensus,
        data=data,
        tuned=tuned,
        counts=_counts,
        learned_from=LEARNED_FROM.get(download["dataset"], PEOPLE),
        terms=TERMS[download["dataset"]] + (f" {IMAGENET}" if records["weights"]["official"] is not None else ""),
    )
    write_text(card, text)


def _template() -> Template:
    environment = Environment(  # the card is Markdown: nothing is escaped
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=False,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    return environment.get_template("card.md.j2")


def _input_files(download: Mapping[str, Any], weights: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """Return the record of each input file that the stages know, by the keys of PARTS."""
    records = {part: download.get(part) for part in ("images", "captions")} | {"weights": weights}
    return {part: record for part, record in records.items() if isinstance(record, dict)}


def _origin(files: Mapping[str, Mapping[str, Any]], foreign: list[str]) -> str:
    """Return what the name of the dataset says about its files; nothing for drawn photos and the user's own."""
    if "images" not in files or files["images"]["official"] is None:
        return ""
    return f" (not the official files: {', '.join(foreign)})" if foreign else " (official files)"


def _head(data: str, dataset: str, scores: Mapping[str, float], measured: list[str]) -> str:
    """Return the YAML that the Hugging Face Hub reads, without the lines `---` around it."""
    results = {
        "task": {"type": "image-to-text", "name": "Image captioning"},
        "dataset": {"name": data, "type": dataset, "split": "test"},
        "metrics": [
            {"type": name.split("-")[0].lower(), "name": f"{name} x100", "value": round(100 * scores[name], 1)}
            for name in measured
        ],
    }
    head = {
        "license": "mit",
        "library_name": "captioner",
        "pipeline_tag": "image-to-text",
        "language": "en",
        "tags": ["image-captioning", "resnet18", "lstm", "pytorch", "dvc"],
        "datasets": [dataset],
        "metrics": [name.lower() for name in ("BLEU", "METEOR", "ROUGE", "CIDEr") if any(name in m for m in measured)],
        "model-index": [{"name": "captioner", "results": [results]}],
    }
    yaml = YAML()
    yaml.width = 1000
    text = io.StringIO()
    yaml.dump(head, text)
    return text.getvalue()


def _kind(decoder: Mapping[str, Any]) -> str:
    how = (
        f"attends over the image's grid ({decoder['heads']} heads)"
        if decoder["attention"]
        else "starts from the image's mean feature"
    )
    return f"{how} and is {decoder['width']} wide"


def _counts(by_split: Mapping[str, int]) -> str:
    return " / ".join(f"{by_split[split]:,}" for split in ("train", "dev", "test"))
