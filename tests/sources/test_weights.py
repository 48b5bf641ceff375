"""The encoder's starting weights: where they come from, and what is refused."""

import hashlib
import json
import runpy
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torchvision.models import resnet18, resnet34

from captioner.base.errors import CaptionerError
from captioner.model.captioner import load_model
from captioner.sources.weights import provide_start, provide_weights, read_weights
from captioner.vision.encoder import fingerprint, load_encoder
from tests.support.worlds import captioner_file

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def _surroundings(monkeypatch, tmp_path):
    monkeypatch.delenv("CAPTIONER_MIRROR", raising=False)
    monkeypatch.chdir(tmp_path)


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    path = tmp_path_factory.mktemp("drawn") / "resnet18.pth"
    return path, provide_weights("random", 3, path)


@pytest.fixture
def state(drawn):
    return dict(torch.load(drawn[0], weights_only=True))


@pytest.fixture
def goal(tmp_path):
    return tmp_path / "data" / "raw" / "resnet18.pth"


def save(state, name="given.pth"):
    torch.save(state, name)
    return name


def assert_nothing(goal):
    assert not goal.parent.exists() or list(goal.parent.iterdir()) == []


def test_random_weights_are_torchvisions_from_the_seed(drawn, state):
    torch.manual_seed(3)
    wanted = resnet18(weights=None).state_dict()
    assert list(state) == list(wanted)
    assert all(torch.equal(state[key], wanted[key]) for key in wanted)
    path, record = drawn
    content = path.read_bytes()
    md5 = hashlib.md5(content).hexdigest()
    assert record == {"source": "random", "md5": md5, "bytes": len(content), "official": None}


def test_random_weights_have_the_same_bytes_in_any_folder_and_draw_from_no_other_stream(drawn, goal):
    torch.manual_seed(7)
    before = torch.get_rng_state()
    assert provide_weights("random", 3, goal)["md5"] == drawn[1]["md5"]
    assert torch.equal(torch.get_rng_state(), before)
    assert provide_weights("random", 4, goal)["md5"] != drawn[1]["md5"]
    assert [path.name for path in goal.parent.iterdir()] == [goal.name]


def test_a_path_is_copied(drawn, goal, tmp_path):
    record = provide_weights(str(drawn[0]), 0, goal)
    assert record == drawn[1] | {"source": "file", "official": False}
    assert goal.read_bytes() == drawn[0].read_bytes()
    assert not goal.is_symlink()
    assert str(drawn[0].parent) not in json.dumps(record)


def test_the_classifier_and_the_counters_may_be_missing(state, goal):
    bare = {key: value for key, value in state.items() if not key.startswith("fc.")}
    bare = {key: value for key, value in bare.items() if not key.endswith("num_batches_tracked")}
    provide_weights(save(bare), 0, goal)
    assert read_weights(goal).keys() == bare.keys()
    provide_weights(save(bare | {"fc.weight": torch.zeros(10, 512), "fc.extra": torch.zeros(1)}), 0, goal)
    assert read_weights(goal).keys() == bare.keys()


def test_missing_unexpected_and_misshapen_keys_are_listed(state, goal):
    del state["layer1.0.conv1.weight"]
    state["head.weight"] = torch.zeros(2)
    state["conv1.weight"] = torch.zeros(64, 1, 7, 7)
    state["bn1.bias"] = "text"
    with pytest.raises(CaptionerError) as caught:
        provide_weights(save(state), 0, goal)
    text = str(caught.value)
    assert "given.pth" in text
    assert "missing: layer1.0.conv1.weight;" in text
    assert "unexpected: head.weight;" in text
    assert "conv1.weight ((64, 1, 7, 7), expected (64, 3, 7, 7))" in text
    assert "bn1.bias" in text
    assert_nothing(goal)


def test_another_network_and_a_wrapped_checkpoint_are_refused(state, goal):
    with torch.device("meta"):
        deeper = resnet34().state_dict()
    deeper = {key: torch.zeros(value.shape).to(torch.int8) for key, value in deeper.items()}
    with pytest.raises(CaptionerError, match=r"unexpected: layer1\.2\.conv1\.weight.* and \d+ more"):
        provide_weights(save(deeper), 0, goal)
    with pytest.raises(CaptionerError, match=r"missing: conv1\.weight.*unexpected: epoch, model"):
        provide_weights(save({"epoch": 1, "model": {}}), 0, goal)
    assert_nothing(goal)


class Harmful:
    def __reduce__(self):
        return Path.touch, (Path("harm"),)


