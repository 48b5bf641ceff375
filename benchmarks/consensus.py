"""Dev scores of captions that are chosen from the beams by the training captions of photos that look alike.

    python -m benchmarks.consensus [--out benchmarks/consensus.csv]

The consensus of neighbours (Devlin et al. 2015, "Exploring nearest neighbor approaches for image captioning"; as a
choice among an LSTM's beams, Mao et al. 2015, m-RNN): of the captions that beam search finds, the one with the highest
mean CIDEr against the captions of the nearest training images, document frequencies those of the training images.

Run it from the project's folder after `dvc repro`, on the fine-tuned model. The test split is not touched. The table of
docs/experiments.md follows.
"""

import argparse
import functools
from collections.abc import Callable, Sequence
from itertools import product
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from benchmarks.page import put, table
from captioner.dataset import read_captions
from captioner.device import select_device, to_device
from captioner.files import write_text
from captioner.model import Captioner, load_model
from captioner.scores import diversity, score
from captioner.search import beam_search
from captioner.self_critical import Reward
from captioner.store import FeatureStore
from captioner.vocabulary import Vocabulary

PAGE = Path(__file__).parent.parent / "docs/experiments.md"
BEAMS = (4, 8, 20)
NEIGHBOURS = (0, 10, 20, 40)  # 0: the likeliest beam, as the pipeline takes it
BATCH = 100  # images


@torch.inference_mode()
def pooled_and_beams(
    captioner: Captioner, store: FeatureStore, rows: np.ndarray, vocabulary: Vocabulary, beams: Sequence[int]
) -> tuple[Tensor, dict[int, list[list[str]]]]:
    """Return the images' mean features [N, D] float32 and, for each width of `beams`, their beams, best first."""
    captioner.to(select_device()).eval()
    pooled: list[Tensor] = []
    found: dict[int, list[list[str]]] = {width: [] for width in beams}
    for at in range(0, len(rows), BATCH):
        features = captioner.features(to_device(store.read(rows[at : at + BATCH]), select_device()))
        pooled.append(features.float().mean(1).cpu())
        memory = captioner.decoder.encode(features) if beams else None
        for width in beams:
            searched = beam_search(
                captioner.decoder, memory, beam=width, max_length=vocabulary.max_length, length_penalty=1.0
            )
            found[width] += [[vocabulary.decode(ids) for ids in image] for image in searched.tokens.tolist()]
    return torch.cat(pooled), found


def nearest(known: Tensor, asked: Tensor, count: int) -> list[list[int]]:
    """Return the places of the `count` nearest of `known` [N, D] for each of `asked` [M, D], the nearest first.

    By the cosine of features that are standardised with the mean and deviation of `known`.
    """
    mean, deviation = known.mean(0), known.std(0) + 1e-6
    sides = [torch.nn.functional.normalize((side - mean) / deviation, dim=1) for side in (asked, known)]
    return (sides[0] @ sides[1].T).topk(count).indices.tolist()


def agreed(captions: Sequence[str], neighbours: Sequence[str], reward: Callable[[str, str], float]) -> str:
    """Return the caption with the highest mean reward over the neighbours (names of images); the first of equals."""
    if not neighbours:
        return captions[0]
    return max(captions, key=lambda caption: sum(reward(image, caption) for image in neighbours))


def main() -> None:
    """Score every combination and write the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", default="benchmarks/consensus.csv")
    out = parser.parse_args().out
    captioner, card = load_model("models/captioner.safetensors")
    store = FeatureStore("data/features/boundary.h5", layer=card.start, encoder=card.encoder, **card.image)
    items = [item for item in read_captions("data/captions.jsonl") if item.image in store.rows]
    train, dev = ([item for item in items if item.split == split] for split in ("train", "dev"))
    rows = [np.array([store.rows[item.image] for item in part]) for part in (train, dev)]
    reward = functools.cache(
        Reward({item.image: item.raw for item in train})
    )  # widths and counts ask for the same again
    known, _ = pooled_and_beams(captioner, store, rows[0], card.vocabulary, ())
    asked, found = pooled_and_beams(captioner, store, rows[1], card.vocabulary, BEAMS)
    near = nearest(known, asked, max(NEIGHBOURS))
    records = []
    for beam, count in product(BEAMS, NEIGHBOURS):
        chosen = {
            item.image: agreed(captions, [train[place].image for place in places[:count]], reward)
            for item, captions, places in zip(dev, found[beam], near, strict=True)
        }
        corpus, _ = score({item.image: item.raw for item in dev}, chosen, meteor=False)
        told = diversity(chosen, [caption for item in train for caption in item.raw])
        record = {"beam": beam, "neighbours": count, **corpus, **told}
        records.append({key: round(value, 5) for key, value in record.items()})
        print(records[-1], flush=True)
    frame = pd.DataFrame(records)
    write_text(out, frame.to_csv(index=False, lineterminator="\n"))
    put(PAGE, "consensus", table_of(frame))


def table_of(frame: pd.DataFrame) -> str:
    """Return the table of docs/experiments.md: a line a beam width and number of neighbours."""
    rows = [
        [
            f"{line['beam']:.0f}",
            f"{line['neighbours']:.0f}",
            *(f"{100 * line[name]:.1f}" for name in ("CIDEr", "BLEU-4", "ROUGE-L")),
            f"{line['vocabulary']:.0f}",
            f"{100 * line['distinct captions']:.0f} %",
            f"{line['mean length']:.1f}",
            f"{100 * line['copied from training']:.1f} %",
        ]
        for _, line in frame.iterrows()
    ]
    head = ["beam", "neighbours", "CIDEr", "BLEU-4", "ROUGE-L", "words used", "distinct", "mean length", "copied"]
    return table(head, rows)


if __name__ == "__main__":
    main()
