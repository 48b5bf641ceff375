"""The pretended GPU itself: it refuses what CUDA refuses and counts what waits."""

import copy
import io
import warnings

import numpy as np
import pytest
import torch
from torch import nn

from captioner.base.device import half_precision, mixed_precision, select_device
from captioner.model.lstm import LSTM
from tests.support.pretended_gpu import DEVICE, GPUTensor, pretended_gpu


def on_gpu(tensor):
    return tensor.pin_memory().to(DEVICE, non_blocking=True)


@pytest.fixture
def x(gpu):
    value = on_gpu(torch.tensor([[1.0, -2.0, 3.0], [4.0, 5.0, -6.0]]))
    gpu.reset()
    return value


def test_it_is_the_device_that_is_selected_and_is_gone_afterwards(monkeypatch):
    there_before = torch.cuda.is_available()
    monkeypatch.setenv("CAPTIONER_DEVICE", "auto")
    with pretended_gpu():
        assert select_device() == DEVICE
        tensor = torch.zeros(2, device=DEVICE)
        assert tensor.is_cuda
        assert tensor.device == torch.zeros_like(tensor).device == tensor.new_ones(3).device == DEVICE
    assert torch.cuda.is_available() == there_before
    with pytest.raises(RuntimeError, match="outside"):
        tensor + 1


@pytest.mark.parametrize(
    "mix",
    [
        lambda x, y: x + y,
        lambda x, y: y @ x.t(),
        lambda x, y: torch.cat((x, y)),
        lambda x, y: torch.where(y > 0, x, x),
        lambda x, y: x.add_(y),
        lambda x, y: y.add_(x),
        lambda x, y: torch.zeros(3)[x.long().abs()],
        lambda x, y: nn.functional.linear(x, y),
        lambda x, y: LSTM(3, 4)(x.unsqueeze(0)),
        lambda x, y: torch.lstm_cell(x, (x, x), *(torch.zeros(12, 3), torch.zeros(12, 3))),
    ],
)
@pytest.mark.filterwarnings("ignore:RNN module weights")
@torch.no_grad()
def test_devices_that_mix_are_refused(x, mix):
    with pytest.raises(RuntimeError):
        mix(x, torch.ones(2, 3))


def test_a_cpu_scalar_does_not_mix(x):
    assert (x * torch.tensor(2.0)).tolist() == [[2, -4, 6], [8, 10, -12]]


@pytest.mark.parametrize(
    ("wait", "times"),
    [
        (lambda x: x.sum().item(), 1),
        (lambda x: bool(x.isfinite().all()), 1),
        (lambda x: f"{x.sum():.3f}", 1),
        (lambda x: x.tolist(), 1),
        (lambda x: x.cpu(), 1),
        (lambda x: x.to("cpu", torch.float16), 1),
        (lambda x: torch.zeros(2, 3).copy_(x), 1),
        (lambda x: x.nonzero(), 1),
        (lambda x: x[x > 0], 1),
        (lambda x: x.masked_select(x > 0), 1),
        (lambda x: x.unique(), 1),
        (lambda x: torch.ones(2).to(DEVICE), 1),
        (lambda x: torch.tensor([1, 2], device=DEVICE), 1),
        (lambda x: x[torch.tensor([1, 0])], 1),
        (lambda x: torch.save(x, io.BytesIO()), 1),
        (lambda x: on_gpu(torch.ones(2)), 0),
        (lambda x: x.to("cpu", non_blocking=True), 0),
        (lambda x: x[on_gpu(torch.tensor([1, 0]))], 0),
        (lambda x: torch.where(x > 0, x, 0.0).softmax(-1).topk(2), 0),
    ],
)
def test_waits_are_counted_with_the_line_that_waits(gpu, x, wait, times):
    wait(x)
    assert gpu.waits.total() == times, gpu.waits
    assert all(place.startswith("tests/gpu/test_pretended_gpu.py:") for _, place in gpu.waits)


def test_numpy_needs_a_copy_first(x):
    with pytest.raises(TypeError):
        x.numpy()
    with pytest.raises(TypeError):
        np.asarray(x)


