"""Every form of the table of `captioner.captions.formats`, on small files of their true shape."""

import json
import unicodedata

import pytest

from captioner.base.errors import CaptionerError
from captioner.captions.dataset import SPLITS, read_captions, read_images
from captioner.captions.formats import Columns, read_references
from captioner.captions.tokenise import tokenise_dataset
from captioner.sources.own_data import provide_own
from tests.support.worlds import tarred, zipped

USUAL = {
    "language": "en",
    "form": "raw",
    "lowercase": True,
    "punctuation": False,
    "min_count": 1,
    "max_length": 24,
    "on_bad": "error",
}
USUAL |= {"dev": 0.1, "test": 0.1, "seed": 1}


def run(folder, files, captions="captions.txt", **changes):
    """Make a folder of files, take it as one's own dataset; return {image: captions}, {image: split}, the summary."""
    mine = folder / "mine"
    for name, content in files.items():
        path = mine / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    provide_own(mine, captions, images=folder / "images", captions=folder / "captions.zip")
    data = folder / "data"
    summary = tokenise_dataset(folder / "images", folder / "captions.zip", folder=data, **{**USUAL, **changes})
    by_image = {each.image: each.raw for each in read_captions(data / "captions.jsonl")}
    return by_image, dict(read_images(data / "images.csv")), summary


def refused(folder, *arguments, **changes):
    with pytest.raises(CaptionerError) as caught:
        run(folder, *arguments, **changes)
    assert not (folder / "data").exists()
    return str(caught.value)


def photos(*names):
    return {name: name for name in names}


ABC = photos("a.jpg", "b.jpg", "c.jpg")
WANTED = {"a.jpg": ["A dog, running ."], "b.jpg": ["A cat ."], "c.jpg": ["A cow .", "Cows"]}


def rows(header, delimiter, quote='"'):
    """Return WANTED as a table."""
    lines = [header]
    for image, texts in WANTED.items():
        lines += [delimiter.join([image, f"{quote}{text}{quote}" if delimiter in text else text]) for text in texts]
    return "\n".join(lines) + "\n"


@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
@pytest.mark.parametrize("header", ["image caption", "FILE Text", "photo sentence", "path Description"])
def test_tables_of_any_delimiter_and_common_columns(tmp_path, delimiter, header):
    by_image, _, summary = run(
        tmp_path, ABC | {"any.thing": rows(header.replace(" ", delimiter), delimiter)}, "any.thing"
    )
    assert by_image == WANTED
    assert summary["recognised"]["summary"] == "CSV captions: 1 file, 3 photos, 4 captions, splits drawn"


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_tables_in_any_unicode_encoding_with_a_mark(tmp_path, encoding):
    texts = rows("image,caption", ",").replace("Cows", "Kühe 牛")
    by_image, _, _ = run(tmp_path, ABC | {"c.csv": texts.encode(encoding)}, "c.csv")
    assert by_image["c.jpg"][1] == "Kühe 牛"


def test_kaggles_flickr8k_unopened_with_the_official_lists_beside(tmp_path):
    archive = zipped(
        tmp_path / "a.zip",
        {f"Images/{name}": name for name in (*ABC, "d.jpg")}
        | {"captions.txt": rows("image,caption", ",") + 'd.jpg,"A bird, high"\n'},
    )
    lists = {
        f"Flickr_8k.{split}Images.txt": f"{name}.jpg\n"
        for split, name in zip(("train", "dev", "test"), "abc", strict=True)
    }
    by_image, splits, summary = run(tmp_path, lists | {"archive.zip": archive.read_bytes()})
    assert by_image == WANTED
    assert splits == {"a.jpg": "train", "b.jpg": "dev", "c.jpg": "test"}
    assert summary["recognised"]["summary"] == (
        "Kaggle captions: 1 file, 4 photos, 5 captions, splits from Flickr_8k.*Images.txt"
    )
    assert summary["recognised"]["left out"] == {"photos that the lists of splits do not name": 1}
    assert summary["images"]["in no split"] == 1


def test_karpathys_json_beside_gives_the_splits(tmp_path):
    images = [
        {"filename": f"{n}.jpg", "split": s, "sentences": []}
        for n, s in zip("abc", ("test", "train", "val"), strict=True)
    ]
    files = ABC | {"captions.txt": rows("image,caption", ","), "dataset_flickr8k.json": json.dumps({"images": images})}
    _, splits, summary = run(tmp_path, files)
    assert splits == {"b.jpg": "train", "c.jpg": "dev", "a.jpg": "test"}
    assert summary["recognised"]["summary"].endswith("splits from dataset_flickr8k.json")


def test_kaggles_flickr30k_and_its_row_without_a_bar(tmp_path):
    texts = (
        "image_name| comment_number| comment\n"
        'a.jpg| 0| "Stop" says a sign, and "Go .\n'
        "b.jpg| 0| A cat .\n"
        "c.jpg| 4   A dog runs across the grass .\n"
    )
    by_image, _, summary = run(tmp_path, ABC | {"results.csv": texts}, "results.csv")
    assert by_image == {
        "a.jpg": ['"Stop" says a sign, and "Go .'],
        "b.jpg": ["A cat ."],
        "c.jpg": ["A dog runs across the grass ."],
    }
    assert summary["recognised"]["repaired"] == {"rows without their second bar": 1}
    assert summary["recognised"]["summary"].startswith("Flickr30k captions: 1 file, 3 photos, 3 captions")


def test_the_comma_form_of_flickr30k(tmp_path):
    texts = 'image_name,comment_number,comment\na.jpg,0,"A dog, running ."\nb.jpg,0,A cat .\n'
    texts += "c.jpg,0,A cow .\nc.jpg,1,Cows\n"
    by_image, _, summary = run(tmp_path, ABC | {"c.csv": texts}, "c.csv")
    assert by_image == WANTED
    assert summary["recognised"]["ignored columns"] == ["comment_number"]


def test_flickr30k_with_lists_written_as_text(tmp_path):
    texts = (
        "raw,sentids,split,filename,img_id\n"
        '"[""A dog\'s ball"", \'Two dogs, running\']","[0, 1]",train,a.jpg,0\n'
        "\"['A cat']\",[2],val,b.jpg,1\n"
        "\"['A cow' 'Cows']\",[3],test,c.jpg,2\n"
    )
    by_image, splits, summary = run(tmp_path, ABC | {"c.csv": texts}, "c.csv")
    assert by_image == {"a.jpg": ["A dog's ball", "Two dogs, running"], "b.jpg": ["A cat"], "c.jpg": ["A cow", "Cows"]}
    assert splits == {"a.jpg": "train", "b.jpg": "dev", "c.jpg": "test"}
    assert summary["recognised"]["summary"].startswith("Flickr30k CSV captions")


@pytest.mark.parametrize(
    "line", ["{name}#{n}\t{text}", "{name}#{n} \t{text}", "{name}#{n},{quoted}", "{name}#zhc#{n} {text}"]
)
def test_token_lines_and_their_variants(tmp_path, line):
    texts = "".join(
        line.format(name=name, n=n, text=text, quoted=f'"{text}"' if "," in text else text) + "\n"
        for name, several in WANTED.items()
        for n, text in enumerate(several)
    )
    by_image, _, summary = run(tmp_path, ABC | {"captions.txt": texts})
    assert by_image == WANTED
    assert summary["recognised"]["summary"].startswith(".token captions: 1 file, 3 photos, 4 captions")


def test_a_line_of_another_form_is_refused_or_skipped_and_counted(tmp_path):
    texts = "a.jpg#0\ta dog\nrunning\nb.jpg#0\ta cat\nc.jpg#0\ta cow\n"
    message = refused(tmp_path / "error", ABC | {"captions.txt": texts})
    assert "captions.txt, line 2: running is not of the form name.jpg#0<TAB>caption" in message
    _, _, summary = run(tmp_path / "skip", ABC | {"captions.txt": texts}, on_bad="skip")
    assert summary["blemishes"]["lines of another form"] == 1


