"""The study of languages: what its captions say, that no letter is lost, and what the page shows."""
# ruff: noqa: RUF001

import csv
import itertools
import json
import re
import unicodedata

import pytest

from captioner.base.files import read_json, write_json, write_text
from captioner.base.params import read_values
from captioner.captions.text import lost_characters
from captioner.captions.tokens import caption_text, learnt_tokens, plain_text, scored_tokens, separate
from captioner.captions.vocabulary import Vocabulary
from captioner.sources.shapes import COLOURS, PLURALS, Scene, Shape
from dev import languages
from tests.support.workspaces import ROOT

SIZES, LAYOUTS = ("large", "small"), ("row", "column", "inside")
LOOKS = [Shape(*look, 0.5, 0.5, 0.2) for look in itertools.product(PLURALS, COLOURS, SIZES)]
SECOND_IS_SAID_FIRST = ("bn", "hi", "tr", "zh")
WRITTEN = {
    "ar": "دائرة حمراء كبيرة على يسار مربع أزرق صغير",
    "bn": "ছোট নীল বর্গক্ষেত্রের বাম পাশে একটি বড় লাল বৃত্ত",
    "de": "Ein großer roter Kreis links von einem kleinen blauen Quadrat",
    "hi": "एक छोटे नीले वर्ग के बाईं ओर एक बड़ा लाल वृत्त",
    "tr": "küçük mavi karenin solunda büyük kırmızı bir daire",
    "zh": "小的蓝色正方形的左边有一个大的红色圆形",
}
AGREED = {  # two shapes, one inside the other: other genders and cases than in WRITTEN
    "ar": "قلب وردي صغير داخل نجمة سوداء كبيرة",
    "bn": "বড় কালো তারার ভিতরে একটি ছোট গোলাপি হৃদয়",
    "de": "Ein kleines rosa Herz in einem großen schwarzen Stern",
    "hi": "एक बड़े काले तारे के अंदर एक छोटा गुलाबी दिल",
    "tr": "büyük siyah yıldızın içinde küçük pembe bir kalp",
    "zh": "大的黑色星形的里面有一个小的粉色心形",
}


def a_scene(*shapes, layout="alone"):
    return Scene(layout, shapes, "white", "plain")


def look(kind, colour, size):
    return Shape(kind, colour, size, 0.5, 0.5, 0.2)


def every_caption(language):
    """Return captions in which each look stands alone, first and second, by each layout."""
    scenes = [a_scene(shape) for shape in LOOKS]
    others = LOOKS[7:] + LOOKS[:7]
    scenes += [a_scene(*pair, layout=layout) for pair in zip(LOOKS, others, strict=True) for layout in LAYOUTS]
    return [text for scene in scenes for text in languages.captions(languages.LANGUAGES[language], scene)]


@pytest.mark.parametrize("language", languages.LANGUAGES)
def test_captions_as_written_down(language):
    grammar = languages.LANGUAGES[language]
    pair = a_scene(look("circle", "red", "large"), look("square", "blue", "small"), layout="row")
    assert languages.captions(grammar, pair)[0] == WRITTEN[language]
    inside = a_scene(look("heart", "pink", "small"), look("star", "black", "large"), layout="inside")
    assert languages.captions(grammar, inside)[0] == AGREED[language]


@pytest.mark.parametrize("language", languages.LANGUAGES)
def test_a_caption_names_its_shapes_in_the_order_of_the_language(language):
    grammar = languages.LANGUAGES[language]
    for layout in LAYOUTS:
        joint = re.split(r"\{\w+\}", grammar.relations[layout])[1]
        for pair in itertools.combinations(LOOKS[::3], 2):
            parts = list(enumerate(pair))
            if language in SECOND_IS_SAID_FIRST:
                parts.reverse()
            sized, plain = (text.split(joint) for text in languages.captions(grammar, a_scene(*pair, layout=layout)))
            for (place, shape), long, short in zip(parts, sized, plain, strict=True):
                colour, size = (languages.adjective(grammar, word, shape, place) for word in (shape.colour, shape.size))
                assert all(word in long for word in (grammar.nouns[shape.kind][place], colour, size))
                assert short == " ".join(long.replace(size, "").split())


