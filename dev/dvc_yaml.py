"""Write the code and the params of every stage into dvc.yaml.

    python -m dev.dvc_yaml            writes them (`make dvc-yaml`)
    python -m dev.dvc_yaml --check    exits with 1 if dvc.yaml is not current (`make lint`)

A stage's code is its script, every module that the script imports directly or indirectly, and the files beside these
modules that they name (templates, tables). A file with only a docstring is left out. A stage's params are the fields of
the dataclass `Params` in its script. Everything else in dvc.yaml is written by hand.
"""

import argparse
import ast
import importlib.util
import re
import sys
import textwrap
from functools import cache
from pathlib import Path

from captioner.base.files import write_text
from captioner.base.params import param_names, read_values

ROOT = Path(__file__).parent.parent
SRC = ROOT / "src"
CODE_MARK = "# code, by `make dvc-yaml`"
BESIDE = (".css", ".csv", ".html", ".j2", ".js", ".json", ".md", ".txt")  # files that a module may read beside itself
UNTRACKED = {"params_schema.json"}  # it can refuse values, but never change an output
WIDTH = 118


def import_closure(script: Path) -> set[str]:
    """Return the paths of the script and of all modules of the project that it imports, directly or indirectly."""
    seen: set[Path] = set()
    todo = [script]
    while todo:
        path = todo.pop()
        if path not in seen:
            seen.add(path)
            todo += _imports(path)
    return {path.relative_to(ROOT).as_posix() for path in seen if _computes(path)}


def files_beside(modules: set[str]) -> set[str]:
    """Return the files beside a module that this module names, as paths in the project."""
    files = set()
    for module in modules:
        text = (ROOT / module).read_text(encoding="utf-8")
        for path in (ROOT / module).parent.iterdir():
            if path.suffix in BESIDE and path.name not in UNTRACKED and f'"{path.name}"' in text:
                files.add(path.relative_to(ROOT).as_posix())
    return files


def params_of(script: Path) -> list[str]:
    """Return the params that a stage's script reads, as dvc.yaml lists them."""
    spec = importlib.util.spec_from_file_location(f"stage_{script.stem}", script)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return param_names(module.Params, read_values(ROOT / "params.yaml"))


def current(text: str) -> str:
    """Return the text of dvc.yaml with current lists of all stages.

    Raises ValueError if a stage has no such lists.
    """
    for script in sorted((ROOT / "stages").glob("*.py")):
        code = import_closure(script)
        code |= files_beside(code)
        first = script.relative_to(ROOT).as_posix()
        listed = textwrap.fill(", ".join([first, *sorted(code - {first})]), WIDTH - 6, break_on_hyphens=False)
        lists = f"{CODE_MARK}\n{textwrap.indent(listed, '      ')}\n    ]\n"
        lists += f"    params: [{', '.join(params_of(script))}]\n"
        pattern = (
            rf"(?ms)(^  {script.stem}:\n(?:(?!^  \w).)*?){re.escape(CODE_MARK)}\n.*?\n    \]\n    params: \[[^\]]*\]\n"
        )
        text, times = re.subn(pattern, rf"\g<1>{lists}", text)
        if times != 1:
            raise ValueError(f"dvc.yaml: the stage {script.stem} has no list after `{CODE_MARK}`, with params after it")
    return text


@cache
def _imports(path: Path) -> frozenset[Path]:
    files: set[Path] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            names = [str(node.module), *(f"{node.module}.{alias.name}" for alias in node.names)]
        else:
            continue
        for name in names:
            parts = name.split(".")
            for end in range(1, len(parts) + 1):  # importing a.b runs a/__init__.py too
                if file := _module_file(".".join(parts[:end])):
                    files.add(file)
    return frozenset(files)


def _module_file(name: str) -> Path | None:
    base = SRC / Path(*name.split("."))
    return next((path for path in (base.with_suffix(".py"), base / "__init__.py") if path.exists()), None)


def _computes(path: Path) -> bool:
    body = ast.parse(path.read_text(encoding="utf-8")).body
    return any(not (isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)) for node in body)


def main() -> None:
    """Write dvc.yaml, or check it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="write nothing; exit with 1 if dvc.yaml is not current")
    check = parser.parse_args().check
    path = ROOT / "dvc.yaml"
    before = path.read_text(encoding="utf-8")
    after = current(before)
    if after == before:
        return
    if check:
        sys.exit("dvc.yaml: its lists of code and params are not current; run `make dvc-yaml`")
    write_text(path, after)


if __name__ == "__main__":
    main()
