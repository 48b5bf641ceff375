"""Draw test images with their captions and references: `pictures/samples.png`."""

import math
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
from PIL import Image

from captioner.base.errors import CaptionerError
from captioner.base.files import atomic_write
from captioner.captions.dataset import read_captions
from captioner.results.drawing import Fonts, Style
from captioner.sources.archives import Archive
from captioner.vision.photos import load_photo

KINDS = {"good": 1.0, "typical": 0.5, "bad": 0.0}  # where each kind's tenth of the ranking is, from worst to best
TENTH = 0.1
COLUMNS = 2
CELL, PHOTO, TEXT = 260, 244, 360  # pixels: the height of a row, the side of a photo, the width of the text beside it
MARGIN = (CELL - PHOTO) // 2
LINE, GAP, INDENT = 15.5, 4.0, 8.0  # pixels: from line to line, between captions, of a caption's further lines
PLAIN, BOLD = Style("DejaVuSans.ttf", 11.8), Style("DejaVuSans-Bold.ttf", 11.8)
CAPTION_LINES, REFERENCE_LINES = 3, 2  # of one text, at most


class Paragraph(NamedTuple):
    """A text beside a photo, and its look."""

    text: str
    style: Style
    colour: str
    lines: int  # at most


def choose(ciders: pd.Series, each: int) -> dict[str, list[str]]:
    """Choose `each` images of each kind by the CIDEr of their fine-tuned caption: from the best tenth of the ranking
    (good), from the tenth in the middle (typical) and from the worst (bad), evenly spaced.

    No image is chosen by eye. Images with the same CIDEr are ordered by name. A short ranking has fewer than `each`
    images of a kind; an image is of two kinds only if there are fewer than three.
    """
    ranking = ciders.rename_axis("image").reset_index(name="CIDEr").sort_values(["CIDEr", "image"])["image"].tolist()
    window = min(max(1, len(ranking) // len(KINDS)), max(each, round(TENTH * len(ranking))))
    chosen = {}
    for kind, part in KINDS.items():
        first = round(part * (len(ranking) - window))
        places = np.unique(np.linspace(first, first + window - 1, min(each, window)).round().astype(int))
        chosen[kind] = [ranking[place] for place in places]
    return chosen


def draw_samples(
    path: str | Path, *, images: str | Path, captions: str | Path, generated: str | Path, size: int, fit: str, each: int
) -> None:
    """Write the picture, a PNG: `each` test images of each kind, good ones first.

    Beside an image are the frozen and the fine-tuned caption with their CIDEr (x100), and as many references as fit.
    Photos are the encoder's inputs (`size` in pixels, `fit`). If the machine lacks a font, the lower edge of the
    picture says so (`captioner.results.drawing`). Raises CaptionerError if a photo cannot be read.
    """
    table = pd.read_csv(generated, index_col="image", keep_default_na=False, dtype={"frozen": str, "finetuned": str})
    references = {item.image: item.raw for item in read_captions(captions)}
    archive = Archive(images)
    chosen = [(kind, name) for kind, names in choose(table["finetuned CIDEr"], each).items() for name in names]
    texts = [_paragraphs(kind, name, table.loc[name], references[name]) for kind, name in chosen]
    fonts = Fonts(paragraph.text for paragraphs in texts for paragraph in paragraphs)
    width = COLUMNS * (CELL + TEXT)
    notes = [line for note in fonts.notes() for line in fonts.wrap(note, PLAIN, width - 2 * MARGIN)]
    height = math.ceil(len(chosen) / COLUMNS) * CELL
    picture = Image.new("RGB", (width, height + math.ceil(len(notes) * LINE) + (MARGIN if notes else 0)), "white")
    for place, ((_, name), paragraphs) in enumerate(zip(chosen, texts, strict=True)):
        row, column = divmod(place, COLUMNS)
        left, top = column * (CELL + TEXT), row * CELL
        try:
            photo = Image.fromarray(load_photo(archive.read(name), size=max(size, PHOTO), fit=fit))
        except ValueError as error:
            raise CaptionerError(f"{images}: {name}: {error}") from None
        picture.paste(photo.resize((PHOTO, PHOTO), Image.Resampling.LANCZOS), (left + MARGIN, top + MARGIN))
        _draw_paragraphs(picture, (left + CELL, top + MARGIN), paragraphs, fonts)
    for number, note in enumerate(notes, 1):
        fonts.draw(picture, (MARGIN, height + number * LINE), note, PLAIN, "black")
    with atomic_write(path) as temporary:
        picture.save(temporary, "PNG")


def _paragraphs(kind: str, name: str, row: pd.Series, references: list[str]) -> list[Paragraph]:
    def scored(label: str, column: str) -> str:
        return f"{label} (CIDEr {100 * row[f'{column} CIDEr']:.0f}): {row[column]}"

    return [
        Paragraph(f"{kind}   {name}", BOLD, "black", 1),
        Paragraph(scored("frozen", "frozen"), PLAIN, "#a04000", CAPTION_LINES),
        Paragraph(scored("fine-tuned", "finetuned"), BOLD, "#0b5394", CAPTION_LINES),
        # A reference may end in a space and a full stop, which would be alone on a line.
        *(
            Paragraph(f"- {text.replace(' .', chr(0xA0) + '.')}", PLAIN, "#444444", REFERENCE_LINES)
            for text in references
        ),
    ]


def _draw_paragraphs(picture: Image.Image, at: tuple[float, float], paragraphs: list[Paragraph], fonts: Fonts) -> None:
    """Draw paragraphs below one another from the upper left corner `at`; leave out paragraphs that do not fit."""
    left, top = at
    bottom = top + PHOTO
    for paragraph in paragraphs:
        width = TEXT - 2 * MARGIN
        lines = fonts.wrap(paragraph.text, paragraph.style, width, indent=INDENT, most=paragraph.lines)
        if top + len(lines) * LINE > bottom:
            break
        for number, line in enumerate(lines):
            start = left + (INDENT if number else 0)
            fonts.draw(picture, (start, top + 0.8 * LINE), line, paragraph.style, paragraph.colour)
            top += LINE
        top += 0 if paragraph.text.startswith("- ") else GAP
