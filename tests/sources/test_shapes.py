"""The built-in dataset: Flickr8k's layout, the same bytes each time, and captions that are true."""

import io
import re
import zipfile
from itertools import permutations
from random import Random

import numpy as np
import pytest
from PIL import Image

from captioner.base.errors import CaptionerError
from captioner.sources.shapes import (
    COLOURS,
    GROUNDS,
    LEMMAS,
    PATTERNS,
    PLURALS,
    caption,
    compose,
    draw,
    write_archives,
)

COUNTS = {"train": 6, "dev": 2, "test": 3}
SCENES = 400
NOUN = rf"(?:(large|small) )?(?:({'|'.join(COLOURS)}) )?({'|'.join(PLURALS)})"
SINGULAR = {plural: kind for kind, plural in PLURALS.items()}


def written(folder, **changes):
    """Write both archives and return what is in them: {name: bytes} of each."""
    folder.mkdir(exist_ok=True)
    paths = folder / "images.zip", folder / "captions.zip"
    write_archives(*paths, **{**COUNTS, "size": 32, "seed": 1, **changes})
    files = []
    for path in paths:
        with zipfile.ZipFile(path) as archive:
            assert archive.testzip() is None
            files.append({name: archive.read(name) for name in archive.namelist()})
    return files


@pytest.fixture(scope="module")
def archives(tmp_path_factory):
    return written(tmp_path_factory.mktemp("shapes"))


def seen(seed):
    """Return a scene, its captions and its 64-pixel picture as integers [64, 64, 3]."""
    rng = Random(seed)
    scene = compose(rng)
    captions = caption(scene, rng)
    return scene, captions, np.asarray(draw(scene, 64, rng)).astype(int)


def where(pixels, colour):
    """Return the mean (x, y) of the pixels of a palette colour, and how many there are."""
    rows, columns = np.nonzero(np.abs(pixels - COLOURS[colour]).max(-1) <= 4)
    return columns.mean() if len(columns) else None, rows.mean() if len(rows) else None, len(rows)


def fits(description, shape):
    """Tell whether the (size, colour, kind) that is said of a shape is true; None is not said."""
    facts = shape.size, shape.colour, shape.kind
    return all(word in (None, fact) for word, fact in zip(description, facts, strict=True))


def test_the_same_arguments_give_the_same_bytes(tmp_path):
    for folder, seed in (("a", 1), ("b", 1), ("c", 2)):
        written(tmp_path / folder, seed=seed)
    for name in ("images.zip", "captions.zip"):
        first, again, other = ((tmp_path / folder / name).read_bytes() for folder in "abc")
        assert first == again
        assert first != other


def test_layout_is_that_of_flickr8k(archives):
    images, captions = archives
    assert set(captions) == {
        "Flickr8k.token.txt",
        "Flickr8k.lemma.token.txt",
        "Flickr_8k.trainImages.txt",
        "Flickr_8k.devImages.txt",
        "Flickr_8k.testImages.txt",
        "readme.txt",
    }
    listed = []
    for split, count in COUNTS.items():
        names = captions[f"Flickr_8k.{split}Images.txt"].decode("ascii").splitlines()
        assert len(names) == count
        listed += names
    assert len(set(listed)) == len(listed)
    assert set(images) == {f"Flicker8k_Dataset/{name}" for name in listed}
    lines = captions["Flickr8k.token.txt"].decode("ascii").splitlines()
    assert [line.partition("\t")[0] for line in lines] == [f"{name}#{i}" for name in listed for i in range(5)]
    for data in images.values():
        with Image.open(io.BytesIO(data)) as picture:
            assert (picture.format, picture.mode, picture.size) == ("JPEG", "RGB", (32, 32))


def test_images_are_stored_uncompressed_without_a_date(tmp_path):
    written(tmp_path)
    with zipfile.ZipFile(tmp_path / "images.zip") as archive:
        entries = archive.infolist()
    assert {(entry.compress_type, entry.date_time) for entry in entries} == {
        (zipfile.ZIP_STORED, (1980, 1, 1, 0, 0, 0))
    }


def test_lemmas_align_with_the_raw_lines(archives):
    raw, lemma = (
        [line.split("\t") for line in archives[1][name].decode().splitlines()]
        for name in ("Flickr8k.token.txt", "Flickr8k.lemma.token.txt")
    )
    assert [key for key, _ in raw] == [key for key, _ in lemma]
    assert raw != lemma
    for (_, words), (_, lemmas) in zip(raw, lemma, strict=True):
        assert [LEMMAS.get(word, word) for word in words.split(" ")] == lemmas.split(" ")
        assert not set(lemmas.split()) & set(LEMMAS)


def test_a_split_does_not_depend_on_the_others_sizes(archives, tmp_path):
    images, captions = archives
    grown_images, grown_captions = written(tmp_path, test=5, train=7)
    assert images.items() <= grown_images.items()
    texts = captions["Flickr8k.token.txt"].splitlines()
    assert set(texts) <= set(grown_captions["Flickr8k.token.txt"].splitlines())


def test_no_picture_occurs_twice(tmp_path):
    images, _ = written(tmp_path, train=150, dev=50, test=50)
    assert len(set(images.values())) == 250


def test_captions_are_the_same_at_another_size(archives, tmp_path):
    assert written(tmp_path, size=48)[1] == archives[1]


