"""The model file: what comes back is what was saved, and everything else is refused with a reason."""

import json
import pickle
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from captioner.base.errors import CaptionerError
from captioner.captions.vocabulary import Vocabulary
from captioner.model.captioner import (
    Captioner,
    Metadata,
    checksum,
    load_model,
    save_model,
    with_versions,
    without_examples,
)
from captioner.model.decoder import Decoder
from captioner.vision.encoder import END, Encoder
from tests.support.decoding import read_all
from tests.support.worlds import some_examples

VOCABULARY = Vocabulary(words=("dog", "chien", "naïve", "犬"), max_length=5)
MADE = {"inputs": {"data/captions.jsonl": "0123"}, "params": {"train.lr": 0.002, "decoder.tied": True}}


@pytest.fixture(autouse=True)
def _surroundings(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)


def make(*, tied=False, attention=True, encoder=None, start=END, seed=1):
    torch.manual_seed(seed)
    shape = {"vocabulary": len(VOCABULARY), "features": 512 if encoder else 6, "width": 8, "heads": 2}
    shape |= {"attention": attention, "tied": tied, "dropout": 0.5}
    captioner = Captioner(Decoder(**shape), encoder, start)
    captioner.examples = some_examples(VOCABULARY, features=shape["features"])
    metadata = Metadata(
        encoder="abc123",
        start=start,
        image={"size": 64, "fit": "crop"},
        decoder=shape,
        vocabulary=VOCABULARY,
        provenance=with_versions(MADE),
    )
    return captioner, metadata


@pytest.fixture(scope="module")
def encoder():
    torch.manual_seed(2)
    encoder = Encoder()
    for module in encoder.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.running_mean, std=0.3)
    return encoder


@torch.no_grad()
def outputs(captioner, rows):
    hidden = read_all(captioner.decoder, captioner.encode(rows), torch.tensor([[[1, 5, 6]]] * len(rows)))
    return captioner.decoder.logits(hidden)


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("attention", [True, False])
def test_a_decoder_comes_back_as_it_was(tied, attention):
    captioner, metadata = make(tied=tied, attention=attention)
    save_model("model.safetensors", captioner.train(), metadata)
    loaded, loaded_metadata = load_model("model.safetensors")
    assert loaded_metadata == metadata
    assert loaded.encoder is None
    assert not loaded.training
    assert not loaded.decoder.training
    assert (loaded.decoder.output.weight is loaded.decoder.embedding.weight) == tied
    for name, wanted in captioner.examples._asdict().items():
        assert torch.equal(getattr(loaded.examples, name), wanted)
        assert getattr(loaded.examples, name).dtype == wanted.dtype
    rows = torch.randn(2, 2, 2, 6).half()
    assert torch.equal(outputs(loaded, rows), outputs(captioner.eval(), rows))


def test_a_captioner_comes_back_with_its_encoder(encoder):
    captioner, metadata = make(encoder=encoder, start="layer4")
    save_model("model.safetensors", captioner.eval(), metadata)
    loaded, loaded_metadata = load_model("model.safetensors")
    assert loaded_metadata == metadata
    assert loaded.start == "layer4"
    wanted = captioner.state_dict()
    assert loaded.state_dict().keys() == wanted.keys()
    assert all(torch.equal(value, wanted[key]) for key, value in loaded.state_dict().items())
    rows = torch.randn(2, 4, 4, 256).half()
    torch.testing.assert_close(outputs(loaded, rows), outputs(captioner, rows), rtol=1e-5, atol=1e-6)
    first = Path("model.safetensors").read_bytes()
    save_model("again/model.safetensors", loaded, loaded_metadata)
    assert Path("again/model.safetensors").read_bytes() == first


def test_the_mean_of_a_photo_and_its_mirror_image_does_not_know_left_from_right(encoder):
    captioner, _ = make(encoder=encoder, start="conv1")
    photos = torch.randint(0, 256, (2, 64, 64, 3), dtype=torch.uint8)
    mirrored = photos.flip(2)
    with torch.inference_mode():
        alone, mean = captioner.eval().features(photos), captioner.features(photos, mirrored)  # [2, 4, 512]
        of_mirrored = captioner.features(mirrored, photos)
        torch.testing.assert_close(mean[0, 0], (alone[0, 0] + captioner.features(mirrored)[0, 1]) / 2)
        torch.testing.assert_close(captioner.encode(photos, mirrored), captioner.decoder.encode(mean))
    assert not torch.allclose(alone, mean)
    torch.testing.assert_close(of_mirrored, mean.unflatten(1, (2, 2)).flip(2).flatten(1, 2))


