"""Content words of captions: those that no reference has, and those that most references share.

"absent words" is the share of a caption's content words that no reference of its image has. It is CHAIR (Rohrbach et
al. 2018, "Object hallucination in image captioning") with the references' words in place of annotated objects.
"agreed words" is the share that a caption has of the content words of more than half of its image's references (three
of five). Words are compared by lemma and count once a caption. Of several images both are ratios of sums. A synonym
that no reference has counts as absent, so the figures compare models and do not count errors.

english.csv has columns word, lemma. It holds the words whose lemma is another word, and the function words, whose lemma
is empty. dev/english_words.py derives it. Only English has the measures.
"""

import csv
from collections import Counter
from collections.abc import Iterable, Mapping
from functools import cache
from pathlib import Path

import numpy as np

from captioner.captions.text import ENGLISH
from captioner.scoring.bootstrap import Resampled, ratio

ABSENT, AGREED = "absent words", "agreed words"
TABLE = Path(__file__).with_name("english.csv")


@cache
def _lemmas() -> dict[str, str]:
    with open(TABLE, encoding="utf-8", newline="") as file:
        return {row["word"]: row["lemma"] for row in csv.DictReader(file)}


def content_words(tokens: Iterable[str]) -> set[str]:
    """Return the lemmas of the content words among lower-case English tokens.

    A word that is not in the table is its own lemma.
    """
    lemmas = _lemmas()
    return {lemma for token in tokens if (lemma := lemmas.get(token, token))}


def count_words(references: Mapping[str, list[str]], hypotheses: Mapping[str, str]) -> np.ndarray:
    """Return counts of content words: int64 [N, 4], an image of `references` a row.

    The columns are the caption's words that no reference has, the caption's words, the words on which more than half
    of the references agree and that the caption has, and the words on which they agree. Captions and references are
    tokens joined by spaces.
    """
    rows = []
    for image, texts in references.items():
        words = content_words(hypotheses[image].split())
        times = Counter(word for text in texts for word in content_words(text.split()))
        agreed = {word for word, count in times.items() if 2 * count > len(texts)}
        rows.append([len(words - times.keys()), len(words), len(words & agreed), len(agreed)])
    return np.array(rows, dtype=np.int64).reshape(len(rows), 4)


def word_scores(
    references: Mapping[str, list[str]], hypotheses: Mapping[str, str], language: str = ENGLISH
) -> dict[str, Resampled]:
    """Return both measures, of captions as in `count_words`; none for another language than English.

    A measure is missing where there is no word of which it would be a share.
    """
    if language != ENGLISH:
        return {}
    counts = count_words(references, hypotheses)
    pairs = {ABSENT: (counts[:, 0], counts[:, 1]), AGREED: (counts[:, 2], counts[:, 3])}
    return {name: ratio(parts, wholes) for name, (parts, wholes) in pairs.items() if wholes.sum() > 0}
