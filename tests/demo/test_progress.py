"""The demo's progress: the share of the work that is done, and the time left."""

import json
import os
import time

import pytest
from ruamel.yaml import YAML

from demo import progress
from demo.run import ROOT, SECONDS

TOOK = dict.fromkeys(progress.METRICS, 1.0) | {"train": 3.0, "validate": 2.0, "finetune": 10.0}  # 20 in all


@pytest.fixture
def run(tmp_path):
    (tmp_path / "metrics").mkdir()
    shown = []
    progress_shown = progress.Progress(tmp_path, TOOK, {"train": 2, "finetune": 5}, shown.append)
    progress_shown.shown_lines = shown
    return progress_shown


def write(run, name, text="{}", after=1.0):
    path = run.folder / "metrics" / name
    path.write_text(text)
    os.utime(path, (run.began + after, run.began + after))


def test_stages_and_epochs_count_by_their_recorded_seconds(run):
    run.look()
    assert run.shown_lines == []
    for name in ("download", "weights", "captions", "features"):
        write(run, f"{name}.json")
    run.look()
    assert run.done() == pytest.approx(4 / 20)
    write(run, "train_curve.csv", "epoch,dev loss\n1,3.0\n")
    assert run.done() == pytest.approx(5.5 / 20)
    write(run, "train.json")
    write(run, "finetune_curve.csv", "epoch,dev loss\n0,3.0\n")
    run.look()
    assert run.done() == pytest.approx(7 / 20)
    write(run, "finetune_curve.csv", "epoch,dev loss\n0,3.0\n1,2.9\n2,2.8\n")
    run.look()
    assert run.done() == pytest.approx(11 / 20)
    assert [line.partition(" done")[0] for line in run.shown_lines] == ["[demo] 20 %", "[demo] 35 %", "[demo] 55 %"]


def test_the_time_left_is_that_of_the_rest_at_the_speed_so_far(run, monkeypatch):
    write(run, "download.json")
    write(run, "weights.json")
    monkeypatch.setattr(time, "time", lambda: run.began + 30)  # for a tenth of the work
    run.look()
    assert run.shown_lines == ["[demo] 10 % done, about 4.5 min left"]


def test_files_of_an_earlier_run_do_not_count(run):
    write(run, "download.json", after=-100)
    run.look()
    assert run.done() == 0


def test_it_looks_while_something_runs_and_tells_what_stages_took(run, monkeypatch):
    monkeypatch.setattr(progress, "EVERY", 0.01)
    with run:
        for after, name in enumerate(progress.METRICS.values(), 1):
            write(run, f"{name}.json", after=float(after))
    assert run.done() == 1
    assert run.stage_seconds() == {stage: pytest.approx(1.0, abs=0.11) for stage in TOOK}


def test_the_recorded_seconds_are_of_the_stages_and_epochs_of_the_demo():
    assert json.loads(SECONDS.read_text()).keys() == progress.METRICS.keys()
    params = YAML(typ="safe").load(ROOT / "demo/params.yaml")
    assert params["finetune.adapt_epochs"] == 0  # else the curve has more epochs than finetune.epochs
