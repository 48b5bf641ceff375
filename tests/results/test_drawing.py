"""Text on pictures: a font for each script, lines no wider than their room, and no setting of matplotlib's."""

import numpy as np
import pytest
from fontTools.fontBuilder import FontBuilder
from fontTools.pens.ttGlyphPen import TTGlyphPen
from fontTools.ttLib import TTFont
from fontTools.ttLib.tables.TupleVariation import TupleVariation
from PIL import Image, features

from captioner.results import drawing
from captioner.results.drawing import Fonts, Style

STYLE = Style("DejaVuSans.ttf", 12.0)
TEXTS = {
    "English": "a brown dog runs over the green grass with a red ball",
    "Chinese": "一只棕色的狗在绿色的草地上奔跑，嘴里叼着一个红色的球。",  # noqa: RUF001
    "Devanagari": "दो कुत्ते बर्फ में खेल रहे हैं और एक आदमी देख रहा है ।",
    "Arabic": "كلب بني يركض في العشب الأخضر ويحمل كرة حمراء",
    "emoji": "a dog 🐕 and a family 👨‍👩‍👧 in the sun ☀️",
    "no space": "averyverylongwordthatneverendsbutgoesonandonandonandon",
}


@pytest.fixture
def machine(monkeypatch):
    """Let the machine have these fonts and no others."""
    return lambda *paths: monkeypatch.setattr(drawing, "font_files", lambda: iter(map(str, paths)))


def font_of(path, characters, width=500):
    """Write a font whose glyphs are all squares; return its path."""
    pen = TTGlyphPen(None)
    for place, corner in enumerate([(0, 0), (0, 400), (400, 400), (400, 0)]):
        pen.lineTo(corner) if place else pen.moveTo(corner)
    pen.closePath()
    names = [".notdef", *(f"g{ord(character):x}" for character in characters)]
    builder = FontBuilder(1000)
    builder.setupGlyphOrder(names)
    builder.setupCharacterMap({ord(character): f"g{ord(character):x}" for character in characters})
    builder.setupGlyf(dict.fromkeys(names, pen.glyph()))
    builder.setupHorizontalMetrics(dict.fromkeys(names, (width, 0)))
    builder.setupHorizontalHeader(ascent=800, descent=-200)
    builder.setupNameTable({"familyName": path.stem, "styleName": "Regular"})
    builder.setupOS2()
    builder.setupPost()
    builder.save(path)
    return path


@pytest.mark.parametrize("text", TEXTS.values(), ids=TEXTS)
@pytest.mark.parametrize("width", [60, 150])
def test_no_line_is_wider_than_its_room_and_no_letter_is_lost(text, width):
    fonts = Fonts([text])
    lines = fonts.wrap(text, STYLE, width, indent=8)
    assert len(lines) > 1
    assert fonts.length(lines[0], STYLE) <= width
    assert all(fonts.length(line, STYLE) <= width - 8 for line in lines[1:])
    assert "".join(lines).replace(" ", "") == text.replace(" ", "")
    if text == TEXTS["English"]:
        assert " ".join(lines) == text  # split at spaces only


def test_what_is_drawn_lies_within_the_measured_width():
    for text in TEXTS.values():
        fonts = Fonts([text])
        picture = Image.new("RGB", (900, 40), "white")
        fonts.draw(picture, (20, 25), text, STYLE, "black")
        left, _, right, _ = Image.eval(picture.convert("L"), lambda level: 255 - level).getbbox()
        assert left >= 18
        assert right <= 22 + fonts.length(text, STYLE)


def test_marks_and_joined_emoji_stay_together():
    text = "👨‍👩‍👧" * 9
    for line in Fonts([text]).wrap(text, STYLE, 40):
        assert line.replace("👨‍👩‍👧", "") == ""
    lines = Fonts(["हैं" * 30]).wrap("हैं" * 30, STYLE, 50)
    assert all(line.startswith("ह") for line in lines)


def test_chinese_punctuation_does_not_begin_a_line():
    text = "草地上，" * 20  # noqa: RUF001
    for width in range(30, 90, 7):
        assert not any(line.startswith("，") for line in Fonts([text]).wrap(text, STYLE, width))  # noqa: RUF001


def test_a_zero_width_space_ends_a_line_and_reaches_no_font():
    text = "aaaa\u200bbbbb"
    fonts = Fonts([text])
    assert fonts.wrap(text, STYLE, fonts.length("aaaabb", STYLE)) == ["aaaa\u200b", "bbbb"]
    assert "".join(run for run, _ in fonts._runs(text, STYLE)) == "aaaabbbb"


