"""Beam search, against exhaustive search over a decoder that is a table."""

from functools import cache
from itertools import product

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from captioner.captions.vocabulary import BOS, EOS, PAD, UNK
from captioner.model import search
from captioner.model.decoder import Decoder, Memory
from captioner.model.search import beam_search, draw, forbidden, sample
from tests.support.decoding import read_all

property_of = settings(max_examples=25, deadline=None, derandomize=True, database=None)
seeds = st.integers(0, 10_000)
penalties = st.sampled_from([0.0, 0.7, 1.0, 1.6])


class Table:
    """A decoder whose next-word log-probabilities are drawn anew for each image and beginning of a caption.

    It has what beam_search uses. An image is a number; the state is all that has been read, after that number.
    """

    def __init__(self, words=2, sharpness=1.5):
        self.size = 4 + words
        self.sharpness = sharpness
        self.log_p = cache(self._log_p)

    def _log_p(self, image, beginning):
        drawn = np.random.default_rng([image, *beginning]).standard_normal(self.size) * self.sharpness
        return torch.from_numpy(drawn).log_softmax(-1)

    def encode(self, images):
        return Memory(start=(torch.tensor(images).view(-1, 1, 1),), keys=None, values=None)

    def step(self, memory, words, state, places, captions):
        [read] = state
        assert len(words) == len(places) == len(read) > 0
        assert (read[:, 0] == memory.start[0].flatten()[places // captions]).all()  # each after its own image's state
        assert not (read[:, 1:] == EOS).any()  # what is finished is computed no more
        read = torch.cat((read, words.unsqueeze(-1)), dim=-1)
        return torch.stack([self.log_p(image, tuple(beginning)) for image, *beginning in read.tolist()]), (read,)

    def logits(self, hidden):
        return hidden

    def score(self, image, caption, penalty):
        """Return log-probability / length ** penalty of a caption's ids, with its <eos> if it has one."""
        read = (BOS,)
        total = 0.0
        for token in caption:
            total += self.log_p(image, read)[token].item()
            read += (token,)
        return total / len(caption) ** penalty

    def captions(self, longest):
        """Return all captions of at most `longest` tokens; those that reach it without <eos> have none."""
        words = range(4, self.size)
        ended = [(*body, EOS) for length in range(longest) for body in product(words, repeat=length)]
        return ended + list(product(words, repeat=longest))


def caption_of(tokens):
    """Return the ids up to the <eos>, without padding; anything after the <eos> must be padding."""
    if EOS in tokens:
        end = tokens.index(EOS) + 1
        assert set(tokens[end:]) <= {PAD}
        return tuple(tokens[:end])
    return tuple(tokens)


def beams_of(decoder, images, beam, longest, penalty):
    """Return for each image the [(caption, score)] of its beams, without those that are not there."""
    beams = beam_search(decoder, decoder.encode(images), beam=beam, max_length=longest, length_penalty=penalty)
    assert beams.tokens.shape == (len(images), beams.scores.shape[1], longest)
    assert beams.scores.shape[1] <= beam
    return [
        [(caption_of(ids), score) for ids, score in zip(*pair, strict=True) if score > -np.inf]
        for pair in zip(beams.tokens.tolist(), beams.scores.tolist(), strict=True)
    ]


@pytest.mark.parametrize("penalty", [0.0, 0.7, 1.0])
@pytest.mark.parametrize(("words", "longest"), [(2, 1), (2, 4), (3, 3), (1, 5)])
def test_a_beam_as_wide_as_all_captions_finds_what_exhaustive_search_finds(penalty, words, longest):
    decoder, images = Table(words), [5, 6, 7]
    captions = decoder.captions(longest)
    for image, beams in zip(images, beams_of(decoder, images, len(captions) + 3, longest, penalty), strict=True):
        wanted = {caption: decoder.score(image, caption, penalty) for caption in captions}
        assert [caption for caption, _ in beams] == sorted(wanted, key=wanted.get, reverse=True)
        assert [score for _, score in beams] == pytest.approx(sorted(wanted.values(), reverse=True), abs=1e-5)


@property_of
@given(seed=seeds, words=st.integers(1, 5), longest=st.integers(1, 7), penalty=penalties)
def test_a_beam_of_one_is_greedy(seed, words, longest, penalty):
    decoder, caption = Table(words), ()
    while len(caption) < longest and EOS not in caption:
        allowed = decoder.log_p(seed, (BOS, *caption)).clone()
        allowed[[PAD, BOS, UNK]] = -torch.inf
        caption += (int(allowed.argmax()),)
    [[(tokens_found, _)]] = beams_of(decoder, [seed], 1, longest, penalty)
    assert tokens_found == caption


@property_of
@given(seed=seeds, beam=st.integers(1, 6), words=st.integers(1, 4), longest=st.integers(1, 6), penalty=penalties)
def test_beams_are_different_sorted_captions_of_words_with_their_true_scores(seed, beam, words, longest, penalty):
    decoder, images = Table(words, sharpness=2.5), [seed, seed + 1]
    for image, beams in zip(images, beams_of(decoder, images, beam, longest, penalty), strict=True):
        captions, scores = [caption for caption, _ in beams], [score for _, score in beams]
        assert captions
        assert len(set(captions)) == len(captions)
        for caption in captions:
            body = caption[:-1] if caption[-1] == EOS else caption
            assert all(word >= 4 for word in body)  # <pad>, <bos>, <unk> and a second <eos> never
            assert caption[-1] == EOS or len(caption) == longest
        assert scores == sorted(scores, reverse=True)
        assert scores == pytest.approx([decoder.score(image, caption, penalty) for caption in captions], abs=1e-5)


@property_of
@given(seed=seeds, beam=st.integers(1, 5), longest=st.integers(1, 6), penalty=penalties)
def test_images_together_find_what_each_finds_alone(seed, beam, longest, penalty):
    decoder, images = Table(3, sharpness=3.0), [seed, seed + 1, seed + 2, seed]
    together = beams_of(decoder, images, beam, longest, penalty)
    assert together == [beams_of(decoder, [image], beam, longest, penalty)[0] for image in images]
    assert together[0] == together[3]


class Wordy(Table):
    """Holds <unk>, <pad> and <bos> for certain, and likes to end."""

    def _log_p(self, image, beginning):
        drawn = np.random.default_rng([image, *beginning]).standard_normal(self.size)
        drawn[[PAD, BOS, UNK]] += 12
        drawn[EOS] += 1
        return torch.from_numpy(drawn).log_softmax(-1)


@pytest.mark.parametrize("beam", [1, 3, 5])
def test_the_likeliest_special_tokens_are_never_generated_and_still_cost_what_they_cost(beam):
    decoder, images = Wordy(4), list(range(8))
    for image, beams in zip(images, beams_of(decoder, images, beam, 6, 1.0), strict=True):
        for caption, score in beams:
            assert not {PAD, BOS, UNK} & {*caption}
            assert score == pytest.approx(decoder.score(image, caption, 1.0), abs=1e-4)
            assert score < -8  # not normalised anew over what remains


class Scripted(Table):
    """Ends at once with the probability 0.6 or says word 4 with 0.4; after a word it surely says it again."""

    def _log_p(self, image, beginning):
        p = torch.full((self.size,), 1e-9, dtype=torch.float64)
        if len(beginning) == 1:
            p[EOS], p[4] = 0.6, 0.4
        else:
            p[4] = 1.0
        return p.log()


def test_a_finished_caption_keeps_its_place_only_while_it_is_among_the_best():
    decoder = Scripted(1)
    ended, unended = np.log(0.6), np.log(0.4)
    for penalty, wanted in (
        (0.0, [((EOS,), ended), ((4,) * 5, unended)]),
        (1.0, [((4,) * 5, unended / 5), ((EOS,), ended)]),
    ):
        [beams] = beams_of(decoder, [0], 2, 5, penalty)
        assert [caption for caption, _ in beams] == [caption for caption, _ in wanted]
        assert [score for _, score in beams] == pytest.approx([score for _, score in wanted], abs=1e-5)
    [[(greedy, _)]] = beams_of(decoder, [0], 1, 5, 1.0)
    assert greedy == (EOS,)


@pytest.mark.parametrize("attention", [True, False])
@pytest.mark.parametrize("beam", [1, 3])
@torch.inference_mode()
def test_the_real_decoder_finds_for_images_together_what_it_finds_for_each(attention, beam):
    torch.manual_seed(1)
    decoder = Decoder(vocabulary=12, features=6, width=8, heads=2, attention=attention, tied=False, dropout=0.5).eval()
    for parameter in decoder.parameters():
        torch.nn.init.normal_(parameter, std=0.9)
    decoder.output.bias[EOS] += 2.5
    features = torch.randn(6, 4, 6)
    options = {"beam": beam, "max_length": 7, "length_penalty": 0.7}
    together = beam_search(decoder, decoder.encode(features), **options)
    assert len({tuple(ids) for ids in together.tokens[:, 0].tolist()}) > 1
    assert len({ids.index(EOS) if EOS in ids else 7 for ids in together.tokens[:, 0].tolist()}) > 1
    for image in range(6):
        alone = beam_search(decoder, decoder.encode(features[image : image + 1]), **options)
        torch.testing.assert_close(alone.scores[0], together.scores[image], rtol=1e-4, atol=1e-5)
        assert [*map(caption_of, alone.tokens[0].tolist())] == [*map(caption_of, together.tokens[image].tolist())]
        for ids, score in zip(together.tokens[image].tolist(), together.scores[image].tolist(), strict=True):
            assert score == pytest.approx(score_of(decoder, features[image], caption_of(ids), 0.7), abs=1e-4)


def score_of(decoder, features, caption, penalty):
    """Recompute a caption's score by reading it all at once."""
    read = torch.tensor([[[BOS, *caption[:-1]]]])
    hidden = read_all(decoder, decoder.encode(features[None]), read)
    log_p = decoder.logits(hidden).log_softmax(-1)[0, 0]
    return log_p[range(len(caption)), list(caption)].sum().item() / len(caption) ** penalty


@pytest.mark.parametrize("every", [2, 4, 50])
@pytest.mark.parametrize("attention", [True, False])
def test_the_captions_drawn_do_not_depend_on_how_often_their_end_is_looked_for(monkeypatch, attention, every):
    torch.manual_seed(1)
    decoder = Decoder(vocabulary=12, features=6, width=8, heads=2, attention=attention, tied=False, dropout=0.5).eval()
    with torch.no_grad():
        decoder.output.bias[EOS] += 1.0
        memory = decoder.encode(torch.randn(3, 4, 6))

    def drawn(seed):
        torch.manual_seed(seed)
        return sample(decoder, memory, samples=2, max_length=20)

    wanted = [drawn(seed) for seed in range(6)]
    assert len({tokens.shape[-1] for tokens in wanted}) > 2
    monkeypatch.setattr(search, "_words_between_looks", lambda device: every)
    for seed, tokens in enumerate(wanted):
        assert torch.equal(drawn(seed), tokens)


def test_what_is_forbidden_is_never_drawn_and_can_be_trained_with():
    with torch.inference_mode():
        never = forbidden(9, torch.device("cpu"), EOS)
    assert never.nonzero().flatten().tolist() == [PAD, BOS, EOS, UNK]
    logits = torch.zeros(4000, 9)
    logits[:, :4] = 50.0
    words = draw(logits, never)
    assert set(words.tolist()) == {4, 5, 6, 7, 8}
    assert logits[:, :4].eq(50).all()  # unchanged
    weights = torch.zeros(9, requires_grad=True)
    weights.masked_fill(never, -torch.inf).logsumexp(0).backward()
    assert weights.grad[never].eq(0).all()


def test_the_largest_random_number_draws_the_last_word_that_is_allowed(monkeypatch):
    """The sum of the probabilities is rounded, so it may be less than this number."""
    never = forbidden(500, torch.device("cpu"), 498, 499)
    logits = torch.randn(300, 500, generator=torch.Generator().manual_seed(0))
    largest = 1 - 2.0**-24
    assert (logits.masked_fill(never, -torch.inf).softmax(-1).cumsum(-1)[:, -1] < largest).any()
    monkeypatch.setattr(torch, "rand_like", lambda like: torch.full_like(like, largest))
    assert set(draw(logits, never).tolist()) == {497}
