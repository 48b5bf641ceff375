"""Runs the frozen encoder once over every image, into the two feature stores."""

import logging
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from captioner.archives import Archive
from captioner.device import decoding_threads, half_precision
from captioner.encoder import END, Encoder, calibrate, fingerprint, fused
from captioner.errors import CaptionerError
from captioner.photos import load_photo
from captioner.store import new_store

log = logging.getLogger(__name__)

BATCH = 16  # images; more do not fit in the processor's cache. The rows do not depend on it but for rounding
CALIBRATION_IMAGES, CALIBRATION_BATCH = 512, 64


def decode_photos(
    archive: Archive, names: Sequence[str], *, size: int, fit: str, ahead: int = 128
) -> Iterator[np.ndarray | CaptionerError]:
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


@torch.inference_mode()
def extract(
    archive: Archive,
    images: Sequence[str],
    encoder: Encoder,
    *,
    boundary: str,
    size: int,
    fit: str,
    on_bad: str,
    grid_path: str | Path,
    boundary_path: str | Path,
    device: torch.device,
) -> dict[str, Any]:
    """Write the stores of the last block's output and of the input of the block `boundary`.

    One pass serves both. `on_bad` "error" stops at a broken photo, "skip" leaves its row without an image.
    Returns {"images": int, "skipped": [name, ...], "grid": shape, "boundary": shape}. Raises CaptionerError
    that names the photo.
    """
    valid_for = {"encoder": fingerprint(encoder), "size": size, "fit": fit}
    network = fused(encoder).to(device)
    blank = np.zeros((size, size, 3), np.uint8)
    trial = network(torch.from_numpy(blank)[None].to(device), stop=boundary)
    boundary_shape, grid_shape = tuple(trial.shape[1:]), tuple(network(trial, start=boundary).shape[1:])
    boundary_type = "uint8" if boundary == "conv1" else "float16"
    skipped: list[str] = []
    with (
        new_store(grid_path, images=images, shape=grid_shape, dtype="float16", layer=END, **valid_for) as grids,
        new_store(
            boundary_path,
            images=images,
            shape=boundary_shape,
            dtype=boundary_type,
            layer=boundary,
            **valid_for,
        ) as boundaries,
        tqdm(total=len(images), desc="features", unit="image", disable=None) as progress,
    ):
        batch: list[np.ndarray] = []
        for row, photo in enumerate(decode_photos(archive, images, size=size, fit=fit)):
            if isinstance(photo, CaptionerError):
                if on_bad == "error":
                    raise CaptionerError(f"{photo}; mend it, or set dataset.on_bad to skip in params.yaml")
                log.warning("skipped: %s", photo)
                skipped.append(images[row])
                for store in (grids, boundaries):
                    store.leave_out(row)
                photo = blank
            batch.append(photo)
            if len(batch) == BATCH or row + 1 == len(images):
                pixels = torch.from_numpy(np.stack(batch)).to(device)
                with half_precision(device):
                    at_boundary = network(pixels, stop=boundary)
                    grid = network(at_boundary, start=boundary)
                at = row + 1 - len(batch)
                boundaries.write(at, (pixels if boundary == "conv1" else at_boundary).cpu())
                grids.write(at, grid.cpu())
                progress.update(len(batch))
                batch = []
    return {
        "images": len(images) - len(skipped),
        "skipped": skipped,
        "grid": list(grid_shape),
        "boundary": list(boundary_shape),
    }


def calibrate_on(encoder: Encoder, archive: Archive, images: Sequence[str], *, size: int, fit: str) -> None:
    """Set the BatchNorm statistics of random weights from the first training photos, at most 512."""
    photos = decode_photos(archive, images[:CALIBRATION_IMAGES], size=size, fit=fit)
    whole_ones = [photo for photo in photos if isinstance(photo, np.ndarray)]

    def batches() -> Iterator[Tensor]:
        for at in range(0, len(whole_ones), CALIBRATION_BATCH):
            yield torch.from_numpy(np.stack(whole_ones[at : at + CALIBRATION_BATCH]))

    calibrate(encoder, batches())
