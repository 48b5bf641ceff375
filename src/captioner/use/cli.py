"""The installed command `captioner`."""

import argparse
import glob
import io
import json
import math
import os
import signal
import sys
from pathlib import Path, PurePosixPath

from tqdm import tqdm

from captioner.base.errors import CaptionerError
from captioner.sources.archives import PHOTO_SUFFIXES, is_junk
from captioner.use.caption import BEAM, CONSENSUS, PhotoCaptioner
from captioner.use.explain import explain
from captioner.use.export import export

OTHER_PHOTOS = (".heic", ".heif", ".avif", ".jxl", ".jp2", ".jfif", ".gif", ".dng", ".cr2", ".cr3", ".nef", ".arw")


def find_photos(arguments: list[str]) -> list[Path]:
    """Return the photos that the arguments mean, in order: files, folders (what is in them, sorted) and patterns.

    Raises CaptionerError for an argument that means none.
    """
    found: list[Path] = []
    for argument in arguments:
        path = Path(argument)
        if path.is_dir():
            files = sorted(file for file in path.iterdir() if file.is_file() and not is_junk(PurePosixPath(file.name)))
            photos = [file for file in files if file.suffix.lower() in PHOTO_SUFFIXES]
            others = [file.name for file in files if file.suffix.lower() in OTHER_PHOTOS]
            if others:
                names = f"{', '.join(others[:3])}{' ...' if len(others) > 3 else ''}"
                print(
                    f"{argument}: left out {len(others)} ({names}), of kinds that are not looked for; convert them",
                    file=sys.stderr,
                )
        elif path.exists():
            photos = [path]
        else:
            photos = [Path(name) for name in sorted(glob.glob(argument, recursive=True)) if Path(name).is_file()]
        if not photos:
            raise CaptionerError(f"{argument}: no such photo, and no folder or pattern with photos")
        found += photos
    return found


def caption(options: argparse.Namespace) -> int:
    """Print a line a photo; return the exit code: 1 if a photo could not be read."""
    photos = find_photos(options.photos)
    describe = PhotoCaptioner(options.model)
    broken = 0
    progress = tqdm(total=len(photos), unit="photo", disable=None)
    for photo, text in describe.each(photos, beam=options.beam, consensus=options.consensus):
        with tqdm.external_write_mode(file=sys.stdout):
            if isinstance(text, CaptionerError):
                broken += 1
                print(f"error: {text}", file=sys.stderr)
            elif options.json:
                print(_json({"photo": str(photo), "caption": text}), flush=True)
            else:
                print(f"{photo}\t{text}", flush=True)
        progress.update()
    progress.close()
    return 1 if broken else 0


def explain_photo(options: argparse.Namespace) -> int:
    """Write the picture about a photo's caption; print the caption and where the picture is."""
    picture = Path(options.out or f"{Path(options.photo).stem}-explained.png")
    if picture.suffix.lower() != ".png":
        raise CaptionerError(f"{picture}: the picture is a PNG; give a name that ends in .png")
    if picture.exists() and Path(options.photo).exists() and picture.samefile(options.photo):
        raise CaptionerError(f"{picture}: is the photo itself; give another name with --out")
    describe = PhotoCaptioner(options.model)
    text = explain(describe, options.photo, picture, beam=options.beam, consensus=options.consensus)
    print(f"{options.photo}\t{text}\n{picture}")
    return 0


def export_model(options: argparse.Namespace) -> int:
    """Write the ONNX folder; print what it was seen to do."""
    export(options.model, options.out)
    print(f"{options.out}: gives the same captions as {options.model}; its README.md says how to use it")
    return 0


def main(arguments: list[str] | None = None) -> int:
    """Run the command; returns its exit code: 0, 1 for what a user can mend, 2 for a wrong call."""
    parser = argparse.ArgumentParser(prog="captioner", description="Captions for photos by a model of this pipeline.")
    commands = parser.add_subparsers(required=True, metavar="command")
    model = argparse.ArgumentParser(add_help=False)
    model.add_argument(
        "--model", default="models/captioner.safetensors", help="a fine-tuned model (default: %(default)s)"
    )
    search = argparse.ArgumentParser(add_help=False)
    search.add_argument("--beam", type=_positive, default=BEAM, help="beams of the search (default: %(default)s)")
    search.add_argument(
        "--consensus",
        metavar="WEIGHT",
        type=_weight,
        default=CONSENSUS,
        help="of what was written about photos that look alike; 0: the likeliest caption (default: %(default)s)",
    )

    command = commands.add_parser(
        "caption",
        parents=[model, search],
        help="print a caption for each photo",
        description="One line a photo: path, tab, caption.",
    )
    command.add_argument("photos", nargs="+", metavar="PHOTO", help="a photo, a folder of photos or a pattern")
    command.add_argument("--json", action="store_true", help="one JSON object a line instead")
    command.set_defaults(run=caption)

    command = commands.add_parser(
        "explain",
        parents=[model, search],
        help="draw where the model looked at each word, and the beams",
        description="A picture of where the model looked at each word of a photo's caption, and the beams' scores.",
    )
    command.add_argument("photo", metavar="PHOTO", help="a photo")
    command.add_argument("--out", metavar="FILE.png", help="the picture (default: PHOTO's name, -explained.png, here)")
    command.set_defaults(run=explain_photo)

    command = commands.add_parser(
        "export",
        parents=[model],
        help="write the model as ONNX",
        description="A folder that captions photos with ONNX Runtime, checked to say what the model says.",
    )
    command.add_argument("--out", metavar="FOLDER", default="onnx", help="where to (default: %(default)s)")
    command.set_defaults(run=export_model)

    options = parser.parse_args(arguments)
    for stream, errors in ((sys.stdout, "surrogateescape"), (sys.stderr, "backslashreplace")):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors=errors)  # a file's name may be any bytes
    try:
        if not Path(options.model).exists():
            raise CaptionerError(
                f"{options.model}: not found; `dvc repro` makes models/captioner.safetensors, and `make demo` a model "
                "of drawn shapes: --model .demo/models/captioner.safetensors"
            )
        return options.run(options)
    except BrokenPipeError:  # as in `| head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or Python would complain as it ends
        return 128 + signal.SIGPIPE
    except (CaptionerError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130


def _json(value: dict[str, str]) -> str:
    text = json.dumps(value, ensure_ascii=False)
    try:
        text.encode()
    except UnicodeEncodeError:  # a file's name that is not UTF-8
        text = json.dumps(value)
    return text


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"is {text!r}, expected a whole number from 1 on")
    return int(text)


def _weight(text: str) -> float:
    try:
        weight = float(text)
    except ValueError:
        weight = math.nan
    if not 0 <= weight < math.inf:
        raise argparse.ArgumentTypeError(f"is {text!r}, expected a number from 0 on")
    return weight


if __name__ == "__main__":
    sys.exit(main())
