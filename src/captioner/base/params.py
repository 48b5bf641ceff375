"""Read params.yaml and check it before any work starts.

The rules are in `params_schema.json`. They can refuse a run but never change a value, so a new key does not change the
code of all stages. The file is parsed like DVC parses it, as YAML 1.2. There `2e-3` is a number, and `dvc exp run -S`
writes such numbers.

A frozen dataclass says which params a stage reads. A field is a key of params.yaml. A field that is a dataclass is a
section or a part of it. `make dvc-yaml` writes the params of dvc.yaml from these classes.
"""

import dataclasses
import difflib
import json
import math
import typing
from pathlib import Path
from typing import Any, TypeVar

from jsonschema import Draft202012Validator, validators
from jsonschema.exceptions import ValidationError
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from captioner.base.errors import CaptionerError

P = TypeVar("P")

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


def read_params(kind: type[P], path: str | Path = "params.yaml") -> P:
    """Read and validate the params file, and return the part of it that the dataclass `kind` describes.

    Raises CaptionerError as `read_values` does.
    """
    return _part(kind, read_values(path))


def read_values(path: str | Path = "params.yaml") -> dict[str, Any]:
    """Read and validate the params file, and return its sections as dictionaries.

    Raises CaptionerError that names the file and every key that is unknown, missing, of a wrong type or impossible.
    """
    try:
        values = YAML(typ="safe", pure=True).load(Path(path))
    except FileNotFoundError:
        raise CaptionerError(f"{path}: not found; run from the project's folder, where it lies") from None
    except (YAMLError, UnicodeDecodeError) as error:
        raise CaptionerError(f"{path}: not valid YAML: {' '.join(str(error).split())}") from None
    schema = json.loads(SCHEMA.read_text(encoding="utf-8"))
    errors = sorted(Validator(schema).iter_errors(values), key=lambda error: list(map(str, error.path)))
    problems = [_explain(error) for error in errors]
    flawed = {part for error in errors for part in error.path}
    sound = {section: of for section, of in values.items() if section not in flawed} if isinstance(values, dict) else {}
    if "decoder" in sound and sound["decoder"]["width"] % sound["decoder"]["heads"]:
        problems.append("decoder.heads: must divide decoder.width; 1 always does")
    if {"decoder", "train"} <= sound.keys() and not sound["decoder"]["attention"] and sound["train"]["crop"] < 1:
        problems.append("train.crop: must be 1 if decoder.attention is false, because that decoder has no map to crop")
    if "views" in sound and sound["views"]["mean"] and not sound["views"]["flip"]:
        problems.append("views.mean: needs views.flip; if captions say left or right, set both to false")
    if problems:
        raise CaptionerError(f"{path}: " + "; ".join(problems))
    return values


def param_names(kind: type, values: dict[str, Any], prefix: str = "") -> list[str]:
    """Return the dotted names of the params that `kind` describes, sorted.

    `values` are those of params.yaml. A section that `kind` describes whole is one name.
    """
    names: list[str] = []
    for name, hint in typing.get_type_hints(kind).items():
        complete = dataclasses.is_dataclass(hint) and {f.name for f in dataclasses.fields(hint)} == set(values[name])
        if complete or not dataclasses.is_dataclass(hint):
            names.append(prefix + name)
        else:
            names += param_names(typing.cast(type, hint), values[name], f"{prefix}{name}.")
    return sorted(names)


def leaves(values: dict[str, Any], name: str) -> dict[str, Any]:
    """Return the values by dotted name of the key or section `name`, itself dotted; sections are sorted."""
    value: Any = values
    for part in name.split("."):
        value = value[part]
    if not isinstance(value, dict):
        return {name: value}
    return {key: item for part in sorted(value) for key, item in leaves(values, f"{name}.{part}").items()}


def _part(kind: type[P], values: dict[str, Any]) -> P:
    arguments = {}
    for name, hint in typing.get_type_hints(kind).items():
        value = values[name]
        if dataclasses.is_dataclass(hint):
            value = _part(typing.cast(type, hint), value)
        elif hint is float:
            value = float(value)  # YAML reads 0 as an integer
        arguments[name] = value
    return kind(**arguments)


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
        "type": lambda rule: f"must be of type {' or '.join([rule] if isinstance(rule, str) else rule)}",
        "enum": lambda rule: f"must be one of {', '.join(map(str, rule))}",
        "minimum": lambda rule: f"must be at least {rule}",
        "maximum": lambda rule: f"must be at most {rule}",
        "exclusiveMinimum": lambda rule: f"must be greater than {rule}",
        "exclusiveMaximum": lambda rule: f"must be less than {rule}",
        "multipleOf": lambda rule: f"must be a multiple of {rule}",
        "minLength": lambda rule: "must not be empty",
        "minItems": lambda rule: "must not be empty",
        "pattern": lambda rule: f"must be {error.schema['description']}",
    }[error.validator](error.validator_value)
    return f"{here or 'the file'}: is {json.dumps(error.instance, default=str)}, {expected}"


def _suggest(key: Any, known: list[str]) -> str:
    near = difflib.get_close_matches(str(key), known, n=1)
    return f" (did you mean {near[0]}?)" if near else f" (known here: {', '.join(known)})"
