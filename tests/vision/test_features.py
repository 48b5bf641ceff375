"""The features stage: what is cached is what the encoder computes, and a broken photo is not passed over in silence."""

import copy
import errno
import io
import os
import random
import shutil
import zipfile
from argparse import ArgumentTypeError

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.models import resnet18

from captioner.base.errors import CaptionerError
from captioner.sources.archives import Archive
from captioner.vision import features
from captioner.vision.encoder import BLOCKS, calibrate, fingerprint, load_encoder
from captioner.vision.features import calibrate_on, extract, join, shards_of, share_of
from captioner.vision.photos import load_photo
from captioner.vision.reading import as_many, read_archive_photos
from captioner.vision.store import FeatureStore, StoreWriter, View, new_store

HALF = 2e-3  # half precision of a row, and folded BatchNorm, relative to the row's largest value


def photo(seed, kind="PNG"):
    rng = np.random.default_rng(seed)
    height, width = rng.integers(40, 90, 2)
    coarse = Image.fromarray(rng.integers(0, 256, (5, 6, 3), dtype=np.uint8))
    file = io.BytesIO()
    coarse.resize((int(width), int(height)), Image.Resampling.BICUBIC).save(file, kind)
    return file.getvalue()


def archive_of(path, photos):
    with zipfile.ZipFile(path, "w") as file:
        for name, data in photos.items():
            file.writestr(f"Photos/{name}", data)
    return Archive(path)


@pytest.fixture(autouse=True)
def _small_batches(monkeypatch):
    monkeypatch.setattr(features, "BATCH", 2)
    monkeypatch.setattr(features, "SHARD", 4)
    monkeypatch.setenv("CAPTIONER_WORKERS", "3")


@pytest.fixture(scope="module")
def encoder():
    torch.manual_seed(1)
    network = load_encoder(resnet18(weights=None).state_dict())
    generator = torch.Generator().manual_seed(2)
    calibrate(network, [torch.randint(0, 256, (8, 64, 64, 3), generator=generator, dtype=torch.uint8)])
    return network


@pytest.fixture
def photos():
    named = {f"{seed}.png": photo(seed) for seed in range(6)} | {
        f"{seed}.jpg": photo(seed, "JPEG") for seed in (6, 7, 8)
    }
    return dict(random.Random(1).sample(sorted(named.items()), len(named)))


def views_of(images):
    return [image if isinstance(image, View) else View(image) for image in images]


def run(folder, archive, images, encoder, *, boundary="layer4", fit="squash", on_bad="error"):
    some_shards(folder, archive, images, encoder, boundary=boundary, fit=fit, on_bad=on_bad)
    return join(views_of(images), folder / "shards", grid_path=folder / "grid.h5", boundary_path=folder / "boundary.h5")


def some_shards(folder, archive, images, encoder, *, boundary="layer4", fit="squash", on_bad="error", **part):
    extract(
        archive,
        views_of(images),
        encoder,
        boundary=boundary,
        size=64,
        fit=fit,
        on_bad=on_bad,
        shards=folder / "shards",
        device=torch.device("cpu"),
        **part,
    )


def assert_row(result, wanted):
    assert result.shape == wanted.shape
    assert (result.float() - wanted).abs().max() <= HALF * wanted.abs().max()


@pytest.mark.parametrize(("boundary", "fit"), [("layer4", "squash"), ("layer2", "crop"), ("conv1", "squash")])
@torch.no_grad()
def test_rows_are_what_the_encoder_computes_from_the_photos(tmp_path, encoder, photos, boundary, fit, monkeypatch):
    monkeypatch.setenv("CAPTIONER_PRECISION", "float32")
    names = list(photos)
    summary = run(tmp_path, archive_of(tmp_path / "photos.zip", photos), names, encoder, boundary=boundary, fit=fit)
    valid_for = {"encoder": fingerprint(encoder), "size": 64, "fit": fit}
    grids = FeatureStore(tmp_path / "grid.h5", layer="end", **valid_for)
    boundaries = FeatureStore(tmp_path / "boundary.h5", layer=boundary, **valid_for)
    assert list(grids.rows) == list(boundaries.rows) == names
    for name in names:
        pixels = torch.from_numpy(load_photo(photos[name], size=64, fit=fit).copy())[None]
        assert_row(grids.read([grids.rows[name]]), encoder(pixels))
        stored = boundaries.read([boundaries.rows[name]])
        assert_row(stored, encoder(pixels, stop=boundary))
        assert_row(encoder(stored, start=boundary), encoder(pixels))
        if boundary == "conv1":
            assert torch.equal(stored, pixels)
    assert summary == {
        "images": len(names),
        "flipped": 0,
        "skipped": [],
        "grid": list(grids.shape[1:]),
        "boundary": list(boundaries.shape[1:]),
    }


