"""Caption scores: the published metrics by pycocoevalcap 1.2, and the diversity of captions.

Captions become tokens first, by `captioner.captions.tokens.scored_tokens` and the `language` of the captions. All
corpus scores are fractions of 1 (tables print them times 100): BLEU-1 to BLEU-4 (Papineni et al. 2002, closest
reference length, over the corpus), ROUGE-L (Lin 2004, beta 1.2) and CIDEr (Vedantam et al. 2015; the variant with
clipping and a length penalty, without stemming), which reaches 10. METEOR, word scores and intervals are in
`captioner.scoring.evaluation`. Training imports only this module, so a change of `evaluation` does not rerun it.

CIDEr's document frequencies come from the references that are scored. So its values for different sets of images are
not comparable, and for one image alone it is 0.

An image counts once. An empty hypothesis scores 0. A reference without words is left out. `<unk>` in a
hypothesis is a word that matches nothing; in a reference it is an error, or it would match itself.
"""

from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from typing import Literal, NamedTuple

from pycocoevalcap.bleu.bleu import Bleu
from pycocoevalcap.cider.cider_scorer import CiderScorer, cook_refs, cook_test
from pycocoevalcap.rouge.rouge import Rouge

from captioner.base.errors import CaptionerError
from captioner.captions.text import ENGLISH
from captioner.captions.tokens import scored_tokens

UNKNOWN = "<unk>"
_NAMES_SHOWN = 3


class Cider:
    """CIDEr against fixed references, which are tokenised and counted once.

    Raises CaptionerError for references that cannot be scored against: none, none with words for some
    image, or one with `<unk>`.
    """

    def __init__(self, references: Mapping[str, list[str]], language: str = ENGLISH) -> None:
        self.references = words_of_references(references, language)
        self._language = language
        self._scorer = CiderScorer()
        self._scorer.crefs = [cook_refs(words) for words in self.references.values()]
        # A Counter, unlike the scorer's defaultdict, does not grow by every n-gram that is looked up.
        self._scorer.document_frequency = Counter(
            ngram for cooked in self._scorer.crefs for ngram in set().union(*cooked)
        )

    def score(self, hypotheses: Mapping[str, str]) -> tuple[float, dict[str, float]]:
        """Return the mean over images and each image's CIDEr, from 0 to 10.

        Raises CaptionerError unless the hypotheses are for the same images as the references.
        """
        _require_same_images(self.references, hypotheses)
        # compute_score() would count the references' document frequencies again at each call.
        self._scorer.ctest = [cook_test(joined_tokens(hypotheses[image], self._language)) for image in self.references]
        each = [float(value) for value in self._scorer.compute_cider()]
        return sum(each) / len(each), dict(zip(self.references, each, strict=True))


def cider(references: Mapping[str, list[str]], hypotheses: Mapping[str, str], language: str = ENGLISH) -> float:
    """Return the corpus CIDEr. For repeated calls with the same references use `Cider`."""
    return Cider(references, language).score(hypotheses)[0]


class Scores(NamedTuple):
    """Scores of captions, with the tokens that they were computed from; the images are in the references' order."""

    corpus: dict[str, float]  # BLEU-1, BLEU-2, BLEU-3, BLEU-4, ROUGE-L, CIDEr
    each: dict[str, dict[str, float]]  # by score, ROUGE-L and CIDEr, that of each image
    references: dict[str, list[str]]  # of each image, tokens joined by spaces; those without words are left out
    captions: dict[str, str]  # of each image, tokens joined by spaces


def score(
    references: Mapping[str, list[str]],
    hypotheses: Mapping[str, str],
    *,
    meteor: Literal[False] = False,
    language: str = ENGLISH,
) -> tuple[dict[str, float], dict[str, float]]:
    """Return the corpus scores of `score_images`, and each image's CIDEr.

    METEOR, which needs Java, comes from `captioner.scoring.evaluation` alone; `meteor` can only be False.
    """
    scores = score_images(references, hypotheses, language)
    return scores.corpus, scores.each["CIDEr"]


