"""Measure time and peak memory of each stage: its script runs in a new process, on the data in data/raw.

Each training runs for one epoch. The time with all epochs follows from that of the one epoch.

stages.json: {"images": int, "stages": {stage: {"MiB": the most resident memory, ru_maxrss, of the script and its
children, "seconds": with one epoch, "epochs": [seconds of an epoch of each training], "all epochs": seconds with the
epochs of params.yaml}}, "machine"}. Resident memory includes the pages of memory-mapped stores, which the system can
take back.
"""

import os
import re
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from benchmarks.measure import machine
from captioner.base.errors import CaptionerError
from captioner.base.files import digest, write_text
from captioner.base.params import read_values
from captioner.captions.dataset import read_images
from captioner.sources.download import OFFICIAL
from demo.run import make_workspace

STAGES = tuple(YAML(typ="safe").load(Path(__file__).parent.parent / "dvc.yaml")["stages"])
# a small process between: Linux counts what a process held before its exec, which is what its parent holds
LAUNCHER = """
import resource, subprocess, sys
code = subprocess.call(sys.argv[1:], stdout=sys.stderr)
print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)
sys.exit(code)
"""
EPOCHS = {"train": ("epochs",), "finetune": ("adapt_epochs", "epochs")}  # params of the trainings of a stage, in order
_EPOCH = re.compile(r"epoch 1/1: .*, (\d+) s$", re.MULTILINE)


def measure(folder: Path, rounds: int) -> dict[str, Any]:
    """Return the record of stages.json, by one round."""
    values = read_values()
    epochs = {stage: [values[stage][key] for key in keys] for stage, keys in EPOCHS.items()}
    changes: dict[str, Any] = {
        f"{stage}.{key}": min(1, values[stage][key]) for stage, keys in EPOCHS.items() for key in keys
    }
    weights = values["encoder"]["weights"]
    if weights not in ("imagenet", "random"):
        changes["encoder.weights"] = str(Path(weights).resolve())
    mirror = _mirror_of(Path("data/raw"), folder / "mirror")
    return measure_stages(folder / "workspace", changes, {"CAPTIONER_MIRROR": str(mirror)}, epochs)


def measure_stages(
    workspace: Path, changes: dict[str, Any], environment: dict[str, str], epochs: dict[str, list[int]]
) -> dict[str, Any]:
    """Run every stage in a copy of the project with `changes` of params, by dotted names; return the record.

    `epochs` are the epochs of each training of a stage, for the time with all of them.
    """
    make_workspace(workspace, changes)
    stages = {}
    for stage in STAGES:
        taken = cost(workspace, [sys.executable, f"stages/{stage}.py"], environment)
        stages[stage] = taken | {"all epochs": with_all_epochs(taken, epochs.get(stage, []))}
    return {"images": len(read_images(workspace / "data/images.csv")), "stages": stages, "machine": machine()}


def with_all_epochs(taken: dict[str, Any], epochs: Sequence[int]) -> float:
    """Return the seconds of a stage with these epochs of its trainings, from its cost with one epoch of each."""
    trained = [count for count in epochs if count]
    more = sum((count - 1) * seconds for count, seconds in zip(trained, taken["epochs"], strict=True))
    return round(taken["seconds"] + more, 1)


def cost(workspace: Path, command: list[str], environment: dict[str, str]) -> dict[str, Any]:
    """Run a command in a copy of the project; return its {"seconds", "MiB": its most resident memory, "epochs": the
    seconds of each training of one epoch}. What it prints goes to stderr."""
    began = time.perf_counter()
    process = subprocess.Popen(
        [sys.executable, "-c", LAUNCHER, *command],
        cwd=workspace,
        env={**os.environ, "PYTHONPATH": "src", **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    printed = ""
    for line in process.stdout or ():
        printed += line
        print(line, end="", file=sys.stderr)
    status = process.wait()
    seconds = time.perf_counter() - began
    if status:
        raise CaptionerError(f"{' '.join(command[1:])}: ended with {status}; the lines above say why")
    peak = int(printed.splitlines()[-1]) / (1 << 20 if sys.platform == "darwin" else 1 << 10)
    epochs = [int(found) for found in _EPOCH.findall(printed)]
    return {"seconds": round(seconds, 1), "MiB": round(peak, 1), "epochs": epochs}


def _mirror_of(raw: Path, mirror: Path) -> Path:
    """Make a mirror of the earlier downloads for the stages download and weights."""
    mirror.mkdir()
    sums = []
    for name, member in zip(OFFICIAL, ("images/Flickr8k_Dataset.zip", "captions.zip", "resnet18.pth"), strict=True):
        path = raw / member
        if not path.exists():
            raise CaptionerError(f"{path}: not found; run `dvc repro` first")
        (mirror / name).symlink_to(path.resolve())
        sums.append(f"{digest(path)}  {name}\n")
    write_text(mirror / "MD5SUMS", "".join(sums))
    return mirror
