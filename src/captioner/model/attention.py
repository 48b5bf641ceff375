"""Where a decoder looked while it wrote.

Dimensions as in `captioner.model.decoder`: B images, K captions of an image, L tokens, P grid positions.
"""

import torch
from torch import Tensor

from captioner.base.errors import CaptionerError
from captioner.model.decoder import Decoder, Memory


@torch.inference_mode()
def attention_weights(decoder: Decoder, memory: Memory, tokens: Tensor) -> Tensor:
    """Return how much of each grid position went into the prediction of the token after each of `tokens`.

    `memory` is what `decoder.encode` made of B images, `tokens` [B, K, L] int64 are captions as the decoder reads
    them: `<bos>`, then words; so the weights of a caption's n-th word stand at place n - 1. The decoder is in eval
    mode. Returns [B, K, L, P] float32, the mean over the attention heads; each row of P sums to 1. Raises
    CaptionerError for a decoder without attention.
    """
    if memory.keys is None:
        raise CaptionerError(
            "this model has no attention (decoder.attention: false), so it looked nowhere in particular"
        )
    batch, captions, length = tokens.shape
    state = tuple(part.expand(batch, captions, decoder.width) for part in memory.start[:2])
    hidden, _ = decoder._run(decoder.lstm, decoder.embedding(tokens).flatten(0, 1), state)  # [B*K, L, W]
    weights = decoder.look(
        memory, decoder.query(hidden).reshape(batch, captions * length, decoder.width)
    )  # [B, H, K*L, P]
    return weights.float().mean(1).view(batch, captions, length, -1)
