"""From the archives' text files to images.csv, captions.jsonl and vocabulary.json, blemish by blemish."""

import dataclasses
import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from captioner.base.errors import CaptionerError
from captioner.captions.dataset import CaptionedImage, read_captions, read_images
from captioner.captions.tokenise import tokenise_dataset
from captioner.captions.tokens import join_tokens
from captioner.captions.vocabulary import BOS, EOS, PAD, SPECIAL, UNK, Vocabulary
from tests.support.worlds import flickr_archives

PHOTOS = {f"{letter}.jpg": letter.encode() for letter in "abcde"}
SPLITS = {"train": ["b.jpg", "a.jpg"], "dev": ["c.jpg"], "test": ["d.jpg"]}  # and e.jpg in none
RAW = [
    "a.jpg#0\tTwo Dogs play .",
    "a.jpg#1\tA dog 's ball",
    "b.jpg#0\ttwo cats",
    "c.jpg#0\tonly dev words here",
    "d.jpg#0\ttwo dogs",
    "e.jpg#0\tnobody trains on this",
]
LEMMA = [
    "a.jpg#1\ta dog 's ball",  # in an order of their own
    "a.jpg#0\ttwo dog play .",
    "b.jpg#0\ttwo cat",
    "c.jpg#0\tonly dev word here",
    "d.jpg#0\ttwo dog",
    "e.jpg#0\tnobody train on this",
]
FILES = ("images.csv", "captions.jsonl", "vocabulary.json")
USUAL = {
    "form": "raw",
    "language": "en",
    "lowercase": True,
    "punctuation": False,
    "min_count": 1,
    "max_length": 24,
    "on_bad": "error",
}
USUAL |= {"dev": 0.1, "test": 0.1, "seed": 1}

WORD = st.text(min_size=1, max_size=6).filter(lambda word: len(word.split()) == 1 and word.split()[0] == word)
KNOWN = st.lists(WORD.filter(lambda word: word not in SPECIAL), min_size=1, max_size=8, unique=True)


def run(folder, *, photos=PHOTOS, captions=RAW, splits=SPLITS, lemma=LEMMA, **changes):
    """Tokenise a tiny dataset into folder/data, return that folder and the summary."""
    archives = flickr_archives(folder, photos, captions, splits, lemma)
    return folder / "data", tokenise_dataset(*archives, folder=folder / "data", **{**USUAL, **changes})


def refused(folder, **changes):
    """Return what is said against a dataset; nothing must have been written."""
    with pytest.raises(CaptionerError) as caught:
        run(folder, **changes)
    assert not (folder / "data").exists()
    return str(caught.value)


def spoken(data):
    """Return the captions of each photo as the decoder would say them."""
    vocabulary = Vocabulary.from_dict(json.loads((data / "vocabulary.json").read_text()))
    return {each.image: [vocabulary.decode(ids) for ids in each.ids] for each in read_captions(data / "captions.jsonl")}


def test_the_three_files_hold_what_they_are_said_to_hold(tmp_path):
    data, _ = run(tmp_path)
    assert sorted(each.name for each in data.iterdir()) == sorted(FILES)
    assert (data / "images.csv").read_bytes() == b"image,split\na.jpg,train\nb.jpg,train\nc.jpg,dev\nd.jpg,test\n"
    assert read_images(data / "images.csv")[2] == ("c.jpg", "dev")
    vocabulary = json.loads((data / "vocabulary.json").read_text())
    assert vocabulary == {
        "language": "en",
        "max_length": 24,
        "words": ["two", "'s", "a", "ball", "cats", "dog", "dogs", "play"],
    }
    two, s, a, ball, cats, dog, dogs, play = range(4, 12)
    assert read_captions(data / "captions.jsonl") == [
        CaptionedImage(
            "a.jpg",
            "train",
            ["Two Dogs play .", "A dog 's ball"],
            [[BOS, two, dogs, play, EOS], [BOS, a, dog, s, ball, EOS]],
        ),
        CaptionedImage("b.jpg", "train", ["two cats"], [[BOS, two, cats, EOS]]),
        CaptionedImage("c.jpg", "dev", ["only dev words here"], [[BOS, UNK, UNK, UNK, UNK, EOS]]),
        CaptionedImage("d.jpg", "test", ["two dogs"], [[BOS, two, dogs, EOS]]),
    ]


