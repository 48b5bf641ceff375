"""`captioner strip`: a model without its training captions."""

import argparse
from pathlib import Path
from typing import Any

from captioner.base.errors import CaptionerError
from captioner.sources.models import local_model
from captioner.use.commands.arguments import add_file, importing


def add_parser(commands: Any) -> None:
    """Define the command."""
    parser = commands.add_parser(
        "strip",
        help="write a model without its training captions, to share it",
        description="Write a model without its training captions and image features. Use it if the captions' licence "
        "forbids sharing them. The new model chooses the likeliest beams.",
    )
    add_file(parser, "model", metavar="MODEL", help="a model, as for --model of other commands")
    add_file(parser, "out", metavar="OUT", help="the output file")
    parser.add_argument("--force", action="store_true", help="overwrite OUT")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Write the model; print its path."""
    model, out = local_model(options.model), Path(options.out)
    if out.is_dir():
        raise CaptionerError(f"{out}: is a folder; give the name of a file")
    if out.exists() and out.samefile(model):
        raise CaptionerError(f"{out}: is the model itself; give another name")
    if out.exists() and not options.force:
        raise CaptionerError(f"{out}: exists; give another name, or --force to overwrite it")
    with importing():
        from captioner.model.captioner import without_examples
    without_examples(model, out)
    print(f"{out}: {options.model} without its training captions; its captions are the likeliest beams")
    return 0
