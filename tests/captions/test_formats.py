"""Captions and splits as one's own CSV or Karpathy's JSON has them, on small files of the true form."""

import json

import pytest

from captioner.base.errors import CaptionerError
from captioner.captions.dataset import read_captions, read_images
from captioner.captions.formats import draw_splits
from captioner.captions.tokenise import tokenise_dataset
from captioner.captions.vocabulary import Vocabulary
from tests.support.worlds import zipped

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
PHOTOS = ("dogs/1.jpg", "dogs/2.png", "cats/1.jpg", "cow.JPEG")
CSV = """image,caption,split
dogs/1.jpg,Two dogs play.,train
dogs/1.jpg,"Dogs, don't bite!",train
dogs/2.png,A dog,restval
cats/1.jpg,A cat,val
cow.JPEG,A cow,test
"""


def sentences(*texts, first=0):
    """Return sentences as Karpathy's files have them."""
    return [
        {"tokens": text.lower().rstrip(".").split(), "raw": text, "imgid": 0, "sentid": first + at}
        for at, text in enumerate(texts)
    ]


def coco(split, folder, number, *texts):
    """Return an image as dataset_coco.json has it."""
    name = f"COCO_{folder}_{number:012d}.jpg"
    return {
        "filepath": folder,
        "sentids": list(range(len(texts))),
        "filename": name,
        "imgid": number,
        "split": split,
        "sentences": sentences(*texts),
        "cocoid": number,
    }


COCO = {
    "images": [
        coco("test", "val2014", 391895, "A man with a red helmet on a small moped on a dirt road. "),
        coco("val", "val2014", 60623, "A young girl inhales with the intent of blowing out a candle.", "A girl."),
        coco("restval", "val2014", 522418, "A woman wearing a net on her head cutting a cake. "),
        coco("train", "train2014", 57870, "A restaurant has modern wooden tables and chairs.", *["Tables"] * 6),
    ],
    "dataset": "coco",
}
FLICKR30K = {
    "images": [
        {
            "sentids": [0, 1],
            "imgid": at,
            "sentences": sentences("Two men in green shirts are standing in a yard.", "Two men."),
            "split": split,
            "filename": f"{1000092795 + at}.jpg",
        }
        for at, split in enumerate(("train", "val", "test"))
    ],
    "dataset": "flickr30k",
}


def run(folder, texts=CSV, photos=PHOTOS, file="captions.csv", **changes):
    """Tokenise texts of a file of that name, return the folder of the three files and the summary."""
    folder.mkdir(exist_ok=True)
    texts = texts if isinstance(texts, str | bytes) else json.dumps(texts)
    images = zipped(folder / "images.zip", {name: name for name in photos})
    captions = zipped(folder / "captions.zip", {file: texts})
    return folder / "data", tokenise_dataset(images, captions, folder=folder / "data", **{**USUAL, **changes})


def refused(folder, *arguments, **changes):
    """Return what is said against a dataset; nothing must have been written."""
    with pytest.raises(CaptionerError) as caught:
        run(folder, *arguments, **changes)
    assert not (folder / "data").exists()
    return str(caught.value)


def spoken(data):
    vocabulary = Vocabulary.from_dict(json.loads((data / "vocabulary.json").read_text()))
    return {each.image: [vocabulary.decode(ids) for ids in each.ids] for each in read_captions(data / "captions.jsonl")}


def changed(number, **values):
    """Return COCO's file with values of one image set, or removed where they are None."""
    images = [dict(image) for image in COCO["images"]]
    images[number] = {key: value for key, value in (images[number] | values).items() if value is not None}
    return {"images": images}


COCO_PHOTOS = [f"{image['filepath']}/{image['filename']}" for image in COCO["images"]]


def test_csv_is_read(tmp_path):
    data, summary = run(tmp_path)
    assert read_images(data / "images.csv") == [
        ("dogs/1.jpg", "train"),
        ("dogs/2.png", "train"),
        ("cats/1.jpg", "dev"),
        ("cow.JPEG", "test"),
    ]
    first = read_captions(data / "captions.jsonl")[0]
    assert first.raw == ["Two dogs play.", "Dogs, don't bite!"]
    assert spoken(data)["dogs/1.jpg"] == ["two dogs play", "dogs don't bite"]
    assert summary["captions"] == {"train": 3, "dev": 1, "test": 1}


def test_case_and_punctuation_of_ones_own_captions_can_be_kept(tmp_path):
    captions = spoken(run(tmp_path, lowercase=False, punctuation=True, min_count=1)[0])
    assert captions["dogs/1.jpg"] == ["Two dogs play.", "Dogs, don't bite!"]


