"""The ablation table: rows are params that exist, are run once, and are shown with their seeds' spread."""

import subprocess
import sys

import pytest
from ruamel.yaml import YAML

from captioner.base.errors import CaptionerError
from captioner.base.files import read_json
from captioner.base.params import read_values
from dev import experiments
from tests.support.workspaces import ROOT, TINY

PAGE = (ROOT / "docs/experiments.md").read_text(encoding="utf-8")


LANGUAGE = {"vocabulary": 90, "distinct captions": 0.5, "copied from training": 0.25, "mean length": 9.0}


def validated(cider, **more):
    return {"CIDEr": cider, "BLEU-4": 0.3, "ROUGE-L": 0.4} | LANGUAGE | more


def record(row, seed, cider, params=None, *, scale="shapes", minutes=None, until="finetune"):
    changes = experiments.ROWS[scale].get(row, {"decoder.gone": 1})
    scores = {
        "train": {"CIDEr": cider, "BLEU-4": 0.1},
        "finetune": {"CIDEr": cider + 0.1, "BLEU-4": 0.2},
        "validate": {"frozen": validated(cider + 0.02), "finetuned": validated(cider + 0.2, METEOR=0.21)},
    }
    minutes = {"train": 1.25, "finetune": 2.0} if minutes is None else minutes
    stages = experiments.STAGES[: experiments.STAGES.index(until) + 1]
    return {
        "row": row,
        "changes": changes,
        "seed": seed,
        "params": params or experiments.params_hash(scale, changes, seed, until),
        "scores": {stage: scores[stage] for stage in stages},
        "minutes": {stage: minutes[stage] for stage in stages if stage in minutes},
        "machine": "M",
    }


@pytest.mark.parametrize("scale", experiments.ROWS)
def test_the_page_shows_the_committed_records(scale):
    records = read_json(experiments.RECORDS)
    shown = PAGE.split(f"<!-- {scale} -->\n")[1].split(f"\n<!-- end of {scale} -->")[0]
    if scale in records:
        assert shown == experiments.table_of(scale, records[scale]), "run `python -m dev.experiments`"
    else:
        assert shown.startswith("Not run yet")


def test_the_page_shows_what_validate_says_of_the_committed_records():
    shown = PAGE.split("<!-- flickr8k, validate -->\n")[1].split("\n<!-- end of flickr8k, validate -->")[0]
    records = read_json(experiments.RECORDS).get("flickr8k", [])
    if not records:
        assert shown.startswith("Not run yet")
        return
    assert shown == experiments.validate_table("flickr8k", records), "run `python -m dev.experiments`"
    committed = read_json(ROOT / "metrics/validate.json")
    default = experiments.known_record(records, experiments.DEFAULT, read_values(ROOT / "params.yaml")["seed"])
    assert default["scores"]["validate"] == {model: committed[model] for model in experiments.MODELS}


@pytest.mark.parametrize(
    ("scale", "row"), [(scale, row) for scale, rows in experiments.ROWS.items() for row in rows if rows[row]]
)
def test_every_row_sets_params_that_exist_to_other_values(scale, row, tmp_path):
    values = YAML(typ="safe").load(ROOT / "params.yaml")
    base = experiments.SHORT if scale == "shapes" else {}
    for changes in (base, experiments.ROWS[scale][row]):
        for key, value in changes.items():
            section, leaf = key.split(".")
            assert leaf in values[section], key
            if changes is not base:
                assert values[section][leaf] != value, key
            values[section][leaf] = value
    YAML().dump(values, tmp_path / "params.yaml")
    read_values(tmp_path / "params.yaml")


def test_a_row_is_another_one_with_other_params_only():
    hashed = experiments.params_hash
    base = hashed("flickr8k", {}, 42)
    assert base == hashed("flickr8k", {"pictures.each": 9}, 42)  # no stage up to validate reads it
    assert base != hashed("flickr8k", {"search.beam": 5}, 42)
    assert hashed("flickr8k", {}, 42, "finetune") == hashed("flickr8k", {"search.beam": 5}, 42, "finetune")
    others = [
        hashed("flickr8k", {}, 43),
        hashed("shapes", {}, 42),
        hashed("flickr8k", {"decoder.width": 64}, 42),
        hashed("flickr8k", {"decoder.width": 128}, 42),
    ]
    assert len({base, *others}) == 5
    assert hashed("flickr8k", {"finetune.lr": 0.5}, 42) != base
    until_train = hashed("flickr8k", {}, 42, "train")
    assert until_train == hashed("flickr8k", {"finetune.lr": 0.5}, 42, "train")
    assert len({until_train, base, hashed("flickr8k", {"train.lr": 0.5}, 42, "train")}) == 3


