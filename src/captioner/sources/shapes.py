"""The built-in dataset: pictures of coloured shapes with true captions, drawn by this program.

It comes in Flickr8k's own archives, so that all code after the download is the same:

    images zip    Flicker8k_Dataset/<name>.jpg     one picture each, size x size pixels
    captions zip  Flickr8k.token.txt               <name>.jpg#<0-4> TAB caption, PTB tokens, " ." at the end
                  Flickr8k.lemma.token.txt         the same lines, lemmatised
                  Flickr_8k.{train,dev,test}Images.txt, readme.txt

Coordinates and radii are fractions of the picture's side, x to the right and y down.
"""

import io
import math
import re
import zipfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from random import Random

from PIL import Image, ImageDraw, ImageFilter

from captioner.base.errors import CaptionerError
from captioner.base.files import atomic_write
from captioner.sources.archives import add_stored

Points = list[tuple[float, float]]

COLOURS = {
    "red": (216, 52, 56),
    "orange": (240, 134, 30),
    "yellow": (248, 206, 48),
    "green": (46, 152, 84),
    "blue": (42, 104, 206),
    "purple": (128, 66, 172),
    "pink": (242, 118, 178),
    "black": (38, 38, 46),
}
GROUNDS = {
    "white": (246, 245, 242),
    "gray": (184, 189, 196),
    "beige": (230, 215, 188),
    "mint": (198, 226, 212),
    "lavender": (214, 207, 236),
    "dark": (52, 62, 88),
}
PATTERNS = ("plain", "shaded", "striped", "dotted", "grainy")
PLURALS = {
    "circle": "circles",
    "square": "squares",
    "triangle": "triangles",
    "star": "stars",
    "heart": "hearts",
}
RELATIONS = {  # of the first shape to the second; of the second to the first; of the first, short
    "row": (("to the left of", "left of"), ("to the right of", "right of"), "on its left"),
    "column": (("above", "over"), ("below", "under"), "above it"),
    "inside": (("inside", "in"), ("around", "surrounding"), "inside it"),
}
LEMMAS = {plural: kind for kind, plural in PLURALS.items()} | {
    "is": "be",
    "are": "be",
    "bigger": "big",
    "smaller": "small",
    "surrounding": "surround",
    "shapes": "shape",
    "colors": "color",
}
PER_IMAGE = 5  # captions
FINER = 4  # outlines are drawn on a grid this much finer, then averaged
EDGE = 1 / 3  # a lone shape nearer than this to an edge is said to be there
SIZES = (32, 1024)  # pixels a side: below, shapes are no longer told apart
README = f"""\
Pictures of coloured shapes, drawn and captioned by a program, in the layout of Flickr8k.

Flickr8k.token.txt - {PER_IMAGE} captions of each picture, "image name # caption number", a tab, the caption
Flickr8k.lemma.token.txt - the lemmatized version of the above captions
Flickr_8k.trainImages.txt - The training images
Flickr_8k.devImages.txt - The development/validation images
Flickr_8k.testImages.txt - The test images
"""


@dataclass(frozen=True)
class Shape:
    kind: str
    colour: str
    size: str  # large or small
    x: float
    y: float
    radius: float
    angle: float = 0.0  # degrees


@dataclass(frozen=True)
class Scene:
    """The shapes of a picture. The leftmost, topmost or inner shape comes first."""

    layout: str  # alone, row, column or inside
    shapes: tuple[Shape, ...]
    ground: str
    pattern: str


def write_archives(
    images: str | Path, captions: str | Path, *, train: int, dev: int, test: int, size: int, seed: int
) -> None:
    """Write both archives: `train`, `dev` and `test` pictures of `size` pixels a side.

    A picture and its captions depend on seed, split and number only, so a split that grows keeps its
    pictures and changes no other split. The same arguments give the same bytes.
    """
    splits = {"train": train, "dev": dev, "test": test}
    for name, count in splits.items():
        if count < 1:
            raise CaptionerError(f"shapes.{name}: expected 1 picture or more, got {count}")
    if not SIZES[0] <= size <= SIZES[1]:
        raise CaptionerError(f"shapes.size: expected {SIZES[0]} to {SIZES[1]} pixels, got {size}")

    raw: list[str] = []
    texts = {"readme.txt": README}
    with atomic_write(images) as path, zipfile.ZipFile(path, "w") as archive:
        for split, count in splits.items():
            names = [f"{split}_{index:05d}.jpg" for index in range(count)]
            texts[f"Flickr_8k.{split}Images.txt"] = _lines(names)
            for index, name in enumerate(names):
                rng = Random(f"{seed}/{split}/{index}")
                scene = compose(rng)
                raw += [f"{name}#{number}\t{text}" for number, text in enumerate(caption(scene, rng))]
                jpeg = io.BytesIO()
                draw(scene, size, rng).save(jpeg, "JPEG", quality=95, subsampling=0)
                add_stored(archive, f"Flicker8k_Dataset/{name}", jpeg.getvalue())
    texts["Flickr8k.token.txt"] = _lines(raw)
    texts["Flickr8k.lemma.token.txt"] = _lines(map(lemmatise, raw))
    with atomic_write(captions) as path, zipfile.ZipFile(path, "w") as archive:
        for name in sorted(texts):
            add_stored(archive, name, texts[name].encode())


