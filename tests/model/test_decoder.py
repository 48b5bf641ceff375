"""The decoder: what may change its output and what may not, with and without attention."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.testing import assert_close

from captioner.captions.vocabulary import BOS, PAD
from captioner.model.decoder import Decoder
from captioner.model.dropout import Dropout
from captioner.model.packing import PACKED_BY, TOKENS_BY, pack
from tests.support.decoding import read_all

B, K, L, V, P, D = 3, 2, 5, 11, 4, 6
CLOSE = {"rtol": 1e-4, "atol": 1e-5}

both = pytest.mark.parametrize("attention", [True, False])


def make(attention, tied=False, **changes):
    torch.manual_seed(1)
    shape = {"vocabulary": V, "features": D, "width": 8, "heads": 2, "dropout": 0.0}
    decoder = Decoder(attention=attention, tied=tied, **shape | changes).eval()
    for parameter in decoder.parameters():  # far from zero, so that everything matters
        torch.nn.init.normal_(parameter, std=0.7)
    return decoder


def data(seed=2):
    generator = torch.Generator().manual_seed(seed)
    features = torch.randn(B, P, D, generator=generator)
    tokens = torch.randint(4, V, (B, K, L), generator=generator)
    tokens[:, :, 0] = BOS
    return features, tokens


def read(decoder, features, tokens):
    return decoder.logits(read_all(decoder, decoder.encode(features), tokens))


@pytest.mark.parametrize("tied", [True, False])
@both
def test_reading_token_by_token_equals_reading_all_at_once(attention, tied):
    decoder, (features, tokens) = make(attention, tied), data()
    wanted = read(decoder, features, tokens)
    assert wanted.shape == (B, K, L, V)
    memory = decoder.encode(features)
    state, outputs = memory.states(K), []
    for at in range(L):
        hidden, state = decoder.step(memory, tokens[:, :, at].flatten(), state)
        outputs.append(decoder.logits(hidden).view(B, K, V))
    assert_close(torch.stack(outputs, dim=2), wanted, **CLOSE)
    assert [part.shape for part in state] == [(B * K, 8)] * (4 if attention else 2)


@both
def test_a_step_of_some_captions_is_that_of_all(attention):
    decoder, (features, tokens) = make(attention), data()
    memory = decoder.encode(features)
    _, before = decoder.step(memory, tokens[:, :, 0].flatten(), memory.states(K))
    wanted, after = decoder.step(memory, tokens[:, :, 1].flatten(), before)
    for chosen in ([0], [5, 2], [1, 3, 4], range(B * K)):
        places = torch.tensor(chosen)
        state = tuple(part[places] for part in before)
        hidden, new = decoder.step(memory, tokens[:, :, 1].flatten()[places], state, places, K)
        assert_close(hidden, wanted[places], **CLOSE)
        for one, other in zip(new, after, strict=True):
            assert_close(one, other[places], **CLOSE)


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("lengths", [[[5, 2], [1, 4], [3, 3]], [[4, 0], [0, 1], [4, 4]], [[1, 1], [1, 1], [1, 1]]])
@pytest.mark.parametrize("few_shapes", [True, False])
@both
def test_packed_captions_are_read_as_each_alone_whatever_the_padding_is(attention, few_shapes, lengths, tied):
    decoder, (features, tokens) = make(attention, tied), data()
    lengths = torch.tensor(lengths)
    wanted = read(decoder, features, tokens)
    memory = decoder.encode(features)
    for padded in (L, int(lengths.max())):
        packed = pack(lengths, padded, few_shapes=few_shapes)
        valid = torch.arange(padded) < lengths.unsqueeze(-1)
        given = tokens[:, :, :padded]
        words = valid.flatten()[packed.places]  # the rest is padding
        for each in (given, given.masked_fill(~valid, PAD)):
            result = decoder.logits(decoder(memory, each, packed))
            assert_close(result[words], wanted[:, :, :padded].flatten(0, 2)[packed.places[words]], **CLOSE)
        assert sorted(packed.places[words].tolist()) == valid.flatten().nonzero().squeeze(1).tolist()


@settings(max_examples=60, deadline=None, derandomize=True, database=None)
@given(
    lengths=st.lists(st.integers(0, 9), min_size=1, max_size=150).filter(any),
    more=st.integers(0, 2),
    few_shapes=st.booleans(),
)
def test_packing_keeps_every_token_and_pads_only_to_get_few_shapes(lengths, more, few_shapes):
    padded = max(lengths) + more
    packed = pack(torch.tensor([lengths]), padded, few_shapes=few_shapes)
    sizes = packed.sizes.tolist()
    assert len(set(packed.places.tolist())) == len(packed.places) == sum(sizes)
    at = 0
    for step, size in enumerate(sizes):
        captions = packed.order[:size]
        assert packed.places[at : at + size].tolist() == (captions * padded + step).tolist()
        at += size
        running = {number for number, length in enumerate(lengths) if length > step}
        assert running <= set(captions.tolist())
    assert len(sizes) == max(lengths)
    assert sizes == sorted(sizes, reverse=True)
    if not few_shapes:
        assert len(packed.places) == sum(lengths)
        return
    assert all(size % PACKED_BY == 0 or size == len(lengths) for size in sizes)
    words = sum(-(sum(length > step for length in lengths) // -PACKED_BY) * PACKED_BY for step in range(len(sizes)))
    assert len(packed.places) < words + TOKENS_BY


def test_a_batch_of_many_captions_has_one_of_few_numbers_of_tokens():
    generator = torch.Generator().manual_seed(4)
    for _ in range(20):
        lengths = torch.randint(5, 25, (32, 5), generator=generator)
        assert len(pack(lengths, 24).places) % TOKENS_BY == 0


@both
def test_captions_of_an_image_do_not_influence_one_another(attention):
    decoder, (features, tokens) = make(attention), data()
    changed = tokens.clone()
    changed[:, 1] = (tokens[:, 1] + 1) % V
    wanted, result = read(decoder, features, tokens), read(decoder, features, changed)
    assert_close(result[:, 0], wanted[:, 0], **CLOSE)
    assert not torch.allclose(result[:, 1], wanted[:, 1], atol=1e-2)
    for k in range(K):
        assert_close(read(decoder, features, tokens[:, k : k + 1])[:, 0], read(decoder, features, tokens)[:, k])


@both
def test_images_do_not_influence_one_another(attention):
    decoder, (features, tokens) = make(attention), data()
    wanted = read(decoder, features, tokens)
    changed = features.clone()
    changed[1] += 1
    result = read(decoder, changed, tokens)
    assert_close(result[[0, 2]], wanted[[0, 2]], **CLOSE)
    assert not torch.allclose(result[1], wanted[1], atol=1e-2)
    for image in range(B):
        assert_close(read(decoder, features[[image]], tokens[[image]])[0], wanted[image], **CLOSE)


@both
def test_the_future_does_not_influence_the_past(attention):
    decoder, (features, tokens) = make(attention), data()
    changed = tokens.clone()
    changed[:, :, 3:] = 9
    result, wanted = read(decoder, features, changed), read(decoder, features, tokens)
    assert_close(result[:, :, :3], wanted[:, :, :3], **CLOSE)
    assert not torch.allclose(result[:, :, 3:], wanted[:, :, 3:], atol=1e-2)


@pytest.mark.parametrize("tied", [True, False])
@both
def test_gradients_reach_every_parameter(attention, tied):
    decoder, (features, tokens) = make(attention, tied).train(), data()
    packed = pack(torch.tensor([[5, 2], [1, 4], [3, 3]]), L)
    logits = decoder.logits(decoder(decoder.encode(features), tokens, packed))
    generator = torch.Generator().manual_seed(3)
    (logits * torch.randn(logits.shape, generator=generator)).sum().backward()
    for name, parameter in decoder.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().max() > 1e-4, name


def test_without_attention_only_the_mean_of_the_grid_matters():
    decoder, (features, tokens) = make(attention=False), data()
    wanted = read(decoder, features, tokens)
    mean = features.mean(1, keepdim=True)
    for grid in (mean, mean.expand(-1, 9, -1), features.flip(1), 2 * mean - features):
        assert_close(read(decoder, grid, tokens), wanted, **CLOSE)
    assert not torch.allclose(read(decoder, features + 0.5, tokens), wanted, atol=1e-2)


def test_with_attention_the_order_of_the_grid_does_not_matter_but_its_content_does():
    decoder, (features, tokens) = make(attention=True), data()
    wanted = read(decoder, features, tokens)
    for order in ([3, 1, 0, 2], [1, 2, 3, 0]):
        assert_close(read(decoder, features[:, order], tokens), wanted, **CLOSE)
    mean = features.mean(1, keepdim=True).expand_as(features)
    assert not torch.allclose(read(decoder, mean, tokens), wanted, atol=1e-2)


@both
def test_tied_shares_the_tensor_and_untied_does_not(attention):
    tied, untied = make(attention, tied=True), make(attention, tied=False)
    assert tied.output.weight is tied.embedding.weight
    assert untied.output.weight is not untied.embedding.weight
    sizes = [sum(parameter.numel() for parameter in decoder.parameters()) for decoder in (tied, untied)]
    assert sizes[1] - sizes[0] == V * 8


@both
def test_dropout_acts_in_training_only(attention):
    decoder, (features, tokens) = make(attention, dropout=0.5), data()
    wanted = read(decoder, features, tokens)
    assert torch.equal(read(decoder, features, tokens), wanted)
    torch.manual_seed(1)
    assert not torch.allclose(read(decoder.train(), features, tokens), wanted, atol=1e-2)


@pytest.mark.parametrize("p", [0.5, 0.1, 0.9])
def test_dropout_drops_its_share_and_keeps_the_sum(p):
    torch.manual_seed(1)
    x = torch.ones(1003, 301, requires_grad=True)
    y = Dropout(p)(x)
    remaining = y != 0
    assert remaining.float().mean() == pytest.approx(1 - p, abs=0.003)  # five standard deviations
    assert_close(y[remaining], torch.full((int(remaining.sum()),), 1 / (1 - p)), rtol=1e-4, atol=0)
    for axis in (0, 1):  # no row and no column is favoured
        assert (remaining.float().mean(axis) - (1 - p)).abs().max() < 0.15
    y.sum().backward()
    assert torch.equal(x.grad, y)
    torch.manual_seed(1)
    assert torch.equal(Dropout(p)(x), y)
    assert torch.equal(Dropout(p).eval()(x), x)
