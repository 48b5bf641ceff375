"""The answer of `captioner serve` about a photo. It needs no server, so a program can call it, too."""

import base64
import io
import math
from typing import Any

import numpy as np
import torch
from PIL import Image

from captioner.base.errors import CaptionerError
from captioner.captions.vocabulary import Vocabulary
from captioner.use.beams import attention_of, search_beams, similar_captions
from captioner.use.caption import BEAM, CONSENSUS, LENGTH_PENALTY, PhotoCaptioner
from captioner.vision.photos import load_photo, upright_size

SIMILAR = 10  # training images
DIGITS = 5  # of a number in the answer
NO_ATTENTION = (
    "This model has no attention. It encodes the photo as one vector, so there is no place where it looked at a word."
)
NO_CAPTIONS = "This model has no training captions, so the caption with the highest score is chosen."
NO_WEIGHT = "The weight of the agreement is 0, so the caption with the highest score is chosen."


@torch.inference_mode()
def describe_photo(
    describe: PhotoCaptioner,
    data: bytes,
    *,
    beam: int = BEAM,
    length_penalty: float = LENGTH_PENALTY,
    consensus: float = CONSENSUS,
    preview: bool = False,
) -> dict[str, Any]:
    """Return the caption of a photo, from the bytes of its file, and how it was chosen. JSON can represent the result.

    caption    the chosen caption
    tokens     L pieces of text. Joined, they are the caption. The end of the caption is an empty piece
    attention  L grids of h rows and w columns: where the model looked at each token. Each grid sums to 1. None for a
               model without attention
    beams      the candidates, the chosen one first, each with
               `caption`
               `score`        the mean log-probability of its tokens and its end, in nats
               `probability`  the probability of the whole caption
               `agreement`    CIDEr, 0 to 10, against the captions of similar training images; None without them
               `total`        log-probability / tokens ** length_penalty + consensus * agreement. The candidate with
                              the highest total is chosen
    similar    the 10 most similar training images, each with `share`, the weight of its captions in the agreement, and
               `captions`. All shares of similar images sum to 1. None for a model without training captions
    photo      `width` and `height` of the upright photo in pixels, and `fit`: "squash" (the grid covers the whole
               photo) or "crop" (it covers the middle square)
    search     the options that were used
    notes      sentences about what this model lacks

    With `preview`, `photo.preview` is the model's input as a `data:` address of a JPEG file. Raises CaptionerError if
    the photo cannot be read or an option is out of range.
    """
    try:
        pixels = load_photo(data, **describe.card.image)
        width, height = upright_size(data)
    except ValueError as error:
        raise CaptionerError(str(error)) from None
    vocabulary = describe.card.vocabulary
    features = describe.features(pixels[None])
    memory = describe.captioner.decoder.encode(features)
    beams = search_beams(describe, features, memory, beam=beam, length_penalty=length_penalty, consensus=consensus)
    weights = attention_of(describe, memory, beams)  # [L, P]
    similar = similar_captions(describe, beams, SIMILAR)
    captions = []
    for place in beams.order:
        length = int(beams.lengths[place])
        log_probability = float(beams.scores[place]) * length**length_penalty
        captions.append(
            {
                "caption": vocabulary.decode(beams.words[place].tolist()),
                "score": round(log_probability / length, DIGITS),
                "probability": float(f"{math.exp(log_probability):.{DIGITS}g}"),
                "agreement": None if beams.agreement is None else round(float(beams.agreement[place]), DIGITS),
                "total": round(float(beams.totals[place]), DIGITS),
            }
        )
    photo = {"width": width, "height": height, "fit": describe.card.image["fit"]}
    return {
        "caption": captions[0]["caption"],
        "tokens": _pieces(vocabulary, beams.best),
        "attention": None if weights is None else _grids(weights),
        "beams": captions,
        "similar": None
        if beams.agreement is None
        else [{"share": round(share, DIGITS), "captions": texts} for share, texts in similar],
        "photo": photo | ({"preview": _data_url(pixels)} if preview else {}),
        "search": {"beam": beam, "length_penalty": length_penalty, "consensus": consensus},
        "notes": _notes(weights is not None, beams.agreement is not None, consensus),
    }


def _notes(has_attention: bool, has_captions: bool, consensus: float) -> list[str]:
    """Return sentences about what the model or this search lacks."""
    notes = [] if has_attention else [NO_ATTENTION]
    if not has_captions:
        notes.append(NO_CAPTIONS)
    elif not consensus:
        notes.append(NO_WEIGHT)
    return notes


def _pieces(vocabulary: Vocabulary, ids: list[int]) -> list[str]:
    """Return the text that each token adds to the caption."""
    text, pieces, at = vocabulary.decode(ids), [], 0
    for word in (vocabulary.decode([id]) for id in ids):
        end = text.index(word, at) + len(word)
        pieces.append(text[at:end])
        at = end
    return pieces


def _grids(weights: np.ndarray) -> list:
    """Return weights [L, P] as nested lists [L, h, w]. The grid is square, like the model's input."""
    side = math.isqrt(weights.shape[1])
    return [[[round(float(cell), DIGITS) for cell in row] for row in grid] for grid in weights.reshape(-1, side, side)]


def _data_url(pixels: np.ndarray) -> str:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG", quality=85)
    return f"data:image/jpeg;base64,{base64.b64encode(file.getvalue()).decode()}"
