"""Captions of equal length, read whole by a decoder."""

import torch

from captioner.model.packing import pack


def read_all(decoder, memory, tokens):
    """Read captions [B, K, L], all of L tokens; return what predicts the token after each, [B, K, L, W]."""
    batch, captions, length = tokens.shape
    packed = pack(torch.full((batch, captions), length), length)
    hidden = decoder(memory, tokens, packed)
    return torch.empty_like(hidden).index_copy(0, packed.places, hidden).view(batch, captions, length, -1)
