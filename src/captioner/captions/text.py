"""Caption text in any script: one form for equal texts, lower case.

This module knows characters, not languages or files. It imports the standard library only, because an exported
captioner has a copy of it.

`normalise` gives the form that all other code expects: NFC, no invisible characters, single spaces. Equal texts that
Unicode spells in several ways become one:
- fullwidth Latin letters and digits, as in `Ｔシャツ`, and fullwidth signs between these become those of ASCII;
- ligatures (`ﬁ`) and the presentation forms of Arabic letters become the letters;
- the older sequences of Malayalam chillus and Bengali khanda ta become these letters.
It removes
- soft hyphens, byte order marks, bidi controls, word joiners, fillers, variation selectors of letters, and the Arabic
  tatweel, which only widens a word;
- zero-width joiners and non-joiners, except where a script needs them (Arabic and Persian, Syriac, the Indic scripts,
  Sinhala, Burmese, Khmer, Mongolian) or where they hold an emoji together.
A zero-width space separates words, so it becomes a space. Diacritics stay: Arabic harakat and Hebrew niqqud are part of
their word, and a word with them is another word than the same one without.

Han, Hiragana and Katakana have no spaces between words. There each character is a token, as in BERT's basic tokeniser
(Devlin et al. 2019), with the marks that follow it. Iteration marks, prolonged sound marks and halfwidth katakana are
such characters; halfwidth voiced sound marks are marks.
"""

import re
import string
import unicodedata
from collections import Counter
from collections.abc import Iterable
from functools import cache

ENGLISH = "en"  # the default of captions.language
_DOTLESS = ("az", "crh", "gag", "tr")  # I is paired with ı, and İ with i  # noqa: RUF003
LONGEST_RUN = 30  # letters without a space, in scripts that need a dictionary to find words

ZWNJ, ZWJ = "\u200c", "\u200d"
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]+")
_INVISIBLE = re.compile(
    "[\u00ad\u034f\u061c\u0640\u070f\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b-\u200f\u202a-\u202e\u2060-\u206f\u2800"
    "\u3164\ufe00-\ufe0f\ufeff\uffa0\ufff0-\ufffb\U0001bca0-\U0001bca3\U0001d173-\U0001d17a\U000e0000-\U000e0fff]"
)
_FORMS = {ord(char) + 0xFEE0: char for char in string.ascii_letters + string.digits} | {
    # an isolated mark has a space before it in NFKC
    code: unicodedata.normalize("NFKC", chr(code)).strip(" ")
    for code in (*range(0xFB00, 0xFB18), *range(0xFB50, 0xFDFC), *range(0xFE70, 0xFEFD))
}
_SEQUENCES = {f"{letter}\u0d4d{ZWJ}": chillu for letter, chillu in zip("ണനരലളക", "ൺൻർൽൾൿ", strict=True)}
_SEQUENCES |= {f"ত\u09cd{ZWJ}": "ৎ"}
_SEQUENCE = re.compile("|".join(_SEQUENCES))
_FULLWIDTH_SIGN = re.compile(  # a fullwidth comma also parts numbers: only three digits after it are thousands
    r"(?<=[A-Za-z0-9])[\uff0d-\uff0f\uff1a](?=[A-Za-z0-9])|(?<=[0-9])\uff0c(?=[0-9]{3}(?![0-9]))"
)
_JOINING = re.compile(  # the scripts in which joiners and their like change what is read
    "[\u0620-\u063f\u0641-\u08ff\u0900-\u0dff\u1000-\u109f\u1780-\u17ff\u1800-\u18af\u1cd0-\u1cff\ua8e0-\ua8ff"
    "\ua9e0-\ua9ff\uaa60-\uaa7f\ufb50-\ufdff\ufe70-\ufefc\U00010a00-\U00010a5f\U00011000-\U00011fff]"
)
UNSPACED = (
    "\u3005-\u3007\u3021-\u3029\u3031-\u3035\u3038-\u303c\u3041-\u3096\u309d-\u309f\u30a1-\u30fa\u30fc-\u30ff"
    "\u31f0-\u31ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\uff66-\uff9d\U0001aff0-\U0001afff\U0001b000-\U0001b16f"
    "\U00016fe3\U00020000-\U0003fffd"
)
INNER = "\u00b7\u2027\u05f3\u05f4\u05be"  # middle dot, hyphenation point, geresh, gershayim, maqaf: inside a word
_VOICED = "\uff9e\uff9f"
_DICTIONARY = (  # a letter of Thai, Lao, Khmer or Burmese with its marks
    "(?:[\u0e01-\u0e30\u0e32\u0e33\u0e40-\u0e46\u0e81-\u0eb0\u0eb2\u0eb3\u0ebd\u0ec0-\u0ec6\u0edc-\u0edf"
    "\u1000-\u102a\u103f\u1050-\u1055\u105a-\u105d\u1061\u1065\u1066\u106e-\u1070\u1075-\u1081\u108e\uaa60-\uaa76"
    "\ua9e0-\ua9e4\ua9e6-\ua9ef\u1780-\u17b3\u17d7\u17dc]"
    "[\u0e31\u0e34-\u0e3a\u0e47-\u0e4e\u0eb1\u0eb4-\u0ebc\u0ec8-\u0ece\u102b-\u103e\u1056-\u1059\u105e-\u1060"
    "\u1062-\u1064\u1067-\u106d\u1071-\u1074\u1082-\u108d\u108f\u109a-\u109d\u17b6-\u17d3\u17dd\uaa7b-\uaa7d\ua9e5"
    f"{ZWNJ}{ZWJ}]*)"
)


