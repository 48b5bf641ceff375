"""CIDEr of many captions at once, on word ids in arrays.

The reward of self-critical training and the consensus among beams are computed here. The reported scores are
pycocoevalcap's (`captioner.scoring.scores`). Both implement the same metric: CIDEr-D (Vedantam et al. 2015, "CIDEr:
Consensus-based image description evaluation"), which clips counts and has a length penalty, without stemming.

The reference implementation takes the number of word pairs for the length of a caption. The number of words, which is
used here, gives the same scores: it is one more for every caption with a word, and only differences of lengths count.

An exported captioner has a copy of this file, so it imports only NumPy.

Dimensions: N images, M references, P words of all references, U distinct n-grams in them; B images with K captions each
that are scored, R images whose references they are scored against; E pairs of a scored caption and an n-gram in it. A
flat array of words holds one caption after the other.
"""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

ORDERS = 4  # n-grams of 1 to 4 words
SIGMA = 6.0  # words, of the penalty for a length that differs from the reference's
REFERENCES_AT_ONCE = 1024  # compared in one step; bounds the memory of a large batch
POSITIVE_BITS = 63  # of an int64
FILTER = 1 << 16  # entries of a table, a power of 2, more than a batch has n-grams


class _Counts(NamedTuple):
    """The n-grams of captions.

    The number of an n-gram is its place among the keys of its order, plus 1. Its id is its place among all keys, one
    order after the other, plus 1.
    """

    base: int  # all word ids are below it
    keys: list[np.ndarray]  # of each order, sorted int64: `base` * the number of the first n - 1 words + the last word
    documents: np.ndarray  # [1 + U] int32, by id: documents that have the n-gram; 1 for id 0, which is no n-gram's
    ids: np.ndarray  # [ORDERS, P] int32, of the n-gram that starts at a word; 0 if it ends too late or came before
    times: np.ndarray  # [ORDERS, P] unsigned int, how often it stands in its caption


