"""Intervals: statistics are those of the published scorers, draws are paired and repeatable, coverage holds."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pycocoevalcap.bleu.bleu_scorer import BleuScorer

from captioner.scoring import bootstrap

WORD = st.sampled_from(["dog", "man", "red", "runs", "on", "the", "grass"])
CAPTION = st.lists(WORD, min_size=1, max_size=9).map(" ".join)
CORPUS = st.lists(st.tuples(st.lists(CAPTION, min_size=1, max_size=5), CAPTION | st.just("")), min_size=1, max_size=6)


def published(references, hypotheses):
    scorer = BleuScorer(n=4)
    for texts, caption in zip(references, hypotheses, strict=True):
        scorer += (caption, texts)
    return scorer.compute_score(option="closest")[0], scorer.ctest


@settings(max_examples=100, deadline=None)
@given(CORPUS)
def test_bleu_of_all_images_is_pycocoevalcaps(corpus):
    references, hypotheses = zip(*corpus, strict=True)
    of_all, parts = published(references, hypotheses)
    statistics = bootstrap.bleu_statistics(references, hypotheses)
    assert statistics[:, :4].tolist() == [part["correct"] for part in parts]
    assert statistics[:, 4:8].tolist() == [part["guess"] for part in parts]
    assert bootstrap.bleu_scores(statistics.sum(0)) == pytest.approx(of_all, abs=1e-9)
    for order, score in enumerate(bootstrap.bleu(references, hypotheses).values()):
        assert score.score() == pytest.approx(of_all[order], abs=1e-9)


@settings(max_examples=20, deadline=None)
@given(CORPUS)
def test_bleu_of_a_draw_is_that_of_the_drawn_images(corpus):
    references, hypotheses = zip(*corpus, strict=True)
    result = bootstrap.resample(bootstrap.bleu(references, hypotheses), draws=3, seed=5)
    generator = np.random.default_rng(5)
    for draw, row in enumerate(generator.integers(len(corpus), size=(3, len(corpus)))):
        of_all, _ = published([references[at] for at in row], [hypotheses[at] for at in row])
        assert [result[f"BLEU-{order}"][draw] for order in (1, 2, 3, 4)] == pytest.approx(of_all, abs=1e-9)


def test_the_interval_of_a_mean_is_the_one_of_theory():
    values = np.random.default_rng(1).normal(3, 2, 400)
    low, high = bootstrap.bootstrap_means(values)
    half = 1.96 * values.std() / math.sqrt(400)
    assert (low, high) == pytest.approx((values.mean() - half, values.mean() + half), abs=0.02)


def test_intervals_depend_on_the_seed_alone_and_not_on_how_draws_are_split(monkeypatch):
    scores = {"mean": bootstrap.mean(np.arange(50.0)), "ratio": bootstrap.ratio(np.arange(50), np.arange(1, 51))}
    once = bootstrap.intervals(scores, draws=300)
    assert once == bootstrap.intervals(scores, draws=300)
    assert once != bootstrap.intervals(scores, draws=300, seed=1)
    assert once["mean"] == bootstrap.bootstrap_means(np.arange(50.0), draws=300)
    monkeypatch.setattr(bootstrap, "CELLS", 50 * 7)
    again = bootstrap.intervals(scores, draws=300)
    assert all(again[name] == pytest.approx(once[name]) for name in scores)


def test_a_difference_is_paired():
    first = np.random.default_rng(2).normal(0, 10, 200)
    better = {"score": bootstrap.mean(first + 1), "other": bootstrap.mean(first)}
    result = bootstrap.paired(better, {"score": bootstrap.mean(first)})
    assert list(result) == ["score"]
    assert result["score"] == pytest.approx((1, 1))  # though each score alone varies by more than 1
    low, high = bootstrap.bootstrap_means(first)
    assert high - low > 2


def test_a_ratio_is_of_the_sums():
    score = bootstrap.ratio([1, 0, 3], [2, 0, 10])
    assert score.score() == pytest.approx(4 / 12)
    low, high = bootstrap.intervals({"ratio": score})["ratio"]  # draws of the second image alone have no ratio
    assert (low, high) == pytest.approx((0.3, 0.5))
    assert np.isnan(bootstrap.interval(np.array([np.nan]))).all()


def test_scores_of_different_images_are_refused():
    two, three = bootstrap.mean([1, 2]), bootstrap.mean([1, 2, 3])
    for call in (
        lambda: bootstrap.resample({"a": two, "b": three}),
        lambda: bootstrap.paired({"a": two}, {"a": three}),
        lambda: bootstrap.resample({"a": bootstrap.mean([])}),
    ):
        with pytest.raises(ValueError, match="images"):
            call()
    assert bootstrap.intervals({}) == {}
