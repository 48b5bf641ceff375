"""Copies of the project that run its dvc.yaml on a shrunken built-in dataset."""

import json
from pathlib import Path

from demo.run import dvc, make_workspace

ROOT = Path(__file__).parents[2]

TINY = {
    "dataset.name": "shapes",
    "shapes.train": 40,
    "shapes.dev": 8,
    "shapes.test": 12,
    "captions.min_count": 1,
    "image.size": 64,
    "views.mean": True,
    "encoder.weights": "random",
    "decoder.width": 32,
    "decoder.heads": 2,
    "train.epochs": 2,
    "train.batch": 8,
    "finetune.unfreeze_from": "layer3",
    "train.scheduled_sampling": 0.25,
    "finetune.adapt_epochs": 1,
    "finetune.adapt_encoder_lr": 0.0005,
    "finetune.encoder_lr": 0.0001,
    "finetune.epochs": 2,
    "finetune.next_word": 0.5,
    "finetune.batch": 8,
    "pictures.each": 2,
}


class Workspace:
    """A copy of the project in `folder` with TINY params and more `changes`."""

    def __init__(self, folder: Path, **changes):
        self.folder = folder
        self.change(**changes)

    def change(self, **changes) -> None:
        """Set params by name, `__` for the dot; all others are TINY's."""
        self.changes = TINY | {key.replace("__", "."): value for key, value in changes.items()}
        make_workspace(self.folder, self.changes)

    def dvc(self, *arguments: str, check: bool = True) -> str:
        """Run dvc, return what it printed."""
        done = dvc(self.folder, *arguments, check=False, capture_output=True, text=True)
        assert not check or done.returncode == 0, done.stdout + done.stderr
        return done.stdout + done.stderr

    def json(self, *arguments: str):
        """Run dvc with --json, return what it printed as data."""
        done = dvc(self.folder, *arguments, "--json", capture_output=True, text=True)
        return json.loads(done.stdout)

    def repro(self, *arguments: str) -> set[str]:
        """Run dvc repro, return the stages that were run (not those taken from the cache)."""
        printed = self.dvc("repro", *arguments)
        return {line.split("'")[1] for line in printed.splitlines() if line.startswith("Running stage")}
