"""The forms of JSON: COCO's, Karpathy's, rows, JSON Lines, and an object from names to captions."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

from captioner.base.errors import CaptionerError
from captioner.captions.formats.columns import Chosen, choose, with_split
from captioner.captions.formats.json_stream import json_lines, walk
from captioner.captions.formats.records import Columns, Record, Tally, TextFile, as_json, name_of, value_of
from captioner.captions.formats.splits import split_in
from captioner.captions.formats.text import captions_of_cell, lines

Rows = Iterator[tuple[str, Any]]
"""(place, row) of each row."""

_MARKED = {
    "is_precanned": "captions that say a photo cannot be described (is_precanned)",
    "is_rejected": "rejected captions (is_rejected)",
}


def read_karpathy(file: TextFile, tally: Tally, columns: Columns) -> Iterator[Record]:
    """Yield a record for each image of Karpathy's JSON."""
    _refuse_columns(file, columns)
    seen: dict[str, str] = {}
    listed = False
    for key, at, entry in walk(file):
        if at is None and key != "images":
            if key == "" and not isinstance(entry, dict):
                raise CaptionerError(f"{file.shown}: is {as_json(entry)}, expected an object with images")
            continue
        if at is None:
            listed = True
            if not isinstance(entry, list):
                raise CaptionerError(f"{file.shown}.images: is {as_json(entry)}, expected a list")
            continue
        if key != "images":
            continue
        place = f"{file.shown}: images[{at}]"
        if isinstance(entry, dict) and "file_name" in entry and "filename" not in entry:
            raise CaptionerError(f"{file.shown}: has no annotations; expected COCO's captions_*.json")
        name = value_of(entry, "filename", str, place)
        folder = value_of(entry, "filepath", str, place, "")
        image = name_of(f"{folder}/{name}" if folder else name, place)
        if image in seen:
            raise CaptionerError(f"{place}: {image} is listed twice, first at {seen[image]}; expected once")
        seen[image] = place
        captions = tuple(
            _sentence(sentence, f"{place}.sentences[{number}]")
            for number, sentence in enumerate(value_of(entry, "sentences", list, place))
        )
        yield Record(image, captions, place, value_of(entry, "split", str, place, ""))
    if not listed:
        raise CaptionerError(f"{file.shown}.images: missing; expected a list")


def _sentence(sentence: Any, place: str) -> str:
    if isinstance(sentence, str):
        return sentence
    raw = value_of(sentence, "raw", str, place, "")
    if not raw.strip() and "tokens" in sentence:
        return " ".join(map(str, value_of(sentence, "tokens", list, place)))
    if "raw" not in sentence:
        raise CaptionerError(f"{place}: neither raw nor tokens; expected the caption in one of them")
    return raw


def _refuse_columns(file: TextFile, columns: Columns) -> None:
    for role, key in (("image", columns.image), ("caption", columns.caption)):
        if key is not None:
            raise CaptionerError(
                f"{file.shown}: own.columns.{role} is {key}, but the keys of this form are fixed; set it to null"
            )


def read_coco(file: TextFile, tally: Tally, columns: Columns) -> Iterator[Record]:
    """Yield a record for each image of a file of COCO's form that has captions."""
    _refuse_columns(file, columns)
    names: dict[str, tuple[str, str]] = {}  # all by id
    splits: dict[str, str] = {}
    captions: dict[str, list[str]] = {}
    places: dict[str, str] = {}
    for key, at, entry in walk(file):
        if at is None or key not in ("images", "annotations"):
            continue
        place = f"{file.shown}: {key}[{at}]"
        if key == "images":
            image = _id(entry, "id", place)
            key = "filename" if "file_name" not in entry and "filename" in entry else "file_name"
            name = name_of(value_of(entry, key, str, place), place)
            if image in names and names[image][0] != name:
                other, where = names[image]
                raise CaptionerError(f"{place}: id {image} is that of {other} already ({where}); expected another id")
            names[image] = name, place
            splits[image] = value_of(entry, columns.split or "split", str, place, "")
            continue
        image = _id(entry, "image_id", place)
        mark = next((mark for mark in _MARKED if entry.get(mark)), None)
        if mark:
            tally.left_out[_MARKED[mark]] += 1
            continue
        if "caption" not in entry:
            raise CaptionerError(
                f"{place}.caption: missing; expected captions_*.json, not the file of objects or people"
            )
        captions.setdefault(image, []).extend(captions_of_cell(entry["caption"], f"{place}.caption", tally))
        places.setdefault(image, place)
    for image, place in places.items():
        if image not in names:
            raise CaptionerError(f"{place}: image_id is {image}, but no image of the file has that id; expected one")
    for image, (name, place) in names.items():
        if image in captions:
            yield Record(name, tuple(captions.pop(image)), place, splits[image])
        else:
            tally.left_out["images that the captions file lists without captions"] += 1


