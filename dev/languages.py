"""Whether captions in other languages train to a model whose captions a reader of the language recognises.

    python -m dev.languages run [--languages de hi] [--photos 600]    run the pipeline, write the record and the table
    python -m dev.languages table                                     write the table of docs/languages.md anew

The photos are pictures of `captioner.sources.shapes` with one or two shapes. Each has two captions by the small grammar
of its language: with the shapes' sizes and without. All languages have the same pictures and the same splits.

languages.json, beside this module: {"photos": int, "params": {param: value} of all runs but `captions.language`,
"machine", "runs": {language: {"images": {split: int}, "weights": MD5 of the encoder's first weights, "lost": share of
the characters that are in no token, "frozen" and "finetuned": {score: float of the test split; "equal": share of the
captions that are equal to one of their picture's two}, "example": {"photo", "shows": in English, "reference", "frozen",
"finetuned"}, "minutes": float of the whole pipeline}}}. The example is the first test picture with two shapes.
"""
# ruff: noqa: RUF001

import argparse
import csv
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any, NamedTuple

from benchmarks.measure import machine
from benchmarks.page import put, table
from captioner.base.errors import CaptionerError
from captioner.base.files import read_json, write_json
from captioner.captions.dataset import read_captions
from captioner.captions.tokens import scored_tokens
from captioner.sources.shapes import RELATIONS, Scene, Shape, compose, draw
from demo.run import make_workspace
from dev.experiments import as_yaml, timed
from dev.other_datasets import MODELS, read_project

ROOT = Path(__file__).resolve().parent.parent
RECORD, PAGE = ROOT / "dev/languages.json", ROOT / "docs/languages.md"
SIZE = 96  # pixels a side
SCORES = ("CIDEr", "BLEU-4", "ROUGE-L")
PARAMS: dict[str, Any] = {
    "dataset.name": "own",
    "captions.lowercase": False,  # German nouns keep their capitals
    "captions.min_count": 1,
    "image.size": SIZE,
    "views.flip": False,  # the captions say left
    "views.mean": False,
    "encoder.weights": "imagenet",
    "decoder.width": 256,
    "decoder.heads": 4,
    "decoder.dropout": 0.2,
    "train.batch": 16,
    "train.epochs": 8,
    "finetune.unfreeze_from": "layer4",
    "finetune.adapt_epochs": 0,
    "finetune.objective": "cross-entropy",
    "finetune.batch": 16,
    "finetune.epochs": 10,
    "finetune.patience": 10,
    "finetune.lr": 0.0005,
    "finetune.encoder_lr": 0.0003,
    "finetune.crop": 1.0,  # a caption may name what a crop leaves out
}


class Noun(NamedTuple):
    """The name of a shape. `first` and `second` are its forms as the first and the second shape of a caption."""

    first: str
    second: str
    agreement: tuple[int, int] = (0, 0)  # which form of an adjective each of them takes


@dataclass(frozen=True)
class Language:
    """A grammar for pictures of one or two shapes. The keys of tables are words of `captioner.sources.shapes`."""

    name: str
    nouns: dict[str, Noun]
    adjectives: dict[str, tuple[str, ...]]  # forms by `Noun.agreement`; a single form serves all
    first: str  # phrase for the first shape, or for one alone: {size}, {colour} and {noun}
    second: str  # phrase for the second shape
    relations: dict[str, str]  # by the layout of a scene: {first} and {second}


