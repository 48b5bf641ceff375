"""A pretended GPU: tensors that say `cuda:0` and are computed on the CPU.

It finds what fails or waits on a GPU, on a machine without one:

- An operation on tensors of both devices raises RuntimeError, as on CUDA. As on CUDA, a CPU tensor without dimensions
  is allowed, and so are indices on the CPU.
- Each wait of the host for the device is counted, with the line of the project that waits: `item`, `tolist`, `nonzero`,
  indexing by a mask, copies to the host, and copies to the device from memory that is not pinned.
- Each dispatched operation that computes something is counted as a launch. Views and empty tensors launch nothing.
- cuDNN's LSTM is one launch. It refuses a backward pass after a forward pass in eval mode, and warns about weights that
  are not in one piece of memory.
- A CUDA graph records operations with the tensors that they read and write. To replay them is one launch. A wait while
  it records raises RuntimeError, as on CUDA.

The numbers are the CPU's. Speed means nothing. Waits inside CUDA's own operations are not seen.

torch's C++ takes these tensors for CPU tensors with CUDA's dispatch keys, so autograd needs no driver. What torch
decides in C++ by the device is done here instead: autocast, dropout, the LSTM, its cell, tensors of Python's numbers.
"""

import functools
import sys
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch
from weakref import WeakSet

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode, handle_torch_function, has_torch_function
from torch.utils import _foreach_utils as foreach
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map
from torch.utils.flop_counter import flop_registry

from captioner.model.search import forbidden

DEVICE = torch.device("cuda:0")
ROOT = Path(__file__).parents[2]
WAITING = {"_local_scalar_dense", "nonzero", "masked_select", "equal", "_unique2", "unique_dim", "unique_consecutive"}
INDEXING = {"index", "index_put", "index_put_", "_index_put_impl_", "_unsafe_index_put"}
COPYING = {"_to_copy", "copy_"}
FREE = {"_unsafe_view", "_reshape_alias", "unsafe_split", "empty", "empty_like", "empty_strided", "new_empty", "detach"}
# of CUDA's lists for autocast (docs.pytorch.org/docs/stable/amp.html), by the names of torch's functions
LOWER = {"linear", "matmul", "__matmul__", "__rmatmul__", "mm", "bmm", "addmm", "baddbmm", "conv2d", "lstm_cell"}
FLOAT32 = {
    "softmax", "log_softmax", "layer_norm", "group_norm", "cross_entropy", "nll_loss", "sum", "prod", "cumsum", "norm",
    "pow", "__pow__", "exp", "log", "reciprocal", "rsqrt", "cosine_similarity", "normalize",
}  # fmt: skip
WIDEST = {"cat", "stack", "addcmul", "addcdiv", "scatter_add", "index_put"}
_active: list["PretendedGPU"] = []
_autocasts: "WeakSet[_Autocast]" = WeakSet()


