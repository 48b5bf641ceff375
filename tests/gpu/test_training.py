"""Training on a pretended GPU: no devices mix, and a step waits for the GPU only where it must."""

import json
import math
import warnings
from itertools import pairwise

import pytest
import torch

from captioner.base.device import mixed_precision, select_device
from captioner.base.files import read_json, write_json, write_text
from captioner.base.resume import Resume
from captioner.captions.dataset import CaptionedImage
from captioner.captions.vocabulary import EOS, Vocabulary
from captioner.model.captioner import Captioner, load_model
from captioner.model.decoder import Decoder
from captioner.model.lstm import LSTM
from captioner.model.search import LOOK_EVERY, sample
from captioner.training.batches import CaptionSet
from captioner.training.dev import DevEvaluation, dev_scores, examples_of
from captioner.training.finetune import FinetuneSettings, finetune
from captioner.training.loop import CHECK_EVERY, LoopSettings, fit
from captioner.training.objectives import NextWord
from captioner.training.schedule import parameter_groups
from captioner.training.self_critical import SelfCritical
from captioner.training.train import DecoderSettings, TrainSettings, train_decoder
from captioner.vision.encoder import END, Encoder, calibrate, fingerprint, save_encoder
from captioner.vision.store import View, new_store
from tests.support.pretended_gpu import DEVICE, GPUTensor

pytestmark = pytest.mark.slow

CPU = torch.device("cpu")
WORDS = ("red", "blue", "dog", "cat", "runs", "sits")
VOCABULARY = Vocabulary(words=WORDS, max_length=11)
RECIPE = {"batch": 4, "warmup": 0.5, "clip": 1.0, "patience": 9, "ema": 0.9, "crop": 1.0}
TRAIN, DEV = CHECK_EVERY + 4, 4  # images
LOOK = 4  # waits of a look at the losses, their gradient and the measure


