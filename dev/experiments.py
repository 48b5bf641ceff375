"""Run the ablation table: each row is a change of params.yaml, run by `dvc exp run -S` and compared by dev scores.

python -m dev.experiments --on shapes              runs every row on the built-in dataset, in .experiments
python -m dev.experiments --on flickr8k ROW ...    runs some rows in this project, with its params.yaml

A run ends after the stage `validate` and never reads the test split. `--until train` ends it earlier. A row that has a
record of the same params and seed is not run again, except with `--again`. dev/search.py writes the table of search.

experiments.json: {scale: [{"row", "changes": {param: value}, "seed", "params": MD5 of the params that the stages read,
"scores": {"train" and "finetune": {"CIDEr", "BLEU-4"} of dev captions by a beam of 3, "validate": {"frozen" and
"finetuned": scores of metrics/validate.json}}, only of the stages that were run, "minutes": {stage: float} of the
stages that did not come from the cache, "machine"}]}. The module also writes the tables of docs/experiments.md.
"""

import argparse
import hashlib
import json
import os
import re
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from benchmarks.measure import machine
from benchmarks.page import put, table
from captioner.base.errors import CaptionerError
from captioner.base.files import read_json, write_json
from captioner.scoring.words import ABSENT, AGREED
from demo.run import make_workspace

ROOT = Path(__file__).parent.parent
RECORDS, PAGE = ROOT / "dev/experiments.json", ROOT / "docs/experiments.md"
READS = {"train": "train", "finetune": "finetune", "validate": "search"}  # a stage's own section of params.yaml
STAGES = tuple(READS)
TRAINED = STAGES[:2]
BEAM_SCORES = "dev, beam 3"  # the key of metrics/train.json and metrics/finetune.json
MODELS = ("frozen", "finetuned")
SHARES = ("distinct captions", "copied from training")
DEFAULT = "default"

SHORT = {  # the demo's params with fewer pictures and epochs, for a row in a minute or two
    **{key: value for key, value in YAML(typ="safe").load(ROOT / "demo/params.yaml").items() if key != "seed"},
    "shapes.train": 600,
    "train.epochs": 6,
    "finetune.epochs": 4,
}
BOTH: dict[str, dict[str, Any]] = {
    DEFAULT: {},
    "pooled features": {"decoder.attention": False},
    "lemmatised captions": {"captions.form": "lemma"},
    "untied embeddings": {"decoder.tied": False},
    "no label smoothing": {"train.label_smoothing": 0.0},
    "unfrozen from layer3": {"finetune.unfreeze_from": "layer3"},
}
ROWS: dict[str, dict[str, dict[str, Any]]] = {
    "shapes": {**BOTH, "fine-tuned on CIDEr": {"finetune.objective": "cider"}},
    "flickr8k": {
        **BOTH,
        "features not standardised": {"decoder.standardise": False},
        "dropout 0.3": {"decoder.dropout": 0.3},
        "scheduled sampling": {"train.scheduled_sampling": 0.25},
        "half the width": {"decoder.width": 256},
        "twice the width": {"decoder.width": 1024},
        "no averaging": {"train.ema": 0.0, "finetune.ema": 0.0},
        "photos of 224 px": {"image.size": 224},
        "captions of one view": {"views.mean": False},
        "no mirrored photos": {"views.flip": False, "views.mean": False},
        "crops for the decoder too": {"train.crop": 0.7},
        "fine-tuned on the next word": {"finetune.objective": "cross-entropy"},
        "frozen encoder": {"finetune.train_encoder": False},
        "encoder's rate on the next word five times": {"finetune.adapt_encoder_lr": 0.0005},
        "twice the epochs of train": {"train.epochs": 12},
        "twice the epochs on CIDEr": {"finetune.epochs": 8},
        "encoder's rate on CIDEr five times": {"finetune.encoder_lr": 0.0001},
        "on CIDEr alone": {"finetune.next_word": 0.0},
        "on CIDEr at once": {"finetune.adapt_epochs": 0},
    },
}


