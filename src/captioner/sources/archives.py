"""Read zip archives in place. Nothing is extracted, so no member's name becomes a path."""

import contextlib
import importlib.util
import shutil
import stat
import unicodedata
import zipfile
from collections.abc import Iterable
from pathlib import Path, PurePosixPath
from typing import IO

from PIL import features

from captioner.base.errors import CaptionerError

HEIF_SUFFIXES = (".heic", ".heif")
AVIF_SUFFIXES = (".avif",)
PHOTO_SUFFIXES = (
    ".jpg",
    ".jpeg",
    ".jpe",
    ".jfif",
    ".mpo",
    ".png",
    ".webp",
    ".tif",
    ".tiff",
    ".bmp",
    *HEIF_SUFFIXES,
    *AVIF_SUFFIXES,
)
OTHER_PHOTOS = (
    *(".gif", ".jxl", ".jp2", ".psd"),
    *(".dng", ".cr2", ".cr3", ".nef", ".arw", ".raf", ".orf", ".rw2", ".pef", ".srw"),
)
"""Photos of other kinds, by their suffixes. Some are raw files of cameras."""
JUNK_FOLDERS = ("__MACOSX", "@eaDir", "#recycle", "$RECYCLE.BIN")
"""What macOS, network drives and Windows add: thumbnails and deleted files."""
UTF8_FLAG, WINDOWS = 0x800, 0  # of an entry of a zip
LARGEST_MEMBER = 512 << 20  # bytes a member may unpack to; more is a zip bomb
MANIFEST = "captioner.json"
"""The file in the archive of captions that says what the others are: {"captions", "sidecars", "splits"}, each a list of
their names. `provide_own` also lists what it left out: {"alone": text files without a photo, "unread": photos of
OTHER_PHOTOS}. The official archive of Flickr8k has none."""


class Archive:
    """The files of a zip archive, or of all those in a folder, without the junk that macOS adds.

    A file is found by its path in the archive, or by an end of that path that is unique: `b.jpg` for `a/b.jpg`. Several
    threads may read. Raises CaptionerError that names the archive and the member: no such file, not a zip, a truncated
    zip, an encrypted, linked or oversized member, two members of one path, a name that fits several members.
    """

    def __init__(self, path: str | Path):
        self.path = Path(path)
        self._members: dict[str, tuple[zipfile.ZipFile, zipfile.ZipInfo]] = {}
        self._ends: dict[str, str] = {}  # the first path with each end
        self._several: dict[str, list[str]] = {}  # all paths of an end that several have
        parts = zips_in(self.path) if self.path.is_dir() else [self.path]
        if not parts:
            raise CaptionerError(f"{path}: no zip archive in this folder; expected one or more")
        for part in parts:
            self._open(part)
        for name in self._members:
            end = name
            while "/" in end:
                end = end.partition("/")[2]
                first = self._ends.setdefault(end, name)
                if first != name:
                    self._several.setdefault(end, [first]).append(name)

    def _open(self, path: Path) -> None:
        try:
            archive = zipfile.ZipFile(path)
        except FileNotFoundError:
            raise CaptionerError(f"{path}: not found; `dvc repro` downloads it") from None
        except Exception as error:  # a broken directory raises much besides BadZipFile
            raise CaptionerError(
                f"{path}: not a whole zip archive ({error}); replace it, or where it was downloaded delete it and "
                "run `dvc repro --force download`"
            ) from None
        for member in archive.infolist():
            written = _name_of(member)
            name = PurePosixPath(one_spelling(written))
            if written.endswith("/") or is_junk(name):
                continue
            if str(name) in self._members:
                other = self._members[str(name)][0].filename
                raise CaptionerError(
                    f"{path}: holds a file {name}, {'twice' if other == str(path) else f'and so does {other}'}; "
                    "expected one file of a path; put the files of each archive into a folder of its own"
                )
            self._members[str(name)] = archive, member

    def names(self) -> list[str]:
        """Return the paths of all files, sorted."""
        return sorted(self._members)

    def photos(self) -> list[str]:
        """Return the paths of the photos, sorted; raises CaptionerError when there is none."""
        photos = [name for name in self.names() if name.lower().endswith(PHOTO_SUFFIXES)]
        if not photos:
            raise CaptionerError(f"{self.path}: no photos; expected files ending in {', '.join(PHOTO_SUFFIXES)}")
        return photos

    def find(self, name: str) -> str | None:
        """Return the path of the file that `name` means, None where there is none.

        Raises CaptionerError where `name` is the end of several paths and none itself.
        """
        name = one_spelling(name)
        if name in self._members:
            return name
        several = self.ending_in(name)
        if len(several) > 1:
            raise CaptionerError(
                f"{self.path}: {name} may be {several[0]} or {several[1]}; name it with its folder, or rename one"
            )
        return self._ends.get(name)

    def ending_in(self, name: str) -> list[str]:
        """Return the paths in other folders of which `name` is an end, sorted."""
        name = one_spelling(name)
        first = self._ends.get(name)
        return sorted(self._several.get(name, [first] if first else []))

    def part_of(self, path: str) -> str:
        """Return the path of the zip that has the file `path`, relative to the folder of all; "" for a single zip."""
        part = Path(str(self._members[path][0].filename))
        return "" if part == self.path else part.relative_to(self.path).as_posix()

    def read(self, name: str) -> bytes:
        """Return a file's bytes; its checksum is verified."""
        path = self.find(name)
        if path is None:
            raise CaptionerError(f"{self.path}: no file {name} in it; expected it there")
        archive, member = self._members[path]
        if member.flag_bits & 0x1:
            raise CaptionerError(f"{self.path}: {name} is encrypted; expected a plain archive")
        if stat.S_ISLNK(member.external_attr >> 16):
            raise CaptionerError(f"{self.path}: {name} is a link; expected a file")
        if member.file_size > LARGEST_MEMBER:
            raise CaptionerError(f"{self.path}: {name} unpacks to {member.file_size} bytes, over {LARGEST_MEMBER}")
        try:
            return archive.read(member)
        except Exception as error:  # zlib, zipfile and OS errors all mean the same here
            raise CaptionerError(f"{self.path}: {name} cannot be unpacked ({error})") from None


