"""`captioner completion`: completion of commands and options by the shell."""

import argparse
from typing import Any

DESCRIPTION = """\
Print a script for the shell to complete commands, options and file names. To install it:

  bash   mkdir -p ~/.local/share/bash-completion/completions
         captioner completion bash > ~/.local/share/bash-completion/completions/captioner
  zsh    captioner completion zsh > DIR/_captioner, for a DIR in $fpath

Then open a new shell. In bash this needs the package bash-completion; without it, put the output into a file and add
`source FILE` to ~/.bashrc."""


def add_parser(commands: Any) -> None:
    """Define the command."""
    parser = commands.add_parser(
        "completion",
        help="print a script for shell completion",
        description=DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("shell", choices=["bash", "zsh"])
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Print the script."""
    import shtab

    script = shtab.complete(options.parser, options.shell)
    # shtab's (*) would let zsh complete only the first of several photos
    print(script.replace('"(*):', '"*:') if options.shell == "zsh" else script)
    return 0
