"""Draws test images with what was said about them: `pictures/samples.png`."""

import textwrap
from pathlib import Path

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from captioner.archives import Archive
from captioner.dataset import read_captions
from captioner.errors import CaptionerError
from captioner.files import whole
from captioner.photos import load_photo

KINDS = {"good": 0.90, "typical": 0.45, "bad": 0.0}  # where each tenth of the ranking begins
TENTH = 0.1
PIXELS = 320  # a side of a shown photo
LINE = 50  # letters


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
    path: str | Path,
    *,
    images: str | Path,
    captions: str | Path,
    generated: str | Path,
    size: int,
    fit: str,
    each: int,
) -> None:
    """Write the picture: a row of `each` images for good, typical and bad captions, under each image the
    frozen and the fine-tuned caption with their CIDEr (x100) and the references."""
    table = pd.read_csv(generated, index_col="image", keep_default_na=False)
    references = {item.image: item.raw for item in read_captions(captions)}
    archive = Archive(images)
    chosen = choose(table["finetuned CIDEr"], each)
    columns = max(map(len, chosen.values()))
    with matplotlib.rc_context({"font.family": "DejaVu Sans", "font.size": 9}):
        figure = Figure(figsize=(4.2 * columns, 6.3 * len(chosen)), dpi=100, facecolor="white", layout="constrained")
        axes = figure.subplots(len(chosen), columns, squeeze=False)
        for row, (kind, names) in zip(axes, chosen.items(), strict=True):
            for axis in row:
                axis.set_axis_off()
            for axis, name in zip(row, names, strict=False):
                try:
                    photo = load_photo(archive.read(name), size=max(size, PIXELS), fit=fit)
                except ValueError as error:
                    raise CaptionerError(f"{images}: {name} is not a photo that can be read ({error})") from None
                axis.imshow(photo, interpolation="nearest")
                axis.set_title(kind, loc="left", fontweight="bold")
                said = table.loc[name]
                lines = [
                    _wrap("frozen", said["frozen"], said["frozen CIDEr"]),
                    _wrap("fine-tuned", said["finetuned"], said["finetuned CIDEr"]),
                    *(_wrap("reference", text) for text in references[name]),
                ]
                axis.text(0, -0.02, "\n".join(lines), transform=axis.transAxes, va="top", parse_math=False)
        with whole(path) as beside:
            figure.savefig(beside, metadata={"Software": None})


def _wrap(who: str, text: str, cider: float | None = None) -> str:
    mark = "" if cider is None else f" [CIDEr {100 * cider:.0f}]"
    return "\n".join(textwrap.wrap(f"{who}: {text}{mark}", LINE, subsequent_indent="    ", max_lines=3))
