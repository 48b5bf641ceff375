"""Penn Treebank tokens of a caption without Java.

The published captioning scores are over the tokens of pycocoevalcap's `PTBTokenizer`: Stanford CoreNLP
3.4.1 with `-lowerCase`, then without the entries of its list `PUNCTUATIONS`. These rules were written by
comparing outputs, not from its source. `dev/ptb_agreement.py` counts how often the two agree.

Kept as it does it: a bracket becomes `-lrb-`, `-rsb-` and the like and *stays* (the list names them in
capitals, which never match); so do `&`, `%`, `$`, `#`, `/`, `*` and runs such as `!!` or `?!`.

Known differences, none of them in Flickr8k's captions:
- `:)`, `:D` and other smileys, `US$`, a run of five or more hyphens, `<<a>>` (fewer, longer tokens there);
- emoji (dropped there, a token here), `&amp;` (`&` there), a backslash before a slash, superscripts (`m²`);
- `word!word`, `word?word` (one token there), `a,1`, `dog.5`, `10p.m.`, `.5a`, `'99.`, `pick'n'mix`, `ev'ry`,
  `j'ai`;
- a single letter and a full stop before a new sentence (`plan b. The dog`: the stop is dropped there);
- abbreviations other than those listed below.
"""

import re

_ASCII = str.maketrans(
    {
        "‘": "'",  # noqa: RUF001
        "’": "'",  # noqa: RUF001
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

_TOKEN = re.compile(
    rf"""
      </?[a-z][^<>\s]*>                                # <unk>, HTML tags
    | https?://[^\s"<>]*[^\s"<>.,;:!?)]
    | [\w.+-]+@[\w-]+(?:\.[\w-]+)*                     # e-mail address
    | [@\#][a-z_]\w*
    | -[lr][rsc]b-                                     # a bracket that is already a token
    | '(?:t(?=is\b|was\b) | n'(?!\w) | (?:n|em|till?|cause|(?<!\d')\d(?:0s|\d))(?![\w']))
    | '(?:s|m|d|re|ve|ll)(?!\w)
    | n't(?!\w)
    | (?:{_ABBREVIATIONS})\.(?!\w) | (?-i:{_STATES})\.(?!\w)
    | (?:no|fig|pp)\.(?=\s*\d)
    | [a-z](?:\.[a-z])+(?!\w)\.? | [a-z]\.(?!\w)       # u.s., a.m., j.
    | (?-i:[A-Z]+(?:&[A-Z]+)+)(?!\w)                   # AT&T, but at & t
    | [a-z]+?(?=n't(?!\w))                             # ca n't
    | (?:can(?=not)|(?:gon|wan)(?=na)|got(?=ta)|(?:gim|lem)(?=me))(?=(?:not|na|ta|me)(?![\w-]))
    | d'ye\b | y'(?=\w) | ma'am | c'mon | li'l | s'mores | (?:ol|somethin)'(?!\w)
    | [dol]'[a-z]{{2,}}(?:-\w+)*                         # O'Brien, o'clock
    | (?:(?<!\w)[+-])?\d+(?:[.,:]\d+)+(?:-\w+)*        # 1,000.5 and 10:30
    | (?:(?<!\w)[+-])?(?<!\w)\.?\d+(?![\w/-])          # 5, -5 and .5
    | \w+(?:[-/.]\w+)*
    | [!?]{{2,}} | \*+ | -+ | \.+ | [^\w\s]
    """,
    re.VERBOSE | re.IGNORECASE,
)
_DROPPED = re.compile(r"""['"`.?!,:;]|-+|\.+""")


def separate(text: str) -> list[str]:
    """Return the tokens of `text` in their own case, with punctuation."""
    return _TOKEN.findall(text.translate(_ASCII))


def tokenise(text: str) -> list[str]:
    """Return the lower-cased tokens of `text` without punctuation, as this module's docstring defines.

    `text` may hold several sentences and may be tokenised already. An empty text, or one of nothing but
    punctuation, has no tokens. No token contains white space.
    """
    return [_BRACKETS.get(token, token.lower()) for token in separate(text) if not _DROPPED.fullmatch(token)]
