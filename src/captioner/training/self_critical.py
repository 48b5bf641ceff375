"""Self-critical training: the model samples captions, and those with a higher reward than the other samples of their
image become more likely (Rennie et al. 2017; the baseline is the mean of the other samples, Luo 2020).

The reward is CIDEr against the image's references, with document frequencies of the training images. The end of a
caption counts as a word. Otherwise captions would learn to end in the middle of a phrase.

CIDEr alone makes the language poorer and the next word less likely. The loss of the next word beside it prevents this.
"""

import functools
from collections.abc import Mapping

import torch

from captioner.base.device import prefers_few_shapes, to_device
from captioner.base.distributed import Mean
from captioner.captions.vocabulary import BOS, PAD, Vocabulary
from captioner.model.captioner import Captioner
from captioner.model.graphs import WordGraphs
from captioner.model.packing import pack
from captioner.model.search import forbidden, sample
from captioner.training.batches import Batch
from captioner.training.objectives import NextWord
from captioner.training.reward import Reward


class SelfCritical:
    """The objective; it samples `samples` captions an image, and its measure is their mean CIDEr.

    `references` maps each training image to its raw captions. The loss of `next_word` is added, unless `weight` is 0: a
    word of the batch's captions counts `weight` times as much as a sampled word.
    """

    measure = "sampled CIDEr"

    def __init__(
        self,
        references: Mapping[str, list[str]],
        vocabulary: Vocabulary,
        *,
        samples: int,
        next_word: NextWord,
        weight: float,
    ):
        self._reward = Reward(references, vocabulary)
        self._vocabulary, self._samples = vocabulary, samples
        self._next_word, self._weight = next_word, weight
        self._draw_words = WordGraphs()

    def __call__(self, captioner: Captioner, batch: Batch) -> tuple[Mean, Mean]:
        """Return minus the mean over all sampled words of advantage times log-probability, and the measure.

        The loss of the next word is added as a sum over the captions' words, divided by the number of sampled words.
        So the mean over several processes is exact.
        """
        features = captioner.features(batch.rows)  # once: nothing in the encoder differs between train and eval mode
        captioner.eval()
        with torch.no_grad():
            memory = captioner.decoder.encode(features)
        tokens = sample(
            captioner.decoder,
            memory,
            samples=self._samples,
            max_length=self._vocabulary.max_length,
            draw_words=self._draw_words,
        )
        captioner.train()
        drawn = tokens.cpu()  # once: it waits for the device
        inputs = torch.cat((torch.full_like(tokens[:, :, :1], BOS), tokens[:, :, :-1]), dim=-1)
        lengths = (drawn != PAD).sum(-1)
        packed = pack(lengths, tokens.shape[-1], few_shapes=prefers_few_shapes(tokens.device))
        packed = packed.to(functools.partial(to_device, device=tokens.device))
        memory = captioner.decoder.encode(features)
        hidden = captioner.decoder(memory, inputs, packed)  # [T, W]
        logits = captioner.decoder.logits(hidden).float()  # [T, V]
        logits = logits.masked_fill(forbidden(logits.shape[1], logits.device), -torch.inf)
        targets = tokens.flatten()[packed.places]
        log_p = logits.log_softmax(-1).gather(1, targets.unsqueeze(1)).squeeze(1)
        log_p = log_p.masked_fill(targets == PAD, 0.0)
        smoothed = self._next_word.losses(captioner, batch, memory)[0] if self._weight else None

        # computed here, because a GPU computes the probabilities in the meantime
        rewards = torch.from_numpy(self._reward(batch.images, drawn.numpy())).float()  # [B, K]
        others = (rewards.sum(1, keepdim=True) - rewards) / (self._samples - 1)
        advantages = (rewards - others).unsqueeze(-1).expand(tokens.shape)
        words = int(lengths.sum())
        gained = to_device(advantages.flatten(), tokens.device)[packed.places] * log_p
        loss = -gained.sum()
        if smoothed is not None:
            loss = loss + self._weight * batch.words * smoothed
        return Mean(loss / words, words), Mean(rewards.mean(), rewards.numel())
