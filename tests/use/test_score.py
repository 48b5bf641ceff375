"""`captioner score`: outcomes, exit codes, every form of predictions and references."""

import csv
import json
import random
import re
import subprocess
import sys
from types import SimpleNamespace

import pytest
from pycocoevalcap.bleu.bleu import Bleu
from pycocoevalcap.cider.cider import Cider
from pycocoevalcap.rouge.rouge import Rouge

from captioner.base.errors import CaptionerError
from captioner.scoring.compare import evaluate_captions
from captioner.scoring.matching import match
from captioner.scoring.predictions import read_predictions
from captioner.scoring.references import read_reference_files
from captioner.use.cli import main
from captioner.use.commands import caption as caption_command
from tests.support.workspaces import ROOT
from tests.support.worlds import flickr_archives, jpeg

REFERENCES = {
    "000000000001.jpg": ["a dog runs on the grass", "the brown dog is running"],
    "000000000002.jpg": ["two men climb a steep rock", "climbers on a rock"],
    "000000000003.jpg": ["a child sleeps", "a small child is asleep in a bed"],
}
CAPTIONS = dict(zip(REFERENCES, ["a dog runs", "two men on a rock", 'a child, "asleep"'], strict=True))
IDS = {name: int(name[:12]) for name in REFERENCES}


def lines(rows):
    return "".join(f"{row}\n" for row in rows)


def table(rows, delimiter=","):
    class Text(list):
        write = list.append

    text = Text()
    csv.writer(text, delimiter=delimiter).writerows(rows)
    return "".join(text)


def printed_by_caption(**options):
    """Return what `captioner caption` prints of CAPTIONS."""
    options = SimpleNamespace(**{"json": False, "top": None, **options})
    printed = []
    for name, text in CAPTIONS.items():
        beams = [SimpleNamespace(text=each, score=-1.0, agreement=0.5) for each in (text, "a worse one")]
        printed += caption_command.lines(f"some folder/{name}", beams[: options.top or 1], options)
    return lines(printed)


PREDICTIONS = {
    "COCO results": json.dumps([{"image_id": IDS[name], "caption": text} for name, text in CAPTIONS.items()]),
    "COCO's annotations": json.dumps(
        {"annotations": [{"image_id": IDS[n], "caption": t} for n, t in CAPTIONS.items()]}
    ),
    "names to captions": json.dumps(CAPTIONS, indent=1),
    "ids to lists": json.dumps({str(IDS[name]): [{"caption": text}] for name, text in CAPTIONS.items()}),
    "names to captions in one line": json.dumps(CAPTIONS),
    "JSON lines": lines(json.dumps({"image": name, "caption": text}) for name, text in CAPTIONS.items()),
    "CSV": table([("image", "caption"), *CAPTIONS.items()]),
    "CSV with further columns": table([("score", "caption", "file_name"), *((1, t, n) for n, t in CAPTIONS.items())]),
    "CSV with blanks and quotes": lines(
        ["image, caption", *(f"{n}, {json.dumps(t)}" for n, t in CAPTIONS.items())]
    ).replace('\\"', '""'),
    "semicolons": table([("image", "caption"), *CAPTIONS.items()], ";"),
    "caption": printed_by_caption(),
    "caption --top": printed_by_caption(top=2),
    "caption --json": printed_by_caption(json=True),
    "caption --json --top": printed_by_caption(json=True, top=2),
    "a byte order mark and Windows' line ends": "\ufeff" + printed_by_caption().replace("\n", "\r\n"),
    "names without suffix": lines(f"{name[:-4]}\t{text}" for name, text in CAPTIONS.items()),
    "names of COCO 2014": lines(f"COCO_val2014_{name}\t{text}" for name, text in CAPTIONS.items()),
    "Windows' paths": lines(f"C:\\My photos\\{name.upper()}\t{text}" for name, text in CAPTIONS.items()),
}


def coco(references, ids):
    return json.dumps(
        {
            "images": [{"id": ids[name], "file_name": name} for name in references],
            "annotations": [{"image_id": ids[n], "caption": text} for n, texts in references.items() for text in texts],
        }
    )


@pytest.fixture
def files(tmp_path):
    (tmp_path / "references.json").write_text(coco(REFERENCES, IDS))
    (tmp_path / "predictions.csv").write_text(PREDICTIONS["CSV"])
    return tmp_path


