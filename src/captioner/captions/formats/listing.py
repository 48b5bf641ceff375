"""Read an archive of texts of any form into one listing of every photo's captions and split."""

import json
import logging
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from captioner.base.errors import CaptionerError
from captioner.captions.dataset import SPLITS
from captioner.captions.formats.flickr8k import CAPTION_FILES, read_official, read_split_lists
from captioner.captions.formats.forms import recognise
from captioner.captions.formats.json_files import read_karpathy
from captioner.captions.formats.names import PhotoNames
from captioner.captions.formats.records import Columns, Record, Tally, TextFile
from captioner.captions.formats.sidecars import read_sidecars
from captioner.captions.formats.splits import (
    SPLIT_FILES,
    draw_from_train,
    draw_splits,
    split_in,
    split_of,
    split_of_folders,
)
from captioner.captions.formats.text import decode, usable_captions
from captioner.sources.archives import MANIFEST, Archive, Files, one_spelling, visible

log = logging.getLogger(__name__)

NO_PHOTO = "names without a photo"
NO_COLUMNS = Columns()


@dataclass
class Listing:
    """The original splits and captions, before any are left out."""

    file: str  # with the captions, for messages
    split_files: dict[str, str]  # that name each split's photos, for messages
    splits: dict[str, list[tuple[str, str]]] = field(default_factory=lambda: {split: [] for split in SPLITS})
    """(photo, the place that names it) of each split, in the files' order."""
    captions: dict[str, list[str]] = field(default_factory=dict)
    """The captions of each photo, in their order, as `captioner.captions.formats.text.caption_text` returns them."""
    lemmas: dict[str, list[str]] = field(default_factory=dict)
    """The lemmas of each caption, in the same order, where they were asked for."""
    tokenised: bool = False  # the captions are PTB tokens already
    places: dict[str, str] = field(default_factory=dict)
    """The file, or the line or key in it, that first names each photo; none in Flickr8k's official files."""
    all_named: bool = False  # every photo should be named
    several: bool = False  # several files have the captions
    sidecars: bool = False  # the captions are text files beside the photos
    renamed: int = 0  # captions that name their photo by a duplicate's name
    orphans: int = 0  # captions of photos that are not there
    tally: Tally = field(default_factory=Tally)
    summary: str = ""  # one line that says what was recognised


@dataclass(frozen=True)
class _Contents:
    """What `captioner.sources.archives.MANIFEST` says: which files are captions, which are lists of splits ..."""

    captions: list[str]
    sidecars: list[str]
    splits: list[str]
    alone: list[str] = field(default_factory=list)
    unread: list[str] = field(default_factory=list)


@dataclass
class _Image:
    """What is known of an image besides its captions."""

    place: str
    file: str  # the captions file, its path
    split: str


def read_listing(
    texts: Archive | Files,
    photos: Archive | None,
    *,
    form: str = "raw",
    dev: float = 0.1,
    test: float = 0.1,
    seed: int = 1,
    columns: Columns = NO_COLUMNS,
) -> Listing:
    """Read captions in any form of this package, with the splits of the photos.

    `form` is "raw" or "lemma", which only the official files of Flickr8k have. If captions have no dev or test split,
    `seed` and the names of the images draw it; `dev` and `test` are its shares. `columns` are those of `own.columns`.
    Without `photos`, names stay as they are, and no split is drawn.

    Raises CaptionerError that names the file and line, or the key, and what was expected there. Faults that
    `dataset.on_bad: skip` allows are counted in `tally.faults` of the listing instead.
    """
    contents = _contents(texts)
    if contents is None:
        return _official(texts, photos, form)
    if form != "raw":
        shown = (contents.captions + contents.sidecars + ["the dataset"])[0]
        raise CaptionerError(f"captions.form is {form}: {shown} has raw captions only; set it to raw in params.yaml")
    return _Reading(texts, photos, contents, columns).listing(dev=dev, test=test, seed=seed)


def read_references(paths: Iterable[str | Path]) -> dict[str, list[str]]:
    """Return the captions of each photo out of plain files of any form; names stay as they are written."""
    return read_listing(Files(paths), None).captions


def _contents(texts: Archive | Files) -> _Contents | None:
    """Return what the archive holds, None where it holds the official files of Flickr8k."""
    names = texts.names()
    if MANIFEST in names:
        manifest = json.loads(texts.read(MANIFEST))
        return _Contents(**manifest)
    if isinstance(texts, Archive) and texts.find(CAPTION_FILES["raw"]) is not None:
        return None
    lists = [name for name in names if _split_listed_in(name)]
    return _Contents([name for name in names if name not in lists], [], lists)


def _split_listed_in(name: str) -> str:
    """Return the split whose photos a file lists by its name (`Flickr_8k.trainImages.txt`), "" for other files."""
    ends = {split: end.casefold() for split, end in SPLIT_FILES.items()}
    return next((split for split, end in ends.items() if name.casefold().endswith(end)), "")