LANGUAGES = {
    "ar": Language(
        "Arabic",
        {
            "circle": Noun("دائرة", "دائرة", (1, 1)),
            "square": Noun("مربع", "مربع"),
            "triangle": Noun("مثلث", "مثلث"),
            "star": Noun("نجمة", "نجمة", (1, 1)),
            "heart": Noun("قلب", "قلب"),
        },
        {  # masculine, feminine
            "red": ("أحمر", "حمراء"),
            "orange": ("برتقالي", "برتقالية"),
            "yellow": ("أصفر", "صفراء"),
            "green": ("أخضر", "خضراء"),
            "blue": ("أزرق", "زرقاء"),
            "purple": ("بنفسجي", "بنفسجية"),
            "pink": ("وردي", "وردية"),
            "black": ("أسود", "سوداء"),
            "large": ("كبير", "كبيرة"),
            "small": ("صغير", "صغيرة"),
        },
        "{noun} {colour} {size}",
        "{noun} {colour} {size}",
        {"row": "{first} على يسار {second}", "column": "{first} فوق {second}", "inside": "{first} داخل {second}"},
    ),
    "bn": Language(
        "Bengali",
        {  # nominative, genitive
            "circle": Noun("বৃত্ত", "বৃত্তের"),
            "square": Noun("বর্গক্ষেত্র", "বর্গক্ষেত্রের"),
            "triangle": Noun("ত্রিভুজ", "ত্রিভুজের"),
            "star": Noun("তারা", "তারার"),
            "heart": Noun("হৃদয়", "হৃদয়ের"),
        },
        {
            "red": ("লাল",),
            "orange": ("কমলা",),
            "yellow": ("হলুদ",),
            "green": ("সবুজ",),
            "blue": ("নীল",),
            "purple": ("বেগুনি",),
            "pink": ("গোলাপি",),
            "black": ("কালো",),
            "large": ("বড়",),
            "small": ("ছোট",),
        },
        "একটি {size} {colour} {noun}",
        "{size} {colour} {noun}",
        {"row": "{second} বাম পাশে {first}", "column": "{second} উপরে {first}", "inside": "{second} ভিতরে {first}"},
    ),
    "de": Language(
        "German",
        {  # nominative, dative
            "circle": Noun("Kreis", "Kreis", (0, 2)),
            "square": Noun("Quadrat", "Quadrat", (1, 2)),
            "triangle": Noun("Dreieck", "Dreieck", (1, 2)),
            "star": Noun("Stern", "Stern", (0, 2)),
            "heart": Noun("Herz", "Herzen", (1, 2)),
        },
        {  # masculine and neuter nominative, dative
            "red": ("roter", "rotes", "roten"),
            "orange": ("oranger", "oranges", "orangen"),
            "yellow": ("gelber", "gelbes", "gelben"),
            "green": ("grüner", "grünes", "grünen"),
            "blue": ("blauer", "blaues", "blauen"),
            "purple": ("violetter", "violettes", "violetten"),
            "pink": ("rosa",),
            "black": ("schwarzer", "schwarzes", "schwarzen"),
            "large": ("großer", "großes", "großen"),
            "small": ("kleiner", "kleines", "kleinen"),
        },
        "Ein {size} {colour} {noun}",
        "einem {size} {colour} {noun}",
        {"row": "{first} links von {second}", "column": "{first} über {second}", "inside": "{first} in {second}"},
    ),
    "hi": Language(
        "Hindi",
        {  # direct, oblique
            "circle": Noun("वृत्त", "वृत्त", (0, 1)),
            "square": Noun("वर्ग", "वर्ग", (0, 1)),
            "triangle": Noun("त्रिभुज", "त्रिभुज", (0, 1)),
            "star": Noun("तारा", "तारे", (0, 1)),
            "heart": Noun("दिल", "दिल", (0, 1)),
        },
        {  # masculine: direct, oblique
            "red": ("लाल",),
            "orange": ("नारंगी",),
            "yellow": ("पीला", "पीले"),
            "green": ("हरा", "हरे"),
            "blue": ("नीला", "नीले"),
            "purple": ("बैंगनी",),
            "pink": ("गुलाबी",),
            "black": ("काला", "काले"),
            "large": ("बड़ा", "बड़े"),
            "small": ("छोटा", "छोटे"),
        },
        "एक {size} {colour} {noun}",
        "एक {size} {colour} {noun}",
        {"row": "{second} के बाईं ओर {first}", "column": "{second} के ऊपर {first}", "inside": "{second} के अंदर {first}"},
    ),
    "tr": Language(
        "Turkish",
        {  # nominative, genitive
            "circle": Noun("daire", "dairenin"),
            "square": Noun("kare", "karenin"),
            "triangle": Noun("üçgen", "üçgenin"),
            "star": Noun("yıldız", "yıldızın"),
            "heart": Noun("kalp", "kalbin"),
        },
        {
            "red": ("kırmızı",),
            "orange": ("turuncu",),
            "yellow": ("sarı",),
            "green": ("yeşil",),
            "blue": ("mavi",),
            "purple": ("mor",),
            "pink": ("pembe",),
            "black": ("siyah",),
            "large": ("büyük",),
            "small": ("küçük",),
        },
        "{size} {colour} bir {noun}",
        "{size} {colour} {noun}",
        {"row": "{second} solunda {first}", "column": "{second} üstünde {first}", "inside": "{second} içinde {first}"},
    ),
    "zh": Language(
        "Chinese",
        {
            "circle": Noun("圆形", "圆形"),
            "square": Noun("正方形", "正方形"),
            "triangle": Noun("三角形", "三角形"),
            "star": Noun("星形", "星形"),
            "heart": Noun("心形", "心形"),
        },
        {
            "red": ("红色",),
            "orange": ("橙色",),
            "yellow": ("黄色",),
            "green": ("绿色",),
            "blue": ("蓝色",),
            "purple": ("紫色",),
            "pink": ("粉色",),
            "black": ("黑色",),
            "large": ("大的",),
            "small": ("小的",),
        },
        "一个{size}{colour}{noun}",
        "{size}{colour}{noun}",
        {"row": "{second}的左边有{first}", "column": "{second}的上面有{first}", "inside": "{second}的里面有{first}"},
    ),
}


