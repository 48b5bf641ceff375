"""The choice among beams by the training images that look alike."""

from dataclasses import asdict
from functools import partial

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from captioner.base.files import read_json
from captioner.captions.vocabulary import EOS, PAD, Vocabulary
from captioner.model.captioner import Captioner, Examples
from captioner.model.consensus import Consensus
from captioner.model.decoder import Decoder
from captioner.model.generate import generate
from captioner.model.search import beam_search
from captioner.scoring.scores import Cider
from dev import search
from tests.support.workspaces import ROOT

WORDS = Vocabulary(words=tuple("abcdefgh"), max_length=6)
LONGEST = 6
captions = st.lists(st.sampled_from(WORDS.words), min_size=1, max_size=LONGEST - 1)


def padded(texts, length=LONGEST):
    """Return texts as token ids with their ends, [len(texts), length]."""
    ids = [WORDS.encode(text if isinstance(text, list) else text.split())[1:] for text in texts]
    return np.array([[*tokens, *[PAD] * (length - len(tokens))] for tokens in ids])


def of(images, features=None, **options):
    """Return the consensus of images given as lists of captions; some have fewer than others."""
    most = max(map(len, images))
    ids = np.stack([np.pad(padded(texts), ((0, most - len(texts)), (0, 0))) for texts in images])
    return Consensus(np.eye(len(images)) if features is None else features, ids, **options)


@settings(max_examples=50, deadline=None, derandomize=True, database=None)
@given(
    st.lists(st.lists(captions, min_size=1, max_size=3), min_size=2, max_size=5),
    st.lists(captions, min_size=1, max_size=4),
    st.randoms(use_true_random=False),
)
def test_agreement_is_the_shared_cider_of_the_neighbours(images, beams, random):
    """By pycocoevalcap, for which the end is a word too."""
    names = [str(number) for number in range(len(images))]
    scorer = Cider({name: [spoken(text) for text in texts] for name, texts in zip(names, images, strict=True)})
    near = random.sample(range(len(images)), 2)
    result = of(images).agreement(padded(beams), np.array(near), np.array([0.75, 0.25]))
    wanted = []
    for text in beams:
        _, each = scorer.score(dict.fromkeys(names, spoken(text)))
        wanted.append(sum(share * each[names[image]] for share, image in zip((0.75, 0.25), near, strict=True)))
    assert result == pytest.approx(wanted, abs=1e-9)


def spoken(text):
    return " ".join([*text, "end"])


def test_agreements_of_a_batch_are_those_of_each_image():
    generator = np.random.default_rng(2)
    texts = [[generator.choice(WORDS.words, generator.integers(1, 6)).tolist() for _ in range(3)] for _ in range(30)]
    consensus = of(texts, generator.standard_normal((30, 5)), neighbours=7)
    tokens = np.stack([padded(texts[number]) for number in range(9)])
    near, shares = consensus.nearest(generator.standard_normal((9, 5)))
    result = consensus.agreements(tokens, near, shares)
    assert result.shape == (9, 3)
    assert result.std() > 0.1
    each = [consensus.agreement(*one) for one in zip(tokens, near, shares, strict=True)]
    assert result == pytest.approx(np.stack(each), abs=1e-12)


def test_a_consensus_is_restored_from_its_arrays(tmp_path):
    generator = np.random.default_rng(4)
    texts = [[generator.choice(WORDS.words, generator.integers(1, 6)).tolist() for _ in range(2)] for _ in range(40)]
    options = {"neighbours": 3, "sharpness": 2.0}
    consensus = of(texts, generator.standard_normal((40, 5)), **options)
    for name, array in consensus.arrays().items():
        np.save(tmp_path / f"{name}.npy", array)
    arrays = {path.stem: np.load(path, mmap_mode="r", allow_pickle=False) for path in tmp_path.iterdir()}
    restored = Consensus.from_arrays(arrays, consensus.captions, **options)
    queries = generator.standard_normal((6, 5)), np.stack([padded(texts[number]) for number in range(6)])
    for result, wanted in zip(restored.nearest(queries[0]), consensus.nearest(queries[0]), strict=True):
        assert np.array_equal(result, wanted)
    scores = np.zeros((6, 2))
    assert restored.choose(*queries, scores, weight=1.0) == consensus.choose(*queries, scores, weight=1.0)


