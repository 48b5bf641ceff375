"""The decoder: what may change its output and what may not, with and without attention."""

import pytest
import torch
from torch.testing import assert_close

from captioner.decoder import Decoder
from captioner.vocabulary import BOS, PAD

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


def read(decoder, features, tokens, **more):
    hidden, state = decoder(decoder.encode(features), tokens, **more)
    return decoder.logits(hidden), state


@pytest.mark.parametrize("tied", [True, False])
@both
def test_reading_token_by_token_equals_reading_all_at_once(attention, tied):
    decoder, (features, tokens) = make(attention, tied), data()
    wanted, last = read(decoder, features, tokens)
    assert wanted.shape == (B, K, L, V)
    memory, state, found = decoder.encode(features), None, []
    for at in range(L):
        hidden, state = decoder(memory, tokens[:, :, at : at + 1], state)
        found.append(decoder.logits(hidden))
    assert_close(torch.cat(found, dim=2), wanted, **CLOSE)
    assert len(state) == len(last) == (4 if attention else 2)
    for one, other in zip(state, last, strict=True):
        assert one.shape == (B, K, 8)
        assert_close(one, other, **CLOSE)


@pytest.mark.parametrize("tied", [True, False])
@both
def test_padding_beyond_the_lengths_changes_nothing(attention, tied):
    decoder, (features, tokens) = make(attention, tied), data()
    lengths = torch.tensor([[5, 2], [1, 4], [3, 3]])
    valid = torch.arange(L) < lengths.unsqueeze(-1)
    wanted, state = read(decoder, features, tokens)
    padded = tokens.masked_fill(~valid, PAD)
    longer = torch.cat((padded, torch.full((B, K, 3), PAD)), dim=2)
    junk = torch.cat((tokens, torch.full((B, K, 1), 7)), dim=2)
    states = []
    for given in (tokens, padded, longer, junk):
        found, state = read(decoder, features, given, lengths=lengths)
        assert found.shape == (B, K, given.shape[2], V)
        assert_close(found[:, :, :L][valid], wanted[valid], **CLOSE)
        states.append(state)
    for image in range(B):
        for k in range(K):
            only = tokens[image : image + 1, k : k + 1, : lengths[image, k]]
            _, alone = read(decoder, features[image : image + 1], only)
            for state in states:
                for one, other in zip(state, alone, strict=True):
                    assert_close(one[image, k], other[0, 0], **CLOSE)


@both
def test_captions_of_an_image_do_not_influence_one_another(attention):
    decoder, (features, tokens) = make(attention), data()
    lengths = torch.tensor([[5, 3]] * B)
    changed = tokens.clone()
    changed[:, 1] = (tokens[:, 1] + 1) % V
    for more, others in (({}, {}), ({"lengths": lengths}, {"lengths": torch.tensor([[5, 1]] * B)})):
        wanted, found = read(decoder, features, tokens, **more)[0], read(decoder, features, changed, **others)[0]
        assert_close(found[:, 0], wanted[:, 0], **CLOSE)
        assert not torch.allclose(found[:, 1], wanted[:, 1], atol=1e-2)
    for k in range(K):
        assert_close(read(decoder, features, tokens[:, k : k + 1])[0][:, 0], read(decoder, features, tokens)[0][:, k])


@both
def test_images_do_not_influence_one_another(attention):
    decoder, (features, tokens) = make(attention), data()
    wanted = read(decoder, features, tokens)[0]
    changed = features.clone()
    changed[1] += 1
    found = read(decoder, changed, tokens)[0]
    assert_close(found[[0, 2]], wanted[[0, 2]], **CLOSE)
    assert not torch.allclose(found[1], wanted[1], atol=1e-2)
    for image in range(B):
        assert_close(read(decoder, features[[image]], tokens[[image]])[0][0], wanted[image], **CLOSE)


@both
def test_the_future_does_not_influence_the_past(attention):
    decoder, (features, tokens) = make(attention), data()
    changed = tokens.clone()
    changed[:, :, 3:] = 9
    found, wanted = read(decoder, features, changed)[0], read(decoder, features, tokens)[0]
    assert_close(found[:, :, :3], wanted[:, :, :3], **CLOSE)
    assert not torch.allclose(found[:, :, 3:], wanted[:, :, 3:], atol=1e-2)


@pytest.mark.parametrize("tied", [True, False])
@both
def test_gradients_reach_every_parameter(attention, tied):
    decoder, (features, tokens) = make(attention, tied).train(), data()
    logits, _ = read(decoder, features, tokens, lengths=torch.tensor([[5, 2], [1, 4], [3, 3]]))
    generator = torch.Generator().manual_seed(3)
    (logits * torch.randn(logits.shape, generator=generator)).sum().backward()
    for name, parameter in decoder.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().max() > 1e-4, name


def test_without_attention_only_the_mean_of_the_grid_matters():
    decoder, (features, tokens) = make(attention=False), data()
    wanted = read(decoder, features, tokens)[0]
    mean = features.mean(1, keepdim=True)
    for grid in (mean, mean.expand(-1, 9, -1), features.flip(1), 2 * mean - features):
        assert_close(read(decoder, grid, tokens)[0], wanted, **CLOSE)
    assert not torch.allclose(read(decoder, features + 0.5, tokens)[0], wanted, atol=1e-2)


def test_with_attention_the_order_of_the_grid_does_not_matter_but_its_content_does():
    decoder, (features, tokens) = make(attention=True), data()
    wanted = read(decoder, features, tokens)[0]
    for order in ([3, 1, 0, 2], [1, 2, 3, 0]):
        assert_close(read(decoder, features[:, order], tokens)[0], wanted, **CLOSE)
    mean = features.mean(1, keepdim=True).expand_as(features)
    assert not torch.allclose(read(decoder, mean, tokens)[0], wanted, atol=1e-2)


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
    wanted = read(decoder, features, tokens)[0]
    assert torch.equal(read(decoder, features, tokens)[0], wanted)
    torch.manual_seed(1)
    assert not torch.allclose(read(decoder.train(), features, tokens)[0], wanted, atol=1e-2)
