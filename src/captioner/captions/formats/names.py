"""Find the photo of a name in a captions file."""

import difflib
import re
from collections import defaultdict
from collections.abc import Iterable
from pathlib import PurePosixPath
from urllib.parse import unquote

from captioner.base.errors import CaptionerError
from captioner.captions.formats.records import Tally
from captioner.captions.formats.splits import split_in, split_of_folders
from captioner.sources.archives import OTHER_PHOTOS, PHOTO_SUFFIXES, Archive, one_spelling, visible, without_suffix

_DUPLICATE_SUFFIX = re.compile(r"(.+\.jpe?g)\.\d+", re.IGNORECASE)
_CAPTION_NUMBER = re.compile(r"(.+?)#(?:[a-z]{2,4}#)?\d+")  # 1.jpg#0, 1.jpg#zhc#0
_NUMBER = re.compile(r"(\d{1,30})(?:\.0)?")  # pandas writes 1.0 in a column that lacks some numbers
_COCO_2014 = re.compile(r"coco_(?:train|val|test)20\d\d_(?=\d{12})")


class PhotoNames:
    """Finds photos by the names that captions give them.

    A name is a photo's path in its archive or any end of that path, as `Archive.find` says. The number of a caption may
    follow it (`1.jpg#0`). Where that finds nothing, a name also fits a photo when they differ in case, folder, suffix,
    Windows backslashes, percent-encoding or COCO's `COCO_val2014_` in front. An id (`7`) fits the photo whose name ends
    with that number, a name with a suffix (`7.jpg`) only one that is that number (`007.jpg`). This holds where exactly
    one photo fits. If photos lie in the folder that a name gives, the photo must lie there, too.
    """

    def __init__(self, photos: Archive | None, tally: Tally, unread: Iterable[str] = ()):  # photos of other kinds
        self.archive = photos
        self._tally = tally
        self._unread = {_stem_of(path): path for path in unread}
        self._photos = frozenset(photos.photos()) if photos else frozenset()
        self._known: dict[tuple[str, str], str | None] = {}
        self._index: dict[str, list[str]] = {}
        self._folders: set[str] = set()
        self._beside: defaultdict[str, list[str]] = defaultdict(list)
        self._claims: dict[str, tuple[str, str]] = {}

    def find(self, name: str, place: str, file: str = "") -> str | None:
        """Return the name by which the archive finds the photo, None where no photo fits.

        `file` is the path of the captions file. A name that is relative to its folder goes first. A name without a
        folder does not fit a photo in the folder of another split than that folder is of. If several photos fit, the
        one in a folder of the file's split is meant. Without an archive the name is returned as it is. Raises
        CaptionerError where several photos fit equally well.
        """
        if self.archive is None:
            return name
        key = name, file
        if key not in self._known:
            folder = file.rpartition("/")[0]
            found = self._find(name, place, folder, split_in(file.rpartition("/")[2]) or split_of_folders(file))
            self._known[key] = None if found and self._of_another_split(found, name, folder) else found
        return self._known[key]

    def claim(self, image: str, name: str, place: str, *, once: bool) -> None:
        """Record that `name` was taken for the photo `image`. `once`: the form of the file lists each image once.

        Raises CaptionerError where another name was taken for it before: any other name if the form lists each image
        once, else a name with another folder, stem or suffix, as that of another photo has.
        """
        first, where = self._claims.setdefault(image, (name, place))
        if first != name and (once or _differ(_plain(first), _plain(name))):
            raise CaptionerError(
                f"{place}: {visible(name)} and {visible(first)} ({where}) both fit the photo {visible(image)}; "
                "expected a photo for each, or one name"
            )

    def beside(self, stem: str, text: str) -> str | None:
        """Return the path of the photo whose path, with or without its suffix, is `stem`, None where there is none.

        `text` is the path of the text file beside it. Raises CaptionerError where the file is beside two photos, and
        where another file is beside the photo.
        """
        if self.archive is None:
            return stem
        if not self._beside:
            for path in sorted(self._photos):
                for key in (path, f"{without_suffix(path)}."):
                    self._beside[key].append(path)
                    self._beside[f"/{key.casefold()}"].append(path)
        name = one_spelling(stem)
        keys = (name, f"{name}.", f"/{name.casefold()}", f"/{name.casefold()}.")
        photos = next((self._beside[key] for key in keys if key in self._beside), [])
        if len(photos) > 1:
            raise CaptionerError(
                f"{visible(text)}: lies beside two photos, {visible(photos[0])} and {visible(photos[1])}; write a text "
                f"file for each, such as {visible(photos[0])}{PurePosixPath(text).suffix}"
            )
        for photo in photos:
            first, _ = self._claims.setdefault(photo, (text, text))
            if first != text:
                raise CaptionerError(
                    f"{visible(text)}: lies beside the photo {visible(photo)}, as {visible(first)} does; expected one "
                    "text file for each photo; write all captions into one of them, or move one away"
                )
        return photos[0] if photos else None

    def nearest(self, name: str) -> str:
        """Return a part of a sentence that names the photos with the most similar names, or that of another kind."""
        other = self._unread.get(_stem_of(name))
        if other:
            return f"; {visible(other)} is not a kind that is read; convert it"
        ends = {PurePosixPath(path).name: path for path in sorted(self._photos)}
        near = difflib.get_close_matches(_plain(name).rpartition("/")[2], list(ends), n=2, cutoff=0.6)
        return f"; the nearest names are {', '.join(visible(ends[end]) for end in near)}" if near else ""

    def examples(self) -> list[str]:
        """Return the paths of two photos."""
        return sorted(self._photos)[:2]

    def _find(self, name: str, place: str, folder: str, split: str) -> str | None:
        assert self.archive is not None
        path = one_spelling(str(PurePosixPath(name)))
        if folder and f"{folder}/{path}" in self._photos:
            return f"{folder}/{path}"
        try:
            if self.archive.find(path) in self._photos:
                return path
        except CaptionerError as error:
            matches = _of_split(split, [each for each in self.archive.ending_in(path) if each in self._photos])
            if len(matches) == 1:
                return matches[0]
            raise CaptionerError(f"{place}: {error}") from None
        twin = _DUPLICATE_SUFFIX.fullmatch(path)
        if twin and self.archive.find(twin[1]) in self._photos:
            self._tally.repaired["names with a duplicate's suffix"] += 1
            return twin[1]
        found = self._loosely(path, place, split)  # of dog#2 before dog: a photo may be called so
        numbered = None if found else _CAPTION_NUMBER.fullmatch(path)
        return self._find(numbered[1], place, folder, split) if numbered else found

    def _of_another_split(self, found: str, name: str, folder: str) -> bool:
        assert self.archive is not None
        if "/" in _plain(name):
            return False
        splits = {split_of_folders(f"{folder}/{name}"), split_of_folders(self.archive.find(found) or found)}
        return len(splits - {""}) > 1

    def _loosely(self, name: str, place: str, split: str) -> str | None:
        if not self._index:
            self._index = _index_of(self._photos)
            self._folders = set(map(_folder_of, map(_plain, self._photos)))
        plain = _plain(name)
        folder = _folder_of(plain)
        for key in _keys(plain):
            matches = self._index.get(key, [])
            if folder and folder in self._folders:
                matches = [path for path in matches if _folder_of(_plain(path)) == folder]
            if len(matches) > 1:
                matches = _of_same_folder(plain, matches)
            if len(matches) > 1:
                matches = _of_split(split, matches) or matches
            if len(matches) > 1:
                raise CaptionerError(
                    f"{place}: {visible(name)} may be {matches[0]} or {matches[1]}; name it with its folder, or rename "
                    "one"
                )
            if matches:
                self._tally.repaired["names matched without their folder, suffix, case or spelling"] += 1
                return matches[0]
        return None


