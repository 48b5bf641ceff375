"""What can be said of captions by counting words: lengths, variety, and the commonest errors.

Captions and references are compared as tokens, by `captioner.captions.tokens.scored_tokens`, like the scores.
References are given by image, one caption an image; word forms are words of their own ("walks" is not "walking").
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from typing import NamedTuple

from captioner.captions.text import ENGLISH
from captioner.captions.tokens import scored_tokens


class Tally(NamedTuple):
    """A word or a caption, and how often it was found."""

    text: str
    times: int
    of: int  # what `times` is a part of


def length_shares(captions: Iterable[str], language: str = ENGLISH) -> dict[int, float]:
    """Return the share of the captions that has each length in words, by length, from the shortest on."""
    lengths = Counter(len(scored_tokens(text, language)) for text in captions)
    return {length: count / lengths.total() for length, count in sorted(lengths.items())}


def share_of_commonest(captions: Iterable[str], words: int, language: str = ENGLISH) -> float:
    """Return the part of all words said that the `words` most frequent ones make up; 0 where nothing was said."""
    counts = Counter(word for text in captions for word in scored_tokens(text, language))
    return sum(count for _, count in counts.most_common(words)) / max(1, counts.total())


def repeated(captions: Mapping[str, str], language: str = ENGLISH) -> list[Tally]:
    """Return the captions that more than one image got, with how many got them of all; most frequent first."""
    counts = Counter(" ".join(scored_tokens(text, language)) for text in captions.values())
    return _ranked(Tally(text, count, len(captions)) for text, count in counts.items() if count > 1)


def said_in_vain(
    captions: Mapping[str, str], references: Mapping[str, list[str]], language: str = ENGLISH
) -> list[Tally]:
    """Return the words that stand in captions of images none of whose references has them: in how many captions,
    of all that have the word; most frequent first."""
    said, vain = Counter[str](), Counter[str]()
    for image, text in captions.items():
        words = set(scored_tokens(text, language))
        said.update(words)
        vain.update(words - _words_of(references[image], language))
    return _ranked(Tally(word, count, said[word]) for word, count in vain.items())


def never_said(
    captions: Mapping[str, str], references: Mapping[str, list[str]], language: str = ENGLISH
) -> list[Tally]:
    """Return the words of the references that stand in no caption at all: in the references of how many images, of
    all images; most frequent first."""
    said = {word for text in captions.values() for word in scored_tokens(text, language)}
    images: defaultdict[str, int] = defaultdict(int)
    for image in captions:
        for word in _words_of(references[image], language) - said:
            images[word] += 1
    return _ranked(Tally(word, count, len(captions)) for word, count in images.items())


def _words_of(texts: Iterable[str], language: str) -> set[str]:
    return {word for text in texts for word in scored_tokens(text, language)}


def _ranked(tallies: Iterable[Tally]) -> list[Tally]:
    return sorted(tallies, key=lambda tally: (-tally.times, tally.of, tally.text))
