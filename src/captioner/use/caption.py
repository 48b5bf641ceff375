"""Captions for photos, from a model file alone: no params, no vocabulary file, no dataset.

from captioner.use.caption import PhotoCaptioner

describe = PhotoCaptioner("models/captioner.safetensors")
print(describe(["dog.jpg"]))
"""

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from captioner.base.device import decoding_threads, select_device
from captioner.base.errors import CaptionerError
from captioner.model.captioner import load_model
from captioner.model.consensus import Consensus
from captioner.model.generate import generate
from captioner.vision.encoder import BLOCKS, fused
from captioner.vision.photos import load_photo

BATCH = 32  # photos
BEAM, CONSENSUS = 20, 2.0  # as params.yaml has them


class PhotoCaptioner:
    """A fine-tuned model that takes photo files of any size and mode; `device` is by default what the environment says.

    `captioner` is its network, in eval mode and from the first block on, with BatchNorm folded away. Raises
    CaptionerError where the file is no model, or one without an encoder.
    """

    def __init__(self, model: str | Path = "models/captioner.safetensors", *, device: torch.device | None = None):
        captioner, self.card = load_model(model)
        if captioner.encoder is None:
            raise CaptionerError(
                f"{model}: a decoder of stored features; give a fine-tuned model, captioner.safetensors"
            )
        captioner.encoder, captioner.start = fused(captioner.encoder), BLOCKS[0]
        self.device = device or select_device()
        self.captioner = captioner.to(self.device)

    @cached_property
    def consensus(self) -> Consensus | None:
        """The training images that captions are chosen by; None for a model file without them."""
        return None if self.captioner.examples is None else Consensus(*self.captioner.examples)

    def __call__(self, photos: Sequence[str | Path], **search: Any) -> list[str]:
        """Return a caption for each photo; raises CaptionerError that names the first that cannot be read.

        `search` are the options of `each`.
        """
        captions = []
        for _, caption in self.each(photos, **search):
            if isinstance(caption, CaptionerError):
                raise caption
            captions.append(caption)
        return captions

    def each(
        self,
        photos: Sequence[str | Path],
        *,
        beam: int = BEAM,
        length_penalty: float = 1.0,
        consensus: float = CONSENSUS,
    ) -> Iterator[tuple[str | Path, str | CaptionerError]]:
        """Yield each photo with its caption, or with the error of one that cannot be read, in order and in batches.

        The options are those of `search` in params.yaml. Without training captions in the model file, `consensus`
        does nothing: the caption is the likeliest beam.
        """
        with ThreadPoolExecutor(decoding_threads()) as pool:
            for at in range(0, len(photos), BATCH):
                batch = photos[at : at + BATCH]
                decoded = list(pool.map(self._read_or_error, batch))
                pairs = list(zip(batch, decoded, strict=True))
                whole = {str(photo): pixels for photo, pixels in pairs if isinstance(pixels, np.ndarray)}
                captions: dict[str, str] = {}
                if whole:
                    stacked = torch.from_numpy(np.stack(list(whole.values())))  # [B, size, size, 3]
                    chooser = self.consensus if consensus and beam > 1 else None
                    captions = generate(
                        self.captioner,
                        list(whole),
                        stacked.__getitem__,
                        self.card.vocabulary,
                        beam=beam,
                        length_penalty=length_penalty,
                        device=self.device,
                        choose=partial(chooser.choose, weight=consensus) if chooser else None,
                    )
                for photo, pixels in pairs:
                    yield photo, pixels if isinstance(pixels, CaptionerError) else captions[str(photo)]

    def read(self, photo: str | Path) -> np.ndarray:
        """Return a photo as the model takes it in, uint8 [size, size, 3]; raises CaptionerError where it cannot."""
        try:
            return load_photo(Path(photo).read_bytes(), **self.card.image)
        except ValueError as error:
            raise CaptionerError(f"{photo}: not a photo that can be read ({error})") from None
        except OSError as error:
            raise CaptionerError(f"{photo}: cannot be read ({error.strerror})") from None

    def _read_or_error(self, photo: str | Path) -> np.ndarray | CaptionerError:
        try:
            return self.read(photo)
        except CaptionerError as error:
            return error
