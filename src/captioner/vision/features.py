"""Runs the frozen encoder once over every image, into the two feature stores.

The rows are computed in shards, which several processes and machines share out among them and which an interruption
leaves; at the end one process joins them. The joined stores do not tell, by any byte, who computed which shard.
"""

import logging
from argparse import ArgumentTypeError
from collections import deque
from collections.abc import Generator, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from captioner.base.device import decoding_threads, half_precision
from captioner.base.distributed import rank
from captioner.base.errors import CaptionerError
from captioner.sources.archives import Archive
from captioner.vision.encoder import END, Encoder, calibrate, fingerprint, fused
from captioner.vision.photos import load_photo
from captioner.vision.store import FeatureStore, View, new_store

log = logging.getLogger(__name__)

BATCH = 16  # images; more do not fit in the processor's cache. The rows do not depend on it but for rounding
SHARD = 16 * BATCH  # images; what an interruption loses
CALIBRATION_IMAGES, CALIBRATION_BATCH = 512, 64


def decode_photos(
    archive: Archive, names: Sequence[str], *, size: int, fit: str, ahead: int = 128
) -> Generator[np.ndarray | CaptionerError, None, None]:
    """Yield each photo as uint8 [size, size, 3], or the error of a broken one, in order; decoded in threads."""

    def decode(name: str) -> np.ndarray | CaptionerError:
        try:
            return load_photo(archive.read(name), size=size, fit=fit)
        except ValueError as error:
            return CaptionerError(f"{archive.path}: {name} is not a photo that can be read ({error})")
        except CaptionerError as error:
            return error

    with ThreadPoolExecutor(decoding_threads()) as pool:
        waiting: deque[Future] = deque()
        rest = iter(names)
        try:
            for name in rest:
                waiting.append(pool.submit(decode, name))
                if len(waiting) >= ahead:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()


def share_of(text: str) -> tuple[int, int]:
    """Return which share, from 0, of how many is meant by "2/4", for argparse."""
    share, _, shares = text.partition("/")
    if not (share.isdecimal() and shares.isdecimal() and 1 <= int(share) <= int(shares)):
        raise ArgumentTypeError(f"is {text!r}, expected a share and the number of shares, such as 2/4")
    return int(share) - 1, int(shares)


def shards_of(images: int) -> list[range]:
    """Return the rows of each shard of a store of so many images."""
    return [range(at, min(at + SHARD, images)) for at in range(0, images, SHARD)]


@torch.inference_mode()
def extract(
    archive: Archive,
    views: Sequence[View],
    encoder: Encoder,
    *,
    boundary: str,
    size: int,
    fit: str,
    on_bad: str,
    shards: Path,
    part: int = 0,
    parts: int = 1,
    device: torch.device,
) -> None:
    """Write shards of the stores of the last block's output and of the input of the block `boundary`.

    One pass serves both. A shard is a pair of stores of its rows, in the folder `shards`; this is part `part` of
    `parts`: of the shards from that one on, each that many further. Those that are there already are left.
    `on_bad` "error" stops at a broken photo, "skip" leaves its row without an image. Raises CaptionerError that
    names the photo.
    """
    valid_for = {"encoder": fingerprint(encoder), "size": size, "fit": fit}
    mine = shards_of(len(views))[part::parts]
    todo = [rows for rows in mine if not _is_there(shards, rows, boundary, valid_for)]
    if len(todo) < len(mine):
        log.info("going on: %d of %d shards are there, in %s", len(mine) - len(todo), len(mine), shards)
    network = fused(encoder).to(device)
    blank = np.zeros((size, size, 3), np.uint8)
    trial = network(torch.from_numpy(blank)[None].to(device), stop=boundary)
    boundary_shape, grid_shape = tuple(trial.shape[1:]), tuple(network(trial, start=boundary).shape[1:])
    boundary_type = "uint8" if boundary == "conv1" else "float16"
    photos = decode_photos(archive, [views[row].image for rows in todo for row in rows], size=size, fit=fit)
    with (
        closing(photos),
        tqdm(
            total=sum(map(len, todo)), desc="features", unit="image", disable=None if rank() == 0 else True
        ) as progress,
    ):
        for rows in todo:
            grid_path, boundary_path, some = *_paths(shards, rows), views[rows.start : rows.stop]
            with (
                new_store(grid_path, views=some, shape=grid_shape, dtype="float16", layer=END, **valid_for) as grids,
                new_store(
                    boundary_path, views=some, shape=boundary_shape, dtype=boundary_type, layer=boundary, **valid_for
                ) as boundaries,
            ):
                for at in range(0, len(rows), BATCH):
                    batch: list[np.ndarray] = []
                    for row, photo in enumerate(islice(photos, min(BATCH, len(rows) - at)), at):
                        if isinstance(photo, CaptionerError):
                            if on_bad == "error":
                                raise CaptionerError(f"{photo}; mend it, or set dataset.on_bad to skip in params.yaml")
                            if not some[row].flipped:
                                log.warning("skipped: %s", photo)
                            grids.leave_out(row)
                            boundaries.leave_out(row)
                            photo = blank
                        batch.append(photo[:, ::-1] if some[row].flipped else photo)
                    pixels = torch.from_numpy(np.stack(batch)).to(device)
                    with half_precision(device):
                        at_boundary = network(pixels, stop=boundary)
                        grid = network(at_boundary, start=boundary)
                    if not all(part.half().isfinite().all() for part in (at_boundary, grid)):
                        raise CaptionerError(
                            f"the features of {some[at].image}, or of an image in its batch, are not finite; "
                            "are the weights a trained ResNet-18's? CAPTIONER_PRECISION=float32 may help"
                        )
                    boundaries.write(at, (pixels if boundary == "conv1" else at_boundary).cpu())
                    grids.write(at, grid.cpu())
                    progress.update(len(batch))


