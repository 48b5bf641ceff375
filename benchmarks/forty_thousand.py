"""Measure the time and the memory of each stage on 40,000 drawn images.

python -m benchmarks.forty_thousand [--images 40000] [--folder FOLDER]

Each stage's script runs in a copy of the project, with the params in PARAMS: small pictures, a small decoder, one epoch
of training and one of fine-tuning on CIDEr. Only the number of images is large. Afterwards `dvc commit` hashes all
outputs and copies or links them into the cache.

forty_thousand.json: {"images": {split: int}, "params", "stages": {stage or "dvc commit": {"seconds", "MiB": most
resident memory}}, "bytes": {path: size}, "machine"}. The module also writes the table of docs/scale.md.
"""

import argparse
import sys
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

from benchmarks.measure import machine
from benchmarks.page import put, table
from benchmarks.stages import STAGES, cost, make_workspace
from captioner.base.errors import CaptionerError
from captioner.base.files import write_json
from captioner.captions.dataset import read_images

ROOT = Path(__file__).parent.parent
RECORD, PAGE = ROOT / "benchmarks/forty_thousand.json", ROOT / "docs/scale.md"
IMAGES = 40_000
SHARES = {"dev": 0.025, "test": 0.025}  # the rest is for training
PARAMS: dict[str, Any] = {
    "dataset.name": "shapes",
    "shapes.size": 64,
    "captions.min_count": 1,
    "image.size": 64,
    "encoder.weights": "random",
    "decoder.width": 128,
    "decoder.heads": 2,
    "train.epochs": 1,
    "train.batch": 64,
    "finetune.adapt_epochs": 0,
    "finetune.epochs": 1,
    "finetune.batch": 64,
    "pictures.each": 2,
}
OUTPUTS = (
    "data/raw/images",
    "data/captions.jsonl",
    "data/features/grid.h5",
    "data/features/boundary.h5",
    "pictures/report.html",
)
COMMIT = "dvc commit"


def measure(workspace: Path, images: int) -> dict[str, Any]:
    """Run all stages; return the record. Raises CaptionerError if a stage fails."""
    splits = {split: max(1, round(share * images)) for split, share in SHARES.items()}
    counts = {"train": images - sum(splits.values()), **splits}
    make_workspace(workspace, {**PARAMS, **{f"shapes.{split}": count for split, count in counts.items()}})
    result = {}
    for stage in STAGES:
        result[stage] = cost(workspace, [sys.executable, f"stages/{stage}.py"], {})
        print(f"{stage}: {result[stage]['seconds']:.1f} s, {result[stage]['MiB']:.0f} MiB", file=sys.stderr, flush=True)
    result[COMMIT] = cost(workspace, [sys.executable, "-m", "dvc", "commit", "--force", "--quiet"], {})
    return {
        "images": dict(Counter(split for _, split in read_images(workspace / "data/images.csv"))),
        "params": PARAMS,
        "stages": result,
        "bytes": {name: _size(workspace / name) for name in OUTPUTS},
        "machine": machine(),
    }


def _size(path: Path) -> int:
    return sum(file.stat().st_size for file in ([path] if path.is_file() else path.rglob("*")) if file.is_file())


def table_of(record: dict[str, Any]) -> str:
    """Return the record as the table of docs/scale.md."""
    total = sum(record["images"].values())
    rows = [
        [
            f"`{stage}`",
            f"{result['seconds'] / 60:.1f}",
            f"{1000 * result['seconds'] / total:.2f}",
            f"{result['MiB']:,.0f}",
        ]
        for stage, result in record["stages"].items()
    ]
    minutes = sum(result["seconds"] for result in record["stages"].values()) / 60
    rows.append(["all", f"{minutes:.1f}", f"{60_000 * minutes / total:.2f}", ""])
    splits = ", ".join(f"{count:,} {split}" for split, count in record["images"].items())
    sizes = ", ".join(f"{name} {size / 1e6:,.0f} MB" for name, size in record["bytes"].items())
    shown = table(["stage", "minutes", "ms an image", "most resident memory, MiB"], rows)
    return f"{shown}\n\n{total:,} images ({splits}). Disk: {sizes}. Machine: {record['machine']}."


def main() -> None:
    """Measure, write the record and the page."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.forty_thousand", description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=IMAGES, help="how many (default: %(default)s)")
    parser.add_argument("--folder", type=Path, help="the workspace, which is not deleted (default: a temporary folder)")
    parser.add_argument(
        "--out",
        type=Path,
        default=RECORD,
        help="the record; with another file than the default, the page is not written",
    )
    options = parser.parse_args()
    try:
        with tempfile.TemporaryDirectory(prefix="forty-thousand-") as temporary:
            record = measure(options.folder or Path(temporary) / "workspace", options.images)
    except CaptionerError as error:
        sys.exit(f"error: {error}")
    write_json(options.out, record)
    if options.out == RECORD:
        put(PAGE, "forty_thousand", table_of(record))
    print(table_of(record))


if __name__ == "__main__":
    main()
