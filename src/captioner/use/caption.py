"""Captions for photos, from a model file alone, without params, vocabulary file or dataset.

from captioner.use.caption import PhotoCaptioner

describe = PhotoCaptioner("models/captioner.safetensors")
print(describe("dog.jpg"))
print(describe(["dog.jpg", "cat.jpg"]))
"""

import math
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing
from functools import cached_property, partial
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple, overload

import numpy as np
import torch

from captioner.base.device import select_device, to_device
from captioner.base.errors import CaptionerError
from captioner.captions.vocabulary import PAD
from captioner.model.captioner import load_model
from captioner.model.consensus import Consensus, total
from captioner.model.search import beam_search
from captioner.sources.archives import LARGEST_MEMBER
from captioner.sources.models import local_model
from captioner.use.cache import cached_consensus
from captioner.use.options import BATCH, BEAM, CONSENSUS, LENGTH_PENALTY, MODEL, Search
from captioner.vision.encoder import BLOCKS, fused
from captioner.vision.reading import read_photo, read_photos

__all__ = ["BATCH", "BEAM", "CONSENSUS", "LENGTH_PENALTY", "Caption", "PhotoCaptioner", "Search"]

Photo = str | os.PathLike[str]


class Caption(NamedTuple):
    """A candidate caption of a photo."""

    text: str
    score: float  # the mean log-probability of its words and its end, in nats, at most 0
    agreement: float | None  # CIDEr, 0 to 10, against the captions of similar training images; None: not computed


