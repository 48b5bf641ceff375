"""Bootstrap intervals of corpus scores over images (Efron and Tibshirani 1993), with NumPy alone.

A corpus score is a function of sums over images: a mean, a ratio of two sums, or BLEU of the sums of n-gram counts. A
draw of images is a row of N counts, so one matrix product gives the sums of many draws. CIDEr's document frequencies
stay those of all images: its interval is that of a mean.

Draws depend on the seed, the number of images and nothing else. So `resample` gives two models the same draws of
images, and the difference of its results is paired. This requires the same order of images in both.

Dimensions: N images, C columns of statistics, D draws.
"""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

DRAWS = 10_000
SEED = 0
COVERAGE = 0.95  # of the intervals
ORDERS = 4  # n-grams of 1 to 4 words in BLEU
CELLS = 4_000_000  # counts of draws in memory at once, float64

Interval = tuple[float, float]  # its low and its high end


class Resampled(NamedTuple):
    """A corpus score that can be computed for any draw of the images."""

    statistics: np.ndarray  # [N, C], summed over the drawn images
    value: Callable[[np.ndarray], np.ndarray]  # from sums [..., C] to scores [...]

    def score(self) -> float:
        """Return the score of all images, each drawn once."""
        return float(self.value(self.statistics.sum(0)))


def mean(per_image: Sequence[float] | np.ndarray) -> Resampled:
    """Return the mean over images of `per_image` [N] as a score."""
    values = np.asarray(per_image, np.float64)
    return ratio(values, np.ones(len(values)))


def ratio(parts: Sequence[float] | np.ndarray, wholes: Sequence[float] | np.ndarray) -> Resampled:
    """Return sum(parts) / sum(wholes), both [N], as a score; not a number where the sum of the wholes is 0."""
    return Resampled(np.stack([np.asarray(parts, np.float64), np.asarray(wholes, np.float64)], axis=1), _quotient)


def _quotient(sums: np.ndarray) -> np.ndarray:
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(sums[..., 1] > 0, sums[..., 0] / sums[..., 1], np.nan)


def bleu(references: Sequence[Sequence[str]], hypotheses: Sequence[str]) -> dict[str, Resampled]:
    """Return BLEU-1 to BLEU-4 of captions, whose tokens are joined by spaces, as scores.

    `references` has the references of each image, at least one; `hypotheses` has one caption an image.
    """
    statistics = bleu_statistics(references, hypotheses)
    return {f"BLEU-{order}": Resampled(statistics, _bleu_of(order)) for order in range(1, ORDERS + 1)}


def _bleu_of(order: int) -> Callable[[np.ndarray], np.ndarray]:
    return lambda sums: bleu_scores(sums)[..., order - 1]


def bleu_statistics(references: Sequence[Sequence[str]], hypotheses: Sequence[str]) -> np.ndarray:
    """Return what BLEU sums over images: float64 [N, 10].

    The columns are, for n-grams of 1 to 4 words, how many of the caption's are in a reference (clipped by the reference
    that has the n-gram most often), then how many the caption has, then the caption's length and the length of the
    reference that is nearest to it, both in words; of two that are equally near, the shorter.
    """
    rows = np.zeros((len(hypotheses), 2 * ORDERS + 2))
    for row, texts, caption in zip(rows, references, hypotheses, strict=True):
        words, others = caption.split(), [text.split() for text in texts]
        for order in range(1, ORDERS + 1):
            most: Counter[tuple[str, ...]] = Counter()
            for other in others:
                most |= _ngrams(other, order)
            row[order - 1] = (_ngrams(words, order) & most).total()
            row[ORDERS + order - 1] = max(0, len(words) - order + 1)
        row[-2] = len(words)
        row[-1] = min((abs(len(other) - len(words)), len(other)) for other in others)[1]
    return rows


def _ngrams(words: list[str], order: int) -> Counter[tuple[str, ...]]:
    return Counter(zip(*(words[start:] for start in range(order)), strict=False))