def test_seeds_are_shown_by_their_mean_and_range():
    rows = experiments.table_of(
        "shapes",
        [
            record("default", 43, 0.5),
            record("default", 42, 0.4, minutes={"finetune": 4.0}),
            record("pooled features", 42, 0.3, minutes={"finetune": 1.0}),
        ],
    ).splitlines()
    assert rows[2] == (
        "| default |  | 45.0 (40.0 to 50.0) | 10.0 (10.0 to 10.0) | 55.0 (50.0 to 60.0) | 20.0 (20.0 to 20.0) | 42, 43 "
        "| 1.2 + 4.0, 2.0 |"
    )
    assert rows[3] == "| pooled features | `decoder.attention=false` | 30.0 | 10.0 | 40.0 | 20.0 | 42 | - + 1.0 |"
    assert "earlier" not in rows[-1]
    until_train = record("default", 44, 0.6, until="train")
    shown = experiments.table_of("shapes", [until_train, record("default", 42, 0.5)])
    assert "| 42, 44 + 42 |" in shown
    alone = experiments.table_of("shapes", [until_train])
    assert "| 44 |" in alone
    assert "*" not in alone


def test_what_validate_says_is_shown_for_both_models():
    runs = [
        record("default", 43, 0.5, scale="flickr8k", until="validate"),
        record("default", 42, 0.4, scale="flickr8k", until="validate"),
        record("default", 44, 0.6, scale="flickr8k"),  # until finetune
        record("half the width", 42, 0.3, "old", scale="flickr8k", until="validate"),
    ]
    assert experiments.validate_table("flickr8k", runs).splitlines()[2:] == [
        "| default | frozen | 47.0 (42.0 to 52.0) | 30.0 (30.0 to 30.0) | 40.0 (40.0 to 40.0) | - | 90 (90 to 90) "
        "| 50.0 (50.0 to 50.0) | 25.0 (25.0 to 25.0) | 9.0 (9.0 to 9.0) | 42, 43 |",
        "| default | finetuned | 65.0 (60.0 to 70.0) | 30.0 (30.0 to 30.0) | 40.0 (40.0 to 40.0) | 21.0 (21.0 to 21.0) "
        "| 90 (90 to 90) | 50.0 (50.0 to 50.0) | 25.0 (25.0 to 25.0) | 9.0 (9.0 to 9.0) | 42, 43 |",
    ]


def test_a_run_from_the_cache_keeps_the_minutes_it_took():
    there = record("default", 42, 0.4)
    cached = record("default", 42, 0.4, minutes={"validate": 3.0}, until="validate")
    assert experiments.known_minutes(there, cached) == {"train": 1.25, "finetune": 2.0, "validate": 3.0}
    other = record("default", 42, 0.5, minutes={"finetune": 1.0})
    assert experiments.known_minutes(there, other) == {"finetune": 1.0}


def test_rows_of_other_params_are_marked():
    shown = experiments.table_of("shapes", [record("default", 42, 0.5, "old"), record("a lost idea", 42, 0.3)])
    assert "| default * |" in shown
    assert "| a lost idea * | `decoder.gone=1` |" in shown
    assert "of other params or code" in shown
    assert "*" not in experiments.table_of("shapes", [record("default", 42, 0.5)])


def test_what_is_there_is_not_run_again(tmp_path, monkeypatch, capsys):
    ran = []

    def run(folder, scale, name, seed, until):
        ran.append((name, seed))
        return record(name, seed, 0.5, scale=scale, until=until)

    page = tmp_path / "page.md"
    marks = [f"<!-- {start}{name} -->\n" for name in ("flickr8k", "flickr8k, validate") for start in ("", "end of ")]
    page.write_text("".join(marks))
    for name, value in (("run", run), ("RECORDS", tmp_path / "records.json"), ("PAGE", page)):
        monkeypatch.setattr(experiments, name, value)

    def call(*arguments):
        ran.clear()
        monkeypatch.setattr(sys, "argv", ["experiments", "--on", "flickr8k", *arguments])
        experiments.main()
        return list(ran)

    assert call("default", "--seeds", "42", "43") == [("default", 42), ("default", 43)]
    assert call("default", "half the width", "--seeds", "43") == [("half the width", 43)]
    assert call("default", "--seeds", "42", "--again") == [("default", 42)]
    recorded = [(each["row"], each["seed"]) for each in read_json(tmp_path / "records.json")["flickr8k"]]
    assert sorted(recorded) == [("default", 42), ("default", 43), ("half the width", 43)]
    assert "| half the width | `decoder.width=256` | 50.0 |" in page.read_text()
    assert call("photos of 224 px", "--until", "train") == [("photos of 224 px", 42)]
    assert "| photos of 224 px | `image.size=224` | 50.0 | 10.0 | - | - | 42 | 1.2 + - |" in page.read_text()
    assert call("photos of 224 px", "default", "--until", "train") == []
    assert call("photos of 224 px") == [("photos of 224 px", 42)]
    assert "| photos of 224 px | finetuned | 70.0 |" in page.read_text()
    with pytest.raises(SystemExit, match="no row is named 'x'; there are 'default'"):
        call("x")