def score_images(references: Mapping[str, list[str]], hypotheses: Mapping[str, str], language: str = ENGLISH) -> Scores:
    """Return the scores that need no Java.

    `references` maps an image to its raw captions, `hypotheses` the same images to one caption each. Raises
    CaptionerError as `Cider` does.
    """
    scorer = Cider(references, language)
    mean, cider_of = scorer.score(hypotheses)
    truth = scorer.references
    captions = {image: joined_tokens(hypotheses[image], language) for image in truth}
    listed = {image: [caption] for image, caption in captions.items()}
    bleu, _ = Bleu(4).compute_score(truth, listed, verbose=0)
    rouge, rouge_of = Rouge().compute_score(truth, listed)
    corpus = {f"BLEU-{n}": float(value) for n, value in enumerate(bleu, start=1)}
    corpus |= {"ROUGE-L": float(rouge), "CIDEr": mean}
    each = {"ROUGE-L": dict(zip(truth, map(float, rouge_of), strict=True)), "CIDEr": cider_of}
    return Scores(corpus, each, truth, captions)


def known_captions(training: Iterable[str | list[str]], language: str = ENGLISH) -> frozenset[str]:
    """Return training captions, texts or lists of tokens, as `diversity` compares them."""
    return frozenset(joined_tokens(item if isinstance(item, str) else " ".join(item), language) for item in training)


def diversity(hypotheses: Mapping[str, str], known: Collection[str], language: str = ENGLISH) -> dict[str, float]:
    """Return the diversity of captions, which are compared as tokens.

    `distinct captions` and `copied from training` (found word for word in `known`, the result of `known_captions`) are
    shares of the hypotheses, `vocabulary` is the number of different words used, `mean length` is in tokens. Raises
    CaptionerError if there are no hypotheses.
    """
    if not hypotheses:
        raise CaptionerError("no captions to describe: expected at least one hypothesis")
    captions = [joined_tokens(text, language) for text in hypotheses.values()]
    words = [word for caption in captions for word in caption.split()]
    return {
        "distinct captions": len(set(captions)) / len(captions),
        "vocabulary": len(set(words)),
        "mean length": len(words) / len(captions),
        "copied from training": sum(caption in known for caption in captions) / len(captions),
    }


def joined_tokens(text: str, language: str = ENGLISH) -> str:
    """Return the tokens of a caption that scores compare, joined by spaces."""
    return " ".join(scored_tokens(text, language))


def words_of_references(references: Mapping[str, list[str]], language: str = ENGLISH) -> dict[str, list[str]]:
    """Return each image's references as tokens joined by spaces; raises CaptionerError as `Cider` does."""
    if not references:
        raise CaptionerError("no references: expected at least one image with captions")
    joined = {}
    for image, texts in references.items():
        joined[image] = [words for words in (joined_tokens(text, language) for text in texts) if words]
        if not joined[image]:
            raise CaptionerError(f"{image}: no reference caption with a word in it; leave the image out")
        if any(UNKNOWN in words.split() for words in joined[image]):
            raise CaptionerError(f"{image}: {UNKNOWN} in a reference; give the raw captions, not decoded ids")
    return joined


def _require_same_images(references: Mapping[str, object], hypotheses: Mapping[str, object]) -> None:
    parts = []
    for what, names in (
        ("without a hypothesis", references.keys() - hypotheses.keys()),
        ("without references", hypotheses.keys() - references.keys()),
    ):
        if names:
            shown = ", ".join(sorted(names)[:_NAMES_SHOWN]) + (", ..." if len(names) > _NAMES_SHOWN else "")
            parts.append(f"{len(names)} {what} ({shown})")
    if parts:
        raise CaptionerError(f"references and hypotheses are for different images: {'; '.join(parts)}")
