"""The rule that chooses sample images, and the picture."""

import json
import os
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from captioner.results import drawing
from captioner.results.pictures import CELL, TEXT, choose, draw_samples
from tests.support.worlds import jpeg, zipped

CHINESE = "一只棕色的狗在绿色的草地上奔跑" * 9


def ranking(count):
    return pd.Series({f"{n:04d}.jpg": n / count for n in range(count)})


def test_good_is_the_best_tenth_typical_the_middle_bad_the_worst():
    chosen = choose(ranking(1000), each=3)
    places = {kind: [int(name[:4]) for name in names] for kind, names in chosen.items()}
    assert places == {"good": [900, 950, 999], "typical": [450, 500, 549], "bad": [0, 50, 99]}


def test_the_order_of_the_table_does_not_matter_and_ties_go_by_name():
    scores = pd.Series(0.5, index=[f"{n:04d}.jpg" for n in range(100)])
    assert choose(scores, each=4) == choose(scores.sample(frac=1, random_state=0), each=4)
    assert choose(scores, each=2)["bad"] == ["0000.jpg", "0009.jpg"]


@pytest.mark.parametrize("count", [3, 6, 7, 8, 13, 40])
def test_no_image_is_of_two_kinds(count):
    names = [name for names in choose(ranking(count), each=4).values() for name in names]
    assert len(names) == len(set(names)) == min(12, 3 * (count // 3))


@pytest.mark.parametrize("count", [1, 2, 5])
def test_few_images_are_enough(count):
    chosen = choose(ranking(count), each=4)
    assert list(chosen) == ["good", "typical", "bad"]
    for names in chosen.values():
        assert 0 < len(names) == len(set(names)) <= min(count, 4)


def world(folder, caption, names=("a.jpg", "b.jpg", "c.jpg")):
    """Write what the stage reads; return the arguments of `draw_samples`."""
    zipped(folder / "images.zip", {name: jpeg(90, 70, "blue") for name in names})
    rows = [{"image": name, "frozen": caption, "finetuned": caption} for name in names]
    table = pd.DataFrame(rows).assign(**{"frozen CIDEr": 0.1, "finetuned CIDEr": 0.2})
    table.to_csv(folder / "test.csv", index=False)
    items = [{"image": name, "split": "test", "raw": [caption] * 9, "ids": []} for name in names]
    (folder / "captions.jsonl").write_text("".join(json.dumps(item) + "\n" for item in items))
    inputs = {"images": "images.zip", "captions": "captions.jsonl", "generated": "test.csv"}
    return {key: folder / name for key, name in inputs.items()} | {"size": 32, "fit": "squash", "each": 1}


@pytest.mark.parametrize("caption", [CHINESE, "a dog runs over the grass " * 20, "w" * 300])
def test_text_stays_between_its_photo_and_the_next(tmp_path, caption):
    draw_samples(tmp_path / "samples.png", **world(tmp_path, caption))
    pixels = np.asarray(Image.open(tmp_path / "samples.png").convert("L")).astype(int)
    pixels = pixels[: 2 * CELL]  # below may be a note that the machine has no font
    assert (pixels[:, CELL + TEXT - 8 : CELL + TEXT + 8] == 255).all()  # between the two columns
    assert (pixels[:, -8:] == 255).all()
    assert (pixels[CELL - 8 : CELL + 8] == 255).all()  # between the two rows
    assert (pixels[8 : CELL - 8, CELL : CELL + TEXT - 8] < 128).any()


def test_the_picture_names_a_script_without_a_font(tmp_path, monkeypatch):
    monkeypatch.setattr(drawing, "font_files", lambda: iter(()))
    heights = []
    for caption in ("a dog", CHINESE):
        draw_samples(tmp_path / "samples.png", **world(tmp_path, caption))
        heights.append(Image.open(tmp_path / "samples.png").height)
    assert heights[0] == 2 * CELL < heights[1]


@pytest.mark.slow
def test_no_setting_of_matplotlib_changes_a_byte(tmp_path):
    given = world(tmp_path, "a dog runs")
    draw_samples(tmp_path / "here.png", **given)
    (tmp_path / "matplotlibrc").write_text("text.usetex: True\nfigure.dpi: 37\nfont.size: 30\nwrong\n")
    code = """
import json, sys
import captioner.results.report, captioner.use.explain
from captioner.results.pictures import draw_samples
draw_samples(sys.argv[1], **json.loads(sys.argv[2]))
sys.exit("matplotlib" in sys.modules)
"""
    command = [sys.executable, "-c", code, str(tmp_path / "there.png"), json.dumps(given, default=str)]
    for backend in ("module://matplotlib_inline.backend_inline", "nonsense"):
        settings = {"MPLBACKEND": backend, "MATPLOTLIBRC": str(tmp_path / "matplotlibrc")}
        subprocess.run(command, env=os.environ | settings, check=True)
        assert (tmp_path / "there.png").read_bytes() == (tmp_path / "here.png").read_bytes()