def compose(rng: Random) -> Scene:
    """Return a random scene: one shape, two shapes, one inside another, or two or three of a kind."""
    ground, pattern = rng.choice(list(GROUNDS)), rng.choice(PATTERNS)
    # black vanishes on the dark ground
    colours = [name for name in COLOURS if (name, ground) != ("black", "dark")]
    kinds = list(PLURALS)
    layout = rng.choice(("row", "column"))

    def shape(kind: str, colour: str, size: str, at: tuple[float, float], radius: float) -> Shape:
        x, y = (centre + rng.uniform(-0.01, 0.01) for centre in at)
        return Shape(kind, colour, size, x, y, radius * rng.uniform(0.94, 1.06), rng.uniform(-6, 6))

    def spots(count: int, step: float) -> list[tuple[float, float]]:
        across = 0.5 + rng.uniform(-0.12, 0.12)
        along = [0.5 + step * (number - (count - 1) / 2) for number in range(count)]
        return [(place, across) if layout == "row" else (across, place) for place in along]

    match rng.choices(("alone", "pair", "inside", "twins", "three"), (36, 30, 12, 12, 10))[0]:
        case "alone":
            layout, kind, colour = "alone", rng.choice(kinds), rng.choice(colours)
            if rng.random() < 0.5:
                at = (rng.uniform(0.45, 0.55), rng.uniform(0.45, 0.55))
                shapes = [shape(kind, colour, "large", at, 0.34)]
            else:
                at = (rng.choice((0.24, 0.5, 0.76)), rng.choice((0.24, 0.5, 0.76)))
                shapes = [shape(kind, colour, "small", at, 0.18)]
        case "pair":
            looks = rng.sample([(kind, colour) for kind in kinds for colour in colours], 2)
            shapes = []
            for look, at in zip(looks, spots(2, 0.5), strict=True):
                size, radius = rng.choice((("large", 0.22), ("small", 0.145)))
                shapes.append(shape(*look, size, at, radius))
        case "inside":
            layout, inner = "inside", rng.choice(kinds)
            outer = rng.choice([kind for kind in ("circle", "square", "heart") if kind != inner])
            first, second = rng.sample(colours, 2)
            at = (rng.uniform(0.44, 0.56), rng.uniform(0.44, 0.56))
            shapes = [shape(inner, first, "small", at, 0.16), shape(outer, second, "large", at, 0.38)]
        case "twins":
            kind, colour = rng.choice(kinds), rng.choice(colours)
            size, radius = rng.choice((("large", 0.22), ("small", 0.145)))
            shapes = [shape(kind, colour, size, at, radius) for at in spots(2, 0.5)]
        case _:
            kind, chosen = rng.choice(kinds), rng.sample(colours, 3)
            if rng.random() < 0.5:
                chosen = chosen[:1] * 3
            shapes = [shape(kind, colour, "small", at, 0.14) for colour, at in zip(chosen, spots(3, 0.32), strict=True)]
    return Scene(layout, tuple(shapes), ground, pattern)


def caption(scene: Scene, rng: Random) -> list[str]:
    """Return five true captions with different words and facts."""
    if len(scene.shapes) == 1:
        sentences = _of_one(scene, rng)
    elif len({(shape.kind, shape.colour) for shape in scene.shapes}) == 2:
        sentences = _of_two(scene, rng)
    else:
        sentences = _of_a_kind(scene, rng)
    tidy = [re.sub(r"\ba (?=[aeiou])", "an ", " ".join(text.split())) for text in sentences]
    return [text[0].upper() + text[1:] + " ." for text in rng.sample(tidy, PER_IMAGE)]


def lemmatise(text: str) -> str:
    """Return the words' lemmas: `be`, singular nouns, plain adjectives."""
    return re.sub(r"[a-z]+", lambda match: LEMMAS.get(match[0], match[0]), text)


