"""Fifths of the score: what stands in docs/captioning.md."""

import pandas as pd
import pytest

from dev import thresholds


def test_fifths_are_equal_parts_in_the_order_of_the_measure():
    frame = pd.DataFrame(
        {"score": range(-10, 0), "agreement": [0.5] * 10, "CIDEr": [0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9]}
    )
    result = thresholds.fifths(frame)
    assert list(result["fifth"]) == [1, 2, 3, 4, 5] * 2
    by_score = result[result["measure"] == "score"]
    assert list(by_score["from"]) == [-10, -8, -6, -4, -2]
    assert list(by_score["to"]) == [-9, -7, -5, -3, -1]
    assert list(by_score["CIDEr"]) == pytest.approx([0.05, 0.25, 0.45, 0.65, 0.85])
    assert list(by_score["above the median"]) == [0, 0, 0.5, 1, 1]


def test_the_table_is_of_the_committed_figures():
    text = thresholds.PAGE.read_text(encoding="utf-8")
    result = pd.read_csv(thresholds.FOLDER / "thresholds.csv")
    assert f"<!-- thresholds -->\n{thresholds.table_of(result)}\n<!-- end of thresholds -->" in text
