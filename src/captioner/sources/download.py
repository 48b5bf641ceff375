"""Download the two Flickr8k archives and the ImageNet weights, and verify each file.

The files come from the official addresses in `OFFICIAL`. If `CAPTIONER_MIRROR` is set, they come only from there: a
folder (relative to the working directory) or an http(s) base URL with

    Flickr8k_Dataset.zip  Flickr8k_text.zip  resnet18.pth    those that are wanted, under these names
    MD5SUMS                                                  a line `md5  name` for each of them

An official file must have the official checksum. A mirror's file must have the one in the mirror's
MD5SUMS; if that is not the official one, a warning says so and the record has `"official": false`.

DVC deletes a stage's outputs before it runs. So an archive with a known MD5 that is in DVC's cache is copied from there
and not downloaded again.

An unfinished download stays in `.resume/downloads/<name>.part`, outside of the outputs that DVC deletes. The next
attempt or run requests only the rest. The checksum is compared before the file is renamed to its destination.

`obtain` returns the file's record, which is committed to Git and so names no folder of this machine:

    source    "official" or "mirror" (other modules also write "drawn", "own", "random", "file" and "start")
    md5       32 hexadecimal digits
    bytes     int
    official  bool: the bytes are those at the official address; null where there is none
"""

import errno
import hashlib
import logging
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import requests
from tqdm import tqdm

from captioner.base.errors import CaptionerError
from captioner.base.files import atomic_write, digest

log = logging.getLogger(__name__)

CONNECT_TIMEOUT = 10.0  # seconds until a server must have accepted the connection
READ_TIMEOUT = 60.0  # seconds without a byte after which a transfer counts as stalled
ATTEMPTS = 4  # attempts without new data, before giving up
PAUSE = 1.0  # seconds before the second attempt, doubled before each further one
PARTIAL_FOLDER = Path(".resume/downloads")
CHUNK = 1 << 16  # bytes; what a broken connection may lose


@dataclass(frozen=True)
class Official:
    """An official file: its address and its checksum, in hexadecimal (or how it begins)."""

    url: str
    algorithm: str
    digest: str


_FLICKR8K = "https://github.com/jbrownlee/Datasets/releases/download/Flickr8k"
OFFICIAL: Mapping[str, Official] = {
    "Flickr8k_Dataset.zip": Official(f"{_FLICKR8K}/Flickr8k_Dataset.zip", "md5", "f18a1e2920de5bd84dae7cf08ec78978"),
    "Flickr8k_text.zip": Official(f"{_FLICKR8K}/Flickr8k_text.zip", "md5", "bf6c1abcb8e4a833b7f922104de18627"),
    # written out, so that the dataset is fetched without importing torchvision; a test compares them
    "resnet18.pth": Official("https://download.pytorch.org/models/resnet18-f37072fd.pth", "sha256", "f37072fd"),
}

_HELP = (
    "Without a network, set CAPTIONER_MIRROR to a folder or an http(s) base URL that holds "
    f"{', '.join(OFFICIAL)} and MD5SUMS (lines `md5  name`)"
)


class _Interrupted(Exception):
    """The transfer ended early or was refused temporarily; another attempt may get the rest."""