def test_a_caption_that_needs_a_dictionary_is_refused_or_skipped_and_counted(tmp_path):
    texts = rows("image,caption", ",") + f"c.jpg,{'สุนัขวิ่งบนหญ้า' * 4}\n"
    message = refused(tmp_path / "error", ABC | {"captions.txt": texts})
    assert "captions.txt, line 6: " in message
    assert "set dataset.on_bad to skip" in message
    by_image, _, summary = run(tmp_path / "skip", ABC | {"captions.txt": texts}, on_bad="skip")
    assert by_image == WANTED
    assert summary["blemishes"]["captions without spaces between words"] == 1


def coco(names, first=0, **marks):
    return json.dumps(
        {
            "info": {"year": 2017},
            "images": [{"id": at, "file_name": name, "height": 4} for at, name in enumerate(names, first)],
            "annotations": [
                {"image_id": at, "id": 10 * at + n, "caption": f"Dog {n} of {name}."} | marks
                for at, name in enumerate(names, first)
                for n in range(2)
            ],
        }
    )


def test_cocos_files_one_a_split(tmp_path):
    names = {split: [f"{at:012d}.jpg" for at in range(first, first + 3)] for first, split in ((0, "train"), (3, "val"))}
    files = {f"{split}2017/{name}": name for split, several in names.items() for name in several}
    files |= {f"annotations/captions_{split}2017.json": coco(several, 7) for split, several in names.items()}
    files_of_splits = [f"annotations/captions_{split}2017.json" for split in names]
    by_image, splits, summary = run(tmp_path, files, files_of_splits)
    assert by_image["000000000004.jpg"] == ["Dog 0 of 000000000004.jpg.", "Dog 1 of 000000000004.jpg."]
    assert {name for name, split in splits.items() if split == "dev"} == set(names["val"])
    assert summary["images"] == {"train": 2, "dev": 3, "test": 1, "in no split": 0}
    assert summary["recognised"]["summary"] == (
        "COCO captions: 2 files, 6 photos, 12 captions, splits from file names, test drawn from train"
    )


def test_one_file_of_coco_has_its_splits_drawn(tmp_path):
    _, _, summary = run(tmp_path, ABC | {"captions_val2017.json": coco(ABC)}, "captions_val2017.json")
    assert summary["images"] == {"train": 1, "dev": 1, "test": 1, "in no split": 0}


def test_vizwiz_captions_that_say_nothing_are_left_out_and_counted(tmp_path):
    content = json.loads(coco([*ABC, "d.jpg"]))
    content["annotations"][0] |= {"is_precanned": True, "is_rejected": False}
    for annotation in content["annotations"][-2:]:
        annotation["is_rejected"] = True
    by_image, _, summary = run(tmp_path, ABC | photos("d.jpg") | {"c.json": json.dumps(content)}, "c.json")
    assert len(by_image["a.jpg"]) == 1
    assert "d.jpg" not in by_image
    assert sorted(summary["recognised"]["left out"].values()) == [1, 1, 2]
    assert summary["images"]["in no split"] == 1


def test_cocos_file_of_objects_is_told_of(tmp_path):
    content = json.loads(coco(ABC))
    for annotation in content["annotations"]:
        del annotation["caption"]
    message = refused(tmp_path, ABC | {"c.json": json.dumps(content)}, "c.json")
    assert "annotations[0].caption: missing; expected captions_*.json, not the file of objects" in message


def test_cocos_file_of_images_alone_is_told_of(tmp_path):
    content = json.loads(coco(ABC))
    del content["annotations"]
    message = refused(tmp_path, ABC | {"c.json": json.dumps(content)}, "c.json")
    assert "c.json: has no annotations; expected COCO's captions_*.json" in message


def test_karpathys_coco_with_the_photos_of_2017(tmp_path):
    images = [
        {
            "filepath": "val2014",
            "filename": f"COCO_val2014_{at:012d}.jpg",
            "split": split,
            "sentences": [{"raw": "A dog."}],
        }
        for at, split in enumerate(("train", "restval", "val", "test"))
    ]
    files = photos(*(f"{'train' if at % 2 else 'val'}2017/{at:012d}.jpg" for at in range(4)))
    _, splits, summary = run(
        tmp_path, files | {"dataset_coco.json": json.dumps({"images": images})}, "dataset_coco.json"
    )
    assert splits["val2017/000000000002.jpg"] == "dev"
    assert summary["images"] == {"train": 2, "dev": 1, "test": 1, "in no split": 0}


@pytest.mark.parametrize("caption", ["A dog.", ["A dog."]])
@pytest.mark.parametrize("image", ["image", "filename"])
def test_blips_rows(tmp_path, image, caption):
    content = [{image: f"coco/{name}", "caption": caption, "image_id": f"coco_{name}"} for name in ABC]
    by_image, _, _ = run(tmp_path, ABC | {"c.json": json.dumps(content, indent=1)}, "c.json")
    assert by_image == {name: ["A dog."] for name in ABC}


def test_rows_of_numbers_fit_the_photos_of_these_numbers(tmp_path):
    content = [{"image_id": at, "caption": "A dog."} for at in (5, 23431, 7)]
    names = photos("VizWiz_val_00000005.jpg", "VizWiz_val_00023431.jpg", "VizWiz_val_00000007.jpg")
    assert set(run(tmp_path, names | {"c.json": json.dumps(content)}, "c.json")[0]) == set(names)


def test_textcaps(tmp_path):
    data = [
        {
            "image_id": name[0],
            "caption_str": "A sign",
            "set_name": split,
            "reference_strs": ["A sign"],
            "image_width": 4,
        }
        for name, split in zip(ABC, ("train", "val", "test"), strict=True)
    ]
    content = json.dumps({"dataset_type": "train", "data": data})
    by_image, splits, summary = run(tmp_path, ABC | {"c.json": content}, "c.json")
    assert by_image == {name: ["A sign"] for name in ABC}
    assert set(splits.values()) == {"train", "dev", "test"}
    assert summary["recognised"]["summary"].startswith("TextCaps captions")


def test_roco_has_names_without_a_suffix(tmp_path):
    texts = "".join(f"ROCO_0000{at}\t X-ray (arrow {at}), lateral.\n" for at in range(3))
    files = photos(*(f"images/ROCO_0000{at}.jpg" for at in range(3)))
    by_image, _, _ = run(tmp_path, files | {"captions.txt": texts})
    assert by_image["images/ROCO_00002.jpg"] == ["X-ray (arrow 2), lateral."]


def test_names_to_captions(tmp_path):
    by_image, _, _ = run(tmp_path, ABC | {"c.json": json.dumps(WANTED | {"b.jpg": "A cat ."})}, "c.json")
    assert by_image == WANTED


@pytest.mark.parametrize("kind", ["jsonl", "csv"])
def test_imagefolder_with_a_folder_a_split_and_one_name_in_several(tmp_path, kind):
    files = {}
    for split, count in (("train", 3), ("validation", 2), ("test", 1)):
        pairs = [(f"{at}.jpg", f"{split} {at}\n") for at in range(count)]
        files |= photos(*(f"{split}/{name}" for name, _ in pairs))
        if kind == "jsonl":
            text = "".join(json.dumps({"file_name": name, "text": caption}) + "\n" for name, caption in pairs)
        else:
            text = "file_name,text\n" + "".join(f"{name},{caption}" for name, caption in pairs)
        files[f"{split}/metadata.{kind}"] = text
    by_image, splits, summary = run(tmp_path, files, None)
    assert by_image["validation/0.jpg"] == ["validation 0"]
    assert splits["validation/1.jpg"] == "dev"
    assert summary["images"] == {"train": 3, "dev": 2, "test": 1, "in no split": 0}
    assert summary["recognised"]["summary"].endswith("3 files, 6 photos, 6 captions, splits from folder names")


def test_a_missing_photo_is_not_taken_from_the_folder_of_another_split(tmp_path):
    names = {"train": ("0.jpg", "1.jpg", "2.jpg"), "validation": ("3.jpg", "4.jpg"), "test": ("5.jpg",)}
    files = photos(*(f"{split}/{name}" for split, of_split in names.items() for name in of_split))
    names["validation"] = ("3.jpg", "2.jpg")
    for split, of_split in names.items():
        files[f"{split}/metadata.csv"] = "file_name,text\n" + "".join(f"{name},{split}\n" for name in of_split)
    message = refused(tmp_path / "stops", files, None)
    assert "validation/metadata.csv, line 3: no photo 2.jpg in" in message
    by_image, splits, _ = run(tmp_path / "skips", files, None, on_bad="skip")
    assert by_image["train/2.jpg"] == ["train"]
    assert [name for name, split in splits.items() if split == "dev"] == ["validation/3.jpg"]


