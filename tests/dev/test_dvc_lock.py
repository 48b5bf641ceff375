"""What a kill of `dvc` leaves: a cut dvc.lock, and empty entries of the run cache."""

import subprocess
import sys

import pytest
from dvc.schema import COMPILED_LOCKFILE_SCHEMA
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError
from voluptuous import Invalid

from demo import run as demo
from dev import dvc_lock
from dev.dvc_lock import is_damaged, mend
from tests.support.workspaces import ROOT

LOCK = b"""schema: '2.0'
stages:
  draw:
    cmd: PYTHONPATH=src python stages/draw.py
    deps:
    - path: stages/draw.py
      hash: md5
      md5: 221faa87d3838a2be2915e625ae06a6b
      size: 1220
    params:
      params.yaml:
        draw.name: "d\xc3\xbc"
        draw.rate: 0.0025
        draw.start:
    outs:
    - path: data/raw
      hash: md5
      md5: 12345678901234567890123456789012.dir
      size: 110559561
      nfiles: 2
  count:
    cmd:
    - python count.py
    - python more.py
    outs:
    - path: count.json
      hash: md5
      md5: 4c0d8f2b7a6e4e0c9a5d3b1f2e8c7a69
      size: 12
"""
SOME = [0, 5, 14, 22, 200, 333, len(LOCK) - 2, len(LOCK) - 1]  # bytes that a kill left


@pytest.fixture
def committed(tmp_path):
    """A project whose last commit has LOCK."""
    git(tmp_path, "init", "--quiet")
    (tmp_path / "dvc.lock").write_bytes(LOCK)
    git(tmp_path, "add", "--all")
    git(tmp_path, "commit", "--quiet", "--message", "start")
    return tmp_path


def git(folder, *arguments):
    identity = ["-c", "user.name=test", "-c", "user.email=test@example.invalid", "-c", "core.autocrlf=false"]
    subprocess.run(["git", *identity, *arguments], cwd=folder, check=True)


def refused_by_dvc(content):
    try:
        COMPILED_LOCKFILE_SCHEMA(YAML(typ="safe").load(content))
    except (YAMLError, Invalid):
        return True
    return False


def contents(folder):
    """Return each file's bytes and time by its name."""
    return {path.name: (path.read_bytes(), path.stat().st_mtime_ns) for path in folder.iterdir() if path.is_file()}


def test_every_cut_is_noticed_that_is_inside_a_line_or_that_dvc_refuses():
    assert not is_damaged(LOCK)
    assert not refused_by_dvc(LOCK)
    unnoticed = [LOCK[:end] for end in range(len(LOCK)) if not is_damaged(LOCK[:end])]
    assert not any(map(refused_by_dvc, unnoticed))
    assert all(content.endswith(b"\n") for content in unnoticed)
    between = [LOCK[:end] for end in range(len(LOCK)) if LOCK[:end].endswith(b"\n")]
    assert 0 < len(unnoticed) < len(between)
    for content in between:
        if refused_by_dvc(content):
            assert is_damaged(content), content.decode().splitlines()[-1]


@pytest.mark.parametrize("content", [b"\0" * 512, b"\xff\xfe\n", b"- a\n", b"stages: 3\n", LOCK[:300] + b"\0" * 40])
def test_what_is_no_lock_file_is_damaged(content):
    assert is_damaged(content)


@pytest.mark.parametrize("end", SOME)
def test_the_one_of_the_last_commit_comes_back_and_the_cut_one_is_saved(committed, end):
    path = committed / "dvc.lock"
    path.write_bytes(LOCK[:end])
    line = mend(committed, wait=0)
    assert "restored the one of the last commit" in line
    assert "\n" not in line
    assert path.read_bytes() == LOCK
    assert (committed / "dvc.lock.damaged").read_bytes() == LOCK[:end]
    assert sorted(each.name for each in committed.iterdir()) == [".git", "dvc.lock", "dvc.lock.damaged"]
    assert mend(committed, wait=0) is None