def run(*arguments):
    return main(["score", "--no-meteor", *map(str, arguments)])


def record(capsys, *arguments):
    assert run(*arguments, "--json") == 0
    return json.loads(capsys.readouterr().out)


@pytest.mark.parametrize("form", PREDICTIONS)
def test_every_form_of_predictions_is_read(form, tmp_path):
    file = tmp_path / "file"
    file.write_text(PREDICTIONS[form], encoding="utf-8", newline="")
    matched = match(REFERENCES, read_predictions(file))
    assert matched.captions == CAPTIONS
    assert not matched.missing
    assert not matched.unknown


def test_one_photo_is_a_form_too(tmp_path):
    for n, text in enumerate(['{"photo": "a.jpg", "caption": "a dog"}\n', "a.jpg\ta dog\n", '{"a.jpg": "a dog"}']):
        (tmp_path / str(n)).write_text(text)
        assert read_predictions(tmp_path / str(n)) == {"a.jpg": "a dog"}


def test_a_tab_goes_before_a_comma(tmp_path):
    (tmp_path / "file").write_text("a.jpg\ta dog, picture\nb.jpg\ta cat, image\n")
    assert read_predictions(tmp_path / "file") == {"a.jpg": "a dog, picture", "b.jpg": "a cat, image"}


REFERENCE_FORMS = {
    "coco.json": coco(REFERENCES, IDS),
    "table.csv": table([("image", "caption"), *((n, text) for n, texts in REFERENCES.items() for text in texts)]),
    "captions.jsonl": lines(
        json.dumps({"image": name, "split": "test", "raw": texts, "ids": [[1, 4, 2]] * len(texts)})
        for name, texts in REFERENCES.items()
    ),
    "karpathy.json": json.dumps(
        {
            "images": [
                {"filename": name, "split": "test", "sentences": [{"raw": text} for text in texts]}
                for name, texts in REFERENCES.items()
            ]
        }
    ),
    "flickr.token": lines(f"{n}#{at}\t{text}" for n, texts in REFERENCES.items() for at, text in enumerate(texts)),
}


@pytest.mark.parametrize("name", REFERENCE_FORMS)
def test_references_may_have_every_form_of_own_data(name, files, capsys):
    (files / name).write_text(REFERENCE_FORMS[name])
    expected = record(capsys, files / "references.json", files / "predictions.csv")
    result = record(capsys, files / name, files / "predictions.csv")
    assert result == expected
    assert result["images"] == 3


def test_references_may_be_a_folder_of_text_files(files, capsys):
    for name, texts in REFERENCES.items():
        path = files / "photos/deep" / name.replace(".jpg", ".txt")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("\n".join(texts))
    expected = record(capsys, files / "references.json", files / "predictions.csv")
    assert record(capsys, files / "photos", files / "predictions.csv") == expected
    (files / "empty").mkdir()
    assert run(files / "empty", files / "predictions.csv") == 1
    assert "no references in this folder" in capsys.readouterr().err


def test_references_may_be_the_official_zip_with_its_splits(tmp_path, capsys):
    splits = dict(zip(("train", "dev", "test"), ([name] for name in REFERENCES), strict=True))
    token = lines(f"{n}#{at}\t{text}" for n, texts in REFERENCES.items() for at, text in enumerate(texts))
    _, texts = flickr_archives(tmp_path, dict.fromkeys(REFERENCES, jpeg()), token, splits)
    assert read_reference_files(texts).captions == REFERENCES
    assert list(read_reference_files(texts, "test").captions) == splits["test"]
    (tmp_path / "p.csv").write_text(PREDICTIONS["CSV"])
    assert run(texts, tmp_path / "p.csv", "--split", "test") == 1
    assert run(texts, tmp_path / "p.csv", "--split", "test", "--allow-missing") == 0


def test_a_split_that_is_not_there_is_named(files, capsys):
    assert run(files / "references.json", files / "predictions.csv", "--split", "dev") == 1
    assert "no image of the split dev; the splits in it: none" in capsys.readouterr().err


@pytest.fixture(scope="module")
def corpus():
    chance = random.Random(5)
    words = ["a", "the", "dog", "man", "red", "runs", "on", "grass", "two", "men", "rock", "snow", "is", "in", "with"]

    def caption():
        return " ".join(chance.choices(words, k=chance.randint(1, 12)))

    references = {f"{n}.jpg": [caption() for _ in range(chance.randint(1, 5))] for n in range(60)}
    return references, *({name: caption() for name in references} for _ in range(2))


