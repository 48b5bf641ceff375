"""Training: what is learned, what is frozen, and that an interruption changes nothing."""

import csv
import json
import logging
import math
import os
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file
from torch import nn

from captioner.base.device import mixed_precision
from captioner.base.errors import CaptionerError
from captioner.base.files import read_json, write_json, write_text
from captioner.base.resume import Resume, stage_provenance
from captioner.captions.dataset import CaptionedImage, read_captions
from captioner.captions.vocabulary import BOS, EOS, PAD, UNK, Vocabulary
from captioner.model.captioner import Captioner, load_model, save_model
from captioner.model.decoder import Decoder
from captioner.model.search import beam_search
from captioner.scoring.scores import score
from captioner.training import dev as dev_module
from captioner.training import finetune as finetune_stage
from captioner.training import loop
from captioner.training import train as train_stage
from captioner.training.batches import CaptionSet, random_window
from captioner.training.dev import DevEvaluation
from captioner.training.early_stopping import best_record
from captioner.training.finetune import FinetuneSettings, finetune
from captioner.training.loop import LoopSettings, fit
from captioner.training.objectives import NextWord, next_word_losses, sample_inputs
from captioner.training.schedule import parameter_groups, rate_scale
from captioner.training.self_critical import SelfCritical
from captioner.training.train import DecoderSettings, TrainSettings, train_decoder
from captioner.vision.encoder import END, Encoder, blocks_between, calibrate, fingerprint, save_encoder
from captioner.vision.store import FeatureStore, View, new_store
from tests.support.decoding import read_all

CPU = torch.device("cpu")
COLOURS, ANIMALS, VERBS = ("red", "blue"), ("dog", "cat"), ("runs", "sits")
VOCABULARY = Vocabulary(words=(*COLOURS, *ANIMALS, *VERBS), max_length=4)
LOOP = {"batch": 4, "warmup": 0.5, "clip": 1.0, "patience": 9, "ema": 0.0, "crop": 1.0}
RECIPE = {"epochs": 4} | LOOP


