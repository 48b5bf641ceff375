"""What a dataset's texts say - splits and captions - whichever of three layouts they are in.

Flickr8k's
    Flickr8k.token.txt, Flickr8k.lemma.token.txt    name.jpg#0<TAB>caption, in PTB tokens
    Flickr_8k.{train,dev,test}Images.txt            a name a line
one CSV file
    columns image, caption and, if wanted, split; a row a caption, as many rows an image as it has captions
one JSON file, Karpathy's
    {"images": [{"filename", "filepath"?, "split"?, "sentences": [{"raw" or "tokens"}, ...]}, ...]}

Splits are train, dev (or val) and test; restval counts as train. Where none is given at all, they are drawn.
"""

import csv
import hashlib
import io
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Any

from captioner.base.errors import CaptionerError
from captioner.captions.dataset import SPLITS
from captioner.captions.tokens import caption_text
from captioner.sources.archives import Archive

CAPTION_FILES = {"raw": "Flickr8k.token.txt", "lemma": "Flickr8k.lemma.token.txt"}
SPLIT_FILES = {split: f"Flickr_8k.{split}Images.txt" for split in SPLITS}
SPLIT_NAMES = {split: split for split in SPLITS} | {"restval": "train", "val": "dev"}
COLUMNS = ("image", "caption", "split")

_DUPLICATE_SUFFIX = re.compile(r"(.+\.jpe?g)\.\d+", re.IGNORECASE)


@dataclass
class Listing:
    """The splits and captions as they are written, before anything is left out."""

    file: str  # with the captions, for messages
    split_files: Mapping[str, str]  # that name each split's photos, for messages
    splits: dict[str, list[tuple[str, str]]] = field(default_factory=lambda: {split: [] for split in SPLITS})
    """(photo, the place that names it) of each split, in the files' order."""
    captions: dict[str, list[str]] = field(default_factory=dict)
    """The captions of each photo, in their order, as `captioner.captions.tokens.caption_text` returns them."""
    lemmas: dict[str, list[str]] = field(default_factory=dict)
    """The lemmas of each caption, in the same order, where they were asked for."""
    tokenised: bool = False  # the captions are PTB tokens already
    all_named: bool = False  # every photo should be named
    renamed: int = 0  # captions that name their photo by a duplicate's name
    orphans: int = 0  # captions of photos that are not there


def read_listing(texts: Archive, photos: Archive, *, form: str, dev: float, test: float, seed: int) -> Listing:
    """Read the texts, whichever layout they are in.

    `form` is "raw" or "lemma", which only Flickr8k's layout has. `dev` and `test` are shares of the images, for
    files that give no splits: the images that `seed` and their names draw. Raises CaptionerError that names the
    file and line, or the key, and what was expected there.
    """
    names = texts.names()
    tables = [name for name in names if name.lower().endswith((".csv", ".json"))]
    if not tables:
        return _read_flickr8k(texts, photos, form)
    if form != "raw":
        raise CaptionerError(
            f"captions.form is {form}: {tables[0]} has raw captions only; set it to raw in params.yaml"
        )
    read = _read_csv if tables[0].lower().endswith(".csv") else _read_json
    listing, given = read(texts, tables[0], photos)
    if not listing.captions:
        raise CaptionerError(f"{tables[0]}: no image in it; expected one or more")
    unknown = [image for image, (split, _) in given.items() if not split]
    if len(unknown) == len(given):
        drawn = draw_splits(list(given), dev=dev, test=test, seed=seed)
        given = {image: (drawn[image], place) for image, (_, place) in given.items()}
    elif unknown:
        raise CaptionerError(
            f"{given[unknown[0]][1]}: {unknown[0]} has no split, though others have; give all images one, or none"
        )
    for image, (split, place) in given.items():
        listing.splits[split].append((image, place))
    return listing


