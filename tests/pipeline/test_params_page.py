"""docs/params.md, the page that `make docs` writes."""

import shutil
import subprocess
import sys

import pytest

from tests.support.workspaces import ROOT

FILES = ("params.yaml", "dvc.yaml", "docs/params.py", "docs/params.md", "src/captioner/base/params_schema.json")


@pytest.fixture
def copied(tmp_path):
    for name in FILES:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, tmp_path / name)
    return tmp_path


def run(folder, *arguments):
    command = [sys.executable, folder / "docs/params.py", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_it_is_up_to_date(copied):
    done = run(copied, "--check")
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize(
    ("file", "old", "new", "row"),
    [
        ("params.yaml", "beam: 20", "beam: 7", "| `search.beam` | integer, from 1 | `7` | "),
        ("params.yaml", "# attention heads", "# how many | look", r" | how many \| look | train |"),
        ("params.yaml", "# attention heads", "# so many\n             #   look", " | so many look | train |"),
        ("src/captioner/base/params_schema.json", '"multipleOf": 32', '"multipleOf": 64', ", a multiple of 64 |"),
        ("dvc.yaml", "- search.beam\n", "- search.beam\n    - image.fit\n", "| features, validate, pictures |"),
    ],
)
def test_it_follows_the_files_it_is_made_from(copied, file, old, new, row):
    text = (copied / file).read_text()
    assert old in text
    (copied / file).write_text(text.replace(old, new, 1))
    assert "run `make docs`" in run(copied, "--check").stderr
    assert run(copied).returncode == 0
    assert row in (copied / "docs/params.md").read_text()
    assert run(copied, "--check").returncode == 0


@pytest.mark.parametrize(
    ("file", "old", "new", "problem"),
    [
        ("dvc.yaml", "    - pictures.each\n", "", "error: params.yaml: no stage of dvc.yaml lists pictures.each"),
        ("params.yaml", "  # attention heads", "", "error: params.yaml: decoder.heads has no comment"),
        ("params.yaml", "  heads: 8", "  head: 8", "error: params.yaml: decoder.head is not in src/"),
    ],
)
def test_what_it_cannot_say_stops_it(copied, file, old, new, problem):
    before = (copied / "docs/params.md").read_bytes()
    text = (copied / file).read_text()
    assert old in text
    (copied / file).write_text(text.replace(old, new, 1))
    done = run(copied)
    assert done.returncode == 1
    assert done.stderr.startswith(problem)
    assert (copied / "docs/params.md").read_bytes() == before
