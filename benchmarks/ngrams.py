"""The baselines of `rewards` and `consensus`: CIDEr as usually implemented, and as implemented here at commit a3fcff3.

Dimensions: C references, L their tokens; K captions, T their tokens.
"""

import math
from collections import Counter
from collections.abc import Mapping

import numpy as np

from captioner.captions.ptb import ptb_tokens

ORDERS = range(1, 5)
SIGMA = 6.0
END = "<eos>"
BASE = np.uint64(1 << 16)
Vector = tuple[list[dict[tuple[str, ...], float]], list[float], int]


class DictionaryReward:
    """CIDEr of one caption (a text) at a time, by dictionaries of n-grams (tuples of words). The end is a word."""

    def __init__(self, references: Mapping[str, list[str]]):
        counted = {
            image: [_counts([*ptb_tokens(text), END]) for text in texts if ptb_tokens(text)]
            for image, texts in references.items()
        }
        frequency = Counter(ngram for texts in counted.values() for ngram in set().union(*texts))
        self._most = math.log(len(counted))
        self._idf = {ngram: self._most - math.log(count) for ngram, count in frequency.items()}
        self._references = {image: [self._vector(text) for text in texts] for image, texts in counted.items()}

    def __call__(self, image: str, text: str, *, ended: bool) -> float:
        """Return the CIDEr, 0 to 10, of a caption of `image`; `ended` is false if it was cut."""
        vector = self._vector(_counts(ptb_tokens(text) + [END] * ended))
        references = self._references[image]
        return 10 / len(ORDERS) * sum(_similarity(vector, reference) for reference in references) / len(references)

    def _vector(self, counts: Counter[tuple[str, ...]]) -> Vector:
        weights: list[dict[tuple[str, ...], float]] = [{} for _ in ORDERS]
        for ngram, count in counts.items():
            weights[len(ngram) - 1][ngram] = count * self._idf.get(ngram, self._most)
        norms = [math.sqrt(sum(weight * weight for weight in part.values())) for part in weights]
        return weights, norms, sum(count for ngram, count in counts.items() if len(ngram) == 2)


def _counts(words: list[str]) -> Counter[tuple[str, ...]]:
    return Counter(tuple(words[at : at + n]) for n in ORDERS for at in range(len(words) - n + 1))


def _similarity(caption: Vector, reference: Vector) -> float:
    total = 0.0
    for mine, theirs, norm, other in zip(caption[0], reference[0], caption[1], reference[1], strict=True):
        if norm and other:
            shared = (min(weight, theirs[ngram]) * theirs[ngram] for ngram, weight in mine.items() if ngram in theirs)
            total += sum(shared) / (norm * other)
    return total * math.exp(-((caption[2] - reference[2]) ** 2) / (2 * SIGMA**2))


class ComparedNgrams:
    """The agreement of one image's captions, by comparing their n-grams with those of all references as arrays.

    `captions` [N, C, L] are token ids, 0 after the end. N-grams are numbers to the base 2^16.
    """

    def __init__(self, captions: np.ndarray):
        self._captions = captions
        self._frequencies = [_document_frequencies(captions, order) for order in ORDERS]

    def __call__(self, beams: np.ndarray, near: np.ndarray, shares: np.ndarray) -> np.ndarray:
        """Return the CIDEr [K] of captions [K, T] against the images `near` [R], weighted by `shares` [R]."""
        captions = self._captions[near]
        there = (captions != 0).any(2)
        weights = (there * (shares / np.maximum(1, there.sum(1)))[:, None])[there]
        known = captions[there]
        cosines = np.zeros((len(beams), len(known)))
        for order, frequencies in zip(ORDERS, self._frequencies, strict=True):
            mine, theirs = _numbers(beams, order), _numbers(known, order)
            kinds = np.unique(mine[mine > 0])
            counts = (mine[:, :, None] == kinds).sum(1, dtype=np.float32)
            others = (theirs[:, :, None] == kinds).sum(1, dtype=np.float32)
            squares = self._idf(kinds, frequencies) ** 2
            shared = (np.minimum(counts[:, None], others) * others) @ squares
            times = (theirs[:, :, None] == theirs[:, None]).sum(2)
            lengths = np.where(theirs > 0, times * self._idf(theirs, frequencies) ** 2, 0.0).sum(1)
            norms = np.sqrt(counts**2 @ squares)[:, None] * np.sqrt(lengths)
            cosines += np.divide(shared, norms, out=np.zeros_like(cosines), where=norms > 0)
        words = [(tokens != 0).sum(1) for tokens in (beams, known)]
        penalty = np.exp(-((words[0][:, None] - words[1]) ** 2) / (2 * SIGMA**2))
        return 10 / len(ORDERS) * (cosines * penalty) @ weights

    def _idf(self, ngrams: np.ndarray, frequencies: tuple[np.ndarray, np.ndarray]) -> np.ndarray:
        known, images = frequencies
        at = np.minimum(np.searchsorted(known, ngrams), len(known) - 1)
        return np.log(len(self._captions)) - np.where(known[at] == ngrams, np.log(images[at]), 0.0)


def _numbers(captions: np.ndarray, order: int) -> np.ndarray:
    places = captions.shape[-1] - order + 1
    ngrams = np.zeros((*captions.shape[:-1], places), np.uint64)
    for offset in range(order):
        ngrams *= BASE
        ngrams += captions[..., offset : offset + places].astype(np.uint64)
    ngrams[captions[..., order - 1 :] == 0] = 0
    return ngrams


def _document_frequencies(captions: np.ndarray, order: int) -> tuple[np.ndarray, np.ndarray]:
    ngrams = np.sort(_numbers(captions, order).reshape(len(captions), -1), axis=1)
    first = np.ones(ngrams.shape, bool)
    first[:, 1:] = ngrams[:, 1:] != ngrams[:, :-1]
    known, images = np.unique(np.append(ngrams[first], np.uint64(0)), return_counts=True)
    return known, images
