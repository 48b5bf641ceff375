"""One's own folder to the archives that the stages read."""

import json
import os
import shutil
import tarfile
import zipfile

import pytest

from captioner.base.errors import CaptionerError
from captioner.sources import archives
from captioner.sources.archives import MANIFEST, Archive
from captioner.sources.own_data import provide_own
from tests.support.worlds import tarred, zipped


@pytest.fixture
def mine(tmp_path):
    """A folder with photos at two depths, captions and what is no photo."""
    folder = tmp_path / "mine"
    (folder / "dogs").mkdir(parents=True)
    for name in ("b.jpg", "dogs/a.PNG", "dogs/b.jpg", "readme.txt", "._b.jpg", ".hidden.jpg"):
        (folder / name).write_bytes(name.encode())
    (folder / ".cache").mkdir()
    (folder / ".cache/c.jpg").write_bytes(b"cache")
    (folder / "captions.csv").write_text("image,caption\nb.jpg,a dog\n")
    return folder


def provide(folder, captions="captions.csv", out="out"):
    out = folder.parent / out
    return out, provide_own(folder, captions, images=out / "images", captions=out / "captions.zip")


def refused(folder, captions="captions.csv"):
    with pytest.raises(CaptionerError) as caught:
        provide(folder, captions)
    return str(caught.value)


def test_photos_and_captions_come_as_stored_archives(mine):
    out, record = provide(mine)
    assert [path.name for path in (out / "images").rglob("*")] == ["files.zip"]
    archive = Archive(out / "images")
    assert archive.photos() == archive.names() == ["b.jpg", "dogs/a.PNG", "dogs/b.jpg"]
    assert {archive.read(name) for name in archive.names()} == {b"b.jpg", b"dogs/a.PNG", b"dogs/b.jpg"}
    with zipfile.ZipFile(out / "images/files.zip") as file:
        assert {entry.compress_type for entry in file.infolist()} == {zipfile.ZIP_STORED}
    assert Archive(out / "captions.zip").read("captions.csv") == (mine / "captions.csv").read_bytes()
    assert record["bytes"] == (out / "images/files.zip").stat().st_size


def test_the_same_files_give_the_same_bytes_whenever_they_were_written(mine):
    out, record = provide(mine)
    for path in mine.rglob("*"):
        os.utime(path, (1, 1))
    again, same = provide(mine, out="again")
    assert record == same
    for name in ("images/files.zip", "captions.zip"):
        assert (out / name).read_bytes() == (again / name).read_bytes()


def test_a_changed_photo_changes_the_record(mine):
    _, record = provide(mine)
    (mine / "b.jpg").write_bytes(b"other")
    assert provide(mine, out="again")[1]["md5"] != record["md5"]


def test_archives_are_copied_and_only_those_with_photos(mine):
    zipped(mine / "train2014.zip", {"train2014/t.jpg": b"t"})
    (mine / "deep").mkdir()
    zipped(mine / "deep/VAL2014.ZIP", {"val2014/v.jpg": b"v"})
    zipped(mine / "annotations.zip", {"captions.json": b"{}"})
    out, _ = provide(mine)
    archive = Archive(out / "images")
    assert archive.photos() == ["b.jpg", "dogs/a.PNG", "dogs/b.jpg", "train2014/t.jpg", "val2014/v.jpg"]
    assert archive.names() == archive.photos()
    for name in ("train2014.zip", "deep/VAL2014.ZIP"):  # DVC may make what is there a part of its cache
        assert not (out / "images/archives" / name).samefile(mine / name)


def test_photos_in_one_archive_of_capitals_are_found(mine):
    for photo in mine.rglob("*.[jJpP]*"):
        photo.unlink()
    zipped(mine / "PHOTOS.ZIP", {"b.jpg": b"b"})
    assert Archive(provide(mine)[0] / "images").photos() == ["b.jpg"]


def test_a_linked_archive_is_followed(mine):
    source = zipped(mine.parent / "elsewhere.zip", {"p.jpg": b"p"})
    (mine / "photos.zip").symlink_to(source)
    copy = provide(mine)[0] / "images/archives/photos.zip"
    assert not copy.is_symlink()
    assert copy.read_bytes() == source.read_bytes()


def test_a_photo_that_a_tar_holds_as_a_hard_link_is_packed(mine):
    (mine / "p").mkdir()
    (mine / "p/1.jpg").write_bytes(b"twice")
    os.link(mine / "p/1.jpg", mine / "p/2.jpg")
    with tarfile.open(mine / "p.tar", "w") as tar:
        tar.add(mine / "p", "p")
        assert sum(member.islnk() for member in tar) == 1
    shutil.rmtree(mine / "p")
    archive = Archive(provide(mine)[0] / "images/archives/p.tar.zip")
    assert [archive.read(f"p/{n}.jpg") for n in (1, 2)] == [b"twice"] * 2


