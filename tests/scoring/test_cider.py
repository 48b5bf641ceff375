"""CIDEr on arrays of word ids is the reference implementation's, for any captions, ids and references."""

import tracemalloc
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pycocoevalcap.cider.cider_scorer import CiderScorer, cook_refs, cook_test

from captioner.scoring import cider
from captioner.scoring.cider import References

WORDS = [0, 1, 2, 3, 65_536, 65_537, 4_000_000]  # some are the same to a base of 2 ** 16
captions = st.lists(st.sampled_from(WORDS), min_size=1, max_size=9)
images = st.lists(st.lists(captions, min_size=1, max_size=3), min_size=1, max_size=5)


def flat(texts):
    """Return captions, lists of ids, as one array and their lengths."""
    return np.array([word for text in texts for word in text], np.int64), np.array([len(text) for text in texts], int)


def references_of(known):
    return References(*flat([text for texts in known for text in texts]), np.array([len(texts) for texts in known]))


def scores_of(references, beams, near, shares):
    words, lengths = flat([text for texts in beams for text in texts])
    return references.score(words, lengths.reshape(len(beams), -1), np.array(near), np.array(shares))


def pycocoevalcap(known, image, text):
    """Return the score of one caption by the reference implementation, with the document frequencies of all images."""
    spoken = [[" ".join(map(str, text)) for text in texts] for texts in known]
    scorer = CiderScorer()
    scorer.crefs = [cook_refs(texts) for texts in spoken]
    scorer.document_frequency = Counter(ngram for cooked in scorer.crefs for ngram in set().union(*cooked))
    scorer.ctest = [cook_test(" ".join(map(str, text)))] * len(known)
    return scorer.compute_cider()[image]


@settings(max_examples=150, deadline=None, derandomize=True, database=None)
@given(images, st.data())
def test_scores_are_those_of_the_reference_implementation(known, data):
    beams = data.draw(st.lists(st.lists(captions | st.just([]), min_size=2, max_size=2), min_size=1, max_size=3))
    near = [[data.draw(st.integers(0, len(known) - 1)) for _ in range(2)] for _ in beams]
    shares = [[0.75, 0.25]] * len(beams)
    result = scores_of(references_of(known), beams, near, shares)
    wanted = [
        [sum(share * pycocoevalcap(known, image, text) for image, share in zip(row, [0.75, 0.25], strict=True))
         for text in texts]
        for texts, row in zip(beams, near, strict=True)
    ]  # fmt: skip
    assert result.shape == (len(beams), 2)
    assert result == pytest.approx(np.array(wanted), abs=1e-9)


def random_problem(seed=0):
    generator = np.random.default_rng(seed)

    def texts(count):
        return [generator.integers(0, 6, generator.integers(1, 12)).tolist() for _ in range(count)]

    beams = [texts(4) for _ in range(7)]
    near = generator.integers(0, 20, (7, 3))
    return [texts(generator.integers(1, 4)) for _ in range(20)], (beams, near, generator.random((7, 3)))


@pytest.mark.parametrize("constant", ["REFERENCES_AT_ONCE", "FILTER", "POSITIVE_BITS"])
def test_sizes_of_steps_and_tables_change_no_score(monkeypatch, constant):
    known, problem = random_problem()
    wanted = scores_of(references_of(known), *problem)
    assert len(np.unique(wanted)) > 20
    monkeypatch.setattr(cider, constant, 1)
    assert scores_of(references_of(known), *problem) == pytest.approx(wanted, abs=1e-12)


def test_references_are_restored_from_their_arrays(tmp_path):
    known, problem = random_problem(1)
    references = references_of(known)
    for name, array in references.arrays().items():
        np.save(tmp_path / f"{name}.npy", array)
    restored = References.from_arrays(
        {path.stem: np.load(path, mmap_mode="r", allow_pickle=False) for path in tmp_path.iterdir()}
    )
    assert np.array_equal(scores_of(restored, *problem), scores_of(references, *problem))


def test_an_image_without_references_adds_nothing():
    known = [[[1, 2]], [[3]], [[2, 3], [1]]]
    words, lengths = flat([text for texts in known for text in texts])
    references = References(words, lengths, np.array([1, 0, 3]))  # the third has the second's, too
    result = scores_of(references, [[[1, 2]]], [[0, 1]], [[0.5, 0.5]])
    assert result == pytest.approx(scores_of(references, [[[1, 2]]], [[0]], [[0.5]]), abs=1e-12)
    assert result > 1


def test_references_and_captions_shorter_than_the_longest_ngram():
    references = references_of([[[7]], [[8]]])
    assert scores_of(references, [[[7], [8], [], [7, 8, 9, 9, 9]]], [[0]], [[1.0]])[0, :3] == pytest.approx([2.5, 0, 0])


def test_a_word_may_be_repeated_more_than_255_times():
    known = [[[1] * 300], [[2]]]
    result = scores_of(references_of(known), [[[1] * 299]], [[0]], [[1.0]])
    assert result[0, 0] == pytest.approx(pycocoevalcap(known, 0, [1] * 299), abs=1e-9)


@pytest.mark.parametrize("unknown", [1, 2, 4_000_000])
def test_a_word_of_no_reference_is_not_taken_for_the_first(unknown):
    references = references_of([[[0]], [[3]]])
    assert scores_of(references, [[[unknown], [unknown, 0, unknown]]], [[0]], [[1.0]])[0, 0] == 0
    assert scores_of(references_of([[[0]], [[0, 0]], [[1]]]), [[[unknown + 1]]], [[0]], [[1.0]]) == 0


def test_a_query_beyond_the_last_key_is_in_no_place(monkeypatch):
    monkeypatch.setattr(cider, "FILTER", 1)  # rules no query out
    references = references_of([[[1, 2]], [[3, 4]]])
    assert scores_of(references, [[[1]]], [[0]], [[1.0]])[0, 0] > 1


def test_a_large_batch_takes_the_memory_of_a_step(monkeypatch):
    generator = np.random.default_rng(4)
    known = [[generator.integers(0, 50, 10).tolist() for _ in range(8)] for _ in range(100)]
    references = references_of(known)
    beams = [[generator.integers(0, 50, 10).tolist()] for _ in range(400)]
    words, lengths = flat([text for texts in beams for text in texts])
    near, shares = generator.integers(0, 100, (400, 10)), np.ones((400, 10))

    def peak():
        tracemalloc.start()
        references.score(words, lengths.reshape(-1, 1), near, shares)
        _, most = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        return most

    in_steps = peak()
    monkeypatch.setattr(cider, "REFERENCES_AT_ONCE", 400 * 10 * 8)
    assert in_steps < peak() / 5


def test_ngrams_take_a_tenth_of_the_memory_of_dictionaries():
    generator = np.random.default_rng(3)
    lengths = generator.integers(9, 14, 20_000)
    words = generator.zipf(1.3, lengths.sum()) % 3_000
    tracemalloc.start()
    References(words.astype(np.int32), lengths.astype(np.int32), np.full(4_000, 5, np.int32))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak / 20_000 < 960  # bytes a caption
