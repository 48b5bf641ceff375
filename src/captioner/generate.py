"""Captions for images: the encoder's blocks, beam search, words."""

from collections.abc import Callable

import torch
from torch import Tensor

from captioner.device import to_device
from captioner.model import Captioner
from captioner.search import beam_search
from captioner.vocabulary import Vocabulary

BATCH = 100  # images


@torch.inference_mode()
def generate(
    captioner: Captioner,
    images: list[str],
    read: Callable[[Tensor], Tensor],
    vocabulary: Vocabulary,
    *,
    beam: int,
    length_penalty: float,
    device: torch.device,
    batch: int = BATCH,
) -> dict[str, str]:
    """Return the best caption that beam search finds for each image; `read` turns positions [B]
    into what the captioner takes in, [B, h, w, C]."""
    captioner.to(device).eval()
    captions: list[str] = []
    for chosen in torch.arange(len(images)).split(batch):
        memory = captioner.decoder.encode(captioner.features(to_device(read(chosen), device)))
        found = beam_search(
            captioner.decoder,
            memory,
            beam=beam,
            max_length=vocabulary.max_length,
            length_penalty=length_penalty,
        )
        captions += [vocabulary.decode(ids) for ids in found.tokens[:, 0].tolist()]
    return dict(zip(images, captions, strict=True))
