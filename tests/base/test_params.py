"""params.yaml: what is wrong in it is refused by name, before any work; and how a stage ends."""

import copy
import json
import runpy
import signal
import subprocess
import sys
import typing
from dataclasses import dataclass, is_dataclass
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from captioner.base.errors import CaptionerError
from captioner.base.params import SCHEMA, leaves, param_names, read_params, read_values

SHIPPED = Path(__file__).parents[2] / "params.yaml"
VALUES = YAML(typ="safe", pure=True).load(SHIPPED)
LEFT_OUT = object()


def changed(changes):
    """Return the shipped params with some set by their dotted names, or left out."""
    values = copy.deepcopy(VALUES)
    for name, value in changes.items():
        *sections, key = name.split(".")
        section = values
        for part in sections:
            section = section[part]
        if value is LEFT_OUT:
            del section[key]
        else:
            section[key] = value
    return values


def read(folder, text):
    path = folder / "params.yaml"
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return read_values(path)


def refusal(folder, text):
    """Return what is said about a params file, after its own name."""
    with pytest.raises(CaptionerError) as caught:
        read(folder, text)
    message, start = str(caught.value), f"{folder / 'params.yaml'}: "
    assert message.startswith(start)
    assert "\n" not in message
    return message.removeprefix(start)


@dataclass(frozen=True)
class Decoder:
    attention: bool
    dropout: float


@dataclass(frozen=True)
class Views:
    flip: bool
    mean: bool


@dataclass(frozen=True)
class Params:
    decoder: Decoder
    views: Views
    seed: int


def test_the_shipped_file_is_valid_and_is_read_into_the_fields_of_a_class():
    assert read_values(SHIPPED) == VALUES
    params = read_params(Params, SHIPPED)
    assert params == Params(
        Decoder(VALUES["decoder"]["attention"], VALUES["decoder"]["dropout"]),
        Views(VALUES["views"]["flip"], VALUES["views"]["mean"]),
        VALUES["seed"],
    )


def test_a_whole_number_is_a_float_where_the_class_says_so(tmp_path):
    (tmp_path / "params.yaml").write_text(json.dumps(changed({"decoder.dropout": 0})))
    assert isinstance(read_params(Params, tmp_path / "params.yaml").decoder.dropout, float)


def test_a_section_that_a_class_has_whole_is_one_name():
    assert param_names(Params, VALUES) == ["decoder.attention", "decoder.dropout", "seed", "views"]


def test_the_leaves_of_a_name_are_its_values_by_dotted_names():
    values = {"seed": 1, "a": {"y": 2, "x": {"z": [3]}}}
    assert leaves(values, "seed") == {"seed": 1}
    assert leaves(values, "a.y") == {"a.y": 2}
    assert list(leaves(values, "a").items()) == [("a.x.z", [3]), ("a.y", 2)]


