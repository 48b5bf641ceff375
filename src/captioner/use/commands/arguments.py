"""Arguments that several commands share, their types, and slow imports."""

import argparse
import math
import os
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

from captioner.base.errors import CaptionerError
from captioner.sources.models import local_model
from captioner.use.options import BEAM, CONSENSUS, LENGTH_PENALTY, MODEL

FILE = {"bash": "_shtab_compgen_files", "zsh": "_files", "tcsh": "f"}  # how shtab completes a file's name


def add_file(parser: argparse.ArgumentParser, *names: str, **options: str | None) -> None:
    """Add an argument that is a file's name, for shell completion too."""
    parser.add_argument(*names, **options).complete = FILE  # type: ignore[attr-defined, arg-type]


def add_model(parser: argparse.ArgumentParser) -> None:
    """Add --model."""
    text = "a fine-tuned model: a file, hf:owner/name[@revision] or https://...#sha256=... (default: %(default)s)"
    add_file(parser, "--model", default=MODEL, help=text)


def model_file(name: str, *, option: str = "--model ", beside: Sequence[str] = ()) -> Path:
    """Return what `captioner.sources.models.local_model` returns, with its errors, for a model that a user names.

    Outside the project there is no model at the default path, so that error says how to name another. `option` is what
    comes before the name in a call.
    """
    if name == MODEL and not Path(name).exists():
        raise CaptionerError(
            f"{name}: not found here. Name a model: `{option}FILE`, `{option}hf:owner/name` or "
            f"`{option}https://...#sha256=...`. In the project's folder `dvc repro` makes this one, and `make demo` "
            f".demo/{MODEL}, which knows drawn shapes only"
        )
    return local_model(name, beside=beside)


def add_search(parser: argparse.ArgumentParser) -> None:
    """Add the options of the search that params.yaml also has."""
    parser.add_argument("--beam", type=positive, default=BEAM, help="beams of the search (default: %(default)s)")
    parser.add_argument(
        "--consensus",
        metavar="WEIGHT",
        type=number,
        default=CONSENSUS,
        help="weight of the agreement with captions of similar training photos; 0: the likeliest caption "
        "(default: %(default)s)",
    )
    parser.add_argument(
        "--length-penalty",
        metavar="POWER",
        type=number,
        default=LENGTH_PENALTY,
        help="a caption's log-probability is divided by its length to this power (default: %(default)s)",
    )


def add_device(parser: argparse.ArgumentParser) -> None:
    """Add --device."""
    text = "auto, cpu, cuda, cuda:N or mps (default: CAPTIONER_DEVICE, else auto)"
    parser.add_argument("--device", help=text)


def positive(text: str) -> int:
    """Return a whole number from 1 on, for argparse."""
    return _whole_number(text, 1)


def count(text: str) -> int:
    """Return a whole number from 0 on, for argparse."""
    return _whole_number(text, 0)


def number(text: str) -> float:
    """Return a number from 0 on, for argparse."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 <= value < math.inf:
        raise argparse.ArgumentTypeError(f"is {text!r}, expected a number from 0 on")
    return value


def _whole_number(text: str, least: int) -> int:
    if not (text.isascii() and text.isdecimal()) or int(text) < least:
        raise argparse.ArgumentTypeError(f"is {text!r}, expected a whole number from {least} on")
    return int(text)


@contextmanager
def importing(extra: str | None = None) -> Iterator[None]:
    """A block for slow imports, and for imports of packages of the package's extra `extra`.

    Ctrl-C ends the process with 130 and one line, because a library's import may turn the interruption into any
    exception. No output is open at that time. Raises CaptionerError that names the extra if one of its packages is
    missing.
    """
    usual = signal.getsignal(signal.SIGINT)
    interrupts = usual is signal.default_int_handler and threading.current_thread() is threading.main_thread()
    if interrupts:
        signal.signal(signal.SIGINT, _stop)
    try:
        yield
    except ModuleNotFoundError as error:
        if extra is None or not error.name or error.name.startswith("captioner"):
            raise
        raise missing_package(error.name, extra) from None
    finally:
        if interrupts:
            signal.signal(signal.SIGINT, usual)


def missing_package(module: str, extra: str) -> CaptionerError:
    """Return the error for a module that the package's extra `extra` installs."""
    return CaptionerError(
        f"needs the module {module.partition('.')[0]}, which comes with the extra `{extra}`: "
        f"`pip install 'captioner[{extra}]'`"
    )


def _stop(number: int, frame: FrameType | None) -> None:
    os.write(sys.__stderr__.fileno() if sys.__stderr__ else 2, b"interrupted\n")
    os._exit(130)
