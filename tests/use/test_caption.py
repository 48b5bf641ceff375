"""`captioner caption` and its library form: outcomes and exit codes."""

import inspect
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from functools import partial
from pathlib import Path, PurePosixPath

import numpy as np
import pytest
import torch
from PIL import Image

from captioner.base.errors import CaptionerError
from captioner.base.params import read_values
from captioner.model.captioner import load_model
from captioner.model.consensus import Consensus
from captioner.model.generate import generate
from captioner.model.search import beam_search
from captioner.use.caption import PhotoCaptioner
from captioner.use.cli import main, make_parser
from captioner.use.explain import explain
from captioner.use.library import find_photos, write_sidecar
from captioner.use.options import CONSENSUS, Search
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
            network, list(map(str, paths)), lambda at: [pixels[at]], card.vocabulary, beam=4, length_penalty=1.0,
            device=torch.device("cpu"), choose=choose,
        )
        for choose in (None, partial(Consensus(*network.examples).choose, weight=9.0))
    )  # fmt: skip
    assert likeliest != chosen
    describe = PhotoCaptioner(model)
    assert describe(paths, beam=4, consensus=0.0) == list(likeliest.values())
    assert describe(paths, beam=4, consensus=9.0) == list(chosen.values())


def test_a_model_of_the_mean_gives_a_photo_and_its_mirror_image_the_same_caption(photos, tmp_path_factory):
    folder = tmp_path_factory.mktemp("mean")
    alone, mean = (captioner_file(folder / f"{mean}.safetensors", mean=mean) for mean in (False, True))
    paths = sorted(photos.glob("*.png"))[:12]
    mirrored = [folder / path.name for path in paths]
    for path, other in zip(paths, mirrored, strict=True):
        Image.open(path).transpose(Image.Transpose.FLIP_LEFT_RIGHT).save(other)
    assert PhotoCaptioner(alone)(paths) != PhotoCaptioner(alone)(mirrored)
    assert PhotoCaptioner(mean)(paths) == PhotoCaptioner(mean)(mirrored)
    network, card = load_model(mean)
    network.start = "conv1"
    pixels = torch.stack([torch.from_numpy(np.array(Image.open(path))) for path in paths])
    of_both = generate(
        network, list(map(str, paths)), lambda at: [pixels[at], pixels[at].flip(2)], card.vocabulary, beam=4,
        length_penalty=1.0, device=torch.device("cpu"),
    )  # fmt: skip
    assert PhotoCaptioner(mean)(paths, beam=4, consensus=0.0) == list(of_both.values())


def test_the_defaults_are_those_of_params_yaml():
    search = read_values(ROOT / "params.yaml")["search"]
    defaults = inspect.signature(explain).parameters
    called = vars(make_parser().parse_args(["caption", "a.jpg"]))
    for name, value in search.items():
        assert getattr(Search(), name) == defaults[name].default == called[name] == value


def test_the_weight_of_the_command_is_that_of_the_choice(model, photos, tmp_path_factory, capsys):
    describe = PhotoCaptioner(model)
    paths = sorted(photos.glob("*.png"))
    by_weight = {weight: describe(paths, consensus=weight) for weight in (0.0, 9.0)}
    assert by_weight[0.0] != by_weight[9.0]
    differs = next(path for path, *both in zip(paths, *by_weight.values(), strict=True) if both[0] != both[1])
    for weight, captions in by_weight.items():
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
    for name in ("phone.DNG", "camera.raf", "drawing.psd"):
        (photos / name).write_bytes(b"")
    assert main(["caption", str(photos), "--model", str(model)]) == 0
    printed = capsys.readouterr()
    assert len(printed.out.splitlines()) == 43
    assert f"{photos}: left out 3 (camera.raf, drawing.psd, phone.DNG), of unsupported kinds" in printed.err


