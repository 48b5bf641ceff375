"""Penn Treebank tokens of a caption without Java.

The published captioning scores are over the tokens of pycocoevalcap's `PTBTokenizer`: Stanford CoreNLP
3.4.1 with `-lowerCase`, then without the entries of its list `PUNCTUATIONS`. These rules were written by
comparing outputs, not from its source. `dev/ptb_agreement.py` counts how often the two agree.

Kept as it does it: a bracket becomes `-lrb-`, `-rsb-` and the like and *stays* (the list names them in
capitals, which never match); so do `&`, `%`, `$`, `#`, `/`, `*` and runs such as `!!` or `?!`.

Text that is not ASCII, beyond what Java's tokeniser does: combining marks belong to their word; Han, Hiragana and
Katakana are tokens by character (`captioner.captions.text`); signs that are not ASCII (`。`, `،`, `।`, emoji) are
dropped like a full stop, unless they stand inside a word (`INNER`).

Known differences, none of them in Flickr8k's captions:
- `:)`, `:D` and other smileys, `US$`, a run of five or more hyphens, `<<a>>` (fewer, longer tokens there);
- `&amp;` (`&` there), a backslash before a slash, superscripts (`m²`);
- `word!word`, `word?word` (one token there), `a,1`, `dog.5`, `10p.m.`, `.5a`, `'99.`, `pick'n'mix`, `ev'ry`,
  `j'ai`;
- a single letter and a full stop before a new sentence (`plan b. The dog`: the stop is dropped there);
- tokens that are not stable: `AT&T` becomes `at & t` here because `at&t` does so in both, `Mass.` becomes `mass`. There
  such a token, tokenised again, gives other tokens, so that no generated caption could equal its reference;
- abbreviations other than those listed below.
"""

import re
from functools import cache

from captioner.captions.text import INNER, inner_apostrophes, lower, marks, normalise, split_unspaced, symbols

_ASCII = str.maketrans(
    {
        "‘": "'",  # noqa: RUF001
        "’": "'",  # noqa: RUF001
        "ʼ": "'",  # noqa: RUF001
        "“": '"',
        "”": '"',
        "«": '"',
        "»": '"',
        "–": " - ",  # noqa: RUF001
        "—": " - ",
        "…": " ... ",
        "½": " 1/2",
        "£": "#",
        "€": "$",
        "¢": " cents ",
    }
)
_BRACKETS = {"(": "-lrb-", ")": "-rrb-", "[": "-lsb-", "]": "-rsb-", "{": "-lcb-", "}": "-rcb-"}
_ABBREVIATIONS = (
    r"mr|mrs|ms|dr|drs|st|ave|blvd|rd|mt|ft|jr|sr|vs|etc|inc|co|corp|ltd|bros|dept|est|univ|cf|al|esq|messrs|mme"
    r"|gen|col|sen|rep|prof|gov|lt|sgt|capt|maj|adm|hon|rev|pres|pvt|cpl|supt|ph\.d"
    r"|jan|feb|mar|apr|jun|jul|aug|sep|sept|oct|nov|dec|mon|tue|tues|wed|thu|thurs|fri"
    r"|ala|calif|fla|ind|conn|minn|mont|okla|tenn|wis|kan|colo|ariz|va|mich|neb|nev|mo|ga"
)
_STATES = "Mass|Wash|Miss|Ill|Tex|Ore|Del|Pa|Ark"  # also words, hence only with a capital


