"""What `train.start` gains for somebody with 300 captioned photos, on a real dataset of another kind than the model's.

    python -m dev.start_study run --data FOLDER --model MODEL     run what is missing, write the record and the table
    python -m dev.start_study table                               write the table of docs/experiments.md anew

FOLDER holds `dataset.json` in Karpathy's form and `images.zip`, such as UCM-Captions. Of its photos 240 of the train
split and 60 of the dev split are used, evenly spaced in the file's order, and the whole test split. MODEL is a value of
`train.start`, such as the model of `dvc repro` on Flickr8k. Every row and seed is a copy of the project in `--work`.
The copies share a cache, so features are computed once for each encoder.

start_study.json, beside this module: {"params": {param: value} of all runs, "model": MODEL, or its SHA-256 if it is a
file, "runs": [{"row", "seed", "images": {split: int}, "curve": {epoch of train: greedy dev CIDEr; "0": of a model that
it starts from}, "dev" and "test": {"frozen" and "finetuned": {score: float}} of metrics/validate.json and
metrics/evaluate.json, "minutes": {stage: float} of the stages that were run and not taken from the cache, "machine"}]}.
"""

import argparse
import csv
import shutil
import sys
import zipfile
from pathlib import Path, PurePosixPath
from typing import Any

from benchmarks.measure import machine
from benchmarks.page import put, table
from captioner.base.errors import CaptionerError
from captioner.base.files import digest, read_json, write_json
from demo.run import dvc, make_workspace
from dev.experiments import TRAINED, as_yaml, mean_and_range, timed
from dev.other_datasets import MODELS, read_project

ROOT = Path(__file__).resolve().parent.parent
RECORD, PAGE = ROOT / "dev/start_study.json", ROOT / "docs/experiments.md"
MARK = "start study"
PHOTOS = {"train": 240, "val": 60}  # of the splits that are not used whole
SCORES = ("CIDEr", "BLEU-4", "METEOR")
SEEDS = (1, 2, 3)
EARLY = ("0", "3")  # epochs of train
RANDOM, STARTED = "random weights", "from the model"
PARAMS: dict[str, Any] = {
    "dataset.name": "own",
    "own.captions": "dataset.json",
    "captions.min_count": 1,
    "image.size": 224,
    "views.mean": False,
    "train.batch": 16,
    "train.epochs": 15,
    "train.patience": 15,
    "finetune.batch": 16,
    "finetune.epochs": 2,
    "finetune.objective": "cross-entropy",
}
ROWS: dict[str, dict[str, Any]] = {
    RANDOM: {},
    STARTED: {},
    f"{STARTED}, a quarter of the rate": {"train.lr": 0.0005},
}