@pytest.mark.parametrize("argument", ["nowhere.jpg", "*.nothing", "."])
def test_no_photo_is_an_error(model, tmp_path, monkeypatch, capsys, argument):
    monkeypatch.chdir(tmp_path)
    assert main(["caption", argument, "--model", str(model)]) == 1
    expected = "no photos in this folder or its folders" if argument == "." else "no such photo"
    assert f"error: {argument}: {expected}" in capsys.readouterr().err


def test_a_folder_whose_folders_alone_have_photos_is_an_error_without_them(model, photos, capsys):
    (photos / "albums/sea").mkdir(parents=True)
    shutil.copy(photos / "00.png", photos / "albums/sea")
    command = ["caption", str(photos / "albums"), "--model", str(model), "--beam", "1"]
    assert main(command) == 0
    assert main([*command, "--no-recursive"]) == 1
    assert f"error: {photos / 'albums'}: no photos in this folder itself" in capsys.readouterr().err


@pytest.mark.parametrize("suffix", [".jfif", ".jpe", ".MPO"])
def test_a_jpeg_of_another_suffix_is_a_photo_of_a_folder(photos, suffix):
    with Image.open(photos / "00.png") as photo:
        photo.convert("RGB").save(photos / f"saved{suffix}", "JPEG")
    assert photos / f"saved{suffix}" in find_photos([str(photos)])


def test_a_gif_in_a_folder_is_left_out_and_the_message_says_how_to_caption_it(photos, capsys):
    with Image.open(photos / "00.png") as photo:
        photo.save(photos / "moving.gif")
    assert photos / "moving.gif" not in find_photos([str(photos)])
    assert "left out 1 (moving.gif)" in (message := capsys.readouterr().err)
    assert "name each GIF file itself" in message
    assert find_photos([str(photos / "*.gif")]) == [photos / "moving.gif"]


def test_a_photo_that_is_named_twice_is_captioned_once(photos, monkeypatch):
    monkeypatch.chdir(photos)
    photos_found = find_photos(["01.png", "./00.png", "0*.png", ".", "01.png"])
    assert [path.name for path in photos_found[:3]] == ["01.png", "00.png", "02.png"]
    assert sorted(photos_found) == sorted(Path().glob("*.png"))


@pytest.mark.parametrize(
    ("pattern", "found"),
    [
        ("**/*.png", ["a/1.png", "a/b/2.png", "c/[1].png"]),
        ("./a/**", ["a/1.png", "a/b/2.png", "a/b/3.jpg"]),
        ("**.png", []),
        ("*/**.png", ["a/1.png", "c/[1].png"]),
        ("a/.*/*.png", ["a/.hidden/4.png"]),
        ("a/b/../*.png", ["a/b/../1.png"]),
        ("c/[[]1].p?g", ["c/[1].png"]),
        ("@*/**/*.jpg", []),
        ("@eaDir/**/*.jpg", ["@eaDir/a.jpg/thumb.jpg"]),
    ],
)
@pytest.mark.parametrize("absolute", [False, True])
def test_patterns_match_as_in_a_shell_and_end_where_links_are_loops(tmp_path, monkeypatch, pattern, found, absolute):
    junk = "@eaDir/a.jpg/thumb.jpg"
    for name in ("a/1.png", "a/b/2.png", "a/b/3.jpg", "a/.hidden/4.png", "c/[1].png", "a/.5.png", junk):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "a/up").symlink_to("..")
    (tmp_path / "a/b/up").symlink_to("../..")
    monkeypatch.chdir(tmp_path)
    arguments, folder = [f"{tmp_path}/{pattern}" if absolute else pattern], tmp_path if absolute else Path()
    if not found:
        with pytest.raises(CaptionerError, match="no file matches it as a pattern"):
            find_photos(arguments)
    else:
        assert find_photos(arguments) == [folder / name for name in found]


