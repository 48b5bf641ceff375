"""What is counted in captions."""

import pytest

from captioner.scoring.language import (
    hallucinated_words,
    length_shares,
    missing_words,
    repeated_captions,
    top_words_share,
)

CAPTIONS = {"1": "a dog runs", "2": "a dog runs", "3": "a cat", "4": "A dog runs ."}
REFERENCES = {
    "1": ["A dog is running .", "The dog runs ."],
    "2": ["a man", "a man walks"],
    "3": ["The cat sits .", "a cat"],
    "4": ["a dog", "a man and a dog"],
}


def test_lengths_are_shares_of_the_captions_without_punctuation():
    assert length_shares(CAPTIONS.values()) == {2: 0.25, 3: 0.75}


def test_the_most_frequent_words_are_a_share_of_all_words():
    assert top_words_share(CAPTIONS.values(), 1) == pytest.approx(4 / 11)
    assert top_words_share(CAPTIONS.values(), 99) == 1
    assert top_words_share([""], 1) == 0


def test_captions_are_the_same_when_their_words_are():
    assert repeated_captions(CAPTIONS) == [("a dog runs", 3, 4)]
    assert repeated_captions({"1": "a", "2": "b"}) == []


def test_a_word_that_no_reference_of_the_image_has_is_hallucinated():
    assert hallucinated_words(CAPTIONS, REFERENCES) == [("runs", 2, 3), ("dog", 1, 3)]


def test_a_missing_word_counts_each_image_once():
    tallies = missing_words(CAPTIONS, REFERENCES)
    assert tallies[:2] == [("man", 2, 4), ("the", 2, 4)]
    assert {tally.text for tally in tallies} == {"man", "the", "is", "running", "walks", "sits", "and"}
