"""Downloads against a server on 127.0.0.1 that misbehaves on request."""

import hashlib
import json
import logging
import os
import random
import re
import runpy
import subprocess
import sys
import tempfile
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from captioner.base.errors import CaptionerError
from captioner.sources import download
from captioner.sources.download import CHUNK, OFFICIAL, Official, fetch, obtain

ROOT = Path(__file__).parents[2]
CONTENT = random.Random(1).randbytes(5 * CHUNK + 123)
MD5 = hashlib.md5(CONTENT).hexdigest()
FAST = {"timeout": (2.0, 0.2), "attempts": 3, "pause": 0.0}
NAME = "Flickr8k_text.zip"


class Server(ThreadingHTTPServer):
    """Plays `plan`, one behaviour a request (then `normal`), for the files in `files`; logs the ranges."""

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.files = {}
        self.plan = []
        self.log = []  # (path, first byte asked for)
        self.release = threading.Event()

    def url(self, path="file.zip"):
        return f"http://127.0.0.1:{self.server_address[1]}/{path}"

    def handle_error(self, request, client_address):
        pass  # a client that leaves early is part of the game


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def do_GET(self):
        match = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
        start = int(match[1]) if match else 0
        self.server.log.append((self.path, start))
        how = self.server.plan.pop(0) if self.server.plan else "normal"
        body = self.server.files.get(self.path.rsplit("/", 1)[-1])
        self.close_connection = True
        if how.isdigit():
            return self.answer(int(how), b"<html>sorry</html>", type="text/html")
        if body is None:
            return self.answer(404, b"")
        size = len(body)
        if how == "html":
            return self.answer(200, b"<html>please log in</html>", type="text/html; charset=utf-8")
        if how == "redirect":
            return self.answer(302, b"", location=f"/elsewhere{self.path}")
        if how == "loop":
            self.server.plan.append("loop")
            return self.answer(302, b"", location=self.path)
        if how == "long":
            return self.answer(200, body, length=size + 1000)
        if how == "short":
            return self.answer(200, body, length=size - 1000)
        if how == "nolength":
            return self.answer(200, body, length=None)
        if how in ("ignore", "ignore-cut"):
            return self.answer(200, body if how == "ignore" else body[: size // 2], length=size)
        if start >= size:
            return self.answer(416, b"", range=f"bytes */{size}")
        rest = body[start:]
        if how == "small":  # fewer bytes than were asked for, which a server may do
            rest = rest[: CHUNK + 7]
        shift = 10 if how == "shifted" else 0
        status = 206 if match else 200
        if status == 200 and how == "small":
            rest = body
        span = f"bytes {start + shift}-{start + len(rest) - 1}/{size}" if match else None
        sent = rest[: max(len(rest) // 2, 1)] if how in ("cut", "stall") else rest
        self.answer(status, sent, length=len(rest), range=span)
        if how == "stall":
            self.server.release.wait(5)
        return None

    def answer(self, status, body, *, length="", type="application/zip", location=None, range=None):
        self.send_response(status)
        headers = {
            "Content-Type": type,
            "Content-Length": len(body) if length == "" else length,
            "Location": location,
            "Content-Range": range,
            "Connection": "close",
        }
        for key, value in headers.items():
            if value is not None:
                self.send_header(key, str(value))
        self.end_headers()
        self.wfile.write(body)
        self.wfile.flush()


@pytest.fixture(scope="module")
def running():
    server = Server()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    yield server
    server.release.set()
    server.shutdown()
    server.server_close()


@pytest.fixture(autouse=True)
def _surroundings(monkeypatch, tmp_path):
    monkeypatch.delenv("CAPTIONER_MIRROR", raising=False)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def server(running):
    running.files = {"file.zip": CONTENT}
    running.plan, running.log = [], []
    yield running
    running.release.set()  # lets a stalled answer end
    running.release = threading.Event()


@pytest.fixture
def goal(tmp_path):
    return tmp_path / "data" / "raw" / "file.zip"


def part(name="file.zip"):
    return Path(".resume/downloads") / f"{name}.part"


def get(server, goal, expected=MD5, **options):
    fetch("file.zip", server.url(), goal, expected=expected, **(FAST | options))


def assert_only(goal):
    assert goal.read_bytes() == CONTENT
    assert [path.name for path in goal.parent.iterdir()] == [goal.name]
    assert not part().exists()


def assert_nothing(goal):
    assert not goal.parent.exists() or list(goal.parent.iterdir()) == []


# one file from one address


@pytest.mark.parametrize(
    ("plan", "starts"),
    [
        (["normal"], [0]),
        (["nolength"], [0]),
        (["redirect"], [0, 0]),
        (["503", "429", "normal"], [0, 0, 0]),
        (["cut", "normal"], [0, "kept"]),
        (["cut", "500", "normal"], [0, "kept", "kept"]),
        (["cut", "redirect", "normal"], [0, "kept", "kept"]),
        (["stall", "normal"], [0, "kept"]),
        (["cut", "ignore"], [0, "kept"]),
        (["cut", "shifted", "normal"], [0, "kept", 0]),
        (["cut", "416", "normal"], [0, "kept", 0]),
        (["cut", "small", "small", "normal"], [0, "kept", "kept", "kept"]),
        (["long", "normal"], [0, "kept"]),  # all came, the declared length was too large: the sum decides
    ],
    ids=lambda value: "-".join(map(str, value)),
)
def test_arrives_whole(server, goal, plan, starts):
    server.plan = list(plan)
    get(server, goal)
    assert_only(goal)
    starts_asked = [start for _, start in server.log]
    assert ["kept" if start else 0 for start in starts_asked] == starts
    assert starts_asked == sorted(starts_asked) or 0 in starts[1:]  # never asks again for what it has


@pytest.mark.parametrize(
    ("plan", "says"),
    [
        (["404"], "404"),
        (["403"], "403"),
        (["500"] * 3, "500"),
        (["html"], "web page"),
        (["ignore-cut"] * 4, r"cut at \d+ bytes \(after 3 attempts\)"),
        (["long"] * 4, r"cut at \d+ bytes"),
        (["short"], "md5 is"),
        (["loop"], "redirects"),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
def test_fails_with_address_and_advice(server, goal, plan, says):
    server.plan = list(plan)
    with pytest.raises(CaptionerError, match=says) as caught:
        get(server, goal)
    server.plan = []
    assert server.url() in str(caught.value)
    assert "CAPTIONER_MIRROR" in str(caught.value)
    assert all(name in str(caught.value) for name in [*OFFICIAL, "MD5SUMS"])
    assert_nothing(goal)


def test_stalls_end_after_the_attempts(server, goal):
    server.plan = ["stall", *["500"] * 3]
    with pytest.raises(CaptionerError, match=r"after 3 attempts.*bytes are kept; run again"):
        get(server, goal)
    assert_nothing(goal)
    assert CONTENT.startswith(part().read_bytes())


def test_progress_renews_the_attempts(server, goal):
    server.plan = ["cut"] * 3  # each brings half of the rest
    get(server, goal, attempts=1)
    assert_only(goal)


def test_next_run_goes_on_where_the_last_one_ended(server, goal):
    server.plan = ["cut", "404"]
    with pytest.raises(CaptionerError):
        get(server, goal)
    size = part().stat().st_size
    assert 0 < size < len(CONTENT)
    assert_nothing(goal)
    get(server, goal)
    assert server.log[-1] == ("/file.zip", size)
    assert_only(goal)


def test_interruption_keeps_what_came(server, goal, monkeypatch):
    server.plan = ["cut"]
    monkeypatch.setattr(download.time, "sleep", lambda _: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        get(server, goal)
    assert_nothing(goal)
    assert len(part().read_bytes()) > 0


@pytest.mark.parametrize("answer", ["404", "html", "500"])
def test_an_error_page_does_not_overwrite_what_came(server, goal, answer):
    part().parent.mkdir(parents=True)
    part().write_bytes(CONTENT[:1000])
    server.plan = [answer] * 3
    with pytest.raises(CaptionerError):
        get(server, goal)
    assert part().read_bytes() == CONTENT[:1000]


@pytest.mark.parametrize(
    "stale",
    [b"x" * 1000, CONTENT + b"x", CONTENT, b"x" * len(CONTENT)],
    ids=["other", "longer", "all", "same size"],
)
def test_a_left_over_piece_counts_only_if_the_sum_fits(server, goal, stale):
    part().parent.mkdir(parents=True)
    part().write_bytes(stale)
    get(server, goal)
    assert_only(goal)
    assert len(server.log) == (1 if stale == CONTENT else 2)


def test_wrong_checksum_deletes_what_came_and_names_both_sums(server, goal):
    with pytest.raises(CaptionerError) as caught:
        get(server, goal, expected="0" * 32)
    assert all(word in str(caught.value) for word in (server.url(), MD5, "0" * 32, "Run again"))
    assert_nothing(goal)
    assert not part().exists()
    assert len(server.log) == 1  # the same bytes again would not be better


def test_a_failure_leaves_the_old_file(server, goal):
    goal.parent.mkdir(parents=True)
    goal.write_bytes(b"old")
    with pytest.raises(CaptionerError):
        get(server, goal, expected="0" * 32)
    assert goal.read_bytes() == b"old"
    get(server, goal)
    assert_only(goal)


def test_checksum_may_be_a_beginning_and_of_another_algorithm(server, goal):
    get(server, goal, expected=hashlib.sha256(CONTENT).hexdigest()[:8], algorithm="sha256")
    assert_only(goal)


def test_other_file_system(server, goal, monkeypatch):
    real = os.replace

    def replace(old, new):
        if Path(old).suffix == ".part":
            raise OSError(download.errno.EXDEV, "cross-device link")
        real(old, new)

    monkeypatch.setattr(download.os, "replace", replace)
    get(server, goal)
    assert_only(goal)


@pytest.mark.parametrize("url", ["http://127.0.0.1:{closed}/file.zip", "http://", "nonsense"])
def test_no_server_and_no_address(goal, url):
    with Server() as closed:
        url = url.format(closed=closed.server_address[1])
    with pytest.raises(CaptionerError, match=rf"{re.escape(url)}.*CAPTIONER_MIRROR"):
        fetch("file.zip", url, goal, expected=MD5, **FAST)
    assert_nothing(goal)


FAULTS = [
    "cut",
    "ignore-cut",
    "ignore",
    "small",
    "shifted",
    "416",
    "500",
    "long",
    "short",
    "redirect",
    "normal",
]


@settings(max_examples=25, deadline=None)
@given(plan=st.lists(st.sampled_from(FAULTS), max_size=8), stale=st.sampled_from([b"", CONTENT[:999], b"x" * 99]))
def test_whatever_happens_the_file_is_right_or_absent(running, plan, stale):
    running.files, running.plan, running.log = {"file.zip": CONTENT}, list(plan), []
    with tempfile.TemporaryDirectory() as folder:
        goal, pieces = Path(folder) / "data" / "file.zip", Path(folder) / "pieces"
        pieces.mkdir()
        (pieces / "file.zip.part").write_bytes(stale)
        try:
            get(running, goal, partial_folder=pieces)
        except CaptionerError:
            assert_nothing(goal)
        else:
            assert goal.read_bytes() == CONTENT
            assert list(pieces.iterdir()) == []


# a file by its name: official or from a mirror


@pytest.fixture
def table(server):
    server.files = {NAME: CONTENT, "other.pth": b"weights"}
    weights = Official(server.url("other.pth"), "sha256", hashlib.sha256(b"weights").hexdigest()[:8])
    return {NAME: Official(server.url(NAME), "md5", MD5), "resnet18.pth": weights}


@pytest.fixture
def mirror(tmp_path):
    folder = tmp_path / "mirror"
    folder.mkdir()
    (folder / NAME).write_bytes(CONTENT)
    (folder / "MD5SUMS").write_text(f"{'0' * 32}  Flickr8k_Dataset.zip\n{MD5}  {NAME}\n")
    return folder


def warnings(caplog):
    return [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]


def test_official(table, goal, caplog):
    record = obtain(NAME, goal, official=table, **FAST)
    assert record == {"source": "official", "md5": MD5, "bytes": len(CONTENT), "official": True}
    assert_only(goal)
    weights = obtain("resnet18.pth", goal, official=table, **FAST)
    assert weights["official"]
    assert weights["md5"] == hashlib.md5(b"weights").hexdigest()
    assert warnings(caplog) == []


def test_official_with_other_bytes_is_refused(server, table, goal):
    server.files[NAME] = CONTENT[::-1]
    with pytest.raises(CaptionerError, match=MD5):
        obtain(NAME, goal, official=table, **FAST)
    assert_nothing(goal)


@pytest.mark.parametrize("kind", ["folder", "relative folder", "url"])
@pytest.mark.parametrize("same", [True, False], ids=["official bytes", "other bytes"])
def test_mirror(server, table, mirror, goal, monkeypatch, caplog, tmp_path, kind, same):
    server.files["MD5SUMS"] = (mirror / "MD5SUMS").read_bytes()
    server.plan = ["normal", "cut"] if kind == "url" else []
    setting = {"folder": str(mirror), "relative folder": "mirror", "url": server.url("under/")}[kind]
    monkeypatch.setenv("CAPTIONER_MIRROR", setting)
    if not same:
        table[NAME] = Official("http://127.0.0.1:1/never", "md5", "f" * 32)
    record = obtain(NAME, goal, official=table, **FAST)
    assert record == {"source": "mirror", "md5": MD5, "bytes": len(CONTENT), "official": same}
    assert str(tmp_path) not in json.dumps(record)
    assert_only(goal)
    assert not goal.is_symlink()
    assert goal.stat().st_ino != (mirror / NAME).stat().st_ino
    if same:
        assert warnings(caplog) == []
    else:
        (warning,) = warnings(caplog)
        assert all(word in warning for word in ("WARNING", NAME, MD5, "f" * 32, "cannot be compared"))
    if kind == "url":
        assert {path for path, _ in server.log} == {"/under/MD5SUMS", f"/under/{NAME}"}
    else:
        assert server.log == []


@pytest.mark.parametrize("kind", ["folder", "url"])
@pytest.mark.parametrize("fault", ["no sums", "no line", "no file", "wrong sum"])
def test_mirror_that_is_not_in_order(server, table, mirror, goal, monkeypatch, kind, fault):
    sums = mirror / "MD5SUMS"
    if fault == "no sums":
        sums.unlink()
    elif fault == "no line":
        sums.write_text(f"{MD5}  {NAME}.old\nnot a sum  {NAME}\n")
    elif fault == "no file":
        (mirror / NAME).unlink()
    else:
        (mirror / NAME).write_bytes(CONTENT[:-1] + b"!")
    server.files = {path.name: path.read_bytes() for path in mirror.iterdir()}
    place = str(mirror) if kind == "folder" else server.url().rsplit("/", 1)[0]
    monkeypatch.setenv("CAPTIONER_MIRROR", place)
    with pytest.raises(CaptionerError) as caught:
        obtain(NAME, goal, official=table, **FAST)
    names = {"no sums": "MD5SUMS", "no line": f"md5  {NAME}", "no file": NAME, "wrong sum": MD5}
    assert place in str(caught.value)
    assert names[fault] in str(caught.value)
    assert_nothing(goal)


@pytest.mark.parametrize("complete", [True, False])
@pytest.mark.parametrize("kind", ["official", "url"])
def test_what_dvc_has_is_not_downloaded_again(
    server, table, mirror, goal, monkeypatch, tmp_path, caplog, kind, complete
):
    cached = tmp_path / "cache" / MD5[:2] / MD5[2:]
    cached.parent.mkdir(parents=True)
    cached.write_bytes(CONTENT if complete else CONTENT[:-1])
    if kind == "url":
        server.files["MD5SUMS"] = (mirror / "MD5SUMS").read_bytes()
        monkeypatch.setenv("CAPTIONER_MIRROR", server.url("under"))
    caplog.set_level(logging.INFO, logger="captioner")
    record = obtain(NAME, goal, official=table, cache=tmp_path / "cache", **FAST)
    assert (record["md5"], record["official"]) == (MD5, True)
    assert any(path.endswith(NAME) for path, _ in server.log) != complete
    assert ("from DVC's cache" in caplog.text) == complete
    assert goal.read_bytes() == CONTENT


def test_the_cache_is_that_of_the_project(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    for whose in ("GLOBAL", "SYSTEM"):
        monkeypatch.setenv(f"DVC_{whose}_CONFIG_DIR", str(tmp_path / "none"))
    assert download.dvc_cache() is None
    for command in (["init", "--no-scm", "--quiet"], ["cache", "dir", "elsewhere"]):
        subprocess.run([sys.executable, "-m", "dvc", *command], check=True)
    assert download.dvc_cache() == tmp_path / "elsewhere/files/md5"


def test_what_goes_on_is_told_though_libraries_are_quiet(server, table, goal, caplog):
    logging.getLogger().setLevel(logging.WARNING)
    caplog.set_level(logging.INFO, logger="captioner")  # as the stages do
    server.plan = ["cut"]
    obtain(NAME, goal, official=table, **FAST)
    assert f"{NAME}: from {server.url()[:17]}" in caplog.text
    assert "trying again" in caplog.text


@pytest.mark.parametrize(
    "line",
    [
        "{md5} *{name}",
        "{md5}  ./{name}",
        "{md5}  some/folder/{name}",
        "{MD5}\t{name}  ",
        "MD5 ({name}) = {md5}",
        "00000000000000000000000000000000  old/{name}\n{md5}  {name}",
        "\N{ZERO WIDTH NO-BREAK SPACE}{md5}  {name}",
    ],
)
def test_forms_of_sum_lines(table, mirror, goal, monkeypatch, line):
    (mirror / "MD5SUMS").write_text(line.format(md5=MD5, MD5=MD5.upper(), name=NAME) + "\r\n")
    monkeypatch.setenv("CAPTIONER_MIRROR", str(mirror))
    assert obtain(NAME, goal, official=table)["official"]


@pytest.mark.parametrize("place", ["no/such/folder", "ftp://example.org/x"])
def test_impossible_mirror(table, goal, monkeypatch, place):
    monkeypatch.setenv("CAPTIONER_MIRROR", place)
    with pytest.raises(CaptionerError, match=re.escape(place)):
        obtain(NAME, goal, official=table)
    assert_nothing(goal)


def test_password_of_a_mirror_is_not_shown(server, table, goal, monkeypatch, caplog):
    caplog.set_level(logging.INFO)
    monkeypatch.setenv("CAPTIONER_MIRROR", server.url("").replace("//", "//user:hunter2@"))
    server.plan = ["500"]
    with pytest.raises(CaptionerError) as caught:
        obtain(NAME, goal, official=table, **FAST)
    assert "hunter2" not in str(caught.value) + caplog.text


def test_unwritable_place_is_a_users_error(table, tmp_path):
    (tmp_path / "data").write_text("a file where a folder should be")
    with pytest.raises(CaptionerError, match=NAME):
        obtain(NAME, tmp_path / "data" / "raw" / "file.zip", official=table, **FAST)


def test_official_address_of_the_weights_is_torchvisions():
    from torchvision.models import ResNet18_Weights

    wanted = OFFICIAL["resnet18.pth"]
    assert wanted.url == ResNet18_Weights.IMAGENET1K_V1.url
    assert wanted.url.endswith(f"-{wanted.digest}.pth")


def test_download_does_not_import_torch():
    code = "import sys, captioner.sources.download; sys.exit('torch' in sys.modules or 'torchvision' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


# the stage


def run_stage(name, **own):
    shapes = SimpleNamespace(train=3, dev=2, test=2, size=32, seed=5)
    main = runpy.run_path(str(ROOT / "stages" / "download.py"), run_name="stage")["main"]
    main(SimpleNamespace(dataset=SimpleNamespace(name=name), shapes=shapes, own=SimpleNamespace(**own)))
    record = json.loads(Path("metrics/download.json").read_text())
    (images,) = Path("data/raw/images").iterdir()
    for key, path in (("images", images), ("captions", Path("data/raw/captions.zip"))):
        content = path.read_bytes()
        md5 = hashlib.md5(content).hexdigest()
        if (key, name) == ("images", "own"):  # may be several
            md5 = hashlib.md5(f"{md5}  {path.name}\n".encode()).hexdigest()
        assert record[key]["bytes"] == len(content)
        assert record[key]["md5"] == md5
    return record


def test_stage_with_flickr8k(mirror, monkeypatch):
    (mirror / "Flickr8k_Dataset.zip").write_bytes(b"photos")
    (mirror / "MD5SUMS").open("a").write(f"{MD5}  {NAME}\n")
    text = (mirror / "MD5SUMS").read_text().replace("0" * 32, hashlib.md5(b"photos").hexdigest())
    (mirror / "MD5SUMS").write_text(text)
    monkeypatch.setenv("CAPTIONER_MIRROR", str(mirror))
    record = run_stage("flickr8k")
    assert record["dataset"] == "flickr8k"
    assert Path("data/raw/images/Flickr8k_Dataset.zip").read_bytes() == b"photos"
    assert Path("data/raw/captions.zip").read_bytes() == CONTENT
    assert {record[key]["source"] for key in ("images", "captions")} == {"mirror"}
    assert not record["images"]["official"]


def test_stage_with_shapes():
    record = run_stage("shapes")
    assert list(record) == ["dataset", "images", "captions"]
    assert record["images"]["source"] == "drawn"
    assert record["images"]["official"] is None


def test_stage_with_ones_own():
    Path("mine").mkdir()
    Path("mine/a.jpg").write_bytes(b"photo")
    Path("mine/captions.csv").write_text("image,caption\na.jpg,a dog\n")
    assert run_stage("own", folder="mine", captions="captions.csv")["images"]["source"] == "own"
