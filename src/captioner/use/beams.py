"""The candidates for a caption: the beams with their scores, the attention, and similar training images.

Dimensions: K beams, T their tokens, L tokens of the chosen caption, P grid positions, D features, R training images.
"""

import math
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from captioner.captions.vocabulary import BOS, PAD
from captioner.model.attention import attention_weights
from captioner.model.consensus import total
from captioner.model.decoder import Memory
from captioner.model.search import beam_search
from captioner.use.caption import PhotoCaptioner
from captioner.use.options import Search


class Beams(NamedTuple):
    """The candidates of a search for one photo."""

    words: np.ndarray  # [K, T] word ids, then <pad>
    scores: np.ndarray  # [K] log-probability / length ** length_penalty
    totals: np.ndarray  # [K] score + consensus * agreement; the beam with the highest total is chosen
    order: list[int]  # the indices of the beams, the highest total first
    agreement: np.ndarray | None  # [K] with the captions of similar training images; None for a model without any
    near: np.ndarray  # [R] the indices of similar training images, the most similar first
    shares: np.ndarray  # [R] their weights in the agreement; they sum to 1

    @property
    def best(self) -> list[int]:
        """The word ids of the chosen caption, with the end."""
        return [id for id in self.words[self.order[0]].tolist() if id != PAD]

    @property
    def lengths(self) -> np.ndarray:
        """The number of tokens of each beam, with the end, [K]."""
        return (self.words != PAD).sum(1)


def search_beams(
    describe: PhotoCaptioner,
    features: Tensor,
    memory: Memory,
    *,
    beam: int,
    length_penalty: float,
    consensus: float,
) -> Beams:
    """Search for captions of one photo, by its `features` [1, P, D] and the decoder's `memory` of them.

    Raises CaptionerError for an option that is out of range.
    """
    options = Search(beam=beam, length_penalty=length_penalty, consensus=consensus)
    result = beam_search(
        describe.captioner.decoder,
        memory,
        beam=options.beam,
        max_length=describe.card.vocabulary.max_length,
        length_penalty=options.length_penalty,
    )
    words, scores = (part[0].cpu().numpy() for part in result)  # [K, T], [K]
    agreement, near, shares, totals = None, np.empty(0, np.int64), np.empty(0), scores
    if known := describe.consensus:
        (near,), (shares,) = known.nearest(features.float().mean(1).cpu().numpy())  # [R] each
        agreement = known.agreement(words, near, shares)
        totals = total(scores, agreement, options.consensus)
    # With a short vocabulary there are fewer captions than beams.
    order = [int(place) for place in np.argsort(-totals, kind="stable") if scores[place] > -math.inf]
    return Beams(words, scores, totals, order, agreement, near, shares)


def attention_of(describe: PhotoCaptioner, memory: Memory, beams: Beams) -> np.ndarray | None:
    """Return the attention at each token of the chosen caption, float32 [L, P], the mean over the heads.

    Each row sums to 1. Returns None for a decoder without attention.
    """
    decoder = describe.captioner.decoder
    if not decoder.attention:
        return None
    inputs = torch.tensor([[[BOS, *beams.best[:-1]]]], device=describe.device)
    return attention_weights(decoder, memory, inputs)[0, 0].cpu().numpy()


def similar_captions(describe: PhotoCaptioner, beams: Beams, most: int) -> list[tuple[float, list[str]]]:
    """Return the share and the captions of at most `most` training images, the most similar first.

    The list is empty for a model without training captions.
    """
    known = describe.consensus
    if known is None:
        return []
    decode = describe.card.vocabulary.decode
    return [
        (float(share), [decode(caption.tolist()) for caption in image if caption.any()])
        for image, share in zip(known.captions[beams.near[:most]], beams.shares, strict=False)
    ]
