"""The reward of self-critical training: CIDEr of drawn captions, as token ids, against the references of their image.

The document frequencies are those of the training images. The end of a caption counts as a word, or captions would
learn to end in the middle of a phrase. References are the raw captions, so they have words that the vocabulary lacks.
"""

from array import array
from collections.abc import Mapping, Sequence

import numpy as np

from captioner.base.errors import CaptionerError
from captioner.captions.tokens import scored_tokens
from captioner.captions.vocabulary import EOS, SPECIAL, UNK, Vocabulary
from captioner.scoring.cider import References
from captioner.scoring.scores import words_of_references


class Reward:
    """CIDEr, 0 to 10, of captions as token ids.

    `references` maps each training image to its raw captions. If `ended`, the end of a caption is a word. A token
    counts as the scored tokens of its word (`captioner.captions.tokens`): most words are one. Words are tokenised one
    by one, so `no.`, `fig.` and `pp.` lose their stop before a number too. Raises CaptionerError as
    `captioner.scoring.scores.Cider` does.
    """

    def __init__(self, references: Mapping[str, list[str]], vocabulary: Vocabulary, *, ended: bool = True):
        if not references:
            raise CaptionerError("no references: expected at least one training image with captions")
        language = vocabulary.language
        ids: dict[str, int] = {}  # of PTB tokens, from 1 on; 0 is the end of a caption
        of_token: list[list[int]] = [[] for _ in SPECIAL]
        of_token[EOS] = [0] * ended
        for word in vocabulary.words:
            of_token.append([ids.setdefault(part, len(ids) + 1) for part in scored_tokens(word, language)])
        of_token[UNK] = [ids.setdefault(SPECIAL[UNK], len(ids) + 1)]
        self._scored = np.array([id for parts in of_token for id in parts], np.int64)
        self._size = np.array([len(parts) for parts in of_token])  # [V]
        self._start = np.cumsum(self._size) - self._size

        words, lengths, captions = array("i"), array("i"), array("i")
        for image, texts in references.items():
            counted = words_of_references({image: texts}, language)[
                image
            ]  # one image at a time: all of them take much memory
            captions.append(len(counted))
            for text in counted:
                parts = [ids.setdefault(part, len(ids) + 1) for part in text.split()] + [0] * ended
                words.extend(parts)
                lengths.append(len(parts))
        self._places = {image: place for place, image in enumerate(references)}
        self._references = References(*(np.frombuffer(part, np.intc) for part in (words, lengths, captions)))

    def __call__(self, images: Sequence[str], tokens: np.ndarray) -> np.ndarray:
        """Return the CIDEr [B, K] float64 of captions, tokens [B, K, T] int, of `images`, B names.

        A caption ends before its `<pad>`. A caption without `<eos>` was cut, so its end does not count.
        """
        sizes = self._size[tokens]  # [B, K, T]
        each = sizes.ravel()
        at = np.repeat(self._start[tokens].ravel() - np.cumsum(each) + each, each)
        words = self._scored[at + np.arange(len(at))]
        places = np.array([[self._places[image]] for image in images])
        return self._references.score(words, sizes.sum(-1), places, np.ones(places.shape))
