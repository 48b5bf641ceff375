"""Measure the peak memory of each stage: its script runs in a new process, on the data in data/raw, for one epoch.

memory.json: {"images": int, "MiB": {stage: the most resident memory, ru_maxrss, of the script and its children}}.
Resident memory includes the pages of memory-mapped stores, which the system can take back.
"""

import os
import subprocess
import sys
import time
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
code = subprocess.call(sys.argv[1:], stdout=subprocess.DEVNULL)
print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)
sys.exit(code)
"""
ONE_EPOCH = {"train.epochs": 1, "finetune.adapt_epochs": 1, "finetune.epochs": 1}


def measure(folder: Path, rounds: int) -> dict[str, Any]:
    """Return the record of memory.json, by one round."""
    changes: dict[str, Any] = dict(ONE_EPOCH)
    weights = read_values()["encoder"]["weights"]
    if weights not in ("imagenet", "random"):
        changes["encoder.weights"] = str(Path(weights).resolve())
    mirror = _mirror_of(Path("data/raw"), folder / "mirror")
    return measure_stages(folder / "workspace", changes, {"CAPTIONER_MIRROR": str(mirror)})


def measure_stages(workspace: Path, changes: dict[str, Any], environment: dict[str, str]) -> dict[str, Any]:
    """Run every stage in a copy of the project with `changes` of params, by dotted names; return the record."""
    make_workspace(workspace, changes)
    peaks = {stage: cost(workspace, [sys.executable, f"stages/{stage}.py"], environment)["MiB"] for stage in STAGES}
    return {"images": len(read_images(workspace / "data/images.csv")), "MiB": peaks, "machine": machine()}


def cost(workspace: Path, command: list[str], environment: dict[str, str]) -> dict[str, float]:
    """Run a command in a copy of the project; return its {"seconds", "MiB": its most resident memory}."""
    began = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-c", LAUNCHER, *command],
        cwd=workspace,
        env={**os.environ, "PYTHONPATH": "src", **environment},
        stdout=subprocess.PIPE,
        text=True,
    )
    seconds = time.perf_counter() - began
    if done.returncode:
        raise CaptionerError(f"{' '.join(command[1:])}: ended with {done.returncode}; the lines above say why")
    peak = int(done.stdout) / (1 << 20 if sys.platform == "darwin" else 1 << 10)
    return {"seconds": round(seconds, 1), "MiB": round(peak, 1)}


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
