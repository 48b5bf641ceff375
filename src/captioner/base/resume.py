"""The state from which an interrupted stage resumes.

It is in `.resume/`, which Git and DVC ignore: DVC deletes a stage's outputs before it runs. The file's name holds a
fingerprint of everything that dvc.yaml declares for the stage (the bytes of its inputs and code, the values of its
params), of torch's version and of the precision. So a run never resumes from a state that other inputs, code or params
made. The device and the numbers of threads and processes are not part of it. So a run may go on with others; it then
ends with other bytes, because they change the rounding, and the number of processes also what is drawn at random.
"""

import hashlib
import json
import logging
import os
import shutil
from pathlib import Path
from typing import Any

import torch
from ruamel.yaml import YAML

from captioner.base.distributed import from_first
from captioner.base.files import atomic_write, digest
from captioner.base.params import leaves

log = logging.getLogger(__name__)

FOLDER = Path(".resume")


def stage_provenance(
    stage: str, params_yaml: str | Path = "params.yaml", dvc_yaml: str | Path = "dvc.yaml"
) -> dict[str, Any]:
    """Return the inputs and params of a stage, as declared in dvc.yaml.

    The result is {"inputs": {path: md5}, "params": {dotted name: value}}. Inputs are data and code; a folder counts as
    its files.
    """
    declared = YAML(typ="safe", pure=True).load(Path(dvc_yaml))["stages"][stage]
    values = YAML(typ="safe", pure=True).load(Path(params_yaml))
    params = {key: value for name in declared.get("params", []) for key, value in leaves(values, name).items()}
    paths = sorted(str(file) for path in declared["deps"] for file in _files(Path(path)))
    return {"inputs": from_first(lambda: {path: digest(path) for path in paths}), "params": params}


def _files(path: Path) -> list[Path]:
    return [file for file in path.rglob("*") if file.is_file()] if path.is_dir() else [path]


class Resume:
    """One file of state, replaced atomically at each save; `provenance` is the result of `stage_provenance`.

    A stage with a state of many files keeps them in `parts`, a folder with the same fingerprint.
    """

    def __init__(self, stage: str, provenance: dict[str, Any], folder: Path = FOLDER):
        self._stage, self._folder = stage, folder
        precision = os.environ.get("CAPTIONER_PRECISION", "auto")
        record = {"provenance": provenance, "torch": torch.__version__, "precision": precision}
        fingerprint = hashlib.sha256(json.dumps(record, sort_keys=True).encode()).hexdigest()
        self.path = folder / f"{stage}-{fingerprint[:16]}.pt"
        self.parts = self.path.with_suffix("")

    def load(self) -> dict[str, Any] | None:
        """Return the saved state with its tensors on the CPU, or None if there is no readable one."""
        if not self.path.exists():
            return None
        try:
            return torch.load(self.path, map_location="cpu", weights_only=True)
        except Exception as error:  # a damaged file can raise any error; starting over is always right
            log.warning("%s cannot be read (%s); starting over", self.path, error)
            return None

    def save(self, state: dict[str, Any]) -> None:
        """Save a state of tensors, numbers, text, lists and dicts."""
        with atomic_write(self.path) as beside:
            torch.save(state, beside)

    def remove(self) -> None:
        """Delete this stage's states of all fingerprints."""
        for path in self._folder.glob(f"{self._stage}-*"):
            shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