def test_the_summary_counts_what_was_read(tmp_path):
    _, summary = run(tmp_path, min_count=2, max_length=3)
    assert summary == {
        "form": "raw",
        "language": "en",
        "lost characters": {"share": 0.0, "count": 0},
        "recognised": {
            "summary": "Flickr8k's official captions: 1 file, 5 photos, 6 captions, splits as given",
            "left out": {},
            "repaired": {},
            "ignored columns": [],
        },
        "images": {"train": 2, "dev": 1, "test": 1, "in no split": 1},
        "captions": {"train": 3, "dev": 1, "test": 1},
        "training words": {"types": 8, "vocabulary": 1, "unknown share": round(7 / 9, 6)},
        "training length": {"mean": 3.0, "longest": 4, "cut": 1},
        "blemishes": {
            "lines with a duplicate's name": 0,
            "captions of no photo": 0,
            "captions without a word": 0,
        },
    }


def test_lemmas_are_learnt_and_the_references_stay_as_people_wrote_them(tmp_path):
    data, summary = run(tmp_path, form="lemma")
    assert summary["form"] == "lemma"
    assert spoken(data)["a.jpg"] == ["two dog play", "a dog's ball"]
    plain = read_captions(run(tmp_path / "raw")[0] / "captions.jsonl")
    assert [each.raw for each in read_captions(data / "captions.jsonl")] == [each.raw for each in plain]


def test_lemmas_of_a_caption_under_a_duplicates_name_are_found(tmp_path):
    data, summary = run(
        tmp_path,
        captions=[*RAW, "b.jpg.1#1\tthe cat sleeps"],
        lemma=[*LEMMA, "b.jpg#1\tthe cat sleep", "gone.jpg#0\tno"],
        form="lemma",
    )
    assert spoken(data)["b.jpg"] == ["two cat", "the cat sleep"]
    assert read_captions(data / "captions.jsonl")[1].raw == ["two cats", "the cat sleeps"]
    assert summary["blemishes"]["lines with a duplicate's name"] == 1


def test_a_caption_without_its_lemmas_is_refused(tmp_path):
    assert "no file Flickr8k.lemma.token.txt" in refused(tmp_path / "file", form="lemma", lemma=None)
    message = refused(tmp_path / "line", form="lemma", lemma=[each for each in LEMMA if "a.jpg#1" not in each])
    assert "captions.zip: Flickr8k.token.txt, line 2: a.jpg#1 is not in Flickr8k.lemma.token.txt" in message
    message = refused(tmp_path / "form", form="lemma", lemma=[*LEMMA, "a.jpg#2 no tab"])
    assert "captions.zip: Flickr8k.lemma.token.txt, line 7: 'a.jpg#2 no tab' is not of the form" in message


@pytest.mark.parametrize(
    ("lowercase", "punctuation", "expected"),
    [
        (True, False, "two dogs play"),
        (True, True, "two dogs play."),
        (False, False, "Two Dogs play"),
        (False, True, "Two Dogs play."),
    ],
)
def test_case_and_punctuation_are_kept_as_the_params_say(tmp_path, lowercase, punctuation, expected):
    data, _ = run(tmp_path, lowercase=lowercase, punctuation=punctuation)
    assert spoken(data)["a.jpg"][0] == expected
    assert read_captions(data / "captions.jsonl")[0].raw[0] == "Two Dogs play ."


