"""Generate captions by a decoder, batched over images: by beam search, or drawn at random.

Dimensions: B images, K beams or samples, V words, T the most words of a caption.
"""

from collections.abc import Callable
from functools import cache
from typing import NamedTuple

import torch
from torch import Tensor

from captioner.captions.vocabulary import BOS, EOS, PAD, UNK
from captioner.model.decoder import Decoder, Memory, State

NEVER = (PAD, BOS, UNK)  # tokens that are never generated
LOOK_EVERY = 4  # words drawn between checks whether all captions have ended; each check waits for a GPU


class Beams(NamedTuple):
    """The beams of each image, best first."""

    tokens: Tensor  # [B, K, T] int64: words, then <eos>, then <pad>
    scores: Tensor  # [B, K] float32: log-probability / length ** length_penalty; -inf where there is no such beam


@torch.inference_mode()
def beam_search(
    decoder: Decoder, memory: Memory, *, beam: int, max_length: int, length_penalty: float, min_length: int = 0
) -> Beams:
    """Return the captions of highest score; every step keeps `beam` beginnings of each image.

    A caption's score is its log-probability divided by length ** length_penalty, its length in tokens with
    the `<eos>` (Wu et al. 2016 use a similar form); beginnings are compared by the same score. A finished
    caption keeps its place in the beam for as long as it is among the best and is never extended. Search
    ends when all beams of all images are finished or `max_length` words long; the latter have no `<eos>`.
    `<pad>`, `<bos>` and `<unk>` are never generated. A caption has at least `min_length` words, of a vocabulary that
    has words. A beam of 1 is greedy search.
    """
    device = memory.start[0].device
    shape = (memory.start[0].shape[0], beam)
    beams = Beams(torch.full((*shape, max_length), PAD, device=device), torch.full(shape, -torch.inf, device=device))
    images = torch.arange(shape[0], device=device)  # that are still searched
    tokens = beams.tokens.clone()
    log_p = beams.scores.clone()
    log_p[:, 0] = 0.0  # one beam starts; the others would repeat it
    lengths = torch.zeros(shape, device=device)
    finished = log_p.isneginf()
    last = torch.full(shape, BOS, device=device)
    state = memory.states(1)  # each [n, W], of the beams that were computed
    row = torch.arange(shape[0], device=device).unsqueeze(1).expand(shape)  # of each beam in the state
    for step in range(max_length):
        places = (~finished).flatten().nonzero().squeeze(1)  # [n] of the beams that go on: only these are computed
        rows = row.flatten()[places]
        state = tuple(part.index_select(0, rows) for part in state)
        hidden, state = decoder.step(memory, last.flatten()[places], state, places, beam)
        words = decoder.logits(hidden).float().log_softmax(-1)  # [n, V]
        early = [EOS] if step < min_length else []
        words.masked_fill_(forbidden(words.shape[-1], device, *early), -torch.inf)
        best, ids = words.topk(min(beam, words.shape[-1]))  # [n, beam]; no further word is among the best

        gained = _spread(best, places, finished.shape, -torch.inf)  # [B, K, beam]
        gained[..., 0].masked_fill_(finished, 0.0)  # a finished caption stays as it is
        word = _spread(ids, places, finished.shape, PAD)
        row = _spread(torch.arange(len(places), device=device), places, finished.shape, 0)

        candidates = log_p.unsqueeze(-1) + gained  # [B, K, beam]
        grown = lengths + ~finished  # [B, K]
        scores, chosen = (candidates / grown.unsqueeze(-1) ** length_penalty).flatten(1).topk(beam)
        parent = chosen // gained.shape[-1]

        log_p = candidates.flatten(1).gather(1, chosen)
        last = word.flatten(1).gather(1, chosen)
        lengths = grown.gather(1, parent)
        tokens = tokens.gather(1, parent.unsqueeze(-1).expand_as(tokens))
        tokens[:, :, step] = last
        row = row.gather(1, parent)
        finished = finished.gather(1, parent) | (last == EOS) | scores.isneginf()

        going = (~finished.all(1)).nonzero().squeeze(1)
        if 2 * len(going) > len(images) and step + 1 < max_length:
            continue
        # not at every step: it copies what the decoder keeps of the images
        beams.tokens[images], beams.scores[images] = tokens, scores
        if not len(going):
            break
        images, tokens, log_p, lengths, finished, last, row = (
            part[going] for part in (images, tokens, log_p, lengths, finished, last, row)
        )
        memory = memory.of(going)
    return beams


