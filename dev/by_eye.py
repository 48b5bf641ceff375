"""Judge the captions of a hundred images by eye, before and after fine-tuning.

python -m dev.by_eye draw     writes contact sheets and an empty by_eye.csv into pictures/by_eye/
python -m dev.by_eye table    reads dev/by_eye.csv; writes dev/by_eye.json and the tables of docs/metrics.md

The images are the first hundred of metrics/test_captions.csv in the order of the SHA-256 of their names. by_eye.csv has
two lines for each image: the captions of the frozen and of the fine-tuned model. The hash decides their order, so the
judge does not know which model wrote a caption. The columns are

    image, caption     as in test_captions.csv; a file with other captions is refused
    verdict            right: it describes the photo; minor: it has one small mistake; wrong
    mistake            the worst mistake: colour, count, object, action, place, gender, other; empty if right

by_eye.json says how well scores tell a right caption of the fine-tuned model from a wrong one: {"judged": MD5 of
by_eye.csv, "right": int, "wrong": int, "AUC": {score: {"value", "from", "to"}}, "AUC - CIDEr's": the same for the
difference from CIDEr's}. The AUC is the share of the pairs of a right and a wrong caption in which the right caption
scores higher; a tie counts half. "from" and "to" are the middle 95 % of DRAWS draws of the captions with replacement.
"""

import argparse
import hashlib
import sys
import textwrap
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from benchmarks.page import put, table
from captioner.base.errors import CaptionerError
from captioner.base.files import atomic_write, digest, read_json, write_json, write_text
from captioner.captions.dataset import read_captions
from captioner.scoring import bootstrap
from captioner.scoring.scores import joined_tokens
from captioner.scoring.words import ABSENT, AGREED, count_words
from captioner.sources.archives import Archive
from captioner.vision.photos import load_photo

ROOT = Path(__file__).parent.parent
GENERATED, JUDGED, PAGE = ROOT / "metrics/test_captions.csv", ROOT / "dev/by_eye.csv", ROOT / "docs/metrics.md"
RECORD = ROOT / "dev/by_eye.json"
SHEETS = ROOT / "pictures/by_eye"
IMAGES = 100
VERDICTS = {"right": "right", "minor": "minor mistake", "wrong": "wrong"}
MISTAKES = ("colour", "count", "object", "action", "place", "gender", "other")
MODELS = {"frozen": "frozen", "finetuned": "fine-tuned"}
COLUMNS, ROWS = 5, 4  # of a sheet
SIDE, TEXT = 2.6, 1.0  # inches: of a photo, of the text under it
LETTERS = 40  # of a line
DPI = 100
MINUS = "\N{MINUS SIGN}"


def chosen(generated: Path, images: int = IMAGES) -> pd.DataFrame:
    """Return the captions to judge: columns image, caption, model and CIDEr, two rows for each image.

    Raises CaptionerError if the file does not exist.
    """
    if not generated.exists():
        raise CaptionerError(f"{generated}: not found; run `dvc repro evaluate` first")
    rows = pd.read_csv(generated, keep_default_na=False)
    hashes = rows["image"].map(lambda name: hashlib.sha256(name.encode()).hexdigest()).sort_values()
    records = []
    for place, digits in list(hashes.items())[:images]:
        row = rows.loc[place]
        for model in list(MODELS)[:: 1 if int(digits[-1], 16) % 2 else -1]:
            records.append((row["image"], row[model], model, row[f"{model} CIDEr"]))
    return pd.DataFrame(records, columns=["image", "caption", "model", "CIDEr"])


def draw(rows: pd.DataFrame, photos: Archive, folder: Path) -> list[Path]:
    """Write the sheets of numbered pictures with captions, and by_eye.csv without verdicts; return their paths."""
    written = []
    images = [(image, list(of["caption"])) for image, of in rows.groupby("image", sort=False)]
    for first in range(0, len(images), COLUMNS * ROWS):
        path = folder / f"sheet-{first // (COLUMNS * ROWS) + 1}.png"
        _draw_sheet(images[first : first + COLUMNS * ROWS], first, photos, path)
        written.append(path)
    empty = rows[["image", "caption"]].assign(verdict="", mistake="")
    write_text(folder / JUDGED.name, empty.to_csv(index=False, lineterminator="\n"))
    return [*written, folder / JUDGED.name]