def test_imagefolder_with_numbered_captions(tmp_path):
    lines = [json.dumps({"file_name": name, "caption_0": "A dog", "caption_1": f"Dog {name}"}) for name in ABC]
    by_image, _, _ = run(tmp_path, ABC | {"metadata.jsonl": "\n".join(lines)}, "metadata.jsonl")
    assert by_image["b.jpg"] == ["A dog", "Dog b.jpg"]


@pytest.mark.parametrize("suffix", [".txt", ".caption"])
@pytest.mark.parametrize("captions", [None, "", []])
def test_sidecars(tmp_path, suffix, captions):
    names = photos("x/a.jpg", "x/b.PNG", "y/a.jpg", "y/c.jpg")
    texts = {name.rpartition(".")[0] + suffix: f"Dog {name}\n\nA dog, running.\n" for name in names}
    by_image, _, summary = run(tmp_path, names | texts | {"readme.txt": "no caption"}, captions)
    assert by_image["y/a.jpg"] == ["Dog y/a.jpg", "A dog, running."]
    assert summary["recognised"]["summary"] == "sidecar captions: 4 files, 4 photos, 8 captions, splits drawn"


def test_sidecars_and_photos_that_are_left_out_are_counted(tmp_path):
    texts = {f"{letter}.txt": f"A {letter}" for letter in "abcde"}
    _, _, summary = run(tmp_path, ABC | photos("d.gif", "e.jpe") | texts | {"z.txt": "no photo"}, None)
    assert summary["images"] == {"train": 2, "dev": 1, "test": 1, "in no split": 0}
    left = {"text files without a photo": 2, "photos of a kind that is not read": 1}
    assert summary["recognised"]["left out"] == left


@pytest.mark.parametrize("name", ["d.gif", "more/d.gif", "d", "d.jpg"])
def test_a_named_photo_of_a_kind_that_is_not_read_is_told_of(tmp_path, name):
    texts = f"image,caption\n{name},D\na.jpg,A\nb.jpg,B\nc.jpg,C\n"
    message = refused(tmp_path, ABC | photos("more/d.gif") | {"c.csv": texts}, "c.csv")
    assert f"c.csv, line 2: no photo {name} in" in message
    assert "; more/d.gif is not a kind that is read; convert it" in message


def test_a_photo_without_its_sidecar_is_refused(tmp_path):
    names = photos("a.jpg", "b.jpg", "c.jpg", "d.jpg")
    texts = {f"{letter}.txt": "a dog" for letter in "abc"}
    assert "no text file beside the photo d.jpg" in refused(tmp_path / "none", names | texts, None)
    message = refused(tmp_path / "empty", names | texts | {"d.txt": " \n"}, None)
    assert message.startswith("d.txt: no caption for d.jpg of the ")


def test_a_fault_in_one_of_several_files_names_the_file(tmp_path):
    tables = {"x.csv": "image,caption\na.jpg,A\nc.jpg,C\n", "y.csv": "image,caption\nb.jpg,B\nd.jpg,\n"}
    names = photos(*ABC, "d.jpg")
    message = refused(tmp_path / "empty", names | tables, ["x.csv", "y.csv"])
    assert message.startswith("y.csv, line 3: no caption for d.jpg of the ")
    tables["y.csv"] = tables["y.csv"].replace("d.jpg,", "b.jpg,Again")
    message = refused(tmp_path / "none", names | tables, ["x.csv", "y.csv"])
    assert message.startswith("no captions file names the photo d.jpg; ")
    tables["y.csv"] = "image,caption\nb.jpg,B\nd.jpg,A <unk>\n"
    message = refused(tmp_path / "marker", names | tables, ["x.csv", "y.csv"])
    assert message.startswith("y.csv, line 3: a caption of d.jpg says <unk>")


@pytest.mark.parametrize("kind", ["txt", "json", "both"])
def test_webdatasets_tars(tmp_path, kind):
    (tmp_path / "mine").mkdir()
    for shard in range(2):
        members = {}
        for at in range(2):
            key = f"{shard:05d}{at:04d}"
            members[f"{key}.jpg"] = b"photo"
            if kind != "json":
                members[f"{key}.txt"] = f"Dog {key}".encode()
            if kind != "txt":
                members[f"{key}.json"] = json.dumps({"caption": f"Dog {key}", "url": "u", "sha256": "0"}).encode()
        tarred(tmp_path / f"mine/{shard:05d}.tar", members)
    by_image, _, summary = run(tmp_path, {}, None)
    assert by_image["000010001.jpg"] == ["Dog 000010001"]
    assert summary["recognised"]["summary"] == "sidecar captions: 4 files, 4 photos, 4 captions, splits drawn"


@pytest.mark.parametrize("name", ["{}-000.tar", "{}/000.tar", "{}.zip"])
def test_the_names_of_archives_set_the_splits(tmp_path, name):
    for split, letter in zip(("train", "val", "test"), "abc", strict=True):
        path = tmp_path / "mine" / name.format(split)
        path.parent.mkdir(parents=True, exist_ok=True)
        members = {f"{letter}.jpg": b"photo", f"{letter}.txt": b"A dog"}
        tarred(path, members) if path.suffix == ".tar" else zipped(path, members)
    _, splits, summary = run(tmp_path, {}, None)
    assert splits == {"a.jpg": "train", "b.jpg": "dev", "c.jpg": "test"}
    assert summary["recognised"]["summary"].endswith("splits from folder names")


def test_own_columns_decides_between_two(tmp_path):
    texts = "image,filename,caption,text\n" + "".join(f"no,{name},no,A dog\n" for name in ABC)
    message = refused(tmp_path / "error", ABC | {"c.csv": texts}, "c.csv")
    assert "c.csv, line 1: the columns image and filename could both be the image; set own.columns.image" in message
    columns = Columns(image="filename", caption="Text")
    by_image, _, summary = run(tmp_path / "set", ABC | {"c.csv": texts}, "c.csv", columns=columns)
    assert by_image == {name: ["A dog"] for name in ABC}
    assert summary["recognised"]["ignored columns"] == ["image", "caption"]
    twice = refused(
        tmp_path / "twice",
        ABC | {"c.csv": texts.replace("text", "Filename")},
        "c.csv",
        columns=Columns("filename", "caption"),
    )
    assert "c.csv, line 1: two columns are called filename; rename one" in twice
    wrong = refused(tmp_path / "wrong", ABC | {"c.csv": texts}, "c.csv", columns=Columns(image="photograph"))
    assert "own.columns.image is photograph, but the columns are image, filename, caption, text" in wrong


SETS = dict(zip(ABC, ("train", "Val2017", "testset"), strict=True))


@pytest.mark.parametrize("column", ["set", "Subset", "partition"])
@pytest.mark.parametrize("form", ["csv", "json", "jsonl", "lists"])
def test_a_column_of_splits_of_another_name_is_the_split(tmp_path, form, column):
    rows = [{"image": name, "caption": "A dog", column: split} for name, split in SETS.items()]
    lines = [json.dumps(row) for row in rows]
    texts = {
        "csv": f"image,caption,{column}\n" + "".join(f"{name},A dog,{split}\n" for name, split in SETS.items()),
        "json": json.dumps(rows),
        "jsonl": "\n".join(lines),
        "lists": json.dumps({"dogs": rows[:2], "cats": rows[2:]}),
    }[form]
    _, splits, summary = run(tmp_path / "splits", ABC | {"c.txt": texts}, "c.txt")
    assert splits == {"a.jpg": "train", "b.jpg": "dev", "c.jpg": "test"}
    assert summary["recognised"]["ignored columns"] == []
    texts = texts.replace("Val2017", "holiday")
    _, _, summary = run(tmp_path / "another", ABC | {"c.txt": texts}, "c.txt")
    assert summary["recognised"]["ignored columns"] == [column]
    assert summary["recognised"]["summary"].endswith("splits drawn")


