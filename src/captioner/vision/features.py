"""Run the frozen encoder once over every image, and write the two feature stores.

The rows are computed in shards. Several processes and machines can compute different shards, and shards survive an
interruption. At the end one process joins them. The bytes of the stores do not depend on who computed which shard.
"""

import logging
from argparse import ArgumentTypeError
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from captioner.base.device import features_dtype, half_precision, make_deterministic, select_device
from captioner.base.distributed import gather, processes, rank
from captioner.base.errors import CaptionerError
from captioner.base.files import write_json
from captioner.base.resume import Resume
from captioner.captions.dataset import read_images
from captioner.sources.archives import Archive
from captioner.vision.encoder import END, Encoder, calibrate, fingerprint, fused, load_encoder, save_encoder
from captioner.vision.reading import as_many, read_archive_photos
from captioner.vision.store import FeatureStore, View, new_store, require_space, row_bytes

log = logging.getLogger(__name__)

BATCH = 16  # images; more do not fit in the processor's cache. The rows do not depend on it but for rounding
SHARD = 16 * BATCH  # images; what an interruption loses
CALIBRATION_IMAGES, CALIBRATION_BATCH = 512, 64  # at most, and fewer if they are large


def share_of(text: str) -> tuple[int, int]:
    """Return the share (from 0) and the number of shares of a text such as "2/4", for argparse."""
    share, _, shares = text.partition("/")
    if not (share.isdecimal() and shares.isdecimal() and 1 <= int(share) <= int(shares)):
        raise ArgumentTypeError(f"is {text!r}, expected a share and the number of shares, such as 2/4")
    return int(share) - 1, int(shares)


def shards_of(images: int) -> list[range]:
    """Return the rows of each shard of a store of so many images."""
    return [range(at, min(at + SHARD, images)) for at in range(0, images, SHARD)]


def compute_features(  # the files and params of the stage, and the share
    *,
    images: str | Path,
    listing: str | Path,
    weights: str | Path,
    folder: str | Path,
    summary: str | Path,
    provenance: Mapping[str, Any],
    boundary: str,
    size: int,
    fit: str,
    flip: bool,
    mean: bool,
    calibrated: bool,
    on_bad: str,
    share: tuple[int, int] | None = None,
) -> None:
    """Run the frozen encoder over the photos of `listing`; write grid.h5, boundary.h5 and encoder.safetensors into
    `folder`, and what `join` returns as JSON to `summary`.

    `images` is the archive or the folder of archives, `listing` the images.csv of tokenise, `weights` the state dict
    of ResNet-18, `provenance` the result of `captioner.base.resume.stage_provenance`. `flip` adds the mirrored training
    photos, `mean` the other mirrored photos. `calibrated` sets the BatchNorm statistics from training photos first. The
    processes of `distributed` compute together. With a `share` (from 0, of how many) only its shards are computed; a
    run without `share` joins them. Raises CaptionerError as `extract`, `join` and `calibrate_on` do.
    """
    make_deterministic(seed=0)
    device = select_device()
    computed = {"device": device.type, "dtype": str(features_dtype(device))}  # shards of other machines may come here
    resume = Resume("features", {**provenance, **computed})
    photos, rows = Archive(images), read_images(listing)
    trained_on = [name for name, split in rows if split == "train"]
    mirrored = [name for name, split in rows if (flip if split == "train" else mean)]
    views = [View(name) for name, _ in rows] + [View(name, True) for name in mirrored]
    encoder = load_encoder(torch.load(weights, map_location="cpu", weights_only=True))
    if calibrated:
        calibrate_on(encoder, photos, trained_on, size=size, fit=fit)
    part, parts = share or (0, 1)
    extract(
        photos,
        views,
        encoder,
        boundary=boundary,
        size=size,
        fit=fit,
        on_bad=on_bad,
        shards=resume.parts,
        part=part + parts * rank(),
        parts=parts * processes(),
        device=device,
    )
    gather(None)  # wait until all are done
    if rank() != 0:
        return
    if share:
        at = f"share {part + 1} of {parts} is in {resume.parts}"
        print(f"{at}; with all of them there, dvc repro features joins them")
        return
    folder = Path(folder)
    joined = join(views, resume.parts, grid_path=folder / "grid.h5", boundary_path=folder / "boundary.h5")
    save_encoder(folder / "encoder.safetensors", encoder)
    write_json(summary, joined)
    resume.remove()