def _plain(name: str) -> str:
    """Return a name with slashes and plain blanks, without percent-encoding, in one case and one spelling."""
    return re.sub(r"\s", " ", one_spelling(unquote(name)).replace("\\", "/").casefold()).strip()


def _folder_of(plain: str) -> str:
    """Return the name of the innermost folder, "" where there is none."""
    return plain.rpartition("/")[0].rpartition("/")[2]


def _of_split(split: str, photos: list[str]) -> list[str]:
    """Return those photos that lie in a folder of this split."""
    return [path for path in photos if split and split_of_folders(path) == split]


def _differ(one: str, other: str) -> bool:
    """Return whether two plain names have folders, stems or suffixes that cannot be those of one photo."""
    folders, ends = zip(*(name.rpartition("/")[::2] for name in (one, other)), strict=True)
    shorter, longer = sorted((f"/{folder}" for folder in folders), key=len)
    suffixes = {end[len(_stem(end)) :] for end in ends} - {""}
    other_folder = all(folders) and not longer.endswith(shorter)
    return other_folder or len(suffixes) > 1 or _stems(ends[0]).isdisjoint(_stems(ends[1]))


def _stems(end: str) -> set[str]:
    """Return the stems that may be meant by an end of a path, with and without a number behind it."""
    ends = [end]
    for form in (_CAPTION_NUMBER, _DUPLICATE_SUFFIX, _NUMBER):
        ends += [match[1] for each in ends if (match := form.fullmatch(each))]
    return {_COCO_2014.sub("", _stem(each)) for each in ends}


