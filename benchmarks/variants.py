"""Measure single choices: the same work in several forms, in turns, and the limit of the encoder.

variants.json: {part: {form: seconds a unit}}, medians; the first form of each part is the one in use.
"""

import contextlib
import copy
import importlib.util
import io
import logging
import statistics
import warnings
from collections.abc import Callable, Mapping
from itertools import count
from pathlib import Path
from typing import Any
from unittest import mock

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence
from torch.utils.flop_counter import FlopCounterMode

from benchmarks import tutorials
from benchmarks.measure import machine, precision, require_close, rounds_of, significant
from benchmarks.world import (
    CPU,
    ROUNDING,
    SIZE,
    caption_set,
    decoding_problem,
    epoch,
    random_encoder,
    random_pixels,
    search_problem,
    single_precision,
    step,
    training_items,
)
from captioner.base.device import half_precision
from captioner.captions.vocabulary import PAD
from captioner.model import lstm, packing
from captioner.model.decoder import Decoder, Memory
from captioner.model.packing import pack
from captioner.model.search import beam_search
from captioner.scoring.scores import Cider
from captioner.training.objectives import next_word_losses
from captioner.vision.encoder import Encoder, fused
from captioner.vision.features import BATCH
from captioner.vision.photos import load_photo

IMAGES = 64
MATRIX = 2048
PHOTO = (3000, 2000)  # pixels, as of a camera


def measure(folder: Path, rounds: int) -> dict[str, Any]:
    """Return the record of variants.json."""
    return {
        "encoder, s per image": _encoder(folder, rounds),
        "decoder step, s per image": _decoder(rounds),
        "decoder steps of an epoch, all batches different, s per image": _epoch(rounds),
        "beam search, s per image": _search(rounds),
        f"photo of {PHOTO[0]} x {PHOTO[1]}, s per photo": _photo(rounds),
        "CIDEr of 1,000 images, s": _cider(rounds),
        "machine": machine(),
    }


def _medians(forms: Mapping[str, Callable[[], object]], count: int, rounds: int) -> dict[str, float]:
    for run in forms.values():
        run()  # the first call sets up more than later ones
    seconds = rounds_of(forms, rounds)
    return {name: significant(statistics.median(times) / count) for name, times in seconds.items()}


@torch.no_grad()
def _encoder(folder: Path, rounds: int) -> dict[str, float]:
    pixels = random_pixels(IMAGES)
    encoder = random_encoder(pixels)
    plain = tutorials.trunk(tutorials.resnet(encoder.state_dict()))
    images = ((pixels.permute(0, 3, 1, 2).contiguous() - encoder.mean) / encoder.std).contiguous()
    folded = fused(encoder)

    def in_batches(network: Callable[[Tensor], Tensor], of: Tensor, size: int) -> Callable[[], Tensor]:
        return lambda: torch.cat([network(part) for part in of.split(size)])

    single = {
        f"folded, channels last, batches of {BATCH}": in_batches(folded, pixels, BATCH),
        "BatchNorm not folded": in_batches(encoder, pixels, BATCH),
        "BatchNorm not folded, not channels last (eager torchvision)": lambda: in_batches(
            plain, images, BATCH
        )().permute(0, 2, 3, 1),
        **{f"batches of {size}": in_batches(folded, pixels, size) for size in (4, 8, 16, 32, 64) if size != BATCH},
        "frozen by torch (optimize_for_inference)": in_batches(_frozen(folded, pixels[:8]), pixels, 8),
    }
    if importlib.util.find_spec("onnxruntime") and importlib.util.find_spec("onnx"):
        single["ONNX Runtime"] = in_batches(_onnx(folded, pixels[:8], folder / "encoder.onnx"), pixels, 8)
    wanted = single["BatchNorm not folded, not channels last (eager torchvision)"]()
    for name, run in single.items():
        require_close(f"encoder, {name}", run(), wanted, ROUNDING)

    def in_use() -> Tensor:
        with half_precision(CPU):
            return in_batches(folded, pixels, BATCH)()

    require_close("encoder as in use", in_use().float(), wanted, 0.05)
    forms = {f"in use: {precision()}, folded, channels last, batches of {BATCH}": in_use}
    forms |= {f"float32, {name}": run for name, run in single.items()}
    times = _medians(forms, IMAGES, rounds)
    for kind in (torch.float32, torch.bfloat16):
        times |= _limit(lambda: folded(pixels[:1]), 1, kind, rounds)
    return times


