"""What is counted in captions."""

import pytest

from captioner.scoring.language import length_shares, never_said, repeated, said_in_vain, share_of_commonest

CAPTIONS = {"1": "a dog runs", "2": "a dog runs", "3": "a cat", "4": "A dog runs ."}
REFERENCES = {
    "1": ["A dog is running .", "The dog runs ."],
    "2": ["a man", "a man walks"],
    "3": ["The cat sits .", "a cat"],
    "4": ["a dog", "a man and a dog"],
}


def test_lengths_are_shares_of_the_captions_without_punctuation():
    assert length_shares(CAPTIONS.values()) == {2: 0.25, 3: 0.75}


def test_the_commonest_words_are_a_part_of_all_that_was_said():
    assert share_of_commonest(CAPTIONS.values(), 1) == pytest.approx(4 / 11)
    assert share_of_commonest(CAPTIONS.values(), 99) == 1
    assert share_of_commonest([""], 1) == 0


def test_captions_are_the_same_when_their_words_are():
    assert repeated(CAPTIONS) == [("a dog runs", 3, 4)]
    assert repeated({"1": "a", "2": "b"}) == []


def test_a_word_is_in_vain_where_no_reference_has_it():
    assert said_in_vain(CAPTIONS, REFERENCES) == [("runs", 2, 3), ("dog", 1, 3)]


def test_a_word_never_said_counts_an_image_once():
    found = never_said(CAPTIONS, REFERENCES)
    assert found[:2] == [("man", 2, 4), ("the", 2, 4)]
    assert {tally.text for tally in found} == {"man", "the", "is", "running", "walks", "sits", "and"}
