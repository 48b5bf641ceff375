"""Stage weights: provides the encoder's starting weights."""

from typing import Any

from captioner.base.files import write_json
from captioner.base.stage import run
from captioner.sources.weights import provide_weights


def main(params: Any) -> None:
    record = provide_weights(params.encoder.weights, params.encoder.seed, "data/raw/resnet18.pth")
    write_json("metrics/weights.json", record)


if __name__ == "__main__":
    run(main)
