"""Read references from a file, a folder or a zip archive of captions in any form.

The forms are those of `captioner.captions.formats`. data/captions.jsonl of the pipeline is one of them.
"""

import json
import os
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from captioner.base.errors import CaptionerError
from captioner.captions.dataset import SPLITS
from captioner.captions.formats import CAPTION_FILES, SPLIT_FILES, read_listing
from captioner.captions.formats.json_stream import walk
from captioner.captions.formats.records import TextFile, name_of
from captioner.captions.formats.text import decode
from captioner.sources.archives import MANIFEST, Archive, Files, is_junk
from captioner.sources.own_data import METADATA

SIDECAR_SUFFIXES = (".txt", ".caption")


class References(NamedTuple):
    """The references of images."""

    captions: dict[str, list[str]]  # by the image's name, as the file has it
    ids: dict[str, str]  # the image's name by its id, where a file of COCO's form gives ids
    images: list[str]  # all that have captions, of every split
    has_splits: bool
    faults: list[str]  # what was left out because it is wrong, such as a line of another form: how many, the first


def read_reference_files(path: str | Path, split: str | None = None) -> References:
    """Return the references in a file, a folder or a zip archive, those of one `split` ("train", "dev", "test") only.

    `faults` lists the parts that were left out as wrong. Raises CaptionerError for other errors, and if the path cannot
    be read or the split is empty.
    """
    path = Path(path)
    if path.is_dir():
        texts: Archive | Files = _Folder(path)
    elif path.suffix.lower() == ".zip" and path.exists():
        texts = _archive(path)
    else:
        texts = Files([path])
    listing = read_listing(texts, None)
    faults = [f"{listing.tally.faults[kind]} {kind}: {message}" for kind, message in listing.tally.first.items()]
    captions = listing.captions
    if split is not None:
        images = [image for image, _ in listing.splits[split]]
        if not images:
            there = ", ".join(name for name in SPLITS if listing.splits[name]) or "none"
            raise CaptionerError(f"{path}: no image of the split {split}; the splits in it: {there}")
        captions = {image: captions[image] for image in images if image in captions}
    ids = _ids(path) if isinstance(texts, Files) and path.is_file() else {}
    return References(captions, ids, list(listing.captions), any(listing.splits.values()), faults)


class _Folder(Files):
    """The captions of a folder: its metadata file, else the text files in it, each the captions of one image."""

    def __init__(self, folder: Path):
        self._folder = folder
        names = sorted(
            path.relative_to(folder).as_posix()
            for here, folders, names in os.walk(folder)
            for path in (Path(here, name) for name in names)
            if not is_junk(PurePosixPath(path.relative_to(folder).as_posix()))
        )
        metadata = [name for name in names if PurePosixPath(name).name.lower() in METADATA]
        sidecars = [] if metadata else [name for name in names if name.lower().endswith(SIDECAR_SUFFIXES)]
        if not metadata and not sidecars:
            raise CaptionerError(
                f"{folder}: no references in this folder; expected {' or '.join(METADATA)}, or a .txt or .caption file "
                "an image. Name the file with the references where there is one"
            )
        super().__init__([folder / name for name in metadata + sidecars])
        self._manifest = json.dumps({"captions": metadata, "sidecars": sidecars, "splits": []}).encode()

    def names(self) -> list[str]:
        return [MANIFEST, *super().names()]

    def read(self, name: str) -> bytes:
        return self._manifest if name == MANIFEST else super().read(str(self._folder / name))


def _archive(path: Path) -> Archive | Files:
    """Return an archive that holds Flickr8k's official captions or is the pipeline's own."""
    archive = Archive(path)
    if MANIFEST not in archive.names() and archive.find(CAPTION_FILES["raw"]) is None:
        raise CaptionerError(
            f"{path}: holds neither {CAPTION_FILES['raw']} nor {MANIFEST}; unpack it and name the file with the "
            f"references (splits are those of {SPLIT_FILES['train']} and its like, or a column)"
        )
    return archive


def _ids(path: Path) -> dict[str, str]:
    """Return the names of images by their ids, of a file of COCO's form; none of another form."""
    file = TextFile(str(path), str(path), decode(path.read_bytes(), str(path)))
    if file.content.lstrip()[:1] != "{" or '"annotations"' not in file.content or '"file_name"' not in file.content:
        return {}
    return {
        str(entry["id"]): name_of(entry["file_name"], f"{path}: {key}[{at}]")
        for key, at, entry in walk(file)
        if key == "images" and at is not None and isinstance(entry, dict) and {"id", "file_name"} <= entry.keys()
    }