@pytest.mark.parametrize("boundary", ["layer4", "conv1"])
@torch.no_grad()
def test_flipped_views_are_rows_of_the_mirrored_photo(tmp_path, encoder, photos, boundary, monkeypatch, caplog):
    monkeypatch.setenv("CAPTIONER_PRECISION", "float32")
    names = list(photos)[:4]
    photos[names[1]] = b"<html>gone</html>"
    views = [*map(View, names), View(names[0], True), View(names[1], True)]
    archive = archive_of(tmp_path / "photos.zip", photos)
    summary = run(tmp_path, archive, views, encoder, boundary=boundary, on_bad="skip")
    assert (summary["images"], summary["flipped"]) == (3, 1)
    assert summary["skipped"] == [names[1]]
    assert caplog.text.count("skipped: ") == 1
    grids, boundaries = FeatureStore(tmp_path / "grid.h5"), FeatureStore(tmp_path / "boundary.h5")
    assert grids.views == boundaries.views == {names[0]: [0, 4], names[2]: [2], names[3]: [3]}
    pixels = torch.from_numpy(load_photo(photos[names[0]], size=64, fit="squash").copy())[None]
    for row, seen in enumerate((pixels, pixels.flip(2))):
        at = [grids.views[names[0]][row]]
        assert_row(grids.read(at), encoder(seen))
        assert_row(boundaries.read(at), encoder(seen, stop=boundary))


@pytest.mark.parametrize(
    ("flip", "mean", "mirrored"),
    [(False, False, []), (True, False, ["a", "d"]), (False, True, ["b", "c"]), (True, True, ["a", "b", "c", "d"])],
)
def test_training_photos_are_mirrored_by_flip_and_the_others_by_mean(tmp_path, monkeypatch, flip, mean, mirrored):
    class Reached(Exception):
        """The views are known."""

    def extract(photos, views, *rest, **settings):
        assert views == [*map(View, "abcd"), *(View(name, True) for name in mirrored)]
        raise Reached

    monkeypatch.setattr(features, "extract", extract)
    archive_of(tmp_path / "photos.zip", {})
    (tmp_path / "images.csv").write_text("image,split\na,train\nb,dev\nc,test\nd,train\n")
    torch.save(resnet18(weights=None).state_dict(), tmp_path / "weights.pth")
    with pytest.raises(Reached):
        features.compute_features(
            images=tmp_path / "photos.zip",
            listing=tmp_path / "images.csv",
            weights=tmp_path / "weights.pth",
            folder=tmp_path,
            summary=tmp_path / "features.json",
            provenance={},
            boundary="layer4",
            size=64,
            fit="squash",
            flip=flip,
            mean=mean,
            calibrated=False,
            on_bad="error",
        )


@pytest.mark.parametrize("boundary", BLOCKS)
def test_a_store_is_half_precision_and_pixels_are_bytes(tmp_path, encoder, photos, boundary):
    names = list(photos)[:2]
    run(tmp_path, archive_of(tmp_path / "photos.zip", photos), names, encoder, boundary=boundary)
    wanted = torch.uint8 if boundary == "conv1" else torch.float16
    assert FeatureStore(tmp_path / "boundary.h5", layer=boundary).read([0]).dtype == wanted
    assert FeatureStore(tmp_path / "grid.h5", layer="end").read([0]).dtype == torch.float16


BROKEN = {
    "no photo": lambda: b"<html>gone</html>",
    "empty": lambda: b"",
    "truncated": lambda: photo(1, "JPEG")[:300],
    "not there": lambda: None,
}