@pytest.mark.parametrize("count", [1, 4, 60])
def test_the_nearest_of_many_are_those_of_a_sort(count):
    generator = np.random.default_rng(5)
    known, queries = generator.standard_normal((7001, 3)), generator.standard_normal((4, 3))
    known[5000:5040] = known[17]  # equal ones, in other blocks
    near, _ = of([["a"]] * 7001, known, neighbours=count).nearest(np.append(queries, known[17:18], 0))
    standard = (known - known.mean(0)) / known.std(0)
    standard /= np.linalg.norm(standard, axis=1, keepdims=True)
    for row, places in zip(queries, near, strict=False):
        direction = (row - known.mean(0)) / known.std(0)
        cosines = standard @ direction
        assert cosines[places] == pytest.approx(np.sort(cosines)[: -count - 1 : -1], abs=1e-4)
    assert near[4].tolist()[:41] == [17, *range(5000, 5040)][:count]


@pytest.mark.parametrize("images", [64, 100, 193, 64 * 9, 64 * 30 + 63, 64 * 700 + 5])
def test_the_nearest_are_those_of_a_sort_for_any_number_of_images_and_neighbours(images):
    generator = np.random.default_rng(images)
    consensus = of([["a"]] * images, generator.standard_normal((images, 3)))
    queries = generator.standard_normal((8, 3))
    wanted, _ = Consensus.from_arrays(consensus.arrays(), consensus.captions, neighbours=images).nearest(queries)
    for count in (1, 2, 3, 4, 6, 7, 8, 9, 13, 60):
        near, _ = Consensus.from_arrays(consensus.arrays(), consensus.captions, neighbours=count).nearest(queries)
        assert np.array_equal(near, wanted[:, :count])


def test_a_caption_without_its_end_agrees_less():
    consensus = of([["a b c"], ["d e"], ["f"]])
    complete, cut = padded(["a b c"]), padded(["a b c"])
    cut[cut == EOS] = PAD
    assert consensus.agreement(complete, np.array([0]), np.ones(1)) == pytest.approx(10)
    assert consensus.agreement(cut, np.array([0]), np.ones(1)) < 9


def test_beams_of_no_word_or_of_unknown_ones_agree_with_nobody():
    consensus = of([["a b c"], ["a b"]])
    beams = np.concatenate([padded(["f g h"]), np.zeros((1, LONGEST), int)])
    beams[0, -1] = beams[0, 3] = PAD  # also the end is another: it is the one n-gram that all share
    assert consensus.agreement(beams, np.array([0, 1]), np.array([0.5, 0.5])).tolist() == [0, 0]
    assert of([["a b"]]).agreement(padded(["a b"]), np.array([0]), np.ones(1)).tolist() == [0]  # nothing is rare in one


def test_the_nearest_have_the_smallest_angles_between_standardised_features():
    generator = np.random.default_rng(0)
    known, queries = generator.standard_normal((9, 4)), generator.standard_normal((3, 4))
    scales = np.array([1.0, 100.0, 0.2, 3.0])
    consensus = of([["a"]] * 9, known * scales + 5, neighbours=4, sharpness=3.0)
    near, shares = consensus.nearest(queries * scales + 5)
    for row, places, parts in zip(queries, near, shares, strict=True):
        sides = [(side - known.mean(0)) / known.std(0) for side in (row, known)]
        cosines = sides[1] @ sides[0] / np.linalg.norm(sides[1], axis=1) / np.linalg.norm(sides[0])
        assert places.tolist() == np.argsort(-cosines)[:4].tolist()
        expected = np.exp(3 * cosines[places])
        assert parts == pytest.approx(expected / expected.sum(), rel=1e-3)


def test_there_may_be_fewer_training_images_than_neighbours():
    near, shares = of([["a"], ["b"], ["c"]], neighbours=60).nearest(np.eye(3)[:1])
    assert near.shape == shares.shape == (1, 3)
    assert near[0, 0] == 0
    assert shares.sum() == pytest.approx(1)


