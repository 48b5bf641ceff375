"""The common part of all stage scripts."""

import logging
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import TypeVar

from captioner.base.errors import CaptionerError
from captioner.base.params import read_params
from captioner.base.streams import tolerant_streams

P = TypeVar("P")
LEVELS = {"quiet": logging.WARNING, "normal": logging.INFO, "verbose": logging.DEBUG}
INTERRUPTED = "interrupted; run again to go on"
AGAIN = 1.0  # seconds until an interruption without effect is repeated


def run(main: Callable[[P], None], params: type[P]) -> None:
    """Call `main` with the validated params that the dataclass `params` describes.

    The process ends with 1 on a user's error and with 130 on an interruption.

    SIGTERM is turned into KeyboardInterrupt, as SIGINT is, so that files being written are cleaned up and DVC sees
    a failed stage. The environment variable CAPTIONER_LOG (quiet, normal, verbose) says how much is logged.
    """
    tolerant_streams()
    level = os.environ.get("CAPTIONER_LOG", "normal")
    if level not in LEVELS:
        sys.exit(f"error: CAPTIONER_LOG: is {level!r}, expected one of {', '.join(LEVELS)}")
    logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=sys.stderr)
    logging.getLogger("captioner").setLevel(LEVELS[level])  # the libraries' own logs stay at warnings
    _handle_stops(_interrupt)
    try:
        main(read_params(params))
    except CaptionerError as error:
        sys.exit(f"error: {error}")
    except OSError as error:  # a full disk, a folder that cannot be written, a file that went away
        sys.exit(f"error: {error}; no unfinished file remains. Correct this and run again")
    except MemoryError:
        sys.exit("error: too little memory; stop other programs, or use a machine with more, and run again")
    except KeyboardInterrupt:
        _repeat(0)
        print(INTERRUPTED, file=sys.stderr)
        sys.exit(130)


def _handle_stops(handler: Callable[[int, FrameType | None], None]) -> None:
    """Call `handler` on SIGINT and SIGTERM, unless the signal is ignored, as SIGINT is in a shell's background job."""
    for number in (signal.SIGINT, signal.SIGTERM):
        if signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, handler)


def _leave(number: int, frame: FrameType | None) -> None:
    """End at once, as `run` ends on an interruption. While a script imports its modules, no file is being written."""
    os.write(2, f"{INTERRUPTED}\n".encode())
    os._exit(130)


def _interrupt(number: int, frame: FrameType | None) -> None:
    """Raise KeyboardInterrupt repeatedly, because Python drops exceptions in a `__del__` or under a C callback."""
    _repeat(AGAIN)
    raise KeyboardInterrupt


def _repeat(seconds: float) -> None:
    """Interrupt again after `seconds`; with 0 no more."""
    if sys.platform != "win32":  # which has no such timer
        signal.signal(signal.SIGALRM, _interrupt)
        signal.setitimer(signal.ITIMER_REAL, seconds)


if Path(sys.argv[0]).parent.name == "stages":  # and not a test that reads a script
    _handle_stops(_leave)  # until `run` is called; a stage script imports this module before the slow ones
