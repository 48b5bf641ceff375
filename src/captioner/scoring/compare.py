"""Score predictions with intervals, and compare two files of predictions.

The scores are those of `captioner.scoring.evaluation`, the intervals those of `captioner.scoring.bootstrap`.
"""

from collections.abc import Mapping
from typing import NamedTuple

from captioner.captions.text import ENGLISH
from captioner.captions.tokens import scored_tokens
from captioner.scoring import bootstrap
from captioner.scoring.bootstrap import Interval, Resampled
from captioner.scoring.evaluation import score_all
from captioner.scoring.scores import diversity

COPIED = "copied from training"  # of `diversity`; there are no training captions here
LENGTH = "mean length"


class Result(NamedTuple):
    """The scores of captions, one for each image."""

    scores: dict[str, float]  # fractions of 1 by name, CIDEr up to 10
    diversity: dict[str, float]
    intervals: dict[str, Interval]  # of the scores and of the mean length
    cider: dict[str, float]  # by image
    resampled: dict[str, Resampled]  # what the intervals are of


class Difference(NamedTuple):
    """The scores of one result minus those of another."""

    values: dict[str, float]
    intervals: dict[str, Interval]  # paired: both results are of the same draws of images


def evaluate_captions(
    references: Mapping[str, list[str]],
    captions: Mapping[str, str],
    *,
    language: str = ENGLISH,
    meteor: bool = True,
    draws: int = bootstrap.DRAWS,
) -> Result:
    """Return the scores of `captions`, one for each image of `references`.

    Raises CaptionerError where the images differ, and where an image has no reference with a word.
    """
    scored = score_all(references, captions, use_meteor=meteor, language=language)
    varied = diversity(captions, frozenset(), language)
    del varied[COPIED]
    lengths = [len(scored_tokens(captions[image], language)) for image in references]
    resampled = {**scored.resampled, LENGTH: bootstrap.mean(lengths)}
    return Result(
        {**scored.corpus, **scored.words},
        varied,
        bootstrap.intervals(resampled, draws),
        scored.each["CIDEr"],
        resampled,
    )


def difference(first: Result, second: Result, draws: int = bootstrap.DRAWS) -> Difference:
    """Return the scores and the diversity of `first` minus those of `second`, for the same images."""
    one, other = {**first.scores, **first.diversity}, {**second.scores, **second.diversity}
    values = {name: one[name] - other[name] for name in one if name in other}
    return Difference(values, bootstrap.paired(first.resampled, second.resampled, draws))


def most_different(first: Result, second: Result, count: int) -> list[str]:
    """Return up to `count` images whose CIDEr differs, those that differ most first."""
    by_image = {image: abs(value - second.cider[image]) for image, value in first.cider.items()}
    return sorted((image for image in by_image if by_image[image]), key=lambda image: (-by_image[image], image))[:count]


def with_words(references: Mapping[str, list[str]], language: str = ENGLISH) -> dict[str, list[str]]:
    """Return the references of those images that have one with a word in it."""
    return {image: texts for image, texts in references.items() if any(scored_tokens(text, language) for text in texts)}
