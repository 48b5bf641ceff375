"""Draws test images with what was said about them: `pictures/samples.png`."""

import math
import textwrap
from pathlib import Path

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from captioner.base.errors import CaptionerError
from captioner.base.files import whole
from captioner.captions.dataset import read_captions
from captioner.sources.archives import Archive
from captioner.vision.photos import load_photo

KINDS = {"good": 0.90, "typical": 0.45, "bad": 0.0}  # where each tenth of the ranking begins
TENTH = 0.1
COLUMNS = 2
SIDE, TEXT, LINE_HEIGHT = 2.6, 3.6, 0.155  # inches: of a photo, of the text beside it, of a line
REFERENCES = 5  # for more there is no room
LETTERS = 50  # of a line, beside a photo
DPI = 100


def choose(ciders: pd.Series, each: int) -> dict[str, list[str]]:
    """Choose `each` images of each kind by the CIDEr of their fine-tuned caption, evenly from the tenth of the
    ranking that is best (good), in the middle (typical) and worst (bad).

    No image is chosen by eye. Ties go by name; from a short list fewer than `each` may come.
    """
    ranking = ciders.rename_axis("image").reset_index(name="CIDEr").sort_values(["CIDEr", "image"])["image"].tolist()
    window = min(len(ranking), max(each, round(TENTH * len(ranking))))
    chosen = {}
    for kind, begin in KINDS.items():
        first = min(round(begin * len(ranking)), len(ranking) - window)
        places = np.unique(np.linspace(first, first + window - 1, min(each, window)).round().astype(int))
        chosen[kind] = [ranking[place] for place in places]
    return chosen


def draw_samples(
    path: str | Path, *, images: str | Path, captions: str | Path, generated: str | Path, size: int, fit: str, each: int
) -> None:
    """Write the picture: `each` test images of each kind, good ones first, and beside each the frozen and the
    fine-tuned caption with their CIDEr (x100) and the first references."""
    table = pd.read_csv(generated, index_col="image", keep_default_na=False, dtype={"frozen": str, "finetuned": str})
    references = {item.image: item.raw for item in read_captions(captions)}
    archive = Archive(images)
    chosen = [(kind, name) for kind, names in choose(table["finetuned CIDEr"], each).items() for name in names]
    rows = math.ceil(len(chosen) / COLUMNS)
    with matplotlib.rc_context({"font.family": "DejaVu Sans", "font.size": 8.5}):
        figure = Figure(figsize=(COLUMNS * (SIDE + TEXT), rows * SIDE), dpi=DPI, facecolor="white")
        for place, (kind, name) in enumerate(chosen):
            row, column = divmod(place, COLUMNS)
            left, bottom = column / COLUMNS, 1 - (row + 1) / rows
            wide, high = SIDE / (COLUMNS * (SIDE + TEXT)), 1 / rows
            axis = figure.add_axes((left + 0.03 * wide, bottom + 0.03 * high, 0.94 * wide, 0.94 * high))
            axis.set_axis_off()
            try:
                axis.imshow(load_photo(archive.read(name), size=max(size, int(DPI * SIDE)), fit=fit))
            except ValueError as error:
                raise CaptionerError(f"{images}: {name}: {error}") from None
            said = table.loc[name]
            blocks = [
                (f"{kind}   {name}", "black", "bold"),
                (_wrap("frozen", said["frozen"], said["frozen CIDEr"]), "#a04000", "normal"),
                (_wrap("fine-tuned", said["finetuned"], said["finetuned CIDEr"]), "#0b5394", "bold"),
                ("\n".join(_wrap("-", text) for text in references[name][:REFERENCES]), "#444444", "normal"),
            ]
            top = bottom + 0.96 * high
            for text, colour, weight in blocks:
                figure.text(left + wide * 1.02, top, text, color=colour, weight=weight, va="top", parse_math=False)
                top -= (text.count("\n") + 1) * LINE_HEIGHT / (rows * SIDE) + 0.015 * high
        with whole(path) as beside:
            figure.savefig(beside, metadata={"Software": None})


def _wrap(who: str, text: str, cider: float | None = None) -> str:
    # a reference's full stop is a word of its own, and would stand on a line of its own
    start, lines = (who, 2) if cider is None else (f"{who} (CIDEr {100 * cider:.0f}):", 3)
    kept = text.replace(" .", "\N{NO-BREAK SPACE}.")
    return "\n".join(textwrap.wrap(f"{start} {kept}", LETTERS, subsequent_indent="  ", max_lines=lines))
