"""Agreement with people: tau by its definition, the protocol on a tiny archive, verdicts by eye, the page's tables."""

import hashlib
import re
import subprocess
import sys
from itertools import combinations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from benchmarks.page import put
from captioner.base.errors import CaptionerError
from captioner.base.files import digest, read_json
from captioner.sources.archives import Archive
from dev import by_eye, judgements
from tests.support.workspaces import ROOT
from tests.support.worlds import jpeg, zipped

CAPTIONS = {
    "a.jpg": ["A dog runs on the grass .", "A brown dog is running ."],
    "b.jpg": ["Two men climb a rock .", "Climbers on a steep rock ."],
    "c.jpg": ["A dog runs on a field .", "A child swims in a blue pool ."],
    "d.jpg": ["A dog runs on the grass ."],
}
GRADES = [
    ("a.jpg", "c.jpg#0", "4", "3", "4"),
    ("a.jpg", "d.jpg#0", "4", "4", "4"),  # word for word the image's own
    ("a.jpg", "c.jpg#1", "1", "1", "1"),
    ("b.jpg", "c.jpg#1", "1", "2", "1"),
    ("c.jpg", "a.jpg#0", "3", "3", "4"),
]
WORDS = ("1 - absent words", "agreed words")
PAGE = (ROOT / "docs/metrics.md").read_text(encoding="utf-8")


def archive(path, captions=CAPTIONS, grades=GRADES):
    token = "".join(
        f"{image}#{number}\t{text}\n" for image, texts in captions.items() for number, text in enumerate(texts)
    )
    rows = "".join("\t".join(row) + "\n" for row in grades)
    return zipped(path, {"Flickr8k.token.txt": token, "ExpertAnnotations.txt": rows})


def slow_tau(x, y):
    """By the definitions: over all pairs."""
    signs = [(np.sign(x[i] - x[j]), np.sign(y[i] - y[j])) for i, j in combinations(range(len(x)), 2)]
    surplus = sum(a * b for a, b in signs)
    fewer = min(len(set(x)), len(set(y)))
    b = surplus / np.sqrt(sum(a != 0 for a, _ in signs) * sum(b != 0 for _, b in signs))
    return b, 2 * fewer * surplus / (len(x) ** 2 * (fewer - 1))


@given(st.lists(st.tuples(st.integers(0, 6), st.integers(1, 4)), min_size=2, max_size=40))
def test_tau_is_what_its_definition_gives(pairs):
    x, y = np.array(pairs, dtype=float).T
    if len(set(x)) < 2 or len(set(y)) < 2:
        assert np.isnan(judgements.tau(x, y)).all()
    else:
        assert judgements.tau(x, y) == pytest.approx(slow_tau(x, y))


def test_tau_of_four_observations_by_hand():
    result = judgements.tau(np.array([0.1, 0.1, 0.5, 0.9]), np.array([1, 2, 2, 1]))
    # of six pairs: 1 and 3 agree; 2 and 4, 3 and 4 do not; the others tie in one of the two
    assert result == pytest.approx((-1 / np.sqrt(5 * 4), 2 * 2 * -1 / (4**2 * 1)))


def test_a_pair_whose_caption_is_the_images_own_is_left_out(tmp_path):
    pairs, own = judgements.read_judgements(archive(tmp_path / "captions.zip"))
    assert own == 1
    assert [(pair.image, pair.caption) for pair in pairs] == [
        ("a.jpg", "A dog runs on a field ."),
        ("a.jpg", "A child swims in a blue pool ."),
        ("b.jpg", "A child swims in a blue pool ."),
        ("c.jpg", "A dog runs on the grass ."),
    ]
    assert pairs[0].references == CAPTIONS["a.jpg"]
    assert pairs[0].grades == [4, 3, 4]


