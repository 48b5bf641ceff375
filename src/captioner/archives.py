"""Zip archives read in place: nothing is ever extracted, so no member's name becomes a path."""

import stat
import zipfile
from pathlib import Path, PurePosixPath

from captioner.errors import CaptionerError

PHOTO_SUFFIXES = (".jpg", ".jpeg", ".png")
LARGEST_MEMBER = 512 << 20  # bytes a member may unpack to; more is a zip bomb


class Archive:
    """The files of a zip archive by their base names, without the junk that macOS adds.

    Safe to read from several threads. Raises CaptionerError that names the archive, and the member where
    one is at fault: no such file, not a zip or a truncated one, an encrypted, linked or oversized member,
    two members of one name.
    """

    def __init__(self, path: str | Path):
        self.path = Path(path)
        try:
            self._zip = zipfile.ZipFile(self.path)
        except FileNotFoundError:
            raise CaptionerError(f"{path}: not found; `dvc repro` downloads it") from None
        except Exception as error:  # a broken directory raises much besides BadZipFile
            raise CaptionerError(
                f"{path}: not a whole zip archive ({error}); delete it and run `dvc repro --force download`"
            ) from None
        self._members: dict[str, zipfile.ZipInfo] = {}
        for member in self._zip.infolist():
            name = PurePosixPath(member.filename)
            if member.is_dir() or "__MACOSX" in name.parts or name.name.startswith("._"):
                continue
            if name.name in self._members:
                raise CaptionerError(f"{path}: holds two files named {name.name}; expected one of each name")
            self._members[name.name] = member

    def names(self) -> list[str]:
        """Return the base names of all files, sorted."""
        return sorted(self._members)

    def photos(self, folder: str | None = None) -> list[str]:
        """Return the names of the photos, sorted; those directly in `folder` where one is given.

        Raises CaptionerError when there is none.
        """
        found = sorted(
            name
            for name, member in self._members.items()
            if name.lower().endswith(PHOTO_SUFFIXES)
            and (folder is None or PurePosixPath(member.filename).parent.name == folder)
        )
        if not found:
            where = f"no photos in a folder {folder}/" if folder else "no photos"
            raise CaptionerError(f"{self.path}: {where}; expected files ending in {', '.join(PHOTO_SUFFIXES)}")
        return found

    def read(self, name: str) -> bytes:
        """Return a file's bytes; its checksum is verified."""
        member = self._members.get(name)
        if member is None:
            raise CaptionerError(f"{self.path}: no file {name} in it; expected it there")
        if member.flag_bits & 0x1:
            raise CaptionerError(f"{self.path}: {name} is encrypted; expected a plain archive")
        if stat.S_ISLNK(member.external_attr >> 16):
            raise CaptionerError(f"{self.path}: {name} is a link; expected a file")
        if member.file_size > LARGEST_MEMBER:
            raise CaptionerError(f"{self.path}: {name} unpacks to {member.file_size} bytes, over {LARGEST_MEMBER}")
        try:
            return self._zip.read(member)
        except Exception as error:  # zlib, zipfile and OS errors all mean the same here
            raise CaptionerError(f"{self.path}: {name} cannot be unpacked ({error})") from None
