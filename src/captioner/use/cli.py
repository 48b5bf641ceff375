"""The installed command `captioner`. Importing this module imports no torch, so that `--help` is quick."""

import argparse
import os
import signal
import sys
from typing import Any

from captioner.base.errors import CaptionerError
from captioner.base.files import NO_ROOM
from captioner.base.streams import tolerant_streams


class _Version(argparse.Action):
    """Print the version; the module that reads it is imported only then."""

    def __init__(self, option_strings: list[str], dest: str, **arguments: Any):
        super().__init__(option_strings, dest, nargs=0, default=argparse.SUPPRESS, help="print the version")

    def __call__(self, parser: argparse.ArgumentParser, *arguments: Any) -> None:
        from importlib.metadata import PackageNotFoundError, version

        try:
            installed = version("captioner")
        except PackageNotFoundError:  # the code without an installed package
            installed = "of a package that is not installed"
        print(f"captioner {installed}")
        parser.exit()


def make_parser() -> argparse.ArgumentParser:
    """Return the parser of all commands.

    Parsed options have `run`, `check`, which returns what is wrong with a call, and `command`, the command's parser.
    """
    # Here and not above, so that `main` handles an interruption of these imports.
    from captioner.use.commands import caption, card, completion, explain, export, score, serve, strip

    parser = argparse.ArgumentParser(
        prog="captioner",
        description="Captions for photos by a model of this pipeline.",
        epilog="`captioner COMMAND --help` lists the options of a command. Exit code: 0; 1 if a message says what to "
        "correct; 2 for a wrong call; 130 for an interruption.",
    )
    parser.add_argument("--version", action=_Version)
    parser.set_defaults(parser=parser, check=lambda options: None)
    commands = parser.add_subparsers(required=True, metavar="command")
    for command in (caption, score, explain, serve, export, card, strip, completion):
        command.add_parser(commands)
    for each in commands.choices.values():
        each.set_defaults(command=each)
    return parser


def main(arguments: list[str] | None = None) -> int:
    """Run the command; returns its exit code: 0, 1 for what a user can correct, 2 for a wrong call."""
    tolerant_streams()
    try:
        parser = make_parser()
        options, unknown = parser.parse_known_args(arguments)
        wrong = f"unknown: {' '.join(unknown)}" if unknown else options.check(options)
        if wrong:
            options.command.error(wrong)  # with the usage of this command, not of all
        code = options.run(options)
        sys.stdout.flush()
        return code
    except BrokenPipeError:  # as in `| head`
        _drop_stdout()
        return 128 + signal.SIGPIPE
    except (CaptionerError, OSError) as error:
        try:
            sys.stdout.flush()
        except OSError:
            _drop_stdout()
        message = str(error)
        if isinstance(error, OSError) and error.errno in NO_ROOM and error.filename is None:  # of a print
            message = f"stdout: cannot be written ({error.strerror})"
        print(f"error: {message}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130


def _drop_stdout() -> None:
    """Let stdout take and lose what it could not write. Otherwise Python would complain as it ends."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


if __name__ == "__main__":
    sys.exit(main())
