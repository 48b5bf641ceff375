"""What a stage's script really uses: its import closure and the params it reads, by reading the code."""

import ast
from pathlib import Path

ROOT = Path(__file__).parent.parent
SRC = ROOT / "src"


def _module_file(name: str) -> Path | None:
    base = SRC / Path(*name.split("."))
    for path in (base.with_suffix(".py"), base / "__init__.py"):
        if path.exists():
            return path
    return None


def _imports(path: Path) -> set[Path]:
    found: set[Path] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            names = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
        else:
            continue
        for name in names:
            parts = name.split(".")
            for end in range(1, len(parts) + 1):  # importing a.b runs a/__init__.py too
                if file := _module_file(".".join(parts[:end])):
                    found.add(file)
    return found


def import_closure(script: Path) -> set[str]:
    """Return the script and all of the project's modules that importing it runs, relative to the project."""
    seen: set[Path] = set()
    todo = [script]
    while todo:
        path = todo.pop()
        if path not in seen:
            seen.add(path)
            todo += _imports(path)
    return {path.relative_to(ROOT).as_posix() for path in seen if _computes(path)}


def _computes(path: Path) -> bool:
    """Tell whether a file holds code: a docstring alone cannot change an output."""
    return any(not isinstance(node, ast.Expr) for node in ast.parse(path.read_text(encoding="utf-8")).body)


def params_read(script: Path) -> set[str]:
    """Return the dotted names of all `params.a.b` in a script."""
    chains: set[str] = set()

    def visit(node: ast.AST) -> None:
        names: list[str] = []
        inner = node
        while isinstance(inner, ast.Attribute):
            names.append(inner.attr)
            inner = inner.value
        if isinstance(inner, ast.Name) and inner.id == "params" and names:
            chains.add(".".join(reversed(names)))
            return
        for child in ast.iter_child_nodes(node):
            visit(child)

    visit(ast.parse(script.read_text(encoding="utf-8")))
    return chains


if __name__ == "__main__":
    for stage_script in sorted((ROOT / "stages").glob("*.py")):
        print(stage_script.name, *sorted(params_read(stage_script)))
        print("   ", *sorted(import_closure(stage_script)), sep="\n      - ")