def test_the_types_of_the_stages_params_are_those_of_the_schema():
    kinds = {"integer": int, "number": float, "boolean": bool, "string": str}

    def compare(kind, rules, schema):
        for name, hint in typing.get_type_hints(kind).items():
            rule = rules["properties"][name]
            rule = schema["$defs"][rule["$ref"].rsplit("/", 1)[1]] if "$ref" in rule else rule
            if is_dataclass(hint):
                compare(hint, rule, schema)
            elif "enum" in rule:
                assert hint is str, name
            elif isinstance(rule.get("type"), str):
                assert hint is kinds[rule["type"]], name

    schema = json.loads(SCHEMA.read_text())
    for script in (SHIPPED.parent / "stages").glob("*.py"):
        compare(runpy.run_path(str(script), run_name="imported")["Params"], schema, schema)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"train.epoch": 3}, "train.epoch: unknown key (did you mean epochs?)"),
        ({"captions.zzz": 3}, "captions.zzz: unknown key (known here: form, language,"),
        ({"sead": 3}, "sead: unknown key (did you mean seed?)"),
        ({"trian": {"lr": 1}}, "trian: unknown key (did you mean train?)"),
        ({"optimiser": {}}, "optimiser: unknown key (known here: dataset, "),
        ({"captions.min_count": LEFT_OUT}, "captions.min_count: missing"),
        ({"finetune": LEFT_OUT}, "finetune: missing"),
        ({"finetune": None}, "finetune: is null, must be of type object"),
        ({"search": 3}, "search: is 3, must be of type object"),
        ({"train.epochs": "ten"}, 'train.epochs: is "ten", must be of type integer'),
        ({"train.epochs": "10"}, 'train.epochs: is "10", must be of type integer'),
        ({"train.epochs": True}, "train.epochs: is true, must be of type integer"),
        ({"train.epochs": 1.5}, "train.epochs: is 1.5, must be of type integer"),
        ({"train.lr": None}, "train.lr: is null, must be of type number"),
        ({"captions.lowercase": 1}, "captions.lowercase: is 1, must be of type boolean"),
        ({"encoder.weights": 18}, "encoder.weights: is 18, must be of type string"),
        ({"encoder.weights": ""}, 'encoder.weights: is "", must not be empty'),
        ({"train.epochs": 0}, "train.epochs: is 0, must be at least 1"),
        ({"finetune.epochs": -1}, "finetune.epochs: is -1, must be at least 1"),
        ({"decoder.dropout": 1}, "decoder.dropout: is 1, must be less than 1"),
        ({"train.lr": 0}, "train.lr: is 0, must be greater than 0"),
        ({"finetune.encoder_lr": 0}, "finetune.encoder_lr: is 0, must be greater than 0"),
        ({"finetune.adapt_encoder_lr": 0}, "finetune.adapt_encoder_lr: is 0, must be greater than 0"),
        ({"finetune.train_encoder": 0}, "finetune.train_encoder: is 0, must be of type boolean"),
        ({"finetune.encoder_lr": 2}, "finetune.encoder_lr: is 2, must be at most 1"),
        ({"seed": -1}, "seed: is -1, must be at least 0"),
        ({"image.size": 225}, "image.size: is 225, must be a multiple of 32"),
        ({"captions.form": "stem"}, 'captions.form: is "stem", must be one of raw, lemma'),
        ({"captions.language": "eng"}, 'captions.language: is "eng", must be a language in two'),
        (
            {"captions.language": "zh-CN"},
            'captions.language: is "zh-CN", must be a language in two or three lower-case',
        ),
        ({"dataset.name": "coco"}, 'dataset.name: is "coco", must be one of flickr8k, own, shapes'),
        ({"dataset.on_bad": "ignore"}, 'dataset.on_bad: is "ignore", must be one of error, skip'),
        ({"finetune.unfreeze_from": "layer5"}, 'finetune.unfreeze_from: is "layer5", must be one of conv1, layer1'),
        ({"decoder.width": 30, "decoder.heads": 4}, "decoder.heads: must divide decoder.width"),
        ({"decoder.attention": False, "train.crop": 0.5}, "train.crop: must be 1 if decoder.attention is false"),
        ({"views.flip": False, "views.mean": True}, "views.mean: needs views.flip; if captions say left or right, set"),
    ],
)
def test_what_cannot_be_is_refused_by_its_name(tmp_path, changes, message):
    assert refusal(tmp_path, json.dumps(changed(changes))).startswith(message)


@pytest.mark.parametrize(("width", "heads", "fits"), [(36, 4, True), (32, 5, False), (512, 512, True)])
def test_heads_fit_where_they_divide_the_width(tmp_path, width, heads, fits):
    text = json.dumps(changed({"decoder.width": width, "decoder.heads": heads}))
    if fits:
        assert read(tmp_path, text)["decoder"]["heads"] == heads
    else:
        assert refusal(tmp_path, text) == "decoder.heads: must divide decoder.width; 1 always does"


def test_all_problems_are_told_at_once(tmp_path):
    changes = {"train.epochs": 0, "image.size": 100, "captions.forms": "raw", "seed": LEFT_OUT, "search.beam": "3"}
    problems = refusal(tmp_path, json.dumps(changed(changes))).split("; ")
    assert sorted(problem.split(":")[0] for problem in problems) == [
        "captions.forms",
        "image.size",
        "search.beam",
        "seed",
        "train.epochs",
    ]


