"""Compute the needs of larger datasets: the measured sizes and times of one image times the number of images.

python -m benchmarks.scale     run it after `dvc repro`; writes scale.json and the table of docs/scale.md

scale.json: {"bytes an image": {what: float}, "MD5 bytes/s": float, "encoder operations": {what: float}, "images": int
(training images on which the captions' memory was measured), "choice": {"training images": int, "s a photo": {photos at
once: float}}, "machine"}. "choice" is that of one of BEAM captions by consensus. The other times come from
results.json (`make bench`).
"""

import gc
import hashlib
import math
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.measure import machine, significant
from benchmarks.page import put, table
from benchmarks.world import SIZE
from captioner.base.errors import CaptionerError
from captioner.base.files import read_json, write_json
from captioner.base.params import read_values
from captioner.captions.dataset import read_captions
from captioner.captions.vocabulary import Vocabulary
from captioner.model.consensus import Consensus
from captioner.results.report import ALL_PIXELS, PHOTO_PIXELS
from captioner.sources.archives import Archive
from captioner.training.batches import CaptionSet
from captioner.training.reward import Reward
from captioner.use.options import BEAM
from captioner.vision.encoder import Encoder

ROOT = Path(__file__).parent.parent
RECORD, TIMES, PAGE = ROOT / "benchmarks/scale.json", ROOT / "benchmarks/results.json", ROOT / "docs/scale.md"
CAPTIONS, VOCABULARY, PHOTOS = Path("data/captions.jsonl"), Path("data/vocabulary.json"), Path("data/raw/images")
WIDTH = 512  # of a feature vector
DATASETS = {  # training, dev and test images; the splits of Flickr30k and COCO are Karpathy's
    "Flickr8k": (6_000, 1_000, 1_000),
    "Flickr30k": (29_000, 1_014, 1_000),
    "COCO": (113_287, 5_000, 5_000),
    "10 million": (9_990_000, 5_000, 5_000),
}
PHOTO_BYTES = 1.1e9 / 8_091  # assumed for all datasets: as in Flickr8k's archive
GPU_RATE = 10e12  # assumed: operations a second that a GPU sustains
HASHED = 256 << 20  # bytes
KNOWN, AT_ONCE = DATASETS["COCO"][0], (1, 100)  # of the choice: training images, photos at once
ROUNDS = 5  # of which the fastest counts


def measure() -> dict[str, Any]:
    """Return the record; raises CaptionerError if data/captions.jsonl or the archives do not exist."""
    for path in (CAPTIONS, VOCABULARY, PHOTOS):
        if not path.exists():
            raise CaptionerError(f"{path}: not found; run `dvc repro tokenise` first")
    archive, listed = _held(lambda: Archive(PHOTOS))
    items, held = _held(lambda: read_captions(CAPTIONS))
    training = [item for item in items if item.split == "train"]
    sets = CaptionSet.of_splits(items, {item.image: [row] for row, item in enumerate(items)}, torch.clone)
    words = Vocabulary.from_dict(read_json(VOCABULARY))
    _, counted = _held(lambda: Reward({item.image: item.raw for item in training}, words))
    vectors = np.random.default_rng(0).standard_normal((len(training), WIDTH)).astype(np.float16)
    _, chosen_by = _held(lambda: Consensus(vectors, sets["train"].ids[:, :, 1:].int()))
    encoder = Encoder().eval()
    pixels = torch.zeros(1, SIZE, SIZE, 3, dtype=torch.uint8)
    with torch.no_grad():
        boundary = encoder(pixels, stop="layer4")
        grid = encoder(boundary, start="layer4")
    half = np.dtype(np.float16).itemsize
    return {
        "bytes an image": {
            "grid.h5": grid.numel() * half,
            "boundary.h5, layer4": boundary.numel() * half,
            "boundary.h5, conv1": pixels.numel(),
            "captions.jsonl": significant(CAPTIONS.stat().st_size / len(items)),
            "captions as Python has them": significant(held / len(items)),
            "directory of the archives": significant(listed / len(archive.photos())),
            "ids, padded": sets["train"].ids.nbytes / len(training),
            "example in a model file": grid.shape[-1] * half + sets["train"].ids[:, :, 1:].int().nbytes / len(training),
            "consensus": significant(chosen_by / len(training)),
            "n-grams of the references": significant(counted / len(training)),
        },
        "MD5 bytes/s": significant(_md5_rate()),
        "encoder operations": {
            "forward": _operations(lambda: encoder(pixels)),
            "layer4, forward and backward": _operations(
                lambda: encoder(boundary.requires_grad_(False), start="layer4").sum().backward()
            ),
        },
        "images": len(training),
        "choice": choice(sets["train"].ids[:, :, 1:].int().numpy()),
        "machine": machine(),
    }