def test_columns_may_come_in_any_order_and_case_and_files_as_windows_writes_them(tmp_path):
    plain, _ = run(tmp_path / "plain")
    turned = ["Caption, Split ,IMAGE", "Two dogs play.,train,dogs/1.jpg", '"Dogs, don\'t bite!",train,dogs/1.jpg']
    turned += [",".join([row.split(",")[1], row.split(",")[2], row.split(",")[0]]) for row in CSV.splitlines()[3:]]
    data, _ = run(tmp_path / "turned", b"\xef\xbb\xbf" + "\r\n".join([*turned, ""]).encode())
    assert (data / "captions.jsonl").read_bytes() == (plain / "captions.jsonl").read_bytes()


def test_base_names_do_where_they_are_unique(tmp_path):
    data, _ = run(tmp_path, CSV.replace("dogs/2.png", "2.png"))
    assert ("2.png", "train") in read_images(data / "images.csv")
    message = refused(tmp_path / "ambiguous", CSV.replace("dogs/1.jpg", "1.jpg"))
    assert "1.jpg may be cats/1.jpg or dogs/1.jpg; name it with its folder" in message


def test_two_names_of_one_photo_are_refused(tmp_path):
    message = refused(tmp_path, CSV + "2.png,Again a dog,train\n")
    assert "captions.csv, line 7: 2.png is the photo dogs/2.png, as dogs/2.png is" in message


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        ("", "captions.csv: is empty; expected the columns image, caption"),
        ("image,caption\n", "captions.csv: no image in it"),
        ("who,what\na,b\n", "captions.csv, line 1: the columns are who, what; expected image, caption"),
        ("image\na\n", "captions.csv: begins with image, which is no known form"),
        ("image,caption,caption\n", "captions.csv, line 1: two columns are called caption; rename one"),
        ("image,Caption,caption\n", "captions.csv, line 1: two columns are called Caption; rename one"),
        ("image,caption_1,caption_1\n", "captions.csv, line 1: two columns are called caption_1; rename one"),
        ("image,caption,split,split\n", "captions.csv, line 1: two columns are called split; rename one"),
        ("img,img,caption\n", "captions.csv, line 1: two columns are called img; rename one"),
        ("image,filename,caption\n", "set own.columns.image in params.yaml"),
        (CSV + "cow.JPEG,A cow, brown,test\n", "captions.csv, line 7: 4 fields, expected 3 (image, caption, split)"),
        (CSV + "cow.JPEG,A cow\n", "captions.csv, line 7: 2 fields, expected 3"),
        (CSV + "cow.JPEG,A\nbrown cow,test\n", "or a line break in it into double quotes"),
        (CSV + '\n"cow.JPEG","A\ncow"\n', "captions.csv, line 8: 2 fields, expected 3"),
        (CSV + 'cow.JPEG,"A cow" x,test\n', "captions.csv, line 7: not CSV"),
        (CSV + "cow.JPEG,A cow,half\n", "captions.csv, line 7: split is 'half', expected one of train, training"),
        (CSV + "cow.JPEG,A cow,dev\n", "captions.csv, line 7: cow.JPEG is also in the test split (captions.csv, li"),
        (CSV + "cow.JPEG,A cow,\n", "captions.csv, line 7: cow.JPEG is also in the test split"),
        (CSV.replace("A cow,test", "A cow,"), "captions.csv, line 6: cow.JPEG has no split, though others have"),
        (CSV.replace(",train", ",val").replace(",restval", ",val"), "no photo of the train split has captions"),
        (CSV + ",A dog,test\n", "captions.csv, line 7: the photo's name is empty ('')"),
        (CSV.encode() + "cow.JPEG,caf\xe9,test\n".encode("latin-1"), "captions.csv, line 7: not UTF-8"),
    ],
)
def test_what_is_wrong_in_a_csv_file_is_named_by_its_line(tmp_path, texts, message):
    for on_bad in ("error", "skip"):
        assert message in refused(tmp_path, texts, on_bad=on_bad)


def test_captions_of_a_missing_photo_are_refused_or_skipped_and_counted(tmp_path):
    texts = CSV + "gone.jpg,A bird,test\n"
    message = refused(tmp_path / "error", texts)
    assert "captions.csv, line 7: no photo gone.jpg in " in message
    assert "dataset.on_bad" in message
    _, summary = run(tmp_path / "skip", texts, on_bad="skip")
    assert summary["blemishes"]["names without a photo"] == 1
    assert summary["images"] == {"train": 2, "dev": 1, "test": 1, "in no split": 0}