def test_scores_are_those_of_pycocoevalcap(corpus):
    references, captions, _ = corpus
    result = evaluate_captions(references, captions, meteor=False, draws=10)
    listed = {image: [text] for image, text in captions.items()}
    bleu, _ = Bleu(4).compute_score(references, listed, verbose=0)
    mean, each = Cider().compute_score(references, listed)
    published = {f"BLEU-{n}": value for n, value in enumerate(bleu, 1)}
    published |= {"ROUGE-L": Rouge().compute_score(references, listed)[0], "CIDEr": mean}
    assert {name: result.scores[name] for name in published} == pytest.approx(published, abs=1e-6)
    assert list(result.cider.values()) == pytest.approx(list(each), abs=1e-6)


@pytest.fixture
def two(corpus, tmp_path):
    references, *captions = corpus
    (tmp_path / "references.json").write_text(json.dumps(references))
    rows = [("image", "one", "other"), *((image, *(each[image] for each in captions)) for image in references)]
    (tmp_path / "both.csv").write_text(table(rows))
    return tmp_path / "references.json", tmp_path / "both.csv"


def test_two_files_are_compared_on_the_same_draws(two, corpus, capsys):
    references, both = two
    columns = ("--column", "one", "--column", "other")
    result = record(capsys, references, both, both, *columns)
    one, other = (each["scores"] for each in result["predictions"])
    assert one["CIDEr"] != other["CIDEr"]
    for name, value in result["difference"]["values"].items():
        if name in one:
            assert value == pytest.approx(one[name] - other[name])
            low, high = result["difference"]["intervals"][name]
            assert low < value < high
    apart = [abs(a - b) for a, b in (entry["cider"] for entry in result["differ_most"])]
    assert len(apart) == 5
    assert apart == sorted(apart, reverse=True)
    entry = result["differ_most"][0]
    assert entry["captions"] == [captions[entry["image"]] for captions in corpus[1:]]
    assert record(capsys, references, both, both, *columns) == result  # the draws have a seed
    turned = record(capsys, references, both, both, *columns[2:], *columns[:2])
    low, high = result["difference"]["intervals"]["CIDEr"]
    assert turned["difference"]["intervals"]["CIDEr"] == pytest.approx([-high, -low])


def test_equal_predictions_do_not_differ(two, capsys):
    references, both = two
    result = record(capsys, references, both, both, "--column", "one")
    assert set(result["difference"]["values"].values()) == {0}
    assert all(ends == [0, 0] for ends in result["difference"]["intervals"].values())
    assert result["differ_most"] == []


def test_each_image_is_written(two, capsys, tmp_path):
    references, both = two
    out = tmp_path / "each.csv"
    result = record(capsys, references, both, "--column", "one", "--each", out)
    with out.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == ["image", "CIDEr", "caption"]
    values = [float(row["CIDEr"]) for row in rows]
    assert sum(values) / len(values) == pytest.approx(result["predictions"][0]["scores"]["CIDEr"], abs=1e-5)
    assert run(references, both, both, "--column", "one", "--column", "other", "--each", out) == 0
    assert out.read_text().startswith("image,CIDEr 1,CIDEr 2,caption 1,caption 2\n")
    before = both.read_bytes()
    assert run(references, both, "--column", "one", "--each", both) == 1
    assert both.read_bytes() == before


def test_a_file_of_images_that_cannot_be_written_loses_no_scores(two, capsys, tmp_path):
    references, both = two
    assert run(references, both, "--column", "one", "--each", tmp_path) == 1
    printed = capsys.readouterr()
    assert "CIDEr" in printed.out
    assert f"--each {tmp_path}: cannot be written" in printed.err


