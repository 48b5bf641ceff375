"""End to end: the decoder with the unfrozen blocks of ResNet-18, features recomputed through them."""

from captioner.base.distributed import distributed
from captioner.base.resume import made_from
from captioner.base.stage import run
from captioner.training.finetune import finetune


@distributed
def main(params):
    finetune(
        captions="data/captions.jsonl",
        vocabulary="data/vocabulary.json",
        boundary_store="data/features/boundary.h5",
        encoder="data/features/encoder.safetensors",
        decoder="models/decoder.safetensors",
        model="models/captioner.safetensors",
        curve="metrics/finetune_curve.csv",
        summary="metrics/finetune.json",
        made=made_from("finetune", params),
        unfreeze_from=params.finetune.unfreeze_from,
        objective=params.finetune.objective,
        samples=params.finetune.samples,
        adapt_epochs=params.finetune.adapt_epochs,
        adapt_lr=params.finetune.adapt_lr,
        adapt_encoder_lr=params.finetune.adapt_encoder_lr,
        epochs=params.finetune.epochs,
        batch=params.finetune.batch,
        lr=params.finetune.lr,
        encoder_lr=params.finetune.encoder_lr,
        warmup=params.finetune.warmup,
        weight_decay=params.finetune.weight_decay,
        label_smoothing=params.finetune.label_smoothing,
        scheduled_sampling=params.finetune.scheduled_sampling,
        clip=params.finetune.clip,
        patience=params.finetune.patience,
        ema=params.finetune.ema,
        crop=params.finetune.crop,
        seed=params.seed,
    )


if __name__ == "__main__":
    run(main)