@pytest.mark.parametrize("kind", BROKEN)
def test_a_broken_photo_stops_with_its_name_and_leaves_no_store(tmp_path, encoder, photos, kind):
    names = [*list(photos)[:6], "bad.jpg", *list(photos)[6:]]
    data = BROKEN[kind]()
    archive = archive_of(tmp_path / "photos.zip", photos | ({"bad.jpg": data} if data is not None else {}))
    (tmp_path / "stores").mkdir()
    with pytest.raises(CaptionerError, match=r"photos\.zip.*bad\.jpg.*on_bad"):
        run(tmp_path / "stores", archive, names, encoder)
    assert {path.name for path in (tmp_path / "stores").rglob("*")} == {
        "shards",
        "grid-00000000.h5",  # of before the photo
        "boundary-00000000.h5",
    }


@pytest.mark.parametrize("kind", BROKEN)
def test_a_broken_photo_can_be_skipped_and_is_told_of(tmp_path, encoder, photos, kind, caplog):
    names = [*list(photos)[:6], "bad.jpg", *list(photos)[6:], "worse.jpg"]
    data = BROKEN[kind]()
    bad = {"worse.jpg": b"worse"} | ({"bad.jpg": data} if data is not None else {})
    complete, part = tmp_path / "whole", tmp_path / "part"
    summary = run(part, archive_of(tmp_path / "bad.zip", photos | bad), names, encoder, on_bad="skip")
    assert summary["images"] == len(photos)
    assert summary["skipped"] == ["bad.jpg", "worse.jpg"]
    assert "bad.jpg" in caplog.text
    assert "worse.jpg" in caplog.text
    run(complete, archive_of(tmp_path / "good.zip", photos), list(photos), encoder)
    for file in ("grid.h5", "boundary.h5"):
        result, wanted = FeatureStore(part / file), FeatureStore(complete / file)
        assert list(result.rows) == list(photos)
        for name in photos:
            assert_row(result.read([result.rows[name]]), wanted.read([wanted.rows[name]]).float())


STORES = ("grid.h5", "boundary.h5")


@pytest.mark.parametrize("failed", [0, 1], ids=["plain", "mirrored"])
def test_a_photo_of_which_only_one_view_could_be_read_is_skipped(tmp_path, encoder, photos, failed):
    names = list(photos)[:3]
    archive = archive_of(tmp_path / "photos.zip", photos)
    read, reads = archive.read, []

    def flaky(name):
        reads.append(name)
        if name == names[1] and reads.count(name) - 1 == failed:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return read(name)

    archive.read = flaky
    views = [*map(View, names), *(View(name, True) for name in names)]
    summary = run(tmp_path, archive, views, encoder, on_bad="skip")
    assert (summary["images"], summary["flipped"], summary["skipped"]) == (2, 2, [names[1]])
    for file in STORES:
        assert FeatureStore(tmp_path / file).views == {names[0]: [0, 3], names[2]: [2, 5]}


@pytest.mark.parametrize("boundary", ["layer4", "conv1"])
@pytest.mark.parametrize("bad", [(), (0,), (5, 8)], ids=str)
def test_joined_stores_are_those_that_are_written_at_once(tmp_path, encoder, photos, boundary, bad):
    names = list(photos)
    archive = archive_of(tmp_path / "photos.zip", photos | {names[row]: b"broken" for row in bad})
    for part in (2, 0, 1):  # as three workers would, of whom the last has the shard of one photo
        some_shards(tmp_path, archive, names, encoder, boundary=boundary, on_bad="skip", part=part, parts=3)
    summary = run(tmp_path, archive, names, encoder, boundary=boundary, on_bad="skip")
    assert summary["skipped"] == [names[row] for row in bad]
    for file in STORES:
        result = FeatureStore(tmp_path / file)
        rows = result.read(range(len(names)))
        order = ("layer", "encoder", "size", "fit")
        with new_store(
            tmp_path / "at once" / file,
            views=views_of(names),
            shape=rows.shape[1:],
            dtype=str(rows.numpy().dtype),
            **{key: result.attributes[key] for key in order},
        ) as store:
            for row in bad:
                store.leave_out(row)
            store.write(0, rows)
        assert (tmp_path / file).read_bytes() == (tmp_path / "at once" / file).read_bytes()
        assert list(result.rows) == [name for row, name in enumerate(names) if row not in bad]