def test_a_file_without_the_key_is_of_a_model_that_captions_photos_alone():
    captioner, metadata = make()
    save_model("model.safetensors", captioner, replace(metadata, mean=True))
    assert load_model("model.safetensors")[1].mean
    with safe_open("model.safetensors", framework="pt") as file:
        record = json.loads(file.metadata()["captioner"])
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a dict
    del record["mean"]
    save_file(tensors, "model.safetensors", metadata={"captioner": json.dumps(record)})
    assert not load_model("model.safetensors")[1].mean


def test_the_same_weights_and_metadata_give_the_same_bytes():
    for name in ("one", "two"):
        save_model(f"{name}.safetensors", *make())
    first = Path("one.safetensors").read_bytes()
    assert Path("two.safetensors").read_bytes() == first
    save_model("two.safetensors", *make(seed=2))
    assert Path("two.safetensors").read_bytes() != first


def test_a_file_tells_its_vocabulary_transform_params_inputs_and_versions():
    save_model("model.safetensors", *make(tied=True))
    with safe_open("model.safetensors", framework="pt") as file:
        assert list(file.metadata()) == ["captioner"]
        record = json.loads(file.metadata()["captioner"])
        assert "decoder.output.weight" not in file.keys()  # noqa: SIM118 - not a dict
    assert record["schema"] == 3
    assert record["encoder"] == "abc123"
    assert record["start"] == "end"
    assert record["image"] == {"size": 64, "fit": "crop"}
    assert record["vocabulary"] == {"max_length": 5, "language": "en", "words": ["dog", "chien", "naïve", "犬"]}
    assert record["decoder"]["width"] == 8
    assert record["provenance"]["inputs"] == MADE["inputs"]
    assert record["provenance"]["params"] == MADE["params"]
    assert record["provenance"]["versions"].keys() == {"python", "torch", "torchvision", "numpy"}
    assert record["provenance"]["versions"]["torch"].split("+")[0] == torch.__version__.split("+")[0]


