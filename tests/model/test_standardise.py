"""The statistics by which features are standardised, and what a decoder does with them."""

import numpy as np
import pytest
import torch
from torch.testing import assert_close

from captioner.model import standardise
from captioner.model.standardise import feature_statistics
from tests.model.test_decoder import B, D, K, L, P, data, make
from tests.support.decoding import read_all

both = pytest.mark.parametrize("attention", [True, False])


def rows_of(count=30, seed=1):
    generator = torch.Generator().manual_seed(seed)
    rows = torch.randn(count, 2, 3, D, generator=generator) * torch.arange(1, D + 1) + 100
    return rows.half()


def test_they_are_the_mean_and_deviation_over_rows_and_positions(monkeypatch):
    stored, rows = rows_of(), torch.tensor([3, 1, 4, 15, 9, 2, 6])
    values = stored[rows].double().numpy().reshape(-1, D)
    for piece in (1, 2, 100):
        monkeypatch.setattr(standardise, "PIECE", piece)
        mean, scale = feature_statistics(lambda chosen: stored[chosen], rows)
        assert mean.dtype == scale.dtype == torch.float32
        np.testing.assert_allclose(mean, values.mean(0), rtol=1e-6)
        np.testing.assert_allclose(scale, values.std(0), rtol=1e-6)


@pytest.mark.parametrize("offset", [0.0, 0.1, 1000.0])
def test_a_channel_that_hardly_varies_is_not_enlarged(offset):
    stored = rows_of()
    stored[..., 2] = offset
    mean, scale = feature_statistics(lambda chosen: stored[chosen], torch.arange(len(stored)))
    assert mean[2] == stored[0, 0, 0, 2].float()
    assert scale.mean() / 2 < scale[2] < scale.max()
    assert ((stored.float() - mean) / scale)[..., 2].eq(0).all()


def test_where_no_channel_varies_the_scale_is_one():
    mean, scale = feature_statistics(lambda chosen: torch.full((len(chosen), 2, 2, D), 3.0), torch.arange(600))
    assert mean.eq(3).all()
    assert scale.eq(1).all()


@both
def test_a_new_decoder_takes_features_as_they_are(attention):
    decoder, (features, _) = make(attention), data()
    assert decoder.feature_mean.eq(0).all()
    assert decoder.feature_scale.eq(1).all()
    assert torch.equal(decoder.standardise(features), features)


@both
@torch.no_grad()
def test_a_decoder_sees_features_less_their_mean_by_their_scale(attention):
    plain, (features, tokens) = make(attention), data()
    tokens = tokens[:, :K, :L]
    standard = make(attention)
    mean, scale = torch.randn(D), torch.rand(D) + 0.5
    standard.feature_mean.copy_(mean)
    standard.feature_scale.copy_(scale)
    raw = features * scale + mean
    wanted = read_all(plain, plain.encode(features), tokens)
    assert raw.shape == (B, P, D)
    assert_close(read_all(standard, standard.encode(raw), tokens), wanted, rtol=1e-4, atol=1e-4)
    assert not torch.allclose(read_all(plain, plain.encode(raw), tokens), wanted, atol=1e-2)


@both
def test_they_are_no_parameters(attention):
    decoder = make(attention).train()
    assert {"feature_mean", "feature_scale"} <= decoder.state_dict().keys()
    assert not {"feature_mean", "feature_scale"} & dict(decoder.named_parameters()).keys()
