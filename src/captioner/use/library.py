"""Photos in folders, and the caption files beside them. Importing this module is fast."""

import importlib.util
import os
import re
import sys
import tempfile
from collections.abc import Sequence
from fnmatch import fnmatchcase
from pathlib import Path, PurePosixPath

from captioner.base.errors import CaptionerError

OPTIONAL = {".heic": "pillow_heif", ".heif": "pillow_heif"}  # the package that reads them


def find_photos(
    arguments: Sequence[str], *, recursive: bool = True, unreadable: list[OSError] | None = None
) -> list[Path]:
    """Return the photos that the arguments name, in order and each once: files, folders and patterns as of a shell.

    The photos of a folder are sorted by name. `recursive` adds the photos in its folders, except hidden ones. In a
    pattern `**` stands for any folders, but for hidden ones and links. A link to a file that is not there is a photo,
    so that reading it is an error. A folder that cannot be read is left out with a message, and its error is added to
    `unreadable`. Raises CaptionerError for an argument that names no photo.
    """
    unreadable = [] if unreadable is None else unreadable
    photos: list[Path] = []
    for argument in arguments:
        if not argument:  # an unset variable; Path("") would be the current folder
            raise CaptionerError("'': expected a photo, a folder or a pattern")
        path = Path(argument)
        if path.is_dir():
            here = _in_folder(path, recursive, unreadable)
        elif os.path.lexists(path):
            here = [path]
        else:
            here = _matching(path)
        if not here and path.is_dir():
            deeper = " or its folders; hidden ones, and links to folders, are not read" if recursive else " itself"
            raise CaptionerError(f"{argument}: no photos in this folder{deeper}")
        if not here:
            raise CaptionerError(f"{argument}: no such photo or folder, and no file matches it as a pattern")
        photos += here
    return list(dict.fromkeys(photos))


def _matching(pattern: Path) -> list[Path]:
    """Return the files that match a pattern, sorted by name.

    Hidden names match only where the pattern has the dot, junk folders only where it has their names.
    """
    from captioner.sources.archives import JUNK_FOLDERS

    parts = [part if part == "**" else re.sub(r"\*+", "*", part) for part in pattern.parts if part != pattern.anchor]
    if parts[-1] == "**":
        parts.append("*")  # pathlib before Python 3.13 finds only folders by a last `**`
    dotted = [part for part in parts if part.startswith(".")]
    junk = {*JUNK_FOLDERS} - {*parts}

    def hidden(name: str) -> bool:
        return name in junk or (name.startswith(".") and not any(fnmatchcase(name, part) for part in dotted))

    # not glob.glob, because its `**` follows links to folders, and two of them that lead upwards never end
    found = Path(pattern.anchor).glob("/".join(parts))
    return sorted({path for path in found if _may_be_photo(path) and not any(map(hidden, path.parts))})


def _may_be_photo(path: Path) -> bool:
    """Tell whether a path is a file, or a link without its file, as DVC and git-annex leave it."""
    return os.path.isfile(path) or not os.path.exists(path)


def _in_folder(folder: Path, recursive: bool, unreadable: list[OSError]) -> list[Path]:
    from captioner.sources.archives import OTHER_PHOTOS, PHOTO_SUFFIXES, is_junk  # not at the top: they may need Pillow

    photos: list[Path] = []
    others: list[str] = []
    errors: list[OSError] = []
    lacking = {end for end, package in OPTIONAL.items() if importlib.util.find_spec(package) is None}
    suffixes = {*PHOTO_SUFFIXES, *OPTIONAL} - lacking
    for parent, folders, names in os.walk(folder, onerror=errors.append):
        folders[:] = sorted(name for name in folders if recursive and not is_junk(PurePosixPath(name)))
        for name in sorted(names):
            path, suffix = Path(parent, name), Path(name).suffix.lower()
            if is_junk(PurePosixPath(name)) or not _may_be_photo(path):
                continue
            if suffix in suffixes:
                photos.append(path)
            elif suffix in (*OTHER_PHOTOS, *lacking):
                others.append(name)
    unreadable += errors
    for error in errors:
        print(f"{error.filename}: left out, cannot be read ({error.strerror})", file=sys.stderr)
    if others:
        names_shown = f"{', '.join(others[:3])}{' ...' if len(others) > 3 else ''}"
        heic = any(name.lower().endswith(tuple(OPTIONAL)) for name in others)
        gif = any(name.lower().endswith(".gif") for name in others)
        advice = "convert them" + (", or for HEIC `pip install 'captioner[heic]'`" if heic else "")
        advice += ", or name each GIF file itself" if gif else ""
        print(
            f"{folder}: left out {len(others)} ({names_shown}), of unsupported kinds; {advice}",
            file=sys.stderr,
        )
    return photos


def without_sidecars(photos: Sequence[Path], suffix: str) -> list[Path]:
    """Return the photos without their own caption files, which a shell's `*` also names once they are written."""
    files = {photo.with_suffix(f".{suffix}") for photo in photos if photo.suffix != f".{suffix}"}
    return [photo for photo in photos if photo not in files]


def sidecars(photos: Sequence[Path], suffix: str) -> list[Path]:
    """Return the caption file of each photo: its name with another `suffix`.

    Raises CaptionerError if two photos would have the same caption file, or if this file is a photo.
    """
    owners: dict[Path, Path] = {}
    files = [photo.with_suffix(f".{suffix}") for photo in photos]
    for photo, file in zip(photos, files, strict=True):
        other = owners.setdefault(file, photo)
        if other != photo:
            raise CaptionerError(f"{other} and {photo}: both would write {file}; rename one, or caption them apart")
        if file == photo:
            raise CaptionerError(f"{photo}: would be written over with its caption; expected a photo")
    return files


def write_sidecar(path: Path, text: str) -> None:
    """Write a text file atomically. Unlike `whole`, it does not list the folder for each of its photos."""
    handle, beside = tempfile.mkstemp(prefix=".part-", suffix=path.suffix, dir=path.parent)
    try:
        with os.fdopen(handle, "w", encoding="utf-8", newline="\n") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(beside, 0o666 & ~_umask())
        os.replace(beside, path)
    except BaseException:
        Path(beside).unlink(missing_ok=True)
        raise


def _umask() -> int:
    umask = os.umask(0)
    os.umask(umask)
    return umask
