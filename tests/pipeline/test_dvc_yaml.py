"""dvc.yaml declares exactly what the stages use, and README.md says exactly what dvc.yaml does."""

import re
from fnmatch import fnmatch

import pytest
from ruamel.yaml import YAML

from dev.closure import ROOT, import_closure, params_read

PIPELINE = YAML(typ="safe").load(ROOT / "dvc.yaml")
STAGES = PIPELINE["stages"]

# Outputs whose bytes a key cannot change, so that what depends on them does not rerun for it. That they stay
# is tested in test_tokenise.py and test_pipeline.py.
UNMOVED = {
    "captions.*": {"data/images.csv"},
    "finetune.unfreeze_from": {"data/features/grid.h5", "data/features/encoder.safetensors"},
}


def names(entries):
    return {next(iter(entry)) if isinstance(entry, dict) else entry for entry in entries or []}


def outputs(stage):
    return names(STAGES[stage].get("outs")) | names(STAGES[stage].get("metrics")) | names(STAGES[stage].get("plots"))


def leaves(values, prefix=""):
    for key, value in values.items():
        if isinstance(value, dict):
            yield from leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}"


KEYS = sorted(leaves(YAML(typ="safe").load(ROOT / "params.yaml")))


def declaring(key):
    return {stage for stage, entry in STAGES.items() if key in entry["params"]}


def following(key):
    """Stages that run because an output of an earlier one that ran changed."""
    unmoved = set().union(*(outs for pattern, outs in UNMOVED.items() if fnmatch(key, pattern)))
    running = declaring(key)
    while True:
        moved = set().union(*(outputs(stage) - unmoved for stage in running))
        more = {stage for stage, entry in STAGES.items() if moved & set(entry["deps"])} - running
        if not more:
            return running - declaring(key)
        running |= more


@pytest.mark.parametrize("stage", STAGES)
def test_declared_code_is_the_import_closure(stage):
    declared = {path for path in STAGES[stage]["deps"] if path.endswith(".py")}
    assert declared == import_closure(ROOT / "stages" / f"{stage}.py")


@pytest.mark.parametrize("stage", STAGES)
def test_declared_files_beside_the_code_are_those_that_it_names(stage):
    beside = {path for path in (ROOT / "src/captioner").rglob("*") if path.suffix in (".html", ".css", ".js", ".j2")}
    code = "".join(
        (ROOT / path).read_text(encoding="utf-8") for path in import_closure(ROOT / "stages" / f"{stage}.py")
    )
    named = {path.relative_to(ROOT).as_posix() for path in beside if f'"{path.name}"' in code}
    assert {path for path in STAGES[stage]["deps"] if path.startswith("src/") and path[-3:] != ".py"} == named


@pytest.mark.parametrize("stage", STAGES)
def test_declared_params_are_those_that_the_script_reads(stage):
    assert set(STAGES[stage]["params"]) == params_read(ROOT / "stages" / f"{stage}.py")


def test_only_the_own_datasets_folder_is_a_path_from_the_params():
    assert [path for entry in STAGES.values() for path in entry["deps"] if "$" in path] == ["${own.folder}"]
    assert (ROOT / YAML(typ="safe").load(ROOT / "params.yaml")["own"]["folder"]).is_dir()  # or no other dataset runs


@pytest.mark.parametrize("stage", STAGES)
def test_every_path_in_the_script_is_declared(stage):
    text = (ROOT / "stages" / f"{stage}.py").read_text()
    paths = set(re.findall(r'"((?:data|models|metrics|pictures)(?:/[\w./]+)?)"', text)) - {"data"}
    declared = set(STAGES[stage]["deps"]) | outputs(stage)
    assert paths <= declared
    written = {path for path in declared if not path.startswith(("stages/", "src/", "${"))} - paths
    # tokenise is given its folder, data
    assert written <= (
        {"data/images.csv", "data/captions.jsonl", "data/vocabulary.json"} if stage == "tokenise" else set()
    )


def test_every_script_is_a_stage():
    assert {path.stem for path in (ROOT / "stages").glob("*.py")} == set(STAGES)


def test_every_key_is_read_by_a_stage():
    assert {key for key in KEYS if not declaring(key)} == set()


def test_stages_run_the_code_beside_them():
    assert {entry["cmd"] for entry in STAGES.values()} == {
        f"PYTHONPATH=src python stages/{stage}.py" for stage in STAGES
    }


def test_what_git_keeps_is_not_in_the_cache_and_the_rest_is():
    for stage, entry in STAGES.items():
        for entry_list in ("outs", "metrics", "plots"):
            for output in entry.get(entry_list) or []:
                path = next(iter(output)) if isinstance(output, dict) else output
                cached = not (isinstance(output, dict) and output[path].get("cache") is False)
                assert cached != path.startswith("metrics/"), f"{stage}: {path}"


def test_the_model_is_an_artifact():
    assert PIPELINE["artifacts"]["captioner"]["path"] in outputs("finetune")


def readme_rows():
    section = (ROOT / "README.md").read_text(encoding="utf-8").split("## What reruns what")[1].split("\n## ")[0]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in section.splitlines() if line[:1] == "|"]
    for keys, runs, then in rows[2:]:
        stages = [set(re.findall(r"[a-z]+", cell.split("(")[0])) for cell in (runs, then)]
        yield re.findall(r"`([^`]+)`", keys), *stages


def test_readme_table_names_every_key_once():
    covered = [key for patterns, _, _ in readme_rows() for key in KEYS if any(fnmatch(key, p) for p in patterns)]
    assert sorted(covered) == KEYS


def test_readme_table_says_what_reruns():
    for patterns, runs, then in readme_rows():
        for key in KEYS:
            if any(fnmatch(key, pattern) for pattern in patterns):
                assert (key, declaring(key), following(key)) == (key, runs, then)
