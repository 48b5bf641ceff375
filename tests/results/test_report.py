"""The report: what stands in the page, and in a real browser what one can do with it."""

import base64
import csv
import io
import json
import re
from html.parser import HTMLParser

import numpy as np
import pytest
import torch
from PIL import Image

from captioner.base.errors import CaptionerError
from captioner.captions.vocabulary import Vocabulary
from captioner.model.attention import attention_weights
from captioner.model.captioner import Captioner, Metadata, load_model, save_model
from captioner.model.decoder import Decoder
from captioner.results.report import _incomparable, thumbnail, write_report
from captioner.vision.encoder import Encoder
from captioner.vision.store import FeatureStore, View, new_store
from tests.support.worlds import encoded, jpeg, some_examples, zipped

NASTY = '</script><script>document.title = "run"</script> "><img src=x onerror=alert(1)> & dog .'
WORDS = ("a", "dog", "cat", "runs", "<b>", "black")
SEARCH = {"beam": 3, "length_penalty": 1.0, "consensus": 2.5}
IMAGE = {"size": 64, "fit": "squash"}
COUNT = 30  # more than the gallery shows at once
SCORES = {
    **{f"BLEU-{n}": 0.5 for n in range(1, 5)},
    "ROUGE-L": 0.4,
    "CIDEr": 0.5,
    "distinct captions": 0.1,
    "vocabulary": 5,
    "mean length": 3.0,
    "copied from training": 0.0,
}
CURVE = "epoch,train loss,dev loss,dev CIDEr,learning rate\n0,,2.5,0.3,\n1,2.0,2.0,0.5,0.001\n"


def rows():
    """The table of test captions: CIDEr falls and gain rises with the name, but for a few."""
    for n in range(COUNT):
        finetuned = "a black dog runs" if n % 3 == 0 else f"a {'<b>' if n == 1 else 'cat'} runs"
        better, worse = round(((n * 7) % COUNT) / 10, 5), round(((n * 11) % COUNT) / 10, 5)
        yield f"{n:02d}.jpg", "a dog", finetuned, worse, better


def make_world(folder, attention=True, mean=False, language="en", words=WORDS, **changes):
    """Write what the stage reads into `folder`, return the arguments of `write_report`."""
    torch.manual_seed(0)
    vocabulary = Vocabulary(words=words, max_length=6, language=language)
    shape = {"vocabulary": len(vocabulary), "features": 512, "width": 8, "heads": 2}
    shape |= {"attention": attention, "tied": True, "dropout": 0.0}
    provenance = {"inputs": {"data/a": "0" * 32}, "params": {"finetune.lr": 0.1}, "versions": {"torch": "x"}}
    decoder = Decoder(**shape)
    for parameter in decoder.parameters():
        torch.nn.init.normal_(parameter, std=0.7)
    for name, captioner, start in (
        ("decoder", Captioner(decoder), "end"),
        ("captioner", Captioner(decoder, Encoder(), "layer4"), "layer4"),
    ):
        captioner.examples = some_examples(vocabulary)
        metadata = Metadata("e", start, IMAGE, shape, vocabulary, provenance, mean)
        save_model(folder / f"{name}.safetensors", captioner, metadata)
    table = list(rows())
    names = [row[0] for row in table]
    with new_store(
        folder / "b.h5",
        views=[View(name, flipped) for flipped in (False, True)[: 1 + mean] for name in names],
        shape=(4, 4, 256),
        dtype="float16",
        layer="layer4",
        encoder="e",
        **IMAGE,
    ) as store:
        store.write(0, torch.rand(COUNT * (1 + mean), 4, 4, 256))
    zipped(folder / "images.zip", {name: jpeg(40 + n, 40, (8 * n, 90, 90)) for n, name in enumerate(names)})
    with (folder / "test.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("image", "frozen", "finetuned", "frozen CIDEr", "finetuned CIDEr"), *table])
    with (folder / "captions.jsonl").open("w") as file:
        for name in names:
            raw = [NASTY if name == "00.jpg" else "A zebra runs .", "A dog barks ."]
            raw += ["The man's dog isn't here , and it cannot bark .", "The dogs' toy says \u2018stop\u2019 ."] * (
                name == "01.jpg"
            )
            file.write(json.dumps({"image": name, "split": "test", "raw": raw, "ids": []}) + "\n")
        file.write(json.dumps({"image": "t.jpg", "split": "train", "raw": ["a dog"], "ids": []}) + "\n")
    facts = {
        "download": {"dataset": "flickr8k"}
        | {what: {"source": "mirror", "md5": "m", "bytes": 1, "official": False} for what in ("images", "captions")},
        "weights": {"source": "random", "md5": "w", "bytes": 1, "official": None},
        "captions": {"form": "raw", "images": {"test": COUNT}, "training words": {"types": 9}},
        "features": {"skipped": []},
        "train": {"best epoch": 1, "epochs": 1},
        "finetune": {"best epoch": 1, "epochs": 1},
        "evaluate": {"images": COUNT, "frozen": SCORES, "finetuned": SCORES},
    } | changes
    for name, fact in facts.items():
        (folder / f"{name}.json").write_text(json.dumps(fact))
    (folder / "curve.csv").write_text(CURVE)
    return {
        "images": folder / "images.zip",
        "captions": folder / "captions.jsonl",
        "boundary_store": folder / "b.h5",
        "decoder": folder / "decoder.safetensors",
        "model": folder / "captioner.safetensors",
        "generated": folder / "test.csv",
        "curves": {"train": folder / "curve.csv", "finetune": folder / "curve.csv"},
        "summaries": {name: folder / f"{name}.json" for name in facts},
        "search": SEARCH,
    }


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    folder = tmp_path_factory.mktemp("report")
    given = make_world(folder)
    write_report(folder / "report.html", **given)
    return folder, given


@pytest.fixture(scope="module")
def html(world):
    return (world[0] / "report.html").read_text(encoding="utf-8")


class Tags(HTMLParser):
    """All start tags of a page with their attributes."""

    def __init__(self, text):
        super().__init__()
        self.tags = []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))