class Reading:
    """An archive that notes what is read from it."""

    def __init__(self, archive):
        self.archive, self.path, self.names = archive, archive.path, []

    def read(self, name):
        self.names.append(name)
        return self.archive.read(name)


@pytest.mark.parametrize("lost", ["grid-00000004.h5", "boundary-00000004.h5", "cut", "of other weights", None])
def test_only_the_shards_that_are_not_there_are_computed(tmp_path, encoder, photos, lost):
    names, archive = list(photos), archive_of(tmp_path / "photos.zip", photos)
    run(tmp_path, archive, names, encoder)
    before = {file: (tmp_path / file).read_bytes() for file in STORES}
    grids = tmp_path / "shards" / "grid-00000004.h5"
    if lost == "cut":
        grids.write_bytes(grids.read_bytes()[:-1])
    elif lost == "of other weights":
        other = load_encoder(resnet18(weights=None).state_dict())
        some_shards(tmp_path / "other", archive, names, other)
        shutil.copy(tmp_path / "other" / "shards" / grids.name, grids)
        with pytest.raises(CaptionerError, match=r"grid-00000004\.h5: made for encoder"):
            join(views_of(names), tmp_path / "shards", grid_path=tmp_path / "a.h5", boundary_path=tmp_path / "b.h5")
        assert not (tmp_path / "a.h5").exists()
    elif lost:
        (tmp_path / "shards" / lost).unlink()
    reading = Reading(archive)
    run(tmp_path, reading, names, encoder)
    assert sorted(reading.names) == (sorted(names[4:8]) if lost else [])
    assert before == {file: (tmp_path / file).read_bytes() for file in STORES}


def test_an_interruption_leaves_the_finished_shards(tmp_path, encoder, photos, monkeypatch):
    names, archive = list(photos), archive_of(tmp_path / "photos.zip", photos)
    run(tmp_path / "whole", archive, names, encoder)
    with monkeypatch.context() as patch:

        def interrupt(self, at, rows):
            if rows.shape[-1] == 512 and "00000004" in self._dataset.file.filename:
                raise KeyboardInterrupt
            write(self, at, rows)

        write = StoreWriter.write
        patch.setattr(StoreWriter, "write", interrupt)
        with pytest.raises(KeyboardInterrupt):
            run(tmp_path / "cut", archive, names, encoder)
    assert sorted(path.name for path in (tmp_path / "cut").rglob("*.h5")) == [
        "boundary-00000000.h5",
        "grid-00000000.h5",
    ]
    reading = Reading(archive)
    run(tmp_path / "cut", reading, names, encoder)
    assert sorted(reading.names) == sorted(names[4:])
    for file in STORES:
        assert (tmp_path / "cut" / file).read_bytes() == (tmp_path / "whole" / file).read_bytes()


@pytest.mark.parametrize(("images", "parts"), [(1, 1), (4, 2), (9, 2), (41, 3)])
def test_every_image_is_in_one_shard_of_one_part_and_batches_are_those_of_the_whole(images, parts):
    shards = shards_of(images)
    assert [row for rows in shards for row in rows] == list(range(images))
    assert all(rows.start % features.BATCH == 0 for rows in shards)
    assert sorted((rows for part in range(parts) for rows in shards[part::parts]), key=min) == shards


def test_a_share_is_a_number_of_a_number():
    assert [share_of(text) for text in ("1/1", "2/4", "4/4")] == [(0, 1), (1, 4), (3, 4)]
    for text in ("0/2", "3/2", "2", "a/b", "-1/2", "1/0", ""):
        with pytest.raises(ArgumentTypeError, match="expected a share"):
            share_of(text)


def test_the_same_photos_give_the_same_bytes(tmp_path, encoder, photos, monkeypatch):
    archive = archive_of(tmp_path / "photos.zip", photos)
    for folder, workers in (("a", "1"), ("b", "5")):
        monkeypatch.setenv("CAPTIONER_WORKERS", workers)
        run(tmp_path / folder, archive, list(photos), encoder)
    for file in ("grid.h5", "boundary.h5"):
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()


