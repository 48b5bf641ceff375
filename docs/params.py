"""Writes docs/params.md from params.yaml, its schema and dvc.yaml; `--check` only says whether it is up to date."""

import sys
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.comments import CommentedMap

from captioner.base.errors import CaptionerError
from captioner.base.files import read_json, write_text

ROOT = Path(__file__).resolve().parent.parent
TARGET = ROOT / "docs" / "params.md"
HEAD = """\
# Parameters

Every key of `params.yaml`: what it may be, what it is in this commit, what it means, and the stages that read it, which
are those that a change reruns (and after them those whose inputs changed: the README's table has both).
`dvc exp run -S KEY=VALUE` changes one for an experiment. `decoder.heads` must divide `decoder.width`.

Made by `make docs`; edit the comments of params.yaml instead.

| key | values | now | meaning | read by |
| --- | --- | --- | --- | --- |
"""


def reference(root: Path = ROOT) -> str:
    """Return the page; raises CaptionerError for a key that the schema lacks or that no stage reads."""
    values = YAML().load(root / "params.yaml")
    schema = read_json(root / "src" / "captioner" / "params_schema.json")
    stages = YAML(typ="safe").load(root / "dvc.yaml")["stages"]
    lines = []
    for key, value, comment in _leaves(values, ""):
        rule: Any = schema
        try:
            for part in key.split("."):
                rule = _resolved(rule["properties"][part], schema)
        except KeyError:
            raise CaptionerError(
                f"params.yaml: {key} is not in src/captioner/base/params_schema.json; add it"
            ) from None
        reading = [name for name, stage in stages.items() if key in stage.get("params", [])]
        if not reading:
            raise CaptionerError(f"params.yaml: no stage of dvc.yaml lists {key}; add it there")
        now = str(value).lower() if isinstance(value, bool) else str(value)
        section, _, leaf = key.partition(".")
        if not comment and leaf and section != "train" and leaf in values["train"]:
            comment = f"as `train.{leaf}`"
        if not comment:
            raise CaptionerError(f"params.yaml: {key} has no comment; say there what it means")
        meaning = comment.replace("<", "&lt;").replace("|", r"\|")
        lines.append(f"| `{key}` | {_allowed(rule)} | `{now}` | {meaning} | {', '.join(reading)} |\n")
    return HEAD + "".join(lines)


def _resolved(rule: dict, schema: dict) -> dict:
    return schema["$defs"][rule["$ref"].rsplit("/", 1)[1]] if "$ref" in rule else rule


def _leaves(section: CommentedMap, prefix: str) -> Any:
    """Yield key, value and comment; what a section's own comment says goes before those of its keys."""
    for key, value in section.items():
        comment = _comment(section, key)
        if not isinstance(value, CommentedMap):
            yield prefix + key, value, comment
            continue
        about = _heading(value)
        for name, item, text in _leaves(value, f"{prefix}{key}."):
            yield name, item, f"({about}) {text}".strip() if about else text


def _comment(section: CommentedMap, key: str) -> str:
    """Return the comment on a key's line and on the indented lines right under it."""
    token = (section.ca.items.get(key) or [None] * 4)[2]
    if token is None:
        return ""
    lines = token.value.split("\n")
    told = []
    for line in lines:
        if not line.strip():
            break  # an empty line: what follows is about the next key
        told.append(line.strip().lstrip("#").strip())
    return " ".join(told)


def _heading(section: CommentedMap) -> str:
    """Return the comment on the line that begins a section."""
    tokens = section.ca.comment[1] if section.ca.comment and section.ca.comment[1] else []
    first = section.ca.comment[0] if section.ca.comment else None
    return " ".join(token.value.strip().lstrip("#").strip() for token in ([first] if first else []) + list(tokens))


def _allowed(rule: dict) -> str:
    if "enum" in rule:
        return ", ".join(f"`{value}`" for value in rule["enum"])
    kind = {"integer": "integer", "number": "number", "boolean": "`true`, `false`", "string": "text"}[rule["type"]]
    limits = [
        text.format(rule[name])
        for name, text in (
            ("minimum", "from {}"),
            ("exclusiveMinimum", "above {}"),
            ("maximum", "to {}"),
            ("exclusiveMaximum", "below {}"),
            ("multipleOf", "a multiple of {}"),
            ("minLength", "not empty"),
        )
        if name in rule
    ]
    return ", ".join([kind, *limits])


def main() -> None:
    """Write the page, or with --check say whether it is up to date."""
    try:
        text = reference()
    except CaptionerError as error:
        sys.exit(f"error: {error}")
    if "--check" in sys.argv[1:]:
        old = TARGET.read_text(encoding="utf-8") if TARGET.exists() else ""
        sys.exit(None if old == text else "docs/params.md is not what params.yaml says; run `make docs`")
    write_text(TARGET, text)


if __name__ == "__main__":
    main()
