"""What training minimises: the protocol of an objective, and the cross-entropy of the next word.

The other objective is `captioner.training.self_critical`. Dimensions as in `captioner.model.decoder`: B images,
K captions of an image, L tokens, T tokens of all captions, V words.
"""

from typing import Protocol

import torch
from torch import Tensor, nn

from captioner.base.distributed import Mean
from captioner.captions.vocabulary import EOS, PAD
from captioner.model.captioner import Captioner
from captioner.model.decoder import Decoder, Memory
from captioner.model.search import draw, forbidden
from captioner.training.batches import Batch


class Objective(Protocol):
    """The protocol of an objective, which training minimises."""

    measure: str  # the name of the measure on training images, in the records

    def __call__(self, captioner: Captioner, batch: Batch) -> tuple[Mean, Mean]:
        """Return the loss to minimise and the measure; the measure has no gradient."""


class NextWord:
    """Teacher forcing: the cross-entropy of the next word, with label smoothing.

    `label_smoothing` is the share of the loss that is spread over all words alike. `scheduled_sampling` is the share of
    the input words that the decoder samples itself (see `sample_inputs`).
    """

    measure = "train loss"

    def __init__(self, *, label_smoothing: float, scheduled_sampling: float = 0.0):
        self.label_smoothing, self.scheduled_sampling = label_smoothing, scheduled_sampling

    def __call__(self, captioner: Captioner, batch: Batch) -> tuple[Mean, Mean]:
        """Return the loss with label smoothing, and as the measure the loss without it."""
        smoothed, loss = self.losses(captioner, batch)
        return Mean(smoothed, batch.words), Mean(loss.detach(), batch.words)

    def losses(self, captioner: Captioner, batch: Batch, memory: Memory | None = None) -> tuple[Tensor, Tensor]:
        """Return the loss with label smoothing and without it; `memory` is the batch's if it is already computed."""
        loss, uniform = next_word_losses(captioner, batch, self.scheduled_sampling, memory)
        return (1 - self.label_smoothing) * loss + self.label_smoothing * uniform, loss


def next_word_losses(
    captioner: Captioner, batch: Batch, scheduled_sampling: float = 0.0, memory: Memory | None = None
) -> tuple[Tensor, Tensor]:
    """Return the mean cross-entropy of the targets, and the same with all words equally likely as the target.

    The second one is for label smoothing.

    `memory` is that of the batch's images if it is already computed.
    """
    decoder = captioner.decoder
    memory = captioner.encode(batch.rows) if memory is None else memory
    inputs = sample_inputs(decoder, memory, batch, scheduled_sampling) if scheduled_sampling else batch.inputs
    logits = decoder.logits(decoder(memory, inputs, batch.packed))  # [T, V]
    log_p = logits.float().log_softmax(-1)
    shares = (batch.targets != PAD).to(log_p.dtype) / batch.words  # [T]
    target = log_p.gather(1, batch.targets.unsqueeze(1)).squeeze(1)
    return -(shares * target).sum(), -(shares * log_p.mean(1)).sum()  # a matrix product would be rounded by autocast


@torch.no_grad()
def sample_inputs(decoder: Decoder, memory: Memory, batch: Batch, scheduled_sampling: float) -> Tensor:
    """Return the batch's inputs [B, K, L]; the decoder samples the share `scheduled_sampling` of their words.

    Scheduled sampling (Bengio et al. 2015) with a constant share and in two passes (Mihaylova and Martins 2019): the
    first pass reads the captions as written, so that both passes compute all time steps at once.
    """
    places, length = batch.packed.places, batch.inputs.shape[-1]
    hidden = decoder(memory, batch.inputs, batch.packed)  # [T, W]
    chosen = torch.randperm(len(places), device=places.device)[: round(scheduled_sampling * len(places))]
    logits = decoder.logits(hidden[chosen])
    words = draw(logits, forbidden(logits.shape[-1], logits.device, EOS))
    places, targets = places[chosen], batch.targets[chosen]
    read = (targets != PAD) & (targets != EOS) & (places % length != length - 1)  # at the next step
    inputs = nn.functional.pad(batch.inputs.flatten(), (0, 1))  # the last place takes the words that no step reads
    return inputs.scatter(0, torch.where(read, places + 1, len(inputs) - 1), words)[:-1].view_as(batch.inputs)
