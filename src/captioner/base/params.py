"""Reads params.yaml, and refuses what is wrong in it before any work.

The rules stand in `params_schema.json`, as data: they can refuse a run but never change a value, so a
new key does not count as a change of every stage's code. The file is parsed as DVC parses it (YAML 1.2,
where `2e-3` is a number; `dvc exp run -S` writes such numbers).
"""

import difflib
import json
import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from jsonschema import Draft202012Validator, validators
from jsonschema.exceptions import ValidationError
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from captioner.base.errors import CaptionerError

# JSON Schema calls 10.0 an integer and lets NaN pass every limit
Validator = validators.extend(
    Draft202012Validator,
    type_checker=Draft202012Validator.TYPE_CHECKER.redefine_many(
        {
            "integer": lambda _, value: isinstance(value, int) and not isinstance(value, bool),
            "number": lambda _, value: (
                isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
            ),
        }
    ),
)
SCHEMA = Path(__file__).with_name("params_schema.json")


def read_params(path: str | Path = "params.yaml") -> Any:
    """Read and validate the params file.

    Returns nested namespaces: `params.train.lr`. Raises CaptionerError that names the file and every
    key that is unknown, missing, of a wrong type or impossible.
    """
    try:
        values = YAML(typ="safe", pure=True).load(Path(path))
    except FileNotFoundError:
        raise CaptionerError(f"{path}: not found; run from the project's folder, where it lies") from None
    except (YAMLError, UnicodeDecodeError) as error:
        raise CaptionerError(f"{path}: not valid YAML: {' '.join(str(error).split())}") from None
    schema = json.loads(SCHEMA.read_text(encoding="utf-8"))
    found = sorted(Validator(schema).iter_errors(values), key=lambda error: list(map(str, error.path)))
    problems = [_explain(error) for error in found]
    sound = isinstance(values, dict) and "decoder" in values and not any("decoder" in error.path for error in found)
    if sound and values["decoder"]["width"] % values["decoder"]["heads"]:
        problems.append("decoder.heads: must divide decoder.width")
    if problems:
        raise CaptionerError(f"{path}: " + "; ".join(problems))
    return _namespace(values)


def _namespace(value: Any) -> Any:
    if isinstance(value, dict):
        return SimpleNamespace(**{key: _namespace(item) for key, item in value.items()})
    return value


def _explain(error: ValidationError) -> str:
    here = ".".join(map(str, error.absolute_path))
    prefix = f"{here}." if here else ""
    if error.validator == "additionalProperties":
        known = list(error.schema["properties"])
        unknown = [key for key in error.instance if key not in known]
        return "; ".join(f"{prefix}{key}: unknown key{_suggest(key, known)}" for key in unknown)
    if error.validator == "required":
        missing = [key for key in error.schema["required"] if key not in error.instance]
        return "; ".join(f"{prefix}{key}: missing" for key in missing)
    expected = {
        "type": lambda rule: f"must be of type {rule}",
        "enum": lambda rule: f"must be one of {', '.join(map(str, rule))}",
        "minimum": lambda rule: f"must be at least {rule}",
        "maximum": lambda rule: f"must be at most {rule}",
        "exclusiveMinimum": lambda rule: f"must be greater than {rule}",
        "exclusiveMaximum": lambda rule: f"must be less than {rule}",
        "multipleOf": lambda rule: f"must be a multiple of {rule}",
        "minLength": lambda rule: "must not be empty",
        "pattern": lambda rule: f"must be {error.schema['description']}",
    }[error.validator](error.validator_value)
    return f"{here or 'the file'}: is {json.dumps(error.instance, default=str)}, {expected}"


def _suggest(key: Any, known: list[str]) -> str:
    near = difflib.get_close_matches(str(key), known, n=1)
    return f" (did you mean {near[0]}?)" if near else f" (known here: {', '.join(known)})"