@pytest.fixture(autouse=True)
def _surroundings(monkeypatch, tmp_path):
    """Work in a folder of the test's own (`.resume/` is looked up from there), and undo make_deterministic."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CAPTIONER_DEVICE", "cpu")
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    before = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    yield
    torch.use_deterministic_algorithms(before[0], warn_only=before[1])


def scene(number):
    return [words[number >> bit & 1] for bit, words in enumerate((COLOURS, ANIMALS, VERBS))]


def captioned(name, split, number, captions=2):
    colour, animal, verb = scene(number)
    texts = [[colour, animal, verb], [animal, verb], [colour, animal]][:captions]
    return CaptionedImage(name, split, [" ".join(text) for text in texts], [VOCABULARY.encode(text) for text in texts])


def toy(train=16, dev=8, captions=lambda number: 2):
    """Return the images, and features [N, 2, 2, 3] that tell of each what there is to say, with some noise."""
    items = [captioned(f"{n}.jpg", "train" if n < train else "dev", n, captions(n)) for n in range(train + dev)]
    generator = torch.Generator().manual_seed(1)
    bits = torch.tensor([[float(n >> bit & 1) * 2 - 1 for bit in range(3)] for n in range(len(items))])
    return items, bits[:, None, None] + 0.1 * torch.randn(len(items), 2, 2, 3, generator=generator)


def sets_of(items, features):
    views = {item.image: [row] for row, item in enumerate(items)}
    splits = CaptionSet.of_splits(items, views, features.__getitem__)
    return splits["train"], splits["dev"]


def captioner_of(seed=1, **changes):
    torch.manual_seed(seed)
    shape = {"width": 16, "heads": 2, "attention": True, "tied": True, "dropout": 0.1}
    return Captioner(Decoder(vocabulary=len(VOCABULARY), features=3, **shape | changes))


def run(
    name="run",
    *,
    sets=None,
    captioner=None,
    objective=NextWord(label_smoothing=0.1),  # noqa: B008 - it keeps nothing
    on_epoch=lambda records: None,
    provenance=None,
    lr=0.01,
    **changes,
):
    """Fit a captioner (by default a new one) and return it with its records; `name` is of its resume state."""
    captioner = captioner or captioner_of()
    train, dev = sets or sets_of(*toy())
    loop_settings = LoopSettings(**{key: changes.pop(key, value) for key, value in LOOP.items()})
    records = fit(
        captioner,
        parameter_groups([captioner.decoder], name="decoder", lr=lr, weight_decay=0.05),
        train,
        DevEvaluation(dev, VOCABULARY, beam=1, device=CPU),
        objective,
        settings=loop_settings,
        device=CPU,
        resume=Resume(name, provenance or {}),
        on_epoch=on_epoch,
        **{"epochs": 4, "seed": 3, "start_is_candidate": False} | changes,
    )
    return captioner, records


def weights_of(module):
    return {key: value.clone() for key, value in module.state_dict().items()}


def assert_same(one, other):
    assert one.keys() == other.keys()
    for key in one:
        assert torch.equal(one[key], other[key]), key


class Stop:
    """An on_epoch that is interrupted after the given epochs, each once."""

    def __init__(self, *epochs):
        self.epochs = list(epochs)

    def __call__(self, records):
        epoch = records[-1]["epoch"] if records else None
        if epoch in self.epochs:
            self.epochs.remove(epoch)
            raise KeyboardInterrupt


class Scripted:
    """Stands in for Cider; gives the values it was told, one a dev evaluation."""

    def __init__(self, *values):
        self.values = iter(values)

    def __call__(self, references, language):
        return self

    def score(self, captions):
        return next(self.values), {}


# ---------------------------------------------------------------------------------------------- learning


@pytest.mark.parametrize("attention", [True, False])
def test_what_can_be_learned_is_learned(attention):
    captioner, records = run(captioner=captioner_of(attention=attention, dropout=0.0), epochs=14, lr=0.02, patience=99)
    assert [record["epoch"] for record in records] == list(range(1, 15))
    assert records[-1]["train loss"] < 0.4 * records[0]["train loss"]
    assert records[-1]["dev loss"] < 0.5 * records[0]["dev loss"]
    assert max(record["dev CIDEr"] for record in records) > 1
    assert records[-1].keys() == {"epoch", "train loss", "dev loss", "dev CIDEr", "learning rate"}
    assert not captioner.training


def test_the_rate_rises_and_falls_as_the_records_say():
    _, records = run(epochs=4, warmup=1, lr=0.01)  # 4 batches an epoch
    wanted = [0.01 * rate_scale(4 * epoch - 1, 16, 4) for epoch in (1, 2, 3, 4)]
    assert [record["learning rate"] for record in records] == pytest.approx(wanted)


def test_the_seed_decides_and_the_state_of_the_generator_does_not():
    first, records = run("one")
    torch.manual_seed(99)
    again, records_again = run("two", captioner=captioner_of())
    assert_same(first.state_dict(), again.state_dict())
    assert records == records_again
    other, _ = run("three", seed=4)
    assert not torch.equal(first.decoder.embedding.weight, other.decoder.embedding.weight)


def plain_losses(captioner, rows, ids):
    """Return the losses of every target, and of all words at it, caption by caption."""
    target_losses, uniform_losses = [], []
    for row, captions in zip(rows, ids, strict=True):
        for caption in captions:
            hidden = read_all(captioner.decoder, captioner.encode(row[None]), torch.tensor([[caption[:-1]]]))
            log_p = captioner.decoder.logits(hidden)[0, 0].log_softmax(-1)
            target_losses.append(F.nll_loss(log_p, torch.tensor(caption[1:]), reduction="none"))
            uniform_losses.append(-log_p.mean(-1))
    return torch.cat(target_losses).mean(), torch.cat(uniform_losses).mean()


@pytest.mark.parametrize("counts", [[2], [1, 3], [3, 2, 1]])
def test_losses_are_those_of_each_caption_alone(counts):
    items, features = toy(captions=lambda number: counts[number % len(counts)])
    items[2].ids[0] = [1, 4, 6, 8, 5]  # cut: without <eos>
    train, _ = sets_of(items, features)
    captioner = captioner_of().eval()
    order = torch.tensor([5, 2, 0, 11, 3])
    batches = list(train.batches(order, 3, CPU))
    assert [len(batch.rows) for batch in batches] == [3, 2]
    for chosen, batch in zip(order.split(3), batches, strict=True):
        ids = [items[number].ids for number in chosen.tolist()]
        assert batch.words == sum(len(caption) - 1 for captions in ids for caption in captions)
        assert (batch.targets == EOS).sum() == sum(caption[-1] == EOS for captions in ids for caption in captions)
        assert batch.inputs.shape[2] == max(len(caption) - 1 for captions in ids for caption in captions)
        wanted = plain_losses(captioner, features[chosen], ids)
        torch.testing.assert_close(next_word_losses(captioner, batch), wanted)


@pytest.mark.parametrize("share", [0.25, 1.0])
def test_a_share_of_the_words_read_are_what_the_decoder_predicts_in_their_place(share):
    items, features = toy(captions=lambda number: 3)
    items[2].ids[0] = [BOS, 4, 6, 8, 5, 7]  # cut: without <eos>, and what follows its last word is read by nobody
    captioner = captioner_of(tied=False).eval()
    (batch,) = sets_of(items, features)[0].batches(torch.arange(16), 16, CPU)
    memory = captioner.encode(batch.rows)
    own = 9
    with torch.no_grad():
        captioner.decoder.output.weight.zero_()
        captioner.decoder.output.bias.fill_(-50.0)[own] = 50.0  # always this word
        captioner.decoder.output.bias[[PAD, BOS, UNK, EOS]] = 99.0  # which are likelier, and never read
    inputs = sample_inputs(captioner.decoder, memory, batch, share)
    changed = inputs != batch.inputs
    assert set(inputs[changed].tolist()) == {own}
    follow = (batch.inputs != PAD) & (batch.inputs != BOS) & (batch.inputs != EOS)  # words
    assert not (changed & ~follow).any()
    differing = (batch.inputs[follow] != own).sum()
    if share == 1:
        assert changed.sum() == differing
    else:
        assert 0.1 * differing < changed.sum() < 0.4 * differing
    assert (sample_inputs(captioner.decoder, memory, batch, share) != inputs).any() == (share < 1)  # drawn anew


def test_reading_scheduled_sampling_leaves_every_gradient_in_mixed_precision(monkeypatch):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_bf16": True})
    monkeypatch.delenv("CAPTIONER_PRECISION", raising=False)
    captioner = captioner_of()
    (batch,) = sets_of(*toy())[0].batches(torch.arange(16), 16, CPU)
    with mixed_precision(CPU):  # keeps weights that it has rounded, those of a pass without gradients too
        mean, _ = NextWord(label_smoothing=0.1, scheduled_sampling=0.5)(captioner, batch)
    mean.value.backward()
    for name, parameter in captioner.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.any(), name


@pytest.mark.parametrize("objective", [NextWord(label_smoothing=0.1), "self-critical"])
def test_training_in_float32_computes_no_padding(monkeypatch, objective):
    monkeypatch.setenv("CAPTIONER_PRECISION", "float32")
    training, _ = sets_of(*toy(captions=lambda number: 1 + number % 3))
    if objective == "self-critical":
        objective = SelfCritical(
            training.references, VOCABULARY, samples=2, next_word=NextWord(label_smoothing=0.1), weight=0.0
        )
    captioner, computed = captioner_of(), []
    captioner.decoder.output.register_forward_hook(lambda module, inputs, output: computed.append(len(output)))
    (batch,) = training.batches(torch.arange(16), 16, CPU)
    loss, _ = objective(captioner, batch)
    assert computed[-1] == loss.over


def test_a_decoder_learns_from_its_scheduled_sampling():
    _, records = run(objective=NextWord(label_smoothing=0.1, scheduled_sampling=0.5), epochs=8)
    assert records[-1]["train loss"] < 0.8 * records[0]["train loss"]


@settings(max_examples=60, deadline=None, derandomize=True, database=None)
@given(
    captions=st.lists(
        st.lists(st.lists(st.integers(3, 9), max_size=6), min_size=1, max_size=4), min_size=1, max_size=7
    ),
    size=st.integers(1, 4),
    data=st.data(),
)
def test_targets_are_the_words_of_the_captions_and_else_padding(captions, size, data):
    items = [
        CaptionedImage(f"{number}.jpg", "train", ["a dog"], [[BOS, *words, EOS] for words in several])
        for number, several in enumerate(captions)
    ]
    views = {item.image: [row] for row, item in enumerate(items)}
    chosen = CaptionSet._of("train", items, views, torch.Tensor.float)
    order = torch.tensor(data.draw(st.permutations(range(len(items)))))
    target_words = []
    for batch in chosen.batches(order, size, CPU):
        words = batch.targets != PAD
        assert words.sum() == batch.words
        assert batch.inputs.flatten()[batch.packed.places][words].ne(PAD).all()  # each target has a word to follow
        assert batch.packed.sizes.sum() == len(batch.targets)
        target_words += [id for id in batch.targets[batch.packed.places.argsort()].tolist() if id != PAD]
    assert target_words == [id for number in order.tolist() for ids in items[number].ids for id in ids[1:]]


def test_images_with_different_numbers_of_captions_train():
    sets = sets_of(*toy(captions=lambda number: 1 + number % 3))
    assert sets[0].ids.shape == (16, 3, 5)
    assert (sets[0].ids[0, 1:] == PAD).all()
    _, records = run(sets=sets, epochs=8, lr=0.02)
    assert records[-1]["train loss"] < 0.6 * records[0]["train loss"]


def test_a_batch_is_no_larger_for_an_image_with_many_captions_in_another_batch():
    train, _ = sets_of(*toy(captions=lambda number: 3 if number == 15 else 1))
    small, large = train.batches(torch.tensor([0, 1, 2, 15]), 2, CPU)
    assert small.inputs.shape[:2] == (2, 1)
    assert large.inputs.shape[:2] == (2, 3)


def test_a_gpu_with_too_little_memory_is_an_error_that_says_what_to_lower():
    def exhausting(captioner, batch):
        raise torch.OutOfMemoryError(
            "CUDA out of memory. Tried to allocate 20.00 GiB. GPU 0 has a total capacity of 8.00 GiB of which 1 is free"
        )

    exhausting.measure = "train loss"
    with pytest.raises(CaptionerError) as caught:
        run(objective=exhausting, epochs=1)
    assert str(caught.value) == (
        "the GPU has too little memory (CUDA out of memory. Tried to allocate 20.00 GiB); "
        "lower train.batch or finetune.batch, or finetune.samples, in params.yaml"
    )


@pytest.mark.parametrize(("count", "warned"), [(16, False), (17, True)])
def test_more_processes_than_images_in_a_batch_are_warned_about(monkeypatch, caplog, count, warned):
    monkeypatch.setattr("captioner.training.loop.processes", lambda: count)
    run(epochs=1, batch=16)
    assert ("a batch has 16 images for 17 processes, so some do nothing; start fewer" in caplog.messages) == warned


def test_a_split_holds_the_images_that_have_features():
    items, features = toy()
    views = {item.image: [row] for row, item in enumerate(items) if row not in (0, 20)}
    splits = CaptionSet.of_splits(items, views, features.__getitem__)
    assert len(splits["train"]) == 15
    assert splits["train"].images[0] == "1.jpg"
    assert torch.equal(splits["train"].views[0], torch.tensor([1]))
    assert "20.jpg" not in splits["dev"].references
    with pytest.raises(CaptionerError, match="dev split"):
        CaptionSet.of_splits(items[:16], views, features.__getitem__)


@pytest.mark.parametrize("mean", [False, True])
def test_each_epoch_draws_a_view_of_each_training_image_and_dev_has_the_first_or_both(mean):
    items, features = toy()
    views = {
        item.image: [row, len(items) + row] if item.split == "train" or mean else [row]
        for row, item in enumerate(items)
    }
    read = []

    def both(rows):
        read.append(rows)
        return torch.cat((features, -features))[rows]

    splits = CaptionSet.of_splits(items, views, both)
    run(sets=(splits["train"], splits["dev"]), epochs=3)
    of_training = torch.stack([rows for rows in read if (rows % len(items) < 16).all()]).view(3, 16)
    of_dev = torch.cat([rows for rows in read if (rows % len(items) >= 16).all()])
    assert of_training.numel() + of_dev.numel() == sum(map(len, read))
    assert (of_dev >= len(items)).any() == mean
    for epoch in of_training:
        assert sorted((epoch % len(items)).tolist()) == list(range(16))
        assert 1 < (epoch >= len(items)).sum() < 15
    seen = [set((epoch[epoch >= len(items)] % len(items)).tolist()) for epoch in of_training]
    assert seen[0] != seen[1] != seen[2]


def test_a_crop_is_a_window_of_each_map_at_a_place_of_its_own():
    rows = torch.arange(50 * 10 * 6 * 2).view(50, 10, 6, 2)
    torch.manual_seed(1)
    sizes, places = set(), set()
    for _ in range(40):
        windows = random_window(rows, 0.65)
        images, height, width, channels = windows.shape
        assert (images, channels) == (50, 2)
        sizes.add((height, width))
        for row, window in zip(rows, windows, strict=True):
            top, left = divmod(int(window[0, 0, 0] - row[0, 0, 0]) // 2, 6)
            assert torch.equal(window, row[top : top + height, left : left + width])
            places.add((top + height <= 10, left + width <= 6, top, left))
    assert sizes == {(height, width) for height in (8, 10) for width in (4, 6)}
    assert {place[2:] for place in places} == {(top, left) for top in range(3) for left in range(3)}


@pytest.mark.parametrize("batch", [3, 16, 20])
def test_a_thread_that_reads_ahead_changes_no_batch_and_no_draw(batch):
    items, _ = toy()
    train, _ = sets_of(items, torch.rand(len(items), 5, 5, 3))

    def batches(prefetch):
        torch.manual_seed(1)
        for each in train.batches(torch.arange(16), batch, CPU, crop=0.5, prefetch=prefetch):
            torch.rand(())  # as dropout draws between batches
            yield each

    for ahead, plain in zip(list(batches(True)), list(batches(False)), strict=True):
        assert ahead.images == plain.images
        assert torch.equal(ahead.rows, plain.rows)
        assert torch.equal(ahead.targets, plain.targets)


def test_a_thread_that_reads_ahead_passes_errors_on():
    train, _ = sets_of(*toy())

    def read(rows):
        if 7 in rows:
            raise OSError("the disk is gone")
        return train.read(rows)

    broken = CaptionSet(train.images, train.references, train.ids, train.views, read)
    batches = broken.batches(torch.arange(16), 4, CPU, prefetch=True)
    next(batches)
    with pytest.raises(OSError, match="disk"):
        next(batches)


def test_without_a_crop_nothing_is_drawn():
    rows = torch.rand(3, 4, 4, 2)
    torch.manual_seed(1)
    before = torch.get_rng_state()
    assert random_window(rows, 1.0) is rows
    assert torch.equal(torch.get_rng_state(), before)


def test_training_images_are_cropped_and_dev_images_never(monkeypatch):
    items, _ = toy()
    trained, measured = set(), []

    class Seeing(NextWord):
        def __call__(self, captioner, batch):
            trained.add(tuple(batch.rows.shape[1:3]))
            return super().__call__(captioner, batch)

    def losses(captioner, batch, scheduled_sampling=0.0):
        if not captioner.training:
            measured.append(tuple(batch.rows.shape[1:3]))
        return next_word_losses(captioner, batch)

    monkeypatch.setattr(dev_module, "next_word_losses", losses)
    sets = sets_of(items, torch.rand(len(items), 5, 5, 3))
    run(sets=sets, objective=Seeing(label_smoothing=0.1), crop=0.5, epochs=6)
    assert len(trained) > 3
    assert all(3 <= side <= 5 for shape in trained for side in shape)
    assert measured == [(5, 5)] * 6


# ------------------------------------------------------------------------- what a step does, each by itself


def test_every_step_trains_in_train_mode_also_a_captioner_that_comes_in_eval_mode():
    modes = []

    class Noting(NextWord):
        def __call__(self, captioner, batch):
            modes.append({module.training for module in captioner.modules()})
            return super().__call__(captioner, batch)

    captioner = captioner_of().eval()
    run(captioner=captioner, objective=Noting(label_smoothing=0.1), epochs=2)
    assert modes == [{True}] * 8
    assert not captioner.training


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 0.5])
def test_label_smoothing_is_that_of_torch_and_the_measure_has_none(smoothing):
    captioner = captioner_of().eval()
    (batch,) = sets_of(*toy(captions=lambda number: 1 + number % 3))[0].batches(torch.arange(16), 16, CPU)
    memory = captioner.encode(batch.rows)
    logits = captioner.decoder.logits(captioner.decoder(memory, batch.inputs, batch.packed))
    loss, measure = NextWord(label_smoothing=smoothing)(captioner, batch)
    wanted = F.cross_entropy(logits, batch.targets, ignore_index=PAD, label_smoothing=smoothing)
    torch.testing.assert_close(loss.value, wanted)
    torch.testing.assert_close(measure.value, F.cross_entropy(logits, batch.targets, ignore_index=PAD))
    assert not measure.value.requires_grad


@pytest.mark.parametrize("clip", [0.01, 1e9])
def test_no_step_has_a_gradient_longer_than_clip(monkeypatch, clip):
    norms = []

    class Noting(torch.optim.AdamW):
        def step(self, *args):
            each = [parameter.grad.norm() for group in self.param_groups for parameter in group["params"]]
            norms.append(torch.stack(each).norm().item())
            super().step(*args)

    monkeypatch.setattr(torch.optim, "AdamW", Noting)
    run(epochs=1, clip=clip)
    assert len(norms) == 4
    if clip == 0.01:
        assert norms == pytest.approx([clip] * 4, rel=1e-3)
    else:
        assert min(norms) > 0.02  # not shortened, nor lengthened to the limit
        assert max(norms) < 1e3


@pytest.mark.parametrize("train_encoder", [True, False])
def test_frozen_blocks_get_no_gradient_and_are_not_in_the_resume_state(world, tmp_path, monkeypatch, train_encoder):
    seen, fit_ = [], finetune_stage.fit

    def noting(captioner, groups, *args, **options):
        records = fit_(captioner, groups, *args, **options)
        state = options["resume"].load()
        seen.append((captioner, {each for group in groups for each in group["params"]}, state))
        return records

    monkeypatch.setattr(finetune_stage, "fit", noting)
    finetune_on(world, tmp_path, "layer4", train_encoder=train_encoder)
    ((captioner, trained, state),) = seen
    names = {name for name, _ in captioner.named_parameters()}
    moving = {name for name in names if name.startswith(("decoder.", "encoder.layer4.")[: 1 + train_encoder])}
    assert {name for name in names if captioner.get_parameter(name).grad is not None} == moving
    assert {captioner.get_parameter(name) for name in moving} == trained
    for part in ("weights", "averaged", "best"):
        assert state[part].keys() == moving
    if not train_encoder:
        assert fingerprint(captioner.encoder) == load_model(world / "decoder.safetensors")[1].encoder
    summary = read_json(tmp_path / "finetune.json")
    assert summary["trained parameters"] == sum(captioner.get_parameter(name).numel() for name in moving)
    (tmp_path / "captioner.safetensors").unlink()


# ------------------------------------------------------------------------------------- rates and groups


@settings(max_examples=60, deadline=None, derandomize=True, database=None)
@given(steps=st.integers(1, 200), share=st.floats(0, 1))
def test_the_rate_rises_in_a_line_to_its_peak_then_falls_to_zero(steps, share):
    warmup = round(share * steps)
    scales = [rate_scale(step, steps, warmup) for step in range(steps)]
    assert all(0 < scale <= 1 for scale in scales)
    assert scales[:warmup] == pytest.approx([(step + 1) / warmup for step in range(warmup)])
    assert scales[warmup:] == sorted(scales[warmup:], reverse=True)
    if warmup < steps:
        assert scales[warmup] == 1
        assert rate_scale(steps, steps, warmup) == pytest.approx(0, abs=1e-12)
        assert rate_scale(warmup + (steps - warmup) / 2, steps, warmup) == pytest.approx(0.5)


@pytest.mark.parametrize("tied", [True, False])
def test_matrices_decay_and_vectors_do_not_and_each_parameter_is_listed_once(tied):
    decoder = captioner_of(tied=tied).decoder
    groups = parameter_groups([decoder, decoder.output, nn.BatchNorm2d(3)], name="all", lr=0.3, weight_decay=0.07)
    listed = [parameter for group in groups for parameter in group["params"]]
    assert len({*listed}) == len(listed) == len(list(decoder.parameters())) + 2
    for group in groups:
        assert group["peak_lr"] == 0.3
        for parameter in group["params"]:
            assert group["weight_decay"] == (0.07 if parameter.ndim > 1 else 0)
    decayed = {*groups[0]["params"]}
    assert decoder.lstm.weight_hh_l0 in decayed
    assert not {decoder.lstm.bias_hh_l0, decoder.output.bias, decoder.output_norm.weight} & decayed


# ----------------------------------------------------------------------------- best epoch, early stopping


def test_the_best_epoch_is_kept_and_patience_ends_the_run(monkeypatch):
    monkeypatch.setattr(dev_module, "Cider", Scripted(0.1, 0.5, 0.4, 0.45, 0.2, 0.9))
    at_epoch = {}
    captioner = captioner_of()

    def keep(records):
        if records:
            at_epoch[records[-1]["epoch"]] = weights_of(captioner)

    _, records = run(captioner=captioner, on_epoch=keep, epochs=6, patience=3)
    assert [record["dev CIDEr"] for record in records] == [0.1, 0.5, 0.4, 0.45, 0.2]
    assert_same(captioner.state_dict(), at_epoch[2])
    assert not torch.equal(at_epoch[2]["decoder.embedding.weight"], at_epoch[4]["decoder.embedding.weight"])


def test_of_epochs_with_equal_cider_that_of_the_lowest_dev_loss_is_the_best():
    records = [{"epoch": n, "dev CIDEr": 0.0, "dev loss": loss} for n, loss in enumerate([3.0, 2.0, 2.0, 2.5], 1)]
    assert best_record(records)["epoch"] == 2
    records[3]["dev CIDEr"] = 0.1
    assert best_record(records)["epoch"] == 4


def test_a_later_better_epoch_resets_patience(monkeypatch):
    monkeypatch.setattr(dev_module, "Cider", Scripted(0.5, 0.4, 0.6, 0.5, 0.4, 0.9))
    _, records = run(epochs=6, patience=2)
    assert [record["dev CIDEr"] for record in records] == [0.5, 0.4, 0.6, 0.5, 0.4]


def test_the_given_weights_win_as_epoch_0_where_training_spoils_them(monkeypatch):
    monkeypatch.setattr(dev_module, "Cider", Scripted(0.5, 0.4, 0.3, 0.2))
    captioner = captioner_of()
    before = weights_of(captioner)
    _, records = run(captioner=captioner, start_is_candidate=True, patience=2)
    assert [record["epoch"] for record in records] == [0, 1, 2]
    assert records[0].keys() == {"epoch", "dev loss", "dev CIDEr"}
    assert_same(captioner.state_dict(), before)


# ------------------------------------------------------------------------------------------- interruption


@pytest.mark.parametrize("ema", [0.0, 0.6, 0.99])
def test_the_average_of_the_weights_is_what_is_measured_and_kept(monkeypatch, ema):
    after = []

    class Noted(torch.optim.AdamW):
        def step(self, *args):
            super().step(*args)
            after.append([each.detach().clone() for group in self.param_groups for each in group["params"]])

    monkeypatch.setattr(torch.optim, "AdamW", Noted)
    captioner = captioner_of()
    wanted = [
        each.detach().clone()
        for group in parameter_groups([captioner], name="all", lr=0, weight_decay=0)
        for each in group["params"]
    ]
    monkeypatch.setattr(DevEvaluation, "__call__", lambda *_: {"dev loss": 1.0, "dev CIDEr": len(after) / 100})
    run(captioner=captioner, epochs=3, ema=ema)
    assert len(after) == 12
    for step, weights in enumerate(after):
        decay = min(ema, (1 + step) / (10 + step))
        wanted = [decay * average + (1 - decay) * weight for average, weight in zip(wanted, weights, strict=True)]
    result = [
        each for group in parameter_groups([captioner], name="all", lr=0, weight_decay=0) for each in group["params"]
    ]
    for one, other in zip(result, wanted, strict=True):
        torch.testing.assert_close(one.detach(), other, rtol=1e-5, atol=1e-6)
    assert all(map(torch.equal, result, after[-1])) == (ema == 0)


@pytest.mark.parametrize(("candidate", "ema"), [(True, 0.0), (False, 0.6)])
@pytest.mark.parametrize("epochs", [(1,), (2,), (4,), (1, 2, 3, 4), (None, 0, 2)], ids=str)
def test_an_interrupted_run_ends_like_one_that_was_not(epochs, candidate, ema):
    wanted, wanted_records = run("whole", start_is_candidate=candidate, ema=ema)
    stop = Stop(*epochs)
    if not candidate and 0 in stop.epochs:
        stop.epochs.remove(0)
    if candidate and None in stop.epochs:
        stop.epochs.remove(None)
    while stop.epochs:
        with pytest.raises(KeyboardInterrupt):
            run("cut", on_epoch=stop, start_is_candidate=candidate, ema=ema)
    seen = []
    weights, records = run(
        "cut", on_epoch=lambda records: seen.append(len(records)), start_is_candidate=candidate, ema=ema
    )
    assert records == wanted_records
    assert_same(weights.state_dict(), wanted.state_dict())
    if epochs == (2,):
        assert seen == [2 + candidate, 3 + candidate, 4 + candidate]  # it did go on, and did not start over


def test_a_run_interrupted_within_an_epoch_goes_on_after_the_last_whole_one():
    train, dev = sets_of(*toy())
    wanted, wanted_records = run("whole", sets=(train, dev))
    calls = []

    def read(chosen):
        calls.append(chosen)
        if len(calls) == 4 * 2 + 2:
            raise KeyboardInterrupt
        return train.read(chosen)

    cut = CaptionSet(train.images, train.references, train.ids, train.views, read)
    with pytest.raises(KeyboardInterrupt):
        run("cut", sets=(cut, dev))
    before = len(calls)
    result, records = run("cut", sets=(cut, dev))
    assert len(calls) - before == 4 * 2
    assert records == wanted_records
    assert_same(result.state_dict(), wanted.state_dict())


def test_an_interruption_does_not_bring_a_new_epoch_of_patience(monkeypatch):
    monkeypatch.setattr(dev_module, "Cider", Scripted(0.5, 0.4, 0.3, 0.9))
    with pytest.raises(KeyboardInterrupt):
        run(on_epoch=Stop(3), patience=2)
    _, records = run(patience=2)
    assert [record["epoch"] for record in records] == [1, 2, 3]


def test_the_state_of_another_fingerprint_is_not_used():
    with pytest.raises(KeyboardInterrupt):
        run(on_epoch=Stop(2), provenance={"params": {"lr": 1}})
    for made_from, wanted in (({"params": {"lr": 2}}, None), ({"params": {"lr": 1}}, 2)):
        first = []
        run(
            on_epoch=lambda records, first=first: first.append(records[-1]["epoch"] if records else None),
            provenance=made_from,
        )
        assert first[0] == wanted


@pytest.mark.parametrize("keep", [0, 10, 0.5, -1, b"not a state"])
def test_a_damaged_state_is_ignored_with_a_warning(keep, caplog):
    wanted, wanted_records = run("whole")
    with pytest.raises(KeyboardInterrupt):
        run("cut", on_epoch=Stop(2))
    path = Resume("cut", {}).path
    content = path.read_bytes()
    if isinstance(keep, bytes):
        path.write_bytes(keep)
    else:
        path.write_bytes(content[: int(keep * len(content)) if isinstance(keep, float) else keep])
    result, records = run("cut")
    assert any(record.levelno == logging.WARNING and path.name in record.getMessage() for record in caplog.records)
    assert records == wanted_records
    assert_same(result.state_dict(), wanted.state_dict())


class Harmful:
    def __reduce__(self):
        return Path.touch, (Path("harm"),)


def test_a_state_runs_no_code():
    resume = Resume("cut", {})
    resume.save({"records": Harmful()})
    assert resume.load() is None
    assert not Path("harm").exists()


def test_a_state_is_replaced_whole_and_removed_for_its_stage_only():
    train, other, tune = Resume("train", {"a": 1}), Resume("train", {"a": 2}), Resume("finetune", {"a": 1})
    assert train.load() is None
    for resume in (train, other, tune):
        resume.save({"records": [1], "weights": {"w": torch.ones(2)}})
    with pytest.raises(Exception, match="pickle"):
        train.save({"records": lambda: None})
    assert train.load()["records"] == [1]
    assert {path.name for path in Path(".resume").iterdir()} == {train.path.name, other.path.name, tune.path.name}
    train.remove()
    assert [path.name for path in Path(".resume").iterdir()] == [tune.path.name]


# --------------------------------------------------------------------------------------- non-finite losses


@pytest.mark.parametrize("check_every", [1, 2, 3, 20])
def test_a_loss_that_is_not_finite_stops_the_run_and_keeps_the_last_good_epoch(monkeypatch, check_every):
    monkeypatch.setattr(loop, "CHECK_EVERY", check_every)
    train, dev = sets_of(*toy())
    calls, good = [], {}
    captioner = captioner_of()

    def read(chosen):
        calls.append(chosen)
        return train.read(chosen) * (math.nan if len(calls) == 4 + 3 else 1)  # the third batch of epoch 2

    def keep(records):
        if records:
            good.update(weights_of(captioner))

    broken = CaptionSet(train.images, train.references, train.ids, train.views, read)
    with pytest.raises(CaptionerError) as caught:
        run(sets=(broken, dev), captioner=captioner, on_epoch=keep)
    text = str(caught.value)
    assert "epoch 2, batch 3 " in text
    assert all(name in text for name, _ in captioner.named_parameters())
    state = Resume("run", {}).load()
    assert [record["epoch"] for record in state["records"]] == [1]
    assert_same(state["weights"], {name: good[name] for name, _ in captioner.named_parameters()})
    assert all(value.isfinite().all() for value in state["weights"].values())


def test_a_gradient_that_is_not_finite_is_told_with_its_batch():
    captioner, calls = captioner_of(), []

    def spoil(gradient):
        calls.append(1)
        return gradient * math.inf if len(calls) == 4 else gradient  # the last batch of epoch 1

    captioner.decoder.output.bias.register_hook(spoil)
    with pytest.raises(CaptionerError, match=r"epoch 1, batch 4 \(gradient norm (inf|nan)\)"):
        run(captioner=captioner)


# ------------------------------------------------------------------------------------------- what is made


def test_what_a_stage_is_made_from_changes_with_its_inputs_and_params_only():
    Path("input.csv").write_text("1")
    Path("code.py").write_text("2")
    Path("dvc.yaml").write_text(
        "stages:\n  train:\n    cmd: x\n    deps: [input.csv, code.py]\n    params: [seed, train.lr]\n"
        "  finetune:\n    cmd: x\n    deps: [code.py]\n"
    )

    def provenance(lr=0.1, seed=1, epochs=3):
        Path("params.yaml").write_text(json.dumps({"seed": seed, "train": {"lr": lr, "epochs": epochs}}))
        return stage_provenance("train")

    first = provenance()
    assert first["params"] == {"seed": 1, "train.lr": 0.1}
    assert first["inputs"].keys() == {"input.csv", "code.py"}
    assert provenance(epochs=9) == first
    paths = {Resume("train", given).path for given in (first, provenance(lr=0.2), provenance(seed=2))}
    for name in ("input.csv", "code.py"):
        text = Path(name).read_text()
        Path(name).write_text("changed")
        assert provenance() != first
        paths.add(Resume("train", provenance()).path)
        Path(name).write_text(text)
    assert provenance() == first
    assert len(paths) == 5
    assert stage_provenance("finetune") == {"inputs": {"code.py": first["inputs"]["code.py"]}, "params": {}}


# ---------------------------------------------------------------------------------- the two training stages

SIZE, TRAIN, DEV = 32, 8, 4
IMAGE = {"size": SIZE, "fit": "squash"}


def write_stores(folder, encoder, pictures, images):
    """Write the store of grids and those of the boundaries that are fine-tuned from."""
    with torch.no_grad():
        for layer in (END, "layer4", "layer3", "conv1"):
            rows = pictures if layer == "conv1" else encoder(pictures, stop=layer)
            dtype = "uint8" if layer == "conv1" else "float16"
            valid_for = {"encoder": fingerprint(encoder), "layer": layer, **IMAGE}
            with new_store(
                folder / f"{layer}.h5",
                views=[View(name) for name in images],
                shape=rows.shape[1:],
                dtype=dtype,
                **valid_for,
            ) as store:
                store.write(0, rows)


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """A folder with captions, vocabulary, encoder, stores and a trained decoder, all tiny."""
    folder = tmp_path_factory.mktemp("world")
    torch.manual_seed(1)
    numbers = range(TRAIN + DEV)
    pictures = torch.randint(0, 256, (TRAIN + DEV, SIZE, SIZE, 3), dtype=torch.uint8)
    for number in numbers:
        pictures[number] //= torch.tensor([1 + 2 * (number >> bit & 1) for bit in range(3)], dtype=torch.uint8)
    items = [captioned(f"{n}.jpg", "train" if n < TRAIN else "dev", n) for n in numbers]
    write_text(folder / "captions.jsonl", "".join(json.dumps(vars(item)) + "\n" for item in items))
    write_json(folder / "vocabulary.json", VOCABULARY.as_dict())
    encoder = Encoder()
    calibrate(encoder, [pictures])
    encoder.eval()
    save_encoder(folder / "encoder.safetensors", encoder)
    write_stores(folder, encoder, pictures, [item.image for item in items])
    here = os.getcwd()
    os.chdir(folder)  # not to leave a .resume/ anywhere else
    try:
        train_on(folder, folder)
    finally:
        os.chdir(here)
    yield folder
    shutil.rmtree(folder)


def train_on(world, out, **changes):
    arguments = {
        "captions": world / "captions.jsonl",
        "vocabulary": world / "vocabulary.json",
        "grid_store": world / "end.h5",
        "start": out / "no start",
        "model": out / "decoder.safetensors",
        "curve": out / "train.csv",
        "summary": out / "train.json",
        "provenance": {"inputs": {}, "params": {"of": "train"}},
        "seed": 5,
    }
    decoder = {"attention": True, "width": 16, "heads": 2, "tied": True, "dropout": 0.2, "standardise": True}
    settings = RECIPE | {
        "start": None,
        "lr": 0.01,
        "weight_decay": 0.05,
        "label_smoothing": 0.1,
        "scheduled_sampling": 0.0,
    }
    arguments |= {key: changes.pop(key) for key in arguments.keys() & changes.keys()}
    decoder |= {key: changes.pop(key) for key in decoder.keys() & changes.keys()}
    train_decoder(**arguments, decoder=DecoderSettings(**decoder), settings=TrainSettings(**settings | changes))


def finetune_on(world, out, boundary, **changes):
    arguments = {
        "captions": world / "captions.jsonl",
        "vocabulary": world / "vocabulary.json",
        "boundary_store": world / f"{boundary}.h5",
        "encoder": world / "encoder.safetensors",
        "decoder": world / "decoder.safetensors",
        "model": out / "captioner.safetensors",
        "curve": out / "finetune.csv",
        "summary": out / "finetune.json",
        "provenance": {"inputs": {}, "params": {"of": "finetune"}},
        "seed": 5,
    }
    settings = RECIPE | {
        "unfreeze_from": boundary,
        "train_encoder": True,
        "epochs": 1,
        "objective": "cross-entropy",
        "samples": 3,
        "next_word": 0.5,
        "label_smoothing": 0.1,
        "scheduled_sampling": 0.0,
        "adapt_epochs": 0,
        "adapt_lr": 1e-3,
        "adapt_encoder_lr": 1e-3,
        "lr": 1e-3,
        "encoder_lr": 1e-3,
        "weight_decay": 0.05,
    }
    arguments |= {key: changes.pop(key) for key in arguments.keys() & changes.keys()}
    finetune(**arguments, settings=FinetuneSettings(**settings | changes))


def curve_of(path):
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


@pytest.mark.parametrize("attention", [True, False])
def test_train_writes_model_curve_and_summary_and_no_state(world, tmp_path, attention):
    train_on(world, tmp_path, attention=attention)
    captioner, card = load_model(tmp_path / "decoder.safetensors")
    assert captioner.encoder is None
    assert card.encoder == FeatureStore(world / "end.h5").attributes["encoder"]
    assert (card.start, card.image, card.vocabulary) == (END, IMAGE, VOCABULARY)
    assert card.decoder["attention"] == attention
    assert card.provenance["params"] == {"of": "train"}
    assert "torch" in card.provenance["versions"]
    rows = curve_of(tmp_path / "train.csv")
    assert [row["epoch"] for row in rows] == ["1", "2", "3", "4"]
    assert list(rows[0]) == ["epoch", "train loss", "dev loss", "dev CIDEr", "learning rate"]
    best = max(rows, key=lambda row: (float(row["dev CIDEr"]), -float(row["dev loss"])))
    summary = read_json(tmp_path / "train.json")
    assert (summary["epochs"], summary["best epoch"]) == (4, int(best["epoch"]))
    assert summary["dev CIDEr"] == float(best["dev CIDEr"])
    assert summary["parameters"] == sum(parameter.numel() for parameter in captioner.parameters())
    assert summary["dev, beam 3"] == dev_scores_of(world, captioner, card)
    require_examples_of_the_training_images(world, captioner, FeatureStore(world / "end.h5"))
    assert list(Path(".resume").iterdir()) == []


@pytest.mark.parametrize("attention", [True, False])
def test_features_are_standardised_by_the_training_views_if_the_params_say_so(world, tmp_path, attention):
    store = FeatureStore(world / "end.h5")
    images = [item.image for item in read_captions(world / "captions.jsonl") if item.split == "train"]
    values = store.read([row for image in images for row in store.views[image]]).double()
    values = (values if attention else values.mean((1, 2), keepdim=True)).flatten(0, 2)
    decoders = []
    for name, standardise in (("with", True), ("without", False)):
        (tmp_path / name).mkdir()
        train_on(world, tmp_path / name, attention=attention, standardise=standardise, epochs=1)
        decoders.append(load_model(tmp_path / name / "decoder.safetensors")[0].decoder)
    torch.testing.assert_close(decoders[0].feature_mean.double(), values.mean(0), rtol=1e-5, atol=1e-6)
    deviation = values.std(0, correction=0)
    varies = deviation > 0.01 * deviation.mean()
    torch.testing.assert_close(decoders[0].feature_scale.double()[varies], deviation[varies], rtol=1e-4, atol=1e-6)
    assert varies.sum() > 100
    assert decoders[1].feature_mean.eq(0).all()
    assert decoders[1].feature_scale.eq(1).all()


def require_examples_of_the_training_images(world, captioner, store):
    """Each with its captions and its mean feature, by this captioner's encoder and of the view that is not mirrored."""
    images = [item for item in read_captions(world / "captions.jsonl") if item.split == "train"]
    rows = store.read([store.rows[item.image] for item in images])
    with torch.no_grad():
        wanted = captioner.features(rows).float().mean(1)
    torch.testing.assert_close(captioner.examples.features.float(), wanted, rtol=1e-2, atol=1e-3)
    assert captioner.examples.captions.dtype == torch.int32
    for item, captions in zip(images, captioner.examples.captions.tolist(), strict=True):
        examples_kept = [[id for id in caption if id != PAD] for caption in captions]
        assert [caption for caption in examples_kept if caption] == [ids[1:] for ids in item.ids]


