"""Captions and splits from the archives: images.csv, captions.jsonl, vocabulary.json and their summary."""

import json
from dataclasses import dataclass

from captioner.base.stage import run
from captioner.base.files import write_json
from captioner.captions.formats import Columns
from captioner.captions.tokenise import tokenise_dataset


@dataclass(frozen=True)
class Captions:
    form: str
    language: str
    lowercase: bool
    punctuation: bool
    min_count: int
    max_length: int


@dataclass(frozen=True)
class Dataset:
    on_bad: str


@dataclass(frozen=True)
class Own:
    dev: float
    test: float
    seed: int
    columns: Columns


@dataclass(frozen=True)
class Params:
    captions: Captions
    dataset: Dataset
    own: Own


def main(params: Params) -> None:
    summary = tokenise_dataset(
        "data/raw/images",
        "data/raw/captions.zip",
        folder="data",
        form=params.captions.form,
        language=params.captions.language,
        lowercase=params.captions.lowercase,
        punctuation=params.captions.punctuation,
        min_count=params.captions.min_count,
        max_length=params.captions.max_length,
        on_bad=params.dataset.on_bad,
        dev=params.own.dev,
        test=params.own.test,
        seed=params.own.seed,
        columns=params.own.columns,
    )
    write_json("metrics/captions.json", summary)
    print(json.dumps(summary, indent=2))


if __name__ == "__main__":
    run(main, Params)
