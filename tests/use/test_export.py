"""`captioner export`: the ONNX folder says what the model says, without PyTorch, or is not written."""

import errno
import json
import os
import runpy
import shutil
import signal
import subprocess
import sys
import zipfile

import numpy as np
import pytest
import torch
from PIL import Image

import captioner.use.export
from captioner.base.params import read_values
from captioner.captions.vocabulary import EOS, SPECIAL
from captioner.model.captioner import load_model, save_model, without_examples
from captioner.use.caption import PhotoCaptioner
from captioner.use.cli import main
from captioner.use.runtime import OnnxCaptioner
from tests.support.workspaces import ROOT
from tests.support.worlds import WORDS, captioner_file

pytestmark = pytest.mark.slow


@pytest.fixture(
    scope="module",
    params=[{}, {"attention": False}, {"mean": True}],
    ids=["attention", "pooled", "mean of both views"],
)
def exported(request, tmp_path_factory):
    """A model file and the folder it was exported to."""
    folder = tmp_path_factory.mktemp("export")
    model = captioner_file(folder / "captioner.safetensors", **request.param)
    network, metadata = load_model(model)
    network.decoder.feature_mean += 0.01 * torch.arange(512).remainder(7)  # it must not be lost
    network.decoder.feature_scale *= 1 + 0.1 * torch.arange(512).remainder(5)
    save_model(model, network, metadata)
    assert main(["export", "--model", str(model), "--out", str(folder / "onnx")]) == 0
    return model, folder / "onnx"