def normalise(text: str) -> str:
    """Return `text` in NFC, without invisible characters, with single spaces (see the module's docstring).

    Control characters become spaces. Half of a surrogate pair, which JSON may hold, becomes `?`. The result does not
    change when it is normalised again.
    """
    if not text.isascii():
        text = text.encode("utf-8", "replace").decode().translate(_FORMS)
        while True:  # a removed character may have stood between two that compose, or that decide about a joiner
            before, text = text, unicodedata.normalize("NFC", _INVISIBLE.sub(_visible, text))
            text = _SEQUENCE.sub(lambda match: _SEQUENCES[match[0]], text)
            text = _FULLWIDTH_SIGN.sub(lambda match: chr(ord(match[0]) - 0xFEE0), text)
            if text == before:
                break
    return " ".join(_CONTROL.sub(" ", text).split())


def _visible(match: re.Match[str]) -> str:
    """Return what stays of an invisible character, by its neighbours."""
    char, text, at = match[0], match.string, match.start()
    before, after = text[at - 1 : at], text[at + 1 : at + 2]
    if char == "\u200b":
        return " "
    if char in (ZWNJ, ZWJ) or "\u180b" <= char <= "\u180f":
        in_word = _JOINING.match(before) and (char != ZWNJ or _JOINING.match(after))
        in_emoji = char == ZWJ and (_is_symbol(before) or before in ("\ufe0e", "\ufe0f")) and _is_symbol(after)
        return char if in_word or in_emoji else ""
    if char in "\ufe0e\ufe0f":
        return char if _is_symbol(before) or (after == "\u20e3" and before in tuple("0123456789#*")) else ""
    if "\U000e0020" <= char <= "\U000e007f":  # the flags of England, Scotland and Wales
        return char if before == "\U0001f3f4" or "\U000e0020" <= before <= "\U000e007f" else ""
    return ""


def _is_symbol(char: str) -> bool:
    return bool(char) and (unicodedata.category(char)[0] == "S" or char in "\u203c\u2049\u3030\u303d")


@cache
def marks() -> str:
    """Return what stands inside a character class for combining marks, joiners and halfwidth voiced sound marks."""
    spans: list[list[int]] = []
    for code in (*range(0x300, 0x20000), *range(0xE0100, 0xE01F0)):
        if unicodedata.category(chr(code))[0] == "M":
            if spans and spans[-1][1] == code - 1:
                spans[-1][1] = code
            else:
                spans.append([code, code])
    return "".join(f"{chr(first)}-{chr(last)}" for first, last in spans) + _VOICED + ZWNJ + ZWJ + "\u180e"


@cache
def symbols() -> str:
    """Return a pattern for one sign that is neither letter nor digit, with its marks: a comma, a whole emoji."""
    return (
        rf"(?:[\U0001f1e6-\U0001f1ff]{{2}}|[^\w\s]"
        rf"(?:[{marks()}\U0001f3fb-\U0001f3ff\U000e0020-\U000e007f]|(?<={ZWJ})[^\w\s])*)"
    )


@cache
def unspaced() -> re.Pattern[str]:
    """Return the pattern of one Han, Hiragana or Katakana character and its marks."""
    return re.compile(f"[{UNSPACED}][{marks()}]*")


@cache
def _inner_apostrophe() -> re.Pattern[str]:
    letter = r"[^\W\d_]"
    return re.compile(rf"(?<=[\w{marks()}])[\u2018\u02bb\u02bc](?=\w)|(?<={letter})[\u00b4\u2032\u201b](?={letter})")


def inner_apostrophes(text: str) -> str:
    """Return `text` with `'` for the other signs that people write for an apostrophe, where they are inside a word."""
    return _inner_apostrophe().sub("'", text)


def split_unspaced(text: str) -> str:
    """Return `text` with a space on both sides of each Han, Hiragana and Katakana character and its marks."""
    return unspaced().sub(r" \g<0> ", text)


def lower(text: str, language: str = ENGLISH) -> str:
    """Return `text` in lower case. `language` decides about I and İ, as some Turkic languages have a dotless i."""
    if language in _DOTLESS:
        text = text.replace("İ", "i").replace("I", "ı")  # noqa: RUF001
    text = text.lower()
    return text if text.isascii() else normalise(text)  # İ becomes two, which may part a mark and its joiner


def unsegmented(text: str, longest: int = LONGEST_RUN) -> str | None:
    """Return the first run of more than `longest` letters without a space in Thai, Lao, Khmer or Burmese."""
    run = None if text.isascii() else re.search(f"{_DICTIONARY}{{{longest + 1},}}", text)
    return run[0] if run else None


def lost_characters(text: str, tokens: Iterable[str]) -> tuple[int, str]:
    """Return how many characters `text` has, punctuation, symbols and spaces apart, and those that are in no token.

    `text` is normalised, and its tokens have their own case. Private and unassigned characters and U+FFFD, which stands
    for a character that could not be decoded, count as characters.
    """
    if text.isascii():
        return sum(map(str.isalnum, text)), ""
    counted = Counter(filter(_counts, text))
    lost = counted - Counter("".join(tokens))
    return counted.total(), "".join(lost.elements())


def _counts(char: str) -> bool:
    category = unicodedata.category(char)
    return (category[0] in "LMN" and char not in "\ufe0e\ufe0f\u20e3") or category in ("Co", "Cn") or char == "\ufffd"