def test_an_empty_argument_is_not_the_current_folder(photos, monkeypatch):
    monkeypatch.chdir(photos)
    with pytest.raises(CaptionerError, match="'': expected a photo, a folder or a pattern"):
        find_photos([""])


def test_a_folder_that_cannot_be_read_is_named(model, photos, monkeypatch, capsys):
    def walk(folder, onerror):
        onerror(PermissionError(13, "Permission denied", f"{folder}/locked"))
        return [(str(folder), [], ["00.png"])]

    monkeypatch.setattr("captioner.use.library.os.walk", walk)
    assert main(["caption", str(photos), "--model", str(model), "--beam", "1"]) == 1
    assert f"{photos}/locked: left out, cannot be read (Permission denied)" in capsys.readouterr().err


def test_a_file_too_large_for_a_photo_does_not_stop_the_others(model, photos, capsys):
    with open(photos / "video.mp4", "wb") as video:
        video.truncate(600 << 20)
    command = ["caption", str(photos / "video.mp4"), str(photos / "00.png"), "--model", str(model), "--beam", "1"]
    assert main(command) == 1
    printed = capsys.readouterr()
    assert f"error: {photos / 'video.mp4'}: has 629,145,600 bytes, expected at most 536,870,912" in printed.err
    assert len(printed.out.splitlines()) == 1


def test_a_caption_file_that_cannot_be_written_does_not_stop_the_others(model, photos, monkeypatch, capsys):
    def refuse_the_first(path, text):
        if path.stem == "00":
            raise PermissionError(13, "Permission denied")
        path.write_text(text)

    monkeypatch.setattr("captioner.use.commands.caption.write_sidecar", refuse_the_first)
    command = ["caption", str(photos / "00.png"), str(photos / "01.png"), "--model", str(model), "--write", "txt"]
    assert main(command) == 1
    assert f"error: {photos / '00.txt'}: cannot be written (Permission denied)" in capsys.readouterr().err
    assert (photos / "01.txt").read_text()


def test_a_folder_is_no_model(photos, capsys):
    assert main(["caption", str(photos), "--model", str(photos)]) == 1
    assert f"{str(photos)!r}: is a folder; expected the model file" in capsys.readouterr().err


def test_a_length_penalty_beyond_floating_point_is_refused(model, photos):
    with pytest.raises(CaptionerError, match="length_penalty: is 1000, expected at most 10"):
        PhotoCaptioner(model)(photos / "00.png", length_penalty=1000)


def test_zsh_completes_every_photo(capsys):
    assert main(["completion", "zsh"]) == 0
    assert '"(*):' not in capsys.readouterr().out


def test_a_decoder_of_stored_features_is_refused(photos, tmp_path, capsys):
    assert (
        main(["caption", str(photos), "--model", str(captioner_file(tmp_path / "decoder.safetensors", encoder=False))])
        == 1
    )
    assert "decoder.safetensors: a decoder of stored features" in capsys.readouterr().err


def test_a_missing_model_is_an_error(photos, capsys):
    assert main(["caption", str(photos), "--model", "none.safetensors"]) == 1
    message = capsys.readouterr().err
    assert "none.safetensors: not found" in message
    assert ".demo/models/captioner.safetensors" in message  # after `make demo` alone


@pytest.mark.parametrize("command", [["caption", "x.jpg"], ["explain", "x.jpg"], ["export"], ["serve"], ["card"]])
def test_outside_the_project_the_error_says_how_to_name_a_model(command, photos, monkeypatch, capsys):
    monkeypatch.chdir(photos)
    shutil.copy("00.png", "x.jpg")
    assert main(command) == 1
    option = "captioner card" if command == ["card"] else "--model"
    assert f"models/captioner.safetensors: not found here. Name a model: `{option} FILE`" in capsys.readouterr().err


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
    printed = capsys.readouterr()
    assert len(printed.out.splitlines()) == 40
    assert "error" not in printed.err


@pytest.mark.slow
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