def test_a_column_split_goes_before_a_column_set(tmp_path):
    texts = "image,set,caption,split\n" + "".join(f"{name},test,A dog,{split}\n" for name, split in SETS.items())
    _, splits, summary = run(tmp_path, ABC | {"c.csv": texts}, "c.csv")
    assert splits == {"a.jpg": "train", "b.jpg": "dev", "c.jpg": "test"}
    assert summary["recognised"]["ignored columns"] == ["set"]


def test_further_columns_are_ignored_and_named(tmp_path):
    texts = "image,caption,spilt,width\n" + "".join(f"{name},A dog,train,3\n" for name in ABC)
    assert run(tmp_path, ABC | {"c.csv": texts}, "c.csv")[2]["recognised"]["ignored columns"] == ["spilt", "width"]


@pytest.mark.parametrize("name", ["validation", "valid", "val", "dev", "Dev", "VALIDATION", "val2014"])
def test_names_of_the_dev_split(tmp_path, name):
    texts = f"image,caption,split\na.jpg,A,Train\nb.jpg,B,{name}\nc.jpg,C,testing\n"
    assert run(tmp_path, ABC | {"c.csv": texts}, "c.csv")[1]["b.jpg"] == "dev"


def test_a_dev_split_that_is_not_given_is_drawn_from_train(tmp_path):
    names = photos(*(f"{at}.jpg" for at in range(30)))
    texts = "image,caption,split\n" + "".join(f"{at}.jpg,A dog,{'test' if at < 5 else 'train'}\n" for at in range(30))
    _, splits, summary = run(tmp_path, names | {"c.csv": texts}, "c.csv", dev=0.2)
    assert summary["images"] == {"train": 20, "dev": 5, "test": 5, "in no split": 0}
    assert summary["recognised"]["summary"].endswith("splits as given, dev drawn from train")
    assert {name for name, split in splits.items() if split == "test"} == {f"{at}.jpg" for at in range(5)}


@pytest.mark.parametrize(
    "name",
    [
        "photos/Dog 1.JPG",
        "Dog 1.JPG",
        "dog 1.jpg",
        "Dog 1",
        "/home/someone/photos/Dog 1.JPG",
        "C:\\photos\\Dog 1.JPG",
        "photos\\Dog 1.JPG",
        "Dog%201.JPG",
        "../photos/Dog 1.JPG",
    ],
)
def test_a_name_fits_where_exactly_one_photo_does(tmp_path, name):
    texts = f"image,caption\n{name},A dog\nb.jpg,B\nc.jpg,C\n"
    files = photos("photos/Dog 1.JPG", "b.jpg", "c.jpg") | {"c.csv": texts}
    by_image, _, _ = run(tmp_path, files, "c.csv")
    assert sorted(by_image.values()) == [["A dog"], ["B"], ["C"]]


@pytest.mark.parametrize("header", ["image,caption", "image_name,comment"])
def test_the_number_of_a_caption_may_follow_the_name_in_a_table(tmp_path, header):
    texts = f"{header}\na.jpg#0,A dog\nA.jpg#1,Two dogs\nb#0,B\nc.jpg#zhc#0,C\nd#1.jpg,D\n"
    by_image, _, _ = run(tmp_path, photos("a.jpg", "b.jpg", "c.jpg", "d#1.jpg") | {"c.csv": texts}, "c.csv")
    assert by_image == {"a.jpg": ["A dog", "Two dogs"], "b.jpg": ["B"], "c.jpg": ["C"], "d#1.jpg": ["D"]}


def test_a_name_that_fits_two_photos_is_refused_and_its_folder_decides(tmp_path):
    files = photos("x/1.jpg", "y/1.jpg", "b.jpg", "c.jpg")
    texts = "image,caption\nZ/1,A dog\nb.jpg,B\nc.jpg,C\n"
    message = refused(tmp_path / "two", files | {"c.csv": texts}, "c.csv")
    assert "c.csv, line 2: Z/1 may be x/1.jpg or y/1.jpg; name it with its folder" in message
    texts = texts.replace("Z/1", "Y\\1") + "X/1,Another\n"
    assert run(tmp_path / "one", files | {"c.csv": texts}, "c.csv")[0]["y/1.jpg"] == ["A dog"]


def test_a_name_that_fits_no_photo_is_refused_with_the_nearest_names(tmp_path):
    files = ABC | photos("1141718391_24164bf1b1.jpg")
    texts = "image,caption\na.jpg,A\nb.jpg,B\nc.jpg,C\n141718391_24164bf1b1.jpg,D\n"
    message = refused(tmp_path, files | {"c.csv": texts}, "c.csv")
    assert "c.csv, line 5: no photo 141718391_24164bf1b1.jpg in" in message
    assert "the nearest names are 1141718391_24164bf1b1.jpg" in message


@pytest.mark.parametrize("on_bad", ["error", "skip"])
def test_captions_of_other_photos_show_names_of_both_sides(tmp_path, on_bad):
    texts = "image,caption\nx\u200b9.jpg,A\ny9.jpg,B\nz9.jpg,C\n"
    message = refused(tmp_path, ABC | {"c.csv": texts}, "c.csv", on_bad=on_bad)
    assert (
        "none of its 3 names is that of a photo. The captions name x\\u200b9.jpg, y9.jpg; the photos are a.jpg"
        in message
    )


def test_skipping_everything_says_what_was_skipped(tmp_path):
    texts = "image,caption,split\na.jpg,A,train\nb.jpg,.,dev\nc.jpg,C,test\n"
    message = refused(tmp_path, ABC | {"c.csv": texts}, "c.csv", on_bad="skip")
    assert (
        "no photo of the dev split has captions; expected at least one (1 left out, as dataset.on_bad is skip; "
        in message
    )
    assert "first c.csv, line 3: no caption for b.jpg" in message


def test_rows_that_a_quote_swallows_are_refused_by_the_line_where_it_opens(tmp_path):
    texts = 'image,caption\na.jpg,"A dog says\nb.jpg,A cat\nc.jpg,A cow says moo"\n'
    message = refused(tmp_path / "image first", ABC | {"c.csv": texts}, "c.csv")
    assert "c.csv, line 2: a quote opens in this line and closes in line 4, and line 3 looks like a row" in message
    texts = 'image,caption\na.jpg,"A dog says\nb.jpg,A cat says moo"\nc.jpg,C\n'
    message = refused(tmp_path / "two lines", ABC | {"c.csv": texts}, "c.csv")
    assert "c.csv, line 2: a quote opens in this line and closes in line 3, and line 3 looks like a row" in message
    texts = 'caption,image\nC,c.jpg\n"A dog says,a.jpg\nA cat says moo",b.jpg\n'
    message = refused(tmp_path / "caption first", ABC | {"c.csv": texts}, "c.csv")
    assert "c.csv, line 3: a quote opens in this line and closes in line 4, and line 3 looks like a row" in message


@pytest.mark.parametrize(
    "row",
    ['caption,image,more\n"A dog,\nrunning, fast",a.jpg,x\n', 'image,caption\na.jpg,"A dog,\nrunning, fast"\n'],
)
def test_a_caption_of_two_lines_is_one_caption(tmp_path, row):
    header, _, _ = row.partition("\n")
    more = "B,b.jpg,x\nC,c.jpg,x\n" if header.startswith("caption") else "b.jpg,B\nc.jpg,C\n"
    assert run(tmp_path, ABC | {"c.csv": row + more}, "c.csv")[0]["a.jpg"] == ["A dog, running, fast"]


@pytest.mark.parametrize("more", ["", "b.jpg,A cat\n" * 20_000])
def test_a_quote_that_never_closes_is_refused_by_the_line_where_it_opens(tmp_path, more):
    message = refused(tmp_path, ABC | {"c.csv": 'image,caption\na.jpg,A\nb.jpg,"A cat\nc.jpg,C\n' + more}, "c.csv")
    assert "c.csv, line 3: a quote opens in this line and does not close" in message


@pytest.mark.parametrize("open_", ["[", '{"a":', '{"images": [', '[{"image": ', '{"images": [], "annotations": ['])
def test_deeply_nested_json_is_refused(tmp_path, open_):
    message = refused(tmp_path, ABC | {"c.json": open_ + "[" * 200_000}, "c.json")
    assert "c.json: JSON that is nested too deep" in message


