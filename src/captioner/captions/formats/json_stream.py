"""JSON a piece at a time: only one item of a long list is in memory as objects."""

import json
import re
from collections.abc import Generator, Iterator
from json import JSONDecodeError
from typing import Any

from captioner.base.errors import CaptionerError
from captioner.captions.formats.records import TextFile

_SPACE = re.compile(r"[ \t\n\r]*")
_DECODER = json.JSONDecoder()

Piece = tuple[str, int | None, Any]


def walk(file: TextFile) -> Iterator[Piece]:
    """Yield (key, index, item) for each item of the lists in the topmost object, (key, None, value) for other values.

    Where the file is a list, its items have the key "". Raises CaptionerError that says where the file is not JSON.
    """
    try:
        yield from _walk(file.content)
    except ValueError as error:  # also a number of more than 4,300 digits
        raise CaptionerError(f"{file.shown}: not JSON ({error}); save it again, or download it again") from None
    except RecursionError:
        raise CaptionerError(
            f"{file.shown}: JSON that is nested too deep; expected captions in one of the forms that "
            "docs/own-data.md lists"
        ) from None


def json_lines(file: TextFile, numbered: Iterator[tuple[int, str]]) -> Iterator[tuple[str, Any]]:
    """Yield (place, value) of each line of a JSON Lines file."""
    for number, line in numbered:
        place = f"{file.shown}, line {number}"
        try:
            yield place, json.loads(line)
        except JSONDecodeError as error:
            raise CaptionerError(f"{place}: not JSON ({error.msg}, column {error.colno})") from None
        except ValueError as error:
            raise CaptionerError(f"{place}: not JSON ({error})") from None
        except RecursionError:
            raise CaptionerError(f"{place}: JSON that is nested too deep; expected a flat object") from None


def _walk(text: str) -> Iterator[Piece]:
    at = _skip(text, 0)
    if text[at : at + 1] == "[":
        at = yield from _list(text, at, "")
    elif text[at : at + 1] == "{":
        at = yield from _object(text, at)
    else:
        value, at = _DECODER.raw_decode(text, at)
        yield "", None, value
    if _skip(text, at) != len(text):
        raise JSONDecodeError("Extra data", text, _skip(text, at))


def _object(text: str, at: int) -> Generator[Piece, None, int]:
    at = _skip(text, at + 1)
    while text[at : at + 1] != "}":
        if text[at : at + 1] != '"':
            raise JSONDecodeError("Expecting property name enclosed in double quotes", text, at)
        key, at = _DECODER.raw_decode(text, at)
        at = _skip(text, at)
        if text[at : at + 1] != ":":
            raise JSONDecodeError("Expecting ':' delimiter", text, at)
        at = _skip(text, at + 1)
        if text[at : at + 1] == "[":
            yield key, None, []
            at = yield from _list(text, at, key)
        else:
            value, at = _DECODER.raw_decode(text, at)
            yield key, None, value
        at = _after(text, at, "}")
    return at + 1


def _list(text: str, at: int, key: str) -> Generator[Piece, None, int]:
    at = _skip(text, at + 1)
    index = 0
    while text[at : at + 1] != "]":
        item, at = _DECODER.raw_decode(text, at)
        yield key, index, item
        index += 1
        at = _after(text, at, "]")
    return at + 1


def _after(text: str, at: int, end: str) -> int:
    """Return the position of the next item, or of the end."""
    at = _skip(text, at)
    if text[at : at + 1] == ",":
        at = _skip(text, at + 1)
        if text[at : at + 1] == end:
            raise JSONDecodeError("Expecting value", text, at)
    elif text[at : at + 1] != end:
        raise JSONDecodeError("Expecting ',' delimiter", text, at)
    return at


def _skip(text: str, at: int) -> int:
    match = _SPACE.match(text, at)
    return match.end() if match else at
