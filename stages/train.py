"""The LSTM on cached features: predicts the next word, keeps the epoch with the best dev CIDEr."""

from dataclasses import dataclass

from captioner.base.stage import run
from captioner.base.distributed import distributed
from captioner.base.resume import stage_provenance
from captioner.training.train import DecoderSettings, TrainSettings, train_decoder


@dataclass(frozen=True)
class Params:
    decoder: DecoderSettings
    train: TrainSettings
    seed: int


@distributed
def main(params: Params) -> None:
    train_decoder(
        captions="data/captions.jsonl",
        vocabulary="data/vocabulary.json",
        grid_store="data/features/grid.h5",
        start="data/raw/start",
        model="models/decoder.safetensors",
        curve="metrics/train_curve.csv",
        summary="metrics/train.json",
        provenance=stage_provenance("train"),
        decoder=params.decoder,
        settings=params.train,
        seed=params.seed,
    )


if __name__ == "__main__":
    run(main, Params)