def test_each_grade_is_an_observation_of_its_pairs_score(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", "")  # without METEOR, which is slow to start
    record = judgements.measure(archive(tmp_path / "captions.zip"))
    assert (record["pairs"], record["left out"], record["images"], record["official"]) == (4, 1, 3, False)
    pairs, _ = judgements.read_judgements(tmp_path / "captions.zip")
    scores = judgements.scores_of(pairs)
    assert set(record["tau"]) == {*scores, "another expert"} == {"BLEU-4", "ROUGE-L", "CIDEr", *WORDS, "another expert"}
    grades = [grade for pair in pairs for grade in pair.grades]
    for name, each in scores.items():
        assert each[0] > max(each[1], each[2])  # a field is nearer to the grass than a pool is
        thrice = [score for score in each for _ in range(3)]
        assert (record["tau"][name]["b"], record["tau"][name]["c"]) == pytest.approx(slow_tau(thrice, grades), abs=1e-4)
        assert record["tau"][name]["c from"] <= record["tau"][name]["c"] <= record["tau"][name]["c to"]
    experts = np.array([pair.grades for pair in pairs]).T
    among = [slow_tau(experts[one], experts[other])[0] for one, other in combinations(range(3), 2)]
    assert record["tau"]["another expert"]["b"] == pytest.approx(np.mean(among), abs=1e-4)
    shown = judgements.table_of(record)
    assert "| SPICE |  |  | 44.9 |" in shown
    assert "4 pairs of 3 images, 12 judgements; 1 pairs left out" in shown


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (("a.jpg", "c.jpg#0", "4", "3"), "line 1: expected 5 columns, found 4"),
        (("a.jpg", "c.jpg#0", "4", "3", "5"), "line 1: expected grades from 1 to 4"),
        (("z.jpg", "c.jpg#0", "4", "3", "4"), r"line 1: z\.jpg is not in Flickr8k\.token\.txt"),
        (("a.jpg", "c.jpg#9", "4", "3", "4"), r"line 1: c\.jpg#9 is not in Flickr8k\.token\.txt"),
        (("a.jpg", "d.jpg#0", "4", "4", "4"), "no judged caption of another image"),
    ],
)
def test_judgements_that_cannot_be_read_are_named(tmp_path, row, message):
    with pytest.raises(CaptionerError, match=message):
        judgements.read_judgements(archive(tmp_path / "captions.zip", grades=[row]))


def test_the_page_shows_the_committed_judgements():
    shown = PAGE.split("<!-- judgements -->\n")[1].split("\n<!-- end of judgements -->")[0]
    assert shown == judgements.table_of(read_json(judgements.RECORD))


def test_a_part_is_put_between_its_marks_alone(tmp_path):
    page = tmp_path / "page.md"
    page.write_text("above\n<!-- x -->\nold\n\\1 old\n<!-- end of x -->\nbelow\n")
    put(page, "x", "new \\1")
    assert page.read_text() == "above\n<!-- x -->\nnew \\1\n<!-- end of x -->\nbelow\n"
    with pytest.raises(CaptionerError, match="end of y"):
        put(page, "y", "new")


@pytest.fixture
def captions_file(tmp_path):
    rows = [(f"{at}.jpg", f"a cat, {at}", f"a dog, {at}", 0.01 * at, 0.1 * at) for at in range(30)]
    table = pd.DataFrame(rows, columns=["image", "frozen", "finetuned", "frozen CIDEr", "finetuned CIDEr"])
    table.to_csv(tmp_path / "generated.csv", index=False)
    return tmp_path / "generated.csv"


def test_images_are_chosen_by_the_hash_of_their_names(captions_file):
    names = by_eye.chosen(captions_file, 7)["image"].tolist()[::2]
    everyone = [f"{number}.jpg" for number in range(30)]
    assert names == sorted(everyone, key=lambda name: hashlib.sha256(name.encode()).hexdigest())[:7]


def test_both_captions_of_an_image_are_judged_in_an_order_that_does_not_tell_the_model(captions_file):
    rows = by_eye.chosen(captions_file, 30)
    assert rows.groupby("image")["model"].agg(set).eq({"frozen", "finetuned"}).all()
    assert set(rows["model"][::2]) == {"frozen", "finetuned"}
    assert (rows["caption"].str.startswith("a cat") == (rows["model"] == "frozen")).all()
    number = rows["image"].str.removesuffix(".jpg").astype(float)
    assert list(rows["CIDEr"]) == pytest.approx(list(number * rows["model"].map({"frozen": 0.01, "finetuned": 0.1})))


def test_sheets_have_every_photo_and_the_file_to_fill_in_is_read_back(captions_file, tmp_path):
    rows = by_eye.chosen(captions_file, 23)
    photos = {f"photos/{name}": jpeg(colour="red" if at < 20 else "blue") for at, name in enumerate(rows["image"][::2])}
    *sheets, csv = by_eye.draw(rows, Archive(zipped(tmp_path / "photos.zip", photos)), tmp_path / "out")
    shares = []
    for sheet in sheets:
        pixels = np.asarray(Image.open(sheet).convert("RGB")).astype(int)
        assert max(pixels.shape) < 2000
        masks = [((pixels - colour) ** 2).sum(-1) < 300 for colour in ((254, 0, 0), (0, 0, 254))]
        shares.append([round(float(mask.sum() / (0.94 * by_eye.DPI * by_eye.SIDE) ** 2)) for mask in masks])
    assert shares == [[20, 0], [0, 3]]
    empty = pd.read_csv(csv, keep_default_na=False)
    filled = empty.assign(verdict=["right"] * 40 + ["minor"] * 4 + ["wrong"] * 2, mistake=[""] * 40 + ["count"] * 6)
    filled.to_csv(csv, index=False)
    shown = by_eye.table_of(by_eye.read_judged(csv, rows))
    tuned = rows[40:44]
    mean = 100 * tuned["CIDEr"][tuned["model"] == "finetuned"].mean()
    assert f"| fine-tuned | minor mistake | 2 | {mean:.1f} | count 2 |" in shown
    assert "| frozen | right | 20 |" in shown


