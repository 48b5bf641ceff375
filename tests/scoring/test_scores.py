import logging
import random
import shutil

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pycocoevalcap.bleu.bleu import Bleu
from pycocoevalcap.cider.cider import Cider as PublishedCider
from pycocoevalcap.rouge.rouge import Rouge

from captioner.base.errors import CaptionerError
from captioner.results.evaluate import table_of
from captioner.scoring import scores
from captioner.scoring.evaluation import score_all

WORD = st.sampled_from(["dog", "man", "red", "runs", "on", "the", "grass"])
CAPTION = st.lists(WORD, min_size=1, max_size=8).map(" ".join)
CORPUS = st.lists(st.tuples(st.lists(CAPTION, min_size=1, max_size=4), CAPTION), min_size=1, max_size=5)
REFERENCES = {
    "a.jpg": ["A dog runs on the grass .", "The brown dog is running ."],
    "b.jpg": ["Two men climb a steep rock .", "Climbers on a rock ."],
}
HYPOTHESES = {"a.jpg": "a dog runs on the grass", "b.jpg": "two men sit on a rock"}
java = pytest.mark.skipif(shutil.which("java") is None, reason="no java for METEOR")


def split(corpus: list) -> tuple[dict[str, list[str]], dict[str, str]]:
    return {str(i): r for i, (r, _) in enumerate(corpus)}, {str(i): h for i, (_, h) in enumerate(corpus)}


@settings(max_examples=50, deadline=None)
@given(CORPUS)
def test_scores_are_the_published_ones(corpus: list) -> None:
    references, hypotheses = split(corpus)
    captions = {image: [text] for image, text in hypotheses.items()}
    measured, each = scores.score(references, hypotheses)
    bleu, _ = Bleu(4).compute_score(references, captions, verbose=0)
    mean, per_image = PublishedCider().compute_score(references, captions)
    assert [measured[f"BLEU-{n}"] for n in (1, 2, 3, 4)] == pytest.approx(bleu)
    assert measured["ROUGE-L"] == pytest.approx(Rouge().compute_score(references, captions)[0])
    assert measured["CIDEr"] == pytest.approx(mean) == scores.cider(references, hypotheses)
    assert list(each.values()) == pytest.approx(list(per_image))


@settings(max_examples=50, deadline=None)
@given(CORPUS)
def test_each_score_is_that_of_all_images_drawn_once(corpus: list) -> None:
    measured = score_all(*split(corpus), use_meteor=False)
    for name, value in (measured.corpus | measured.words).items():
        assert measured.resampled[name].score() == pytest.approx(value, abs=1e-9)
    assert list(measured.resampled) == [*measured.corpus, *measured.words]


@settings(max_examples=30, deadline=None)
@given(CORPUS, st.randoms())
def test_order_of_images_and_references_does_not_matter(corpus: list, chance: random.Random) -> None:
    references, hypotheses = split(corpus)
    images = chance.sample(list(references), len(references))
    shuffled = {image: chance.sample(references[image], len(references[image])) for image in images}
    once, each = scores.score(references, hypotheses)
    again, each_again = scores.score(shuffled, hypotheses)
    assert again == pytest.approx(once)
    assert each_again == pytest.approx(each)


def test_a_caption_equal_to_a_reference_scores_one() -> None:
    measured, _ = scores.score(REFERENCES, {i: r[0] for i, r in REFERENCES.items()})
    assert [measured[f"BLEU-{n}"] for n in (1, 2, 3, 4)] == pytest.approx([1] * 4)
    assert measured["ROUGE-L"] == pytest.approx(1)


def test_scoring_again_changes_nothing() -> None:
    scorer = scores.Cider(REFERENCES)
    first = scorer.score(HYPOTHESES)
    scorer.score(dict.fromkeys(REFERENCES, "grass on a rock"))
    assert scorer.score(HYPOTHESES) == first
    assert first[0] > 0


def test_unknown_words_and_empty_hypotheses_score_nothing() -> None:
    for text in ("", "<unk>", "<unk> <unk>"):
        measured, each = scores.score(REFERENCES, dict.fromkeys(REFERENCES, text))
        assert list(measured.values()) == pytest.approx([0] * len(measured), abs=1e-6)
        assert set(each.values()) == {0}


def test_unknown_word_counts_as_a_wrong_word() -> None:
    unknown, wrong = (
        scores.score(REFERENCES, HYPOTHESES | {"a.jpg": f"a {word} runs"})[0] for word in ("<unk>", "zebra")
    )
    assert unknown == wrong