def test_names_that_are_not_utf_8_are_read_and_written(tmp_path):
    name = "caf\udce9.jpg"
    (tmp_path / "references.json").write_text(json.dumps({name: ["a dog"], "b.jpg": ["a cat"]}))
    predictions = tmp_path / "predictions.txt"
    predictions.write_bytes("b.jpg\ta café\n".encode() + b"caf\xe9.jpg\ta dog\n")
    assert read_predictions(predictions) == {"b.jpg": "a café", name: "a dog"}
    assert run(tmp_path / "references.json", predictions, "--each", tmp_path / "each.csv") == 0
    assert [line.split(",")[0] for line in (tmp_path / "each.csv").read_text().splitlines()] == [
        "image", "caf\\udce9.jpg", "b.jpg",
    ]  # fmt: skip
    predictions.write_bytes(b"a.jpg\ta dog\nb.jpg\ta caf\xe9\n")
    with pytest.raises(CaptionerError, match=r"line 2: not UTF-8; save the file as UTF-8"):
        read_predictions(predictions)


def test_a_folder_of_predictions_is_named(tmp_path):
    with pytest.raises(CaptionerError, match=r"is a folder; expected a file\. `captioner caption` without --write"):
        read_predictions(tmp_path)


def test_photos_whose_names_begin_like_json_are_read(tmp_path):
    path = tmp_path / "captions.txt"
    path.write_text("[2020] trip/1.jpg\ta dog\n{x}.jpg\ta cat\n")
    assert read_predictions(path) == {"[2020] trip/1.jpg": "a dog", "{x}.jpg": "a cat"}


def test_lines_may_end_in_a_carriage_return_alone(tmp_path):
    path = tmp_path / "old.csv"
    path.write_bytes(b"image,caption\r1.jpg,a dog\r")
    assert read_predictions(path) == {"1.jpg": "a dog"}


def test_missing_images_are_named_or_left_out(files, capsys):
    rows = [*list(CAPTIONS.items())[:2], ("elsewhere.jpg", "a cat")]
    (files / "part.csv").write_text(table([("image", "caption"), *rows]))
    assert run(files / "references.json", files / "part.csv") == 1
    done = capsys.readouterr()
    assert not done.out
    assert "no prediction for 1 (000000000003.jpg) of 3 images" in done.err
    assert "no reference for 1 (elsewhere.jpg)" in done.err
    assert "--allow-missing" in done.err
    result = record(capsys, files / "references.json", files / "part.csv", "--allow-missing")
    assert (result["images"], result["left_out"]) == (2, {"without_prediction": 1, "without_reference": 1})
    (files / "none.csv").write_text(table([("image", "caption"), ("elsewhere.jpg", "a cat")]))
    assert run(files / "references.json", files / "none.csv", "--allow-missing") == 1
    assert "no image has both" in capsys.readouterr().err


def test_a_wrong_line_of_the_references_is_named_or_left_out(files, capsys):
    (files / "flickr.token").write_text(f"{REFERENCE_FORMS['flickr.token']}a caption without a name\n")
    assert run(files / "flickr.token", files / "predictions.csv") == 1
    assert "flickr.token, line 7: a caption without a name is not of the form" in capsys.readouterr().err
    assert run(files / "flickr.token", files / "predictions.csv", "--allow-missing") == 0
    done = capsys.readouterr()
    assert done.out.startswith("3 images")
    assert "left out: 1 lines of another form" in done.err


def test_an_image_without_a_word_in_its_references_counts_as_missing(files, capsys):
    references = {**REFERENCES, "000000000003.jpg": ["", "."]}
    (files / "references.csv").write_text(
        table([("image", "caption"), *((n, text) for n, texts in references.items() for text in texts)])
    )
    assert run(files / "references.csv", files / "predictions.csv") == 1
    assert record(capsys, files / "references.csv", files / "predictions.csv", "--allow-missing")["images"] == 2


def test_ids_of_a_coco_file_go_before_numbers_in_names():
    names = {"photo_7.jpg": "8", "photo_8.jpg": "7"}  # ids that cross, as those of VizWiz and NoCaps may
    matched = match(names, {"7": "seven", "8": "eight"}, {id: name for name, id in names.items()})
    assert matched.captions == {"photo_7.jpg": "eight", "photo_8.jpg": "seven"}
    assert match(names, {"7": "seven", "8": "eight"}).captions == {"photo_7.jpg": "seven", "photo_8.jpg": "eight"}


def test_an_id_or_name_of_an_image_without_references_is_no_other_image():
    ids = {"1": "img_0.jpg", "2": "img_1.jpg", "3": "img_2.jpg", "4": "b/img_0.png"}
    matched = match(["img_0.jpg", "img_2.jpg"], {"1": "one", "2": "two", "b/img_0.png": "four"}, ids)
    assert (matched.captions, matched.unknown) == ({"img_0.jpg": "one"}, ["2", "b/img_0.png"])


