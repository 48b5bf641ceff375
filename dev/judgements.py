"""Measure how far each score agrees with people: Kendall's tau against Flickr8k's expert judgements.

python -m dev.judgements [data/raw/captions.zip]

Three experts graded captions of other images for an image, from 1 ("does not describe the image at all") to 4
("describes the image"). The protocol is that of Anderson et al. 2016 (SPICE) and Hessel et al. 2021 (CLIPScore). Pairs
whose caption is the image's own are left out. The references are the image's captions. Each expert's grade is an
observation, so a pair counts three times. For CIDEr's document frequencies every pair is an item.

judgements.json: {"archive": MD5, "official": bool, "pairs": int, "left out": int, "images": int, "tau": {metric:
{"b": tau-b, "c": tau-c, "c from", "c to": the middle 95% of tau-c over images drawn with replacement}}}. "1 - absent
words" and "agreed words" are the word scores of `captioner.scoring.words`. "another expert" is the mean tau between two
of the three experts. The module also writes the table of docs/metrics.md.
"""

import argparse
import sys
from collections import defaultdict
from collections.abc import Iterator, Mapping
from itertools import combinations
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from pycocoevalcap.bleu.bleu import Bleu
from pycocoevalcap.rouge.rouge import Rouge

from benchmarks.page import put, table
from captioner.base.errors import CaptionerError
from captioner.base.files import digest, read_json, write_json
from captioner.captions.formats import CAPTION_FILES
from captioner.scoring.meteor import MeteorUnavailable, meteor
from captioner.scoring.scores import Cider, joined_tokens
from captioner.scoring.words import ABSENT, AGREED, count_words
from captioner.sources.archives import Archive
from captioner.sources.download import OFFICIAL

ROOT = Path(__file__).parent.parent
RECORD, PAGE = ROOT / "dev/judgements.json", ROOT / "docs/metrics.md"
GRADES = "ExpertAnnotations.txt"
EXPERTS = "another expert"
PUBLISHED_PAIRS = 5664
# tau-c x100 of CLIPScore; we could not check that of ROUGE-L
PUBLISHED = {"BLEU-4": 30.8, "ROUGE-L": 32.3, "METEOR": 41.8, "CIDEr": 43.9, "SPICE": 44.9}
DRAWS = 1000


class Judged(NamedTuple):
    """The judged pairs: image, caption, the image's captions, the experts' grades [3]."""

    image: str
    caption: str
    references: list[str]
    grades: list[int]


def read_judgements(path: str | Path) -> tuple[list[Judged], int]:
    """Return the pairs of Flickr8k's captions archive, and the number of pairs that were left out.

    Raises CaptionerError that names the file and the line that cannot be read.
    """
    archive = Archive(path)
    captions: dict[str, str] = {}
    of_image: defaultdict[str, list[str]] = defaultdict(list)
    for number, (key, text) in _rows(archive, CAPTION_FILES["raw"], 2):
        image, mark, _ = key.rpartition("#")
        if not mark:
            raise CaptionerError(f"{path}: {CAPTION_FILES['raw']}, line {number}: expected name.jpg#0, found {key!r}")
        captions[key] = text
        of_image[image].append(text)
    pairs, own = [], 0
    for number, (image, key, *grades) in _rows(archive, GRADES, 5):
        where = f"{path}: {GRADES}, line {number}"
        for name, known in ((image, of_image), (key, captions)):
            if name not in known:
                raise CaptionerError(
                    f"{where}: {name} is not in {CAPTION_FILES['raw']}; expected a caption of it there"
                )
        if not all(grade in ("1", "2", "3", "4") for grade in grades):
            raise CaptionerError(f"{where}: expected grades from 1 to 4, found {grades}")
        if captions[key] in of_image[image]:
            own += 1
        else:
            pairs.append(Judged(image, captions[key], of_image[image], [int(grade) for grade in grades]))
    if not pairs:
        raise CaptionerError(f"{path}: {GRADES}: no judged caption of another image in it; expected one or more")
    return pairs, own


def _rows(archive: Archive, file: str, columns: int) -> Iterator[tuple[int, list[str]]]:
    for number, line in enumerate(archive.read(file).decode("utf-8").splitlines(), 1):
        row = line.split("\t")
        if len(row) != columns:
            raise CaptionerError(f"{archive.path}: {file}, line {number}: expected {columns} columns, found {len(row)}")
        yield number, row


def scores_of(pairs: list[Judged]) -> dict[str, np.ndarray]:
    """Return each metric's scores of the pairs, float64 [pairs]; higher is better. METEOR needs Java."""
    items = {str(at): pair for at, pair in enumerate(pairs)}
    cider = Cider({at: pair.references for at, pair in items.items()})
    _, each = cider.score({at: pair.caption for at, pair in items.items()})
    captions = {at: joined_tokens(pair.caption) for at, pair in items.items()}
    listed = {at: [caption] for at, caption in captions.items()}
    scores: dict[str, Any] = {
        "BLEU-4": Bleu(4).compute_score(cider.references, listed, verbose=0)[1][3],
        "ROUGE-L": Rouge().compute_score(cider.references, listed)[1],
    }
    try:
        scores["METEOR"] = list(meteor(cider.references, captions).each.values())
    except MeteorUnavailable as cause:
        print(f"METEOR is left out: {cause}", file=sys.stderr)
    scores["CIDEr"] = list(each.values())
    absent, content, had, agreed = count_words(cider.references, captions).T
    scores[f"1 - {ABSENT}"] = (content - absent) / np.maximum(1, content)  # an empty caption is not right
    scores[AGREED] = had / np.maximum(1, agreed)
    return {name: np.asarray(values, np.float64) for name, values in scores.items()}


