"""The real stages under DVC, on a small form of the built-in dataset."""

import json
import os
import re
import shutil
import signal
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import pandas as pd
import pytest
import torch
from PIL import Image
from ruamel.yaml import YAML
from safetensors.torch import load_file
from torchvision.models import resnet18

from captioner.base.files import digest
from captioner.base.params import read_values
from captioner.model.captioner import load_model
from captioner.model.consensus import Consensus
from captioner.model.generate import generate
from captioner.vision.encoder import load_encoder
from captioner.vision.store import FeatureStore
from tests.pipeline.faults import Kill, incomplete, outputs, quotas, repro
from tests.support.disk import full_disk
from tests.support.workspaces import ROOT

STAGES = YAML(typ="safe").load(ROOT / "dvc.yaml")["stages"]
pytestmark = pytest.mark.pipeline


@pytest.fixture(scope="module")
def done(make):
    """A workspace in which the whole pipeline ran once."""
    workspace = make()
    assert workspace.repro() == set(STAGES)
    return workspace


@pytest.mark.parametrize(("stage", "images"), [("validate", 8), ("evaluate", 12)])
def test_metrics_hold_both_models_under_the_names_of_the_field(done, stage, images):
    results = json.loads((done.folder / f"metrics/{stage}.json").read_text())
    assert results["images"] == images
    names = {"BLEU-1", "BLEU-2", "BLEU-3", "BLEU-4", "ROUGE-L", "CIDEr"} | (
        {"METEOR"} if shutil.which("java") else set()
    )
    for model in ("frozen", "finetuned"):
        assert names <= set(results[model])
        assert 0 < results[model]["BLEU-1"] < 1


@pytest.mark.parametrize(("stage", "split", "images"), [("validate", "dev", 8), ("evaluate", "test", 12)])
def test_every_image_of_the_split_has_its_captions(done, stage, split, images):
    table = pd.read_csv(done.folder / f"metrics/{split}_captions.csv")
    assert list(table) == ["image", "frozen", "finetuned", "frozen CIDEr", "finetuned CIDEr"]
    assert table["image"].tolist() == sorted(f"{split}_{n:05d}.jpg" for n in range(images))
    results = json.loads((done.folder / f"metrics/{stage}.json").read_text())
    assert table["finetuned CIDEr"].mean() == pytest.approx(results["finetuned"]["CIDEr"], abs=1e-4)


def test_test_captions_are_the_chosen_beams(done):
    weight = 1000.0  # large enough to outweigh the log-probability after two epochs
    done.change(search__consensus=weight)
    assert "evaluate" in done.repro()
    table = pd.read_csv(done.folder / "metrics/test_captions.csv", index_col="image", keep_default_na=False)
    done.change()
    assert done.repro() == set()
    usual = pd.read_csv(done.folder / "metrics/test_captions.csv", index_col="image", keep_default_na=False)
    captioner, card = load_model(done.folder / "models/captioner.safetensors")
    store = FeatureStore(done.folder / "data/features/boundary.h5")
    rows = store.captioned(table.index, mean=True)
    search = read_values(ROOT / "params.yaml")["search"]
    generated = generate(
        captioner,
        list(table.index),
        lambda chosen: [store.read(view) for view in rows[chosen].T],
        card.vocabulary,
        beam=search["beam"],
        length_penalty=search["length_penalty"],
        device=torch.device("cpu"),
        choose=partial(Consensus(*captioner.examples).choose, weight=weight),
    )
    assert generated == table["finetuned"].to_dict() != usual["finetuned"].to_dict()


def test_every_photo_has_a_mirrored_view(done):
    counts = json.loads((done.folder / "metrics/features.json").read_text())
    assert (counts["images"], counts["flipped"]) == (60, 60)


