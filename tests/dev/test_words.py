"""The word scores beside a person's."""

import pandas as pd
import pytest

from captioner.base.errors import CaptionerError
from captioner.base.files import read_json
from dev import words

REFERENCES = {
    "a.jpg": ["a dog swims", "a dog runs", "the dog runs", "a brown dog", "dogs"],
    "b.jpg": ["a cat", "a cat", "a cat", "a cat"],  # one reference fewer
}
GENERATED = pd.DataFrame({"frozen": ["a man sits", ""], "finetuned": ["a dog runs", ""]}, index=["a.jpg", "b.jpg"])


def test_a_person_and_the_models_are_scored_against_the_same_references():
    result = words.measure(GENERATED, REFERENCES)
    assert result["images"] == 1
    assert {
        name: [scores["absent words"][0], scores["agreed words"][0]] for name, scores in result["scores"].items()
    } == {
        "a person": [0.5, 1.0],  # swims is absent; dog is the only word that more than two of the four have
        "frozen": [1.0, 0.0],
        "finetuned": [0.0, 1.0],
    }
    assert "| a person | 50.0 (50.0 to 50.0) | 100.0 (100.0 to 100.0) |" in words.table_of(result)


def test_images_without_references_are_named():
    with pytest.raises(CaptionerError, match=r"no references of b\.jpg"):
        words.measure(GENERATED, {"a.jpg": REFERENCES["a.jpg"]})
    with pytest.raises(CaptionerError, match="no image has 5 references"):
        words.measure(GENERATED[1:], REFERENCES)


def test_the_page_shows_the_committed_record():
    page = words.PAGE.read_text(encoding="utf-8")
    if "<!-- words -->" in page:
        assert f"<!-- words -->\n{words.table_of(read_json(words.RECORD))}\n<!-- end of words -->" in page