def test_images_csv_does_not_depend_on_the_caption_params(tmp_path):
    captions, lemma = ([*lines, "d.jpg#1\t.", "d.jpg#2\t!! ..."] for lines in (RAW, LEMMA))
    changes = [{}, {"lowercase": False}, {"punctuation": True}, {"min_count": 2}, {"max_length": 2}, {"form": "lemma"}]
    contents = {
        (run(tmp_path / str(number), captions=captions, lemma=lemma, **change)[0] / "images.csv").read_bytes()
        for number, change in enumerate(changes)
    }
    assert len(contents) == 1


def test_images_csv_does_not_depend_on_the_order_of_the_split_files(tmp_path):
    data, _ = run(tmp_path / "one")
    again, _ = run(tmp_path / "two", splits=SPLITS | {"train": SPLITS["train"][::-1]})
    assert (data / "images.csv").read_bytes() == (again / "images.csv").read_bytes()


def test_the_same_archives_give_the_same_bytes(tmp_path):
    (one, first), (two, second) = run(tmp_path / "one"), run(tmp_path / "two")
    assert first == second
    for name in FILES:
        assert (one / name).read_bytes() == (two / name).read_bytes()


def test_the_vocabulary_counts_training_captions_only(tmp_path):
    data, _ = run(tmp_path, captions=[*RAW, *(f"{name}.jpg#{n}\tzebra" for name in "cde" for n in range(9))])
    assert "zebra" not in json.loads((data / "vocabulary.json").read_text())["words"]


def test_words_rarer_than_min_count_are_unknown(tmp_path):
    data, _ = run(tmp_path, captions=[*RAW, "b.jpg#1\tDogs sleep", "b.jpg#2\ttwo"], min_count=2)
    assert json.loads((data / "vocabulary.json").read_text())["words"] == ["two", "dogs"]
    assert spoken(data)["b.jpg"] == ["two <unk>", "dogs <unk>", "two"]


def test_too_high_a_min_count_is_refused(tmp_path):
    assert refused(tmp_path, min_count=4).startswith("captions.min_count: no training word stands 4 times or more")


@pytest.mark.parametrize("photo", ["a.jpg", "c.jpg", "d.jpg"])
@pytest.mark.parametrize("on_bad", ["error", "skip"])
def test_captions_that_lost_their_rare_words_are_refused(tmp_path, photo, on_bad):
    message = refused(tmp_path, captions=[*RAW, f"{photo}#7\ta <UNK> dog"], on_bad=on_bad)
    assert f"Flickr8k.token.txt: a caption of {photo} says <unk>" in message


def test_a_cut_caption_does_not_end(tmp_path):
    data, summary = run(tmp_path, max_length=3)
    complete, cut = read_captions(data / "captions.jsonl")[0].ids
    assert (len(complete), complete[-1]) == (5, EOS)
    assert len(cut) == 4
    assert EOS not in cut
    assert summary["training length"]["cut"] == 1


def test_a_very_long_caption_is_cut_and_counted(tmp_path):
    data, summary = run(tmp_path, captions=[*RAW, "a.jpg#2\t" + "very " * 50_000 + "long"])
    assert read_captions(data / "captions.jsonl")[0].ids[2] == [BOS] + [4] * 24
    assert summary["training length"]["longest"] == 50_001


def test_words_spelt_like_special_tokens_are_unknown_words(tmp_path):
    data, _ = run(tmp_path, captions=[*RAW, "a.jpg#2\ta <eos> <pad> <bos> dog"])
    assert spoken(data)["a.jpg"][2] == "a <unk> <unk> <unk> dog"
    assert not set(SPECIAL) & set(json.loads((data / "vocabulary.json").read_text())["words"])


def test_a_photo_of_a_kind_that_is_not_read_is_told_of(tmp_path):
    splits = SPLITS | {"dev": ["c.jpg", "f.gif"]}
    assert "f.gif does not end in one of .jpg" in refused(tmp_path, splits=splits)


