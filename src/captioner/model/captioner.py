"""A captioner and its file.

Format (schema 3): safetensors, which holds numbers and text only, so loading a file runs no code from it.
    tensors     decoder.*, see `captioner.model.decoder.Decoder`; encoder.* with torchvision's names, in a captioner
                that takes photos; examples.features and examples.captions of the training images, see `Examples`,
                unless the file was written without them
    metadata    one key, "captioner": JSON with
        schema       3
        encoder      SHA-256 of the frozen encoder whose features it starts from
        start        the first block of ResNet-18 that the file's own encoder computes; "end": none, the decoder takes
                     in the frozen grid
        image        {"size": pixels, "fit": "squash" or "crop"}
        mean         whether it captions the mean of the features of a photo and of its mirror image; without the key
                     it does not
        decoder      the arguments of `captioner.model.decoder.Decoder`
        vocabulary   see `captioner.captions.vocabulary`
        provenance   {"inputs": {path: md5} of the data and code, "params": {name: value}, "versions": {name: str}}
        examples     whether the file has the training images' features and captions
        checksums    {name of a tensor: SHA-256 of its type, shape and bytes}, of all tensors of the file
"""

import hashlib
import json
import platform
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from captioner.base.errors import CaptionerError
from captioner.base.files import atomic_write
from captioner.captions.vocabulary import Vocabulary
from captioner.model.decoder import Decoder, Memory
from captioner.vision.encoder import BLOCKS, END, Encoder

SCHEMA = 3
TIED = "decoder.output.weight"  # of a tied decoder, the file has it once, as the embedding
EXAMPLES = "examples."  # before the names of their tensors in the file
TYPES = {torch.float16: "F16", torch.float32: "F32", torch.float64: "F64", torch.int32: "I32", torch.int64: "I64"}
DRAWING = {"kaiming_normal_", "kaiming_uniform_", "normal_", "uniform_"}  # functions that initialise weights


class Examples(NamedTuple):
    """The training images, for the choice among captions by consensus (`captioner.model.consensus`)."""

    features: Tensor  # [N, D] float16, image features from this captioner's encoder, averaged over positions
    captions: Tensor  # [N, K, L] int32, word ids with the <eos>, without the <bos>; then <pad>


class Captioner(nn.Module):
    """A decoder and the blocks of the encoder from `start` on (none for "end"). A trained captioner has examples.

    Without examples there is no choice by consensus, so a caption is the likeliest beam.
    """

    def __init__(
        self, decoder: Decoder, encoder: Encoder | None = None, start: str = END, examples: Examples | None = None
    ):
        super().__init__()
        self.decoder, self.encoder, self.start, self.examples = decoder, encoder, start, examples

    def features(self, rows: Tensor, mirrored: Tensor | None = None) -> Tensor:
        """Return the image features [B, P, D] of store rows [B, h, w, C], the inputs of `start`.

        With the rows of the `mirrored` images they are the mean of both, those of the mirrored images mirrored back.
        """
        grid = self._grid(rows)
        if mirrored is not None:
            grid = (grid + self._grid(mirrored).flip(2)) / 2
        return grid.flatten(1, 2)

    def encode(self, rows: Tensor, mirrored: Tensor | None = None) -> Memory:
        """Return the decoder's memory of store rows [B, h, w, C], or of the mean as `features` computes it."""
        return self.decoder.encode(self.features(rows, mirrored))

    def _grid(self, rows: Tensor) -> Tensor:
        if self.encoder is not None:
            rows = self.encoder(rows, start=self.start)
        return rows.to(self.decoder.image.weight.dtype)  # [B, h', w', D]


@dataclass(frozen=True)
class Metadata:
    """The metadata of a model file; the module's docstring specifies the fields."""

    encoder: str
    start: str
    image: dict[str, Any]
    decoder: dict[str, Any]
    vocabulary: Vocabulary
    provenance: dict[str, Any]
    mean: bool = False

    @property
    def trained_from(self) -> str | None:
        """The first block of the encoder that was trained; None if none was."""
        trained = self.provenance.get("params", {}).get("finetune.train_encoder", True)
        return self.start if trained and self.start != END else None


