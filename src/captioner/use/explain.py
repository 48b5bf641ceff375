"""Draw a picture that explains a caption: where the decoder looked at each word, the beams with their scores, and the
captions of similar training images."""

import math
import os
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image

from captioner.base.files import atomic_write
from captioner.results.drawing import Fonts, Style
from captioner.use.beams import Beams, attention_of, search_beams, similar_captions
from captioner.use.caption import BEAM, CONSENSUS, LENGTH_PENALTY, PhotoCaptioner

COLUMNS = 6
CELL, PANEL, TITLE = 240, 233, 36  # pixels: from panel to panel, the side of a panel, the height of the word over it
LINE, MARGIN = 24, 12  # pixels: of a line of text, around everything
TEXT, HEADING = Style("DejaVuSansMono.ttf", 15.0), Style("DejaVuSansMono.ttf", 16.5)
DARKEST = 0.15  # brightness of a panel where the decoder did not look
SHOWN = 3  # training images


class Line(NamedTuple):
    """A line of the text below the panels: columns of figures, and a wrapped text beside them."""

    columns: str
    text: str = ""


@torch.inference_mode()
def explain(
    describe: PhotoCaptioner,
    photo: str | Path,
    picture: str | Path,
    *,
    beam: int = BEAM,
    length_penalty: float = LENGTH_PENALTY,
    consensus: float = CONSENSUS,
) -> str:
    """Write a PNG about the caption of `photo` and return the caption.

    The first panel is the model's input. The next panels are for the words and the end of the caption. They are bright
    where the decoder looked when it chose the word (the mean over the attention heads). The place of the largest weight
    is as bright as the photo. Below are the beams, the chosen one first, and the captions of similar training images. A
    `consensus` of 0 chooses the likeliest caption. The picture says if the model has no attention or no training
    captions, and if the machine has no font for a script. Raises CaptionerError if the photo cannot be read or an
    option is out of range.
    """
    pixels = describe.read(photo)  # [S, S, 3]
    vocabulary = describe.card.vocabulary
    features = describe.features(pixels[None])
    memory = describe.captioner.decoder.encode(features)
    beams = search_beams(describe, features, memory, beam=beam, length_penalty=length_penalty, consensus=consensus)
    panels = [("the photo", pixels)]
    weights = attention_of(describe, memory, beams)  # [L, P]
    if weights is not None:
        for place, (id, each) in enumerate(zip(beams.best, weights, strict=True), 1):
            panels.append((f"{place}  {vocabulary.decode([id]) or '(end)'}", _lit(pixels, each)))
    lines = [Line("", os.fsencode(photo).decode(errors="replace")), Line("")]
    lines += _beam_lines(describe, beams, length_penalty, consensus)
    lines += _training_lines(describe, beams)
    if weights is None:
        lines.append(
            Line(
                "",
                "This model has no attention (decoder.attention: false). It encodes the photo as one vector, so there "
                "is no place where it looked.",
            )
        )
    _draw(picture, panels, lines)
    return vocabulary.decode(beams.best)


def _beam_lines(describe: PhotoCaptioner, beams: Beams, length_penalty: float, consensus: float) -> list[Line]:
    agreement = beams.agreement
    headings = f"{'score':>8}  {'probability':>11}  "
    lines = [Line(headings + ("" if agreement is None else f"{'agreement':>9}  {'total':>8}  "), "caption")]
    for place in beams.order:
        score = beams.scores[place]
        log_probability = score * beams.lengths[place] ** length_penalty
        columns = f"{score:8.3f}  {math.exp(log_probability):11.2g}  "
        if agreement is not None:
            columns += f"{agreement[place]:9.3f}  {beams.totals[place]:8.3f}  "
        lines.append(Line(columns, describe.card.vocabulary.decode(beams.words[place].tolist()) or "(no word)"))
    meaning = f"score: log-probability / (tokens with the end) ^ {length_penalty:g}"
    if agreement is None:
        meaning += ". This model has no training captions, so the caption with the highest score is chosen."
    else:
        meaning += (
            f"; agreement: CIDEr, 0 to 10, against the captions of {len(beams.near)} similar training images; "
            f"total: score + {consensus:g} * agreement. The caption with the highest total is chosen."
        )
    return [*lines, Line("", meaning)]


def _training_lines(describe: PhotoCaptioner, beams: Beams) -> list[Line]:
    similar = similar_captions(describe, beams, SHOWN)
    if not similar:
        return []
    lines = [Line(""), Line(f"{'share':>8}  ", "captions of the most similar training images")]
    return lines + [Line(f"{share:8.1%}  ", " / ".join(captions)) for share, captions in similar]


def _lit(pixels: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Return a square photo, uint8 [S, S, 3], darker where `weights` [P] of its square grid are small."""
    side = math.isqrt(len(weights))
    grid = Image.fromarray((weights / weights.max()).reshape(side, side).astype(np.float32))
    light = np.asarray(grid.resize(pixels.shape[1::-1], Image.Resampling.BICUBIC)).clip(0, 1)
    return (pixels * (DARKEST + (1 - DARKEST) * light[..., None])).astype(np.uint8)


def _draw(picture: str | Path, panels: list[tuple[str, np.ndarray]], lines: list[Line]) -> None:
    """Write the PNG: a grid of panels [S, S, 3] with their titles, and the lines below them."""
    fonts = Fonts([title for title, _ in panels] + [line.text for line in lines])
    lines = [*lines, *(Line("", note) for note in fonts.notes())]
    width = COLUMNS * CELL + 2 * MARGIN
    rows = []  # the texts of each line with their left ends
    for columns, text in lines:
        left = MARGIN + fonts.length(columns, TEXT)
        wrapped = fonts.wrap(text, TEXT, width - MARGIN - left)
        rows += [[(MARGIN, columns), (left, wrapped[0])], *([(left, more)] for more in wrapped[1:])]
    top = MARGIN + math.ceil(len(panels) / COLUMNS) * (TITLE + CELL)
    image = Image.new("RGB", (width, top + len(rows) * LINE + MARGIN), "white")
    for place, (title, pixels) in enumerate(panels):
        row, column = divmod(place, COLUMNS)
        x, y = MARGIN + column * CELL, MARGIN + row * (TITLE + CELL)
        (word,) = fonts.wrap(title, HEADING, PANEL, most=1)
        middle = x + (PANEL - fonts.length(word, HEADING)) / 2
        fonts.draw(image, (middle, y + 0.7 * TITLE), word, HEADING, "black")
        image.paste(Image.fromarray(pixels).resize((PANEL, PANEL), Image.Resampling.BICUBIC), (x, y + TITLE))
    for number, row_texts in enumerate(rows):
        for left, text in row_texts:
            fonts.draw(image, (left, top + (number + 0.75) * LINE), text, TEXT, "black")
    with atomic_write(picture) as temporary:
        image.save(temporary, "PNG")
