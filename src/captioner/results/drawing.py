"""Draw text of any script on a picture, by Pillow.

The fonts are the DejaVu fonts in the package matplotlib. matplotlib itself is not imported, so neither a matplotlibrc
nor `MPLBACKEND` changes a byte of a picture. A letter that DejaVu lacks is drawn in a font of the machine. The
machine's fonts are read only if a text has such a letter.

Limits
    To join and order the letters of Arabic, Devanagari, Bengali and similar scripts, Pillow needs Raqm, which its
    wheels contain, and FriBiDi, which the machine may lack. Without it the letters are not joined, and `Fonts.notes`
    says so.
    A line with several fonts is drawn from left to right, font by font. So words on both sides of an emoji in an
    Arabic line change places.
    A Han character has its Japanese shape if the first face of a collection of fonts is Japanese.
"""

import functools
import importlib.util
import os
import sys
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby
from pathlib import Path
from typing import NamedTuple

from fontTools import unicodedata as scripts
from fontTools.ttLib import TTCollection, TTFont
from PIL import Image, ImageDraw, ImageFont, features

from captioner.base.errors import CaptionerError

SUFFIXES = (".ttf", ".otf", ".ttc", ".otc")
UNWANTED = ("bold", "italic", "oblique", "condensed", "light", "thin", "black", "medium", "mono", "serif", "slant")
BITMAP_SIZES = (109, 136, 160)  # pixels: the only sizes of Noto's and of Apple's colour emoji
JOINED = {
    "Arab",
    "Beng",
    "Deva",
    "Gujr",
    "Guru",
    "Hebr",
    "Khmr",
    "Knda",
    "Mlym",
    "Mymr",
    "Orya",
    "Sinh",
    "Taml",
    "Telu",
}
UNSPACED = {"Hani", "Hira", "Kana", "Bopo"}  # scripts whose words have no spaces between them
ELLIPSIS = "…"
ZERO_WIDTH_SPACE = "\u200b"


class Style(NamedTuple):
    """The look of a text: a DejaVu font file, and the size in pixels."""

    file: str
    size: float


class Face(NamedTuple):
    """A font file and the characters that it has a glyph for."""

    path: str
    characters: frozenset[int]

    def has(self, text: str) -> bool:
        """Return whether all visible characters of `text` have a glyph."""
        return all(ord(character) in self.characters for character in text if not _invisible(character))


class Fonts:
    """Fonts for `texts`: DejaVu, and fonts of the machine for the characters that DejaVu lacks.

    Sizes and positions are in pixels.
    """

    def __init__(self, texts: Iterable[str]) -> None:
        characters = set(_clean("".join(texts)))
        needed = {ord(character) for character in characters if not _invisible(character)}
        lacking = needed - _dejavu("DejaVuSans.ttf").characters
        self._fallbacks = _covering(lacking) if lacking else []
        drawable = frozenset[int]().union(*(face.characters for face in self._fallbacks))
        self.missing = sorted({_script_name(chr(code)) for code in lacking - drawable})
        joined = {scripts.script(character) for character in characters} & JOINED
        self.unjoined = [] if features.check("raqm") else sorted(scripts.script_name(script) for script in joined)

    def notes(self) -> list[str]:
        """Return sentences about missing fonts for the reader of the picture; usually none."""
        notes = []
        if self.missing:
            notes.append(
                f"Boxes are shown where this machine has no font: {', '.join(self.missing)}. "
                "The Noto fonts have all scripts."
            )
        if self.unjoined:
            notes.append(f"Letters are not joined, because this machine has no FriBiDi: {', '.join(self.unjoined)}.")
        return notes

    def length(self, text: str, style: Style) -> float:
        """Return the width of a line of text."""
        return sum(_length(run, face, style.size) for run, face in self._runs(text, style))

    def wrap(self, text: str, style: Style, width: float, *, indent: float = 0, most: int | None = None) -> list[str]:
        """Split a text into lines of at most `width`, and `width - indent` after the first line.

        Lines are split at spaces, also of zero width, between Chinese or Japanese characters, and inside a word that is
        wider than a line. A text of more than `most` lines ends in an ellipsis.
        """
        lines = [""]
        for piece in _pieces(_clean(text)):
            room = width - (indent if len(lines) > 1 else 0)
            if self.length((lines[-1] + piece).rstrip(" "), style) <= room:
                lines[-1] += piece
                continue
            if lines[-1]:
                lines.append("")
            for cluster in _clusters(piece):  # more than one line if the piece is wider than a line
                room = width - (indent if len(lines) > 1 else 0)
                if lines[-1] and self.length((lines[-1] + cluster).rstrip(" "), style) > room:
                    lines.append("")
                lines[-1] += cluster
        lines = [line.rstrip(" ") for line in lines]
        if most is not None and len(lines) > most:
            lines = lines[:most]
            room = width - (indent if most > 1 else 0)
            clusters = list(_clusters(lines[-1]))
            while clusters and self.length("".join(clusters).rstrip() + ELLIPSIS, style) > room:
                clusters.pop()
            lines[-1] = "".join(clusters).rstrip() + ELLIPSIS
        return lines

    def draw(self, picture: Image.Image, at: tuple[float, float], text: str, style: Style, colour: str) -> None:
        """Draw a line of text on an RGB picture; `at` is the left end of its base line."""
        x, y = at
        for run, face in self._runs(text, style):
            font = _font(face.path, style.size)
            if font.size != style.size:  # a bitmap font
                _draw_bitmap(picture, (x, y), run, font, style.size)
            else:
                ImageDraw.Draw(picture).text((x, y), run, colour, font, anchor="ls", embedded_color=True)
            x += _length(run, face, style.size)

    def _runs(self, text: str, style: Style) -> list[tuple[str, Face]]:
        """Split a line into parts of one face. A run of one script has one face if a face has all its characters."""
        faces = [_dejavu(style.file), _dejavu("DejaVuSans.ttf"), *self._fallbacks]
        parts: list[tuple[str, Face]] = []
        for stretch in _stretches(_clean(text).replace(ZERO_WIDTH_SPACE, "")):  # some fonts have a box for it
            single = _first(faces, stretch)
            if single is not None:
                parts.append((stretch, single))
            else:
                # A space is in the first face, because an emoji font's space is wide.
                for cluster in _clusters(stretch):
                    parts.append((cluster, _first(faces, cluster) or faces[0]))
        return [("".join(run for run, _ in group), face) for face, group in groupby(parts, lambda part: part[1])]