def test_heads_that_do_not_divide_the_width_are_told_with_the_other_problems(tmp_path):
    message = refusal(tmp_path, json.dumps(changed({"decoder.width": 30, "decoder.heads": 4, "train.epochs": 0})))
    assert "train.epochs" in message
    assert "decoder.heads" in message


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("train.lr", ".nan"),
        ("train.lr", ".inf"),
        ("train.weight_decay", ".nan"),
        ("train.weight_decay", ".inf"),
        ("finetune.clip", ".nan"),
        ("search.length_penalty", ".nan"),
        ("search.length_penalty", ".inf"),
        ("search.consensus", ".inf"),
    ],
)
def test_a_value_that_is_no_number_or_makes_none_is_refused(tmp_path, name, value):
    assert name in refusal(tmp_path, json.dumps(changed({name: "HERE"})).replace('"HERE"', value))


@pytest.mark.parametrize("value", ["10.0", "1e1"])
def test_a_count_written_as_a_whole_float_is_refused_or_read_as_an_integer(tmp_path, value):
    text = json.dumps(changed({"train.epochs": "HERE"})).replace('"HERE"', value)
    try:
        params = read(tmp_path, text)
    except CaptionerError:
        assert refusal(tmp_path, text).startswith("train.epochs: ")
    else:
        assert isinstance(params["train"]["epochs"], int)


@pytest.mark.parametrize(("text", "number"), [("2e-3", 0.002), ("1e-05", 0.00001), ("1", 1), ("0.5", 0.5)])
def test_numbers_are_read_as_dvc_reads_and_writes_them(tmp_path, text, number):
    params = read(tmp_path, json.dumps(changed({"train.lr": "HERE"})).replace('"HERE"', text))
    assert params["train"]["lr"] == number
    assert isinstance(params["train"]["lr"], int | float)


@pytest.mark.parametrize(
    "text",
    [
        "train: {lr: 1",
        "train:\n\t- 1",
        "a: 1\na: 2\n",
        "a: 1\n---\nb: 2\n",
        "a: !!python/object/apply:os.getcwd []\n",
        b"a: caf\xe9\n",
        b"a: \x00\n",
    ],
)
def test_what_is_not_yaml_is_told_so(tmp_path, text):
    assert refusal(tmp_path, text).startswith("not valid YAML: ")


@pytest.mark.parametrize("text", ["", "# nothing\n", "- 1\n", "text"])
def test_a_file_without_sections_is_refused(tmp_path, text):
    assert refusal(tmp_path, text).startswith("the file: is ")


def test_a_key_that_is_no_text_is_refused(tmp_path):
    assert refusal(tmp_path, json.dumps(VALUES)[:-1] + ", 5: 6}").startswith("5: unknown key")


def test_a_byte_order_mark_and_windows_line_ends_do_no_harm(tmp_path):
    text = b"\xef\xbb\xbf" + SHIPPED.read_bytes().replace(b"\n", b"\r\n")
    assert read(tmp_path, text) == read_values(SHIPPED)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(CaptionerError, match=r"params\.yaml: not found; run from the project's folder"):
        read_values(tmp_path / "params.yaml")


def start(folder, body, params=True):
    """Start a stage whose main is `body`, in a folder with valid params."""
    if params:
        (folder / "params.yaml").write_bytes(SHIPPED.read_bytes())
    lines = "".join(f"    {line}\n" for line in body.splitlines())
    script = (
        "import time\n"
        "from dataclasses import make_dataclass\n"
        "Params = make_dataclass('Params', [('seed', int)])\n"
        "from captioner.base.errors import CaptionerError\n"
        "from captioner.base.files import atomic_write\n"
        "from captioner.base.stage import run\n"
        f"def main(params):\n{lines}"
        "run(main, Params)\n"
    )
    return subprocess.Popen(
        [sys.executable, "-c", script],
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # a shell's background jobs ignore it
    )


@pytest.mark.parametrize(
    ("body", "params", "status", "message"),
    [
        ("print(params.seed)", True, 0, ""),
        ("raise CaptionerError('a.txt: is blue')", True, 1, "error: a.txt: is blue\n"),
        ("print('never')", False, 1, "error: params.yaml: not found"),
        ("open('gone.txt')", True, 1, "error: [Errno 2] No such file or directory: 'gone.txt'"),
        ("raise KeyboardInterrupt", True, 130, "interrupted; run again to go on\n"),
    ],
)
def test_a_stage_ends_with_a_status_and_a_line_of_text(tmp_path, body, params, status, message):
    stage = start(tmp_path, body, params)
    out, err = stage.communicate(timeout=60)
    assert stage.returncode == status
    assert err.startswith(message)
    assert "Traceback" not in err
    assert out == (f"{VALUES['seed']}\n" if status == 0 else "")


