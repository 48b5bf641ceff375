"""`captioner serve` without a browser: what POST /caption answers, and whom the server answers."""

import asyncio
import json
import signal
import socket
import subprocess
import sys
import threading
import urllib.error
import urllib.request

import numpy as np
import pytest
import torch
from PIL import Image

from captioner.captions.vocabulary import EOS, Vocabulary
from captioner.model.captioner import without_examples
from captioner.use.caption import PhotoCaptioner
from captioner.use.cli import main
from captioner.use.description import NO_ATTENTION, NO_CAPTIONS, NO_WEIGHT, _pieces, describe_photo
from captioner.use.options import CONSENSUS
from captioner.vision.photos import load_photo
from tests.support.worlds import captioner_file, encoded

starlette = pytest.importorskip("starlette.testclient", reason="needs the extra `serve`")
import captioner.use.server  # noqa: E402
from captioner.base.errors import CaptionerError  # noqa: E402
from captioner.use.server import LARGEST, WAITING, make_app  # noqa: E402

ADDRESS = "http://127.0.0.1:8000"
FORM = "multipart/form-data; boundary=x"


def noise(width=120, height=90, seed=4):
    """Return the bytes of a PNG that random models have different captions for."""
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return encoded(Image.fromarray(pixels))


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    with_attention = captioner_file(folder / "attention.safetensors")
    without_examples(with_attention, folder / "shared.safetensors")
    return {
        "attention": PhotoCaptioner(with_attention),
        "pooled": PhotoCaptioner(captioner_file(folder / "pooled.safetensors", attention=False)),
        "shared": PhotoCaptioner(folder / "shared.safetensors"),
    }


@pytest.fixture
def client(models):
    """A client of a server with the model that has everything."""
    return client_of(lambda photo, preview: describe_photo(models["attention"], photo, beam=4, preview=preview))


def client_of(describe, address=ADDRESS, **options):
    """Return a client of a server with `describe`."""
    return starlette.TestClient(make_app(describe, **options), base_url=address, raise_server_exceptions=False)


def part(content, name="photo", filename="dog.png"):
    """Return a form with one file."""
    return (
        f'--x\r\nContent-Disposition: form-data; name="{name}"; filename="{filename}"\r\n\r\n'.encode()
        + content
        + b"\r\n--x--\r\n"
    )


def problem(response):
    """Return the message of an answer that is an error."""
    assert response.headers["content-type"] == "application/json"
    answer = response.json()
    assert list(answer) == ["error"]
    return answer["error"]


# The description of a photo


def test_the_description_is_that_of_the_other_commands(models, tmp_path):
    (tmp_path / "dog.png").write_bytes(noise())
    result = describe_photo(models["attention"], noise(), beam=4)
    ((_, ranked),) = models["attention"].ranked([tmp_path / "dog.png"], beam=4, top=4)
    assert result["caption"] == ranked[0].text
    assert [beam["caption"] for beam in result["beams"]] == [caption.text for caption in ranked]
    for beam, caption in zip(result["beams"], ranked, strict=True):
        assert beam["score"] == pytest.approx(caption.score, abs=1e-4)
        assert beam["agreement"] == pytest.approx(caption.agreement, abs=1e-4)
        assert beam["total"] == pytest.approx(caption.score + CONSENSUS * caption.agreement, abs=1e-3)
        assert 0 < beam["probability"] < 1
    assert result["notes"] == []
    json.dumps(result, allow_nan=False)


@pytest.mark.parametrize("length_penalty", [0.0, 0.5, 1.0])
def test_score_and_probability_do_not_depend_on_the_length_penalty(models, length_penalty):
    plain = {beam["caption"]: beam for beam in describe_photo(models["attention"], noise(), beam=6)["beams"]}
    result = describe_photo(models["attention"], noise(), beam=6, length_penalty=length_penalty)["beams"]
    same = [beam for beam in result if beam["caption"] in plain]
    assert same
    for beam in same:
        assert beam["score"] == pytest.approx(plain[beam["caption"]]["score"], abs=1e-4)
        assert beam["probability"] == pytest.approx(plain[beam["caption"]]["probability"], rel=1e-3)


