"""Archives as they come: broken, hostile, or full of junk."""

import random
import re
import stat
import struct
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from captioner.base.errors import CaptionerError
from captioner.sources import archives
from captioner.sources.archives import Archive
from tests.support.worlds import zipped

CENTRAL = b"PK\x01\x02"


def patched(path, offset, form, value):
    """Change a field of the first entry of the zip's directory, `offset` bytes from the entry's start."""
    content = bytearray(path.read_bytes())
    struct.pack_into(form, content, content.index(CENTRAL) + offset, value)
    path.write_bytes(content)


def refused(path, member=None):
    """Open the archive, or read a member of it; return what is said about it."""
    with pytest.raises(CaptionerError) as caught:
        Archive(path) if member is None else Archive(path).read(member)
    assert str(path) in str(caught.value)
    return str(caught.value)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "data.zip"


def test_files_are_read_by_their_paths_and_the_ends_of_them(path):
    zipped(path, {"folder/": "", "folder/b.jpg": b"\x00b", "a.txt": "a", "folder/deep/c.PNG": "c"})
    archive = Archive(str(path))
    assert archive.names() == ["a.txt", "folder/b.jpg", "folder/deep/c.PNG"]
    assert [archive.read(name) for name in archive.names()] == [b"a", b"\x00b", b"c"]
    assert [archive.read(name) for name in ("b.jpg", "c.PNG", "deep/c.PNG")] == [b"\x00b", b"c", b"c"]
    assert archive.photos() == ["folder/b.jpg", "folder/deep/c.PNG"]
    assert archive.find("eep/c.PNG") is None


def test_the_junk_of_macos_network_drives_and_windows_is_not_there(path):
    junk = {"__MACOSX/Photos/._a.jpg": "junk", "__MACOSX/a.jpg": "junk", "Photos/._a.jpg": "junk", "._b.jpg": "junk"}
    junk |= dict.fromkeys(("Photos/.thumbnails/a.jpg", "Photos/@eaDir/a.jpg/S.jpg", "#recycle/a.jpg"), "junk")
    junk["$RECYCLE.BIN/a.jpg"] = "junk"
    zipped(path, {**junk, "Photos/a.jpg": "photo"})
    assert Archive(path).photos() == ["Photos/a.jpg"]
    assert Archive(path).names() == ["Photos/a.jpg"]
    assert Archive(path).read("a.jpg") == b"photo"


def test_an_archive_without_photos_is_refused(path):
    zipped(path, {"readme.txt": "text"})
    with pytest.raises(CaptionerError, match=r"data\.zip: no photos; expected"):
        Archive(path).photos()


def test_a_file_that_is_not_in_it_is_named(path):
    assert "no file b.jpg in it" in refused(zipped(path, {"a.jpg": "photo"}), "b.jpg")


def test_a_missing_archive_says_what_brings_it(path):
    assert "not found; `dvc repro` downloads it" in refused(path)


@pytest.mark.parametrize(
    "content", [b"", b"PK", b"<!DOCTYPE html><html>Not Found</html>", random.Random(1).randbytes(3000)]
)
def test_what_is_no_zip_is_refused(path, content):
    path.write_bytes(content)
    assert "not a whole zip archive" in refused(path)


def test_the_archives_of_a_folder_are_one(tmp_path):
    (tmp_path / "deep").mkdir()
    zipped(tmp_path / "one.zip", {"train/a.jpg": "a", "train/c.jpg": "c"})
    zipped(tmp_path / "deep" / "two.zip", {"val/b.jpg": "b", "val/c.jpg": "other c"})
    (tmp_path / "readme.txt").write_text("no archive")
    archive = Archive(tmp_path)
    assert archive.photos() == ["train/a.jpg", "train/c.jpg", "val/b.jpg", "val/c.jpg"]
    assert [archive.read(name) for name in ("a.jpg", "b.jpg", "val/c.jpg")] == [b"a", b"b", b"other c"]
    message = refused(tmp_path, "c.jpg")
    assert "c.jpg may be train/c.jpg or val/c.jpg; name it with its folder" in message


