"""The wheel in an environment with its base requirements and no other packages.

Captioning works there, outside the project's folder. A command that needs an extra names it.
"""

import os
import subprocess
import sys
import sysconfig
import venv
import zipfile
from email.parser import Parser
from pathlib import Path
from random import Random
from shutil import copy, copytree, ignore_patterns

import pytest

from captioner.sources.shapes import compose, draw
from dev.distributions import closure
from tests.support.workspaces import ROOT
from tests.support.worlds import captioner_file

pytestmark = pytest.mark.pipeline
EXTRAS = (  # some modules of them
    *("dvc", "h5py", "jsonschema", "pandas", "matplotlib", "pycocoevalcap"),
    *("requests", "torchvision", "starlette", "onnx"),
)


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """The wheel that `python -m build` builds from this tree, through the source archive."""
    folder = tmp_path_factory.mktemp("wheel")
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        copy(ROOT / name, folder)
    copytree(ROOT / "src", folder / "src", ignore=ignore_patterns("__pycache__", "*.egg-info"))
    call(sys.executable, "-m", "build", "--no-isolation", "--outdir", folder / "dist", folder)
    (built,) = (folder / "dist").glob("*.whl")
    return built


@pytest.fixture(scope="module")
def environment(wheel, tmp_path_factory):
    """The folder of commands of a new environment with the wheel.

    Its base requirements are links to the packages of the environment that runs the tests, so nothing is downloaded.
    """
    folder = tmp_path_factory.mktemp("environment")
    venv.create(folder, symlinks=True)
    site = Path(sysconfig.get_path("purelib", "posix_prefix", vars={"base": str(folder), "platbase": str(folder)}))
    for installed in closure(metadata(wheel).get_all("Requires-Dist")).values():
        for top in {file.parts[0] for file in installed.files or [] if file.parts[0] not in ("..", "__pycache__")}:
            if not (site / top).exists():
                (site / top).symlink_to(Path(installed.locate_file(top)))
    commands = folder / "bin"
    call(sys.executable, "-m", "pip", "--python", commands / "python", "install", "--quiet", "--no-deps", wheel)
    return commands


@pytest.fixture
def photo(tmp_path):
    path = tmp_path / "drawn.png"
    draw(compose(Random(1)), 64, Random(1)).save(path)
    return path


def call(*command, **options):
    """Run a command without this process's import paths; return its output."""
    done = run(*command, **options)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def run(*command, **options):
    environment = {
        key: value for key, value in os.environ.items() if not key.startswith(("PYTHON", "CAPTIONER", "COV"))
    }
    return subprocess.run(list(map(str, command)), env=environment, capture_output=True, text=True, **options)


def metadata(wheel):
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
        return Parser().parsestr(archive.read(name).decode())


def test_the_wheel_holds_every_file_of_the_package(wheel):
    with zipfile.ZipFile(wheel) as archive:
        held = {name for name in archive.namelist() if name.startswith("captioner/")}
    files = (path for path in (ROOT / "src/captioner").rglob("*") if path.is_file())
    assert held == {path.relative_to(ROOT / "src").as_posix() for path in files if "__pycache__" not in path.parts}


def test_nothing_of_the_pipeline_is_in_the_environment(environment):
    printed = call(
        environment / "python",
        "-c",
        f"import importlib.util as u; print(*[name for name in {EXTRAS} if u.find_spec(name)])",
    )
    assert printed.split() == []


def test_the_commands_run_without_the_project(environment, tmp_path):
    assert "caption" in call(environment / "captioner", "--help", cwd=tmp_path)
    assert call(environment / "captioner", "--version", cwd=tmp_path).startswith("captioner ")


def test_a_photo_gets_a_caption(environment, photo, tmp_path):
    model = captioner_file(tmp_path / "model.safetensors")
    printed = call(environment / "captioner", "caption", photo.name, "--model", model, cwd=tmp_path)
    name, caption = printed.rstrip("\n").split("\t")
    assert name == photo.name
    assert caption


@pytest.mark.parametrize(
    ("extra", "arguments"),
    [
        ("explain", ["explain", "drawn.png", "--model", "model.safetensors"]),
        ("export", ["export", "--model", "model.safetensors"]),
        ("score", ["score", "references.csv", "predictions.json"]),
        ("serve", ["serve", "--model", "model.safetensors"]),
        ("hub", ["caption", "drawn.png", "--model", "hf:owner/name"]),
        ("web", ["caption", "drawn.png", "--model", f"https://models.invalid/a#sha256={'0' * 64}"]),
    ],
)
def test_a_command_names_the_extra_that_it_needs(environment, photo, tmp_path, extra, arguments):
    captioner_file(tmp_path / "model.safetensors")
    done = run(environment / "captioner", *arguments, cwd=tmp_path)
    assert done.returncode == 1
    assert f"captioner[{extra}]" in done.stderr
    assert "Traceback" not in done.stderr
