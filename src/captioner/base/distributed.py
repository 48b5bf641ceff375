"""Training in several processes: each computes its share of every batch, and the gradients are summed.

torch's launcher starts the processes and sets RANK, WORLD_SIZE and LOCAL_RANK. A user starts `torchrun`, on one machine
or several, or a stage starts it if CAPTIONER_PROCESSES is more than 1. CPUs communicate by gloo. On GPUs, NCCL sums the
gradients, and gloo is used for Python objects and long waits. Outside of `distributed` there is one process, and the
functions of this module cost nothing.

Only the first process (rank 0) writes files and logs. When a process dies, the launcher stops the others.
"""

import logging
import os
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from functools import wraps
from typing import Any, NamedTuple, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn

from captioner.base.device import select_device, wanted_processes
from captioner.base.errors import CaptionerError

T = TypeVar("T")
P = TypeVar("P")
GRACE = 3.0  # seconds that a process waits before it reports an error; one that knows the cause may report first
STEP_TIMEOUT = timedelta(minutes=10)  # of NCCL, which only sums gradients: a longer wait is a hang
WAIT_TIMEOUT = timedelta(days=1)  # of gloo: the first process may work long alone; the launcher notices a dead one
WATCH = 0.5  # seconds between checks that the launcher lives

_waits: Any = None  # gloo's group beside NCCL's; None: the default group is gloo's


class Mean(NamedTuple):
    """A mean over a process's share."""

    value: Tensor  # scalar
    over: int  # the number of items that it is the mean of


def processes() -> int:
    """Return how many processes compute together."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    """Return the number of this process among them, from 0."""
    return dist.get_rank() if processes() > 1 else 0


def share(positions: Tensor) -> Tensor:
    """Return this process's part of `positions` [N]; parts differ by at most one position and can be empty."""
    return positions.tensor_split(processes())[rank()]


def gather(value: T) -> list[T]:
    """Return the values of all processes, ordered by rank; a value must be picklable."""
    if processes() == 1:
        return [value]
    values: list[Any] = [None] * processes()
    with _explaining_loss():
        dist.all_gather_object(values, value, group=_waits)
    return values


def from_first(make: Callable[[], T]) -> T:
    """Call `make` in the first process only, and return its result in all of them."""
    if processes() == 1:
        return make()
    result = [make() if rank() == 0 else None]
    with _explaining_loss():
        dist.broadcast_object_list(result, src=0, group=_waits)
    return result[0]  # type: ignore[return-value]


def average(parameters: Sequence[nn.Parameter], *means: Mean) -> list[Tensor]:
    """Return the means over all processes' shares, float32 scalars without gradient.

    On entry the parameters' gradients are those of this process's first mean. On return they are those of the first
    mean over all shares. Gradients, means and counts are summed as one tensor.
    """
    if processes() == 1:
        return [mean.value.detach() for mean in means]
    for parameter in parameters:
        if parameter.grad is None:
            parameter.grad = torch.zeros_like(parameter)
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    device = gradients[0].device
    values = torch.stack([mean.value.detach().to(device, torch.float32) for mean in means])
    counts = torch.tensor([float(mean.over) for mean in means], device=device)
    sums = torch.cat([*(gradient.flatten() * means[0].over for gradient in gradients), values * counts, counts])
    with _explaining_loss():
        dist.all_reduce(sums)
    *parts, values, counts = sums.split([*(gradient.numel() for gradient in gradients), len(means), len(means)])
    for gradient, part in zip(gradients, parts, strict=True):
        gradient.copy_((part / counts[0]).view_as(gradient))
    return list((values / counts).unbind())


def seed_by_rank() -> None:
    """Seed torch's generator differently in each process; the first process keeps its seed."""
    if rank():
        torch.manual_seed(int(torch.randint(2**32, (rank(),))[-1]))


@contextmanager
def _explaining_loss() -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:
        time.sleep(GRACE)  # the launcher knows which process ended and why
        reason = str(error).splitlines()[0]
        raise CaptionerError(
            f"process {rank()} of {processes()} lost the others ({reason}); run again to go on"
        ) from None


def distributed(main: Callable[[P], None]) -> Callable[[P], None]:
    """Run a stage's `main` in CAPTIONER_PROCESSES processes, or in those that a launcher started.

    Raises CaptionerError if one of them fails, and KeyboardInterrupt if they are stopped.
    """

    @wraps(main)
    def run(params: P) -> None:
        if "RANK" in os.environ and "WORLD_SIZE" in os.environ:
            main(params) if os.environ["WORLD_SIZE"] == "1" else _take_part(main, params)
        elif (count := wanted_processes()) > 1:
            _launch(count)
        else:
            main(params)

    return run


def _take_part(main: Callable[[P], None], params: P) -> None:
    first = os.environ["RANK"] == "0"
    threading.Thread(target=_end_with, args=(os.getppid(),), daemon=True).start()
    if not first:
        logging.getLogger("captioner").setLevel(logging.WARNING)
    try:
        device = select_device()
        if device.type not in ("cpu", "cuda"):
            raise CaptionerError(f"CAPTIONER_DEVICE: {device} cannot be shared by processes; set it to cpu")
        _connect(device)
        main(params)
        with _explaining_loss():
            dist.barrier(group=_waits)  # the first process may still be writing
        dist.destroy_process_group()
    except KeyboardInterrupt:
        os._exit(130)  # the launcher reports it, and may signal again while Python ends
    except Exception:
        if not first:
            time.sleep(GRACE)  # the first process reports an error that all have
        raise


def _connect(device: torch.device) -> None:
    """Join the other processes. A signal ends this process at once, because Python sees no signal while torch waits."""
    global _waits
    numbers = (signal.SIGINT, signal.SIGTERM)
    handlers = {number: signal.getsignal(number) for number in numbers}
    for number, handler in handlers.items():
        if handler != signal.SIG_IGN:
            signal.signal(number, signal.SIG_DFL)
    try:
        if device.type == "cuda":
            dist.init_process_group("nccl", timeout=STEP_TIMEOUT)
            _waits = dist.new_group(backend="gloo", timeout=WAIT_TIMEOUT)
        else:
            dist.init_process_group("gloo", timeout=WAIT_TIMEOUT)
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)


def _end_with(launcher: int) -> None:
    """End this process soon after the launcher ends, because a killed launcher cannot stop it."""
    while os.getppid() == launcher:
        time.sleep(WATCH)
    os._exit(1)


def _launch(count: int) -> None:
    """Run this script again in `count` processes."""
    from torch.distributed import run as torchrun  # takes half a second
    from torch.distributed.elastic.multiprocessing import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, torch.get_num_threads() // count)))
    with tempfile.TemporaryDirectory(prefix="captioner-") as logs:
        # without an address torch looks up the host's name, and waits for minutes if it does not resolve
        options = ["--standalone", "--local-addr", "127.0.0.1", "--nproc-per-node", str(count), "--log-dir", logs]
        try:
            torchrun.run(torchrun.parse_args([*options, *sys.argv]))
        except SignalException:
            raise KeyboardInterrupt from None
        except ChildFailedError as error:
            number, failure = error.get_first_failure()
            how = failure.signal_name() if failure.exitcode < 0 else f"exit code {failure.exitcode}"
            raise CaptionerError(
                f"process {number} of {count} ended with {how}, and all were stopped; "
                "the lines above may say why. Run again to go on"
            ) from None
