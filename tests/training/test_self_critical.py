"""Self-critical training: the gradient is the policy gradient, and the reward grows."""

from collections import Counter

import pytest
import torch

from captioner.base.resume import Resume
from captioner.captions.dataset import CaptionedImage
from captioner.captions.vocabulary import BOS, EOS, PAD, UNK, Vocabulary
from captioner.model.captioner import Captioner
from captioner.model.decoder import Decoder
from captioner.model.search import sample
from captioner.training import self_critical
from captioner.training.batches import Batch, CaptionSet
from captioner.training.dev import DevEvaluation
from captioner.training.loop import LoopSettings, fit
from captioner.training.objectives import NextWord
from captioner.training.reward import Reward
from captioner.training.schedule import parameter_groups
from captioner.training.self_critical import SelfCritical
from tests.support.decoding import read_all

CPU = torch.device("cpu")
REFERENCES = {
    "a.jpg": ["A dog runs in the snow .", "Two dogs run through snow"],
    "b.jpg": ["A man sits on a bench .", "the man is sitting", "A man ."],
    "c.jpg": ["A dog sits .", "a brown dog is sitting on the bench"],
    "d.jpg": ["Snow"],
}


def small_decoder(words=3, seed=0, **changes):
    torch.manual_seed(seed)
    shape = {"width": 8, "heads": 2, "attention": True, "tied": False, "dropout": 0.0}
    return Decoder(vocabulary=words + 4, features=3, **shape | changes)


def log_probability(decoder, features, tokens):
    """Return the log-probability [len(tokens)] of each token of one caption, with what is never generated left out."""
    inputs = torch.tensor([[[BOS, *tokens[:-1]]]])
    hidden = read_all(decoder, decoder.encode(features[None]), inputs)
    logits = decoder.logits(hidden)[0, 0]
    allowed = [word for word in range(logits.shape[-1]) if word not in (PAD, BOS, UNK)]
    return torch.stack([step[word] - step[allowed].logsumexp(0) for step, word in zip(logits, tokens, strict=True)])


def test_captions_are_drawn_with_their_probability():
    decoder = small_decoder().eval()
    with torch.no_grad():
        decoder.output.bias[EOS] = 1.0
    features = torch.randn(2, 4, 3, generator=torch.Generator().manual_seed(1))
    torch.manual_seed(5)
    drawn = sample(decoder, decoder.encode(features), samples=6000, max_length=3)
    assert drawn.shape == (2, 6000, 3)
    for image in range(2):
        counts = Counter(map(tuple, drawn[image].tolist()))
        for tokens, count in counts.most_common(12):
            real = [token for token in tokens if token != PAD]
            assert tokens[len(real) :] == (PAD,) * (3 - len(real))
            assert EOS not in real[:-1]
            assert not {PAD, BOS, UNK} & set(real)
            with torch.no_grad():
                chance = log_probability(decoder, features[image], real).sum().exp().item()
            assert count / 6000 == pytest.approx(chance, abs=4 * (chance * (1 - chance) / 6000) ** 0.5)


def test_drawing_depends_on_the_seed_and_ends_when_all_have_ended():
    decoder = small_decoder().eval()
    memory = decoder.encode(torch.ones(2, 4, 3))

    def drawn(seed):
        torch.manual_seed(seed)
        return sample(decoder, memory, samples=5, max_length=20)

    assert torch.equal(drawn(1), drawn(1))
    assert drawn(1).shape != drawn(2).shape or not torch.equal(drawn(1), drawn(2))
    with torch.no_grad():
        decoder.output.bias[EOS] = 100.0
    assert (drawn(1) == EOS).all()
    assert drawn(1).shape == (2, 5, 1)


VOCABULARY = Vocabulary(words=("a", "dog", "runs", "snow", "man", "sits", "bench"), max_length=6)


def batch_of(images, rows):
    nothing = torch.zeros(0, dtype=torch.int64)
    return Batch(images=images, rows=rows, inputs=nothing, packed=None, targets=nothing, words=0)


def objective_of(references=REFERENCES, vocabulary=VOCABULARY, *, samples, weight=0.0):
    next_word = NextWord(label_smoothing=0.1)
    return SelfCritical(references, vocabulary, samples=samples, next_word=next_word, weight=weight)


def test_the_gradient_is_that_of_the_advantages_times_log_probabilities(monkeypatch):
    decoder = small_decoder(len(VOCABULARY.words))
    captioner = Captioner(decoder)
    rows = torch.randn(2, 2, 2, 3, generator=torch.Generator().manual_seed(1))
    tokens = torch.tensor([[[4, 5, 6, EOS], [5, EOS, PAD, PAD], [4, 5, 9, 7]], [[8, 9, EOS, PAD]] * 3])
    monkeypatch.setattr(self_critical, "sample", lambda *_, **__: tokens)
    objective = objective_of(samples=3)
    loss, measure = objective(captioner, batch_of(["a.jpg", "b.jpg"], rows))
    loss.value.backward()
    gradients = {name: parameter.grad.clone() for name, parameter in decoder.named_parameters()}

    wanted, rewards, count = 0.0, [], 0
    images = ["a.jpg", "b.jpg"]
    scored = Reward(REFERENCES, VOCABULARY)(images, tokens.numpy()).tolist()
    for row, drawn, each in zip(rows, tokens.tolist(), scored, strict=True):
        real = [[token for token in caption if token != PAD] for caption in drawn]
        for at, caption in enumerate(real):
            others = (sum(each) - each[at]) / 2
            wanted = wanted - (each[at] - others) * log_probability(decoder, row.flatten(0, 1), caption).sum()
            count += len(caption)
        rewards += each
    assert each[0] == each[1] == each[2]  # the second image's captions are alike: none is better than the others
    wanted = wanted / count
    decoder.zero_grad()
    wanted.backward()
    assert measure.value.item() == pytest.approx(sum(rewards) / 6)
    assert (loss.over, measure.over) == (count, 6)
    torch.testing.assert_close(loss.value, wanted.float())
    for name, parameter in decoder.named_parameters():
        torch.testing.assert_close(gradients[name], parameter.grad, rtol=1e-4, atol=1e-6)


