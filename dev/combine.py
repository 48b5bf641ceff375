"""Dev scores of fine-tuned models of several seeds, on the way from where fine-tuning started, alone and together.

    python -m dev.combine REVISION REVISION ... [--out dev/combine.csv]

Run it from the project's folder after `dvc repro`. A revision is a commit, or an experiment of another seed; where
`finetune` moved the weights back, the way is the shorter. The test split is not touched. A row is the share of the way
in percent and a seed, or the mean of the seeds' probabilities; the beam is that of the ablation table. The table of
docs/experiments.md follows.
"""

import argparse
import math
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from benchmarks.page import put, table
from captioner.base.device import select_device
from captioner.base.files import write_text
from captioner.captions.dataset import read_captions
from captioner.model.captioner import Captioner, load_model
from captioner.model.decoder import Memory, State
from captioner.model.generate import generate
from captioner.scoring.scores import diversity, score
from captioner.training.dev import DEV_BEAM
from captioner.training.finetune import SHARES
from captioner.vision.encoder import load_encoder
from captioner.vision.store import FeatureStore

PAGE = Path(__file__).parent.parent / "docs/experiments.md"
ALL = "all"
FILES = ("models/decoder.safetensors", "models/captioner.safetensors")


class Memories(NamedTuple):
    """What the decoders keep of the images, each its own."""

    start: State  # of all decoders, one after the other
    parts: tuple[Memory, ...]

    def of(self, images: Tensor) -> "Memories":
        """Return those of some of the images, by their places [n]."""
        return Memories(tuple(part[images] for part in self.start), tuple(part.of(images) for part in self.parts))


class Ensemble(nn.Module):
    """Captioners of one vocabulary, their probabilities of the next word averaged, as `generate` takes a captioner."""

    def __init__(self, captioners: Sequence[Captioner]):
        super().__init__()
        self.captioners = nn.ModuleList(captioners)

    @property
    def decoder(self) -> "Ensemble":
        """Itself."""
        return self

    def features(self, rows: Tensor) -> list[Tensor]:
        """Return what each encoder makes of the rows."""
        return [each.features(rows) for each in self.captioners]

    def encode(self, features: list[Tensor]) -> Memories:
        """Take in the features, each decoder its own."""
        parts = tuple(each.decoder.encode(one) for each, one in zip(self.captioners, features, strict=True))
        return Memories(tuple(state for part in parts for state in part.start), parts)

    def step(
        self, memory: Memories, words: Tensor, places: Tensor, captions: int, state: State
    ) -> tuple[Tensor, State]:
        """Read one more word of some captions, as `Decoder.step`; returns [n, W of all] and the states of all."""
        size = len(memory.start) // len(memory.parts)
        hidden, states = [], []
        for at, (each, part) in enumerate(zip(self.captioners, memory.parts, strict=True)):
            one, new = each.decoder.step(part, words, places, captions, state[at * size : (at + 1) * size])
            hidden.append(one)
            states += new
        return torch.cat(hidden, dim=-1), tuple(states)

    def logits(self, hidden: Tensor) -> Tensor:
        """Return the logarithms of the mean probabilities, [..., V]."""
        parts = hidden.chunk(len(self.captioners), dim=-1)
        log_p = [
            each.decoder.logits(part).float().log_softmax(-1) for each, part in zip(self.captioners, parts, strict=True)
        ]
        return torch.stack(log_p).logsumexp(0) - math.log(len(log_p))


def fetched(revision: str, folder: Path) -> list[Path]:
    """Return the frozen decoder's file and the fine-tuned model's of a revision, from the DVC cache."""
    found = []
    for path in FILES:
        to = folder / revision / Path(path).name
        to.parent.mkdir(exist_ok=True)
        command = [sys.executable, "-m", "dvc", "get", "--quiet", ".", path, "--rev", revision, "--out", str(to)]
        subprocess.run(command, check=True)
        found.append(to)
    return found


def between(frozen: Path, tuned: Path, share: int) -> Captioner:
    """Return the captioner at this share, in percent, of the way from the frozen model to the fine-tuned one."""
    captioner, card = load_model(tuned)
    decoder, _ = load_model(frozen)
    first = Captioner(decoder.decoder, load_encoder(load_file("data/features/encoder.safetensors")), start=card.start)
    start = dict(first.named_parameters())
    with torch.no_grad():
        for name, parameter in captioner.named_parameters():
            parameter.copy_(torch.lerp(start[name], parameter, share / 100))
    return captioner


def main() -> None:
    """Score each model at each share, then all together, and write the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("revisions", nargs="+", metavar="REVISION")
    parser.add_argument("--out", default="dev/combine.csv")
    options = parser.parse_args()
    records = []
    with tempfile.TemporaryDirectory() as folder:
        files = {revision: fetched(revision, Path(folder)) for revision in options.revisions}
        card = load_model(files[options.revisions[0]][1])[1]
        store = FeatureStore("data/features/boundary.h5", layer=card.start, encoder=card.encoder, **card.image)
        items = read_captions("data/captions.jsonl")
        dev = [item for item in items if item.split == "dev" and item.image in store.rows]
        rows = np.array([store.rows[item.image] for item in dev])
        for share in SHARES:
            captioners = {revision: between(*pair, share) for revision, pair in files.items()}
            groups = {revision: [captioner] for revision, captioner in captioners.items()}
            groups[ALL] = list(captioners.values())
            for name, group in groups.items():
                found = generate(
                    Ensemble(group),  # type: ignore[arg-type]  # a captioner in all that is asked of it here
                    [item.image for item in dev],
                    lambda positions: store.read(rows[positions]),
                    card.vocabulary,
                    beam=DEV_BEAM,
                    length_penalty=1.0,
                    device=select_device(),
                )
                corpus, _ = score({item.image: item.raw for item in dev}, found, meteor=False)
                told = diversity(found, [caption for item in items if item.split == "train" for caption in item.raw])
                records.append({"share": share, "model": name, **corpus, **told})
                print(records[-1], flush=True)
    frame = pd.DataFrame(records).round(5)
    write_text(options.out, frame.to_csv(index=False, lineterminator="\n"))
    put(PAGE, "combine", table_of(frame))


def table_of(frame: pd.DataFrame) -> str:
    """Return the table of docs/experiments.md: a line a share of the way."""
    rows = []
    for share, of in frame.groupby("share"):
        singles, together = of[of["model"] != ALL], of[of["model"] == ALL].iloc[0]
        means = [
            f"{100 * each.mean():.1f} ({100 * each.min():.1f} to {100 * each.max():.1f})"
            for each in (singles["CIDEr"], singles["BLEU-4"])
        ]
        words = f"{singles['vocabulary'].mean():.0f}"
        scores = [f"{100 * together[name]:.1f}" for name in ("CIDEr", "BLEU-4")]
        rows.append([f"{share} %", *means, words, *scores, f"{together['vocabulary']:.0f}"])
    head = ["share of the way", "alone: CIDEr", "BLEU-4", "words used", "all together: CIDEr", "BLEU-4", "words used"]
    return table(head, rows)


if __name__ == "__main__":
    main()