def removed(folder, end=200):
    """Cut dvc.lock, mend, and return whether it was saved and removed."""
    (folder / "dvc.lock").write_bytes(LOCK[:end])
    line = mend(folder, wait=0)
    assert "removed it, because Git has no intact one" in line
    assert "\n" not in line
    return (folder / "dvc.lock.damaged").read_bytes() == LOCK[:end] and not (folder / "dvc.lock").exists()


@pytest.mark.parametrize("end", SOME)
def test_without_a_repository_it_is_removed(tmp_path, end):
    assert removed(tmp_path, end)


def test_without_the_program_git_it_is_removed(committed, monkeypatch):
    monkeypatch.setenv("PATH", str(committed))
    assert removed(committed)


def test_without_a_commit_it_is_removed(tmp_path):
    git(tmp_path, "init", "--quiet")
    assert removed(tmp_path)


def test_where_the_committed_one_is_cut_too_it_is_removed(committed):
    (committed / "dvc.lock").write_bytes(LOCK[:100])
    git(committed, "commit", "--quiet", "--all", "--message", "cut")
    assert removed(committed)


def test_the_demo_does_not_get_the_file_of_the_project_around_it(committed):
    (committed / ".demo").mkdir()
    assert removed(committed / ".demo")
    assert (committed / "dvc.lock").read_bytes() == LOCK


CONFLICT = LOCK.replace(b"    params:\n", b"<<<<<<< HEAD\n    params:\n=======\n>>>>>>> other\n")


@pytest.mark.parametrize("content", [LOCK, LOCK + b"datasets: []\n", LOCK.replace(b"\n", b"\r\n"), CONFLICT, None])
def test_an_intact_file_an_open_merge_and_no_file_are_left_alone(committed, content):
    if content is None:
        (committed / "dvc.lock").unlink()
    else:
        (committed / "dvc.lock").write_bytes(content)
    before = contents(committed)
    assert mend(committed, wait=0) is None
    assert contents(committed) == before


def test_the_file_of_this_project_is_intact():
    assert not is_damaged((ROOT / "dvc.lock").read_bytes())


@pytest.mark.parametrize("end", [400, len(LOCK)])
def test_a_file_that_a_running_dvc_writes_is_left_alone(committed, monkeypatch, end):
    path = committed / "dvc.lock"
    path.write_bytes(LOCK[:200])
    monkeypatch.setattr(dvc_lock.time, "sleep", lambda seconds: path.write_bytes(LOCK[:end]))
    assert mend(committed) is None
    assert path.read_bytes() == LOCK[:end]
    assert not (committed / "dvc.lock.damaged").exists()


def test_the_command_says_it_in_one_line_and_succeeds(committed):
    (committed / "dvc.lock").write_bytes(b"")
    command = [sys.executable, "-m", "dev.dvc_lock", str(committed)]
    done = [subprocess.run(command, cwd=ROOT, capture_output=True, text=True) for _ in range(2)]
    assert [(each.returncode, each.stdout, each.stderr.count("\n")) for each in done] == [(0, "", 1), (0, "", 0)]
    assert (committed / "dvc.lock").read_bytes() == LOCK


def test_make_repro_mends_first():
    command = ["make", "--no-print-directory", "-n", "repro"]  # `make test` runs this inside of another make
    lines = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    last = lines.splitlines()[-2:]
    assert last[0].endswith("python -m dev.dvc_lock")
    assert last[1].endswith(" dvc repro")


def test_the_demo_mends_first(tmp_path, monkeypatch, capsys):
    class Reached(Exception):
        pass

    def repro(folder, *arguments):
        assert arguments == ("repro",)
        assert not (folder / "dvc.lock").exists()
        raise Reached

    (tmp_path / "dvc.lock").write_bytes(LOCK[:200])
    (tmp_path / ".dvc").mkdir()
    (tmp_path / ".dvc/config").write_text("[core]\n    no_scm = True\n")
    monkeypatch.setattr(sys, "argv", ["run.py", str(tmp_path)])
    monkeypatch.setattr(demo, "make_workspace", lambda folder, changes: None)
    monkeypatch.setattr(dvc_lock.time, "sleep", lambda seconds: None)
    monkeypatch.setattr(demo, "dvc", repro)
    with pytest.raises(Reached):
        demo.main()
    assert capsys.readouterr().err.startswith(f"{tmp_path / 'dvc.lock'}: damaged")


