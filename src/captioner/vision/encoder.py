"""ResNet-18 (He et al. 2016) without its classifier, cut into blocks at which it can be split.

Dimensions: B images, H x W pixels or grid, C channels, D = 512 the width of the last block.

Between blocks, activations are [B, H, W, C], as in the stores. In this layout (channels last) convolutions are fastest.
The input of the first block is the picture itself.
"""

import copy
import hashlib
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn.utils import skip_init
from torch.nn.utils.fusion import fuse_conv_bn_eval

from captioner.base.files import atomic_write

BLOCKS = ("conv1", "layer1", "layer2", "layer3", "layer4")
END = "end"
WIDTH = 512  # D
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of ImageNet, for which the weights were made


class _Residual(nn.Module):
    """Two convolutions with a skip connection, the same as torchvision's BasicBlock.

    It is not imported from torchvision, because this import would take as long as torch's at each start of
    `captioner caption`.
    """

    def __init__(self, channels: int, out: int, stride: int = 1, *, convolution: Callable[..., nn.Conv2d] = nn.Conv2d):
        super().__init__()
        self.conv1 = convolution(channels, out, 3, stride=stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(out)
        self.relu = nn.ReLU(inplace=True)
        self.conv2 = convolution(out, out, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(out)
        self.downsample: nn.Module | None = None
        if stride != 1:
            one_by_one = convolution(channels, out, 1, stride=stride, bias=False)
            self.downsample = nn.Sequential(one_by_one, nn.BatchNorm2d(out))

    def forward(self, x: Tensor) -> Tensor:
        around = x if self.downsample is None else self.downsample(x)
        x = self.relu(self.bn1(self.conv1(x)))
        return self.relu(self.bn2(self.conv2(x)) + around)


class Encoder(nn.Module):
    """The convolutional part of ResNet-18; parameter names are torchvision's.

    BatchNorm uses its stored statistics in every mode, so fine-tuning does not change a block's function by itself.
    Weights have torchvision's random initialisation. With `initialised` false they are uninitialised memory, for a
    caller that loads all of them.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, *, initialised: bool = True) -> None:
        super().__init__()
        convolution = nn.Conv2d if initialised else partial(skip_init, nn.Conv2d)
        residual = partial(_Residual, convolution=convolution)
        self.conv1 = convolution(3, 64, 7, stride=2, padding=3, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(3, stride=2, padding=1)
        self.layer1 = nn.Sequential(residual(64, 64), residual(64, 64))
        self.layer2 = nn.Sequential(residual(64, 128, stride=2), residual(128, 128))
        self.layer3 = nn.Sequential(residual(128, 256, stride=2), residual(256, 256))
        self.layer4 = nn.Sequential(residual(256, WIDTH, stride=2), residual(WIDTH, WIDTH))
        for module in self.modules():
            if initialised and isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        self.register_buffer("mean", torch.tensor(MEAN).view(3, 1, 1) * 255, persistent=False)
        self.register_buffer("std", torch.tensor(STD).view(3, 1, 1) * 255, persistent=False)
        self.to(memory_format=torch.channels_last)

    def train(self, mode: bool = True) -> "Encoder":
        super().train(mode)
        for module in self.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.eval()
        return self

    def forward(self, x: Tensor, start: str = "conv1", stop: str = END) -> Tensor:
        """Apply the blocks from `start` up to, but without, `stop`.

        x: the input of `start`, [B, H, W, C]; for conv1 pictures as uint8 [B, H, W, 3], RGB.
        Returns the input of `stop`, [B, h, w, c]; for the end the grid [B, H/32, W/32, 512].
        """
        x = x.to(self.mean.dtype).permute(0, 3, 1, 2)  # [B, C, H, W], channels last in memory
        for name in blocks_between(start, stop):
            if name == "conv1":
                x = self.maxpool(self.relu(self.bn1(self.conv1((x - self.mean) / self.std))))
            else:
                x = getattr(self, name)(x)
        return x.permute(0, 2, 3, 1)

    def block_modules(self, start: str, stop: str = END) -> list[nn.Module]:
        """Return the modules that hold the parameters of the blocks from `start` up to `stop`."""
        modules: list[nn.Module] = []
        for name in blocks_between(start, stop):
            modules += [self.conv1, self.bn1] if name == "conv1" else [getattr(self, name)]
        return modules


def blocks_between(start: str, stop: str = END) -> tuple[str, ...]:
    """Return the names of the blocks from `start` up to, but without, `stop`."""
    ends = (*BLOCKS, END)
    return BLOCKS[ends.index(start) : ends.index(stop)]


def load_encoder(state: dict[str, Any]) -> Encoder:
    """Build an encoder in eval mode from a torchvision ResNet-18 state dict, with or without `fc.*`."""
    encoder = Encoder(initialised=False)
    own = {key: value for key, value in state.items() if not key.startswith("fc.")}
    counters = {key: value for key, value in encoder.state_dict().items() if key.endswith("num_batches_tracked")}
    encoder.load_state_dict(counters | own)  # files of old versions lack the counters
    return encoder.eval()


def save_encoder(path: str | Path, encoder: Encoder) -> None:
    """Write an encoder's weights as safetensors, with torchvision's names."""
    with atomic_write(path) as beside:
        save_file({key: value.contiguous() for key, value in encoder.state_dict().items()}, beside)


def fingerprint(encoder: Encoder) -> str:
    """Return the SHA-256 of the names and values of all weights: what features are valid for."""
    hasher = hashlib.sha256()
    for name, value in sorted(encoder.state_dict().items()):
        if not name.endswith("num_batches_tracked"):
            hasher.update(name.encode() + value.detach().cpu().contiguous().numpy().tobytes())
    return hasher.hexdigest()


def fused(encoder: Encoder) -> Encoder:
    """Return a copy for inference whose BatchNorms are folded into the convolutions before them."""
    encoder = copy.deepcopy(encoder).eval()
    encoder.conv1, encoder.bn1 = fuse_conv_bn_eval(encoder.conv1, encoder.bn1), nn.Identity()  # type: ignore[assignment]
    for name in BLOCKS[1:]:
        for block in getattr(encoder, name):
            block.conv1, block.bn1 = fuse_conv_bn_eval(block.conv1, block.bn1), nn.Identity()
            block.conv2, block.bn2 = fuse_conv_bn_eval(block.conv2, block.bn2), nn.Identity()
            if block.downsample is not None:
                block.downsample = nn.Sequential(fuse_conv_bn_eval(*block.downsample))
    return encoder.requires_grad_(False).to(memory_format=torch.channels_last)


@torch.no_grad()
def calibrate(encoder: Encoder, batches: Iterable[Tensor]) -> None:
    """Set the BatchNorm statistics to the average over `batches` (uint8 [B, H, W, 3]).

    The initial statistics of random weights are mean 0 and variance 1.
    """
    norms = [module for module in encoder.modules() if isinstance(module, nn.BatchNorm2d)]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # the plain average of all batches
        norm.train()
    for batch in batches:
        encoder(batch)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
        norm.eval()
