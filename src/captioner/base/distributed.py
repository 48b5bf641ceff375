"""Several processes that train as one: each takes its share of every batch, and their gradients are summed.

They are those of torch's launcher, which tells each RANK, WORLD_SIZE and LOCAL_RANK: `torchrun` started by hand, on one
machine or several, or by a stage itself where CAPTIONER_PROCESSES is more than 1. They talk by gloo, GPUs by NCCL.
Outside of `distributed` there is one process, and nothing here does or costs anything.

The first process (rank 0) alone writes and tells. When a process dies, the launcher stops the others.
"""

import logging
import os
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
GRACE = 3.0  # seconds in which the launcher stops a process that has nothing of its own to tell
PATIENCE = timedelta(days=1)  # with a process that is slower than others; that one has died the launcher notices
WATCH = 0.5  # seconds between looks at whether the launcher lives


class Mean(NamedTuple):
    """A mean over a process's share."""

    value: Tensor  # scalar
    over: int  # how many


def processes() -> int:
    """Return how many processes compute together."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    """Return which of them this is, from 0."""
    return dist.get_rank() if processes() > 1 else 0


def share(positions: Tensor) -> Tensor:
    """Return this process's part of `positions` [N]: N / processes, one more or less, none where N is too small."""
    return positions.tensor_split(processes())[rank()]


def gather(value: T) -> list[T]:
    """Return what each process gave, which can be pickled, in their order."""
    if processes() == 1:
        return [value]
    found: list[Any] = [None] * processes()
    with _talking():
        dist.all_gather_object(found, value)
    return found


def from_first(make: Callable[[], T]) -> T:
    """Return what `make` returns in the first process; the others do not call it."""
    if processes() == 1:
        return make()
    made = [make() if rank() == 0 else None]
    with _talking():
        dist.broadcast_object_list(made, src=0)
    return made[0]  # type: ignore[return-value]


def average(parameters: Sequence[nn.Parameter], *means: Mean) -> list[Tensor]:
    """Return the means over all processes' shares, float32 scalars without gradient.

    The parameters' gradients are those of the first mean of this process's share, and become those of it over
    all shares. One tensor holds everything and is summed once.
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
    with _talking():
        dist.all_reduce(sums)
    *parts, values, counts = sums.split([*(gradient.numel() for gradient in gradients), len(means), len(means)])
    for gradient, part in zip(gradients, parts, strict=True):
        gradient.copy_((part / counts[0]).view_as(gradient))
    return list((values / counts).unbind())


def seed_by_rank() -> None:
    """Seed torch's generator anew in all processes but the first, each with another number out of it."""
    if rank():
        torch.manual_seed(int(torch.randint(2**32, (rank(),))[-1]))


@contextmanager
def _talking() -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:
        time.sleep(GRACE)  # the launcher knows better which process ended, and why
        reason = str(error).splitlines()[0]
        raise CaptionerError(
            f"process {rank()} of {processes()} lost the others ({reason}); run again to go on"
        ) from None


def distributed(main: Callable[[P], None]) -> Callable[[P], None]:
    """Make a stage's `main` run in as many processes as CAPTIONER_PROCESSES says or the launcher started.

    Raises CaptionerError when one of them failed, whatever the reason, and KeyboardInterrupt when they were stopped.
    """

    @wraps(main)
    def run(params: P) -> None:
        if "RANK" in os.environ and "WORLD_SIZE" in os.environ:
            main(params) if os.environ["WORLD_SIZE"] == "1" else _take_part(main, params)
        elif (wanted := wanted_processes()) > 1:
            _launch(wanted)
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
        dist.init_process_group("cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo", timeout=PATIENCE)
        main(params)
        dist.destroy_process_group()
    except KeyboardInterrupt:
        os._exit(130)  # the launcher tells, and may signal again while Python ends
    except Exception:
        if not first:
            time.sleep(GRACE)  # what is wrong for all, the first one tells
        raise


def _end_with(launcher: int) -> None:
    """End this process soon after the launcher, which may have been killed and could not stop it."""
    while os.getppid() == launcher:
        time.sleep(WATCH)
    os._exit(1)


def _launch(count: int) -> None:
    """Run this script again in `count` processes."""
    from torch.distributed import run as torchrun  # half a second, and nothing for those who need it not
    from torch.distributed.elastic.multiprocessing import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, torch.get_num_threads() // count)))
    with tempfile.TemporaryDirectory(prefix="captioner-") as logs:
        options = ["--standalone", "--nproc-per-node", str(count), "--log-dir", logs, *sys.argv]
        try:
            torchrun.run(torchrun.parse_args(options))
        except SignalException:
            raise KeyboardInterrupt from None
        except ChildFailedError as error:
            number, failure = error.get_first_failure()
            how = failure.signal_name() if failure.exitcode < 0 else f"exit code {failure.exitcode}"
            raise CaptionerError(
                f"process {number} of {count} ended with {how}, and all were stopped; "
                "the lines above may say why. Run again to go on"
            ) from None
