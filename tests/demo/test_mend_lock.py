"""A dvc.lock that was cut: the last committed one comes back, and nothing else is touched."""

import subprocess

import pytest

from demo.mend_lock import is_readable, mend_lock
from demo.run import ROOT

WHOLE = b"""schema: '2.0'
stages:
  one:
    cmd: python one.py
    deps:
    - path: one.py
      hash: md5
      md5: 0123
    outs:
    - path: one.txt
      hash: md5
      md5: 4567
  two:
    cmd: python two.py
"""


def git(folder, *arguments):
    me = ["-c", "user.name=a", "-c", "user.email=a@b"]
    subprocess.run(["git", *me, *arguments], cwd=folder, check=True, capture_output=True)


@pytest.fixture
def repository(tmp_path):
    git(tmp_path, "init")
    (tmp_path / "dvc.lock").write_bytes(WHOLE)
    git(tmp_path, "add", "dvc.lock")
    git(tmp_path, "commit", "-m", "first")
    return tmp_path


def test_the_projects_own_lock_is_readable():
    assert is_readable((ROOT / "dvc.lock").read_bytes())


@pytest.mark.parametrize("end", range(0, len(WHOLE), 3))
def test_a_lock_that_cannot_be_read_is_put_back(repository, end):
    lock = repository / "dvc.lock"
    lock.write_bytes(WHOLE[:end])
    if is_readable(WHOLE[:end]):
        assert WHOLE[:end].startswith(b"schema: '2.0'\nstages:\n  one:\n    cmd: ")
        assert not mend_lock(repository)
        assert lock.read_bytes() == WHOLE[:end]
    else:
        assert mend_lock(repository)
        assert lock.read_bytes() == WHOLE
        assert (repository / "dvc.lock.damaged").read_bytes() == WHOLE[:end]
        assert not mend_lock(repository)


@pytest.mark.parametrize("bad", [b"\xff", b"stages:\n  one:\n    cmd: a\n    deps:\n    - path", b"stages:\n  one:\n"])
def test_what_dvc_would_refuse_is_noticed(bad):
    assert not is_readable(bad)


@pytest.mark.parametrize("committed", [None, "other", b"stages: [cut"])
def test_without_a_good_commit_the_cut_lock_is_moved_away(tmp_path, committed, caplog):
    if committed is not None:
        git(tmp_path, "init")
        (tmp_path / ("other" if committed == "other" else "dvc.lock")).write_bytes(b"stages: [cut")
        git(tmp_path, "add", "--all")
        git(tmp_path, "commit", "-m", "first")
    (tmp_path / "dvc.lock").write_bytes(b"stages: {cut")
    assert mend_lock(tmp_path)
    assert not (tmp_path / "dvc.lock").exists()
    assert (tmp_path / "dvc.lock.damaged").read_bytes() == b"stages: {cut"
    assert "no commit has one" in caplog.text


def test_where_there_is_no_lock_nothing_happens(tmp_path):
    assert not mend_lock(tmp_path)
    assert list(tmp_path.iterdir()) == []