def draw_splits(images: list[str], *, dev: float, test: float, seed: int) -> dict[str, str]:
    """Return a split for each image: `dev` and `test` are shares of all, at least one image each.

    Who is where depends on the seed and the names alone; an image that comes later moves few others.
    """
    if dev + test >= 1:
        raise CaptionerError(f"own.dev and own.test: are {dev} and {test}, expected less than 1 together")
    if len(images) < len(SPLITS):
        raise CaptionerError(f"{len(images)} images cannot be split; expected {len(SPLITS)} or more")
    drawn = sorted(images, key=lambda image: hashlib.sha256(f"{seed}/{image}".encode(errors="surrogatepass")).digest())
    first = min(max(1, round(dev * len(drawn))), len(drawn) - 2)
    second = min(first + max(1, round(test * len(drawn))), len(drawn) - 1)
    return {image: "dev" if at < first else "test" if at < second else "train" for at, image in enumerate(drawn)}


def _text(texts: Archive, name: str, shown: str) -> str:
    data = texts.read(name)
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        raise CaptionerError(f"{shown}, line {line}: not UTF-8; save the file as UTF-8") from None


def _lines(texts: Archive, name: str) -> list[tuple[int, str]]:
    """Return a text file's lines that are not blank, numbered from 1."""
    text = _text(texts, name, f"{texts.path}: {name}")
    return [(number, line.rstrip("\r")) for number, line in enumerate(text.split("\n"), 1) if line.strip()]


def _read_flickr8k(texts: Archive, photos: Archive, form: str) -> Listing:
    file = CAPTION_FILES["raw"]
    listing = Listing(
        file=f"{texts.path}: {file}",
        split_files={split: f"{texts.path}: {name}" for split, name in SPLIT_FILES.items()},
        tokenised=True,
    )
    for split, name in SPLIT_FILES.items():
        listing.splits[split] = [
            (line.strip(), f"{texts.path}: {name}, line {number}") for number, line in _lines(texts, name)
        ]
    lemmas = {}
    if form == "lemma":
        for _, name, number, text in _numbered(texts, CAPTION_FILES[form]):
            lemmas[_image(photos, name), number] = text
    for place, name, number, text in _numbered(texts, file):
        image = _image(photos, name)
        listing.renamed += image != name
        if photos.find(image) is None:
            listing.orphans += 1  # its photo is in no split, or that will stop the stage: nobody needs it
            continue
        listing.captions.setdefault(image, []).append(text)
        if form == "lemma":
            if (image, number) not in lemmas:
                raise CaptionerError(
                    f"{place}: {image}#{number} is not in {CAPTION_FILES[form]}; expected the lemmas of each caption"
                )
            listing.lemmas.setdefault(image, []).append(lemmas[image, number])
    return listing


def _numbered(texts: Archive, file: str) -> Iterator[tuple[str, str, str, str]]:
    """Yield (place, photo as it is named there, number, text) of each caption in a file of Flickr8k's."""
    for at, line in _lines(texts, file):
        place = f"{texts.path}: {file}, line {at}"
        key, tab, text = line.partition("\t")
        name, mark, number = key.rpartition("#")
        if not tab or not mark or not number.strip().isdigit():
            raise CaptionerError(f"{place}: {line[:80]!r} is not of the form name.jpg#0<TAB>caption")
        yield place, name, number.strip(), caption_text(text, place)


def _image(photos: Archive, name: str) -> str:
    """Return the name, or what it is without a duplicate's suffix (2258277193_586949ec62.jpg.1) if no photo has it."""
    twin = _DUPLICATE_SUFFIX.fullmatch(name)
    return twin[1] if twin and photos.find(name) is None else name


Given = dict[str, tuple[str, str]]  # image: its split ("" where none is given), the place that names it


