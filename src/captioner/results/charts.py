"""Line charts as numbers that a template turns into SVG: no script, and colours that follow the page."""

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from matplotlib.ticker import MaxNLocator

WIDTH, HEIGHT = 360, 220  # units of the SVG
LEFT, RIGHT, TOP, BOTTOM = 42, 14, 12, 38  # margins, which hold the labels
TICKS = 6  # at most, less one, an axis


class Tick(NamedTuple):
    """A mark on an axis: where, and what it says."""

    at: float
    label: str


class Point(NamedTuple):
    """A point of a line, and what it says when pointed at."""

    x: float
    y: float
    says: str
    marked: bool


class Line(NamedTuple):
    """One series; `kind` is the CSS class that gives it its colour and stroke."""

    name: str
    kind: str
    points: list[Point]

    @property
    def path(self) -> str:
        """The points as SVG's `polyline` wants them."""
        return " ".join(f"{point.x},{point.y}" for point in self.points)


class Chart(NamedTuple):
    """A chart of `WIDTH` x `HEIGHT` units."""

    title: str
    x_label: str
    x_ticks: list[Tick]
    y_ticks: list[Tick]
    lines: list[Line]


def line_chart(
    title: str,
    x_label: str,
    series: Mapping[str, tuple[str, Mapping[float, float]]],
    *,
    unit: str = "",
    digits: int = 1,
    mark: float | None = None,
    from_zero: bool = False,
) -> Chart:
    """Lay out the series, {name: (kind, {x: y})}, over whole-numbered x.

    A y that is not a number is left out. `digits` are those of a y that is told, followed by `unit`; the points
    at x = `mark` are marked; `from_zero` lets the y axis begin at 0.
    """
    kept = {
        name: (kind, {x: y for x, y in points.items() if math.isfinite(y)}) for name, (kind, points) in series.items()
    }
    xs = [x for _, points in kept.values() for x in points]
    ys = [y for _, points in kept.values() for y in points.values()]
    x_values = _ticks(xs, whole=True)
    y_values = _ticks([*ys, 0.0] if from_zero else ys)
    right, bottom = WIDTH - RIGHT, HEIGHT - BOTTOM

    def across(x: float) -> float:
        return _between(x, min(xs, default=0), max(xs, default=1), LEFT, right)

    def up(y: float) -> float:
        return _between(y, y_values[0], y_values[-1], bottom, TOP)

    lines = [
        Line(
            name,
            kind,
            [
                Point(across(x), up(y), f"{name}, {x_label} {x:g}: {y:.{digits}f}{unit}", x == mark)
                for x, y in sorted(points.items())
            ],
        )
        for name, (kind, points) in kept.items()
    ]
    return Chart(
        title,
        x_label,
        [Tick(across(x), f"{x:g}") for x in x_values if not xs or min(xs) <= x <= max(xs)],
        [Tick(up(y), f"{y:g}") for y in y_values],
        lines,
    )


def _ticks(values: Sequence[float], whole: bool = False) -> list[float]:
    low, high = (min(values), max(values)) if values else (0.0, 1.0)
    return [round(float(tick), 10) for tick in MaxNLocator(TICKS - 1, integer=whole).tick_values(low, high)]


def _between(value: float, low: float, high: float, start: float, end: float) -> float:
    """Where `value` lies from `start` to `end`, as it lies from `low` to `high`; in the middle of nothing."""
    part = (value - low) / (high - low) if high > low else 0.5
    return round(start + part * (end - start), 1)