def join(views: Sequence[View], shards: Path, *, grid_path: str | Path, boundary_path: str | Path) -> dict[str, Any]:
    """Write the two stores from all of their shards; the shards stay.

    Returns {"images": int, "flipped": int, "skipped": [name, ...], "grid": shape, "boundary": shape}, where "flipped"
    counts the mirrored views. Raises CaptionerError for a shard that is missing, not whole or made for something else
    than the first.
    """
    pairs = [_paths(shards, rows) for rows in shards_of(len(views))]
    grid, skipped = _join([path for path, _ in pairs], views, grid_path)
    boundary, _ = _join([path for _, path in pairs], views, boundary_path)
    left = [view.flipped for view in views if view.image not in skipped]
    counts = {"images": left.count(False), "flipped": left.count(True)}
    return {**counts, "skipped": skipped, "grid": grid, "boundary": boundary}


def _join(shards: Sequence[Path], views: Sequence[View], path: str | Path) -> tuple[list[int], list[str]]:
    """Write one store of all shards; return the shape of a row and the images that were left out."""
    first = FeatureStore(shards[0])
    height, width, channels = first.shape[1:]
    dtype = str(first.read([0]).numpy().dtype)
    valid_for = {key: first.attributes[key] for key in ("layer", "encoder", "size", "fit")}
    skipped: list[str] = []
    with new_store(path, views=views, shape=(height, width, channels), dtype=dtype, **valid_for) as whole:
        at = 0
        for shard in (FeatureStore(path, **valid_for) for path in shards):
            rows = shard.read(range(shard.shape[0]))
            for row in range(at, at + len(rows)):
                if views[row].image not in shard.rows:
                    whole.leave_out(row)
                    skipped.append(views[row].image)
            whole.write(at, rows)
            at += len(rows)
    return [height, width, channels], list(dict.fromkeys(skipped))


def _paths(shards: Path, rows: range) -> tuple[Path, Path]:
    """Return where the shard of these rows has its grids and its boundaries."""
    return shards / f"grid-{rows.start:08d}.h5", shards / f"boundary-{rows.start:08d}.h5"


def _is_there(shards: Path, rows: range, boundary: str, valid_for: Mapping[str, Any]) -> bool:
    grid_path, boundary_path = _paths(shards, rows)
    try:
        FeatureStore(grid_path, layer=END, **valid_for)
        FeatureStore(boundary_path, layer=boundary, **valid_for)
    except CaptionerError:  # not there, damaged, or of other weights
        return False
    return True


def calibrate_on(encoder: Encoder, archive: Archive, images: Sequence[str], *, size: int, fit: str) -> None:
    """Set the BatchNorm statistics of random weights from the first training photos, at most 512.

    On one thread: unlike the features, the statistics depend on how many add them up. Raises CaptionerError where
    none of these photos can be read.
    """
    photos = list(decode_photos(archive, images[:CALIBRATION_IMAGES], size=size, fit=fit))
    whole_ones = [photo for photo in photos if isinstance(photo, np.ndarray)]
    if not whole_ones:
        raise CaptionerError(f"none of the first {len(photos)} training photos can be read; {photos[0]}")

    def batches() -> Iterator[Tensor]:
        for part in np.array_split(np.arange(len(whole_ones)), -(-len(whole_ones) // CALIBRATION_BATCH)):
            yield torch.from_numpy(np.stack([whole_ones[at] for at in part]))

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        calibrate(encoder, batches())
    finally:
        torch.set_num_threads(threads)