def _official(texts: Archive | Files, photos: Archive | None, form: str) -> Listing:
    tally = Tally()
    splits, captions, lemmas, renamed, orphans = read_official(texts, photos, form, tally)
    count = sum(map(len, captions.values()))
    return Listing(
        file=f"{texts.path}: {CAPTION_FILES['raw']}",
        split_files={split: f"{texts.path}: {name}" for split, name in SPLIT_FILES.items()},
        splits=splits,
        captions=captions,
        lemmas=lemmas,
        tokenised=True,
        renamed=renamed,
        orphans=orphans,
        tally=tally,
        summary=f"Flickr8k's official captions: 1 file, {len(captions):,} photos, {count:,} captions, splits as given",
    )


class _Reading:
    """Reads the files of one archive of texts into a listing."""

    def __init__(self, texts: Archive | Files, photos: Archive | None, contents: _Contents, columns: Columns):
        self.texts, self.photos, self.contents, self.columns = texts, photos, contents, columns
        self.tally = Tally()
        self.tally.left_out["text files without a photo"] += len(contents.alone)
        self.tally.left_out["photos of a kind that is not read"] += len(contents.unread)
        self.names = PhotoNames(photos, self.tally, contents.unread)
        files = contents.captions or contents.sidecars or ["the captions"]
        file = files[0] if len(files) == 1 else f"{files[0]} and {len(files) - 1} more"
        self.result = Listing(
            file=file,
            split_files=dict.fromkeys(SPLITS, file),
            sidecars=bool(contents.sidecars),
            several=len(files) > 1,
            tally=self.tally,
        )
        self.images: dict[str, _Image] = {}
        self.missing: dict[str, None] = {}
        self.forms: Counter[str] = Counter()

    def listing(self, *, dev: float, test: float, seed: int) -> Listing:
        for file in map(self._file, self.contents.captions):
            form = recognise(file, (self.columns.image, self.columns.caption, self.columns.split))
            self.forms[form.name] += 1
            self.result.all_named |= form.all_named
            for record in form.read(file, self.tally, self.columns):
                self._add(record, file, once=form.once)
        if self.contents.sidecars:
            self.forms["sidecar captions"] += len(self.contents.sidecars)
            self.result.all_named = True
            for record in read_sidecars(self.texts, self.contents.sidecars, self.tally, self.columns):
                self._add(record, None)
        self._check()
        origin = self._split(dev, test, seed)
        count = sum(map(len, self.result.captions.values()))
        forms = " and ".join(self.forms)
        files = sum(self.forms.values())
        self.result.summary = (
            f"{forms}: {files:,} file{'s' * (files != 1)}, {len(self.images):,} photos, {count:,} captions, {origin}"
        )
        log.info("%s", self.result.summary)
        return self.result

    def _file(self, name: str) -> TextFile:
        return TextFile(one_spelling(name), name, decode(self.texts.read(name), name))

    def _add(self, record: Record, file: TextFile | None, *, once: bool = False) -> None:
        place = record.place
        named = record.image
        image = self.names.find(named, place, file.name) if file else self.names.beside(named, place)
        if image is None:
            self._add_missing(record)
            return
        if file:
            self.names.claim(image, named, place, once=once)
        split = split_of(record.split, place)
        known = self.images.get(image)
        if known is not None and known.split != split:
            other = f"in the {known.split} split" if known.split else "without a split"
            raise CaptionerError(
                f"{place}: {visible(image)} is also {other} ({known.place}); expected each photo in one split"
            )
        if known is None:
            self.images[image] = _Image(place, file.name if file else "", split)
        elif file is not None and known.file != file.name and split_in(known.file) != split_in(file.name):
            raise CaptionerError(
                f"{place}: {visible(image)} is also in {known.file} ({known.place}); expected each photo in one split"
            )
        self.result.places.setdefault(image, place)
        texts = self.result.captions.setdefault(image, [])
        texts.extend(usable_captions(record.captions, place, self.tally))

    def _add_missing(self, record: Record) -> None:
        self.tally.left_out["captions of photos that are not there"] += len(record.captions)
        if record.image in self.missing:
            return
        self.missing[record.image] = None
        archive = self.photos.path if self.photos else ""

        def message() -> str:
            name = visible(record.image)
            return f"{record.place}: no photo {name} in {archive}{self.names.nearest(record.image)}"

        self.tally.fault(NO_PHOTO, message)

    def _check(self) -> None:
        if self.images:
            return
        if self.missing:
            here = ", ".join(visible(name) for name in list(self.missing)[:2])
            there = ", ".join(visible(name) for name in self.names.examples())
            raise CaptionerError(
                f"{self.result.file}: none of its {len(self.missing):,} names is that of a photo. The captions name "
                f"{here}; the photos are {there}. Expected the photos that the captions describe, in own.folder"
            )
        raise CaptionerError(f"{self.result.file}: no image in it; expected one or more")

    def _split(self, dev: float, test: float, seed: int) -> str:
        """Put each image into its split; return a part of a sentence that says where the splits come from."""
        origin = self._given() or self._listed() or self._named_by_files() or self._named_by_folders()
        if self.photos is None:
            origin = origin or "no splits"
        elif not origin:
            if len(self.images) < len(SPLITS) and self.tally.first:
                raise CaptionerError(next(iter(self.tally.first.values())))
            drawn = draw_splits(list(self.images), dev=dev, test=test, seed=seed, file=self.result.file)
            for image, split in drawn.items():
                self.images[image].split = split
            origin = "splits drawn"
        else:
            origin += self._draw_the_missing(dev=dev, test=test, seed=seed)
        for image, known in self.images.items():
            if known.split:
                self.result.splits[known.split].append((image, known.place))
        return origin

    def _given(self) -> str:
        without = next((image for image, known in self.images.items() if not known.split), None)
        if without is None:
            return "splits as given"
        if any(known.split for known in self.images.values()):
            raise CaptionerError(
                f"{self.images[without].place}: {visible(without)} has no split, though others have; give all images "
                "one, or none"
            )
        return ""

    def _listed(self) -> str:
        """Use the splits of the lists beside the captions."""
        lists = {split: name for name in self.contents.splits if (split := _split_listed_in(name))}
        if "train" in lists:
            for split, entries in read_split_lists(self.texts, lists).items():
                self._take(split, entries)
            origin = "splits from Flickr_8k.*Images.txt"
        else:
            origin = self._listed_by_karpathy()
        if origin:
            self.result.all_named = False
            self.tally.left_out["photos that the lists of splits do not name"] += sum(
                not known.split for known in self.images.values()
            )
        return origin

    def _take(self, split: str, entries: list[tuple[str, str]]) -> None:
        for name, place in entries:
            image = self.names.find(name, place)
            if image is None:
                self._add_missing(Record(name, (), place))
            elif self.images.setdefault(image, _Image(place, "", split)).split not in ("", split):
                raise CaptionerError(
                    f"{place}: {visible(image)} is also in the {self.images[image].split} split; "
                    "expected each photo in one split"
                )
            else:
                self.images[image].split = split

    def _listed_by_karpathy(self) -> str:
        for file in map(self._file, self.contents.splits):
            if not file.content.lstrip().startswith("{") or '"sentences"' not in file.content:
                continue  # a list of Flickr8k, or another file of a name such as dataset_info.json
            listed = 0
            for record in read_karpathy(file, Tally(), NO_COLUMNS):
                image = self.names.find(record.image, record.place)
                if image in self.images and record.split:
                    self.images[image].split = split_of(record.split, record.place)
                    listed += 1
            if listed:
                return f"splits from {file.name}"
        return ""

    def _named_by_files(self) -> str:
        files = {known.file for known in self.images.values()}
        by_name = {file: split_in(file.rpartition("/")[2]) for file in files}
        by_folder = {file: split_of_folders(file) for file in files}
        for splits, origin in ((by_name, "splits from file names"), (by_folder, "splits from folder names")):
            if len(set(splits.values())) > 1 and "" not in splits.values():
                for known in self.images.values():
                    known.split = splits[known.file]
                return origin
        for splits in (by_name, by_folder):
            without = next((file for file, split in splits.items() if not split), None)
            if without is not None and any(splits.values()):
                raise CaptionerError(
                    f"{visible(without)}: has no split in its name, though other files have one; expected a split "
                    "in the name of each file or of its folder, or in a column"
                )
        return ""

    def _named_by_folders(self) -> str:
        split_of = {image: split_of_folders(self._path(image)) for image in self.images}
        if "train" in split_of.values() and len(set(split_of.values()) - {""}) > 1:
            without = next((image for image, split in split_of.items() if not split), None)
            if without is not None:
                raise CaptionerError(
                    f"{self.images[without].place}: the photo {visible(without)} is in no folder or archive of a "
                    "split, though others are; move it into one, or give all splits in a column"
                )
            for image, split in split_of.items():
                self.images[image].split = split
            return "splits from folder names"
        return ""

    def _path(self, image: str) -> str:
        """Return the path of a photo, with that of its archive in front."""
        path = self.photos.find(image) if self.photos else None
        return f"{self.photos.part_of(path)}/{path}" if self.photos and path else image

    def _draw_the_missing(self, *, dev: float, test: float, seed: int) -> str:
        """Draw a dev and a test split out of train where the captions give none."""
        present = {known.split for known in self.images.values()}
        origin = ""
        for split, share in (("dev", dev), ("test", test)):
            training = [image for image, known in self.images.items() if known.split == "train"]
            if split in present or not training:
                continue
            for image in draw_from_train(training, split, share=share, seed=seed, file=self.result.file):
                self.images[image].split = split
            origin += f", {split} drawn from train"
        return origin