@pytest.mark.parametrize("split", ["train", "dev", "test"])
def test_a_split_entry_whose_photo_is_missing_is_refused_or_skipped_and_counted(tmp_path, split):
    splits = SPLITS | {split: [SPLITS[split][0], "", "gone.jpg", *SPLITS[split][1:]]}
    captions = [*RAW, "gone.jpg#0\ttwo dogs"]
    message = refused(tmp_path / "error", splits=splits, captions=captions)
    assert f"captions.zip: Flickr_8k.{split}Images.txt, line 3: no photo gone.jpg in " in message
    assert "dataset.on_bad" in message
    data, summary = run(tmp_path / "skip", splits=splits, captions=captions, on_bad="skip")
    assert summary["blemishes"]["names without a photo"] == 1
    assert read_images(data / "images.csv") == read_images(run(tmp_path / "plain")[0] / "images.csv")


@pytest.mark.parametrize("line", [None, "b.jpg#0\t.", "b.jpg#0\t"])
def test_a_photo_without_captions_is_refused_or_skipped_and_counted(tmp_path, line):
    captions = [each for each in RAW if not each.startswith("b.jpg")] + ([line] if line else [])
    message = refused(tmp_path / "error", captions=captions)
    assert "captions.zip: Flickr8k.token.txt: no caption for b.jpg of the train split" in message
    data, summary = run(tmp_path / "skip", captions=captions, on_bad="skip")
    assert summary["blemishes"]["photos without captions: train"] == 1
    assert summary["blemishes"]["captions without a word"] == (1 if line else 0)
    assert summary["images"] == {"train": 1, "dev": 1, "test": 1, "in no split": 1}
    assert [image for image, _ in read_images(data / "images.csv")] == ["a.jpg", "c.jpg", "d.jpg"]


def test_captions_of_a_photo_that_nobody_has_are_only_counted(tmp_path):
    data, summary = run(tmp_path, captions=[*RAW, "gone.jpg#0\tzebra", "gone.jpg#1\tzebra"])
    assert summary["blemishes"]["captions of no photo"] == 2
    for name in FILES:
        assert (data / name).read_bytes() == (run(tmp_path / "plain")[0] / name).read_bytes()


def test_a_caption_under_a_duplicates_name_is_given_back_to_its_photo(tmp_path):
    data, summary = run(tmp_path, captions=[*RAW, "b.jpg.1#0\tthe cat sleeps"])
    assert spoken(data)["b.jpg"] == ["two cats", "the cat sleeps"]
    assert summary["blemishes"]["lines with a duplicate's name"] == 1
    assert summary["blemishes"]["captions of no photo"] == 0


@pytest.mark.parametrize("text", ["", " ", ".", ". !", "\x00\x1f"])
def test_a_caption_without_a_word_is_left_out_and_counted(tmp_path, text):
    for punctuation in (False, True):
        data, summary = run(tmp_path, captions=[f"a.jpg#4\t{text}", *RAW], punctuation=punctuation)
        assert summary["blemishes"]["captions without a word"] == 1
        assert read_captions(data / "captions.jsonl")[0].raw == ["Two Dogs play .", "A dog 's ball"]


@pytest.mark.parametrize(
    "line",
    ["a.jpg#0 two dogs", "a.jpg\ttwo dogs", "a.jpg#\ttwo dogs", "a.jpg#x\ttwo dogs", "two dogs", "\ttwo dogs"],
)
def test_a_line_of_another_form_is_refused_by_its_number(tmp_path, line):
    message = refused(tmp_path, captions=[*RAW[:2], "", line, *RAW[2:]])
    assert f"captions.zip: Flickr8k.token.txt, line 4: {line!r} is not of the form name.jpg#0<TAB>caption" in message


def test_a_web_page_in_place_of_the_captions_is_refused(tmp_path):
    message = refused(tmp_path, captions="<!DOCTYPE html>\n<html>" + "Not found " * 500)
    assert "Flickr8k.token.txt, line 1: '<!DOCTYPE html>' is not of the form" in message
    assert len(refused(tmp_path, captions="<html>" * 500)) < 500