@pytest.mark.parametrize("language", languages.LANGUAGES)
def test_no_letter_is_lost_from_a_caption_to_the_decoder_and_back(language):
    lowercase = languages.PARAMS["captions.lowercase"]
    longest = read_values(ROOT / "params.yaml")["captions"]["max_length"]
    texts = every_caption(language)
    learnt = []
    for text in texts:
        tokens = learnt_tokens(separate(text, language), language=language, lowercase=lowercase, punctuation=False)
        counted, lost = lost_characters(plain_text(text, language), tokens)
        assert (counted, lost) == (sum(unicodedata.category(char)[0] in "LMN" for char in caption_text(text, "")), "")
        learnt.append(tokens)
    words = tuple(sorted({token for tokens in learnt for token in tokens}))
    vocabulary = Vocabulary(words, longest, language)
    for text, tokens in zip(texts, learnt, strict=True):
        back = vocabulary.decode(vocabulary.encode(tokens))
        assert back == caption_text(text, "")
        assert scored_tokens(back, language) == scored_tokens(text, language)


def test_looks_of_a_language_differ_in_their_captions():
    for language in languages.LANGUAGES:
        texts = [languages.captions(languages.LANGUAGES[language], a_scene(shape))[0] for shape in LOOKS]
        assert len(set(texts)) == len(LOOKS)


def test_all_languages_have_the_same_pictures_of_one_shape_or_two_that_differ(tmp_path):
    by_language = {}
    for code in ("de", "zh"):
        languages.write_dataset(languages.LANGUAGES[code], tmp_path / code, 12)
        photos = sorted((tmp_path / code / "photos").iterdir())
        with open(tmp_path / code / "captions.csv", encoding="utf-8", newline="") as file:
            rows = list(csv.DictReader(file))
        assert [row["image"] for row in rows[::2]] == [f"photos/{photo.name}" for photo in photos]
        assert [row["caption"] for row in rows[:2]] == languages.captions(
            languages.LANGUAGES[code], languages.scene_of(0)[0]
        )
        by_language[code] = [photo.read_bytes() for photo in photos]
    assert by_language["de"] == by_language["zh"]
    for number in range(100):
        shapes = languages.scene_of(number)[0].shapes
        assert 1 <= len({(shape.kind, shape.colour) for shape in shapes}) == len(shapes) <= 2


def test_the_params_exist_and_are_valid(tmp_path, monkeypatch):
    seen = {}

    def timed(folder, *arguments):
        seen.update(read_values(folder / "params.yaml"), arguments=arguments)
        return "stopped", 1, {}

    monkeypatch.setattr(languages, "timed", timed)
    with pytest.raises(languages.CaptionerError, match="Hindi: dvc ended with 1:\nstopped"):
        languages.run("hi", 3, tmp_path)
    assert (seen["captions"]["language"], seen["own"]["folder"]) == ("hi", str(tmp_path / "own"))
    assert seen["arguments"] == ("repro", "validate", "evaluate")