class _Network:
    """The fused encoder on a device, split at a block."""

    def __init__(self, encoder: Encoder, boundary: str, size: int, device: torch.device):
        self.boundary, self.device = boundary, device
        self._fused = fused(encoder).to(device)
        trial = self._fused(torch.zeros(1, size, size, 3, dtype=torch.uint8, device=device), stop=boundary)
        self.boundary_shape = tuple(trial.shape[1:])
        self.grid_shape = tuple(self._fused(trial, start=boundary).shape[1:])

    def __call__(self, pixels: Tensor, first: str) -> tuple[Tensor, Tensor]:
        """Return the input of the block `boundary` and the output of the last block, on the CPU.

        pixels: uint8 [B, S, S, 3] of the CPU; `first` is the name of its first image. Raises CaptionerError where a
        feature is not finite as float16.
        """
        moved = pixels.to(self.device)
        with half_precision(self.device):
            at_boundary = self._fused(moved, stop=self.boundary)
            grid = self._fused(at_boundary, start=self.boundary)
        if not all(part.half().isfinite().all() for part in (at_boundary, grid)):
            raise CaptionerError(
                f"the features of {first}, or of an image in its batch, are not finite; "
                "are the weights a trained ResNet-18's? CAPTIONER_PRECISION=float32 may help"
            )
        return (pixels if self.boundary == "conv1" else at_boundary.cpu()), grid.cpu()


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

    One pass computes both. A shard is a pair of stores of its rows, in the folder `shards`. This call computes every
    `parts`-th shard from number `part` on, except shards that exist. `on_bad` "error" stops at a broken photo, "skip"
    leaves its row without an image. Raises CaptionerError that names the photo.
    """
    valid_for = {"encoder": fingerprint(encoder), "size": size, "fit": fit}
    mine = shards_of(len(views))[part::parts]
    todo = [rows for rows in mine if not _is_there(shards, rows, boundary, valid_for)]
    if len(todo) < len(mine):
        log.info("going on: %d of %d shards are there, in %s", len(mine) - len(todo), len(mine), shards)
    network = _Network(encoder, boundary, size, device)
    names = [views[row].image for rows in todo for row in rows]
    photos = read_archive_photos(archive, names, size=size, fit=fit)
    hidden = None if rank() == 0 else True  # None: shown on a terminal
    with closing(photos), tqdm(total=len(names), desc="features", unit="image", disable=hidden) as progress:
        for rows in todo:
            some = views[rows.start : rows.stop]
            _write_shard(network, photos, some, _paths(shards, rows), progress, on_bad=on_bad, valid_for=valid_for)


def _write_shard(
    network: _Network,
    photos: Iterator[np.ndarray | CaptionerError],
    views: Sequence[View],
    paths: tuple[Path, Path],
    progress: tqdm,
    *,
    on_bad: str,
    valid_for: Mapping[str, Any],
) -> None:
    """Write the two stores of a shard's views, whose photos come next; both appear when both are complete."""
    boundary, dtype = network.boundary, "uint8" if network.boundary == "conv1" else "float16"
    row = row_bytes(network.grid_shape, "float16") + row_bytes(network.boundary_shape, dtype)
    with (
        new_store(paths[0], views=views, shape=network.grid_shape, dtype="float16", layer=END, **valid_for) as grids,
        new_store(
            paths[1], views=views, shape=network.boundary_shape, dtype=dtype, layer=boundary, **valid_for
        ) as boundaries,
    ):
        require_space(paths[0], len(views) * row)  # each store has only compared its own size
        for at in range(0, len(views), BATCH):
            batch = views[at : at + BATCH]
            pixels, missing = _pixels(photos, batch, size=valid_for["size"], on_bad=on_bad)
            for place in missing:
                grids.leave_out(at + place)
                boundaries.leave_out(at + place)
            at_boundary, grid = network(pixels, batch[0].image)
            boundaries.write(at, at_boundary)
            grids.write(at, grid)
            progress.update(len(batch))