@pytest.mark.parametrize(
    ("column", "value", "message"),
    [
        ("caption", "a cat", "line 4: is .*'a cat'; expected .*judge its captions anew"),
        ("image", "x.jpg", r"line 4: is x\.jpg"),
        ("verdict", "", "line 4: verdict is ''"),
        ("verdict", "right", "line 4: mistake is 'count', expected nothing"),
        ("mistake", "", "line 4: mistake is '', expected colour"),
        ("mistake", "size", "line 4: mistake is 'size'"),
    ],
)
def test_verdicts_of_other_captions_or_without_sense_are_refused(captions_file, tmp_path, column, value, message):
    rows = by_eye.chosen(captions_file, 5)
    filled = rows[["image", "caption"]].assign(verdict="minor", mistake="count")
    filled.loc[2, column] = value
    filled.to_csv(tmp_path / "judged.csv", index=False)
    with pytest.raises(CaptionerError, match=message):
        by_eye.read_judged(tmp_path / "judged.csv", rows)


def test_verdicts_for_another_number_of_captions_are_refused(captions_file, tmp_path):
    rows = by_eye.chosen(captions_file, 5)
    rows[["image", "caption"]].assign(verdict="right", mistake="")[:9].to_csv(tmp_path / "judged.csv", index=False)
    with pytest.raises(CaptionerError, match="9 captions, expected 10"):
        by_eye.read_judged(tmp_path / "judged.csv", rows)


def test_separation_is_the_share_of_pairs_in_order():
    judged = pd.DataFrame(
        [
            ("1.jpg", "a dog runs", 0.9, "right"),
            ("2.jpg", "a dog on grass", 0.2, "right"),
            ("3.jpg", "a dog swims", 0.5, "wrong"),
            ("4.jpg", "a dog runs", 0.9, "minor"),
        ],
        columns=["image", "caption", "CIDEr", "verdict"],
    )
    judged = pd.concat([judged.assign(model="finetuned"), judged.assign(model="frozen", verdict="right")])
    texts = ["The dogs run .", "A dog is on the grass .", "A dog ."]
    references = dict.fromkeys(judged["image"], texts)
    result = by_eye.separation(judged, references)
    assert (result["right"], result["wrong"]) == (2, 1)
    assert {name: each["value"] for name, each in result["AUC"].items()} == {
        "CIDEr": 0.5,  # one of the two right captions scores higher than the wrong one
        "1 - absent words": 1.0,  # swims is in no reference
        "agreed words": 0.5,  # all three have dog, the only word on which the references agree
    }
    assert result["AUC - CIDEr's"]["1 - absent words"]["value"] == 0.5
    assert result["AUC - CIDEr's"]["agreed words"]["value"] == 0
    assert result["AUC"]["CIDEr"]["from"] == 0
    assert "| 1 - absent words | 100.0 (100.0 to 100.0) | +50.0 (+0.0 to +100.0) |" in by_eye.separation_table(result)


@pytest.mark.parametrize(("verdict", "message"), [("right", "0 wrong"), ("wrong", "0 right")])
def test_verdicts_of_one_kind_cannot_be_separated(verdict, message):
    judged = pd.DataFrame({"image": ["1.jpg"], "caption": ["a dog"], "CIDEr": [1.0], "verdict": [verdict]})
    judged["model"] = "finetuned"
    with pytest.raises(CaptionerError, match=message):
        by_eye.separation(judged, {"1.jpg": ["a dog"]})
    with pytest.raises(CaptionerError, match=r"no references of 1\.jpg"):
        by_eye.separation(judged, {})


def test_the_page_shows_the_committed_verdicts():
    shown = re.search(r"<!-- by_eye -->\n(.*?)\n<!-- end of by_eye -->", PAGE, re.DOTALL)[1]
    if by_eye.JUDGED.exists():
        record = read_json(by_eye.RECORD)
        assert record["judged"] == digest(by_eye.JUDGED), "run `python -m dev.by_eye table`"
        judged = by_eye.read_judged(by_eye.JUDGED, by_eye.chosen(by_eye.GENERATED))
        assert shown == f"{by_eye.table_of(judged)}\n\n{by_eye.separation_table(record)}"
    else:
        assert shown.startswith("Not judged yet")


@pytest.mark.slow
def test_a_missing_file_is_told_without_a_traceback(tmp_path):
    command = [sys.executable, "-m", "dev.by_eye", "table", "--judged", str(tmp_path / "none.csv")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr == f"error: {tmp_path / 'none.csv'}: not found; fill in what `draw` wrote and put it there\n"
