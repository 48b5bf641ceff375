"""Estimate how busy a GPU is in a training step. No GPU is needed.

python -m benchmarks.gpu_estimate     writes benchmarks/gpu_estimate.json and the table of docs/gpu.md

A step runs twice on the pretended GPU (`tests.support.pretended_gpu`), with random data of Flickr8k's shape. With the
sizes of params.yaml the module records launches with their bytes and floating-point operations, and waits. With a small
model and small photos (`small_steps_on`) it records the host's own time between them: the CPU also computes in the
GPU's place, and that disturbs the times of a large model. The pretended GPU is made of Python, so `overhead` measures
what it adds to a launch, and this is subtracted. Then the module simulates the sequence on each GPU of GPUS. The host
continues after a launch. The GPU computes one launch after the other, and the operations of a CUDA graph without the
host. At a wait the host stops until the GPU is done.
GPUS, LAUNCH and WAIT have the assumptions.

gpu_estimate.json: {"steps": {"next word, batch 32": {"launches", "waits", "LSTM time steps", "host ms" (between the
launches), "TFLOP", "GB", "GPUs": {name: {"step ms", "busy ms", "busy share"}}}}, "assumed": {...}, "measured": {...},
"machine"}. A CUDA graph is one launch.
"""

import argparse
import ctypes
import os
import time
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple
from unittest.mock import patch

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

from benchmarks.measure import machine, significant
from benchmarks.page import put, table
from captioner.base.device import mixed_precision
from captioner.base.errors import CaptionerError
from captioner.base.files import read_json, write_json
from captioner.base.params import read_values
from captioner.captions.dataset import CaptionedImage
from captioner.captions.vocabulary import Vocabulary
from captioner.model.captioner import Captioner
from captioner.model.decoder import Decoder
from captioner.results.report import STRIDE
from captioner.training.batches import CaptionSet
from captioner.training.objectives import NextWord, Objective
from captioner.training.schedule import parameter_groups
from captioner.training.self_critical import SelfCritical
from captioner.vision.encoder import END, WIDTH, Encoder
from tests.support.pretended_gpu import DEVICE, Launch, PretendedGPU, pretended_gpu

ROOT = Path(__file__).parent.parent
RECORD, PAGE = ROOT / "benchmarks/gpu_estimate.json", ROOT / "docs/gpu.md"
BATCHES = (32, 128)  # images
CALIBRATION = 4  # images of a step in which there is hardly anything to compute
DECODER = "self-critical, decoder"
SEED = 1  # of each step
STEPS = 24  # of the small model, after a warm-up step; the one with the least time of the host counts
SIZED = 3  # steps of the model of params.yaml, after a warm-up step
WORDS, CAPTIONS, LENGTHS = 3000, 5, (8, 16)  # about Flickr8k's vocabulary, captions an image, words of a caption
FEW_WORDS = 100  # a small vocabulary, in which the end of a caption is still seldom drawn
M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4  # of <malloc.h>
LAUNCH, WAIT = 5e-6, 10e-6  # seconds of the host: to launch an operation; from the GPU's end until the host continues


@dataclass(frozen=True)
class GPU:
    """The assumed speed of a GPU: about half of its data sheet's."""

    lower: float  # floating-point operations a second of products in bfloat16 or float16
    float32: float  # the same in float32, without TF32
    memory: float  # bytes a second
    shortest: float  # seconds of the shortest operation
    lstm_step: float  # seconds of a time step of cuDNN's LSTM beside its products


GPUS = {
    "H100 (SXM)": GPU(lower=450e12, float32=30e12, memory=2.0e12, shortest=3e-6, lstm_step=12e-6),
    "RTX 4060 Laptop": GPU(lower=25e12, float32=6e12, memory=0.18e12, shortest=3e-6, lstm_step=15e-6),
}


class Event(NamedTuple):
    """An action of the host: it computes for `host` seconds, then launches an operation or waits for all of them."""

    host: float
    waits: bool = False
    flops: int = 0
    bytes: int = 0
    lower: bool = False  # a product in less than float32
    steps: int = 0  # time steps of an LSTM
    launched_by_gpu: bool = False  # in a graph, after its first operation


