"""The words a decoder knows.

`data/vocabulary.json`: {"language": str, "max_length": int, "words": [str, ...]}, the words by falling count, ties in
alphabetical order. A word's id is its place in the list plus four, after the special tokens. `language` is
`captions.language`; files without it are English.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from captioner.captions.text import ENGLISH
from captioner.captions.tokens import join_tokens, separate

SPECIAL = ("<pad>", "<bos>", "<eos>", "<unk>")
PAD, BOS, EOS, UNK = range(4)


@dataclass(frozen=True)
class Vocabulary:
    """Word ids. `max_length` is the largest number of words of a caption, in training and generation. `language`
    decides how captions are scored (`captioner.captions.tokens`)."""

    words: tuple[str, ...]
    max_length: int
    language: str = ENGLISH

    @classmethod
    def from_counts(
        cls, counts: dict[str, int], *, min_count: int, max_length: int, language: str = ENGLISH
    ) -> "Vocabulary":
        """Return the vocabulary of the words that occur at least `min_count` times in the training captions."""
        ranked = sorted((-count, word) for word, count in counts.items() if count >= min_count and word not in SPECIAL)
        return cls(words=tuple(word for _, word in ranked), max_length=max_length, language=language)

    @classmethod
    def from_dict(cls, value: dict[str, Any]) -> "Vocabulary":
        """Return the vocabulary from the result of `as_dict`."""
        return cls(tuple(value["words"]), value["max_length"], value.get("language", ENGLISH))

    def as_dict(self) -> dict[str, Any]:
        """Return the content of data/vocabulary.json, which a model file also has."""
        return {"language": self.language, "max_length": self.max_length, "words": list(self.words)}

    @cached_property
    def _ids(self) -> dict[str, int]:
        return {word: id for id, word in enumerate(self.words, len(SPECIAL))}

    def __len__(self) -> int:
        return len(SPECIAL) + len(self.words)

    def __contains__(self, word: str) -> bool:
        return word in self._ids

    def encode(self, words: list[str]) -> list[int]:
        """Return the ids of `<bos> word ... <eos>`. A cut caption gets no `<eos>`, so that the decoder does not learn
        to end there."""
        ids = [self._ids.get(word, UNK) for word in words[: self.max_length]]
        return [BOS, *ids] + [EOS] * (len(words) <= self.max_length)

    def decode(self, ids: Iterable[int]) -> str:
        """Return the words up to the first `<eos>`, as `captioner.captions.tokens.join_tokens` joins them; `<bos>` and
        `<pad>` are left out."""
        words = []
        for id in ids:
            if id == EOS:
                break
            if id not in (PAD, BOS):
                words.append(self.words[id - len(SPECIAL)] if id >= len(SPECIAL) else SPECIAL[id])
        return join_tokens(words, self.language)

    def split(self, text: str) -> list[str]:
        """Return the words that `decode` joined."""
        words = text.split()
        return words if all(word in self for word in words) else separate(text, self.language)
