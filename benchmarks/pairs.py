"""The pairs: this project's code against a common alternative. Each pair first checks that both sides agree.

A benchmark is a function that takes a temporary folder and returns a `Pair`. It reads data/ and sometimes models/,
which `dvc repro` writes. Weights can be random, because the time of a step does not depend on them. Values are compared
in single precision. Our side is timed in the precision of the stages. The baseline is timed in single precision unless
the pair says otherwise, because none of the tutorials uses mixed precision.
"""

import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import h5py
import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from benchmarks import tutorials
from benchmarks.measure import Mismatch, Pair, precision, require_close, require_equal
from benchmarks.ngrams import ComparedNgrams, DictionaryReward
from benchmarks.world import (
    BOUNDARY,
    CPU,
    ROUNDING,
    SIZE,
    Precision,
    caption_set,
    changed_captions,
    decoding_problem,
    epoch,
    extract_to,
    photos_and_weights,
    random_decoder,
    random_encoder,
    random_pixels,
    require_same_gradients,
    search_problem,
    single_precision,
    some_rows,
    step,
    store_of,
    training_items,
    vocabulary,
)
from captioner.base.device import mixed_precision
from captioner.base.errors import CaptionerError
from captioner.base.params import read_values
from captioner.captions.dataset import CaptionedImage
from captioner.captions.vocabulary import EOS
from captioner.model.captioner import Captioner
from captioner.model.consensus import NEIGHBOURS, Consensus
from captioner.model.generate import generate
from captioner.model.search import beam_search as search
from captioner.training.batches import CaptionSet
from captioner.training.objectives import next_word_losses
from captioner.training.reward import Reward
from captioner.vision.encoder import END, load_encoder
from captioner.vision.store import FeatureStore

HALF = {"float32": 5e-3, "bfloat16": 5e-2}  # of features in half precision, by the precision of their computation


@dataclass(frozen=True)
class Benchmark:
    """Descriptions of both sides, and the smallest ratio that is a success (None: no goal).

    `goal` is for a CPU with bfloat16 instructions, `plain_goal` for a CPU without them and single precision.
    """

    prepare: Callable[[Path], Pair]
    ours: str
    baseline: str
    goal: float | None
    plain_goal: float | None = None


PAIRS: dict[str, Benchmark] = {}


def _pair(
    ours: str, baseline: str, goal: float | None, plain_goal: float | None = None
) -> Callable[[Callable[[Path], Pair]], Callable[[Path], Pair]]:
    def register(prepare: Callable[[Path], Pair]) -> Callable[[Path], Pair]:
        PAIRS[prepare.__name__] = Benchmark(prepare, ours, baseline, goal, plain_goal)
        return prepare

    return register


@_pair("the feature stage, from JPEG to two HDF5 stores", "a DataLoader loop over torchvision, to one store", 2.0, 1.6)
def features(folder: Path, images: int = 128) -> Pair:
    archive, names, state = photos_and_weights()
    names = names[:images]
    encoder = load_encoder(state)
    files = [archive.read(name) for name in names]
    network = tutorials.resnet(state)

    def ours() -> None:
        extract_to(folder, archive, names, encoder)

    def baseline() -> None:
        tutorials.extract(files, network, folder / "tutorial.h5", SIZE)

    ours()
    baseline()
    result = FeatureStore(folder / "grid.h5").read(range(len(names))).float()
    with h5py.File(folder / "tutorial.h5") as file:
        wanted = torch.from_numpy(file["features"][:]).float()
    for row, name in enumerate(names):
        require_close(f"features of {name}", result[row], wanted[row], HALF[precision()])
    return Pair(ours, baseline, len(names), "image")


@_pair(
    "an epoch of decoder training on stored features",
    "the same; the photo is encoded again for each caption, as the tutorials' loaders do",
    20,
    12,
)
def train_epoch(folder: Path, images: int = 64) -> Pair:
    return _train_epoch(images, each_caption=True)


@_pair("an epoch of decoder training on stored features", "the same; each photo is encoded once", None)
def train_epoch_by_image(folder: Path, images: int = 64) -> Pair:
    return _train_epoch(images, each_caption=False)