def test_curves_have_a_line_an_epoch(done):
    assert pd.read_csv(done.folder / "metrics/train_curve.csv")["epoch"].tolist() == [1, 2]
    assert pd.read_csv(done.folder / "metrics/finetune_curve.csv")["epoch"].tolist() == [0, 1, 2, 3]
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
    assert card.mean
    assert card.provenance["params"]["finetune.unfreeze_from"] == "layer3"
    assert card.provenance["inputs"]["models/decoder.safetensors"] == outputs(done.folder)["models/decoder.safetensors"]
    assert "src/captioner/training/finetune.py" in card.provenance["inputs"]
    assert {"torch", "python"} <= set(card.provenance["versions"])
    frozen = load_encoder(load_file(done.folder / "data/features/encoder.safetensors")).state_dict()
    for name, value in captioner.encoder.state_dict().items():
        if not name.startswith(("layer3", "layer4")) or "running" in name:
            assert value.equal(frozen[name]), name


def test_nothing_is_left_to_resume(done):
    assert not list((done.folder / ".resume").glob("*-*"))


def test_a_second_run_does_nothing_and_status_is_clean(done):
    assert done.repro() == set()
    assert done.json("status") == {}


def test_a_clock_that_jumps_reruns_nothing(done):
    for number, path in enumerate(
        path for path in done.folder.rglob("*") if path.is_file() and ".dvc" not in path.parts
    ):
        os.utime(path, (seconds := [1e9, 4e9][number % 2], seconds))
    assert done.repro() == set()
    assert done.json("status") == {}


def test_a_tampered_model_or_store_is_noticed_and_made_right(done):
    before = outputs(done.folder)
    for path in ("models/captioner.safetensors", "data/features/grid.h5"):
        target = done.folder / path
        content = bytearray(target.read_bytes())
        content[-1] ^= 1
        target.unlink()  # not through the link into the cache
        target.write_bytes(content)
    assert {"features", "finetune"} <= set(done.json("status"))
    done.repro()
    assert outputs(done.folder) == before == {path: digest(done.folder / path) for path in before}


def test_forced_again_gives_the_same_bytes(done):
    before = outputs(done.folder)
    assert done.repro("--force") == set(STAGES)
    assert outputs(done.folder) == before


def test_a_second_repro_at_the_same_time_is_refused_and_changes_nothing(done):
    before, locks, model = outputs(done.folder), done.folder / ".dvc/tmp/rwlock", "models/decoder.safetensors"
    done.change(train__lr=0.003)
    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(done.repro, "train")
        while not first.done() and not (locks.exists() and '"write"' in locks.read_text()):
            time.sleep(0.05)
        second = done.dvc("repro", check=False)
        assert re.search(r"ERROR: .*(is busy|[Uu]nable to acquire lock)", second)
        assert first.result() == {"train"}
    assert outputs(done.folder)[model] == digest(done.folder / model) != before[model]
    assert done.repro("train") == set()
    done.change()
    assert done.repro() == set()
    assert outputs(done.folder) == before == {path: digest(done.folder / path) for path in before}


def test_a_full_disk_leaves_no_wrong_output_and_the_run_goes_on(done, make):
    workspace = make()
    for room, stage in ((1_000_000, "weights"), (60_000_000, "finetune")):
        with full_disk(room):
            printed = workspace.dvc("repro", check=False)
        assert re.search(rf"failed to reproduce '{stage}'", printed), printed
        assert incomplete(workspace.folder, done.folder) == []
    workspace.repro()
    assert outputs(workspace.folder) == outputs(done.folder)


def test_search_params_rerun_what_is_generated_and_reverting_takes_it_from_the_cache(done):
    before = outputs(done.folder)
    done.change(search__beam=1)
    ran = done.repro()
    assert {"validate", "evaluate"} <= ran <= {"validate", "evaluate", "pictures", "report", "card"}
    done.change()
    assert done.repro() == set()
    assert outputs(done.folder) == before


def test_picture_params_rerun_pictures_alone(done):
    done.change(pictures__each=1)
    assert done.repro() == {"pictures"}
    done.change()
    assert done.repro() == set()


def test_the_boundary_and_the_form_of_captions_spare_what_they_do_not_touch(done):
    before = outputs(done.folder)
    done.change(finetune__unfreeze_from="conv1", finetune__epochs=1)
    ran = done.repro()
    assert {"features", "finetune"} <= ran
    assert "train" not in ran  # the grids have the same bytes
    # all 60 are in two views
    assert FeatureStore(done.folder / "data/features/boundary.h5").shape == (120, 64, 64, 3)
    done.change(captions__form="lemma")
    ran = done.repro()
    assert {"tokenise", "train"} <= ran
    assert "features" not in ran
    done.change()
    assert done.repro() == set()  # the first params again: all outputs come from the cache
    assert outputs(done.folder) == before