def test_a_record_has_scores_equal_captions_and_the_first_picture_of_two_shapes(tmp_path, monkeypatch):
    grammar = languages.LANGUAGES["tr"]
    names = [f"photos/{number:04d}.jpg" for number in range(4)]
    scenes = dict(zip(names, (languages.scene_of(number)[0] for number in range(4)), strict=True))
    truth = {name: languages.captions(grammar, scene) for name, scene in scenes.items()}
    pair = next(name for name in names if len(scenes[name].shapes) == 2)

    def timed(folder, *arguments):
        rows = "".join(f"{name},mavi,{truth[name][at % 2]}\n" for at, name in enumerate(names))
        write_text(folder / "metrics/test_captions.csv", f"image,frozen,finetuned\n{rows}")
        scores = {"CIDEr": 2.5, "BLEU-4": 0.6, "ROUGE-L": 0.7}
        write_json(folder / "metrics/evaluate.json", {"frozen": scores, "finetuned": scores})
        counts = {"train": 8, "dev": 2, "test": 4}
        write_json(folder / "metrics/captions.json", {"images": counts, "lost characters": {"share": 0.0}})
        write_json(folder / "metrics/weights.json", {"md5": "5d"})
        lines = [{"image": name, "split": "test", "raw": truth[name], "ids": [[1, 2]] * 2} for name in names]
        write_text(folder / "data/captions.jsonl", "".join(f"{json.dumps(line)}\n" for line in lines))
        return "", 0, {"train": 1.02, "finetune": 2.0}

    monkeypatch.setattr(languages, "timed", timed)
    record = languages.run("tr", 14, tmp_path)
    assert (record["frozen"]["equal"], record["finetuned"]["equal"], record["lost"]) == (0.0, 1.0, 0.0)
    assert (record["finetuned"]["CIDEr"], record["weights"]) == (2.5, "5d")
    at = names.index(pair)
    assert record["example"] == {
        "photo": pair,
        "shows": languages.gloss(scenes[pair]),
        "reference": truth[pair][0],
        "frozen": "mavi",
        "finetuned": truth[pair][at % 2],
    }
    assert record["minutes"] == 3.0
    assert str(tmp_path) not in repr(record)


def a_run(cider, minutes):
    scores = {"CIDEr": cider, "BLEU-4": 0.5, "ROUGE-L": 0.75}
    example = {"photo": "photos/0001.jpg", "shows": "a star", "reference": "R", "frozen": "F", "finetuned": "T"}
    return {
        "images": {"train": 8, "dev": 1, "test": 2},
        "weights": "5d",
        "lost": 0.0015,
        "frozen": {**scores, "equal": 0.25},
        "finetuned": {**scores, "CIDEr": 2 * cider, "equal": 0.5},
        "example": example,
        "minutes": minutes,
    }


def test_runs_stay_in_the_record_as_long_as_the_study_is_the_same(tmp_path, monkeypatch):
    monkeypatch.setattr(languages, "RECORD", tmp_path / "record.json")
    monkeypatch.setattr(languages, "run", lambda code, photos, folder: a_run(photos, 1.0))
    languages.run_all(["hi"], 5)
    languages.run_all(["de", "ar"], 5)
    assert list(read_json(tmp_path / "record.json")["runs"]) == ["ar", "de", "hi"]
    languages.run_all(["zh"], 6)
    assert list(read_json(tmp_path / "record.json")["runs"]) == ["zh"]


def test_the_table_has_a_line_for_each_language_and_model():
    study = {
        "photos": 11,
        "params": {"views.flip": False},
        "machine": "M",
        "runs": {"de": a_run(1.0, 2.2), "hi": a_run(1.5, 4.6)},
    }
    lines = languages.table_of(study).splitlines()
    assert lines[0] == (
        "8 pictures train, 1 choose the epoch, and 2 test pictures are scored. The example is the first test picture "
        "with two shapes: a star. The params are `views.flip=false`. The encoder starts from the weights of MD5 "
        "`5d`. A run took 2 to 5 minutes beside other programs on M."
    )
    assert lines[4] == "| German, `de` | R | frozen | F | 100.0 | 50.0 | 75.0 | 25 % | 0.15 % |"
    assert lines[5] == "|  |  | fine-tuned | T | 200.0 | 50.0 | 75.0 | 50 % |  |"
    assert lines[6].startswith("| Hindi, `hi` | R | frozen | F | 150.0 |")
    assert len(lines) == 8


def test_the_page_shows_the_committed_runs():
    text = (ROOT / "docs/languages.md").read_text(encoding="utf-8")
    shown = text.split("<!-- languages -->\n")[1].split("\n<!-- end of languages -->")[0]
    if languages.RECORD.exists():
        assert shown == languages.table_of(read_json(languages.RECORD)), "run `python -m dev.languages table`"
    else:
        assert shown == "Not run yet."