def test_the_same_inputs_give_the_same_bytes(world, tmp_path):
    write_report(tmp_path / "report.html", **world[1])
    assert (tmp_path / "report.html").read_bytes() == (world[0] / "report.html").read_bytes()


def test_the_page_shows_the_search_settings(world, html, tmp_path):
    write_report(tmp_path / "report.html", **world[1] | {"search": SEARCH | {"beam": 1}})
    alone = (tmp_path / "report.html").read_text(encoding="utf-8")
    write_report(tmp_path / "report.html", **world[1] | {"search": SEARCH | {"consensus": 0.0}})
    likeliest = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "weight of the consensus 2.5" in html
    assert "weight of the consensus 0.0" in likeliest
    counts = [
        " ".join(page.split()).count("similar training images help to choose") for page in (html, likeliest, alone)
    ]
    assert counts == [1, 0, 0]


def test_captions_are_escaped_and_nothing_is_loaded(html):
    tags = Tags(html).tags
    assert [tag for tag, _ in tags].count("script") == 1
    assert "b" in {tag for tag, _ in tags}  # the page's own
    assert "onerror" not in {name for _, attributes in tags for name in attributes}
    assert "<span>&lt;b&gt;</span>" in html
    for tag, attributes in tags:
        for name in ("src", "href"):
            target = attributes.get(name, "#")
            assert target.startswith(("data:", "#")) or (tag == "a" and target.startswith("https://")), (tag, target)
    for photo in (attributes for tag, attributes in tags if tag == "img"):
        with Image.open(io.BytesIO(base64.b64decode(photo["src"].split(",")[1]))) as picture:
            assert picture.size == (int(photo["width"]), int(photo["height"]))


