"""The parameter groups of the optimizer, and their learning rates."""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn


def parameter_groups(
    modules: Sequence[nn.Module], *, name: str, lr: float, weight_decay: float
) -> list[dict[str, Any]]:
    """Return optimizer groups of the modules' parameters, both called `name`; `lr` is their highest learning rate.

    Weights decay in matrices only, not in vectors (biases, norms).
    """
    parameters = list(dict.fromkeys(parameter for module in modules for parameter in module.parameters()))
    matrices = [parameter for parameter in parameters if parameter.ndim > 1]
    vectors = [parameter for parameter in parameters if parameter.ndim <= 1]
    return [
        {"name": name, "params": matrices, "peak_lr": lr, "weight_decay": weight_decay},
        {"name": name, "params": vectors, "peak_lr": lr, "weight_decay": 0.0},
    ]


def rate_scale(step: int, steps: int, warmup: int) -> float:
    """Return the learning rate as a fraction of its peak: a linear rise in `warmup` steps, then half a cosine to 0."""
    if step < warmup:
        return (step + 1) / warmup
    return 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, steps - warmup)))


def set_rates(optimizer: torch.optim.Optimizer, scale: float) -> None:
    """Set each group's learning rate to `scale` times its peak."""
    for group in optimizer.param_groups:
        group["lr"] = group["peak_lr"] * scale


def rate_of(optimizer: torch.optim.Optimizer, name: str) -> float:
    """Return the present learning rate of the groups called `name`."""
    return next(group["lr"] for group in optimizer.param_groups if group["name"] == name)
