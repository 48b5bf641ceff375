"""The encoder: torchvision's ResNet-18, split anywhere, with BatchNorm statistics that stay as they are."""

import pytest
import torch
import torchvision
from safetensors.torch import load_file
from torch import nn

from captioner.vision.encoder import (
    BLOCKS,
    END,
    MEAN,
    STD,
    blocks_between,
    calibrate,
    fingerprint,
    fused,
    load_encoder,
    save_encoder,
)

ROUNDING = 1e-5  # of float32 through 18 layers, relative
HALF = 0.15  # what a gradient loses when activations were kept in half precision: a few ReLUs flip; relative


@pytest.fixture(scope="module")
def resnet():
    torch.manual_seed(1)
    network = torchvision.models.resnet18(weights=None)
    for norm in norms_of(network):
        nn.init.normal_(norm.running_mean, std=0.3)
        nn.init.uniform_(norm.running_var, 0.5, 2)
        nn.init.uniform_(norm.weight, 0.5, 1.5)
        nn.init.normal_(norm.bias, std=0.3)
    return network.eval()


@pytest.fixture
def encoder(resnet):
    return load_encoder(resnet.state_dict())


def norms_of(network):
    return [module for module in network.modules() if isinstance(module, nn.BatchNorm2d)]


def pictures(count=3, size=64, seed=2):
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (count, size, size, 3), generator=generator, dtype=torch.uint8)


def difference(result, wanted):
    return ((result - wanted).norm() / wanted.norm()).item()


def snapshot(encoder):
    return {key: value.clone() for key, value in encoder.state_dict().items()}


def gradients(encoder, boundary, rows, start):
    """Return the gradients of the blocks from `boundary` on, for a loss in which every output counts differently."""
    encoder.zero_grad(set_to_none=True)
    grid = encoder(rows, start=start)
    generator = torch.Generator().manual_seed(3)
    (grid * torch.randn(grid.shape, generator=generator)).sum().backward()
    return [p.grad.clone() for module in encoder.block_modules(boundary) for p in module.parameters()]


def test_output_and_every_boundary_are_torchvisions(resnet, encoder):
    x = pictures()
    mean, std = (torch.tensor(value).view(3, 1, 1) for value in (MEAN, STD))
    wanted = (x.permute(0, 3, 1, 2) / 255 - mean) / std
    stages = iter(resnet.children())
    shapes = {"layer1": (16, 16, 64), "layer2": (16, 16, 64), "layer3": (8, 8, 128), "layer4": (4, 4, 256)}
    with torch.no_grad():
        for block, stop in zip(BLOCKS, (*BLOCKS[1:], END), strict=True):
            for _ in range(4 if block == "conv1" else 1):  # conv1, bn1, relu, maxpool
                wanted = next(stages)(wanted)
            result = encoder(x, stop=stop)
            assert result.shape == (3, *shapes.get(stop, (2, 2, 512)))
            assert difference(result, wanted.permute(0, 2, 3, 1)) < ROUNDING


@pytest.mark.parametrize("boundary", BLOCKS)
def test_two_parts_make_the_whole(encoder, boundary):
    x = pictures()
    with torch.no_grad():
        half_way = encoder(x, stop=boundary)
        assert difference(encoder(half_way, start=boundary), encoder(x)) < ROUNDING
    assert blocks_between(BLOCKS[0], boundary) + blocks_between(boundary) == BLOCKS


def test_the_input_of_conv1_is_the_picture_itself(encoder):
    x = pictures()
    assert torch.equal(encoder(x, stop="conv1"), x.float())


@torch.no_grad()
def test_fused_computes_the_same_from_every_boundary_and_leaves_the_original_alone(encoder):
    x = pictures()
    encoder.train()
    before = snapshot(encoder)
    folded = fused(encoder)
    assert not norms_of(folded)
    assert not any(parameter.requires_grad for parameter in folded.parameters())
    assert all(parameter.requires_grad for parameter in encoder.parameters())
    for boundary in BLOCKS:
        at_boundary = encoder(x, stop=boundary)
        assert difference(folded(x, stop=boundary), at_boundary) < ROUNDING
        assert difference(folded(at_boundary, start=boundary), encoder(x)) < ROUNDING
    for parameter in folded.parameters():
        parameter.zero_()
    assert encoder.training
    after = encoder.state_dict()
    assert after.keys() == before.keys()
    assert all(torch.equal(after[key], before[key]) for key in before)


def test_statistics_stay_frozen_while_affine_weights_learn(encoder):
    before = snapshot(encoder)
    nn.ModuleDict({"encoder": encoder}).train()
    assert encoder.training
    optimizer = torch.optim.AdamW(encoder.parameters(), lr=1e-3)
    for seed in (5, 6):
        optimizer.zero_grad()
        encoder(pictures(size=32, seed=seed)).square().mean().backward()
        optimizer.step()
    after = encoder.state_dict()
    for key in before:
        unchanged = torch.equal(after[key], before[key])
        assert unchanged == key.endswith(("running_mean", "running_var", "num_batches_tracked")), key


def test_train_mode_computes_what_eval_mode_computes(encoder):
    x = pictures(size=32)
    with torch.no_grad():
        wanted = encoder.eval()(x)
        assert torch.equal(encoder.train()(x), wanted)