def _pixels(
    photos: Iterator[np.ndarray | CaptionerError], views: Sequence[View], *, size: int, on_bad: str
) -> tuple[Tensor, list[int]]:
    """Return the pixels of the next views, uint8 [B, size, size, 3], and the places of broken photos, which are black.

    Raises CaptionerError at a broken photo where `on_bad` is "error".
    """
    pixels, missing = [], []
    for place, view in enumerate(views):
        photo = next(photos)
        if isinstance(photo, CaptionerError):
            if on_bad == "error":
                raise CaptionerError(f"{photo}; correct it, or set dataset.on_bad to skip in params.yaml")
            if not view.flipped:
                log.warning("skipped: %s", photo)
            missing.append(place)
            photo = np.zeros((size, size, 3), np.uint8)
        pixels.append(photo[:, ::-1] if view.flipped else photo)
    return torch.from_numpy(np.stack(pixels)), missing


def join(views: Sequence[View], shards: Path, *, grid_path: str | Path, boundary_path: str | Path) -> dict[str, Any]:
    """Write the two stores from all of their shards; the shards stay.

    Returns {"images": int, "flipped": int, "skipped": [name, ...], "grid": shape, "boundary": shape}, where "flipped"
    counts the mirrored views. Raises CaptionerError for a shard that is missing, not whole or made for something else
    than the first.
    """
    pairs = [_paths(shards, rows) for rows in shards_of(len(views))]
    skipped = dict.fromkeys(_skipped([path for path, _ in pairs], views))
    grid = _join([path for path, _ in pairs], views, skipped, grid_path)
    boundary = _join([path for _, path in pairs], views, skipped, boundary_path)
    left = [view.flipped for view in views if view.image not in skipped]
    counts = {"images": left.count(False), "flipped": left.count(True)}
    return {**counts, "skipped": list(skipped), "grid": grid, "boundary": boundary}


def _skipped(shards: Sequence[Path], views: Sequence[View]) -> Iterator[str]:
    """Yield the image of each row that was left out. A failing disk may have left out only one view of an image."""
    at = 0
    for shard in map(FeatureStore, shards):
        there = {row for rows in shard.views.values() for row in rows}
        yield from (views[at + row].image for row in range(shard.shape[0]) if row not in there)
        at += shard.shape[0]


def _join(shards: Sequence[Path], views: Sequence[View], skipped: Collection[str], path: str | Path) -> list[int]:
    """Write one store of all shards without the images of `skipped`; return the shape of a row."""
    first = FeatureStore(shards[0])
    height, width, channels = first.shape[1:]
    dtype = str(first.read([0]).numpy().dtype)
    valid_for = {key: first.attributes[key] for key in ("layer", "encoder", "size", "fit")}
    with new_store(path, views=views, shape=(height, width, channels), dtype=dtype, **valid_for) as joined:
        at = 0
        for shard in (FeatureStore(path, **valid_for) for path in shards):
            joined.write(at, shard.read(range(shard.shape[0])))
            at += shard.shape[0]
        for row, view in enumerate(views):
            if view.image in skipped:
                joined.leave_out(row)
    return [height, width, channels]


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
    """Set the BatchNorm statistics of random weights from the first training photos.

    It runs on one thread, because the statistics depend on the number of threads, unlike the features. Raises
    CaptionerError if none of these photos can be read.
    """
    count, most = as_many(CALIBRATION_IMAGES, size), as_many(CALIBRATION_BATCH, size)
    photos = list(read_archive_photos(archive, images[:count], size=size, fit=fit))
    readable = [photo for photo in photos if isinstance(photo, np.ndarray)]
    if not readable:
        raise CaptionerError(f"none of the first {len(photos)} training photos can be read; {photos[0]}")

    def batches() -> Iterator[Tensor]:
        for part in np.array_split(np.arange(len(readable)), -(-len(readable) // most)):
            yield torch.from_numpy(np.stack([readable[at] for at in part]))

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        calibrate(encoder, batches())
    finally:
        torch.set_num_threads(threads)