def main() -> None:
    """Run the pipeline for languages, or write the table."""
    parser = argparse.ArgumentParser(prog="python -m dev.languages", description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(dest="command", required=True)
    codes = list(LANGUAGES)
    running = commands.add_parser("run", help="run the pipeline, write the record and the table")
    running.add_argument("--languages", nargs="+", choices=codes, default=codes, help="default: all")
    running.add_argument("--photos", type=int, default=600, help="pictures of all splits (default: 600)")
    commands.add_parser("table", help="write the table of docs/languages.md anew")
    options = parser.parse_args()
    try:
        if options.command == "run":
            run_all(options.languages, options.photos)
        put(PAGE, "languages", table_of(read_json(RECORD)))
    except CaptionerError as error:
        sys.exit(f"error: {error}")


def run_all(languages: list[str], photos: int) -> None:
    """Run the pipeline for each language; write the record after each.

    Runs of other languages stay in the record if they have the same photos, params and machine.
    """
    study = {"photos": photos, "params": PARAMS, "machine": machine()}
    old = read_json(RECORD) if RECORD.exists() else {}
    runs = old["runs"] if {**old, "runs": {}} == {**study, "runs": {}} else {}
    for code in languages:
        with tempfile.TemporaryDirectory() as folder:
            runs[code] = run(code, photos, Path(folder))
        write_json(RECORD, {**study, "runs": dict(sorted(runs.items()))})


def run(code: str, photos: int, folder: Path) -> dict[str, Any]:
    """Run the pipeline to the test scores in an empty folder; return the record of the language."""
    write_dataset(LANGUAGES[code], folder / "own", photos)
    project = folder / "project"
    make_workspace(project, PARAMS | {"own.folder": str(folder / "own"), "captions.language": code})
    print(f"{LANGUAGES[code].name}: dvc repro validate evaluate, in {project}", flush=True)
    printed, failed, minutes = timed(project, "repro", "validate", "evaluate")
    if failed:
        raise CaptionerError(f"{LANGUAGES[code].name}: dvc ended with {failed}:\n{printed[-2000:]}")
    return read_run(code, project) | {"minutes": round(sum(minutes.values()), 1)}


def write_dataset(language: Language, folder: Path, photos: int) -> None:
    """Write `photos` pictures and captions.csv into `folder`; always the same."""
    (folder / "photos").mkdir(parents=True)
    with (folder / "captions.csv").open("w", encoding="utf-8", newline="") as file:
        rows = csv.writer(file, lineterminator="\n")
        rows.writerow(["image", "caption"])
        for number in range(photos):
            scene, rng = scene_of(number)
            name = f"photos/{number:04d}.jpg"
            draw(scene, SIZE, rng).save(folder / name, quality=95)
            rows.writerows([name, text] for text in captions(language, scene))


def scene_of(number: int) -> tuple[Scene, Random]:
    """Return the scene of a picture, one shape or two that differ, and the generator that draws it."""
    rng = Random(f"languages/{number}")
    while True:
        scene = compose(rng)
        if len(scene.shapes) <= 2 and len({(shape.kind, shape.colour) for shape in scene.shapes}) == len(scene.shapes):
            return scene, rng


def captions(language: Language, scene: Scene) -> list[str]:
    """Return the captions of a scene: with the shapes' sizes, and without."""
    templates = (language.first, language.second)
    texts = []
    for sized in (True, False):
        phrases = [
            templates[place].format(
                noun=language.nouns[shape.kind][place],
                colour=adjective(language, shape.colour, shape, place),
                size=adjective(language, shape.size, shape, place) if sized else "",
            )
            for place, shape in enumerate(scene.shapes)
        ]
        if len(phrases) == 2:
            text = language.relations[scene.layout].format(first=phrases[0], second=phrases[1])
        else:
            (text,) = phrases
        texts.append(" ".join(text.split()))
    return texts


def adjective(language: Language, word: str, shape: Shape, place: int) -> str:
    """Return the form of an adjective that agrees with a shape's noun; `place` is 0 for the first shape, else 1."""
    forms = language.adjectives[word]
    return forms[language.nouns[shape.kind].agreement[place]] if len(forms) > 1 else forms[0]


def read_run(code: str, project: Path) -> dict[str, Any]:
    """Return the record of a language from the project in which the pipeline ran."""
    metrics = read_project(project, "test")
    with open(project / "metrics/test_captions.csv", encoding="utf-8", newline="") as file:
        generated = {row["image"]: row for row in csv.DictReader(file)}
    truth = {item.image: item.raw for item in read_captions(project / "data/captions.jsonl") if item.image in generated}
    run: dict[str, Any] = {
        "images": metrics["images"],
        "weights": read_json(project / "metrics/weights.json")["md5"],
        "lost": read_json(project / "metrics/captions.json")["lost characters"]["share"],
    }
    for model in MODELS:
        equal = sum(
            scored_tokens(row[model], code) in [scored_tokens(text, code) for text in truth[image]]
            for image, row in generated.items()
        )
        run[model] = {score: metrics[model][score] for score in SCORES} | {"equal": round(equal / len(generated), 5)}
    photo, scene = next(
        (image, scene)
        for image in sorted(generated)
        for scene, _ in [scene_of(int(Path(image).stem))]
        if len(scene.shapes) == 2
    )
    texts = {model: generated[photo][model] for model in MODELS}
    return run | {"example": {"photo": photo, "shows": gloss(scene), "reference": truth[photo][0], **texts}}


def gloss(scene: Scene) -> str:
    """Return what a picture with two shapes shows, in English."""
    first, second = (f"a {shape.size} {shape.colour} {shape.kind}" for shape in scene.shapes)
    return f"{first} {RELATIONS[scene.layout][0][0]} {second}"


def table_of(study: dict[str, Any]) -> str:
    """Return the heading sentences and the table: a line for each language and model."""
    runs = study["runs"]
    rows = []
    for code, run in runs.items():
        for model, shown in MODELS.items():
            of, first = run[model], model == next(iter(MODELS))
            rows.append(
                [
                    f"{LANGUAGES[code].name}, `{code}`" if first else "",
                    run["example"]["reference"] if first else "",
                    shown,
                    run["example"][model],
                    *(f"{100 * of[score]:.1f}" for score in SCORES),
                    f"{100 * of['equal']:.0f} %",
                    f"{100 * run['lost']:g} %" if first else "",
                ]
            )
    one = next(iter(runs.values()))
    train, dev, test = (one["images"][split] for split in ("train", "dev", "test"))
    params = ", ".join(f"`{key}={as_yaml(value)}`" for key, value in study["params"].items())
    weights = ", ".join(sorted({f"`{run['weights']}`" for run in runs.values()}))
    minutes = [run["minutes"] for run in runs.values()]
    heading = (
        f"{train} pictures train, {dev} choose the epoch, and {test} test pictures are scored. The example is the "
        f"first test picture with two shapes: {one['example']['shows']}. The params are {params}. The encoder "
        f"starts from the weights of MD5 {weights}. A run took {min(minutes):.0f} to {max(minutes):.0f} minutes beside "
        f"other programs on {study['machine']}."
    )
    head = ["language", "reference", "model", "its caption", *SCORES, "equal to a reference", "lost characters"]
    return f"{heading}\n\n{table(head, rows)}"


if __name__ == "__main__":
    main()
