"""Dev scores of the fine-tuned model by beam width and length penalty: what params.yaml's search.* was chosen by.

    python benchmarks/search.py [--out benchmarks/search.csv]

Run it from the project's folder after `dvc repro`. The test split is not touched.
"""

import argparse
from itertools import product

import numpy as np
import pandas as pd

from captioner.dataset import read_captions
from captioner.device import select_device
from captioner.files import write_text
from captioner.generate import generate
from captioner.model import load_model
from captioner.scores import diversity, score
from captioner.store import FeatureStore

BEAMS = (1, 2, 3, 4, 5, 7)
PENALTIES = (0.7, 1.0)


def main() -> None:
    """Score every combination and write the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", default="benchmarks/search.csv")
    out = parser.parse_args().out
    captioner, card = load_model("models/captioner.safetensors")
    store = FeatureStore("data/features/boundary.h5", layer=card.start, encoder=card.encoder, **card.image)
    dev = [item for item in read_captions("data/captions.jsonl") if item.split == "dev" and item.image in store.rows]
    rows = np.array([store.rows[item.image] for item in dev])
    device = select_device()
    records = []
    for beam, penalty in product(BEAMS, PENALTIES):
        found = generate(
            captioner,
            [item.image for item in dev],
            lambda chosen: store.read(rows[chosen]),
            card.vocabulary,
            beam=beam,
            length_penalty=penalty,
            device=device,
        )
        corpus, _ = score({item.image: item.raw for item in dev}, found, meteor=False)
        record = {"beam": beam, "length penalty": penalty, **corpus, "mean length": diversity(found, [])["mean length"]}
        records.append({key: round(value, 5) for key, value in record.items()})
        print(records[-1], flush=True)
    write_text(out, pd.DataFrame(records).to_csv(index=False, lineterminator="\n"))


if __name__ == "__main__":
    main()
