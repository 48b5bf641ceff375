"""Atomic writes, JSON and checksums."""

import errno
import glob
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

FULL = 64 << 10  # bytes; a disk with less room is full
NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)  # errors of the system when a file cannot grow


@contextmanager
def atomic_write(path: str | Path) -> Iterator[Path]:
    """Write a file atomically: yield a temporary path, which becomes `path` when the block ends without an exception.

    The temporary file has the same name (some formats put the name into the bytes) in a folder beside `path`. It is
    synced and renamed, so a reader sees the old file or the new one. After an exception the old file stays and nothing
    else remains. The next run removes the temporary files of a killed run. Only one process at a time may write a path.
    A full disk raises OSError that names the file, whatever error the writing library raises.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    prefix = f".part-{path.name}-"
    for left in path.parent.glob(f"{glob.escape(prefix)}????????"):  # by a run that was killed; mkdtemp adds eight
        shutil.rmtree(left, ignore_errors=True)
    folder = Path(tempfile.mkdtemp(prefix=prefix, dir=path.parent))
    try:
        beside = folder / path.name
        yield beside
        with beside.open("rb+") as file:
            os.fsync(file.fileno())
        os.replace(beside, path)
    except Exception as error:  # h5py, safetensors and torch have errors of their own for a full disk
        causes = [number for number in NO_ROOM if os.strerror(number) in str(error)]
        if not isinstance(error, OSError) and shutil.disk_usage(folder).free <= FULL:  # torch's tells no cause
            causes.append(errno.ENOSPC)
        if not causes or getattr(error, "filename", None) == str(path):  # the error names the file already
            raise
        raise OSError(causes[0], os.strerror(causes[0]), str(path)) from error
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def write_text(path: str | Path, text: str) -> None:
    """Write `text` as UTF-8 with Unix line ends."""
    with atomic_write(path) as beside:
        beside.write_text(text, encoding="utf-8", newline="\n")


def write_json(path: str | Path, value: Any) -> None:
    """Write `value` as indented JSON, keys in their order, one newline at the end."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def read_json(path: str | Path) -> Any:
    """Read a JSON file."""
    return json.loads(Path(path).read_text(encoding="utf-8"))


def digest(path: str | Path, algorithm: str = "md5") -> str:
    """Return the hexadecimal digest of a file's bytes, read in pieces."""
    hasher = hashlib.new(algorithm)
    with open(path, "rb") as file:
        while piece := file.read(1 << 20):
            hasher.update(piece)
    return hasher.hexdigest()
