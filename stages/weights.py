"""The encoder's starting weights: the state dict of a ResNet-18."""

from dataclasses import dataclass

from captioner.base.files import write_json
from captioner.base.stage import run
from captioner.sources.weights import provide_weights


@dataclass(frozen=True)
class Encoder:
    weights: str
    seed: int


@dataclass(frozen=True)
class Params:
    encoder: Encoder


def main(params: Params) -> None:
    record = provide_weights(params.encoder.weights, params.encoder.seed, "data/raw/resnet18.pth")
    write_json("metrics/weights.json", record)


if __name__ == "__main__":
    run(main, Params)
