"""Absent and agreed words, and the table of English words."""

import pytest

from captioner.captions.ptb import ptb_tokens
from captioner.scoring import words
from dev import english_words

REFERENCES = {
    "1": ["a dog runs", "two dogs are running on grass", "the dog", "a puppy runs", "an animal in the grass"],
    "2": ["a man", "men in red"],
}


def test_words_are_compared_by_lemma_and_function_words_do_not_count():
    assert words.content_words(["the", "two", "dogs", "are", "running", "on", "it"]) == {"two", "dog", "run"}
    assert words.content_words(["women", "and", "children"]) == {"woman", "child"}


def test_words_are_absent_where_no_reference_has_them_and_agreed_where_most_have():
    counts = words.count_words(REFERENCES, {"1": "a dog is sitting with dogs", "2": "a red man"})
    # 1: sit is absent, dog is not; three of five references have dog, three have run. 2: both have man, one has red
    assert counts.tolist() == [[1, 2, 1, 2], [0, 2, 1, 1]]
    result = words.word_scores(REFERENCES, {"1": "a dog is sitting with dogs", "2": "a red man"})
    assert {name: score.score() for name, score in result.items()} == pytest.approx(
        {"absent words": 1 / 4, "agreed words": 2 / 3}
    )


@pytest.mark.parametrize(("references", "agreed"), [(1, 1), (2, 2), (3, 2), (4, 3), (5, 3), (6, 4)])
def test_a_word_is_agreed_where_more_than_half_of_the_references_have_it(references, agreed):
    for having, expected in ((agreed, 1), (agreed - 1, 0)):
        texts = ["a dog"] * having + ["a"] * (references - having)
        assert words.count_words({"1": texts}, {"1": "dog"})[0, 3] == expected


def test_a_measure_without_words_or_in_another_language_is_left_out():
    assert words.word_scores(REFERENCES, {"1": "a", "2": ""}).keys() == {"agreed words"}
    assert words.word_scores({"1": ["a dog", "grass"]}, {"1": "dog"}).keys() == {"absent words"}
    assert words.word_scores({"1": ["ein Hund"]}, {"1": "ein Hund"}, "de") == {}


def test_the_table_has_tokens_as_scores_have_them_and_lemmas_of_lemmas_are_themselves():
    with open(words.TABLE, encoding="utf-8") as file:
        head, *rows = [line.rstrip("\n").split(",") for line in file]
    assert head == ["word", "lemma"]
    assert [word for word, _ in rows] == sorted({word for word, _ in rows})
    table = dict(rows)
    assert all(ptb_tokens(token) == [token] for row in rows for token in row if token.isalpha())
    assert not {word for word, lemma in rows if lemma and table.get(lemma)}
    closed = set(" ".join(english_words.CLOSED.values()).split())
    assert {word for word, lemma in rows if not lemma} <= closed
    assert {"a", "the", "in", "is", "with"} <= {word for word, lemma in rows if not lemma}


def test_a_lemma_is_the_most_frequent_one_of_the_training_captions():
    counts = {
        "dogs": {"dog": 3, "dogs": 1},
        "is": {"be": 2},
        "Dog's": {"dog": 1},
        "cat": {"cat": 1},
        "b": {"z": 1, "y": 1},
    }
    result = english_words.table_of(counts)
    assert {word: lemma for word, lemma in result.items() if word.isalpha()} == {"dogs": "dog", "is": "", "b": "y"}
