"""The real stages under DVC, on the built-in dataset, shrunken."""

import json
import os
import shutil
import subprocess
import sys
import time

import pandas as pd
import pytest
from conftest import ROOT
from PIL import Image
from ruamel.yaml import YAML
from safetensors.torch import load_file

from captioner.encoder import load_encoder
from captioner.model import load_model
from captioner.store import FeatureStore

pytestmark = pytest.mark.pipeline


@pytest.fixture(scope="module")
def done(make):
    """A workspace in which everything ran once."""
    workspace = make()
    assert workspace.repro() == set(YAML(typ="safe").load(ROOT / "dvc.yaml")["stages"])
    return workspace


def outputs(workspace):
    lock = YAML(typ="safe").load(workspace.folder / "dvc.lock")["stages"]
    return {out["path"]: out["md5"] for stage in lock.values() for out in stage.get("outs", [])}


def test_metrics_hold_both_models_under_the_names_of_the_field(done):
    results = json.loads((done.folder / "metrics/evaluate.json").read_text())
    assert results["images"] == 12
    names = {"BLEU-1", "BLEU-2", "BLEU-3", "BLEU-4", "ROUGE-L", "CIDEr"} | (
        {"METEOR"} if shutil.which("java") else set()
    )
    for model in ("frozen", "finetuned"):
        assert names <= set(results[model])
        assert 0 < results[model]["BLEU-1"] < 1


def test_every_test_image_has_its_captions(done):
    table = pd.read_csv(done.folder / "metrics/test_captions.csv")
    assert list(table) == ["image", "frozen", "finetuned", "frozen CIDEr", "finetuned CIDEr"]
    assert table["image"].tolist() == sorted(f"test_{n:05d}.jpg" for n in range(12))
    results = json.loads((done.folder / "metrics/evaluate.json").read_text())
    assert table["finetuned CIDEr"].mean() == pytest.approx(results["finetuned"]["CIDEr"], abs=1e-4)


def test_curves_have_a_line_an_epoch(done):
    assert pd.read_csv(done.folder / "metrics/train_curve.csv")["epoch"].tolist() == [1, 2]
    assert pd.read_csv(done.folder / "metrics/finetune_curve.csv")["epoch"].tolist() == [0, 1]
    shown = json.dumps(done.json("plots", "show"))
    for title in ("Loss by epoch, decoder on frozen features", "Loss by epoch, fine-tuning", "dev CIDEr"):
        assert title in shown


def test_the_picture_can_be_opened(done):
    with Image.open(done.folder / "pictures/samples.png") as picture:
        picture.load()
        assert picture.width > 400


def test_the_model_file_says_what_made_it(done):
    captioner, card = load_model(done.folder / "models/captioner.safetensors")
    assert card.start == "layer3"
    assert card.made["params"]["finetune.unfreeze_from"] == "layer3"
    assert card.made["inputs"]["models/decoder.safetensors"] == outputs(done)["models/decoder.safetensors"]
    assert "src/captioner/finetune.py" in card.made["inputs"]
    assert {"torch", "python"} <= set(card.made["versions"])
    frozen = load_encoder(load_file(done.folder / "data/features/encoder.safetensors")).state_dict()
    for name, value in captioner.encoder.state_dict().items():
        if not name.startswith(("layer3", "layer4")) or "running" in name:
            assert value.equal(frozen[name]), name


def test_nothing_is_left_to_resume(done):
    assert not list((done.folder / ".resume").glob("*.pt"))


def test_a_second_run_does_nothing_and_status_is_clean(done):
    assert done.repro() == set()
    assert done.json("status") == {}


def test_forced_again_gives_the_same_bytes(done):
    before = outputs(done)
    assert len(done.repro("--force")) == 8
    assert outputs(done) == before


def test_search_params_rerun_evaluate_and_reverting_takes_it_from_the_cache(done):
    before = outputs(done)
    done.change(search__beam=1)
    ran = done.repro()
    assert "evaluate" in ran
    assert ran <= {"evaluate", "pictures"}
    done.change()
    assert done.repro() == set()
    assert outputs(done) == before


def test_picture_params_rerun_pictures_alone(done):
    done.change(pictures__each=1)
    assert done.repro() == {"pictures"}
    done.change()
    assert done.repro() == set()


def test_the_boundary_and_the_form_of_captions_spare_what_they_do_not_touch(done):
    before = outputs(done)
    done.change(finetune__unfreeze_from="conv1", finetune__epochs=1)
    ran = done.repro()
    assert {"features", "finetune"} <= ran
    assert "train" not in ran  # the grids came out the same, byte by byte
    assert FeatureStore(done.folder / "data/features/boundary.h5").shape == (60, 64, 64, 3)
    done.change(captions__form="lemma")
    ran = done.repro()
    assert {"tokenise", "train"} <= ran
    assert "features" not in ran
    done.change()
    assert done.repro() == set()  # back to the first params: all of it from the cache, nothing trained
    assert outputs(done) == before


