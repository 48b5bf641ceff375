"""The packages that captioner needs, and the table of their sizes in the docs."""

import re

from captioner.base.files import read_json
from dev.distributions import RESULTS, closure, megabytes, modules_of, project, requirements_of
from tests.support.workspaces import ROOT


def test_requirements_of_requirements_are_found_and_markers_decide():
    distributions = closure(["jinja2>=3", "pandas; extra == 'other'", "numpy; python_version < '3'"])
    assert set(distributions) == {"jinja2", "markupsafe"}
    assert megabytes(distributions.values()) > megabytes([distributions["jinja2"]]) > 0


def test_an_extra_brings_its_own_requirements():
    plain, extra = closure(["fonttools"]), closure(["fonttools[woff]"])
    assert set(plain) == {"fonttools"}
    assert set(extra) >= set(plain)


def test_modules_are_those_of_the_distributions_alone():
    assert modules_of({"pillow", "ruamel-yaml", "ruamel-yaml-clib"}) >= {"PIL", "ruamel"}


def test_extras_of_extras_are_followed():
    table = {"name": "a", "optional-dependencies": {"x": ["a[y,z]", "p"], "y": ["q>1"], "z": ["a[y]", "r"]}}
    assert sorted(set(requirements_of("x", table))) == ["p", "q>1", "r"]


def test_sizes_of_all_extras_are_recorded():
    extras = set(project()["optional-dependencies"])
    assert {"base", *extras} <= set(read_json(RESULTS))


def test_the_table_of_the_docs_has_the_recorded_sizes():
    results = read_json(RESULTS)
    texts = [path.read_text(encoding="utf-8") for path in (ROOT / "docs").glob("*.md")]
    (text,) = (text for text in texts if "| install | for | packages | MB |" in text)
    rows = re.findall(r"^\| `captioner(?:\[(\w+)\])?` \| .* \| \+?(\d+) \| \+?([\d.]+) \|$", text, re.MULTILINE)
    shown = {extra or "base": {"packages": int(packages), "MB": float(size)} for extra, packages, size in rows}
    assert shown == {name: results[name] for name in shown}
    assert {"base", "pipeline", "dev"} <= set(shown)