def with_versions(provenance: dict[str, Any]) -> dict[str, Any]:
    """Return the `provenance` of metadata, from what `captioner.base.resume.stage_provenance` returned."""
    versions = {name: version(name) for name in ("torch", "torchvision", "numpy")}
    return {**provenance, "versions": {"python": platform.python_version()} | versions}


def save_model(path: str | Path, captioner: Captioner, metadata: Metadata) -> None:
    """Write a model file, or nothing if that fails. The same weights, examples and metadata give the same bytes.

    A captioner whose examples are None gives a file without them.
    """
    tensors = dict(captioner.state_dict())
    if captioner.examples is not None:
        tensors |= {EXAMPLES + key: value for key, value in captioner.examples._asdict().items()}
    if metadata.decoder["tied"]:
        del tensors[TIED]
    tensors = {key: value.detach().cpu().contiguous() for key, value in tensors.items()}
    record = {
        "schema": SCHEMA,
        **vars(metadata),
        "vocabulary": metadata.vocabulary.as_dict(),
        "examples": captioner.examples is not None,
        "checksums": {key: checksum(tensors[key]) for key in sorted(tensors)},
    }
    with atomic_write(path) as beside:
        save_file(tensors, beside, metadata={"captioner": json.dumps(record, ensure_ascii=False)})


def load_model(path: str | Path) -> tuple[Captioner, Metadata]:
    """Read a model file onto the CPU, in eval mode. `examples` is None where the file was written without them.

    The names, types and shapes of all tensors are compared with the metadata before memory is taken for them, then
    their checksums. Raises CaptionerError that names the file if it is missing, damaged, changed, of another kind or
    of another schema, or if its tensors do not fit its metadata (it then lists them).
    """
    try:
        with safe_open(path, framework="pt") as file:
            metadata, examples, checksums = _read_metadata(path, file.metadata() or {})
            names = list(file.keys())
            slices = {name: file.get_slice(name) for name in names}
            stored = {name: (part.get_dtype(), tuple(part.get_shape())) for name, part in slices.items()}
            _check_shapes(path, metadata, examples, stored)
            tensors = {name: file.get_tensor(name) for name in names}
    except FileNotFoundError:
        raise CaptionerError(f"{path}: not found; `dvc repro` or `make demo` makes a model") from None
    except (SafetensorError, OSError) as error:
        raise CaptionerError(f"{path}: not a whole model file ({error}); get or make it again") from None
    changed = [name for name, tensor in tensors.items() if checksums.get(name) != checksum(tensor)]
    if changed:
        raise CaptionerError(
            f"{path}: damaged or changed after it was written: the checksums of {', '.join(changed)} differ; "
            "get or make it again"
        )
    captioner = _build(metadata)
    if examples:
        captioner.examples = Examples(**{name: tensors.pop(EXAMPLES + name) for name in Examples._fields})
        ids = captioner.examples.captions
        if not 0 <= int(ids.min()) <= int(ids.max()) < len(metadata.vocabulary):
            raise CaptionerError(f"{path}: its examples hold words that its vocabulary does not; the file is damaged")
    captioner.load_state_dict(tensors, strict=False)
    return captioner.eval(), metadata


def without_examples(model: str | Path, out: str | Path) -> None:
    """Write a copy of a model file without its training captions and features, for data whose terms forbid sharing.

    Captions of the copy are the likeliest beams. Raises CaptionerError as `load_model`.
    """
    captioner, metadata = load_model(model)
    captioner.examples = None
    save_model(out, captioner, metadata)