def test_the_demo_refuses_a_folder_with_other_files(tmp_path, monkeypatch, capsys):
    (tmp_path / "src").mkdir()
    (tmp_path / "src/thesis.py").write_text("mine")
    monkeypatch.setattr(sys, "argv", ["run.py", str(tmp_path)])
    with pytest.raises(SystemExit):
        demo.main()
    assert "has other files in it, which the demo could overwrite; give a new folder" in capsys.readouterr().err
    assert [path.name for path in tmp_path.rglob("*")] == ["src", "thesis.py"]


def hashes(content):
    """Return what DVC compares: all of dvc.lock but the sizes."""
    lock = YAML(typ="safe").load(content)
    for entry in (entry for stage in lock["stages"].values() for entry in stage["deps"] + stage["outs"]):
        entry.pop("size", None)
    return lock


@pytest.mark.pipeline
def test_dvc_goes_on_after_any_cut_and_runs_nothing_again(tmp_path):
    stage = "  {0}:\n    cmd: echo {0} >> log && cat {1} > {0}.txt\n    deps: [{1}]\n    outs: [{0}.txt]\n"
    (tmp_path / "start").write_text("start\n")
    (tmp_path / "dvc.yaml").write_text("stages:\n" + stage.format("one", "start") + stage.format("two", "one.txt"))
    demo.dvc(tmp_path, "init", "--no-scm", "--quiet")
    demo.dvc(tmp_path, "repro", "--quiet")
    lock = (tmp_path / "dvc.lock").read_bytes()
    lines = [end for end in range(len(lock)) if lock[:end].endswith(b"\n")]
    for end in [0, 100, lines[4], lines[len(lines) // 2], lines[-1]]:
        (tmp_path / "dvc.lock").write_bytes(lock[:end])
        noticed = is_damaged(lock[:end])
        assert (mend(tmp_path, wait=0) is not None) == noticed
        demo.dvc(tmp_path, "repro", "--quiet")
        assert hashes((tmp_path / "dvc.lock").read_bytes()) == hashes(lock), end
        assert (tmp_path / "log").read_text().split() == ["one", "two"], end


@pytest.mark.parametrize("cache", [None, "../../shared"])
def test_empty_entries_of_the_run_cache_are_removed_and_dvc_goes_on(tmp_path, cache):
    project = tmp_path / "project"
    project.mkdir()
    stages = "stages:\n  draw:\n    cmd: echo drawn > out\n    deps: [pen]\n    outs: [out]\n"
    (project / "dvc.yaml").write_text(stages)
    (project / "pen").write_text("black")
    for command in (["init", "--no-scm", "--quiet"], *([["cache", "dir", "--local", "../shared"]] if cache else [])):
        demo.dvc(project, *command)
    demo.dvc(project, "repro")
    runs = (tmp_path / "shared" if cache else project / ".dvc/cache") / "runs"
    (entry,) = runs.glob("*/*/*")
    entry.unlink()  # as after a kill between making the folder and writing the file
    (project / "dvc.lock").unlink()
    failed = demo.dvc(project, "repro", check=False, capture_output=True, text=True)
    assert failed.returncode
    assert "not 'NoneType'" in failed.stderr
    assert "removed 1 empty entries" in mend(project, wait=0)
    assert not entry.parent.exists()
    demo.dvc(project, "repro")
    assert mend(project, wait=0) is None


def test_an_entry_that_a_running_dvc_writes_is_left_alone(tmp_path, monkeypatch):
    entry = tmp_path / ".dvc/cache/runs/6e/6e2d"
    entry.mkdir(parents=True)
    monkeypatch.setattr("time.sleep", lambda seconds: (entry / "5d11").write_text("cmd: x"))
    assert mend(tmp_path) is None
    assert (entry / "5d11").exists()
