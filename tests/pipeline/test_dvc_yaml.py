"""dvc.yaml declares exactly what the stages use, and the table of docs/architecture.md agrees with dvc.yaml."""

import os
import re
import subprocess
import sys
from fnmatch import fnmatch
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from captioner.base.params import leaves as base_leaves
from dev.dvc_yaml import ROOT, current, files_beside, import_closure, params_of

PIPELINE = YAML(typ="safe").load(ROOT / "dvc.yaml")
STAGES = PIPELINE["stages"]

COMPUTES = {"features", "train", "finetune", "validate", "evaluate"}
SHORT_SPIN = "GOMP_SPINCOUNT=1000 "

# Outputs whose bytes do not depend on a key, so that stages that read them do not rerun after its change.
# test_tokenise.py and test_pipeline.py test this.
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
    parts = key.split(".")
    names = {".".join(parts[:end]) for end in range(1, len(parts) + 1)}  # the key and its sections
    return {stage for stage, entry in STAGES.items() if names & set(entry["params"])}


def following(key):
    """The stages that rerun because an output of an earlier stage changed."""
    unmoved = set().union(*(outs for pattern, outs in UNMOVED.items() if fnmatch(key, pattern)))
    running = declaring(key)
    while True:
        moved = set().union(*(outputs(stage) - unmoved for stage in running))
        more = {stage for stage, entry in STAGES.items() if moved & set(entry["deps"])} - running
        if not more:
            return running - declaring(key)
        running |= more


def test_the_lists_of_code_and_params_are_current():
    text = (ROOT / "dvc.yaml").read_text(encoding="utf-8")
    assert current(text) == text
    assert current(text.replace("src/captioner/base/errors.py, ", "")) == text


@pytest.mark.parametrize("stage", STAGES)
def test_declared_code_is_what_the_script_imports(stage):
    code = import_closure(ROOT / "stages" / f"{stage}.py")
    declared = {path for path in STAGES[stage]["deps"] if path.startswith(("stages/", "src/"))}
    assert declared == code | files_beside(code)


@pytest.mark.slow
@pytest.mark.parametrize("stage", STAGES)
def test_a_script_imports_what_is_declared_and_no_more_when_it_runs(stage):
    """The closure comes from the source text; this test compares it with the imports of Python."""
    script = (
        "import runpy, sys, pathlib\n"
        f"runpy.run_path('stages/{stage}.py', run_name='imported')\n"
        "print(*(m.__file__ for n, m in sys.modules.items() if n.startswith('captioner') and m.__file__), sep='\\n')"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src")}
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, env=environment, capture_output=True, text=True)
    imported = {Path(line).relative_to(ROOT).as_posix() for line in done.stdout.split()}
    assert {path for path in imported if not path.endswith("__init__.py")} <= set(STAGES[stage]["deps"])
    assert imported


@pytest.mark.parametrize("stage", STAGES)
def test_declared_params_are_those_of_the_script(stage):
    assert STAGES[stage]["params"] == params_of(ROOT / "stages" / f"{stage}.py")


@pytest.mark.parametrize("stage", STAGES)
def test_a_script_uses_every_param_that_it_declares(stage):
    text = (ROOT / "stages" / f"{stage}.py").read_text(encoding="utf-8").partition("def main")[2]
    values = YAML(typ="safe").load(ROOT / "params.yaml")
    for name in STAGES[stage]["params"]:
        keys = list(base_leaves(values, name)) if f"params.{name}," not in text else [name]
        for key in keys:
            assert re.search(rf"\bparams\.{re.escape(key)}\b", text), key


def test_only_the_own_datasets_folder_is_a_path_from_the_params():
    assert [path for entry in STAGES.values() for path in entry["deps"] if "$" in path] == ["${own.folder}"]
    assert (
        ROOT / YAML(typ="safe").load(ROOT / "params.yaml")["own"]["folder"]
    ).is_dir()  # without this folder no other dataset runs


@pytest.mark.parametrize("stage", STAGES)
def test_every_path_in_the_script_is_declared(stage):
    text = (ROOT / "stages" / f"{stage}.py").read_text()
    paths = set(re.findall(r'"((?:data|models|metrics|pictures)(?:/[\w./]+)?)"', text)) - {"data"}
    declared = set(STAGES[stage]["deps"]) | outputs(stage)
    folders = {"data/features"} & paths  # the scripts of tokenise and features name a folder of their outputs
    assert paths - folders <= declared
    others = {path for path in declared if not path.startswith(("stages/", "src/", "${"))} - paths
    assert others <= {
        "tokenise": {"data/images.csv", "data/captions.jsonl", "data/vocabulary.json"},
        "features": {"data/features/grid.h5", "data/features/boundary.h5", "data/features/encoder.safetensors"},
    }.get(stage, set())


def test_every_script_is_a_stage():
    assert {path.stem for path in (ROOT / "stages").glob("*.py")} == set(STAGES)


def test_every_key_is_read_by_a_stage():
    assert {key for key in KEYS if not declaring(key)} == set()


def test_stages_run_the_code_beside_them():
    assert {entry["cmd"] for entry in STAGES.values()} == {
        f"PYTHONPATH=src {SHORT_SPIN if stage in COMPUTES else ''}python stages/{stage}.py" for stage in STAGES
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


def stages_of(cell):
    """The stages that a cell of the table names; "X and later" is X and all stages after it in dvc.yaml."""
    names = re.findall(r"[a-z]+", cell.removesuffix(" and later"))
    return {*names, *(list(STAGES)[list(STAGES).index(names[-1]) :] if cell.endswith(" and later") else ())}


def rows_of_the_table():
    section = (
        (ROOT / "docs/architecture.md").read_text(encoding="utf-8").split("## What reruns what")[1].split("\n## ")[0]
    )
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in section.splitlines() if line[:1] == "|"]
    for keys, runs, then in rows[2:]:
        yield re.findall(r"`([^`]+)`", keys), stages_of(runs), stages_of(then)


def row_of(key):
    """The first row of the table that fits a key."""
    return next(row for row in rows_of_the_table() if any(fnmatch(key, pattern) for pattern in row[0]))


def test_every_pattern_of_the_table_is_the_first_for_a_key():
    used = {(pattern, *row_of(key)[0]) for key in KEYS for pattern in row_of(key)[0] if fnmatch(key, pattern)}
    assert used == {(pattern, *patterns) for patterns, _, _ in rows_of_the_table() for pattern in patterns}


@pytest.mark.parametrize("key", KEYS)
def test_the_table_says_what_reruns(key):
    _, runs, then = row_of(key)
    assert (declaring(key), following(key)) == (runs, then - runs)


ORDER = ("base", "sources", "captions", "vision", "scoring", "model", "training", "results", "use")


def test_packages_import_in_one_direction():
    for path in (ROOT / "src/captioner").glob("*/**/*.py"):
        package = path.relative_to(ROOT / "src/captioner").parts[0]
        for other in re.findall(r"^\s*from captioner\.(\w+)", path.read_text(encoding="utf-8"), re.MULTILINE):
            assert ORDER.index(other) <= ORDER.index(package), f"{path}: imports {other}"


def test_the_package_docstrings_name_every_module():
    for init in (ROOT / "src/captioner").glob("*/__init__.py"):
        text = init.read_text(encoding="utf-8")
        modules = {path.stem for path in init.parent.glob("*.py")} - {"__init__"}
        assert {name for name in modules if f"`{name}`" not in text} == set(), init
