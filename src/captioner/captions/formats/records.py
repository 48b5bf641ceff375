"""The types of all readers: a text file as input, records as output, and a tally of repairs and faults."""

import json
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from captioner.base.errors import CaptionerError
from captioner.sources.archives import visible


@dataclass(frozen=True)
class TextFile:
    """A decoded file of captions."""

    name: str  # its path in the archive
    shown: str  # its name in messages
    content: str


@dataclass(frozen=True)
class Record:
    """Captions of one photo, in their original form, at one place of a file."""

    image: str  # the photo's name, as it is written
    captions: tuple[str, ...]
    place: str  # file and line or key, for messages
    split: str = ""  # as it is written, "" where none is given


@dataclass(frozen=True)
class Columns:
    """The columns (or JSON keys) that `own.columns` names; None: chosen by their names."""

    image: str | None = None
    caption: str | None = None
    split: str | None = None


@dataclass
class Tally:
    """Counts of what was left out and what was repaired, by kind."""

    left_out: Counter[str] = field(default_factory=Counter)
    repaired: Counter[str] = field(default_factory=Counter)
    ignored_columns: list[str] = field(default_factory=list)
    faults: Counter[str] = field(default_factory=Counter)
    """Faults that stop the stage unless `dataset.on_bad` is skip."""
    first: dict[str, str] = field(default_factory=dict)
    """The message of the first fault of each kind."""

    def fault(self, kind: str, message: Callable[[], str]) -> None:
        """Count a fault; `message` is called for the first of its kind only."""
        if kind not in self.first:
            self.first[kind] = message()
        self.faults[kind] += 1


Reader = Callable[[TextFile, Tally, Columns], Iterator[Record]]


def value_of(holder: Any, key: str, kind: type, place: str, default: Any = None) -> Any:
    """Return holder[key].

    Without a default the key must be there. With a default the key may be missing or null. Raises CaptionerError that
    names the key where the value is of another kind.
    """
    expected = "a list" if kind is list else "text"
    if not isinstance(holder, dict):
        raise CaptionerError(f"{place}: is {as_json(holder)}, expected an object with {key}")
    if key not in holder and default is None:
        raise CaptionerError(f"{place}.{key}: missing; expected {expected}")
    value = holder.get(key, default)
    if value is None and default is not None:
        return default
    if not isinstance(value, kind):
        raise CaptionerError(f"{place}.{key}: is {as_json(value)}, expected {expected}")
    return value


def name_of(value: Any, place: str) -> str:
    """Return a photo's name or numeric id as text; raises CaptionerError where it is empty or of another kind."""
    if isinstance(value, int | float) and not isinstance(value, bool) and value == value // 1:
        return str(int(value))
    if not isinstance(value, str):
        raise CaptionerError(f"{place}: is {as_json(value)}, expected text: the name of a photo")
    name = value.strip()
    if len(name) > 1 and name[0] == name[-1] == '"':  # Windows copies paths with quotes
        name = name[1:-1].strip()
    if not name.strip("/\\. "):
        raise CaptionerError(f"{place}: the photo's name is empty ({visible(value)!r}); expected the name of a photo")
    return name


def as_json(value: Any) -> str:
    """Return the beginning of a value as JSON, for messages."""
    try:
        return json.dumps(value)[:40]
    except (RecursionError, ValueError):
        return f"a deeply nested {type(value).__name__}"
