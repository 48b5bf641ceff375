"""The installed command `captioner`."""

import argparse
import glob
import json
import sys
from pathlib import Path

from tqdm import tqdm

from captioner.archives import PHOTO_SUFFIXES
from captioner.caption import PhotoCaptioner
from captioner.errors import CaptionerError


def find_photos(arguments: list[str]) -> list[Path]:
    """Return the photos that the arguments mean, in order: files, folders (what is in them, sorted) and patterns.

    Raises CaptionerError for an argument that means none.
    """
    found: list[Path] = []
    for argument in arguments:
        path = Path(argument)
        if path.is_dir():
            photos = sorted(file for file in path.iterdir() if file.suffix.lower() in PHOTO_SUFFIXES)
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
    for photo, text in describe.each(photos, beam=options.beam):
        with tqdm.external_write_mode(file=sys.stdout):
            if isinstance(text, CaptionerError):
                broken += 1
                print(f"error: {text}", file=sys.stderr)
            elif options.json:
                print(json.dumps({"photo": str(photo), "caption": text}, ensure_ascii=False), flush=True)
            else:
                print(f"{photo}\t{text}", flush=True)
        progress.update()
    progress.close()
    return 1 if broken else 0


def main(arguments: list[str] | None = None) -> int:
    """Run the command; returns its exit code: 0, 1 for what a user can mend, 2 for a wrong call."""
    parser = argparse.ArgumentParser(prog="captioner", description="Captions for photos by a model of this pipeline.")
    commands = parser.add_subparsers(required=True, metavar="command")
    command = commands.add_parser(
        "caption", help="print a caption for each photo", description="One line a photo: path, tab, caption."
    )
    command.add_argument("photos", nargs="+", metavar="PHOTO", help="a photo, a folder of photos or a pattern")
    command.add_argument(
        "--model", default="models/captioner.safetensors", help="a fine-tuned model (default: %(default)s)"
    )
    command.add_argument("--beam", type=_positive, default=3, help="beams of the search (default: %(default)s)")
    command.add_argument("--json", action="store_true", help="one JSON object a line instead")
    command.set_defaults(run=caption)
    options = parser.parse_args(arguments)
    try:
        return options.run(options)
    except CaptionerError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError("must be at least 1")
    return value


if __name__ == "__main__":
    sys.exit(main())