def test_what_hardly_varies_among_the_training_images_does_not_count():
    known = np.random.default_rng(1).standard_normal((6, 4))
    known[:, 2] = 1.0
    queries = known[3:4] + np.array([0.0, 0.0, 0.1, 0.0])  # as no training image has it
    near, shares = of([["a"]] * 6, known, neighbours=2).nearest(queries)
    assert near[0, 0] == 3
    assert shares[0, 0] > 0.9


def test_the_beam_with_the_highest_sum_is_chosen():
    consensus = of([["a b c", "a b"], ["d e"], ["f"]], neighbours=1)
    beams = padded(["d e", "a b c", "f", "a b c"])[None]
    scores = np.array([[-0.5, -0.7, -1.0, -np.inf]])

    def chosen(image, weight, scores=scores):
        return consensus.choose(np.eye(3)[image : image + 1], beams, scores, weight=weight)

    assert [chosen(image, 2.0) for image in range(3)] == [[1], [0], [2]]
    assert [chosen(image, 0.0) for image in range(3)] == [[0], [0], [0]]
    agreement = consensus.agreement(beams[0], np.array([0]), np.ones(1))
    enough = 0.2 / (agreement[1] - agreement[0])  # outweighs what the score lacks
    assert (chosen(0, 0.99 * enough), chosen(0, 1.01 * enough)) == ([0], [1])
    assert chosen(0, 2.0, np.array([[-0.5, -0.7, -1.0, -0.7]])) == [1]  # of equals the first
    assert chosen(0, 2.0, np.array([[-0.5, -np.inf, -1.0, -np.inf]])) == [0]  # no such beam


@pytest.mark.parametrize("attention", [True, False])
def test_generated_captions_are_the_chosen_beams(attention):
    torch.manual_seed(0)
    shape = {"width": 8, "heads": 2, "attention": attention, "tied": False, "dropout": 0.3}
    model = Captioner(Decoder(vocabulary=len(WORDS), features=3, **shape)).eval()
    with torch.no_grad():  # loud, so that beams differ
        model.decoder.image.weight *= 20
        model.decoder.embedding.weight *= 5
    rows = torch.randn(12, 2, 2, 3)
    examples = Examples(torch.randn(9, 3).half(), torch.randint(4, len(WORDS), (9, 2, 5), dtype=torch.int32))
    consensus = Consensus(*examples, neighbours=3)
    generated = generate(
        model, list("abcdefghijkl"), lambda at: [rows[at]], WORDS, beam=4, length_penalty=1.0, batch=5,
        device=torch.device("cpu"), choose=partial(consensus.choose, weight=30.0),
    )  # fmt: skip
    features = model.features(rows)
    memory = model.decoder.encode(features)
    tokens, scores = beam_search(model.decoder, memory, beam=4, max_length=6, length_penalty=1.0)
    places = consensus.choose(rows.mean((1, 2)).numpy(), tokens.numpy(), scores.numpy(), weight=30.0)
    assert len(set(places)) > 1
    assert list(generated.values()) == [
        WORDS.decode(beams[place]) for beams, place in zip(tokens.tolist(), places, strict=True)
    ]


def test_the_page_shows_the_committed_table_of_search():
    shown = search.table_of(pd.read_csv(ROOT / "dev/search.csv"))
    assert f"<!-- search -->\n{shown}\n<!-- end of search -->" in search.PAGE.read_text(encoding="utf-8")


def test_the_table_of_search_has_the_defaults():
    rows = list(search.settings())
    assert search.Setting() in rows
    assert len(rows) == len(set(rows)) == len(pd.read_csv(ROOT / "dev/search.csv"))


@pytest.mark.parametrize(("model", "named"), [("frozen", "frozen"), ("fine-tuned", "finetuned")])
def test_the_table_of_search_says_of_the_defaults_what_validate_says(model, named):
    frame = pd.read_csv(ROOT / "dev/search.csv")
    default = asdict(search.Setting(model))
    line = frame[(frame[list(default)] == pd.Series(default)).all(axis=1)].iloc[0]
    committed = read_json(ROOT / "metrics/validate.json")[named]
    for key in ("CIDEr", "BLEU-4", "vocabulary", "distinct captions"):
        assert line[key] == pytest.approx(committed[key], abs=1e-5), key