def images_of(train=TRAIN, dev=DEV):
    """Return images with two captions each."""
    images = []
    for number in range(train + dev):
        long = [WORDS[number % 2], WORDS[2 + number % 2], WORDS[4 + number // 2 % 2]]
        texts = [long, long[1:]]
        ids = [VOCABULARY.encode(text) for text in texts]
        split = "train" if number < train else "dev"
        images.append(CaptionedImage(f"{number}.jpg", split, [" ".join(text) for text in texts], ids))
    return images


def splits():
    """Return the training and the dev images with features that mean nothing."""
    images = images_of()
    features = torch.randn(len(images), 2, 2, 3, generator=torch.Generator().manual_seed(1))
    views = {image.image: [row] for row, image in enumerate(images)}
    return CaptionSet.of_splits(images, views, features.__getitem__)


def captioner_of(attention=True, dropout=0.1):
    torch.manual_seed(1)
    shape = {"width": 16, "heads": 2, "attention": attention, "tied": True, "dropout": dropout}
    return Captioner(Decoder(vocabulary=len(VOCABULARY), features=3, **shape))


def next_word(training, scheduled_sampling=0.25):
    return NextWord(label_smoothing=0.1, scheduled_sampling=scheduled_sampling)


def self_critical(training):
    return SelfCritical(training.references, VOCABULARY, samples=3, next_word=NextWord(label_smoothing=0.1), weight=0.5)


def train(captioner, objective, device, *, name="run", epochs=1, on_epoch=lambda records: None, **changes):
    """Train and return the records; `objective` returns one for the training images."""
    sets = splits()
    return fit(
        captioner,
        parameter_groups([captioner.decoder], name="decoder", lr=0.01, weight_decay=0.05),
        sets["train"],
        DevEvaluation(sets["dev"], VOCABULARY, beam=2, device=device),
        objective(sets["train"]),
        settings=LoopSettings(**RECIPE | changes),
        epochs=epochs,
        seed=3,
        start_is_candidate=True,
        device=device,
        resume=Resume(name, {}),
        on_epoch=on_epoch,
    )


class Watched:
    """An objective that keeps the count of waits at each of its calls."""

    def __init__(self, objective, gpu):
        self.objective, self.measure, self.gpu, self.counts = objective, objective.measure, gpu, []

    def __call__(self, captioner, batch):
        self.counts.append(self.gpu.waits.copy())
        return self.objective(captioner, batch)

    def steps(self):
        """Return the waits of each step but the last, from the objective's call to its next."""
        return [after - before for before, after in pairwise(self.counts)]


def waits_of_steps(gpu, attention, objective):
    watched = []

    def watch(training):
        watched.append(Watched(objective(training), gpu))
        return watched[0]

    train(captioner_of(attention), watch, DEVICE, batch=1)
    steps = watched[0].steps()
    assert len(steps) == TRAIN - 1 > CHECK_EVERY
    return steps


@pytest.mark.parametrize("attention", [True, False])
@pytest.mark.parametrize("objective", [next_word, self_critical])
def test_an_epoch_runs_and_the_weights_stay_on_the_gpu(gpu, objective, attention):
    captioner = captioner_of(attention)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # cuDNN's, when averaged weights are not in one piece of memory
        start, record = train(captioner, objective, select_device())
    assert start["epoch"] == 0
    assert all(math.isfinite(value) for value in record.values())
    assert all(isinstance(part, GPUTensor) for part in captioner.parameters())
    lstms = 2 if attention else 1
    assert gpu.launches["_cudnn_rnn_backward"] >= lstms * TRAIN / RECIPE["batch"]  # the GPU trained, not the CPU


@pytest.mark.parametrize("attention", [True, False])
def test_a_step_on_the_next_word_waits_only_to_look_at_the_loss(gpu, attention):
    first, *steps = waits_of_steps(gpu, attention, next_word)
    assert first.total() <= 1  # the words that are never drawn are copied once
    for number, waits in enumerate(steps, 2):
        assert waits.total() <= (LOOK if number % CHECK_EVERY == 0 else 0), (number, waits)


@pytest.mark.parametrize("attention", [True, False])
def test_a_self_critical_step_waits_for_every_fourth_word_and_the_captions(gpu, attention):
    for number, waits in enumerate(waits_of_steps(gpu, attention, self_critical), 1):
        drawing = VOCABULARY.max_length // LOOK_EVERY + 1
        captions_and_lengths = 2
        looking = LOOK if number % CHECK_EVERY == 0 else 0
        comparing = 2 if number == 1 else 0  # the words of a new graph
        assert waits.total() <= drawing + captions_and_lengths + looking + comparing, (number, waits)


@pytest.mark.parametrize(("bias", "drawn"), [(-100.0, VOCABULARY.max_length), (100.0, LOOK_EVERY)])
def test_drawing_waits_at_most_once_for_four_words_and_once_for_the_length(gpu, bias, drawn):
    captioner = captioner_of().to(DEVICE).eval()
    with torch.no_grad():
        captioner.decoder.output.bias[EOS] = bias  # never or always the end
        memory = captioner.encode(torch.randn(5, 2, 2, 3).pin_memory().to(DEVICE, non_blocking=True))
        sample(captioner.decoder, memory, samples=2, max_length=1)  # copies once which words are never drawn
        gpu.reset()
        sample(captioner.decoder, memory, samples=2, max_length=VOCABULARY.max_length)
    assert gpu.launches["searchsorted"] == math.ceil(drawn / LOOK_EVERY) * LOOK_EVERY
    assert gpu.waits.total() <= drawn / LOOK_EVERY + 1, gpu.waits


def test_self_critical_training_leaves_the_train_mode_that_the_backward_pass_of_cudnn_needs(gpu):
    sets = splits()
    captioner = captioner_of().to(DEVICE).train()
    (batch,) = sets["train"].batches(torch.arange(3), 3, DEVICE)
    loss, _ = self_critical(sets["train"])(captioner, batch)
    assert captioner.training
    assert all(part.training for part in captioner.modules())
    loss.value.backward()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_lstms_are_computed_in_float32_in_mixed_precision(gpu, dtype):
    lstm, x = LSTM(3, 4).to(DEVICE), torch.ones(2, 3, dtype=dtype).to(DEVICE)
    with mixed_precision(DEVICE):
        state = lstm.begin(x)
        after = lstm.over(x, state, torch.tensor([2]))
    assert {part.dtype for part in (*state, after)} == {torch.float32}


@pytest.mark.parametrize("attention", [True, False])
def test_a_gpu_learns_what_a_cpu_learns(gpu, monkeypatch, attention):
    monkeypatch.setenv("CAPTIONER_PRECISION", "float32")

    def objective(training):
        return next_word(training, scheduled_sampling=0.0)

    one, other = (
        train(captioner_of(attention, dropout=0.0), objective, device, name=device.type) for device in (DEVICE, CPU)
    )
    for result, wanted in zip(one, other, strict=True):
        assert result == pytest.approx(wanted, abs=1e-4)


def test_an_interrupted_run_on_a_gpu_ends_like_one_that_was_not(gpu):
    def stop(records):
        if records[-1]["epoch"] == 1:
            raise KeyboardInterrupt

    wanted = train(captioner_of(), next_word, DEVICE, name="straight", epochs=2)
    with pytest.raises(KeyboardInterrupt):
        train(captioner_of(), next_word, DEVICE, name="stopped", epochs=2, on_epoch=stop)
    assert train(captioner_of(), next_word, DEVICE, name="stopped", epochs=2) == wanted


@pytest.mark.parametrize("attention", [True, False])
def test_dev_scores_and_examples_are_those_of_a_cpu(gpu, attention):
    sets, captioner = splits(), captioner_of(attention)
    scores = dev_scores(captioner, sets["dev"], VOCABULARY, DEVICE)
    examples = examples_of(captioner, sets["train"], DEVICE)
    assert not any(isinstance(part, GPUTensor) for part in examples)
    assert scores == dev_scores(captioner_of(attention), sets["dev"], VOCABULARY, CPU)
    wanted = examples_of(captioner_of(attention), sets["train"], CPU)
    assert torch.equal(examples.captions, wanted.captions)
    assert torch.allclose(examples.features, wanted.features, atol=1e-3)


# ---------------------------------------------------------------------------------- the two stages


@pytest.fixture
def world(tmp_path):
    """A folder with captions, vocabulary, encoder and both stores, made on the CPU."""
    torch.manual_seed(1)
    images = images_of(train=6, dev=2)
    photos = torch.randint(0, 256, (len(images), 32, 32, 3), dtype=torch.uint8)
    encoder = Encoder()
    calibrate(encoder, [photos])
    encoder.eval()
    save_encoder(tmp_path / "encoder.safetensors", encoder)
    write_text(tmp_path / "captions.jsonl", "".join(json.dumps(vars(image)) + "\n" for image in images))
    write_json(tmp_path / "vocabulary.json", VOCABULARY.as_dict())
    for layer in ("layer4", END):
        with torch.no_grad():
            rows = encoder(photos, stop=layer)
        valid_for = {"encoder": fingerprint(encoder), "layer": layer, "size": 32, "fit": "squash"}
        views = [View(image.image) for image in images]
        path = tmp_path / f"{layer}.h5"
        with new_store(path, views=views, shape=rows.shape[1:], dtype="float16", **valid_for) as store:
            store.write(0, rows)
    return tmp_path


@pytest.mark.parametrize("attention", [True, False])
def test_both_stages_run_on_a_gpu_and_write_models(world, gpu, attention):
    shared = {
        "captions": world / "captions.jsonl",
        "vocabulary": world / "vocabulary.json",
        "provenance": {"inputs": {}, "params": {}},
        "seed": 5,
    }
    settings = RECIPE | {"epochs": 1, "lr": 0.01, "weight_decay": 0.05}
    settings |= {"label_smoothing": 0.1, "scheduled_sampling": 0.25}
    train_decoder(
        **shared,
        grid_store=world / f"{END}.h5",
        start=world / "no start",
        model=world / "decoder.safetensors",
        curve=world / "train.csv",
        summary=world / "train.json",
        decoder=DecoderSettings(attention=attention, width=16, heads=2, tied=True, dropout=0.2, standardise=True),
        settings=TrainSettings(start=None, **settings),
    )
    trained = gpu.launches.total()
    finetune(
        **shared,
        boundary_store=world / "layer4.h5",
        encoder=world / "encoder.safetensors",
        decoder=world / "decoder.safetensors",
        model=world / "captioner.safetensors",
        curve=world / "finetune.csv",
        summary=world / "finetune.json",
        settings=FinetuneSettings(
            **settings,
            unfreeze_from="layer4",
            train_encoder=True,
            objective="cider",
            samples=3,
            next_word=0.5,
            adapt_epochs=1,
            adapt_lr=1e-3,
            adapt_encoder_lr=1e-3,
            encoder_lr=1e-3,
        ),
    )
    assert 0 < trained < gpu.launches.total()
    assert gpu.launches["convolution_backward"] > 0
    assert read_json(world / "finetune.json")["epochs"] == 2
    for name in ("decoder", "captioner"):
        captioner, _ = load_model(world / f"{name}.safetensors")
        assert captioner.examples is not None
        assert not any(isinstance(part, GPUTensor) for part in captioner.state_dict().values())
