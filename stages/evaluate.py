"""Test captions of the frozen and the fine-tuned model, and their scores: the result."""

from dataclasses import dataclass

from captioner.base.stage import run
from captioner.base.files import read_json
from captioner.model.settings import SearchSettings
from captioner.results.evaluate import evaluate, table_of


@dataclass(frozen=True)
class Params:
    search: SearchSettings


def main(params: Params) -> None:
    evaluate(
        {
            "frozen": ("models/decoder.safetensors", "data/features/grid.h5"),
            "finetuned": ("models/captioner.safetensors", "data/features/boundary.h5"),
        },
        split="test",
        captions="data/captions.jsonl",
        vocabulary="data/vocabulary.json",
        beam=params.search.beam,
        length_penalty=params.search.length_penalty,
        consensus=params.search.consensus,
        scores="metrics/evaluate.json",
        generated="metrics/test_captions.csv",
    )
    print(table_of(read_json("metrics/evaluate.json")))


if __name__ == "__main__":
    run(main, Params)
