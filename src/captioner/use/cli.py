"""The installed command `captioner`. Importing this module imports no torch, so that `--help` is quick."""

import argparse
import os
import signal
import sys
from typing import Any

from captioner.base.errors import CaptionerError
from captioner.base.streams import tolerant_streams


class _Version(argparse.Action):
    """Print the version; the module that reads it is imported only then."""

    def __init__(self, option_strings: list[str], dest: str, **arguments: Any):
        super().__init__(option_strings, dest, nargs=0, default=argparse.SUPPRESS, help="print the version")

    def __call__(self, parser: argparse.ArgumentParser, *arguments: Any) -> None:
        from importlib.metadata import PackageNotFoundError, version

        try:
            found = version("captioner")
        except PackageNotFoundError:  # the code without an installed package
            found = "of a package that is not installed"
        print(f"captioner {found}")
        parser.exit()


def make_parser() -> argparse.ArgumentParser:
    """Return the parser of all commands; parsed options have `run` and, if options can conflict, `check`."""
    # Here and not above, so that `main` handles an interruption of these imports.
    from captioner.use.commands import caption, card, completion, explain, export, score, serve, strip

    parser = argparse.ArgumentParser(
        prog="captioner",
        description="Captions for photos by a model of this pipeline.",
        epilog="`captioner COMMAND --help` says more. Exit code: 0; 1 for an error that a message explains; 2 for a "
        "wrong call; 130 for an interruption.",
    )
    parser.add_argument("--version", action=_Version)
    parser.set_defaults(parser=parser, check=lambda options: None)
    commands = parser.add_subparsers(required=True, metavar="command")
    for command in (caption, score, explain, serve, export, card, strip, completion):
        command.add_parser(commands)
    return parser


def main(arguments: list[str] | None = None) -> int:
    """Run the command; return its exit code: 0, 1 for an error that a user can correct, 2 for a wrong call."""
    tolerant_streams()
    try:
        parser = make_parser()
        options = parser.parse_args(arguments)
        wrong = options.check(options)
        if wrong:
            parser.error(wrong)
        code = options.run(options)
        sys.stdout.flush()
        return code
    except BrokenPipeError:  # as in `| head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or Python would complain as it ends
        return 128 + signal.SIGPIPE
    except (CaptionerError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
