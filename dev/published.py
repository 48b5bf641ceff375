"""Write the table of published scores in docs/metrics.md, beside those of the committed run.

    python -m dev.published

The published rows are those of `captioner.results.published`. Ours are of metrics/evaluate.json.
"""

from pathlib import Path

from benchmarks.page import put, table
from captioner.base.files import read_json
from captioner.results.published import PUBLISHED, TEST_IMAGES

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "docs/metrics.md"
SCORES = ("BLEU-1", "BLEU-4", "METEOR", "ROUGE-L", "CIDEr")
OURS = {"frozen": "this project, frozen", "finetuned": "this project, fine-tuned"}


def shown() -> str:
    """Return the table in Markdown; scores are x100."""
    results = read_json(ROOT / "metrics/evaluate.json")
    rows = [
        [
            f"{each.system} ([source]({each.url}))",
            f"{TEST_IMAGES:,}",
            *(str(each.scores.get(key, "")) for key in SCORES),
        ]
        for each in PUBLISHED
    ]
    rows += [
        [f"**{name}**", str(results["images"]), *(f"{100 * results[model][key]:.1f}" for key in SCORES)]
        for model, name in OURS.items()
    ]
    return table(["system", "test images", *SCORES], rows)


if __name__ == "__main__":
    put(PAGE, "published", shown())
