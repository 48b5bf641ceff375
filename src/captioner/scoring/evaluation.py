"""All scores of captions, and the sums for their bootstrap intervals.

The scores are those of `captioner.scoring.scores`, METEOR (`captioner.scoring.meteor`) and the word scores
(`captioner.scoring.words`). All are of the corpus, as fractions of 1; CIDEr reaches 10.
"""

import logging
from collections.abc import Mapping
from typing import NamedTuple

from captioner.captions.text import ENGLISH
from captioner.scoring import bootstrap
from captioner.scoring.meteor import MeteorUnavailable, meteor
from captioner.scoring.scores import score_images
from captioner.scoring.words import word_scores

_log = logging.getLogger(__name__)


class Evaluation(NamedTuple):
    """The scores of captions; the images are in the order of the references."""

    corpus: dict[str, float]  # BLEU-1, BLEU-2, BLEU-3, BLEU-4, ROUGE-L, CIDEr and METEOR, in this order
    words: dict[str, float]  # "absent words" and "agreed words"
    each: dict[str, dict[str, float]]  # by score, ROUGE-L, CIDEr and METEOR, that of each image
    resampled: dict[str, bootstrap.Resampled]  # each score of `corpus` and `words`, for draws of the images


def score_all(
    references: Mapping[str, list[str]],
    hypotheses: Mapping[str, str],
    *,
    use_meteor: bool = True,
    language: str = ENGLISH,
) -> Evaluation:
    """Return all scores of captions.

    `references` maps an image to its raw captions, `hypotheses` the same images to one caption each. METEOR is missing
    without `use_meteor`. It is also missing, with a message that says why, for another language than English (its
    stems, synonyms and weights are English) and where Java does not work. The word scores are for English only. Raises
    CaptionerError as `captioner.scoring.scores.Cider` does.
    """
    scored = score_images(references, hypotheses, language)
    corpus, each = dict(scored.corpus), dict(scored.each)
    resampled = bootstrap.bleu(list(scored.references.values()), list(scored.captions.values()))
    resampled |= {name: bootstrap.mean(list(values.values())) for name, values in each.items()}
    if use_meteor and language != ENGLISH:
        _log.info("METEOR is left out: it is for English, and captions.language is %s.", language)
    elif use_meteor:
        try:
            corpus["METEOR"], each["METEOR"], resampled["METEOR"] = meteor(scored.references, scored.captions)
        except MeteorUnavailable as cause:
            _log.warning("METEOR is left out: %s.", cause)
    words = word_scores(scored.references, scored.captions, language)
    return Evaluation(corpus, {name: share.score() for name, share in words.items()}, each, resampled | words)