def _grammar(marks: str, sign: str) -> re.Pattern[str]:
    """Return the pattern of one token. `marks` is the inside of a character class for what words of other scripts than
    Latin have besides letters and digits, or empty for ASCII text; `sign` is a pattern for any other visible sign."""
    word = rf"\w{marks}"
    inner, name, alone = "[-/.]", "[a-z]{2,}", ""
    number = r"\d+(?:[.,:]\d+)+"
    if marks:  # no cluster of a sign and its marks is cut
        inner, name, alone, number = f"[-/.{INNER}]", f"[{word}]{{2,}}", f"(?![{marks}])", rf"{number}[{marks}]*"
    return re.compile(
        rf"""
          </?[a-z][^<>\s]*>{alone}                                # <unk>, HTML tags
        | https?://[^\s"<>]*[^\s"<>.,;:!?)]
        | [{word}.+-]+@[{word}-]+(?:\.[{word}-]+)*                     # e-mail address
        | [@\#][a-z_][{word}]*
        | -[lr][rsc]b-                                     # a bracket that is already a token
        | '(?:t(?=is\b|was\b) | n'(?![{word}]) | (?:n|em|till?|cause|(?<!\d')\d(?:0s|\d))(?![{word}']))
        | '(?:s|m|d|re|ve|ll)(?![{word}])
        | n't(?![{word}])
        | (?:{_ABBREVIATIONS})\.(?![{word}]) | (?-i:{_STATES})\.(?![{word}])
        | (?:no|fig|pp)\.(?=\s*\d)
        | [a-z](?:\.[a-z])+(?![{word}])\.? | [a-z]\.(?![{word}])       # u.s., a.m., j.
        | (?-i:[A-Z]+(?:&[A-Z]+)+)(?![{word}])                   # AT&T, but at & t
        | [a-z]+?(?=n't(?![{word}]))                             # ca n't
        | (?:can(?=not)|(?:gon|wan)(?=na)|got(?=ta)|(?:gim|lem)(?=me))(?=(?:not|na|ta|me)(?![{word}-]))
        | d'ye\b | y'(?=[{word}]) | ma'am | c'mon | li'l | s'mores | (?:ol|somethin)'(?![{word}])
        | [dol]'{name}(?:-[{word}]+)*                         # O'Brien, o'clock
        | (?:(?<![{word}])[+-])?{number}(?:-[{word}]+)*        # 1,000.5 and 10:30
        | (?:(?<![{word}])[+-])?(?<![{word}])\.?\d+(?![{word}/-])          # 5, -5 and .5
        | [{word}]+(?:{inner}[{word}]+)*
        | (?:[!?]{{2,}} | \*+ | -+ | \.+){alone} | {sign}
        """,
        re.VERBOSE | re.IGNORECASE,
    )


_TOKEN = _grammar("", r"[^\w\s]")
_DROPPED = re.compile(r"""['"`.?!,:;]|-+|\.+""")
_STABLE = re.compile(r"(?:(?:[a-z0-9-]+|'s|n't)(?: (?!$)|$))*")  # such tokens are the same when they are read again


@cache
def _token() -> re.Pattern[str]:
    """Return the pattern for text that is not ASCII. It takes some time to build, so English captions go without."""
    return _grammar(marks(), symbols())


@cache
def _foreign() -> re.Pattern[str]:
    """Return the pattern of a sign that is not ASCII and does not stand inside a word."""
    return re.compile(rf"(?!(?<=[\w{marks()}])[{INNER}](?=\w))(?![\x00-\x7f{marks()}]){symbols()}")


def ptb_separate(text: str) -> list[str]:
    """Return the tokens of `text` in their own case, with punctuation."""
    if not (text.isascii() and text.isprintable()):
        text = to_ascii(text)
    if text.isascii():
        return _TOKEN.findall(text)
    return _token().findall(_foreign().sub(r" \g<0> ", split_unspaced(text)))


def to_ascii(text: str) -> str:
    """Return `text` normalised, with signs replaced as by Java's tokeniser, and other apostrophes by `'`."""
    return inner_apostrophes(normalise(text).translate(_ASCII))


def ptb_tokens(text: str) -> list[str]:
    """Return the lower-cased tokens of `text` without punctuation, as this module's docstring defines.

    `text` may hold several sentences. An empty text, or one of nothing but punctuation, has no tokens. No token
    contains white space, and the tokens of the tokens, joined by spaces, are the same.
    """
    while True:
        tokens = [_BRACKETS.get(token) or lower(token) for token in ptb_separate(text) if not _is_dropped(token)]
        joined = " ".join(tokens)
        if joined == text or _STABLE.fullmatch(joined):
            return tokens
        text = joined  # a token may consist of several when it is read again: "AT&T" in lower case


def _is_dropped(token: str) -> bool:
    return bool(_DROPPED.fullmatch(token)) or not (token.isascii() or any(map(str.isalnum, token)))