def _train_epoch(images: int, *, each_caption: bool) -> Pair:
    archive, _, _ = photos_and_weights()
    store = FeatureStore("data/features/grid.h5", layer=END)
    network = tutorials.resnet(load_file("data/features/encoder.safetensors"))
    items = [item for item in training_items() if item.image in store.rows][:images]
    samples = [(item, alone) for item in items for alone in (_apart(item) if each_caption else [item])]
    size = read_values()["train"]["batch"]
    batch = size * len(samples) // len(items)  # the same number of captions in a step on both sides

    cached = caption_set(items, some_rows([store.rows[item.image] for item in items], store))
    rows = [store.rows[item.image] for item, _ in samples]
    cached_samples = caption_set([sample for _, sample in samples], some_rows(rows, store))
    photos = [archive.read(item.image) for item, _ in samples]

    def recomputed(order: Tensor) -> CaptionSet:
        parts = [part.tolist() for part in order.split(batch)]
        read = tutorials.features_from_pixels(photos, parts, network, store.attributes["size"])
        return replace(cached_samples, read=read)

    order = torch.arange(len(samples))
    pairs = zip(cached_samples.batches(order, batch, CPU), recomputed(order).batches(order, batch, CPU), strict=True)
    for result, wanted in pairs:
        require_close(
            "features", result.rows, wanted.rows, HALF["bfloat16"]
        )  # the store may have been computed in either precision
        require_equal("targets", result.targets.tolist(), wanted.targets.tolist())
    require_equal("targets in all", (cached.ids > 0).sum().item(), (cached_samples.ids > 0).sum().item())

    mine, theirs = (Captioner(random_decoder(len(vocabulary()))) for _ in range(2))

    def ours() -> None:
        order = torch.randperm(len(items))
        epoch(mine, cached.batches(order, size, CPU))

    def baseline() -> None:
        order = torch.randperm(len(samples))
        epoch(theirs, recomputed(order).batches(order, batch, CPU), single_precision)

    return Pair(ours, baseline, len(items), "image")


def _apart(item: CaptionedImage) -> list[CaptionedImage]:
    """Return an item for each caption of an image, named "image number"."""
    return [
        replace(item, image=f"{item.image} {k}", raw=[raw], ids=[ids])
        for k, (raw, ids) in enumerate(zip(item.raw, item.ids, strict=True))
    ]


@_pair("forward and backward of the attention decoder, all time steps at once", "a loop of LSTMCells", 4, 3)
def decoder_step(folder: Path, images: int = 32) -> Pair:
    return _decoder_step(images, single_precision)


@_pair("forward and backward of the attention decoder", "a loop of LSTMCells in mixed precision", None)
def decoder_step_mixed(folder: Path, images: int = 32) -> Pair:
    return _decoder_step(images, mixed_precision)


def _decoder_step(images: int, precision: Precision) -> Pair:
    captioner, batch, tokens = decoding_problem(images)
    decoder = captioner.decoder
    stepwise = tutorials.StepDecoder(decoder)
    features = batch.rows.flatten(1, 2)

    def ours() -> Tensor:
        loss, _ = next_word_losses(captioner, batch)
        return loss

    def baseline() -> Tensor:
        return tutorials.step_loss(stepwise, features.float(), tokens)

    require_same_gradients(decoder, ours, decoder, baseline)
    decoder.train()
    return Pair(step(decoder, ours), step(decoder, baseline, precision), images, "image")


@_pair("forward and backward of the attention decoder", "the decoder of Show, Attend and Tell, as wide", None)
def decoder_step_classic(folder: Path, images: int = 32) -> Pair:
    captioner, batch, tokens = decoding_problem(images)
    width = captioner.decoder.width
    classic = tutorials.ClassicDecoder(
        vocabulary=len(vocabulary()), features=batch.rows.shape[-1], width=width, dropout=0.5
    )
    features = batch.rows.flatten(1, 2)

    def ours() -> Tensor:
        return next_word_losses(captioner, batch)[0]

    def baseline() -> Tensor:
        return tutorials.step_loss(classic, features.float(), tokens)

    step(classic, baseline)()
    unused = [name for name, parameter in classic.named_parameters() if parameter.grad is None]
    require_equal("parameters without a gradient", unused, [])
    captioner.decoder.train()
    return Pair(step(captioner.decoder, ours), step(classic, baseline, single_precision), images, "image")


@_pair(
    "a fine-tuning step from the stored boundary", "the whole network from pixels, frozen blocks under no_grad", 3, 3
)
def finetune_step(folder: Path, images: int = 32) -> Pair:
    return _finetune_step(folder, images, single_precision)


@_pair("a fine-tuning step from the stored boundary", "the whole network in mixed precision", None)
def finetune_step_mixed(folder: Path, images: int = 32) -> Pair:
    return _finetune_step(folder, images, mixed_precision)


