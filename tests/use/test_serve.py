"""The page of `captioner serve` in a real browser: photos in, captions out, and what one can do with them."""

import base64
import re
import subprocess
import sys

import pytest
from PIL import Image

from captioner.use.caption import PhotoCaptioner
from captioner.use.description import describe_photo
from tests.support.worlds import captioner_file, encoded
from tests.use.test_server import noise

pytestmark = pytest.mark.slow

pytest.importorskip("starlette", reason="needs the extra `serve`")
MINUS = "\N{MINUS SIGN}"
PHONE = {"viewport": {"width": 390, "height": 844}, "has_touch": True, "is_mobile": True, "device_scale_factor": 2}
DROP = """([files, folder]) => {
    const transfer = new DataTransfer();
    for (const [name, kind, bytes, size] of files) {
        const content = size ? new Uint8Array(size) : Uint8Array.from(atob(bytes), (letter) => letter.charCodeAt(0));
        transfer.items.add(new File([content], name, { type: kind }));
    }
    const event = folder === "paste"
        ? new ClipboardEvent("paste", { clipboardData: transfer, bubbles: true, cancelable: true })
        : new DragEvent("drop", { dataTransfer: transfer, bubbles: true, cancelable: true });
    document.body.dispatchEvent(event);
}"""


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    return {
        attention: captioner_file(folder / f"{attention}.safetensors", attention=attention)
        for attention in (True, False)
    }


@pytest.fixture(scope="module")
def serve(models):
    """Start a server for a model; return its address."""
    running = []

    def start(attention=True):
        command = [sys.executable, "-m", "captioner", "serve", "--model", str(models[attention]), "--beam", "8"]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        running.append(process)
        return process.stdout.readline().strip()

    yield start
    for process in running:
        process.terminate()
        process.communicate(timeout=60)


@pytest.fixture(scope="module")
def address(serve):
    return serve()


@pytest.fixture
def visit(browser, address):
    """Open the page in a window of its own; it may log no problem and ask no other host."""
    contexts, complaints, requests, expected = [], [], [], []

    def open_page(at=address, **options):
        context = browser.new_context(**options)
        context.set_default_timeout(30_000)
        contexts.append(context)
        page = context.new_page()
        page.on("console", lambda message: complaints.append(message.text))
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("request", lambda request: requests.append(request.url))
        page.goto(at)
        expected.append(at)
        return page

    yield open_page
    for context in contexts:
        context.close()
    refusals = re.compile(r"Failed to load resource: .* status of 415|Canvas2D: Multiple readback")
    assert [text for text in complaints if not refusals.match(text)] == []
    assert [url for url in requests if not url.startswith((*expected, "blob:", "data:"))] == []


def photo(name="dog.png", data=None, kind="image/png", size=0):
    """Return a file for DROP."""
    return [name, kind, base64.b64encode(noise() if data is None else data).decode(), size]


def drop(page, *files, how="drop"):
    page.evaluate(DROP, [list(files), how])


def captioned(page, count=1):
    """Wait until so many captions are there; return the cards."""
    page.wait_for_function("count => document.querySelectorAll('.card:not(.busy)').length === count", arg=count)
    return page.locator(".card")


def caption_of(card):
    return card.locator(".caption").inner_text().removesuffix("(end)").strip()


@pytest.fixture(scope="module")
def wanted(models):
    """What the page has to show of `noise()`."""
    return describe_photo(PhotoCaptioner(models[True]), noise(), beam=8)


@pytest.mark.parametrize("how", ["drop", "paste", "choose", "camera"])
def test_a_photo_gets_its_caption(visit, wanted, how):
    page = visit()
    if how in ("drop", "paste"):
        drop(page, photo(), how=how)
    else:
        page.set_input_files(f"#{how}-input", {"name": "dog.png", "mimeType": "image/png", "buffer": noise()})
    card = captioned(page).first
    assert caption_of(card) == wanted["caption"]
    assert card.locator(".name").inner_text() == "dog.png"
    assert card.locator("img").evaluate("image => image.naturalWidth") == 120
    assert wanted["caption"] in page.locator("#announcement").text_content()
    rows = card.locator("tbody tr")
    assert [text.removesuffix(" (chosen)") for text in rows.locator("th").all_text_contents()] == [
        beam["caption"] or "(no word)" for beam in wanted["beams"]
    ]
    assert rows.first.locator("td").first.inner_text() == f"{wanted['beams'][0]['score']:.2f}".replace("-", MINUS)
    assert rows.locator("visible=true").count() == 5
    card.locator(".more").click()
    assert rows.locator("visible=true").count() == 8
    card.locator(".similar summary").click()
    shown = card.locator(".similar ol > li")
    assert [item.locator("li").all_inner_texts() for item in shown.all()] == [
        one["captions"] for one in wanted["similar"][:5]
    ]


