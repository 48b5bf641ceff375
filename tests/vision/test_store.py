"""The feature store: rows by name, in any process, and nothing that was made for something else."""

import errno
import multiprocessing
import os
import pickle
import runpy
import shutil
import time
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch

from captioner.base.errors import CaptionerError
from captioner.vision import store as module
from captioner.vision.store import FeatureStore, View, new_store

NAMES = ["b.jpg", "a.jpg", "naïve 犬.jpg", "d.jpg", "e.jpg"]
SHAPE = (2, 3, 4)
VALID_FOR = {"encoder": "abc123", "layer": "layer4", "size": 64, "fit": "squash"}


def features(dtype=torch.float16, seed=1):
    generator = torch.Generator().manual_seed(seed)
    if dtype == torch.uint8:
        return torch.randint(0, 256, (len(NAMES), *SHAPE), generator=generator, dtype=dtype)
    return torch.randn(len(NAMES), *SHAPE, generator=generator).to(dtype)


def write(path, rows, left_out=(), **attributes):
    dtype = "uint8" if rows.dtype == torch.uint8 else "float16"
    with new_store(
        path, views=[View(name) for name in NAMES], shape=SHAPE, dtype=dtype, **VALID_FOR | attributes
    ) as store:
        store.write(0, rows[:2])
        store.write(2, rows[2:])
        for row in left_out:
            store.leave_out(row)
    return path


@pytest.fixture
def path(tmp_path):
    return write(tmp_path / "features.h5", features())


def rows_of(store, rows):
    return store.read(rows).tolist()


@pytest.mark.parametrize("dtype", [torch.float16, torch.uint8])
def test_round_trip_by_name(tmp_path, dtype):
    wanted = features(dtype)
    store = FeatureStore(write(tmp_path / "features.h5", wanted), **VALID_FOR)
    assert store.shape == (len(NAMES), *SHAPE)
    assert store.attributes == VALID_FOR | {"schema": 2}
    assert list(store.rows) == NAMES
    for name, row in zip(NAMES, wanted, strict=True):
        result = store.read([store.rows[name]])
        assert result.dtype == dtype
        assert torch.equal(result, row[None])


def test_a_store_of_the_first_schema_is_told(path):
    with h5py.File(path, "a") as file:
        file.attrs["schema"] = 1
        del file["flipped"]
    with pytest.raises(CaptionerError, match=r"features\.h5: made for schema 1, expected 2; .*dvc repro features"):
        FeatureStore(path)


def test_views_of_an_image_are_its_rows_with_the_plain_one_first(tmp_path):
    views = [View("a.jpg", True), View("b.jpg"), View("a.jpg"), View("c.jpg"), View("b.jpg", True)]
    with new_store(tmp_path / "views.h5", views=views, shape=SHAPE, dtype="float16", **VALID_FOR) as store:
        store.write(0, features())
        store.leave_out(3)
    store = FeatureStore(tmp_path / "views.h5")
    assert store.views == {"a.jpg": [2, 0], "b.jpg": [1, 4]}
    assert store.rows == {"a.jpg": 2, "b.jpg": 1}
    assert torch.equal(store.read(torch.tensor(store.views["b.jpg"])), features()[[1, 4]])


def test_rows_to_caption_are_the_plain_view_or_both(tmp_path):
    views = [View("b", True), View("a"), View("b"), View("a", True), View("c")]
    with new_store(tmp_path / "features.h5", views=views, shape=SHAPE, dtype="float16", **VALID_FOR) as store:
        store.write(0, features())
    store = FeatureStore(tmp_path / "features.h5")
    assert store.captioned(["b", "c", "a"], mean=False).tolist() == [[2], [4], [1]]
    assert store.captioned(["b", "a"], mean=True).tolist() == [[2, 0], [1, 3]]
    with pytest.raises(CaptionerError, match=r"features\.h5: no mirrored view of c, .*; set views\.mean to true"):
        store.captioned(["b", "c", "a"], mean=True)


def test_single_precision_is_rounded_to_half(tmp_path):
    wanted = torch.linspace(-5, 5, len(NAMES) * 24).view(-1, *SHAPE)
    result = FeatureStore(write(tmp_path / "features.h5", wanted)).read(range(len(NAMES)))
    assert torch.equal(result, wanted.half())


@pytest.mark.parametrize("rows", [[4, 0, 2], [1, 1, 1], [3], np.array([2, 4, 2, 0]), range(5)])
def test_rows_come_in_the_order_asked_for(path, rows):
    result = FeatureStore(path).read(rows)
    assert result.shape == (len(rows), *SHAPE)
    assert torch.equal(result, features()[list(rows)])


