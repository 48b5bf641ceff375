"""Pack your own dataset into the archives that all later stages read.

The folder holds photos and captions, at any depth, as files or in zip or tar archives. The outputs are:

    <images>/files.zip               the photos that are plain files, stored, under their paths in the folder
    <images>/archives/<path>[.zip]   each archive that holds photos: a zip as it is; the photos of a tar are packed
                                     into a zip, since nothing in a compressed tar can be read alone
    <captions>                       a zip of the captions, of the lists of splits beside them, and of the manifest that
                                     `captioner.sources.archives.MANIFEST` describes

The same files give the same bytes.
"""

import hashlib
import json
import logging
import os
import re
import shutil
import tarfile
import zipfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from tqdm import tqdm

from captioner.base.errors import CaptionerError
from captioner.base.files import atomic_write, digest
from captioner.sources import archives
from captioner.sources.archives import (
    MANIFEST,
    OTHER_PHOTOS,
    PHOTO_SUFFIXES,
    Archive,
    add_stored,
    add_stream,
    is_junk,
    one_spelling,
    unread_kind,
    visible,
    without_suffix,
    zips_in,
)

log = logging.getLogger(__name__)

TAR_SUFFIXES = (".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz")
SIDECAR_SUFFIXES = (".txt", ".caption", ".json")
METADATA = ("metadata.jsonl", "metadata.csv")

_SPLIT_LIST = re.compile(r"flickr_8k\.(?:train|dev|test)images\.txt|dataset(?:_\w+)?\.json", re.IGNORECASE)
_OUTPUTS = ("data", "metrics", "models", "src", "stages")


@dataclass
class _Folder:
    """The files of a folder by kind, each sorted by their path."""

    photos: list[Path] = field(default_factory=list)
    zips: list[Path] = field(default_factory=list)
    tars: list[Path] = field(default_factory=list)
    texts: list[Path] = field(default_factory=list)


@dataclass
class _Texts:
    """The names of the wanted texts, and the texts that were read."""

    chosen: list[str]  # the names of own.captions; none: sidecars and metadata files
    metadata: dict[str, bytes] = field(default_factory=dict)
    metadata_of: dict[str, str] = field(default_factory=dict)  # by folder: the name of its metadata file
    sidecars: dict[str, bytes] = field(default_factory=dict)
    alone: list[str] = field(default_factory=list)  # text files that may be sidecars, without a photo beside them
    unread: list[str] = field(default_factory=list)  # photos of other kinds, without one that is read beside them
    splits: dict[str, bytes] = field(default_factory=dict)
    captions: dict[str, tuple[str, bytes]] = field(default_factory=dict)
    """By the name that own.captions gives: (path, content)."""
    exact: set[str] = field(default_factory=set)  # names of own.captions that are the exact path of a plain file

    def wants(self, name: str) -> bool:
        """Return whether a text file may belong to the dataset."""
        end = PurePosixPath(name).name
        if _SPLIT_LIST.fullmatch(end) or self.chosen_as(name):
            return True
        return not self.chosen and (end.lower() in METADATA or name.lower().endswith(SIDECAR_SUFFIXES))

    def chosen_as(self, name: str) -> str | None:
        """Return the name in own.captions that means this path, None where none does."""
        left = (each for each in self.chosen if each not in self.exact)
        return max((each for each in left if f"/{one_spelling(name)}".endswith(f"/{each}")), key=len, default=None)

    def add(self, files: Iterable[tuple[str, bytes]], photos: Iterable[str], place: Path) -> None:
        """Add the texts of one folder or archive with these photos, of PHOTO_SUFFIXES and OTHER_PHOTOS."""
        photos = list(photos)
        read = filter(_is_read, photos)
        stems = {one_spelling(stem).casefold() for photo in read for stem in (photo, without_suffix(photo))}
        self.unread += [name for name in photos if one_spelling(without_suffix(name)).casefold() not in stems]
        texts = {}
        for name, content in files:
            end = PurePosixPath(name).name
            key = self.chosen_as(name)
            if key:
                if key in self.captions:
                    other = self.captions[key][0]
                    raise CaptionerError(
                        f"own.captions is {key}: fits both {other} and {name} in {place}; name it with its folder"
                    )
                self.captions[key] = name, content
            elif _SPLIT_LIST.fullmatch(end):
                self.splits.setdefault(name, content)
            elif end.lower() in METADATA:
                if name in self.metadata:
                    raise CaptionerError(
                        f"{place}: holds {name}, and so does another archive or the folder; put each into a folder of "
                        "its own"
                    )
                other = self.metadata_of.setdefault(str(PurePosixPath(name).parent), name)
                if other != name:
                    raise CaptionerError(
                        f"{place}: {visible(other)} and {visible(name)} are in one folder; name the one that is meant "
                        "in own.captions, or move the other away"
                    )
                self.metadata[name] = content
            elif one_spelling(without_suffix(name)).casefold() in stems:
                texts[name] = content
            else:
                self.alone.append(name)
        lower = {name.lower() for name in texts}
        for name, content in texts.items():
            # img2dataset writes the caption into both; its text file is the caption alone
            stem = without_suffix(name).lower()
            if name.lower().endswith(".json") and not {f"{stem}.txt", f"{stem}.caption"}.isdisjoint(lower):
                continue
            self.sidecars[name] = content


