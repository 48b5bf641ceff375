"""Self-critical training: the model samples captions, and those with a higher reward than the other samples of their
image become more likely (Rennie et al. 2017; the baseline is the mean of the other samples, Luo 2020).

The reward is CIDEr against the image's references, with document frequencies of the training images. The end of a
caption counts as a word. Otherwise captions would learn to end in the middle of a phrase.
"""

import functools
import math
from collections import Counter
from collections.abc import Mapping
from typing import NamedTuple

import torch

from captioner.base.device import to_device
from captioner.base.distributed import Mean
from captioner.captions.ptb import tokenise
from captioner.captions.vocabulary import BOS, EOS, PAD, Vocabulary
from captioner.model.captioner import Captioner
from captioner.model.decoder import pack
from captioner.model.search import NEVER, sample
from captioner.scoring.scores import words_of_references
from captioner.training.batches import Batch

ENDED = "<eos>"
N = 4  # the longest n-grams counted
SIGMA = 6.0  # of the penalty for another length than the reference's


class _Vector(NamedTuple):
    weights: tuple[dict[tuple[str, ...], float], ...]  # of each n: n-gram to tf-idf
    norms: tuple[float, ...]
    length: int


class SelfCritical:
    """The objective; it samples `samples` captions an image, and its measure is their mean CIDEr.

    `references` maps each training image to its raw captions.
    """

    measure = "sampled CIDEr"

    def __init__(self, references: Mapping[str, list[str]], vocabulary: Vocabulary, *, samples: int):
        self._reward = Reward(references)
        self._vocabulary, self._samples = vocabulary, samples

    def __call__(self, captioner: Captioner, batch: Batch) -> tuple[Mean, Mean]:
        """Return minus the mean over all sampled tokens of advantage times log-probability, and the measure."""
        features = captioner.features(batch.rows)  # once: nothing in the encoder differs between train and eval mode
        captioner.eval()
        with torch.no_grad():
            memory = captioner.decoder.encode(features)
        tokens = sample(captioner.decoder, memory, samples=self._samples, max_length=self._vocabulary.max_length)
        captioner.train()
        rewards = torch.tensor(
            [
                [self._reward(image, self._vocabulary.decode(ids), whole=EOS in ids) for ids in captions]
                for image, captions in zip(batch.images, tokens.tolist(), strict=True)
            ]
        )  # [B, K]
        others = (rewards.sum(1, keepdim=True) - rewards) / (self._samples - 1)
        advantages = (rewards - others).unsqueeze(-1).expand(tokens.shape)

        inputs = torch.cat((torch.full_like(tokens[:, :, :1], BOS), tokens[:, :, :-1]), dim=-1)
        lengths = (tokens != PAD).sum(-1).cpu()
        packed = pack(lengths, tokens.shape[-1]).to(functools.partial(to_device, device=tokens.device))
        hidden = captioner.decoder.read(captioner.decoder.encode(features), inputs, packed)  # [T, W]
        logits = captioner.decoder.logits(hidden).float()  # [T, V]
        logits = logits.index_fill(1, torch.tensor(NEVER, device=logits.device), -torch.inf)
        targets = tokens.flatten()[packed.places]
        log_p = logits.log_softmax(-1).gather(1, targets.unsqueeze(1)).squeeze(1)
        log_p = log_p.masked_fill(targets == PAD, 0.0)
        words = int(lengths.sum())
        gained = to_device(advantages.flatten(), tokens.device)[packed.places] * log_p
        return Mean(-gained.sum() / words, words), Mean(rewards.mean(), rewards.numel())


class Reward:
    """CIDEr of one caption at a time; `captioner.scoring.scores.Cider` with the references counted once for all.

    `references` maps each training image to its raw captions; with `ended`, the end of a caption is a word.
    """

    def __init__(self, references: Mapping[str, list[str]], *, ended: bool = True):
        self._ended = ended
        counted = {
            image: [_ngrams(caption.split() + [ENDED] * ended) for caption in captions]
            for image, captions in words_of_references(references).items()
        }
        frequency = Counter(ngram for captions in counted.values() for ngram in set().union(*captions))
        images = math.log(len(counted))
        self._unseen = images
        self._idf = {ngram: images - math.log(count) for ngram, count in frequency.items()}
        self._references = {image: [self._vector(item) for item in items] for image, items in counted.items()}

    def __call__(self, image: str, caption: str, *, whole: bool = True) -> float:
        """Return the CIDEr, 0 to 10, of a caption; `whole` is false for one that was cut before its end."""
        told = self._vector(_ngrams(tokenise(caption) + [ENDED] * (self._ended and whole)))
        references = self._references[image]
        return 10 / N * sum(_similarity(told, reference) for reference in references) / len(references)

    def _vector(self, counts: Counter[tuple[str, ...]]) -> _Vector:
        weights: tuple[dict[tuple[str, ...], float], ...] = tuple({} for _ in range(N))
        for ngram, count in counts.items():
            weights[len(ngram) - 1][ngram] = count * self._idf.get(ngram, self._unseen)
        norms = tuple(math.sqrt(sum(weight * weight for weight in part.values())) for part in weights)
        # the reference implementation takes the number of bigrams for the length
        return _Vector(weights, norms, sum(count for ngram, count in counts.items() if len(ngram) == 2))


def _ngrams(words: list[str]) -> Counter[tuple[str, ...]]:
    return Counter(tuple(words[at : at + n]) for n in range(1, N + 1) for at in range(len(words) - n + 1))


def _similarity(told: _Vector, reference: _Vector) -> float:
    total = 0.0
    for n in range(N):
        if told.norms[n] and reference.norms[n]:
            known = reference.weights[n]
            shared = sum(
                min(weight, known[ngram]) * known[ngram] for ngram, weight in told.weights[n].items() if ngram in known
            )
            total += shared / (told.norms[n] * reference.norms[n])
    return total * math.exp(-((told.length - reference.length) ** 2) / (2 * SIGMA**2))
