"""The user's cache folder. Its files can be computed or downloaded again, so it is safe to delete.

CAPTIONER_CACHE sets the folder (empty: no cache). The default is the operating system's, by platformdirs.

    models/NAME.safetensors     downloaded models
    consensus/KEY/NAME.npy      the arrays of `Consensus.arrays`; KEY is a hash of the model file and the code
"""

import hashlib
import logging
import os
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from captioner.base.files import digest
from captioner.model import consensus
from captioner.model.captioner import Examples
from captioner.model.consensus import Consensus
from captioner.sources.models import cache_folder

log = logging.getLogger(__name__)

LONGEST_HEADER = 100 << 20  # bytes
KEPT = 4  # the last used models whose arrays are kept
FEW = 1000  # training images; for fewer, computing is as fast as reading


def cached_consensus(model: str | Path, examples: Examples) -> Consensus:
    """Return the consensus of a model file's examples, from the cache or computed and then cached.

    The arrays are memory-mapped, so that one photo reads few of their pages. If the cache cannot be read or written,
    the consensus is computed.
    """
    features, captions = (tensor.numpy() for tensor in examples)
    folder = cache_folder()
    if folder is None or len(captions) < FEW:
        return Consensus(features, captions)
    entry = folder / "consensus" / _key(model)
    try:
        arrays = {file.stem: np.load(file, mmap_mode="r") for file in sorted(entry.glob("*.npy"))}
        consensus = Consensus.from_arrays(arrays, captions)
        os.utime(entry)
        return consensus
    except Exception as error:  # missing, truncated or in another format: compute it
        log.debug("%s: %r", entry, error)
    computed = Consensus(features, captions)
    try:
        _write(entry, computed.arrays())
        _remove_old(entry.parent)
    except OSError as error:  # no space left, or no permission
        log.debug("%s: %s", entry, error)
    return computed


def _key(model: str | Path) -> str:
    """Return a hash of the model file's bytes and of the code that computes the arrays.

    If the file's header has checksums of the tensors, which loading verified, the hash is of the header only.
    """
    with open(model, "rb") as file:
        size = int.from_bytes(file.read(8), "little")
        header = file.read(min(size, LONGEST_HEADER))
    hasher = hashlib.sha256(header if rb"\"checksums\"" in header else digest(model, "sha256").encode())
    modules = {getattr(value, "__module__", None) for value in vars(consensus).values()}
    for name in sorted(name for name in modules if name and name.startswith("captioner.")):
        hasher.update(Path(str(sys.modules[name].__file__)).read_bytes())
    return hasher.hexdigest()[:32]


def _write(entry: Path, arrays: dict[str, Any]) -> None:
    """Write the arrays into a folder, atomically."""
    entry.parent.mkdir(parents=True, exist_ok=True)
    beside = Path(tempfile.mkdtemp(prefix=".part-", dir=entry.parent))
    try:
        for name, array in arrays.items():
            np.save(beside / f"{name}.npy", array)
        if entry.exists():  # a folder that could not be read
            shutil.rmtree(entry)
        os.replace(beside, entry)
    finally:
        shutil.rmtree(beside, ignore_errors=True)


def _remove_old(folder: Path) -> None:
    """Remove all but the last used entries, and temporary files of killed runs."""
    entries = sorted(folder.iterdir(), key=lambda entry: entry.stat().st_mtime, reverse=True)
    complete = [entry for entry in entries if not entry.name.startswith(".part-")]
    for entry in (*complete[KEPT:], *(entry for entry in entries if entry.name.startswith(".part-"))):
        shutil.rmtree(entry, ignore_errors=True)
