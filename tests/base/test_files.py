"""Files that appear whole or not at all."""

import hashlib
import os
import subprocess
import sys

import pytest

from captioner.base.files import atomic_write, digest, read_json, write_json, write_text


def test_the_file_appears_under_its_name_when_the_block_ends(tmp_path):
    path = tmp_path / "new" / "folder" / "data.bin"
    with atomic_write(path) as beside:
        assert beside.name == path.name
        beside.write_bytes(b"\x00\xff\r\n")
        assert not path.exists()
    assert path.read_bytes() == b"\x00\xff\r\n"
    assert list(path.parent.iterdir()) == [path]


def test_a_reader_sees_the_old_file_until_the_block_ends(tmp_path):
    path = tmp_path / "data.txt"
    path.write_text("old")
    with atomic_write(str(path)) as beside:
        beside.write_text("new")
        assert path.read_text() == "old"
    assert path.read_text() == "new"


@pytest.mark.parametrize("failure", [ValueError, KeyboardInterrupt, SystemExit])
@pytest.mark.parametrize("old", [None, "old"])
def test_when_the_block_raises_the_old_file_stays_and_nothing_is_left(tmp_path, failure, old):
    path = tmp_path / "data.txt"
    if old:
        path.write_text(old)
    with pytest.raises(failure), atomic_write(path) as beside:  # noqa: PT012
        beside.write_text("half")
        raise failure
    assert {each.name: each.read_text() for each in tmp_path.iterdir()} == ({"data.txt": old} if old else {})


def test_a_block_that_writes_nothing_is_an_error_and_the_old_file_stays(tmp_path):
    path = tmp_path / "data.txt"
    path.write_text("old")
    with pytest.raises(FileNotFoundError), atomic_write(path):
        pass
    assert [each.read_text() for each in tmp_path.iterdir()] == ["old"]


@pytest.mark.parametrize("name", ["data.txt", "[odd] *?name.txt"])
def test_what_a_killed_run_left_is_removed_by_the_next(tmp_path, name):
    path = tmp_path / name
    kill = (
        "import os, signal, sys\n"
        "from captioner.base.files import atomic_write\n"
        "with atomic_write(sys.argv[1]) as beside:\n"
        "    beside.write_text('half')\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    assert subprocess.run([sys.executable, "-c", kill, path]).returncode < 0
    assert not path.exists()
    assert len(list(tmp_path.iterdir())) == 1
    write_text(path, "whole")
    assert list(tmp_path.iterdir()) == [path]


def test_what_is_left_has_a_name_that_git_ignores(tmp_path):
    with atomic_write(tmp_path / "data.txt") as beside:
        beside.touch()
        assert beside.parent.parent == tmp_path
        assert beside.parent.name.startswith(".part-")


@pytest.mark.parametrize(("first", "second"), [("data.txt", "other.txt"), ("data", "data-more"), ("data-more", "data")])
def test_a_file_that_is_being_written_is_left_alone_by_one_of_another_name(tmp_path, first, second):
    with atomic_write(tmp_path / first) as outer:
        outer.write_text("outer")
        write_text(tmp_path / second, "inner")
        assert outer.exists()
    assert (tmp_path / first).read_text() == "outer"
    assert (tmp_path / second).read_text() == "inner"


def test_a_folder_that_cannot_be_made_is_an_os_error(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(OSError, match="file"):
        write_text(tmp_path / "file" / "data.txt", "text")
    assert (tmp_path / "file").read_text() == "in the way"


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_that_must_not_be_written_is_an_os_error(tmp_path):
    tmp_path.chmod(0o500)
    try:
        with pytest.raises(PermissionError):
            write_text(tmp_path / "data.txt", "text")
    finally:
        tmp_path.chmod(0o700)


def test_a_folder_of_the_same_name_stays_and_nothing_is_left(tmp_path):
    (tmp_path / "data.txt").mkdir()
    with pytest.raises(OSError, match=r"data\.txt"):
        write_text(tmp_path / "data.txt", "text")
    assert list(tmp_path.iterdir()) == [tmp_path / "data.txt"]


def test_text_is_utf_8_with_unix_line_ends(tmp_path):
    write_text(tmp_path / "data.txt", "é\n雪\n")
    assert (tmp_path / "data.txt").read_bytes() == "é\n雪\n".encode()


def test_json_comes_back_and_keeps_the_order_of_its_keys(tmp_path):
    path = tmp_path / "data.json"
    value = {"z": [1, 2.5, None, True], "a": {"é 雪": '"\n'}, "empty": []}
    write_json(path, value)
    assert read_json(path) == value
    assert list(read_json(path)) == ["z", "a", "empty"]
    write_json(path, {"b": "é", "a": 1})
    assert path.read_bytes() == '{\n  "b": "é",\n  "a": 1\n}\n'.encode()


@pytest.mark.parametrize("size", [0, 1, 1 << 20, (1 << 20) + 1])
def test_digest_is_that_of_all_bytes(tmp_path, size):
    content = bytes(range(251)) * (size // 251 + 1)
    (tmp_path / "data").write_bytes(content[:size])
    assert digest(tmp_path / "data") == hashlib.md5(content[:size]).hexdigest()
    assert digest(tmp_path / "data", "sha256") == hashlib.sha256(content[:size]).hexdigest()