@pytest.mark.parametrize("kind", ["missing", "folder", "text", "empty", "list", "module", "code"])
def test_what_is_no_state_dict_is_refused_without_running_it(goal, kind):
    given = Path("given.pth")
    if kind == "folder":
        given.mkdir()
    elif kind == "text":
        given.write_text("<html>not weights</html>")
    elif kind == "empty":
        given.touch()
    elif kind != "missing":
        torch.save({"list": [1, 2], "module": torch.nn.Linear(1, 1), "code": Harmful()}[kind], given)
    with pytest.raises(CaptionerError, match=r"given\.pth"):
        provide_weights("given.pth", 0, goal)
    assert not Path("harm").exists()
    assert_nothing(goal)


def test_imagenet_comes_from_the_mirror_and_must_be_a_resnet18(drawn, goal, monkeypatch, caplog):
    Path("mirror").mkdir()
    shutil.copyfile(drawn[0], "mirror/resnet18.pth")
    Path("mirror/MD5SUMS").write_text(f"{drawn[1]['md5']}  resnet18.pth\n")
    monkeypatch.setenv("CAPTIONER_MIRROR", "mirror")
    assert provide_weights("imagenet", 0, goal) == drawn[1] | {"source": "mirror", "official": False}
    assert "not the official file" in caplog.text
    assert f"this one  sha256 {hashlib.sha256(drawn[0].read_bytes()).hexdigest()[:8]}\n" in caplog.text
    save({"conv1.weight": torch.zeros(1)}, "mirror/resnet18.pth")
    md5 = hashlib.md5(Path("mirror/resnet18.pth").read_bytes()).hexdigest()
    Path("mirror/MD5SUMS").write_text(f"{md5}  resnet18.pth\n")
    with pytest.raises(CaptionerError, match="not a ResNet-18"):
        provide_weights("imagenet", 0, goal)


def test_stage(drawn):
    main = runpy.run_path(str(ROOT / "stages" / "weights.py"), run_name="stage")["main"]
    main(SimpleNamespace(encoder=SimpleNamespace(weights="random", seed=3), train=SimpleNamespace(start=None)))
    assert [path.name for path in Path("data/raw/start").iterdir()] == ["start.json"]
    assert json.loads(Path("metrics/weights.json").read_text()) == drawn[1]
    assert Path("data/raw/resnet18.pth").read_bytes() == drawn[0].read_bytes()


# ------------------------------------------------------------------------------------------- train.start


def test_a_fine_tuned_start_brings_its_encoder(goal):
    captioner_file("other.safetensors")
    model = provide_start("other.safetensors", "start")
    assert model == Path("start/captioner.safetensors")
    assert model.read_bytes() == Path("other.safetensors").read_bytes()
    record = provide_weights("imagenet", 0, goal, model)
    assert (record["source"], record["official"]) == ("start", None)
    written = load_encoder(torch.load(goal, weights_only=True))
    assert fingerprint(written) == fingerprint(load_model("other.safetensors")[0].encoder)


def test_a_start_without_an_encoder_leaves_the_weights_to_the_params(drawn, goal):
    captioner_file("other.safetensors", encoder=False)
    assert provide_weights("random", 3, goal, provide_start("other.safetensors", "start")) == drawn[1]


def test_a_fine_tuned_start_and_random_weights_contradict_each_other(goal):
    captioner_file("other.safetensors")
    with pytest.raises(CaptionerError, match=r"encoder\.weights: random.*set encoder\.weights to imagenet"):
        provide_weights("random", 0, goal, provide_start("other.safetensors", "start"))
    assert_nothing(goal)


def test_without_a_start_the_folder_of_an_earlier_one_is_emptied():
    captioner_file("other.safetensors", encoder=False)
    provide_start("other.safetensors", "start")
    assert provide_start(None, "start") is None
    assert [path.name for path in Path("start").iterdir()] == ["start.json"]
    assert json.loads(Path("start/start.json").read_text()) == {"train.start": None}


def test_a_start_that_is_missing_leaves_the_folder_as_it_was():
    captioner_file("other.safetensors", encoder=False)
    provide_start("other.safetensors", "start")
    with pytest.raises(CaptionerError, match=r"train\.start: missing\.safetensors: not found"):
        provide_start("missing.safetensors", "start")
    assert Path("start/captioner.safetensors").exists()


def test_a_start_that_is_no_model_file_is_named(goal):
    Path("other.safetensors").write_text("text")
    with pytest.raises(CaptionerError, match=r"train\.start: start/captioner\.safetensors: not a whole model file"):
        provide_weights("imagenet", 0, goal, provide_start("other.safetensors", "start"))
    assert_nothing(goal)
