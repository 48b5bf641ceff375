"""The choice among the beams by what was written about training images that look alike.

The consensus caption of the nearest neighbours (Devlin et al. 2015, "Exploring nearest neighbor approaches for image
captioning"), taken from what the decoder found (as m-RNN does, Mao et al. 2015): CIDEr against the captions of the
nearest training images, here weighted by how much they look alike and beside the decoder's own score. An exported
captioner has a copy of this file, so it imports NumPy and nothing of the package.

Dimensions: N training images, C captions of an image, L their tokens, D features; B images, K beams, T tokens of a
beam, R neighbours.
"""

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

NEIGHBOURS = 60
SHARPNESS = 12.0  # a neighbour counts exp(SHARPNESS * cosine)
PAD = 0  # its id, which only stands after the others
FLAT = 1e-3  # of the mean deviation: a feature that varies less among the training images tells nothing
ORDERS = range(1, 5)  # the lengths of the n-grams counted
SIGMA = 6.0  # tokens, of the penalty for another length than the reference's
BASE = np.uint64(1 << 16)  # n-grams are numbers to this base; of more words some would share one, which costs little


class Consensus:
    """What the `neighbours` nearest of the training images say of a caption, and the choice of beams by it.

    `features` [N, D] are theirs, averaged over positions, and `captions` [N, C, L] their captions as token ids with
    the end of the sentence, `PAD` where there are no more: arrays, or tensors of the CPU. Near is what has a high
    cosine, of features that are standardised by the mean and deviation of the training images. Agreement is CIDEr, 0 to
    10 (Vedantam et al. 2015, the variant with clipping and a length penalty), of token ids, where the end of a caption
    is a word.
    """

    def __init__(
        self,
        features: npt.ArrayLike,
        captions: npt.ArrayLike,
        *,
        neighbours: int = NEIGHBOURS,
        sharpness: float = SHARPNESS,
    ):
        known, self.captions = np.asarray(features, np.float32), np.asarray(captions)
        self.sharpness, self.neighbours = sharpness, min(neighbours, len(known))
        self._mean, deviation = known.mean(0), known.std(0)
        told_apart = deviation > FLAT * deviation.mean()
        self._deviation = np.where(told_apart, deviation, np.inf).astype(np.float32)
        self._known = self._directions(known)
        self._frequencies = [_document_frequencies(self.captions, order) for order in ORDERS]

    def arrays(self) -> dict[str, np.ndarray]:
        """Return, by name, the arrays that `from_arrays` restores a consensus from, but for `captions`."""
        counted = {
            f"{name}{order}": array
            for order, both in zip(ORDERS, self._frequencies, strict=True)
            for name, array in zip(("ngrams", "images"), both, strict=True)
        }
        return {"mean": self._mean, "deviation": self._deviation, "known": self._known} | counted

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
        consensus._mean, consensus._deviation, consensus._known = (
            arrays[name] for name in ("mean", "deviation", "known")
        )
        consensus._frequencies = [(arrays[f"ngrams{order}"], arrays[f"images{order}"]) for order in ORDERS]
        consensus.captions = np.asarray(captions)
        consensus.sharpness, consensus.neighbours = sharpness, min(neighbours, len(consensus._known))
        return consensus

    def choose(self, features: np.ndarray, tokens: np.ndarray, scores: np.ndarray, *, weight: float) -> list[int]:
        """Return, for each image, the place of the beam with the highest score + `weight` * agreement, of equals the
        first.

        `features` [B, D] are the images', `tokens` [B, K, T] int their beams and `scores` [B, K] the decoder's of
        them, -inf where there is no such beam.
        """
        agreements = [
            self.agreement(beams, *near) for *near, beams in zip(*self.nearest(features), tokens, strict=True)
        ]
        return total(scores, np.stack(agreements), weight).argmax(1).tolist()

    def nearest(self, features: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return, for features [B, D], the places of the nearest training images [B, R], the nearest first, and the
        share that each has in the agreement [B, R]."""
        cosines = self._directions(features.astype(np.float32)) @ self._known.T  # [B, N]
        near = np.argpartition(-cosines, self.neighbours - 1, axis=1)[:, : self.neighbours]
        order = np.argsort(-np.take_along_axis(cosines, near, 1), axis=1, kind="stable")
        near = np.take_along_axis(near, order, 1)
        cosines = np.take_along_axis(cosines, near, 1)
        shares = np.exp(self.sharpness * (cosines - cosines[:, :1]))
        return near, shares / shares.sum(1, keepdims=True)

    def agreement(self, beams: np.ndarray, near: np.ndarray, shares: np.ndarray) -> np.ndarray:
        """Return the CIDEr [K], 0 to 10, of beams [K, T] against the training images at `near` [R], each with its
        share [R]; of one image it is the mean over its captions."""
        captions = self.captions[near]
        there = (captions != PAD).any(2)  # [R, C]
        weights = (there * (shares / np.maximum(1, there.sum(1)))[:, None])[there]  # [M]
        known = captions[there]  # [M, L]
        told = np.zeros((len(beams), len(known)))
        for order, frequencies in zip(ORDERS, self._frequencies, strict=True):
            mine, theirs = _ngrams(beams, order), _ngrams(known, order)
            kinds = np.unique(mine[mine > 0])  # [U]
            counts = (mine[:, :, None] == kinds).sum(1, dtype=np.float32)  # [K, U]
            others = (theirs[:, :, None] == kinds).sum(1, dtype=np.float32)  # [M, U]
            squares = self._idf(kinds, frequencies) ** 2
            shared = (np.minimum(counts[:, None], others) * others) @ squares  # [K, M]
            norms = np.sqrt(counts**2 @ squares)[:, None] * self._norms(theirs, frequencies)
            told += np.divide(shared, norms, out=np.zeros_like(told), where=norms > 0)
        lengths = [(tokens != PAD).sum(1) for tokens in (beams, known)]
        penalty = np.exp(-((lengths[0][:, None] - lengths[1]) ** 2) / (2 * SIGMA**2))
        return 10 / len(ORDERS) * (told * penalty) @ weights

    def _directions(self, features: np.ndarray) -> np.ndarray:
        standard = (features - self._mean) / self._deviation
        return standard / np.maximum(np.linalg.norm(standard, axis=1, keepdims=True), np.float32(1e-12))

    def _idf(self, ngrams: np.ndarray, frequencies: tuple[np.ndarray, np.ndarray]) -> np.ndarray:
        """Return the log of the training images to those with an n-gram, of one that none has to one."""
        known, images = frequencies
        at = np.minimum(np.searchsorted(known, ngrams), len(known) - 1)
        return np.log(len(self._known)) - np.where(known[at] == ngrams, np.log(images[at]), 0.0)

    def _norms(self, ngrams: np.ndarray, frequencies: tuple[np.ndarray, np.ndarray]) -> np.ndarray:
        """Return the length [M] of the tf-idf vectors of captions, of their n-grams [M, L']."""
        times = (ngrams[:, :, None] == ngrams[:, None]).sum(2)  # a kind that stands c times is met c times
        squares = np.where(ngrams > 0, times * self._idf(ngrams, frequencies) ** 2, 0.0)
        return np.sqrt(squares.sum(1))


def total(scores: np.ndarray, agreements: np.ndarray, weight: float) -> np.ndarray:
    """Return what the beams are chosen by."""
    return scores + weight * agreements


def _ngrams(captions: np.ndarray, order: int) -> np.ndarray:
    """Return the n-grams [..., L - order + 1] of captions [..., L] as numbers, 0 where the caption has ended."""
    places = captions.shape[-1] - order + 1
    if places < 1:
        return np.zeros((*captions.shape[:-1], 0), np.uint64)
    ngrams = np.zeros((*captions.shape[:-1], places), np.uint64)
    for offset in range(order):
        ngrams *= BASE
        ngrams += captions[..., offset : offset + places].astype(np.uint64)
    ngrams[captions[..., order - 1 :] == PAD] = 0
    return ngrams


def _document_frequencies(captions: np.ndarray, order: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the n-grams of captions [N, C, L], sorted, and in how many images each stands; 0 is the first of them."""
    ngrams = _ngrams(captions, order).reshape(len(captions), -1)
    ngrams.sort(axis=1)
    first = np.ones(ngrams.shape, bool)
    first[:, 1:] = ngrams[:, 1:] != ngrams[:, :-1]
    known, images = np.unique(np.append(ngrams[first], np.uint64(0)), return_counts=True)
    return known, images