def draw(scene: Scene, size: int, rng: Random) -> Image.Image:
    """Return the scene as an RGB picture of `size` pixels a side; `rng` varies the background's pattern."""
    base = GROUNDS[scene.ground]
    other = tuple(round(value + (44 if scene.ground == "dark" else -32)) for value in base)
    blend = _pattern(scene.pattern, size, rng)
    picture = Image.composite(_plain(other, size), _plain(base, size), blend)
    drop = size // 40  # pixels
    # the outer shape comes last in the scene and must be drawn first
    for shape in reversed(scene.shapes):
        inside = _mask([_placed(shape, _unit(shape.kind))], size)
        shadow = inside.filter(ImageFilter.GaussianBlur(size / 40)).crop((0, -drop, size, size - drop))
        picture.paste((20, 22, 34), mask=shadow.point(lambda value: round(value * 0.3)))
        picture.paste(COLOURS[shape.colour], mask=inside)
    return picture


def _of_one(scene: Scene, rng: Random) -> list[str]:
    (shape,) = scene.shapes
    place = _place(shape)
    return [
        f"a {_noun(shape, rng)} on a {_ground(scene, rng)}",
        f"a {_noun(shape, rng)} {place}",
        f"there is a {_noun(shape, rng)} {place} of the picture",
        f"the {shape.kind} is {shape.size} and {shape.colour}",
        f"a {_ground(scene, rng)} with a {_noun(shape, rng)} {place}",
        f"one {_noun(shape, rng)} on a {_ground(scene, rng)}",
        f"a {shape.colour} shape on a {_ground(scene, rng)}",
        f"a picture of a {_noun(shape, rng)}",
    ]


def _of_two(scene: Scene, rng: Random) -> list[str]:
    first, second = scene.shapes
    forth, back, short = RELATIONS[scene.layout]
    alike = first.kind == second.kind

    def noun(shape: Shape) -> str:
        return _noun(shape, rng, colour=1.0 if alike else 0.8)

    sentences = [
        f"a {noun(first)} is {rng.choice(forth)} a {noun(second)}",
        f"a {noun(second)} {rng.choice(back)} a {noun(first)} on a {_ground(scene, rng)}",
        f"a {noun(first)} and a {noun(second)} on a {_ground(scene, rng)}",
        f"two shapes on a {_ground(scene, rng)} : a {noun(first)} and a {noun(second)}",
        f"a {noun(second)} with a {noun(first)} {short}",
        f"there is a {noun(first)} {rng.choice(forth)} a {noun(second)}",
        f"a {_ground(scene, rng)} with a {noun(second)} and a {noun(first)}",
    ]
    if first.size != second.size:
        small, large = sorted(scene.shapes, key=lambda shape: shape.radius)
        names = [_noun(shape, rng, size=0.0, colour=1.0) for shape in (small, large)]
        sentences.append(f"the {names[0]} is smaller than the {names[1]}")
        sentences.append(f"the {names[1]} is bigger than the {names[0]}")
    if first.colour == second.colour:
        sentences.append(f"the {first.kind} and the {second.kind} are {first.colour}")
    elif not alike:
        sentences.append(f"the {first.kind} is {first.colour} and the {second.kind} is {second.colour}")
    return sentences


def _of_a_kind(scene: Scene, rng: Random) -> list[str]:
    shapes, row = scene.shapes, scene.layout == "row"
    kinds, colours = PLURALS[shapes[0].kind], [shape.colour for shape in shapes]
    one_colour = len(set(colours)) == 1
    hue = colours[0] if one_colour else ""
    which = f"{hue} {kinds}"
    if len(shapes) == 2:
        many, together = f"two {which}", f"a pair of {which}"
        sized = f"two {shapes[0].size} {which}"
        arranged = "side by side" if row else "one above the other"
    else:
        arranged = "in a row" if row else "in a column"
        many, together = f"three {which}", f"a {'row' if row else 'column'} of three {which}"
        sized = many
    if one_colour:
        statements = [f"the {kinds} are {hue}", f"{many} of the same color"]
    else:
        first, middle, last = (f"a {colour}" for colour in colours)
        kind = shapes[0].kind
        statements = [
            f"{many} of different colors",
            f"{middle} {kind} between {first} {kind} and {last} {kind}",
            f"{first} , {middle} and {last} {kind} on a {_ground(scene, rng)}",
        ]
    return [
        f"{many} on a {_ground(scene, rng)}",
        f"{many} {arranged}",
        f"there are {many} on a {_ground(scene, rng)}",
        f"a {_ground(scene, rng)} with {many}",
        together,
        f"{sized} {arranged} on a {_ground(scene, rng)}",
        *statements,
    ]


