"""The LSTM on cached features: predicts the next word, keeps the epoch with the best dev CIDEr."""

from captioner.base.distributed import distributed
from captioner.base.resume import made_from
from captioner.base.stage import run
from captioner.training.train import train_decoder


@distributed
def main(params):
    train_decoder(
        captions="data/captions.jsonl",
        vocabulary="data/vocabulary.json",
        grid_store="data/features/grid.h5",
        model="models/decoder.safetensors",
        curve="metrics/train_curve.csv",
        summary="metrics/train.json",
        made=made_from("train", params),
        attention=params.decoder.attention,
        width=params.decoder.width,
        heads=params.decoder.heads,
        tied=params.decoder.tied,
        dropout=params.decoder.dropout,
        standardise=params.decoder.standardise,
        epochs=params.train.epochs,
        batch=params.train.batch,
        lr=params.train.lr,
        warmup=params.train.warmup,
        weight_decay=params.train.weight_decay,
        label_smoothing=params.train.label_smoothing,
        scheduled_sampling=params.train.scheduled_sampling,
        clip=params.train.clip,
        patience=params.train.patience,
        ema=params.train.ema,
        crop=params.train.crop,
        seed=params.seed,
    )


if __name__ == "__main__":
    run(main)
