"""Run the commands of docs/own-data.md on drawn data, through the whole pipeline."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
from PIL import Image

from tests.support.workspaces import ROOT, TINY

pytestmark = pytest.mark.pipeline

STEPS = re.findall(r"```sh\n(.*?)```", (ROOT / "docs/own-data.md").read_text(encoding="utf-8"), re.DOTALL)[0]


@pytest.fixture(scope="module")
def walked(make):
    """A workspace in which the steps ran, with small params to save time."""
    workspace = make(**{key.replace(".", "__"): value for key, value in (TINY | {"dataset.name": "flickr8k"}).items()})
    folder = workspace.folder
    shutil.rmtree(folder / ".dvc")
    shutil.copy(ROOT / ".gitignore", folder)
    shutil.copytree(ROOT / "demo", folder / "demo")
    git = ["git", "-c", "user.name=test", "-c", "user.email=test@example.invalid"]
    subprocess.run(["git", "init", "--quiet"], cwd=folder, check=True)
    workspace.dvc("init", "--quiet")
    subprocess.run(["git", "add", "--all"], cwd=folder, check=True)
    subprocess.run([*git, "commit", "--quiet", "--message", "start"], cwd=folder, check=True)
    active = os.environ | {"PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])}
    done = subprocess.run(["bash", "-euc", STEPS], cwd=folder, env=active, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    workspace.mine = folder.parent / "mine"
    workspace.printed = done.stdout
    yield workspace
    shutil.rmtree(workspace.mine)


def test_every_stage_worked_on_it(walked):
    assert "Running stage 'pictures'" in walked.printed
    assert "image,caption\n" in walked.printed  # the output of `head`
    results = json.loads((walked.folder / "metrics/evaluate.json").read_text())
    assert results["images"] == 40
    assert results["finetuned"]["BLEU-1"] > 0
    table = pd.read_csv(walked.folder / "metrics/test_captions.csv")
    assert table["image"].str.fullmatch(r"photos/\d{4}\.jpg").all()
    with Image.open(walked.folder / "pictures/samples.png") as picture:
        assert picture.width > 400
    captions = json.loads((walked.folder / "metrics/captions.json").read_text())
    assert captions["images"] == {"train": 320, "dev": 40, "test": 40, "in no split": 0}
    counts = {len(json.loads(line)["raw"]) for line in (walked.folder / "data/captions.jsonl").open()}
    assert counts == {1, 2, 3, 4, 5}
    assert json.loads((walked.folder / "metrics/download.json").read_text())["dataset"] == "own"


def test_captions_that_are_there_are_not_overwritten(walked):
    captions = walked.mine / "captions.csv"
    before = captions.read_bytes()
    command = [sys.executable, "demo/own_data.py", walked.mine, "--photos", "1"]
    done = subprocess.run(command, cwd=walked.folder, capture_output=True, text=True)
    assert done.returncode == 2
    assert f"{captions} is there already" in done.stderr
    assert captions.read_bytes() == before


def test_a_second_run_does_nothing_and_what_changes_in_the_folder_reruns(walked):
    assert walked.repro() == set()
    assert walked.json("status") == {}
    captions = walked.mine / "captions.csv"
    before = captions.read_text()
    captions.write_text(before + "photos/0000.jpg,One more caption.\n")
    assert "download" in walked.json("status")
    ran = walked.repro("tokenise")
    assert ran == {"download", "tokenise"}
    assert "One more caption." in (walked.folder / "data/captions.jsonl").read_text()
    assert walked.json("status", "features") == {}  # the photos and their splits are the same
    captions.write_text(before)
    assert walked.repro() == set()  # all outputs come from the cache


def test_a_new_photo_without_a_caption_stops_the_run_by_its_name(walked):
    shutil.copy(walked.mine / "photos/0000.jpg", walked.mine / "photos/new.jpg")
    printed = walked.dvc("repro", check=False)
    assert "captions.csv: no row for the photo photos/new.jpg" in printed
    assert "Traceback" not in printed
    (walked.mine / "photos/new.jpg").unlink()
    assert walked.repro() == set()


def test_a_folder_that_is_not_there_stops_the_run_by_its_name(make):
    workspace = make(dataset__name="own", own__folder="nowhere")
    assert "nowhere" in workspace.dvc("repro", "download", check=False)
    assert not (workspace.folder / "data").exists()
