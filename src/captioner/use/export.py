"""The fine-tuned captioner as ONNX: a folder that captions photos without PyTorch and without this package.

`captioner.use.runtime` specifies the folder's files. It is one of them.
"""

import io
import logging
import os
import re
import tempfile
import warnings
import zipfile
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from captioner.base import errors, streams
from captioner.base.errors import CaptionerError
from captioner.base.files import write_json, write_text
from captioner.captions import ptb, text, tokens
from captioner.captions.vocabulary import SPECIAL
from captioner.model import consensus
from captioner.model.captioner import Captioner, Examples, Metadata
from captioner.model.decoder import Decoder, Memory
from captioner.model.search import beam_search
from captioner.scoring import cider
from captioner.sources import shapes
from captioner.use.caption import BEAM, CONSENSUS, LENGTH_PENALTY, PhotoCaptioner
from captioner.vision import photos

CHECKED = 16  # drawings that model and export have to caption
SETTINGS = "captioner.json"
EXAMPLES = "examples.npz"
SEARCHES = {"greedy search": (1, 0.0), "beam search": (4, 0.0), "consensus": (BEAM, CONSENSUS)}  # beam, weight
CLOSE = 1e-3  # nats a token: largest difference of two scores of a caption, because float32 sums depend on their order
README = """\
# An image captioner, as ONNX

`captioner export` wrote this folder from {model}. It gives the model's captions for {checked} drawings, {searches}.

    pip install numpy pillow onnxruntime
    python caption.py dog.jpg

From Python, in this folder:

    from pathlib import Path
    from caption import OnnxCaptioner
    from photos import load_photo

    describe = OnnxCaptioner(".")
    pixels = load_photo(Path("dog.jpg").read_bytes(), **describe.image)  # uint8 [{size}, {size}, 3], RGB
    print(describe(pixels[None]))

`encode.onnx` encodes photos, `step.onnx` scores the next word. The top of `caption.py` describes their inputs and
outputs. Its function `search` is the loop to write in another programming language.
`captioner.json` has the vocabulary. {choice}
"""
WITH_EXAMPLES = """\
`consensus.py` chooses among the beams by
`examples.npz`, which has the captions of the training photos. Their licence may apply to this file, too."""
WITHOUT_EXAMPLES = """\
The model has no training captions,
so there is no choice by consensus: a caption is the likeliest beam."""


class _Encode(nn.Module):
    def __init__(self, captioner: Captioner, mean: bool):
        super().__init__()
        self.captioner, self.mean = captioner, mean

    def forward(self, photos: Tensor) -> tuple[Tensor, ...]:
        features = self.captioner.features(photos, photos.flip(2) if self.mean else None)
        memory = self.captioner.decoder.encode(features)
        return (torch.stack(memory.start), features.mean(1), *_grid(memory))


