"""Write the model card and the configuration that the Hugging Face Hub shows.

Files
    models/README.md      Markdown with the YAML head of the Hub's model cards
    models/config.json    {"model_type": "captioner", "image": {"size": pixels, "fit": str}, "mean": bool (see
                          `captioner.model.captioner`), "vocab_size": int, "max_length": tokens, "decoder": its
                          arguments, "trained_from": the first trained block of the encoder or null, "parameters": int,
                          "dataset": str, "search": {"beam", "length_penalty", "consensus"}, "scores": {"split": "test",
                          "images": int, and by name each score x100}}

All figures are read from the metrics and the model files of the run.
"""

import io
import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined, Template
from ruamel.yaml import YAML
from ruamel.yaml.scalarstring import DoubleQuotedScalarString

from captioner.base.files import read_json, write_json, write_text
from captioner.model.captioner import load_model
from captioner.results.intervals import DIFFERENCE, score_intervals

MODELS = ("frozen", "finetuned")  # their names in metrics/evaluate.json
METRICS = ("BLEU-1", "BLEU-2", "BLEU-3", "BLEU-4", "METEOR", "ROUGE-L", "CIDEr")
NAMES = {"flickr8k": "Flickr8k", "shapes": "coloured shapes, drawn by the pipeline", "own": "a dataset of the user's"}
SOURCES = {
    "official": "the official file",
    "mirror": "a mirror",
    "drawn": "drawn by the pipeline",
    "random": "random numbers",
    "file": "a file of the user's",
    "own": "files of the user's",
    "start": "the encoder of the model that training started from",
}
LEARNED_FROM = {
    "shapes": "A program drew its training pictures and wrote their captions. The model knows nothing else."
}
PEOPLE = (
    "It learned from one kind of photo and from what a few annotators wrote, with their mistakes and their guesses "
    "about people. Do not use it to describe or judge people, or where an error could do harm."
)
TERMS = {
    "flickr8k": "Flickr8k is for research use. The same holds for weights trained on it and for its captions in the "
    "model file.",
    "shapes": "The pictures and their captions are made by the same code.",
    "own": "The photos and captions keep their own terms. The terms may hold for weights trained on them, and they "
    "hold for the captions in the model file.",
}
IMAGENET = "torchvision trained its ResNet-18 on ImageNet, which is for non-commercial research."
OFFICIAL = {True: "yes", False: "NO", None: "-"}  # None: there is no official file
PARTS = {"images": "photos", "captions": "captions", "weights": "ResNet-18 weights"}


def write_card(
    card: str | Path,
    config: str | Path,
    *,
    model: str | Path,
    decoder: str | Path,
    metrics: Mapping[str, str | Path],
    beam: int,
    length_penalty: float,
    consensus: float,
) -> None:
    """Write the card and the configuration of the fine-tuned `model`, which started from `decoder`.

    `metrics` maps download, weights, captions, features, train, finetune and evaluate to their metrics files. `beam`,
    `length_penalty` and `consensus` are the settings of the search that wrote the test captions.
    Raises CaptionerError where a model file cannot be read.
    """
    records = {name: read_json(path) for name, path in metrics.items()}
    captioner, tuned = load_model(model)
    _, frozen = load_model(decoder)
    scores, download = records["evaluate"], records["download"]
    files = _input_files(download, records["weights"])
    foreign = [PARTS[part] for part, record in files.items() if record["official"] is False]
    measured = [name for name in METRICS if name in scores["finetuned"]]
    dataset = NAMES.get(download["dataset"], download["dataset"])
    search = {"beam": beam, "length_penalty": length_penalty, "consensus": consensus}
    parameters = sum(parameter.numel() for parameter in captioner.parameters())
    text = _template().render(
        **_tables(scores, files, measured, frozen.provenance["params"] | tuned.provenance["params"]),
        **search,
        head=_head(
            dataset + _origin(files, foreign),
            download["dataset"],
            tuned.vocabulary.language,
            scores["finetuned"],
            measured,
        ),
        kind=_kind(frozen.decoder),
        parameters=parameters,
        foreign=foreign,
        metrics=records,
        scores=scores,
        share=records["finetune"]["interpolation"]["share"],
        dataset=dataset,
        tuned=tuned,
        recipe=tuned.provenance["params"],
        examples=captioner.examples is not None,
        counts=_counts,
        learned_from=LEARNED_FROM.get(download["dataset"], PEOPLE),
        terms=" ".join(
            _terms(download["dataset"], records["weights"]["source"], frozen.provenance["params"].get("train.start"))
        ),
    )
    settings = {
        "model_type": "captioner",
        "image": tuned.image,
        "mean": tuned.mean,
        "vocab_size": len(tuned.vocabulary),
        "max_length": tuned.vocabulary.max_length,
        "decoder": tuned.decoder,
        "trained_from": tuned.trained_from,
        "parameters": parameters,
        "dataset": download["dataset"],
        "search": search,
        "scores": {"split": "test", "images": scores["images"]} | _hundredfold(scores["finetuned"], measured),
    }
    write_text(card, text)
    write_json(config, settings)