def test_computing_launches_and_views_do_not(gpu, x):
    x.view(6).unsqueeze(0).expand(2, -1)[:, 1:].t()
    assert gpu.launches.total() == 0
    (x + 1).relu_()
    assert gpu.launches == {"add": 1, "relu_": 1}


def test_moving_a_network_leaves_its_parameters_the_same_objects(gpu):
    network = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))
    before = list(network.parameters())
    network.to(DEVICE)
    assert all(one is other for one, other in zip(before, network.parameters(), strict=True))
    assert all(isinstance(part, GPUTensor) for part in network.state_dict().values())
    network.to("cpu")
    assert not any(isinstance(part, GPUTensor) for part in network.state_dict().values())


def test_networks_of_the_cpu_are_moved_as_ever(gpu):
    assert nn.Linear(3, 4).double().weight.dtype == torch.float64
    assert nn.Linear(3, 4, device="meta").to_empty(device="cpu").weight.device == torch.device("cpu")


def test_a_network_trains_as_on_the_cpu(gpu):
    def trained(device):
        torch.manual_seed(1)
        network = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 1)).to(device)
        optimizer = torch.optim.AdamW(network.parameters(), lr=0.1, fused=True)
        for _ in range(3):
            optimizer.zero_grad()
            network(torch.ones(5, 3).to(device)).square().mean().backward()
            nn.utils.clip_grad_norm_(network.parameters(), 0.1)
            optimizer.step()
        return torch.cat([part.detach().cpu().flatten() for part in network.parameters()])

    assert torch.allclose(trained(DEVICE), trained("cpu"))


def test_autocast_lowers_products_and_raises_sums(gpu, x, monkeypatch):
    weight = on_gpu(torch.ones(4, 3)).requires_grad_()
    with mixed_precision(DEVICE):
        product = nn.functional.linear(x, weight)
        assert product.dtype == torch.bfloat16
        assert product.softmax(-1).dtype == torch.float32
        assert torch.cat((product, x.new_ones(2, 4))).dtype == torch.float32
        with torch.autocast("cuda", enabled=False):
            assert nn.functional.linear(x, weight).dtype == torch.float32
    product.float().sum().backward()
    assert weight.grad.dtype == torch.float32
    with half_precision(DEVICE):
        assert (x @ x.t()).dtype == torch.float16
    monkeypatch.setenv("CAPTIONER_PRECISION", "float32")
    with mixed_precision(DEVICE):
        assert (x @ x.t()).dtype == torch.float32


def test_an_lstm_computes_what_torch_does_on_the_cpu(gpu):
    torch.manual_seed(1)
    lstm, x = LSTM(3, 4), torch.randn(5, 3)
    sizes, states = torch.tensor([2, 2, 1]), (torch.zeros(2, 4), torch.zeros(2, 4))
    wanted = lstm.over(x, states, sizes)
    wanted.square().sum().backward()
    gradients = [part.grad.clone() for part in lstm.parameters()]
    lstm.zero_grad()
    lstm.to(DEVICE)
    result = lstm.over(on_gpu(x), tuple(map(on_gpu, states)), sizes)
    result.square().sum().backward()
    assert torch.allclose(result.detach().cpu(), wanted, atol=1e-6)
    for part, gradient in zip(lstm.parameters(), gradients, strict=True):
        assert torch.allclose(part.grad.cpu(), gradient, atol=1e-5)
    assert gpu.launches["_cudnn_rnn"] == gpu.launches["_cudnn_rnn_backward"] == 1
    assert gpu.lstm_steps == 3


def test_cudnn_refuses_a_backward_pass_after_a_forward_pass_in_eval_mode(gpu, x):
    lstm = LSTM(3, 4).to(DEVICE).eval()
    hidden, _ = lstm.begin(x)
    with pytest.raises(RuntimeError, match="training mode"):
        hidden.sum().backward()


def test_a_copy_of_an_lstm_has_its_weights_in_one_piece_and_a_plain_one_would_not(gpu, x):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        copy.deepcopy(LSTM(3, 4).to(DEVICE)).begin(x)
    with pytest.warns(UserWarning, match="single contiguous chunk"):
        copy.deepcopy(nn.LSTM(3, 4).to(DEVICE))(x)
