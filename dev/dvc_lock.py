"""Mend what a kill of `dvc` leaves, so that `dvc repro` can go on: a cut dvc.lock, and empty entries of the run cache.

    python -m dev.dvc_lock [FOLDER]    `make repro` and the demo run this first

DVC writes dvc.lock in place. A kill during the write leaves only the beginning of the file. DVC refuses most such
files. This module saves the damaged file as dvc.lock.damaged and restores the file of the last commit. If Git has no
intact file, it removes dvc.lock. No result is lost: if dvc.lock lacks a stage, DVC takes the outputs from its run cache
or runs the stage again.

Limit: a file that was cut between two lines can be valid YAML with fewer stages, dependencies or outputs. Nothing shows
the cut. DVC accepts such a file and handles the missing parts as changed, with the same result as above. Only the
`size` of the last entry can stay missing. That does no harm, because DVC compares hashes.

The run cache has a folder for each form of a stage, with a file in it. After a kill between making the folder and
writing the file DVC fails in each run with "join() argument must be str, bytes, or os.PathLike object, not 'NoneType'".
This module removes such folders. They hold nothing.
"""

import argparse
import configparser
import contextlib
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from captioner.base.files import atomic_write

NAME = "dvc.lock"
CONFLICT = re.compile(rb"^<<<<<<< ", re.MULTILINE)  # an open merge, which is for the user to decide
WRITING = 2.0  # seconds; DVC needs less than one to write the file


def is_damaged(content: bytes) -> bool:
    """Return whether `content` is a dvc.lock that lacks its end, or is no dvc.lock at all."""
    if CONFLICT.search(content):
        return False
    if not content.endswith(b"\n"):  # DVC ends the file with one; without it, the last value can be half a value
        return True
    try:
        lock = YAML(typ="safe").load(content)
    except (YAMLError, ValueError):
        return True
    stages = lock.get("stages") if isinstance(lock, dict) else None
    return not (isinstance(stages, dict) and all(map(_is_entry, stages.values())))


def _is_entry(stage: Any) -> bool:
    """Return whether DVC accepts an entry. A cut after a key, such as `deps:`, leaves no value where DVC needs one."""
    if not isinstance(stage, dict) or not isinstance(stage.get("cmd"), str | list):
        return False
    params = stage.get("params", {})
    return (
        all(isinstance(stage.get(key, []), list) for key in ("deps", "outs"))
        and isinstance(params, dict)
        and all(isinstance(values, dict) for values in params.values())
    )


def mend(folder: str | Path = ".", wait: float = WRITING) -> str | None:
    """Replace a damaged dvc.lock in `folder` and remove empty entries of the run cache; return a message of a line for
    each, or None if nothing was done.

    What changes within `wait` seconds is left alone, because a running `dvc` writes it.
    """
    return "\n".join(filter(None, (_mend_lock(folder, wait), _mend_run_cache(folder, wait)))) or None


def _mend_run_cache(folder: str | Path, wait: float) -> str | None:
    """Remove the empty folders of the run cache of the project in `folder`; return a message, or None if none is."""
    runs = _cache_of(Path(folder)) / "runs"
    empty = _empty(runs)
    if not empty:
        return None
    time.sleep(wait)
    empty = [entry for entry in _empty(runs) if entry in empty]
    for entry in empty:
        with contextlib.suppress(OSError):  # a running dvc has just written into it
            entry.rmdir()
    return f"{runs}: removed {len(empty)} empty entries, probably of a kill of dvc" if empty else None


def _empty(runs: Path) -> list[Path]:
    return [entry for entry in sorted(runs.glob("*/*")) if entry.is_dir() and not any(entry.iterdir())]


def _cache_of(project: Path) -> Path:
    """Return the folder of DVC's cache, which `cache.dir` of .dvc/config or .dvc/config.local may set."""
    config = configparser.ConfigParser(interpolation=None)
    with contextlib.suppress(configparser.Error):
        config.read([project / ".dvc/config", project / ".dvc/config.local"], encoding="utf-8")
    return project / ".dvc" / config.get("cache", "dir", fallback="cache")


def _mend_lock(folder: str | Path, wait: float) -> str | None:
    """Replace a damaged dvc.lock in `folder`; return a message, or None if nothing was done."""
    path = Path(folder) / NAME
    try:
        content = path.read_bytes()
        if not is_damaged(content):
            return None
        time.sleep(wait)
        if path.read_bytes() != content:
            return None
    except FileNotFoundError:
        return None
    damaged = path.with_name(f"{NAME}.damaged")
    shutil.copyfile(path, damaged)
    committed = _committed(path.parent)
    if committed is None:
        path.unlink()
        done = "removed it, because Git has no intact one"
    else:
        with atomic_write(path) as beside:
            beside.write_bytes(committed)
        done = "restored the one of the last commit"
    return (
        f"{path}: damaged, probably by a kill of dvc; saved it as {damaged.name} and {done}. "
        "Stages that it lacks come from DVC's run cache or run again"
    )


def _committed(folder: Path) -> bytes | None:
    """Return the dvc.lock that the last commit has in `folder`; None without Git, a commit or an intact file."""
    command = ["git", "cat-file", "blob", f"HEAD:./{NAME}"]  # `./`: the demo's folder lies in the project's repository
    try:
        done = subprocess.run(command, cwd=folder, capture_output=True)
    except FileNotFoundError:
        return None
    return done.stdout if done.returncode == 0 and not is_damaged(done.stdout) else None


def main() -> None:
    """Mend what a kill of `dvc` left and print what was done."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", nargs="?", type=Path, default=Path(), help="the project (default: this folder)")
    if line := mend(parser.parse_args().folder):
        print(line, file=sys.stderr)


if __name__ == "__main__":
    main()
