"""train.start: a decoder that starts from another model."""

from pathlib import Path

import pytest
import torch

from captioner.base.errors import CaptionerError
from captioner.captions.vocabulary import SPECIAL, Vocabulary
from captioner.model.captioner import load_model
from captioner.model.decoder import Decoder
from captioner.training.start import start_decoder
from captioner.vision.encoder import fingerprint
from tests.support.worlds import WORDS, captioner_file

SHAPE = {"features": 512, "width": 16, "heads": 2, "attention": True, "tied": True}
NEW = Vocabulary(words=("sleeps", "horse", "a", "gallops"), max_length=6)


@pytest.fixture(params=[True, False], ids=["attention", "pooled"])
def attention(request):
    return request.param


def started(vocabulary=NEW, *, model="start.safetensors", encoder="hash", **changes):
    shape = SHAPE | changes
    decoder = Decoder(vocabulary=len(vocabulary), dropout=0.0, **shape)
    start_decoder(decoder, vocabulary, shape, encoder, model)
    return decoder


def test_shared_words_keep_their_weights_and_new_ones_start_at_the_mean(tmp_path, monkeypatch, attention):
    monkeypatch.chdir(tmp_path)
    old = load_model(captioner_file("start.safetensors", encoder=False, attention=attention))[0].decoder
    new = started(attention=attention)
    before, after = old.state_dict(), new.state_dict()
    assert WORDS.words == ("a", "dog", "cat", "runs", "sleeps")
    specials = range(len(SPECIAL))
    pairs = [*zip(specials, specials, strict=True), (4, 8), (6, 4)]  # ids of <pad> .. <unk>, sleeps and a
    for name in ("embedding.weight", "output.weight", "output.bias"):
        for here, there in pairs:
            assert torch.equal(after[name][here], before[name][there]), (name, here)
        mean = before[name][[4, 8]].mean(0)
        for here in (5, 7):  # horse and gallops
            torch.testing.assert_close(after[name][here], mean)
    assert new.output.weight is new.embedding.weight
    others = before.keys() - {"embedding.weight", "output.weight", "output.bias"}
    assert all(torch.equal(before[name], after[name]) for name in others)


def test_the_models_own_mean_and_scale_stay(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    captioner_file("start.safetensors", encoder=False)
    decoder = started()
    assert torch.equal(decoder.feature_mean, load_model("start.safetensors")[0].decoder.feature_mean)


def test_with_the_same_vocabulary_everything_is_as_in_the_model(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    old = load_model(captioner_file("start.safetensors", encoder=False))[0].decoder.state_dict()
    new = started(WORDS).state_dict()
    assert all(torch.equal(old[name], new[name]) for name in old)


@pytest.mark.parametrize(("key", "value"), [("width", 32), ("heads", 4), ("attention", False), ("tied", False)])
def test_other_dimensions_are_an_error_that_lists_both(tmp_path, monkeypatch, key, value):
    monkeypatch.chdir(tmp_path)
    captioner_file("start.safetensors", encoder=False)
    with pytest.raises(CaptionerError, match=rf"decoder\.{key} is {value} here and {SHAPE[key]} there"):
        started(**{key: value})


def test_features_of_another_encoder_are_an_error(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    captioner_file("start.safetensors", encoder=False)
    with pytest.raises(CaptionerError, match="features of another encoder"):
        started(encoder="another")


def test_a_fine_tuned_model_takes_features_of_its_own_encoder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    captioner_file("start.safetensors")
    started(encoder=fingerprint(load_model("start.safetensors")[0].encoder))
    with pytest.raises(CaptionerError, match="features of another encoder"):
        started(encoder="hash")  # the encoder before fine-tuning


def test_a_vocabulary_that_shares_no_word_is_an_error_that_shows_both(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    captioner_file("start.safetensors", encoder=False)
    with pytest.raises(CaptionerError, match=r"shares no word.*it has a, dog.*the data has ein, Hund"):
        started(Vocabulary(words=("ein", "Hund"), max_length=6))


def test_a_damaged_model_is_an_error(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    captioner_file("start.safetensors", encoder=False)
    content = bytearray(Path("start.safetensors").read_bytes())
    content[-1] ^= 1
    Path("start.safetensors").write_bytes(content)
    with pytest.raises(CaptionerError, match="checksums"):
        started()
