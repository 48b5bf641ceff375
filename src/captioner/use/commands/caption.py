"""`captioner caption`: a caption for each photo, printed or written beside it."""

import argparse
import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from captioner.base.errors import CaptionerError
from captioner.use.commands.arguments import (
    add_device,
    add_file,
    add_model,
    add_search,
    count,
    importing,
    model_file,
    positive,
)
from captioner.use.library import find_photos, sidecars, without_sidecars, write_sidecar
from captioner.use.options import BATCH

if TYPE_CHECKING:
    from captioner.use.caption import Caption

DESCRIPTION = """\
Print a line for each photo: path, tab, caption.

With --top N there are N lines for each photo, with two more columns: the score, which is the mean log-probability of a
caption's words, and the agreement with the captions of similar training photos (CIDEr, 0 to 10; empty if the model has
no training captions). With --write nothing is printed."""
EXIT = "exit code: 0; 1 if a photo or a folder cannot be read or a message says what to correct; 2 for a wrong call"


def add_parser(commands: Any) -> None:
    """Define the command."""
    parser = commands.add_parser(
        "caption",
        help="print a caption for each photo, or write it beside the photo",
        description=DESCRIPTION,
        epilog=EXIT,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    text = "a photo, a folder of photos (including its folders) or a pattern"
    add_file(parser, "photos", nargs="+", metavar="PHOTO", help=text)
    add_model(parser)
    parser.add_argument("--no-recursive", action="store_true", help="leave out folders in a folder")

    output = parser.add_argument_group("output")
    text = "print a JSON object for each photo: photo, caption, score, agreement; with --top also captions, a list"
    output.add_argument("--json", action="store_true", help=text)
    output.add_argument("--top", metavar="N", type=positive, help="the N best captions of each photo, the best first")
    text = "write each caption to a file beside its photo: dog.txt or dog.caption"
    output.add_argument("--write", choices=["txt", "caption"], help=text)
    existing = output.add_mutually_exclusive_group()
    existing.add_argument("--skip-existing", action="store_true", help="leave out photos that have such a file")
    existing.add_argument("--force", action="store_true", help="overwrite such files")

    search = parser.add_argument_group("search")
    add_search(search)
    text = "words of a caption, at least (default: %(default)s)"
    search.add_argument("--min-length", metavar="WORDS", type=count, default=0, help=text)
    text = "words of a caption, at most (default: that of the model's training)"
    search.add_argument("--max-length", metavar="WORDS", type=positive, help=text)

    machine = parser.add_argument_group("machine")
    add_device(machine)
    text = "photos in a batch (default: %(default)s)"
    machine.add_argument("--batch", metavar="PHOTOS", type=positive, default=BATCH, help=text)
    parser.set_defaults(run=run, check=check)


def check(options: argparse.Namespace) -> str | None:
    """Return what is wrong with a call, None if nothing."""
    if not options.write and (options.skip_existing or options.force):
        return "--skip-existing and --force need --write"
    if options.write and options.json:
        return "--json prints and --write does not; give one of them"
    if options.top and options.top > options.beam:
        return f"--top {options.top} needs --beam {options.top} or more"
    if options.max_length and options.min_length > options.max_length:
        return f"--min-length {options.min_length} is more than --max-length {options.max_length}"
    return None


def run(options: argparse.Namespace) -> int:
    """Caption the photos; return the exit code: 1 if a photo or a folder could not be read."""
    unreadable: list[OSError] = []
    photos = find_photos(options.photos, recursive=not options.no_recursive, unreadable=unreadable)
    if options.write:
        photos = without_sidecars(photos, options.write)
    files = sidecars(photos, options.write) if options.write else []
    total = len(photos)
    if options.skip_existing:
        pairs = [(photo, file) for photo, file in zip(photos, files, strict=True) if not file.exists()]
        photos, files = [photo for photo, _ in pairs], [file for _, file in pairs]
    elif options.write and not options.force:
        refuse_existing(files)
    broken = 0
    if photos:
        broken = caption(photos, files, options)
    if options.write:
        written = len(photos) - broken
        skipped = f", {total - len(photos)} skipped that have one" if total > len(photos) else ""
        what = "1 caption written to a .{} file" if written == 1 else f"{written} captions written to .{{}} files"
        print(f"{what.format(options.write)}{skipped}", file=sys.stderr)
    return 1 if broken or unreadable else 0


def refuse_existing(files: list[Path]) -> None:
    """Raise CaptionerError if one of the files exists."""
    there = [file for file in files if file.exists()]
    if there:
        more = f", and {len(there) - 1} more" if len(there) > 1 else ""
        raise CaptionerError(
            f"{there[0]}: exists{more}; --skip-existing leaves out photos that have one, --force overwrites them"
        )


def caption(photos: list[Path], files: list[Path], options: argparse.Namespace) -> int:
    """Print the captions, or write them to the files; return how many photos or files failed."""
    model = model_file(options.model)  # before seconds of imports
    with importing():
        from tqdm import tqdm

        from captioner.use.caption import PhotoCaptioner
    describe = PhotoCaptioner(model, device=options.device)
    if options.consensus and not describe.has_examples:
        print(f"{options.model}: has no training captions, so a caption is the likeliest beam", file=sys.stderr)
    results = describe.ranked(
        photos,
        top=options.top or 1,
        batch=options.batch,
        beam=options.beam,
        consensus=options.consensus,
        length_penalty=options.length_penalty,
        min_length=options.min_length,
        max_length=options.max_length,
    )
    broken = 0
    with tqdm(total=len(photos), desc="captions", unit="photo", disable=None) as progress:
        for place, (photo, captions) in enumerate(results):
            if isinstance(captions, CaptionerError):
                broken += 1
                with tqdm.external_write_mode(file=sys.stderr):
                    print(f"error: {captions}", file=sys.stderr)
            elif options.write:
                try:
                    write_sidecar(files[place], "".join(f"{each.text}\n" for each in captions))
                except OSError as error:
                    broken += 1
                    with tqdm.external_write_mode(file=sys.stderr):
                        print(f"error: {files[place]}: cannot be written ({error.strerror})", file=sys.stderr)
            else:
                with tqdm.external_write_mode(file=sys.stdout):
                    print("\n".join(lines(os.fspath(photo), captions, options)), flush=True)
            progress.update()
    return broken


def lines(photo: str, captions: "list[Caption]", options: argparse.Namespace) -> list[str]:
    """Return the lines to print for a photo."""
    if options.json:
        records = [{"caption": each.text, **figures(each)} for each in captions]
        record: dict[str, Any] = {"photo": photo, **records[0]}
        if options.top:
            record["captions"] = records
        return [to_json(record)]
    if options.top is None:
        return [f"{photo}\t{captions[0].text}"]
    rows = ((each.text, *figures(each).values()) for each in captions)
    return ["\t".join([photo, *("" if value is None else str(value) for value in row)]) for row in rows]


def figures(caption: "Caption") -> dict[str, float | None]:
    """Return a caption's score and agreement, rounded."""
    agreement = None if caption.agreement is None else round(caption.agreement, 4)
    return {"score": round(caption.score, 4), "agreement": agreement}


def to_json(value: dict[str, Any]) -> str:
    """Return JSON, with escapes for letters that stdout cannot print."""
    text = json.dumps(value, ensure_ascii=False)
    try:
        text.encode(sys.stdout.encoding or "utf-8")
    except UnicodeEncodeError:  # also for a file name that is not UTF-8
        text = json.dumps(value)
    return text
