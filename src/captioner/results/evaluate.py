"""Generate the captions of a split by the frozen and the fine-tuned model, and score them.

Files
    metrics/validate.json,        for the dev and the test split: {"images": int, "frozen": scores,
    metrics/evaluate.json         "finetuned": scores, "intervals": {"frozen": ends, "finetuned": ends,
                                  "finetuned - frozen": ends}}. Scores are fractions of 1 under the names of
                                  `captioner.scoring.evaluation.score_all`, and the language figures of
                                  `captioner.scoring.scores.diversity`. Ends are [low, high] by name of the score:
                                  the 95 % bootstrap interval over images (`captioner.scoring.bootstrap`) of a score
                                  or of the paired difference of two models' scores
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
from captioner.results.intervals import DIFFERENCE
from captioner.scoring import bootstrap
from captioner.scoring.evaluation import score_all
from captioner.scoring.scores import diversity, known_captions
from captioner.vision.store import FeatureStore

DIGITS = 5  # digits of the ends of intervals


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
    """Evaluate `models` on the images of `split`, and write both files.

    `models` maps a name to a model file and the store of its inputs. `beam`, `length_penalty` and `consensus` (the
    weight in `captioner.model.consensus.Consensus.choose`) are the options of the search. With a consensus of 0 the
    likeliest beam is chosen. Raises CaptionerError if a model and a store do not belong together, if a model has
    another vocabulary, or if the store has no image of the split.
    """
    make_deterministic(seed=0)
    device = select_device()
    words = Vocabulary.from_dict(read_json(vocabulary))
    items = read_captions(captions)
    known = known_captions(
        (words.decode(ids) for item in items if item.split == "train" for ids in item.ids), words.language
    )
    results: dict[str, Any] = {}
    resampled: dict[str, Mapping[str, bootstrap.Resampled]] = {}
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
        rows = store.captioned([item.image for item in shown], mean=card.mean)  # [N, views]
        texts = generate(
            captioner,
            [item.image for item in shown],
            partial(_read, store, rows),
            words,
            beam=beam,
            length_penalty=length_penalty,
            device=device,
            choose=partial(chooser.choose, weight=consensus) if chooser else None,
        )
        scored = score_all({item.image: item.raw for item in shown}, texts, language=words.language)
        language = diversity(texts, known, words.language)
        results |= {"images": len(shown), name: {**scored.corpus, **language, **scored.words}}
        resampled[name] = scored.resampled
        cider_of = scored.each["CIDEr"]
        columns |= {name: texts, f"{name} CIDEr": {image: round(value, 5) for image, value in cider_of.items()}}
    table = pd.DataFrame(columns)[sorted(columns, key=lambda column: "CIDEr" in column)]
    write_text(generated, table.sort_index().to_csv(index_label="image", lineterminator="\n"))
    write_json(scores, results | {"intervals": _intervals(resampled)})


def _intervals(resampled: Mapping[str, Mapping[str, bootstrap.Resampled]]) -> dict[str, dict[str, list[float]]]:
    """Return the intervals of each model's scores and, with both models, of fine-tuned minus frozen."""
    by_model = {name: bootstrap.intervals(scores) for name, scores in resampled.items()}
    if {"frozen", "finetuned"} <= resampled.keys():
        by_model[DIFFERENCE] = bootstrap.paired(resampled["finetuned"], resampled["frozen"])
    return {
        name: {metric: [round(end, DIGITS) for end in ends] for metric, ends in by_metric.items()}
        for name, by_metric in by_model.items()
    }


def _read(store: FeatureStore, rows: np.ndarray, chosen: Tensor) -> list[Tensor]:
    return [store.read(view) for view in rows[chosen.numpy()].T]


def table_of(results: Mapping[str, Mapping[str, float]]) -> str:
    """Return the scores of metrics/validate.json or evaluate.json, x100, as lines with a column for each model."""
    models = [name for name in results if name not in ("images", "intervals")]
    lines = ["".join(["x100".ljust(12), *(name.rjust(12) for name in models)])]
    for key in dict.fromkeys(key for name in models for key in results[name]):
        if key.isupper() or key.startswith(("BLEU", "CIDEr", "ROUGE")):
            row = [results[name].get(key) for name in models]  # METEOR's program may have failed for one model
            lines.append("".join([key.ljust(12), *("-".rjust(12) if v is None else f"{100 * v:12.1f}" for v in row)]))
    return "\n".join(lines)