@pytest.mark.parametrize("begin", ["image,caption\na.jpg,", "a.jpg#0\t", "", '[{"image": "a.jpg", "caption": "'])
def test_a_very_long_line_is_refused(tmp_path, begin):
    end = '"}]' if begin.startswith("[") else ""
    assert "characters, expected at most 1,000,000" in refused(
        tmp_path, ABC | {"captions.txt": begin + "x" * 3_000_000 + end}
    )


def test_a_cell_that_is_longer_than_csvs_limit_is_read(tmp_path):
    cell = "dog " * 40_000
    by_image, _, _ = run(tmp_path, ABC | {"c.csv": f"image,caption\na.jpg,{cell}\nb.jpg,B\nc.jpg,C\n"}, "c.csv")
    assert by_image["a.jpg"] == [cell.strip()]


@pytest.mark.parametrize(
    "caption", ["<start> a dog <end>", "startseq a dog endseq", "<s> a dog </s>", "[CLS] a dog [SEP]", "a <unk> dog"]
)
def test_captions_that_were_prepared_for_another_program_are_refused(tmp_path, caption):
    message = refused(tmp_path, ABC | {"c.csv": f"image,caption\na.jpg,{caption}\nb.jpg,B\nc.jpg,C\n"}, "c.csv")
    assert "c.csv: a caption of a.jpg" in message
    assert "expected captions as people wrote them" in message


@pytest.mark.parametrize("cell", ["nan", "NaN", "None", ""])
def test_an_empty_cell_as_pandas_writes_it_is_an_empty_caption(tmp_path, cell):
    texts = f"image,caption\na.jpg,A\na.jpg,{cell}\nb.jpg,B\nc.jpg,C\n"
    by_image, _, summary = run(tmp_path, ABC | {"c.csv": texts}, "c.csv")
    assert by_image["a.jpg"] == ["A"]
    assert summary["blemishes"]["captions without a word"] == 1


def test_entities_are_unescaped_and_counted_and_other_ampersands_stay(tmp_path):
    texts = "image,caption\na.jpg,Dogs &amp; cats\nb.jpg,AT&T; &amp;#39;s\nc.jpg,C & D;\n"
    by_image, _, summary = run(tmp_path, ABC | {"c.csv": texts}, "c.csv")
    assert by_image == {"a.jpg": ["Dogs & cats"], "b.jpg": ["AT&T; 's"], "c.jpg": ["C & D;"]}
    assert summary["recognised"]["repaired"] == {"captions with HTML entities": 2}


def test_a_list_in_a_cell_is_several_captions_and_other_brackets_are_text(tmp_path):
    texts = "image,caption\na.jpg,\"['a dog', 'a cat']\"\nb.jpg,[inaudible]\nc.jpg,\"['a' dog\"\n"
    by_image, _, summary = run(tmp_path, ABC | {"c.csv": texts}, "c.csv")
    assert by_image == {"a.jpg": ["a dog", "a cat"], "b.jpg": ["[inaudible]"], "c.jpg": ["['a' dog"]}
    assert summary["recognised"]["repaired"] == {"lists written as text": 1}


def test_a_web_page_is_told_of(tmp_path):
    assert "begins with <!DOCTYPE html>, as a web page does" in refused(
        tmp_path, ABC | {"captions.txt": "<!DOCTYPE html>\n<html>"}
    )


def test_references_are_read_without_photos(tmp_path):
    (tmp_path / "c.csv").write_text(rows("image,caption", ","))
    (tmp_path / "d.json").write_text(json.dumps([{"image_id": 7, "caption": "A dog"}]))
    assert read_references([tmp_path / "c.csv", tmp_path / "d.json"]) == WANTED | {"7": ["A dog"]}
    with pytest.raises(CaptionerError, match=r"gone\.csv: cannot be read"):
        read_references([tmp_path / "gone.csv"])


# ------------------------------------------------------------------------------------- data that could be mixed up


def test_json_rows_may_have_fewer_captions_than_others(tmp_path):
    captions = [("One", "Two", "Three"), ("Four",), ("Five", "Six")]
    objects = [
        {"image": name, **{f"caption_{at}": text for at, text in enumerate(texts)}}
        for name, texts in zip(ABC, captions, strict=True)
    ]
    by_image, _, _ = run(tmp_path, ABC | {"c.jsonl": "\n".join(map(json.dumps, objects))}, "c.jsonl")
    assert by_image == {name: list(texts) for name, texts in zip(ABC, captions, strict=True)}


def test_a_json_row_without_the_split_that_others_have_is_refused(tmp_path):
    objects = [{"image": "a.jpg", "caption": "A"}, {"image": "b.jpg", "caption": "B", "split": "test"}]
    message = refused(tmp_path, ABC | {"c.jsonl": "\n".join(map(json.dumps, objects))}, "c.jsonl")
    assert "c.jsonl, line 1: a.jpg has no split, though others have" in message


def test_an_id_of_two_coco_images_is_refused(tmp_path):
    images = [{"id": at % 2, "file_name": name} for at, name in enumerate(ABC)]
    content = {"images": images, "annotations": [{"image_id": at, "caption": "A dog"} for at in range(2)]}
    message = refused(tmp_path, ABC | {"c.json": json.dumps(content)}, "c.json")
    assert "c.json: images[2]: id 0 is that of a.jpg already (c.json: images[0]); expected another id" in message


def test_coco_images_may_have_a_split(tmp_path):
    images = [{"id": name, "file_name": name, "split": split} for name, split in zip(ABC, SPLITS, strict=True)]
    content = {"images": images, "annotations": [{"image_id": name, "caption": "A dog"} for name in ABC]}
    _, splits, summary = run(tmp_path, ABC | {"c.json": json.dumps(content)}, "c.json")
    assert splits == dict(zip(ABC, SPLITS, strict=True))
    assert "splits as given" in summary["recognised"]["summary"]


@pytest.mark.parametrize("form", ["images", "annotations"])
def test_own_columns_are_refused_where_keys_are_fixed(tmp_path, form):
    images = [{"id": name, "file_name": name, "filename": name, "sentences": [{"raw": "A"}]} for name in ABC]
    content = {"images": images} | ({form: []} if form == "annotations" else {})
    files = ABC | {"c.json": json.dumps(content)}
    message = refused(tmp_path, files, "c.json", columns=Columns(caption="caption_de"))
    assert "c.json: own.columns.caption is caption_de, but the keys of this form are fixed; set it to null" in message


@pytest.mark.parametrize(("one", "other"), [("cats/1.jpg", "dogs/1.jpg"), ("x/1.jpg", "x/1.png")])
def test_names_of_two_photos_that_fit_one_are_refused(tmp_path, one, other):
    files = photos("1.jpg", "2.jpg", "3.jpg")
    texts = f"image,caption\n{one},A cat\n{other},A dog\n2.jpg,A cow\n3.jpg,A hen\n"
    message = refused(tmp_path, files | {"c.csv": texts}, "c.csv")
    assert f"c.csv, line 3: {other} and {one} (c.csv, line 2) both fit the photo " in message


def test_one_photo_may_have_a_long_and_a_short_name(tmp_path):
    texts = "image,caption\nC:\\set\\A.JPG,A cat\nSet/A.jpg,A dog\nA,A cow\nb.jpg,B\nc.jpg,C\n"
    by_image, _, _ = run(tmp_path, photos("x/set/a.jpg", "b.jpg", "c.jpg") | {"c.csv": texts}, "c.csv")
    assert sorted(map(len, by_image.values())) == [1, 1, 3]


@pytest.mark.parametrize(
    ("photo", "other"), [("001.jpg", "1.jpg"), ("IMG_7.jpg", "7"), ("IMG_7.jpg", "7.0"), ("A1.jpg", "x/01")]
)
@pytest.mark.parametrize("turned", [False, True])
def test_two_numbers_that_fit_one_photo_are_refused_in_a_table(tmp_path, photo, other, turned):
    lines = [f"{photo},A dog", f"{other},A cat"][:: -1 if turned else 1]
    texts = "\n".join(["image,caption", "b.jpg,B", "c.jpg,C", *lines])
    for on_bad in ("error", "skip"):
        message = refused(tmp_path, photos(photo, "b.jpg", "c.jpg") | {"c.csv": texts}, "c.csv", on_bad=on_bad)
        assert "c.csv, line 5: " in message
        assert f"both fit the photo {photo}; expected a photo for each, or one name" in message


