"""An LSTM over packed captions.

Dimensions: T tokens, N captions, I width of the input, W width of the states. Gates are in torch's order: input,
forget, cell, output.
"""

from itertools import accumulate, pairwise
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

State = tuple[Tensor, Tensor]  # h and c, each [N, W]


class LSTM(nn.LSTM):
    """One layer of torch's LSTM, with its parameters and their names, run over packed captions or for one step."""

    def __init__(self, inputs: int, width: int):
        super().__init__(inputs, width, batch_first=True)

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self.flatten_parameters()  # a copy, as of averaged weights, would lose the layout that cuDNN is fast with

    def over(self, x: Tensor, state: State, sizes: Tensor) -> Tensor:
        """Run over packed x [T, I] from a state of N captions; return the states h of all tokens, [T, W].

        `sizes` [L] int64, on the CPU, are the number of captions with a token at each step. They never rise, as in
        torch's PackedSequence. On CUDA everything is float32, also in mixed precision: in float16, small gradients
        would become 0.
        """
        if x.device.type != "cuda":
            return run_packed(self, x, *state, sizes)
        with torch.autocast("cuda", enabled=False):
            h, c = (part.float().unsqueeze(0) for part in state)
            return self(PackedSequence(x.float(), sizes), (h, c))[0].data

    def begin(self, x: Tensor) -> State:
        """Run for one step over x [N, I], from states of zeros; return the new state, on CUDA in float32 as `over`."""
        if x.device.type != "cuda":
            _, (h, c) = self(x.unsqueeze(1))
            return h.squeeze(0), c.squeeze(0)
        with torch.autocast("cuda", enabled=False):
            _, (h, c) = self(x.float().unsqueeze(1))
            return h.squeeze(0), c.squeeze(0)

    def step(self, x: Tensor, state: State) -> State:
        """Run for one step over x [N, I]; return the new state. torch's whole LSTM prepares its weights at each call,
        which takes too long for one step."""
        return torch.lstm_cell(x, state, *self.all_weights[0])


def run_packed(lstm: nn.LSTM, x: Tensor, h: Tensor, c: Tensor, sizes: Tensor) -> Tensor:
    """Do what `LSTM.over` does, with fewer and larger matrix products than torch on a CPU.

    torch multiplies the recurrent weight's gradient at each time step, and adds up gradients of the size of the whole
    input. Here one product at the end gives the recurrent weight's gradient. Products are in the precision of autocast,
    cells and gates in float32 or better.
    """
    into, again, *biases = lstm.all_weights[0]
    gates = F.linear(x, into, biases[0] + biases[1])  # [T, 4W]
    return _Recurrence.apply(gates, again, h, c, sizes.tolist())


class _Recurrence(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, gates: Tensor, weight: Tensor, h: Tensor, c: Tensor, sizes: list[int]) -> Tensor:
        """Return the states h of all tokens, [T, W].

        `gates` [T, 4W] are the inputs' share of the gates, before their nonlinearity; weight [4W, W]; h, c [N, W].
        """
        exact = torch.promote_types(gates.dtype, torch.float32)
        used = weight.to(gates.dtype)
        opened = torch.empty_like(gates, dtype=exact)  # the gates, after their nonlinearity
        cells = opened.new_empty(len(gates), weight.shape[1])
        hidden = torch.empty_like(cells, dtype=gates.dtype)
        before, cell = h.to(gates.dtype), c.to(exact)
        with torch.autocast("cpu", enabled=False):
            for start, end in _steps(sizes):
                n = end - start
                opened[start:end] = torch.addmm(gates[start:end], before[:n], used.t())
                i, f, g, o = opened[start:end].chunk(4, dim=1)
                i.sigmoid_(), f.sigmoid_(), g.tanh_(), o.sigmoid_()
                cell = torch.addcmul(i * g, f, cell[:n])
                cells[start:end] = cell
                hidden[start:end] = o * cell.tanh()
                before = hidden[start:end]
        ctx.save_for_backward(used, h, c, opened, cells, hidden)
        ctx.sizes, ctx.weight_type = sizes, weight.dtype
        return hidden

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        used, h, c, opened, cells, hidden = ctx.saved_tensors
        d_hidden = grads[0]  # [T, W]
        d_gates = torch.empty_like(opened, dtype=used.dtype)
        d_h, d_c = (torch.zeros_like(state, dtype=cells.dtype) for state in (h, c))
        steps = _steps(ctx.sizes)
        before = [(h.to(used.dtype), c.to(cells.dtype))] + [(hidden[at:to], cells[at:to]) for at, to in steps[:-1]]
        for (start, end), (_, last) in zip(reversed(steps), reversed(before), strict=True):
            n = end - start
            i, f, g, o = opened[start:end].chunk(4, dim=1)
            out = cells[start:end].tanh()
            d_h[:n] += d_hidden[start:end]
            d_c[:n] += d_h[:n] * o * (1 - out * out)
            through = d_c[:n]
            d_gates[start:end] = torch.cat(
                (
                    through * g * i * (1 - i),
                    through * last[:n] * f * (1 - f),
                    through * i * (1 - g * g),
                    d_h[:n] * out * o * (1 - o),
                ),
                dim=1,
            )
            d_c[:n] *= f
            d_h[:n] = d_gates[start:end] @ used
        states = torch.cat([state[:n] for (state, _), n in zip(before, ctx.sizes, strict=True)])  # [T, W]
        d_weight = (d_gates.t() @ states).to(ctx.weight_type)
        return d_gates, d_weight, d_h.to(h.dtype), d_c.to(c.dtype), None


def _steps(sizes: list[int]) -> list[tuple[int, int]]:
    """Return where the tokens of each step begin and end."""
    return list(pairwise(accumulate(sizes, initial=0)))
