"""Generates the captions of a split by the frozen and the fine-tuned model and scores them.

Files
    metrics/validate.json,        of the dev and of the test split: {"images": int, "frozen": scores,
    metrics/evaluate.json         "finetuned": scores}; scores are fractions of 1 under the names of `score`, and the
                                  language figures of `diversity`, both of `captioner.scoring.scores`
    metrics/dev_captions.csv,     columns image, frozen, finetuned (captions), frozen CIDEr, finetuned CIDEr
    metrics/test_captions.csv
"""

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from torch import Tensor

from captioner.base.device import make_deterministic, select_device
from captioner.base.errors import CaptionerError
from captioner.base.files import read_json, write_json, write_text
from captioner.captions.dataset import read_captions
from captioner.captions.vocabulary import Vocabulary
from captioner.model.captioner import load_model
from captioner.model.consensus import Consensus
from captioner.model.generate import generate
from captioner.scoring.scores import diversity, score
from captioner.vision.store import FeatureStore


def evaluate(
    models: Mapping[str, tuple[str | Path, str | Path]],
    *,
    split: str,
    captions: str | Path,
    vocabulary: str | Path,
    beam: int,
    length_penalty: float,
    consensus: float,
    scores: str | Path,
    generated: str | Path,
) -> None:
    """Evaluate `models`, a model file and the store of what it takes in by name, on the images of `split`, and write
    both files.

    `beam`, `length_penalty` and `consensus`, the weight of `Consensus.choose` of `captioner.model.consensus`, say how
    captions are generated. With a consensus of 0 the likeliest beam is taken.
    Raises CaptionerError where a model and a store do not belong together, a model knows another vocabulary, or the
    store has no image of the split.
    """
    make_deterministic(seed=0)
    device = select_device()
    words = Vocabulary.from_dict(read_json(vocabulary))
    items = read_captions(captions)
    results: dict[str, Any] = {}
    columns: dict[str, dict[str, Any]] = {}
    for name, (model, store_path) in models.items():
        captioner, card = load_model(model)
        if card.vocabulary != words:
            raise CaptionerError(f"{model}: trained with another vocabulary than {vocabulary}; run `dvc repro`")
        if captioner.examples is None and consensus:
            raise CaptionerError(
                f"{model}: a model file without its training captions, so no choice by consensus; "
                "set search.consensus to 0, or make the model with `dvc repro`"
            )
        chooser = Consensus(*captioner.examples) if captioner.examples is not None and consensus else None
        store = FeatureStore(store_path, layer=card.start, encoder=card.encoder, **card.image)
        shown = [item for item in items if item.split == split and item.image in store.rows]
        if not shown:
            raise CaptionerError(f"{store_path}: no image of the {split} split in it; expected at least one")
        rows = np.array([store.rows[item.image] for item in shown])
        found = generate(
            captioner,
            [item.image for item in shown],
            partial(_read, store, rows),
            words,
            beam=beam,
            length_penalty=length_penalty,
            device=device,
            choose=partial(chooser.choose, weight=consensus) if chooser else None,
        )
        corpus, each = score({item.image: item.raw for item in shown}, found, language=words.language)
        training = [words.decode(ids) for item in items if item.split == "train" for ids in item.ids]
        results |= {"images": len(shown), name: {**corpus, **diversity(found, training, words.language)}}
        columns |= {name: found, f"{name} CIDEr": {image: round(value, 5) for image, value in each.items()}}
    table = pd.DataFrame(columns)[sorted(columns, key=lambda column: "CIDEr" in column)]
    write_text(generated, table.sort_index().to_csv(index_label="image", lineterminator="\n"))
    write_json(scores, results)


def _read(store: FeatureStore, rows: np.ndarray, chosen: Tensor) -> Tensor:
    return store.read(rows[chosen.numpy()])


def table_of(results: Mapping[str, Mapping[str, float]]) -> str:
    """Return the scores of metrics/validate.json or evaluate.json as lines of text, a model a column, x100."""
    models = [name for name in results if name != "images"]
    lines = ["".join(["x100".ljust(12), *(name.rjust(12) for name in models)])]
    for key in dict.fromkeys(key for name in models for key in results[name]):
        if key.isupper() or key.startswith(("BLEU", "CIDEr", "ROUGE")):
            found = [results[name].get(key) for name in models]  # METEOR's program may have failed for one of them
            lines.append("".join([key.ljust(12), *("-".rjust(12) if v is None else f"{100 * v:12.1f}" for v in found)]))
    return "\n".join(lines)
