"""A captioner and its file.

Format (schema 2): safetensors, which holds numbers and text only, so that loading runs no code of the file's.
    tensors     decoder.*, in a captioner that can take photos encoder.* with torchvision's names, and of the images
                that it was trained on examples.features and examples.captions, see `Examples`
    metadata    one key, "captioner": JSON with
        schema       2
        encoder      SHA-256 of the frozen encoder whose features it starts from
        start        the first block of ResNet-18 that the file's own encoder is used for; "end": none,
                     the decoder takes in the frozen grid
        image        {"size": pixels, "fit": "squash" or "crop"}
        decoder      the arguments of `captioner.model.decoder.Decoder`
        vocabulary   see `captioner.captions.vocabulary`
        made         {"inputs": {path: md5} of the data and code, "params": {name: value}, "versions": {name: str}}
"""

import json
import platform
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from captioner.base.errors import CaptionerError
from captioner.base.files import whole
from captioner.captions.vocabulary import Vocabulary
from captioner.model.decoder import Decoder
from captioner.vision.encoder import END, Encoder

SCHEMA = 2
TIED = "decoder.output.weight"  # in the file once, as the embedding
EXAMPLES = "examples."  # before the names of their tensors in the file


class Examples(NamedTuple):
    """The training images, of which generated captions can be chosen by (`captioner.model.consensus`)."""

    features: Tensor  # [N, D] float16, image features by this captioner's encoder, averaged over positions
    captions: Tensor  # [N, K, L] int32, word ids with the <eos>, without the <bos>; then <pad>


class Captioner(nn.Module):
    """The blocks of the encoder from `start` on (none for the end) and a decoder; once trained, with its examples."""

    def __init__(
        self, decoder: Decoder, encoder: Encoder | None = None, start: str = END, examples: Examples | None = None
    ):
        super().__init__()
        self.decoder, self.encoder, self.start, self.examples = decoder, encoder, start, examples

    def features(self, rows: Tensor) -> Tensor:
        """Turn store rows [B, h, w, C], what `start` takes in, into image features [B, P, D]."""
        if self.encoder is not None:
            rows = self.encoder(rows, start=self.start)
        return rows.to(self.decoder.image.weight.dtype).flatten(1, 2)


@dataclass(frozen=True)
class Card:
    """What a model file says about itself; the fields are the metadata's."""

    encoder: str
    start: str
    image: dict[str, Any]
    decoder: dict[str, Any]
    vocabulary: Vocabulary
    made: dict[str, Any]


def provenance(made: dict[str, Any]) -> dict[str, Any]:
    """Return what a card's `made` holds, from what `captioner.base.resume.made_from` returned."""
    versions = {name: version(name) for name in ("torch", "torchvision", "numpy")}
    return {**made, "versions": {"python": platform.python_version()} | versions}


def save_model(path: str | Path, captioner: Captioner, card: Card) -> None:
    """Write a model file, whole or not at all; the same weights, examples and card give the same bytes."""
    assert captioner.examples is not None
    tensors = captioner.state_dict() | {EXAMPLES + key: value for key, value in captioner.examples._asdict().items()}
    tensors = {key: value.detach().cpu().contiguous() for key, value in tensors.items()}
    if card.decoder["tied"]:
        del tensors[TIED]
    record = {"schema": SCHEMA, **vars(card), "vocabulary": card.vocabulary.as_dict()}
    with whole(path) as beside:
        save_file(tensors, beside, metadata={"captioner": json.dumps(record, ensure_ascii=False)})


def load_model(path: str | Path) -> tuple[Captioner, Card]:
    """Read a model file onto the CPU, in eval mode.

    Raises CaptionerError that names the file where it is missing, damaged, of another kind or schema, or
    where its tensors do not fit its card (missing and unexpected ones are listed).
    """
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 - not a dict
    except FileNotFoundError:
        raise CaptionerError(f"{path}: not found; `dvc repro` or `make demo` makes a model") from None
    except (SafetensorError, OSError) as error:
        raise CaptionerError(f"{path}: not a whole model file ({error})") from None
    try:
        record = json.loads(metadata["captioner"])
        if record.pop("schema") != SCHEMA:
            raise CaptionerError(f"{path}: made by another version of this program; make it anew: `dvc repro`")
        card = Card(**{**record, "vocabulary": Vocabulary.from_dict(record["vocabulary"])})
        if card.decoder["width"] % card.decoder["heads"]:
            raise ValueError("heads do not divide the width")
        decoder = Decoder(**card.decoder)
        examples = Examples(**{name: tensors.pop(EXAMPLES + name) for name in Examples._fields})
        captioner = Captioner(decoder, None if card.start == END else Encoder(), card.start, examples)
    except (ArithmeticError, AttributeError, KeyError, RuntimeError, TypeError, ValueError) as error:
        raise CaptionerError(f"{path}: not a captioner's model file ({error!r})") from None
    if card.decoder["vocabulary"] != len(card.vocabulary):
        raise CaptionerError(
            f"{path}: its decoder knows {card.decoder['vocabulary']} words and its vocabulary {len(card.vocabulary)}; "
            "the file is damaged"
        )
    shapes = [tuple(tensor.shape) for tensor in examples]
    if len(shapes[1]) != 3 or shapes[0] != (shapes[1][0], card.decoder["features"]) or not shapes[1][0]:
        raise CaptionerError(f"{path}: features {shapes[0]} and captions {shapes[1]} of its examples; it is damaged")
    if not 0 <= int(examples.captions.min()) <= int(examples.captions.max()) < len(card.vocabulary):
        raise CaptionerError(f"{path}: its examples hold words that its vocabulary does not; the file is damaged")
    load_tensors(captioner, tensors, path, optional={TIED} if card.decoder["tied"] else set())
    return captioner.eval(), card


def load_tensors(module: nn.Module, tensors: dict[str, Tensor], path: str | Path, optional: set[str]) -> None:
    """Load all of a module's weights, or raise CaptionerError that lists what does not fit."""
    own = module.state_dict()
    problems = {
        "missing": [key for key in own if key not in tensors and key not in optional],
        "unexpected": [key for key in tensors if key not in own],
        "of another shape": [key for key in own if key in tensors and own[key].shape != tensors[key].shape],
    }
    if any(problems.values()):
        listed = "; ".join(f"{kind}: {', '.join(keys)}" for kind, keys in problems.items() if keys)
        raise CaptionerError(f"{path}: its weights do not fit: {listed}")
    module.load_state_dict(tensors, strict=False)
