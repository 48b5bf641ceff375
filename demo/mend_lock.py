"""Puts back a dvc.lock that a killed `dvc` left cut, so that the pipeline goes on: `python -m demo.mend_lock`.

A file that DVC can read stays as it is. That can be one that was cut between two entries: DVC then takes the missing
stages from its cache or runs them.
"""

import logging
import subprocess
import sys
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from captioner.base.files import write_text

log = logging.getLogger(__name__)


def mend_lock(folder: Path) -> bool:
    """Replace a cut `dvc.lock` in `folder` by the last committed one, or remove it if there is none.

    The cut file stays as dvc.lock.damaged. Returns whether the file was cut.
    """
    lock = folder / "dvc.lock"
    if not lock.exists() or is_readable(lock.read_bytes()):
        return False
    damaged = lock.with_name("dvc.lock.damaged")
    lock.replace(damaged)
    committed = _committed(folder)
    if committed is not None and is_readable(committed):
        write_text(lock, committed.decode())
        log.warning("dvc.lock was cut; the last committed one is back in its place, the cut one is %s", damaged)
    else:
        log.warning(
            "dvc.lock was cut and moved to %s; no commit has one, so stages come from DVC's cache or run again", damaged
        )
    return True


def is_readable(content: bytes) -> bool:
    """Return whether DVC can read a lock file: YAML with a command for each stage, and a path for each file of it."""
    try:
        values = YAML(typ="safe", pure=True).load(content.decode())
    except (UnicodeDecodeError, YAMLError):
        return False
    if not isinstance(values, dict) or not isinstance(values.get("stages"), dict):
        return False
    return all(_is_stage(stage) for stage in values["stages"].values())


def _is_stage(stage: Any) -> bool:
    if not isinstance(stage, dict) or not isinstance(stage.get("cmd"), str):
        return False
    files = [stage.get(key, []) for key in ("deps", "outs")]
    if not all(isinstance(of, list) for of in files):
        return False
    return all(isinstance(file, dict) and "path" in file for of in files for file in of)


def _committed(folder: Path) -> bytes | None:
    try:
        done = subprocess.run(["git", "show", "HEAD:./dvc.lock"], cwd=folder, capture_output=True)
    except OSError:  # no Git
        return None
    return done.stdout if done.returncode == 0 else None


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    mend_lock(Path.cwd())