def dev_scores_of(world, captioner, card):
    """BLEU-4 and CIDEr of the dev captions that a beam of 3 finds, from the files."""
    store = FeatureStore(world / "end.h5")
    dev = [item for item in read_captions(world / "captions.jsonl") if item.split == "dev"]
    rows = [store.rows[item.image] for item in dev]
    memory = captioner.encode(store.read(rows))
    searched = beam_search(captioner.decoder, memory, beam=3, max_length=card.vocabulary.max_length, length_penalty=1.0)
    captions = [card.vocabulary.decode(beams[0]) for beams in searched.tokens.tolist()]
    generated = dict(zip([item.image for item in dev], captions, strict=True))
    scores, _ = score({item.image: item.raw for item in dev}, generated, meteor=False)
    return {name: pytest.approx(scores[name], abs=1e-5) for name in ("BLEU-4", "CIDEr")}


def stop_in(stage, epoch, monkeypatch):
    """Interrupt a stage once, after it wrote the curve of that epoch."""
    stop, write_curve = Stop(epoch), stage.write_curve

    def write_and_stop(path, records, measures):
        write_curve(path, records, measures)
        stop(records)

    monkeypatch.setattr(stage, "write_curve", write_and_stop)


def test_train_starts_from_a_model_and_counts_it_as_epoch_0(world, tmp_path):
    (tmp_path / "start").mkdir()
    shutil.copy(world / "decoder.safetensors", tmp_path / "start" / "captioner.safetensors")
    train_on(world, tmp_path, start=tmp_path / "start", standardise=False, epochs=1, lr=1e-9)
    rows = curve_of(tmp_path / "train.csv")
    assert [row["epoch"] for row in rows] == ["0", "1"]
    best = max(float(row["dev CIDEr"]) for row in curve_of(world / "train.csv"))
    assert float(rows[0]["dev CIDEr"]) == pytest.approx(best, abs=1e-5)
    before, after = (load_model(folder / "decoder.safetensors")[0].decoder for folder in (world, tmp_path))
    for name, value in before.state_dict().items():
        torch.testing.assert_close(after.state_dict()[name], value, rtol=0, atol=1e-5, msg=name)


