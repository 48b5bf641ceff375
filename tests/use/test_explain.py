"""`captioner explain`: what its picture shows, and its exit codes."""

import math
import os
import shutil

import numpy as np
import pytest
import torch
from PIL import Image

import captioner.use.explain
from captioner.model.captioner import without_examples
from captioner.use.caption import PhotoCaptioner
from captioner.use.cli import main
from captioner.use.explain import _lit, explain
from tests.support.worlds import captioner_file


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    return {
        attention: captioner_file(folder / f"{attention}.safetensors", attention=attention)
        for attention in (True, False)
    }


@pytest.fixture
def photo(tmp_path):
    pixels = np.random.default_rng(4).integers(0, 256, (90, 120, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "dog.png")
    return tmp_path / "dog.png"


@pytest.fixture
def shown(monkeypatch):
    """What is drawn: the panels and the lines of text."""
    seen = []
    draw = captioner.use.explain._draw

    def spy(picture, panels, lines):
        seen.extend([panels, ["".join(line) for line in lines]])
        draw(picture, panels, lines)

    monkeypatch.setattr(captioner.use.explain, "_draw", spy)
    return seen


def test_bright_is_where_the_weight_is():
    weights = np.full(16, 0.01)
    weights[6] = 0.85  # row 1, column 2
    lit = _lit(np.full((64, 64, 3), 200, np.uint8), weights)[..., 0]
    cells = lit.reshape(4, 16, 4, 16).mean((1, 3))
    assert cells.argmax() == 6
    assert lit[24, 40] > 180
    assert cells[3, 0] < 50


@pytest.mark.parametrize("consensus", [0.0, 9.0])
def test_there_is_a_panel_a_word_and_the_beams_from_the_chosen_one_on(models, photo, tmp_path, shown, consensus):
    describe = PhotoCaptioner(models[True])
    text = explain(describe, photo, tmp_path / "out.png", beam=4, consensus=consensus)
    assert [text] == describe([photo], beam=4, consensus=consensus)
    panels, lines = shown
    words = [title.split("  ")[1] for title, _ in panels[1:]]
    assert [word for word in words if word != "(end)"] == text.split()
    assert panels[0][0] == "the photo"
    assert panels[0][1].shape == (64, 64, 3)
    assert all((pixels <= panels[0][1]).all() for _, pixels in panels)
    start = next(place for place, line in enumerate(lines) if "probability" in line) + 1
    beams = [line.split(maxsplit=4) for line in lines[start : start + 4]]
    totals = [float(total) for *_, total, _ in beams]
    assert totals == sorted(totals, reverse=True)
    assert beams[0][-1] == (text or "(no word)")
    for score, probability, agreement, total, words in beams:
        tokens = min(len(words.split()) + 1, 6) if words != "(no word)" else 1
        assert float(probability) == pytest.approx(math.exp(float(score) * tokens), rel=0.06)
        assert float(total) == pytest.approx(float(score) + consensus * float(agreement), abs=0.02)
    assert len({agreement for _, _, agreement, _, _ in beams}) > 1
    assert lines[start + 4].startswith("score: ")


def test_the_captions_of_the_nearest_training_images_are_shown(models, photo, tmp_path, shown):
    describe = PhotoCaptioner(models[True])
    explain(describe, photo, tmp_path / "out.png")
    features = describe.captioner.features(torch.tensor(describe.read(photo)[None])).mean(1)
    near, shares = describe.consensus.nearest(features.detach().numpy())
    vocabulary = describe.card.vocabulary
    last = shown[1][-3:]
    for line, image, share in zip(last, near[0], shares[0], strict=False):
        captions = describe.captioner.examples.captions[image].tolist()
        captions_shown = " / ".join(vocabulary.decode(caption) for caption in captions if any(caption))
        assert line.split(maxsplit=1) == [f"{share:.1%}", captions_shown]


def test_a_model_without_training_captions_takes_the_likeliest_and_the_picture_says_so(models, photo, tmp_path, shown):
    describe = PhotoCaptioner(models[True])
    likeliest = describe([photo], consensus=0.0)
    describe.captioner.examples = None
    assert [explain(describe, photo, tmp_path / "out.png")] == likeliest
    lines = shown[1]
    assert any("has no training captions" in line for line in lines)
    assert not any("agreement" in line or "similar" in line for line in lines)


def test_a_decoder_without_attention_is_said_to_have_none(models, photo, tmp_path, shown):
    explain(PhotoCaptioner(models[False]), photo, tmp_path / "out.png")
    panels, lines = shown
    assert [title for title, _ in panels] == ["the photo"]
    assert any("no attention" in line for line in lines)
    assert sum("probability" in line for line in lines) == 2  # the beams are there
    assert sum("agreement" in line for line in lines) == 2


def test_without_training_captions_the_likeliest_beam_is_chosen(models, photo, tmp_path, shown):
    without_examples(models[True], tmp_path / "shared.safetensors")
    text = explain(PhotoCaptioner(tmp_path / "shared.safetensors"), photo, tmp_path / "out.png", beam=4)
    assert text == explain(PhotoCaptioner(models[True]), photo, tmp_path / "again.png", beam=4, consensus=0.0)
    explain(PhotoCaptioner(tmp_path / "shared.safetensors"), photo, tmp_path / "out.png")
    assert any("no training captions" in line for line in shown[1])
    assert not any("training images" in line for line in shown[1])


def test_the_command_writes_the_picture_and_says_the_caption(models, photo, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["explain", str(photo), "--model", str(models[True])]) == 0
    printed = capsys.readouterr().out.splitlines()
    assert printed == [f"{photo}\t{PhotoCaptioner(models[True])([photo])[0]}", "dog-explained.png"]
    with Image.open("dog-explained.png") as picture:
        picture.load()
        assert picture.width > 1000
    first = (tmp_path / "dog-explained.png").read_bytes()
    assert main(["explain", str(photo), "--model", str(models[True]), "--out", "again.png", "--beam", "20"]) == 0
    assert (tmp_path / "again.png").read_bytes() == first


def test_a_name_that_is_not_utf_8_is_explained(models, photo, tmp_path):
    name = os.fsencode(tmp_path) + b"/caf\xe9.png"
    try:
        shutil.copy(photo, name)
    except OSError:
        pytest.skip("this file system takes UTF-8 alone")
    assert explain(PhotoCaptioner(models[True]), os.fsdecode(name), tmp_path / "out.png", beam=2)
    assert (tmp_path / "out.png").exists()


def test_a_picture_of_another_photo_is_not_written_over(models, photo, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "dog-explained.png").write_bytes(b"of album1/dog.png")
    command = ["explain", str(photo), "--model", str(models[True]), "--beam", "1"]
    assert main(command) == 1
    assert "error: dog-explained.png: exists; give a name with --out" in capsys.readouterr().err
    assert (tmp_path / "dog-explained.png").read_bytes() == b"of album1/dog.png"
    assert main([*command, "--out", "dog-explained.png"]) == 0


def test_what_cannot_be_done_is_said_and_writes_nothing(models, photo, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "broken.jpg").write_bytes(b"no photo")
    decoder = captioner_file(tmp_path / "decoder.safetensors", encoder=False)
    (tmp_path / "file").write_text("")
    before = sorted(tmp_path.iterdir())
    model = ["--model", str(models[True])]
    for arguments, problem in (
        (["broken.jpg", *model], "broken.jpg: not a photo that can be read"),
        (["none.jpg", *model], "none.jpg: cannot be read"),
        (["dog.png", "--model", "none.safetensors"], "none.safetensors: not found"),
        (["dog.png", "--model", str(decoder)], "a decoder of stored features"),
        (["dog.png", "--out", "dog.png", *model], "dog.png: is the photo itself"),
        (["dog.png", "--out", "dog.jpg", *model], "dog.jpg: the picture is a PNG"),
        (["dog.png", "--length-penalty", "400", *model], "length_penalty: is 400.0, expected at most 10"),
        (["dog.png", "--out", "file/dog.png", *model], "file"),
    ):
        assert main(["explain", *arguments]) == 1
        printed = capsys.readouterr()
        assert printed.err.startswith("error: ")
        assert problem in printed.err
        assert printed.out == ""
    assert sorted(tmp_path.iterdir()) == before
