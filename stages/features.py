"""The frozen part of ResNet-18 once over every image, into HDF5: the grids and the fine-tuning boundary."""

import torch

from captioner.archives import Archive
from captioner.dataset import read_images
from captioner.device import make_deterministic, select_device
from captioner.encoder import load_encoder, save_encoder
from captioner.features import calibrate_on, extract
from captioner.files import write_json
from captioner.stage import run


def main(params):
    make_deterministic(seed=0)
    photos = Archive("data/raw/images")
    images = read_images("data/images.csv")
    encoder = load_encoder(torch.load("data/raw/resnet18.pth", weights_only=True))
    view = {"size": params.image.size, "fit": params.image.fit}
    if params.encoder.weights == "random":
        calibrate_on(encoder, photos, [name for name, split in images if split == "train"], **view)
    summary = extract(
        photos,
        [name for name, _ in images],
        encoder,
        boundary=params.finetune.unfreeze_from,
        on_bad=params.dataset.on_bad,
        grid_path="data/features/grid.h5",
        boundary_path="data/features/boundary.h5",
        device=select_device(),
        **view,
    )
    save_encoder("data/features/encoder.safetensors", encoder)
    write_json("metrics/features.json", summary)


if __name__ == "__main__":
    run(main)