def test_train_interrupted_and_run_again_gives_the_same_files(world, tmp_path, monkeypatch):
    stop_in(train_stage, 2, monkeypatch)
    with pytest.raises(KeyboardInterrupt):
        train_on(world, tmp_path)
    assert not (tmp_path / "decoder.safetensors").exists()
    assert len(curve_of(tmp_path / "train.csv")) == 2  # it can be looked at while the stage runs
    train_on(world, tmp_path)
    for name in ("decoder.safetensors", "train.csv", "train.json"):
        assert (tmp_path / name).read_bytes() == (world / name).read_bytes()


@pytest.mark.parametrize("images", [5, 9])
@pytest.mark.parametrize("attention", [True, False])
def test_a_batch_of_one_image_trains(world, tmp_path, monkeypatch, attention, images):
    """5 training images in batches of 4 leave one for the last; so do 9."""
    items = read_captions(world / "captions.jsonl")
    more = [vars(item) | {"split": "train" if at < images else "dev"} for at, item in enumerate(items)]
    write_text(tmp_path / "captions.jsonl", "".join(json.dumps(item) + "\n" for item in more))
    train_on(world, tmp_path, captions=tmp_path / "captions.jsonl", attention=attention, epochs=1)
    assert len(curve_of(tmp_path / "train.csv")) == 1


