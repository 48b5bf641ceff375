"""The start of training: the state dict of a ResNet-18, and a model file if train.start names one."""

from dataclasses import dataclass

from captioner.base.stage import run
from captioner.base.files import write_json
from captioner.sources.weights import provide_start, provide_weights


@dataclass(frozen=True)
class Encoder:
    weights: str
    seed: int


@dataclass(frozen=True)
class Train:
    start: str | None


@dataclass(frozen=True)
class Params:
    encoder: Encoder
    train: Train


def main(params: Params) -> None:
    model = provide_start(params.train.start, "data/raw/start")
    record = provide_weights(params.encoder.weights, params.encoder.seed, "data/raw/resnet18.pth", model)
    write_json("metrics/weights.json", record)


if __name__ == "__main__":
    run(main, Params)
