"""Captions of the dev split by the frozen and the fine-tuned model, and their scores: what choices are made by."""

from captioner.base.files import read_json
from captioner.base.stage import run
from captioner.results.evaluate import evaluate, table_of


def main(params):
    evaluate(
        {
            "frozen": ("models/decoder.safetensors", "data/features/grid.h5"),
            "finetuned": ("models/captioner.safetensors", "data/features/boundary.h5"),
        },
        split="dev",
        captions="data/captions.jsonl",
        vocabulary="data/vocabulary.json",
        beam=params.search.beam,
        length_penalty=params.search.length_penalty,
        consensus=params.search.consensus,
        scores="metrics/validate.json",
        generated="metrics/dev_captions.csv",
    )
    print(table_of(read_json("metrics/validate.json")))


if __name__ == "__main__":
    run(main)