def _draw_sheet(images: list[tuple[str, list[str]]], first: int, photos: Archive, path: Path) -> None:
    wide, high = COLUMNS * SIDE, ROWS * (SIDE + TEXT)
    with matplotlib.rc_context({"font.family": "DejaVu Sans", "font.size": 8.5}):
        figure = Figure(figsize=(wide, high), dpi=DPI, facecolor="white")
        for place, (image, captions) in enumerate(images):
            at, column = divmod(place, COLUMNS)
            left, top = (column + 0.03) * SIDE / wide, 1 - (at * (SIDE + TEXT) + 0.05) / high
            axis = figure.add_axes((left, top - 0.94 * SIDE / high, 0.94 * SIDE / wide, 0.94 * SIDE / high))
            axis.set_axis_off()
            try:
                axis.imshow(load_photo(photos.read(image), size=int(DPI * SIDE), fit="squash"))
            except ValueError as error:
                raise CaptionerError(f"{photos.path}: {image}: {error}") from None
            lines = [f"{first + place + 1}{'ab'[at]}. {caption}" for at, caption in enumerate(captions)]
            text = "\n".join(textwrap.fill(line, LETTERS, max_lines=3) for line in lines)
            figure.text(left, top - 0.96 * SIDE / high, text, va="top", parse_math=False)
        with atomic_write(path) as beside:
            figure.savefig(beside, metadata={"Software": None})


def read_judged(path: Path, rows: pd.DataFrame) -> pd.DataFrame:
    """Return `rows` with the columns verdict and mistake of the judged file.

    Raises CaptionerError that names the file and line if it has other images or captions, or no verdict.
    """
    judged = pd.read_csv(path, keep_default_na=False, dtype=str)
    columns = ["image", "caption", "verdict", "mistake"]
    if list(judged) != columns:
        raise CaptionerError(f"{path}: expected the columns {', '.join(columns)}, found {', '.join(judged)}")
    if len(judged) != len(rows):
        raise CaptionerError(f"{path}: {len(judged)} captions, expected {len(rows)}; `draw` writes which")
    for line, (row, wanted) in enumerate(zip(judged.itertuples(), rows.itertuples(), strict=True), 2):
        where = f"{path}, line {line}"
        if (row.image, row.caption) != (wanted.image, wanted.caption):
            raise CaptionerError(
                f"{where}: is {row.image}, {row.caption!r}; expected {wanted.image}, {wanted.caption!r}, as in "
                f"{GENERATED.name}: the model is another one, judge its captions anew"
            )
        if row.verdict not in VERDICTS:
            raise CaptionerError(f"{where}: verdict is {row.verdict!r}, expected one of {', '.join(VERDICTS)}")
        allowed = ("",) if row.verdict == "right" else MISTAKES
        if row.mistake not in allowed:
            wanted_one = ", ".join(MISTAKES) if row.verdict != "right" else "nothing, for it is right"
            raise CaptionerError(f"{where}: mistake is {row.mistake!r}, expected {wanted_one}")
    return rows.assign(verdict=judged["verdict"], mistake=judged["mistake"])


def separation(judged: pd.DataFrame, references: Mapping[str, list[str]]) -> dict[str, Any]:
    """Return the record of by_eye.json without "judged".

    `references` are the raw captions of the images. Raises CaptionerError if no caption is right or none is wrong.
    """
    judged = judged[judged["model"] == "finetuned"]
    unknown = [image for image in judged["image"] if image not in references]
    if unknown:
        raise CaptionerError(f"no references of {unknown[0]}; give the captions.jsonl of the run with --references")
    pairs = judged[judged["verdict"].isin(["right", "wrong"])]
    right = (pairs["verdict"] == "right").to_numpy()
    if right.all() or not right.any():
        raise CaptionerError(f"{right.sum()} right and {(~right).sum()} wrong captions; expected at least one of each")
    truth = {image: [joined_tokens(text) for text in references[image]] for image in pairs["image"]}
    absent, content, had, agreed = count_words(
        truth, {image: joined_tokens(text) for image, text in zip(pairs["image"], pairs["caption"], strict=True)}
    ).T
    scores = {
        "CIDEr": pairs["CIDEr"].to_numpy(float),
        f"1 - {ABSENT}": (content - absent) / np.maximum(1, content),
        AGREED: had / np.maximum(1, agreed),
    }
    order = {name: _in_order(each[right], each[~right]) for name, each in scores.items()}
    drawn = {name: _resampled(each) for name, each in order.items()}
    return {
        "right": int(right.sum()),
        "wrong": int((~right).sum()),
        "AUC": {name: _record(order[name].mean(), drawn[name]) for name in scores},
        "AUC - CIDEr's": {
            name: _record(order[name].mean() - order["CIDEr"].mean(), drawn[name] - drawn["CIDEr"])
            for name in scores
            if name != "CIDEr"
        },
    }


