"""Larger datasets: the arithmetic is of measured figures, sizes are those of real stores, the long run runs."""

from pathlib import Path

import pytest
import torch

from benchmarks import forty_thousand, scale
from captioner.base.errors import CaptionerError
from captioner.base.files import read_json
from captioner.captions.tokenise import tokenise_dataset
from captioner.sources.archives import Archive
from captioner.vision.encoder import Encoder
from captioner.vision.features import extract, join
from captioner.vision.store import FeatureStore, View
from tests.support.workspaces import ROOT, TINY
from tests.support.worlds import flickr_archives, jpeg

PAGE = (ROOT / "docs/scale.md").read_text(encoding="utf-8")
TIMES = {name: {"ours": 0.01, "machine": "M"} for name in ("features", "train_epoch", "finetune_step", "beam_search")}


def part(name):
    return PAGE.split(f"<!-- {name} -->\n")[1].split(f"\n<!-- end of {name} -->")[0]


def test_the_page_shows_the_committed_records():
    assert part("scale") == scale.table_of(read_json(scale.RECORD), read_json(scale.TIMES))
    if forty_thousand.RECORD.exists():
        assert part("forty_thousand") == forty_thousand.table_of(read_json(forty_thousand.RECORD))
    else:
        assert part("forty_thousand").startswith("Not run yet")


@pytest.fixture
def data(tmp_path, monkeypatch):
    """The data folder of five images, as the tokenise stage leaves it."""
    monkeypatch.chdir(tmp_path)
    names = [f"{number}.jpg" for number in range(5)]
    captions = [f"{name}#{number}\ta dog runs and a cat sleeps ." for name in names for number in range(5)]
    photos, texts = flickr_archives(
        tmp_path / "archives",
        {name: jpeg(32, 32) for name in names},
        captions,
        {"train": names[:3], "dev": names[3:4], "test": names[4:]},
    )
    (tmp_path / "data/raw/images").mkdir(parents=True)
    photos.rename(tmp_path / "data/raw/images/photos.zip")
    cleaning = {
        "form": "raw",
        "language": "en",
        "lowercase": True,
        "punctuation": False,
        "min_count": 1,
        "max_length": 9,
    }
    split = {"on_bad": "error", "dev": 0.1, "test": 0.1, "seed": 1}
    tokenise_dataset("data/raw/images", texts, folder="data", **cleaning, **split)
    return tmp_path


@pytest.mark.slow
def test_rows_have_the_size_that_the_feature_stage_writes(data, monkeypatch):
    monkeypatch.setattr(scale, "KNOWN", 40)
    record = scale.measure()
    assert record["choice"]["training images"] == 40
    assert all(record["choice"]["s a photo"][photos] > 0 for photos in ("1", "100"))
    views = [View(f"{number}.jpg") for number in range(5)]
    for boundary in ("layer4", "conv1"):
        extract(
            Archive("data/raw/images"),
            views,
            Encoder().eval(),
            boundary=boundary,
            size=scale.SIZE,
            fit="squash",
            on_bad="error",
            shards=Path(boundary),
            device=torch.device("cpu"),
        )
        join(views, Path(boundary), grid_path="grid.h5", boundary_path="boundary.h5")
        for name, key in (("grid.h5", "grid.h5"), ("boundary.h5", f"boundary.h5, {boundary}")):
            row = FeatureStore(name).read([0])
            assert record["bytes an image"][key] == row.nbytes
    assert record["images"] == 3
    assert record["bytes an image"]["ids, padded"] == 5 * (1 + 7 + 1) * 8
    assert record["bytes an image"]["consensus"] > 2 * scale.WIDTH  # more than the vectors
    assert record["bytes an image"]["example in a model file"] == 512 * 2 + 5 * (7 + 1) * 4
    size = (data / "data/captions.jsonl").stat().st_size
    assert record["bytes an image"]["captions.jsonl"] == pytest.approx(size / 5, rel=1e-3)
    assert record["encoder operations"]["forward"] == pytest.approx(2 * 1.81e9, rel=0.01)  # ResNet-18 without its fc
    for size in record["bytes an image"].values():
        assert size > 0


def test_needs_are_those_of_an_image_times_the_images():
    record = read_json(scale.RECORD)
    each = record["bytes an image"]
    result = scale.needs(record, TIMES, (700, 200, 100))
    assert result["grid.h5"] == 2000 * each["grid.h5"]  # each photo and its mirror image
    assert result["memory for CIDEr"] == 700 * each["n-grams of the references"]
    assert result["memory for captions"] == 1000 * each["captions as Python has them"] + 900 * each["ids, padded"]
    assert (result["features"], result["training epoch"], result["test captions"]) == pytest.approx((20, 7, 1))
    twice = scale.needs(record, TIMES, (1400, 400, 200))
    assert {key: twice[key] / result[key] for key in result if key != "report"} == pytest.approx(
        dict.fromkeys(set(result) - {"report"}, 2)
    )


@pytest.mark.parametrize(
    ("seconds", "shown"), [(0.5, "0.5 s"), (59, "59 s"), (90, "1.5 min"), (3600, "1 h"), (2.5e6, "6.9e+02 h")]
)
def test_times_are_shown_in_a_unit_that_fits(seconds, shown):
    assert scale._time(seconds) == shown


def test_without_data_it_is_said_what_to_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(CaptionerError, match=r"captions\.jsonl: not found; run `dvc repro tokenise`"):
        scale.measure()


@pytest.mark.pipeline
def test_the_long_run_goes_through_every_stage(tmp_path, monkeypatch):
    small = {key: value for key, value in TINY.items() if not key.startswith("shapes.")}
    monkeypatch.setattr(forty_thousand, "PARAMS", small | {"train.epochs": 1, "finetune.epochs": 1})
    record = forty_thousand.measure(tmp_path, 80)
    assert record["images"] == {"train": 76, "dev": 2, "test": 2}
    assert list(record["stages"]) == [*forty_thousand.STAGES, "dvc commit"]
    for result in record["stages"].values():
        assert result["seconds"] > 0
        assert 10 < result["MiB"] < 5000
    assert (tmp_path / "dvc.lock").exists()
    assert record["bytes"]["data/captions.jsonl"] == (tmp_path / "data/captions.jsonl").stat().st_size
    assert all(record["bytes"].values())
    shown = forty_thousand.table_of(record)
    assert "80 images (76 train, 2 dev, 2 test)" in shown
    for stage, result in record["stages"].items():
        assert f"| `{stage}` | {result['seconds'] / 60:.1f} |" in shown
