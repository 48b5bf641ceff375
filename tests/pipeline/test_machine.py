"""Faults of the machine during a run: a full disk, files that disappear, a clock that jumps."""

import errno
import os
import shutil
import subprocess
import zipfile
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from captioner.base.errors import CaptionerError
from captioner.base.files import atomic_write, write_json, write_text
from captioner.base.resume import Resume
from captioner.sources.archives import Archive
from captioner.sources.download import obtain
from captioner.sources.shapes import write_archives
from captioner.sources.weights import provide_weights
from captioner.vision.store import FeatureStore, View, new_store
from tests.support.disk import full_disk
from tests.support.workspaces import ROOT
from tests.support.worlds import zipped

ROOM = 5000  # bytes a file may grow to on the full disk


def store(path, size):
    with new_store(path, views=[View("a.jpg")] * size, shape=(2, 2, 8), dtype="float16", layer="end") as writer:
        writer.write(0, torch.zeros(size, 2, 2, 8))


def model(path, size):
    with atomic_write(path) as beside:
        save_file({"weight": torch.zeros(size)}, beside)


def archives(path, size):
    write_archives(path, path.parent / "captions.zip", train=size // 1000 or 1, dev=1, test=1, size=32, seed=1)


WRITERS = {
    "text": lambda path, size: write_text(path, "x" * size),
    "json": lambda path, size: write_json(path, ["x" * size]),
    "store": store,
    "model": model,
    "archives": archives,
}


def content(folder):
    return {path.name: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("kind", WRITERS)
@pytest.mark.parametrize("old", [False, True])
def test_a_full_disk_leaves_what_was_there_and_nothing_else(tmp_path, kind, old):
    path = tmp_path / "made"
    if old:
        WRITERS[kind](path, 10)
    before = content(tmp_path)
    with full_disk(ROOM), pytest.raises(OSError, match=r"File too large: '.*/made'"):
        WRITERS[kind](path, 20_000)
    assert content(tmp_path) == before
    assert [each.name for each in tmp_path.iterdir()] == list(before)  # and no folder remains
    WRITERS[kind](path, 20_000)  # and with room again it works
    assert path.stat().st_size > ROOM


def test_a_full_disk_keeps_the_state_of_the_last_epoch(tmp_path):
    resume = Resume("train", {}, tmp_path)
    resume.save({"records": [1], "weights": torch.ones(9)})
    with full_disk(ROOM), pytest.raises(RuntimeError):
        resume.save({"records": [1, 2], "weights": torch.ones(9999)})
    assert list(tmp_path.iterdir()) == [resume.path]
    assert resume.load()["records"] == [1]


def test_a_full_disk_leaves_no_weights(tmp_path):
    with full_disk(ROOM), pytest.raises(RuntimeError):
        provide_weights("random", 1, tmp_path / "raw" / "resnet18.pth")
    assert list((tmp_path / "raw").iterdir()) == []


def test_a_full_disk_during_a_download_is_told_and_with_room_it_ends_well(tmp_path, monkeypatch):
    mirror = tmp_path / "mirror"
    mirror.mkdir()
    (mirror / "resnet18.pth").write_bytes(bytes(20_000))
    (mirror / "MD5SUMS").write_text("b2fe457348de243a579a1591d3815170  resnet18.pth\n")
    monkeypatch.setenv("CAPTIONER_MIRROR", str(mirror))
    monkeypatch.chdir(tmp_path)
    goal = tmp_path / "raw" / "resnet18.pth"
    with (
        full_disk(ROOM),
        pytest.raises(CaptionerError, match=r"resnet18\.pth: .*File too large.*\(disk space, permissions\)"),
    ):
        obtain("resnet18.pth", goal)
    assert not goal.exists()
    obtain("resnet18.pth", goal)
    assert goal.read_bytes() == bytes(20_000)


def test_a_disk_that_fails_when_it_syncs_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "made.txt"
    write_text(path, "old")

    def fails(_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", fails)
    with pytest.raises(OSError, match="No space left on device"):
        write_text(path, "new")
    assert content(tmp_path) == {"made.txt": b"old"}


@contextmanager
def ordinary_user():
    """Act as a user without write access everywhere. As root, which tests in containers run as, become nobody."""
    root = os.geteuid() == 0
    if root:
        os.seteuid(65534)
    try:
        yield
    finally:
        if root:
            os.seteuid(0)


@pytest.mark.parametrize("kind", WRITERS)
def test_a_folder_that_must_not_be_written_is_named_and_stays_as_it_is(tmp_path, monkeypatch, kind):
    monkeypatch.chdir(tmp_path)  # relative paths, since a user may not pass through root's folders
    folder = Path("outputs")
    folder.mkdir()
    (folder / "made").write_text("old")
    folder.chmod(0o555)
    with ordinary_user(), pytest.raises(PermissionError, match="outputs"):
        WRITERS[kind](folder / "made", 10)
    assert content(folder) == {"made": b"old"}


def test_a_folder_that_goes_away_while_a_file_is_written_is_an_error(tmp_path):
    path = tmp_path / "data" / "made.txt"
    with pytest.raises(FileNotFoundError, match=r"made\.txt"), atomic_write(path) as beside:  # noqa: PT012
        beside.write_text("text")
        shutil.rmtree(path.parent)
    assert not path.parent.exists()


def test_a_store_that_is_deleted_is_read_to_the_end(tmp_path):
    path = tmp_path / "features.h5"
    rows = torch.arange(64, dtype=torch.float16).reshape(4, 2, 2, 4)
    with new_store(path, views=list(map(View, "abcd")), shape=(2, 2, 4), dtype="float16") as writer:
        writer.write(0, rows)
    opened = FeatureStore(path)
    path.unlink()
    assert torch.equal(opened.read(np.arange(4)), rows)
    with pytest.raises(CaptionerError, match=r"features\.h5: not found; `dvc repro features` makes it"):
        FeatureStore(path)


def test_an_archive_that_is_deleted_or_cut_while_it_is_read_gives_the_right_bytes_or_an_error(tmp_path):
    path = zipped(tmp_path / "images.zip", {"a.jpg": bytes(range(256)) * 400}, zipfile.ZIP_STORED)
    deleted = Archive(path)
    path.rename(tmp_path / "kept.zip")
    assert deleted.read("a.jpg") == bytes(range(256)) * 400
    cut = Archive(tmp_path / "kept.zip")
    os.truncate(tmp_path / "kept.zip", 1000)
    with pytest.raises(CaptionerError, match=r"kept\.zip: a\.jpg cannot be unpacked"):
        cut.read("a.jpg")


def test_a_state_whose_folder_is_deleted_between_epochs_is_written_anew(tmp_path):
    resume = Resume("train", {}, tmp_path / ".resume")
    resume.save({"records": [1]})
    shutil.rmtree(tmp_path / ".resume")
    assert resume.load() is None
    resume.save({"records": [1, 2]})
    assert resume.load() == {"records": [1, 2]}


@pytest.mark.parametrize("kind", WRITERS)
def test_the_clock_is_in_no_file(tmp_path, monkeypatch, kind):
    WRITERS[kind](tmp_path / "now" / "made", 3000)
    jumped = iter([0.0, 4e9, 1e9] * 1000)
    monkeypatch.setattr("time.time", lambda: next(jumped))
    monkeypatch.setattr("time.localtime", lambda *_: (1980, 1, 1, 0, 0, 0, 0, 1, 0))
    WRITERS[kind](tmp_path / "then" / "made", 3000)
    assert content(tmp_path / "now") == content(tmp_path / "then")


def test_make_clean_clears_the_states_and_leaves_data_and_models(tmp_path):
    shutil.copy(ROOT / "Makefile", tmp_path)
    for path in (".resume/train-0.pt", ".resume/downloads/a.zip.part", ".demo/params.yaml", "models/a.safetensors"):
        write_text(tmp_path / path, "")
    subprocess.run(["make", "clean"], cwd=tmp_path, check=True, capture_output=True)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["Makefile", "models"]


def test_a_clone_has_unix_line_ends_where_git_is_set_to_others(tmp_path):
    def git(*arguments, cwd=tmp_path):
        identity = ("-c", "user.name=test", "-c", "user.email=test@example.org")
        subprocess.run(["git", *identity, *arguments], cwd=cwd, check=True, capture_output=True)

    git("init", "one")
    one = tmp_path / "one"
    shutil.copy(ROOT / ".gitattributes", one)
    contents = {"stage.py": b"import os\nimport sys\n", "metrics.json": b'{"a": 1}\n', "picture.png": b"\x89PNG\r\n\n"}
    for name, written in contents.items():
        (one / name).write_bytes(written)
    git("add", "--all", cwd=one)
    git("commit", "--message", "Files", cwd=one)
    git("-c", "core.autocrlf=true", "-c", "core.eol=crlf", "clone", "one", "other")
    assert {name: (tmp_path / "other" / name).read_bytes() for name in contents} == contents