class _Step(nn.Module):
    def __init__(self, decoder: Decoder):
        super().__init__()
        self.decoder = decoder

    def forward(
        self, words: Tensor, state: Tensor, keys: Tensor | None = None, values: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        beams = words.shape  # [B, K]
        hidden, new = self.decoder.step(Memory((), keys, values), words.flatten(), state.flatten(1, 2).unbind(0))
        log_p = self.decoder.logits(hidden).log_softmax(-1)  # [B*K, V]
        return log_p.view(*beams, -1), torch.stack(new).view(-1, *beams, self.decoder.width)


def _grid(memory: Memory) -> tuple[Tensor, ...]:
    return () if memory.keys is None or memory.values is None else (memory.keys, memory.values)


@torch.inference_mode()
def export(model: str | Path, folder: str | Path) -> None:
    """Write a fine-tuned model into `folder` as ONNX, after a check that it gives the same captions.

    Raises CaptionerError, and changes no file of `folder`, if the model cannot be read or has no encoder, if packages
    of the extra `export` are missing, if `folder` has files but no exported model, or if the captions differ.
    """
    try:
        import onnxscript  # noqa: F401 - what torch.onnx exports with

        from captioner.use import runtime
    except ImportError as error:
        raise CaptionerError(
            f"export: {error.name} is not installed; it comes with the extra `export`: "
            "`pip install 'captioner[export]'`, in the project's folder `pip install -e '.[export]'`"
        ) from None
    folder = Path(folder)
    if folder.exists() and not folder.is_dir():
        raise CaptionerError(f"{folder}: is a file; give a folder, new or old")
    prefix = f".part-{folder.name}-"
    there = [file for file in folder.iterdir() if not file.name.startswith(prefix)] if folder.exists() else []
    if there and not (folder / SETTINGS).exists():
        raise CaptionerError(
            f"{folder}: has files in it and no {SETTINGS}, so it is no exported model; give a new folder"
        )
    describe = PhotoCaptioner(model, device=torch.device("cpu"))
    captioner, card = describe.captioner, describe.card
    pixels = np.stack([photos.load_photo(data, **card.image) for data in _drawings()])
    memory = captioner.decoder.encode(describe.features(pixels[:2]))
    grid = dict(zip(("keys", "values"), _grid(memory), strict=False))
    images, beams = (torch.export.Dim(name) for name in ("images", "beams"))
    # two images and three beams, so that the exporter takes neither number for a constant
    state = torch.stack(memory.start).repeat(1, 1, 3, 1)
    words = torch.zeros(2, 3, dtype=torch.int64)

    folder.parent.mkdir(parents=True, exist_ok=True)
    # within the folder, which may be a mount point: files move only within a file system
    within = folder if folder.is_dir() else folder.parent
    with tempfile.TemporaryDirectory(prefix=prefix, dir=within) as temporary:
        beside = Path(temporary)
        _write(
            beside / "encode.onnx",
            _Encode(captioner, card.mean),
            {"photos": (torch.from_numpy(pixels[:2]), {0: images})},
            ["state", "features", *grid],
        )
        _write(
            beside / "step.onnx",
            _Step(captioner.decoder),
            {"words": (words, {0: images, 1: beams}), "state": (state, {1: images, 2: beams})}
            | {name: (tensor, {0: images}) for name, tensor in grid.items()},
            ["log_p", "next_state"],
        )
        _write_texts(beside, Path(model).name, card, with_examples=bool(captioner.examples))
        modules = {
            "caption.py": runtime,
            "photos.py": photos,
            "streams.py": streams,
            "consensus.py": consensus,
            "cider.py": cider,
            "errors.py": errors,
            "ptb.py": ptb,
            "text.py": text,
            "tokens.py": tokens,
        }
        for name, source in modules.items():
            code = Path(str(source.__file__)).read_text(encoding="utf-8")
            code = re.sub(r"from captioner\.\w+\.", "from ", code)  # in the folder the modules are beside each other
            write_text(beside / name, code)
        if captioner.examples:
            _write_arrays(beside / EXAMPLES, captioner.examples)
        _check(describe, runtime.OnnxCaptioner(beside), pixels, model)
        folder.mkdir(exist_ok=True)
        for file in beside.iterdir():
            os.replace(file, folder / file.name)
        if not captioner.examples:  # files of an earlier export
            (folder / EXAMPLES).unlink(missing_ok=True)


def _write(path: Path, module: nn.Module, inputs: dict[str, tuple[Tensor, dict]], outputs: list[str]) -> None:
    """Write a module's forward; `inputs` has an example of each input and its dimensions of variable size."""
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about torch's own code
        program = torch.onnx.export(
            module.eval(),
            tuple(example for example, _ in inputs.values()),
            input_names=list(inputs),
            output_names=outputs,
            dynamic_shapes=tuple(sizes for _, sizes in inputs.values()),
            dynamo=True,
            verbose=False,
        )
    assert program is not None
    proto = program.model_proto
    graph = proto.graph
    for part in (*graph.node, *graph.value_info, *graph.input, *graph.output, *graph.initializer):
        del part.metadata_props[:]  # metadata with lines of code and paths of this machine
    path.write_bytes(proto.SerializeToString(deterministic=True))


def _write_texts(folder: Path, model: str, metadata: Metadata, *, with_examples: bool) -> None:
    vocabulary = metadata.vocabulary
    settings = {
        "image": metadata.image,
        "search": {"beam": BEAM, "length_penalty": LENGTH_PENALTY, "consensus": CONSENSUS if with_examples else 0.0},
        "language": vocabulary.language,
        "max_length": vocabulary.max_length,
        "tokens": [*SPECIAL, *vocabulary.words],
    }
    write_json(folder / SETTINGS, settings)
    text = README.format(
        model=model,
        searches="by greedy and\nby beam search" + (", and by consensus" if with_examples else ""),
        checked=CHECKED,
        size=metadata.image["size"],
        choice=WITH_EXAMPLES if with_examples else WITHOUT_EXAMPLES,
    )
    write_text(folder / "README.md", text)


def _write_arrays(path: Path, examples: Examples) -> None:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:  # np.savez would write the time into the file
        for name, tensor in examples._asdict().items():
            info = zipfile.ZipInfo(f"{name}.npy")
            info.compress_type = archive.compression
            with archive.open(info, "w", force_zip64=True) as file:
                np.save(file, tensor.numpy())


def _check(describe: PhotoCaptioner, exported: Any, pixels: np.ndarray, model: str | Path) -> None:
    captioner, longest = describe.captioner, describe.card.vocabulary.max_length
    features = describe.features(pixels)
    memory = captioner.decoder.encode(features)
    for kind, (beam, weight) in SEARCHES.items():
        if weight and not describe.consensus:
            continue
        beams = beam_search(captioner.decoder, memory, beam=beam, max_length=longest, length_penalty=LENGTH_PENALTY)
        expected, _ = parts = [part.numpy() for part in beams]
        places = [0] * len(pixels)
        if describe.consensus:
            places = describe.consensus.choose(features.mean(1).numpy(), *parts, weight=weight)
        tokens, scores, pooled = exported.search(pixels, beam=beam, length_penalty=LENGTH_PENALTY)
        chosen = exported.choose(tokens, scores, pooled, weight=weight)
        same = [text == exported.words(ids[place]) for text, ids, place in zip(chosen, expected, places, strict=True)]
        if not all(same) or not np.allclose(scores, beams.scores.numpy(), rtol=0, atol=CLOSE):
            raise CaptionerError(
                f"{model}: as ONNX it does not give the same captions ({kind}: {sum(same)} of {len(same)} the same); "
                "nothing was written. Other versions of torch, onnxscript or onnxruntime may do"
            )


def _drawings() -> list[bytes]:
    """Return pictures of the built-in dataset as bytes of PNG files, because there may be no photo."""
    drawn = []
    for number in range(CHECKED):
        rng = Random(f"export/{number}")
        file = io.BytesIO()
        shapes.draw(shapes.compose(rng), 256, rng).save(file, "PNG")
        drawn.append(file.getvalue())
    return drawn
