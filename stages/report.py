"""The report: one page with the scores, the curves, every test image with its captions, and the provenance."""

from dataclasses import dataclass

from captioner.base.stage import run
from captioner.model.settings import SearchSettings
from captioner.results.report import write_report


@dataclass(frozen=True)
class Params:
    search: SearchSettings


def main(params: Params) -> None:
    write_report(
        "pictures/report.html",
        images="data/raw/images",
        captions="data/captions.jsonl",
        boundary_store="data/features/boundary.h5",
        decoder="models/decoder.safetensors",
        model="models/captioner.safetensors",
        generated="metrics/test_captions.csv",
        curves={"train": "metrics/train_curve.csv", "finetune": "metrics/finetune_curve.csv"},
        summaries={
            "download": "metrics/download.json",
            "weights": "metrics/weights.json",
            "captions": "metrics/captions.json",
            "features": "metrics/features.json",
            "train": "metrics/train.json",
            "finetune": "metrics/finetune.json",
            "evaluate": "metrics/evaluate.json",
        },
        search={
            "beam": params.search.beam,
            "length_penalty": params.search.length_penalty,
            "consensus": params.search.consensus,
        },
    )


if __name__ == "__main__":
    run(main, Params)
