"""The attention weights are the decoder's own."""

import pytest
import torch
from torch.testing import assert_close

from captioner.base.errors import CaptionerError
from captioner.model.attention import attention_weights
from tests.model.test_decoder import B, K, L, P, data, make


def weights_of(decoder, features, tokens):
    return attention_weights(decoder, decoder.encode(features), tokens)


def test_each_row_is_a_distribution_over_the_grid():
    result = weights_of(make(attention=True), *data())
    assert result.shape == (B, K, L, P)
    assert result.dtype == torch.float32
    assert (result >= 0).all()
    assert_close(result.sum(-1), torch.ones(B, K, L))
    assert result.std(-1).max() > 0.05  # not the same everywhere


@torch.no_grad()
def test_the_weights_reproduce_what_the_decoder_sees():
    """With one head, the weights times the values are what `see` gave the second LSTM at each step."""
    decoder, (features, tokens) = make(attention=True, heads=1), data()
    memory, seen = decoder.encode(features), []
    see = decoder.see
    decoder.see = lambda *given: seen.append(see(*given)) or seen[-1]
    state = memory.states(K)
    for at in range(L):
        _, state = decoder.step(memory, tokens[:, :, at].flatten(), state)
    decoder.see = see
    result = attention_weights(decoder, memory, tokens)  # [B, K, L, P]
    wanted = torch.stack(seen, dim=1).view(B, K, L, -1)
    assert_close(result @ memory.values, wanted, rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_the_weights_are_the_mean_over_the_heads():
    decoder, (features, tokens) = make(attention=True, heads=2), data()
    memory = decoder.encode(features)
    words = decoder.embedding(tokens).flatten(0, 1)
    state = tuple(part.expand(B, K, 8).reshape(1, B * K, 8).contiguous() for part in memory.start[:2])
    query = decoder.query(decoder.lstm(words, state)[0]).view(B, K * L, 2, 4).transpose(1, 2)
    wanted = (query @ memory.keys.transpose(2, 3) / 4**0.5).softmax(-1).mean(1)
    assert_close(attention_weights(decoder, memory, tokens).flatten(1, 2), wanted, rtol=1e-4, atol=1e-5)


def test_a_position_moves_with_its_weight():
    decoder, (features, tokens) = make(attention=True), data()
    order = [3, 1, 0, 2]
    wanted = weights_of(decoder, features, tokens)[..., order]
    assert_close(weights_of(decoder, features[:, order], tokens), wanted, rtol=1e-4, atol=1e-5)


def test_the_future_does_not_move_the_eye():
    decoder, (features, tokens) = make(attention=True), data()
    changed = tokens.clone()
    changed[:, :, 3:] = 9
    result, wanted = weights_of(decoder, features, changed), weights_of(decoder, features, tokens)
    assert_close(result[:, :, :3], wanted[:, :, :3], rtol=1e-4, atol=1e-5)
    assert not torch.allclose(result[:, :, 3:], wanted[:, :, 3:], atol=1e-3)


def test_a_pooled_decoder_has_none():
    decoder, (features, tokens) = make(attention=False), data()
    with pytest.raises(CaptionerError, match="no attention"):
        weights_of(decoder, features, tokens)
