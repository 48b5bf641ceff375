"""Sidecars: a text file beside each photo, `1.txt` or `1.caption` beside `1.jpg`, or webdataset's `1.json`."""

import json
from collections.abc import Iterator

from captioner.base.errors import CaptionerError
from captioner.captions.formats.columns import choose
from captioner.captions.formats.records import Columns, Record, Tally, value_of
from captioner.captions.formats.text import captions_of_cell, decode, lines
from captioner.sources.archives import Archive, Files, without_suffix


def read_sidecars(texts: Archive | Files, names: list[str], tally: Tally, columns: Columns) -> Iterator[Record]:
    """Yield a record for each text file; its image is the file's path without the suffix."""
    for name in names:
        data, split = texts.read(name), ""
        if name.lower().endswith(".json"):
            captions, split = _of_json(data, name, tally, columns)
        else:
            captions = tuple(
                text
                for number, line in lines(decode(data, name), name)
                for text in captions_of_cell(line.strip(), f"{name}, line {number}", tally)
            )
        yield Record(without_suffix(name), captions, name, split)


def _of_json(data: bytes, name: str, tally: Tally, columns: Columns) -> tuple[tuple[str, ...], str]:
    """Return the captions and the split, "" where none is given."""
    try:
        content = json.loads(decode(data, name))
    except ValueError as error:
        raise CaptionerError(f"{name}: not JSON ({error})") from None
    except RecursionError:
        raise CaptionerError(f"{name}: JSON that is nested too deep; expected a flat object") from None
    if not isinstance(content, dict):
        raise CaptionerError(f"{name}: not a JSON object; expected one with the key caption or text")
    chosen = choose(
        [*content, "image"] if "image" not in content else list(content),
        Columns("image", columns.caption, columns.split),
        name,
    )
    captions = (text for key in chosen.captions for text in captions_of_cell(content[key], f"{name}: {key}", tally))
    return tuple(captions), value_of(content, chosen.split, str, name, "") if chosen.split else ""