class References:
    """Reference captions of N images, counted once, and the CIDEr of other captions against them.

    `words` [P] int are the word ids of all references, 0 or more. `lengths` [M] int is the number of words of each, at
    least one. `captions` [N] int is the number of references of each image. The document frequency of an n-gram is the
    number of images with a reference that has it; an n-gram in no reference counts as one in a single image.
    """

    def __init__(self, words: np.ndarray, lengths: np.ndarray, captions: np.ndarray):
        self._counts = _count(words, lengths, np.repeat(np.arange(len(captions), dtype=np.int32), captions))
        self._first = _starts(captions)  # [N + 1], of the references of an image
        self._start = _starts(lengths)  # [M + 1], of the words of a reference
        idf = self._idf(slice(None))
        norms = _norms(self._counts, idf, lengths)
        self._inverse_norms = np.divide(1.0, norms, out=np.zeros_like(norms), where=norms > 0)  # [ORDERS, M]

    def arrays(self) -> dict[str, np.ndarray]:
        """Return, by name, the arrays that `from_arrays` restores the references from."""
        counts = self._counts
        return {
            "base": np.array(counts.base),
            "documents": counts.documents,
            "ids": counts.ids,
            "times": counts.times,
            "first": self._first,
            "start": self._start,
            "inverse_norms": self._inverse_norms,
            **{f"keys.{order}": keys for order, keys in enumerate(counts.keys, 1)},
        }

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, np.ndarray]) -> "References":
        """Restore what `arrays` returned. The arrays are not copied, so they may be memory maps."""
        references = cls.__new__(cls)
        keys = [arrays[f"keys.{order}"] for order in range(1, ORDERS + 1)]
        references._counts = _Counts(int(arrays["base"]), keys, arrays["documents"], arrays["ids"], arrays["times"])
        references._first, references._start = arrays["first"], arrays["start"]
        references._inverse_norms = arrays["inverse_norms"]
        return references

    def score(self, words: np.ndarray, lengths: np.ndarray, images: np.ndarray, shares: np.ndarray) -> np.ndarray:
        """Return the CIDEr [B, K] float64, 0 to 10, of captions.

        `words` [*] int are the word ids of all B * K captions and `lengths` [B, K] int the number of words of each. The
        captions of row b are scored against the images `images` [B, R] int: the score is the sum, over these images, of
        `shares` [B, R] times the mean over the image's references.
        """
        length = lengths.ravel()
        counts = _count(words, length)
        known = self._known(counts)
        idf = self._idf(known)
        norms = _norms(counts, idf, length)  # [ORDERS, B * K]

        order, place = np.nonzero(counts.ids)  # [E]
        caption, id = np.repeat(np.arange(len(length)), length)[place], counts.ids[order, place]
        shared = known[id] > 0  # the others are in no reference
        order, place, caption, id = order[shared], place[shared], caption[shared], id[shared]
        row, times = caption // lengths.shape[1], counts.times[order, place]
        overlap = np.zeros(len(id))
        mean = max(1.0, (len(self._start) - 1) / (len(self._first) - 1))  # references of an image
        step = max(1, int(REFERENCES_AT_ONCE / mean / images.shape[1]))
        for begin in range(0, len(images), step):
            part = slice(begin, begin + step)
            chosen = (row >= begin) & (row < begin + step)
            ngrams = (row[chosen] - begin, known[id[chosen]], times[chosen], length[caption[chosen]])
            overlap[chosen] = self._overlap(*ngrams, images[part], shares[part])
        norm = norms[order, caption]
        gained = np.divide(overlap * idf[id] ** 2, norm, out=np.zeros_like(norm), where=norm > 0)
        return 10 / ORDERS * np.bincount(caption, gained, len(length)).reshape(lengths.shape)

    def _overlap(
        self,
        row: np.ndarray,
        ids: np.ndarray,
        times: np.ndarray,
        length: np.ndarray,
        images: np.ndarray,
        shares: np.ndarray,
    ) -> np.ndarray:
        """Return, for n-grams of captions [E], their part of the score before it is multiplied by idf^2 / norm.

        An n-gram comes with the row of its caption, its id here, how often it stands in its caption, and the length of
        its caption. Its part is the sum, over the references of the row's images, of
        weight * penalty * min(times, times there) * times there / norm there. References of one length have the same
        penalty, so the sum is over those of each length first.
        """
        if not len(ids):
            return np.zeros(0)
        references, owner, weight = self._of_images(images, shares)
        place, reference = _ranges(self._start[references], self._start[references + 1])
        here, column = _distinct(row * len(self._counts.documents) + ids)
        there = owner[reference] * len(self._counts.documents) + self._counts.ids[:, place]  # [ORDERS, *]
        order, match, at = _places_in(here, there)
        reference, times_there = reference[match], self._counts.times[order, place[match]]
        value = weight[reference] * self._inverse_norms[order, references[reference]] * times_there

        sizes, size = _distinct(self._start[references + 1] - self._start[references])  # [S]
        penalty = np.exp(-((sizes[:, None] - np.arange(length.max() + 1)) ** 2) / (2 * SIGMA**2))
        overlap = np.zeros(len(ids))
        found = np.zeros(len(here), bool)  # few n-grams are in the references of their own image
        found[at] = True
        line = np.cumsum(found) - 1
        at, lines = line[at], int(line[-1]) + 1
        for level in range(1, int(times.max()) + 1):  # min(a, b) is the number of levels that both reach
            both = times_there >= level
            if not both.any():
                break
            cell = at[both] * len(sizes) + size[reference[both]]
            sums = np.bincount(cell, value[both], lines * len(sizes)).reshape(lines, len(sizes))
            mine = np.flatnonzero(found[column] & (times >= level))
            overlap[mine] += (sums @ penalty).take(line[column[mine]] * penalty.shape[1] + length[mine])
        return overlap

    def _of_images(self, images: np.ndarray, shares: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return the places of the references of images [B, R], the row of each, and its weight."""
        first, end = self._first[images.ravel()], self._first[images.ravel() + 1]
        references, at = _ranges(first, end)
        weights = shares.ravel() / np.maximum(1, end - first)
        return references, at // images.shape[1], weights[at]

    def _idf(self, ids: np.ndarray | slice) -> np.ndarray:
        """Return the inverse document frequency, the natural log of N / documents, of n-grams by their id."""
        return np.log(len(self._first) - 1) - np.log(self._counts.documents[ids])

    def _known(self, counts: _Counts) -> np.ndarray:
        """Return the id here of every n-gram of `counts`, by its id there; 0 if no reference has it."""
        ids, prefixes, offset = [np.zeros(1, np.int64)], np.zeros(1, np.int64), 0
        for theirs, ours in zip(counts.keys, self._counts.keys, strict=True):
            prefix, word = np.divmod(theirs, counts.base)
            key = np.where(word < self._counts.base, prefixes[prefix] * self._counts.base + word, -1)
            at = np.searchsorted(ours, key)
            there = at < len(ours)
            there[there] = ours[at[there]] == key[there]
            at = np.where(there, at + 1, 0)
            ids.append(np.where(there, at + offset, 0))
            prefixes, offset = np.concatenate([[0], at]), offset + len(ours)
        return np.concatenate(ids)


def _count(words: np.ndarray, lengths: np.ndarray, document: np.ndarray | None = None) -> _Counts:
    """Count the n-grams of captions. Those with the same number in `document` [M] int, which never falls, are one
    document; without it no documents are counted.

    An n-gram is numbered by its first n - 1 words, which have a number already, and its last word. So numbers are exact
    for any vocabulary: none is shared by two n-grams.
    """
    caption = np.repeat(np.arange(len(lengths), dtype=np.int32), lengths)
    base = int(words.max(initial=0)) + 1
    ids = np.zeros((ORDERS, len(words)), np.int32)
    times = np.zeros((ORDERS, len(words)), np.min_scalar_type(int(lengths.max(initial=0))))
    keys, documents = [], [np.ones(1, np.int32)]
    prefix, offset = np.zeros(len(words), np.int32), 0
    for n in range(ORDERS):
        places = np.flatnonzero(caption[: len(caption) - n] == caption[n:]).astype(np.int32)
        key, order = _sorted(prefix[places] * np.int64(base) + words[places + n])
        places = places[order]  # by n-gram; of one n-gram in the order of the text
        del order
        new = _changes(key)
        keys.append(key[new])
        del key
        number = np.cumsum(new, dtype=np.int32)
        first = np.flatnonzero(new | _changes(caption[places]))
        ids[n, places[first]] = number[first] + offset
        times[n, places[first]] = np.concatenate([first[1:], [len(places)]]) - first if len(first) else 0
        if document is not None:
            once = first[new[first] | _changes(document[caption[places[first]]])]
            documents.append(np.bincount(number[once] - 1, minlength=len(keys[-1])).astype(np.int32))
        prefix[places] = number
        offset += len(keys[-1])
    return _Counts(base, keys, np.concatenate(documents), ids, times)


def _sorted(keys: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the keys [P] int64, 0 or more, sorted, and the place that each had; equal ones stay in order.

    The array `keys` is overwritten.
    """
    bits = len(keys).bit_length()
    if int(keys.max(initial=0)).bit_length() + bits > POSITIVE_BITS:
        order = np.argsort(keys, kind="stable")
        return keys[order], order
    keys <<= bits  # in place, for the memory; numbers sort much faster than places
    keys |= np.arange(len(keys))
    keys.sort()
    order = (keys & ((1 << bits) - 1)).astype(np.int32 if bits < 32 else np.int64)
    keys >>= bits
    return keys, order


def _distinct(keys: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the distinct keys of `keys` [P] int64, sorted, and the place of each key among them.

    The array `keys` is overwritten.
    """
    keys, order = _sorted(keys)
    new = _changes(keys)
    inverse = np.empty(len(keys), np.int64)
    inverse[order] = np.cumsum(new) - 1
    return keys[new], inverse


def _changes(values: np.ndarray) -> np.ndarray:
    """Return whether each of values [P] differs from the one before it; the first does."""
    changes = np.ones(len(values), bool)
    np.not_equal(values[1:], values[:-1], out=changes[1:])
    return changes


def _norms(counts: _Counts, idf: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """Return the length [ORDERS, M] of the tf-idf vectors of captions; `idf` is by the ids of `counts`."""
    caption = np.repeat(np.arange(len(lengths), dtype=np.int32), lengths)
    squares = [
        np.bincount(caption, (times * idf[ids]) ** 2, len(lengths))  # of id 0 the times are 0
        for ids, times in zip(counts.ids, counts.times, strict=True)
    ]
    return np.sqrt(squares)


def _places_in(keys: np.ndarray, queries: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return row and column of each of the queries [*, *] that is among the sorted `keys`, and its place there."""
    may_be = np.zeros(FILTER, bool)  # most queries are ruled out by their last bits
    may_be[keys & (FILTER - 1)] = True
    row, column = np.nonzero(may_be[queries & (FILTER - 1)])
    queries = queries[row, column]
    at = np.minimum(np.searchsorted(keys, queries), len(keys) - 1)
    known = keys[at] == queries
    return row[known], column[known], at[known]


def _ranges(start: np.ndarray, end: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the numbers from each `start` up to its `end`, all in one array, and for each the place of its range."""
    sizes = end - start
    at = np.repeat(np.arange(len(sizes)), sizes)
    return np.arange(len(at)) + (start - np.cumsum(sizes) + sizes)[at], at


def _starts(sizes: np.ndarray) -> np.ndarray:
    """Return where each of the parts begins, and where the last ends."""
    return np.concatenate([[0], np.cumsum(sizes)])