def main() -> None:
    """Run the rows that have no record yet; write experiments.json and the page after each."""
    parser = argparse.ArgumentParser(prog="python -m dev.experiments", description=__doc__.splitlines()[0])
    parser.add_argument("rows", nargs="*", metavar="ROW", help="rows to run (default: all)")
    parser.add_argument("--on", choices=list(ROWS), help="the dataset; without it, only the page is written")
    parser.add_argument("--seeds", type=int, nargs="+", default=[42], help="seeds of train and finetune (default: 42)")
    parser.add_argument("--until", choices=STAGES, default=STAGES[-1], help="the last stage to run (default: validate)")
    parser.add_argument("--again", action="store_true", help="also run rows that have a record")
    options = parser.parse_args()
    records: dict[str, list[dict[str, Any]]] = read_json(RECORDS) if RECORDS.exists() else {}
    try:
        if options.on:
            known = ROWS[options.on]
            for name in options.rows:
                if name not in known:
                    raise CaptionerError(f"no row is named {name!r}; there are {', '.join(map(repr, known))}")
            folder = shapes_workspace(ROOT / ".experiments") if options.on == "shapes" else ROOT
            print(f"experiments of the project in {os.path.relpath(folder)}")
            for name in options.rows or known:
                for seed in options.seeds:
                    there = known_record(records.get(options.on, []), name, seed)
                    same = there and of_these_params(there, options.on)
                    if same and options.until in there["scores"] and not options.again:
                        print(f"{name}, seed {seed}: has a record")
                        continue
                    record = run(folder, options.on, name, seed, options.until)
                    if there:
                        record["minutes"] = known_minutes(there, record)
                    records[options.on] = [each for each in records.get(options.on, []) if each is not there] + [record]
                    write_json(RECORDS, records)
                    show(options.on, records[options.on])
        else:
            for scale, of in records.items():
                show(scale, of)
    except CaptionerError as error:
        sys.exit(f"error: {error}")


def show(scale: str, records: list[dict[str, Any]]) -> None:
    """Write the tables of a scale into the page."""
    put(PAGE, scale, table_of(scale, records))
    if scale == "flickr8k":
        put(PAGE, f"{scale}, validate", validate_table(scale, records))


def shapes_workspace(folder: Path) -> Path:
    """Make or renew a Git repository with a copy of the project and the short params of the built-in dataset."""
    if not (folder / ".git").exists():
        folder.mkdir(parents=True, exist_ok=True)
        for command in (["git", "init", "--quiet"], [sys.executable, "-m", "dvc", "init", "--quiet"]):
            subprocess.run(command, cwd=folder, check=True)
        for setting in (("core.check_update", "false"), ("core.analytics", "false")):
            subprocess.run([sys.executable, "-m", "dvc", "config", *setting], cwd=folder, check=True)
    make_workspace(folder, SHORT)
    shutil.copy(ROOT / ".gitignore", folder)
    shutil.copy(ROOT / ".dvcignore", folder)
    me = ["-c", "user.name=captioner", "-c", "user.email=captioner@localhost"]
    subprocess.run(["git", "add", "--all"], cwd=folder, check=True)
    if subprocess.run(["git", "diff", "--cached", "--quiet"], cwd=folder).returncode:
        subprocess.run(["git", *me, "commit", "--quiet", "--message", "The project, small"], cwd=folder, check=True)
    return folder


def run(folder: Path, scale: str, name: str, seed: int, until: str = STAGES[-1]) -> dict[str, Any]:
    """Run a row as an experiment in a copy of `folder`'s project, up to the stage `until`; return its record."""
    changes = ROWS[scale][name]
    experiment = re.sub(r"[^a-z0-9]+", "-", f"{name}-seed-{seed}".lower())
    dvc(folder, "exp", "remove", experiment)  # of an earlier run; without one, this fails and does no harm
    settings = [part for key, value in {**changes, "seed": seed}.items() for part in ("-S", f"{key}={as_yaml(value)}")]
    print(f"{name}, seed {seed}: dvc exp run --temp --name {experiment} {' '.join(settings)} {until}", flush=True)
    output, code, minutes = timed(folder, "exp", "run", "--temp", "--name", experiment, *settings, until)
    if code:
        raise CaptionerError(f"{name}, seed {seed}: dvc ended with {code}:\n{output[-2000:]}")
    shown = json.loads(dvc(folder, "exp", "show", "--json", "--num", "1").stdout)
    return {
        "row": name,
        "changes": changes,
        "seed": seed,
        "params": params_hash(scale, changes, seed, until),
        "scores": scores_of(shown, experiment, STAGES[: STAGES.index(until) + 1]),
        "minutes": {stage: minutes[stage] for stage in STAGES if stage in minutes},
        "machine": machine(),
    }


