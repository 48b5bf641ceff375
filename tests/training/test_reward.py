"""The reward is the reference implementation's CIDEr of the decoded caption, where the end is a word."""

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pycocoevalcap.cider.cider_scorer import CiderScorer, cook_refs, cook_test

from captioner.base.errors import CaptionerError
from captioner.captions.ptb import ptb_tokens
from captioner.captions.vocabulary import EOS, PAD, UNK, Vocabulary
from captioner.scoring.scores import Cider
from captioner.training.reward import Reward

REFERENCES = {
    "a.jpg": ["A dog runs in the snow .", "Two dogs run through snow"],
    "b.jpg": ["A man sits on a bench .", "the man is sitting", "A man ."],
    "c.jpg": ["A dog sits .", "a brown dog is sitting on the bench", "It isn't the dog's bench (or is it?)"],
    "d.jpg": ["Snow", "..."],
}
LOWER = Vocabulary(words=("a", "dog", "runs", "in", "the", "snow", "man", "sits", "on", "bench", "zebra"), max_length=9)
# of one PTB token, of several, of none, and with capitals
MIXED = Vocabulary(words=("A", "Dog", "dog", "isn't", "dog's", "the", ".", "bench", "(", "two-dogs"), max_length=9)


def pycocoevalcap(image, text, end):
    """Return the CIDEr of tokens, a string, with `end` after each reference."""
    words = {name: [" ".join(ptb_tokens(each)) for each in texts] for name, texts in REFERENCES.items()}
    scorer = CiderScorer()
    scorer.crefs = [cook_refs([each + end for each in texts if each]) for texts in words.values()]
    scorer.document_frequency = Counter(ngram for cooked in scorer.crefs for ngram in set().union(*cooked))
    scorer.ctest = [cook_test(text)] * len(scorer.crefs)
    return scorer.compute_cider()[list(REFERENCES).index(image)]


@settings(max_examples=60, deadline=None, derandomize=True, database=None)
@pytest.mark.parametrize("vocabulary", [LOWER, MIXED])
@given(data=st.data())
def test_the_reward_is_cider_of_the_decoded_caption_and_its_end(vocabulary, data):
    word = st.integers(UNK, len(vocabulary) - 1)
    drawn = [
        [data.draw(st.lists(word, max_size=7)) + [EOS] * data.draw(st.integers(0, 1)) for _ in range(2)]
        for _ in REFERENCES
    ]
    tokens = np.array([[ids + [PAD] * (8 - len(ids)) for ids in captions] for captions in drawn])
    result = Reward(REFERENCES, vocabulary)(list(REFERENCES), tokens)
    for image, captions, rewards in zip(REFERENCES, drawn, result, strict=True):
        for ids, reward in zip(captions, rewards, strict=True):
            text = " ".join(ptb_tokens(vocabulary.decode(ids))) + " <end>" * (EOS in ids)
            assert reward == pytest.approx(pycocoevalcap(image, text, " <end>"), abs=1e-9)


@settings(max_examples=40, deadline=None, derandomize=True, database=None)
@given(st.lists(st.lists(st.sampled_from(LOWER.words), max_size=7), min_size=4, max_size=4))
def test_without_the_end_it_is_the_reported_cider(texts):
    hypotheses = {image: " ".join(text) for image, text in zip(REFERENCES, texts, strict=True)}
    _, wanted = Cider(REFERENCES).score(hypotheses)
    tokens = np.array([[[*LOWER.encode(text)[1:], *[PAD] * (7 - len(text))]] for text in texts])
    rewards = Reward(REFERENCES, LOWER, ended=False)(list(REFERENCES), tokens)
    assert rewards[:, 0] == pytest.approx(list(wanted.values()), abs=1e-9)


def rewards_of(image, *captions):
    tokens = np.array([LOWER.encode(caption.split())[1:] + [PAD] * (9 - len(caption.split())) for caption in captions])
    return Reward(REFERENCES, LOWER)([image], tokens[None])[0]


def test_an_ending_is_rewarded_where_the_references_end():
    complete, early = rewards_of("b.jpg", "a man sits on a bench", "a man sits on a")
    assert complete > early
    assert rewards_of("a.jpg", "")[0] < 0.1  # only its end is like theirs
    ids = LOWER.encode(["a", "man"])[1:]
    ended, cut = Reward(REFERENCES, LOWER)(["b.jpg"], np.array([[ids, [*ids[:2], PAD]]]))[0]
    assert ended > cut


@pytest.mark.parametrize(
    ("references", "message"),
    [({}, "no references"), ({"a.jpg": ["."]}, "a.jpg: no reference"), ({"a.jpg": ["a <unk>"]}, "a.jpg: <unk>")],
)
def test_references_that_cannot_be_scored_against_are_an_error(references, message):
    with pytest.raises(CaptionerError, match=message):
        Reward(references, LOWER)