def karpathy(names):
    return json.dumps({"images": [{"filename": name, "sentences": [f"A {name}"]} for name in names]})


@pytest.mark.parametrize("form", [coco, karpathy, lambda names: json.dumps({name: f"A {name}" for name in names})])
def test_forms_that_list_an_image_once_have_one_name_of_each_photo(tmp_path, form):
    texts = form(["b.jpg", "c.jpg", "aBc.jpg", "abc.jpg"])
    message = refused(tmp_path, photos("aBc.jpg", "b.jpg", "c.jpg") | {"c.json": texts}, "c.json")
    assert "abc.jpg and aBc.jpg (c.json: " in message
    assert "both fit the photo aBc.jpg" in message


@pytest.mark.parametrize("on_bad", ["error", "skip"])
def test_a_photo_may_have_the_mark_of_a_captions_number_in_its_name(tmp_path, on_bad):
    texts = "image,caption\ndog,A dog\ndog#2,A cat\ndog#2.jpg,Another cat\nb.jpg,B\nb.jpg.1,Again\n"
    by_image, _, _ = run(tmp_path, photos("dog.jpg", "dog#2.jpg", "b.jpg") | {"c.csv": texts}, "c.csv", on_bad=on_bad)
    assert by_image == {"dog.jpg": ["A dog"], "dog#2.jpg": ["A cat", "Another cat"], "b.jpg": ["B", "Again"]}


@pytest.mark.parametrize(
    "line", ["a.jpg;0;A dog", "a.jpg,0,A dog", "a.jpg,A dog,train", "a.jpg\tA dog\ttrain", 'a.jpg|"A dog"|test']
)
def test_a_third_cell_without_a_header_is_refused(tmp_path, line):
    message = refused(tmp_path, ABC | {"captions.txt": f"{line}\n"})
    assert "captions.txt, line 1: " in message
    assert "has more than a name and a caption; write a line above it that names the columns" in message


def test_commas_and_a_last_delimiter_are_no_third_cell(tmp_path):
    texts = 'a.jpg,A dog, a cat, and 2, 3 cows\nb.jpg,"A man, a dog"\nc.jpg,Snow\n'
    by_image, _, _ = run(tmp_path / "commas", ABC | {"captions.txt": texts})
    assert by_image["a.jpg"] == ["A dog, a cat, and 2, 3 cows"]
    by_image, _, _ = run(tmp_path / "tab", ABC | {"captions.txt": "a.jpg\tA dog\t\nb.jpg\tB\nc.jpg\tC\n"})
    assert by_image["b.jpg"] == ["B"]


def test_splits_that_some_folders_or_files_lack_are_refused(tmp_path):
    files = photos("train/1.jpg", "test/2.jpg", "more/3.jpg")
    texts = "image,caption\n1.jpg,A\n2.jpg,B\n3.jpg,C\n"
    message = refused(tmp_path / "folders", files | {"c.csv": texts}, "c.csv")
    assert "c.csv, line 4: the photo 3.jpg is in no folder or archive of a split, though others are" in message
    files = ABC | {
        f"{name}.csv": f"image,caption\n{at}.jpg,A\n" for name, at in zip(("train", "test", "x"), "abc", strict=True)
    }
    message = refused(tmp_path / "files", files, ["train.csv", "test.csv", "x.csv"])
    assert "x.csv: has no split in its name, though other files have one" in message


def test_metadata_beside_sidecars_or_in_two_archives_is_refused(tmp_path):
    metadata = "".join(json.dumps({"file_name": name, "text": "A dog"}) + "\n" for name in ABC)
    message = refused(tmp_path / "sidecars", ABC | {"metadata.jsonl": metadata, "a.txt": "A cat"}, None)
    assert "has metadata.jsonl, and text files beside photos such as a.txt; name the former in own.captions" in message
    archive = zipped(tmp_path / "more.zip", {"metadata.jsonl": metadata, "d.jpg": "d"}).read_bytes()
    message = refused(tmp_path / "archives", ABC | {"metadata.jsonl": metadata, "more.zip": archive}, None)
    assert "holds metadata.jsonl, and so does another archive or the folder" in message


def test_two_metadata_files_of_one_folder_are_refused(tmp_path):
    table = "file_name,text\n" + "".join(f"{name},A dog\n" for name in ABC)
    lines = "".join(json.dumps({"file_name": name, "text": "A dog"}) + "\n" for name in ABC)
    message = refused(tmp_path, ABC | {"metadata.csv": table, "metadata.jsonl": lines}, None)
    assert "metadata.csv and metadata.jsonl are in one folder; name the one that is meant in own.captions" in message


@pytest.mark.parametrize(
    ("files", "message"),
    [
        (("a.txt", "a.caption"), "a.txt: lies beside the photo a.jpg, as a.caption does; expected one text file"),
        (("a.txt", "a.jpg.txt"), "a.txt: lies beside the photo a.jpg, as a.jpg.txt does; expected one text file"),
        (("a.txt", "A.txt"), "a.txt: lies beside the photo a.jpg, as A.txt does; expected one text file"),
        (("a.txt", "a.png"), "a.txt: lies beside two photos, a.jpg and a.png; write a text file for each, such as a."),
    ],
)
def test_two_text_files_of_a_photo_or_two_photos_of_a_text_file_are_refused(tmp_path, files, message):
    files = ABC | {"b.txt": "B", "c.txt": "C"} | {name: f"A {name}" for name in files}
    for on_bad in ("error", "skip"):
        assert message in refused(tmp_path, files, None, on_bad=on_bad)


def test_each_of_two_photos_of_one_stem_may_have_its_text_file(tmp_path):
    names = photos("a.jpg", "a.png", "b.jpg")
    by_image, _, _ = run(tmp_path, names | {"a.jpg.txt": "A dog", "a.PNG.txt": "A cat", "b.txt": "B"}, None)
    assert by_image == {"a.jpg": ["A dog"], "a.png": ["A cat"], "b.jpg": ["B"]}


def test_other_json_files_named_dataset_are_no_splits(tmp_path):
    files = ABC | {"dataset_info.json": '{"default": {"splits": []}}', "c.csv": rows("image,caption", ",")}
    by_image, _, summary = run(tmp_path, files, "c.csv")
    assert by_image == WANTED
    assert "splits drawn" in summary["recognised"]["summary"]


@pytest.mark.parametrize(
    ("begin", "kind"), [(b"PAR1", "Parquet"), (b"PK\x03\x04", "an Excel file"), (b"\x1f\x8b", "packed by gzip")]
)
def test_files_that_are_no_text_are_named_by_their_kind(tmp_path, begin, kind):
    message = refused(tmp_path, ABC | {"c.csv": begin + bytes(range(256))}, "c.csv")
    assert f"c.csv: is {kind}" in message
    assert "CSV or JSON Lines" in message


def test_the_line_that_excel_writes_first_is_skipped(tmp_path):
    by_image, _, _ = run(tmp_path, ABC | {"c.csv": "sep=;\r\n" + rows("image;caption", ";")}, "c.csv")
    assert by_image == WANTED


def test_a_number_of_too_many_digits_is_no_json(tmp_path):
    line = '{"image": "a.jpg", "caption": "A", "width": ' + "1" * 5000 + "}"
    assert "not JSON" in refused(tmp_path / "lines", ABC | {"c.jsonl": line}, "c.jsonl")
    assert "not JSON" in refused(tmp_path / "list", ABC | {"c.json": f"[{line}]"}, "c.json")


def test_fewer_than_three_images_name_the_first_fault(tmp_path):
    texts = "image,caption\na.jpg,A\nb.jpg,B\nx9.jpg,C\n"
    assert "c.csv, line 4: no photo x9.jpg" in refused(tmp_path / "fault", ABC | {"c.csv": texts}, "c.csv")
    texts = "image,caption,split\na.jpg,A,train\nb.jpg,B,test\n"
    message = refused(tmp_path / "train", photos("a.jpg", "b.jpg") | {"c.csv": texts}, "c.csv")
    assert "c.csv: no photo is in the dev split, and 1 in train; expected 2 or more in train" in message