def _id(entry: Any, key: str, place: str) -> str:
    """Return an id as text: some files have numbers in one list and text in the other."""
    if not isinstance(entry, dict):
        raise CaptionerError(f"{place}: is {as_json(entry)}, expected an object with {key}")
    value = entry.get(key)
    if not isinstance(value, int | str):
        raise CaptionerError(f"{place}.{key}: is {as_json(value)}, expected a number or text")
    return str(value)


def read_rows(file: TextFile, tally: Tally, columns: Columns) -> Iterator[Record]:
    """Yield a record for each object of a list: the file's own, or the one under `data` or `annotations`."""

    def rows() -> Rows:
        for key, at, entry in walk(file):
            if at is not None and key in ("", "data", "annotations"):
                yield f"{file.shown}: {key}[{at}]", entry

    yield from _records(rows(), tally, _with_split(columns, rows))


def read_lists_of_rows(file: TextFile, tally: Tally, columns: Columns) -> Iterator[Record]:
    """Yield a record for each row of an object of lists, such as `{"train": [...], "val": [...]}`.

    The key of a list is the split of its rows, if it is the name of one and the row has no split.
    """

    def rows() -> Iterator[tuple[str, str, Any]]:
        for key, at, entry in walk(file):
            if at is not None:
                yield key, f"{file.shown}: {key[:80]}[{at}]", entry

    columns = _with_split(columns, lambda: (row[1:] for row in rows()))
    for key, place, entry in rows():
        for record in _records(iter([(place, entry)]), tally, columns):
            yield record if record.split else replace(record, split=split_in(key))


def read_json_lines(file: TextFile, tally: Tally, columns: Columns) -> Iterator[Record]:
    """Yield a record for each line of JSON Lines."""

    def rows() -> Rows:
        return json_lines(file, lines(file.content, file.shown))

    yield from _records(rows(), tally, _with_split(columns, rows))


def read_mapping(file: TextFile, tally: Tally, columns: Columns) -> Iterator[Record]:
    """Yield a record for each key of an object from names to a caption or a list of captions."""
    captions_of: dict[str, list[str]] = {}
    for key, _, value in walk(file):
        captions_of.setdefault(key, [])
        if value != []:
            captions_of[key].extend(captions_of_cell(value, f"{file.shown}: {key[:80]}", tally))
    for name, captions in captions_of.items():
        place = f"{file.shown}: {name[:80]}"
        yield Record(name_of(name, place), tuple(captions), place)


def _with_split(columns: Columns, rows: Callable[[], Rows]) -> Columns:
    return with_split(columns, lambda: (row if isinstance(row, dict) else {} for _, row in rows()))


def _records(rows: Rows, tally: Tally, columns: Columns) -> Iterator[Record]:
    chosen_by_keys: dict[tuple[str, ...], Chosen] = {}  # rows may lack a caption or the split
    for place, row in rows:
        if not isinstance(row, dict):
            raise CaptionerError(f"{place}: is {as_json(row)}, expected an object with a photo's name and its caption")
        keys = tuple(row)
        if keys not in chosen_by_keys:
            chosen_by_keys[keys] = choose(keys, columns, place)
            ignored = chosen_by_keys[keys].ignored
            tally.ignored_columns += [name for name in ignored if name not in tally.ignored_columns]
        chosen = chosen_by_keys[keys]
        captions = tuple(
            text
            for name in chosen.captions
            if row.get(name) is not None or len(chosen.captions) == 1
            for text in captions_of_cell(row.get(name), f"{place}.{name}", tally)
        )
        split = value_of(row, chosen.split, str, place, "") if chosen.split else ""
        yield Record(name_of(row.get(chosen.image), f"{place}.{chosen.image}"), captions, place, split)