def obtain(
    name: str,
    destination: str | Path,
    *,
    official: Mapping[str, Official] = OFFICIAL,
    cache: Path | None = None,
    partial_folder: Path = PARTIAL_FOLDER,
    timeout: tuple[float, float] = (CONNECT_TIMEOUT, READ_TIMEOUT),
    attempts: int = ATTEMPTS,
    pause: float = PAUSE,
) -> dict[str, Any]:
    """Put the file called `name` in `OFFICIAL` at `destination`, verified, and return its record.

    `cache` is the folder that `dvc_cache` returns. Raises CaptionerError that names the address or path, what is wrong
    with it and what to do.
    """
    destination = Path(destination)
    mirror = os.environ.get("CAPTIONER_MIRROR", "").strip()
    transfer: dict[str, Any] = {"timeout": timeout, "attempts": attempts, "pause": pause}
    try:
        if not mirror:
            file = official[name]
            if not _take_from_cache(name, file.digest, cache, destination):
                fetch(name, file.url, destination, expected=file.digest, algorithm=file.algorithm,
                      partial_folder=partial_folder, **transfer)  # fmt: skip
        elif re.match(r"https?://", mirror, re.IGNORECASE):
            base = mirror.rstrip("/")
            sums = f"{base}/MD5SUMS"
            expected = _entry(name, _read_url(sums, **transfer), _shown(sums))
            if not _take_from_cache(name, expected, cache, destination):
                fetch(name, f"{base}/{name}", destination, expected=expected,
                      partial_folder=partial_folder, **transfer)  # fmt: skip
        elif "://" in mirror:
            raise CaptionerError(f"CAPTIONER_MIRROR is {_shown(mirror)}: must be a folder or an http(s) base URL")
        else:
            _take(name, Path(mirror).expanduser(), destination)
    except OSError as error:
        raise CaptionerError(f"{name}: {error}; correct that (disk space, permissions) and run again") from error
    record = provenance(name, destination, source="mirror" if mirror else "official", official=official)
    if not record["official"]:
        _warn(name, destination, official[name])
    return record


def provenance(
    name: str | None, path: str | Path, *, source: str, official: Mapping[str, Official] = OFFICIAL
) -> dict[str, Any]:
    """Return the record of the file at `path`: see the module's text.

    `name` is its name in `OFFICIAL`, or None for what has no official form: then `official` is None.
    """
    expected = official[name] if name else None
    same = digest(path, expected.algorithm).startswith(expected.digest) if expected else None
    return {"source": source, "md5": digest(path), "bytes": Path(path).stat().st_size, "official": same}


def fetch(
    name: str,
    url: str,
    destination: str | Path,
    *,
    expected: str,
    algorithm: str = "md5",
    partial_folder: Path = PARTIAL_FOLDER,
    timeout: tuple[float, float] = (CONNECT_TIMEOUT, READ_TIMEOUT),
    attempts: int = ATTEMPTS,
    pause: float = PAUSE,
) -> None:
    """Download `url` to `destination`, going on from `partial_folder/<name>.part` if that exists.

    `expected` is the checksum or how it begins; `timeout` is for connecting and for reading, `pause` before
    the second attempt, in seconds. Raises CaptionerError; then the destination is untouched, and what came
    is kept unless its checksum was wrong.
    """
    part = Path(partial_folder) / f"{name}.part"
    part.parent.mkdir(parents=True, exist_ok=True)
    log.info("%s: from %s", name, _shown(url))
    for _ in range(2):  # pieces of different files have a wrong checksum: start over once
        pieced = _receive(url, part, timeout=timeout, attempts=attempts, pause=pause)
        actual = digest(part, algorithm)
        if actual.startswith(expected):
            _rename(part, Path(destination))
            return
        part.unlink()
        if not pieced:
            break
        log.info("%s: the pieces do not fit together; starting over", name)
    raise CaptionerError(
        f"{_shown(url)}: {algorithm} is {actual}, expected {expected}; the downloaded file was deleted. Run again; "
        f"if this happens again, the server or a proxy sends a different file. {_HELP}"
    )