def provide_own(
    folder: str | Path, captions_names: str | Sequence[str] | None, *, images: str | Path, captions: str | Path
) -> dict[str, Any]:
    """Write the folder `images` and the zip `captions` from `folder`; return the record of the photos.

    `captions_names` names the captions: a file, a list of files, or nothing for sidecars and for metadata files of an
    imagefolder. A file may be in a zip or a tar of the folder. The record has the keys of
    `captioner.sources.download`; its `md5` is that of the sorted lines `md5  path` of the archives. Raises
    CaptionerError that names what is missing or cannot be read.
    """
    source = _checked_folder(folder)
    texts = _Texts(_checked_names(captions_names))
    content = _find(source)
    _read_texts(source, content, texts)
    images = Path(images)
    for path in tqdm(content.zips + content.tars, desc="archives", unit="archive", disable=None):
        target = images / "archives" / path.relative_to(source)
        if path in content.tars:
            if path.with_name(f"{path.name}.zip") in content.zips:
                raise CaptionerError(
                    f"{path}: {path.name}.zip stands beside it and would be mixed up with it; rename one"
                )
            _pack_tar(path, target.with_name(f"{target.name}.zip"), texts)
        else:
            _take_zip(path, target, texts)
    if content.photos:
        _pack_files(source, content.photos, images / "files.zip")
    zips = zips_in(images)
    if not zips:
        raise CaptionerError(
            f"own.folder is {folder}: no photos in it; expected files ending in {', '.join(PHOTO_SUFFIXES)}, or zip "
            f"or tar archives of such (links to folders are not followed)"
        )
    _write_captions(Path(captions), source, texts, content)
    lines = "".join(f"{digest(path)}  {path.relative_to(images).as_posix()}\n" for path in zips)
    return {
        "source": "own",
        "md5": hashlib.md5(lines.encode()).hexdigest(),
        "bytes": sum(path.stat().st_size for path in zips),
        "official": None,
    }


def _checked_folder(folder: str | Path) -> Path:
    """Return the folder; raises CaptionerError where it is missing or where the project's own files are."""
    setting = f"own.folder is {folder}"
    source = Path(folder)
    if str(folder).startswith("~"):
        raise CaptionerError(f"{setting}: ~ is not understood here, nor by DVC; write {source.expanduser()}")
    if not source.is_dir():
        raise CaptionerError(
            f"{setting}: no such folder (looked up from {Path.cwd()}); expected the folder with your photos and "
            "captions"
        )
    here, there = Path.cwd().resolve(), source.resolve()
    if here == there or there in here.parents:
        raise CaptionerError(f"{setting}: holds the project itself; expected a folder with nothing but the dataset")
    if here in there.parents and there.relative_to(here).parts[0] in _OUTPUTS:
        raise CaptionerError(
            f"{setting}: lies in {there.relative_to(here).parts[0]}/, which belongs to the project; move it elsewhere"
        )
    return source


def _checked_names(names: str | Sequence[str] | None) -> list[str]:
    """Return the names of own.captions as a list."""
    listed = [names] if isinstance(names, str) else list(names or ())
    listed = [one_spelling(str(PurePosixPath(name))) for name in listed if name.strip()]
    for name in listed:
        inside = PurePosixPath(name)
        if inside.is_absolute() or ".." in inside.parts:
            raise CaptionerError(f"own.captions is {name}: expected a file in own.folder, so that DVC watches it")
    if len(set(listed)) < len(listed):
        raise CaptionerError(f"own.captions: {', '.join(listed)} names a file twice; expected each once")
    return listed