@pytest.mark.parametrize(
    "option", [{"beam": 0}, {"length_penalty": 400}, {"consensus": float("nan")}, {"consensus": float("inf")}], ids=str
)
def test_an_option_out_of_range_is_named(models, option):
    with pytest.raises(CaptionerError, match=rf"{next(iter(option))}: is .*, expected"):
        describe_photo(models["attention"], noise(), **option)


def test_the_command_refuses_an_option_out_of_range_before_it_listens(capsys):
    assert main(["serve", "--model", "none.safetensors", "--length-penalty", "400"]) == 1
    assert "error: length_penalty: is 400.0, expected at most 10" in capsys.readouterr().err


def test_each_token_is_shown_once_where_more_words_change_the_spaces():
    vocabulary = Vocabulary(("no", ".", "5", "dogs"), 9)  # "no." before a number is one token
    assert [vocabulary.decode([4, 5]), vocabulary.decode([4, 5, 6])] == ["no.", "no . 5"]
    assert _pieces(vocabulary, [4, 5, 6, 7, EOS]) == ["no", " .", " 5", " dogs", ""]


def test_the_tokens_are_the_caption_and_each_has_a_grid_that_sums_to_one(models):
    result = describe_photo(models["attention"], noise(), beam=4)
    assert "".join(result["tokens"]) == result["caption"]
    grids = np.array(result["attention"])
    assert grids.shape == (len(result["tokens"]), 2, 2)  # 64 pixels, of which a place of layer4 sees 32
    np.testing.assert_allclose(grids.sum((1, 2)), 1, atol=1e-4)


def test_the_similar_images_are_the_nearest_with_their_captions(models):
    describe = models["attention"]
    result = describe_photo(describe, noise())["similar"]
    pixels = torch.tensor(load_photo(noise(), **describe.card.image)[None])
    features = describe.captioner.features(pixels).mean(1).detach().numpy()
    (near,), (shares,) = describe.consensus.nearest(features)
    examples = describe.captioner.examples.captions
    assert [one["share"] for one in result] == pytest.approx(shares.tolist(), abs=1e-4)
    for one, place in zip(result, near, strict=True):
        assert one["captions"] == [
            describe.card.vocabulary.decode(caption) for caption in examples[place].tolist() if any(caption)
        ]


def test_a_model_that_lacks_something_works_and_says_so(models):
    pooled = describe_photo(models["pooled"], noise())
    assert pooled["attention"] is None
    assert pooled["notes"] == [NO_ATTENTION]
    assert "".join(pooled["tokens"]) == pooled["caption"]
    assert pooled["similar"]

    shared = describe_photo(models["shared"], noise(), beam=4)
    likeliest = describe_photo(models["attention"], noise(), beam=4, consensus=0.0)
    assert shared["similar"] is None
    assert {beam["agreement"] for beam in shared["beams"]} == {None}
    assert shared["notes"] == [NO_CAPTIONS]
    assert likeliest["notes"] == [NO_WEIGHT]
    assert [beam["caption"] for beam in shared["beams"]] == [beam["caption"] for beam in likeliest["beams"]]


def test_the_photo_is_measured_upright_and_a_preview_is_what_the_model_sees(models):
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by a quarter
    turned = encoded(Image.new("RGB", (80, 40), "red"), "JPEG", exif=exif)
    result = describe_photo(models["attention"], turned, preview=True)["photo"]
    assert (result["width"], result["height"], result["fit"]) == (40, 80, "squash")
    assert result["preview"].startswith("data:image/jpeg;base64,")
    assert "preview" not in describe_photo(models["attention"], turned)["photo"]


