"""Write the curve of a training stage and its summary."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from captioner.base.files import write_json, write_text
from captioner.training.early_stopping import best_record


def write_curve(path: str | Path, records: list[dict[str, float]], measures: Sequence[str]) -> None:
    """Write the records as CSV, one line for each epoch; `dvc plots show` draws it, also while the stage runs.

    `measures` are the columns of the training objectives; a column is empty in epochs of another objective.
    """
    columns = ["epoch", *measures, "dev loss", "dev CIDEr", "learning rate"]
    write_text(path, pd.DataFrame(records, columns=columns).to_csv(index=False, lineterminator="\n"))


def write_summary(path: str | Path, records: list[dict[str, float]], **more: Any) -> None:
    """Write the best epoch's record, how many epochs ran, and `more`, as JSON."""
    best = best_record(records)
    scores = {key: value for key, value in best.items() if key not in ("epoch", "learning rate")}
    write_json(path, {"best epoch": best["epoch"], "epochs": records[-1]["epoch"], **scores, **more})