def test_five_distinct_tokenised_captions():
    words = set()
    for seed in range(SCENES):
        _, captions, _ = seen(seed)
        assert len(set(captions)) == len(captions) == 5
        for text in captions:
            assert re.fullmatch(r"[A-Z][a-z]*( [a-z]+| [,:])+ \.", text), text
            assert not re.search(r"\b([Aa] [aeiou]|[Aa]n [^aeiou])", text), text
            words |= set(text.lower().split())
    assert 60 <= len(words) <= 120


def test_shapes_lie_within_the_picture_and_stand_out():
    for seed in range(SCENES):
        scene, _, pixels = seen(seed)
        for shape in scene.shapes:
            assert where(pixels, shape.colour)[2] >= 40, (scene, shape)
        border = np.concatenate([pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1]])
        tones = np.abs(border - GROUNDS[scene.ground]).max(-1)
        assert (tones <= 60).mean() > 0.9, scene
    for colour, value in COLOURS.items():
        for ground, base in GROUNDS.items():
            if (colour, ground) != ("black", "dark"):
                assert np.abs(np.subtract(value, base)).max() >= 60, (colour, ground)


def test_what_captions_name_is_in_the_picture():
    for seed in range(SCENES):
        scene, captions, pixels = seen(seed)
        for text in captions:
            words = text.lower().split()
            for colour in set(words) & set(COLOURS):
                assert where(pixels, colour)[2] >= 40, (text, scene)
            assert set(words) & set(GROUNDS) <= {scene.ground}
            assert set(words) & set(PATTERNS) <= {scene.pattern}
            counted = len(scene.shapes)
            assert ("two" in words or "pair" in words) <= (counted == 2)
            assert ("three" in words) <= (counted == 3)
            assert ("one" in words and "above" not in words) <= (counted == 1)
            for match in re.finditer(rf"\b{NOUN}\b", text):
                assert any(fits(match.groups(), shape) for shape in scene.shapes), (text, scene)
            for plural in set(words) & set(SINGULAR):
                assert {shape.kind for shape in scene.shapes} == {SINGULAR[plural]}
                assert counted >= 2


RELATIONS = {  # words between two nouns -> what holds of the first shape and the second
    "(?:is )?(?:to the )?left of a": lambda a, b: a.x < b.x - 0.2,
    "(?:is )?(?:to the )?right of a": lambda a, b: a.x > b.x + 0.2,
    "(?:is )?(?:above|over) a": lambda a, b: a.y < b.y - 0.2,
    "(?:is )?(?:below|under) a": lambda a, b: a.y > b.y + 0.2,
    "(?:is )?(?:inside|in) a": lambda a, b: abs(a.x - b.x) + abs(a.y - b.y) + a.radius < b.radius,
    "(?:around|surrounding) a": lambda a, b: abs(a.x - b.x) + abs(a.y - b.y) + b.radius < a.radius,
    "is bigger than the": lambda a, b: a.radius > 1.2 * b.radius,
    "is smaller than the": lambda a, b: b.radius > 1.2 * a.radius,
}
REVERSED = {"on its left": "left of", "above it": "above", "inside it": "inside"}


def test_relations_and_places_hold():
    relations = set()
    for seed in range(SCENES):
        scene, captions, pixels = seen(seed)
        for text in captions:
            words = text.lower().replace(" an ", " a ")
            if turned := re.search(rf"({NOUN}) with a ({NOUN}) ({'|'.join(REVERSED)})", words):
                words = f"a {turned[5]} {REVERSED[turned[9]]} a {turned[1]} ."
            for relation, holds in RELATIONS.items():
                if match := re.search(rf"{NOUN} {relation} {NOUN}\b", words):
                    relations.add(relation)
                    one, two = match.groups()[:3], match.groups()[3:]
                    pairs = permutations(scene.shapes, 2)
                    assert any(fits(one, a) and fits(two, b) and holds(a, b) for a, b in pairs), (text, scene)
                    if "left" in relation and one[1] and two[1] and one[1] != two[1]:
                        assert where(pixels, one[1])[0] < where(pixels, two[1])[0], text
                    if "above" in relation and one[1] and two[1] and one[1] != two[1]:
                        assert where(pixels, one[1])[1] < where(pixels, two[1])[1], text
            if len(scene.shapes) == 1:
                x, y, _ = where(pixels, scene.shapes[0].colour)
                for word, holds in {
                    "left": x < 26,
                    "right": x > 38,
                    "top": y < 26,
                    "bottom": y > 38,
                    "middle": 24 < x < 40 and 24 < y < 40,
                }.items():
                    if word in words.split():
                        relations.add(word)
                        assert holds, (text, x, y)
            if row := re.search("side by side|in a row|row of", words):
                assert scene.layout == "row", row
            if column := re.search("one above the other|in a column|column of", words):
                assert scene.layout == "column", column
            if "same color" in words or "different colors" in words:
                colours = {shape.colour for shape in scene.shapes}
                assert len(colours) == (1 if "same" in words else len(scene.shapes))
    assert relations == {*RELATIONS, "left", "right", "top", "bottom", "middle"}


def test_impossible_arguments_are_named_and_leave_nothing(tmp_path):
    for key, value in (("train", 0), ("dev", 0), ("test", -1), ("size", 8), ("size", 5000)):
        with pytest.raises(CaptionerError, match=rf"shapes\.{key}: expected"):
            written(tmp_path / "out", **{key: value})
    assert list((tmp_path / "out").iterdir()) == []
