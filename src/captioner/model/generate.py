"""Captions for images: the encoder's blocks, beam search, words."""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from captioner.base.device import to_device
from captioner.captions.vocabulary import Vocabulary
from captioner.model.captioner import Captioner
from captioner.model.search import beam_search

BATCH = 100  # images


@torch.inference_mode()
def generate(
    captioner: Captioner,
    images: list[str],
    read: Callable[[Tensor], Sequence[Tensor]],
    vocabulary: Vocabulary,
    *,
    beam: int,
    length_penalty: float,
    device: torch.device,
    choose: Callable[[np.ndarray, np.ndarray, np.ndarray], Sequence[int]] | None = None,
    batch: int = BATCH,
) -> dict[str, str]:
    """Return the caption of each image that beam search finds; `read` turns positions [B] into the arguments of
    `captioner.model.captioner.Captioner.features`: rows [B, h, w, C], and those of the mirrored images if their mean is
    captioned.

    The caption is the likeliest beam, or the one whose place `choose` returns for the image, as
    `captioner.model.consensus.Consensus` does. `choose` takes the images' features averaged over positions, float32
    [B, D], and the tokens [B, K, T] and scores [B, K] of their beams.
    """
    captioner.to(device).eval()
    captions: list[str] = []
    for chosen in torch.arange(len(images)).split(batch):
        features = captioner.features(*(to_device(rows, device) for rows in read(chosen)))
        beams = beam_search(
            captioner.decoder,
            captioner.decoder.encode(features),
            beam=beam,
            max_length=vocabulary.max_length,
            length_penalty=length_penalty,
        )
        places: Sequence[int] = [0] * len(chosen)
        if choose:
            places = choose(*(part.cpu().numpy() for part in (features.float().mean(1), beams.tokens, beams.scores)))
        captions += [vocabulary.decode(ids[place]) for ids, place in zip(beams.tokens.tolist(), places, strict=True)]
    return dict(zip(images, captions, strict=True))