def _in_order(right: np.ndarray, wrong: np.ndarray) -> np.ndarray:
    """Return 1 where a right caption scores higher than a wrong one, 0.5 where they score the same: [right, wrong]."""
    return (np.sign(right[:, None] - wrong) + 1) / 2


def _resampled(order: np.ndarray) -> np.ndarray:
    """Return the AUC of each draw: [DRAWS]; all scores have the same draws."""
    generator = np.random.default_rng(bootstrap.SEED)
    times = [generator.multinomial(size, [1 / size] * size, bootstrap.DRAWS) / size for size in order.shape]
    return ((times[0] @ order) * times[1]).sum(1)


def _record(value: float, drawn: np.ndarray) -> dict[str, float]:
    low, high = bootstrap.interval(drawn)
    return {"value": round(float(value), 4), "from": round(low, 4), "to": round(high, 4)}


def table_of(judged: pd.DataFrame) -> str:
    """Return the judgements as the table of docs/metrics.md."""
    rows = []
    for model, shown in MODELS.items():
        for verdict, name in VERDICTS.items():
            of = judged[(judged["model"] == model) & (judged["verdict"] == verdict)]
            counts = Counter(of["mistake"][of["mistake"] != ""])
            mistakes = ", ".join(f"{mistake} {count}" for mistake, count in counts.most_common())
            mean = f"{100 * of['CIDEr'].mean():.1f}" if len(of) else ""
            rows.append([shown, name, f"{len(of)}", mean, mistakes])
    return table(["model", "verdict", "captions", "their mean CIDEr, x100", "worst mistake"], rows)


def separation_table(record: Mapping[str, Any]) -> str:
    """Return the record of by_eye.json as the second table of docs/metrics.md."""

    def cell(result: Mapping[str, float], sign: str) -> str:
        value, low, high = (f"{100 * result[key]:{sign}.1f}".replace("-", MINUS) for key in ("value", "from", "to"))
        return f"{value} ({low} to {high})"

    rows = [
        [name, cell(result, ""), cell(record["AUC - CIDEr's"][name], "+") if name in record["AUC - CIDEr's"] else ""]
        for name, result in record["AUC"].items()
    ]
    pair = f"fine-tuned: {record['right']} right against {record['wrong']} wrong, x100"
    head = [pair, "AUC (95 %)", "less CIDEr's (95 %)"]
    return table(head, rows)


def main() -> None:
    """Draw the sheets, or write the tables."""
    parser = argparse.ArgumentParser(prog="python -m dev.by_eye", description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=["draw", "table"])
    parser.add_argument("--images", type=Path, default=Path("data/raw/images"), help="the photos (%(default)s)")
    parser.add_argument("--captions", type=Path, default=GENERATED, help="of evaluate (metrics/test_captions.csv)")
    parser.add_argument("--judged", type=Path, default=JUDGED, help="the verdicts (dev/by_eye.csv)")
    parser.add_argument(
        "--references", type=Path, default=ROOT / "data/captions.jsonl", help="of tokenise (data/captions.jsonl)"
    )
    options = parser.parse_args()
    try:
        rows = chosen(options.captions)
        if options.what == "draw":
            for path in draw(rows, Archive(options.images), SHEETS):
                print(path)
        elif not options.judged.exists():
            raise CaptionerError(f"{options.judged}: not found; fill in what `draw` wrote and put it there")
        elif not options.references.exists():
            raise CaptionerError(f"{options.references}: not found; run `dvc repro tokenise`, or use --references")
        else:
            judged = read_judged(options.judged, rows)
            references = {item.image: item.raw for item in read_captions(options.references)}
            write_json(RECORD, {"judged": digest(options.judged), **separation(judged, references)})
            put(PAGE, "by_eye", f"{table_of(judged)}\n\n{separation_table(read_json(RECORD))}")
    except CaptionerError as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
