"""The attention of a decoder at each word of a caption.

Dimensions as in `captioner.model.decoder`: B images, K captions of an image, L tokens, H heads, P grid positions.
"""

import torch
from torch import Tensor

from captioner.base.device import to_device
from captioner.base.errors import CaptionerError
from captioner.model.decoder import Decoder, Memory
from captioner.model.packing import pack


@torch.inference_mode()
def attention_weights(decoder: Decoder, memory: Memory, tokens: Tensor) -> Tensor:
    """Return how much each grid position counted for the prediction of the token after each of `tokens`.

    `memory` is what `decoder.encode` returned for B images. `tokens` [B, K, L] int64 are captions as the decoder reads
    them: `<bos>`, then words. So the weights of a caption's n-th word stand at place n - 1. The decoder is in eval
    mode. Returns [B, K, L, P] float32, the mean over the attention heads; each row of P sums to 1. Raises
    CaptionerError for a decoder without attention.
    """
    if memory.keys is None:
        raise CaptionerError("this model has no attention (decoder.attention: false): it looked at no place of its own")
    batch, captions, length = tokens.shape
    packed = pack(torch.full((batch, captions), length), length).to(lambda part: to_device(part, tokens.device))
    first = decoder.read(memory, tokens, packed)  # [B*K*L, W]
    weights = decoder.look(memory, first, packed.places, captions * length)  # [B, H, K*L, P]
    return weights.float().mean(1).view(batch, captions, length, -1)