@pytest.mark.parametrize("boundary", BLOCKS)
def test_gradients_from_stored_activations_are_those_of_the_full_network(encoder, boundary):
    x = pictures()
    calibrate(encoder, [x])  # activations of the size they have in use
    full = gradients(encoder, boundary, x, "conv1")
    with torch.no_grad():
        stored = encoder(x, stop=boundary)
    kept_whole = gradients(encoder, boundary, stored, boundary)
    kept_half = gradients(encoder, boundary, stored.half(), boundary)
    assert len(full) == sum(len(list(module.parameters())) for module in encoder.block_modules(boundary)) > 0
    for result, halved, wanted in zip(kept_whole, kept_half, full, strict=True):
        assert wanted.norm() > 0
        assert difference(result, wanted) < ROUNDING
        assert difference(halved, wanted) < HALF


@pytest.mark.parametrize("boundary", BLOCKS[1:])
def test_frozen_blocks_get_no_gradient_and_do_not_change(encoder, boundary):
    with torch.no_grad():
        stored = encoder.train()(pictures(size=32), stop=boundary)
    before = snapshot(encoder)
    frozen = [p for module in encoder.block_modules(BLOCKS[0], boundary) for p in module.parameters()]
    unfrozen = [p for module in encoder.block_modules(boundary) for p in module.parameters()]
    assert {*frozen, *unfrozen} == {*encoder.parameters()}
    assert not {*frozen} & {*unfrozen}
    optimizer = torch.optim.AdamW(encoder.parameters(), lr=1e-2, weight_decay=0.5)
    encoder(stored, start=boundary).square().mean().backward()
    optimizer.step()
    assert all(parameter.grad is None for parameter in frozen)
    assert all(parameter.grad.count_nonzero() for parameter in unfrozen)
    changed = {name.split(".")[0] for name, p in encoder.named_parameters() if not torch.equal(p, before[name])}
    assert changed == set(blocks_between(boundary))


@torch.no_grad()
def test_calibration_brings_the_input_of_every_norm_to_zero_mean_and_unit_variance(encoder):
    x = pictures(count=16)
    x[..., 0] //= 3  # pictures of a red that ImageNet's statistics do not fit
    calibrate(encoder, [x[:8], x[8:]])
    seen = {}
    for at, norm in enumerate(norms_of(encoder)):
        norm.register_forward_pre_hook(lambda norm, inputs, at=at: seen.update({at: inputs[0]}))
    encoder(x)
    assert len(seen) == len(norms_of(encoder)) == 20
    for at, norm in enumerate(norms_of(encoder)):
        deviation = (norm.running_var + norm.eps).sqrt()
        normalised = (seen[at] - norm.running_mean[:, None, None]) / deviation[:, None, None]
        assert normalised.mean().abs() < 0.05
        assert 0.8 < normalised.var((0, 2, 3)).mean() < 1.2
        assert norm.momentum == 0.1
        assert not norm.training


def test_calibration_forgets_the_statistics_that_were_there_and_changes_no_weight(resnet, encoder):
    other = load_encoder(resnet.state_dict())
    for norm in norms_of(other):
        norm.running_mean.fill_(7)
        norm.num_batches_tracked.fill_(9)
    before = {name: parameter.clone() for name, parameter in encoder.named_parameters()}
    for network in (encoder, other):
        calibrate(network, iter([pictures(size=32, seed=1), pictures(size=32, seed=2)]))
    assert fingerprint(encoder) == fingerprint(other)
    assert all(torch.equal(parameter, before[name]) for name, parameter in encoder.named_parameters())


@torch.no_grad()
def test_fingerprint_changes_with_every_kind_of_weight_and_with_nothing_else(encoder, tmp_path):
    first = fingerprint(encoder)
    state = encoder.state_dict()
    for key in ("conv1.weight", "bn1.running_mean", "layer1.0.bn2.running_var", "layer2.0.downsample.0.weight",
                "layer3.1.bn1.bias", "layer4.1.conv2.weight", "layer4.1.bn2.weight"):  # fmt: skip
        last = state[key][(-1,) * state[key].ndim]
        copy = last.clone()
        last += 1e-3
        assert fingerprint(encoder) != first, key
        last.copy_(copy)
    one, two = state["layer4.0.bn1.weight"], state["layer4.0.bn1.bias"]
    one_kept, two_kept = one.clone(), two.clone()
    one.copy_(two_kept), two.copy_(one_kept)
    assert fingerprint(encoder) != first  # the same numbers under each other's names
    one.copy_(one_kept), two.copy_(two_kept)
    for norm in norms_of(encoder):
        norm.num_batches_tracked += 5
    assert fingerprint(encoder.to(memory_format=torch.contiguous_format).train()) == first
    save_encoder(tmp_path / "encoder.safetensors", encoder)
    assert fingerprint(load_encoder(load_file(tmp_path / "encoder.safetensors"))) == first


def test_load_encoder_takes_states_with_any_classifier_and_without_counters(resnet):
    state = resnet.state_dict()
    bare = {key: value for key, value in state.items() if not key.startswith("fc.")}
    old = {key: value for key, value in bare.items() if not key.endswith("num_batches_tracked")}
    wanted = fingerprint(load_encoder(state))
    for given in (bare, old, bare | {"fc.weight": torch.zeros(10, 512), "fc.extra": torch.zeros(1)}):
        encoder = load_encoder(given)
        assert fingerprint(encoder) == wanted
        assert not encoder.training


@pytest.mark.parametrize("key", ["layer3.0.conv1.weight", "bn1.running_var"])
def test_load_encoder_refuses_a_missing_key(resnet, key):
    state = resnet.state_dict()
    del state[key]
    with pytest.raises(Exception, match=rf"(?i)missing.*{key}"):
        load_encoder(state)


def test_load_encoder_refuses_an_unexpected_key(resnet):
    with pytest.raises(Exception, match=r"(?i)unexpected.*layer5\.weight"):
        load_encoder(resnet.state_dict() | {"layer5.weight": torch.zeros(1)})
