"""A model by its name: a file, a repository of the Hub, an address; and the cache."""

import hashlib
import http.server
import json
import os
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from captioner.base.errors import CaptionerError
from captioner.model.captioner import Examples, without_examples
from captioner.model.consensus import Consensus
from captioner.sources.models import cache_folder, local_model
from captioner.use import cache
from captioner.use.cache import cached_consensus
from captioner.use.cli import main
from tests.support.worlds import captioner_file, encoded

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("CAPTIONER_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return captioner_file(tmp_path_factory.mktemp("model") / "captioner.safetensors")


class Hub(http.server.BaseHTTPRequestHandler):
    """Plays the Hugging Face Hub: one repository with one file, at the branch main and the tag v1."""

    content = b""

    def do_HEAD(self):
        self.answer()

    def do_GET(self):
        self.answer()

    def answer(self):
        path = self.path.partition("?")[0]
        etag = hashlib.sha256(self.content).hexdigest()
        self.server.requests.append(f"{self.command} {path}")
        if path.startswith("/dogs/model/resolve/") and path.split("/")[4] not in ("main", "v1", COMMIT):
            self.refuse("RevisionNotFound")
        elif path.startswith("/dogs/empty/"):
            self.refuse("EntryNotFound")
        elif path.startswith("/dogs/model/resolve/") or path == "/file":
            self.send_response(200)
            self.send_header("Content-Length", str(len(self.content)))
            self.send_header("ETag", f'"{etag}"')
            self.send_header("X-Repo-Commit", COMMIT)
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(self.content)
        else:
            self.refuse("RepoNotFound")

    def refuse(self, code):
        self.send_response(404)
        self.send_header("X-Error-Code", code)
        self.send_header("X-Repo-Commit", COMMIT)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *given):
        pass


@pytest.fixture
def server(model):
    Hub.content = model.read_bytes()
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    server.requests = []
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


def address(server):
    return f"http://127.0.0.1:{server.server_address[1]}"


RESOLVE = """
import sys
from captioner.base.errors import CaptionerError
from captioner.sources.models import local_model
for name in sys.argv[1:]:
    try:
        print(local_model(name))
    except CaptionerError as error:
        print("error:", error)
"""