class GPUTensor(Tensor):
    """A tensor that says that it is on cuda:0; `held` is its value, on the CPU."""

    held: Tensor
    __torch_function__ = torch._C._disabled_torch_function_impl

    @staticmethod
    def __new__(cls, held: Tensor) -> "GPUTensor":
        tensor = Tensor._make_subclass(cls, held, device_for_backend_keys=DEVICE)
        tensor.held = held
        return tensor

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run an operation of a thread that the dispatch mode does not reach."""
        return gpu_in_use().run(func, args, kwargs or {})

    @property
    def device(self) -> torch.device:
        return DEVICE

    @property
    def is_cuda(self) -> bool:
        return True

    def to(self, *args: Any, **kwargs: Any) -> Tensor:
        if args and isinstance(args[0], Tensor):
            args = (args[0].device, args[0].dtype, *args[1:])
        device, dtype, non_blocking, layout = torch._C._nn._parse_to(*args, **kwargs)
        dtype = dtype or self.dtype
        if device is not None and device.type == "cpu":
            return _ToHost.apply(self, dtype, non_blocking)
        return Tensor.to(self, dtype) if layout is None else Tensor.to(self, dtype, memory_format=layout)

    def cpu(self, *_: Any) -> Tensor:
        return self.to("cpu")

    def tolist(self) -> Any:
        return self.detach().cpu().tolist()

    def numpy(self, *_: Any, **__: Any) -> Any:
        raise TypeError("can't convert cuda:0 device type tensor to numpy. Use Tensor.cpu() first")

    __array__ = numpy

    def __format__(self, form: str) -> str:
        return format(self.detach().item() if self.ndim == 0 else repr(self), form)

    def __deepcopy__(self, memo: dict[int, Any]) -> "GPUTensor":
        if id(self) not in memo:
            copied = self.detach().clone().requires_grad_(self.requires_grad)
            if hasattr(self, "_is_param"):
                copied._is_param = True
            memo[id(self)] = copied
        return memo[id(self)]

    def __reduce_ex__(self, protocol: Any) -> Any:
        return self.detach().cpu().__reduce_ex__(protocol)  # as torch.save stores it, and torch.load maps it to the CPU

    def __repr__(self, **_: Any) -> str:
        return f"GPUTensor({self.held!r})"


class PretendedGPU(TorchDispatchMode):
    """Runs the operations and counts: `waits` by (operation, "file:line"), `launches` by operation.

    `lstm_steps` is the number of time steps that cuDNN's LSTM computed, forward.
    """

    def __init__(self) -> None:
        super().__init__()
        self.waits: Counter[tuple[str, str]] = Counter()
        self.launches: Counter[str] = Counter()
        self.lstm_steps = 0
        self.recording: PretendedGraph | None = None
        self.stream = "default"

    def reset(self) -> None:
        """Count from 0 again."""
        self.waits.clear()
        self.launches.clear()
        self.lstm_steps = 0

    def launch(self, launched: "Launch") -> None:
        """Count a launch, or record it in the graph."""
        if self.recording is None:
            self.launched(launched)
        else:
            self.recording.launches.append(launched)

    def launched(self, launched: "Launch") -> None:
        """Count a launch."""
        self.launches[launched.operation] += 1

    def replayed(self, launches: "Sequence[Launch]") -> None:
        """Count the launch of a graph that recorded these."""
        self.launches["graph"] += 1

    def computed(self, compute: Callable[[], Any], result: Any) -> None:
        """Record in the graph, if there is one, that `compute` gave `result`; both are of tensors on the CPU."""
        if self.recording is not None:
            self.recording.operations.append((compute, result))

    def computing(self) -> AbstractContextManager[None]:
        """Hold what the CPU computes in the GPU's place, beside `run`."""
        return nullcontext()

    def pretending(self) -> AbstractContextManager[None]:
        """Hold what Python does in place of torch's C++; operations in it count."""
        return nullcontext()

    def waited(self, operation: str) -> None:
        """Count a wait, at the innermost line of the project outside of this file."""
        if self.recording is not None:
            raise RuntimeError(f"{operation}: operation not permitted when stream is capturing")
        frame, place = sys._getframe(1), "elsewhere"
        while frame is not None:
            file = frame.f_code.co_filename
            if file != __file__ and file.startswith(str(ROOT)) and "site-packages" not in file:
                place = f"{Path(file).relative_to(ROOT)}:{frame.f_lineno}"
                break
            frame = frame.f_back
        self.waits[operation, place] += 1

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return self.run(func, args, kwargs or {})

    def run(self, func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
        """Run one operation."""
        name = func._schema.name.split("::")[1]
        if name == "is_pinned":
            return getattr(args[0], "pinned", False)
        tensors = [part for part in tree_leaves((args, kwargs)) if isinstance(part, Tensor)]
        on_gpu = [tensor for tensor in tensors if isinstance(tensor, GPUTensor)]
        device = next((part for part in tree_leaves((args, kwargs)) if isinstance(part, torch.device)), None)
        if not on_gpu and (device is None or device.type != "cuda"):
            return self.run_on_host(func, args, kwargs)
        with self:  # inference mode hands over operations that are made of others
            decomposed = func.decompose(*args, **kwargs)
        if decomposed is not NotImplemented:
            return decomposed
        if name in COPYING:
            return self._copy(name, func, args, kwargs)
        self._check(name, args, tensors)
        if device is not None:
            kwargs = kwargs | {"device": torch.device("cpu")}
        compute = functools.partial(func, *tree_map(_held, args), **tree_map(_held, kwargs))
        result = compute()
        if name not in FREE and not _is_view(func):
            self.computed(compute, result)
        moved = [_held(tensor) for tensor in tensors] + [
            part for part in tree_leaves(result) if isinstance(part, Tensor)
        ]
        if name not in FREE and not _is_view(func) and (result is None or len(moved) > len(tensors)):
            self.launch(Launch(name, moved, lambda: _flops(func, tree_map(_held, args), result)))
        known = {id(tensor.held): tensor for tensor in on_gpu}  # the result of an operation in place is its argument

        def wrapped(part: Any) -> Any:
            if not isinstance(part, Tensor):
                return part
            return known[id(part)] if id(part) in known else GPUTensor(part)

        return tree_map(wrapped, result)

    def run_on_host(self, func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
        """Run an operation of the CPU on tensors of the CPU."""
        return func(*args, **kwargs)

    def _check(self, name: str, args: Any, tensors: list[Tensor]) -> None:
        """Raise where devices mix; count where the operation waits."""
        if name in WAITING:
            self.waited(name)
        indices = [index for index in args[1] if index is not None] if name in INDEXING else []
        if indices and not isinstance(args[0], GPUTensor):
            raise RuntimeError(f"{name}: the indices must be on the CPU, as the indexed tensor is")
        if any(index.dtype in (torch.bool, torch.uint8) for index in indices):
            self.waited(f"{name} by a mask")
        elif any(not isinstance(index, GPUTensor) for index in indices):
            self.waited(f"{name} by an index on the CPU")
        allowed = set(map(id, indices))
        for tensor in tensors:
            if tensor.ndim and not isinstance(tensor, GPUTensor) and id(tensor) not in allowed:
                raise RuntimeError(f"{name}: expected all tensors to be on the same device, found cuda:0 and cpu")

    def _copy(self, name: str, func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
        """Copy within the GPU or to it, or into a tensor of the host; `GPUTensor.to` makes new tensors there."""
        into, source = (args[0], args[1]) if name == "copy_" else (None, args[0])
        to = DEVICE if into is None else into.device
        non_blocking = kwargs.get("non_blocking", args[2] if len(args) > 2 else False)
        if to != source.device and not (non_blocking and (to.type == "cpu" or getattr(source, "pinned", False))):
            self.waited(f"copy to {to.type}")
        self.launch(Launch(name, [_held(source)] * 2))
        if into is not None:
            self.computed(functools.partial(_held(into).copy_, _held(source)), _held(into).copy_(_held(source)))
            return into
        options = {key: value for key, value in kwargs.items() if key not in ("device", "non_blocking", "pin_memory")}
        compute = functools.partial(func, _held(source), **options)
        self.computed(compute, copied := compute())
        return GPUTensor(copied)


@dataclass(frozen=True)
class Launch:
    """A launch: `tensors` are what it reads and writes, on the CPU; `flops` returns its floating-point operations;
    `steps` are the time steps that it computes one after the other."""

    operation: str
    tensors: Sequence[Tensor]
    flops: Callable[[], int] = lambda: 0
    steps: int = 1


class PretendedGraph:
    """torch.cuda.CUDAGraph: `operations` have what computes each again, and the result, whose memory it takes."""

    def __init__(self) -> None:
        self.operations: list[tuple[Callable[[], Any], Any]] = []
        self.launches: list[Launch] = []

    def pool(self) -> tuple[int, int]:
        return (0, 1)

    def replay(self) -> None:
        gpu = gpu_in_use()
        with gpu.computing():
            gpu.replayed(self.launches)
            for compute, result in self.operations:
                for into, new in zip(tree_leaves(result), tree_leaves(compute()), strict=True):
                    if new is not into:
                        into.copy_(new)


@contextmanager
def _recording(graph: PretendedGraph, pool: Any = None, capture_error_mode: str = "global") -> Iterator[None]:
    """Do what torch.cuda.graph does. CUDA computes nothing meanwhile, so random numbers are given back."""
    gpu, random = gpu_in_use(), torch.get_rng_state()
    gpu.recording, gpu.stream = graph, "of the recording"
    try:
        yield
    except RuntimeError:  # torch ends a failed recording with another error, on its own stream
        raise RuntimeError("operation failed due to a previous error during capture")  # noqa: B904
    else:
        gpu.stream = "default"
    finally:
        gpu.recording = None
        torch.set_rng_state(random)


def gpu_in_use() -> PretendedGPU:
    """Return the pretended GPU; raise RuntimeError outside of `pretended_gpu`."""
    if not _active:
        raise RuntimeError("a tensor of the pretended GPU is used outside of `pretended_gpu`")
    return _active[-1]


def _held(part: Any) -> Any:
    return part.held if isinstance(part, GPUTensor) else part


def _pinned(tensor: Tensor) -> Tensor:
    """Do what Tensor.pin_memory does, also in threads that the dispatch mode does not reach."""
    if isinstance(tensor, GPUTensor):
        raise RuntimeError("only tensors on the CPU can be pinned")
    if getattr(tensor, "pinned", False):
        return tensor
    copied = tensor.clone()
    copied.pinned = True
    return copied


def _is_view(func: Any) -> bool:
    returned = func._schema.returns
    return bool(returned) and returned[0].alias_info is not None and not returned[0].alias_info.is_write


def _flops(func: Any, args: Any, result: Any) -> int:
    """Return the floating-point operations of a product or convolution, 0 for anything else."""
    count = flop_registry.get(func.overloadpacket)
    return 0 if count is None else count(*args, out_val=result)


def _lstm_flops(lstm_inputs: Sequence[Tensor]) -> int:
    """Return the floating-point operations of the products of (x [..., I], h, c, weights [4W, I] and [4W, W])."""
    x, _, _, into, again, *_ = lstm_inputs
    return 2 * (x.numel() // x.shape[-1]) * (into.numel() + again.numel())


class _Autocast(TorchFunctionMode):
    """torch.autocast of CUDA; operations on other tensors are left alone.

    As on CUDA, a weight that needs a gradient is converted once in a context, also where no gradients are computed.
    """

    def __init__(self, dtype: torch.dtype, enabled: bool):
        super().__init__()
        self.dtype, self.enabled = dtype, enabled
        self._weights: dict[int, Tensor] = {}  # converted, by the id of the weight
        _autocasts.add(self)

    def _converted(self, part: Tensor, dtype: torch.dtype) -> Tensor:
        if not (part.is_leaf and part.requires_grad and dtype == self.dtype):
            return part.to(dtype)
        if id(part) not in self._weights:
            with torch.enable_grad():
                self._weights[id(part)] = part.to(dtype)
        return self._weights[id(part)]

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs, name = kwargs or {}, getattr(func, "__name__", "")
        if self.enabled and name in LOWER | FLOAT32 | WIDEST:
            with gpu_in_use().pretending():
                args, kwargs = self._cast(name, args, kwargs)
        with torch._C.DisableTorchFunction():  # the context around this one does not count
            return func(*args, **kwargs)

    def _cast(self, name: str, args: Any, kwargs: Any) -> Any:
        floats = [
            part
            for part in tree_leaves((args, kwargs))
            if isinstance(part, GPUTensor) and part.is_floating_point() and part.dtype != torch.float64
        ]
        narrow = all(part.dtype == self.dtype for part in floats)
        dtype = self.dtype if name in LOWER or (name in WIDEST and narrow) else torch.float32
        wrong = {id(part) for part in floats if part.dtype != dtype}
        return tree_map(lambda part: self._converted(part, dtype) if id(part) in wrong else part, (args, kwargs))


def _clear_autocast_cache() -> None:
    for autocast in _autocasts:
        autocast._weights.clear()


def _autocast_instead_of(original: Callable) -> Callable:
    def autocast(device_type: str, dtype: torch.dtype | None = None, enabled: bool = True, **options: Any) -> Any:
        if device_type != "cuda":
            return original(device_type, dtype=dtype, enabled=enabled, **options)
        return _Autocast(dtype or torch.float16, enabled)

    return autocast


def _tensor_instead_of(original: Callable) -> Callable:
    def tensor(data: Any, **options: Any) -> Tensor:
        device = options.pop("device", None)
        tensor_made = original(data, **options)
        return tensor_made if device is None else tensor_made.to(device)

    return tensor


def _dropout_instead_of(original: Callable) -> Callable:
    def dropout(x: Tensor, p: float, train: bool) -> Tensor:
        if not isinstance(x, GPUTensor) or not train or p == 0:
            return original(x, p, train)
        return torch.native_dropout(x, p, True)[0]

    return dropout


def _cell_instead_of(original: Callable) -> Callable:
    def lstm_cell(x: Tensor, state: tuple[Tensor, Tensor], *weights: Tensor) -> Any:
        """Two matrix products and a launch for the rest; with gradients, which nobody needs here, more launches."""
        parts = (x, *state, *weights)
        if not any(isinstance(part, GPUTensor) for part in parts) or torch.is_grad_enabled():
            return original(x, state, *weights)
        if has_torch_function(parts):  # autocast, which then comes here again
            return handle_torch_function(lstm_cell, parts, x, state, *weights)
        if not all(isinstance(part, GPUTensor) for part in parts):
            raise RuntimeError("lstm_cell: expected the input, the states and the weights to be on cuda:0")
        x, h, c, into, again, *biases = (_held(part) for part in parts)
        with gpu_in_use().computing():
            new = original(x, (h, c), into, again, *biases)
        gpu_in_use().computed(functools.partial(original, x, (h, c), into, again, *biases), new)
        for state, weight in ((x, into), (h, again)):
            flops = 2 * len(state) * weight.numel()
            gpu_in_use().launch(Launch("addmm", [state, weight], lambda flops=flops: flops))
        gpu_in_use().launch(Launch("_thnn_fused_lstm_cell", [c, *new, *[c] * 8]))  # and both gates, [n, 4W]
        return tuple(map(GPUTensor, new))

    return lstm_cell


class _ToHost(torch.autograd.Function):
    """The copy to the host."""

    @staticmethod
    def forward(ctx: Any, source: GPUTensor, dtype: torch.dtype, non_blocking: bool) -> Tensor:
        gpu_in_use().launch(Launch("_to_copy", [source.held] * 2))
        if not non_blocking:
            gpu_in_use().waited("copy to cpu")
        with gpu_in_use().computing():
            return source.held.to(dtype, copy=True)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        return grads[0].to(DEVICE), None, None


class _CuDNN(torch.autograd.Function):
    """torch's LSTM as one operation of the GPU; `compute` takes and returns tensors on the CPU."""

    @staticmethod
    def forward(ctx: Any, compute: Callable, train: bool, steps: int, *inputs: Tensor) -> Any:
        if not all(isinstance(part, GPUTensor) for part in inputs):
            raise RuntimeError("lstm: expected the input, the states and the weights to be on cuda:0")
        ctx.set_materialize_grads(False)
        with gpu_in_use().computing(), torch.enable_grad():
            ctx.inputs = [part.held.detach().requires_grad_() for part in inputs]
            ctx.outputs = compute(*ctx.inputs)
        ctx.train, ctx.steps = train, steps
        gpu = gpu_in_use()
        gpu.lstm_steps += steps
        gpu.launch(Launch("_cudnn_rnn", [*ctx.inputs, *ctx.outputs], lambda: _lstm_flops(ctx.inputs), steps))
        return tuple(GPUTensor(part.detach()) for part in ctx.outputs)

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        if not ctx.train:
            raise RuntimeError("cudnn RNN backward can only be called in training mode")
        moved = [*ctx.inputs, *ctx.inputs, *ctx.outputs, *ctx.outputs]
        gpu_in_use().launch(Launch("_cudnn_rnn_backward", moved, lambda: 2 * _lstm_flops(ctx.inputs), ctx.steps))
        used = [(output, grad.held) for output, grad in zip(ctx.outputs, grads, strict=True) if grad is not None]
        with gpu_in_use().computing():
            gradients = torch.autograd.grad([output for output, _ in used], ctx.inputs, [grad for _, grad in used])
        return None, None, None, *map(GPUTensor, gradients)


def _lstm_instead_of(original: Callable) -> Callable:
    def lstm(data: Tensor, *rest: Any) -> Any:
        """Take what torch.lstm takes: (input, hx, weights, ...), or packed (data, batch_sizes, hx, weights, ...)."""
        if not isinstance(data, GPUTensor):
            return original(data, *rest)
        sizes = rest[:1] if isinstance(rest[0], Tensor) else ()
        states, weights, *options = rest[len(sizes) :]  # the fourth option is the train mode
        if any(isinstance(part, GPUTensor) for part in sizes):
            raise RuntimeError("lstm: expected batch_sizes to be on the CPU")
        if not all(getattr(weight, "flat", False) for weight in weights):
            warnings.warn("RNN module weights are not part of single contiguous chunk of memory", stacklevel=3)
        steps = len(sizes[0]) if sizes else data.shape[1]

        def compute(data: Tensor, h: Tensor, c: Tensor, *weights: Tensor) -> Any:
            return original(data, *sizes, (h, c), list(weights), *options)

        return _CuDNN.apply(compute, options[3], steps, data, *states, *weights)

    return lstm


def _flatten(lstm: torch.nn.LSTM) -> None:
    """Do what `flatten_parameters` does: from then on the weights are in one piece."""
    for weight in lstm._flat_weights:
        if isinstance(weight, GPUTensor):
            weight.flat = True


def _apply_instead_of(original: Callable) -> Callable:
    def apply(module: torch.nn.Module, function: Callable, recurse: bool = True) -> torch.nn.Module:
        """Move parameters and leave them the same objects, as torch does by replacing their data."""
        for child in module.children() if recurse else ():
            child._apply(function)
        moved = set()
        for parameter in module._parameters.values():
            if parameter is None:
                continue
            with torch.no_grad():
                result = function(parameter)
            if isinstance(parameter, GPUTensor) or isinstance(result, GPUTensor):
                if result is not parameter:
                    replacement = torch.nn.Parameter(result, requires_grad=parameter.requires_grad)
                    torch.utils.swap_tensors(parameter, replacement)
                moved.add(id(parameter))
        return original(module, lambda part: part if id(part) in moved else function(part), False)

    return apply


def _group_instead_of(original: Callable) -> Callable:
    def group(lists: Any, with_indices: bool = False) -> Any:
        """Tell optimizers the device, of which torch's C++ does not know."""
        groups = original(lists, with_indices)
        first = [next(part for part in tree_leaves(result[0]) if part is not None) for result in groups.values()]
        return {(one.device, dtype): result for one, ((_, dtype), result) in zip(first, groups.items(), strict=True)}

    return group


@contextmanager
def pretended_gpu(gpu: PretendedGPU | None = None) -> Iterator[PretendedGPU]:
    """Make torch believe in one GPU that can compute in bfloat16, until the `with` block ends."""
    gpu = gpu or PretendedGPU()
    answers = {
        "is_available": True,
        "is_bf16_supported": True,
        "is_current_stream_capturing": False,
        "device_count": 1,
        "current_device": 0,
        "set_device": None,
        "_lazy_init": None,
    }
    stream = SimpleNamespace(is_capturing=lambda: False)
    functions, group = torch.nn.modules.rnn._VF, torch._C._group_tensors_by_device_and_dtype
    with ExitStack() as stack:
        for name, answer in answers.items():
            stack.enter_context(patch.object(torch.cuda, name, lambda *_, answer=answer, **__: answer))
        for place, name, value in (
            (torch.cuda, "CUDAGraph", PretendedGraph),
            (torch.cuda, "graph", _recording),
            (torch.cuda, "current_stream", lambda *_: gpu.stream),
            (torch.cuda, "set_stream", lambda stream: setattr(gpu, "stream", stream)),
            (torch.cuda, "get_rng_state", lambda *_: torch.get_rng_state()),
            (torch.cuda, "set_rng_state", lambda state, *_: torch.set_rng_state(state)),
            (torch.accelerator, "current_stream", lambda *_: stream),
            (Tensor, "pin_memory", _pinned),
            (torch, "tensor", _tensor_instead_of(torch.tensor)),
            (torch, "as_tensor", _tensor_instead_of(torch.as_tensor)),
            (torch, "clear_autocast_cache", _clear_autocast_cache),
            (torch, "autocast", _autocast_instead_of(torch.autocast)),
            (torch, "lstm_cell", _cell_instead_of(torch.lstm_cell)),
            (functions, "lstm", _lstm_instead_of(functions.lstm)),
            (functions, "dropout", _dropout_instead_of(functions.dropout)),
            (torch.nn.RNNBase, "flatten_parameters", _flatten),
            (torch.nn.Module, "_apply", _apply_instead_of(torch.nn.Module._apply)),
            (torch._C, "_group_tensors_by_device_and_dtype", _group_instead_of(group)),
            (foreach, "_foreach_supported_types", [*foreach._foreach_supported_types, GPUTensor]),
        ):
            stack.enter_context(patch.object(place, name, value, create=place is functions))
        stack.enter_context(torch.backends.cudnn.flags(enabled=False))  # all but LSTMs then have forms of the CPU
        stack.enter_context(torch.autograd.set_multithreading_enabled(False))  # autograd has no thread for this GPU
        forbidden.cache_clear()  # its tensors live as long as the process
        stack.callback(forbidden.cache_clear)
        _active.append(gpu)
        stack.callback(_active.pop)
        stack.enter_context(gpu)
        yield gpu
