"""The model card: its head can be read, its figures are the run's, and it says loudly what is not official."""

import json
import shutil

import pytest
from ruamel.yaml import YAML

from captioner.results.card import write_card
from tests.support.workspaces import ROOT
from tests.support.worlds import WORDS, captioner_file

NAMES = ("download", "weights", "captions", "features", "train", "finetune", "evaluate")


@pytest.fixture
def run(tmp_path):
    """The committed metrics without their intervals, and two small models."""
    for name in NAMES:
        shutil.copy(ROOT / "metrics" / f"{name}.json", tmp_path)
    scores = json.loads((tmp_path / "evaluate.json").read_text())
    del scores["intervals"]
    (tmp_path / "evaluate.json").write_text(json.dumps(scores))
    versions = {"python": "3.11.7", "torch": "2.14.1"}
    captioner_file(
        tmp_path / "captioner.safetensors", provenance={"params": {"finetune.lr": 0.5}, "versions": versions}
    )
    captioner_file(
        tmp_path / "decoder.safetensors", encoder=False, provenance={"params": {"train.lr": 0.25}, "versions": versions}
    )
    return tmp_path


def written(folder, beam=7):
    write_card(
        folder / "CARD.md",
        folder / "config.json",
        model=folder / "captioner.safetensors",
        decoder=folder / "decoder.safetensors",
        metrics={name: folder / f"{name}.json" for name in NAMES},
        beam=beam,
        length_penalty=0.5,
        consensus=1.5,
    )
    _, head, text = (folder / "CARD.md").read_text().split("---\n", 2)
    return YAML(typ="safe").load(head), text


def change(path, **changes):
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


@pytest.mark.parametrize(
    ("params", "said"),
    [
        ({}, "Then decoder and encoder were fine-tuned together, the encoder from layer4 on."),
        ({"train_encoder": False}, "Then the decoder was fine-tuned alone."),
        ({"objective": "cross-entropy", "next_word": 0.3}, "the encoder from layer4 on."),
        ({"objective": "cider", "next_word": 0.0}, "the encoder from layer4 on, at the end on CIDEr."),
        ({"objective": "cider", "next_word": 0.3}, "on, at the end on CIDEr and on the next word."),
    ],
)
@pytest.mark.parametrize("mean", [False, True])
def test_the_recipe_is_that_of_the_model(run, params, said, mean):
    provenance = {"params": {f"finetune.{name}": value for name, value in params.items()}, "versions": {}}
    captioner_file(run / "captioner.safetensors", provenance=provenance, mean=mean)
    _, text = written(run)
    assert said in text
    assert ("The features of a photo and of its mirror image are averaged." in text) == mean
    config = json.loads((run / "config.json").read_text())
    assert config["mean"] is mean
    assert config["trained_from"] == ("layer4" if params.get("train_encoder", True) else None)


def test_the_figures_are_those_of_the_metrics(run):
    scores = json.loads((run / "evaluate.json").read_text())
    for place, name in enumerate(("BLEU-4", "CIDEr")):
        scores["finetuned"][name] = 0.4321 + place / 10
    change(run / "evaluate.json", **scores)
    head, text = written(run)
    (result,) = head["model-index"][0]["results"]
    shown = {metric["name"]: metric["value"] for metric in result["metrics"]}
    assert shown["BLEU-4 x100"] == 43.2
    assert shown["CIDEr x100"] == 53.2
    assert head["license"] == "mit"
    assert head["datasets"] == ["flickr8k"]
    assert {"bleu", "cider"} <= set(head["metrics"])
    row = next(line for line in text.splitlines() if line.startswith("| finetuned"))
    assert "| 43.2 |" in row
    assert "beam 7, length penalty 0.5, weight of the consensus 1.5" in text
    chosen = "chosen among the beams by its score and by its agreement with captions of similar training images"
    assert chosen in text
    assert chosen not in written(run, beam=1)[1]
    assert "| `train.lr` | `0.25` |" in text
    assert "| `finetune.lr` | `0.5` |" in text


def test_what_is_not_official_is_said_loudly(run):
    for name in ("download", "weights"):
        record = json.loads((run / f"{name}.json").read_text())
        for part in (record, record.get("images"), record.get("captions")):
            if part and "official" in part:
                part |= {"official": True, "source": "official"}
        change(run / f"{name}.json", **record)
    head, text = written(run)
    assert "NOT TRAINED ON" not in text
    assert "(official files)" in head["model-index"][0]["results"][0]["dataset"]["name"]
    change(run / "weights.json", official=False, source="mirror")
    head, text = written(run)
    assert "> **NOT TRAINED ON THE OFFICIAL FILES: ResNet-18 weights.**" in text
    assert "not the official files" in head["model-index"][0]["results"][0]["dataset"]["name"]


def test_what_the_pipeline_made_itself_has_no_official_file(run):
    drawn = {"source": "drawn", "official": None, "md5": "0", "bytes": 1}
    change(run / "download.json", dataset="shapes", images=drawn, captions=drawn)
    change(run / "weights.json", source="random", official=None)
    head, text = written(run)
    assert "NOT TRAINED ON" not in text
    assert "official files" not in head["model-index"][0]["results"][0]["dataset"]["name"]
    assert "| ResNet-18 weights | random numbers | - |" in text
    assert "ImageNet" not in text
    assert "annotators" not in text


def test_photos_that_could_not_be_read_are_counted(run):
    assert "could not be read" not in written(run)[1]
    change(run / "features.json", skipped=["a.jpg", "b.jpg"])
    assert "2 of these images could not be read and were left out." in written(run)[1]