def test_a_dev_split_of_one_image_fine_tunes(world, tmp_path):
    items = read_captions(world / "captions.jsonl")[: TRAIN + 1]
    write_text(tmp_path / "captions.jsonl", "".join(json.dumps(vars(item)) + "\n" for item in items))
    finetune_on(world, tmp_path, "layer4", captions=tmp_path / "captions.jsonl")
    assert len(curve_of(tmp_path / "finetune.csv")) == 2
    assert read_json(tmp_path / "finetune.json")["interpolation"]["share"] == 100  # CIDEr of one image is 0
    (tmp_path / "captioner.safetensors").unlink()


def test_each_part_has_its_own_randomness(world, tmp_path, monkeypatch):
    seeds = []
    fit = finetune_stage.fit

    def seen(*arguments, seed, **settings):
        seeds.append(seed)
        return fit(*arguments, seed=seed, **settings)

    monkeypatch.setattr(finetune_stage, "fit", seen)
    for seed in (1, 2):
        finetune_on(world, tmp_path, "layer4", seed=seed, objective="cider", adapt_epochs=1, epochs=1)
    assert len({1, 2, *seeds}) == 6
    (tmp_path / "captioner.safetensors").unlink()


@pytest.mark.parametrize("boundary", ["layer4", "layer3", "conv1"])
def test_finetune_changes_the_unfrozen_blocks_only_and_starts_from_the_frozen_encoder(
    world, tmp_path, monkeypatch, boundary
):
    monkeypatch.setattr(dev_module, "Cider", Scripted(0.1, 0.2))  # so that epoch 1 is the best
    finetune_on(world, tmp_path, boundary)
    captioner, card = load_model(tmp_path / "captioner.safetensors")
    frozen, frozen_card = load_model(world / "decoder.safetensors")
    assert (card.start, card.encoder, card.image) == (boundary, frozen_card.encoder, IMAGE)
    before = Encoder()
    before.load_state_dict(load_file(world / "encoder.safetensors"))
    after = captioner.encoder.state_dict()
    changed = {key for key, value in before.state_dict().items() if not torch.equal(value, after[key])}
    parameters = {name for name, _ in before.named_parameters()}
    unfrozen = {*blocks_between(boundary)} | ({"bn1"} if boundary == "conv1" else set())
    assert changed == {name for name in parameters if name.split(".")[0] in unfrozen}
    assert not torch.equal(captioner.decoder.embedding.weight, frozen.decoder.embedding.weight)
    for name in ("feature_mean", "feature_scale"):
        assert torch.equal(getattr(captioner.decoder, name), getattr(frozen.decoder, name))
    assert frozen.decoder.feature_mean.ne(0).any()
    require_examples_of_the_training_images(world, captioner, FeatureStore(world / f"{boundary}.h5"))

    rows = curve_of(tmp_path / "finetune.csv")
    assert [row["epoch"] for row in rows] == ["0", "1"]
    assert rows[0]["train loss"] == rows[0]["learning rate"] == ""
    best = read_json(world / "train.json")
    assert float(rows[0]["dev loss"]) == pytest.approx(best["dev loss"], rel=5e-3)  # cached equals recomputed
    summary = read_json(tmp_path / "finetune.json")
    assert (summary["best epoch"], summary["epochs"]) == (1, 1)
    trained = [p for name, p in before.named_parameters() if name.split(".")[0] in unfrozen]
    trained += list(frozen.parameters())
    assert summary["trained parameters"] == sum(parameter.numel() for parameter in trained)
    assert list(Path(".resume").iterdir()) == []
    (tmp_path / "captioner.safetensors").unlink()  # 45 MB


