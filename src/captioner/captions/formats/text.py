"""Decode text files, split lines, and clean captions in cells."""

import ast
import html
import math
import re
from collections.abc import Iterable, Iterator
from typing import Any

from captioner.base.errors import CaptionerError
from captioner.captions import tokens
from captioner.captions.formats.records import Tally, as_json

LONGEST_LINE = 1_000_000
"""Characters a line or a caption may have. A longer one is no caption, and could exhaust the memory."""

_ENTITY = re.compile(r"&(?:#\d{1,7}|#[xX][0-9a-fA-F]{1,6}|[A-Za-z][A-Za-z0-9]{1,31});")
_BINARY = {
    b"PAR1": "Parquet",
    b"PK\x03\x04": "an Excel file or a zip archive",
    b"\xd0\xcf\x11\xe0": "an old Excel file",
    b"\x1f\x8b": "packed by gzip",
}
_EXCEL = re.compile(r'\A"?sep=[,;\t|]"?(?=\r?\n)', re.IGNORECASE)
_QUOTED = re.compile(r"""'(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*\"""", re.DOTALL)
_EMPTY = frozenset({"nan", "NaN", "NAN", "<NA>", "None", "null", "NULL"})
_MARKERS = re.compile(
    r"\s*(?:<start>|<s>|<sos>|<bos>|<\|startoftext\|>|\[CLS\]).*"
    r"(?:<end>|</s>|<eos>|<\|endoftext\|>|\[SEP\])\s*",
    re.DOTALL | re.IGNORECASE,
)
_KERAS = re.compile(r"\b(?:startseq|endseq)\b")


def decode(data: bytes, shown: str) -> str:
    """Return the text of a file in UTF-8, with a byte order mark or without, or in UTF-16 with one.

    The line `sep=;` that Excel writes first becomes blank. The line ends of old Macs (CR) become those of Unix.
    """
    text = _EXCEL.sub("", _decode(data, shown))
    return text if "\n" in text else text.replace("\r", "\n")


def _decode(data: bytes, shown: str) -> str:
    if data.startswith((b"\xff\xfe\0\0", b"\0\0\xfe\xff")):
        raise CaptionerError(f"{shown}: is UTF-32; save the file as UTF-8")
    if data.startswith((b"\xff\xfe", b"\xfe\xff")):
        try:
            return data.decode("utf-16")
        except UnicodeDecodeError:
            raise CaptionerError(
                f"{shown}: has the byte order mark of UTF-16 but is not valid UTF-16; save the file as UTF-8"
            ) from None
    kind = next((kind for start, kind in _BINARY.items() if data.startswith(start)), None)
    if kind:
        raise CaptionerError(f"{shown}: is {kind}; expected text; unpack it, or save it as CSV or JSON Lines in UTF-8")
    if data[:1000].count(b"\0") > len(data[:1000]) // 4:
        raise CaptionerError(f"{shown}: has NUL bytes, as UTF-16 without its mark has; save the file as UTF-8")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        raise CaptionerError(f"{shown}, line {line}: not UTF-8; save the file as UTF-8") from None


def lines(content: str, shown: str) -> Iterator[tuple[int, str]]:
    """Yield the lines that are not blank, numbered from 1, without their ends."""
    begin, number = 0, 0
    while begin < len(content):
        number += 1
        end = content.find("\n", begin)
        end = len(content) if end < 0 else end
        check_length(end - begin, f"{shown}, line {number}")
        line = content[begin:end].rstrip("\r")
        if line.strip():
            yield number, line
        begin = end + 1


def check_length(characters: int, place: str) -> None:
    """Raise CaptionerError where a line or a caption has more characters than LONGEST_LINE."""
    if characters > LONGEST_LINE:
        raise CaptionerError(
            f"{place}: has {characters:,} characters, expected at most {LONGEST_LINE:,}; "
            "expected a caption of ordinary length, or lines that end"
        )


def caption_text(text: str, place: str, tally: Tally) -> str:
    """Return a caption with HTML entities as characters, normalised by `captioner.captions.tokens.caption_text`."""
    check_length(len(text), place)
    if "&" in text and _ENTITY.search(text):
        unescaped = text
        for _ in range(2):  # &amp;#39; is common
            unescaped = _ENTITY.sub(lambda match: html.unescape(match[0]), unescaped)
        tally.repaired["captions with HTML entities"] += unescaped != text
        text = unescaped
    return tokens.caption_text(text, place)


def usable_captions(texts: Iterable[str], place: str, tally: Tally) -> Iterator[str]:
    """Yield each caption as `caption_text` returns it; one that needs spaces first is counted as a fault instead."""
    for text in texts:
        try:
            caption = caption_text(text, place, tally)
        except tokens.UnsegmentedError as error:
            tally.fault("captions without spaces between words", error.__str__)
        else:
            yield caption


def markers_in(text: str) -> str | None:
    """Return the markers of a prepared training file that a caption holds, for a message, or None."""
    if _KERAS.search(text):
        return "startseq or endseq"
    if text.lstrip()[:1] in ("<", "[") and _MARKERS.fullmatch(text):
        return f"{text.split()[0]} and {text.split()[-1]}"
    return None


def captions_of_cell(cell: Any, place: str, tally: Tally) -> tuple[str, ...]:
    """Return the captions of a cell or JSON value: a text, a list of texts, or a list written as text."""
    if cell is None or (isinstance(cell, float) and math.isnan(cell)):
        tally.repaired["empty captions"] += 1
        return ("",)
    if isinstance(cell, list):
        return tuple(text for each in cell for text in captions_of_cell(each, place, tally))
    if not isinstance(cell, str):
        raise CaptionerError(f"{place}: is {as_json(cell)}, expected text: a caption, or a list of captions")
    if cell.strip() in _EMPTY:
        tally.repaired["empty captions"] += 1
        return ("",)
    several = _written_list(cell.strip())
    if several is not None:
        tally.repaired["lists written as text"] += 1
        return several
    return (cell,)


def _written_list(text: str) -> tuple[str, ...] | None:
    """Return the texts of a list such as `['a dog', "a cat"]`, None where the text is no such list."""
    if not (text.startswith("[") and text.endswith("]")) or text[1:].lstrip()[:1] not in ("'", '"'):
        return None
    inside = text[1:-1]
    if _QUOTED.sub("", inside).strip(" ,\n\r\t"):
        return None
    try:
        captions = [ast.literal_eval(each) for each in _QUOTED.findall(inside)]
    except (SyntaxError, ValueError):
        return None
    return tuple(captions) or None