def _stem(end: str, suffixes: Iterable[str] = PHOTO_SUFFIXES) -> str:
    for suffix in suffixes:
        if end.endswith(suffix):
            return end[: -len(suffix)]
    return end


def _stem_of(name: str) -> str:
    """Return the plain name of a photo of any kind, without its folders and its suffix."""
    return _stem(_plain(name).rpartition("/")[2], (*PHOTO_SUFFIXES, *OTHER_PHOTOS))


def _keys(plain: str) -> list[str]:
    """Return the keys under which a plain name may be found, the strictest first."""
    end = plain.rpartition("/")[2]
    stem = _stem(end)
    keys = [end, f"{stem}."]
    if _COCO_2014.match(stem):
        keys.append(f"{_COCO_2014.sub('', stem)}.")
    number = _NUMBER.fullmatch(stem)
    if number:
        keys.append(f"={int(number[1])}")
        if stem == end:
            keys.append(f"#{int(number[1])}")
    return keys


def _index_of(photos: frozenset[str]) -> dict[str, list[str]]:
    """Return photos by end of path, by `stem.`, by `=number` (the whole stem) and by `#number` (the stem's end)."""
    index: defaultdict[str, list[str]] = defaultdict(list)
    for path in sorted(photos):
        end = _plain(path).rpartition("/")[2]
        stem = _stem(end)
        keys = {end, f"{stem}.", f"{_COCO_2014.sub('', stem)}."}
        number = re.search(r"(?:^|[^0-9])([0-9]{1,30})$", stem)
        if number:
            keys.add(f"#{int(number[1])}")
            if number[1] == stem:
                keys.add(f"={int(stem)}")
        for key in keys:
            index[key].append(path)
    return index


def _of_same_folder(plain: str, photos: list[str]) -> list[str]:
    """Return those photos whose folders agree with the name's, from the innermost, in the most levels."""
    folders = plain.split("/")[:-1][::-1]

    def agreeing(path: str) -> int:
        levels = 0
        for one, other in zip(folders, _plain(path).split("/")[:-1][::-1], strict=False):
            if one != other:
                break
            levels += 1
        return levels

    best = max(map(agreeing, photos))
    return [path for path in photos if agreeing(path) == best]