def test_the_rate_in_the_curve_of_finetune_is_the_decoders(world, tmp_path):
    finetune_on(world, tmp_path, "layer4", lr=1e-3, encoder_lr=1e-5, epochs=2, batch=8, warmup=1)
    assert [float(row["learning rate"]) for row in curve_of(tmp_path / "finetune.csv")[1:]] == [1e-3, 1e-3]


@pytest.mark.parametrize("objective", ["cross-entropy", "cider"])
def test_finetune_interrupted_and_run_again_gives_the_same_files(world, tmp_path, monkeypatch, objective):
    recipe = {"objective": objective, "scheduled_sampling": 0.5, "epochs": 2}
    finetune_on(world, tmp_path / "whole", "layer4", **recipe)
    stop_in(finetune_stage, 1, monkeypatch)
    with pytest.raises(KeyboardInterrupt):
        finetune_on(world, tmp_path / "cut", "layer4", **recipe)
    assert list(Path(".resume").iterdir()) != []
    assert not (tmp_path / "cut" / "captioner.safetensors").exists()
    finetune_on(world, tmp_path / "cut", "layer4", **recipe)
    for name in ("captioner.safetensors", "finetune.csv", "finetune.json"):
        complete, cut = tmp_path / "whole" / name, tmp_path / "cut" / name
        assert cut.read_bytes() == complete.read_bytes()
    for folder in ("whole", "cut"):
        shutil.rmtree(tmp_path / folder)


