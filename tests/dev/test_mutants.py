"""The mutation run: its modules and tests exist, and the page shows what was recorded."""

import difflib
import json

import pytest

from dev import mutants

SURVIVOR = {"operator": "AddNot", "line": 3, "diff": ["-    if a:", "+    if not a:"]}


def test_the_table_adds_up_modules(monkeypatch):
    monkeypatch.setattr(mutants, "EQUIVALENT", {("a.py", "AddNot", "if not a:"): "a is never read"})
    records = {
        "a.py": {"mutants": 30, "killed": 28, "stopped": 3, "survivors": [SURVIVOR, SURVIVOR | {"operator": "Other"}]},
        "b.py": {"mutants": 10, "killed": 9, "survivors": [SURVIVOR]},
    }
    assert mutants.table_of(records).splitlines()[2:] == [
        "| `a.py` | 30 | 28 | 3 | 1 |",
        "| `b.py` | 10 | 9 | not counted | 0 |",
        "| all | 40 | 37 (92.5 %) |  | 1 |",
    ]


def test_equivalent_mutants_are_those_of_a_line_that_is_there():
    for module, _, changed in mutants.EQUIVALENT:
        lines = (mutants.ROOT / "src/captioner" / module).read_text(encoding="utf-8").splitlines()
        assert difflib.get_close_matches(changed, map(str.strip, lines), n=1, cutoff=0.9), (module, changed)


@pytest.mark.parametrize("module", mutants.MODULES)
def test_modules_and_their_tests_exist(module):
    assert (mutants.ROOT / "src/captioner" / module).exists()
    assert all((mutants.ROOT / test).exists() for test in mutants.MODULES[module])


def test_the_page_shows_the_committed_record():
    text = mutants.PAGE.read_text(encoding="utf-8")
    shown = text.split("<!-- mutants -->\n")[1].split("\n<!-- end of mutants -->")[0]
    if mutants.RECORD.exists():
        assert shown == mutants.table_of(json.loads(mutants.RECORD.read_text()))
    else:
        assert shown == "Not run yet."