def test_an_interrupted_save_leaves_the_old_file(monkeypatch):
    save_model("model.safetensors", *make())
    first = Path("model.safetensors").read_bytes()

    def stopped(tensors, path, metadata):
        Path(path).write_bytes(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr("captioner.model.captioner.save_file", stopped)
    with pytest.raises(KeyboardInterrupt):
        save_model("model.safetensors", *make(seed=2))
    assert Path("model.safetensors").read_bytes() == first
    assert [path.name for path in Path().iterdir()] == ["model.safetensors"]


def rewrite(change=None, texts=None, sealed=True, **options):
    """Write a model file, after `change(tensors, record)` or with other metadata; `sealed`: the checksums fit."""
    captioner, metadata = make(**options)
    save_model("model.safetensors", captioner, metadata)
    with safe_open("model.safetensors", framework="pt") as file:
        tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 - not a dict
        record = json.loads(file.metadata()["captioner"])
    if change:
        change(tensors, record)
    if sealed and "checksums" in record:
        record["checksums"] = {name: checksum(tensor) for name, tensor in tensors.items()}
    save_file(tensors, "model.safetensors", metadata={"captioner": json.dumps(record)} if texts is None else texts)


def refused(path="model.safetensors"):
    with pytest.raises(CaptionerError) as caught:
        load_model(path)
    assert str(path) in str(caught.value)
    return str(caught.value)


def test_the_helper_that_rewrites_makes_files_that_load():
    rewrite(lambda tensors, record: tensors.update({"decoder.output.bias": torch.ones(len(VOCABULARY))}))
    assert load_model("model.safetensors")[0].decoder.output.bias.eq(1).all()


def test_a_missing_file_is_refused():
    assert "not found" in refused("absent.safetensors")


@pytest.mark.parametrize("keep", [0, 1, 8, 100, 0.5, -1])
def test_a_truncated_file_is_refused(keep):
    save_model("model.safetensors", *make())
    content = Path("model.safetensors").read_bytes()
    Path("model.safetensors").write_bytes(content[: int(keep * len(content)) if isinstance(keep, float) else keep])
    assert "not a whole model file" in refused()


@pytest.mark.parametrize("content", [b"<html>not found</html>" * 99, b"\0" * 999, b"PK\3\4" + b"a" * 999])
def test_what_is_not_safetensors_is_refused(content):
    Path("model.safetensors").write_bytes(content)
    refused()


def test_a_folder_is_refused():
    Path("model.safetensors").mkdir()
    refused()


class Harmful:
    def __reduce__(self):
        return Path.touch, (Path("harm"),)


@pytest.mark.parametrize("dump", [torch.save, lambda value, path: Path(path).write_bytes(pickle.dumps(value))])
def test_a_pickle_is_refused_without_running_it(dump):
    dump({"decoder": Harmful()}, "model.safetensors")
    refused()
    assert not Path("harm").exists()


@pytest.mark.parametrize(
    "metadata",
    [{}, {"format": "pt"}, *({"captioner": text} for text in ("", "not JSON", "{}", "[]", "3", '"text"', "null"))],
    ids=["none", "another key", "empty", "not JSON", "object", "list", "number", "text", "null"],
)
def test_safetensors_of_something_else_are_refused(metadata):
    rewrite(texts=metadata)
    assert "not a captioner's model file" in refused()


@pytest.mark.parametrize("key", ["encoder", "start", "decoder", "vocabulary", "provenance", "examples", "checksums"])
def test_metadata_that_lacks_a_field_or_has_another_is_refused(key):
    rewrite(lambda tensors, record: record.pop(key))
    assert "not a captioner's model file" in refused()
    rewrite(lambda tensors, record: record.update(other=1))
    assert "not a captioner's model file" in refused()


def test_metadata_of_a_block_that_does_not_exist_are_refused():
    rewrite(lambda tensors, record: record.update(start="layer9"))
    assert "start: is 'layer9', expected one of conv1," in refused()


@pytest.mark.parametrize("mean", ["false", None, 1])
def test_metadata_of_a_mean_that_is_neither_true_nor_false_are_refused(mean):
    rewrite(lambda tensors, record: record.update(mean=mean))
    assert f"mean: is {mean!r}, expected true or false" in refused()


@pytest.mark.parametrize("change", [{"heads": 7}, {"heads": 0}, {"width": -8}, {"dropout": 2.0}])
def test_metadata_of_a_decoder_that_cannot_be_is_refused(change):
    rewrite(lambda tensors, record: record["decoder"].update(change))
    assert "not a captioner's model file" in refused()


@pytest.mark.parametrize("schema", [1, 2, 4, None])
def test_another_schema_is_refused_before_anything_else(schema):
    rewrite(lambda tensors, record: (record.update(schema=schema, new=1), record.pop("vocabulary")))
    text = refused()
    assert f"schema {schema}, from another version" in text
    assert "Make the model again with `dvc repro`" in text


def test_missing_unexpected_and_misshapen_tensors_are_listed():
    def change(tensors, record):
        del tensors["decoder.query.weight"]
        tensors.pop("decoder.output.weight", None)
        tensors["decoder.extra"] = torch.zeros(1)
        tensors["decoder.image.weight"] = torch.zeros(8, 7)

    rewrite(change)
    text = refused()
    assert "missing: decoder.query.weight, decoder.output.weight;" in text
    assert "unexpected: decoder.extra;" in text
    assert "of another shape or type: decoder.image.weight (F32 (8, 7), expected F32 (8, 6))" in text
    rewrite(change, tied=True)
    assert "missing: decoder.query.weight;" in refused()  # of a tied one, the output layer is the embedding


@pytest.mark.parametrize("name", ["features", "captions"])
def test_examples_that_are_missing_or_do_not_fit_are_refused(name):
    rewrite(lambda tensors, record: tensors.pop(f"examples.{name}"))
    assert f"missing: examples.{name}" in refused()
    kind = {"features": torch.float16, "captions": torch.int32}[name]
    for shape in ((5, 3), (3, 2, 4), (0, 6), (7, 2), (0, 2, 4), (2, 0, 4), (2, 2, 0)):
        wrong = torch.zeros(shape)
        rewrite(lambda tensors, record, wrong=wrong: tensors.update({f"examples.{name}": wrong.to(kind)}))
        assert "examples." in refused().split("of another shape or type: ")[1]


def test_tensors_of_another_type_are_refused():
    rewrite(lambda tensors, record: tensors.update({"decoder.output.bias": torch.zeros(len(VOCABULARY)).double()}))
    assert "of another shape or type: decoder.output.bias (F64 (8,), expected F32 (8,))" in refused()


@pytest.mark.parametrize(
    "name", ["decoder.embedding.weight", "encoder.layer4.0.conv1.weight", "examples.features", "examples.captions"]
)
def test_a_tensor_that_changed_after_it_was_written_is_refused(name, encoder):
    def change(tensors, record):
        tensors[name].view(torch.uint8).flatten()[-1] ^= 1  # one bit

    rewrite(change, sealed=False, encoder=encoder, start="layer4")
    assert f"the checksums of {name} differ" in refused()


@pytest.mark.parametrize("checksums", [{}, [], 3, {"decoder.output.bias": 7}])
def test_checksums_that_are_missing_are_refused(checksums):
    rewrite(lambda tensors, record: record.update(checksums=checksums), sealed=False)
    refused()


class LargestTensor(TorchDispatchMode):
    """Notes the size in bytes of the largest tensor that any operation returned, but for those without memory."""

    def __init__(self):
        super().__init__()
        self.largest = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(result):
            if isinstance(tensor, torch.Tensor) and tensor.device.type != "meta":
                self.largest = max(self.largest, tensor.nbytes)
        return result


@pytest.mark.parametrize("size", [{"width": 2**14}, {"vocabulary": 2**28}, {"features": 2**30}, {"width": 2**40}])
def test_shapes_are_compared_before_memory_is_taken(size):
    rewrite(lambda tensors, record: record["decoder"].update(size))
    with LargestTensor() as taken:
        refused()
    assert taken.largest < 1e6


def test_a_model_without_examples_comes_back_without_them(encoder):
    captioner, metadata = make(encoder=encoder, start="layer4")
    save_model("model.safetensors", captioner, metadata)
    without_examples("model.safetensors", "shared/model.safetensors")
    loaded, loaded_metadata = load_model("shared/model.safetensors")
    assert loaded.examples is None
    assert loaded_metadata == metadata
    wanted = captioner.state_dict()
    assert all(torch.equal(value, wanted[key]) for key, value in loaded.state_dict().items())
    with safe_open("shared/model.safetensors", framework="pt") as file:
        assert not json.loads(file.metadata()["captioner"])["examples"]
        assert not any(name.startswith("examples") for name in file.keys())  # noqa: SIM118 - not a dict
    assert load_model("model.safetensors")[0].examples is not None
    rewrite(lambda tensors, record: record.update(examples=False))
    text = refused()
    assert "unexpected: examples." in text


@pytest.mark.parametrize("unknown", [-1, len(VOCABULARY)])
def test_examples_of_words_beyond_the_vocabulary_are_refused(unknown):
    rewrite(lambda tensors, record: tensors["examples.captions"][1, 0, 0].fill_(unknown))
    assert "examples hold words that its vocabulary does not" in refused()


def test_an_encoder_that_the_metadata_do_not_name_is_refused():
    rewrite(lambda tensors, record: record.update(start="layer4"))
    assert "missing: encoder.conv1.weight" in refused()


@pytest.mark.parametrize("words", [["dog"], ["dog", "chien", "naïve", "犬", "cat"]])
def test_a_vocabulary_of_another_length_is_refused(words):
    rewrite(lambda tensors, record: record["vocabulary"].update(words=words))
    text = refused()
    assert f"knows {len(VOCABULARY)} words" in text
    assert f"vocabulary {len(words) + 4}" in text


def test_metadata_that_differ_are_not_equal():
    _, metadata = make()
    assert replace(metadata, vocabulary=Vocabulary(("dog",), 5)) != metadata
