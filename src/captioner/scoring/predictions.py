"""Read predictions of any model, one caption for each image.

====================================  ==========================================================
form                                  where people get it
====================================  ==========================================================
JSON `[{"image_id", "caption"}]`      results for COCO's servers
JSON `{"1.jpg": "text"}`              your own; also `{"1": [{"caption": "text"}]}`
JSON lines `{"photo", "caption"}`     `captioner caption --json`
a table with a header                 metrics/test_captions.csv; by comma, semicolon, tab or bar
`path<TAB>caption`                    `captioner caption`, also with --top
====================================  ==========================================================

A key or column of an image has one of the names that `captioner.captions.formats.columns` lists. That of the caption
has, too, unless it is given.
"""

import csv
import io
import json
import re
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from captioner.base.errors import CaptionerError
from captioner.captions.formats.columns import CAPTION, IMAGE, OTHER_CAPTION, OTHER_IMAGE, plain, shown
from captioner.captions.formats.json_stream import json_lines, walk
from captioner.captions.formats.records import Tally, TextFile, as_json, name_of
from captioner.captions.formats.tables import DELIMITERS, blanks_behind
from captioner.captions.formats.text import caption_text, decode, lines
from captioner.sources.archives import Files, visible

_IMAGE, _CAPTION = (*IMAGE, *OTHER_IMAGE), (*CAPTION, *OTHER_CAPTION)
_JSON = re.compile(r'\s*(?:\[\s*[{\]]|\{\s*["}])')  # not the name of a photo such as [2020]/1.jpg
_PATHS = re.compile(rb"^[^\0\t\n]+(?=\t)", re.MULTILINE)
_FORMS = (
    'JSON as [{"image_id": ..., "caption": ...}], JSON lines, a table with the columns image and caption, or lines of '
    "path, tab, caption"
)

Found = Iterator[tuple[str, Any, str]]  # an image, its caption, the place where they stand


def read_predictions(path: str | Path, column: str | None = None) -> dict[str, str]:
    """Return the caption of each image by the image's name, as the file has it; a numeric id becomes text.

    `column` names the column or key of the captions. Of several captions in the lines of `captioner caption --top` the
    first is taken, which is the best. Raises CaptionerError that names the line or key where the file is of another
    form, and where an image has two captions otherwise, or that names a path that is a folder or cannot be read.
    """
    if Path(path).is_dir():
        raise CaptionerError(f"{path}: is a folder; expected a file. `captioner caption` without --write prints one")
    shown_path = str(path)
    file = TextFile(shown_path, shown_path, _text(Files([path]).read(shown_path), shown_path))
    captions: dict[str, str] = {}
    places: dict[str, str] = {}
    for name, text, place in _read(file, column):
        image = name_of(name, place)
        if image in captions:
            raise CaptionerError(f"{place}: {visible(image)} has a caption already ({places[image]}); expected one")
        captions[image], places[image] = caption_text(_one(text, place), place, Tally()), place
    if not captions:
        raise CaptionerError(f"{path}: no predictions in it; expected {_FORMS}")
    return captions


def _text(data: bytes, shown: str) -> str:
    """Decode a file. Paths before a tab may have bytes that are not UTF-8, because `captioner caption` prints those."""
    try:
        return decode(data, shown)
    except CaptionerError:
        with suppress(CaptionerError):
            decode(_PATHS.sub(b"", data), shown)
            return data.decode("utf-8-sig", "surrogateescape")
        raise


def _read(file: TextFile, column: str | None) -> Found:
    start = file.content.lstrip()[:1] if _JSON.match(file.content) else ""
    if start == "[":
        return _rows(((f"{file.shown}: [{at}]", row) for _, at, row in walk(file)), column)
    if start == "{":
        try:
            first = json.loads(file.content.lstrip().partition("\n")[0])
        except (ValueError, RecursionError):
            first = None  # the beginning of an object over several lines
        if isinstance(first, dict) and (_key(first, _IMAGE) or "\n" in file.content.strip()):
            return _rows(json_lines(file, lines(file.content, file.shown)), column)
        return _object(file, column)
    first = next((line for _, line in lines(file.content, file.shown)), "")
    delimiter = _delimiter(first, column)
    if delimiter is not None:
        return _table(file, delimiter, first, column)
    if column is not None:
        raise CaptionerError(
            f"{file.shown}: has no columns to look for {column} in; expected a table with a header, or JSON"
        )
    return _tab_lines(file)