def _finetune_step(folder: Path, images: int, precision: Precision) -> Pair:
    captioner, batch, _ = decoding_problem(images)
    pixels = random_pixels(images)
    encoder = random_encoder(pixels)
    with torch.no_grad():
        boundary = encoder(pixels, stop=BOUNDARY)
    store = store_of(folder / "boundary.h5", boundary, layer=BOUNDARY)
    captioner = Captioner(captioner.decoder, encoder, start=BOUNDARY)
    for module in encoder.block_modules("conv1", BOUNDARY):
        module.requires_grad_(False)

    network = tutorials.resnet(encoder.state_dict())
    frozen, unfrozen = tutorials.trunk(network)[:-1], network.layer4
    full = nn.ModuleDict({"layer4": unfrozen, "decoder": captioner.decoder})
    mean, std = encoder.mean, encoder.std
    everything = np.arange(images)

    def ours(rows: Tensor | None = None) -> Tensor:
        rows = store.read(everything) if rows is None else rows
        return next_word_losses(captioner, batch._replace(rows=rows))[0]

    def baseline() -> Tensor:
        with torch.no_grad():
            x = frozen((pixels.permute(0, 3, 1, 2).contiguous() - mean) / std)
        rows = unfrozen(x).permute(0, 2, 3, 1)
        return next_word_losses(Captioner(captioner.decoder), batch._replace(rows=rows))[0]

    part = nn.ModuleDict({"layer4": encoder.layer4, "decoder": captioner.decoder})
    require_same_gradients(part, lambda: ours(boundary), full, baseline, tolerance=3 * ROUNDING)  # of convolutions
    require_same_gradients(part, ours, full, baseline, tolerance=0.1)  # half precision turns a few ReLUs
    captioner.decoder.train()
    return Pair(step(part, ours), step(full, baseline, precision), images, "image")


@_pair("beam search over batches of images and beams", "one image at a time", 8, 6)
def beam_search(folder: Path, images: int = 100) -> Pair:
    captioner, card, names, store, rows = search_problem(images)
    setting = {"beam": 4, "length_penalty": 1.0}  # a width that the tutorials use
    longest = card.vocabulary.max_length

    def ours() -> dict[str, str]:
        return generate(
            captioner, names, lambda at: [store.read(rows[at.numpy()])], card.vocabulary, device=CPU, **setting
        )

    def one(row: int) -> tuple[list[int], float]:
        result = captioner.features(store.read([row]))
        return tutorials.beam_search_of_one(captioner.decoder, result, max_length=longest, **setting)

    def baseline() -> dict[str, str]:
        return {name: card.vocabulary.decode(one(row)[0]) for name, row in zip(names, rows, strict=True)}

    with torch.inference_mode():
        memory = captioner.encode(store.read(rows))
    result = search(captioner.decoder, memory, max_length=longest, **setting)
    for at, name in enumerate(names):
        tokens, score = one(rows[at])
        if card.vocabulary.decode(result.tokens[at, 0].tolist()) != card.vocabulary.decode(tokens):
            # captions whose scores differ only by rounding are both right
            require_close(f"score of {name}'s caption", result.scores[at, 0], torch.tensor(score), 1e-5)
    return Pair(ours, baseline, len(names), "image")


@_pair("rewards of drawn captions, as token ids", "as texts, by dictionaries of n-grams, one caption at a time", 5)
def rewards(folder: Path, images: int = 32, samples: int = 5, batches: int = 10) -> Pair:
    words = vocabulary()
    items = training_items()
    references = {item.image: item.raw for item in items}
    ours, baseline = Reward(references, words), DictionaryReward(references)
    parts = [items[at : at + images] for at in range(0, images * batches, images)]
    drawn = [([item.image for item in part], changed_captions(part, samples)) for part in parts]

    def in_batches() -> list[np.ndarray]:
        return [ours(names, tokens) for names, tokens in drawn]

    def one_by_one() -> list[list[list[float]]]:
        return [
            [
                [baseline(name, words.decode(ids), ended=EOS in ids) for ids in captions]
                for name, captions in zip(names, tokens.tolist(), strict=True)
            ]
            for names, tokens in drawn
        ]

    require_equal("rewards within 1e-9", np.allclose(in_batches(), one_by_one(), rtol=0, atol=1e-9), True)
    return Pair(in_batches, one_by_one, images * samples * batches, "caption")


