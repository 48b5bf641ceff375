"""The mean and deviation of image features, by which a decoder standardises them."""

from collections.abc import Callable

import torch
from torch import Tensor

PIECE = 256  # rows in memory at a time
FLOOR = 1e-3  # of the mean deviation; a channel that varies less is noise and must not be enlarged


@torch.no_grad()
def feature_statistics(read: Callable[[Tensor], Tensor], rows: Tensor) -> tuple[Tensor, Tensor]:
    """Return the mean and the scale of each channel of image features, float32 [D] both.

    `rows` [N] int64 are the training images' rows; `read` returns the features of some of them, [n, h, w, D]. They are
    read in pieces and added up in float64, in the given order, so the same rows give the same result. The scale is the
    deviation over all rows and positions. A channel that hardly varies gets the channels' mean deviation as its scale,
    or 1 if no channel varies.
    """
    count = 0
    mean = squares = torch.zeros((), dtype=torch.float64)
    for piece in rows.split(PIECE):
        values = read(piece).double().flatten(0, -2)  # [n*h*w, D]
        centre = values.mean(0)
        offset = centre - mean
        # merges two parts of a sample (Chan et al. 1983), because a small difference of large sums would be rounded
        share = len(values) / (count + len(values))
        mean = mean + offset * share
        squares = squares + (values - centre).square().sum(0) + offset.square() * (count * share)
        count += len(values)
    deviation = (squares / count).sqrt()
    typical = deviation.mean()
    scale = torch.where(deviation > FLOOR * typical, deviation, typical if typical > 0 else torch.ones_like(typical))
    return mean.float(), scale.float()
