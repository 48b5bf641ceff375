"""Collect scores on datasets other than Flickr8k's English captions.

    python -m dev.other_datasets "UCM" --from ../ucm [--split test]      reads a project in which the pipeline ran
    python -m dev.other_datasets                                        writes the table of docs/experiments.md

A project is a clone of this one with other params (docs/own-data.md). other_datasets.json, beside this module, has the
params that differ from this project's (without `own.folder`), the numbers of images, and the scores of both models:
{name: [{"seed": int, "changes": {param: value}, "images": {split: int}, "split": "dev" or "test", "frozen" and
"finetuned": {score: float}}]}. The table shows the mean and range over seeds.
"""

import argparse
import sys
from pathlib import Path
from typing import Any

from benchmarks.page import put, table
from captioner.base.errors import CaptionerError
from captioner.base.files import read_json, write_json
from captioner.base.params import leaves, read_values
from dev.experiments import as_yaml, mean_and_range

ROOT = Path(__file__).resolve().parent.parent
RECORD, PAGE = ROOT / "dev/other_datasets.json", ROOT / "docs/experiments.md"
SCORES = ("CIDEr", "BLEU-4", "ROUGE-L", "METEOR")
MODELS = {"frozen": "frozen", "finetuned": "fine-tuned"}
FILES = {"dev": "validate", "test": "evaluate"}
IGNORED = ("own.folder", "seed")


def read_project(folder: Path, split: str) -> dict[str, Any]:
    """Return the record of a project's run; raises CaptionerError that names a missing file."""
    values, usual = (_flat(read_values(of / "params.yaml")) for of in (folder, ROOT))
    path = folder / "metrics" / f"{FILES[split]}.json"
    if not path.exists():
        raise CaptionerError(f"{path}: not found; run `dvc repro {FILES[split]}` there")
    scores = read_json(path)
    images = read_json(folder / "metrics/captions.json")["images"]
    return {
        "seed": values["seed"],
        "changes": {key: value for key, value in values.items() if key not in IGNORED and value != usual[key]},
        "images": {name: images[name] for name in ("train", "dev", "test")},
        "split": split,
        **{
            model: {name: round(scores[model][name], 5) for name in (*SCORES, "vocabulary") if name in scores[model]}
            for model in MODELS
        },
    }


def _flat(values: dict[str, Any]) -> dict[str, Any]:
    return {key: value for section in values for key, value in leaves(values, section).items()}


def table_of(records: dict[str, list[dict[str, Any]]]) -> str:
    """Return the table: a line for each row and model."""
    rows = []
    for name, runs in records.items():
        changes = ", ".join(f"`{key}={as_yaml(value)}`" for key, value in runs[0]["changes"].items())
        images = runs[0]["images"]
        for model, shown in MODELS.items():
            cells = [
                mean_and_range([100 * run[model][score] for run in runs if score in run[model]]) for score in SCORES
            ]
            words = mean_and_range([run[model]["vocabulary"] for run in runs], digits=0)
            first = model == "frozen"
            split = f"{images['train']:,}, {images[runs[0]['split']]:,} {runs[0]['split']}" if first else ""
            rows.append([name if first else "", split, shown, *cells, words, changes if first else ""])
    return table(["dataset", "images: train, scored", "model", *SCORES, "words used", "params"], rows)


def main() -> None:
    """Add a run, or write the table."""
    parser = argparse.ArgumentParser(prog="python -m dev.other_datasets", description=__doc__.splitlines()[0])
    parser.add_argument("name", nargs="?", help="of the row")
    parser.add_argument("--from", dest="folder", type=Path, help="the project in which the pipeline ran")
    parser.add_argument("--split", choices=list(FILES), default="dev", help="whose scores (default: dev)")
    options = parser.parse_args()
    records: dict[str, list[dict[str, Any]]] = read_json(RECORD) if RECORD.exists() else {}
    if options.name:
        if not options.folder:
            parser.error("--from: say in which folder the pipeline ran")
        try:
            run = read_project(options.folder, options.split)
        except CaptionerError as error:
            sys.exit(f"error: {error}")
        others = [each for each in records.get(options.name, []) if each["seed"] != run["seed"]]
        records[options.name] = sorted([*others, run], key=lambda each: each["seed"])
        write_json(RECORD, records)
    put(PAGE, "other datasets", table_of(records))


if __name__ == "__main__":
    main()