@pytest.mark.parametrize("bad", ["captions", "splits"])
def test_text_that_is_not_utf_8_is_refused_by_its_line(tmp_path, bad):
    if bad == "captions":
        message = refused(tmp_path, captions="\n".join([*RAW, "a.jpg#2\tcaf\xe9"]).encode("latin-1"))
        assert "captions.zip: Flickr8k.token.txt, line 7: not UTF-8" in message
    else:
        message = refused(tmp_path, splits=SPLITS | {"dev": b"c.jpg\n\xff.jpg\n"})
        assert "captions.zip: Flickr_8k.devImages.txt, line 2: not UTF-8" in message


def test_a_byte_order_mark_windows_line_ends_and_no_last_line_end_change_nothing(tmp_path):
    captions = b"\xef\xbb\xbf" + "\r\n".join(RAW).encode()
    splits = {split: b"\xef\xbb\xbf" + "\r\n".join(names).encode() for split, names in SPLITS.items()}
    data, summary = run(tmp_path / "windows", captions=captions, splits=splits)
    plain, expected = run(tmp_path / "plain")
    assert summary == expected
    for name in FILES:
        assert (data / name).read_bytes() == (plain / name).read_bytes()


def test_control_characters_and_odd_spaces_separate_words(tmp_path):
    data, _ = run(tmp_path, captions=[*RAW, "a.jpg#2\ttwo\x00dogs\tplay\x0bin\u2028the\x85snow\u00a0now"])
    image = read_captions(data / "captions.jsonl")[0]
    assert image.raw[2] == "two dogs play in the snow now"
    assert spoken(data)["a.jpg"][2] == image.raw[2]
    assert len((data / "captions.jsonl").read_text().splitlines()) == 4


def test_html_in_a_caption_is_text_like_any_other(tmp_path):
    data, summary = run(tmp_path, captions=[*RAW, "a.jpg#2\t<b>two</b> dogs &amp; <script>alert(1)</script>"])
    image = read_captions(data / "captions.jsonl")[0]
    assert image.raw[2] == "<b>two</b> dogs & <script>alert(1)</script>"
    assert summary["recognised"]["repaired"] == {"captions with HTML entities": 1}
    assert spoken(data)["a.jpg"][2] == image.raw[2].replace("& ", "")


def test_text_beyond_ascii_comes_through(tmp_path):
    data, _ = run(tmp_path, captions=[*RAW, "a.jpg#2\tDas Mädchen 雪 🐕"])
    assert spoken(data)["a.jpg"][2] == "das mädchen 雪"
    assert read_captions(data / "captions.jsonl")[0].raw[2] == "Das Mädchen 雪 🐕"


def test_names_that_need_quotes_come_back_from_images_csv(tmp_path):
    name = 'a, "b" é.jpg'
    data, _ = run(
        tmp_path,
        photos=PHOTOS | {name: b"photo"},
        captions=[*RAW, f"{name}#0\ttwo dogs"],
        splits=SPLITS | {"test": [name]},
    )
    assert read_images(data / "images.csv")[-1] == (name, "test")
    assert spoken(data)[name] == ["two dogs"]


@pytest.mark.parametrize(
    ("splits", "place", "owner"),
    [
        ({"dev": ["c.jpg", "a.jpg"]}, "Flickr_8k.devImages.txt, line 2: a.jpg", "train"),
        ({"test": ["c.jpg"]}, "Flickr_8k.testImages.txt, line 1: c.jpg", "dev"),
        ({"train": ["a.jpg", "b.jpg", "a.jpg"]}, "Flickr_8k.trainImages.txt, line 3: a.jpg", "train"),
    ],
)
def test_splits_that_overlap_are_refused_whatever_on_bad_says(tmp_path, splits, place, owner):
    for on_bad in ("error", "skip"):
        message = refused(tmp_path / on_bad, splits=SPLITS | splits, on_bad=on_bad)
        assert f"captions.zip: {place} is also in the {owner} split; expected each photo in one split" in message


