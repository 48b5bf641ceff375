"""Captions and splits out of the archives: images.csv, captions.jsonl, vocabulary.json and their summary."""

import json

from captioner.base.files import write_json
from captioner.base.stage import run
from captioner.captions.formats import Columns
from captioner.captions.tokenise import tokenise


def main(params):
    summary = tokenise(
        "data/raw/images",
        "data/raw/captions.zip",
        folder="data",
        form=params.captions.form,
        lowercase=params.captions.lowercase,
        punctuation=params.captions.punctuation,
        min_count=params.captions.min_count,
        max_length=params.captions.max_length,
        on_bad=params.dataset.on_bad,
        dev=params.own.dev,
        test=params.own.test,
        seed=params.own.seed,
        columns=Columns(params.own.columns.image, params.own.columns.caption, params.own.columns.split),
    )
    write_json("metrics/captions.json", summary)
    print(json.dumps(summary, indent=2))


if __name__ == "__main__":
    run(main)
