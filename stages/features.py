"""The frozen part of ResNet-18 once over every image, into HDF5: the grids and the fine-tuning boundary.

Run by itself with --shard 2/4, it computes the second of four shares and leaves joining them to `dvc repro features`.
"""

import argparse
from dataclasses import dataclass

import torch

from captioner.base.device import features_dtype, make_deterministic, select_device
from captioner.base.distributed import distributed, gather, processes, rank
from captioner.base.files import write_json
from captioner.base.resume import Resume, stage_provenance
from captioner.base.stage import run
from captioner.captions.dataset import read_images
from captioner.sources.archives import Archive
from captioner.vision.encoder import load_encoder, save_encoder
from captioner.vision.features import calibrate_on, extract, join, share_of
from captioner.vision.store import View


@dataclass(frozen=True)
class Dataset:
    on_bad: str


@dataclass(frozen=True)
class Encoder:
    weights: str


@dataclass(frozen=True)
class Finetune:
    unfreeze_from: str


@dataclass(frozen=True)
class Image:
    size: int
    fit: str


@dataclass(frozen=True)
class Views:
    flip: bool


@dataclass(frozen=True)
class Params:
    dataset: Dataset
    encoder: Encoder
    finetune: Finetune
    image: Image
    views: Views


@distributed
def main(params: Params) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shard", type=share_of, metavar="I/N", help="compute the I-th of N shares, and no more")
    share = parser.parse_args().shard
    make_deterministic(seed=0)
    device = select_device()
    computed = {"device": device.type, "dtype": str(features_dtype(device))}  # shards of other machines may come here
    resume = Resume("features", stage_provenance("features") | computed)
    photos = Archive("data/raw/images")
    images = read_images("data/images.csv")
    trained_on = [name for name, split in images if split == "train"]
    views = [View(name) for name, _ in images] + [View(name, True) for name in trained_on if params.views.flip]
    encoder = load_encoder(torch.load("data/raw/resnet18.pth", map_location="cpu", weights_only=True))
    size, fit = params.image.size, params.image.fit
    if params.encoder.weights == "random":
        calibrate_on(encoder, photos, trained_on, size=size, fit=fit)
    part, parts = share or (0, 1)
    extract(
        photos,
        views,
        encoder,
        boundary=params.finetune.unfreeze_from,
        on_bad=params.dataset.on_bad,
        shards=resume.parts,
        part=part + parts * rank(),
        parts=parts * processes(),
        device=device,
        size=size,
        fit=fit,
    )
    gather(None)  # wait until all are done
    if rank() != 0:
        return
    if share:
        print(
            f"share {part + 1} of {parts} is in {resume.parts}; with all of them there, dvc repro features joins them"
        )
        return
    summary = join(views, resume.parts, grid_path="data/features/grid.h5", boundary_path="data/features/boundary.h5")
    save_encoder("data/features/encoder.safetensors", encoder)
    write_json("metrics/features.json", summary)
    resume.remove()


if __name__ == "__main__":
    run(main, Params)
