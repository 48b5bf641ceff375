"""Splits: their names, lists of photos, and drawn splits."""

import hashlib
import re
from collections.abc import Iterable
from pathlib import PurePosixPath

from captioner.base.errors import CaptionerError
from captioner.captions.dataset import SPLITS

SPLIT_NAMES = {
    "train": "train",
    "training": "train",
    "trn": "train",
    "restval": "train",
    "dev": "dev",
    "development": "dev",
    "val": "dev",
    "valid": "dev",
    "validation": "dev",
    "eval": "dev",
    "evaluation": "dev",
    "test": "test",
    "testing": "test",
    "holdout": "test",
}
SPLIT_FILES = {split: f"Flickr_8k.{split}Images.txt" for split in SPLITS}

_WORD = re.compile(r"[A-Za-z]+")
_OF_DATA = re.compile(r"(?<=.)(?:set|data|images|photos|captions)$")  # trainset, testdata


def split_of(name: str, place: str) -> str:
    """Return train, dev or test for a split as people write it (`Validation`, `train2014`), "" for "".

    Raises CaptionerError for a name that is not understood.
    """
    if not name.strip():
        return ""
    if not is_split(name):
        raise CaptionerError(f"{place}: split is {name[:40]!r}, expected one of {', '.join(SPLIT_NAMES)}")
    return SPLIT_NAMES[_word_of(name)]


def is_split(name: str) -> bool:
    """Return whether `split_of` understands a name."""
    return _word_of(name) in SPLIT_NAMES


def _word_of(name: str) -> str:
    word = name.strip().casefold().rstrip("0123456789-_ ")
    return _OF_DATA.sub("", word).rstrip("-_ ")


def split_in(name: str) -> str:
    """Return the split that a file's or folder's name says (`captions_train2017.json`), "" where none or several."""
    words = {word.casefold() for word in _WORD.findall(name)}
    # trainImages, valCaptions: words that are written together
    words |= {word.casefold() for word in re.findall(r"[A-Z]?[a-z]+", name)}
    words |= {_OF_DATA.sub("", word) for word in words}
    splits = {SPLIT_NAMES[word] for word in words if word in SPLIT_NAMES}
    return splits.pop() if len(splits) == 1 else ""


def split_of_folders(path: str) -> str:
    """Return the split that the nearest folder with a split's name says, "" where there is none."""
    for folder in reversed(PurePosixPath(path.replace("\\", "/")).parts[:-1]):
        if split := split_in(folder):
            return split
    return ""


def draw_splits(
    images: Iterable[str], *, dev: float, test: float, seed: int, file: str = "the captions"
) -> dict[str, str]:
    """Return a split for each image: `dev` and `test` are shares of all, at least one image each.

    `file` names the captions in messages.
    The seed and the names alone decide the split of an image. An image that is added later moves few others.
    """
    if dev + test >= 1:
        raise CaptionerError(f"own.dev and own.test: are {dev} and {test}, expected less than 1 together")
    drawn = _shuffled(images, seed)
    if len(drawn) < len(SPLITS):
        raise CaptionerError(
            f"{file}: {len(drawn)} photo{'s' * (len(drawn) != 1)} in all; expected {len(SPLITS)} or more, one for each "
            f"of {', '.join(SPLITS)}"
        )
    first = min(max(1, round(dev * len(drawn))), len(drawn) - 2)
    second = min(first + max(1, round(test * len(drawn))), len(drawn) - 1)
    return {image: "dev" if at < first else "test" if at < second else "train" for at, image in enumerate(drawn)}


def draw_from_train(images: Iterable[str], split: str, *, share: float, seed: int, file: str) -> set[str]:
    """Return the training images that become `split`: `share` of them, at least one and not all."""
    drawn = _shuffled(images, seed)
    if len(drawn) < 2:
        raise CaptionerError(
            f"{file}: no photo is in the {split} split, and {len(drawn)} in train; expected 2 or more in train to draw "
            f"the {split} split from, or photos in the {split} split"
        )
    return set(drawn[: min(max(1, round(share * len(drawn))), len(drawn) - 1)])


def _shuffled(images: Iterable[str], seed: int) -> list[str]:
    return sorted(images, key=lambda image: hashlib.sha256(f"{seed}/{image}".encode(errors="surrogatepass")).digest())