def bleu_scores(sums: np.ndarray) -> np.ndarray:
    """Return BLEU-1 to BLEU-4, [..., 4], of sums [..., 10] of `bleu_statistics`.

    As in pycocoevalcap, tiny numbers stand in for zeros: a caption without a match scores almost 0.
    """
    small, tiny = 1e-9, 1e-15
    matches, total, length, nearest = sums[..., :ORDERS], sums[..., ORDERS : 2 * ORDERS], sums[..., -2], sums[..., -1]
    precision = np.cumprod((matches + tiny) / (total + small), axis=-1) ** (1 / np.arange(1, ORDERS + 1))
    share = (length + tiny) / (nearest + small)
    with np.errstate(over="ignore"):
        penalty = np.where(share < 1, np.exp(1 - 1 / np.minimum(share, 1)), 1.0)
    return precision * penalty[..., None]


def resample(scores: Mapping[str, Resampled], draws: int = DRAWS, seed: int = SEED) -> dict[str, np.ndarray]:
    """Return each score of `draws` draws of N images with replacement: float64 [D] by name.

    All scores must be of the same images in the same order. Raises ValueError where their numbers differ, or are 0.
    """
    counts = {len(score.statistics) for score in scores.values()}
    if not scores:
        return {}
    if len(counts) != 1 or 0 in counts:
        raise ValueError(f"scores of {sorted(counts)} images; expected the same number, at least 1")
    (images,) = counts
    statistics = np.concatenate([score.statistics for score in scores.values()], axis=1)
    generator = np.random.default_rng(seed)
    sums = []
    step = max(1, CELLS // images)
    for begin in range(0, draws, step):
        rows = min(step, draws - begin)
        drawn = generator.integers(images, size=(rows, images)) + images * np.arange(rows)[:, None]
        times = np.bincount(drawn.ravel(), minlength=rows * images).reshape(rows, images)
        sums.append(times.astype(np.float64) @ statistics)
    joined = np.concatenate(sums)  # [D, C of all scores]
    ends = np.cumsum([score.statistics.shape[1] for score in scores.values()])
    parts = np.split(joined, ends[:-1], axis=1)
    return {name: score.value(part) for (name, score), part in zip(scores.items(), parts, strict=True)}


def interval(values: np.ndarray) -> Interval:
    """Return the middle 95 % of `values` [D]; values that are not numbers are left out."""
    numbers = values[~np.isnan(values)]
    if not len(numbers):
        return float("nan"), float("nan")
    low, high = np.quantile(numbers, [(1 - COVERAGE) / 2, (1 + COVERAGE) / 2])
    return float(low), float(high)


def intervals(scores: Mapping[str, Resampled], draws: int = DRAWS, seed: int = SEED) -> dict[str, Interval]:
    """Return the interval of each score; raises ValueError as `resample` does."""
    return {name: interval(values) for name, values in resample(scores, draws, seed).items()}


def paired(
    first: Mapping[str, Resampled], second: Mapping[str, Resampled], draws: int = DRAWS, seed: int = SEED
) -> dict[str, Interval]:
    """Return the intervals of the scores of `first` minus those of `second`, on the same draws of images.

    Only scores that both have are compared. Raises ValueError as `resample` does.
    """
    names = [name for name in first if name in second]
    counts = {len(scores[name].statistics) for scores in (first, second) for name in names}
    if len(counts) > 1:
        raise ValueError(f"scores of {sorted(counts)} images; expected the same images")
    one, other = (resample({name: scores[name] for name in names}, draws, seed) for scores in (first, second))
    return {name: interval(one[name] - other[name]) for name in names}


def bootstrap_means(per_image: Sequence[float] | np.ndarray, draws: int = DRAWS, seed: int = SEED) -> Interval:
    """Return the interval of the mean of `per_image` [N]."""
    return intervals({"mean": mean(per_image)}, draws, seed)["mean"]
