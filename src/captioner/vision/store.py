"""The feature store: one HDF5 file with a row for each view of an image.

Format (schema 2)
    features    [N, h, w, C] float16, or uint8 for the input of conv1; contiguous and uncompressed, so that
                rows can be memory-mapped: random batches are read much faster than from chunks
                by a list of indices, no HDF5 handle is open while reading, and forks and pickles are safe
    images      [N] UTF-8, the image of each row; empty where the photo was broken and skipped
    flipped     [N] bool, whether the row is of the mirrored image
    attributes  schema; encoder (SHA-256 of the weights); layer (the block that the row is the input of,
                "end" for the output of the last); size (pixels); fit ("squash" or "crop")

A reader states the attributes that it expects, and refuses a store with others.
"""

import errno
import os
import shutil
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import h5py
import numpy as np
import torch
from torch import Tensor

from captioner.base.errors import CaptionerError
from captioner.base.files import atomic_write

SCHEMA = 2
# A store is private until it is renamed and never changes after that, so it needs no lock, and some file systems (NFS)
# have none. HDF5 before 1.12.1 lacks the option.
UNLOCKED: dict[str, Any] = {"locking": False} if h5py.version.hdf5_version_tuple >= (1, 12, 1) else {}


class View(NamedTuple):
    """The image of a row, and whether it is mirrored."""

    image: str
    flipped: bool = False


class FeatureStore:
    """Rows of features, memory-mapped. `rows` has the row of each image, `views` the rows of all its views, with this
    row first.

    `expected` are attribute values that the store must have. Raises CaptionerError that names the file,
    the attribute, and both values where they differ; also where the file is missing, truncated or not a store.
    """

    def __init__(self, path: str | Path, **expected: Any):
        self.path = Path(path)
        try:
            with h5py.File(self.path, "r", **UNLOCKED) as file:
                dataset = file["features"]
                self.attributes = {key: _plain(value) for key, value in file.attrs.items()}
                names = file["images"].asstr()[:]
                flipped = file["flipped"][:] if "flipped" in file else np.zeros(len(names), bool)  # of schema 1
                shape, dtype, offset = dataset.shape, dataset.dtype, dataset.id.get_offset()
        except FileNotFoundError:
            raise CaptionerError(f"{path}: not found; `dvc repro features` makes it") from None
        except (OSError, KeyError, TypeError, AttributeError) as error:
            if isinstance(error, OSError) and error.errno:  # the system's, not HDF5's about the content
                raise CaptionerError(f"{path}: cannot be read ({os.strerror(error.errno)})") from None
            raise CaptionerError(
                f"{path}: not a whole feature store ({error}); make it anew: `dvc repro --force --single-item features`"
            ) from None
        for key, value in {"schema": SCHEMA, **expected}.items():
            if self.attributes.get(key) != value:
                raise CaptionerError(
                    f"{path}: made for {key} {self.attributes.get(key)}, expected {value}; "
                    "make it anew: `dvc repro features`"
                )
        if offset is None or self.path.stat().st_size < offset + int(np.prod(shape)) * dtype.itemsize:
            raise CaptionerError(
                f"{path}: truncated or not contiguous; make it anew: `dvc repro --force --single-item features`"
            )
        self._map = (shape, dtype, offset)
        self._open()
        self.views: dict[str, list[int]] = {}
        for row in np.argsort(flipped, kind="stable").tolist():
            if names[row]:
                self.views.setdefault(names[row], []).append(row)
        self.rows = {name: rows[0] for name, rows in self.views.items()}

    def _open(self) -> None:
        shape, dtype, offset = self._map
        self._features = np.memmap(self.path, mode="r", dtype=dtype, shape=shape, offset=offset)

    def __getstate__(self) -> dict[str, Any]:
        return {key: value for key, value in self.__dict__.items() if key != "_features"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._open()

    @property
    def shape(self) -> tuple[int, ...]:
        """[N, h, w, C]"""
        return self._map[0]

    def read(self, rows: Sequence[int] | np.ndarray | Tensor) -> Tensor:
        """Return the rows as a new tensor [len(rows), h, w, C], in the order asked for."""
        return torch.from_numpy(self._features[np.asarray(rows)])

    def captioned(self, images: Iterable[str], *, mean: bool) -> np.ndarray:
        """Return the rows [N, 1] of images to caption, or with `mean` [N, 2], those of the mirrored images second.

        Raises CaptionerError if the store lacks the mirrored view of an image.
        """
        count = 2 if mean else 1
        rows = {image: self.views[image][:count] for image in images}
        lacks = next((image for image, of_image in rows.items() if len(of_image) < count), None)
        if lacks is not None:
            raise CaptionerError(
                f"{self.path}: no mirrored view of {lacks}, and the model captions the mean of both views; "
                "set views.mean to true and run `dvc repro`"
            )
        return np.array(list(rows.values())).reshape(-1, count)

    def pooled(self, rows: Sequence[int] | np.ndarray, piece: int = 1024) -> Tensor:
        """Return the rows averaged over their grid, float32 [len(rows), 1, 1, C], read in pieces."""
        parts = [
            self.read(rows[at : at + piece]).float().mean((1, 2), keepdim=True) for at in range(0, len(rows), piece)
        ]
        return torch.cat(parts)


class StoreWriter:
    """Writes the rows of a new store."""

    def __init__(self, dataset: h5py.Dataset, names: h5py.Dataset):
        self._dataset, self._names = dataset, names

    def write(self, at: int, features: Tensor) -> None:
        """Write rows [n, h, w, C] from row `at` on."""
        self._dataset[at : at + len(features)] = features.to(
            torch.uint8 if self._dataset.dtype == np.uint8 else torch.float16
        ).numpy()

    def leave_out(self, row: int) -> None:
        """Mark a row as having no image."""
        self._names[row] = ""


def row_bytes(shape: Sequence[int], dtype: str) -> int:
    """Return the bytes of a row."""
    return int(np.prod(shape)) * np.dtype(dtype).itemsize


def require_space(path: Path, size: int) -> None:
    """Raise OSError if the disk of `path` has too little space for `size` bytes: HDF5 crashes on a full disk."""
    if shutil.disk_usage(path.parent).free < size:
        raise OSError(errno.ENOSPC, f"{os.strerror(errno.ENOSPC)} for {size / 1e9:.1f} GB", str(path))


@contextmanager
def new_store(
    path: str | Path, *, views: Sequence[View], shape: tuple[int, int, int], dtype: str, **attributes: Any
) -> Iterator[StoreWriter]:
    """Make a store for `views` with rows of `shape` (h, w, C), which appears when the block ends without an exception.

    Raises OSError if the disk has too little space.
    """
    with atomic_write(path) as beside:
        require_space(Path(path), len(views) * row_bytes(shape, dtype))
        with h5py.File(beside, "w", **UNLOCKED) as file:
            dataset = file.create_dataset("features", shape=(len(views), *shape), dtype=dtype)
            names = file.create_dataset("images", data=[view.image for view in views], dtype=h5py.string_dtype())
            file.create_dataset("flipped", data=np.array([view.flipped for view in views], dtype=bool))
            file.attrs.update({"schema": SCHEMA, **attributes})
            yield StoreWriter(dataset, names)


def _plain(value: Any) -> Any:
    return value.item() if isinstance(value, np.generic) else value
