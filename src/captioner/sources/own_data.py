"""A dataset of one's own, brought into the archives that all later stages read.

The folder holds the photos, as files or in zip or tar archives, at any depth, and the captions file that
`captioner.captions.formats` reads. What comes out:

    <images>/files.zip                     the photos that lie as files, stored, under their paths in the folder
    <images>/archives/<path>[.zip]         each archive that holds photos: a zip as it is, the photos of a tar
                                           packed into a zip, since nothing in a compressed tar can be read alone
    <captions>                             a zip of the captions file

The same files give the same bytes.
"""

import hashlib
import logging
import os
import shutil
import tarfile
import zipfile
from pathlib import Path, PurePosixPath
from typing import Any

from tqdm import tqdm

from captioner.base.errors import CaptionerError
from captioner.base.files import digest, whole
from captioner.sources.archives import PHOTO_SUFFIXES, Archive, add_stored, is_junk, zips_in

log = logging.getLogger(__name__)

CAPTION_SUFFIXES = (".csv", ".json")
TAR_SUFFIXES = (".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz")


def provide_own(folder: str | Path, captions_name: str, *, images: str | Path, captions: str | Path) -> dict[str, Any]:
    """Write the folder `images` and the zip `captions` from `folder`, return what is known of the photos.

    The record has the keys of `captioner.sources.download`; its `md5` is that of the sorted lines `md5  path` of the
    archives. Raises CaptionerError that names what is missing or cannot be read.
    """
    source = Path(folder)
    if not source.is_dir():
        raise CaptionerError(f"own.folder is {folder}: no such folder (looked up from {Path.cwd()})")
    texts = _captions_file(source, captions_name)
    files, zips, tars = _find(source)
    images = Path(images)
    for path in tqdm(zips + tars, desc="archives", unit="archive", disable=None):
        target = images / "archives" / path.relative_to(source)
        if path in tars:
            if path.with_name(f"{path.name}.zip") in zips:
                raise CaptionerError(
                    f"{path}: {path.name}.zip stands beside it and would be mixed up with it; rename one"
                )
            _pack_tar(path, target.with_name(f"{target.name}.zip"))
        elif any(name.lower().endswith(PHOTO_SUFFIXES) for name in Archive(path).names()):
            _copy(path, target)
    if files:
        with whole(images / "files.zip") as beside, zipfile.ZipFile(beside, "w") as archive:
            for path in tqdm(files, desc="photos", unit="photo", disable=None):
                add_stored(archive, path.relative_to(source).as_posix(), path.read_bytes())
    made = zips_in(images)
    if not made:
        raise CaptionerError(
            f"own.folder is {folder}: no photos in it; expected files ending in {', '.join(PHOTO_SUFFIXES)}, or zip "
            f"or tar archives of such (links to folders are not followed)"
        )
    with whole(captions) as beside, zipfile.ZipFile(beside, "w") as archive:
        add_stored(archive, texts.name, texts.read_bytes())
    lines = "".join(f"{digest(path)}  {path.relative_to(images).as_posix()}\n" for path in made)
    return {
        "source": "own",
        "md5": hashlib.md5(lines.encode()).hexdigest(),
        "bytes": sum(path.stat().st_size for path in made),
        "official": None,
    }


def _captions_file(folder: Path, name: str) -> Path:
    path = folder / name
    inside = PurePosixPath(name)
    if inside.is_absolute() or ".." in inside.parts:
        raise CaptionerError(f"own.captions is {name}: expected a file in own.folder, so that DVC watches it")
    if path.suffix.lower() not in CAPTION_SUFFIXES:
        raise CaptionerError(f"own.captions is {name}: expected a name ending in {' or '.join(CAPTION_SUFFIXES)}")
    if not path.is_file():
        there = sorted(each.name for each in folder.iterdir() if each.suffix.lower() in CAPTION_SUFFIXES)
        raise CaptionerError(
            f"own.captions is {name}: no such file in {folder}; "
            + (f"there are {', '.join(there[:5])}" if there else "write one, as docs/own-data.md says")
        )
    return path


def _find(folder: Path) -> tuple[list[Path], list[Path], list[Path]]:
    """Return the photos, the zips and the tars of a folder, each sorted by their path."""
    found: tuple[list[Path], list[Path], list[Path]] = [], [], []
    for here, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if not is_junk(PurePosixPath(name))]
        for name in names:
            kinds = (PHOTO_SUFFIXES, (".zip",), TAR_SUFFIXES)
            kind = next((at for at, ends in enumerate(kinds) if name.lower().endswith(ends)), None)
            path = Path(here, name)
            if kind is None or is_junk(PurePosixPath(name)):
                continue
            try:
                str(path).encode()
            except UnicodeEncodeError:
                raise CaptionerError(f"own.folder: the name {os.fsencode(path)!r} is not UTF-8; rename it") from None
            found[kind].append(path)
    for paths in found:
        paths.sort(key=lambda path: path.relative_to(folder).as_posix())
    return found


def _pack_tar(path: Path, target: Path) -> None:
    """Write the photos of a tar into a zip, in the tar's order; none where there is no photo."""
    packed = 0
    try:
        with tarfile.open(path) as tar, whole(target) as beside, zipfile.ZipFile(beside, "w") as archive:
            for member in tqdm(tar, desc=path.name, unit="file", disable=None):
                name = PurePosixPath(member.name)
                if (
                    (member.isfile() or member.islnk())
                    and name.name.lower().endswith(PHOTO_SUFFIXES)
                    and not is_junk(name)
                ):
                    content = tar.extractfile(member)
                    assert content is not None  # a file, or a hard link to one
                    add_stored(archive, str(name), content.read())
                    packed += 1
    except Exception as error:  # damaged bytes raise much besides TarError
        if isinstance(error, OSError) and error.errno is not None:  # the disk's fault, not the archive's
            raise
        raise CaptionerError(f"{path}: not a whole tar archive ({error}); replace it") from None
    if not packed:
        target.unlink()
    log.info("%s: %s photos packed", path.name, packed)


def _copy(path: Path, target: Path) -> None:
    """Copy a file: a link would make the user's own one part of DVC's cache, which may be linked to it in turn."""
    with whole(target) as beside:
        shutil.copyfile(path, beside)