@pytest.mark.parametrize("mean", [False, True])
def test_attention_in_the_page_is_the_decoders(tmp_path, mean):
    given = make_world(tmp_path, mean=mean)
    write_report(tmp_path / "report.html", **given)
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert ("The model averages the features of a photo and of its mirror image." in page) == mean
    captioner, card = load_model(given["model"])
    store = FeatureStore(given["boundary_store"])
    packed = [attributes["data-attention"] for _, attributes in Tags(page).tags if "data-attention" in attributes]
    assert len(packed) == COUNT
    for (name, _, caption, _, _), text in zip(rows(), packed, strict=True):
        levels = np.frombuffer(base64.b64decode(text), np.uint8).reshape(len(caption.split()), 4)
        with torch.inference_mode():
            memory = captioner.encode(*(store.read([row]) for row in store.views[name]))
        read = torch.tensor([[card.vocabulary.encode(caption.split())[:-2]]])
        wanted = attention_weights(captioner.decoder, memory, read)[0, 0].numpy()
        assert np.abs((levels / 255) ** 2 - wanted).max() < 0.01, name


@pytest.mark.parametrize(
    ("language", "words", "caption"),
    [
        ("en", ("a", "dog", "'s", "cat", "."), "a dog's cat."),
        ("ja", ("2", "匹", "の", "犬"), "2匹の犬"),
        ("th", ("สุนัข", "วิ่ง"), "สุนัข\u200bวิ่ง"),
        ("en", ("at&t", "dog"), "at&t dog"),  # tokenised again, this word is three
    ],
)
def test_captions_without_spaces_have_attention_at_each_word(tmp_path, language, words, caption):
    given = make_world(tmp_path, language=language, words=(*WORDS, *dict.fromkeys(words)))
    table = given["generated"].read_text(encoding="utf-8").replace("a black dog runs", caption)
    given["generated"].write_text(table, encoding="utf-8")
    write_report(tmp_path / "report.html", **given)
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    packed = next(attributes["data-attention"] for _, attributes in Tags(page).tags if "data-attention" in attributes)
    assert len(base64.b64decode(packed)) == 4 * len(words)
    shown = page.split("data-attention=")[1].split(">", 1)[1].split("</p>")[0]
    assert re.findall(r"<span>(.*?)</span>", shown) == [
        word.replace("'", "&#39;").replace("&t", "&amp;t") for word in words
    ]
    assert re.sub(r"</?span>", "", shown).startswith(caption.replace("'", "&#39;").replace("&t", "&amp;t"))


def test_a_decoder_without_attention_is_said_to_have_none(tmp_path):
    write_report(tmp_path / "report.html", **make_world(tmp_path, attention=False))
    page = (tmp_path / "report.html").read_text()
    assert "no attention" in page
    assert not [1 for _, attributes in Tags(page).tags if "data-attention" in attributes]


def test_a_caption_of_unknown_words_is_refused_by_name(world, tmp_path):
    text = world[1]["generated"].read_text().replace("a cat runs", "a yak runs", 1)
    (tmp_path / "test.csv").write_text(text)
    with pytest.raises(CaptionerError, match=r"02\.jpg.*'yak'"):
        write_report(tmp_path / "report.html", **world[1] | {"generated": tmp_path / "test.csv"})
    assert not (tmp_path / "report.html").exists()


def test_an_image_without_references_is_refused_by_name(world, tmp_path):
    (tmp_path / "captions.jsonl").write_text("".join(world[1]["captions"].read_text().splitlines(True)[1:]))
    with pytest.raises(CaptionerError, match=r"no captions of 00\.jpg"):
        write_report(tmp_path / "report.html", **world[1] | {"captions": tmp_path / "captions.jsonl"})


def test_scores_and_their_difference_have_intervals_where_the_run_has_them(world, html, tmp_path):
    assert "bootstrap" not in html
    ends = {"frozen": [0.41, 0.61], "finetuned": [0.42, 0.62], "finetuned - frozen": [-0.03, 0.04]}
    measured = {"frozen": SCORES, "finetuned": SCORES | {"CIDEr": 0.51, "agreed words found": 0.4}}
    intervals = {name: {"CIDEr": both} for name, both in ends.items()}
    (tmp_path / "evaluate.json").write_text(json.dumps({"images": COUNT, **measured, "intervals": intervals}))
    given = world[1] | {"summaries": world[1]["summaries"] | {"evaluate": tmp_path / "evaluate.json"}}
    write_report(tmp_path / "report.html", **given)
    page = " ".join((tmp_path / "report.html").read_text(encoding="utf-8").split())
    assert "95 % intervals by bootstrap" in page
    assert '<td>51.0<small class="interval">42.0 to 62.0</small></td>' in page
    assert '<td>+1.0<small class="interval">\N{MINUS SIGN}3.0 to 4.0</small></td>' in page
    assert "95 % interval 42.0 to 62.0" in page
    assert '<th scope="row">agreed words found</th><td>\N{EN DASH}</td><td>40.0 %</td><td>\N{EN DASH}</td>' in page


