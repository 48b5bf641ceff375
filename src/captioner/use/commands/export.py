"""`captioner export`: the model as ONNX."""

import argparse
from typing import Any

from captioner.use.commands.arguments import add_file, add_model, importing, model_file


def add_parser(commands: Any) -> None:
    """Define the command."""
    parser = commands.add_parser(
        "export",
        help="write the model as ONNX",
        description="Write a folder that captions photos with ONNX Runtime. Check that it gives the model's captions.",
    )
    add_model(parser)
    add_file(parser, "--out", metavar="FOLDER", default="onnx", help="the folder (default: %(default)s)")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Write the ONNX folder; print that it was checked."""
    model = model_file(options.model)
    with importing():
        from captioner.use.export import export
    export(model, options.out)
    print(f"{options.out}: gives the same captions as {options.model}; its README.md says how to use it")
    return 0
