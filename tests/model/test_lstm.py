"""The LSTM over packed captions is torch's."""

import copy

import pytest
import torch
from torch.nn.utils.rnn import PackedSequence
from torch.testing import assert_close

from captioner.model.lstm import LSTM, run_packed

WIDTH, INPUTS = 7, 5


def problem(sizes, captions, dtype):
    torch.manual_seed(0)
    lstm = LSTM(INPUTS, WIDTH).to(dtype)
    x = torch.randn(sum(sizes), INPUTS, dtype=dtype, requires_grad=True)
    h, c = (torch.randn(captions, WIDTH, dtype=dtype, requires_grad=True) for _ in range(2))
    return lstm, x, h, c, torch.tensor(sizes)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("sizes", [[1], [3], [4, 4, 2, 1], [5, 5, 5], [1, 1, 1, 1]])
@pytest.mark.parametrize("without", [0, 2])  # captions with no token at all
def test_states_and_gradients_are_those_of_torch(sizes, without, dtype):
    lstm, x, h, c, steps = problem(sizes, sizes[0] + without, dtype)
    leaves = [x, h, c, *lstm.parameters()]
    result = run_packed(lstm, x, h, c, steps)
    n = sizes[0]
    wanted, _ = lstm(PackedSequence(x, steps), (h[:n].unsqueeze(0), c[:n].unsqueeze(0)))
    assert_close(result, wanted.data)
    weights = torch.randn_like(result)
    assert_close(
        torch.autograd.grad((result * weights).sum(), leaves),
        torch.autograd.grad((wanted.data * weights).sum(), leaves),
    )


def test_in_mixed_precision_it_stays_near_and_keeps_types():
    sizes = [4, 4, 3, 3, 1, 1]
    lstm, x, h, c, steps = problem(sizes, 4, torch.float32)
    leaves = [x, h, c, *lstm.parameters()]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        result = run_packed(lstm, x, h, c, steps)
    assert result.dtype == torch.bfloat16
    wanted = run_packed(lstm, x, h, c, steps)
    assert_close(result.float(), wanted, atol=0.03, rtol=0.03)
    grads = torch.autograd.grad(result.float().square().sum(), leaves)
    exact = torch.autograd.grad(wanted.square().sum(), leaves)
    for grad, of, leaf in zip(grads, exact, leaves, strict=True):
        assert grad.dtype == leaf.dtype
        assert (grad - of).norm() < 0.05 * of.norm()


@torch.no_grad()
def test_steps_one_after_the_other_are_a_run_over_all():
    lstm, x, h, c, steps = problem([3, 3, 3], 3, torch.float64)
    wanted = lstm.over(x, (h, c), steps)
    state, outputs = (h, c), []
    for inputs in x.split(3):
        state = lstm.step(inputs, state)
        outputs.append(state[0])
    assert_close(torch.cat(outputs), wanted)
    nothing = torch.zeros_like(h)
    assert_close(lstm.begin(x[:3]), lstm.step(x[:3], (nothing, nothing)))


def test_a_copy_has_weights_of_its_own_in_the_layout_of_cudnn(monkeypatch):
    lstm, x, h, c, steps = problem([2, 1], 2, torch.float32)
    flattened = []
    monkeypatch.setattr(LSTM, "flatten_parameters", lambda self: flattened.append(self))
    copied = copy.deepcopy(lstm)
    assert any(each is copied for each in flattened)  # on the CPU torch's does nothing
    with torch.no_grad():
        for parameter in copied.parameters():
            parameter.zero_()
    assert copied.over(x, (h, torch.zeros_like(c)), steps).eq(0).all()
    assert lstm.over(x, (h, c), steps).ne(0).any()


class OnGpu:
    """Stands for a tensor on a GPU, where there is none; what `float` returns is on the CPU."""

    device = torch.device("cuda")

    def __init__(self, values):
        self.float = values.float


@torch.no_grad()
def test_what_is_written_for_a_gpu_computes_the_same():
    lstm, x, h, c, steps = problem([4, 4, 2, 1], 4, torch.float32)
    assert_close(lstm.over(OnGpu(x), (h, c), steps), lstm.over(x, (h, c), steps))
    assert_close(lstm.begin(OnGpu(x)), lstm.begin(x))