def test_a_photo_that_no_row_names_is_refused_or_skipped_and_counted(tmp_path):
    photos = [*PHOTOS, "more.jpg"]
    assert "captions.csv: no row for the photo more.jpg; correct it" in refused(tmp_path / "error", CSV, photos)
    _, summary = run(tmp_path / "skip", CSV, photos, on_bad="skip")
    assert summary["blemishes"]["photos without captions: in no split"] == 1


def test_a_photo_whose_caption_has_no_word_is_refused_or_skipped(tmp_path):
    texts = CSV + "more.jpg, . ,test\n"
    assert "captions.csv, line 7: no caption for more.jpg" in refused(tmp_path / "error", texts, [*PHOTOS, "more.jpg"])
    data, _ = run(tmp_path / "skip", texts, [*PHOTOS, "more.jpg"], on_bad="skip")
    assert "more.jpg" not in spoken(data)


def test_lemmas_are_refused_where_there_are_none(tmp_path):
    assert "captions.form is lemma: captions.csv has raw captions only" in refused(tmp_path, form="lemma")


def test_splits_are_drawn_where_none_are_given(tmp_path):
    names = [f"{number}.jpg" for number in range(40)]
    for column in ("", ","):
        header = "image,caption,split" if column else "image,caption"
        texts = "\n".join([header, *(f"{name},a dog{column}" for name in names)])
        data, summary = run(tmp_path / f"a{column}", texts, names, dev=0.1, test=0.2)
        assert summary["images"] == {"train": 28, "dev": 4, "test": 8, "in no split": 0}
    again, _ = run(tmp_path / "again", texts, names, dev=0.1, test=0.2)
    other, _ = run(tmp_path / "other", texts, names, dev=0.1, test=0.2, seed=2)
    assert (data / "images.csv").read_bytes() == (again / "images.csv").read_bytes()
    assert (data / "images.csv").read_bytes() != (other / "images.csv").read_bytes()


def test_a_drawn_split_depends_on_names_and_seed_and_moves_few_when_an_image_comes():
    names = [f"{number}.jpg" for number in range(300)]
    before = draw_splits(names, dev=0.1, test=0.1, seed=3)
    assert before == draw_splits(names[::-1], dev=0.1, test=0.1, seed=3)
    after = draw_splits([*names, "new.jpg"], dev=0.1, test=0.1, seed=3)
    assert sum(after[name] != before[name] for name in names) <= 2


@pytest.mark.parametrize("count", [3, 4, 7])
@pytest.mark.parametrize(("dev", "test"), [(0.1, 0.1), (0.01, 0.98), (0.98, 0.01)])
def test_no_drawn_split_is_empty(count, dev, test):
    drawn = draw_splits([str(number) for number in range(count)], dev=dev, test=test, seed=0)
    assert set(drawn.values()) == {"train", "dev", "test"}


def test_shares_and_counts_that_cannot_be_are_refused():
    with pytest.raises(CaptionerError, match=r"own\.dev and own\.test: are 0\.5 and 0\.5, expected less than 1"):
        draw_splits(["a", "b", "c"], dev=0.5, test=0.5, seed=0)
    with pytest.raises(CaptionerError, match=r"c\.csv: 2 photos in all; expected 3 or more, one for each of train"):
        draw_splits(["a", "b"], dev=0.1, test=0.1, seed=0, file="c.csv")


def test_coco_is_read_with_restval_as_train_val_as_dev_and_any_number_of_captions(tmp_path):
    data, summary = run(tmp_path, COCO, COCO_PHOTOS, "dataset_coco.json")
    assert read_images(data / "images.csv") == [
        ("train2014/COCO_train2014_000000057870.jpg", "train"),
        ("val2014/COCO_val2014_000000522418.jpg", "train"),
        ("val2014/COCO_val2014_000000060623.jpg", "dev"),
        ("val2014/COCO_val2014_000000391895.jpg", "test"),
    ]
    assert summary["captions"] == {"train": 8, "dev": 2, "test": 1}
    assert read_captions(data / "captions.jsonl")[2].raw[1] == "A girl."
    assert spoken(data)["train2014/COCO_train2014_000000057870.jpg"][0] == (
        "a restaurant has modern wooden tables and chairs"
    )


def test_coco_photos_may_lie_without_their_folders(tmp_path):
    photos = [image["filename"] for image in COCO["images"]]
    data, _ = run(tmp_path, COCO, photos, "dataset_coco.json")
    assert {name for name, _ in read_images(data / "images.csv")} == set(photos)


