"""Compare ways to search for captions and to choose among beams, by dev scores. The params `search.*` rest on it.

    python -m dev.search [--out dev/search.csv]

Run it from the project's folder after `dvc repro`. It does not read the test split. It also writes the table of
docs/experiments.md.
"""

import argparse
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path

import numpy as np
import pandas as pd

from benchmarks.page import put, table
from captioner.base.device import select_device
from captioner.base.files import write_text
from captioner.captions.dataset import read_captions
from captioner.model.captioner import load_model
from captioner.model.consensus import NEIGHBOURS, SHARPNESS, Consensus
from captioner.model.generate import generate
from captioner.scoring.evaluation import score_all
from captioner.scoring.scores import diversity, known_captions
from captioner.scoring.words import ABSENT, AGREED
from captioner.use.caption import BEAM, CONSENSUS, LENGTH_PENALTY
from captioner.vision.store import FeatureStore

PAGE = Path(__file__).parent.parent / "docs/experiments.md"
MODELS = {
    "frozen": ("models/decoder.safetensors", "data/features/grid.h5"),
    "fine-tuned": ("models/captioner.safetensors", "data/features/boundary.h5"),
}
CHOICE = ("consensus", "neighbours", "sharpness")


@dataclass(frozen=True)
class Setting:
    """One row of the table; the fields are its columns."""

    model: str = "fine-tuned"
    beam: int = BEAM
    penalty: float = LENGTH_PENALTY
    consensus: float = CONSENSUS
    neighbours: int = NEIGHBOURS
    sharpness: float = SHARPNESS


def settings() -> Iterator[Setting]:
    """Yield the settings: the likeliest beams; then consensus by one option after the other, the default first."""
    for beam in (1, 3, BEAM):
        yield Setting(beam=beam, consensus=0.0)
    yield Setting(penalty=0.6, consensus=0.0)
    yield Setting()
    for beam in (5, 10, 40):
        yield Setting(beam=beam)
    for penalty in (0.6, 0.8):
        yield Setting(penalty=penalty)
    for weight in (2.0, 8.0):
        yield Setting(consensus=weight)
    of_neighbours = ((NEIGHBOURS, 0.0), (NEIGHBOURS, 12.0), (NEIGHBOURS, 18.0), (15, SHARPNESS), (60, SHARPNESS))
    for neighbours, sharpness in of_neighbours:
        yield Setting(neighbours=neighbours, sharpness=sharpness)
    for beam, weight in ((3, 0.0), (BEAM, 0.0), (BEAM, CONSENSUS)):
        yield Setting("frozen", beam=beam, consensus=weight)


def main() -> None:
    """Score every setting and write the table."""
    parser = argparse.ArgumentParser(prog="python -m dev.search", description=__doc__.splitlines()[0])
    parser.add_argument("--out", default="dev/search.csv")
    out = parser.parse_args().out
    items = read_captions("data/captions.jsonl")
    models = {name: load_model(path) for name, (path, _) in MODELS.items()}
    stores = {
        name: FeatureStore(path, layer=models[name][1].start, encoder=models[name][1].encoder, **models[name][1].image)
        for name, (_, path) in MODELS.items()
    }
    vocabulary = models["fine-tuned"][1].vocabulary
    known = known_captions(vocabulary.decode(ids) for item in items if item.split == "train" for ids in item.ids)
    dev = [item for item in items if item.split == "dev" and item.image in stores["fine-tuned"].rows]

    @cache
    def beams_of(model: str, beam: int, penalty: float) -> list[np.ndarray]:
        """Return the candidates: features [N, D], tokens [N, K, T] and scores [N, K] of all beams."""
        rows = stores[model].captioned([item.image for item in dev], mean=models[model][1].mean)
        parts: list[tuple[np.ndarray, ...]] = []

        def keep(*batch: np.ndarray) -> list[int]:
            parts.append(batch)
            return [0] * len(batch[0])

        generate(
            models[model][0],
            [item.image for item in dev],
            lambda chosen: [stores[model].read(view) for view in rows[chosen].T],
            vocabulary,
            beam=beam,
            length_penalty=penalty,
            device=select_device(),
            choose=keep,
        )
        return [np.concatenate(part) for part in zip(*parts, strict=True)]

    @cache
    def consensus(model: str, neighbours: int, sharpness: float) -> Consensus:
        examples = models[model][0].examples
        assert examples is not None
        return Consensus(*examples, neighbours=neighbours, sharpness=sharpness)

    records = []
    for each in settings():
        features, tokens, scores = beams_of(each.model, each.beam, each.penalty)
        chooser = consensus(each.model, each.neighbours, each.sharpness)
        places = chooser.choose(features, tokens, scores, weight=each.consensus)
        captions_of_images = {
            item.image: vocabulary.decode(beams[place])
            for item, beams, place in zip(dev, tokens.tolist(), places, strict=True)
        }
        scored = score_all({item.image: item.raw for item in dev}, captions_of_images, use_meteor=False)
        measured = scored.corpus | diversity(captions_of_images, known) | scored.words
        rounded = {key: round(value, 5) for key, value in measured.items()}
        records.append(asdict(each) | rounded)
        print(records[-1], flush=True)
    frame = pd.DataFrame(records)
    write_text(out, frame.to_csv(index=False, lineterminator="\n"))
    put(PAGE, "search", table_of(frame))


def table_of(frame: pd.DataFrame) -> str:
    """Return the table of docs/experiments.md, a line for each setting."""
    words = [name for name in (ABSENT, AGREED) if name in frame]  # tables of earlier runs lack them
    rows = [
        [
            line["model"],
            f"{line['beam']}",
            f"{line['penalty']:g}",
            *([f"{line[name]:g}" for name in CHOICE] if line["consensus"] else ["0", "-", "-"]),
            *(f"{100 * line[name]:.1f}" for name in ("CIDEr", "BLEU-4", "ROUGE-L")),
            f"{line['vocabulary']:.0f}",
            f"{100 * line['distinct captions']:.0f} %",
            *(f"{100 * line[name]:.1f} %" for name in words),
        ]
        for _, line in frame.iterrows()
    ]
    head = ["model", "beam", "length penalty", *CHOICE]
    head += ["CIDEr", "BLEU-4", "ROUGE-L", "words used", "distinct", *words]
    return table(head, rows)


if __name__ == "__main__":
    main()