def test_a_word_of_the_captions_counts_by_its_weight_beside_a_drawn_one(monkeypatch):
    ids = {"a.jpg": [[4, 5], [5, 6, 7]], "b.jpg": [[8, 9], [8]]}
    items = [
        CaptionedImage(image, split, REFERENCES[image], [[BOS, *words, EOS] for words in captions])
        for image, captions in ids.items()
        for split in ("train", "dev")
    ]
    features = torch.randn(2, 2, 2, 3, generator=torch.Generator().manual_seed(1))
    training = CaptionSet.of_splits(items, {"a.jpg": [0], "b.jpg": [1]}, features.__getitem__)["train"]
    (batch,) = training.batches(torch.arange(2), 2, CPU)
    tokens = torch.tensor([[[4, 5, EOS], [5, EOS, PAD]], [[8, 9, EOS], [8, 6, 7]]])
    monkeypatch.setattr(self_critical, "sample", lambda *_, **__: tokens)
    captioner = Captioner(small_decoder(len(VOCABULARY.words)))
    alone, _ = objective_of(samples=2)(captioner, batch)
    both, _ = objective_of(samples=2, weight=0.3)(captioner, batch)
    words, _ = NextWord(label_smoothing=0.1)(captioner, batch)
    assert (alone.over, both.over, words.over) == (11, 11, 12)
    torch.testing.assert_close(11 * both.value, 11 * alone.value + 0.3 * 12 * words.value)


def test_captions_are_sampled_in_eval_mode_and_learned_in_train_mode(monkeypatch):
    captioner, modes = Captioner(small_decoder(len(VOCABULARY.words))), []
    read = type(captioner.decoder).read

    def sample(decoder, *_, **__):
        modes.append(("sample", {module.training for module in captioner.modules()}))
        return torch.tensor([[[4, 5, EOS], [5, EOS, PAD]]])

    def noted_read(decoder, *args):
        modes.append(("read", {module.training for module in captioner.modules()}))
        return read(decoder, *args)

    monkeypatch.setattr(self_critical, "sample", sample)
    monkeypatch.setattr(type(captioner.decoder), "read", noted_read)
    objective = objective_of(samples=2)
    objective(captioner.train(), batch_of(["a.jpg"], torch.randn(1, 2, 2, 3)))
    assert modes == [("sample", {False}), ("read", {True})]
    assert captioner.training


@pytest.mark.parametrize("attention", [True, False])
def test_it_makes_better_captions_likelier(attention, tmp_path):
    words = ("red", "blue", "dog", "cat", "runs", "sits")
    vocabulary = Vocabulary(words=words, max_length=4)
    scenes = [[words[n & 1], words[2 + (n >> 1 & 1)], words[4 + (n >> 2 & 1)]] for n in range(24)]
    items = [
        CaptionedImage(f"{n}.jpg", "train" if n < 16 else "dev", [" ".join(scene)] * 2, [vocabulary.encode(scene)] * 2)
        for n, scene in enumerate(scenes)
    ]
    features = torch.tensor([[2.0 * (n >> bit & 1) - 1 for bit in range(3)] for n in range(24)])[:, None, None]
    sets = CaptionSet.of_splits(
        items,
        {item.image: [n] for n, item in enumerate(items)},
        features.__getitem__,
    )
    captioner = Captioner(small_decoder(len(words), width=16, attention=attention))

    def run(name, objective, epochs):
        groups = parameter_groups([captioner.decoder], name="decoder", lr=0.01, weight_decay=0.0)
        return fit(
            captioner,
            groups,
            sets["train"],
            DevEvaluation(sets["dev"], vocabulary, beam=1, device=CPU),
            objective,
            settings=LoopSettings(batch=8, warmup=0.5, clip=1.0, patience=99, ema=0.0, crop=1.0),
            epochs=epochs,
            seed=3,
            start_is_candidate=False,
            device=CPU,
            resume=Resume(name, {}, tmp_path),
            on_epoch=lambda records: None,
        )

    run("words", NextWord(label_smoothing=0.0), 3)
    records = run("rewards", objective_of(sets["train"].references, vocabulary, samples=16), 12)
    assert records[-1].keys() == {"epoch", "sampled CIDEr", "dev loss", "dev CIDEr", "learning rate"}
    rewards = [record["sampled CIDEr"] for record in records]
    assert sum(rewards[-3:]) > 1.2 * sum(rewards[:3])