def choice(captions: np.ndarray) -> dict[str, Any]:
    """Measure the choice among beams with KNOWN training images, which have `captions` [N, C, L] again and again."""
    generator = np.random.default_rng(0)
    captions = np.resize(captions, (KNOWN, *captions.shape[1:]))
    consensus = Consensus(generator.standard_normal((KNOWN, WIDTH)).astype(np.float32), captions)
    seconds = {}
    for photos in AT_ONCE:
        features = generator.standard_normal((photos, WIDTH)).astype(np.float32)
        beams = captions[generator.integers(KNOWN, size=(photos, BEAM)), 0]
        scores = np.zeros(beams.shape[:2], np.float32)
        times = []
        for _ in range(ROUNDS):
            began = time.perf_counter()
            consensus.choose(features, beams, scores, weight=1.0)
            times.append(time.perf_counter() - began)
        seconds[str(photos)] = significant(min(times) / photos)
    return {"training images": KNOWN, "s a photo": seconds}


def _held(make: Callable[[], Any]) -> tuple[Any, int]:
    """Return the result of `make` and the bytes of Python's memory that it takes."""
    gc.collect()
    tracemalloc.start()
    value = make()
    held, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return value, held


def _md5_rate() -> float:
    data = bytes(HASHED)
    began = time.perf_counter()
    hashlib.md5(data)
    return HASHED / (time.perf_counter() - began)


def _operations(run: Callable[[], Any]) -> float:
    with FlopCounterMode(display=False) as counter:
        run()
    return float(counter.get_total_flops())


