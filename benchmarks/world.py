"""The data of the benchmarks: pieces of the outputs of `dvc repro`, and random data."""

import random
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
import torchvision
from torch import Tensor, nn

from benchmarks.measure import require_close
from captioner.base.device import mixed_precision
from captioner.base.files import read_json
from captioner.base.params import read_values
from captioner.captions.dataset import CaptionedImage, read_captions, read_images
from captioner.captions.vocabulary import PAD, UNK, Vocabulary
from captioner.model.captioner import Captioner, Metadata, load_model
from captioner.model.decoder import Decoder
from captioner.sources.archives import Archive
from captioner.training.batches import Batch, CaptionSet
from captioner.training.objectives import next_word_losses
from captioner.vision.encoder import Encoder, calibrate, load_encoder
from captioner.vision.features import extract, join
from captioner.vision.store import FeatureStore, View, new_store

CPU = torch.device("cpu")
SIZE = 224  # pixels a side
BOUNDARY = "layer4"
Precision = Callable[[torch.device], AbstractContextManager]
ROUNDING = 1e-3  # relative, of float32 through the whole network


def single_precision(device: torch.device) -> AbstractContextManager:
    """Return a context in which matrix products are float32, as in the tutorials on a CPU."""
    return nullcontext()


def photos_and_weights() -> tuple[Archive, list[str], dict[str, Tensor]]:
    """Return the photos, their names, and the state dict of ResNet-18."""
    names = [name for name, _ in read_images("data/images.csv")]
    return Archive("data/raw/images"), names, torch.load("data/raw/resnet18.pth", map_location="cpu", weights_only=True)


def training_items() -> list[CaptionedImage]:
    """Return the training images with their captions, in a fixed random order."""
    items = [item for item in read_captions("data/captions.jsonl") if item.split == "train"]
    random.Random(1).shuffle(items)
    return items


def vocabulary() -> Vocabulary:
    """Return the words of data/vocabulary.json."""
    return Vocabulary.from_dict(read_json("data/vocabulary.json"))


def random_decoder(words: int, **changes: Any) -> Decoder:
    """Return a decoder as params.yaml says, for features of ResNet-18, with random weights."""
    shape = {key: value for key, value in read_values()["decoder"].items() if key != "standardise"}
    return Decoder(vocabulary=words, features=512, **{**shape, **changes})


def random_pixels(images: int, size: int = SIZE) -> Tensor:
    """Return pictures, uint8 [images, size, size, 3], that are as smooth as photos."""
    generator = torch.Generator().manual_seed(1)
    coarse = torch.rand(images, 3, 8, 8, generator=generator) * 255
    fine = nn.functional.interpolate(coarse, size=(size, size), mode="bicubic").clamp(0, 255)
    return fine.byte().permute(0, 2, 3, 1).contiguous()


def random_encoder(pixels: Tensor) -> Encoder:
    """Return an encoder with random weights and, for such pictures, activations of the usual size."""
    torch.manual_seed(1)
    encoder = load_encoder(torchvision.models.resnet18().state_dict())
    calibrate(encoder, [pixels[:32]])
    return encoder


def caption_set(items: list[CaptionedImage], read: Callable[[Tensor], Tensor]) -> CaptionSet:
    """Return the items as a split; `read` returns their features by index."""
    views = {item.image: [row] for row, item in enumerate(items)}
    pad = [CaptionedImage(item.image, "dev", item.raw, item.ids) for item in items[:1]]  # a split may not be empty
    sets = CaptionSet.of_splits([*items, *pad], views, read)
    return sets["train"]


def decoding_problem(images: int) -> tuple[Captioner, Batch, Tensor]:
    """Return a random decoder, a batch of random grids with real captions, and its padded captions [B, K, 1 + L]."""
    items = training_items()[:images]
    rows = torch.randn(images, 7, 7, 512, generator=torch.Generator().manual_seed(2)).relu().half()
    captions = caption_set(items, lambda chosen: rows[chosen])
    batch = next(iter(captions.batches(torch.arange(images), images, CPU)))
    torch.manual_seed(3)
    return Captioner(random_decoder(len(vocabulary()))), batch, captions.ids


