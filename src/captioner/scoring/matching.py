"""Match the images of predictions with those of references, whose names may differ."""

import re
import unicodedata
from collections import defaultdict
from collections.abc import Iterable, Mapping
from pathlib import PurePosixPath
from typing import NamedTuple
from urllib.parse import unquote

from captioner.base.errors import CaptionerError
from captioner.sources.archives import PHOTO_SUFFIXES, visible

_COCO = re.compile(r"coco_(?:train|val|test)20\d\d_(?=\d{12}$)")
_LAST_NUMBER = re.compile(r"(?:^|[^0-9])([0-9]{1,30})$")
_NAMES_SHOWN = 3


class Matched(NamedTuple):
    """Predictions by the names that the references have for their images."""

    captions: dict[str, str]  # in the order of the references
    missing: list[str]  # images of the references without a prediction
    unknown: list[str]  # names in the predictions without a reference


def match(
    references: Iterable[str],
    predictions: Mapping[str, str],
    ids: Mapping[str, str] | None = None,
    others: Iterable[str] = (),
) -> Matched:
    """Return predictions, a caption by the image's name, under the names of `references`.

    The same name goes first, then an id in `ids` (an image's name by id). Else names are equal without their case,
    folder, suffix or COCO's `COCO_val2014_`. A name that is a number fits a name that ends in that number. Of several
    that fit, those with the same folders are meant. A prediction of one of the `others`, images that exist but are not
    asked for, is unknown. A name that only resembles an image's is unknown, too, if another prediction has the exact
    name or id. Raises CaptionerError where two images fit equally well, and where two predictions are of one image.
    """
    names = _Names(references, ids or {}, others)
    named = {names.exact[name] for name in predictions if name in names.exact}
    name_of: dict[str, str] = {}  # the name in the predictions, by image
    unknown = []
    for name in predictions:
        image = names.find(name)
        if image is None or (image in named and name not in names.exact):
            unknown.append(name)
        elif image in name_of:
            raise CaptionerError(
                f"{visible(name_of[image])} and {visible(name)}: both are predictions of the image {visible(image)}; "
                "expected one"
            )
        else:
            name_of[image] = name
    captions = {image: predictions[name_of[image]] for image in names.images if image in name_of}
    return Matched(captions, [image for image in names.images if image not in name_of], unknown)


def some(names: Iterable[str]) -> str:
    """Return how many names there are, and the first ones, for messages."""
    names = list(names)
    listed = ", ".join(map(visible, names[:_NAMES_SHOWN]))
    return f"{len(names)} ({listed}{', ...' if len(names) > _NAMES_SHOWN else ''})"


class _Name(NamedTuple):
    folders: tuple[str, ...]  # the innermost first
    end: str
    stem: str
    is_number: bool
    number: int | None  # at the end of the stem


class _Names:
    """Finds images by the names in the predictions."""

    def __init__(self, images: Iterable[str], ids: Mapping[str, str], others: Iterable[str]):
        self.images = dict.fromkeys(images)
        known = dict.fromkeys([*self.images, *others, *ids.values()])
        self.exact = {**ids, **{image: image for image in known}}  # the image by its id or name
        self._parts = {image: _parts(image) for image in known}
        self._index: defaultdict[tuple[str, str | int | None], list[str]] = defaultdict(list)
        for image, name in self._parts.items():
            for key in ("end", "stem", "number"):
                self._index[key, getattr(name, key)].append(image)

    def find(self, name: str) -> str | None:
        """Return the one of `images` that `name` means, None if it means no image or another one."""
        if name in self.exact:
            return self.exact[name] if self.exact[name] in self.images else None
        parts = _parts(name)
        for key in ("end", "stem", "number"):
            value = getattr(parts, key)
            matches = [] if value is None else self._index.get((key, value), [])
            if key == "number" and not parts.is_number:
                matches = [image for image in matches if self._parts[image].is_number]
            if not matches:
                continue
            matches = [image for image in self._of_same_folder(parts, matches) if image in self.images]
            if len(matches) > 1:
                raise CaptionerError(
                    f"{visible(name)}: may be the image {visible(matches[0])} or {visible(matches[1])}; write the name "
                    "as the references have it"
                )
            return matches[0] if matches else None
        return None

    def _of_same_folder(self, name: _Name, images: list[str]) -> list[str]:
        def agreeing(image: str) -> int:
            pairs = zip(name.folders, self._parts[image].folders, strict=False)
            return next((level for level, (one, other) in enumerate(pairs) if one != other), len(name.folders))

        best = max(map(agreeing, images))
        return [image for image in images if agreeing(image) == best]


def _parts(name: str) -> _Name:
    plain = unicodedata.normalize("NFC", unquote(name)).replace("\\", "/").casefold().strip()
    *folders, end = PurePosixPath(plain).parts or ("",)
    stem = next((end[: -len(suffix)] for suffix in PHOTO_SUFFIXES if end.endswith(suffix)), end)
    stem = _COCO.sub("", stem)
    number = _LAST_NUMBER.search(stem)
    is_number = stem.isascii() and stem.isdecimal()
    return _Name(tuple(reversed(folders)), end, stem, is_number, int(number[1]) if number else None)
