"""The tokens of a caption, by `captions.language`.

English (`en`) has the tokens of `captioner.captions.ptb`, as the published scores do. Every other language has these:
- a word is a run of letters, digits and combining marks;
- inside a word stay the apostrophe and the hyphen (`l'homme`, `Türkiye'nin`, `T-Shirt`), the middle dot of Catalan, the
  Hebrew geresh, gershayim and maqaf, a double quote between Hebrew letters, and `.`, `,`, `:`, `/` and the Arabic
  decimal and thousands signs between digits. A geresh also ends a Hebrew word. The typographic apostrophe becomes `'`,
  and the typographic hyphens become `-`. Inside a word U+2018, U+02BB and U+02BC, which Uzbek and Ukrainian texts have,
  U+00B4, U+2032, U+201B and the backquote become `'` too;
- letters and signs of one language that have two code points become one (`_SAME`): Hebrew geresh, gershayim and maqaf
  inside a word become `'`, `"` and `-`, Arabic kaf and yeh become those of Persian and Urdu, and a cedilla below a
  Romanian letter becomes a comma;
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
    inner_apostrophes,
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
_PERSIAN = str.maketrans("كيى", "کیی")
_SAME = {"fa": _PERSIAN, "ur": _PERSIAN, "ro": str.maketrans("ŞşŢţ", "ȘșȚț")}
_BACKQUOTE = re.compile(r"(?<=[^\W\d_])`(?=[^\W\d_])")
_HEBREW = "[\u05d0-\u05ea]"
_HEBREW_SIGN = re.compile(f"(?<={_HEBREW})[\u05f3\u05f4\u05be](?={_HEBREW})")
_HEBREW_SIGNS = {"\u05f3": "'", "\u05f4": '"', "\u05be": "-"}


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
    if language == ENGLISH:
        return text if text.isascii() else ptb.to_ascii(text)
    if not text.isascii():
        text = inner_apostrophes(normalise(text).translate(_PLAIN | _SAME.get(language, {})))
        text = _HEBREW_SIGN.sub(lambda match: _HEBREW_SIGNS[match[0]], text)
    return _BACKQUOTE.sub("'", text)


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
def _word_or_sign() -> re.Pattern[str]:
    letter = r"[^\W_]"
    part = rf"{letter}(?:{letter}|[{marks()}])*"
    inner = rf"(?:['\-{INNER}](?={letter})|(?<={_HEBREW})\"(?={_HEBREW})|(?<=\d)[.,:/\u066b\u066c\u2044](?=\d))"
    return re.compile(rf"<unk>|{part}(?:{inner}{part})*(?:(?<={_HEBREW})\u05f3)?|_|{symbols()}")