def _first(faces: Sequence[Face], text: str) -> Face | None:
    return next((face for face in faces if face.has(text)), None)


@functools.cache
def _font(path: str, size: float) -> ImageFont.FreeTypeFont:
    """Return a font of `size`; a font with only bitmaps has one of BITMAP_SIZES instead."""
    for possible in (size, *BITMAP_SIZES):
        try:
            font = ImageFont.truetype(path, possible)
        except OSError:
            continue
        if "Regular" in _variations(font):  # the default may be the thinnest
            font.set_variation_by_name("Regular")
        return font
    raise OSError(f"{path}: not a font that Pillow can read")


def _variations(font: ImageFont.FreeTypeFont) -> list[str]:
    """Return the names of a variable font's variations; none for other fonts."""
    try:
        return [name.decode(errors="replace") for name in font.get_variation_names()]
    except OSError:  # Pillow's answer for a font without variations
        return []


def _length(text: str, face: Face, size: float) -> float:
    font = _font(face.path, size)
    return font.getlength(text) * size / font.size


def _draw_bitmap(
    picture: Image.Image, at: tuple[float, float], text: str, font: ImageFont.FreeTypeFont, size: float
) -> None:
    """Draw coloured bitmaps of the font's size, scaled down to `size`."""
    scale = size / font.size
    left, top, right, bottom = font.getbbox(text, anchor="ls")
    glyphs = Image.new("RGBA", (max(1, round(right - left)), max(1, round(bottom - top))))
    ImageDraw.Draw(glyphs).text((-left, -top), text, font=font, anchor="ls", embedded_color=True)
    small = glyphs.resize((max(1, round(glyphs.width * scale)), max(1, round(glyphs.height * scale))))
    picture.paste(small, (round(at[0] + left * scale), round(at[1] + top * scale)), small)


@functools.cache
def _dejavu(file: str) -> Face:
    """Return the path of a DejaVu font: matplotlib's, or else the machine's.

    Raises CaptionerError if neither exists.
    """
    spec = importlib.util.find_spec("matplotlib")  # does not import it
    folders = (spec.submodule_search_locations if spec else None) or []
    paths = [Path(folder, "mpl-data", "fonts", "ttf", file) for folder in folders]
    paths = paths or [Path(path) for path in font_files() if Path(path).name == file]
    for path in paths:
        if path.exists():
            return Face(str(path), _characters(str(path)))
    raise CaptionerError(f"{file}: font not found; it comes with matplotlib: pip install matplotlib")


@functools.cache
def _characters(path: str) -> frozenset[int]:
    """Return the code points for which a font file has a glyph; none for a broken file."""
    try:
        if path.lower().endswith((".ttc", ".otc")):
            with TTCollection(path, lazy=True) as collection:
                return frozenset(collection.fonts[0].getBestCmap() or ())
        with TTFont(path, lazy=True) as font:
            return frozenset(font.getBestCmap() or ())
    except Exception:  # broken fonts raise errors of many kinds
        return frozenset()