@pytest.mark.slow
def test_a_reader_that_goes_away_is_no_error(model, photos):
    reading, writing = os.pipe()
    os.close(reading)
    command = [sys.executable, "-m", "captioner.use.cli", "caption", str(photos), "--model", str(model), "--beam", "1"]
    done = subprocess.run(command, stdout=writing, stderr=subprocess.PIPE)
    os.close(writing)
    assert (done.returncode, done.stderr) == (128 + signal.SIGPIPE, b"")


# whole libraries


@pytest.fixture
def library(tmp_path):
    """A folder with photos at several depths, and what is none of them."""
    generator = np.random.default_rng(0)
    for name in (
        "b.jpg",
        "a.png",
        "holiday/c.jpg",
        "holiday/sea/d.webp",
        ".hidden/e.jpg",
        "__MACOSX/f.jpg",
        "@eaDir/b.jpg/g.jpg",
    ):
        path = tmp_path / "library" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(generator.integers(0, 256, (40, 40, 3), dtype=np.uint8)).save(path)
    (tmp_path / "library/notes.txt").write_text("mine")
    return tmp_path / "library"


PHOTOS = ["a.png", "b.jpg", "holiday/c.jpg", "holiday/sea/d.webp"]


def files_of(folder, suffix):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob(f"*.{suffix}"))


def test_a_folder_is_read_with_all_folders_in_it_or_without(model, library, capsys):
    command = ["caption", str(library), "--model", str(model), "--beam", "1"]
    assert main(command) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split("\t")[0] for line in lines] == [str(library / name) for name in PHOTOS]
    assert main([*command, "--no-recursive"]) == 0
    assert capsys.readouterr().out.splitlines() == lines[:2]


def test_a_link_to_a_folder_above_is_no_endless_library(library):
    try:
        (library / "holiday/up").symlink_to(library)
    except OSError:
        pytest.skip("no links here")
    assert find_photos([str(library)]) == [library / name for name in PHOTOS]


@pytest.mark.parametrize(("argument", "read"), [("", 4), ("*.jpg", 1), ("away.jpg", 0)])
def test_a_link_to_a_photo_that_is_not_there_is_an_error(model, library, capsys, argument, read):
    try:
        (library / "away.jpg").symlink_to("annex/away.jpg")
    except OSError:
        pytest.skip("no links here")
    assert main(["caption", str(library / argument), "--model", str(model), "--beam", "1"]) == 1
    printed = capsys.readouterr()
    assert len(printed.out.splitlines()) == read
    assert f"error: {library / 'away.jpg'}: cannot be read (No such file or directory)" in printed.err


@pytest.mark.parametrize("option", ["--skip-existing", "--force"])
def test_a_pattern_may_name_the_caption_files_of_an_earlier_run(model, photos, capsys, option):
    command = ["caption", str(photos / "0*"), "--model", str(model), "--beam", "1", "--write", "caption"]
    assert main(command) == 0
    assert main(command) == 1
    assert "00.caption: exists, and 9 more" in capsys.readouterr().err
    assert main([*command, option]) == 0


@pytest.mark.parametrize("suffix", ["txt", "caption"])
def test_captions_are_written_beside_the_photos(model, library, capsys, suffix):
    assert main(["caption", str(library), "--model", str(model), "--write", suffix]) == 0
    printed = capsys.readouterr()
    assert printed.out == ""
    assert f"4 captions written to .{suffix} files" in printed.err
    written = [str(PurePosixPath(name).with_suffix(f".{suffix}")) for name in PHOTOS]
    mine = ["notes.txt"] if suffix == "txt" else []
    assert files_of(library, suffix) == sorted(written + mine)
    describe = PhotoCaptioner(model)
    for name, file in zip(PHOTOS, written, strict=True):
        assert (library / file).read_text() == f"{describe(library / name)}\n"
    assert not list(library.rglob(".part-*"))


