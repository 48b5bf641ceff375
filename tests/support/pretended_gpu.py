"""A pretended GPU: tensors that say `cuda:0` and are computed on the CPU.

It finds what breaks or waits on a GPU, on a machine without one:

- An operation on tensors of both devices raises RuntimeError, as on CUDA. Like CUDA it allows a CPU tensor without
  dimensions, and CPU indices.
- Every wait of the host for the device is counted with the line of code that waits: `item`, `tolist`, `nonzero`,
  indexing by a mask, copies to the host, and copies to the device from memory that is not pinned.
- Every dispatched operation that computes something is counted as a launch. Views launch nothing.
- cuDNN's LSTM is one launch. It refuses a backward pass after a forward pass in eval mode and warns about weights that
  are not flattened.

Numbers are the CPU's, speed means nothing, and waits inside of CUDA's own operations are not seen.
"""

import sys
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode, _get_current_dispatch_mode
from torch.utils._pytree import tree_flatten, tree_map

from captioner.model.search import forbidden

DEVICE = torch.device("cuda:0")
ROOT = str(Path(__file__).parents[2])
aten = torch.ops.aten
WAITING = {"_local_scalar_dense", "nonzero", "masked_select", "equal", "is_nonzero", "_unique2", "unique_dim"}
INDEXING = {"index", "index_put", "index_put_", "_index_put_impl_"}
MOVING = {"_to_copy", "copy_"}


class GPUTensor(Tensor):
    """Says that it is on cuda:0; `held` is its value, on the CPU."""

    held: Tensor

    @staticmethod
    def __new__(cls, held: Tensor) -> "GPUTensor":
        # torch's C++ takes it for a CPU tensor with CUDA's dispatch keys, so that autograd needs no driver
        tensor = Tensor._make_subclass(cls, held, device_for_backend_keys=DEVICE)  # type: ignore[attr-defined]
        tensor.held = held
        return tensor

    @property
    def device(self) -> torch.device:  # type: ignore[override]
        return DEVICE

    @property
    def is_cuda(self) -> bool:  # type: ignore[override]
        return True

    def to(self, *args: Any, **kwargs: Any) -> Tensor:  # type: ignore[override]
        """As torch's; a tensor or a device or a type first."""
        if args and isinstance(args[0], Tensor):
            args = (args[0].device, args[0].dtype, *args[1:])
        device, dtype, non_blocking, layout = torch._C._nn._parse_to(*args, **kwargs)
        if device is not None and device.type == "cpu":
            return _ToHost.apply(self, dtype or self.dtype, non_blocking)
        options = {} if layout is None else {"memory_format": layout}
        return Tensor.to(self, dtype or self.dtype, **options)

    def cpu(self, *_: Any) -> Tensor:  # type: ignore[override]
        return self.to("cpu")

    def numpy(self, *_: Any, **__: Any) -> Any:  # type: ignore[override]
        raise TypeError("can't convert cuda:0 device type tensor to numpy. Use Tensor.cpu() first")

    __array__ = numpy  # type: ignore[assignment]

    __torch_function__ = torch._C._disabled_torch_function_impl  # type: ignore[assignment]

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        raise AssertionError(f"{func}: a tensor of the pretended GPU is used outside of `pretended_gpu`")

    def __deepcopy__(self, memo: dict[int, Any]) -> "GPUTensor":
        if id(self) not in memo:
            copied = self.detach().clone().requires_grad_(self.requires_grad)
            if hasattr(self, "_is_param"):
                copied._is_param = True
            memo[id(self)] = copied
        return memo[id(self)]

    def __reduce_ex__(self, protocol: Any) -> Any:
        return self.detach().cpu().__reduce_ex__(protocol)  # as torch.save does, and torch.load onto the CPU

    def tolist(self) -> Any:
        return self.cpu().tolist()

    def __repr__(self, **_: Any) -> str:
        return f"GPUTensor({self.held!r})"


class _ToHost(torch.autograd.Function):
    """The copy to the host."""

    @staticmethod
    def forward(ctx: Any, source: GPUTensor, dtype: torch.dtype, non_blocking: bool) -> Tensor:
        gpu = _get_current_dispatch_mode()
        gpu.launches["copy to cpu"] += 1
        if not non_blocking:
            gpu.waited("copy to cpu")
        return source.held.to(dtype, copy=True)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        return grads[0].to(DEVICE), None, None