def _find(folder: Path) -> _Folder:
    content = _Folder()
    for here, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if not is_junk(PurePosixPath(name))]
        for name in names:
            if is_junk(PurePosixPath(name)):
                continue
            path = Path(here, name)
            kinds = ((PHOTO_SUFFIXES, content.photos), ((".zip",), content.zips), (TAR_SUFFIXES, content.tars))
            kind = next((paths for ends, paths in kinds if name.lower().endswith(ends)), content.texts)
            if _is_utf8(str(path)):
                kind.append(path)
            elif kind is not content.texts:
                raise CaptionerError(f"own.folder: the name {os.fsencode(path)!r} is not UTF-8; rename it")
    for paths in (content.photos, content.zips, content.tars, content.texts):
        paths.sort(key=lambda path: path.relative_to(folder).as_posix())
    return content


def _read_texts(source: Path, content: _Folder, texts: _Texts) -> None:
    """Read the plain files that are captions. A file with the exact path that own.captions gives goes first."""
    by_name = {one_spelling(path.relative_to(source).as_posix()): path for path in content.texts}
    for name in texts.chosen:
        path = source / name if (source / name).is_file() else by_name.get(name)
        if path:
            texts.captions[name] = name, _read(path)
            texts.exact.add(name)

    def plain_files() -> Iterator[tuple[str, bytes]]:
        for path in content.texts:
            name = path.relative_to(source).as_posix()
            if one_spelling(name) not in texts.exact and texts.wants(name):
                yield name, _read(path)

    other = [path for path in content.texts if path.name.lower().endswith(OTHER_PHOTOS)]
    texts.add(plain_files(), (path.relative_to(source).as_posix() for path in content.photos + other), source)


def _read(path: Path) -> bytes:
    _check_size(path, "", path.stat().st_size)
    return path.read_bytes()


def _check_size(path: Path, member: str, size: int) -> None:
    if size > archives.LARGEST_MEMBER:
        what = f"{path}: {visible(member)} unpacks to" if member else f"{path}: has"
        raise CaptionerError(f"{what} {size} bytes, over {archives.LARGEST_MEMBER}; leave the file out")


def _is_utf8(name: str) -> bool:
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def _is_read(name: str) -> bool:
    return name.lower().endswith(PHOTO_SUFFIXES)


def _check_kind(path: Path, name: str) -> None:
    missing = unread_kind(name)
    if missing:
        raise CaptionerError(f"{path}{': ' + visible(name) if name != path.name else ''}: {missing}")


def _pack_files(source: Path, photos: list[Path], target: Path) -> None:
    with atomic_write(target) as beside, zipfile.ZipFile(beside, "w") as archive:
        for path in tqdm(photos, desc="photos", unit="photo", disable=None):
            _check_kind(path, path.name)
            size = path.stat().st_size
            _check_size(path, "", size)
            with path.open("rb") as file:
                add_stream(archive, path.relative_to(source).as_posix(), file, size)


def _take_zip(path: Path, target: Path, texts: _Texts) -> None:
    """Read the texts of a zip, and copy it where it holds photos."""
    archive = Archive(path)
    photos = [name for name in archive.names() if _is_read(name)]
    for name in photos:
        _check_kind(path, name)
    other = [name for name in archive.names() if name.lower().endswith(OTHER_PHOTOS)]
    texts.add(((name, archive.read(name)) for name in archive.names() if texts.wants(name)), photos + other, path)
    if photos:
        _copy(path, target)


