"""The linear probe of features: what stands in docs/experiments.md."""

import numpy as np
import pytest
import torch

from captioner.base.files import read_json
from captioner.captions.dataset import CaptionedImage
from dev import probe


def test_average_precision_is_the_mean_precision_at_the_hits():
    scores = np.array([[0.9, 0.1], [0.8, 0.2], [0.7, 0.3], [0.6, 0.4]])
    truth = np.array([[True, False], [False, False], [True, False], [False, True]])
    assert probe.average_precision(scores, truth) == pytest.approx(((1 + 2 / 3) / 2 + 1) / 2)


def test_a_word_that_no_image_has_does_not_count():
    scores = np.array([[0.9, 0.1], [0.8, 0.2]])
    assert probe.average_precision(scores, np.array([[True, False], [False, False]])) == 1


def test_words_are_the_most_frequent_of_the_training_images(monkeypatch):
    monkeypatch.setattr(probe, "WORDS", 2)
    images = [
        CaptionedImage("a", "train", ["two dogs run", "a dog on the grass"], []),
        CaptionedImage("b", "train", ["a dog in the grass"], []),
        CaptionedImage("c", "dev", ["a cat", "the cat", "grass"], []),
    ]
    truth, words = probe.labels(images)
    assert words == ["dog", "grass"]
    assert truth.tolist() == [[True, True], [True, True], [False, True]]


def test_pooled_maps_are_means_and_maxima():
    maps = torch.arange(12.0).reshape(1, 2, 3, 2)
    assert probe.pool([maps, maps]).tolist() == [[5, 6, 10, 11]] * 2


def test_features_that_know_the_words_score_higher_than_noise(monkeypatch):
    monkeypatch.setattr(probe, "RATE", 0.1)  # few rows, few steps
    generator = torch.Generator().manual_seed(0)
    truth = (torch.rand(300, 4, generator=generator) < 0.3).numpy()
    training = np.arange(300) < 200
    noise = torch.randn(300, 8, generator=generator)
    knowing = torch.cat([noise, torch.from_numpy(truth).float()], 1)
    assert probe.probe(knowing, truth, training) > probe.probe(noise, truth, training) + 0.3


def test_the_table_is_of_the_committed_record():
    shown = probe.table_of(read_json(probe.RECORD))
    assert f"<!-- probe -->\n{shown}\n<!-- end of probe -->" in probe.PAGE.read_text(encoding="utf-8")