@pytest.mark.parametrize(
    ("name", "mode"), [("p.tar", "w"), ("p.tar.gz", "w:gz"), ("p.tgz", "w:gz"), ("p.tar.xz", "w:xz")]
)
def test_the_photos_of_a_tar_are_packed(mine, name, mode):
    members = {"flickr30k-images/1.jpg": b"1", "flickr30k-images/._1.jpg": b"junk", "readme.txt": b"text"}
    tarred(mine / name, members, mode)
    tarred(mine / "texts.tar", {"readme.txt": b"text"})
    out, _ = provide(mine)
    assert Archive(out / f"images/archives/{name}.zip").names() == ["flickr30k-images/1.jpg"]
    assert not (out / "images/archives/texts.tar.zip").exists()


def test_a_tar_beside_a_zip_of_its_name_is_refused(mine):
    tarred(mine / "p.tar", {"one.jpg": b"one"})
    with zipfile.ZipFile(mine / "p.tar.zip", "w") as archive:
        archive.writestr("two.jpg", b"two")
    assert "p.tar: p.tar.zip stands beside it" in refused(mine)


def test_a_folder_that_is_called_as_a_zip_is_a_folder(mine):
    (mine / "album.zip").mkdir()
    (mine / "album.zip/p.jpg").write_bytes(b"p")
    assert "album.zip/p.jpg" in Archive(provide(mine)[0] / "images").names()


def test_links_in_a_tar_are_not_followed(mine):
    with tarfile.open(mine / "p.tar", "w") as tar:
        link = tarfile.TarInfo("link.jpg")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/hostname"
        tar.addfile(link)
    assert "link.jpg" not in Archive(provide(mine)[0] / "images").names()


@pytest.mark.parametrize(("name", "captions"), [("Bär.jpg", "captions.csv"), ("Bär.txt", None)])
def test_a_name_in_a_tar_that_is_not_utf8_is_named(mine, name, captions):
    (mine / "b.txt").write_text("A dog")
    with tarfile.open(mine / "p.tar", "w", encoding="latin-1", format=tarfile.GNU_FORMAT) as tar:
        for each in ("Bär.md", name):
            tar.addfile(tarfile.TarInfo(each))
    message = refused(mine, captions)
    assert f"p.tar: the name B\\udce4r{name[-4:]} is not UTF-8; rename the file, and pack the archive again" in message


@pytest.mark.parametrize("mode", ["w", "w:gz", "w:xz"])
def test_a_damaged_tar_is_refused(mine, mode):
    path = tarred(mine / "p.tar", {"p.jpg": os.urandom(50_000)}, mode)
    path.write_bytes(path.read_bytes()[:20_000])
    assert "p.tar: not a whole tar archive" in refused(mine)
    assert not list((mine.parent / "out").rglob("*.zip"))


def test_a_damaged_zip_is_refused_by_its_own_path(mine):
    (mine / "photos.zip").write_bytes(b"PK")
    assert f"{mine / 'photos.zip'}: not a whole zip archive" in refused(mine)


def test_a_missing_folder_is_named(tmp_path):
    message = refused(tmp_path / "mine")
    assert f"own.folder is {tmp_path / 'mine'}: no such folder" in message


def test_a_folder_without_photos_is_refused(tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/captions.csv").write_text("image,caption\n")
    assert "no photos in it; expected files ending in .jpg" in refused(tmp_path / "mine")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("text.csv", "own.captions is text.csv: no such file in"),
        ("text.csv", "there are captions.csv"),
        (["captions.csv", "captions.csv"], "own.captions: captions.csv, captions.csv names a file twice"),
        (None, "own.captions is null: no text file beside a photo"),
        ("../captions.csv", "expected a file in own.folder, so that DVC watches it"),
        ("/captions.csv", "expected a file in own.folder, so that DVC watches it"),
    ],
)
def test_a_captions_file_that_cannot_be_is_named(mine, name, message):
    assert message in refused(mine, name)


def test_without_any_captions_file_the_docs_are_named(mine):
    (mine / "captions.csv").unlink()
    (mine / "readme.txt").unlink()
    assert "write one, as docs/own-data.md says" in refused(mine)


def test_the_manifest_says_what_is_captions_and_what_lists_of_splits(mine):
    (mine / "Flickr_8k.trainImages.txt").write_text("b.jpg\n")
    (mine / "more.json").write_text("[]")
    out, _ = provide(mine, ["more.json", "captions.csv"])
    archive = Archive(out / "captions.zip")
    assert json.loads(archive.read(MANIFEST)) == {
        "captions": ["more.json", "captions.csv"],
        "sidecars": [],
        "splits": ["Flickr_8k.trainImages.txt"],
        "alone": [],
        "unread": [],
    }
    assert set(archive.names()) == {MANIFEST, "more.json", "captions.csv", "Flickr_8k.trainImages.txt"}


@pytest.mark.parametrize("kind", ["zip", "tar"])
def test_captions_in_an_archive_are_found(mine, kind):
    members = {"annotations/captions_train2017.json": b"[]", "p.jpg": b"p"}
    if kind == "zip":
        zipped(mine / "a.zip", members)
    else:
        tarred(mine / "a.tar", members)
    out, _ = provide(mine, "captions_train2017.json")
    assert "annotations/captions_train2017.json" in Archive(out / "captions.zip").names()
    zipped(mine / "b.zip", members | {"q.jpg": b"q"})
    assert "fits both annotations/captions_train2017.json and annotations/captions_train2017.json in" in refused(
        mine, "captions_train2017.json"
    )