def _read_csv(texts: Archive, file: str, photos: Archive) -> tuple[Listing, Given]:
    listing = Listing(file=file, split_files=dict.fromkeys(SPLITS, file), all_named=True)
    given: Given = {}
    rows = csv.reader(io.StringIO(_text(texts, file, file), newline=""), strict=True)
    header: list[str] = []
    begin = 1
    try:
        for row in rows:
            place, begin = f"{file}, line {begin}", rows.line_num + 1
            if not any(map(str.strip, row)):
                continue
            if not header:
                header = [name.strip().lower() for name in row]
                _check_columns(header, place)
                continue
            if len(row) != len(header):
                raise CaptionerError(
                    f"{place}: {len(row)} fields, expected {len(header)} ({', '.join(header)}); put a caption with "
                    "commas into double quotes"
                )
            values = dict(zip(header, row, strict=True))
            image = _photo_name(values["image"].strip(), place)
            split = _split_name(values.get("split", "").strip(), place)
            if image in given and given[image][0] != split:
                raise CaptionerError(
                    f"{place}: {image} is in the {given[image][0] or 'empty'} split already ({given[image][1]}); "
                    "expected in one split"
                )
            given.setdefault(image, (split, place))
            listing.captions.setdefault(image, []).append(caption_text(values["caption"], place))
    except csv.Error as error:
        raise CaptionerError(f"{file}, line {rows.line_num}: not CSV ({error})") from None
    if not header:
        raise CaptionerError(f"{file}: is empty; expected the columns image, caption and, if wanted, split")
    return listing, given


def _check_columns(header: list[str], place: str) -> None:
    wrong = set(header) - set(COLUMNS) or set(COLUMNS[:2]) - set(header) or len(set(header)) < len(header)
    if wrong:
        raise CaptionerError(
            f"{place}: the columns are {', '.join(header)[:80]}; expected image, caption and, if wanted, split"
        )


def _read_json(texts: Archive, file: str, photos: Archive) -> tuple[Listing, Given]:
    listing = Listing(file=file, split_files=dict.fromkeys(SPLITS, file))
    given: Given = {}
    try:
        content = json.loads(_text(texts, file, file))
    except ValueError as error:
        raise CaptionerError(f"{file}: not JSON ({error})") from None
    for at, entry in enumerate(_value(content, "images", list, file)):
        place = f"{file}: images[{at}]"
        name = _value(entry, "filename", str, place)
        folder = _value(entry, "filepath", str, place, "")
        image = _photo_name(f"{folder}/{name}" if folder else name, place)
        if folder and photos.find(image) is None and photos.find(name) is not None:
            image = _photo_name(name, place)  # packed anew without COCO's folders
        if image in given:
            raise CaptionerError(f"{place}: {image} stands there already ({given[image][1]}); expected once")
        given[image] = _split_name(_value(entry, "split", str, place, ""), place), place
        listing.captions[image] = [
            _sentence(sentence, f"{place}.sentences[{number}]")
            for number, sentence in enumerate(_value(entry, "sentences", list, place))
        ]
    return listing, given


def _sentence(sentence: Any, place: str) -> str:
    raw = _value(sentence, "raw", str, place, "")
    if not raw.strip() and "tokens" in sentence:
        raw = " ".join(map(str, _value(sentence, "tokens", list, place)))
    elif "raw" not in sentence:
        raise CaptionerError(f"{place}: neither raw nor tokens; expected the caption in one of them")
    return caption_text(raw, place)


def _value(holder: Any, key: str, kind: type, place: str, default: Any = None) -> Any:
    """Return holder[key]; without a default it must be there, with one it may also be null."""
    wanted = "a list" if kind is list else "text"
    if not isinstance(holder, dict):
        raise CaptionerError(f"{place}: is {json.dumps(holder)[:40]}, expected an object with {key}")
    if key not in holder and default is None:
        raise CaptionerError(f"{place}.{key}: missing; expected {wanted}")
    value = holder.get(key, default)
    if value is None and default is not None:
        return default
    if not isinstance(value, kind):
        raise CaptionerError(f"{place}.{key}: is {json.dumps(value)[:40]}, expected {wanted}")
    return value


def _photo_name(name: str, place: str) -> str:
    path = PurePosixPath(name)
    if not path.name:
        raise CaptionerError(f"{place}: no image; expected the path of a photo in the folder")
    if path.is_absolute() or ".." in path.parts or "\\" in name:
        raise CaptionerError(
            f"{place}: {name[:80]!r} is not a path in the folder; expected one such as dog.jpg or dogs/1.jpg"
        )
    return str(path)


def _split_name(name: str, place: str) -> str:
    if name and name not in SPLIT_NAMES:
        raise CaptionerError(f"{place}: split is {name[:40]!r}, expected one of {', '.join(SPLIT_NAMES)}")
    return SPLIT_NAMES.get(name, "")
