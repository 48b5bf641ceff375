"""A picture of how a caption came about: where the decoder looked at each word, the beams with their scores, and what
was written about the training images that look alike."""

import math
import os
import textwrap
from pathlib import Path

import matplotlib
import numpy as np
import torch
from matplotlib.figure import Figure
from PIL import Image

from captioner.base.files import whole
from captioner.captions.vocabulary import BOS, PAD, Vocabulary
from captioner.model.attention import attention_weights
from captioner.model.consensus import total
from captioner.model.search import beam_search
from captioner.use.caption import BEAM, CONSENSUS, PhotoCaptioner

COLUMNS = 6
SIDE, WORD, LINE, MARGIN = 2.0, 0.3, 0.2, 0.1  # inches: of a panel, of the word over it, of a line of text, around all
LETTERS = 130  # of a line
DARKEST = 0.15  # of a panel, where the decoder did not look
DPI = 120
SHOWN = 3  # training images


@torch.inference_mode()
def explain(
    describe: PhotoCaptioner,
    photo: str | Path,
    picture: str | Path,
    *,
    beam: int = BEAM,
    length_penalty: float = 1.0,
    consensus: float = CONSENSUS,
) -> str:
    """Write a PNG about the caption of `photo` and return the caption.

    The first panel is the photo as the model takes it in; then there is one a word, and one for the end of the
    caption. Bright is where the decoder looked for that word (the mean over its attention heads; the brightest place
    of each panel is the one it looked at most). Below are the beams that the search ended with, the chosen one first,
    and captions of the training images whose agreement chose it; a `consensus` of 0 chooses the likeliest. Of a model
    without attention the picture shows no panels of words, and of a model without training captions no agreement; the
    picture says so. Raises CaptionerError where the photo cannot be read.
    """
    pixels = describe.read(photo)  # [S, S, 3]
    captioner, vocabulary = describe.captioner, describe.card.vocabulary
    features = captioner.features(torch.tensor(pixels[None]).to(describe.device))
    memory = captioner.decoder.encode(features)
    result = beam_search(
        captioner.decoder, memory, beam=beam, max_length=vocabulary.max_length, length_penalty=length_penalty
    )
    beams, scores = (part[0].cpu().numpy() for part in result)  # [K, T], [K]
    known = describe.consensus
    agreement = np.zeros(len(beams))
    if known:
        (near,), (shares,) = known.nearest(features.float().mean(1).cpu().numpy())  # [R] each
        agreement = known.agreement(beams, near, shares)
    totals = total(scores, agreement, consensus)
    order = [place for place in np.argsort(-totals, kind="stable") if scores[place] > -math.inf]
    best = [id for id in beams[order[0]].tolist() if id != PAD]
    panels = {"the photo": pixels}
    if captioner.decoder.attention:
        read = torch.tensor([[[BOS, *best[:-1]]]], device=describe.device)
        looked = attention_weights(captioner.decoder, memory, read)[0, 0].cpu().numpy()  # [L, P]
        for place, (id, weights) in enumerate(zip(best, looked, strict=True), 1):
            panels[f"{place}  {vocabulary.decode([id]) or '(end)'}"] = _lit(pixels, weights)
    lines = [
        os.fsencode(photo).decode(errors="replace"),
        "",
        f"{'score':>8}  {'probability':>11}  {'agreement':>9}  {'total':>8}  caption",
    ]
    for place in order:  # a short vocabulary has fewer captions than beams
        tokens = int((beams[place] != PAD).sum())
        start = f"{scores[place]:8.3f}  {math.exp(scores[place] * tokens**length_penalty):11.2g}  "
        start += f"{agreement[place]:9.3f}  {totals[place]:8.3f}  "
        lines += _wrapped(start, vocabulary.decode(beams[place].tolist()) or "(no word)")
    score = f"score: log-probability / (tokens with the end) ^ {length_penalty:g}"
    if known:
        lines += [
            f"{score}; agreement: CIDEr, 0 to 10, against the",
            f"captions of {len(near)} training images that look alike; total: score + {consensus:g} * agreement",
            *_neighbours(known.captions[near[:SHOWN]], shares, vocabulary),
        ]
    else:
        lines += [score, "The model file has no training captions, so nothing agrees: the likeliest beam is chosen."]
    if not captioner.decoder.attention:
        lines.append("This model has no attention (decoder.attention: false): it takes in the photo as one vector, so")
        lines.append("there is no place where it looked at a word.")
    _draw(picture, panels, lines)
    return vocabulary.decode(best)


def _lit(pixels: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Return a square photo, uint8 [S, S, 3], darkened where `weights` [P] of its square grid are small."""
    side = math.isqrt(len(weights))
    grid = Image.fromarray((weights / weights.max()).reshape(side, side).astype(np.float32))
    light = np.asarray(grid.resize(pixels.shape[1::-1], Image.Resampling.BICUBIC)).clip(0, 1)
    return (pixels * (DARKEST + (1 - DARKEST) * light[..., None])).astype(np.uint8)


def _neighbours(captions: np.ndarray, shares: np.ndarray, vocabulary: Vocabulary) -> list[str]:
    """Return the lines about the nearest training images: their captions [R, C, L] and shares of the agreement."""
    lines = ["", f"{'share':>8}  the nearest of them"]
    for image, share in zip(captions, shares, strict=False):
        said = " / ".join(vocabulary.decode(caption.tolist()) for caption in image if caption.any())
        lines += _wrapped(f"{share:8.1%}  ", said)
    return lines


def _wrapped(start: str, text: str) -> list[str]:
    return textwrap.wrap(start + text, LETTERS, subsequent_indent=" " * len(start), drop_whitespace=False)


def _draw(picture: str | Path, panels: dict[str, np.ndarray], lines: list[str]) -> None:
    rows = math.ceil(len(panels) / COLUMNS)
    wide = COLUMNS * SIDE + 2 * MARGIN
    high = rows * (SIDE + WORD) + len(lines) * LINE + 3 * MARGIN
    with matplotlib.rc_context({"font.family": ["DejaVu Sans Mono"], "font.size": 9}):
        figure = Figure(figsize=(wide, high), dpi=DPI, facecolor="white")
        for place, (word, shown) in enumerate(panels.items()):
            row, column = divmod(place, COLUMNS)
            left, top = MARGIN + column * SIDE, high - MARGIN - row * (SIDE + WORD)
            axis = figure.add_axes((left / wide, (top - WORD - SIDE) / high, 0.97 * SIDE / wide, SIDE / high))
            axis.set_axis_off()
            axis.imshow(shown)
            axis.set_title(word, fontsize=10, parse_math=False)
        for number, line in enumerate(lines):
            bottom = (len(lines) - 1 - number) * LINE + MARGIN
            figure.text(MARGIN / wide, bottom / high, line, va="bottom", parse_math=False)
        with whole(picture) as beside:
            figure.savefig(beside, format="png", metadata={"Software": None})