def test_rows_are_copies(path):
    store, before = FeatureStore(path), path.read_bytes()
    store.read([0, 1]).zero_()
    assert torch.equal(store.read([0, 1]), features()[:2])
    assert path.read_bytes() == before


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
@pytest.mark.parametrize("method", ["spawn", "fork"])
def test_another_process_reads_the_same_rows(path, method):
    if method not in multiprocessing.get_all_start_methods():
        pytest.skip(f"no {method} here")
    store = FeatureStore(path)
    store.read([0])
    with multiprocessing.get_context(method).Pool(1) as pool:
        assert pool.apply(rows_of, (store, [3, 0, 3])) == features()[[3, 0, 3]].tolist()


def test_pickles_hold_no_features(path):
    store = FeatureStore(path)
    content = pickle.dumps(store)
    assert features().numpy().tobytes()[:64] not in content
    copy = pickle.loads(content)
    assert copy.rows == store.rows
    assert copy.attributes == store.attributes
    assert torch.equal(copy.read([1]), store.read([1]))


@pytest.mark.parametrize(
    ("key", "stored", "expected"),
    [
        ("encoder", "abc123", "def456"),
        ("layer", "layer4", "end"),
        ("size", 64, 224),
        ("fit", "squash", "crop"),
        ("schema", 77, 2),
        ("absent", None, "something"),
    ],
)
def test_a_store_made_for_something_else_is_refused(path, key, stored, expected):
    wanted = dict(VALID_FOR)
    if key == "schema":
        with h5py.File(path, "r+") as file:
            file.attrs["schema"] = stored
    else:
        wanted[key] = expected
    with pytest.raises(CaptionerError) as caught:
        FeatureStore(path, **wanted)
    for part in (path, key, stored, expected):
        assert str(part) in str(caught.value)


def test_a_missing_file_is_refused(tmp_path):
    with pytest.raises(CaptionerError, match=r"absent\.h5: not found"):
        FeatureStore(tmp_path / "absent.h5")


@pytest.mark.parametrize("keep", [0, 1, 7, 100, 0.5, -1])
def test_a_truncated_file_is_refused(path, keep):
    content = path.read_bytes()
    path.write_bytes(content[: int(keep * len(content)) if isinstance(keep, float) else keep])
    with pytest.raises(CaptionerError, match=r"features\.h5"):
        FeatureStore(path)


@pytest.mark.parametrize("missing", [0, 1])
def test_a_file_that_is_cut_after_hdf5_has_read_it_is_refused(tmp_path, monkeypatch, missing):
    path, views, shape = tmp_path / "features.h5", [View(f"{number}.jpg") for number in range(37)], (7, 9, 5)
    with new_store(path, views=views, shape=shape, dtype="float16", **VALID_FOR) as store:
        store.write(0, torch.ones(len(views), *shape))
    with h5py.File(path) as file:
        offset, size = file["features"].id.get_offset(), file["features"].nbytes
    assert offset & size  # so that the sum is no other operation's result

    class Cut(h5py.File):
        def close(self):
            super().close()
            os.truncate(path, offset + size - missing)

    monkeypatch.setattr(h5py, "File", Cut)
    if missing:
        with pytest.raises(CaptionerError, match=r"features\.h5: truncated"):
            FeatureStore(path)
    else:
        assert torch.equal(FeatureStore(path).read([36]), torch.ones(1, *shape).half())


@pytest.mark.parametrize("kind", ["text", "folder", "no features", "no images", "groups", "numbers for names"])
def test_what_is_no_store_is_refused(tmp_path, kind):
    path = tmp_path / "other.h5"
    if kind == "folder":
        path.mkdir()
    elif kind == "text":
        path.write_text("<html>not found</html>\n" * 100)
    else:
        with h5py.File(path, "w") as file:
            file.attrs.update({"schema": 2, **VALID_FOR})
            if kind == "groups":
                file.create_group("features")
            elif kind != "no features":
                file["features"] = features().numpy()
            if kind == "numbers for names":
                file["images"] = np.arange(len(NAMES))
            elif kind != "no images":
                file.create_dataset("images", data=NAMES, dtype=h5py.string_dtype())
    with pytest.raises(CaptionerError, match=r"other\.h5"):
        FeatureStore(path)


@pytest.mark.parametrize("how", [{"chunks": (1, *SHAPE)}, {"compression": "gzip"}])
def test_a_dataset_that_cannot_be_mapped_is_refused(tmp_path, how):
    path = tmp_path / "chunked.h5"
    with h5py.File(path, "w") as file:
        file.attrs.update({"schema": 2, **VALID_FOR})
        file.create_dataset("features", data=features().numpy(), **how)
        file.create_dataset("images", data=NAMES, dtype=h5py.string_dtype())
        file.create_dataset("flipped", data=np.zeros(len(NAMES), dtype=bool))
    with pytest.raises(CaptionerError, match=r"chunked\.h5.*not contiguous"):
        FeatureStore(path)


