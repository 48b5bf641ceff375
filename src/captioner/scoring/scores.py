"""Caption scores: the published metrics, as pycocoevalcap 1.2 computes them, and how varied captions are.

Captions become tokens first, by `captioner.captions.tokens.scored_tokens` and the `language` of the captions. All
corpus scores are fractions of 1 (tables print them times 100): BLEU-1 to BLEU-4 (Papineni et al. 2002, closest
reference length, over the corpus), ROUGE-L (Lin 2004, beta 1.2), METEOR 1.5 (Denkowski and Lavie 2014, a Java
program) and CIDEr (Vedantam et al. 2015; the variant with clipping and a length penalty, without stemming), which
reaches 10. CIDEr's document frequencies come from the references that are scored, so that its values for different
sets of images are not comparable, and for one image alone it is 0.

An image counts once. An empty hypothesis scores 0. A reference without words is left out. `<unk>` in a
hypothesis is a word that matches nothing; in a reference it is an error, or it would match itself.
"""

import logging
import shutil
import subprocess
import threading
from collections import Counter
from collections.abc import Iterable, Mapping
from contextlib import suppress

from pycocoevalcap.bleu.bleu import Bleu
from pycocoevalcap.cider.cider_scorer import CiderScorer, cook_refs, cook_test
from pycocoevalcap.meteor.meteor import Meteor
from pycocoevalcap.rouge.rouge import Rouge

from captioner.base.errors import CaptionerError
from captioner.captions.text import ENGLISH
from captioner.captions.tokens import scored_tokens

UNKNOWN = "<unk>"
JAVA_SECONDS = 30  # a Java that has not told its version by then is broken
_NAMES_SHOWN = 3
_TOLD_CHARACTERS = 300

_log = logging.getLogger(__name__)


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
        # compute_score() would add the references' document frequencies anew at each call.
        self._scorer.ctest = [cook_test(_words(hypotheses[image], self._language)) for image in self.references]
        each = [float(value) for value in self._scorer.compute_cider()]
        return sum(each) / len(each), dict(zip(self.references, each, strict=True))


def cider(references: Mapping[str, list[str]], hypotheses: Mapping[str, str], language: str = ENGLISH) -> float:
    """Return the corpus CIDEr; with the same references again and again use `Cider`."""
    return Cider(references, language).score(hypotheses)[0]


def score(
    references: Mapping[str, list[str]],
    hypotheses: Mapping[str, str],
    *,
    meteor: bool = True,
    language: str = ENGLISH,
) -> tuple[dict[str, float], dict[str, float]]:
    """Return the corpus scores and each image's CIDEr.

    `references` maps an image to its raw captions, `hypotheses` the same images to one caption each. The
    first result's keys are BLEU-1, BLEU-2, BLEU-3, BLEU-4, ROUGE-L, CIDEr and METEOR; METEOR is missing if
    not asked for, or, with a message that says why, for another language than English (its stems, synonyms and weights
    are English) or if there is no working Java. Raises CaptionerError as
    `Cider` does.
    """
    scorer = Cider(references, language)
    mean, each = scorer.score(hypotheses)
    truth = scorer.references
    told = {image: [_words(hypotheses[image], language)] for image in truth}
    bleu, _ = Bleu(4).compute_score(truth, told, verbose=0)
    rouge, _ = Rouge().compute_score(truth, told)
    scores = {f"BLEU-{n}": float(value) for n, value in enumerate(bleu, start=1)}
    scores |= {"ROUGE-L": float(rouge), "CIDEr": mean}
    if meteor and language != ENGLISH:
        _log.info("METEOR is left out: it is for English, and captions.language is %s.", language)
    elif meteor:
        value = _meteor(truth, told)
        if value is not None:
            scores["METEOR"] = value
    return scores, each


def diversity(
    hypotheses: Mapping[str, str], training: Iterable[str | list[str]], language: str = ENGLISH
) -> dict[str, float]:
    """Return how varied the captions are, all compared as tokens.

    `distinct captions` and `copied from training` (found word for word among the `training` captions, texts
    or token lists) are shares of the hypotheses, `vocabulary` is the number of different words used, `mean
    length` is in tokens. Raises CaptionerError if there are no hypotheses.
    """
    if not hypotheses:
        raise CaptionerError("no captions to describe: expected at least one hypothesis")
    captions = [_words(text, language) for text in hypotheses.values()]
    known = {_words(item if isinstance(item, str) else " ".join(item), language) for item in training}
    words = [word for caption in captions for word in caption.split()]
    return {
        "distinct captions": len(set(captions)) / len(captions),
        "vocabulary": len(set(words)),
        "mean length": len(words) / len(captions),
        "copied from training": sum(caption in known for caption in captions) / len(captions),
    }


def _words(text: str, language: str) -> str:
    return " ".join(scored_tokens(text, language))


def words_of_references(references: Mapping[str, list[str]], language: str = ENGLISH) -> dict[str, list[str]]:
    """Return each image's references as tokens joined by spaces; raises CaptionerError as `Cider` does."""
    if not references:
        raise CaptionerError("no references: expected at least one image with captions")
    found = {}
    for image, texts in references.items():
        found[image] = [words for words in (_words(text, language) for text in texts) if words]
        if not found[image]:
            raise CaptionerError(f"{image}: no reference caption with a word in it; leave the image out")
        if any(UNKNOWN in words.split() for words in found[image]):
            raise CaptionerError(f"{image}: {UNKNOWN} in a reference; give the raw captions, not decoded ids")
    return found


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


def _java_fault() -> str | None:
    """Say why Java cannot be used, or return None. macOS has a `java` that only says it is not there."""
    if shutil.which("java") is None:
        return "no java on the PATH"
    try:
        done = subprocess.run(["java", "-version"], capture_output=True, timeout=JAVA_SECONDS, text=True)
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"java does not start: {error}"
    if done.returncode != 0:
        return f"java -version ended with {done.returncode}: {done.stderr.strip() or 'no message'}"
    return None


def _meteor(references: dict[str, list[str]], hypotheses: dict[str, list[str]]) -> float | None:
    fault = _java_fault()
    if fault is None:
        scorer = Meteor()
        try:
            value, _ = scorer.compute_score(references, hypotheses)
            return float(value)
        except (OSError, ValueError) as error:
            scorer.meteor_p.kill()
            told = scorer.meteor_p.stderr.read().decode(errors="replace").strip()
            fault = f"the METEOR process failed: {told[:_TOLD_CHARACTERS] or 'no message'} ({error})"
        finally:
            _end(scorer)
    _log.warning("METEOR is left out: %s. Install a Java runtime to have it.", fault)
    return None


def _end(scorer: Meteor) -> None:
    scorer.lock = threading.Lock()  # still held after an exception, where __del__ would wait for ever
    scorer.meteor_p.kill()
    for pipe in (scorer.meteor_p.stdin, scorer.meteor_p.stdout, scorer.meteor_p.stderr):
        with suppress(OSError):
            pipe.close()
    scorer.meteor_p.wait()