def _spread(values: Tensor, places: Tensor, shape: torch.Size, fill: float) -> Tensor:
    """Return values [n, *] at their `places` [n] of `shape`, [B, K, *], and `fill` elsewhere."""
    every = values.new_full((shape.numel(), *values.shape[1:]), fill)
    return every.index_copy_(0, places, values).view(*shape, *values.shape[1:])


class Drawing(NamedTuple):
    """K captions of each image that are being drawn."""

    memory: Memory
    state: State  # each [B*K, W], after the words before the last
    last: Tensor  # [B, K] int64, the last words
    finished: Tensor  # [B, K] bool


DrawWords = Callable[[Decoder, Drawing, int], tuple[Drawing, Tensor]]


def draw_words(decoder: Decoder, drawing: Drawing, count: int) -> tuple[Drawing, Tensor]:
    """Draw `count` more words of each caption; return the drawing after them, and the words [B, K, count] int64."""
    memory, state, last, finished = drawing
    words: list[Tensor] = []
    for _ in range(count):
        hidden, state = decoder.step(memory, last.flatten(), state)
        logits = decoder.logits(hidden).view(*last.shape, -1)  # [B, K, V]
        last = draw(logits, forbidden(logits.shape[-1], logits.device)).masked_fill(finished, PAD)  # [B, K]
        words.append(last)
        finished = finished | (last == EOS)
    return Drawing(memory, state, last, finished), torch.stack(words, dim=-1)


@torch.no_grad()
def sample(
    decoder: Decoder, memory: Memory, *, samples: int, max_length: int, draw_words: DrawWords = draw_words
) -> Tensor:
    """Draw captions [B, K, T] int64 (words, then `<eos>`, then `<pad>`), each with its probability, from torch's
    generator. `<pad>`, `<bos>` and `<unk>` are never drawn. T is the length of the longest, at most `max_length`.

    The argument `draw_words` must do what the function `draw_words` of this module does.
    """
    device = memory.start[0].device
    last = torch.full((memory.start[0].shape[0], samples), BOS, device=device)
    drawing = Drawing(memory, memory.states(samples), last, torch.zeros_like(last, dtype=torch.bool))
    each = _words_between_looks(device)
    drawn: list[Tensor] = []
    for start in range(0, max_length, each):
        if start and drawing.finished.all():
            break
        drawing, words = draw_words(decoder, drawing, each)
        drawn.append(words)
    tokens = torch.cat(drawn, dim=-1)[..., :max_length]
    return tokens if each == 1 else tokens[..., : int((tokens != PAD).any(0).any(0).sum())]


def _words_between_looks(device: torch.device) -> int:
    return 1 if device.type == "cpu" else LOOK_EVERY


@cache
def forbidden(words: int, device: torch.device, *more: int) -> Tensor:
    """Return which of so many words are never generated, [words] bool: `<pad>`, `<bos>`, `<unk>`, and `more`.

    It is made once for a device, so that no step copies it there.
    """
    with torch.inference_mode(False):  # training uses the same tensor
        mask = torch.zeros(words, dtype=torch.bool)
        mask[[*NEVER, *more]] = True
        return mask.to(device)


def draw(logits: Tensor, never: Tensor) -> Tensor:
    """Draw a word [...] int64 from each row of logits [..., V], by torch's generator; `never` [V] bool are left out."""
    logits = logits.float().masked_fill(never, -torch.inf)
    below = logits.softmax(-1).cumsum(-1)  # inverted at one random number a row; multinomial() draws V of them
    at = torch.rand_like(below[..., :1]) * below[..., -1:]
    return torch.searchsorted(below, at, right=True).squeeze(-1).clamp(max=below.shape[-1] - 1)