@pytest.mark.parametrize("missing", [0, 1])
def test_a_disk_with_space_for_one_of_two_stores_is_noticed_before_anything_is_written(
    tmp_path, encoder, photos, monkeypatch, missing
):
    names, archive = list(photos), archive_of(tmp_path / "photos.zip", photos)
    run(tmp_path / "whole", archive, names, encoder)
    shards = [FeatureStore(path) for path in (tmp_path / "whole" / "shards").glob("*-00000000.h5")]
    free = sum(shard.read(range(shard.shape[0])).nbytes for shard in shards) - missing
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=free))
    if not missing:
        some_shards(tmp_path / "fits", archive, names, encoder)
        return
    with pytest.raises(OSError, match="No space left on device"):
        some_shards(tmp_path / "full", archive, names, encoder)
    assert not list((tmp_path / "full").rglob("*.h5"))


def test_large_photos_take_no_more_memory_than_many_small_ones():
    assert [as_many(128, size) for size in (224, 288, 576, 2048, 10_000)] == [128, 128, 32, 2, 1]


@pytest.mark.parametrize("ahead", [1, 3, 128])
def test_photos_come_in_order_from_many_threads(tmp_path, monkeypatch, ahead):
    monkeypatch.setenv("CAPTIONER_WORKERS", "8")
    sizes = random.Random(3).sample(range(20, 400, 10), 30)  # some take much longer than others
    photos = {}
    for grey, side in enumerate(sizes):
        file = io.BytesIO()
        Image.new("RGB", (side, side), (grey, 2 * grey, 200)).save(file, "PNG")
        photos[f"{grey}.png"] = file.getvalue()
    photos["7.png"] = b"broken"
    names = [*photos, "0.png"]
    archive = archive_of(tmp_path / "photos.zip", photos)
    result = list(read_archive_photos(archive, names, size=8, fit="crop", ahead=ahead))
    assert len(result) == len(names)
    for name, pixels in zip(names, result, strict=True):
        grey = int(name.removesuffix(".png"))
        if grey == 7:
            assert isinstance(pixels, CaptionerError)
            assert "7.png" in str(pixels)
        else:
            assert pixels.shape == (8, 8, 3)
            assert (pixels == (grey, 2 * grey, 200)).all()


@pytest.mark.parametrize("bias", [float("nan"), 1e5])
def test_features_that_no_store_can_hold_are_refused(tmp_path, encoder, photos, bias):
    encoder = copy.deepcopy(encoder)
    with torch.no_grad():
        encoder.layer4[1].bn2.bias[7] = bias
    names = list(photos)
    with pytest.raises(CaptionerError, match=rf"the features of {names[0]}, .* not finite; .*CAPTIONER_PRECISION"):
        run(tmp_path, archive_of(tmp_path / "photos.zip", photos), names, encoder)
    assert not list(tmp_path.rglob("grid*.h5"))


def test_calibration_without_a_whole_photo_is_refused_by_name(tmp_path):
    archive = archive_of(tmp_path / "photos.zip", {"a.jpg": b"", "b.jpg": b"no photo"})
    encoder = load_encoder(resnet18(weights=None).state_dict())
    with pytest.raises(CaptionerError, match=r"none of the first 2 training photos can be read; .*a\.jpg"):
        calibrate_on(encoder, archive, ["a.jpg", "b.jpg"], size=64, fit="squash")


def test_calibration_takes_the_first_whole_photos(tmp_path, photos, monkeypatch):
    monkeypatch.setattr(features, "CALIBRATION_IMAGES", 7)
    monkeypatch.setattr(features, "CALIBRATION_BATCH", 4)
    names = [*list(photos)[:2], "bad.jpg", *list(photos)[2:]]
    torch.manual_seed(4)
    state = resnet18(weights=None).state_dict()
    result, wanted = load_encoder(state), load_encoder(state)
    calibrate_on(result, archive_of(tmp_path / "photos.zip", photos | {"bad.jpg": b""}), names, size=64, fit="squash")
    pixels = np.stack([load_photo(photos[name], size=64, fit="squash") for name in list(photos)[:6]])
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        calibrate(wanted, torch.from_numpy(pixels).split(3))  # even, or a small batch would count as much as others
    finally:
        torch.set_num_threads(threads)
    assert torch.get_num_threads() == threads
    assert fingerprint(result) == fingerprint(wanted) != fingerprint(load_encoder(state))