def test_a_text_of_too_many_lines_ends_in_an_ellipsis():
    fonts = Fonts([TEXTS["English"]])
    lines = fonts.wrap(TEXTS["English"], STYLE, 100, most=2)
    assert len(lines) == 2
    assert lines[1].endswith("…")
    assert fonts.length(lines[1], STYLE) <= 100
    assert fonts.wrap("short", STYLE, 100, most=1) == ["short"]


def test_a_script_without_a_font_is_named_once(machine):
    machine()
    fonts = Fonts([TEXTS["Chinese"], TEXTS["Devanagari"], TEXTS["Chinese"]])
    (note,) = fonts.notes()
    assert note.count("Han") == note.count("Devanagari") == 1
    assert Fonts([TEXTS["English"], TEXTS["Arabic"]]).missing == []  # DejaVu has these


def test_the_machines_font_that_has_the_letters_is_used(machine, tmp_path):
    other, plain = font_of(tmp_path / "Other.ttf", "ক"), font_of(tmp_path / "Plain.ttf", "কখ", width=2000)
    (tmp_path / "Broken.ttf").write_bytes(b"no font")
    machine(tmp_path / "Broken.ttf", other, plain)
    fonts = Fonts(["a কখ"])
    assert fonts.notes() == []
    assert fonts.length("কখ", STYLE) == pytest.approx(2 * 2000 / 1000 * STYLE.size, rel=0.01)
    machine(other)
    assert Fonts(["কখ"]).missing == ["Bengali"]


def test_damaged_fonts_are_passed_over(machine, tmp_path):
    content = font_of(tmp_path / "Plain.ttf", "কখ").read_bytes()
    rng = np.random.default_rng(0)
    paths = []
    for number in range(60):
        damaged = bytearray(content[: rng.integers(1, len(content))] if number % 2 else content)
        for place in rng.integers(0, len(damaged), 8):
            damaged[place] = rng.integers(256)
        paths.append(tmp_path / f"Damaged{number}.{'ttc' if number % 3 == 0 else 'ttf'}")
        paths[-1].write_bytes(damaged)
    machine(*paths)
    fonts = Fonts(["কখ"])
    fonts.draw(Image.new("RGB", (99, 20)), (0, 15), "কখ", STYLE, "white")


def test_the_same_fonts_in_another_order_make_the_same_choice(machine, tmp_path):
    paths = [font_of(tmp_path / f"{name}.ttf", "ক", width) for name, width in (("A-Bold", 100), ("B", 300), ("C", 500))]
    for order in (paths, paths[::-1]):
        machine(*order)
        assert Fonts(["ক"]).length("ক", STYLE) == pytest.approx(0.3 * STYLE.size, rel=0.05)


def test_control_characters_and_broken_names_can_be_drawn():
    text = "bad\udcff\nname\t\x00"
    fonts = Fonts([text])
    (line,) = fonts.wrap(text, STYLE, 500)
    assert line == "bad\ufffd\ufffdname\ufffd\ufffd"
    fonts.draw(Image.new("RGB", (99, 20)), (0, 15), text, STYLE, "white")


@pytest.mark.parametrize("raqm", [True, False])
def test_letters_that_are_not_joined_are_mentioned(raqm, monkeypatch, machine):
    monkeypatch.setattr(features, "check", lambda name: raqm)
    assert Fonts([TEXTS["Arabic"]]).unjoined == ([] if raqm else ["Arabic"])
    assert Fonts([TEXTS["English"]]).notes() == []


@pytest.mark.parametrize(("variations", "wanted"), [([], 500), (["Thin"], 500), (["Thin", "Regular"], 700)])
def test_a_variable_font_is_drawn_in_its_regular_variation(tmp_path, variations, wanted):
    path = font_of(tmp_path / "font.ttf", "a")
    if variations:
        weights = {"Thin": 100, "Regular": 400}
        with TTFont(path) as font:
            builder = FontBuilder(font=font)
            named = [{"stylename": name, "location": {"wght": weights[name]}} for name in variations]
            builder.setupFvar([("wght", 100, 100, 400, "Weight")], named)
            wider = [(0, 0)] * 5 + [(200, 0), (0, 0), (0, 0)]  # four corners, then the ends of the advance
            builder.setupGvar({"g61": [TupleVariation({"wght": (0.0, 1.0, 1.0)}, wider)]})
            font.save(path)
    assert drawing._font(str(path), 1000).getlength("a") == pytest.approx(wanted, abs=1)
