"""Scores of other projects: what is read, and what docs/experiments.md shows."""

import json

import pytest
from ruamel.yaml import YAML

from captioner.base.errors import CaptionerError
from captioner.base.files import read_json
from dev import other_datasets
from tests.support.workspaces import ROOT


@pytest.fixture
def project(tmp_path):
    values = YAML().load(ROOT / "params.yaml")
    values["own"]["folder"], values["seed"], values["views"]["mean"] = "/somewhere", 43, False
    YAML().dump(values, tmp_path / "params.yaml")
    (tmp_path / "metrics").mkdir()
    images = {"train": 1680, "dev": 210, "test": 200, "in no split": 0}
    (tmp_path / "metrics/captions.json").write_text(json.dumps({"images": images}))
    scores = {"CIDEr": 2.5, "BLEU-4": 0.6, "ROUGE-L": 0.7, "METEOR": 0.4, "vocabulary": 150, "mean length": 9.0}
    both = {"frozen": scores, "finetuned": {**scores, "CIDEr": 3.0}}
    (tmp_path / "metrics/evaluate.json").write_text(json.dumps(both))
    return tmp_path


def test_a_row_has_what_the_project_changed_and_its_scores(project):
    result = other_datasets.read_project(project, "test")
    assert (result["seed"], result["changes"]) == (43, {"views.mean": False})
    assert result["images"] == {"train": 1680, "dev": 210, "test": 200}
    assert (result["frozen"]["CIDEr"], result["finetuned"]["CIDEr"]) == (2.5, 3.0)
    assert "mean length" not in result["frozen"]
    with pytest.raises(CaptionerError, match=r"validate\.json: not found; run `dvc repro validate`"):
        other_datasets.read_project(project, "dev")


def test_seeds_are_shown_by_mean_and_range(project):
    one = other_datasets.read_project(project, "test")
    two = {**one, "seed": 44, "finetuned": {**one["finetuned"], "CIDEr": 3.2}}
    lines = other_datasets.table_of({"UCM": [one, two]}).splitlines()
    assert lines[2].startswith("| UCM | 1,680, 200 test | frozen | 250.0 (250.0 to 250.0) | 60.0 (60.0 to 60.0) |")
    assert lines[2].endswith("| 150 (150 to 150) | `views.mean=false` |")
    assert lines[3].startswith("|  |  | fine-tuned | 310.0 (300.0 to 320.0) |")
    assert "| 250.0 |" in other_datasets.table_of({"UCM": [one]})


def test_the_page_shows_the_committed_rows():
    text = (ROOT / "docs/experiments.md").read_text(encoding="utf-8")
    shown = text.split("<!-- other datasets -->\n")[1].split("\n<!-- end of other datasets -->")[0]
    if other_datasets.RECORD.exists():
        assert shown == other_datasets.table_of(read_json(other_datasets.RECORD))
    else:
        assert shown == "Not run yet."
