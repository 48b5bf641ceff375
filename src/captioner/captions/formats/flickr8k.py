"""The official files of Flickr8k: captions or lemmas in PTB tokens, and a list of photos for each split."""

import re
from collections.abc import Iterator

from captioner.base.errors import CaptionerError
from captioner.captions.dataset import SPLITS
from captioner.captions.formats.records import Tally
from captioner.captions.formats.splits import SPLIT_FILES
from captioner.captions.formats.text import decode, lines, usable_captions
from captioner.sources.archives import Archive, Files

CAPTION_FILES = {"raw": "Flickr8k.token.txt", "lemma": "Flickr8k.lemma.token.txt"}

_DUPLICATE_SUFFIX = re.compile(r"(.+\.jpe?g)\.\d+", re.IGNORECASE)

Splits = dict[str, list[tuple[str, str]]]
"""(photo, the place that names it) of each split."""


def read_split_lists(texts: Archive | Files, names: dict[str, str]) -> Splits:
    """Return the photos of each split, out of the list files that `names` gives for the splits."""
    return {
        split: [(line.strip(), f"{texts.path}: {name}, line {number}") for number, line in _lines(texts, name)]
        for split, name in names.items()
    }


def read_official(
    texts: Archive | Files, photos: Archive | None, form: str, tally: Tally
) -> tuple[Splits, dict[str, list[str]], dict[str, list[str]], int, int]:
    """Return splits, captions, lemmas, and the numbers of renamed captions and of captions without a photo.

    `form` is "raw" or "lemma"; lemmas are read for the latter only.
    """
    splits = read_split_lists(texts, {split: SPLIT_FILES[split] for split in SPLITS})
    captions: dict[str, list[str]] = {}
    lemmas: dict[str, list[str]] = {}
    lemma_of = {}
    if form == "lemma":
        for _, name, number, text in _numbered(texts, CAPTION_FILES[form], tally):
            lemma_of[_image(photos, name), number] = text
    renamed = orphans = 0
    for place, name, number, text in _numbered(texts, CAPTION_FILES["raw"], tally):
        image = _image(photos, name)
        renamed += image != name
        if photos is not None and photos.find(image) is None:
            orphans += 1  # no split has its photo, or a later check stops the stage
            continue
        captions.setdefault(image, []).append(text)
        if form == "lemma":
            if (image, number) not in lemma_of:
                raise CaptionerError(
                    f"{place}: {image}#{number} is not in {CAPTION_FILES[form]}; expected the lemmas of each caption"
                )
            lemmas.setdefault(image, []).append(lemma_of[image, number])
    return splits, captions, lemmas, renamed, orphans


def _lines(texts: Archive | Files, name: str) -> Iterator[tuple[int, str]]:
    shown = f"{texts.path}: {name}"
    return lines(decode(texts.read(name), shown), shown)


def _numbered(texts: Archive | Files, file: str, tally: Tally) -> Iterator[tuple[str, str, str, str]]:
    """Yield (place, photo as it is named there, number, text) of each caption in a file of Flickr8k's."""
    for at, line in _lines(texts, file):
        place = f"{texts.path}: {file}, line {at}"
        key, tab, text = line.partition("\t")
        name, mark, number = key.rpartition("#")
        if not tab or not mark or not number.strip().isdigit():
            raise CaptionerError(f"{place}: {line[:80]!r} is not of the form name.jpg#0<TAB>caption")
        for caption in usable_captions([text], place, tally):
            yield place, name, number.strip(), caption


def _image(photos: Archive | None, name: str) -> str:
    """Return the name, without a duplicate's suffix (2258277193_586949ec62.jpg.1) if no photo has this name."""
    twin = _DUPLICATE_SUFFIX.fullmatch(name)
    return twin[1] if twin and (photos is None or photos.find(name) is None) else name