def test_sidecars_lie_beside_photos_and_nothing_else_is_taken(mine):
    for name in ("b.txt", "dogs/a.caption", "c.txt", "dogs/b.json"):
        (mine / name).write_text("{}")
    out, _ = provide(mine, None)
    manifest = json.loads(Archive(out / "captions.zip").read(MANIFEST))
    assert manifest["sidecars"] == ["b.txt", "dogs/a.caption", "dogs/b.json"]


def test_texts_without_a_photo_and_photos_of_other_kinds_are_listed_and_told_of(mine, caplog):
    for name in ("b.txt", "dogs/c.gif", "dogs/c.txt", "b.CR2", "dogs/a.caption"):
        (mine / name).write_text("A dog")
    zipped(mine / "z.zip", {"z.jpg": b"z", "z.JXL": b"z", "y.jxl": b"y", "y.json": "{}"})
    tarred(mine / "t.tar", {"t.jpg": b"t", "u.jp2": b"u", "u.txt": b"u"})
    out, _ = provide(mine, None)
    manifest = json.loads(Archive(out / "captions.zip").read(MANIFEST))
    assert manifest["alone"] == ["dogs/c.txt", "readme.txt", "y.json", "u.txt"]
    assert manifest["unread"] == ["dogs/c.gif", "y.jxl", "u.jp2"]
    assert "text files without a photo, left out: 4, first dogs/c.txt" in caplog.text
    assert "photos of a kind that is not read, left out: 3, first dogs/c.gif; convert" in caplog.text


@pytest.mark.parametrize("mode", ["w", "w:gz"])
def test_a_tar_member_over_the_limit_is_refused_before_it_is_read(mine, mode, monkeypatch):
    tarred(mine / "p.tar", {"p.jpg": bytes(1000), "bomb.jpg": bytes(1001)}, mode)
    monkeypatch.setattr(archives, "LARGEST_MEMBER", 1000)
    assert "p.tar: bomb.jpg unpacks to 1001 bytes, over 1000" in refused(mine)
    assert not list((mine.parent / "out").rglob("*.zip"))


def test_a_large_file_is_refused(mine, monkeypatch):
    (mine / "large.jpg").write_bytes(bytes(1001))
    monkeypatch.setattr(archives, "LARGEST_MEMBER", 1000)
    assert "large.jpg: has 1001 bytes, over 1000" in refused(mine)


def test_the_list_of_a_tars_members_is_not_kept(mine, monkeypatch):
    counts = []
    extract = tarfile.TarFile.extractfile

    def counting(tar, member):
        counts.append(len(tar.members))
        return extract(tar, member)

    tarred(mine / "p.tar", {f"{at}.jpg": b"p" for at in range(50)})
    monkeypatch.setattr(tarfile.TarFile, "extractfile", counting)
    provide(mine)
    assert len(counts) == 50
    assert max(counts) <= 1


@pytest.mark.parametrize("place", ["file", "zip", "tar"])
@pytest.mark.parametrize(("name", "advice"), [("p.HEIC", r"captioner[heic]"), ("p.avif", "Pillow 11.3")])
def test_photos_of_a_kind_whose_reader_is_missing_are_refused_with_advice(mine, monkeypatch, place, name, advice):
    if place == "file":
        (mine / name).write_bytes(b"p")
    elif place == "zip":
        zipped(mine / "p.zip", {name: b"p"})
    else:
        tarred(mine / "p.tar", {name: b"p"})
    monkeypatch.setattr(archives.importlib.util, "find_spec", lambda _: None)
    monkeypatch.setattr(archives.features, "check", lambda _: False)
    message = refused(mine)
    assert name in message
    assert advice in message


def test_photos_of_such_kinds_are_taken_where_the_reader_is_there(mine, monkeypatch):
    for name in ("p.HEIC", "q.heif", "r.avif"):
        (mine / name).write_bytes(b"p")
    monkeypatch.setattr(archives.importlib.util, "find_spec", lambda _: object())
    monkeypatch.setattr(archives.features, "check", lambda _: True)
    assert {"p.HEIC", "q.heif", "r.avif"} <= set(Archive(provide(mine)[0] / "images").photos())


def test_folders_that_cannot_be_are_refused_with_advice(mine, monkeypatch):
    project = mine.parent
    (project / "data/mine").mkdir(parents=True)
    monkeypatch.chdir(project)
    for folder, message in (
        ("~/photos", "~ is not understood here, nor by DVC; write /"),
        (".", "own.folder is .: holds the project itself"),
        ("..", "own.folder is ..: holds the project itself"),
        ("data/mine", "own.folder is data/mine: lies in data/, which belongs to the project"),
        ("gone", "own.folder is gone: no such folder (looked up from"),
    ):
        with pytest.raises(CaptionerError) as caught:
            provide_own(folder, "captions.csv", images="out/images", captions="out/captions.zip")
        assert message in str(caught.value)