@pytest.mark.parametrize(
    "changes",
    [
        {"captions__form": "lemma", "finetune__unfreeze_from": "layer4"},
        {"decoder__attention": False, "decoder__tied": False, "image__fit": "crop"},
    ],
    ids=["lemma captions, layer4", "pooled decoder, untied"],
)
def test_other_forms_run(make, changes):
    workspace = make(**changes)
    workspace.repro()
    results = json.loads((workspace.folder / "metrics/evaluate.json").read_text())
    assert results["finetuned"]["BLEU-1"] > 0
    captions = pd.read_csv(workspace.folder / "metrics/test_captions.csv", keep_default_na=False)
    if changes.get("captions__form") == "lemma":
        text = (workspace.folder / "data/captions.jsonl").read_text()
        assert " be " in text
        assert " is " not in text
    assert captions["finetuned"].str.len().gt(0).all()


def test_an_unknown_param_stops_before_any_work(make):
    workspace = make()
    path = workspace.folder / "params.yaml"
    path.write_text(path.read_text().replace("weight_decay:", "weight_decoy:", 1))
    printed = workspace.dvc("repro", check=False)
    assert "train.weight_decoy: unknown key (did you mean weight_decay?)" in printed
    assert "Traceback" not in printed
    assert not (workspace.folder / "data").exists()


def test_a_second_clone_pulls_everything_and_reruns_nothing(done, make, tmp_path):
    done.dvc("remote", "add", "--force", "--default", "storage", str(tmp_path))
    done.dvc("push")
    clone = make()
    clone.dvc("remote", "add", "--default", "storage", str(tmp_path))
    shutil.copy(done.folder / "dvc.lock", clone.folder)
    shutil.copytree(done.folder / "metrics", clone.folder / "metrics")
    clone.dvc("pull")
    assert clone.repro() == set()
    assert outputs(clone) == outputs(done)


def test_a_killed_run_goes_on_and_ends_with_the_same_bytes(done):
    before = outputs(done)
    environment = os.environ | {"PYTHONPATH": "src"}
    command = [sys.executable, "stages/train.py"]
    with subprocess.Popen(
        command, cwd=done.folder, env=environment, stderr=subprocess.PIPE, text=True, start_new_session=True
    ) as process:
        for line in process.stderr:
            if line.startswith("epoch 1/"):
                process.kill()
    assert process.returncode == -9
    assert list((done.folder / ".resume").glob("train-*.pt"))
    printed = done.dvc("repro", "--force", "--single-item", "train")
    assert "going on after epoch 1" in printed
    assert outputs(done) == before


@pytest.fixture
def committed(make, monkeypatch):
    """A workspace under Git whose tokenise stage ran and was committed."""
    for role in ("AUTHOR", "COMMITTER"):
        monkeypatch.setenv(f"GIT_{role}_NAME", "test")
        monkeypatch.setenv(f"GIT_{role}_EMAIL", "test@example.invalid")
    workspace = make()
    shutil.rmtree(workspace.folder / ".dvc")
    shutil.copy(ROOT / ".gitignore", workspace.folder)
    git(workspace, "init", "--quiet")
    workspace.dvc("init", "--quiet")
    workspace.repro("tokenise")
    git(workspace, "add", "--all")
    git(workspace, "commit", "--quiet", "--message", "start")
    return workspace


def git(workspace, *arguments):
    return subprocess.run(["git", *arguments], cwd=workspace.folder, check=True, capture_output=True, text=True).stdout


def test_git_keeps_metrics_and_lock_and_no_data(committed):
    kept = git(committed, "ls-files").splitlines()
    assert {"dvc.lock", "metrics/captions.json", "metrics/download.json"} <= set(kept)
    assert not [path for path in kept if path.startswith(("data/", "models/", ".resume/"))]


def test_metrics_and_params_diff_name_what_changed(committed):
    committed.change(captions__min_count=20)
    committed.repro("tokenise")
    metrics = committed.json("metrics", "diff")["metrics/captions.json"]
    assert metrics["training words.vocabulary"]["diff"] < 0
    params = committed.json("params", "diff")["params.yaml"]
    assert params["captions.min_count"] == {"old": 1, "new": 20, "diff": 19}


@pytest.mark.parametrize("how", ["temp", "queue"])
def test_experiments_in_a_copy_run_the_copys_code(committed, how):
    module = committed.folder / "src/captioner/tokenise.py"
    module.write_text(module.read_text().replace('"form": form,', '"form": "from the copy",'))
    git(committed, "commit", "--quiet", "--all", "--message", "change")
    run = ["exp", "run", f"--{how}", "--name", "trial", "-S", "captions.min_count=20", "tokenise"]
    committed.dvc(*run)
    if how == "queue":
        committed.dvc("queue", "start")
        wait_for(lambda: "trial" in committed.dvc("exp", "list", "--name-only"))
    shown = json.loads(
        git(committed, "show", f"{committed.dvc('exp', 'list', '--sha-only').split()[-1]}:metrics/captions.json")
    )
    # the copy's code, neither the installed package's nor the result that stands in the workspace
    assert shown["form"] == "from the copy"
    assert json.loads((committed.folder / "metrics/captions.json").read_text())["form"] == "raw"


def wait_for(condition, seconds=120):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(1)
