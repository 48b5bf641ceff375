"""The model card, `models/MODEL_CARD.md`: Markdown with the YAML head of Hugging Face's model cards.

All figures are read from the metrics and model files of the run.
"""

import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from captioner.base.files import read_json, write_text
from captioner.model.captioner import load_model

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
    """Write the card of the fine-tuned `model` and the `decoder` it began from, captioned with these search settings.

    `metrics` are the files of the stages download, weights, captions, train, finetune and evaluate, by these names.
    Raises CaptionerError where a model file cannot be read.
    """
    found = {name: read_json(path) for name, path in metrics.items()}
    captioner, tuned = load_model(model)
    _, frozen = load_model(decoder)
    scores, download = found["evaluate"], found["download"]
    data = NAMES.get(download["dataset"], download["dataset"])
    files = {part: download[part] for part in ("images", "captions") if isinstance(download.get(part), dict)}
    files["weights"] = found["weights"]
    given = {part: record for part, record in files.items() if record["official"] is not None}
    foreign = [PARTS[part] for part, record in given.items() if not record["official"]]
    note = ""  # of own or drawn images, whatever the weights are
    if "images" in given:
        note = f" (not the official files: {', '.join(foreign)})" if foreign else " (official files)"
    measured = [name for name in METRICS if name in scores["finetuned"]]
    head = {
        "license": "mit",
        "library_name": "captioner",
        "pipeline_tag": "image-to-text",
        "language": tuned.vocabulary.language,
        "tags": ["image-captioning", "resnet18", "lstm", "pytorch", "dvc"],
        "datasets": [download["dataset"]],
        "metrics": [name.lower() for name in ("BLEU", "METEOR", "ROUGE", "CIDEr") if any(name in m for m in measured)],
        "model-index": [
            {
                "name": "captioner",
                "results": [
                    {
                        "task": {"type": "image-to-text", "name": "Image captioning"},
                        "dataset": {
                            "name": data + note,
                            "type": download["dataset"],
                            "split": "test",
                        },
                        "metrics": [
                            {
                                "type": name.split("-")[0].lower(),
                                "name": f"{name} x100",
                                "value": round(100 * scores["finetuned"][name], 1),
                            }
                            for name in measured
                        ],
                    }
                ],
            }
        ],
    }
    share = found["finetune"]["interpolation"]["share"]
    way = f", its weights {share} % of the way from where the last part of it began" if share < 100 else ""
    lines = [
        "# Captioner: ResNet-18 and an LSTM",
        "",
        f"Writes an English sentence about a photo. The decoder {_kind(frozen.decoder)}; "
        f"{sum(p.numel() for p in captioner.parameters()):,} parameters with the encoder. Written by the stage `card`; "
        "every figure is this run's.",
        "",
    ]
    if foreign:
        lines += [
            f"> **NOT MADE FROM THE OFFICIAL FILES ({', '.join(foreign)}).** The scores cannot be compared with "
            "published ones.",
            "",
        ]
    lines += [
        "## Scores",
        "",
        f"{scores['images']} test images, beam search (beam {beam}, length penalty {length_penalty:g}, weight of the "
        f"consensus {consensus:g}), generated captions against all raw references; x100.",
        "",
        *_table(
            ["", *measured],
            [
                [n, *(f"{100 * scores[n][m]:.1f}" if m in scores[n] else "-" for m in measured)]
                for n in ("frozen", "finetuned")
            ],
        ),
        "",
        f"`finetuned` is this model, from epoch {found['finetune']['best epoch']} of fine-tuning{way}"
        + (
            " (epoch 0: no epoch was better than the frozen encoder, so it is the frozen model)"
            if found["finetune"]["best epoch"] == 0
            else ""
        )
        + f"; `frozen` is the decoder on the frozen encoder, from epoch {found['train']['best epoch']}. The "
        f"epochs were chosen by CIDEr on {found['captions']['images']['dev']} dev images.",
        "",
        *_table(
            ["language of the test captions", "frozen", "finetuned"],
            [
                [name, *(f"{scores[model][name]:g}" for model in ("frozen", "finetuned"))]
                for name in scores["finetuned"]
                if name not in METRICS
            ],
        ),
        "",
        "## Data",
        "",
        f"{data}: {_counts(found['captions']['images'])} images, {_counts(found['captions']['captions'])} captions "
        f"(training, dev, test), as the form `{found['captions']['form']}`.",
        "",
        "The model file carries the training captions, as word ids, and a feature vector of each training image"
        + (": captions were chosen among the beams by those of the images that look alike." if consensus else "."),
        "",
        *_table(
            ["file", "from", "official", "md5"],
            [
                [
                    PARTS[part],
                    SOURCES.get(record["source"], record["source"]),
                    {True: "yes", False: "NO", None: "-"}[record["official"]],
                    f"`{record['md5']}`",
                ]
                for part, record in files.items()
            ],
        ),
        "",
        "## Training",
        "",
        f"Photos are seen at {tuned.image['size']} x {tuned.image['size']} pixels ({tuned.image['fit']}). The "
        f"decoder was trained on the stored output of the frozen encoder, then fine-tuned with the blocks from "
        f"{tuned.start} on.",
        "",
        *_table(
            ["param", "value"],
            [[f"`{k}`", f"`{v}`"] for k, v in (frozen.made["params"] | tuned.made["params"]).items()],
        ),
        "",
        "With " + ", ".join(f"{name} {version}" for name, version in tuned.made["versions"].items()) + ".",
        "",
        "## Limits",
        "",
        f"- It knows {len(tuned.vocabulary)} tokens, those of its training captions, and writes "
        f"{tuned.vocabulary.max_length} at most. It does not read text, count reliably or know names, and says "
        "something about any picture.",
        f"- {LEARNED_FROM.get(download['dataset'], PEOPLE)}",
        f"- {100 * scores['finetuned']['copied from training']:.1f}% of its test captions stand word by word among its "
        "training captions.",
        "",
        "## Licence",
        "",
        f"The code is under the MIT licence. {TERMS[download['dataset']]}"
        + (f" {IMAGENET}" if "weights" in given else ""),
    ]
    yaml = YAML()
    yaml.width = 1000
    text = io.StringIO()
    yaml.dump(head, text)
    write_text(card, f"---\n{text.getvalue()}---\n\n" + "\n".join(lines) + "\n")


def _kind(decoder: Mapping[str, Any]) -> str:
    how = (
        f"attends over the image's grid ({decoder['heads']} heads)"
        if decoder["attention"]
        else "starts from the image's mean feature"
    )
    return f"{how} and is {decoder['width']} wide"


def _table(head: list[str], rows: list[list[str]]) -> list[str]:
    return [f"| {' | '.join(cells)} |" for cells in (head, ["---"] * len(head), *rows)]


def _counts(by_split: Mapping[str, int]) -> str:
    return " / ".join(f"{by_split[split]:,}" for split in ("train", "dev", "test"))