def test_only_official_data_and_weights_are_comparable_with_published_systems():
    official = {"official": True}
    facts = {"download": {"dataset": "flickr8k", "images": official, "captions": official}, "weights": official}
    assert _incomparable(facts | {"evaluate": {"images": 1000}}) == []
    assert "500 test images" in _incomparable(facts | {"evaluate": {"images": 500}})[0]
    other = facts | {"evaluate": {"images": 1000}, "weights": {"official": False}}
    assert "weights" in _incomparable(other)[0]
    assert "shapes" in _incomparable(facts | {"download": {"dataset": "shapes"}})[0]
    assert "train.start" in _incomparable(facts | {"evaluate": {"images": 1000}}, start="model.safetensors")[0]


def test_thumbnails_keep_the_shape_turn_as_exif_says_and_never_grow():
    wide = Image.new("RGB", (400, 200), "red")
    wide.paste("blue", (0, 0, 200, 200))
    photo, width, height = thumbnail(encoded(wide, "JPEG"), fit="squash", pixels=5000)
    assert (width, height) == (100, 50)
    with Image.open(io.BytesIO(photo)) as small:
        assert small.size == (100, 50)
        assert small.getpixel((10, 25))[2] > 200 > 60 > small.getpixel((10, 25))[0]  # blue on the left
    exif = Image.Exif()
    exif[0x0112] = 6
    assert thumbnail(encoded(wide, "JPEG", exif=exif), fit="squash", pixels=5000)[1:] == (50, 100)
    assert thumbnail(encoded(wide, "JPEG"), fit="crop", pixels=5000)[1:] == (71, 71)
    assert thumbnail(jpeg(8, 6), fit="squash", pixels=5000)[1:] == (8, 6)
    assert thumbnail(jpeg(9000, 2), fit="squash", pixels=90_000)[1:] == (2048, 1)
    with pytest.raises(ValueError, match="no photo"):
        thumbnail(b"no photo", fit="squash", pixels=5000)


def test_the_page_says_that_the_model_is_between_two_epochs(html, tmp_path):
    between = {"best epoch": 1, "epochs": 1, "interpolation": {"share": 60, "dev CIDEr": {}}}
    write_report(tmp_path / "report.html", **make_world(tmp_path, finetune=between))
    said = "they are 60 % of the way from the start"
    assert said in " ".join((tmp_path / "report.html").read_text().split())
    assert said not in " ".join(html.split())


def test_few_test_images_and_missing_meteor_are_explained(html, tmp_path):
    assert "METEOR is missing, because its program did not run; it needs Java." in html
    assert "The test split has only" not in html
    few = {"images": 3, "frozen": SCORES, "finetuned": SCORES}
    given = make_world(tmp_path, language="de", evaluate=few)
    table = (tmp_path / "test.csv").read_text().splitlines()[:2]
    (tmp_path / "test.csv").write_text("\n".join(table) + "\n")
    write_report(tmp_path / "report.html", **given)
    page = " ".join((tmp_path / "report.html").read_text().split())
    assert "The test split has only 1 image, so the scores are uncertain" in page
    assert "CIDEr of a single image is always 0." in page
    assert "METEOR is missing: it is for English only." in page


def test_words_with_capitals_count_as_known(tmp_path):
    words = ("A", "Dog", "cat", "runs", "<b>", "black", "a", "dog", "Zebra")
    write_report(tmp_path / "report.html", **make_world(tmp_path, language="de", words=words))
    strange = re.findall(r"<li class=strange>.*?</li>", (tmp_path / "report.html").read_text())
    assert strange
    assert not [chip for chip in strange if ">zebra<" in chip]