@pytest.fixture
def photos(tmp_path):
    generator = np.random.default_rng(1)
    for n in range(8):
        pixels = generator.integers(0, 64 + 27 * n, (50 + n, 70, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"{n}.png")
    return sorted(tmp_path.glob("*.png"))


@pytest.mark.parametrize(("beam", "consensus"), [(1, 2.0), (3, 0.0), (5, 0.0), (5, 9.0)])
def test_captions_are_those_of_the_model(exported, photos, beam, consensus):
    model, folder = exported
    describe, ours = PhotoCaptioner(model), OnnxCaptioner(folder)
    pixels = np.stack([describe.read(photo) for photo in photos])
    options = {"beam": beam, "length_penalty": 0.7, "consensus": consensus}
    expected = describe(photos, **options)
    assert len(set(expected)) > 1  # photos make a difference
    assert ours(pixels, **options) == expected
    assert ours(pixels[:1], **options) == expected[:1]
    assert ours(pixels) == describe(photos)
    if consensus == 9:
        assert expected != describe(photos, **options | {"consensus": 0})  # the weight does too


def test_the_folder_needs_neither_torch_nor_this_package(exported, photos):
    model, folder = exported
    start = (
        "import runpy, sys\n"
        "sys.modules['torch'] = sys.modules['captioner'] = None\n"  # importing them fails
        f"sys.path.insert(0, {str(folder)!r})\n"
        "runpy.run_path(sys.path[0] + '/caption.py', run_name='__main__')\n"
    )
    done = subprocess.run([sys.executable, "-c", start, *photos], capture_output=True, text=True, check=True)
    expected = PhotoCaptioner(model)(photos)
    assert done.stdout.splitlines() == [f"{photo}\t{text}" for photo, text in zip(photos, expected, strict=True)]


def test_the_folder_says_what_it_is(exported):
    _, folder = exported
    assert {path.name for path in folder.iterdir()} == {
        "README.md", "caption.py", "captioner.json", "cider.py", "consensus.py", "encode.onnx",
        "errors.py", "examples.npz", "photos.py", "ptb.py", "step.onnx", "streams.py", "text.py", "tokens.py",
    }  # fmt: skip
    settings = json.loads((folder / "captioner.json").read_text())
    assert settings["tokens"][4:] == list(WORDS.words)
    assert settings["image"] == {"size": 64, "fit": "squash"}
    assert settings["search"] == read_values(ROOT / "params.yaml")["search"]
    with zipfile.ZipFile(folder / "examples.npz") as archive:
        assert {part.compress_type for part in archive.infolist()} == {zipfile.ZIP_DEFLATED}
        assert {part.date_time[0] for part in archive.infolist()} == {1980}  # not of the machine's clock
    for name in ("encode.onnx", "step.onnx"):
        assert b'File "' not in (folder / name).read_bytes()  # nothing of the machine it was made on


def test_a_model_without_training_captions_gives_a_folder_without_them(exported, photos, tmp_path):
    model, _ = exported
    shared = tmp_path / "shared.safetensors"
    without_examples(model, shared)
    assert main(["export", "--model", str(model), "--out", str(tmp_path / "onnx")]) == 0
    assert main(["export", "--model", str(shared), "--out", str(tmp_path / "onnx")]) == 0  # over the earlier one
    assert "examples.npz" not in {path.name for path in (tmp_path / "onnx").iterdir()}
    assert "has no training captions" in (tmp_path / "onnx/README.md").read_text()
    ours, describe = OnnxCaptioner(tmp_path / "onnx"), PhotoCaptioner(model)
    pixels = np.stack([describe.read(photo) for photo in photos])
    expected = describe(photos, consensus=0.0)
    assert ours(pixels) == ours(pixels, consensus=9.0) == expected == PhotoCaptioner(shared)(photos)


def test_the_python_of_the_readme_runs(exported, photos, monkeypatch, capsys):
    model, folder = exported
    code = "\n".join(
        line[4:]
        for line in (folder / "README.md").read_text().split("From Python")[1].splitlines()
        if line[:4] == "    "
    )
    script = photos[0].with_suffix(".py")
    script.write_text(code.replace("dog.jpg", str(photos[0])))
    monkeypatch.chdir(folder)
    monkeypatch.syspath_prepend(str(folder))
    runpy.run_path(str(script))
    assert capsys.readouterr().out == f"{PhotoCaptioner(model)(photos[:1])}\n"


def test_one_that_says_something_else_is_not_written(exported, tmp_path, monkeypatch, capsys):
    model, folder = exported
    attention = PhotoCaptioner(model).captioner.decoder.attention
    other = captioner_file(tmp_path / "other.safetensors", attention=attention, seed=1)
    monkeypatch.setattr(captioner.use.export, "_write", lambda path, *given: shutil.copy(folder / path.name, path))
    assert main(["export", "--model", str(model), "--out", str(tmp_path / "same")]) == 0
    capsys.readouterr()
    assert main(["export", "--model", str(other), "--out", str(tmp_path / "onnx")]) == 1
    assert "other.safetensors: as ONNX it does not give the same captions" in capsys.readouterr().err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["other.safetensors", "same"]


def test_one_that_chooses_otherwise_is_not_written(exported, tmp_path, monkeypatch, capsys):
    model, _ = exported
    write = captioner.use.export._write_arrays

    def with_other_captions(path, examples):
        words = examples.captions > EOS
        others = (examples.captions - len(SPECIAL) + 1) % len(WORDS.words) + len(SPECIAL)
        write(path, examples._replace(captions=torch.where(words, others, examples.captions)))

    monkeypatch.setattr(captioner.use.export, "_write_arrays", with_other_captions)
    monkeypatch.setitem(captioner.use.export.SEARCHES, "consensus", (20, 50.0))
    assert main(["export", "--model", str(model), "--out", str(tmp_path / "onnx")]) == 1
    assert "does not give the same captions (consensus: " in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("package", ["onnxscript", "onnxruntime"])
def test_without_the_extra_it_is_named(tmp_path, monkeypatch, capsys, package):
    monkeypatch.setitem(sys.modules, package, None)
    monkeypatch.delitem(sys.modules, "captioner.use.runtime", raising=False)
    monkeypatch.delattr(captioner.use, "runtime", raising=False)
    model = captioner_file(tmp_path / "captioner.safetensors")
    assert main(["export", "--model", str(model), "--out", str(tmp_path / "onnx")]) == 1
    message = capsys.readouterr().err
    assert f"{package} is not installed" in message
    assert "pip install 'captioner[export]'" in message


def test_a_folder_of_other_things_is_left_as_it_is(tmp_path, capsys):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/README.md").write_text("mine")
    model = captioner_file(tmp_path / "captioner.safetensors")
    assert main(["export", "--model", str(model), "--out", str(tmp_path / "mine")]) == 1
    assert "mine: has files in it and no captioner.json" in capsys.readouterr().err
    assert [(path.name, path.read_text()) for path in (tmp_path / "mine").iterdir()] == [("README.md", "mine")]


def test_the_folder_may_be_a_mount_point(exported, tmp_path, monkeypatch):
    replace = os.replace

    def replace_within(source, target):
        if tmp_path / "mnt" not in source.parents:
            raise OSError(errno.EXDEV, os.strerror(errno.EXDEV))
        replace(source, target)

    model, folder = exported
    monkeypatch.setattr(captioner.use.export, "_write", lambda path, *given: shutil.copy(folder / path.name, path))
    monkeypatch.setattr(os, "replace", replace_within)
    (tmp_path / "mnt/.part-mnt-killed").mkdir(parents=True)
    assert main(["export", "--model", str(model), "--out", str(tmp_path / "mnt")]) == 0
    left = {path.name for path in (tmp_path / "mnt").iterdir()} - {path.name for path in folder.iterdir()}
    assert left == {".part-mnt-killed"}


def test_what_cannot_be_exported_is_said(tmp_path, capsys):
    (tmp_path / "file").write_text("")
    decoder = captioner_file(tmp_path / "decoder.safetensors", encoder=False)
    for model, out, problem in (
        (tmp_path / "none", tmp_path / "onnx", "none: not found"),
        (decoder, tmp_path / "onnx", "a decoder of stored features"),
        (decoder, tmp_path / "file", "file: is a file; give a folder"),
    ):
        assert main(["export", "--model", str(model), "--out", str(out)]) == 1
        assert problem in capsys.readouterr().err
    assert not (tmp_path / "onnx").exists()


def caption_folder(folder, *photos, **options):
    """Run the folder's program."""
    return subprocess.run([sys.executable, str(folder / "caption.py"), *map(str, photos)], **options)


def test_a_broken_photo_is_reported_and_does_not_stop_the_others(exported, photos, tmp_path):
    model, folder = exported
    (tmp_path / "broken.jpg").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n")
    given = [photos[0], tmp_path / "broken.jpg", tmp_path / "none.jpg", photos[1]]
    done = caption_folder(folder, *given, capture_output=True, text=True)
    assert done.returncode == 1
    expected = PhotoCaptioner(model)(photos[:2])
    assert done.stdout.splitlines() == [f"{photo}\t{text}" for photo, text in zip(photos, expected, strict=False)]
    broken, none = done.stderr.splitlines()
    assert broken.startswith(f"error: {tmp_path / 'broken.jpg'}: not a photo that can be read (it is PostScript")
    assert none == f"error: {tmp_path / 'none.jpg'}: cannot be read (No such file or directory)"


def test_the_program_without_photos_exits_with_2(exported):
    done = caption_folder(exported[1], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (2, "")
    assert "usage: python caption.py PHOTO..." in done.stderr


def test_a_reader_of_the_program_that_goes_away_is_no_error(exported, photos):
    reading, writing = os.pipe()
    os.close(reading)
    done = caption_folder(exported[1], *photos, stdout=writing, stderr=subprocess.PIPE)
    os.close(writing)
    assert (done.returncode, done.stderr) == (128 + signal.SIGPIPE, b"")


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="has no device that is full")
def test_a_full_disk_is_an_error_that_names_stdout(exported, photos):
    with open("/dev/full", "w") as full:
        done = caption_folder(exported[1], photos[0], stdout=full, stderr=subprocess.PIPE)
    assert done.returncode == 1
    assert done.stderr == b"error: stdout: cannot be written (No space left on device)\n"


def test_a_closed_stdout_takes_everything(exported, photos):
    command = ["sh", "-c", 'exec "$0" "$@" >&-', sys.executable, exported[1] / "caption.py", photos[0]]
    done = subprocess.run(command, stderr=subprocess.PIPE)
    assert (done.returncode, done.stderr) == (0, b"")


def test_the_program_prints_what_an_ascii_stdout_can_show(exported, photos, tmp_path):
    shutil.copy(photos[0], tmp_path / "Hündchen 犬.png")
    env = os.environ | {"PYTHONIOENCODING": "ascii"}
    done = caption_folder(exported[1], tmp_path / "Hündchen 犬.png", capture_output=True, env=env)
    assert (done.returncode, done.stderr) == (0, b"")
    assert b"H?ndchen ?.png\t" in done.stdout