class PretendedGPU(TorchDispatchMode):
    """Runs the operations; `waits` counts (operation, file:line), `launches` counts operations."""

    def __init__(self) -> None:
        super().__init__()
        self.waits: Counter[tuple[str, str]] = Counter()
        self.launches: Counter[str] = Counter()
        self.steps = 0  # of LSTMs

    def reset(self) -> None:
        """Count from 0 again."""
        self.waits.clear()
        self.launches.clear()
        self.steps = 0

    @contextmanager
    def counting(self) -> Iterator["PretendedGPU"]:
        """Count from 0 again, for a `with` block."""
        self.reset()
        yield self

    def waited(self, operation: str) -> None:
        """Count a wait at the line of the project that caused it."""
        frame, place = sys._getframe(1), "elsewhere"
        while frame:
            file = frame.f_code.co_filename
            if file.startswith(ROOT) and file != __file__ and "site-packages" not in file:
                place = f"{Path(file).relative_to(ROOT)}:{frame.f_lineno}"
                break
            frame = frame.f_back  # type: ignore[assignment]
        self.waits[operation, place] += 1

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        name = func._schema.name.split("::")[1]
        if name == "is_pinned":
            return getattr(args[0], "pinned", False)
        if name in ("pin_memory", "_pin_memory"):
            pinned = args[0].clone()
            pinned.pinned = True
            return pinned
        tensors = [part for part in tree_flatten((args, kwargs))[0] if isinstance(part, Tensor)]
        on_gpu = [tensor for tensor in tensors if isinstance(tensor, GPUTensor)]
        device = kwargs.get("device")
        if not on_gpu and (device is None or torch.device(device).type != "cuda"):
            return func(*args, **kwargs)
        if name in MOVING:
            return self._move(name, func, args, kwargs)
        self._check(name, args, tensors, on_gpu)
        if device is not None:
            kwargs["device"] = torch.device("cpu")
        if kwargs.pop("pin_memory", None):
            raise RuntimeError("only a tensor on the CPU can be pinned")
        result = _SUBSTITUTES.get(name, func)(*tree_map(_held, args), **tree_map(_held, kwargs))
        if not _is_view(func):
            self.launches[name] += 1
        if not isinstance(result, Tensor | tuple | list):
            return result
        known = {id(tensor.held): tensor for tensor in on_gpu}  # what is computed in place stays itself


        def wrapped(part: Any) -> Any:
            if not isinstance(part, Tensor):
                return part
            return known[id(part)] if id(part) in known else GPUTensor(part)

        return tree_map(wrapped, result)

    def _check(self, name: str, args: Any, tensors: list[Tensor], on_gpu: list[GPUTensor]) -> None:
        """Raise where devices mix, count where the operation waits."""
        if name in WAITING:
            self.waited(name)
        elsewhere = [tensor for tensor in tensors if not isinstance(tensor, GPUTensor) and tensor.ndim]
        if name in INDEXING:
            indices = [index for index in args[1] if index is not None]
            if any(index.dtype in (torch.bool, torch.uint8) for index in indices):
                self.waited(f"{name} by a mask")
            if any(not isinstance(index, GPUTensor) for index in indices):
                self.waited(f"{name} by an index on the CPU")
                elsewhere = [tensor for tensor in elsewhere if not any(tensor is index for index in indices)]
            if not isinstance(args[0], GPUTensor):
                raise RuntimeError(f"{name}: indices should be on the CPU, as the indexed tensor is")
        if on_gpu and elsewhere:
            raise RuntimeError(f"{name}: expected all tensors on one device, found cuda:0 and {elsewhere[0].device}")

    def _move(self, name: str, func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
        """Copy within the GPU or between the devices."""
        self.launches[name] += 1
        source = args[1] if name == "copy_" else args[0]
        if name == "copy_":
            to = args[0].device
        else:
            to = DEVICE  # away from it goes GPUTensor.to
            kwargs.pop("device", None)
        waits = source.device != to and (to.type == "cpu" or not getattr(source, "pinned", False))
        asked = args[2] if len(args) > 2 else kwargs.get("non_blocking", False)
        if waits:
            self.waited(f"copy to {to.type}")
        elif source.device != to and not asked:
            self.waited(f"copy to {to.type}, blocking")
        kwargs.pop("non_blocking", None)
        if name == "copy_":
            _held(args[0]).copy_(_held(source))
            return args[0]
        copied = func(*tree_map(_held, args), **kwargs)
        return GPUTensor(copied)


def _held(part: Any) -> Any:
    return part.held if isinstance(part, GPUTensor) else part


def _is_view(func: Any) -> bool:
    returned = func._schema.returns
    return bool(returned) and returned[0].alias_info is not None and not returned[0].alias_info.is_write


def _fused_lstm_cell(
    input_gates: Tensor, hidden_gates: Tensor, cell: Tensor, *biases: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Do what `_thnn_fused_lstm_cell` does, which a CPU lacks."""
    gates = sum((bias for bias in biases if bias is not None), input_gates + hidden_gates)
    i, f, g, o = gates.chunk(4, dim=1)
    new = f.sigmoid() * cell + i.sigmoid() * g.tanh()
    return o.sigmoid() * new.tanh(), new, gates


_SUBSTITUTES: dict[str, Callable] = {"_thnn_fused_lstm_cell": _fused_lstm_cell}


class _CuDNN(torch.autograd.Function):
    """torch's LSTM as one operation of the GPU."""

    @staticmethod
    def forward(ctx: Any, gpu: PretendedGPU, run: Callable, train: bool, *inputs: Tensor) -> Any:
        if any(not isinstance(part, GPUTensor) for part in inputs):
            raise RuntimeError("lstm: input, states and weights must be on cuda:0")
        with torch.enable_grad():
            held = [part.held.detach().requires_grad_() for part in inputs]
            outputs = run(*held)
        gpu.launches["_cudnn_rnn"] += 1
        ctx.set_materialize_grads(False)
        ctx.gpu, ctx.train, ctx.held, ctx.outputs = gpu, train, held, outputs
        return tuple(GPUTensor(part.detach()) for part in outputs)

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        if not ctx.train:
            raise RuntimeError("cudnn RNN backward can only be called in training mode")
        ctx.gpu.launches["_cudnn_rnn_backward"] += 1
        given = [
            torch.zeros_like(part) if grad is None else grad.held
            for part, grad in zip(ctx.outputs, grads, strict=True)
        ]
        found = torch.autograd.grad(ctx.outputs, ctx.held, given)
        return None, None, None, *map(GPUTensor, found)


def _lstm_of(gpu: PretendedGPU, original: Callable) -> Callable:
    def lstm(data: Tensor, *rest: Any) -> Any:
        """Both forms of torch.lstm: (input, hx, weights, ...) and (data, batch_sizes, hx, weights, ...)."""
        packed = isinstance(rest[0], Tensor)
        sizes = [rest[0]] if packed else []
        states, weights, *options = rest[len(sizes) :]
        if not isinstance(data, GPUTensor):
            return original(data, *rest)
        if sizes and isinstance(sizes[0], GPUTensor):
            raise RuntimeError("lstm: batch_sizes must be on the CPU")
        if not all(getattr(weight, "flat", False) for weight in weights):
            warnings.warn("RNN module weights are not part of single contiguous chunk of memory", stacklevel=3)
        train = options[3]  # has_biases, num_layers, dropout, train, bidirectional
        gpu.steps += len(sizes[0]) if sizes else data.shape[1]

        def run(data: Tensor, h: Tensor, c: Tensor, *weights: Tensor) -> Any:
            return original(data, *sizes, (h, c), list(weights), *options)

        return _CuDNN.apply(gpu, run, train, data, *states, *weights)

    return lstm


def _apply_of(original: Callable) -> Callable:
    def apply(module: torch.nn.Module, function: Callable, recurse: bool = True) -> torch.nn.Module:
        """Change parameters in place, so that optimizers still have them; torch would replace their data."""
        for child in module.children() if recurse else ():
            child._apply(function)
        for parameter in module._parameters.values():
            if parameter is None:
                continue
            with torch.no_grad():
                applied = function(parameter)
            if applied is not parameter and isinstance(parameter, GPUTensor) | isinstance(applied, GPUTensor):
                replacement = torch.nn.Parameter(applied, requires_grad=parameter.requires_grad)
                torch.utils.swap_tensors(parameter, replacement)
        return original(module, lambda part: part if isinstance(part, torch.nn.Parameter) else function(part), False)

    return apply


def _flatten_parameters(lstm: torch.nn.LSTM) -> None:
    for weight in lstm._flat_weights:
        if isinstance(weight, GPUTensor):
            weight.flat = True  # type: ignore[attr-defined]


@contextmanager
def pretended_gpu() -> Iterator[PretendedGPU]:
    """Make torch believe in one GPU with bfloat16, in this thread, until the `with` block ends."""
    gpu = PretendedGPU()
    rnn = torch.nn.modules.rnn
    says: dict[str, Any] = {
        "is_available": True,
        "is_bf16_supported": True,
        "is_current_stream_capturing": False,
        "device_count": 1,
        "current_device": 0,
        "set_device": None,
        "_lazy_init": None,
    }
    with ExitStack() as stack:
        for name, value in says.items():
            stack.enter_context(patch.object(torch.cuda, name, lambda *_, value=value, **__: value))
        stream = SimpleNamespace(is_capturing=lambda: False)
        stack.enter_context(patch.object(torch.accelerator, "current_stream", lambda *_: stream))
        stack.enter_context(patch.object(rnn._VF, "lstm", _lstm_of(gpu, rnn._VF.lstm), create=True))
        stack.enter_context(patch.object(torch.nn.RNNBase, "flatten_parameters", _flatten_parameters))
        stack.enter_context(patch.object(torch.nn.Module, "_apply", _apply_of(torch.nn.Module._apply)))
        stack.enter_context(torch.backends.cudnn.flags(enabled=False))  # other operations then have CPU forms
        stack.enter_context(torch.autograd.set_multithreading_enabled(False))  # there is no thread of that GPU
        stack.callback(forbidden.cache_clear)
        forbidden.cache_clear()
        stack.enter_context(gpu)
        yield gpu