def test_a_numbered_photo_that_is_missing_is_not_taken_from_another_name(tmp_path):
    names = photos(*(f"{at}.jpg" for at in range(1, 7)), "IMG_0007.jpg", "0008.jpg")
    texts = "image,caption\n" + "".join(f"{at}.jpg,A {at}\n" for at in range(1, 9)) + "IMG_0007.jpg,Another\n"
    by_image, _, _ = run(tmp_path, names | {"c.csv": texts}, "c.csv", on_bad="skip")
    assert by_image["IMG_0007.jpg"] == ["Another"]
    assert by_image["0008.jpg"] == ["A 8"]


def test_a_missing_photo_is_not_taken_from_another_folder_that_the_photos_have(tmp_path):
    files = photos("dogs/1.jpg", "dogs/2.jpg", "cats/2.jpg", "cats/3.jpg")
    texts = "image,caption\ncats/1.jpg,A cat\ndogs/1.jpg,A dog\ndogs/2.jpg,B\ncats/2.jpg,C\ncats/3.jpg,D\n"
    message = refused(tmp_path / "stops", files | {"c.csv": texts}, "c.csv")
    assert "c.csv, line 2: no photo cats/1.jpg in" in message
    by_image, _, _ = run(tmp_path / "skips", files | {"c.csv": texts}, "c.csv", on_bad="skip")
    assert by_image["dogs/1.jpg"] == ["A dog"]


def test_the_split_in_the_name_of_a_captions_file_decides_between_two_photos(tmp_path):
    files = photos("train/1.jpg", "val/1.jpg", "train/A.JPG", "val/a.jpg", "test/2.jpg")
    for split, names in {"train": ("1.jpg", "A.jpg"), "val": ("1.jpg", "A"), "test": ("2.jpg",)}.items():
        files[f"{split}.csv"] = "image,caption\n" + "".join(f"{name},{split}\n" for name in names)
    by_image, splits, _ = run(tmp_path, files, ["train.csv", "val.csv", "test.csv"])
    wanted = {"train/1.jpg": ["train"], "train/A.JPG": ["train"], "val/1.jpg": ["val"], "val/a.jpg": ["val"]}
    assert by_image == wanted | {"2.jpg": ["test"]}
    assert sorted(splits.values()) == ["dev", "dev", "test", "train", "train"]


@pytest.mark.parametrize(
    ("header", "row", "captions"),
    [
        ("image,caption,caption_2,caption_3", "{},one,two,three", ["one", "two", "three"]),
        ("image,caption,caption.1,caption.2", "{},one,two,three", ["one", "two", "three"]),
        ("filename,raw,raw_1,raw_2", "{},one,two,three", ["one", "two", "three"]),
        ("image,caption,text_1,text_2", "{},one,two,three", ["one"]),
        ("image_id,image_file,caption", "3,{},one", ["one"]),
        ("image_id,img_name,caption", "3,{},one", ["one"]),
    ],
)
def test_which_columns_are_the_photo_and_its_captions(tmp_path, header, row, captions):
    texts = "\n".join([header, *map(row.format, ABC)])
    by_image, _, _ = run(tmp_path, ABC | {"c.csv": texts}, "c.csv")
    assert by_image == dict.fromkeys(ABC, captions)


@pytest.mark.parametrize("other", ["comment", "text"])
def test_a_list_of_captions_beside_another_text_is_asked_about(tmp_path, other):
    texts = json.dumps([{"image": name, "captions": ["A dog"], other: "ok"} for name in ABC])
    message = refused(tmp_path / "asks", ABC | {"c.json": texts}, "c.json")
    assert f"the columns {other} and captions could both be the caption; set own.columns.caption" in message
    chosen = Columns(caption="captions")
    assert run(tmp_path / "told", ABC | {"c.json": texts}, "c.json", columns=chosen)[0]["a.jpg"] == ["A dog"]


def decomposed(name):
    return unicodedata.normalize("NFD", name)


@pytest.mark.parametrize("there", [unicodedata.normalize, lambda form, name: name])
def test_names_with_accents_fit_however_they_are_spelt(tmp_path, there):
    names = ("Café.jpg", "Züge/Été.jpg", "강아지.jpg")
    files = {there("NFD", name): name for name in names}
    texts = {decomposed(name.rpartition(".")[0] + ".txt"): f"A {name}" for name in names}
    by_image, _, _ = run(tmp_path / "sidecars", files | texts, None)
    assert sorted(by_image.values()) == [[f"A {name}"] for name in sorted(names)]
    metadata = {
        decomposed(f"{folder}/metadata.csv"): f"file_name,text\n1.jpg,{folder}\n" for folder in ("Café", "Été", "z")
    }
    files = {there("NFD", f"{folder}/1.jpg"): folder for folder in ("Café", "Été", "z")}
    by_image, _, _ = run(tmp_path / "folders", files | metadata, None)
    assert by_image == {f"{folder}/1.jpg": [folder] for folder in ("Café", "Été", "z")}
    table = "image,caption\né.jpg,A\n" + decomposed("é.jpg") + ",B\nb.jpg,B\nc.jpg,C\n"
    files = photos(there("NFD", "é.jpg"), "b.jpg", "c.jpg") | {decomposed("légendes.csv"): table}
    assert run(tmp_path / "table", files, "légendes.csv")[0]["é.jpg"] == ["A", "B"]


@pytest.mark.parametrize(
    ("files", "captions"),
    [
        ("captions_{}.csv", ("train", "eval", "holdout")),
        ("{}/captions.csv", ("trainset", "valset", "testdata")),
    ],
)
def test_more_names_of_splits(tmp_path, files, captions):
    names = [files.format(split) for split in captions]
    tables = {name: f"image,caption\n{image},A\n" for name, image in zip(names, ABC, strict=True)}
    _, splits, _ = run(tmp_path, ABC | tables, names)
    assert splits == {"a.jpg": "train", "b.jpg": "dev", "c.jpg": "test"}


def test_a_captions_file_without_a_split_beside_one_with_a_split_is_refused(tmp_path):
    tables = {"train.csv": "image,caption\na.jpg,A\nb.jpg,B\n", "more.csv": "image,caption\nc.jpg,C\n"}
    message = refused(tmp_path, ABC | tables, ["train.csv", "more.csv"])
    assert "more.csv: has no split in its name, though other files have one" in message


def test_official_lists_in_lower_case_set_the_splits(tmp_path):
    lists = {f"flickr_8k.{split}images.txt": f"{letter}.jpg\n" for split, letter in zip(SPLITS, "abc", strict=True)}
    _, splits, _ = run(tmp_path, ABC | lists | {"c.csv": rows("image,caption", ",")}, "c.csv")
    assert splits == {"a.jpg": "train", "b.jpg": "dev", "c.jpg": "test"}


def test_json_sidecars_may_have_a_split(tmp_path):
    files = {
        f"{letter}.json": json.dumps({"caption": "A dog", "split": split})
        for letter, split in zip("abc", ("train", "val", "test"), strict=True)
    }
    assert run(tmp_path, ABC | files, None)[1] == {"a.jpg": "train", "b.jpg": "dev", "c.jpg": "test"}


def test_a_json_sidecar_that_is_no_object_is_refused(tmp_path):
    message = refused(tmp_path, ABC | {f"{letter}.json": '["A dog"]' for letter in "abc"}, None)
    assert "a.json: not a JSON object; expected one with the key caption or text" in message


def test_sidecars_may_keep_the_suffix_of_the_photo(tmp_path):
    by_image, _, _ = run(tmp_path, ABC | {f"{name}.txt": f"A {name}" for name in ABC}, None)
    assert by_image == {name: [f"A {name}"] for name in ABC}


@pytest.mark.parametrize("header", ["", "image,caption\r"])
@pytest.mark.parametrize("delimiter", [",", "\t"])
def test_line_ends_of_old_macs(tmp_path, header, delimiter):
    texts = (header + "a.jpg,A dog\rb.jpg,B\rc.jpg,C\r").replace(",", delimiter)
    assert run(tmp_path, ABC | {"c.txt": texts}, "c.txt")[0] == {"a.jpg": ["A dog"], "b.jpg": ["B"], "c.jpg": ["C"]}