@pytest.mark.parametrize("data", [b"no photo", noise()[:2000], b"<svg xmlns='http://www.w3.org/2000/svg'/>"])
def test_a_broken_photo_is_an_error(models, data):
    with pytest.raises(CaptionerError, match="not a photo that can be read"):
        describe_photo(models["attention"], data)


# POST /caption


def test_a_photo_is_the_body_or_a_form_field(client, models):
    wanted = describe_photo(models["attention"], noise(), beam=4)
    assert client.post("/caption", content=noise()).json() == wanted
    urlencoded = {"content-type": "application/x-www-form-urlencoded"}  # what curl --data-binary says
    assert client.post("/caption", content=noise(), headers=urlencoded).json() == wanted
    assert client.post("/caption", files={"photo": ("dog.png", noise())}).json() == wanted
    answer = client.post("/caption?preview", content=noise())
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "application/json"
    assert answer.json()["photo"].pop("preview")


@pytest.mark.parametrize(
    ("content", "kind", "status", "message"),
    [
        (b"", "image/png", 400, "no photo; send its bytes"),
        (b"no photo", "image/png", 415, "not a photo that can be read"),
        (noise()[:2000], "image/png", 415, "not a photo that can be read"),
        (part(b"no photo"), FORM, 415, "not a photo that can be read"),
        (part(b""), FORM, 400, "no photo"),
        (part(noise(), name="other"), FORM, 400, "no file in the field `photo`"),
        (b'--x\r\nContent-Disposition: form-data; name="photo"\r\n\r\ntext\r\n--x--\r\n', FORM, 400, "no file in the"),
        (part(noise())[:-7] + part(noise()), FORM, 400, "Too many files"),
        (noise(), FORM, 400, "the form cannot be read"),
        (noise(), "multipart/form-data", 400, "the form cannot be read"),
        (b"x" * (LARGEST + 1), "image/png", 413, "the photo is larger than 20 MB"),
        (part(b"x" * (LARGEST + 1)), FORM, 413, "the photo is larger than 20 MB"),
        (b"x" * (30 * 2**20), "image/png", 413, "the photo is larger than 20 MB"),
        (b"x" * LARGEST, "image/png", 415, "not a photo that can be read"),
        (part(b"x" * LARGEST), FORM, 415, "not a photo that can be read"),
    ],
)
def test_what_cannot_be_captioned_is_an_error_in_json(client, content, kind, status, message):
    answer = client.post("/caption", content=content, headers={"content-type": kind})
    assert message in problem(answer)
    assert answer.status_code == status


def test_a_body_without_a_length_is_cut_off_too(client):
    def endless():
        for _ in range(30):
            yield b"x" * 2**20

    answer = client.post("/caption", content=endless())
    assert (answer.status_code, problem(answer)[:22]) == (413, "the photo is larger th")


def test_other_paths_and_methods_are_errors_in_json(client):
    for path in (
        "/page",
        "/caption/",
        "/../pyproject.toml",
        "/%2e%2e/%2e%2e/etc/passwd",
        "/page/page.html",
        "//etc/passwd",
    ):
        answer = client.get(path)
        assert answer.status_code == 404
        assert "POST /caption" in problem(answer)
    for method, path, allowed in (("GET", "/caption", "POST"), ("POST", "/", "GET"), ("DELETE", "/page.js", "GET")):
        answer = client.request(method, path)
        assert answer.status_code == 405
        assert allowed in answer.headers["allow"]
        assert f"{method} is not a method of {path}" in problem(answer)
    assert client.options("/caption").status_code == 405  # no preflight succeeds


def test_a_failure_is_an_error_in_json_and_the_next_photo_is_captioned():
    answers = iter([ZeroDivisionError("secret"), {"caption": "a dog"}])

    def describe(photo, preview):
        answer = next(answers)
        if isinstance(answer, Exception):
            raise answer
        return answer

    client = client_of(describe)
    failed = client.post("/caption", content=b"x")
    assert failed.status_code == 500
    assert "secret" not in problem(failed)
    assert failed.headers["content-security-policy"]
    assert client.post("/caption", content=b"x").json() == {"caption": "a dog"}


