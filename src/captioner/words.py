"""Which words the captions of an image have, told from its features alone: a loss that makes the encoder see more.

Through a decoder that has learnt to do with the features as they are, the gradient of captions hardly changes the
encoder; that of a linear layer on the features does. Its targets are soft: the share of the image's captions that have
the word (word detectors, Fang et al. 2015; attributes, Wu et al. 2016).

Dimensions as in `captioner.training`, and N training images, H words that are told.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from captioner.distributed import Mean
from captioner.model import Captioner
from captioner.training import Batch, Objective
from captioner.vocabulary import PAD, SPECIAL

LEAST = 0.01  # of the training images have a word that is told
DROPOUT = 0.3  # of the features
LR = 0.005  # of the layer, which begins with nothing
AT_ONCE = 100  # images counted at once


class WordHead(nn.Module):
    """The linear layer on features averaged over positions.

    It tells the words that one training image in a hundred has, and begins with how frequent each is. `ids` [N, K, L]
    are the training captions, padded, of a vocabulary of `words` words; `features` is D.
    """

    told: Tensor  # [H] int64, word ids

    def __init__(self, ids: Tensor, *, words: int, features: int):
        super().__init__()
        self.words = words
        total, having = torch.zeros(words), torch.zeros(words)
        for part in ids.split(AT_ONCE):
            shares = word_shares(part, words)
            total, having = total + shares.sum(0), having + (shares > 0).sum(0)
        having[: len(SPECIAL)] = 0
        self.register_buffer("told", torch.nonzero(having >= max(1, LEAST * len(ids))).squeeze(1))
        self.linear = nn.Linear(features, len(self.told))
        with torch.no_grad():
            self.linear.weight.zero_()
            self.linear.bias.copy_(torch.logit(total[self.told] / len(ids), eps=1e-4))

    def forward(self, features: Tensor, ids: Tensor) -> Tensor:
        """Return the sum over B images and H words of the cross-entropies in nats, for features [B, P, D]."""
        seen = F.dropout(features.float().mean(1), DROPOUT, self.training)
        targets = word_shares(ids, self.words)[:, self.told]
        return F.binary_cross_entropy_with_logits(self.linear(seen).float(), targets, reduction="sum")


class WithWords(Objective):
    """Another objective with the loss of telling words added, `weight` times, to the sum of each image's losses.

    The measure is the other's.
    """

    def __init__(self, objective: Objective, head: WordHead, *, weight: float):
        super().__init__()
        self.objective, self.head, self.weight = objective, head, weight
        self.measure = objective.measure

    def forward(self, captioner: Captioner, features: Tensor, batch: Batch) -> tuple[Mean, Mean]:
        """Return the other objective's mean, over as many words, with the loss added, and its measure."""
        loss, measure = self.objective(captioner, features, batch)
        missed = self.head(features, batch.inputs)
        return Mean(loss.value + self.weight * missed / loss.over, loss.over), measure


def word_shares(ids: Tensor, words: int) -> Tensor:
    """Return for the captions `ids` [B, K, L], padded, the share of each image's that have the word: [B, words].

    A training batch's inputs lack the last word of a caption that was cut; there are few.
    """
    has = torch.zeros(*ids.shape[:2], words, device=ids.device).scatter_(2, ids, 1.0)
    captions = (ids != PAD).any(-1).sum(1, keepdim=True)
    return has.sum(1) / captions.clamp(min=1)