def _read_metadata(path: str | Path, texts: dict[str, str]) -> tuple[Metadata, bool, dict[str, str]]:
    """Return the metadata, whether the file has examples, and the checksums."""
    try:
        record = json.loads(texts["captioner"])
        schema = record.pop("schema")
        if schema != SCHEMA:
            raise CaptionerError(
                f"{path}: a model file of schema {schema!r}, from another version of this program; this version reads "
                f"schema {SCHEMA}. Make the model again with `dvc repro`, or use the version that made it"
            )
        examples, checksums = bool(record.pop("examples")), dict(record.pop("checksums"))
        metadata = Metadata(**{**record, "vocabulary": Vocabulary.from_dict(record["vocabulary"])})
        words, known = len(metadata.vocabulary), metadata.decoder["vocabulary"]
        if known != words:
            raise CaptionerError(
                f"{path}: its decoder knows {known} words and its vocabulary {words}; the file is damaged"
            )
        if metadata.decoder["width"] % metadata.decoder["heads"]:
            raise ValueError("heads do not divide the width")
        if metadata.start not in (*BLOCKS, END):
            raise ValueError(f"start: is {metadata.start!r}, expected one of {', '.join((*BLOCKS, END))}")
        if not isinstance(metadata.mean, bool):
            raise ValueError(f"mean: is {metadata.mean!r}, expected true or false")
    except (ArithmeticError, AttributeError, KeyError, TypeError, ValueError) as error:
        raise CaptionerError(f"{path}: not a captioner's model file ({error!r})") from None
    return metadata, examples, checksums


def _check_shapes(
    path: str | Path, metadata: Metadata, examples: bool, stored: dict[str, tuple[str, tuple[int, ...]]]
) -> None:
    """Raise CaptionerError unless a file's tensors, (type, shape) by name, are those that its metadata call for."""
    try:
        with _ShapesOnly():
            state = _build(metadata).state_dict()
    except (ArithmeticError, AttributeError, KeyError, RuntimeError, TypeError, ValueError) as error:
        raise CaptionerError(f"{path}: not a captioner's model file ({error!r})") from None
    if metadata.decoder["tied"]:
        del state[TIED]
    expected = {name: (TYPES[tensor.dtype], tuple(tensor.shape)) for name, tensor in state.items()}
    if examples:
        images, *captions = stored.get(EXAMPLES + "captions", ("", (0, 0, 0)))[1] or (0,)
        expected[EXAMPLES + "features"] = ("F16", (images, metadata.decoder["features"]))
        shape = [max(1, count) for count in (images, *captions)] if len(captions) == 2 else [max(1, images), 1, 1]
        expected[EXAMPLES + "captions"] = ("I32", tuple(shape))
    problems = {
        "missing": [name for name in expected if name not in stored],
        "unexpected": [name for name in stored if name not in expected],
        "of another shape or type": [
            f"{name} ({stored[name][0]} {stored[name][1]}, expected {of[0]} {of[1]})"
            for name, of in expected.items()
            if name in stored and stored[name] != of
        ],
    }
    if any(problems.values()):
        listed = "; ".join(f"{kind}: {', '.join(names)}" for kind, names in problems.items() if names)
        raise CaptionerError(f"{path}: its tensors do not fit its metadata: {listed}; get or make it again")


class _ShapesOnly(TorchFunctionMode):
    """A context in which the parameters of new modules take no memory and get no values.

    torch.device("meta") does this too. But operations on it, as of random numbers, import torch's compiler, which takes
    as long as importing torch.
    """

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func.__name__ in DRAWING:  # functions of torch.nn.init give the tensor by name, methods by place
            return args[0] if args else kwargs["tensor"]
        if func in (torch.empty, torch.zeros, torch.ones):
            kwargs = {**kwargs, "device": "meta"}
        return func(*args, **kwargs)


def _build(metadata: Metadata) -> Captioner:
    """Return a captioner of these shapes, with random weights."""
    return Captioner(Decoder(**metadata.decoder), None if metadata.start == END else Encoder(), metadata.start)


def checksum(tensor: Tensor) -> str:
    """Return the SHA-256 of a tensor's type, shape and bytes; the tensor is on the CPU and of one of TYPES."""
    hasher = hashlib.sha256(f"{TYPES[tensor.dtype]} {tuple(tensor.shape)} ".encode())
    hasher.update(tensor.contiguous().flatten().view(torch.uint8).numpy().data)
    return hasher.hexdigest()
