"""The table of forms: the marks in the content of a file, and the reader of each form.

A file has the first form whose marks it has. Its name only affects the name of the form in the summary.
"""

import json
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import PurePosixPath

from captioner.base.errors import CaptionerError
from captioner.captions.formats.columns import fits, plain, shown
from captioner.captions.formats.json_files import (
    read_coco,
    read_json_lines,
    read_karpathy,
    read_lists_of_rows,
    read_mapping,
    read_rows,
)
from captioner.captions.formats.json_stream import walk
from captioner.captions.formats.lines import is_named_line, is_token_line, read_named_lines, read_token_lines
from captioner.captions.formats.records import Reader, TextFile
from captioner.captions.formats.tables import delimiter_of, read_table, widest_delimiter
from captioner.captions.formats.text import lines
from captioner.sources.archives import PHOTO_SUFFIXES, visible


class Head:
    """The beginning of a file, in which forms look for their marks."""

    def __init__(self, file: TextFile):
        self.file = file
        self.start = file.content[:4096].lstrip()
        self.name = PurePosixPath(file.name).name.casefold()

    @cached_property
    def first(self) -> str:
        """The first line that is not blank; a long file is not read further."""
        return next(lines(self.file.content, self.file.shown), (0, ""))[1]

    @cached_property
    def header(self) -> list[str]:
        """The plain names of the columns, [] where the first line is no header."""
        if self.is_json:
            return []
        delimiter = delimiter_of(self.first)
        return [plain(name.strip(' "')) for name in self.first.split(delimiter)] if delimiter else []

    @property
    def is_json(self) -> bool:
        """Tell whether the file begins as JSON does."""
        return self.start[:1] in ("{", "[")

    @cached_property
    def is_json_lines(self) -> bool:
        """Tell whether the first line is an object and another one follows, or nothing."""
        if not self.start.startswith("{"):
            return False
        several = re.search(r"\}[ \t\r]*\n\s*\{", self.file.content[:1_000_000])
        first = self.file.content.lstrip().partition("\n")[0].strip()
        if several and first.endswith("}"):
            return True
        return len(first) < 10_000 and first == self.file.content.strip() and fits(self.flat_keys)

    @cached_property
    def flat_keys(self) -> list[str]:
        """The keys of the first line, if it is an object whose first value is text or a number; else []."""
        try:
            row = json.loads(self.first)
        except (ValueError, RecursionError):
            return []
        flat = isinstance(row, dict) and isinstance(next(iter(row.values()), None), str | int)
        return list(row) if flat else []

    def has_list(self, key: str) -> bool:
        """Tell whether some object of the file has a list under this key."""
        return self.is_json and bool(re.search(rf'"{key}"\s*:\s*\[', self.file.content))

    def has_key(self, key: str) -> bool:
        """Tell whether some object of the file has this key."""
        return self.is_json and bool(re.search(rf'"{key}"\s*:', self.file.content))

    @property
    def lists_rows(self) -> bool:
        """Tell whether the file begins with an object whose first value is a list of objects."""
        return bool(re.match(r'\{\s*"(?:[^"\\]|\\.)*"\s*:\s*\[\s*\{', self.start))

    @cached_property
    def first_key(self) -> str:
        """The first key of the topmost object, "" where there is none."""
        match = re.match(r'\{\s*"((?:[^"\\]|\\.)*)"\s*:', self.start)
        return match[1] if match else ""


@dataclass(frozen=True)
class Form:
    """One row of the table."""

    name: str  # for the summary
    marks: Callable[[Head], bool]
    read: Reader
    all_named: bool = False  # a photo that the captions do not name is a fault
    once: bool = False  # each image is listed once, with all its captions


FORMS = (
    Form("JSON Lines (imagefolder) captions", lambda head: head.is_json_lines, read_json_lines),
    Form("COCO captions", lambda head: head.has_list("images") and head.has_list("annotations"), read_coco, once=True),
    Form(
        "Karpathy's JSON captions",
        lambda head: head.start.startswith("{") and head.has_key("images"),
        read_karpathy,
        once=True,
    ),
    Form("TextCaps captions", lambda head: head.start.startswith("{") and head.has_list("data"), read_rows),
    Form("JSON captions", lambda head: head.start.startswith("["), read_rows),
    Form("JSON captions", lambda head: head.start.startswith("{") and head.has_list("annotations"), read_rows),
    Form(
        "JSON captions by name",
        lambda head: head.first_key.lower().endswith(PHOTO_SUFFIXES) or head.first_key.isdecimal(),
        read_mapping,
        once=True,
    ),
    Form("lists of JSON captions", lambda head: head.lists_rows, read_lists_of_rows),
    Form(".token captions", lambda head: not head.is_json and is_token_line(head.first), read_token_lines),
    Form("Flickr30k CSV captions", lambda head: "sentids" in head.header, read_table, all_named=True),
    Form("Flickr30k captions", lambda head: "comment_number" in head.header, read_table, all_named=True),
    Form(
        "imagefolder captions",
        lambda head: head.name == "metadata.csv" and bool(head.header),
        read_table,
        all_named=True,
    ),
    Form(
        "Kaggle captions",
        lambda head: head.name == "captions.txt" and head.header == ["image", "caption"],
        read_table,
        all_named=True,
    ),
    Form("CSV captions", lambda head: bool(head.header), read_table, all_named=True),
    Form("name and caption lines", lambda head: not head.is_json and is_named_line(head.first), read_named_lines),
)


def recognise(file: TextFile, named_columns: Iterable[str | None] = ()) -> Form:
    """Return the form whose marks the file has.

    `named_columns` are the values of `own.columns`: where some are set, a file that is no JSON is a table. Raises
    CaptionerError that says what the file looks like, and where the forms are listed.
    """
    head = Head(file)
    if not head.start:
        raise CaptionerError(
            f"{file.shown}: is empty; expected the columns image, caption and, if wanted, split, or another form "
            "that docs/own-data.md lists"
        )
    if not head.is_json and any(named_columns):
        return Form("CSV captions", lambda _: True, read_table, all_named=True)
    for form in FORMS:
        if form.marks(head):
            return form
    raise CaptionerError(f"{_what(file, head)}; docs/own-data.md lists the forms that are read")


def _what(file: TextFile, head: Head) -> str:
    if head.is_json:
        keys = sorted({key for key, _, _ in walk(file)})  # raises where it is not JSON
        advice = "; save the table row by row, in pandas with orient='records', lines=True" if fits(keys) else ""
        return f"{file.shown}: JSON with the keys {shown(keys)}; expected captions{advice}"
    if head.start.startswith("<"):
        return f"{file.shown}: begins with {visible(head.first[:60])}, as a web page does; download the file again"
    first = head.first
    cells = [cell.strip() for cell in first.split(widest_delimiter(first))]
    if len(cells) > 1 and not fits(cells):
        return (
            f"{file.shown}, line 1: the columns are {shown(cells)}; expected image, caption and, if wanted, split; "
            "own.columns in params.yaml names columns that are called otherwise"
        )
    return f"{file.shown}: begins with {visible(first[:60])}, which is no known form"