def test_captions_have_their_language_and_direction(html):
    tags = Tags(html).tags
    captions = [attributes for _, attributes in tags if attributes.get("class") in ("caption", "find")]
    assert captions
    assert all(attributes["dir"] == "auto" for attributes in captions)
    assert [attributes["lang"] for _, attributes in tags if attributes.get("id") == "cards"] == ["en"]


@pytest.fixture
def visit(browser, world):
    """Open the page in a window of its own; at the end nothing may have been complained of or asked of the network."""
    contexts, complaints, requests = [], [], []

    def open_page(**options):
        context = browser.new_context(offline=True, **options)
        contexts.append(context)
        page = context.new_page()
        page.on("console", lambda message: complaints.append(message.text))
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("dialog", lambda dialog: complaints.append(dialog.message))
        page.on("request", lambda request: requests.append(request.url))
        page.goto((world[0] / "report.html").as_uri())
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert complaints == []
    assert {url.split(":")[0] for url in requests} <= {"file", "data"}


def shown(page):
    return page.locator(".card:not([hidden]) .name").all_inner_texts()


def test_it_opens_with_the_first_images_and_shows_more(visit):
    page = visit()
    assert page.title() == f"captioner: {COUNT} test images of flickr8k"  # no caption's script ran
    assert shown(page) == [row[0] for row in rows()][:24]
    assert NASTY in page.locator(".references").first.inner_text().replace("\N{NO-BREAK SPACE}", " ")
    page.get_by_role("button", name="Show 6 more").click()
    assert shown(page) == [row[0] for row in rows()]
    assert page.locator("#more").is_hidden()


@pytest.mark.slow
def test_filtering_by_word(visit):
    page = visit()
    for where, query, wanted in (
        ("finetuned", "dog", [row[0] for row in rows() if "dog" in row[2]]),
        ("finetuned", "DO", [row[0] for row in rows() if "dog" in row[2]]),
        ("finetuned", "do ", []),
        ("finetuned", "runs black ", [row[0] for row in rows() if "black" in row[2]]),
        ("frozen", "cat", []),
        ("references", "zebra", [row[0] for row in rows()][1:][:24]),
        ("exact", "a cat runs", [row[0] for row in rows() if row[2] == "a cat runs"]),
        ("all", "onerror", ["00.jpg"]),
        ("all", "", [row[0] for row in rows()][:24]),
    ):
        page.locator("#where").select_option(where)
        page.locator("#query").fill(query)
        assert shown(page) == wanted, (where, query)
        if len(wanted) < 24:
            assert page.locator("#count").inner_text().startswith(f"{len(wanted)} of {COUNT} images")


def test_sorting(visit):
    page = visit()
    table = list(rows())
    for order, key in (
        ("cider-", lambda row: -row[4]),
        ("cider+", lambda row: row[4]),
        ("gain-", lambda row: -round(row[4] - row[3], 5)),
        ("gain+", lambda row: round(row[4] - row[3], 5)),
        ("name", lambda row: row[0]),
    ):
        page.locator("#sort").select_option(order)
        assert shown(page) == [row[0] for row in sorted(table, key=key)][:24], order


def test_an_error_leads_to_its_images(visit):
    page = visit()
    page.locator("#errors .find", has_text="a black dog runs").click()
    assert shown(page) == [row[0] for row in rows() if row[2] == "a black dog runs"]
    page.locator("#errors .find[data-where=references]", has_text="zebra").click()
    assert page.locator("#count").inner_text().startswith(f"{COUNT - 1} of {COUNT}")


@pytest.mark.slow
def test_words_lead_to_the_images_that_were_counted(visit):
    page = visit()
    chips = page.locator("#errors .chips li").filter(has=page.locator(".find"))
    assert chips.count() > 4
    for chip in chips.all():
        times = chip.locator("small").inner_text().split(" of ")[0]
        chip.locator(".find").click()
        assert page.locator("#count").inner_text().startswith(f"{times} of {COUNT} images"), chip.inner_text()


