"""`captioner explain`: a picture that explains a caption."""

import argparse
from pathlib import Path
from typing import Any

from captioner.base.errors import CaptionerError
from captioner.use.commands.arguments import add_device, add_file, add_model, add_search, importing, model_file


def add_parser(commands: Any) -> None:
    """Define the command."""
    parser = commands.add_parser(
        "explain",
        help="draw where the model looked at each word, and the beams",
        description="Draw where the model looked at each word of a photo's caption, and the beams with their scores. "
        "Print the photo, a tab and the caption, then the picture's name.",
    )
    add_file(parser, "photo", metavar="PHOTO", help="a photo")
    add_model(parser)
    text = "the picture (default: a new file, PHOTO-explained.png in this folder)"
    add_file(parser, "--out", metavar="FILE.png", help=text)
    add_search(parser)
    add_device(parser)
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Write the picture about a photo's caption; print the caption and the picture's name."""
    picture = Path(options.out or f"{Path(options.photo).stem}-explained.png")
    if picture.suffix.lower() != ".png":
        raise CaptionerError(f"{picture}: the picture is a PNG; give a name that ends in .png")
    if picture.exists() and Path(options.photo).exists() and picture.samefile(options.photo):
        raise CaptionerError(f"{picture}: is the photo itself; give another name with --out")
    if picture.exists() and not options.out:  # it may be of a photo of the same name in another folder
        raise CaptionerError(f"{picture}: exists; give a name with --out, whose file is overwritten")
    model = model_file(options.model)
    with importing("explain"):
        from captioner.use.caption import PhotoCaptioner
        from captioner.use.explain import explain
    text = explain(
        PhotoCaptioner(model, device=options.device),
        options.photo,
        picture,
        beam=options.beam,
        consensus=options.consensus,
        length_penalty=options.length_penalty,
    )
    print(f"{options.photo}\t{text}\n{picture}")
    return 0