def _delimiter(line: str, column: str | None) -> str | None:
    """Return the delimiter of a header: one that gives both columns, else one that gives that of the image alone."""
    try:
        # a tab goes first: in path<TAB>caption other delimiters are part of the caption
        delimiters = ("\t",) if "\t" in line else DELIMITERS
        cells = {each: next(csv.reader([line], delimiter=each), []) for each in delimiters}
    except csv.Error:  # lines that end in a carriage return alone, or a field that is too long
        return None
    with_image = [each for each in delimiters if len(cells[each]) > 1 and _key(cells[each], _IMAGE)]
    keys = _CAPTION if column is None else (plain(column),)
    return next((each for each in with_image if _key(cells[each], keys)), with_image[0] if with_image else None)


def _object(file: TextFile, column: str | None) -> Found:
    """Yield the predictions of one JSON object: rows in a list of it, or captions by name."""
    for key, at, value in walk(file):
        place = f"{file.shown}: {key[:80]}"
        if key in ("annotations", "predictions", "results", "data"):
            if at is not None:
                yield from _rows([(f"{place}[{at}]", value)], column)
        elif at is not None or value != []:
            if isinstance(value, dict):
                yield from ((key, text, place) for _, text, _ in _rows([(place, {"image": key, **value})], column))
            else:
                yield key, value, place


def _rows(rows: Iterable[tuple[str, Any]], column: str | None) -> Found:
    for place, row in rows:
        if not isinstance(row, dict):
            raise CaptionerError(f"{place}: is {as_json(row)}, expected an object such as {{image_id, caption}}")
        image, caption = _chosen(list(row), column, place)
        yield row[image], row[caption], place


def _table(file: TextFile, delimiter: str, first: str, column: str | None) -> Found:
    content, blanks = io.StringIO(file.content, newline=""), blanks_behind(delimiter, first)
    reader = csv.reader(content, delimiter=delimiter, strict=True, skipinitialspace=blanks)
    header: list[str] = []
    at_image = at_caption = 0
    try:
        for row in reader:
            place = f"{file.shown}, line {reader.line_num}"
            if not any(map(str.strip, row)):
                continue
            if not header:
                header = row
                image, caption = _chosen(header, column, place)
                at_image, at_caption = header.index(image), header.index(caption)
            elif len(row) != len(header):
                raise CaptionerError(
                    f"{place}: {len(row)} fields, expected {len(header)} ({shown(header)}); put a caption with "
                    "the delimiter or a line break in it into double quotes"
                )
            else:
                yield row[at_image], row[at_caption], place
    except csv.Error as error:
        raise CaptionerError(f"{file.shown}, line {reader.line_num}: not CSV ({error})") from None


def _tab_lines(file: TextFile) -> Found:
    ranked = set()  # the images of `--top`, whose first line has the best caption
    for number, line in lines(file.content, file.shown):
        place = f"{file.shown}, line {number}"
        cells = line.split("\t")
        if len(cells) not in (2, 4):
            raise CaptionerError(f"{place}: {visible(line[:60])} is not of a known form; expected {_FORMS}")
        if len(cells) == 4:
            if cells[0] in ranked:
                continue
            ranked.add(cells[0])
        yield cells[0], cells[1], place


def _chosen(names: list[str], column: str | None, place: str) -> tuple[str, str]:
    """Return the names of the image's and the caption's column."""
    image = _key(names, _IMAGE)
    if image is None:
        raise CaptionerError(f"{place}: has {shown(names)}; expected the image's name as {', '.join(_IMAGE)}")
    caption = _key(names, _CAPTION if column is None else (plain(column),))
    if caption is None:
        expected = f"one of {', '.join(_CAPTION)}, or the name that --column gives" if column is None else column
        raise CaptionerError(f"{place}: has {shown(names)}; expected the caption as {expected}")
    return image, caption


def _key(names: Iterable[str], keys: Iterable[str]) -> str | None:
    """Return the first of the wanted names that is there, as it is spelt there."""
    spelt = {plain(name): name for name in reversed(list(names))}
    return next((spelt[name] for name in keys if name in spelt), None)


def _one(value: Any, place: str) -> str:
    """Return a caption: a text, or the only one in a list."""
    if isinstance(value, list) and len(value) == 1:
        value = value[0]
    if isinstance(value, dict) and "caption" in value:
        value = value["caption"]
    if not isinstance(value, str):
        raise CaptionerError(f"{place}: the caption is {as_json(value)}; expected one text")
    return value