class Recorder(PretendedGPU):
    """A pretended GPU that records the host's actions in order."""

    def __init__(self) -> None:
        super().__init__()
        self.events: list[Event] = []
        self._host, self._since = 0.0, time.perf_counter()
        self._clock_stopped, self._computing = False, False

    def reset(self) -> None:
        """Count from 0 again."""
        super().reset()
        self.events.clear()
        self._host, self._since = 0.0, time.perf_counter()

    def run(self, func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
        """Run one operation. Its time counts as the host's only if it is an operation of the CPU."""
        if self._computing:
            return super().run(func, args, kwargs)
        self._until_now()
        result = super().run(func, args, kwargs)
        self._since = time.perf_counter()
        return result

    def run_on_host(self, func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
        """Run an operation of the CPU. Its time counts, and not that of `run` around it."""
        began = time.perf_counter()
        result = super().run_on_host(func, args, kwargs)
        if not self._computing:
            self._host += time.perf_counter() - began
        return result

    def computing(self) -> AbstractContextManager[None]:
        """Leave out the time in which the CPU computes in place of the GPU, and its operations."""
        return self._stopped(computing=True)

    def pretending(self) -> AbstractContextManager[None]:
        """Leave out the time in which Python does what torch's C++ does on a GPU."""
        return self._stopped(computing=False)

    @contextmanager
    def _stopped(self, *, computing: bool) -> Iterator[None]:
        """Stop the host's clock."""
        self._until_now()
        before = self._clock_stopped, self._computing
        self._clock_stopped, self._computing = True, computing or self._computing
        try:
            yield
        finally:
            self._clock_stopped, self._computing = before
            self._since = time.perf_counter()

    def _until_now(self) -> None:
        now = time.perf_counter()
        if not self._clock_stopped:
            self._host += now - self._since
        self._since = now

    def launched(self, launched: Launch) -> None:
        """Record a launch."""
        super().launched(launched)
        self._keep(event_of(launched, self._host))

    def replayed(self, launches: Sequence[Launch]) -> None:
        """Record the launch of a graph: the host launches the first operation, and the GPU continues by itself."""
        super().replayed(launches)
        for number, launched in enumerate(launches):
            self._keep(event_of(launched, self._host, launched_by_gpu=number > 0))

    def waited(self, operation: str) -> None:
        """Record a wait."""
        super().waited(operation)
        self._keep(Event(self._host, waits=True))

    def _keep(self, event: Event) -> None:
        self.events.append(event)
        self._host = 0.0


def event_of(launched: Launch, host: float, *, launched_by_gpu: bool = False) -> Event:
    """Return a launch as an event, after `host` seconds of the host."""
    return Event(
        host,
        flops=launched.flops(),
        bytes=sum(tensor.numel() * tensor.element_size() for tensor in launched.tensors),
        lower=any(tensor.dtype in (torch.bfloat16, torch.float16) for tensor in launched.tensors),
        steps=launched.steps if "rnn" in launched.operation else 0,
        launched_by_gpu=launched_by_gpu,
    )


def keep_freed_memory() -> None:
    """Let the C library keep freed memory, as CUDA's allocator does. To give it back would count as the host's time."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)  # of glibc
    if mallopt:
        mallopt(M_MMAP_MAX, 0)
        mallopt(M_TRIM_THRESHOLD, 2**31 - 1)


def overhead(values: dict[str, Any]) -> float:
    """Return the seconds of the host that the pretended GPU itself adds to a launch.

    A self-critical step of a small decoder, without an encoder, runs on the pretended GPU and on the CPU. The CPU has
    hardly anything to compute in it. So what takes longer on the pretended GPU is its own time. Both draw words without
    graphs, which the CPU does not have.
    """
    with patch.dict(os.environ, CAPTIONER_GRAPHS="off"), pretended_gpu(recorder := Recorder()):
        recorded = _events(recorder, small_steps_on(DECODER, CALIBRATION, values, DEVICE), STEPS)
    times = []
    with patch("captioner.model.lstm.run_packed", _run_by_torch):
        steps = small_steps_on(DECODER, CALIBRATION, values, torch.device("cpu"))
        next(steps)
        for _ in range(STEPS):
            began = time.perf_counter()
            next(steps)
            times.append(time.perf_counter() - began)
    return added([event.host for event in min(recorded, key=_host)], min(times))


def added(hosts: Sequence[float], taken: float) -> float:
    """Return what must be subtracted from each of `hosts`, not below 0, so that `taken` remains of all (seconds)."""
    longest = sorted(hosts, reverse=True)
    total = 0.0
    for count, host in enumerate(longest, 1):
        total += host
        shorter = longest[count] if count < len(longest) else 0.0
        if (least := (total - taken) / count) >= shorter:
            return least
    return 0.0  # nothing was added


def _run_by_torch(lstm: nn.LSTM, x: Tensor, h: Tensor, c: Tensor, sizes: Tensor) -> Tensor:
    """Do what `captioner.model.lstm.run_packed` does in one operation, as a GPU does."""
    with torch.autocast("cpu", enabled=False):
        return lstm(PackedSequence(x.float(), sizes), (h.float().unsqueeze(0), c.float().unsqueeze(0)))[0].data


def busy_time(event: Event, gpu: GPU) -> float:
    """Return the seconds of an operation: those of its products or of its memory access, whichever is longer."""
    products = event.flops / (gpu.lower if event.lower else gpu.float32)
    return max(products, event.bytes / gpu.memory, gpu.shortest) + event.steps * gpu.lstm_step


def play(events: Sequence[Event], gpu: GPU) -> tuple[float, float]:
    """Return the seconds until host and GPU are done, and the seconds in which the GPU computes."""
    host = free = busy = 0.0
    for event in events:
        host += event.host
        if event.waits:
            host = max(host, free) + WAIT
        else:
            host += 0.0 if event.launched_by_gpu else LAUNCH
            took = busy_time(event, gpu)
            free = max(host, free) + took
            busy += took
    return max(host, free), busy


def training_images(count: int, vocabulary: Vocabulary, rows: Sequence[int]) -> CaptionSet:
    """Return images with random captions and features of shape `rows`, [h, w, C], in half precision."""
    torch.manual_seed(1)

    def captions() -> list[list[str]]:
        lengths = torch.randint(*LENGTHS, (CAPTIONS,)).tolist()
        # the square makes some words much more frequent than others
        return [
            [vocabulary.words[int(len(vocabulary.words) * p * p)] for p in torch.rand(length).tolist()]
            for length in lengths
        ]

    items = []
    for number in range(count):
        texts = captions()
        ids = [vocabulary.encode(text) for text in texts]
        items.append(CaptionedImage(f"{number}.jpg", "train", [" ".join(text) for text in texts], ids))
    features = torch.rand(count, *rows).half()
    views = {item.image: [row] for row, item in enumerate(items)}
    items.append(CaptionedImage("dev.jpg", "dev", items[0].raw, items[0].ids))
    return CaptionSet.of_splits(items, views | {"dev.jpg": [0]}, features.__getitem__)["train"]


def steps_of(
    captioner: Captioner,
    training: CaptionSet,
    objective: Objective,
    batch: int,
    device: torch.device,
    *,
    clip: float,
    crop: float,
) -> Iterator[None]:
    """Take a training step for each batch, as `captioner.training.loop.train_one_epoch` does; yield after each.

    Each step has the same random numbers. So all windows have one size, and the first step records all graphs.
    """
    captioner.to(device).train()
    torch.manual_seed(SEED)
    groups = parameter_groups([captioner], name="all", lr=1e-4, weight_decay=0.01)
    optimizer = torch.optim.AdamW([{**group, "lr": group["peak_lr"]} for group in groups], fused=True)
    trained = [parameter for group in groups for parameter in group["params"]]
    order = torch.arange(len(training)).repeat(max(STEPS, SIZED))
    for images in training.batches(order, batch, device, crop=crop, prefetch=True):
        assert images is not None
        optimizer.zero_grad(set_to_none=True)
        with mixed_precision(device):
            loss, _ = objective(captioner, images)
        loss.value.backward()
        nn.utils.clip_grad_norm_(trained, clip)
        optimizer.step()
        yield
        torch.manual_seed(SEED)


def steps_on(kind: str, batch: int, values: dict[str, Any], device: torch.device, *, words: int) -> Iterator[None]:
    """Return the steps of one kind: "next word" as in `train`, "self-critical" as in `finetune`, or DECODER, the same
    without an encoder."""
    vocabulary = Vocabulary(
        words=tuple(f"w{number}" for number in range(words)), max_length=values["captions"]["max_length"]
    )
    shape = {key: value for key, value in values["decoder"].items() if key != "standardise"}
    decoder = Decoder(vocabulary=len(vocabulary), features=WIDTH, **shape)
    section = values["train" if kind == "next word" else "finetune"]
    start, side = section.get("unfreeze_from", END), values["image"]["size"] // STRIDE
    captioner, rows = Captioner(decoder), torch.Size((side, side, WIDTH))
    if kind == "self-critical":
        encoder = Encoder()
        for module in encoder.block_modules("conv1", start):
            module.requires_grad_(False)
        with torch.no_grad():
            rows = encoder(torch.zeros(1, *[values["image"]["size"]] * 2, 3), stop=start).shape[1:]
        captioner = Captioner(decoder, encoder, start)
    training = training_images(2 * batch, vocabulary, rows)
    next_word = NextWord(**{name: section[name] for name in ("label_smoothing", "scheduled_sampling")})
    objective: Objective = next_word
    if kind != "next word":
        objective = SelfCritical(
            training.references,
            vocabulary,
            samples=section["samples"],
            next_word=next_word,
            weight=section["next_word"],
        )
    return steps_of(captioner, training, objective, batch, device, clip=section["clip"], crop=section["crop"])


def small_steps_on(kind: str, batch: int, values: dict[str, Any], device: torch.device) -> Iterator[None]:
    """Return the steps of `steps_on` with a small decoder, vocabulary and photos: the same launches, but a CPU has
    little to compute in each."""
    decoder = {**values["decoder"], "width": 2 * values["decoder"]["heads"]}
    values = {**values, "decoder": decoder, "image": {**values["image"], "size": 2 * STRIDE}}
    return steps_on(kind, batch, values, device, words=FEW_WORDS)


def _events(recorder: Recorder, steps: Iterator[None], count: int) -> list[list[Event]]:
    """Return what the recorder records in each of `count` steps, after one more."""
    next(steps)
    recorded = []
    for _ in range(count):
        recorder.reset()
        next(steps)
        recorded.append(recorder.events.copy())
    return recorded


def _order(events: Sequence[Event]) -> list[bool]:
    """Return, for each event, whether it is a wait."""
    return [event.waits for event in events]


def _host(events: Sequence[Event]) -> float:
    return sum(event.host for event in events)


def measure(kind: str, batch: int, values: dict[str, Any], extra: float) -> dict[str, Any]:
    """Return the figures of a step; `extra` are the seconds that `overhead` returns.

    Raises CaptionerError if in every step the small model has other launches or waits than the model of `values`.
    """
    with pretended_gpu(recorder := Recorder()):
        timed = _events(recorder, small_steps_on(kind, batch, values, DEVICE), STEPS)
        full = _events(recorder, steps_on(kind, batch, values, DEVICE, words=WORDS), SIZED)
    # a step launches a copy less if one of its drawn captions has the greatest length
    pairs = [(one, other) for one in full for other in timed if _order(one) == _order(other)]
    if not pairs:
        counts = [sorted({len(step) for step in steps}) for steps in (full, timed)]
        raise CaptionerError(f"{kind}: launches and waits of a step of the model and of the small one: {counts}")
    sized, fastest = min(pairs, key=lambda pair: _host(pair[1]))
    events = [event._replace(host=max(0.0, other.host - extra)) for event, other in zip(sized, fastest, strict=True)]
    launches = [event for event in events if not event.waits]
    figures = {
        "launches": sum(not event.launched_by_gpu for event in launches),
        "waits": len(events) - len(launches),
        "LSTM time steps": sum(event.steps for event in launches),
        "host ms": 1e3 * _host(events),
        "TFLOP": sum(event.flops for event in launches) / 1e12,
        "GB": sum(event.bytes for event in launches) / 1e9,
    }
    played = {name: play(events, gpu) for name, gpu in GPUS.items()}
    gpus = {
        name: {
            "step ms": significant(1e3 * total),
            "busy ms": significant(1e3 * busy),
            "busy share": significant(busy / total),
        }
        for name, (total, busy) in played.items()
    }
    return {key: significant(value) for key, value in figures.items()} | {"GPUs": gpus}


def table_of(record: dict[str, Any]) -> str:
    """Return the record as a table of Markdown."""
    header = ["step", "launches", "waits", "host", *(f"{name}: step, busy" for name in GPUS)]
    rows = []
    for step, result in record["steps"].items():
        shares = [f"{gpu['step ms']} ms, {gpu['busy share']:.0%}" for gpu in result["GPUs"].values()]
        rows.append([step, f"{result['launches']:.0f}", f"{result['waits']:.0f}", f"{result['host ms']} ms", *shares])
    return table(header, rows)


def main() -> None:
    """Measure, or only write the page's table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu_estimate", description=__doc__.splitlines()[0])
    parser.add_argument("--page", action="store_true", help="only write the page's table from the record")
    if not parser.parse_args().page:
        keep_freed_memory()
        values = read_values()
        torch.set_num_threads(1)
        extra = overhead(values)
        steps = {
            f"{kind}, batch {batch}": measure(kind, batch, values, extra)
            for kind in ("next word", "self-critical")
            for batch in BATCHES
        }
        assumed = {name: asdict(gpu) for name, gpu in GPUS.items()} | {"launch s": LAUNCH, "wait s": WAIT}
        measured = {"pretended GPU, s a launch": significant(extra)}
        write_json(RECORD, {"steps": steps, "assumed": assumed, "measured": measured, "machine": machine()})
    put(PAGE, "gpu", table_of(read_json(RECORD)))


if __name__ == "__main__":
    main()
