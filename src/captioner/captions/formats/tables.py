"""Tables with a header: CSV by comma, semicolon, tab or bar, with quotes as CSV has them (a bar: without quotes)."""

import csv
import io
import re
from collections.abc import Iterator
from typing import Literal

from captioner.base.errors import CaptionerError
from captioner.captions.formats.columns import choose, fits, with_split
from captioner.captions.formats.records import Columns, Record, Tally, TextFile, name_of
from captioner.captions.formats.text import LONGEST_LINE, captions_of_cell, check_length
from captioner.sources.archives import PHOTO_SUFFIXES

DELIMITERS = (",", ";", "\t", "|")

csv.field_size_limit(LONGEST_LINE)  # a cell on one line may be as long as a line

_NUMBER = re.compile(r"\d+")
_LOST_BAR = re.compile(r"\s*(\d+)\s+(\S.*)", re.DOTALL)


def delimiter_of(line: str) -> str | None:
    """Return the delimiter that makes a line a header with a photo and a caption column, None where none does."""
    return next((each for each in DELIMITERS if fits(_cells(line, each))), None)


def widest_delimiter(line: str) -> str:
    """Return the delimiter that cuts a line into most cells."""
    return max(DELIMITERS, key=line.count)


def blanks_behind(delimiter: str, header: str) -> bool:
    """Tell whether blanks stand behind the delimiters of a header (`image, caption`), as then in the rows."""
    return f"{delimiter} " in header


def _cells(line: str, delimiter: str) -> list[str]:
    try:
        return next(csv.reader([line], delimiter=delimiter), [])
    except csv.Error:
        return []


def read_table(file: TextFile, tally: Tally, columns: Columns) -> Iterator[Record]:
    """Yield a record for each row of a table."""
    columns = with_split(columns, lambda: _by_column(file, columns))
    rows = _rows(file, columns)
    begin, header = next(rows, (0, []))
    place = f"{file.shown}, line {begin}"
    chosen = choose(header, columns, place)
    tally.ignored_columns += [name.strip() for name in chosen.ignored if name.strip() not in tally.ignored_columns]
    at_image, at_split = header.index(chosen.image), header.index(chosen.split) if chosen.split else None
    at_captions = [header.index(name) for name in chosen.captions]
    needed = 1 + max(at_image, at_captions[0], at_split or 0)
    for begin, row in rows:
        place = f"{file.shown}, line {begin}"
        row = _repaired(row, header, needed, tally)
        if len(row) != len(header):
            raise CaptionerError(
                f"{place}: {len(row)} fields, expected {len(header)} ({', '.join(header)}); put a caption with "
                "the delimiter or a line break in it into double quotes"
            )
        captions = tuple(
            text
            for at in at_captions
            if row[at].strip() or len(at_captions) == 1
            for text in captions_of_cell(row[at], place, tally)
        )
        yield Record(name_of(row[at_image], place), captions, place, "" if at_split is None else row[at_split].strip())


def _by_column(file: TextFile, columns: Columns) -> Iterator[dict[str, str]]:
    """Yield the cells of each row behind the header by the names of their columns."""
    rows = _rows(file, columns)
    _, header = next(rows, (0, []))
    for _, row in rows:
        yield dict(zip(header, row, strict=False))


def _repaired(row: list[str], header: list[str], needed: int, tally: Tally) -> list[str]:
    """Return a row without empty cells that exceed the header, and with the bar that one row of Flickr30k lacks.

    Spreadsheets leave out empty cells at the end of a row. They come back, unless one of the first `needed` lacks.
    """
    while len(row) > len(header) and not row[-1].strip():
        row = row[:-1]
    if len(row) == 2 and [name.strip() for name in header] == ["image_name", "comment_number", "comment"]:
        lost = _LOST_BAR.fullmatch(row[1])
        if lost:
            tally.repaired["rows without their second bar"] += 1
            return [row[0], lost[1], lost[2]]
    if needed <= len(row) < len(header):
        tally.repaired["rows without their last cells"] += 1
        row = row + [""] * (len(header) - len(row))
    return row


class _Lines:
    """The lines of a file, of which the current record's are kept."""

    def __init__(self, file: TextFile):
        self._lines = io.StringIO(file.content, newline="")
        self._shown = file.shown
        self.number = 0  # of the last line read
        self.current: list[str] = []

    def __iter__(self) -> "_Lines":
        return self

    def __next__(self) -> str:
        line = next(self._lines)
        self.number += 1
        check_length(len(line), f"{self._shown}, line {self.number}")
        self.current.append(line)
        return line


def _rows(file: TextFile, columns: Columns) -> Iterator[tuple[int, list[str]]]:
    """Yield (number of its first line, cells) of each row that is not blank; the first one is the header."""
    lines = _Lines(file)
    first = next((line for line in file.content.splitlines() if line.strip()), "")
    delimiter = delimiter_of(first) or widest_delimiter(first)
    quoting: Literal[0, 3] = csv.QUOTE_NONE if delimiter == "|" else csv.QUOTE_MINIMAL
    blanks = blanks_behind(delimiter, first)
    reader = csv.reader(lines, delimiter=delimiter, quoting=quoting, strict=True, skipinitialspace=blanks)
    header: list[str] | None = None
    image_at = 0
    while True:
        begin = lines.number + 1
        lines.current.clear()
        try:
            row = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            raise CaptionerError(_not_csv(file, lines, begin, str(error))) from None
        if header is not None and len(lines.current) > 1:
            _check_swallowed(file, lines.current, row, begin, delimiter, len(header), image_at)
        if not any(map(str.strip, row)):
            continue
        if header is None:
            header = [name.strip() for name in row]
            chosen = choose(header, columns, f"{file.shown}, line {begin}")
            image_at = header.index(chosen.image)
            row = header
        yield begin, row


def _not_csv(file: TextFile, lines: _Lines, begin: int, error: str) -> str:
    place = f"{file.shown}, line {begin}"
    if lines.number > begin or "unexpected end" in error:
        return (
            f"{place}: a quote opens in this line and does not close as CSV wants it (noticed in line {lines.number}: "
            f'{error}); write a quote inside a caption twice (""), and put the whole caption into quotes'
        )
    return f'{place}: not CSV ({error}); write a quote inside a caption twice ("")'


def _check_swallowed(  # the record as text and as cells, and where the names of photos are
    file: TextFile, lines: list[str], row: list[str], begin: int, delimiter: str, width: int, image_at: int
) -> None:
    """Raise CaptionerError where a line inside a cell of a record looks like a row of its own."""
    for line in (line for cell in row if "\n" in cell for line in cell.splitlines()):
        cells = line.split(delimiter)
        if len(cells) >= width and _may_be_name(cells[image_at].strip(' "\r\n'), row[image_at], delimiter):
            offset = next((at for at, text in enumerate(lines) if line in text), 0)
            raise CaptionerError(
                f"{file.shown}, line {begin}: a quote opens in this line and closes in line {begin + len(lines) - 1}, "
                f"and line {begin + offset} looks like a row; "
                'write a quote inside a caption twice (""), and put the whole caption into quotes'
            )


def _may_be_name(cell: str, name: str, delimiter: str) -> bool:
    """Return whether the first cell of a line is a photo's name as `name`, which the record has, is one.

    It is one if it differs from `name` in numbers only.
    """
    if delimiter == "\t" or cell.lower().endswith(PHOTO_SUFFIXES):
        return True
    return bool(cell) and _NUMBER.sub("0", cell) == _NUMBER.sub("0", name.strip())