def test_weights_of_the_user_keep_their_own_terms(run):
    assert "ImageNet" in written(run)[1]
    change(run / "weights.json", source="file", official=None)
    _, text = written(run)
    assert "ImageNet" not in text
    assert "The weights of ResNet-18 are the user's and keep their own terms." in text


def test_params_are_shown_as_in_params_yaml(run):
    params = {"train.start": None, "finetune.train_encoder": True, "dataset.name": "own"}
    captioner_file(run / "captioner.safetensors", provenance={"params": params, "versions": {}})
    _, text = written(run)
    for row in ("| `train.start` | `null` |", "| `finetune.train_encoder` | `true` |", '| `dataset.name` | `"own"` |'):
        assert row in text


def test_a_frozen_model_of_epoch_0_is_the_one_that_training_started_from(run):
    assert "the model that training started from" not in written(run)[1]
    change(run / "train.json", **{"best epoch": 0})
    assert "from epoch 0, the model that training started from." in written(run)[1]


def test_own_photos_are_not_called_official_for_official_weights(run):
    own = {"source": "own", "official": None, "md5": "0", "bytes": 1}
    change(run / "download.json", dataset="own", images=own, captions=own)
    for official in (True, False):
        change(run / "weights.json", source="official" if official else "mirror", official=official)
        head, text = written(run)
        assert "official" not in head["model-index"][0]["results"][0]["dataset"]["name"]
        assert ("NOT TRAINED ON THE OFFICIAL FILES: ResNet-18" in text) != official


def test_a_machine_without_java_has_no_meteor(run):
    scores = json.loads((run / "evaluate.json").read_text())
    for model in ("frozen", "finetuned"):
        scores[model].pop("METEOR", None)
    change(run / "evaluate.json", **scores)
    head, text = written(run)
    assert "meteor" not in head["metrics"]
    assert "METEOR" not in text


def test_a_score_that_only_one_model_has_is_a_dash(run):
    scores = json.loads((run / "evaluate.json").read_text())
    scores["frozen"].pop("CIDEr")
    change(run / "evaluate.json", **scores)
    _, text = written(run)
    rows = {line.split(" | ")[0].strip("| "): line for line in text.splitlines() if line.startswith("| f")}
    assert rows["frozen"].endswith("| - |")
    assert rows["finetuned - frozen"].endswith("| - |")


def test_scores_and_their_difference_have_intervals_where_the_run_has_them(run):
    assert "bootstrap" not in written(run)[1]
    scores = json.loads((run / "evaluate.json").read_text())
    scores["frozen"]["CIDEr"], scores["finetuned"]["CIDEr"] = 0.5, 0.48
    ends = {"frozen": [0.45, 0.56], "finetuned": [0.43, 0.53], "finetuned - frozen": [-0.07, 0.035]}
    change(run / "evaluate.json", **scores, intervals={name: {"CIDEr": both} for name, both in ends.items()})
    _, text = written(run)
    assert "95 % intervals by bootstrap" in text
    assert "| 50.0 (45.0 to 56.0) |" in text
    assert "| 48.0 (43.0 to 53.0) |" in text
    assert "| \N{MINUS SIGN}2.0 (\N{MINUS SIGN}7.0 to 3.5) |" in text


def test_the_same_run_gives_the_same_bytes(run):
    written(run)
    first = (run / "CARD.md").read_bytes()
    config = (run / "config.json").read_bytes()
    written(run)
    assert ((run / "CARD.md").read_bytes(), (run / "config.json").read_bytes()) == (first, config)


def test_the_configuration_says_what_the_hub_shows(run):
    written(run)
    config = json.loads((run / "config.json").read_text())
    scores = json.loads((run / "evaluate.json").read_text())
    assert config["model_type"] == "captioner"
    assert config["image"] == {"size": 64, "fit": "squash"}
    assert config["vocab_size"] == len(WORDS)
    assert config["decoder"]["heads"] == 2
    assert config["search"] == {"beam": 7, "length_penalty": 0.5, "consensus": 1.5}
    assert config["scores"]["CIDEr x100"] == round(100 * scores["finetuned"]["CIDEr"], 1)
    assert config["scores"]["images"] == scores["images"]


@pytest.mark.slow
def test_the_hubs_own_library_reads_the_card(run):
    hub = pytest.importorskip("huggingface_hub", reason="the extra hub is not installed")
    written(run)
    data = hub.ModelCard.load(run / "CARD.md").data
    results = {result.metric_name: result.metric_value for result in data.eval_results}
    scores = json.loads((run / "evaluate.json").read_text())["finetuned"]
    assert results["BLEU-4 x100"] == round(100 * scores["BLEU-4"], 1)
    assert data.license == "mit"
    assert {result.metric_type for result in data.eval_results} == {"bleu", "meteor", "rouge", "cider"}


def test_nothing_hides_the_folder_from_the_hub():
    """A models/.gitignore, which DVC writes unless Git ignores the folder, would keep `hf upload` from its files."""
    assert "/models/" in (ROOT / ".gitignore").read_text().splitlines()


def test_the_language_of_norwegian_is_text_for_every_yaml(run):
    captioner_file(run / "captioner.safetensors", language="no", provenance={"params": {}, "versions": {}})
    written(run)
    assert '\nlanguage: "no"\n' in (run / "CARD.md").read_text()


def test_a_model_that_started_from_another_names_its_terms(run):
    provenance = {"params": {"train.start": "hf:you/flickr8k"}, "versions": {}}
    captioner_file(run / "decoder.safetensors", encoder=False, provenance=provenance)
    change(run / "weights.json", source="start", official=None)
    _, text = written(run)
    assert "torchvision trained its ResNet-18 on ImageNet" in text
    assert "Training started from the model `hf:you/flickr8k`, whose terms hold, too." in text
    assert "| the encoder of the model that training started from |" in text