def veil_of(page):
    """Return the opacity of each place of the grid, 0 to 255."""
    return page.evaluate("""() => {
        const veil = document.querySelector("canvas");
        const pixels = veil.getContext("2d").getImageData(0, 0, veil.width, veil.height).data;
        return [...pixels].filter((_, at) => at % 4 === 3);
    }""")


def test_pointing_at_a_word_shows_where_the_model_looked(visit, wanted):
    page = visit()
    drop(page, photo())
    card = captioned(page).first
    words = card.locator(".word")
    assert words.count() == len(wanted["tokens"])
    for at, grid in enumerate(wanted["attention"]):
        words.nth(at).hover()
        cells = [cell for row in grid for cell in row]
        opacity = veil_of(page)
        assert opacity.index(min(opacity)) == cells.index(max(cells))
        assert opacity == pytest.approx([255 * 0.82 * (1 - cell / max(cells)) for cell in cells], abs=2)
        assert f"{wanted['tokens'][at].strip() or '(end)'}: most at the" in card.locator(".share").inner_text()
    boxes = [page.locator(place).bounding_box() for place in (".frame canvas", ".frame img")]
    assert boxes[0] == pytest.approx(boxes[1], abs=1)
    page.mouse.move(1, 1)
    assert page.locator("canvas").count() == 0


def test_the_keyboard_reaches_everything(visit, wanted):
    page = visit()
    page.on("filechooser", lambda chooser: None)  # from now on choosers come to the test, before the key is pressed
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.id") == "choose"
    with page.expect_file_chooser() as chosen:
        page.keyboard.press("Enter")
    chosen.value.set_files({"name": "dog.png", "mimeType": "image/png", "buffer": noise()})
    captioned(page)
    for _ in range(5):
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement.className.startsWith('word')"):
            break
    assert page.locator(".word.looking").inner_text() == wanted["tokens"][0]
    assert page.locator("canvas").count() == 1
    page.keyboard.press("ArrowRight")
    assert page.locator(".word.looking").get_attribute("data-token") == "1"
    page.keyboard.press("End")
    assert page.locator(".word.looking").get_attribute("data-token") == str(len(wanted["tokens"]) - 1)
    page.keyboard.press("Escape")
    assert page.locator("canvas").count() == 0
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.className") == "copy"
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    assert page.locator(".card").count() == 0
    assert page.evaluate("document.activeElement.id") == "choose"


def test_the_arrow_keys_show_a_word_after_a_click_too(visit):
    page = visit()
    drop(page, photo())
    captioned(page)
    page.evaluate("""() => { // as Firefox after a click
        const matches = Element.prototype.matches;
        Element.prototype.matches = function (selector) {
            return selector !== ":focus-visible" && matches.call(this, selector);
        };
    }""")
    page.locator(".word").first.click()
    page.keyboard.press("ArrowRight")
    assert page.locator(".word.looking").get_attribute("data-token") == "1"
    assert page.locator("canvas").count() == 1


def test_small_probabilities_are_percentages_too(visit, wanted):
    values = [0.62, 0.049, 0.0041, 0.00083, 0.000012, 1e-12]
    beams = [{**beam, "probability": value} for beam, value in zip(wanted["beams"], values, strict=False)]
    page = visit()
    page.route("**/caption", lambda route: route.fulfill(json={**wanted, "beams": beams}))
    drop(page, photo())
    shown = captioned(page).first.locator("tbody tr td:last-child").all_text_contents()
    figures = ["62", "4.9", "0.4", "0.08", "0.001", "< 0.000001"]
    assert shown == [f"{figure}\N{NO-BREAK SPACE}%" for figure in figures]


def test_a_broken_photo_and_a_large_one_say_so_and_others_go_on(visit, wanted):
    page = visit()
    drop(
        page,
        photo("broken.png", b"no photo"),
        photo("large.jpg", b"", "image/jpeg", 30 * 2**20),
        photo("<b>good</b>.png"),
    )
    cards = captioned(page, 3)
    assert "not a photo that can be read" in caption_of(cards.nth(0)).lower()
    assert "larger than 20 MB" in caption_of(cards.nth(1))
    assert caption_of(cards.nth(2)) == wanted["caption"]
    assert cards.nth(2).locator(".name").inner_text() == "<b>good</b>.png"
    assert page.locator(".card.failed .beams:visible").count() == 0


def test_a_photo_that_the_browser_cannot_show_is_shown_as_the_model_sees_it(visit):
    page = visit()
    drop(page, photo("scan.tif", encoded(Image.new("RGB", (120, 90), "red"), "TIFF"), "image/tiff"))
    card = captioned(page).first
    page.wait_for_function("() => document.querySelector('.card img').naturalWidth === 64")
    assert caption_of(card)
    assert card.locator("img").is_visible()