def test_references_without_words_are_left_out() -> None:
    more = REFERENCES | {"a.jpg": [*REFERENCES["a.jpg"], " ."]}
    assert scores.score(more, HYPOTHESES) == scores.score(REFERENCES, HYPOTHESES)


@pytest.mark.parametrize(
    ("references", "hypotheses", "named"),
    [
        ({}, {}, "no references"),
        ({"a.jpg": []}, {"a.jpg": "a dog"}, r"a\.jpg"),
        ({"a.jpg": ["."]}, {"a.jpg": "a dog"}, r"a\.jpg"),
        ({"a.jpg": ["a <unk>"]}, {"a.jpg": "a dog"}, "<unk>"),
        (REFERENCES, {"a.jpg": "a dog"}, r"1 without a hypothesis \(b\.jpg\)"),
        (REFERENCES, HYPOTHESES | {"c.jpg": "a dog"}, r"1 without references \(c\.jpg\)"),
    ],
)
def test_what_cannot_be_scored_is_refused(references: dict, hypotheses: dict, named: str) -> None:
    with pytest.raises(CaptionerError, match=named):
        scores.score(references, hypotheses)


def test_nothing_is_printed(capfd: pytest.CaptureFixture[str]) -> None:
    scores.score(REFERENCES, HYPOTHESES)
    assert capfd.readouterr() == ("", "")


@java
def test_meteor_takes_empty_and_unknown_and_gives_what_it_always_gave() -> None:
    references = {"a.jpg": ["A dog runs .", "The dog ."], "b.jpg": ["A cat ."], "c.jpg": ["A man sits ."]}
    measured = score_all(references, {"a.jpg": "", "b.jpg": "a cat", "c.jpg": "<unk>"}).corpus
    assert measured["METEOR"] == pytest.approx(0.2318840579710145)


def test_diversity() -> None:
    captions = {"a.jpg": "A dog runs .", "b.jpg": "a dog runs", "c.jpg": "two men", "d.jpg": "a dog swims"}
    measured = scores.diversity(captions, scores.known_captions(["A dog runs .", ["two", "men", "sit"]]))
    assert measured == {
        "distinct captions": 0.75,
        "vocabulary": 6,
        "mean length": 2.75,
        "copied from training": 0.5,
    }
    assert scores.diversity({"a.jpg": ""}, [])["mean length"] == 0
    with pytest.raises(CaptionerError):
        scores.diversity({}, [])


def test_a_table_has_what_either_model_has():
    lines = table_of(
        {"images": 2, "frozen": {"BLEU-1": 0.5, "CIDEr": 1.25}, "finetuned": {"BLEU-1": 0.25, "METEOR": 0.2}}
    )
    assert [line.split() for line in lines.splitlines()] == [
        ["x100", "frozen", "finetuned"],
        ["BLEU-1", "50.0", "25.0"],
        ["CIDEr", "125.0", "-"],
        ["METEOR", "-", "20.0"],
    ]


ABROAD = {
    "tr": ("IŞIK altında İKİ köpek koşuyor.", "ışık altında iki köpek koşuyor"),  # noqa: RUF001
    "fr": ("L’homme « court », dit-il !", "l'homme court dit-il"),  # noqa: RUF001
    "zh": ("一只狗在草地上。", "一只狗在草地上"),
    "ar": ("كلب بني، يركض؟", "كلب بني يركض"),
    "bn": ("একটি মেয়ে বসে আছে।", "একটি মেয়ে বসে আছে"),
    "de": ("Hund & Katze 🐕\u200d🦺 im T-Shirt", "hund katze im t-shirt"),
}


@pytest.mark.parametrize("language", ABROAD)
def test_other_languages_have_the_scores_that_hold_for_them(language: str, caplog: pytest.LogCaptureFixture) -> None:
    raw, tokens = ABROAD[language]
    with caplog.at_level(logging.INFO):
        measured = score_all({"a": [raw], "b": ["x y z w"]}, {"a": tokens, "b": "x y z w"}, language=language).corpus
    assert list(measured) == ["BLEU-1", "BLEU-2", "BLEU-3", "BLEU-4", "ROUGE-L", "CIDEr"]
    assert measured["BLEU-1"] == pytest.approx(1)
    assert measured["ROUGE-L"] == pytest.approx(1)
    assert f"METEOR is left out: it is for English, and captions.language is {language}" in caplog.text
    assert (
        scores.diversity({"a": tokens}, scores.known_captions([raw], language), language)["copied from training"] == 1
    )