def main() -> None:
    """Run what is missing, or write the table."""
    parser = argparse.ArgumentParser(prog="python -m dev.start_study", description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(dest="command", required=True)
    running = commands.add_parser("run", help="run what is missing, write the record and the table")
    running.add_argument("--data", type=Path, required=True, help="folder with dataset.json and images.zip")
    running.add_argument("--model", required=True, help="the value of train.start")
    running.add_argument("--seeds", type=int, nargs="+", default=list(SEEDS), help="default: 1 2 3")
    running.add_argument("--rows", nargs="+", choices=list(ROWS), default=list(ROWS), help="default: all")
    running.add_argument("--work", type=Path, default=ROOT / ".start_study", help="for the copies of the project")
    commands.add_parser("table", help="write the table of docs/experiments.md anew")
    options = parser.parse_args()
    try:
        if options.command == "run":
            run_all(options.data, options.model, options.rows, options.seeds, options.work.resolve())
        put(PAGE, MARK, table_of(read_json(RECORD)))
    except CaptionerError as error:
        sys.exit(f"error: {error}")


def run_all(data: Path, model: str, rows: list[str], seeds: list[int], work: Path) -> None:
    """Run rows with seeds that are not in the record; write the record after each."""
    model = str(Path(model).resolve()) if Path(model).exists() else model
    study = {"params": PARAMS, "model": digest(model, "sha256") if Path(model).exists() else model}
    old = read_json(RECORD) if RECORD.exists() else {}
    runs = old["runs"] if {**old, "runs": []} == {**study, "runs": []} else []
    take_photos(data, work / "photos")
    for seed in seeds:
        for row in rows:
            if any((each["row"], each["seed"]) == (row, seed) for each in runs):
                print(f"{row}, seed {seed}: is there")
                continue
            runs.append(run(row, seed, model, work))
            runs.sort(key=lambda each: (list(ROWS).index(each["row"]), each["seed"]))
            write_json(RECORD, {**study, "runs": runs})


def take_photos(data: Path, folder: Path) -> None:
    """Make `folder` anew: the photos of the study in images.zip, and their captions in dataset.json."""
    for name in ("dataset.json", "images.zip"):
        if not (data / name).is_file():
            raise CaptionerError(f"{data / name}: not found; --data names a folder with dataset.json and images.zip")
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    images = chosen(read_json(data / "dataset.json")["images"], PHOTOS)
    write_json(folder / "dataset.json", {"images": images})
    names = {image["filename"] for image in images}
    with zipfile.ZipFile(data / "images.zip") as source, zipfile.ZipFile(folder / "images.zip", "w") as target:
        for member in source.infolist():
            if PurePosixPath(member.filename).name in names:
                target.writestr(member, source.read(member))


def chosen(images: list[dict[str, Any]], counts: dict[str, int]) -> list[dict[str, Any]]:
    """Return Karpathy's images, of a split in `counts` only so many, evenly spaced.

    Raises CaptionerError if a split has fewer.
    """
    images_of_study = [image for image in images if image["split"] not in counts]
    for split, count in counts.items():
        of = [image for image in images if image["split"] == split]
        if len(of) < count:
            raise CaptionerError(f"dataset.json: {len(of)} images in the split {split}, expected {count} or more")
        images_of_study += [of[number * len(of) // count] for number in range(count)]
    return images_of_study


def run(row: str, seed: int, model: str, work: Path) -> dict[str, Any]:
    """Run the pipeline to the dev and test scores in a copy of the project; return its record."""
    folder = work / f"{row}, seed {seed}".replace(", ", "-").replace(" ", "-")
    changes = PARAMS | ROWS[row] | {"own.folder": str(work / "photos"), "seed": seed}
    if row != RANDOM:
        changes["train.start"] = model
    print(f"{row}, seed {seed}: dvc repro validate evaluate, in {folder}", flush=True)
    make_workspace(folder, changes)
    dvc(folder, "config", "cache.dir", str(work / "cache"))
    output, code, minutes = timed(folder, "repro", "validate", "evaluate")
    if code:
        raise CaptionerError(f"{row}, seed {seed}: dvc ended with {code}:\n{output[-2000:]}")
    dev, test = (read_project(folder, split) for split in ("dev", "test"))
    with open(folder / "metrics/train_curve.csv", encoding="utf-8", newline="") as file:
        curve = {each["epoch"]: float(each["dev CIDEr"]) for each in csv.DictReader(file)}
    return {
        "row": row,
        "seed": seed,
        "images": dev["images"],
        "curve": curve,
        "dev": {name: dev[name] for name in MODELS},
        "test": {name: test[name] for name in MODELS},
        "minutes": {stage: minutes[stage] for stage in TRAINED if stage in minutes},
        "machine": machine(),
    }


def table_of(study: dict[str, Any]) -> str:
    """Return the heading sentences and the table: a line for each row and model, the mean over seeds and the range."""
    rows = []
    for name, changes in ROWS.items():
        runs = [each for each in study["runs"] if each["row"] == name]
        early = [[100 * each["curve"][epoch] for each in runs if epoch in each["curve"]] for epoch in EARLY]
        for model, shown in MODELS.items() if runs else ():
            first = model == next(iter(MODELS))
            label = name + "".join(f" (`{key}={as_yaml(value)}`)" for key, value in changes.items())
            scores = [
                mean_and_range([100 * each[split][model][score] for each in runs if score in each[split][model]])
                for split in ("dev", "test")
                for score in SCORES
            ]
            rows.append(
                [label if first else "", *(mean_and_range(each) if first else "" for each in early), shown, *scores]
            )
    train, dev, test = (study["runs"][0]["images"][split] for split in ("train", "dev", "test"))
    params = ", ".join(f"`{key}={as_yaml(value)}`" for key, value in study["params"].items())
    seeds = ", ".join(str(seed) for seed in sorted({each["seed"] for each in study["runs"]}))
    spent = [sum(each["minutes"].values()) for each in study["runs"] if set(TRAINED) <= set(each["minutes"])]
    minutes = f" A run trained for {min(spent):.0f} to {max(spent):.0f} minutes beside other programs" if spent else ""
    machines = "; ".join(sorted({each["machine"] for each in study["runs"]}))
    sentence = (
        f"{train} photos train, {dev} choose the epoch, and {test} test photos are scored. Seeds {seeds}; the params "
        f"are {params}.{minutes} on {machines}."
    )
    head = ["the decoder starts from", *(f"greedy dev CIDEr after epoch {epoch}" for epoch in EARLY), "model"]
    return (
        f"{sentence}\n\n{table([*head, *(f'{split} {score}' for split in ('dev', 'test') for score in SCORES)], rows)}"
    )


if __name__ == "__main__":
    main()
