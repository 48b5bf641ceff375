"""The docs agree with the code and with the committed metrics."""

import json
import re
from collections import Counter

import pytest

from captioner.base.params import leaves
from dev import published
from tests.pipeline.faults import DOCUMENT, MARK, RESULTS, sums, table_of, with_part
from tests.support.workspaces import ROOT

README = (ROOT / "README.md").read_text(encoding="utf-8")
DOCUMENTS = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]


def test_the_readme_is_short_and_starts_with_a_picture():
    assert len(README.splitlines()) <= 150
    assert max(map(len, README.splitlines())) <= 110
    assert README.startswith("![")


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_links_lead_somewhere(document):
    for target in re.findall(r"\]\(([^)#]+)\)", document.read_text(encoding="utf-8")):
        assert "://" in target or (document.parent / target).exists(), target


def test_results_are_those_of_the_committed_metrics():
    results = json.loads((ROOT / "metrics/evaluate.json").read_text())
    rows = [
        [cell.strip(" *") for cell in line.strip("|").split("|")] for line in README.splitlines() if line[:1] == "|"
    ]
    head = next(row for row in rows if row[0] == "x100")
    shown = {row[0]: dict(zip(head[1:], row[1:], strict=True)) for row in rows if row[0] in ("frozen", "fine-tuned")}
    assert list(shown) == ["frozen", "fine-tuned"]
    for name, scores in shown.items():
        for key, value in scores.items():
            assert value == f"{100 * results[name.replace('-', '')][key]:.1f}", (name, key)


def test_the_gain_in_the_readme_is_that_of_the_committed_metrics():
    results = json.loads((ROOT / "metrics/evaluate.json").read_text())
    gain = results["finetuned"]["CIDEr"] - results["frozen"]["CIDEr"]
    low, high = results["intervals"]["finetuned - frozen"]["CIDEr"]
    shown = f"gains {100 * gain:.1f} points of CIDEr (95 % interval over images: {100 * low:.1f} to {100 * high:.1f})"
    assert shown in README


def test_published_scores_are_beside_those_of_the_committed_metrics():
    assert (
        f"<!-- published -->\n{published.shown()}\n<!-- end of published -->" in (ROOT / "docs/metrics.md").read_text()
    )


def test_the_readme_says_on_what_the_results_were_measured():
    images = json.loads((ROOT / "metrics/evaluate.json").read_text())["images"]
    assert f"{images} test images" in README
    official = json.loads((ROOT / "metrics/download.json").read_text())["images"]["official"]
    assert official or "not the official" in " ".join(README.split())


@pytest.mark.parametrize("command", re.findall(r"(?:^|`)make ([a-z-]+)", README, re.MULTILINE))
def test_make_knows_the_commands_of_the_readme(command):
    assert re.search(rf"^{command}:", (ROOT / "Makefile").read_text(), re.MULTILINE)


def test_the_figures_of_the_fault_test_are_those_of_the_committed_results():
    _, shown, _ = DOCUMENT.read_text(encoding="utf-8").split(MARK)
    if not RESULTS.exists():
        assert shown.strip() == "Not run yet."
        return
    results = json.loads(RESULTS.read_text())
    assert shown.strip() == table_of(results)
    results = sums(results["parts"])
    assert results["mismatches"] == results["other faults"] == 0
    assert sum(sum(counts.values()) for counts in results["kills by stage"].values()) == results["kills"] >= 50


def test_parts_of_the_fault_test_add_up_and_replace_those_of_their_seed():
    def part(seed, kills):
        return {"seed": seed, "commit": "abc", "kills": kills, "kills by stage": {"train": {"SIGINT": kills}}}

    results = with_part(with_part({"parts": [part(2, 5)]}, part(1, 3)), part(2, 7))
    assert [(each["seed"], each["kills"]) for each in results["parts"]] == [(1, 3), (2, 7)]
    added = sums(results["parts"])
    assert added["kills"] == added["kills by stage"]["train"]["SIGINT"] == 10
    assert added["kills by stage"]["train"]["SIGKILL"] == 0


def test_the_tests_that_the_reliability_page_names_exist():
    named = re.findall(r"`(test_\w+)`", DOCUMENT.read_text(encoding="utf-8"))
    there = {
        name
        for path in (ROOT / "tests").rglob("test_*.py")
        for name in re.findall(r"^def (test_\w+)", path.read_text(), re.M)
    }
    assert len(named) > 40
    assert set(named) <= there


@pytest.mark.parametrize("page", ["README.md", "docs/experiments.md"])
def test_the_table_of_experiments_has_params_and_cider_and_no_other_score(page):
    (pattern,) = re.findall(r"dvc exp show --only-changed --drop '(.*)'", (ROOT / page).read_text(encoding="utf-8"))
    files = {
        f"metrics/{stage}.json": leaves({"all": json.loads((ROOT / f"metrics/{stage}.json").read_text())}, "all")
        for stage in ("train", "finetune", "validate", "evaluate")
    }
    times = Counter(name for names in files.values() for name in names)
    columns = [
        f"{file}:{name.removeprefix('all.')}" if times[name] > 1 else name.removeprefix("all.")  # as DVC names them
        for file, names in files.items()
        for name in names
    ]
    columns += ["search.beam", "models/decoder.safetensors", "data/features/grid.h5"]
    shown = [column for column in columns if not re.match(pattern, column)]  # as DVC matches
    assert {"train loss", "metrics/evaluate.json:frozen.CIDEr"} < set(columns)
    assert [column.split(":")[-1] for column in shown if "intervals" not in column] == [
        *["finetuned.CIDEr"] * 2,
        "search.beam",
    ]


def test_the_readme_has_a_line_for_every_package():
    tree = README.partition("## Files")[2].partition("## Licence")[0]
    packages = {path.parent.name for path in (ROOT / "src/captioner").glob("*/__init__.py")}
    assert packages == set(re.findall(r"^  ([a-z]+)/ +\S", tree, re.MULTILINE))
