"""Compare the word scores of both models with those of a person, on the test images.

python -m dev.words [--references data/captions.jsonl]

The first reference of an image is the person's caption. All captions are scored against the other references. Images
with fewer than MOST references are left out. So the figures differ from those of metrics/evaluate.json, which uses all
references.

words.json: {"images": int, "scores": {"a person", "frozen" and "finetuned": {score: [value, low, high]}}}, with 95 %
bootstrap intervals over images. The module also writes the table of docs/metrics.md.
"""

import argparse
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from benchmarks.page import put, table
from captioner.base.errors import CaptionerError
from captioner.base.files import read_json, write_json
from captioner.captions.dataset import read_captions
from captioner.scoring import bootstrap
from captioner.scoring.scores import joined_tokens
from captioner.scoring.words import ABSENT, AGREED, word_scores

ROOT = Path(__file__).parent.parent
GENERATED, RECORD, PAGE = ROOT / "metrics/test_captions.csv", ROOT / "dev/words.json", ROOT / "docs/metrics.md"
MOST = 5  # references of an image
PERSON = "a person"
MODELS = ("frozen", "finetuned")


def measure(generated: pd.DataFrame, references: Mapping[str, list[str]]) -> dict[str, Any]:
    """Return the record of words.json from the captions of `evaluate` and the raw references of each image.

    Raises CaptionerError if an image has no references, or if no image has enough of them.
    """
    unknown = [image for image in generated.index if image not in references]
    if unknown:
        raise CaptionerError(f"no references of {unknown[0]}; give the captions.jsonl of the run with --references")
    tokens = {image: [joined_tokens(text) for text in references[image]] for image in generated.index}
    tokens = {image: texts for image, texts in tokens.items() if len(texts) >= MOST}
    if not tokens:
        raise CaptionerError(f"no image has {MOST} references; expected at least one")
    others = {image: texts[1:] for image, texts in tokens.items()}
    captions = {PERSON: {image: texts[0] for image, texts in tokens.items()}}
    captions |= {name: {image: joined_tokens(generated[name][image]) for image in tokens} for name in MODELS}
    scores = {}
    for name, captions_of_model in captions.items():
        result = word_scores(others, captions_of_model)
        ends = bootstrap.intervals(result)
        scores[name] = {key: [round(value, 4) for value in (result[key].score(), *ends[key])] for key in result}
    return {"images": len(tokens), "scores": scores}


def table_of(record: Mapping[str, Any]) -> str:
    """Return the record as the table of docs/metrics.md."""
    rows = []
    for name, scores in record["scores"].items():
        cells = [[f"{100 * value:.1f}" for value in scores[key]] if key in scores else None for key in (ABSENT, AGREED)]
        rows.append([name, *(f"{cell[0]} ({cell[1]} to {cell[2]})" if cell else "-" for cell in cells)])
    return table([f"{record['images']} images, four references each, %", ABSENT, AGREED], rows)


def main() -> None:
    """Measure, write words.json and the table of the page."""
    parser = argparse.ArgumentParser(prog="python -m dev.words", description=__doc__.splitlines()[0])
    parser.add_argument("--references", type=Path, default=ROOT / "data/captions.jsonl", help="of tokenise")
    references = parser.parse_args().references
    generated = pd.read_csv(GENERATED, index_col="image", keep_default_na=False)
    try:
        if not references.exists():
            raise CaptionerError(f"{references}: not found; run `dvc repro tokenise`, or use --references")
        write_json(RECORD, measure(generated, {item.image: item.raw for item in read_captions(references)}))
        shown = table_of(read_json(RECORD))
        print(shown)
        put(PAGE, "words", shown)
    except CaptionerError as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