def test_a_file_that_exists_is_skipped_or_written_over_only_when_asked(model, library, capsys):
    command = ["caption", str(library), "--model", str(model), "--beam", "2", "--write", "txt"]
    (library / "b.txt").write_text("by hand")
    assert main(command) == 1
    printed = capsys.readouterr()
    assert f"error: {library / 'b.txt'}: exists; --skip-existing" in printed.err
    assert files_of(library, "txt") == ["b.txt", "notes.txt"]  # nothing was written
    assert main([*command, "--skip-existing"]) == 0
    assert "3 captions written to .txt files, 1 skipped" in capsys.readouterr().err
    (library / "a.txt").unlink()
    assert main([*command, "--skip-existing"]) == 0
    assert "1 caption written to a .txt file, 3 skipped" in capsys.readouterr().err
    assert main(command) == 1
    assert f"error: {library / 'a.txt'}: exists, and 3 more; --skip-existing" in capsys.readouterr().err
    assert (library / "b.txt").read_text() == "by hand"
    assert main([*command, "--skip-existing", "--model", "nowhere"]) == 0  # nothing is left to do
    assert main([*command, "--force"]) == 0
    assert (library / "b.txt").read_text() == f"{PhotoCaptioner(model)(library / 'b.jpg', beam=2)}\n"


def test_a_broken_photo_has_no_file_and_the_others_have(model, library, capsys):
    (library / "b.jpg").write_bytes(b"broken")
    assert main(["caption", str(library), "--model", str(model), "--beam", "1", "--write", "caption"]) == 1
    assert files_of(library, "caption") == ["a.caption", "holiday/c.caption", "holiday/sea/d.caption"]
    assert f"error: {library / 'b.jpg'}: not a photo" in capsys.readouterr().err


def test_photos_that_would_share_a_file_are_named(model, library, capsys):
    shutil.copy(library / "a.png", library / "b.png")
    assert main(["caption", str(library), "--model", str(model), "--write", "txt"]) == 1
    assert f"both would write {library / 'b.txt'}" in capsys.readouterr().err
    assert files_of(library, "txt") == ["notes.txt"]


