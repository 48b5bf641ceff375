"""The tokens of a caption, by `captions.language`.

English (`en`) has the tokens of `captioner.captions.ptb`, as the published scores do. Every other language has these:
- a word is a run of letters, digits and combining marks;
- inside a word stay the apostrophe and the hyphen (`l'homme`, `Türkiye'nin`, `T-Shirt`), the middle dot of Catalan, the
  Hebrew geresh, gershayim and maqaf, a double quote between Hebrew letters, and `.`, `,`, `:`, `/` and the Arabic
  decimal and thousands signs between digits. A geresh also ends a Hebrew word. The typographic apostrophe becomes `'`,
  and the typographic hyphens become `-`. Inside a word U+2018, U+02BB and U+02BC become `'` too, which Uzbek and
  Ukrainian texts have;
- Armenian accents (`՛`, `՜`, `՞`), which stand on a letter inside a word, are removed;
- Han, Hiragana and Katakana are tokens by character (`captioner.captions.text`);
- every other sign is punctuation or a symbol; an emoji with its modifiers is one. It separates words. Scores drop it,
  and training does so unless `captions.punctuation` is true.

Training (`learnt_tokens`), the reward of self-critical training and the scores (`scored_tokens`) take tokens from the
same function, `separate`.
"""

import re
from functools import cache

from captioner.base.errors import CaptionerError
from captioner.captions import ptb
from captioner.captions.text import (
    ENGLISH,
    INNER,
    LONGEST_RUN,
    lower,
    marks,
    normalise,
    split_unspaced,
    symbols,
    unsegmented,
)

_PLAIN = str.maketrans(
    {"’": "'", "＇": "'", "՚": "'", "‐": "-", "‑": "-", "՛": None, "՜": None, "՞": None}  # noqa: RUF001
)


def caption_text(text: str, place: str) -> str:
    """Return a caption as all other code expects it (`captioner.captions.text.normalise`).

    Every reader of caption files calls this once for each caption. `place` says where the caption stands, by file and
    line or key. Raises CaptionerError for a run of more than `LONGEST_RUN` letters without a space in Thai, Lao, Khmer
    or Burmese, whose words only a dictionary can find.
    """
    text = normalise(text)
    run = unsegmented(text)
    if run:
        raise CaptionerError(
            f"{place}: {run[:LONGEST_RUN]!r} ... has more than {LONGEST_RUN} letters without a space; expected spaces "
            "(or zero-width spaces) between the words of Thai, Lao, Khmer or Burmese. Segment the captions first, for "
            "example with PyThaiNLP, LaoNLP, khmer-nltk or pyidaungsu"
        )
    return text


def separate(text: str, language: str = ENGLISH) -> list[str]:
    """Return the tokens of `text` in their own case, with punctuation."""
    if language == ENGLISH:
        return ptb.separate(text)
    text = plain_text(text, language)
    return _word_or_sign().findall(text if text.isascii() else split_unspaced(text))


def plain_text(text: str, language: str = ENGLISH) -> str:
    """Return `text` as `separate` reads it: normalised, with the signs replaced that have an equal in ASCII."""
    if text.isascii():
        return text
    if language == ENGLISH:
        return ptb.to_ascii(text)
    return _inner_apostrophe().sub("'", normalise(text).translate(_PLAIN))


def scored_tokens(text: str, language: str = ENGLISH) -> list[str]:
    """Return the tokens that scores and rewards compare: lower-cased, without punctuation.

    No token contains white space. The tokens of the tokens are the same, whether `" ".join` or
    `captioner.captions.text.join_tokens` made a text of them. `<unk>` is one token.
    """
    if language == ENGLISH:
        return ptb.ptb_tokens(text)
    return learnt_tokens(separate(text, language), language=language, lowercase=True, punctuation=False)


def learnt_tokens(tokens: list[str], *, language: str, lowercase: bool, punctuation: bool) -> list[str]:
    """Return the tokens that the decoder learns, of what `separate` returned.

    Without `punctuation`, tokens that hold no letter or digit are dropped.
    """
    return [
        lower(token, language) if lowercase else token
        for token in tokens
        if punctuation or token.isalnum() or any(map(str.isalnum, token))
    ]


@cache
def _inner_apostrophe() -> re.Pattern[str]:
    return re.compile(rf"(?<=[\w{marks()}])[\u2018\u02bb\u02bc](?=\w)")


@cache
def _word_or_sign() -> re.Pattern[str]:
    letter, hebrew = r"[^\W_]", "[\u05d0-\u05ea]"
    part = rf"{letter}(?:{letter}|[{marks()}])*"
    inner = rf"(?:['\-{INNER}](?={letter})|(?<={hebrew})\"(?={hebrew})|(?<=\d)[.,:/\u066b\u066c\u2044](?=\d))"
    return re.compile(rf"<unk>|{part}(?:{inner}{part})*(?:(?<={hebrew})\u05f3)?|_|{symbols()}")