def _receive(url: str, part: Path, *, timeout: tuple[float, float], attempts: int, pause: float) -> bool:
    """Complete `part`; return whether it consists of several pieces."""
    longest, failures = _size(part), 0
    while True:
        try:
            return _request(url, part, timeout) > 0
        except (requests.exceptions.ChunkedEncodingError, requests.exceptions.ContentDecodingError):
            reason = f"the transfer was cut at {_size(part)} bytes"
        except (requests.ConnectionError, requests.Timeout) as error:  # what caused it stands last
            cause = re.sub(r"[()'\"]", "", str(error).rpartition(": ")[2])
            reason = f"no connection, or it broke off: {cause}"
        except _Interrupted as error:
            reason = str(error)
        except (
            requests.RequestException
        ) as error:  # an invalid address or too many redirects: another attempt does not help
            raise CaptionerError(f"{_shown(url)}: {error}. {_HELP}") from None
        failures = 0 if _size(part) > longest else failures + 1
        longest = max(longest, _size(part))
        if failures >= attempts:
            advice = f" {_size(part)} bytes are kept; run again to go on." if _size(part) else ""
            raise CaptionerError(f"{_shown(url)}: {reason} (after {attempts} attempts).{advice} {_HELP}")
        log.info("%s: %s; trying again", _shown(url), reason)
        time.sleep(pause * 2 ** max(failures - 1, 0))


def _request(url: str, part: Path, timeout: tuple[float, float]) -> int:
    """Request the missing rest of `part` once; return the byte at which the answer began."""
    start = _size(part)
    headers = {"Accept-Encoding": "identity"}  # lengths and ranges are then those of the file
    if start:
        headers["Range"] = f"bytes={start}-"
    with requests.get(url, headers=headers, stream=True, timeout=timeout) as response:
        if start and response.status_code == 416:
            return start  # nothing beyond: whole, or a piece of another file; the checksum tells
        _refuse(url, response)
        begin, total = _extent(response)
        if begin not in (0, start):
            part.unlink()
            raise _Interrupted("the answer is not the range that was asked for")
        with (
            part.open("ab" if begin else "wb") as file,
            tqdm(total=total, initial=begin, desc=part.stem, unit="B", unit_scale=True, disable=None) as bar,
        ):
            for chunk in response.iter_content(CHUNK):
                file.write(chunk)
                bar.update(len(chunk))
    if total is not None and _size(part) < total:
        raise _Interrupted(f"the transfer ended at {_size(part)} of {total} bytes")
    return begin


def _refuse(url: str, response: requests.Response) -> None:
    """Raise an error for an answer that is not the file, before any of it is written."""
    status = response.status_code
    answer = f"the server answered {status} {response.reason or ''}".rstrip()
    if status in (408, 429) or status >= 500:
        raise _Interrupted(answer)
    if status not in (200, 206):
        raise CaptionerError(f"{_shown(url)}: {answer}. {_HELP}")
    if response.headers.get("Content-Type", "").lower().startswith(("text/html", "application/xhtml")):
        raise CaptionerError(
            f"{_shown(url)}: answered with a web page in place of the file (a log-in or a proxy?). {_HELP}"
        )


def _extent(response: requests.Response) -> tuple[int, int | None]:
    """Return the byte at which the answer begins (-1: not said) and the file's length, if known."""
    if response.status_code == 206:
        match = re.fullmatch(r"bytes (\d+)-\d+/(\d+|\*)", response.headers.get("Content-Range", "").strip())
        if not match:
            return -1, None
        return int(match[1]), None if match[2] == "*" else int(match[2])
    length = response.headers.get("Content-Length", "")
    encoded = response.headers.get("Content-Encoding", "identity") != "identity"
    return 0, int(length) if length.isdigit() and not encoded else None


def _rename(part: Path, destination: Path) -> None:
    destination.parent.mkdir(parents=True, exist_ok=True)
    with part.open("rb+") as file:
        os.fsync(file.fileno())
    try:
        os.replace(part, destination)
    except OSError as error:
        if error.errno != errno.EXDEV:
            raise
        with atomic_write(destination) as beside:  # data/ lies on another file system
            shutil.copyfile(part, beside)
        part.unlink()


def _read_url(url: str, *, timeout: tuple[float, float], attempts: int, pause: float) -> str:
    with tempfile.TemporaryDirectory() as folder:
        part = Path(folder) / "MD5SUMS"
        _receive(url, part, timeout=timeout, attempts=attempts, pause=pause)
        return part.read_text(encoding="utf-8", errors="replace")


