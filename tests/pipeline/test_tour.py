"""The notebook docs/tour.ipynb: its saved outputs, and a run of it."""

import re

import nbformat
import pytest
from ruamel.yaml import YAML

from dev.tour import TOUR, execute
from tests.support.workspaces import ROOT, TINY

LARGEST = 400_000  # bytes


def printed(cell):
    """Return the stdout of a cell."""
    return "".join(output.text for output in cell.outputs if output.output_type == "stream" and output.name == "stdout")


def errors(cell):
    """Return the stderr and the exceptions of a cell."""
    return [
        output for output in cell.outputs if output.output_type == "error" or output.get("name", "stdout") != "stdout"
    ]


def drawn(cell):
    """Return the number of pictures that a cell drew."""
    return sum("image/png" in output.get("data", {}) for output in cell.outputs)


@pytest.fixture(scope="module")
def saved():
    """The notebook's cells as committed."""
    return nbformat.read(TOUR, 4).cells


def test_the_saved_notebook_is_small_and_has_its_outputs(saved):
    code = {cell.id: cell for cell in saved if cell.cell_type == "code"}
    assert TOUR.stat().st_size < LARGEST
    assert {name for name, cell in code.items() if drawn(cell)} == {
        *("pictures", "encoder", "losses", "search", "attention", "weights", "captions")
    }
    assert all(printed(code[name]) for name in ("repro", "tokens", "store", "training", "change", "compare"))
    assert [cell.id for cell in code.values() if errors(cell)] == []


def test_the_saved_notebook_names_no_file_of_a_machine(saved):
    texts = [cell.source + printed(cell) if cell.cell_type == "code" else cell.source for cell in saved]
    assert not re.search(r"/(?:tmp|home|root|Users|content)/", "\n".join(texts))


def test_the_saved_outputs_are_of_the_demo(saved):
    (workspace,) = (cell for cell in saved if cell.id == "workspace")
    params = YAML(typ="safe").load(ROOT / "demo" / "params.yaml")
    assert printed(workspace).splitlines() == [f"{name}: {value}" for name, value in params.items()]


def test_the_notebook_has_ten_steps(saved):
    headings = re.findall(r"^## (\d+)\. (.+)$", "\n".join(cell.source for cell in saved), re.MULTILINE)
    listed = re.findall(r"^(\d+)\. (.+)$", saved[0].source, re.MULTILINE)
    assert [number for number, _ in headings] == [str(number) for number in range(1, 11)]
    assert [(number, title.lower()) for number, title in headings] == [
        (number, title.lower()) for number, title in listed
    ]


@pytest.fixture(scope="module")
def executed(tmp_path_factory):
    """The notebook's code cells, by name, after a run of the tests' tiny dataset."""
    notebook = execute(tmp_path_factory.mktemp("tour"), TINY)
    return {cell.id: cell for cell in notebook.cells if cell.cell_type == "code"}


@pytest.mark.pipeline
def test_the_notebook_runs_and_draws(executed):
    assert [name for name, cell in executed.items() if errors(cell)] == []
    names = ("pictures", "encoder", "losses", "search", "attention", "weights", "captions")
    assert all(drawn(executed[name]) for name in names)


@pytest.mark.pipeline
def test_the_row_of_the_store_is_the_grid_that_the_notebook_computes(executed):
    largest, difference = map(float, re.findall(r"\d+\.\d+", printed(executed["store"]).splitlines()[-1]))
    assert difference < 0.1 * largest  # bfloat16 where the processor has it


@pytest.mark.pipeline
def test_the_steps_by_hand_lower_the_loss(executed):
    uniform, first, last = map(float, re.findall(r"\d+\.\d+", printed(executed["training"]).splitlines()[-1]))
    assert abs(first - uniform) < 1
    assert last < first / 2


@pytest.mark.pipeline
def test_the_changed_parameter_reruns_only_the_stages_of_captions(executed):
    lines = printed(executed["change"]).splitlines()
    assert {"-  beam: 20", "+  beam: 3"} <= {line.partition("#")[0].rstrip() for line in lines}
    rerun = {line.split("'")[1] for line in lines if line.startswith("Running stage")}
    skipped = {line.split("'")[1] for line in lines if line.startswith("Stage")}
    assert {"validate", "evaluate", "report"} <= rerun
    assert {"download", "weights", "tokenise", "features", "train", "finetune"} <= skipped
    assert "CIDEr" in printed(executed["compare"])
    assert printed(executed["restore"]).startswith("The workspace is as it was")
