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

`join_tokens` makes a text for people of tokens. It leaves out spaces only where `separate` gives the same tokens.

Training (`learnt_tokens`), the reward of self-critical training and the scores (`scored_tokens`) take tokens from the
same function, `separate`. An exported captioner has a copy of this module.
"""

import itertools
import re
import unicodedata
from collections.abc import Iterable
from functools import cache, lru_cache

from captioner.base.errors import CaptionerError
from captioner.captions.ptb import ptb_separate, ptb_tokens, to_ascii
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
    unspaced,
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
_ENDINGS = frozenset({"'s", "n't", "'re", "'ll", "'ve", "'m", "'d"})
_WITHOUT_SPACES = ("ja", "yue", "zh")
_CLOSING = frozenset(".,;:!?…،؛؟۔।॥։။၊។៕።፣፤፥፧，。、！？：；")  # noqa: RUF001
_QUOTES = "‚„"  # noqa: RUF001  # their closing signs open in other languages, so both keep their spaces
_LETTER_OF_PHRASE = (
    "[\u0e01-\u0e3a\u0e40-\u0e4e\u0e81-\u0ece\u0edc-\u0edf\u1000-\u103f\u1050-\u108f\u109a-\u109d\u1780-\u17d3\u17d7"
    "\u17dc\u17dd\ua9e0-\ua9ef\ua9fa-\ua9fe\uaa60-\uaa76\uaa7a-\uaa7f]"
)
_IN_PHRASE = re.compile(f".*{_LETTER_OF_PHRASE} {_LETTER_OF_PHRASE}.*")  # two words of Thai, Lao, Khmer or Burmese


SEGMENT = "Segment the captions first, for example with PyThaiNLP, LaoNLP, khmer-nltk or pyidaungsu"


class UnsegmentedError(CaptionerError):
    """A caption that needs spaces between its words first."""


def caption_text(text: str, place: str) -> str:
    """Return a caption as all other code expects it (`captioner.captions.text.normalise`).

    Every reader of caption files calls this once for each caption. `place` says where the caption stands, by file and
    line or key. Raises UnsegmentedError for a run of more than `LONGEST_RUN` letters without a space in Thai, Lao,
    Khmer or Burmese, whose words only a dictionary can find.
    """
    text = normalise(text)
    run = unsegmented(text)
    if run:
        raise UnsegmentedError(
            f"{place}: {run[:LONGEST_RUN]!r} ... has more than {LONGEST_RUN} letters without a space; expected spaces "
            f"(or zero-width spaces) between the words of Thai, Lao, Khmer or Burmese. {SEGMENT}"
        )
    return text


def separate(text: str, language: str = ENGLISH) -> list[str]:
    """Return the tokens of `text` in their own case, with punctuation."""
    if language == ENGLISH:
        return ptb_separate(text)
    text = plain_text(text, language)
    return _word_or_sign().findall(text if text.isascii() else split_unspaced(text))


def plain_text(text: str, language: str = ENGLISH) -> str:
    """Return `text` as `separate` reads it: normalised, with the signs replaced that have an equal in ASCII."""
    if language == ENGLISH:
        return text if text.isascii() else to_ascii(text)
    if not text.isascii():
        text = inner_apostrophes(normalise(text).translate(_PLAIN).translate(_SAME.get(language, {})))
        text = _HEBREW_SIGN.sub(lambda match: _HEBREW_SIGNS[match[0]], text)
    return _BACKQUOTE.sub("'", text)


def join_tokens(tokens: Iterable[str], language: str = ENGLISH) -> str:
    """Return the tokens as a text for people.

    No space is
    - between Han, Hiragana and Katakana, and in Chinese and Japanese beside their signs, ASCII letters and digits;
    - before a closing sign and after an opening bracket, `¿` and `¡`;
    - before `'s`, `n't` and their like in English.
    A zero-width space is between words of Thai, Lao, Khmer and Burmese. If `separate` gave other tokens of this text,
    spaces are between all tokens.
    """
    tokens = list(tokens)
    spaced = " ".join(tokens)
    gaps = [_gap(before, after, language) for before, after in itertools.pairwise(tokens)]
    text = "".join(itertools.chain.from_iterable(zip(tokens, [*gaps, ""], strict=False)))
    return text if text == spaced or separate(text, language) == tokens else spaced


@lru_cache(maxsize=1 << 14)
def _gap(before: str, after: str, language: str) -> str:
    """Return what stands between two tokens in a text for people."""
    if _IN_PHRASE.fullmatch(f"{before} {after}"):
        gap = "\u200b"
    elif _is_tight(before, after, language):
        gap = ""
    else:
        return " "
    return gap if separate(before + gap + after, language) == [before, after] else " "


def _is_tight(before: str, after: str, language: str) -> bool:
    """Return whether people write no space between two tokens."""
    if language == ENGLISH and after.lower() in _ENDINGS:
        return before[-1].isalnum()
    if _CLOSING.issuperset(after):
        return not (language == "fr" and after[0] in ";:!?")
    if unicodedata.category(after[0]) == "Pe" or before in ("¿", "¡"):
        return True
    if unicodedata.category(before[0]) == "Ps" and before not in _QUOTES:
        return True
    east_asian = [_is_east_asian(token, language) for token in (before, after)]
    if language in _WITHOUT_SPACES and any(east_asian):
        beside = (before[-1], after[0])
        return all(is_so or (char.isascii() and char.isalnum()) for is_so, char in zip(east_asian, beside, strict=True))
    return all(east_asian)


def _is_east_asian(token: str, language: str) -> bool:
    """Return whether a token is a Han, Hiragana or Katakana character, or a sign of a Chinese or Japanese text."""
    if unspaced().fullmatch(token):
        return True
    return language in _WITHOUT_SPACES and not token.isascii() and not any(map(str.isalnum, token))


def scored_tokens(text: str, language: str = ENGLISH) -> list[str]:
    """Return the tokens that scores and rewards compare: lower-cased, without punctuation.

    No token contains white space. The tokens of the tokens are the same, whether `" ".join` or `join_tokens` made a
    text of them. `<unk>` is one token.
    """
    if language == ENGLISH:
        return ptb_tokens(text)
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
