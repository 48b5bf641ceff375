"""Read the bootstrap intervals of metrics/evaluate.json for the report and the model card.

`captioner.results.evaluate` specifies the file. Files of older runs have no intervals; then none are shown.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

DIFFERENCE = "finetuned - frozen"


class Interval(NamedTuple):
    """A bootstrap interval of a score or of a difference of scores, as a fraction of 1."""

    low: float
    high: float

    def text(self) -> str:
        """Return the interval x100, such as "57.6 to 70.1"."""
        low, high = (f"{100 * end:.1f}".replace("-", "\N{MINUS SIGN}") for end in self)
        return f"{low} to {high}"


def score_intervals(evaluation: Mapping[str, Any]) -> dict[str, dict[str, Interval]]:
    """Return the intervals of "frozen", "finetuned" and their DIFFERENCE, by name of the score.

    The difference is paired: both models are scored on the same draws of images.
    """
    stored = evaluation.get("intervals", {})
    return {
        name: {metric: Interval(*ends) for metric, ends in stored.get(name, {}).items()}
        for name in ("frozen", "finetuned", DIFFERENCE)
    }