def test_an_end_that_two_paths_have_is_looked_up_without_a_walk_over_all_names(path, monkeypatch):
    archive = Archive(zipped(path, {"train/c.jpg": "c", "d.jpg": "d", "more/train/c.jpg": "c", "val/c.jpg": "other c"}))
    monkeypatch.delattr(Archive, "names")
    with pytest.raises(CaptionerError, match=r"c\.jpg may be more/train/c\.jpg or train/c\.jpg"):
        archive.find("c.jpg")
    assert archive.ending_in("c.jpg") == ["more/train/c.jpg", "train/c.jpg", "val/c.jpg"]
    assert archive.ending_in("val/c.jpg") == archive.ending_in("d.jpg") == []


def test_a_folder_without_archives_is_refused(path):
    path.mkdir()
    assert "no zip archive in this folder" in refused(path)


def test_a_path_that_two_archives_hold_is_refused(tmp_path):
    zipped(tmp_path / "one.zip", {"a.jpg": "a"})
    zipped(tmp_path / "two.zip", {"a.jpg": "b"})
    assert re.search(r"two\.zip: holds a file a\.jpg, and so does .*one\.zip", refused(tmp_path))


def test_a_whole_path_goes_before_the_end_of_another(path):
    zipped(path, {"a.jpg": "above", "deep/a.jpg": "below"})
    assert Archive(path).read("a.jpg") == b"above"
    assert Archive(path).read("deep/a.jpg") == b"below"


def test_an_accent_is_the_same_in_both_its_spellings(path):
    composed, apart = "caf\u00e9.jpg", "cafe\u0301.jpg"
    assert composed != apart
    assert Archive(zipped(path, {apart: "photo"})).read(composed) == b"photo"
    assert Archive(path).read(apart) == b"photo"


def test_an_archive_cut_anywhere_is_refused(path):
    content = zipped(path, {"a.jpg": "photo", "b.txt": "text"}).read_bytes()
    for end in range(len(content)):
        path.write_bytes(content[:end])
        assert "not a whole zip archive" in refused(path)


@pytest.mark.parametrize(
    ("offset", "form", "value"),
    [
        (6, "<H", 255),  # needs a zip version that does not exist
        (46, "B", 255),  # a name that is not the UTF-8 it says it is
        (46, "B", 0),  # a name without a letter
    ],
)
def test_an_archive_with_a_broken_directory_is_refused(path, offset, form, value):
    zipped(path, {"é.txt": "text"})
    patched(path, offset, form, value)
    refused(path)


def test_an_encrypted_file_is_refused(path):
    zipped(path, {"a.jpg": "photo", "b.jpg": "plain"})
    patched(path, 8, "<H", 1)
    assert "a.jpg is encrypted" in refused(path, "a.jpg")
    assert Archive(path).read("b.jpg") == b"plain"


def test_a_link_is_refused(path):
    link = zipfile.ZipInfo("a.jpg")
    link.create_system = 3
    link.external_attr = (stat.S_IFLNK | 0o777) << 16
    assert "a.jpg is a link" in refused(zipped(path, [(link, "/etc/hostname")]), "a.jpg")


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_two_files_of_one_path_are_refused(path):
    assert "holds a file one/a.jpg, twice" in refused(zipped(path, [("one/a.jpg", "1"), ("one/a.jpg", "2")]))


def test_a_file_that_unpacks_to_too_much_is_refused_before_it_is_unpacked(path, monkeypatch):
    zipped(path, {"fits.jpg": bytes(1000), "bomb.jpg": bytes(1001)})
    monkeypatch.setattr(archives, "LARGEST_MEMBER", 1000)
    assert Archive(path).read("fits.jpg") == bytes(1000)
    monkeypatch.setattr(zipfile.ZipFile, "read", lambda *_: pytest.fail("it was unpacked"))
    assert "bomb.jpg unpacks to 1001 bytes, over 1000" in refused(path, "bomb.jpg")


def test_a_file_that_lies_about_its_size_is_refused(path):
    zipped(path, {"a.jpg": bytes(100_000)})
    patched(path, 24, "<I", 10)
    assert "a.jpg cannot be unpacked" in refused(path, "a.jpg")