def needs(record: dict[str, Any], times: dict[str, Any], splits: tuple[int, int, int]) -> dict[str, Any]:
    """Return the needs of a dataset with these numbers of training, dev and test images, in bytes and seconds."""
    train, dev, test = splits
    images = sum(splits)
    rows = 2 * images  # a photo and its mirror image
    each = record["bytes an image"]
    seconds = {name: times[name]["ours"] for name in ("features", "train_epoch", "finetune_step", "beam_search")}
    stores = rows * (each["grid.h5"] + each["boundary.h5, layer4"])
    side = math.sqrt(min(PHOTO_PIXELS, ALL_PIXELS // max(1, test)))
    return {
        "photos": images * PHOTO_BYTES,
        "grid.h5": rows * each["grid.h5"],
        "boundary.h5, layer4": rows * each["boundary.h5, layer4"],
        "boundary.h5, conv1": rows * each["boundary.h5, conv1"],
        "captions.jsonl": images * each["captions.jsonl"],
        "examples": train * each["example in a model file"],
        "memory for captions": images * each["captions as Python has them"] + (train + dev) * each["ids, padded"],
        "memory for archives": images * each["directory of the archives"],
        "memory for consensus": train * each["consensus"],
        "memory for CIDEr": train * each["n-grams of the references"],
        "features": rows * seconds["features"],
        "training epoch": train * seconds["train_epoch"],
        "fine-tuning epoch": train * seconds["finetune_step"],
        "test captions": test * seconds["beam_search"],
        "MD5 of both stores": stores / record["MD5 bytes/s"],
        "features on a GPU": rows * record["encoder operations"]["forward"] / GPU_RATE,
        "layer4 on a GPU": train * record["encoder operations"]["layer4, forward and backward"] / GPU_RATE,
        "report": side,
    }


def table_of(record: dict[str, Any], times: dict[str, Any]) -> str:
    """Return the needs of all datasets as the table of docs/scale.md."""
    result = {name: needs(record, times, splits) for name, splits in DATASETS.items()}
    lines: list[tuple[str, str, Callable[[float], str]]] = [
        ("disk: photos (assumed as large as Flickr8k's)", "photos", _bytes),
        ("disk: `grid.h5`", "grid.h5", _bytes),
        ("disk: `boundary.h5` before layer4", "boundary.h5, layer4", _bytes),
        ("disk: `boundary.h5` before conv1 (pixels)", "boundary.h5, conv1", _bytes),
        ("disk: `captions.jsonl`", "captions.jsonl", _bytes),
        ("disk: features and captions of the training images, in each of the two model files", "examples", _bytes),
        ("memory: captions and their ids", "memory for captions", _bytes),
        ("memory: the directory of the photos' archives", "memory for archives", _bytes),
        ("memory: n-grams and features for consensus", "memory for consensus", _bytes),
        ("memory: n-grams of the training references, for fine-tuning on CIDEr", "memory for CIDEr", _bytes),
        ("CPU: features", "features", _time),
        ("CPU: an epoch of training", "training epoch", _time),
        ("CPU: an epoch of fine-tuning layer4 on the next word", "fine-tuning epoch", _time),
        ("CPU: test captions, the likeliest of a beam of 4", "test captions", _time),
        ("CPU: DVC's MD5 of both stores", "MD5 of both stores", _time),
        ("GPU, assumed: the encoder's operations for the features", "features on a GPU", _time),
        ("GPU, assumed: layer4's operations in an epoch of fine-tuning", "layer4 on a GPU", _time),
        ("report: side of a square photo in it", "report", lambda side: f"{side:.0f} px"),
    ]
    rows = [["training / dev / test images", *(" / ".join(f"{n:,}" for n in splits) for splits in DATASETS.values())]]
    rows += [[what, *(shown(result[name][key]) for name in DATASETS)] for what, key, shown in lines]
    each, step = record["bytes an image"], {name: times[name]["ours"] for name in ("train_epoch", "finetune_step")}
    rates = [
        f"{each[store] / step[name] / 1e6:.1f} MB/s in {what}"
        for store, name, what in (
            ("grid.h5", "train_epoch", "training"),
            ("boundary.h5, layer4", "finetune_step", "fine-tuning"),
        )
    ]
    rows_read = (
        f"A row of `grid.h5` has {each['grid.h5']:,} bytes, a row of `boundary.h5` {each['boundary.h5, layer4']:,}. At "
        f"the measured speed the stages read {' and '.join(rates)}. MD5 takes {record['MD5 bytes/s'] / 1e9:.2f} GB/s."
    )
    default = read_values()["image"]["size"]
    assumed = (
        f"Assumed: {PHOTO_BYTES / 1e3:.0f} kB a photo, {SIZE} px a side for the encoder, and a GPU that sustains "
        f"{GPU_RATE / 1e12:.0f} teraFLOP/s and never waits. With the default of {default} px, stores and encoder take "
        f"{(default / SIZE) ** 2:.3g} times as much. Memory for captions was measured on {record['images']:,} training "
        "images."
    )
    chosen = record["choice"]
    alone, batched = (f"{1e3 * seconds:.2g} ms" for seconds in chosen["s a photo"].values())
    choices = (
        f"With {chosen['training images']:,} training images the choice among {BEAM} beams takes {alone} for a photo "
        f"alone, and {batched} a photo in batches of {AT_ONCE[1]}."
    )
    machines = "; ".join(sorted({times[name]["machine"] for name in step}))
    shown = table(["", *DATASETS], rows)
    return f"{shown}\n\n{rows_read} {choices}\n\n{assumed} CPU times: {machines}."


def _bytes(size: float) -> str:
    unit, scale = ("TB", 1e12) if size >= 1e12 else ("GB", 1e9) if size >= 1e9 else ("MB", 1e6)
    return f"{size / scale:.3g} {unit}"


def _time(seconds: float) -> str:
    for unit, scale in (("h", 3600), ("min", 60)):
        if seconds >= scale:
            return f"{seconds / scale:.2g} {unit}"
    return f"{seconds:.2g} s"


def main() -> None:
    """Measure, write scale.json and the page's table."""
    try:
        record = measure()
    except CaptionerError as error:
        raise SystemExit(f"error: {error}") from None
    write_json(RECORD, record)
    update()


def update() -> None:
    """Write the page's table from the records."""
    put(PAGE, "scale", table_of(read_json(RECORD), read_json(TIMES)))


if __name__ == "__main__":
    main()