def _take(name: str, folder: Path, destination: Path) -> None:
    """Copy `name` from a mirror folder, and hash it at the same time, so that it is read once."""
    if not folder.is_dir():
        raise CaptionerError(f"CAPTIONER_MIRROR is {folder}: no such folder (looked up from {Path.cwd()})")
    source, sums = folder / name, folder / "MD5SUMS"
    for path in (sums, source):
        if not path.is_file():
            raise CaptionerError(f"{path}: not found. {_HELP}; or unset it to download the official file")
    expected = _entry(name, sums.read_text(encoding="utf-8", errors="replace"), sums)
    log.info("%s: from the folder in CAPTIONER_MIRROR", name)
    with atomic_write(destination) as beside:
        hasher = hashlib.md5()
        with (
            source.open("rb") as old,
            beside.open("wb") as new,
            tqdm(total=_size(source), desc=name, unit="B", unit_scale=True, disable=None) as bar,
        ):
            while chunk := old.read(16 * CHUNK):
                hasher.update(chunk)
                new.write(chunk)
                bar.update(len(chunk))
        if hasher.hexdigest() != expected:
            raise CaptionerError(
                f"{source}: md5 is {hasher.hexdigest()}, expected {expected} from {sums}; copy the file "
                "to the mirror again or correct its line"
            )


def dvc_cache() -> Path | None:
    """Return the folder in which DVC keeps files, each under its MD5; None where there is no DVC project."""
    done = subprocess.run([sys.executable, "-m", "dvc", "cache", "dir"], capture_output=True, text=True)
    return Path(done.stdout.strip()) / "files/md5" if done.returncode == 0 else None


def _take_from_cache(name: str, expected: str, cache: Path | None, destination: Path) -> bool:
    """Copy the file with the MD5 `expected` from DVC's cache; return whether it is there and whole."""
    source = cache and cache / expected[:2] / expected[2:]
    if not source or not source.is_file() or digest(source) != expected:
        return False
    log.info("%s: from DVC's cache", name)
    with atomic_write(destination) as beside:
        shutil.copyfile(source, beside)
    return True


def _entry(name: str, text: str, where: str | Path) -> str:
    """Return the MD5 that the text of an MD5SUMS file gives for `name`, as GNU's md5sum writes it or BSD's md5."""
    sums: dict[str, str] = {}  # by path; the first of a path counts
    for line in text.splitlines():
        gnu = re.fullmatch(r"\ufeff?([0-9a-fA-F]{32})\s+\*?(\S.*?)\s*", line)
        bsd = re.fullmatch(r"\ufeff?MD5 \((.+)\) = ([0-9a-fA-F]{32})\s*", line)
        checksum, path = gnu.groups() if gnu else bsd.groups()[::-1] if bsd else ("", "")
        sums.setdefault(path.removeprefix("./"), checksum.lower())
    for path in (name, *sums):  # one of that very name before one in a folder
        if path in sums and path.rpartition("/")[2] == name:
            return sums[path]
    raise CaptionerError(f"{where}: has no line `md5  {name}`; write it there (`md5sum {name} >> MD5SUMS`)")


def _warn(name: str, path: Path, expected: Official) -> None:
    actual = digest(path, expected.algorithm)[: len(expected.digest)]
    line = "*" * 78
    text = (
        f"WARNING: {name} from CAPTIONER_MIRROR is not the official file.\n"
        f"  official  {expected.algorithm} {expected.digest}\n"
        f"  this one  {expected.algorithm} {actual}\n"
        "Results made from it cannot be compared with those on the official data."
    )
    log.warning("%s\n%s\n%s", line, text, line)


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _shown(url: str) -> str:
    """The address without a password in it."""
    return re.sub(r"//[^/@]*@", "//", url)
