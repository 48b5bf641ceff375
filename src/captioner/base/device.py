"""The device, the precision, and deterministic results.

Environment variables set them, because they do not define the results and DVC should not track them:
    CAPTIONER_DEVICE    auto (default: cuda where it works, else cpu), cpu, cuda, cuda:1, mps
    CAPTIONER_WORKERS   threads that decode photos (default: the number of CPU cores, at most 16)
    CAPTIONER_PROCESSES how many processes compute together (default: 1)
    CAPTIONER_PRECISION auto (default): features and training steps in mixed precision where that is faster;
                        float32: never
    CAPTIONER_GRAPHS    auto (default): words are drawn with CUDA graphs where they work; off: never
"""

import logging
import os
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager

import torch

from captioner.base.errors import CaptionerError

log = logging.getLogger(__name__)


def select_device(device: str | None = None) -> torch.device:
    """Return the device to compute on, after setting torch up for it, for the whole process.

    `device` has the values of CAPTIONER_DEVICE, which is the default. A GPU then computes matrix products, convolutions
    and LSTMs of float32 in float32, not in TF32. Raises CaptionerError for a device that this machine lacks, and for a
    single GPU if several processes share the machine.
    """
    # A CPU caches compiled bfloat16 products by shape, up to 1024 in each of two caches. That takes gigabytes, because
    # captions have many lengths. The variables are read at the first product.
    for cache in ("LRU_CACHE_CAPACITY", "ONEDNN_PRIMITIVE_CACHE_CAPACITY"):
        os.environ.setdefault(cache, "512")
    source = "CAPTIONER_DEVICE" if device is None else "device"
    setting = device or os.environ.get("CAPTIONER_DEVICE", "auto")
    local = os.environ.get("LOCAL_RANK")  # of several processes on this machine
    name = ("cuda" if torch.cuda.is_available() else "cpu") if setting == "auto" else setting
    if name == "cuda" and local:
        name = f"cuda:{local}"
    elif name.startswith("cuda:") and _processes_here() > 1:
        raise CaptionerError(
            f"{source}: {name} is one GPU, and {_processes_here()} processes need one each; set it to cuda, "
            "and CUDA_VISIBLE_DEVICES to theirs"
        )
    try:
        chosen = torch.ones(1, device=name).device  # a GPU that is too old for this torch fails here
    except (RuntimeError, AssertionError) as error:
        reason = "this torch lacks it" if isinstance(error, NotImplementedError) else str(error).splitlines()[0]
        if setting == "auto" and not local:
            log.warning("%s cannot be used here (%s); computing on the CPU", name, reason)
            return torch.device("cpu")
        fewer = ", or start fewer processes" if _processes_here() > 1 else ""
        raise CaptionerError(f"{source}: {name} cannot be used here ({reason}); set it to cpu{fewer}") from None
    if chosen.type not in ("cpu", "cuda", "mps"):
        raise CaptionerError(f"{source}: is {name}, expected auto, cpu, cuda, cuda:N or mps")
    if chosen.type == "cuda":
        torch.cuda.set_device(chosen)  # torch's queries of the current GPU, and pinned memory, then refer to this GPU
    torch.set_float32_matmul_precision("highest")  # images set TORCH_ALLOW_TF32_CUBLAS_OVERRIDE, which allows TF32
    torch.backends.cudnn.allow_tf32 = False  # torch allows it for convolutions and LSTMs
    return chosen


@contextmanager
def explaining_full_memory(advice: str) -> Iterator[None]:
    """Turn the error of a GPU without enough memory into a CaptionerError that gives the advice."""
    try:
        yield
    except torch.OutOfMemoryError as error:
        reason = str(error).partition(". GPU")[0].rstrip(".")  # without the long list of what torch holds
        raise CaptionerError(f"the GPU has too little memory ({reason}); {advice}") from None


def decoding_threads() -> int:
    """Return how many threads decode photos; the processes of a machine share its cores."""
    return _count("CAPTIONER_WORKERS", default=max(1, min(os.cpu_count() or 1, 16) // _processes_here()))


def wanted_processes() -> int:
    """Return the number of processes that a stage starts."""
    return _count("CAPTIONER_PROCESSES", default=1)


def _processes_here() -> int:
    return int(os.environ.get("LOCAL_WORLD_SIZE", "1"))


def _count(variable: str, *, default: int) -> int:
    value = os.environ.get(variable, str(default))
    if not value.isdecimal() or int(value) < 1:
        raise CaptionerError(f"{variable}: is {value!r}, expected a whole number from 1 on")
    return int(value)


def mixed_precision(device: torch.device) -> AbstractContextManager:
    """Return a context for training steps: matrix products in bfloat16 where the device has instructions for it
    (GPUs since Ampere; CPUs with AVX512-BF16 or AMX), weights, sums and a GPU's LSTMs over captions in float32.
    Elsewhere nothing changes.

    Captions that are scored or shown are generated in float32, so that reported results do not depend on the context.
    Captions that self-critical training draws are not.
    """
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=_computes_bfloat16(device))


def half_precision(device: torch.device) -> AbstractContextManager:
    """Return a context for features, which are stored as float16: matrix products are of `features_dtype`."""
    dtype = features_dtype(device)
    return torch.autocast(device.type, dtype=dtype, enabled=dtype != torch.float32)


def features_dtype(device: torch.device) -> torch.dtype:
    """Return the type in which features are computed: float16 on a GPU, bfloat16 on a CPU with instructions for it,
    float32 on other devices or if CAPTIONER_PRECISION is float32."""
    if device.type == "cuda":
        return torch.float16 if _allows_less_than_float32() else torch.float32
    return torch.bfloat16 if _computes_bfloat16(device) else torch.float32


def prefers_few_shapes(device: torch.device) -> bool:
    """Return whether matrix products of many shapes are slow on a device. On a CPU they are slow in bfloat16, because
    each new shape is prepared first, and not in float32. For other devices it returns True."""
    return device.type != "cpu" or _computes_bfloat16(device)


def _computes_bfloat16(device: torch.device) -> bool:
    if device.type == "cuda":
        able = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        has = torch.cpu.get_capabilities() if device.type == "cpu" else {}
        able = bool(has.get("avx512_bf16") or has.get("amx_bf16"))
    return _allows_less_than_float32() and able


def _allows_less_than_float32() -> bool:
    value = os.environ.get("CAPTIONER_PRECISION", "auto")
    if value not in ("auto", "float32"):
        raise CaptionerError(f"CAPTIONER_PRECISION: is {value!r}, expected auto or float32")
    return value == "auto"


def make_deterministic(seed: int) -> None:
    """Seed torch and ask for the deterministic form of every operation that has one."""
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]  # none is read
    torch.backends.cudnn.benchmark = False
    torch.manual_seed(seed)


def to_device(tensor: torch.Tensor, device: torch.device) -> torch.Tensor:
    """Move a tensor to a device; to a GPU through pinned memory, without waiting for the copy."""
    return pinned(tensor, device).to(device, non_blocking=device.type == "cuda")


def pinned(tensor: torch.Tensor, device: torch.device) -> torch.Tensor:
    """Return a tensor of the CPU, for a GPU in pinned memory, from which a copy does not wait."""
    return tensor.pin_memory() if device.type == "cuda" else tensor
