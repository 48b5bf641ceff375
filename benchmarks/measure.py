"""Compare two sides: in one process, in turns, by the medians of several rounds."""

import gc
import platform
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from captioner.base.device import mixed_precision


class Mismatch(Exception):
    """The two sides of a benchmark compute different things, so their times cannot be compared."""


@dataclass(frozen=True)
class Pair:
    """Two callables that do the same work: `count` times one `unit`, such as "image"."""

    ours: Callable[[], object]
    baseline: Callable[[], object]
    count: int
    unit: str


def rounds_of(sides: Mapping[str, Callable[[], object]], rounds: int) -> dict[str, list[float]]:
    """Return the seconds of each side in each round; every other round runs the sides in reverse order."""
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    for number in range(rounds):
        for name in list(sides)[:: 1 if number % 2 == 0 else -1]:
            gc.collect()
            began = time.perf_counter()
            sides[name]()
            seconds[name].append(time.perf_counter() - began)
    return seconds


def compare(pair: Pair, rounds: int) -> dict[str, Any]:
    """Return a record of results.json: medians of seconds a unit, their ratio, and the range of the rounds' ratios."""
    seconds = rounds_of({"ours": pair.ours, "baseline": pair.baseline}, rounds)
    ours, baseline = (statistics.median(seconds[side]) / pair.count for side in ("ours", "baseline"))
    ratios = [slow / fast for fast, slow in zip(seconds["ours"], seconds["baseline"], strict=True)]
    return {
        "ours": significant(ours),
        "baseline": significant(baseline),
        "ratio": significant(baseline / ours),
        "unit": f"s per {pair.unit}",
        "lowest": significant(min(ratios)),
        "highest": significant(max(ratios)),
        "rounds": rounds,
        "machine": machine(),
    }


def significant(value: float, digits: int = 4) -> float:
    """Round to this number of significant digits."""
    return float(f"{value:.{digits}g}")


def machine() -> str:
    """Return processor, threads, version of torch, and the precision of matrix products in training."""
    return f"{_processor()}, {torch.get_num_threads()} threads, torch {torch.__version__.split('+')[0]}, {precision()}"


def precision() -> str:
    """Return "bfloat16" if the stages compute in mixed precision on this CPU, else "float32"."""
    with mixed_precision(torch.device("cpu")):
        return "bfloat16" if torch.is_autocast_enabled("cpu") else "float32"


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def require_close(what: str, result: Tensor, wanted: Tensor, tolerance: float) -> None:
    """Raise Mismatch unless the difference's norm is at most `tolerance` times that of `wanted`."""
    if result.shape != wanted.shape:
        raise Mismatch(f"{what}: shape {tuple(result.shape)} against {tuple(wanted.shape)}")
    difference = ((result.double() - wanted.double()).norm() / wanted.double().norm()).item()
    if not difference <= tolerance:  # not a number is a mismatch
        raise Mismatch(f"{what}: differ by {difference:.2g} of their norm, expected at most {tolerance:.2g}")


def require_equal(what: str, result: Any, wanted: Any) -> None:
    """Raise Mismatch unless both are equal."""
    if result != wanted:
        raise Mismatch(f"{what}: {result!r} against {wanted!r}")
