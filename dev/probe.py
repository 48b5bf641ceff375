"""Measure what image features say of the content words of captions, in minutes instead of a training.

    python -m dev.probe run [--sizes 256 288]
    python -m dev.probe table

Run it from the project's folder after `dvc repro`. For each kind of features a linear layer predicts from the mean and
the maximum over the grid which of the 360 most frequent content words the captions of an image have. It trains on the
train split; the mean average precision over the words is that of the dev split. The features are layer3's and layer4's,
both together, and layer4's after fine-tuning. `--sizes` adds layer4 for photos of other sizes. The test split is not
read. `run` writes probe.json beside this module, {features: mean average precision}, and the table of
docs/experiments.md, which `table` writes again.
"""

import argparse
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from tqdm import tqdm

from benchmarks.page import put, table
from captioner.base.device import half_precision, make_deterministic, select_device
from captioner.base.errors import CaptionerError
from captioner.base.files import read_json, write_json
from captioner.base.params import read_values
from captioner.captions.dataset import CaptionedImage, read_captions
from captioner.captions.tokens import scored_tokens
from captioner.model.captioner import load_model
from captioner.scoring.words import content_words
from captioner.sources.archives import Archive
from captioner.vision.encoder import END, Encoder, fused, load_encoder
from captioner.vision.reading import read_archive_photos
from captioner.vision.store import FeatureStore

RECORD, PAGE = Path(__file__).with_name("probe.json"), Path(__file__).parent.parent / "docs/experiments.md"
WORDS = 360
EPOCHS, BATCH, RATE, DECAY = 40, 256, 1e-3, 1e-2  # of AdamW, the same for all features
READ = 64  # images that are in memory at once


def labels(images: Iterable[CaptionedImage]) -> tuple[np.ndarray, list[str]]:
    """Return which images have which words, bool [N, WORDS], and the words: those that most training images have."""
    images = list(images)
    words_of = [set().union(*(content_words(scored_tokens(text)) for text in item.raw)) for item in images]
    counts = Counter(
        word for item, words in zip(images, words_of, strict=True) if item.split == "train" for word in words
    )
    words = [word for word, _ in sorted(counts.items(), key=lambda item: (-item[1], item[0]))[:WORDS]]
    return np.array([[word in own for word in words] for own in words_of]), words


def pool(maps: Iterable[Tensor]) -> Tensor:
    """Return the mean and the maximum over the places of maps [B, h, w, C]: float32 [N, 2 C]."""
    rows = [torch.cat([part.float().mean((1, 2)), part.float().amax((1, 2))], 1) for part in maps]
    return torch.cat(rows)


def average_precision(scores: np.ndarray, truth: np.ndarray) -> float:
    """Return the mean over words of the average precision; scores and truth are [N, words]."""
    values = []
    for score, true in zip(scores.T, truth.T, strict=True):
        if true.any():
            hits = true[np.argsort(-score, kind="stable")]
            precision = np.cumsum(hits) / np.arange(1, len(hits) + 1)
            values.append(precision[hits].mean())
    return float(np.mean(values))


def probe(features: Tensor, truth: np.ndarray, training: np.ndarray) -> float:
    """Train a linear layer on the rows `training` (bool [N]); return the mean average precision on all others."""
    make_deterministic(seed=0)
    rows = torch.from_numpy(training)
    features = (features - features[rows].mean(0)) / features[rows].std(0).clamp(min=1e-6)
    x, y = features[rows], torch.from_numpy(truth[training]).float()
    layer = nn.Linear(x.shape[1], y.shape[1])
    optimizer = torch.optim.AdamW(layer.parameters(), lr=RATE, weight_decay=DECAY)
    steps = EPOCHS * -(-len(x) // BATCH)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for _ in range(EPOCHS):
        for batch in torch.randperm(len(x)).split(BATCH):
            optimizer.zero_grad()
            nn.functional.binary_cross_entropy_with_logits(layer(x[batch]), y[batch]).backward()
            optimizer.step()
            schedule.step()
    with torch.inference_mode():
        return average_precision(layer(features[~rows]).numpy(), truth[~training])


def _stored(store: FeatureStore, images: list[CaptionedImage], encoder: Encoder | None = None) -> Iterator[Tensor]:
    rows = np.array([store.rows[item.image] for item in images])
    device = select_device()
    for batch in np.array_split(rows, -(-len(rows) // READ)):
        maps = store.read(batch)
        with torch.inference_mode(), half_precision(device):
            yield encoder(maps.to(device), start=store.attributes["layer"]).cpu() if encoder else maps


def _photos(images: list[CaptionedImage], encoder: Encoder, size: int, fit: str) -> Iterator[Tensor]:
    device = select_device()
    names = [item.image for item in images]
    photos = iter(tqdm(read_archive_photos(Archive("data/raw/images"), names, size=size, fit=fit), total=len(names)))
    for at in range(0, len(names), READ):
        batch = [next(photos) for _ in names[at : at + READ]]
        for photo in batch:
            if isinstance(photo, CaptionerError):
                raise photo
        pixels = torch.from_numpy(np.stack([photo for photo in batch if isinstance(photo, np.ndarray)]))
        with torch.inference_mode(), half_precision(device):
            yield encoder(pixels.to(device)).cpu()


def run(sizes: list[int]) -> dict[str, float]:
    """Return the mean average precision of all kinds of features."""
    grid = FeatureStore("data/features/grid.h5", layer=END)
    unfrozen = read_values()["finetune"]["unfreeze_from"]
    if unfrozen != "layer4":
        raise CaptionerError(f"finetune.unfreeze_from is {unfrozen}; expected layer4, whose input is layer3's output")
    boundary = FeatureStore("data/features/boundary.h5", layer=unfrozen)
    images = [
        item
        for item in read_captions("data/captions.jsonl")
        if item.split in ("train", "dev") and item.image in grid.rows
    ]
    truth, _ = labels(images)
    training = np.array([item.split == "train" for item in images])
    device = select_device()
    tuned = load_model("models/captioner.safetensors")[0].encoder
    assert tuned is not None
    third, fourth = pool(_stored(boundary, images)), pool(_stored(grid, images))
    features = {
        "layer3": lambda: third,
        "layer4": lambda: fourth,
        "layer3 and layer4": lambda: torch.cat([third, fourth], 1),
        "layer4, fine-tuned": lambda: pool(_stored(boundary, images, tuned.to(device))),
    }
    frozen = fused(load_encoder(load_file("data/features/encoder.safetensors"))).to(device)
    fit = grid.attributes["fit"]
    for size in sizes:
        features[f"layer4, {size} px"] = lambda size=size: pool(_photos(images, frozen, size, fit))
    results = {}
    for name, compute in features.items():
        results[name] = round(probe(compute(), truth, training), 4)
        print(f"{name}: {results[name]:.4f}", flush=True)
    return results


def table_of(results: dict[str, float]) -> str:
    """Return the table of docs/experiments.md."""
    return table(
        ["features", "mean average precision, x100"], [[name, f"{100 * v:.1f}"] for name, v in results.items()]
    )


def main() -> None:
    """Measure and write the table, or write the table again."""
    parser = argparse.ArgumentParser(prog="python -m dev.probe", description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=["run", "table"])
    parser.add_argument("--sizes", type=int, nargs="*", default=[], metavar="PIXELS", help="other sizes of photos")
    options = parser.parse_args()
    if options.what == "run":
        write_json(RECORD, run(options.sizes))
    put(PAGE, "probe", table_of(read_json(RECORD)))


if __name__ == "__main__":
    main()