def tau(scores: np.ndarray, grades: np.ndarray) -> tuple[float, float]:
    """Return Kendall's tau-b and tau-c of two rankings with ties [N]; NaN if one of them is constant.

    `grades` should have few distinct values: the time grows with their square, and with N log N.
    """
    total = len(scores)
    levels = [np.sort(scores[grades == level]) for level in np.unique(grades)]
    surplus = 0  # concordant minus discordant pairs
    for low, high in combinations(levels, 2):
        below = np.searchsorted(low, high, "left").sum()
        above = low.size * high.size - np.searchsorted(low, high, "right").sum()
        surplus += int(below) - int(above)
    repeats = np.unique(scores, return_counts=True)[1]
    every = total * (total - 1) / 2
    in_order = [every - (counts * (counts - 1) / 2).sum() for counts in (repeats, np.array([len(x) for x in levels]))]
    fewer = min(len(repeats), len(levels))
    if fewer < 2:
        return float("nan"), float("nan")
    return surplus / float(np.sqrt(in_order[0] * in_order[1])), 2 * fewer * surplus / (total**2 * (fewer - 1))


def correlations(pairs: list[Judged], scores: Mapping[str, np.ndarray]) -> dict[str, dict[str, float]]:
    """Return the record's "tau" of these scores of the pairs."""
    grades = np.array([pair.grades for pair in pairs])  # [pairs, 3]
    images = sorted({pair.image for pair in pairs})
    rows = [np.flatnonzero([pair.image == image for pair in pairs]) for image in images]
    generator = np.random.default_rng(1)
    draws = [np.concatenate([rows[at] for at in generator.integers(len(rows), size=len(rows))]) for _ in range(DRAWS)]

    def record(of: Any) -> dict[str, float]:
        (b, c), drawn = of(slice(None)), [of(draw)[1] for draw in draws]
        low, high = np.nanquantile(drawn, [0.025, 0.975])
        return {"b": round(b, 4), "c": round(c, 4), "c from": round(float(low), 4), "c to": round(float(high), 4)}

    def of_experts(chosen: Any) -> np.ndarray:
        return np.mean([tau(*grades[chosen][:, two].T) for two in ([0, 1], [0, 2], [1, 2])], axis=0)

    result = {
        name: record(lambda chosen, each=each: tau(np.repeat(each[chosen], 3), grades[chosen].ravel()))
        for name, each in scores.items()
    }
    return result | {EXPERTS: record(of_experts)}


def measure(path: Path) -> dict[str, Any]:
    """Return the record of judgements.json."""
    pairs, own = read_judgements(path)
    md5 = digest(path)
    return {
        "archive": md5,
        "official": md5 == OFFICIAL["Flickr8k_text.zip"].digest,
        "pairs": len(pairs),
        "left out": own,
        "images": len({pair.image for pair in pairs}),
        "tau": correlations(pairs, scores_of(pairs)),
    }


def table_of(record: dict[str, Any]) -> str:
    """Return the record as the table of docs/metrics.md."""
    rows = []
    for name, result in record["tau"].items():
        b, c, low, high = (f"{100 * result[key]:.1f}" for key in ("b", "c", "c from", "c to"))
        rows.append([name, b, f"{c} ({low} to {high})", f"{PUBLISHED[name]}" if name in PUBLISHED else ""])
    rows += [[name, "", "", f"{value}"] for name, value in PUBLISHED.items() if name not in record["tau"]]
    head = ["x100", "tau-b", "tau-c (95% over images)", f"published tau-c, {PUBLISHED_PAIRS:,} pairs"]
    caption = f"{record['pairs']:,} pairs of {record['images']:,} images, {3 * record['pairs']:,} judgements"
    caption += f"; {record['left out']:,} pairs left out, whose caption is the image's own."
    if not record["official"]:
        caption += (
            " The captions archive is not the official one and lacks some of the images, so our figures are of fewer"
        )
        caption += " pairs than the published ones."
    return f"{table(head, rows)}\n\n{caption}"


def main() -> None:
    """Measure, write judgements.json and the table of the page."""
    parser = argparse.ArgumentParser(prog="python -m dev.judgements", description=__doc__.splitlines()[0])
    parser.add_argument("captions", nargs="?", type=Path, default=Path("data/raw/captions.zip"), help="the archive")
    try:
        record = measure(parser.parse_args().captions)
    except CaptionerError as error:
        sys.exit(f"error: {error}")
    write_json(RECORD, record)
    put(PAGE, "judgements", table_of(read_json(RECORD)))
    print(table_of(record))


if __name__ == "__main__":
    main()
