"""Measure how often dev captions are good, in fifths of their score and of their agreement.

    python -m dev.thresholds

Run it from the project's folder after `dvc repro`. A caption counts as good if its CIDEr is above the median of the dev
captions, which half of them are. The test split is not read. The command writes thresholds.csv beside this module, with
a line for each measure and fifth, and the table of docs/captioning.md.
"""

from pathlib import Path

import numpy as np
import pandas as pd

from benchmarks.page import put, table
from captioner.base.device import make_deterministic, select_device
from captioner.base.files import write_text
from captioner.base.params import read_values
from captioner.captions.dataset import read_captions
from captioner.captions.vocabulary import PAD
from captioner.model.captioner import load_model
from captioner.model.consensus import Consensus
from captioner.model.generate import generate
from captioner.scoring.evaluation import score_all
from captioner.vision.store import FeatureStore

FOLDER = Path(__file__).parent
PAGE = FOLDER.parent / "docs/captioning.md"
FIFTHS = 5


def measure() -> pd.DataFrame:
    """Return the columns image, score, agreement and CIDEr of the chosen dev captions."""
    make_deterministic(seed=0)
    search = read_values()["search"]
    captioner, metadata = load_model("models/captioner.safetensors")
    assert captioner.examples is not None
    store = FeatureStore("data/features/boundary.h5", layer=metadata.start, encoder=metadata.encoder, **metadata.image)
    dev = [item for item in read_captions("data/captions.jsonl") if item.split == "dev" and item.image in store.rows]
    rows = store.captioned([item.image for item in dev], mean=metadata.mean)
    consensus = Consensus(*captioner.examples)
    scores: list[float] = []
    agreements: list[float] = []

    def choose(features: np.ndarray, tokens: np.ndarray, beams: np.ndarray) -> list[int]:
        places = list(consensus.choose(features, tokens, beams, weight=search["consensus"]))
        near, shares = consensus.nearest(features)
        for row, place in enumerate(places):
            length = float((tokens[row, place] != PAD).sum())
            scores.append(float(beams[row, place]) * length ** (search["length_penalty"] - 1))
            agreements.append(float(consensus.agreement(tokens[row], near[row], shares[row])[place]))
        return places

    captions = generate(
        captioner,
        [item.image for item in dev],
        lambda chosen: [store.read(view) for view in rows[chosen.numpy()].T],
        metadata.vocabulary,
        beam=search["beam"],
        length_penalty=search["length_penalty"],
        device=select_device(),
        choose=choose,
    )
    scored = score_all({item.image: item.raw for item in dev}, captions, use_meteor=False)
    cider = [scored.each["CIDEr"][item.image] for item in dev]
    return pd.DataFrame({"image": list(captions), "score": scores, "agreement": agreements, "CIDEr": cider})


def fifths(frame: pd.DataFrame) -> pd.DataFrame:
    """Return, for each measure and fifth (1 is the lowest), its range, the mean CIDEr and the share above the median.

    `frame` has the columns score, agreement and CIDEr. Equal values keep their order.
    """
    above = frame["CIDEr"] > frame["CIDEr"].median()
    parts = []
    for name in ("score", "agreement"):
        fifth = pd.qcut(frame[name].rank(method="first"), FIFTHS, labels=False) + 1
        for number, rows in frame.groupby(fifth).groups.items():
            values = frame.loc[rows, name]
            parts.append(
                {
                    "measure": name,
                    "fifth": number,
                    "from": values.min(),
                    "to": values.max(),
                    "CIDEr": frame.loc[rows, "CIDEr"].mean(),
                    "above the median": above[rows].mean(),
                }
            )
    return pd.DataFrame(parts).round(5)


def table_of(result: pd.DataFrame) -> str:
    """Return the table of docs/captioning.md."""
    rows = [
        [
            line["measure"],
            f"{line['from']:.2f} to {line['to']:.2f}",
            f"{100 * line['CIDEr']:.0f}",
            f"{100 * line['above the median']:.0f} %",
        ]
        for line in result.to_dict("records")
    ]
    return table(["measure", "a fifth of the captions", "their CIDEr, x100", "above the median CIDEr"], rows)


def main() -> None:
    """Measure and write both files."""
    result = fifths(measure())
    write_text(FOLDER / "thresholds.csv", result.to_csv(index=False, lineterminator="\n"))
    put(PAGE, "thresholds", table_of(result))
    print(result.to_string(index=False))


if __name__ == "__main__":
    main()