class Files:
    """Plain files with the interface of an archive."""

    def __init__(self, paths: Iterable[str | Path]):
        self._paths = {str(path): Path(path) for path in paths}
        self.path = Path(next(iter(self._paths), ""))

    def names(self) -> list[str]:
        """Return the paths as they were given, in that order."""
        return list(self._paths)

    def read(self, name: str) -> bytes:
        """Return a file's bytes; raises CaptionerError that names it where it cannot be read or is too large."""
        path = self._paths[name]
        try:
            if path.stat().st_size > LARGEST_MEMBER:
                raise CaptionerError(f"{name}: has {path.stat().st_size} bytes, over {LARGEST_MEMBER}; split the file")
            return path.read_bytes()
        except OSError as error:
            raise CaptionerError(f"{name}: cannot be read ({error.strerror}); expected a file of captions") from None


def zips_in(folder: Path) -> list[Path]:
    """Return the zip archives of a folder, at any depth, sorted; .ZIP is one too."""
    return sorted(path for path in folder.rglob("*") if path.suffix.lower() == ".zip" and path.is_file())


def is_junk(path: PurePosixPath) -> bool:
    """Tell whether a file is hidden, in a hidden folder, or in a folder of JUNK_FOLDERS."""
    return any(part in JUNK_FOLDERS or (part.startswith(".") and part != "..") for part in path.parts)


def add_stored(archive: zipfile.ZipFile, name: str, data: bytes) -> None:
    """Add a file, uncompressed; the same names and bytes in the same order give the same archive."""
    archive.writestr(_entry(name), data)


def add_stream(archive: zipfile.ZipFile, name: str, source: IO[bytes], size: int) -> None:
    """Add a file of `size` bytes as `add_stored` does, read in pieces."""
    entry = _entry(name)
    entry.file_size = size
    with archive.open(entry, "w") as target:
        shutil.copyfileobj(source, target, 1 << 20)


def _name_of(member: zipfile.ZipInfo) -> str:
    """Return the path of a member in UTF-8, which macOS writes without saying so, and with slashes, where some programs
    on Windows write backslashes."""
    name = member.filename
    if not member.flag_bits & UTF8_FLAG:
        with contextlib.suppress(UnicodeError):
            name = name.encode("cp437").decode()
    return name.replace("\\", "/") if member.create_system == WINDOWS else name


def _entry(name: str) -> zipfile.ZipInfo:
    # the defaults would write the time and the machine's kind into the bytes
    entry = zipfile.ZipInfo(name, date_time=(1980, 1, 1, 0, 0, 0))
    entry.create_system, entry.external_attr = 3, 0o644 << 16
    return entry


def unread_kind(name: str) -> str | None:
    """Return what is missing to read a photo of this suffix, None where nothing is."""
    if name.lower().endswith(HEIF_SUFFIXES) and importlib.util.find_spec("pillow_heif") is None:
        return "HEIC photos are read with pillow-heif: pip install 'captioner[heic]', or convert them to JPEG"
    if name.lower().endswith(AVIF_SUFFIXES) and not features.check("avif"):
        return "AVIF photos are read by Pillow 11.3 or newer: pip install -U pillow, or convert them to JPEG"
    return None


def without_suffix(path: str) -> str:
    """Return a path without its last suffix."""
    return str(PurePosixPath(path).with_suffix(""))


def one_spelling(name: str) -> str:
    """Return a name in NFC, because macOS writes an accent as a letter of its own."""
    return unicodedata.normalize("NFC", name)


def visible(text: str) -> str:
    """Return text for messages, with invisible characters and invalid bytes escaped."""
    return "".join(
        letter if letter == " " or unicodedata.category(letter)[0] in "LMNPS" else ascii(letter)[1:-1]
        for letter in text
    )