@_pair(
    f"agreement of 20 beams with {NEIGHBOURS} training images, in batches",
    "the same, n-grams compared for each image",
    10,
)
def consensus(folder: Path, images: int = 50, beams: int = 20) -> Pair:
    items = training_items()
    ids = caption_set(items, torch.clone).ids[:, :, 1:].int()
    generator = np.random.default_rng(1)
    ours = Consensus(generator.standard_normal((len(items), 512)), ids)
    baseline = ComparedNgrams(ids.numpy())
    tokens = changed_captions(items[:images], beams)
    near, shares = ours.nearest(generator.standard_normal((images, 512)))

    def batch() -> np.ndarray:
        return ours.agreements(tokens, near, shares)

    def one_by_one() -> list[np.ndarray]:
        return [baseline(*of_image) for of_image in zip(tokens, near, shares, strict=True)]

    require_equal("agreements within 1e-5", np.allclose(batch(), one_by_one(), rtol=0, atol=1e-5), True)
    return Pair(batch, one_by_one, images, "image")


@_pair("random batches from the HDF5 store", "np.memmap of the same array in a .npy", 0.9)
def store_read(folder: Path, rows: int = 2000) -> Pair:
    content, store = _random_store(folder, rows)
    np.save(folder / "rows.npy", content)
    mapped = np.load(folder / "rows.npy", mmap_mode="r")
    batches = [np.random.default_rng(seed).integers(0, rows, 64) for seed in range(100)]
    return _reading(store, lambda chosen: torch.from_numpy(mapped[chosen]), batches)


@_pair("random batches from the HDF5 store", "a chunked dataset read by h5py with a list of indices", 20)
def store_read_h5py(folder: Path, rows: int = 2000) -> Pair:
    content, store = _random_store(folder, rows)
    with h5py.File(folder / "chunked.h5", "w") as file:
        file.create_dataset("features", data=content, chunks=(1, *content.shape[1:]))
    # h5py takes increasing indices only, without repetitions
    batches = [np.sort(np.random.default_rng(seed).permutation(rows)[:64]) for seed in range(3)]
    opened = h5py.File(folder / "chunked.h5")["features"]
    return _reading(store, lambda chosen: torch.from_numpy(opened[chosen.tolist()]), batches)


def _random_store(folder: Path, rows: int) -> tuple[np.ndarray, FeatureStore]:
    content = torch.randn(rows, 14, 14, 256, generator=torch.Generator().manual_seed(1)).half()
    return content.numpy(), store_of(folder / "store.h5", content, layer=BOUNDARY)


def _reading(store: FeatureStore, theirs: Callable[[np.ndarray], Tensor], batches: list[np.ndarray]) -> Pair:
    for chosen in batches:
        require_equal("rows", torch.equal(store.read(chosen), theirs(chosen)), True)

    def ours() -> None:
        for chosen in batches:
            store.read(chosen)

    def baseline() -> None:
        for chosen in batches:
            theirs(chosen)

    return Pair(ours, baseline, len(batches), "batch of 64 rows")


@_pair("`dvc repro` of this pipeline when nothing changed", "`dvc repro` of a pipeline of one empty stage", 0.5)
def noop(folder: Path) -> Pair:
    project = Path.cwd()
    for command in (("git", "init", "--quiet"), dvc("init", "--quiet"), dvc("config", "core.check_update", "false")):
        subprocess.run(command, cwd=folder, check=True, capture_output=True)
    (folder / "dvc.yaml").write_text("stages:\n  empty:\n    cmd: touch empty\n    outs:\n    - empty\n")
    subprocess.run(dvc("repro"), cwd=folder, check=True, capture_output=True)
    status = subprocess.run(dvc("status"), cwd=project, capture_output=True, text=True)
    if "up to date" not in status.stdout:  # else `dvc repro` would run stages
        raise CaptionerError(f"dvc status: not up to date; run `dvc repro` first\n{status.stdout}{status.stderr}")

    def repro(where: Path) -> None:
        done = subprocess.run(dvc("repro"), cwd=where, check=True, capture_output=True, text=True)
        if "up to date" not in done.stdout:
            raise Mismatch(f"dvc repro in {where} had something to do:\n{done.stdout}")

    return Pair(lambda: repro(project), lambda: repro(folder), 1, "run")


def dvc(*arguments: str) -> tuple[str, ...]:
    """Return the command that runs DVC with this interpreter."""
    return (sys.executable, "-m", "dvc", *arguments)
