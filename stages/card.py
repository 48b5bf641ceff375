"""The model card and its configuration, from the metrics and models of the run."""

from dataclasses import dataclass

from captioner.base.stage import run
from captioner.model.settings import SearchSettings
from captioner.results.card import write_card


@dataclass(frozen=True)
class Params:
    search: SearchSettings


def main(params: Params) -> None:
    write_card(
        "models/README.md",
        "models/config.json",
        model="models/captioner.safetensors",
        decoder="models/decoder.safetensors",
        metrics={
            "download": "metrics/download.json",
            "weights": "metrics/weights.json",
            "captions": "metrics/captions.json",
            "features": "metrics/features.json",
            "train": "metrics/train.json",
            "finetune": "metrics/finetune.json",
            "evaluate": "metrics/evaluate.json",
        },
        beam=params.search.beam,
        length_penalty=params.search.length_penalty,
        consensus=params.search.consensus,
    )


if __name__ == "__main__":
    run(main, Params)
