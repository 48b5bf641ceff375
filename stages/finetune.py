"""Fine-tune the decoder and the unfrozen blocks of ResNet-18, through which features are computed again."""

from dataclasses import dataclass

from captioner.base.stage import run
from captioner.base.distributed import distributed
from captioner.base.resume import stage_provenance
from captioner.training.finetune import FinetuneSettings, finetune


@dataclass(frozen=True)
class Params:
    finetune: FinetuneSettings
    seed: int


@distributed
def main(params: Params) -> None:
    finetune(
        captions="data/captions.jsonl",
        vocabulary="data/vocabulary.json",
        boundary_store="data/features/boundary.h5",
        encoder="data/features/encoder.safetensors",
        decoder="models/decoder.safetensors",
        model="models/captioner.safetensors",
        curve="metrics/finetune_curve.csv",
        summary="metrics/finetune.json",
        provenance=stage_provenance("finetune"),
        settings=params.finetune,
        seed=params.seed,
    )


if __name__ == "__main__":
    run(main, Params)
