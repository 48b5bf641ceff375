"""Files without a header: a line is a photo's name and a caption."""

import csv
import re
from collections.abc import Iterator

from captioner.base.errors import CaptionerError
from captioner.captions.formats.records import Columns, Record, Tally, TextFile, name_of
from captioner.captions.formats.splits import SPLIT_NAMES
from captioner.captions.formats.text import captions_of_cell, lines
from captioner.sources.archives import PHOTO_SUFFIXES, visible

# 1.jpg#0<TAB>text, 1.jpg#0,text, 1.jpg#zhc#0 text; the name has a suffix, so that a caption with a # is none
_TOKEN = re.compile(r"(\S[^\t#]*?)#(?:[a-z]{2,4}#)?(\d+)[ ]*([\t, ])[ ]*(.*)", re.DOTALL)
_PHOTO_AND_TAB = re.compile(
    rf"\s*\"?([^\t]*?(?:{'|'.join(map(re.escape, PHOTO_SUFFIXES))}))\"?\s*\t\s*(.*)", re.DOTALL | re.IGNORECASE
)
_PHOTO = re.compile(
    rf"\s*\"?([^\t,;|]*?(?:{'|'.join(map(re.escape, PHOTO_SUFFIXES))}))\"?\s*[\t,;|]\s*(.*)", re.DOTALL | re.IGNORECASE
)
_NAMED = re.compile(r"(\S{1,255})[ ]*\t\s*(.*)", re.DOTALL)
_NAME_AND_REST = re.compile(r"[^\t,;|]*([\t,;|])(.*)", re.DOTALL)


def is_token_line(line: str) -> bool:
    """Tell whether a line is of the form `name.jpg#0<TAB>caption`, or of its variants with a comma or a blank."""
    return bool(_TOKEN.fullmatch(line))


def is_named_line(line: str) -> bool:
    """Tell whether a line is a name and a caption behind a tab, or behind any delimiter where the name has a suffix."""
    return any(form.fullmatch(line) for form in (_PHOTO_AND_TAB, _PHOTO, _NAMED))


def read_token_lines(file: TextFile, tally: Tally, columns: Columns) -> Iterator[Record]:
    """Yield a record for each line `name.jpg#0<TAB>caption`."""
    yield from _read(file, tally, (_TOKEN,), "name.jpg#0<TAB>caption")


def read_named_lines(file: TextFile, tally: Tally, columns: Columns) -> Iterator[Record]:
    """Yield a record for each line `name<TAB>caption` or `name.jpg,caption`.

    Raises CaptionerError where the first line has a third cell, such as a number or a split.
    """
    first = next(lines(file.content, file.shown), None)
    if first and _has_third_cell(first[1]):
        raise CaptionerError(
            f"{file.shown}, line {first[0]}: {visible(first[1][:80])} has more than a name and a caption; write a line "
            "above it that names the columns, such as image;number;caption"
        )
    yield from _read(file, tally, (_PHOTO_AND_TAB, _PHOTO, _NAMED), "name<TAB>caption")


def _read(file: TextFile, tally: Tally, forms: tuple[re.Pattern[str], ...], expected: str) -> Iterator[Record]:
    for number, line in lines(file.content, file.shown):
        place = f"{file.shown}, line {number}"
        match = next(filter(None, (form.fullmatch(line) for form in forms)), None)
        if match is None:
            message = f"{place}: {visible(line[:80])} is not of the form {expected}"
            tally.fault("lines of another form", lambda message=message: message)  # type: ignore[misc]
            continue
        text = _unquoted(match.groups()[-1])
        yield Record(name_of(match[1], place), captions_of_cell(text, place, tally), place)


def _has_third_cell(line: str) -> bool:
    match = _NAME_AND_REST.fullmatch(line[:10_000])  # csv refuses long fields
    if match is None:
        return False
    cells = next(csv.reader([match[2].replace("\r", " ")], delimiter=match[1], skipinitialspace=True), [])
    if match[1] == ",":  # commas stand in captions, too
        return len(cells) > 1 and (cells[0].strip().isdecimal() or cells[-1].strip().casefold() in SPLIT_NAMES)
    return any(cell.strip() for cell in cells[1:])


def _unquoted(text: str) -> str:
    """Return a caption without the quotes that CSV puts around one with a comma or a quote in it."""
    text = text.strip()
    inside = text[1:-1]
    if len(text) > 1 and text[0] == text[-1] == '"' and '"' not in inside.replace('""', ""):
        return inside.replace('""', '"')
    return text