def test_a_row_left_out_has_no_name(tmp_path):
    store = FeatureStore(write(tmp_path / "features.h5", features(), left_out=[1, 3]))
    assert store.rows == {"b.jpg": 0, "naïve 犬.jpg": 2, "e.jpg": 4}
    assert torch.equal(store.read(list(store.rows.values())), features()[[0, 2, 4]])


@pytest.mark.parametrize("piece", [1, 2, 3, 1000])
def test_pooled_is_the_mean_of_the_grid_whatever_the_piece(tmp_path, piece):
    rows = features() * 1000 + 30000  # their sum is beyond half precision
    store = FeatureStore(write(tmp_path / "features.h5", rows))
    wanted_rows = [4, 0, 0, 2, 1]
    result = store.pooled(wanted_rows, piece=piece)
    assert result.dtype == torch.float32
    torch.testing.assert_close(result, rows[wanted_rows].double().mean((1, 2), keepdim=True).float(), rtol=1e-6, atol=0)


def test_the_same_input_gives_the_same_bytes_at_another_time(tmp_path):
    first = write(tmp_path / "a" / "features.h5", features(), left_out=[2]).read_bytes()
    time.sleep(1.1)  # HDF5 can keep times, in seconds
    again = write(tmp_path / "b" / "features.h5", features(), left_out=[2]).read_bytes()
    assert first == again
    assert first != write(tmp_path / "c" / "features.h5", features(seed=2), left_out=[2]).read_bytes()


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
@pytest.mark.parametrize("old", [True, False])
def test_an_error_while_writing_leaves_what_was_there(tmp_path, error, old):
    path = tmp_path / "features.h5"
    before = write(path, features()).read_bytes() if old else None

    def fail():
        with new_store(path, views=[View(name) for name in NAMES], shape=SHAPE, dtype="float16", **VALID_FOR) as store:
            store.write(0, features(seed=2)[:3])
            raise error

    with pytest.raises(error):
        fail()
    assert [entry.name for entry in tmp_path.iterdir()] == ["features.h5"] * old
    if old:
        assert path.read_bytes() == before


def test_the_dataset_is_contiguous_and_plain(path):
    with h5py.File(path) as file:
        dataset = file["features"]
        assert dataset.chunks is None
        assert dataset.compression is None
        assert dataset.dtype == np.float16
        start, stop = dataset.id.get_offset(), dataset.id.get_offset() + dataset.nbytes
    assert Path(path).read_bytes()[start:stop] == features().numpy().tobytes()


def test_a_store_is_written_and_read_without_locks(tmp_path):
    """Some file systems have none; here a lock that another program holds stands for that."""
    fcntl = pytest.importorskip("fcntl")
    views = [View(name) for name in NAMES]
    with new_store(tmp_path / "features.h5", views=views, shape=SHAPE, dtype="float16", **VALID_FOR) as store:
        (beside,) = tmp_path.glob(".part-*/features.h5")
        with beside.open("rb+") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)  # fails where HDF5 holds one
            store.write(0, features())
    with (tmp_path / "features.h5").open("rb+") as file:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        assert list(FeatureStore(tmp_path / "features.h5").rows) == NAMES


@pytest.mark.parametrize("number", [errno.EACCES, errno.EIO, errno.ENOLCK])
def test_what_the_system_refuses_is_not_called_a_broken_store(path, monkeypatch, number):
    def refuse(*given, **options):
        raise OSError(number, "[Errno] Unable to open file")

    monkeypatch.setattr(h5py, "File", refuse)
    with pytest.raises(CaptionerError, match=rf"features\.h5: cannot be read \({os.strerror(number)}\)$"):
        FeatureStore(path)


@pytest.mark.parametrize(
    ("version", "options"), [((1, 12, 0), {}), ((1, 12, 1), {"locking": False}), ((1, 14, 6), {"locking": False})]
)
def test_locks_are_left_out_from_the_version_of_hdf5_that_can(monkeypatch, version, options):
    monkeypatch.setattr(h5py.version, "hdf5_version_tuple", version)
    assert runpy.run_path(module.__file__)["UNLOCKED"] == options


def test_a_disk_with_too_little_space_is_noticed_before_anything_is_written(tmp_path, monkeypatch):
    free = {"bytes": 0}
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=free["bytes"]))
    views, path = [View(name) for name in NAMES], tmp_path / "features.h5"

    def start(shape):
        with new_store(path, views=views, shape=shape, dtype="float16", **VALID_FOR):
            pass

    free["bytes"] = 5 * 24 * 2 - 1
    with pytest.raises(OSError, match=r"for 0\.0 GB") as caught:
        start(SHAPE)
    assert (caught.value.errno, caught.value.filename) == (errno.ENOSPC, str(path))
    free["bytes"] = 10**9
    with pytest.raises(OSError, match=r"for 2\.0 GB"):
        start((1000, 1000, 200))
    assert not list(tmp_path.iterdir())
    free["bytes"] = 5 * 24 * 2
    start(SHAPE)
    assert path.exists()
