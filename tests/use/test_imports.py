"""What captioning imports: only what the package installs without extras."""

import json
import subprocess
import sys

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from PIL import Image

from captioner.base.errors import CaptionerError
from captioner.sources.models import local_model
from captioner.use.commands.arguments import importing
from dev.distributions import closure, modules_of, project
from tests.support.worlds import captioner_file

PROJECT = project()
RUN = """
import json, sys
from captioner.use.cli import main
code = main(sys.argv[1:])
print(json.dumps(sorted(sys.modules)), file=sys.stderr)
sys.exit(code)
"""


def names(requirements):
    """Return the names of requirements."""
    return {canonicalize_name(Requirement(text).name) for text in requirements}


@pytest.fixture(scope="module")
def of_extras():
    """The top-level modules of the packages that only extras name."""
    listed = names(text for group in PROJECT["optional-dependencies"].values() for text in group)
    modules = modules_of(listed - set(closure(PROJECT["dependencies"])) - {"captioner"})
    assert {"dvc", "h5py", "pandas", "matplotlib", "requests", "ruamel", "pycocoevalcap"} <= modules
    return modules


@pytest.fixture(scope="module")
def imported(tmp_path_factory):
    """The modules that `captioner caption` imports for one photo."""
    folder = tmp_path_factory.mktemp("imports")
    Image.new("RGB", (80, 60), "red").save(folder / "red.png")
    model = captioner_file(folder / "model.safetensors")
    command = [sys.executable, "-c", RUN, "caption", "red.png", "--model", str(model)]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return set(json.loads(done.stderr.splitlines()[-1]))


def test_captioning_imports_no_package_of_an_extra(of_extras, imported):
    packages = {name.partition(".")[0] for name in imported}
    assert {"captioner", "torch", "safetensors"} <= packages
    assert packages & of_extras == set()


def test_captioning_does_not_import_torchs_compiler(imported):
    """It would take as long as importing torch."""
    assert imported & {"torch._dynamo", "sympy", "triton"} == set()


def test_the_base_requirements_are_these():
    expected = {"numpy", "pillow", "platformdirs", "safetensors", "shtab", "torch", "tqdm"}
    assert names(PROJECT["dependencies"]) == expected


def test_developers_get_what_the_pipeline_and_every_command_need():
    extras = PROJECT["optional-dependencies"]
    waiting, installed = ["dev"], set()
    while waiting:
        for text in extras[waiting.pop()]:
            requirement = Requirement(text)
            if requirement.name == "captioner":
                waiting += requirement.extras - installed
                installed |= requirement.extras
    assert installed == set(extras) - {"dev"}


def test_a_missing_package_is_an_error_that_names_its_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "pycocoevalcap", None)
    with pytest.raises(CaptionerError, match=r"pycocoevalcap.*captioner\[score\]"), importing("score"):
        import pycocoevalcap.bleu.bleu  # noqa: F401


def test_a_missing_module_of_captioner_itself_is_not_blamed_on_an_extra():
    with pytest.raises(ModuleNotFoundError, match=r"captioner\.nothing"), importing("score"):
        import captioner.nothing  # noqa: F401


def test_a_model_of_a_web_address_names_the_extra_that_downloads(monkeypatch, tmp_path):
    monkeypatch.setenv("CAPTIONER_CACHE", str(tmp_path))
    monkeypatch.setitem(sys.modules, "requests", None)
    monkeypatch.delitem(sys.modules, "captioner.sources.download", raising=False)
    with pytest.raises(CaptionerError, match=r"requests.*captioner\[web\]"):
        local_model(f"https://models.invalid/captioner.safetensors#sha256={'0' * 64}")
