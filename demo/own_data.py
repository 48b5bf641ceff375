"""Make a small dataset in a usual form: a folder of photos (here drawn shapes) and captions.csv.

docs/own-data.md uses it step by step. Each photo has one to five captions. There are no splits.
"""

import argparse
import csv
from pathlib import Path
from random import Random

from captioner.sources.shapes import caption, compose, draw


def write_dataset(folder: Path, photos: int, size: int = 64) -> None:
    """Write `photos` pictures of `size` pixels a side and captions.csv into `folder`; always the same."""
    (folder / "photos").mkdir(parents=True, exist_ok=True)
    with (folder / "captions.csv").open("w", encoding="utf-8", newline="") as file:
        rows = csv.writer(file, lineterminator="\n")
        rows.writerow(["image", "caption"])
        for number in range(photos):
            rng = Random(f"own/{number}")
            scene = compose(rng)
            name = f"photos/{number:04d}.jpg"
            for text in caption(scene, rng)[: rng.randint(1, 5)]:
                rows.writerow([name, text.replace(" .", ".").replace(" ,", ",")])  # as people write
            draw(scene, size, rng).save(folder / name, quality=95)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--photos", type=int, default=80)
    options = parser.parse_args()
    if (options.folder / "captions.csv").exists():
        parser.error(f"{options.folder}/captions.csv is there already; give a new folder")
    write_dataset(options.folder, options.photos)