def test_a_defect_of_the_program_keeps_its_traceback(tmp_path):
    stage = start(tmp_path, "1 / 0")
    assert "ZeroDivisionError" in stage.communicate(timeout=60)[1]
    assert stage.returncode == 1


@pytest.mark.parametrize("sent", [signal.SIGTERM, signal.SIGINT])
def test_a_stage_that_is_stopped_ends_with_130_and_leaves_nothing(tmp_path, sent):
    body = (
        "with atomic_write('made.txt') as beside:\n"
        "    beside.write_text('half')\n"
        "    print('ready', flush=True)\n"
        "    time.sleep(60)"
    )
    stage = start(tmp_path, body)
    try:
        assert stage.stdout.readline() == "ready\n"
        stage.send_signal(sent)
        _, err = stage.communicate(timeout=30)
    finally:
        stage.kill()
    assert stage.returncode == 130
    assert err == "interrupted; run again to go on\n"
    assert [path.name for path in tmp_path.iterdir()] == ["params.yaml"]


STOPPED = """
import os, runpy, signal, sys

class Stops:
    def find_spec(name, path=None, target=None):
        if name.startswith("captioner.") and name not in FIRST:
            os.kill(os.getpid(), signal.SIGNAL)

FIRST = ["captioner.base", *(f"captioner.base.{name}" for name in ("stage", "errors", "params", "streams"))]
sys.meta_path.insert(0, Stops)
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


@pytest.mark.slow
@pytest.mark.parametrize("sent", ["SIGINT", "SIGTERM"])
@pytest.mark.parametrize("script", sorted((SHIPPED.parent / "stages").glob("*.py")), ids=lambda path: path.stem)
def test_a_stage_that_is_stopped_while_it_imports_ends_with_130_and_a_line(script, sent):
    command = [sys.executable, "-c", STOPPED.replace("SIGNAL", sent), str(script)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "interrupted; run again to go on\n")


def test_a_stop_that_python_drops_is_repeated(tmp_path):
    body = (
        "class Last:\n"
        "    def __del__(self):\n"
        "        print('ready', flush=True)\n"
        "        time.sleep(60)\n"
        "Last()\n"  # Python ends the sleep by the signal, and drops its exception
        "time.sleep(60)"
    )
    stage = start(tmp_path, body)
    try:
        assert stage.stdout.readline() == "ready\n"
        stage.send_signal(signal.SIGTERM)
        _, err = stage.communicate(timeout=30)
    finally:
        stage.kill()
    assert stage.returncode == 130
    assert "Exception ignored" in err
    assert err.endswith("interrupted; run again to go on\n")


@pytest.mark.parametrize(
    ("level", "message"), [("quiet", ["w"]), ("normal", ["i", "w"]), ("verbose", ["d", "i", "w"]), (None, ["i", "w"])]
)
def test_how_much_is_logged_is_the_users_choice(tmp_path, monkeypatch, level, message):
    monkeypatch.delenv("CAPTIONER_LOG", raising=False)
    if level:
        monkeypatch.setenv("CAPTIONER_LOG", level)
    body = (
        "import logging\nlog = logging.getLogger('captioner.some')\nlog.debug('d')\nlog.info('i')\nlog.warning('w')\n"
        "logging.getLogger('matplotlib').info('not ours')"
    )
    stage = start(tmp_path, body)
    _, err = stage.communicate(timeout=60)
    assert (stage.returncode, err.split()) == (0, message)


def test_an_unknown_level_is_refused(tmp_path, monkeypatch):
    monkeypatch.setenv("CAPTIONER_LOG", "loud")
    stage = start(tmp_path, "print('never')")
    out, err = stage.communicate(timeout=60)
    assert (stage.returncode, out) == (1, "")
    assert err == "error: CAPTIONER_LOG: is 'loud', expected one of quiet, normal, verbose\n"