@pytest.mark.parametrize("split", ["train", "dev", "test"])
@pytest.mark.parametrize("names", [[], ["", "  "], ["gone.jpg"]])
def test_an_empty_split_is_refused_even_when_the_bad_is_skipped(tmp_path, split, names):
    message = refused(tmp_path, splits=SPLITS | {split: names}, on_bad="skip")
    assert f"captions.zip: Flickr_8k.{split}Images.txt: no photo of the {split} split has captions" in message


def test_a_missing_split_file_is_named(tmp_path):
    splits = {split: names for split, names in SPLITS.items() if split != "dev"}
    assert "captions.zip: no file Flickr_8k.devImages.txt in it" in refused(tmp_path, splits=splits)


def test_an_images_archive_without_photos_is_refused(tmp_path):
    assert "images.zip: no photos; expected files ending in .jpg" in refused(tmp_path, photos={"readme.txt": b"text"})


def test_an_error_leaves_the_files_of_an_earlier_run_alone(tmp_path):
    data, _ = run(tmp_path)
    before = {each.name: each.read_bytes() for each in data.iterdir()}
    with pytest.raises(CaptionerError):
        run(tmp_path, captions=RAW[1:4], min_count=99)
    assert {each.name: each.read_bytes() for each in data.iterdir()} == before


def test_special_tokens_have_the_first_ids():
    vocabulary = Vocabulary(("dog",), 3)
    assert [vocabulary.decode([id]) for id in (PAD, BOS, EOS, UNK, 4)] == ["", "", "", "<unk>", "dog"]
    assert len(vocabulary) == 5
    assert vocabulary.decode([BOS, 4, PAD, 4, EOS, 4]) == "dog dog"


def test_the_vocabulary_is_ordered_by_count_then_alphabet():
    counts = {"b": 2, "a": 2, "c": 3, "rare": 1, "<unk>": 9}
    assert Vocabulary.from_counts(counts, min_count=2, max_length=5).words == ("c", "a", "b")


@settings(max_examples=60, deadline=None)
@given(KNOWN, st.data())
def test_known_words_come_back(words, data):
    vocabulary = Vocabulary.from_dict(json.loads(json.dumps(Vocabulary(tuple(words), max_length=8).as_dict())))
    sentence = data.draw(st.lists(st.sampled_from(words), max_size=8))
    ids = vocabulary.encode(sentence)
    assert vocabulary.decode(ids) == join_tokens(sentence)
    assert (ids[0], ids[-1]) == (BOS, EOS)


@settings(max_examples=60, deadline=None)
@given(KNOWN, st.lists(WORD, max_size=12), st.integers(1, 8))
def test_unknown_words_become_unk_and_only_whole_captions_end(words, sentence, max_length):
    vocabulary = Vocabulary(tuple(words), max_length)
    ids = vocabulary.encode(sentence)
    expected = [word if word in words else "<unk>" for word in sentence[:max_length]]
    assert vocabulary.decode(ids) == join_tokens(expected)
    assert (ids[-1] == EOS) == (len(sentence) <= max_length)
    assert all(0 <= id < len(vocabulary) for id in ids)


ABROAD = [
    "a.jpg#0\t一只狗在草地上。",
    "a.jpg#1\t两只狗在T恤上",
    "b.jpg#0\t一只狗",
    "c.jpg#0\t一只狗！",  # noqa: RUF001
    "d.jpg#0\t两只狗",
]


def test_the_language_goes_into_the_vocabulary_and_decides_about_tokens(tmp_path):
    data, summary = run(tmp_path, captions=ABROAD, language="zh")
    assert json.loads((data / "vocabulary.json").read_text())["language"] == summary["language"] == "zh"
    assert spoken(data)["a.jpg"] == ["一只狗在草地上", "两只狗在t恤上"]
    assert read_captions(data / "captions.jsonl")[0].raw == ["一只狗在草地上。", "两只狗在T恤上"]
    assert summary["lost characters"] == {"share": 0.0, "count": 0}


