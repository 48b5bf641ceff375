"""Measure how the time grows with the data: the feature stage and an epoch of training on 1x, 2x and 4x of the images.

scaling.json: {what: {"images": [int, ...], "seconds": [float, ...], "growth": float}}. Growth is the time of 4x divided
by four times the time of 1x. It is 1 if the time is proportional to the data, and less if a part is constant.
"""

import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from benchmarks.measure import rounds_of, significant
from benchmarks.world import (
    CPU,
    caption_set,
    extract_to,
    photos_and_weights,
    random_decoder,
    some_rows,
    training_items,
    vocabulary,
)
from captioner.base.params import read_values
from captioner.base.resume import Resume
from captioner.captions.dataset import CaptionedImage
from captioner.model.captioner import Captioner
from captioner.training.batches import CaptionSet
from captioner.training.dev import DevEvaluation
from captioner.training.loop import LoopSettings, fit
from captioner.training.objectives import NextWord
from captioner.training.schedule import parameter_groups
from captioner.vision.encoder import END, load_encoder
from captioner.vision.store import FeatureStore

TIMES = (1, 2, 4)
PHOTOS = 64
TRAINING_IMAGES = 128
DEV_SHARE = 8  # training images for each dev image


def measure(folder: Path, rounds: int) -> dict[str, Any]:
    """Return the record of scaling.json."""
    archive, names, state = photos_and_weights()
    encoder = load_encoder(state)
    return {
        "features": _grow(lambda n: lambda: extract_to(folder, archive, names[:n], encoder), PHOTOS, rounds),
        "train, an epoch with its dev captions": _grow(_epoch_of(folder), TRAINING_IMAGES, rounds),
    }


def _epoch_of(folder: Path) -> Callable[[int], Callable[[], object]]:
    store, words, batch = (
        FeatureStore("data/features/grid.h5", layer=END),
        vocabulary(),
        read_values()["train"]["batch"],
    )
    items = [item for item in training_items() if item.image in store.rows]

    def split(chosen: list[CaptionedImage]) -> CaptionSet:
        return caption_set(chosen, some_rows([store.rows[item.image] for item in chosen], store))

    def of(images: int) -> Callable[[], object]:
        training, dev = split(items[:images]), split(items[-images // DEV_SHARE :])

        def run() -> None:
            torch.manual_seed(1)
            captioner = Captioner(random_decoder(len(words)))
            resume = Resume("scaling", {}, folder)
            fit(
                captioner,
                parameter_groups([captioner.decoder], name="decoder", lr=0.001, weight_decay=0.05),
                training,
                DevEvaluation(dev, words, beam=1, device=CPU),
                NextWord(label_smoothing=0.1),
                settings=LoopSettings(batch=batch, warmup=0, clip=1.0, patience=1, ema=0.999, crop=1.0),
                epochs=1,
                seed=1,
                start_is_candidate=False,
                device=CPU,
                resume=resume,
                on_epoch=lambda records: None,
            )
            resume.remove()

        return run

    return of


def _grow(of: Callable[[int], Callable[[], object]], images: int, rounds: int) -> dict[str, Any]:
    sizes = [images * times for times in TIMES]
    of(images)()  # warm-up
    seconds = rounds_of({str(size): of(size) for size in sizes}, rounds)
    medians = [statistics.median(seconds_of_way) for seconds_of_way in seconds.values()]
    growth = medians[-1] / medians[0] / (sizes[-1] / sizes[0])
    return {"images": sizes, "seconds": [significant(value) for value in medians], "growth": significant(growth)}
