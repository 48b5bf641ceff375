"""Zip archives read in place: nothing is ever extracted, so no member's name becomes a path."""

import stat
import unicodedata
import zipfile
from pathlib import Path, PurePosixPath

from captioner.base.errors import CaptionerError

PHOTO_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".tif", ".tiff", ".bmp")
LARGEST_MEMBER = 512 << 20  # bytes a member may unpack to; more is a zip bomb


class Archive:
    """The files of a zip archive, or of all those in a folder, without the junk that macOS adds.

    A file is known by its path in its archive, and by every end of that path that no other file's path has:
    `b.jpg` for `a/b.jpg`. Safe to read from several threads. Raises CaptionerError that names the archive,
    and the member where one is at fault: no such file, not a zip or a truncated one, an encrypted, linked or
    oversized member, two members of one path, a name that fits several.
    """

    def __init__(self, path: str | Path):
        self.path = Path(path)
        self._members: dict[str, tuple[zipfile.ZipFile, zipfile.ZipInfo]] = {}
        self._ends: dict[str, str | None] = {}  # of several paths: None
        parts = zips_in(self.path) if self.path.is_dir() else [self.path]
        if not parts:
            raise CaptionerError(f"{path}: no zip archive in this folder; expected one or more")
        for part in parts:
            self._open(part)
        for name in self._members:
            end = name
            while "/" in end:
                end = end.partition("/")[2]
                self._ends[end] = None if end in self._ends else name

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
            name = PurePosixPath(_same(member.filename))
            if member.is_dir() or is_junk(name):
                continue
            if str(name) in self._members:
                other = self._members[str(name)][0].filename
                raise CaptionerError(
                    f"{path}: holds a file {name}, {'twice' if other == str(path) else f'and so does {other}'}; "
                    "expected one file of a path"
                )
            self._members[str(name)] = archive, member

    def names(self) -> list[str]:
        """Return the paths of all files, sorted."""
        return sorted(self._members)

    def photos(self) -> list[str]:
        """Return the paths of the photos, sorted; raises CaptionerError when there is none."""
        found = [name for name in self.names() if name.lower().endswith(PHOTO_SUFFIXES)]
        if not found:
            raise CaptionerError(f"{self.path}: no photos; expected files ending in {', '.join(PHOTO_SUFFIXES)}")
        return found

    def find(self, name: str) -> str | None:
        """Return the path of the file that `name` means, None where there is none.

        Raises CaptionerError where `name` is the end of several paths and none itself.
        """
        name = _same(name)
        if name in self._members:
            return name
        if name not in self._ends:
            return None
        path = self._ends[name]
        if path is None:
            several = [each for each in self.names() if each.endswith(f"/{name}")]
            raise CaptionerError(
                f"{self.path}: {name} may be {several[0]} or {several[1]}; name it with its folder, or rename one"
            )
        return path

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


def zips_in(folder: Path) -> list[Path]:
    """Return the zip archives of a folder, at any depth, sorted; .ZIP is one too."""
    return sorted(path for path in folder.rglob("*") if path.suffix.lower() == ".zip" and path.is_file())


def is_junk(path: PurePosixPath) -> bool:
    """Tell whether a file is one that macOS adds, or hidden."""
    return "__MACOSX" in path.parts or path.name.startswith(".")


def add_stored(archive: zipfile.ZipFile, name: str, data: bytes) -> None:
    """Add a file, uncompressed; the same names and bytes in the same order give the same archive."""
    # the defaults would write the time and the machine's kind into the bytes
    entry = zipfile.ZipInfo(name, date_time=(1980, 1, 1, 0, 0, 0))
    entry.create_system, entry.external_attr = 3, 0o644 << 16
    archive.writestr(entry, data)


def _same(name: str) -> str:
    """One spelling of a name: macOS writes an accent as a letter of its own."""
    return unicodedata.normalize("NFC", name)