@pytest.mark.parametrize(
    "changes",
    [
        {"captions__form": "lemma", "finetune__unfreeze_from": "layer4"},
        {
            "decoder__attention": False,
            "decoder__tied": False,
            "image__fit": "crop",
            "encoder__weights": "weights.pth",
        },
    ],
    ids=["lemma captions, layer4", "pooled decoder, untied, weights of one's own"],
)
def test_other_forms_run(make, changes, monkeypatch):
    workspace = make(**changes)
    with monkeypatch.context() as patched:  # as in a file that was saved on a GPU
        patched.setattr(torch.serialization, "location_tag", lambda storage: "cuda:0")
        torch.save(resnet18(zero_init_residual=True).state_dict(), workspace.folder / "weights.pth")
    assert b"cuda:0" in (workspace.folder / "weights.pth").read_bytes()
    workspace.repro()
    results = json.loads((workspace.folder / "metrics/evaluate.json").read_text())
    assert results["finetuned"]["BLEU-1"] > 0
    captions = pd.read_csv(workspace.folder / "metrics/test_captions.csv", keep_default_na=False)
    if changes.get("captions__form") == "lemma":
        assert " is " in (workspace.folder / "data/captions.jsonl").read_text()  # of what people wrote
        words = json.loads((workspace.folder / "data/vocabulary.json").read_text())["words"]
        assert "be" in words
        assert "is" not in words
    assert captions["finetuned"].str.len().gt(0).all()


def test_an_unknown_param_stops_before_any_work(make):
    workspace = make()
    path = workspace.folder / "params.yaml"
    path.write_text(path.read_text().replace("weight_decay:", "weight_decoy:", 1))
    printed = workspace.dvc("repro", check=False)
    assert "train.weight_decoy: unknown key (did you mean weight_decay?)" in printed
    assert "Traceback" not in printed
    assert not (workspace.folder / "data").exists()


@pytest.fixture
def clone(done, make, tmp_path):
    """A clone of the first workspace's Git repository, with the DVC remote to which the first one pushed."""
    done.dvc("remote", "add", "--force", "--default", "storage", str(tmp_path))
    done.dvc("push")
    clone = make()
    clone.dvc("remote", "add", "--default", "storage", str(tmp_path))
    shutil.copy(done.folder / "dvc.lock", clone.folder)
    shutil.copytree(done.folder / "metrics", clone.folder / "metrics")
    return clone


def test_a_second_clone_pulls_what_it_needs_and_trains_on_it(done, clone):
    clone.dvc("pull", "models/captioner.safetensors")
    assert {path.name for path in (clone.folder / "models").glob("*.safetensors")} == {"captioner.safetensors"}
    assert not (clone.folder / "data").exists()
    needed = ["data/captions.jsonl", "data/vocabulary.json", "data/features/grid.h5"]
    clone.dvc("pull", *needed, "data/raw/start")
    assert clone.repro("--force", "--single-item", "train") == {"train"}
    model = "models/decoder.safetensors"
    assert digest(clone.folder / model) == outputs(done.folder)[model]
    there = [path.relative_to(clone.folder).as_posix() for path in (clone.folder / "data").rglob("*.*")]
    needed.append("data/raw/start/start.json")
    assert sorted(path for path in there if not path.endswith(".gitignore")) == sorted(needed)


def test_a_second_clone_pulls_everything_and_reruns_nothing(done, clone):
    clone.dvc("pull")
    assert clone.repro() == set()
    assert outputs(clone.folder) == outputs(done.folder)