@pytest.mark.parametrize("others", [[], ["train/1.jpg"]])
def test_the_same_name_goes_before_a_similar_one(others):
    matched = match(["test/1.jpg"], {"train/1.jpg": "x", "test/1.jpg": "y"}, others=others)
    assert (matched.captions, matched.unknown) == ({"test/1.jpg": "y"}, ["train/1.jpg"])


def test_captions_of_one_split_are_not_scored_as_those_of_another(tmp_path, capsys):
    references, predictions = tmp_path / "references.csv", tmp_path / "predictions.csv"
    rows = [(f"{split}/{n}.jpg", split, f"a {split} dog {n}") for split in ("train", "test") for n in (1, 2)]
    references.write_text(table([("image", "split", "caption"), *rows]))
    predictions.write_text(table([("image", "caption"), *((image, text) for image, _, text in rows)]))
    result = record(capsys, references, predictions, "--split", "test", "--allow-missing")
    assert (result["images"], result["predictions"][0]["scores"]["BLEU-4"]) == (2, pytest.approx(1))
    predictions.write_text(table([("image", "caption"), *((image, text) for image, _, text in rows[:2])]))
    assert run(references, predictions, "--split", "test", "--allow-missing") == 1
    assert "no image has both references and predictions" in capsys.readouterr().err
    predictions.write_text(table([("image", "caption"), ("1.jpg", "a dog"), ("2.jpg", "a dog")]))
    assert record(capsys, references, predictions, "--split", "test")["images"] == 2


def test_references_may_have_numbers_and_predictions_names():
    assert match(["391895"], {"COCO_val2014_000000391895.jpg": "a dog"}).captions == {"391895": "a dog"}
    assert match(["a_12.jpg"], {"b_12.jpg": "a dog"}).unknown == ["b_12.jpg"]


def test_names_that_fit_two_images_are_an_error():
    images = ["a/1.jpg", "b/1.jpg"]
    assert match(images, {"photos/b/1.jpg": "x", "photos/a/1.png": "y"}).captions == {"a/1.jpg": "y", "b/1.jpg": "x"}
    with pytest.raises(CaptionerError, match=r"1\.jpg: may be the image a/1\.jpg or b/1\.jpg"):
        match(images, {"1.jpg": "x"})
    with pytest.raises(CaptionerError, match="both are predictions of the image 1"):
        match(["1.jpg"], {"a/1.jpg": "x", "b/1.jpg": "y"})


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "no predictions in it"),
        ("[]", "no predictions in it"),
        ("[1]", r"\[1\] is not of a known form"),
        ('[{"image_id": 1, "caption": "a"}, 1]', r"\[1\]: is 1, expected an object"),
        ('[{"image_id": 1}]', r"\[0\]: has image_id; expected the caption as one of caption"),
        ('[{"caption": "a"}]', r"\[0\]: has caption; expected the image's name as image"),
        ('[{"image_id": 1, "caption": null}]', r"\[0\]: the caption is null; expected one text"),
        ('[{"image_id": 1, "caption": "a"}, {"image_id": 1, "caption": "b"}]', r"\[1\]: 1 has a caption already"),
        ('[{"image_id": 1, "caption": ["a", "b"]}]', "expected one text"),
        ('[{"image_id": 1, "caption": "a"', "not JSON"),
        ('{"a": ' * 9999, "nested too deep"),
        ('{"image": "a", "caption": "b"}\n{"image": ', "line 2: not JSON"),
        ("image,caption\na.jpg,one,two\n", "line 2: 3 fields, expected 2"),
        ("a dog runs\n", "line 1: a dog runs is not of a known form"),
        ("a.jpg\ta dog\na.jpg\ta cat\n", "line 2: a.jpg has a caption already .*line 1"),
        ("a.jpg\ta dog\t-1\t0.5\na.jpg\ta cat\n", "line 2: a.jpg has a caption already"),
        ("a.jpg\ta dog\nb.jpg a cat\n", "line 2: b.jpg a cat is not of a known form"),
    ],
)
def test_predictions_that_are_wrong_are_named(content, message, tmp_path):
    file = tmp_path / "predictions"
    file.write_text(content)
    with pytest.raises(CaptionerError, match=message):
        read_predictions(file)