def _covering(needed: set[int]) -> list[Face]:
    """Return the machine's faces that together have as many `needed` code points as possible, best first."""
    faces = [Face(path, _characters(path)) for path in sorted(font_files(), key=_rank)]
    chosen: list[Face] = []
    while faces:
        best = max(faces, key=lambda face: len(face.characters & needed))  # if equal, the first
        if not best.characters & needed:
            break
        faces.remove(best)
        if _readable(best.path):
            chosen.append(best)
            needed = needed - best.characters
    return chosen


def _readable(path: str) -> bool:
    try:
        _font(path, 12.0)
    except OSError:
        return False
    return True


def _rank(path: str) -> tuple[int, bool, str]:
    """Return the sort key of a font: plain faces first, then Noto Sans, then by name."""
    name = Path(path).name.lower()
    serif = "serif" in name and "sansserif" not in name
    return sum(word in name for word in UNWANTED if word != "serif") + serif, not name.startswith("notosans"), path


def font_files() -> Iterator[str]:
    """Yield the paths of the machine's fonts, including the user's own."""
    home = Path(os.path.expanduser("~"))  # unlike Path.home(), raises no error without a home folder
    if sys.platform == "win32":
        folders = [
            Path(os.environ.get("WINDIR", r"C:\Windows"), "Fonts"),
            home / "AppData/Local/Microsoft/Windows/Fonts",
        ]
    elif sys.platform == "darwin":
        folders = [Path("/System/Library/Fonts"), Path("/Library/Fonts"), home / "Library/Fonts"]
    else:
        data = os.environ.get("XDG_DATA_DIRS") or "/usr/local/share:/usr/share"
        folders = [home / ".local/share/fonts", home / ".fonts", *(Path(path, "fonts") for path in data.split(":"))]
    for folder in folders:
        for path in folder.rglob("*"):
            if path.suffix.lower() in SUFFIXES:
                yield str(path)


def _clean(text: str) -> str:
    """Replace control characters, and bytes of a file name that are not UTF-8."""
    return "".join("\N{REPLACEMENT CHARACTER}" if unicodedata.category(c) in ("Cc", "Cs") else c for c in text)


def _invisible(character: str) -> bool:
    return unicodedata.category(character) in ("Zs", "Cf") or "\ufe00" <= character <= "\ufe0f"


def _script_name(character: str) -> str:
    script = scripts.script(character)
    if script in ("Zyyy", "Zinh", "Zzzz"):
        return "emoji and symbols" if unicodedata.category(character)[0] == "S" else "punctuation"
    return "Han (Chinese characters)" if script == "Hani" else scripts.script_name(script)


def _clusters(text: str) -> Iterator[str]:
    """Split a text into parts that must stay together: a letter with its marks, an Indic syllable, a joined emoji."""
    cluster = ""
    for character in text:
        mark = unicodedata.category(character)[0] == "M" or _joins(character)
        if cluster and not (mark or cluster[-1] == "\u200d" or unicodedata.combining(cluster[-1]) == 9):  # a virama
            yield cluster
            cluster = ""
        cluster += character
    if cluster:
        yield cluster


def _joins(character: str) -> bool:
    return character == "\u200d" or "\ufe00" <= character <= "\ufe0f" or "\U0001f3fb" <= character <= "\U0001f3ff"


def _stretches(text: str) -> Iterator[str]:
    """Split a text where the script changes; characters without a script stay with the text before them."""
    stretch, current = "", None
    for character in text:
        script = scripts.script(character)
        if script not in ("Zyyy", "Zinh") and current not in (None, script):
            yield stretch
            stretch, current = "", None
        current = current if script in ("Zyyy", "Zinh") else script
        stretch += character
    if stretch:
        yield stretch


def _pieces(text: str) -> Iterator[str]:
    """Split a text into unbreakable parts: words with the spaces after them, also of zero width, and Han characters
    with the punctuation after them."""
    piece = ""
    for cluster in _clusters(text):
        unspaced = scripts.script(cluster[0]) in UNSPACED
        after_unspaced = bool(piece) and any(scripts.script(character) in UNSPACED for character in piece)
        closing = unicodedata.category(cluster[0])[0] == "P" and unicodedata.category(cluster[0]) not in ("Ps", "Pi")
        breaks = piece.endswith((" ", ZERO_WIDTH_SPACE)) or unspaced or after_unspaced
        if piece and cluster != " " and not closing and breaks:
            yield piece
            piece = ""
        piece += cluster
    if piece:
        yield piece