@pytest.mark.parametrize(
    ("stage", "model", "sent", "alone", "parts"),
    [
        ("train", "models/decoder.safetensors", signal.SIGKILL, False, {"train"}),
        ("finetune", "models/captioner.safetensors", signal.SIGTERM, True, {"finetune-adapt", "finetune"}),
    ],
)
def test_a_killed_run_goes_on_and_ends_with_the_same_bytes(done, stage, model, sent, alone, parts):
    """A short form of `make fault-test`."""
    before, command = outputs(done.folder), ("--force", "--single-item", stage)
    killed = repro(done.folder, [Kill("epoch 1/2", 0, sent, alone)], *command)
    assert killed.struck == stage
    assert killed.status != 0, killed.printed
    assert not (done.folder / model).exists()
    states = [path.name.rpartition("-")[0] for path in (done.folder / ".resume").glob("*.pt")]
    assert sorted(states) == sorted(parts)
    again = repro(done.folder, [], *command)
    assert again.status == 0
    assert "going on after epoch 1" in again.printed
    assert outputs(done.folder) == before
    assert not list((done.folder / ".resume").glob("*.pt"))


def test_the_harness_sees_what_is_not_whole(done, tmp_path):
    copied = ["data/images.csv", "data/vocabulary.json", "metrics/train_curve.csv", "metrics/finetune_curve.csv"]
    for path in copied:
        (tmp_path / path).parent.mkdir(exist_ok=True)
        shutil.copy(done.folder / path, tmp_path / path)
    assert incomplete(tmp_path, done.folder) == []
    for path in copied:
        (tmp_path / path).write_bytes((tmp_path / path).read_bytes()[:-10])
    assert incomplete(tmp_path, done.folder) == copied[:2]  # a curve may have fewer epochs
    (tmp_path / copied[2]).write_text("epoch\n")
    assert incomplete(tmp_path, done.folder) == copied[:3]


@pytest.mark.parametrize("kills", [1, 2, 10, 50])
def test_kills_are_shared_out_over_the_stages(kills):
    shared = quotas(kills)
    assert sum(shared.values()) == kills
    assert max(shared.values()) - min(shared.values()) <= 1
    assert shared["train"] == max(shared.values())


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
    tracked = git(committed, "ls-files").splitlines()
    assert {"dvc.lock", "metrics/captions.json", "metrics/download.json"} <= set(tracked)
    assert not [path for path in tracked if path.startswith(("data/", "models/", ".resume/"))]


def test_metrics_and_params_diff_name_what_changed(committed):
    committed.change(captions__min_count=20)
    committed.repro("tokenise")
    metrics = committed.json("metrics", "diff")["metrics/captions.json"]
    assert metrics["training words.vocabulary"]["diff"] < 0
    params = committed.json("params", "diff")["params.yaml"]
    assert params["captions.min_count"] == {"old": 1, "new": 20, "diff": 19}


@pytest.mark.parametrize("how", ["temp", "queue"])
def test_experiments_in_a_copy_run_the_copys_code(committed, how):
    module = committed.folder / "src/captioner/captions/tokenise.py"
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


def test_two_queue_workers_run_two_experiments_at_a_time(committed, tmp_path):
    script = committed.folder / "stages/tokenise.py"
    waiting = f"""
import os, pathlib, time
there = pathlib.Path({str(tmp_path)!r})
(there / str(os.getpid())).touch()
while len(list(there.iterdir())) < 2:  # until another experiment runs this too
    time.sleep(0.1)
"""
    script.write_text(script.read_text().replace("\nfrom captioner", waiting + "\nfrom captioner", 1))
    git(committed, "commit", "--quiet", "--all", "--message", "wait for each other")
    for name, count in (("few", 20), ("many", 5)):
        committed.dvc("exp", "run", "--queue", "--name", name, "-S", f"captions.min_count={count}", "tokenise")
    committed.dvc("queue", "start", "--jobs", "2")
    try:
        wait_for(lambda: {"few", "many"} <= set(committed.dvc("exp", "list", "--name-only").split()))
    finally:
        committed.dvc("queue", "stop", "--kill", check=False)
    assert len(list(tmp_path.iterdir())) == 2
    commits = committed.dvc("exp", "list", "--sha-only").split()[-2:]
    shown = [json.loads(git(committed, "show", f"{commit}:metrics/captions.json")) for commit in commits]
    assert len({each["training words"]["vocabulary"] for each in shown}) == 2


def wait_for(condition, seconds=120):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(1)