def changed_captions(items: list[CaptionedImage], count: int) -> np.ndarray:
    """Return `count` captions of each image, int64 [B, count, L], similar to those that a model draws: the image's own
    captions with a few words replaced by other words of the image's captions."""
    words = vocabulary()
    generator = np.random.default_rng(1)
    tokens = np.full((len(items), count, words.max_length), PAD)
    for row, item in enumerate(items):
        for place in range(count):
            ids = np.array(item.ids[place % len(item.ids)][1:])
            others = generator.choice(np.concatenate(item.ids), len(ids))
            ids = np.where((generator.random(len(ids)) < 0.3) & (others > UNK), others, ids)[: words.max_length]
            tokens[row, place, : len(ids)] = np.where(ids == UNK, ids.max(), ids)
    return tokens


def store_of(path: Path, rows: Tensor, *, layer: str) -> FeatureStore:
    """Write rows [N, h, w, C] as a feature store; return it."""
    views = [View(str(row)) for row in range(len(rows))]
    shape, valid_for = tuple(rows.shape[1:]), {"encoder": "random", "layer": layer, "size": SIZE, "fit": "squash"}
    with new_store(path, views=views, shape=shape, dtype="float16", **valid_for) as store:
        store.write(0, rows)
    return FeatureStore(path, **valid_for)


def extract_to(folder: Path, archive: Archive, names: list[str], encoder: Encoder) -> None:
    """Run the feature stage's library calls on these photos."""
    with TemporaryDirectory(dir=folder) as name:
        shards = Path(name)
        views, shape = [View(name) for name in names], {"size": SIZE, "fit": "squash"}
        extract(archive, views, encoder, boundary=BOUNDARY, on_bad="error", shards=shards, device=CPU, **shape)
        join(views, shards, grid_path=folder / "grid.h5", boundary_path=folder / "boundary.h5")


def epoch(captioner: Captioner, batches: Iterable[Batch], precision: Precision = mixed_precision) -> None:
    """Train on the batches as `captioner.training.loop.train_one_epoch` does."""
    captioner.train()
    optimizer = torch.optim.AdamW(captioner.parameters(), lr=0.001, fused=True)
    for batch in batches:
        with precision(CPU):
            loss, uniform = next_word_losses(captioner, batch)
            objective = 0.9 * loss + 0.1 * uniform
        optimizer.zero_grad(set_to_none=True)
        objective.backward()
        nn.utils.clip_grad_norm_(captioner.parameters(), 1.0)
        optimizer.step()


def step(module: nn.Module, loss: Callable[[], Tensor], precision: Precision = mixed_precision) -> Callable[[], None]:
    """Return a function that computes a loss and its gradients."""

    def run() -> None:
        module.zero_grad(set_to_none=True)
        with precision(CPU):
            value = loss()
        value.backward()

    return run


def require_same_gradients(
    ours: nn.Module,
    our_loss: Callable[[], Tensor],
    theirs: nn.Module,
    their_loss: Callable[[], Tensor],
    tolerance: float = ROUNDING,
) -> None:
    """Raise Mismatch unless both losses and the gradients of equally named parameters are the same."""
    result, wanted = _gradients(ours, our_loss), _gradients(theirs, their_loss)
    for name, gradient in wanted.items():
        require_close(f"gradient of {name}", result[name], gradient, tolerance)
    require_close("names", torch.tensor(len(result)), torch.tensor(len(wanted)), 0)


def _gradients(module: nn.Module, loss: Callable[[], Tensor]) -> dict[str, Tensor]:
    module.eval()  # dropout would differ
    module.zero_grad(set_to_none=True)
    value = loss()
    value.backward()
    gradients = {
        name: parameter.grad.clone() for name, parameter in module.named_parameters() if parameter.grad is not None
    }
    return {"(the loss itself)": value.detach()} | gradients


def some_rows(rows: np.ndarray | list[int], store: FeatureStore) -> Callable[[Tensor], Tensor]:
    """Return a function `read` that reads these rows of a store by index."""
    chosen = np.asarray(rows)
    return lambda places: store.read(chosen[places.numpy()])


def search_problem(images: int) -> tuple[Captioner, Metadata, list[str], FeatureStore, np.ndarray]:
    """Return the trained decoder, its card, some dev images, and the store and rows of their grids."""
    captioner, card = load_model("models/decoder.safetensors")
    store = FeatureStore("data/features/grid.h5", layer=card.start, encoder=card.encoder, **card.image)
    names = [item.image for item in read_captions("data/captions.jsonl") if item.split == "dev"]
    names = [name for name in names if name in store.rows][:images]
    return captioner, card, names, store, np.array([store.rows[name] for name in names])
