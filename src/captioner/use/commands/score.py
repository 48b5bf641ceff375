"""`captioner score`: the scores of any captions, of any model, against references."""

import argparse
import csv
import io
import json
import re
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from captioner.base.errors import CaptionerError
from captioner.base.files import write_text
from captioner.captions.dataset import SPLITS
from captioner.use.commands.arguments import add_file, count, importing

if TYPE_CHECKING:
    from captioner.scoring.compare import Difference, Result
    from captioner.scoring.references import References

DIFFER = 5  # images shown that differ most
DESCRIPTION = """\
Score captions of any model against references: BLEU, ROUGE-L, CIDEr, METEOR (needs Java), diversity.

REFERENCES is a file of captions in any form of own data, a folder or Flickr8k's zip. PREDICTIONS has one caption for
each image: COCO results ([{"image_id", "caption"}]), JSON lines, CSV, or the output of `captioner caption`.
With a second file of predictions, the differences are the first minus the second.

Names of images may differ in folder, suffix and case, and may be COCO's numeric ids. Intervals are 95 % bootstrap
intervals over images, from 10,000 draws with a fixed seed."""
EXIT = "exit code: 0; 1 if a message says what to correct; 2 for a wrong call"


def add_parser(commands: Any) -> None:
    """Define the command."""
    parser = commands.add_parser(
        "score",
        help="score captions of any model against references",
        description=DESCRIPTION,
        epilog=EXIT,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_file(parser, "references", metavar="REFERENCES", help="a file, a folder or a zip of references")
    add_file(parser, "predictions", metavar="PREDICTIONS", help="a file with one caption for each image")
    add_file(parser, "second", metavar="PREDICTIONS2", nargs="?", help="a second such file, to compare")
    parser.add_argument("--split", choices=SPLITS, help="only the references of this split")
    text = "the column of the captions in PREDICTIONS; a second --column is for PREDICTIONS2"
    parser.add_argument("--column", metavar="NAME", action="append", default=[], help=text)
    text = "leave out images without a prediction or reference, and wrong lines of REFERENCES; print their numbers"
    parser.add_argument("--allow-missing", action="store_true", help=text)
    text = "the language of the captions, such as de; METEOR and the word measures are for en (default: %(default)s)"
    parser.add_argument("--language", metavar="CODE", default="en", help=text)
    parser.add_argument("--no-meteor", action="store_true", help="leave METEOR out, the slowest score")
    parser.add_argument("--json", action="store_true", help="print JSON; scores are fractions of 1")
    add_file(parser, "--each", metavar="FILE", help="write each image's CIDEr to this CSV file")
    text = "show the N images whose CIDEr differs most between two files (default: %(default)s)"
    parser.add_argument("--differ", metavar="N", type=count, default=DIFFER, help=text)
    parser.set_defaults(run=run, check=check)


def check(options: argparse.Namespace) -> str | None:
    """Return what is wrong with a call, None if nothing."""
    files = 1 if options.second is None else 2
    if len(options.column) > files:
        return f"--column is given {len(options.column)} times for {files} file{'s' * (files > 1)} of predictions"
    if not re.fullmatch("[a-z]{2,3}", options.language):  # as captions.language in params_schema.json
        return f"--language {options.language}: expected two or three lower-case letters, such as en, de or zh"
    if options.language in ("eng", "tur", "aze"):  # the rules of English, Turkish and Azerbaijani go by the short codes
        return f"--language {options.language}: English, Turkish and Azerbaijani are en, tr and az"
    return None


def run(options: argparse.Namespace) -> int:
    """Print the scores."""
    if find_spec("pycocoevalcap") is None:
        raise CaptionerError("pycocoevalcap, which computes the scores, is missing: pip install 'captioner[score]'")
    with importing():
        from captioner.scoring.compare import difference, evaluate_captions
        from captioner.scoring.references import read_reference_files
    files = [options.predictions] if options.second is None else [options.predictions, options.second]
    if options.each:
        refuse_inputs(options.each, [options.references, *files])
    references, captions, left_out = matched(read_reference_files(options.references, options.split), files, options)
    report_missing_meteor(options)
    results = [
        evaluate_captions(references, each, language=options.language, meteor=not options.no_meteor)
        for each in captions
    ]
    change = difference(results[0], results[1]) if len(results) == 2 else None
    if options.json:
        print(json.dumps(as_json(files, results, captions, change, left_out, options.differ), indent=2))
    else:
        print("\n".join(as_text(files, results, captions, change, options.differ)))
    if options.each:  # after the scores, so that a path that cannot be written loses no work
        try:
            write_text(options.each, table_of_images(results, captions))
        except OSError as error:
            raise CaptionerError(f"--each {options.each}: cannot be written ({error.strerror})") from None
    return 0


def refuse_inputs(out: str, inputs: list[str]) -> None:
    """Raise CaptionerError if the output file is one of the inputs."""
    for path in map(Path, inputs):
        if path.exists() and Path(out).exists() and path.samefile(out):
            raise CaptionerError(f"--each {out}: is one of the files to read; give another name")


def report_missing_meteor(options: argparse.Namespace) -> None:
    """Say that METEOR is for English only. If Java is missing, the scoring itself says so."""
    if options.language != "en" and not options.no_meteor:
        print(f"METEOR is left out: it is for English, and --language is {options.language}", file=sys.stderr)


def matched(
    references: "References", files: list[str], options: argparse.Namespace
) -> tuple[dict[str, list[str]], list[dict[str, str]], dict[str, int]]:
    """Return the references and the captions of each file, all of the same images, and the numbers of those left out.

    Raises CaptionerError if images are missing, except with --allow-missing, and if no image is left.
    """
    from captioner.scoring.compare import with_words
    from captioner.scoring.matching import match, some
    from captioner.scoring.predictions import read_predictions

    truth = with_words(references.captions, options.language)
    columns = options.column or [None]
    predictions = [
        match(truth, read_predictions(file, columns[min(place, len(columns) - 1)]), references.ids, references.images)
        for place, file in enumerate(files)
    ]
    faults = list(references.faults)
    for file, each in zip(files, predictions, strict=True):
        if each.missing:
            faults.append(f"{file} has no prediction for {some(each.missing)} of {len(truth)} images")
        if each.unknown:
            faults.append(f"{options.references} has no reference for {some(each.unknown)} of {file}")
    images = [image for image in truth if all(image in each.captions for each in predictions)]
    if not images:
        raise CaptionerError(f"no image has both references and predictions: {'; '.join(faults)}")
    if faults and not options.allow_missing:
        split = "; --split takes the references of one split" if references.has_splits and not options.split else ""
        raise CaptionerError(f"{'; '.join(faults)}. Leave them out with --allow-missing{split}")
    for fault in faults:
        print(f"left out: {fault}", file=sys.stderr)
    left_out = {
        "without_prediction": len(truth) - len(images),
        "without_reference": len({name for each in predictions for name in each.unknown}),
    }
    captions = [{image: each.captions[image] for image in images} for each in predictions]
    return {image: truth[image] for image in images}, captions, left_out


def table_of_images(results: "list[Result]", captions: list[dict[str, str]]) -> str:
    """Return each image's CIDEr, 0 to 10, and captions as CSV. Bytes of a name that are not UTF-8 are escaped."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    ends = [""] if len(results) == 1 else [" 1", " 2"]
    writer.writerow(["image", *(f"CIDEr{end}" for end in ends), *(f"caption{end}" for end in ends)])
    for image in results[0].cider:
        values = [round(each.cider[image], 5) for each in results]
        name = image.encode(errors="backslashreplace").decode()
        writer.writerow([name, *values, *(each[image] for each in captions)])
    return text.getvalue()


def as_json(
    files: list[str],
    results: "list[Result]",
    captions: list[dict[str, str]],
    change: "Difference | None",
    left_out: dict[str, int],
    differ: int,
) -> dict[str, Any]:
    """Return the results as a JSON object."""
    record: dict[str, Any] = {"images": len(results[0].cider), "left_out": left_out, "predictions": []}
    for file, result in zip(files, results, strict=True):
        known = {"scores": result.scores, "diversity": result.diversity, "intervals": result.intervals}
        record["predictions"].append({"file": file, **known})
    if change is not None:
        from captioner.scoring.compare import most_different

        record["difference"] = {"values": change.values, "intervals": change.intervals}
        record["differ_most"] = [
            {
                "image": image,
                "cider": [each.cider[image] for each in results],
                "captions": [each[image] for each in captions],
            }
            for image in most_different(results[0], results[1], differ)
        ]
    return record


def as_text(
    files: list[str],
    results: "list[Result]",
    captions: list[dict[str, str]],
    change: "Difference | None",
    differ: int,
) -> list[str]:
    """Return the lines to print."""
    images = len(results[0].cider)
    lines = [f"{images} image{'s' * (images != 1)}; scores x100, with 95 % intervals", ""]
    if change is None:
        return lines + [row(name, results[0]) for name in names(results[0])]
    from captioner.scoring.compare import most_different

    lines += [f"first   {files[0]}", f"second  {files[1]}", ""]
    lines.append(f"{'':18}{'first':>8}{'second':>9}{'first - second':>17}")
    for name in names(results[0]):
        if name not in change.values:
            continue
        values = [figure(name, {**each.scores, **each.diversity}[name]) for each in results]
        moved = signed(figure(name, change.values[name]))
        ends = interval(name, change.intervals.get(name), sign=True)
        lines.append(f"{name:18}{values[0]:>8}{values[1]:>9}{moved:>10}{ends}".rstrip())
    shown = most_different(results[0], results[1], differ)
    if shown:
        lines += ["", "images whose CIDEr differs most"]
    for image in shown:
        lines.append(image)
        for each, texts in zip(results, captions, strict=True):
            lines.append(f"  {100 * each.cider[image]:6.1f}  {texts[image]}")
    return lines


def names(result: "Result") -> list[str]:
    """Return the names of the figures in the order in which they are printed."""
    return [*result.scores, *result.diversity]


def row(name: str, result: "Result") -> str:
    """Return a line on one figure."""
    value = figure(name, {**result.scores, **result.diversity}[name])
    return f"{name:18}{value:>8}{interval(name, result.intervals.get(name))}".rstrip()


def figure(name: str, value: float) -> str:
    """Return the text of a figure: a score or a share x100, a count as an integer, a length with one digit."""
    if name == "vocabulary":
        return f"{value:.0f}"
    return f"{value:.1f}" if name == "mean length" else f"{100 * value:.1f}"


def interval(name: str, ends: tuple[float, float] | None, sign: bool = False) -> str:
    """Return the text of an interval, "" if there is none."""
    if ends is None:
        return ""
    low, high = (signed(figure(name, end)) if sign else figure(name, end) for end in ends)
    return f"  {low:>6} to {high:>6}"


def signed(number: str) -> str:
    """Return a printed number with its sign; 0 has none."""
    if not number.strip("-0."):
        return number.lstrip("-")
    return number if number.startswith("-") else f"+{number}"