DROP_FOLDER = """async (names) => { // a browser gives the entries of a folder in parts and in any order
    const file = (name) => ({
        isFile: true, name, file: (give) => give(new File(["no photo"], name, { type: "image/png" })),
    });
    const parts = names.map((part) => part.map(file));
    const folder = { isDirectory: true, createReader: () => ({ readEntries: (give) => give(parts.shift() ?? []) }) };
    const event = new Event("drop", { bubbles: true, cancelable: true });
    event.dataTransfer = { types: ["Files"], items: [{ webkitGetAsEntry: () => folder }], files: [] };
    document.body.dispatchEvent(event);
}"""


def test_a_folder_gives_its_photos_in_order_and_counts_other_files(visit, tmp_path):
    page = visit()
    for number in (10, 2, 1):
        (tmp_path / f"{number}.png").write_bytes(noise(seed=number))
    (tmp_path / "notes.txt").write_text("no photo")
    page.evaluate("""() => { // in the order of a disk, which differs between computers
        const input = document.getElementById("folder-input");
        const files = Object.getOwnPropertyDescriptor(HTMLInputElement.prototype, "files");
        const place = (file) => ["2.png", "10.png", "notes.txt", "1.png"].indexOf(file.name);
        Object.defineProperty(input, "files", {
            get: () => [...files.get.call(input)].sort((a, b) => place(a) - place(b)),
        });
    }""")
    page.set_input_files("#folder-input", tmp_path)
    cards = captioned(page, 3)
    names = ["1.png", "2.png", "10.png"]
    assert cards.locator(".name").all_inner_texts() == [f"{tmp_path.name}/{name}" for name in names]
    assert "left out 1 file" in page.locator("#progress").inner_text()


def test_a_dropped_folder_gives_its_photos_in_order(visit):
    page = visit()
    page.evaluate(DROP_FOLDER, [["10.png", "3.png"], ["2.png", "1.png"]])
    cards = captioned(page, 4)
    assert cards.locator(".name").all_inner_texts() == ["1.png", "2.png", "3.png", "10.png"]


def test_an_empty_folder_says_so(visit):
    page = visit()
    page.evaluate(DROP_FOLDER, [])
    page.locator("#progress").wait_for()
    assert page.locator("#progress").inner_text() == "there was no photo"
    drop(page, photo())
    captioned(page)
    assert page.locator("#progress").is_hidden()


def test_two_windows_at_once_get_their_own_captions(visit, models):
    describe = PhotoCaptioner(models[True])
    seeds = ([1, 2, 3], [4, 5, 6])
    pages = [visit(), visit()]
    for page, numbers in zip(pages, seeds, strict=True):
        drop(page, *(photo(f"{number}.png", noise(seed=number)) for number in numbers))
    for page, numbers in zip(pages, seeds, strict=True):
        cards = captioned(page, 3)
        assert [caption_of(card) for card in cards.all()] == [
            describe_photo(describe, noise(seed=number), beam=8)["caption"] for number in numbers
        ]


def test_a_phone_shows_everything_in_its_width(visit, wanted):
    page = visit(**PHONE)
    assert page.locator("#camera").is_visible()
    assert page.locator("#camera-input").get_attribute("capture") == "environment"
    drop(page, photo())
    card = captioned(page).first
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    card.locator(".word").first.tap()
    assert page.locator("canvas").count() == 1
    photo_box, word = card.locator(".photo").bounding_box(), card.locator(".word").first.bounding_box()
    assert photo_box["y"] + photo_box["height"] <= word["y"]
    page.locator("h1").tap()
    assert page.locator("canvas").count() == 0
    for button in page.locator("button:visible:not(.word)").all():
        assert button.bounding_box()["height"] >= 36


def test_a_model_without_attention_says_so(visit, serve):
    page = visit(serve(attention=False))
    drop(page, photo())
    card = captioned(page).first
    assert "has no attention" in card.locator(".notes").inner_text()
    assert card.locator(".word").count() == 0
    assert caption_of(card)


def test_another_site_gets_nothing(visit, browser, address):
    context = browser.new_context()
    page = context.new_page()
    page.route("http://evil.example/", lambda route: route.fulfill(body="<p>", content_type="text/html"))
    page.goto("http://evil.example/")
    post = """async (url) => {
        try { return (await fetch(url, { method: "POST", body: "x" })).status; } catch (error) { return error.name; }
    }"""
    assert page.evaluate(post, f"{address}caption") == "TypeError"
    silent = "async (url) => (await fetch(url, { method: 'POST', mode: 'no-cors', body: 'x' }).catch((e) => e)).type"
    assert page.evaluate(silent, f"{address}caption") in ("opaque", None)
    context.close()
