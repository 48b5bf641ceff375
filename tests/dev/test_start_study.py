"""The study of train.start: which photos it takes, what it runs, what the page shows."""

import zipfile

import pytest

from captioner.base.errors import CaptionerError
from captioner.base.files import read_json, write_json
from captioner.base.params import read_values
from dev import start_study
from tests.support.workspaces import ROOT


def image(number, split):
    return {"filename": f"{number}.jpg", "split": split, "sentences": [{"raw": f"caption {number}"}]}


def scored(cider):
    return {"CIDEr": cider, "BLEU-4": 0.5, "METEOR": 0.3}


def a_run(row, seed, cider, minutes=None):
    both = {"frozen": scored(cider), "finetuned": scored(cider + 0.5)}
    return {
        "row": row,
        "seed": seed,
        "images": {"train": 240, "dev": 60, "test": 210},
        "curve": {"1": 0.2, "3": cider / 2} | ({} if row == start_study.RANDOM else {"0": 0.1}),
        "dev": both,
        "test": both,
        "minutes": {"train": 1.0, "finetune": 2.5} if minutes is None else minutes,
        "machine": "M",
    }


@pytest.fixture
def data(tmp_path):
    splits = ["train"] * 10 + ["val"] * 5 + ["test"] * 3
    write_json(tmp_path / "data/dataset.json", {"images": [image(*each) for each in enumerate(splits)]})
    with zipfile.ZipFile(tmp_path / "data/images.zip", "w") as archive:
        for number in range(len(splits)):
            archive.writestr(f"imgs/{number}.jpg", f"photo {number}")
    return tmp_path / "data"


def test_photos_are_taken_evenly_and_the_test_split_whole(data, tmp_path, monkeypatch):
    monkeypatch.setattr(start_study, "PHOTOS", {"train": 5, "val": 2})
    for _ in range(2):  # a second time over the first
        start_study.take_photos(data, tmp_path / "photos")
    names = [each["filename"] for each in read_json(tmp_path / "photos/dataset.json")["images"]]
    numbers = sorted(int(name.partition(".")[0]) for name in names)
    assert numbers == [0, 2, 4, 6, 8, 10, 12, 15, 16, 17]
    with zipfile.ZipFile(tmp_path / "photos/images.zip") as archive:
        assert sorted(archive.namelist()) == sorted(f"imgs/{name}" for name in names)
        assert archive.read("imgs/8.jpg") == b"photo 8"


def test_too_few_photos_and_missing_files_are_errors(data, tmp_path, monkeypatch):
    monkeypatch.setattr(start_study, "PHOTOS", {"train": 11})
    with pytest.raises(CaptionerError, match="10 images in the split train, expected 11 or more"):
        start_study.take_photos(data, tmp_path / "photos")
    (data / "images.zip").unlink()
    with pytest.raises(CaptionerError, match=r"images\.zip: not found; --data names a folder"):
        start_study.take_photos(data, tmp_path / "photos")


def test_runs_have_the_params_of_their_row_and_what_is_there_is_not_run_again(data, tmp_path, monkeypatch):
    calls = []

    def run(row, seed, model, work):
        calls.append((row, seed, model))
        return a_run(row, seed, 1.0)

    for name, value in (("PHOTOS", {"train": 5}), ("run", run), ("RECORD", tmp_path / "record.json")):
        monkeypatch.setattr(start_study, name, value)
    (tmp_path / "model").write_bytes(b"a model")
    model, rows = str(tmp_path / "model"), [start_study.STARTED, start_study.RANDOM]
    start_study.run_all(data, model, rows, [2], tmp_path / "work")
    start_study.run_all(data, model, rows, [1, 2], tmp_path / "work")
    assert calls == [(row, seed, model) for seed in (2, 1) for row in rows]
    recorded = [(each["row"], each["seed"]) for each in read_json(tmp_path / "record.json")["runs"]]
    assert recorded == [(row, seed) for row in reversed(rows) for seed in (1, 2)]
    (tmp_path / "model").write_bytes(b"another model")
    start_study.run_all(data, model, rows, [2], tmp_path / "work")
    assert len(read_json(tmp_path / "record.json")["runs"]) == 2


@pytest.mark.slow
@pytest.mark.parametrize("row", start_study.ROWS)
def test_the_params_of_every_row_exist_and_are_valid(row, tmp_path, monkeypatch):
    seen = {}

    def timed(folder, *arguments):
        seen.update(read_values(folder / "params.yaml"), arguments=arguments)
        return "stopped", 1, {}

    monkeypatch.setattr(start_study, "timed", timed)
    with pytest.raises(CaptionerError, match=f"{row}, seed 7: dvc ended with 1:\nstopped"):
        start_study.run(row, 7, "/somewhere/model", tmp_path)
    assert seen["train"]["start"] == (None if row == start_study.RANDOM else "/somewhere/model")
    assert (seen["seed"], seen["own"]["folder"]) == (7, str(tmp_path / "photos"))
    assert seen["arguments"] == ("repro", "validate", "evaluate")


@pytest.mark.slow
def test_a_record_has_the_scores_and_no_path(tmp_path, monkeypatch):
    def timed(folder, *arguments):
        for name in ("validate", "evaluate"):
            write_json(folder / f"metrics/{name}.json", {model: scored(1.5) for model in start_study.MODELS})
        write_json(folder / "metrics/captions.json", {"images": {"train": 240, "dev": 60, "test": 210}})
        (folder / "metrics/train_curve.csv").write_text("epoch,dev CIDEr\n0,0.25\n1,0.5\n")
        return "", 0, {"features": 1.0, "train": 2.0}

    monkeypatch.setattr(start_study, "timed", timed)
    record = start_study.run(start_study.STARTED, 7, str(tmp_path / "model"), tmp_path)
    assert (record["curve"], record["minutes"]) == ({"0": 0.25, "1": 0.5}, {"train": 2.0})
    assert record["test"]["finetuned"] == scored(1.5)
    assert str(tmp_path) not in repr(record)


def test_a_row_shows_the_mean_over_seeds_and_the_range():
    runs = [
        a_run(start_study.RANDOM, 1, 1.0),
        a_run(start_study.RANDOM, 2, 1.2, {"train": 1.0}),  # fine-tuning was in the cache
        a_run(start_study.STARTED, 1, 2.0, {"train": 2.0, "finetune": 6.0}),
    ]
    lines = start_study.table_of({"params": {"train.epochs": 9}, "model": "", "runs": runs}).splitlines()
    assert lines[0] == (
        "240 photos train, 60 choose the epoch, and 210 test photos are scored. Seeds 1, 2; the params are "
        "`train.epochs=9`. A run trained for 4 to 8 minutes beside other programs on M."
    )
    spread = "110.0 (100.0 to 120.0) | 50.0 (50.0 to 50.0) | 30.0 (30.0 to 30.0)"
    assert lines[4] == f"| random weights | - | 55.0 (50.0 to 60.0) | frozen | {spread} | {spread} |"
    assert lines[5].startswith("|  |  |  | fine-tuned | 160.0 (150.0 to 170.0) |")
    assert lines[6].startswith("| from the model | 10.0 | 100.0 | frozen | 200.0 | 50.0 | 30.0 |")
    assert len(lines) == 8


def test_the_page_shows_the_committed_runs():
    text = (ROOT / "docs/experiments.md").read_text(encoding="utf-8")
    shown = text.split("<!-- start study -->\n")[1].split("\n<!-- end of start study -->")[0]
    assert shown == start_study.table_of(read_json(start_study.RECORD)), "run `python -m dev.start_study table`"