def scores_of(
    shown: list[dict[str, Any]], experiment: str, stages: Sequence[str] = STAGES
) -> dict[str, dict[str, float]]:
    """Return the dev scores of an experiment's stages from the output of `dvc exp show --json`.

    For a stage that did not run, these are the scores of the last commit. Raises CaptionerError if one is missing.
    """
    for each in (each for commit in shown for each in commit["experiments"] or []):
        if each["name"] == experiment:
            metrics = each["revs"][0]["data"]["metrics"]
            data = {stage: metrics.get(f"metrics/{stage}.json", {}).get("data", {}) for stage in stages}
            keys = {stage: {BEAM_SCORES} if stage in TRAINED else set(MODELS) for stage in stages}
            if all(keys[stage] <= set(data[stage]) for stage in stages):
                return {
                    stage: of[BEAM_SCORES] if stage in TRAINED else {model: of[model] for model in MODELS}
                    for stage, of in data.items()
                }
    files = " and ".join(f"metrics/{stage}.json" for stage in stages)
    raise CaptionerError(f"dvc exp show: no dev scores of {experiment} in {files}")


def known_minutes(there: dict[str, Any], record: dict[str, Any]) -> dict[str, float]:
    """Return a record's minutes, with those of an earlier record for the stages that gave the same scores."""
    same = {stage for stage, scores in record["scores"].items() if there["scores"].get(stage) == scores}
    return {stage: minutes for stage, minutes in there["minutes"].items() if stage in same} | record["minutes"]


def dvc(folder: Path, *arguments: str) -> subprocess.CompletedProcess:
    """Run dvc with this interpreter; return its output."""
    command = [sys.executable, "-m", "dvc", *arguments]
    return subprocess.run(command, cwd=folder, env=_environment(), capture_output=True, text=True)


