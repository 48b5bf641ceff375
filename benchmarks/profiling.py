"""Profile the inner loops of the stages by torch's profiler, and time the parts of the feature stage.

profiling.json: {what: {operation: its share of the time}}, the largest first. For a running stage, use
`py-spy top --pid PID` (pip install py-spy).
"""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.profiler import ProfilerActivity, profile

from benchmarks.measure import machine, significant
from benchmarks.world import (
    BOUNDARY,
    CPU,
    SIZE,
    decoding_problem,
    photos_and_weights,
    random_encoder,
    random_pixels,
    step,
    store_of,
)
from captioner.base.device import half_precision
from captioner.model.captioner import Captioner
from captioner.training.objectives import next_word_losses
from captioner.vision.encoder import fused, load_encoder
from captioner.vision.features import BATCH
from captioner.vision.photos import load_photo

SHOWN = 6
IMAGES = 32


def measure(folder: Path, rounds: int) -> dict[str, Any]:
    """Return the record of profiling.json."""
    captioner, batch, _ = decoding_problem(IMAGES)
    pixels = random_pixels(IMAGES)
    encoder = random_encoder(pixels)
    network = fused(encoder)

    def infer() -> None:
        with torch.inference_mode(), half_precision(CPU):
            for part in pixels.split(BATCH):
                network(part)

    with torch.no_grad():
        boundary = encoder(pixels, stop=BOUNDARY).half()
    for module in encoder.block_modules("conv1", BOUNDARY):
        module.requires_grad_(False)
    finetuned = Captioner(captioner.decoder, encoder, start=BOUNDARY)
    return {
        "the feature stage": _parts_of_features(folder, rounds),
        "the encoder alone": _shares(infer, rounds),
        "a step of decoder training": _shares(step(captioner, lambda: next_word_losses(captioner, batch)[0]), rounds),
        "a step of fine-tuning": _shares(
            step(finetuned, lambda: next_word_losses(finetuned, batch._replace(rows=boundary))[0]), rounds
        ),
        "machine": machine(),
    }


def _shares(run: Callable[[], object], rounds: int) -> dict[str, float]:
    run()
    with profile(activities=[ProfilerActivity.CPU]) as profiler:
        for _ in range(rounds):
            run()
    events = profiler.key_averages()
    total = sum(event.self_cpu_time_total for event in events)
    largest = sorted(events, key=lambda event: -event.self_cpu_time_total)[:SHOWN]
    return {event.key: significant(event.self_cpu_time_total / total, 3) for event in largest}


@torch.inference_mode()
def _parts_of_features(folder: Path, rounds: int) -> dict[str, float]:
    """Return the shares of the parts when they run one after the other; the stage decodes photos while it computes."""
    archive, names, state = photos_and_weights()
    network = fused(load_encoder(state))
    seconds = dict.fromkeys(("reading and decoding photos", "the encoder", "writing both stores"), 0.0)
    for _ in range(rounds + 1):  # warm-up
        marks = [time.perf_counter()]
        photos = [load_photo(archive.read(name), size=SIZE, fit="squash") for name in names[:IMAGES]]
        marks.append(time.perf_counter())
        with half_precision(CPU):
            boundary = network(torch.from_numpy(np.stack(photos)), stop=BOUNDARY)
            grid = network(boundary, start=BOUNDARY)
        marks.append(time.perf_counter())
        for layer, rows in ((BOUNDARY, boundary), ("end", grid)):
            store_of(folder / f"{layer}.h5", rows, layer=layer)
        marks.append(time.perf_counter())
        if _ > 0:
            for part, begun, ended in zip(seconds, marks, marks[1:], strict=False):
                seconds[part] += ended - begun
    return {part: significant(spent / sum(seconds.values()), 3) for part, spent in seconds.items()}