def test_a_file_that_cannot_be_written_leaves_nothing(library, monkeypatch):
    monkeypatch.setattr(os, "fsync", lambda handle: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    (library / "a.txt").write_text("old")
    with pytest.raises(OSError, match="No space"):
        write_sidecar(library / "a.txt", "new")
    assert (library / "a.txt").read_text() == "old"
    assert not list(library.glob(".part-*"))


# the best captions, with their scores


def test_the_best_captions_come_with_their_scores(model, photos, capsys):
    command = ["caption", str(photos / "0*.png"), "--model", str(model), "--beam", "6"]
    assert main([*command, "--top", "3"]) == 0
    rows = [line.split("\t") for line in capsys.readouterr().out.splitlines()]
    assert len(rows) == 30
    assert main([*command, "--top", "3", "--json"]) == 0
    records = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert main(command) == 0
    best = [line.split("\t") for line in capsys.readouterr().out.splitlines()]
    for record, (path, text), three in zip(records, best, zip(*[iter(rows)] * 3, strict=True), strict=True):
        assert (record["photo"], record["caption"]) == (path, text)
        first, *_ = record["captions"]
        assert first == {"caption": text, "score": record["score"], "agreement": record["agreement"]}
        result = [[path, each["caption"], str(each["score"]), str(each["agreement"])] for each in record["captions"]]
        assert result == list(three)
        totals = [each["score"] + CONSENSUS * each["agreement"] for each in record["captions"]]
        assert totals == pytest.approx(sorted(totals, reverse=True), abs=1e-3)  # of rounded scores


def test_a_score_is_the_mean_log_probability_whatever_the_length_penalty(model, photos):
    describe = PhotoCaptioner(model)
    path = photos / "00.png"
    with torch.inference_mode():
        memory = describe.captioner.decoder.encode(describe.captioner.features(torch.tensor(describe.read(path)[None])))
        beams = beam_search(describe.captioner.decoder, memory, beam=500, max_length=6, length_penalty=1.0)
    decode = describe.card.vocabulary.decode
    # a score of the search is a log-probability by length where the penalty is 1
    wanted = {decode(ids): score for ids, score in zip(beams.tokens[0].tolist(), beams.scores[0].tolist(), strict=True)}
    for penalty in (0.0, 0.7, 1.0, 1.5):
        options = {"beam": 8, "consensus": 0.0, "length_penalty": penalty}
        ((_, captions),) = describe.ranked(path, top=8, **options)
        assert {caption.agreement for caption in captions} == {None}
        known = [(caption.score, wanted[caption.text]) for caption in captions if caption.text in wanted]
        assert len(known) >= 4
        assert [mine for mine, _ in known] == pytest.approx([score for _, score in known], abs=1e-4)


def test_the_lengths_are_those_asked_for(model, photos, capsys):
    describe = PhotoCaptioner(model)
    paths = sorted(photos.glob("*.png"))
    for least, most in ((0, 2), (3, 3), (5, 9), (0, None)):
        for weight in (0.0, 2.0):
            captions = describe(paths, beam=4, min_length=least, max_length=most, consensus=weight)
            lengths = [len(text.split()) for text in captions]
            assert least <= min(lengths) <= max(lengths) <= (most or WORDS.max_length)
    command = ["caption", str(paths[0]), "--model", str(model), "--min-length", "4", "--max-length", "4"]
    assert main(command) == 0
    assert len(capsys.readouterr().out.split("\t")[1].split()) == 4
    assert main(["caption", str(paths[0]), "--model", str(model), "--min-length", "7"]) == 1
    assert "min_length: is 7, expected at most the longest caption, 6 words" in capsys.readouterr().err


def test_the_batch_changes_no_caption(model, photos, capsys):
    outputs = []
    for batch in ("1", "7", "100"):
        assert main(["caption", str(photos), "--model", str(model), "--beam", "3", "--batch", batch]) == 0
        outputs.append(capsys.readouterr().out)
    assert outputs[0] == outputs[1] == outputs[2]


# the library's arguments


def test_a_path_a_string_and_a_generator_of_photos_work(model, photos):
    describe = PhotoCaptioner(str(model), device="cpu")
    path = photos / "00.png"
    text = describe(path)
    assert describe(str(path)) == text
    assert describe([path]) == describe((str(path),)) == describe(each for each in [path]) == [text]
    assert describe([]) == []
    assert next(iter(describe.each(path))) == (path, text)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"beam": 0}, "beam: is 0, expected a whole number from 1 on"),
        ({"beam": 2.5}, r"beam: is 2\.5"),
        ({"consensus": -1}, "consensus: is -1, expected a number from 0 on"),
        ({"length_penalty": float("nan")}, "length_penalty: is nan"),
        ({"length_penalty": "1"}, "length_penalty: is '1'"),
        ({"min_length": 5, "max_length": 2}, "min_length: is 5, expected at most max_length, 2"),
        ({"max_length": 0}, "max_length: is 0"),
        ({"batch": 0}, "batch: is 0"),
    ],
)
def test_an_option_out_of_range_is_named(model, photos, options, message):
    with pytest.raises(CaptionerError, match=message):
        PhotoCaptioner(model)(photos / "00.png", **options)


def test_a_device_that_is_none_is_named(model, photos, capsys):
    with pytest.raises(CaptionerError, match="device: cuda:77 cannot be used here"):
        PhotoCaptioner(model, device="cuda:77")
    assert main(["caption", str(photos / "00.png"), "--model", str(model), "--device", "gpu"]) == 1
    assert "device: gpu cannot be used here" in capsys.readouterr().err