class PhotoCaptioner:
    """A fine-tuned model that captions photo files of any size and mode.

    `model` is a path or another name of `captioner.sources.models`. The default `device` is that of CAPTIONER_DEVICE.
    `captioner` is the whole network in eval mode, with BatchNorm folded in. Raises CaptionerError if the file is not a
    model with an encoder, or if the device cannot be used.
    """

    def __init__(self, model: Photo = MODEL, *, device: torch.device | str | None = None):
        self.model = local_model(os.fspath(model))
        captioner, self.card = load_model(self.model)
        if captioner.encoder is None:
            raise CaptionerError(
                f"{model}: a decoder of stored features; give a fine-tuned model, captioner.safetensors"
            )
        captioner.encoder, captioner.start = fused(captioner.encoder), BLOCKS[0]
        self.device = select_device(None if device is None else str(device))
        self.captioner = captioner.to(self.device)

    @property
    def has_examples(self) -> bool:
        """Whether the model has its training captions; without them, captions are the likeliest beams."""
        return self.captioner.examples is not None

    @cached_property
    def consensus(self) -> Consensus | None:
        """The consensus with the training images; None for a model file without them."""
        examples = self.captioner.examples
        return None if examples is None else cached_consensus(self.model, examples)

    @overload
    def __call__(self, photos: Photo, **search: Any) -> str: ...

    @overload
    def __call__(self, photos: Iterable[Photo], **search: Any) -> list[str]: ...

    def __call__(self, photos: Photo | Iterable[Photo], **search: Any) -> str | list[str]:
        """Return the caption of a photo, or a list of the captions of several photos.

        `search` has `batch` and the options of `captioner.use.options.Search`. Raises CaptionerError that names the
        first photo that cannot be read, or an option that is out of range.
        """
        if isinstance(photos, str | os.PathLike):
            return self([photos], **search)[0]
        captions = []
        for _, caption in self.each(photos, **search):
            if isinstance(caption, CaptionerError):
                raise caption
            captions.append(caption)
        return captions

    def each(self, photos: Iterable[Photo], **search: Any) -> Iterator[tuple[Photo, str | CaptionerError]]:
        """Yield each photo with its caption or with its error, in order and in batches.

        `search` is as in `__call__`. At most two batches of `photos` are read ahead.
        """
        for photo, ranked in self.ranked(photos, **search):
            yield photo, ranked if isinstance(ranked, CaptionerError) else ranked[0].text

    def ranked(
        self, photos: Iterable[Photo], *, top: int = 1, batch: int = BATCH, **search: Any
    ) -> Iterator[tuple[Photo, list[Caption] | CaptionerError]]:
        """Yield each photo as `each` does, with its `top` best captions or fewer, the best first.

        The order is that of score (by `length_penalty`) + `consensus` * agreement.
        """
        if isinstance(photos, str | os.PathLike):
            photos = [photos]
        options = self._checked(Search(**search))
        for name, value in (("top", top), ("batch", batch)):
            if not isinstance(value, int) or value < 1:
                raise CaptionerError(f"{name}: is {value!r}, expected a whole number from 1 on")
        if top > options.beam:
            raise CaptionerError(f"top: is {top}, expected at most the number of beams, {options.beam}")
        return self._ranked(iter(photos), top, batch, options)

    def _checked(self, options: Search) -> Search:
        longest = options.max_length or self.card.vocabulary.max_length
        if options.min_length > longest:
            raise CaptionerError(
                f"min_length: is {options.min_length}, expected at most the longest caption, {longest} words"
            )
        return options

    def _ranked(
        self, photos: Iterator[Photo], top: int, batch: int, options: Search
    ) -> Iterator[tuple[Photo, list[Caption] | CaptionerError]]:
        waiting: deque[Photo] = deque()  # photos that threads read

        def reads() -> Iterator[Callable[[], np.ndarray]]:
            for photo in photos:
                waiting.append(photo)
                yield partial(self.read, photo)

        with closing(read_photos(reads(), ahead=2 * batch)) as results:
            while some := list(islice(results, batch)):
                pixels = [result for result in some if not isinstance(result, CaptionerError)]
                captions = iter(self.search(np.stack(pixels), options) if pixels else ())
                for result in some:
                    yield waiting.popleft(), result if isinstance(result, CaptionerError) else next(captions)[:top]

    @torch.inference_mode()
    def search(self, pixels: np.ndarray, options: Search) -> list[list[Caption]]:
        """Return the candidate captions of photos, uint8 [B, size, size, 3], the best of each photo first."""
        captioner, vocabulary = self.captioner, self.card.vocabulary
        features = self.features(pixels)
        beams = beam_search(
            captioner.decoder,
            captioner.decoder.encode(features),
            beam=options.beam,
            max_length=options.max_length or vocabulary.max_length,
            length_penalty=options.length_penalty,
            min_length=options.min_length,
        )
        tokens, scores = beams.tokens.cpu().numpy(), beams.scores.cpu().numpy()  # [B, K, T], [B, K]
        agreements = np.full(scores.shape, math.nan)
        totals = scores
        known = self.consensus if options.consensus and self.has_examples else None
        if known is not None:
            agreements = known.agreements(tokens, *known.nearest(features.float().mean(1).cpu().numpy()))
            totals = total(scores, agreements, options.consensus)
        lengths = (tokens != PAD).sum(-1)  # [B, K]
        means = scores * lengths ** (options.length_penalty - 1)
        return [
            [
                Caption(
                    vocabulary.decode(tokens[image, beam].tolist()),
                    float(means[image, beam]),
                    None if math.isnan(agreements[image, beam]) else float(agreements[image, beam]),
                )
                for beam in np.argsort(-totals[image], kind="stable")
                if scores[image, beam] > -math.inf  # with a short vocabulary there are fewer captions than beams
            ]
            for image in range(len(pixels))
        ]

    def features(self, pixels: np.ndarray) -> torch.Tensor:
        """Return the image features [B, P, D] of photos, uint8 [B, size, size, 3]."""
        photos = to_device(torch.tensor(pixels), self.device)
        return self.captioner.features(photos, photos.flip(2) if self.card.mean else None)

    def read(self, photo: Photo) -> np.ndarray:
        """Return a photo as the model's input, uint8 [size, size, 3]; raises CaptionerError if it cannot be read."""
        return read_photo(partial(_bytes_of, Path(photo)), os.fspath(photo), **self.card.image)


def _bytes_of(photo: Path) -> bytes:
    """Return the bytes of a photo; raises ValueError for a file that is too large for one, such as a video."""
    if (size := photo.stat().st_size) > LARGEST_MEMBER:
        raise ValueError(f"has {size:,} bytes, expected at most {LARGEST_MEMBER:,}")
    return photo.read_bytes()
