"""Functions that docs/tour.ipynb calls: its workspace, DVC and Git in it, and drawings.

The workspace is a folder with a copy of the pipeline, its own Git repository and its own DVC cache. TOUR_FOLDER sets
the folder (default: `.tour`). TOUR_CHANGES sets the changed params as JSON (default: demo/params.yaml).
"""

import json
import math
import os
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from PIL import Image
from ruamel.yaml import YAML
from torch import nn

from demo.run import ROOT, make_workspace
from demo.run import dvc as run_dvc

DPI = 60  # keeps the pictures in the notebook small
SIGNATURE = ("-c", "user.name=tour", "-c", "user.email=tour@example.invalid", "-c", "commit.gpgsign=false")


def start() -> dict[str, Any]:
    """Make the workspace and change into it. Return the changed params by their dotted names.

    A new workspace gets the DVC cache of `make demo` if there is one, so that DVC need not run its stages again.
    """
    folder = Path(os.environ.get("TOUR_FOLDER", ROOT / ".tour")).resolve()
    changes = json.loads(os.environ.get("TOUR_CHANGES", "null")) or YAML(typ="safe").load(ROOT / "demo" / "params.yaml")
    folder.mkdir(parents=True, exist_ok=True)
    os.chdir(folder)
    if not Path(".dvc").exists():
        git("init", "--quiet")
        dvc("init", "--quiet")
    finished = ROOT / ".demo" / ".dvc" / "cache"
    if finished.exists() and not Path(".dvc/cache/runs").exists():
        shutil.copytree(finished, ".dvc/cache", dirs_exist_ok=True)
    make_workspace(folder, changes)
    shutil.copy(ROOT / ".gitignore", ".gitignore")
    return changes


def git(*arguments: str) -> str:
    """Run Git in the current folder; return its output."""
    return subprocess.run(["git", *SIGNATURE, *arguments], capture_output=True, text=True, check=True).stdout


def dvc(*arguments: str) -> str:
    """Run DVC in the current folder; return its output. Raises RuntimeError with its messages if it fails."""
    done = run_dvc(Path.cwd(), *arguments, check=False, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(done.stdout + done.stderr)
    return done.stdout


def repro() -> str:
    """Run `dvc repro`; return the lines of its output that name a stage."""
    lines = dvc("repro").splitlines()
    return "\n".join(line.rstrip(":") for line in lines if line.startswith(("Running", "Stage")))


def show(images: Sequence[Any], titles: Sequence[str], *, columns: int = 4, **options: Any) -> None:
    """Draw images side by side, each below its title; `options` are those of matplotlib's `imshow`."""
    rows = -(-len(images) // columns)
    _, axes = plt.subplots(rows, columns, figsize=(1.9 * columns, 2.1 * rows), squeeze=False, dpi=DPI)
    for axis in axes.flat:
        axis.axis("off")
    for axis, image, title in zip(axes.flat, images, titles, strict=False):
        axis.imshow(image, **options)
        axis.set_title(title, fontsize=9)
    plt.tight_layout()
    plt.show()


def draw_curve(values: Sequence[float], **labels: str) -> None:
    """Draw one value for each step; `labels` are those of matplotlib's `Axes.set`."""
    _, axis = plt.subplots(figsize=(5, 2.5), dpi=DPI)
    axis.plot(range(1, len(values) + 1), values)
    axis.set(xlabel="step", **labels)
    plt.show()


def draw_bars(values: Mapping[str, float], **labels: str) -> None:
    """Draw a bar for each value; `labels` are those of matplotlib's `Axes.set`."""
    _, axis = plt.subplots(figsize=(5, 2.5), dpi=DPI)
    axis.bar(list(values), list(values.values()))
    axis.set(**labels)
    plt.show()


def draw_tree(scores: Mapping[tuple[str, ...], float]) -> None:
    """Draw captions, as tuples of words, as a tree: the same beginning is one branch. Each ends with its score."""
    rows: dict[tuple[str, ...], list[int]] = {}  # of the captions that begin so
    for row, words in enumerate(sorted(scores, reverse=True)):
        for length in range(len(words) + 1):
            rows.setdefault(words[:length], []).append(row)
    height = {words: sum(below) / len(below) for words, below in rows.items()}
    _, axis = plt.subplots(figsize=(max(map(len, scores)) + 1.5, 0.7 * len(scores) + 0.5), dpi=DPI)
    axis.axis("off")
    for words, y in height.items():
        if words:
            axis.plot([len(words) - 1, len(words)], [height[words[:-1]], y], color="lightgrey", zorder=0)
        word = words[-1] if words else "(start)"
        axis.text(len(words), y, word, fontsize=11, ha="center", va="center", backgroundcolor="white")
        if words in scores:
            axis.text(len(words) + 0.6, y, f"{scores[words]:.2f}", fontsize=11, va="center", color="tab:blue")
    plt.show()


def spotlight(photo: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Return the photo uint8 [h, w, 3] with the brightness of attention weights [P] on a square grid."""
    side = math.isqrt(len(weights))
    light = Image.fromarray((weights / weights.max()).reshape(side, side).astype(np.float32))
    bright = np.asarray(light.resize(photo.shape[1::-1], Image.Resampling.BICUBIC)).clip(0.1, 1)
    return (photo * bright[..., None]).astype(np.uint8)


def relative_change(before: nn.Module, after: nn.Module) -> float:
    """Return the length of the change of a module's parameters, divided by their length before."""
    pairs = list(zip(before.parameters(), after.parameters(), strict=True))
    change = sum(float((new - old).detach().square().sum()) for old, new in pairs)
    return math.sqrt(change / sum(float(old.detach().square().sum()) for old, _ in pairs))