def test_photos_are_read_no_further_ahead_than_two_batches(model, photos):
    taken = []

    def endless():
        while True:
            taken.append(photos / "00.png")
            yield taken[-1]

    result = PhotoCaptioner(model).each(endless(), batch=2, beam=1)
    for _ in range(5):
        next(result)
    result.close()
    assert len(taken) <= 5 + 2 * 2 + 2


def test_the_python_of_the_docs_reports_a_photo_that_cannot_be_read(model, photos, monkeypatch, capsys):
    monkeypatch.chdir(photos)
    shutil.copy("00.png", "dog.jpg")
    code = re.search(r"```python\n(.*?)```", (ROOT / "docs/captioning.md").read_text(encoding="utf-8"), re.S)[1]
    exec(code.replace("models/captioner.safetensors", str(model)).replace('["dog.jpg"]', '["none.jpg", "dog.jpg"]'))
    _, none, dog = capsys.readouterr().out.splitlines()
    assert none == "none.jpg: cannot be read (No such file or directory)"
    assert dog.startswith("dog.jpg [('")


# the command


@pytest.mark.parametrize(
    "arguments",
    [
        ["--skip-existing"],
        ["--force"],
        ["--write", "json"],
        ["--write", "txt", "--skip-existing", "--force"],
        ["--write", "txt", "--json"],
        ["--top", "0"],
        ["--top", "5", "--beam", "4"],
        ["--min-length", "-1"],
        ["--min-length", "3", "--max-length", "2"],
        ["--batch", "0"],
        ["--length-penalty", "x"],
        ["--frob"],
    ],
    ids=" ".join,
)
def test_a_wrong_call_of_caption_exits_with_2(arguments, capsys):
    with pytest.raises(SystemExit) as stopped:
        main(["caption", "x.jpg", *arguments])
    assert stopped.value.code == 2
    assert "usage: captioner caption" in capsys.readouterr().err


def command(*arguments, **options):
    """Run `python -m captioner` in a process of its own."""
    return subprocess.run([sys.executable, "-m", "captioner", *map(str, arguments)], capture_output=True, **options)


