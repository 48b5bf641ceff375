"""Which column of a table, or key of a JSON row, is the photo, the caption and the split."""

import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from captioner.base.errors import CaptionerError
from captioner.captions.formats.records import Columns
from captioner.captions.formats.splits import is_split

IMAGE = ("image", "file", "filename", "file_name", "path", "photo")
CAPTION = ("caption", "text", "sentence", "description", "comment")
# taken where no column has a name of those above; the first one that is there
OTHER_IMAGE = (
    *("image_name", "image_file", "image_filename", "image_file_name", "filepath", "file_path", "image_path"),
    *("img", "img_name", "img_file", "img_path", "photo_name", "photo_path", "picture", "image_id"),
)
OTHER_CAPTION = ("caption_str", "captions", "sentences", "raw", "texts", "comments")
SPLIT = ("split", "set_name")
OTHER_SPLIT = ("set", "subset", "partition")  # taken where all their values are names of splits

_LISTS = ("captions", "sentences", "texts", "comments")  # of OTHER_CAPTION; with a column of CAPTION either is meant
_NUMBERED = re.compile(rf"({'|'.join((*CAPTION, 'raw'))})[ _.-]?\d+")


@dataclass(frozen=True)
class Chosen:
    """The names of the columns, as the file spells them."""

    image: str
    captions: tuple[str, ...]
    split: str | None
    ignored: tuple[str, ...]


def plain(name: str) -> str:
    """Return a column's name without case and spaces around it."""
    return name.strip().casefold()


def fits(header: Sequence[str]) -> bool:
    """Return whether there is a name for the photo's column and one for the caption's."""
    names = {plain(name) for name in header}
    image = names & {*IMAGE, *OTHER_IMAGE}
    return bool(image) and (bool(names & {*CAPTION, *OTHER_CAPTION}) or any(map(_NUMBERED.fullmatch, names)))


def choose(header: Sequence[str], columns: Columns, place: str) -> Chosen:
    """Choose the columns by their names, or as `own.columns` says.

    Raises CaptionerError where a column is missing, and where two could be meant.
    """
    image = _one(header, columns.image, "image", IMAGE, OTHER_IMAGE, place)
    captions = () if columns.caption else _numbered(header)
    if not captions:
        captions = (_one(header, columns.caption, "caption", CAPTION, OTHER_CAPTION, place, either=_LISTS),)
    split: str | None = None
    if columns.split is not None:
        split = _one(header, columns.split, "split", SPLIT, (), place)
    else:
        split = next((name for name in header if plain(name) in SPLIT), None)
    used = {image, *captions, split}
    names = Counter(map(plain, header))
    twice = next((name for name in header if name in used and names[plain(name)] > 1), None)
    if twice is not None:
        raise CaptionerError(f"{place}: two columns are called {twice}; rename one, such as to {twice}_2")
    return Chosen(image, captions, split, tuple(name for name in header if name not in used and name.strip()))


def with_split(columns: Columns, rows: Callable[[], Iterator[Mapping[str, Any]]]) -> Columns:
    """Return the columns with one of OTHER_SPLIT as the split, where each row has the name of a split there.

    `rows` is called only where the first row has such a column and none of SPLIT.
    """
    header = {plain(name): name for name in next(rows(), {})}
    other = next((name for name in OTHER_SPLIT if name in header), None)
    if columns.split is not None or other is None or not header.keys().isdisjoint(SPLIT):
        return columns
    values = (row.get(header[other]) for row in rows())
    given = all(isinstance(each, str) and is_split(each) for each in values)
    return replace(columns, split=other) if given else columns


def _numbered(header: Sequence[str]) -> tuple[str, ...]:
    """Return the columns `caption_1`, `caption_2` ..., with the one that has no number if there is one.

    Returns nothing where a column of another name has the caption.
    """
    numbered = [match[1] for name in header if (match := _NUMBERED.fullmatch(plain(name)))]
    without = [plain(name) for name in header if plain(name) in (*CAPTION, *OTHER_CAPTION)]
    if not numbered or not set(without) <= set(numbered):
        return ()
    return tuple(name for name in header if plain(name) in without or _NUMBERED.fullmatch(plain(name)))


def _one(
    header: Sequence[str],
    chosen: str | None,
    role: str,
    first: Sequence[str],
    other: Sequence[str],
    place: str,
    either: Sequence[str] = (),
) -> str:
    """Return the column with a name of `first`, or else the one whose name comes first in `other`.

    Raises CaptionerError where none has one, where several have a name of `first`, and where one has a name of `first`
    and another has one of `either`.
    """
    if chosen is not None:
        matches = [name for name in header if plain(name) == plain(chosen)]
        if not matches:
            raise CaptionerError(
                f"{place}: own.columns.{role} is {chosen}, but the columns are {shown(header)}; expected one of them"
            )
        return matches[0]
    matches = [name for name in header if plain(name) in first]
    if matches:
        matches += [name for name in header if plain(name) in either]
    if len(set(map(plain, matches))) > 1:
        raise CaptionerError(
            f"{place}: the columns {' and '.join(matches)} could both be the {role}; set own.columns.{role} in "
            "params.yaml to the one that is meant, or rename one"
        )
    for name in other:
        matches = matches or [each for each in header if plain(each) == name][:1]
    if not matches:
        raise CaptionerError(
            f"{place}: the columns are {shown(header)}; expected one for the {role}, named {', '.join(first)}, or "
            f"the one that own.columns.{role} in params.yaml names"
        )
    return matches[0]


def shown(header: Sequence[str]) -> str:
    """Return the names of columns for a message."""
    return ", ".join(header)[:80]