def timed(folder: Path, *arguments: str) -> tuple[str, int, dict[str, float]]:
    """Run dvc; return its output, its exit code and the minutes of each stage that it ran."""
    process = subprocess.Popen(
        [sys.executable, "-m", "dvc", *arguments],
        cwd=folder,
        env=_environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    lines, began = [], {}
    assert process.stdout is not None
    for line in process.stdout:
        lines.append(line)
        if stage := re.match(r"Running stage '(\w+)'|(?:Stage|Ran|Updating) ", line):
            began[stage[1] or f"end {len(lines)}"] = time.perf_counter()
    code = process.wait()
    times = [*began.values(), time.perf_counter()]
    spent = {name: (after - at) / 60 for (name, at), after in zip(began.items(), times[1:], strict=True)}
    return "".join(lines), code, {name: round(value, 2) for name, value in spent.items() if not name.startswith("end")}


def _environment() -> dict[str, str]:
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    return {**os.environ, "PATH": path, "PYTHONUNBUFFERED": "1", "DVC_NO_ANALYTICS": "1"}


def as_yaml(value: Any) -> str:
    """Return a value of a param in the form of params.yaml."""
    return str(value).lower() if isinstance(value, bool) else str(value)


def params_hash(scale: str, changes: dict[str, Any], seed: int, until: str = STAGES[-1]) -> str:
    """Return the MD5 of all params that the stages up to `until` read."""
    ignored = ("pictures", *(READS[stage] for stage in STAGES[STAGES.index(until) + 1 :]))
    values = YAML(typ="safe").load(ROOT / "params.yaml")
    flat = {"seed": seed}
    for section, keys in values.items():
        if isinstance(keys, dict):
            flat |= {f"{section}.{key}": value for key, value in keys.items()}
    flat |= (SHORT if scale == "shapes" else {}) | changes
    relevant = {key: value for key, value in sorted(flat.items()) if key.partition(".")[0] not in ignored}
    return hashlib.md5(json.dumps(relevant).encode()).hexdigest()


def of_these_params(record: dict[str, Any], scale: str) -> bool:
    """Return whether the current params of a record's row are those of the record."""
    if record["row"] not in ROWS[scale]:
        return False
    until = STAGES[len(record["scores"]) - 1]
    return record["params"] == params_hash(scale, ROWS[scale][record["row"]], record["seed"], until)


def known_record(records: list[dict[str, Any]], row: str, seed: int) -> dict[str, Any] | None:
    """Return the record of a row and seed."""
    return next((each for each in records if (each["row"], each["seed"]) == (row, seed)), None)


def table_of(scale: str, records: list[dict[str, Any]]) -> str:
    """Return the records as a table: for each change the mean and range over seeds, and the minutes of each seed."""
    rows, old = [], False
    names = [*ROWS[scale], *(each["row"] for each in records)]
    for name in dict.fromkeys(names):
        runs = sorted((each for each in records if each["row"] == name), key=lambda each: each["seed"])
        if not runs:
            continue
        stale = not all(of_these_params(each, scale) for each in runs)
        old = old or stale
        changes = ", ".join(f"`{key}={as_yaml(value)}`" for key, value in runs[0]["changes"].items())
        cells = [
            mean_and_range([100 * each["scores"][stage][score] for each in runs if stage in each["scores"]])
            for stage in TRAINED
            for score in ("CIDEr", "BLEU-4")
        ]
        spent = [[f"{each['minutes'][stage]:.1f}" for each in runs if stage in each["minutes"]] for stage in TRAINED]
        minutes = [", ".join(times) or "-" for times in spent]
        seeds = [", ".join(str(each["seed"]) for each in runs if stage in each["scores"]) for stage in TRAINED]
        of_both = " + ".join(dict.fromkeys(filter(None, seeds)))
        rows.append([name + (" *" if stale else ""), changes, *cells, of_both, " + ".join(minutes)])
    head = [
        "row",
        "change",
        "train: CIDEr",
        "BLEU-4",
        "finetune: CIDEr",
        "BLEU-4",
        "seeds (train + finetune)",
        "minutes, train + finetune",
    ]
    machines = "; ".join(sorted({each["machine"] for each in records}))
    stars = "\n\n\\* of other params or code than this commit's." if old else ""
    return f"{table(head, rows)}\n\nOn {machines}; a stage taken from the cache, or not run, has no minutes.{stars}"


def validate_table(scale: str, records: list[dict[str, Any]]) -> str:
    """Return the scores of `validate` as a table: for each change and model the mean and range over seeds."""
    scored = [each for each in records if "validate" in each["scores"] and of_these_params(each, scale)]
    words = [
        name for name in (ABSENT, AGREED) if any(name in each["scores"]["validate"][MODELS[-1]] for each in scored)
    ]
    rows = []
    for name in ROWS[scale]:
        runs = sorted((each for each in scored if each["row"] == name), key=lambda each: each["seed"])
        for model in MODELS if runs else ():
            results = [each["scores"]["validate"][model] for each in runs]
            scores = [mean_and_range([100 * each[key] for each in results]) for key in ("CIDEr", "BLEU-4", "ROUGE-L")]
            meteor = [100 * each["METEOR"] for each in results if "METEOR" in each]
            language = [mean_and_range([each["vocabulary"] for each in results], digits=0)]
            language += [mean_and_range([100 * each[key] for each in results]) for key in SHARES]
            language += [mean_and_range([each["mean length"] for each in results])]
            language += [mean_and_range([100 * each[key] for each in results if key in each]) for key in words]
            seeds = ", ".join(str(each["seed"]) for each in runs)
            rows.append([name, model, *scores, mean_and_range(meteor), *language, seeds])
    head = ["row", "model", "CIDEr", "BLEU-4", "ROUGE-L", "METEOR", "words used", "distinct", "copied", "length"]
    return table([*head, *words, "seeds"], rows)


def mean_and_range(values: Sequence[float], digits: int = 1) -> str:
    """Return the mean of the values, and their range if there are several; "-" if there is none."""
    if not values:
        return "-"
    mean, low, high = (f"{value:.{digits}f}" for value in (statistics.mean(values), min(values), max(values)))
    return mean if len(values) == 1 else f"{mean} ({low} to {high})"


if __name__ == "__main__":
    main()
