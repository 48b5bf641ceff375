"""The order in which a decoder reads the captions of a batch in training.

Dimensions as in `captioner.model.decoder`: B images, K captions of an image, L tokens of a caption, T tokens of all
captions, packed. N is the number of captions of the first step.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

PACKED_BY = 32  # captions in a time step
TOKENS_BY = 256  # tokens in a batch


class Packed(NamedTuple):
    """The places of a batch's tokens [B, K, L] in the order of time, the longest captions first at each step.

    With `few_shapes` each step has a multiple of PACKED_BY captions, or all of them. All steps together have a multiple
    of TOKENS_BY tokens where there is room. So a step may have captions that have ended, which read padding. Then
    matrix products have few different shapes. In bfloat16 a CPU prepares a product once for each shape. In float32 it
    does not, so padding would only take time. Without `few_shapes` each step has only captions that have not ended.

    The multiples and `captioner.model.lstm.run_packed` belong together: on an AMD CPU without AMX the multiples cost
    a little more than `run_packed` gains, and with AMX a step without both took nearly twice as long
    (dev/LOG.md).
    """

    places: Tensor  # [T] int64: the place of each token in B*K*L
    order: Tensor  # [N] int64: the captions of the first step, by their places in B*K, the longest first
    sizes: Tensor  # [L] int64, on the CPU: the number of captions in each step

    def to(self, move: Callable[[Tensor], Tensor]) -> "Packed":
        """Return a copy with `places` and `order` moved; torch needs the sizes on the CPU."""
        return Packed(move(self.places), move(self.order), self.sizes)


def pack(lengths: Tensor, padded: int, *, few_shapes: bool = True) -> Packed:
    """Pack captions of `lengths` [B, K] int64, on the CPU, each padded to `padded` tokens; not all are empty.

    `few_shapes` is what `captioner.base.device.prefers_few_shapes` says of the device.
    """
    packed_by, tokens_by = (PACKED_BY, TOKENS_BY) if few_shapes else (1, 1)
    falling, order = lengths.flatten().sort(descending=True, stable=True)
    steps = torch.arange(int(falling[0])).unsqueeze(1)  # [L, 1]
    going = (falling > steps).sum(1)
    each = (-(going // -packed_by) * packed_by).clamp(max=len(order)).tolist()
    lacking = -sum(each) % tokens_by
    for step in range(1, len(each)):
        more = min(each[step - 1] - each[step], lacking // packed_by * packed_by)
        each[step] += more
        lacking -= more
    sizes = torch.tensor(each)
    taken = torch.arange(len(order)) < sizes.unsqueeze(1)  # [L, B*K]
    return Packed((order * padded + steps)[taken], order[: each[0]], sizes)
