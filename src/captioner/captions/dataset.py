"""Read the files that the stage tokenise writes for later stages.

Files
    data/images.csv       columns image, split; the rows of the feature stores, in their order. Its bytes do
                          not depend on how captions are cleaned, so that the features do not either.
    data/captions.jsonl   a line an image: {"image", "split", "raw": [text, ...], "ids": [[int, ...], ...]};
                          ids are `<bos> word ... <eos>`; a caption cut to the maximum length has no `<eos>`.
    data/vocabulary.json  see `captioner.captions.vocabulary`.
"""

import csv
import json
from dataclasses import dataclass
from pathlib import Path

SPLITS = ("train", "dev", "test")


@dataclass(frozen=True)
class CaptionedImage:
    """One line of data/captions.jsonl."""

    image: str
    split: str
    raw: list[str]
    ids: list[list[int]]


def read_images(path: str | Path) -> list[tuple[str, str]]:
    """Read data/images.csv: (image, split) in the order of the feature stores' rows."""
    with open(path, encoding="utf-8", newline="") as file:
        return [(row["image"], row["split"]) for row in csv.DictReader(file)]


def read_captions(path: str | Path) -> list[CaptionedImage]:
    """Read data/captions.jsonl."""
    with open(path, encoding="utf-8") as file:
        return [CaptionedImage(**json.loads(line)) for line in file]
