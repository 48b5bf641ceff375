"""`captioner card`: the metadata of a model file."""

import argparse
import contextlib
import json
from pathlib import Path
from typing import Any

from captioner.use.commands.arguments import add_file, importing, model_file
from captioner.use.options import MODEL

CONFIG = "config.json"
BESIDE = ("MODEL_CARD.md", "README.md")  # where the pipeline puts the model card
MISSING = f"not in the model file; the pipeline writes them into {CONFIG} and README.md beside it"
CODE = ("src/", "stages/")  # inputs that only --json lists
LIMITS = """\
The model writes captions like those of its training, with at most {longest} words, and knows {words} words. It names
things that it saw in training and guesses all others. It cannot read text or recognise persons. Check captions before
you rely on them."""


def add_parser(commands: Any) -> None:
    """Define the command."""
    parser = commands.add_parser(
        "card",
        help="print the metadata of a model file",
        description="Print a model's architecture, training data and settings, scores if they are known, and limits.",
    )
    add_file(
        parser,
        "model",
        nargs="?",
        default=MODEL,
        metavar="MODEL",
        help="a model, as for --model of other commands (default: %(default)s)",
    )
    parser.add_argument("--json", action="store_true", help="print the file's metadata as JSON, without its vocabulary")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Print the card."""
    path = model_file(options.model, option="captioner card ", beside=(CONFIG,))
    with importing():
        from captioner.model.captioner import load_model
    captioner, card = load_model(path)
    record = {key: value for key, value in vars(card).items() if key != "vocabulary"}
    origin = record.get("provenance") or record.get("made") or {}
    examples = captioner.examples
    sizes = {"words": len(card.vocabulary.words), "max_length": card.vocabulary.max_length}
    sizes["examples"] = 0 if examples is None else len(examples.captions)
    sizes["captions"] = 0 if examples is None else int((examples.captions != 0).any(2).sum())
    if options.json:
        print(json.dumps({**record, **sizes}, indent=2))
        return 0
    print(
        "\n".join(
            [
                options.model,
                *summary(record, sizes, card.trained_from),
                *made_from(origin),
                *scores(path, record, sizes["examples"] > 0),
            ]
        )
    )
    print(f"\nlimits\n{LIMITS.format(longest=sizes['max_length'], words=sizes['words'])}")
    return 0


def summary(record: dict[str, Any], sizes: dict[str, int], trained_from: str | None) -> list[str]:
    """Return lines on the model itself."""
    decoder, image = record["decoder"], record["image"]
    mirrored = "; the mean with the mirror image" if record.get("mean") else ""
    looks = f"attention of {decoder['heads']} heads" if decoder["attention"] else "the pooled image, without attention"
    kind = (
        "a decoder of stored features, without an encoder for photos"
        if record["start"] == "end"
        else f"ResNet-18, fine-tuned from {trained_from} on"
        if trained_from
        else "ResNet-18, not fine-tuned"
    )
    examples = (
        f"{sizes['captions']} of {sizes['examples']} images, by which captions are chosen"
        if sizes["examples"]
        else "none in the file, so a caption is the likeliest beam"
    )
    return [
        f"  encoder            {kind}",
        f"  decoder            LSTM of width {decoder['width']}, {looks}",
        f"  photos             {image['size']} pixels a side, {image['fit']}{mirrored}",
        f"  vocabulary         {sizes['words']} words, captions of up to {sizes['max_length']}",
        f"  training captions  {examples}",
    ]


def made_from(provenance: dict[str, Any]) -> list[str]:
    """Return lines on what made the model: versions, params, data and the number of files of code."""
    lines = []
    for title, key in (("made with", "versions"), ("by the params", "params"), ("from (MD5)", "inputs")):
        known = provenance.get(key) or {}
        shown = {name: value for name, value in sorted(known.items()) if not name.startswith(CODE)}
        width = max(map(len, shown), default=0)
        rows = [f"  {name:{width}}  {_shown(value)}" for name, value in shown.items()]
        if len(shown) < len(known):
            rows.append(f"  {len(known) - len(shown)} files of code; --json lists them")
        if rows:
            lines += ["", title, *rows]
    return lines


def _shown(value: Any) -> str:
    """Return a value as params.yaml has it, but a text without quotes."""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def scores(path: Path, record: dict[str, Any], has_examples: bool) -> list[str]:
    """Return lines on the model's scores, from the config.json beside it that the pipeline writes.

    That file describes the fine-tuned model, so a decoder of stored features gets no scores from it.
    `has_examples` says whether the model has its training captions, with which the pipeline measures scores.
    """
    known: Any = None
    with contextlib.suppress(OSError, ValueError, AttributeError):  # no such file, or another program's
        known = json.loads(path.with_name(CONFIG).read_text(encoding="utf-8")).get("scores")
    if isinstance(known, dict) and record["start"] != "end":
        title = f"scores ({path.with_name(CONFIG)})" + ("" if has_examples else ", of the model with training captions")
        return ["", title, *(f"  {name}  {value}" for name, value in known.items())]
    cards = [file for file in (path.with_name(name) for name in BESIDE) if file.exists()]
    return ["", "scores", f"  {f'see {cards[0]}' if cards else MISSING}"]