def _limit(run: Callable[[], object], count: int, kind: torch.dtype, rounds: int) -> dict[str, float]:
    """Return the seconds a unit that the operations of `run` would take as one large matrix product."""
    with FlopCounterMode(display=False) as counter:
        run()
    matrix = torch.randn(MATRIX, MATRIX).to(kind)
    seconds = _medians({"": lambda: matrix @ matrix}, count, rounds)[""]
    name = str(kind).removeprefix("torch.")
    taken = counter.get_total_flops() * seconds / (2 * MATRIX**3)
    return {f"limit: its operations at the rate of {name} matrix products": significant(taken)}


def _frozen(network: Encoder, example: Tensor) -> Callable[[Tensor], Tensor]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch prefers its newer exporters, which need a C++ compiler
        return torch.jit.optimize_for_inference(torch.jit.freeze(torch.jit.trace(network, example)))


def _onnx(network: Encoder, example: Tensor, path: Path) -> Callable[[Tensor], Tensor]:
    import onnxruntime

    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        torch.onnx.export(network, (example,), path, input_names=["pixels"], dynamo=False)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    return lambda part: torch.from_numpy(session.run(None, {"pixels": part.numpy()})[0])


class _FusedAttention(Decoder):
    """Attention by torch's fused function, for training only."""

    def see(self, memory: Memory, first: Tensor, places: Tensor | None, each: int) -> Tensor:
        queries = self.query(first)
        queries = queries.new_zeros(len(memory.keys) * each, self.width).index_copy(0, places, queries)
        queries = queries.view(-1, each, self.heads, self.width // self.heads).transpose(1, 2)
        seen = F.scaled_dot_product_attention(queries, memory.keys, memory.values)
        return seen.transpose(1, 2).flatten(2).flatten(0, 1)[places]


def _decoder(rounds: int) -> dict[str, float]:
    captioner, batch, tokens = decoding_problem(32)
    decoder = captioner.decoder
    images, captions = batch.inputs.shape[:2]
    fused_attention, slow_dropout = copy.deepcopy(captioner), copy.deepcopy(captioner)
    fused_attention.decoder.__class__ = _FusedAttention
    slow_dropout.decoder.dropout = nn.Dropout(decoder.dropout.p)
    repeated = batch._replace(
        rows=batch.rows.repeat_interleave(captions, dim=0), inputs=batch.inputs.flatten(0, 1).unsqueeze(1)
    )
    stepwise = tutorials.StepDecoder(decoder)
    features = batch.rows.flatten(1, 2).float()

    def padded() -> Tensor:
        length = batch.inputs.shape[-1]
        every = pack(torch.full(batch.inputs.shape[:2], length), length)
        logits = decoder.logits(decoder(captioner.encode(batch.rows), batch.inputs, every))
        targets = torch.full((batch.inputs.numel(),), PAD).index_copy(0, batch.packed.places, batch.targets)
        return F.cross_entropy(logits.float(), targets[every.places], ignore_index=PAD)

    losses: dict[str, tuple[nn.Module, Callable[[], Tensor]]] = {
        "in use": (captioner, lambda: next_word_losses(captioner, batch)[0]),
        "torch's dropout": (slow_dropout, lambda: next_word_losses(slow_dropout, batch)[0]),
        "torch's fused attention": (fused_attention, lambda: next_word_losses(fused_attention, batch)[0]),
        "features projected for each caption": (captioner, lambda: next_word_losses(captioner, repeated)[0]),
        "with padding": (captioner, padded),
        "one time step at a time": (captioner, lambda: tutorials.step_loss(stepwise, features, tokens)),
    }
    for part in (captioner, slow_dropout, fused_attention):
        part.eval()
    wanted = losses["in use"][1]().detach()
    for name, (_, loss) in losses.items():
        require_close(f"decoder, {name}", loss().detach(), wanted, ROUNDING)
    for part in (captioner, slow_dropout, fused_attention):
        part.train()
    forms = {name: step(part, loss) for name, (part, loss) in losses.items()}
    forms["in float32"] = step(*losses["in use"], single_precision)
    return _medians(forms, images, rounds)


def _epoch(rounds: int) -> dict[str, float]:
    captioner, _, _ = decoding_problem(32)
    items = training_items()[:320]
    rows = torch.randn(len(items), 7, 7, 512, generator=torch.Generator().manual_seed(2)).relu().half()
    training = caption_set(items, lambda chosen: rows[chosen])
    seeds = count()

    def run() -> None:
        order = torch.randperm(len(items), generator=torch.Generator().manual_seed(next(seeds)))
        epoch(captioner, training.batches(order, 32, CPU))

    def torchs(layer: nn.LSTM, x: Tensor, h: Tensor, c: Tensor, sizes: Tensor) -> Tensor:
        return layer(PackedSequence(x, sizes), (h.unsqueeze(0), c.unsqueeze(0)))[0].data

    def with_torchs_lstm() -> None:
        with mock.patch.object(lstm, "run_packed", torchs):
            run()

    def without_padding(run: Callable[[], None]) -> None:
        with mock.patch.multiple(packing, PACKED_BY=1, TOKENS_BY=1):
            run()

    forms = {
        "in use": run,
        "torch's LSTM": with_torchs_lstm,
        "packed without padding to multiples": lambda: without_padding(run),
        "torch's LSTM, packed without padding to multiples": lambda: without_padding(with_torchs_lstm),
    }
    return _medians(forms, len(items), rounds)


@torch.no_grad()
def _search(rounds: int) -> dict[str, float]:
    captioner, card, names, store, rows = search_problem(100)
    captioner.eval()
    features = captioner.features(store.read(rows))

    def run() -> Tensor:
        memory = captioner.decoder.encode(features)
        result = beam_search(
            captioner.decoder,
            memory,
            beam=4,
            max_length=card.vocabulary.max_length,
            length_penalty=1.0,
        )
        return result.tokens[:, 0]

    def in_half() -> Tensor:
        with half_precision(CPU):
            return run()

    others = int((run() != in_half()).any(1).sum())
    forms = {"in use: float32": run, f"{precision()}: other captions for {others} of {len(names)} images": in_half}
    return _medians(forms, len(names), rounds) | _limit(run, len(names), torch.float32, rounds)


def _photo(rounds: int) -> dict[str, float]:
    picture = Image.fromarray(random_pixels(1)[0].numpy()).resize(PHOTO)
    file = io.BytesIO()
    picture.save(file, "JPEG", quality=90)
    photos = tutorials.Photos([file.getvalue()], SIZE)
    forms = {
        "in use: decoded at a fraction of its size": lambda: load_photo(file.getvalue(), size=SIZE, fit="squash"),
        "decoded at full size, then resized": lambda: photos[0],
    }
    return _medians(forms, 1, rounds)


def _cider(rounds: int) -> dict[str, float]:
    items = training_items()[:1000]
    references = {item.image: item.raw[1:] for item in items}
    captions = {item.image: item.raw[0] for item in items}
    cider = Cider(references)
    require_close(
        "CIDEr", torch.tensor(cider.score(captions)[0]), torch.tensor(Cider(references).score(captions)[0]), 1e-9
    )
    forms = {
        "in use: references counted once": lambda: cider.score(captions),
        "references counted for each scoring": lambda: Cider(references).score(captions),
    }
    return _medians(forms, 1, rounds)