def _tables(
    scores: Mapping[str, Any], files: Mapping[str, Mapping[str, Any]], measured: list[str], params: Mapping[str, Any]
) -> dict[str, Any]:
    """Return the cells of the card's tables."""
    intervals = score_intervals(scores)

    def cell(model: str, metric: str) -> str:
        if model == DIFFERENCE:
            ends = [scores[name].get(metric) for name in MODELS]
            value = "-" if None in ends else f"{100 * (ends[1] - ends[0]):+.1f}".replace("-", "\N{MINUS SIGN}")
        else:
            value = f"{100 * scores[model][metric]:.1f}" if metric in scores[model] else "-"
        return value + (f" ({intervals[model][metric].text()})" if metric in intervals[model] else "")

    language = [name for name in scores["finetuned"] if name not in METRICS]
    return {
        "measured": measured,
        "intervals": any(intervals.values()),
        "score_rows": [[name, *(cell(name, metric) for metric in measured)] for name in (*MODELS, DIFFERENCE)],
        "language_rows": [
            [name, *(f"{scores[model][name]:g}" if name in scores[model] else "-" for model in MODELS)]
            for name in language
        ],
        "file_rows": [
            [
                PARTS[part],
                SOURCES.get(record["source"], record["source"]),
                OFFICIAL[record["official"]],
                f"`{record['md5']}`",
            ]
            for part, record in files.items()
        ],
        "param_rows": [[f"`{key}`", f"`{json.dumps(value, ensure_ascii=False)}`"] for key, value in params.items()],
    }


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
    """Return, in brackets, whether the dataset's files are official; "" for drawn photos and the user's own."""
    if "images" not in files or files["images"]["official"] is None:
        return ""
    return f" (not the official files: {', '.join(foreign)})" if foreign else " (official files)"


def _terms(dataset: str, weights: str, start: str | None) -> Iterator[str]:
    """Yield the sentences on terms beside the licence of the code."""
    yield TERMS[dataset]
    if weights == "file":
        yield "The weights of ResNet-18 are the user's and keep their own terms."
    elif weights not in ("random", "drawn"):
        yield IMAGENET
    if start:
        yield f"Training started from the model `{start}`, whose terms hold, too."


def _head(data: str, dataset: str, language: str, scores: Mapping[str, float], measured: list[str]) -> str:
    """Return the YAML that the Hugging Face Hub reads, without the lines `---` around it."""
    results = {
        "task": {"type": "image-to-text", "name": "Image captioning"},
        "dataset": {"name": data, "type": dataset, "split": "test"},
        "metrics": [
            {"type": re.split("[- ]", name)[0].lower(), "name": name, "value": value}
            for name, value in _hundredfold(scores, measured).items()
        ],
    }
    head = {
        "license": "mit",
        "library_name": "captioner",
        "pipeline_tag": "image-to-text",
        "language": DoubleQuotedScalarString(language),  # YAML 1.1 reads `no` as false
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


def _hundredfold(scores: Mapping[str, float], measured: list[str]) -> dict[str, float]:
    """Return the text of the scores: x100, with one digit."""
    return {f"{name} x100": round(100 * scores[name], 1) for name in measured}


def _kind(decoder: Mapping[str, Any]) -> str:
    how = (
        f"attends to the image's grid with {decoder['heads']} heads"
        if decoder["attention"]
        else ("starts from the image's mean feature")
    )
    return f"of width {decoder['width']} that {how}"


def _counts(by_split: Mapping[str, int]) -> str:
    return " / ".join(f"{by_split[split]:,}" for split in ("train", "dev", "test"))
