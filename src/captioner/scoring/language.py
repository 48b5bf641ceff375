"""Counts words in captions: lengths, variety, and the most frequent errors.

Captions and references are compared as `captioner.captions.tokens.scored_tokens`, like the scores. Captions are given
as one caption an image, references as a list of captions an image. Each word form counts as a word of its own: "walks"
is not "walking".
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from typing import NamedTuple

from captioner.captions.text import ENGLISH
from captioner.captions.tokens import scored_tokens


class Tally(NamedTuple):
    """A word or a caption and the number of images where it occurs."""

    text: str
    images: int
    total: int  # images in which it could occur


def length_shares(captions: Iterable[str], language: str = ENGLISH) -> dict[int, float]:
    """Return the share of the captions that has each length in words, by length, from the shortest on."""
    lengths = Counter(len(scored_tokens(text, language)) for text in captions)
    return {length: count / lengths.total() for length, count in sorted(lengths.items())}


def top_words_share(captions: Iterable[str], words: int, language: str = ENGLISH) -> float:
    """Return the share of all words in the captions that are one of the `words` most frequent; 0 without any word."""
    counts = Counter(word for text in captions for word in scored_tokens(text, language))
    return sum(count for _, count in counts.most_common(words)) / max(1, counts.total())


def repeated_captions(captions: Mapping[str, str], language: str = ENGLISH) -> list[Tally]:
    """Return the captions that several images have.

    A tally has the number of images with the caption; its total is the number of all images. The most frequent come
    first.
    """
    counts = Counter(" ".join(scored_tokens(text, language)) for text in captions.values())
    return _ranked(Tally(text, count, len(captions)) for text, count in counts.items() if count > 1)


def hallucinated_words(
    captions: Mapping[str, str], references: Mapping[str, list[str]], language: str = ENGLISH
) -> list[Tally]:
    """Return the words of captions that no reference of the same image has.

    A tally has the number of images where that is so; its total is the number of captions with the word. The most
    frequent come first.
    """
    used, hallucinated = Counter[str](), Counter[str]()
    for image, text in captions.items():
        words = set(scored_tokens(text, language))
        used.update(words)
        hallucinated.update(words - _words_of(references[image], language))
    return _ranked(Tally(word, count, used[word]) for word, count in hallucinated.items())


def missing_words(
    captions: Mapping[str, str], references: Mapping[str, list[str]], language: str = ENGLISH
) -> list[Tally]:
    """Return the words of the references that no caption of any image has.

    A tally has the number of images whose references have the word; its total is the number of all images. The most
    frequent come first.
    """
    used = {word for text in captions.values() for word in scored_tokens(text, language)}
    images: defaultdict[str, int] = defaultdict(int)
    for image in captions:
        for word in _words_of(references[image], language) - used:
            images[word] += 1
    return _ranked(Tally(word, count, len(captions)) for word, count in images.items())


def _words_of(texts: Iterable[str], language: str) -> set[str]:
    return {word for text in texts for word in scored_tokens(text, language)}


def _ranked(tallies: Iterable[Tally]) -> list[Tally]:
    return sorted(tallies, key=lambda tally: (-tally.images, tally.total, tally.text))