def call(app, body=b"x", more=False):
    """Return the coroutine of one POST /caption; its result is the status and the body."""

    async def answer():
        sent, body_left = [], [{"type": "http.request", "body": body, "more_body": more}]

        async def receive():
            if body_left:
                return body_left.pop()
            await asyncio.sleep(60)
            return {"type": "http.disconnect"}

        async def send(message):
            sent.append(message)

        scope = {
            "type": "http",
            "asgi": {"version": "3.0"},
            "http_version": "1.1",
            "method": "POST",
            "path": "/caption",
        }
        scope |= {"raw_path": b"/caption", "query_string": b"", "scheme": "http", "headers": [(b"host", b"localhost")]}
        await app(scope | {"root_path": "", "client": None, "server": None}, receive, send)
        return sent[0]["status"], b"".join(message.get("body", b"") for message in sent)

    return answer()


def test_photos_are_computed_one_at_a_time_in_order_and_too_many_are_refused():
    inside, most, order = [], [], []
    go = threading.Event()

    def describe(photo, preview):
        inside.append(photo)
        most.append(len(inside))
        assert go.wait(30)
        inside.pop()
        order.append(photo)
        return {"caption": photo.decode()}

    app = make_app(describe)

    async def run():
        tasks = []
        for number in range(WAITING):
            tasks.append(asyncio.create_task(call(app, b"%d" % number)))
            await asyncio.sleep(0)
        await asyncio.sleep(0.05)
        refused = await call(app)
        go.set()
        return refused, await asyncio.gather(*tasks), await call(app, b"last")

    refused, answers, last = asyncio.run(run())
    assert refused[0] == 503
    assert "try again" in json.loads(refused[1])["error"]
    assert [(status, json.loads(body)["caption"]) for status, body in answers] == [
        (200, str(number)) for number in range(WAITING)
    ]
    assert last[0] == 200
    assert set(most) == {1}
    assert order == [b"%d" % number for number in range(WAITING)] + [b"last"]


def test_a_photo_that_does_not_arrive_makes_room_for_others(monkeypatch):
    monkeypatch.setattr(captioner.use.server, "PATIENCE", 0.1)
    app = make_app(lambda photo, preview: {"caption": "a dog"})

    async def run():
        slow = await asyncio.gather(*(call(app, more=True) for _ in range(WAITING)))
        return slow, await call(app)

    slow, good = asyncio.run(run())
    assert {status for status, _ in slow} == {408}
    assert "did not arrive" in json.loads(slow[0][1])["error"]
    assert good[0] == 200


# Other web sites


@pytest.mark.parametrize(
    ("host", "loopback", "answered"),
    [
        ("127.0.0.1:8000", True, True),
        ("localhost:8000", True, True),
        ("LOCALHOST", True, True),
        ("[::1]:8000", True, True),
        ("evil.example:8000", True, False),  # a name that points here by DNS rebinding
        ("127.0.0.1.evil.example", True, False),
        ("localhost.evil.example", True, False),
        ("192.168.1.5:8000", True, False),
        ("", True, False),
        ("192.168.1.5:8000", False, True),
        ("attic.local:8000", False, True),
        ("evil.example:8000", False, False),
    ],
)
def test_only_names_of_this_machine_are_answered(host, loopback, answered):
    client = client_of(lambda photo, preview: {}, names=["attic.local"] * (not loopback), loopback=loopback)
    for method, path in (("GET", "/"), ("POST", "/caption"), ("GET", "/none")):
        answer = client.request(method, path, headers={"host": host}, content=b"x" if method == "POST" else None)
        assert (answer.status_code != 403) == answered
        if not answered:
            assert "does not answer to the name" in problem(answer)