def test_word_scores_are_shown_where_a_record_has_them():
    old, new = (record("default", seed, 0.5, until="validate") for seed in (1, 2))
    assert "absent" not in experiments.validate_table("shapes", [old])
    for scores in new["scores"]["validate"].values():
        scores |= {"absent words": 0.25, "agreed words": 0.5}
    for records in ([new], [old, new]):
        head, _, *rows = experiments.validate_table("shapes", records).splitlines()
        assert "| absent words | agreed words | seeds |" in head
        assert len(rows) == 2
        assert all("| 25.0 | 50.0 |" in row for row in rows)


def test_an_experiment_without_scores_is_told():
    metrics = {
        "metrics/train.json": {"data": {experiments.BEAM_SCORES: {"CIDEr": 1}}},
        "metrics/finetune.json": {"data": {experiments.BEAM_SCORES: {"CIDEr": 2}}},
        "metrics/validate.json": {"data": {"images": 3, "frozen": {"CIDEr": 1}}},
    }
    shown = [{"rev": "workspace", "experiments": [{"name": "a", "revs": [{"data": {"metrics": metrics}}]}]}]
    for name in ("a", "b"):
        with pytest.raises(
            CaptionerError, match=f"of {name} in .*/train.json and .*/finetune.json and .*/validate.json"
        ):
            experiments.scores_of(shown, name)
    both = {"train": {"CIDEr": 1}, "finetune": {"CIDEr": 2}}
    assert experiments.scores_of(shown, "a", ["train", "finetune"]) == both
    metrics["metrics/validate.json"]["data"]["finetuned"] = {"CIDEr": 4}
    complete = both | {"validate": {"frozen": {"CIDEr": 1}, "finetuned": {"CIDEr": 4}}}
    assert experiments.scores_of(shown, "a") == complete


@pytest.mark.pipeline
def test_a_row_is_run_by_dvc_and_its_scores_and_minutes_are_read(tmp_path, monkeypatch):
    monkeypatch.setattr(experiments, "SHORT", TINY | {"train.epochs": 1, "finetune.epochs": 1})
    monkeypatch.setitem(experiments.ROWS["shapes"], "small", {"finetune.unfreeze_from": "layer4"})
    folder = experiments.shapes_workspace(tmp_path / "workspace")
    first = experiments.run(folder, "shapes", experiments.DEFAULT, 7)
    assert set(first["minutes"]) == {"train", "finetune", "validate"}
    for stage in ("train", "finetune"):
        assert set(first["scores"][stage]) == {"BLEU-4", "CIDEr"}
    assert set(LANGUAGE) < set(first["scores"]["validate"]["frozen"])
    assert experiments.run(folder, "shapes", "small", 7, "train")["scores"] == {"train": first["scores"]["train"]}
    second = experiments.run(folder, "shapes", "small", 7)
    assert set(second["minutes"]) == {"finetune", "validate"}  # the decoder came from the cache
    assert second["scores"]["train"] == first["scores"]["train"]
    assert experiments.run(folder, "shapes", "small", 7)["scores"] == second["scores"]  # its name is free again
    for metrics in ("finetune", "validate", "evaluate"):
        assert not (folder / f"metrics/{metrics}.json").exists()  # all in copies
    commits = subprocess.run(["git", "log", "--oneline"], cwd=folder, capture_output=True, text=True).stdout
    assert experiments.shapes_workspace(folder) == folder  # unchanged: no other commit
    again = subprocess.run(["git", "log", "--oneline"], cwd=folder, capture_output=True, text=True).stdout
    assert len(commits.splitlines()) == 1
    assert again == commits
    monkeypatch.setitem(experiments.ROWS["shapes"], "small", {"decoder.width": 33})  # heads must divide it
    with pytest.raises(CaptionerError, match=r"(?s)dvc ended with .*decoder\.heads"):
        experiments.run(folder, "shapes", "small", 7)
