"""The frozen part of ResNet-18 once over every image, into HDF5: the grids and the fine-tuning boundary.

Run by itself with --shard 2/4, it computes the second of four shares and leaves joining them to `dvc repro features`.
"""

import argparse
from dataclasses import dataclass

from captioner.base.stage import run
from captioner.base.distributed import distributed
from captioner.base.resume import stage_provenance
from captioner.vision.features import compute_features, share_of


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
    mean: bool


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
    compute_features(
        images="data/raw/images",
        listing="data/images.csv",
        weights="data/raw/resnet18.pth",
        folder="data/features",
        summary="metrics/features.json",
        provenance=stage_provenance("features"),
        boundary=params.finetune.unfreeze_from,
        size=params.image.size,
        fit=params.image.fit,
        flip=params.views.flip,
        mean=params.views.mean,
        calibrated=params.encoder.weights == "random",
        on_bad=params.dataset.on_bad,
        share=parser.parse_args().shard,
    )


if __name__ == "__main__":
    run(main, Params)
