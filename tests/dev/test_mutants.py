"""The mutation run: its modules and tests exist, and the page shows what was recorded."""

import json

import pytest

from dev import mutants


def test_the_table_adds_up_modules():
    records = {"a.py": {"mutants": 30, "killed": 27}, "b.py": {"mutants": 10, "killed": 9}}
    assert mutants.table_of(records).splitlines()[2:] == [
        "| `a.py` | 30 | 27 |",
        "| `b.py` | 10 | 9 |",
        "| all | 40 | 36 (90 %) |",
    ]


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
