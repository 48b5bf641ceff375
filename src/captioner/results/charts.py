"""Line charts as numbers, from which a template makes SVG, without scripts and with the colours of the page."""

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

WIDTH, HEIGHT = 360, 220  # units of the SVG
LEFT, RIGHT, TOP, BOTTOM = 42, 14, 12, 38  # margins, which hold the labels
ROUNDING = 1e-9  # steps; a number this near to a tick is on it
STEPS, WHOLE_STEPS = 5, 7  # between the ticks of an axis, at most; of whole numbers


class Tick(NamedTuple):
    """A mark on an axis: its position and its label."""

    at: float
    label: str


class Point(NamedTuple):
    """A point of a line, and its text when the pointer is on it."""

    x: float
    y: float
    label: str
    marked: bool


class Line(NamedTuple):
    """One series; `kind` is the CSS class that gives it its colour and stroke."""

    name: str
    kind: str
    points: list[Point]

    @property
    def path(self) -> str:
        """The points in the form of SVG's `polyline`."""
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

    A y that is not finite is left out. A point's label shows y with `digits` digits, followed by `unit`. The points
    at x = `mark` are marked. `from_zero` lets the y axis begin at 0.
    """
    finite = {
        name: (kind, {x: y for x, y in points.items() if math.isfinite(y)}) for name, (kind, points) in series.items()
    }
    xs = [x for _, points in finite.values() for x in points]
    ys = [y for _, points in finite.values() for y in points.values()]
    x_values = _ticks(xs, integers=True)
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
        for name, (kind, points) in finite.items()
    ]
    return Chart(
        title,
        x_label,
        [Tick(across(x), f"{x:g}") for x in x_values if not xs or min(xs) <= x <= max(xs)],
        [Tick(up(y), f"{y:g}") for y in y_values],
        lines,
    )


def _ticks(values: Sequence[float], integers: bool = False) -> list[float]:
    """Return round numbers at equal distances, the first and the last beyond or at the ends of `values`."""
    low, high = (min(values), max(values)) if values else (0.0, 1.0)
    if low == high:
        low, high = low - 1, high + 1
    steps = WHOLE_STEPS if integers else STEPS
    least = math.floor(math.log10((high - low) / steps))
    powers = range(max(least, 0) if integers else least, least + 3)
    for step in (factor * 10.0**power for power in powers for factor in (1, 2, 2.5, 5)):
        first, last = math.floor(low / step + ROUNDING), math.ceil(high / step - ROUNDING)
        if last - first <= steps and (not integers or step.is_integer()):
            break
    return [round(number * step, 10) for number in range(first, last + 1)]


def _between(value: float, low: float, high: float, start: float, end: float) -> float:
    """Map `value` from the range `low` to `high` to the range `start` to `end`; to its middle if low equals high."""
    part = (value - low) / (high - low) if high > low else 0.5
    return round(start + part * (end - start), 1)