def test_a_carriage_return_in_the_first_line_is_no_traceback(tmp_path):
    by_image, _, _ = run(tmp_path, ABC | {"c.txt": "a.jpg,A dog\r runs\nb.jpg,B\nc.jpg,C\n"}, "c.txt")
    assert by_image["a.jpg"] == ["A dog runs"]


def test_rows_that_a_quote_swallows_are_noticed_by_ids_too(tmp_path):
    texts = 'id\tcaption\n1\tA wall\n1\t"Stop\n2\tA dog\n3\tA sign saying go"\n2\tB\n3\tC\n'
    message = refused(tmp_path, photos("1.jpg", "2.jpg", "3.jpg") | {"c.tsv": texts}, "c.tsv", columns=Columns("id"))
    assert "c.tsv, line 3: a quote opens in this line and closes in line 5, and line 4 looks like a row" in message


@pytest.mark.parametrize("end", ["\nIMG_3,A cow", ""])
def test_rows_that_a_quote_swallows_are_noticed_by_names_without_a_suffix(tmp_path, end):
    texts = f'image,caption\nIMG_1,"A dog\nIMG_20,A cat"{end}\n'
    message = refused(tmp_path, photos("IMG_1.jpg", "IMG_20.jpg", "IMG_3.jpg") | {"c.csv": texts}, "c.csv")
    assert "c.csv, line 2: a quote opens in this line and closes in line 3, and line 3 looks like a row" in message


@pytest.mark.parametrize(
    "texts",
    [
        "IMG_1, copy.jpg\tA dog\nb.jpg\tB\nc.jpg\tC\n",
        '"IMG_1, copy.jpg"\t"A dog"\n"b.jpg"\t"B"\n"c.jpg"\t"C"\n',
        'image\tcaption\n"""IMG_1, copy.jpg"""\tA dog\nb.jpg\tB\nc.jpg\tC\n',
        'image, caption\n"IMG_1, copy.jpg", "A dog"\nb.jpg, B\nc.jpg, C\n',
        'image,caption,notes,more\n"IMG_1, copy.jpg",A dog,x,y\nb.jpg,B\nc.jpg,C,z\n',
    ],
)
def test_names_with_commas_and_quotes_and_rows_with_blanks_or_fewer_cells(tmp_path, texts):
    by_image, _, _ = run(tmp_path, photos("IMG_1, copy.jpg", "b.jpg", "c.jpg") | {"c.txt": texts}, "c.txt")
    assert by_image == {"IMG_1, copy.jpg": ["A dog"], "b.jpg": ["B"], "c.jpg": ["C"]}


def test_a_name_with_a_comma_is_not_cut_at_a_photos_suffix(tmp_path):
    texts = "IMG_1.jpg, copy.jpg\tA tower\nb.jpg\tB\nc.jpg\tC\n"
    files = photos("IMG_1.jpg", "IMG_1.jpg, copy.jpg", "b.jpg", "c.jpg") | {"c.txt": texts}
    by_image, _, _ = run(tmp_path, files, "c.txt", on_bad="skip")
    assert by_image["IMG_1.jpg, copy.jpg"] == ["A tower"]


ROWS = [{"image": name, "caption": "A dog"} for name in ABC]


@pytest.mark.parametrize(
    "content",
    [
        {"my_train": ROWS[:1], "val": ROWS[1:2], "test": ROWS[2:]},
        {"airplane": [row | {"split": split} for row, split in zip(ROWS, ("train", "val", "test"), strict=True)]},
        {
            "images": [
                {"filename": name, "sentences": ["A dog"], "split": split}
                for name, split in zip(ABC, ("train", "val", "test"), strict=True)
            ]
        },
    ],
)
def test_more_forms_of_json_with_splits(tmp_path, content):
    by_image, splits, _ = run(tmp_path, ABC | {"c.json": json.dumps(content)}, "c.json")
    assert by_image == {name: ["A dog"] for name in ABC}
    assert splits == {"a.jpg": "train", "b.jpg": "dev", "c.jpg": "test"}


@pytest.mark.parametrize("key", ["file_name", "filename"])
def test_coco_with_ids_as_text_and_as_numbers(tmp_path, key):
    content = {
        "images": [{"id": str(at), key: name} for at, name in enumerate(ABC)],
        "annotations": [{"image_id": at, "caption": f"A {name}"} for at, name in enumerate(ABC)],
    }
    by_image, _, _ = run(tmp_path, ABC | {"c.json": json.dumps(content)}, "c.json")
    assert by_image == {name: [f"A {name}"] for name in ABC}


def test_json_lines_of_one_row(tmp_path):
    files = {f"{split}.jsonl": json.dumps(row) for split, row in zip(("train", "val", "test"), ROWS, strict=True)}
    _, splits, _ = run(tmp_path, ABC | files, list(files))
    assert splits == {"a.jpg": "train", "b.jpg": "dev", "c.jpg": "test"}


def test_a_table_by_columns_in_json_is_refused_with_advice(tmp_path):
    content = {"image": {"0": "a.jpg"}, "caption": {"0": "A"}}
    message = refused(tmp_path, ABC | {"c.json": json.dumps(content)}, "c.json")
    assert "save the table row by row, in pandas with orient='records', lines=True" in message


@pytest.mark.parametrize("ids", [("1.0", "2.0", "3.0"), (1.0, 2.0, 3), ("1", "2.0", 3)])
def test_ids_may_be_numbers_with_a_point(tmp_path, ids):
    rows = [{"image_id": number, "caption": f"A {int(float(number))}"} for number in ids]
    files = photos("0001.jpg", "2.jpg", "IMG_3.jpg") | {"c.json": json.dumps(rows)}
    assert sorted(run(tmp_path, files, "c.json")[0].values()) == [["A 1"], ["A 2"], ["A 3"]]


def test_blanks_of_another_kind_in_a_name(tmp_path):
    names = photos("Screenshot at 1.00\u202fPM.png", "b.jpg", "c.jpg")
    texts = "image,caption\nScreenshot at 1.00 PM.png,A dog\nb.jpg,B\nc.jpg,C\n"
    assert sorted(run(tmp_path, names | {"c.csv": texts}, "c.csv")[0].values()) == [["A dog"], ["B"], ["C"]]


def test_sidecars_whose_names_differ_in_case_only(tmp_path):
    names = photos("IMG.jpg", "img.jpg", "b.jpg")
    by_image, _, _ = run(tmp_path, names | {"IMG.txt": "A dog", "img.txt": "A cat", "B.txt": "B"}, None)
    assert by_image == {"IMG.jpg": ["A dog"], "img.jpg": ["A cat"], "b.jpg": ["B"]}


def test_the_longer_name_of_two_captions_files_is_meant(tmp_path):
    tables = {name: f"image,caption\n{image},A\n" for name, image in (("c.csv", "a.jpg"), ("val/c.csv", "b.jpg"))}
    archive = zipped(tmp_path / "more.zip", ABC | tables).read_bytes()
    (tmp_path / "mine").mkdir()
    message = refused(tmp_path, {"more.zip": archive}, ["c.csv", "val/c.csv"])
    assert "c.csv: has no split in its name, though other files have one" in message


@pytest.mark.parametrize("encoding", ["utf-32", "utf-32-be"])
def test_utf_32_is_named(tmp_path, encoding):
    message = refused(tmp_path, ABC | {"c.csv": "\ufeffimage,caption\n".encode(encoding)}, "c.csv")
    assert "c.csv: is UTF-32; save the file as UTF-8" in message


def test_bytes_that_are_not_the_utf_16_of_their_mark_are_named(tmp_path):
    message = refused(tmp_path, ABC | {"c.csv": b"\xff\xfea"}, "c.csv")
    assert "c.csv: has the byte order mark of UTF-16 but is not valid UTF-16; save the file as UTF-8" in message


def test_utf_16_without_its_mark_is_named(tmp_path):
    message = refused(tmp_path, ABC | {"c.csv": "image,caption\na.jpg,A\n".encode("utf-16-le")}, "c.csv")
    assert "c.csv: has NUL bytes, as UTF-16 without its mark has; save the file as UTF-8" in message
