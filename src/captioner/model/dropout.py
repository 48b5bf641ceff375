"""Dropout that is fast on a CPU."""

import torch
from torch import Tensor, nn


class Dropout(nn.Dropout):
    """torch's dropout. On a CPU it draws only 16 random bits for each element, because torch's draws take longer
    (docs/performance.md)."""

    def forward(self, x: Tensor) -> Tensor:
        """Return x of any shape with some elements 0 and the others scaled, in training; in eval mode x itself."""
        if not self.training or self.p == 0 or x.device.type != "cpu":
            return super().forward(x)
        dropped = min(round(self.p * 2**16), 2**16 - 1)  # out of 2**16
        bits = torch.empty(-(-x.numel() // 4), dtype=torch.int64).random_(-(2**63), None).view(torch.int16)
        mask = bits[: x.numel()].view(x.shape) >= dropped - 2**15
        return x * mask.to(x.dtype).mul_(2**16 / (2**16 - dropped))