def test_words_are_those_of_the_treebank_and_signs_find_nothing(visit):
    page = visit()
    for where, query, expected in (
        ("references", "isn't ", 1),
        ("references", "n't ", 1),
        ("references", "is ", 1),
        ("references", "isn ", 0),
        ("references", "'s ", 1),
        ("references", "dogs ", 1),
        ("references", "can ", 1),
        ("references", "not ", 1),
        ("references", "cannot", 1),
        ("references", "stop ", 1),
        ("references", "#", 0),
        ("references", " ", COUNT),
    ):
        page.locator("#where").select_option(where)
        page.locator("#query").fill(query)
        assert page.locator("#count").inner_text().startswith(f"{expected} of {COUNT} images"), query


def test_the_search_knows_turkish_capitals_and_other_apostrophes(browser, tmp_path):
    given = make_world(tmp_path, language="tr")
    items = [json.loads(line) for line in (tmp_path / "captions.jsonl").read_text().splitlines()]
    items[0]["raw"] = ["İki k\u0131z ISLIK çal\u0131yor .", "Türkiye\u02bcnin köpeği, Kars\u00b4ta ."]
    (tmp_path / "captions.jsonl").write_text("".join(json.dumps(item) + "\n" for item in items))
    write_report(tmp_path / "report.html", **given)
    page = browser.new_page(offline=True)
    page.goto((tmp_path / "report.html").as_uri())
    page.locator("#where").select_option("references")
    for query in ("iki ", "\u0131sl\u0131k ", "türkiye'nin ", "kars'ta "):
        page.locator("#query").fill(query)
        assert page.locator("#count").inner_text().startswith(f"1 of {COUNT} images"), query
    page.close()


def test_attention_shows_on_hover_and_by_keyboard(visit):
    page = visit()
    card = page.locator(".card").nth(3)
    card.locator("[data-attention] > span").nth(2).hover()
    assert card.locator("canvas").count() == 1
    assert re.fullmatch(r"dog: \d+ % \(even: 25 %\)", card.locator(".attention").inner_text())
    alphas = card.locator("canvas").evaluate(
        "canvas => [...canvas.getContext('2d').getImageData(0, 0, 2, 2).data].filter((_, at) => at % 4 == 3)"
    )
    levels = np.frombuffer(base64.b64decode(card.locator("[data-attention]").get_attribute("data-attention")), np.uint8)
    weights = (levels.reshape(-1, 4)[2] / 255.0) ** 2
    assert np.abs(np.array(alphas) - 255 * 0.8 * (1 - weights / weights.max())).max() < 2
    page.mouse.move(1, 1)
    assert page.locator("canvas").count() == 0

    page.locator("#sort").focus()
    page.keyboard.press("Tab")
    first = page.locator(".card").first
    assert first.locator(".looking").inner_text() == "a"
    for key, word in (("ArrowRight", "black"), ("End", "runs"), ("ArrowRight", "a"), ("ArrowLeft", "runs")):
        page.keyboard.press(key)
        assert first.locator(".looking").inner_text() == word
    assert page.locator("#announcement").inner_text().startswith("runs: most at the ")
    page.keyboard.press("Escape")
    assert page.locator("canvas").count() == 0


def test_on_a_phone_nothing_is_wider_than_the_screen_and_a_tap_shows_attention(visit):
    page = visit(viewport={"width": 360, "height": 740}, is_mobile=True, has_touch=True)
    assert page.evaluate("document.documentElement.scrollWidth") == 360
    page.locator("[data-attention] > span").nth(1).tap()
    assert page.locator("canvas").count() == 1
    page.locator("h2").nth(2).tap()
    assert page.locator("canvas").count() == 0


def test_dark_mode_is_dark(visit):
    light, dark = (
        visit(color_scheme=scheme).evaluate(
            "['backgroundColor', 'color'].map((key) => +getComputedStyle(document.body)[key].match(/\\d+/)[0])"
        )
        for scheme in ("light", "dark")
    )
    assert light[0] > 200 > 60 > light[1]
    assert dark[0] < 60 < 200 < dark[1]


def test_without_scripts_everything_is_there(visit):
    page = visit(java_script_enabled=False)
    assert page.locator(".card").count() == COUNT
    assert page.locator(".controls").is_hidden()