def resolved(names, server, home):
    """Return what names mean, or the errors, in a process of its own: the Hub's client reads its settings once."""
    pytest.importorskip("huggingface_hub")
    env = {name: value for name, value in os.environ.items() if not name.lower().endswith("_proxy")}
    env |= {"HF_ENDPOINT": address(server), "HF_HOME": str(home), "HF_HUB_DISABLE_XET": "1"}
    env |= {"HF_HUB_ETAG_TIMEOUT": "2", "HF_HUB_DISABLE_TELEMETRY": "1"}
    done = subprocess.run([sys.executable, "-c", RESOLVE, *names], env=env, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout.splitlines()


def test_a_model_of_the_hub_is_downloaded_and_then_used_without_a_network(model, server, tmp_path):
    names = ["hf:dogs/model", "hf:dogs/model@v1"]
    for path in resolved(names, server, tmp_path / "hf"):
        assert Path(path).read_bytes() == model.read_bytes()
    assert sum(line.startswith("GET /dogs/model/resolve") for line in server.requests) == 1  # one content, one download
    server.shutdown()
    server.server_close()
    for path in resolved(names, server, tmp_path / "hf"):
        assert Path(path).read_bytes() == model.read_bytes()


@pytest.mark.slow
def test_what_is_not_on_the_hub_is_named(server, tmp_path):
    names = ["hf:dogs/none", "hf:dogs/model@v9", "hf:dogs/empty", "hf:dogs", "hf:a/b@"]
    message = resolved(names, server, tmp_path / "hf")
    for line, (name, problem) in zip(
        message,
        {
            "hf:dogs/none": "no such repository",
            "hf:dogs/model@v9": "no revision v9",
            "hf:dogs/empty": "no captioner.safetensors",
            "hf:dogs": "expected hf:owner/name",
            "hf:a/b@": "no such repository",
        }.items(),
        strict=True,
    ):
        assert line.startswith(f"error: {name}: ")
        assert problem in line
    server.shutdown()
    server.server_close()
    (line,) = resolved(["hf:dogs/model"], server, tmp_path / "hf")
    assert "hf:dogs/model: not in the cache, and the Hub cannot be reached" in line


def test_without_the_package_its_extra_is_named(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    assert main(["card", "hf:dogs/model"]) == 1
    assert "pip install 'captioner[hub]'" in capsys.readouterr().err


def test_a_model_at_an_address_is_verified_and_cached(model, server, folder, tmp_path, capsys):
    checksum = hashlib.sha256(model.read_bytes()).hexdigest()
    name = f"{address(server)}/file#sha256={checksum}"
    (tmp_path / "a.png").write_bytes(encoded(Image.new("RGB", (32, 32))))
    assert main(["caption", str(tmp_path / "a.png"), "--model", name, "--beam", "2"]) == 0
    assert capsys.readouterr().out.startswith(f"{tmp_path / 'a.png'}\t")
    server.shutdown()
    server.server_close()
    assert local_model(name).read_bytes() == model.read_bytes()  # without the server
    assert sorted(path.name for path in (folder / "models").iterdir()) == [f"{checksum}.safetensors"]


def test_a_model_at_an_address_needs_its_checksum(server, folder):
    wrong = "0" * 64
    for end, problem in (
        ("", "expected its checksum at the end"),
        ("#sha256=12", "expected its checksum at the end"),
        (f"#sha256={wrong}", "sha256 is [0-9a-f]{64}, expected 0000"),
    ):
        with pytest.raises(CaptionerError, match=problem) as caught:
            local_model(f"{address(server)}/file{end}")
        assert "CAPTIONER_MIRROR" not in str(caught.value)  # which has nothing to do with it
    assert not (folder / "models").exists() or not list((folder / "models").iterdir())


def some(images, seed=0):
    generator = np.random.default_rng(seed)
    captions = generator.integers(4, 9, (images, 2, 5)).astype(np.int32)
    return Examples(torch.from_numpy(generator.normal(size=(images, 8)).astype(np.float16)), torch.from_numpy(captions))


@pytest.fixture
def example_file(tmp_path, monkeypatch):
    monkeypatch.setattr(cache, "FEW", 10)
    path = tmp_path / "model"
    path.write_bytes(b"of these examples")
    return path


def chosen(consensus):
    generator = np.random.default_rng(3)
    beams = generator.integers(4, 9, (6, 3, 4))
    return consensus.choose(generator.normal(size=(6, 8)), beams, np.zeros((6, 3)), weight=1.0)


def test_a_cached_consensus_chooses_as_one_that_was_computed(example_file, folder, monkeypatch):
    examples = some(50)
    wanted = chosen(Consensus(*examples))
    assert len(set(wanted)) > 1
    assert chosen(cached_consensus(example_file, examples)) == wanted
    monkeypatch.setattr(Consensus, "__init__", lambda *given: pytest.fail("was computed again"))
    assert chosen(cached_consensus(example_file, examples)) == wanted
    example_file.write_bytes(b"another file")
    with pytest.raises(pytest.fail.Exception, match="computed again"):
        cached_consensus(example_file, examples)


@pytest.mark.parametrize("damage", ["cut", "missing", "a file", "deleted"])
def test_a_damaged_cache_is_made_anew(example_file, folder, damage):
    examples = some(50)
    wanted = chosen(cached_consensus(example_file, examples))
    (entry,) = (folder / "consensus").iterdir()
    file = sorted(entry.iterdir())[0]
    if damage == "cut":
        file.write_bytes(file.read_bytes()[:-3])
    elif damage == "missing":
        file.unlink()
    else:
        for each in entry.iterdir():
            each.unlink()
        entry.rmdir()
        if damage == "a file":
            entry.write_bytes(b"")
    assert chosen(cached_consensus(example_file, examples)) == wanted
    assert chosen(cached_consensus(example_file, examples)) == wanted


def test_the_cache_is_bounded_and_leaves_nothing_half_written(example_file, folder):
    for number in range(7):
        example_file.write_bytes(bytes([number]))
        (folder / "consensus").mkdir(parents=True, exist_ok=True)
        (folder / "consensus" / ".part-killed").mkdir(exist_ok=True)
        cached_consensus(example_file, some(20))
    assert len(list((folder / "consensus").iterdir())) == cache.KEPT


@pytest.mark.parametrize("kind", ["none", "a file in its way"])
def test_without_a_cache_it_is_computed(example_file, folder, monkeypatch, kind):
    if kind == "none":
        monkeypatch.setenv("CAPTIONER_CACHE", "")
        assert cache_folder() is None
    else:
        folder.write_text("")
    examples = some(50)
    assert chosen(cached_consensus(example_file, examples)) == chosen(Consensus(*examples))


def test_few_examples_are_not_cached(example_file, folder):
    cached_consensus(example_file, some(5))
    assert not folder.exists()


def test_a_card_says_what_the_file_is(tmp_path, capsys):
    provenance = {
        "params": {"seed": 42},
        "inputs": {
            "data/captions.jsonl": "d41d8cd98f00b204e9800998ecf8427e",
            "src/captioner/base/files.py": "0" * 32,
            "stages/finetune.py": "1" * 32,
        },
        "versions": {"torch": "2.11.0"},
    }
    model = captioner_file(tmp_path / "captioner.safetensors", provenance=provenance)
    assert main(["card", str(model)]) == 0
    printed = capsys.readouterr().out
    for part in (
        str(model), "ResNet-18, fine-tuned from layer4 on", "LSTM of width 16, attention of 2 heads", "5 words",
        "13 of 7 images, by which captions are chosen", "data/captions.jsonl  d41d8cd98f00b204e9800998ecf8427e",
        "seed  42", "torch  2.11.0", "not in the model file", "limits",
    ):  # fmt: skip
        assert part in printed
    assert "2 files of code; --json lists them" in printed
    assert "src/captioner" not in printed
    (tmp_path / "README.md").write_text("the card")
    assert main(["card", str(model)]) == 0
    assert f"see {tmp_path / 'README.md'}" in capsys.readouterr().out
    (tmp_path / "config.json").write_text(json.dumps({"scores": {"CIDEr": 0.642}}))
    assert main(["card", str(model)]) == 0
    printed = capsys.readouterr().out
    assert "CIDEr  0.642" in printed
    assert f"scores ({tmp_path / 'config.json'})\n" in printed
    decoder = captioner_file(tmp_path / "decoder.safetensors", encoder=False)
    assert main(["card", str(decoder)]) == 0  # config.json is of the fine-tuned model
    assert "CIDEr" not in capsys.readouterr().out
    without_examples(model, tmp_path / "shared.safetensors")
    assert main(["card", str(tmp_path / "shared.safetensors")]) == 0  # whose scores these are not
    assert f"scores ({tmp_path / 'config.json'}), of the model with training captions\n" in capsys.readouterr().out
    assert main(["card", str(model), "--json"]) == 0
    record = json.loads(capsys.readouterr().out)
    assert provenance in (record.get("made"), record.get("provenance"))
    assert (record["words"], record["examples"], record["captions"]) == (5, 7, 13)


def test_a_card_of_no_model_is_an_error(tmp_path, capsys):
    (tmp_path / "none").write_bytes(b"x")
    assert main(["card", str(tmp_path / "none")]) == 1
    assert "not a whole model file" in capsys.readouterr().err


def test_strip_writes_the_model_that_the_library_writes_and_nothing_over_another(model, tmp_path, monkeypatch, capsys):
    written = []
    monkeypatch.setattr(
        "captioner.model.captioner.without_examples", lambda old, new: written.append((old, new)), raising=False
    )
    out = tmp_path / "shared.safetensors"
    assert main(["strip", str(model), str(out)]) == 0
    assert written == [(model, out)]
    assert str(out) in capsys.readouterr().out
    out.write_bytes(b"mine")
    for wrong, problem in ((out, "exists"), (model, "is the model itself"), (tmp_path, "is a folder")):
        assert main(["strip", str(model), str(wrong)]) == 1
        assert problem in capsys.readouterr().err
    assert len(written) == 1
    assert main(["strip", str(model), str(out), "--force"]) == 0
    assert len(written) == 2