@pytest.mark.parametrize(
    ("headers", "answered"),
    [
        ({}, True),  # a script
        ({"origin": ADDRESS, "sec-fetch-site": "same-origin"}, True),
        ({"origin": "https://evil.example"}, False),
        ({"origin": "null"}, False),
        ({"origin": "http://127.0.0.1:9000", "sec-fetch-site": "same-site"}, False),  # another server of this machine
        ({"origin": "http://localhost:8000"}, False),
        ({"sec-fetch-site": "cross-site"}, False),
    ],
)
def test_a_browser_may_post_from_the_page_alone(headers, answered):
    seen = []
    answer = client_of(lambda photo, preview: seen.append(photo) or {}).post("/caption", content=b"x", headers=headers)
    assert answer.status_code == (200 if answered else 403)
    assert seen == ([b"x"] if answered else [])
    assert "access-control-allow-origin" not in answer.headers
    if not answered:
        assert "another web site" in problem(answer)


def test_every_answer_has_the_policy(client):
    for answer in (client.get("/"), client.get("/page.js"), client.get("/none"), client.post("/caption", content=b"x")):
        policy = dict(rule.strip().split(" ", 1) for rule in answer.headers["content-security-policy"].split(";"))
        assert policy["default-src"] == "'none'"
        assert policy["script-src"] == policy["style-src"] == policy["connect-src"] == "'self'"
        assert "unsafe" not in answer.headers["content-security-policy"]
        assert answer.headers["x-content-type-options"] == "nosniff"
    assert client.get("/").headers["content-type"] == "text/html; charset=utf-8"
    assert client.head("/").status_code == 200


# The command


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return captioner_file(tmp_path_factory.mktemp("model") / "model.safetensors")


def test_the_command_prints_where_it_serves_and_ends_by_ctrl_c(model, tmp_path):
    command = [sys.executable, "-m", "captioner", "serve", "--model", str(model), "--beam", "3"]
    with subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            address = process.stdout.readline().strip()
            assert address.startswith("http://127.0.0.1:")
            answer = urllib.request.urlopen(urllib.request.Request(f"{address}caption", noise()), timeout=60)
            answered = json.load(answer)
            assert answered["search"]["beam"] == 3
            with pytest.raises(urllib.error.HTTPError) as refused:
                urllib.request.urlopen(urllib.request.Request(f"{address}caption", b"x" * (30 * 2**20)), timeout=60)
            assert refused.value.code == 413
        finally:
            process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=60)
    assert process.returncode == 0
    assert (out, err) == ("", "Ctrl-C ends it\n")
    assert list(tmp_path.iterdir()) == []


def test_wrong_calls_are_said(model, capsys):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert main(["serve", "--model", str(model), "--port", str(port)]) == 1
    assert capsys.readouterr().err == f"error: --port {port}: in use; give another port, or none for any free one\n"
    assert main(["serve", "--model", str(model), "--host", "192.0.2.1"]) == 1
    assert "--host 192.0.2.1: is no address of this machine" in capsys.readouterr().err
    assert main(["serve", "--model", "none.safetensors"]) == 1
    assert "none.safetensors: not found" in capsys.readouterr().err
    for port in ("-1", "65536", "x"):
        with pytest.raises(SystemExit) as ended:
            main(["serve", f"--port={port}"])
        assert ended.value.code == 2
        assert "expected a whole number from 0 to 65535" in capsys.readouterr().err


def test_a_missing_extra_is_said(model, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    assert main(["serve", "--model", str(model)]) == 1
    assert "pip install 'captioner[serve]'" in capsys.readouterr().err


def test_beyond_this_machine_there_is_a_warning(model, monkeypatch, capsys):
    uvicorn = pytest.importorskip("uvicorn")
    monkeypatch.setattr(uvicorn.Server, "run", lambda server, sockets: None)
    assert main(["serve", "--model", str(model)]) == 0
    assert "warning" not in capsys.readouterr().err
    assert main(["serve", "--model", str(model), "--host", "0.0.0.0"]) == 0
    printed = capsys.readouterr()
    assert printed.out.startswith("http://127.0.0.1:")
    assert "warning: whoever can reach" in printed.err