def test_the_version_and_the_help_of_every_command():
    done = command("--version", text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("captioner ")
    for name in ("caption", "score", "explain", "export", "card", "strip", "completion"):
        with pytest.raises(SystemExit) as stopped:
            main([name, "--help"])
        assert stopped.value.code == 0


HEAVY = ("torch", "numpy", "PIL", "matplotlib", "requests", "tqdm", "shtab", "platformdirs")


def test_the_parser_needs_nothing_heavy_and_caption_no_matplotlib(model, photos):
    code = (
        "import sys; from captioner.use.cli import main, make_parser; make_parser()\n"
        f"print([name for name in {HEAVY!r} if name in sys.modules])\n"
        f"main(['caption', {str(photos / '00.png')!r}, '--model', {str(model)!r}])\n"
        "print([name for name in ('matplotlib', 'torchvision', 'h5py', 'pandas') if name in sys.modules])\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    first, _, last = done.stdout.splitlines()
    assert (first, last) == ("[]", "[]")


@pytest.mark.parametrize(("shell", "part"), [("bash", "-F _shtab_captioner captioner"), ("zsh", "#compdef captioner")])
def test_completion_is_a_script_of_the_shell(shell, part, capsys, tmp_path):
    pytest.importorskip("shtab")
    assert main(["completion", shell]) == 0
    script = capsys.readouterr().out
    assert part in script
    assert "--skip-existing" in script
    if shutil.which(shell):
        (tmp_path / "script").write_text(script)
        subprocess.run([shell, "-n", str(tmp_path / "script")], check=True)


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="has no device that is full")
@pytest.mark.parametrize("printed", [10, 100_000])  # less and more than a buffer
def test_a_full_disk_is_an_error_that_names_stdout(printed):
    env = {key: value for key, value in os.environ.items() if key != "PYTHONUNBUFFERED"}
    code = (
        "import sys\nfrom captioner.use import cli\nfrom captioner.use.commands import completion\n"
        f"completion.run = lambda options: print('x' * {printed}, flush=True)\n"
        "sys.exit(cli.main(['completion', 'bash']))"
    )
    with open("/dev/full", "w") as full:
        done = subprocess.run([sys.executable, "-c", code], stdout=full, stderr=subprocess.PIPE, env=env)
    assert done.returncode == 1
    assert done.stderr == b"error: stdout: cannot be written (No space left on device)\n"


@pytest.mark.slow
@pytest.mark.parametrize(
    "env",
    [{"PYTHONIOENCODING": "ascii"}, {"LC_ALL": "de_DE.ISO-8859-1", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}],
)
@pytest.mark.parametrize("form", [[], ["--json"]])
def test_a_stdout_that_is_not_utf_8_gets_what_it_can_show(model, photos, env, form):
    name = photos / "Hündchen 犬.png"
    shutil.copy(photos / "00.png", name)
    env = {key: value for key, value in os.environ.items() if key not in ("LC_ALL", "PYTHONUTF8")} | env
    done = command("caption", name, photos / "no 犬.png", "--model", model, "--beam", "1", *form, env=env)
    assert b"Traceback" not in done.stderr
    assert done.returncode == 1  # the second photo is none
    done = command("caption", name, "--model", model, "--beam", "1", *form, env=env)
    assert (done.returncode, done.stderr) == (0, b"")
    if form:
        assert os.fsencode(json.loads(done.stdout)["photo"]) == os.fsencode(name)
    elif "PYTHONIOENCODING" in env:
        assert b"H?ndchen ?.png\t" in done.stdout


def test_an_interruption_while_imports_run_is_one_line(model, photos, tmp_path):
    (tmp_path / "slow").mkdir()
    (tmp_path / "slow/torch.py").write_text(
        "import os, signal, time\nos.kill(os.getpid(), signal.SIGINT)\ntime.sleep(10)\n"
    )
    env = os.environ | {"PYTHONPATH": os.pathsep.join([str(tmp_path / "slow"), *sys.path])}
    done = command("caption", photos / "00.png", "--model", model, env=env)
    assert (done.returncode, done.stdout, done.stderr) == (130, b"", b"interrupted\n")


def test_an_interruption_while_the_commands_are_imported_is_one_line():
    code = """
import os, signal, sys

class Interrupts:
    def find_spec(name, path=None, target=None):
        if name.startswith("captioner.use.commands"):
            os.kill(os.getpid(), signal.SIGINT)

sys.meta_path.insert(0, Interrupts)
from captioner.use.cli import main
sys.exit(main(["--version"]))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True)
    assert (done.returncode, done.stdout, done.stderr) == (130, b"", b"interrupted\n")


def test_an_interruption_while_captioning_is_one_line(model, photos, monkeypatch, capsys):
    def interrupt(*given, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr(PhotoCaptioner, "search", interrupt)
    assert main(["caption", str(photos), "--model", str(model)]) == 130
    assert capsys.readouterr().err == "interrupted\n"


def test_a_model_without_training_captions_says_that_it_takes_the_likeliest(model, photos, monkeypatch, capsys):
    likeliest = PhotoCaptioner(model)(sorted(photos.glob("*.png")), consensus=0.0)
    monkeypatch.setattr(PhotoCaptioner, "has_examples", False)
    assert main(["caption", str(photos), "--model", str(model), "--consensus", "9", "--json"]) == 0
    printed = capsys.readouterr()
    records = [json.loads(line) for line in printed.out.splitlines()]
    assert [record["caption"] for record in records] == likeliest
    assert {record["agreement"] for record in records} == {None}
    assert printed.err.count("has no training captions, so a caption is the likeliest beam") == 1