def _pack_tar(path: Path, target: Path, texts: _Texts) -> None:
    """Write the photos of a tar into a zip, in the tar's order; none where there is no photo. Read its texts."""
    files: list[tuple[str, bytes]] = []
    photos: list[str] = []
    other: list[str] = []
    try:
        with tarfile.open(path) as tar, atomic_write(target) as beside, zipfile.ZipFile(beside, "w") as archive:
            for member in tqdm(_members(tar), desc=path.name, unit="file", disable=None):
                name = str(PurePosixPath(member.name))
                _check_size(path, name, member.size)
                if not _is_utf8(name) and (_is_read(name) or texts.wants(name)):
                    raise CaptionerError(
                        f"{path}: the name {visible(name)} is not UTF-8; rename the file, and pack the archive again"
                    )
                if _is_read(name):
                    _check_kind(path, name)
                    _pack_member(tar, member, archive, name)
                    photos.append(name)
                elif name.lower().endswith(OTHER_PHOTOS):
                    other.append(name)
                elif member.isfile() and texts.wants(name):
                    content = tar.extractfile(member)
                    assert content is not None  # a file
                    files.append((name, content.read()))
    except CaptionerError:
        raise
    except Exception as error:  # damaged bytes raise much besides TarError
        if isinstance(error, OSError) and error.errno is not None:  # the disk's fault, not the archive's
            raise
        raise CaptionerError(f"{path}: not a whole tar archive ({error}); replace it") from None
    if not photos:
        target.unlink()
    texts.add(files, photos + other, path)
    log.info("%s: %s photos packed", path.name, len(photos))


def _members(tar: tarfile.TarFile) -> Iterator[tarfile.TarInfo]:
    """Yield the files and hard links of a tar, one in memory at a time."""
    while (member := tar.next()) is not None:
        tar.members.clear()  # type: ignore[attr-defined]
        if (member.isfile() or member.islnk()) and not is_junk(PurePosixPath(member.name)):
            yield member


def _pack_member(tar: tarfile.TarFile, member: tarfile.TarInfo, archive: zipfile.ZipFile, name: str) -> None:
    """Copy a photo; one that is a hard link has the bytes of an earlier one."""
    if member.islnk():
        add_stored(archive, name, archive.read(str(PurePosixPath(member.linkname))))
        return
    content = tar.extractfile(member)
    assert content is not None  # a file
    add_stream(archive, name, content, member.size)


def _copy(path: Path, target: Path) -> None:
    """Copy a file. A link would make the user's file part of DVC's cache."""
    with atomic_write(target) as beside:
        shutil.copyfile(path, beside)


def _write_captions(path: Path, source: Path, texts: _Texts, content: _Folder) -> None:
    """Write the zip of captions, or raise CaptionerError that says which file is missing."""
    for name in texts.chosen:
        if name not in texts.captions:
            raise CaptionerError(
                f"own.captions is {name}: no such file in {source}, nor in an archive in it{_there(content)}"
            )
    if texts.chosen:
        captions = dict(texts.captions[name] for name in texts.chosen)
        sidecars: dict[str, bytes] = {}
    else:
        captions = texts.metadata
        if captions and texts.sidecars:
            raise CaptionerError(
                f"own.captions is null: {source} has {next(iter(captions))}, and text files beside photos such as "
                f"{next(iter(texts.sidecars))}; name the former in own.captions, or move one of them away"
            )
        sidecars = {} if captions else texts.sidecars
        if not captions and not sidecars:
            raise CaptionerError(
                f"own.captions is null: no text file beside a photo, and no {' or '.join(METADATA)} in {source}; name "
                f"the file with the captions{_there(content)}"
            )
    splits = {name: text for name, text in texts.splits.items() if name not in captions and not sidecars}
    manifest = {"captions": list(captions), "sidecars": list(sidecars), "splits": list(splits)}
    manifest |= {"alone": texts.alone if sidecars else [], "unread": texts.unread}
    for key, what, advice in (
        ("alone", "text files without a photo", ""),
        ("unread", "photos of a kind that is not read", "; convert them"),
    ):
        if names := manifest[key]:
            log.warning("%s: %s, left out: %d, first %s%s", source, what, len(names), visible(names[0]), advice)
    with atomic_write(path) as beside, zipfile.ZipFile(beside, "w") as archive:
        add_stored(archive, MANIFEST, json.dumps(manifest, ensure_ascii=False).encode(errors="surrogatepass"))
        for name, text in (captions | sidecars | splits).items():
            add_stored(archive, name, text)


def _there(content: _Folder) -> str:
    """Return a part of a sentence that names files that may be captions."""
    ends = (".csv", ".json", ".jsonl", ".tsv", ".txt", ".token")
    names = [path.name for path in content.texts if path.name.lower().endswith(ends)]
    return f"; there are {', '.join(map(visible, names[:5]))}" if names else "; write one, as docs/own-data.md says"
