"""The choice among beams by the captions of similar training images.

This is the consensus caption of the nearest neighbours (Devlin et al. 2015, "Exploring nearest neighbor approaches for
image captioning"), chosen among the captions that beam search returned (as in m-RNN, Mao et al. 2015). The agreement of
a beam is its CIDEr against the captions of the nearest training images, weighted by their similarity. It is added to
the decoder's score.

An exported captioner has a copy of this file, so it imports only NumPy and what is copied too.

Dimensions: N training images, C captions of an image, L their tokens, D features; B images, K beams, T tokens of a
beam, R neighbours.
"""

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from captioner.scoring.cider import References

NEIGHBOURS = 30
SHARPNESS = 15.0  # a neighbour's weight is exp(SHARPNESS * cosine)
PAD = 0  # the id that fills captions up
CONSTANT = 1e-3  # a feature whose deviation is a smaller share of the mean deviation is left out: it is constant
ROWS = 4096  # of features whose lengths are computed at once; bounds the memory
BLOCK = 64  # training images that are ruled out together in the search for the nearest


class Consensus:
    """The agreement of captions with those of the `neighbours` nearest training images, and the choice of beams by it.

    `features` [N, D] are the training images' features, averaged over positions. `captions` [N, C, L] int are their
    captions as token ids with the end of the sentence, then `PAD`; an image may have fewer than C. Both are arrays, or
    tensors on the CPU. The nearest images are those with the highest cosine between features, standardised by mean and
    deviation of the training images. Agreement is CIDEr, 0 to 10, on token ids (`captioner.scoring.cider`); the end of
    a caption is a word.

    What the constructor computes can be stored: `arrays` returns it, `from_arrays` takes it.
    """

    def __init__(
        self,
        features: npt.ArrayLike,
        captions: npt.ArrayLike,
        *,
        neighbours: int = NEIGHBOURS,
        sharpness: float = SHARPNESS,
    ):
        self.captions = np.asarray(captions)
        words = self.captions != PAD
        lengths = words.sum(2)  # [N, C]
        self._references = References(self.captions[words], lengths[lengths > 0], (lengths > 0).sum(1))
        known = np.asarray(features, np.float32)
        deviation = known.std(0)
        self._mean = known.mean(0)
        self._deviation = np.where(deviation > CONSTANT * deviation.mean(), deviation, np.inf).astype(np.float32)
        self._directions = self._standardised(known)
        self.sharpness, self.neighbours = sharpness, min(neighbours, len(known))

    def arrays(self) -> dict[str, np.ndarray]:
        """Return, by name, the arrays that `from_arrays` restores a consensus from, but for `captions`."""
        references = {f"references.{name}": array for name, array in self._references.arrays().items()}
        return {"mean": self._mean, "deviation": self._deviation, "directions": self._directions} | references

    @classmethod
    def from_arrays(
        cls,
        arrays: Mapping[str, np.ndarray],
        captions: npt.ArrayLike,
        *,
        neighbours: int = NEIGHBOURS,
        sharpness: float = SHARPNESS,
    ) -> "Consensus":
        """Restore the consensus that `arrays` is from; `captions` are those that it was made of.

        Nothing is copied or computed, so the arrays may be memory maps.
        """
        consensus = cls.__new__(cls)
        consensus._mean, consensus._deviation = arrays["mean"], arrays["deviation"]
        consensus._directions, consensus.captions = arrays["directions"], np.asarray(captions)
        prefix = "references."
        consensus._references = References.from_arrays(
            {name.removeprefix(prefix): array for name, array in arrays.items() if name.startswith(prefix)}
        )
        consensus.sharpness, consensus.neighbours = sharpness, min(neighbours, len(consensus._directions))
        return consensus

    def choose(self, features: np.ndarray, tokens: np.ndarray, scores: np.ndarray, *, weight: float) -> list[int]:
        """Return, for each image, the place of the beam with the highest score + `weight` * agreement, the first if
        several are equal.

        `features` [B, D] are the images' features, `tokens` [B, K, T] int their beams and `scores` [B, K] the decoder's
        scores, -inf where there is no such beam.
        """
        return total(scores, self.agreements(tokens, *self.nearest(features)), weight).argmax(1).tolist()

    def nearest(self, features: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return, for features [B, D], the places of the nearest training images [B, R], the nearest first, and the
        weight of each [B, R]; the weights of an image sum to 1."""
        cosines = self._standardised(features.astype(np.float32)) @ self._directions.T  # [B, N]
        near = np.stack([_highest(row, self.neighbours) for row in cosines])
        cosines = np.take_along_axis(cosines, near, 1)
        shares = np.exp(self.sharpness * (cosines - cosines[:, :1]))
        return near, shares / shares.sum(1, keepdims=True)

    def agreements(self, tokens: np.ndarray, near: np.ndarray, shares: np.ndarray) -> np.ndarray:
        """Return the CIDEr [B, K], 0 to 10, of beams [B, K, T] against the training images at `near` [B, R], weighted
        by `shares` [B, R]; for one image it is the mean over its captions."""
        words = tokens != PAD
        return self._references.score(tokens[words], words.sum(2), near, shares)

    def agreement(self, beams: np.ndarray, near: np.ndarray, shares: np.ndarray) -> np.ndarray:
        """Return `agreements` of one image: [K] of beams [K, T], training images [R] and shares [R]."""
        return self.agreements(beams[None], near[None], shares[None])[0]

    def _standardised(self, features: np.ndarray) -> np.ndarray:
        """Return the standardised features, each vector of length 1."""
        standard = features - self._mean
        standard /= self._deviation
        for begin in range(0, len(standard), ROWS):
            part = standard[begin : begin + ROWS]
            part /= np.maximum(np.linalg.norm(part, axis=1, keepdims=True), np.float32(1e-12))
        return standard


def total(scores: np.ndarray, agreements: np.ndarray, weight: float) -> np.ndarray:
    """Return the sum by which beams are chosen."""
    return scores + weight * agreements


def _highest(values: np.ndarray, count: int) -> np.ndarray:
    """Return the places [count] of the highest of `values` [N], the highest first, equal ones in order.

    They are in the `count` blocks with the highest maxima, so the values of the others are not looked at again.
    """
    blocks = len(values) // BLOCK
    if blocks <= count:
        return np.argsort(-values, kind="stable")[:count]
    highest = values[: blocks * BLOCK].reshape(blocks, BLOCK).max(1)
    least = np.partition(highest, blocks - count)[blocks - count]  # the rest, if any, is always looked at
    candidates = (np.flatnonzero(highest >= least)[:, None] * BLOCK + np.arange(BLOCK)).ravel()
    candidates = np.append(candidates, np.arange(blocks * BLOCK, len(values)))
    candidates = candidates[values[candidates] >= least]
    return candidates[np.argsort(-values[candidates], kind="stable")[:count]]