def _noun(shape: Shape, rng: Random, *, size: float = 0.5, colour: float = 0.85) -> str:
    """Return the name of a shape, with its size and colour by these probabilities."""
    adjectives = ((shape.size, size), (shape.colour, colour), (shape.kind, 1.0))
    return " ".join(word for word, chance in adjectives if rng.random() < chance)


def _ground(scene: Scene, rng: Random) -> str:
    word = rng.choice((scene.ground, scene.pattern, f"{scene.pattern} {scene.ground}"))
    return f"{word} background"


def _place(shape: Shape) -> str:
    def part(value: float, low: str, high: str) -> str:
        return low if value < EDGE else high if value > 1 - EDGE else ""

    rows, columns = part(shape.y, "top", "bottom"), part(shape.x, "left", "right")
    if rows and columns:
        return f"in the {rows} {columns} corner"
    if columns:
        return f"on the {columns} side"
    return f"at the {rows}" if rows else "in the middle"


def _arc(count: int, radius: float = 1.0) -> Points:
    turns = (2 * math.pi * number / count for number in range(count))
    return [(radius * math.sin(turn), -radius * math.cos(turn)) for turn in turns]


def _unit(kind: str) -> Points:
    """Return a shape of radius about 1 around (0, 0); the kinds have about the same area."""
    match kind:
        case "square":
            return [(-0.87, -0.87), (0.87, -0.87), (0.87, 0.87), (-0.87, 0.87)]
        case "triangle":
            return [(x, y + 0.2) for x, y in _arc(3, 1.2)]
        case "star":
            tips, notches = _arc(10, 1.16)[::2], _arc(10, 0.5)[1::2]
            return [point for pair in zip(tips, notches, strict=True) for point in pair]
        case "heart":
            return [_heart(2 * math.pi * number / 64) for number in range(64)]
        case _:
            return _arc(72)


def _heart(turn: float) -> tuple[float, float]:
    waves = zip((13, -5, -2, -1), (1, 2, 3, 4), strict=True)
    height = sum(share * math.cos(times * turn) for share, times in waves)
    return math.sin(turn) ** 3, -(height + 1.0) / 15.5


def _placed(shape: Shape, points: Points) -> Points:
    turn = math.radians(shape.angle)
    cos, sin = shape.radius * math.cos(turn), shape.radius * math.sin(turn)
    return [(shape.x + x * cos - y * sin, shape.y + x * sin + y * cos) for x, y in points]


def _mask(polygons: Iterable[Points], size: int) -> Image.Image:
    """Return the share of each pixel's area in the polygons, of 255."""
    side = size * FINER
    fine = Image.new("L", (side, side))
    pen = ImageDraw.Draw(fine)
    for points in polygons:
        pen.polygon([(x * side, y * side) for x, y in points], fill=255)
    return fine.reduce(FINER)


def _plain(colour: tuple[int, ...], size: int) -> Image.Image:
    return Image.new("RGB", (size, size), colour)


def _pattern(pattern: str, size: int, rng: Random) -> Image.Image:
    """Return how much of the background's second tone each pixel has, of 255."""
    match pattern:
        case "shaded":
            return Image.linear_gradient("L").resize((size, size)).rotate(rng.choice((0, 90, 180, 270)))
        case "striped":
            step, lean = 1 / rng.choice((5, 6, 7)), rng.choice((-1, 0, 1))
            stripe = [(0.0, 0.0), (step / 2, 0.0), (step / 2 + lean, 1.0), (float(lean), 1.0)]
            image = _mask([[(x + step * i, y) for x, y in stripe] for i in range(-8, 16)], size)
            return image.rotate(rng.choice((0, 90)))
        case "dotted":
            step = 1 / rng.choice((5, 6, 7))
            centres = [(step * (i + j % 2 / 2), step * j) for i in range(-1, 9) for j in range(-1, 9)]
            return _mask([[(x + u, y + v) for u, v in _arc(24, step / 4)] for x, y in centres], size)
        case "grainy":
            grains = 32  # a side, whatever the picture's size
            return Image.frombytes("L", (grains, grains), rng.randbytes(grains**2)).resize((size, size))
        case _:
            return Image.new("L", (size, size))


def _lines(lines: Iterable[str]) -> str:
    return "".join(f"{line}\n" for line in lines)