@pytest.mark.slow
@pytest.mark.parametrize("epoch", [1, 2, 3])
def test_finetune_interrupted_before_in_and_after_the_change_of_objective(world, tmp_path, monkeypatch, epoch):
    recipe = {"objective": "cider", "adapt_epochs": 2, "adapt_lr": 0.02, "lr": 0.01, "epochs": 2}
    finetune_on(world, tmp_path / "whole", "layer4", **recipe)
    stop_in(finetune_stage, epoch, monkeypatch)
    with pytest.raises(KeyboardInterrupt):
        finetune_on(world, tmp_path / "cut", "layer4", **recipe)
    assert len(curve_of(tmp_path / "cut" / "finetune.csv")) == epoch + 1
    finetune_on(world, tmp_path / "cut", "layer4", **recipe)
    assert list(Path(".resume").iterdir()) == []
    for name in ("captioner.safetensors", "finetune.csv", "finetune.json"):
        assert (tmp_path / "cut" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    rows = curve_of(tmp_path / "whole" / "finetune.csv")
    assert [row["epoch"] for row in rows] == ["0", "1", "2", "3", "4"]
    assert [bool(row["train loss"]) for row in rows] == [False, True, True, False, False]
    assert [bool(row["sampled CIDEr"]) for row in rows] == [False, False, False, True, True]
    for folder in ("whole", "cut"):
        shutil.rmtree(tmp_path / folder)


def test_the_second_objective_goes_on_from_the_best_epoch_of_the_first(world, tmp_path, monkeypatch):
    monkeypatch.setattr(dev_module, "Cider", Scripted(0.1, 0.4, 0.3, 0.4, 0.2))  # epochs 0, 1, 2; the start again, 3
    begun = []
    interpolate = finetune_stage.interpolate

    def seen(captioner, start, measure):
        begun.append({name: value.clone() for name, value in start.items()})
        return interpolate(captioner, start, measure)

    monkeypatch.setattr(finetune_stage, "interpolate", seen)
    finetune_on(world, tmp_path, "layer4", objective="cider", adapt_epochs=2, epochs=1)
    summary = read_json(tmp_path / "finetune.json")
    assert (summary["best epoch"], summary["epochs"]) == (1, 3)
    assert summary["interpolation"]["share"] == 100  # there is no way between equal weights
    assert list(summary["interpolation"]["dev CIDEr"]) == ["100 %"]
    captioner, _ = load_model(tmp_path / "captioner.safetensors")
    for name, value in captioner.named_parameters():
        assert torch.equal(value, begun[0][name]), name
    frozen, _ = load_model(world / "decoder.safetensors")
    assert not torch.equal(captioner.decoder.embedding.weight, frozen.decoder.embedding.weight)
    (tmp_path / "captioner.safetensors").unlink()


def test_finetune_that_only_spoils_gives_back_the_frozen_model(world, tmp_path, monkeypatch):
    monkeypatch.setattr(dev_module, "Cider", Scripted(0.2, 0.1))
    finetune_on(world, tmp_path, "layer4")
    captioner, _ = load_model(tmp_path / "captioner.safetensors")
    frozen, card = load_model(world / "decoder.safetensors")
    assert_same(captioner.decoder.state_dict(), frozen.decoder.state_dict())
    assert fingerprint(captioner.encoder) == card.encoder
    assert read_json(tmp_path / "finetune.json")["best epoch"] == 0
    (tmp_path / "captioner.safetensors").unlink()


def test_finetune_takes_the_smallest_share_of_the_way_whose_dev_score_is_as_good_as_the_best(
    world, tmp_path, monkeypatch
):
    ciders = iter([0.1, 0.3, 0.496, 0.5, 0.4, 0.1, 0.2, 0.3, 0.494, 0.5])
    monkeypatch.setattr(finetune_stage, "dev_scores", lambda *arguments: {"BLEU-4": 0.1, "CIDEr": next(ciders)})
    frozen, _ = load_model(world / "decoder.safetensors")
    decoders, summaries = [], []
    for _ in range(2):
        monkeypatch.setattr(dev_module, "Cider", Scripted(0.1, 0.2))
        finetune_on(world, tmp_path, "layer4")
        captioner, _ = load_model(tmp_path / "captioner.safetensors")
        decoders.append(captioner.decoder.state_dict())
        summaries.append(read_json(tmp_path / "finetune.json"))
    scores = {"20 %": 0.1, "40 %": 0.3, "60 %": 0.496, "80 %": 0.5, "100 %": 0.4}
    assert summaries[0]["interpolation"] == {"share": 60, "dev CIDEr": scores}
    assert summaries[0]["dev, beam 3"] == {"BLEU-4": 0.1, "CIDEr": 0.496}
    assert summaries[1]["interpolation"]["share"] == 100  # 80 % is more than LEVEL below it
    for name, first in frozen.decoder.state_dict().items():
        torch.testing.assert_close(decoders[0][name], first + 0.6 * (decoders[1][name] - first))
    assert not torch.equal(decoders[0]["embedding.weight"], decoders[1]["embedding.weight"])
    (tmp_path / "captioner.safetensors").unlink()


def refused(world, out, boundary="layer4", **changes):
    with pytest.raises(CaptionerError) as caught:
        finetune_on(world, out, boundary, **changes)
    assert not list(out.glob("*.safetensors"))
    return str(caught.value)


def test_finetune_refuses_a_decoder_of_another_vocabulary(world, tmp_path):
    for words, longest in ((("blue", *VOCABULARY.words[1:]), 4), (VOCABULARY.words, 5)):
        write_json(tmp_path / "vocabulary.json", Vocabulary(words, longest).as_dict())
        text = refused(world, tmp_path, vocabulary=tmp_path / "vocabulary.json")
        assert "decoder.safetensors: trained with another vocabulary" in text


def test_finetune_refuses_a_decoder_that_captions_the_mean_if_the_store_has_one_view(world, tmp_path):
    captioner, metadata = load_model(world / "decoder.safetensors")
    save_model(tmp_path / "other/decoder.safetensors", captioner, replace(metadata, mean=True))
    text = refused(world, tmp_path, decoder=tmp_path / "other/decoder.safetensors")
    assert "decoder.safetensors: trained with another views.mean than" in text
    shutil.rmtree(tmp_path / "other")


def test_finetune_refuses_a_decoder_of_another_encoder(world, tmp_path):
    torch.manual_seed(2)
    other = tmp_path / "other"
    save_encoder(other / "encoder.safetensors", Encoder())
    text = refused(world, tmp_path, encoder=other / "encoder.safetensors")
    assert "decoder.safetensors: trained on features of another encoder" in text
    shutil.rmtree(other)


@pytest.mark.parametrize("boundary", ["layer3", "conv1", END])
def test_finetune_refuses_a_store_of_another_boundary(world, tmp_path, boundary):
    text = refused(world, tmp_path, boundary_store=world / f"{boundary}.h5")
    assert f"{boundary}.h5: made for layer {boundary}, expected layer4" in text


def test_finetune_refuses_a_store_of_another_encoder_or_view(world, tmp_path):
    _, card = load_model(world / "decoder.safetensors")
    for key, value in (("size", 64), ("fit", "crop"), ("encoder", "f" * 64)):
        valid_for = {"encoder": card.encoder, "layer": "layer4", **IMAGE} | {key: value}
        with new_store(
            tmp_path / "other.h5", views=[View("0.jpg")], shape=(2, 2, 256), dtype="float16", **valid_for
        ) as store:
            store.write(0, torch.zeros(1, 2, 2, 256))
        assert f"other.h5: made for {key} {value}" in refused(world, tmp_path, boundary_store=tmp_path / "other.h5")


@pytest.mark.parametrize("kind", ["missing", "truncated"])
def test_finetune_refuses_a_decoder_that_is_not_whole(world, tmp_path, kind):
    folder = tmp_path / "models"
    save_model(folder / "decoder.safetensors", *load_model(world / "decoder.safetensors"))
    path = folder / "decoder.safetensors"
    path.unlink() if kind == "missing" else path.write_bytes(path.read_bytes()[:-5])
    assert "decoder.safetensors" in refused(world, tmp_path, decoder=path)
