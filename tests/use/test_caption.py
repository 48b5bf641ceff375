"""`captioner caption` and its library form: outcomes and exit codes."""

import inspect
import json
import os
import shutil
import signal
import subprocess
import sys
from functools import partial

import numpy as np
import pytest
import torch
from PIL import Image

from captioner.base.errors import CaptionerError
from captioner.base.params import read_params
from captioner.model.captioner import load_model
from captioner.model.consensus import Consensus
from captioner.model.generate import generate
from captioner.use.caption import PhotoCaptioner
from captioner.use.cli import main, make_parser
from captioner.use.explain import explain
from captioner.use.options import Search
from tests.support.workspaces import ROOT
from tests.support.worlds import WORDS, captioner_file


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return captioner_file(tmp_path_factory.mktemp("model") / "captioner.safetensors")


@pytest.fixture
def photos(tmp_path):
    generator = np.random.default_rng(0)
    for n in range(40):  # more than one batch
        pixels = generator.integers(0, 256, (64, 64, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"{n:02d}.png")
    return tmp_path


def test_captions_are_those_of_the_whole_network(model, photos):
    paths = sorted(photos.glob("*.png"))
    network, card = load_model(model)
    network.start = "conv1"
    pixels = torch.stack([torch.from_numpy(np.array(Image.open(path))) for path in paths])
    likeliest, chosen = (
        generate(
            network, list(map(str, paths)), pixels.__getitem__, card.vocabulary, beam=4, length_penalty=1.0,
            device=torch.device("cpu"), choose=choose,
        )
        for choose in (None, partial(Consensus(*network.examples).choose, weight=9.0))
    )  # fmt: skip
    assert likeliest != chosen
    describe = PhotoCaptioner(model)
    assert describe(paths, beam=4, consensus=0.0) == list(likeliest.values())
    assert describe(paths, beam=4, consensus=9.0) == list(chosen.values())


def test_the_defaults_are_those_of_params_yaml():
    search = vars(read_params(ROOT / "params.yaml").search)
    defaults = inspect.signature(explain).parameters
    called = vars(make_parser().parse_args(["caption", "a.jpg"]))
    for name, value in search.items():
        assert getattr(Search(), name) == defaults[name].default == called[name] == value


def test_the_weight_of_the_command_is_that_of_the_choice(model, photos, tmp_path_factory, capsys):
    describe = PhotoCaptioner(model)
    paths = sorted(photos.glob("*.png"))
    said = {weight: describe(paths, consensus=weight) for weight in (0.0, 9.0)}
    assert said[0.0] != said[9.0]
    differs = next(path for path, *both in zip(paths, *said.values(), strict=True) if both[0] != both[1])
    for weight, captions in said.items():
        assert main(["caption", str(photos), "--model", str(model), "--consensus", f"{weight:g}"]) == 0
        assert [line.split("\t")[1] for line in capsys.readouterr().out.splitlines()] == captions
        command = ["explain", str(differs), "--model", str(model), "--consensus", f"{weight:g}"]
        assert main([*command, "--out", str(tmp_path_factory.mktemp("picture") / "out.png")]) == 0
        assert capsys.readouterr().out.splitlines()[0].split("\t")[1] == captions[paths.index(differs)]


def test_one_line_a_photo_path_tab_caption(model, photos, capsys):
    assert main(["caption", str(photos), "--model", str(model)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split("\t")[0] for line in lines] == [str(photos / f"{n:02d}.png") for n in range(40)]
    assert all(set(line.split("\t")[1].split()) <= set(WORDS.words) for line in lines)


def test_patterns_json_and_beam(model, photos, capsys):
    assert main(["caption", str(photos / "0*.png"), "--model", str(model), "--json", "--beam", "1"]) == 0
    records = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [record["photo"] for record in records] == [str(photos / f"0{n}.png") for n in range(10)]
    assert all(record.keys() == {"photo", "caption", "score", "agreement"} for record in records)


def test_a_broken_photo_is_reported_and_does_not_stop_the_others(model, photos, capsys):
    (photos / "05.png").write_bytes(b"no photo")
    assert main(["caption", str(photos), "--model", str(model)]) == 1
    printed = capsys.readouterr()
    assert len(printed.out.splitlines()) == 39
    assert f"error: {photos / '05.png'}: not a photo" in printed.err


def test_the_library_names_the_broken_photo(model, photos):
    (photos / "05.png").write_bytes(b"")
    with pytest.raises(CaptionerError, match=r"05\.png"):
        PhotoCaptioner(model)(sorted(photos.glob("*.png")))


def test_photos_of_a_kind_that_is_not_read_are_told_of(model, photos, capsys):
    with Image.open(photos / "00.png") as photo:
        for suffix in ("webp", "tif", "bmp"):
            photo.save(photos / f"other.{suffix}")
    (photos / "phone.DNG").write_bytes(b"")
    assert main(["caption", str(photos), "--model", str(model)]) == 0
    printed = capsys.readouterr()
    assert len(printed.out.splitlines()) == 43
    assert f"{photos}: left out 1 (phone.DNG), of kinds that are not looked for" in printed.err


@pytest.mark.parametrize("argument", ["nowhere.jpg", "*.nothing", "."])
def test_no_photo_is_an_error(model, tmp_path, monkeypatch, capsys, argument):
    monkeypatch.chdir(tmp_path)
    assert main(["caption", argument, "--model", str(model)]) == 1
    assert f"error: {argument}: no such photo" in capsys.readouterr().err


def test_a_decoder_of_stored_features_is_refused(photos, tmp_path, capsys):
    assert (
        main(["caption", str(photos), "--model", str(captioner_file(tmp_path / "decoder.safetensors", encoder=False))])
        == 1
    )
    assert "decoder.safetensors: a decoder of stored features" in capsys.readouterr().err


def test_a_missing_model_is_an_error(photos, capsys):
    assert main(["caption", str(photos), "--model", "none.safetensors"]) == 1
    said = capsys.readouterr().err
    assert "none.safetensors: not found" in said
    assert "--model .demo/models/captioner.safetensors" in said  # after `make demo` alone


@pytest.mark.parametrize("beam", ["0", "-1", "x", "1.5", "\N{SUPERSCRIPT TWO}"])
def test_a_beam_that_is_none_is_named(model, capsys, beam):
    with pytest.raises(SystemExit):
        main(["caption", "x.jpg", "--model", str(model), f"--beam={beam}"])
    assert f"is {beam!r}, expected a whole number from 1 on" in capsys.readouterr().err


@pytest.mark.parametrize("weight", ["-1", "x", "nan", "inf", ""])
def test_a_weight_that_is_none_is_named(model, capsys, weight):
    with pytest.raises(SystemExit):
        main(["caption", "x.jpg", "--model", str(model), f"--consensus={weight}"])
    assert f"is {weight!r}, expected a number from 0 on" in capsys.readouterr().err


def test_a_wrong_call_exits_with_2(model):
    for arguments in ([], ["caption"], ["caption", "x.jpg", "--beam", "0"], ["explain"], ["explain", "a.png", "b.png"]):
        with pytest.raises(SystemExit) as stopped:
            main(arguments)
        assert stopped.value.code == 2


def test_the_command_is_installed_and_silent_off_a_terminal(model, photos):
    command = [sys.executable, "-m", "captioner.use.cli", "caption", str(photos / "00.png"), "--model", str(model)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stderr == ""
    assert done.stdout.count("\n") == 1


def test_what_is_no_photo_in_a_folder_is_left_alone(model, photos, capsys):
    (photos / "._00.png").write_bytes(b"of macOS")
    (photos / "folder.jpg").mkdir()
    assert main(["caption", str(photos), "--model", str(model), "--beam", "1"]) == 0
    said = capsys.readouterr()
    assert len(said.out.splitlines()) == 40
    assert "error" not in said.err


@pytest.mark.parametrize("form", [[], ["--json"]])
def test_a_name_that_is_not_utf_8_is_captioned(model, photos, form):
    name = os.fsencode(photos) + b"/caf\xe9.png"
    try:
        shutil.copy(photos / "00.png", name)
    except OSError:
        pytest.skip("this file system takes UTF-8 alone")
    command = [sys.executable, "-m", "captioner.use.cli", "caption", name, "--model", str(model), "--beam", "1", *form]
    done = subprocess.run(command, env={**os.environ, "PYTHONIOENCODING": "utf-8:strict"}, capture_output=True)
    assert (done.returncode, done.stderr) == (0, b"")
    if form:
        assert os.fsencode(json.loads(done.stdout)["photo"]) == name
    else:
        assert done.stdout.startswith(name + b"\t")


def test_a_reader_that_goes_away_is_no_error(model, photos):
    reading, writing = os.pipe()
    os.close(reading)
    command = [sys.executable, "-m", "captioner.use.cli", "caption", str(photos), "--model", str(model), "--beam", "1"]
    done = subprocess.run(command, stdout=writing, stderr=subprocess.PIPE)
    os.close(writing)
    assert (done.returncode, done.stderr) == (128 + signal.SIGPIPE, b"")