def test_a_column_that_is_not_there_is_named(two, capsys):
    references, both = two
    assert run(references, both) == 1
    assert "has image, one, other; expected the caption as one of caption" in (message := capsys.readouterr().err)
    assert "or the name that --column gives" in message
    assert run(references, both, "--column", "three") == 1
    assert "has image, one, other; expected the caption as three" in capsys.readouterr().err


def test_exit_codes(files, capsys):
    assert run(files / "references.json", files / "predictions.csv") == 0
    assert capsys.readouterr().out.startswith("3 images;")
    assert run(files / "nothing.json", files / "predictions.csv") == 1
    assert run(files / "references.json", files / "nothing.csv") == 1
    assert not capsys.readouterr().out
    for wrong in (
        [],
        ["--split", "x"],
        [files / "predictions.csv", "--column", "a", "--column", "b"],
        [files / "predictions.csv", "--language", "english"],
        [files / "predictions.csv", "--language", "tur"],
    ):
        with pytest.raises(SystemExit) as ended:
            run(files / "references.json", *wrong)
        assert ended.value.code == 2


@pytest.mark.parametrize("code", ["eng", "tur", "aze"])
def test_long_codes_of_languages_with_rules_of_their_own_are_refused(files, code, capsys):
    with pytest.raises(SystemExit):
        run(files / "references.json", files / "predictions.csv", "--language", code)
    assert f"--language {code}: English, Turkish and Azerbaijani are en, tr and az" in capsys.readouterr().err


def test_another_language_has_no_meteor_and_says_so(files, capsys):
    assert main(["score", *map(str, [files / "references.json", files / "predictions.csv"]), "--language", "de"]) == 0
    done = capsys.readouterr()
    assert "METEOR is left out: it is for English, and --language is de" in done.err
    assert "CIDEr" in done.out
    assert "METEOR" not in done.out
    assert "absent words" not in done.out


def test_a_missing_pycocoevalcap_is_named_with_its_extra(files, monkeypatch, capsys):
    monkeypatch.setattr("captioner.use.commands.score.find_spec", lambda name: None)
    assert run(files / "references.json", files / "predictions.csv") == 1
    assert "pip install 'captioner[score]'" in capsys.readouterr().err


def test_torch_is_not_imported(files):
    code = (
        "import sys; from captioner.use.cli import main; code = main(sys.argv[1:]); "
        "sys.exit(code or any(name in sys.modules for name in ('torch', 'matplotlib', 'pandas', 'h5py')))"
    )
    command = ["score", "--no-meteor", files / "references.json", files / "predictions.csv"]
    subprocess.run([sys.executable, "-c", code, *map(str, command)], check=True, capture_output=True)


def test_the_docs_show_what_is_printed(tmp_path, capsys, monkeypatch):
    text = (ROOT / "docs/score.md").read_text(encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    for name, content in re.findall(r"^`(\S+)`:\n\n```\w*\n(.*?)```$", text, re.M | re.S):
        (tmp_path / name).write_text(content)
    shown = re.findall(r"```console\n\$ captioner (.*?)\n(.*?)```", text, re.S)
    assert len(shown) == 1
    for command, output in shown:
        assert main(command.split()) == 0
        assert capsys.readouterr().out == output


def test_one_file_is_shown_with_the_values_that_it_has_beside_another(files, capsys):
    references, predictions = files / "references.json", files / "predictions.csv"
    first, intervals = {}, record(capsys, references, predictions)["predictions"][0]["intervals"]
    assert run(references, predictions, predictions) == 0
    for line in capsys.readouterr().out.splitlines()[6:]:
        first[line[:18].rstrip()] = line[18:].split()[0]
    assert run(references, predictions) == 0
    head, blank, *rows = capsys.readouterr().out.splitlines()
    assert (head, blank) == ("3 images; scores x100, with 95 % intervals", "")
    assert {row[:18].rstrip(): row[18:26].strip() for row in rows} == first
    assert {row[:18].rstrip() for row in rows if " to " in row} == set(intervals)
    low, high = intervals["CIDEr"]
    assert f"  {100 * low:6.1f} to {100 * high:6.1f}" in next(row for row in rows if row.startswith("CIDEr"))