def test_flickr30k_is_read_and_photos_that_it_does_not_name_are_only_counted(tmp_path):
    photos = [f"flickr30k-images/{image['filename']}" for image in FLICKR30K["images"]] + ["flickr30k-images/9.jpg"]
    data, summary = run(tmp_path, FLICKR30K, photos, "dataset_flickr30k.json")
    assert read_images(data / "images.csv") == [
        ("1000092795.jpg", "train"),
        ("1000092796.jpg", "dev"),
        ("1000092797.jpg", "test"),
    ]
    assert summary["images"]["in no split"] == 1


def test_tokens_stand_in_for_a_sentence_without_its_text(tmp_path):
    texts = changed(0, sentences=[{"tokens": ["a", "man", "'s", "moped"]}])
    data, _ = run(tmp_path, texts, COCO_PHOTOS, "dataset.json")
    assert read_captions(data / "captions.jsonl")[-1].raw == ["a man 's moped"]


def test_null_is_as_absent(tmp_path):
    texts = {"images": [image | {"filepath": None, "split": None} for image in COCO["images"]]}
    texts["images"][0]["sentences"] = [{"raw": None, "tokens": ["a", "man"]}]
    photos = [image["filename"] for image in COCO["images"]]
    data, summary = run(tmp_path, texts, photos, "dataset.json")
    assert sum(summary["images"][split] for split in ("train", "dev", "test")) == 4
    assert ["a man"] in [each.raw for each in read_captions(data / "captions.jsonl")]


def test_half_an_emoji_in_a_name_is_a_photo_that_is_not_there(tmp_path):
    images = [{key: value for key, value in image.items() if key != "split"} for image in COCO["images"]]
    texts = {"images": [{"filename": "\ud83d.jpg", "sentences": sentences("A man.")}, *images]}
    photos = [image["filename"] for image in COCO["images"]]
    _, summary = run(tmp_path, texts, photos, "dataset.json", on_bad="skip")
    assert summary["blemishes"]["names without a photo"] == 1


def test_half_an_emoji_is_a_question_mark(tmp_path):
    texts = changed(0, sentences=[{"raw": "a man \ud83d on a moped \U0001f6f5"}])
    data, _ = run(tmp_path, texts, COCO_PHOTOS, "dataset.json")
    assert read_captions(data / "captions.jsonl")[-1].raw == ["a man ? on a moped \U0001f6f5"]


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        ("{", "c.json: not JSON (Expecting property name"),
        ("[1]", "c.json: [0]: is 1, expected an object with a photo's name and its caption"),
        ({"image": []}, "c.json: JSON with the keys image; expected captions"),
        ({"images": {}}, "c.json.images: is {}, expected a list"),
        ({"images": []}, "c.json: no image in it"),
        ({"images": [3]}, "c.json: images[0]: is 3, expected an object with filename"),
        (changed(1, filename=None), "c.json: images[1].filename: missing; expected text"),
        (changed(1, filename=7), "c.json: images[1].filename: is 7, expected text"),
        (changed(1, filepath=["val2014"]), 'c.json: images[1].filepath: is ["val2014"], expected text'),
        (changed(1, split="half"), "c.json: images[1]: split is 'half', expected one of train"),
        (changed(1, split=None), "COCO_val2014_000000060623.jpg has no split, though others have"),
        (changed(1, sentences=None), "c.json: images[1].sentences: missing; expected a list"),
        (changed(1, sentences=[7]), "c.json: images[1].sentences[0]: is 7, expected an object with raw"),
        (changed(1, sentences=[{"sentid": 1}]), "c.json: images[1].sentences[0]: neither raw nor tokens"),
        (changed(1, sentences=[{"raw": 5}]), "c.json: images[1].sentences[0].raw: is 5, expected text"),
        (
            changed(1, sentences=[]),
            "c.json: images[1]: no caption for val2014/COCO_val2014_000000060623.jpg of the dev split",
        ),
        (changed(1, filename="gone.jpg"), "c.json: images[1]: no photo val2014/gone.jpg in"),
        (
            {"images": [*COCO["images"], COCO["images"][1]]},
            "c.json: images[4]: val2014/COCO_val2014_000000060623.jpg is listed twice, first at c.json: images[1]",
        ),
    ],
)
def test_what_is_wrong_in_a_json_file_is_named_by_its_key(tmp_path, texts, message):
    assert message in refused(tmp_path, texts, COCO_PHOTOS, "c.json")
