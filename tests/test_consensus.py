"""The choice among beams that benchmarks/consensus.py scores."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch

from benchmarks.consensus import PAGE, agreed, nearest, pooled_and_beams, table_of
from captioner.decoder import Decoder
from captioner.generate import generate
from captioner.model import Captioner
from captioner.self_critical import Reward
from captioner.vocabulary import Vocabulary

REFERENCES = {
    "dogs": ["two dogs run in the snow", "dogs are running through snow"],
    "swim": ["a child swims in a pool", "a girl is swimming"],
    "bike": ["a man rides a bike on a road", "a cyclist on a street"],
}
BEAMS = ["a man rides a horse", "two dogs run in the grass", "a girl is swimming in a pool"]


@pytest.mark.parametrize(("neighbours", "wins"), [([], 0), (["dogs"], 1), (["swim"], 2), (["dogs", "dogs", "swim"], 1)])
def test_the_beam_that_agrees_with_the_neighbours_wins(neighbours, wins):
    assert agreed(BEAMS, neighbours, Reward(REFERENCES)) == BEAMS[wins]


def test_the_likelier_of_equals_wins():
    assert agreed(["xyz", "zyx"], ["dogs"], Reward(REFERENCES)) == "xyz"


def test_the_nearest_have_the_smallest_angles_between_standardised_features():
    torch.manual_seed(0)
    known, asked = torch.randn(9, 4), torch.randn(3, 4)
    scales = torch.tensor([1.0, 100.0, 0.01, 3.0])
    found = nearest(known * scales + 5, asked * scales + 5, 4)
    for row, places in zip(asked, found, strict=True):
        sides = [((side - known.mean(0)) / known.std(0)).numpy() for side in (row, known)]
        cosines = sides[1] @ sides[0] / np.linalg.norm(sides[1], axis=1)
        assert places == np.argsort(-cosines)[:4].tolist()


def test_the_first_of_the_beams_is_the_captioners_own_caption():
    torch.manual_seed(0)
    words = Vocabulary(words=tuple("abcdefgh"), max_length=5)
    shape = {"width": 8, "heads": 2, "attention": True, "tied": False, "dropout": 0.3}
    model = Captioner(Decoder(vocabulary=len(words), features=3, **shape)).eval()
    rows = torch.randn(130, 2, 2, 3)
    store = SimpleNamespace(read=lambda places: rows[torch.as_tensor(places)])

    pooled, found = pooled_and_beams(model, store, np.arange(130), words, (1, 3))

    torch.testing.assert_close(pooled, rows.mean((1, 2)))
    for width in (1, 3):
        names = [str(place) for place in range(130)]
        device = torch.device("cpu")
        told = generate(model, names, store.read, words, beam=width, length_penalty=1.0, device=device)
        assert [beams[0] for beams in found[width]] == list(told.values())
        assert {len(beams) for beams in found[width]} == {width}


def test_the_page_shows_the_committed_table():
    committed = pd.read_csv(Path(__file__).parent.parent / "benchmarks/consensus.csv")
    assert f"<!-- consensus -->\n{table_of(committed)}\n<!-- end of consensus -->" in PAGE.read_text(encoding="utf-8")