def test_a_vocabulary_without_a_language_is_english():
    assert Vocabulary.from_dict({"words": ["dog"], "max_length": 3}) == Vocabulary(("dog",), 3, "en")
    assert Vocabulary.from_dict(Vocabulary(("köpek",), 3, "tr").as_dict()).language == "tr"


def test_case_follows_the_language_of_the_captions(tmp_path):
    captions = [line.replace("Two Dogs", "IŞIK İyi") for line in RAW]
    assert "ışık iyi play" in spoken(run(tmp_path, captions=captions, language="tr")[0])["a.jpg"]  # noqa: RUF001


def test_characters_that_reach_no_word_are_counted_and_named(tmp_path, caplog):
    few = [*RAW[1:], "a.jpg#0\t" + "a dog " * 20 + "\ufffd"]
    _, summary = run(tmp_path / "few", captions=few)
    assert summary["lost characters"]["count"] == 1
    assert summary["lost characters"]["share"] < 0.01
    assert not caplog.records
    _, summary = run(tmp_path / "many", captions=[*RAW[1:], "a.jpg#0\tcaf\ufffd cr\ufffdme \ue000"])
    assert summary["lost characters"]["count"] == 3
    (record,) = caplog.records
    assert "U+FFFD REPLACEMENT CHARACTER, 2 times, first in 'caf\ufffd cr\ufffdme" in record.getMessage()
    assert "U+E000" in record.getMessage()


def test_captions_of_another_script_than_their_language_are_told_of(tmp_path, caplog):
    hindi = [f"{name}.jpg#0\tकुत्ता घास पर दौड़ रहा है" for name in "abcd"]
    run(tmp_path / "hi", captions=hindi, language="hi")
    run(tmp_path / "few", captions=[*RAW, hindi[0].replace("#0", "#2")])
    assert not caplog.records
    run(tmp_path / "en", captions=hindi)
    (record,) = caplog.records
    assert "most letters are not Latin, and captions.language is en" in record.getMessage()


def test_captions_of_one_long_word_are_told_of(tmp_path, caplog):
    thai = [f"{name}.jpg#0\tสุนัขวิ่งบนหญ้า" for name in "abcd"]
    run(tmp_path / "apart", captions=[line.replace("วิ่ง", " วิ่ง ") for line in thai], language="th")
    assert not caplog.records
    run(tmp_path / "together", captions=thai, language="th")
    (record,) = caplog.records
    assert "most captions are one word of more than 8 letters. Segment the captions first" in record.getMessage()


def test_captions_that_need_a_dictionary_are_refused_by_file_and_line(tmp_path):
    message = refused(tmp_path, captions=[*RAW, "a.jpg#2\t" + "สุนัขวิ่งบนหญ้า" * 4])
    assert "Flickr8k.token.txt, line 7: " in message
    assert "Segment" in message


def test_a_caption_that_needs_a_dictionary_can_be_skipped_and_counted(tmp_path):
    data, summary = run(tmp_path, captions=[*RAW, "a.jpg#2\t" + "สุนัขวิ่งบนหญ้า" * 4], on_bad="skip")
    assert summary["blemishes"]["captions without spaces between words"] == 1
    assert summary["blemishes"]["captions without a word"] == 0
    assert len(spoken(data)["a.jpg"]) == 2


def test_ids_may_be_those_of_an_array():
    vocabulary = Vocabulary(("dog", "runs"), 3)
    assert vocabulary.decode(np.array([BOS, 4, 5, EOS, 4, PAD])) == "dog runs"


def test_a_vocabulary_does_not_change():
    vocabulary = Vocabulary(("dog",), 3)
    with pytest.raises(dataclasses.FrozenInstanceError):
        vocabulary.words = ("cat",)