@pytest.mark.parametrize("compression", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_a_file_whose_bytes_were_damaged_is_refused(path, compression):
    content = random.Random(2).randbytes(1000)
    zipped(path, {"a.jpg": content, "b.jpg": "whole"}, compression)
    damaged = bytearray(path.read_bytes())
    damaged[500] ^= 255
    path.write_bytes(damaged)
    assert "a.jpg cannot be unpacked" in refused(path, "a.jpg")
    assert Archive(path).read("b.jpg") == b"whole"


def test_names_that_point_elsewhere_are_only_names(tmp_path):
    folder = tmp_path / "here" / "deep"
    folder.mkdir(parents=True)
    names = ["../../climbed.jpg", f"{tmp_path}/absolute.jpg", "./../here.jpg", "a/../../b.jpg", "c:\\..\\d.jpg"]
    zipped(folder / "data.zip", {name: name for name in names})
    archive = Archive(folder / "data.zip")
    assert {Path(name).name for name in archive.names()} == {
        "climbed.jpg",
        "here.jpg",
        "absolute.jpg",
        "b.jpg",
        r"c:\..\d.jpg",
    }
    assert {archive.read(Path(name).name).decode() for name in names} == set(names)
    assert [each for each in tmp_path.rglob("*") if each.is_file()] == [folder / "data.zip"]


def test_a_name_ends_at_its_first_zero_byte(path):
    zipped(path, {"a.jpgX.exe": "photo"})
    path.write_bytes(path.read_bytes().replace(b"a.jpgX.exe", b"a.jpg\0.exe"))
    assert Archive(path).names() == ["a.jpg"]
    assert Archive(path).read("a.jpg") == b"photo"


@pytest.mark.parametrize("encoding", ["cp437", "utf-8"])  # what the format says, and what macOS writes
def test_a_name_of_no_declared_encoding_is_utf8_or_else_what_the_zip_format_says(path, encoding):
    written = "Zé.jpg".encode(encoding)
    stand_in = b"x" * (len(written) - 4) + b".jpg"
    zipped(path, {stand_in.decode(): "photo"})
    path.write_bytes(path.read_bytes().replace(stand_in, written))
    assert Archive(path).names() == ["Zé.jpg"]
    assert Archive(path).read("Zé.jpg") == b"photo"


@pytest.mark.parametrize(("system", "wanted"), [(0, ["photos/a.jpg"]), (3, [r"photos\a.jpg"])])  # Windows, Unix
def test_backslashes_of_windows_separate_folders(path, system, wanted):
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in ((r"photos\a.jpg", "photo"), ("photos\\", "")):
            entry = zipfile.ZipInfo(name)
            entry.create_system = system
            archive.writestr(entry, content)
    names = Archive(path).names()
    assert [name for name in names if name.endswith(".jpg")] == wanted
    assert Archive(path).read("a.jpg" if system == 0 else wanted[0]) == b"photo"


def test_an_archive_within_an_archive_is_a_file_that_nobody_opens(path, tmp_path):
    inner = zipped(tmp_path / "inner.zip", {"photos/a.jpg": "photo"}).read_bytes()
    zipped(path, {"inner.zip": inner, "b.jpg": "photo"})
    assert Archive(path).photos() == ["b.jpg"]


def test_files_that_share_their_bytes_are_read_no_larger_than_they_say(path, monkeypatch):
    """The bomb without nesting: many entries of the directory point to the same packed bytes."""
    zipped(path, {f"{number}.jpg": bytes(100_000) for number in range(3)})
    content = bytearray(path.read_bytes())
    at = -1
    while (at := content.find(CENTRAL, at + 1)) >= 0:
        struct.pack_into("<I", content, at + 42, 0)  # where the file's own header stands
    path.write_bytes(content)
    assert "1.jpg cannot be unpacked" in refused(path, "1.jpg")
    monkeypatch.setattr(archives, "LARGEST_MEMBER", 99_999)
    assert "0.jpg unpacks to 100000 bytes" in refused(path, "0.jpg")


def test_threads_read_the_right_bytes(path):
    rng = random.Random(3)
    members = {f"{number}.jpg": rng.randbytes(rng.randrange(1, 100_000)) for number in range(40)}
    archive = Archive(zipped(path, members))
    wanted = list(members) * 4
    rng.shuffle(wanted)
    with ThreadPoolExecutor(8) as pool:
        for name, content in zip(wanted, pool.map(archive.read, wanted), strict=True):
            assert content == members[name], name
