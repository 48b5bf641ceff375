"""The rule that chooses sample images, and the picture."""

import pandas as pd
import pytest

from captioner.results.pictures import choose


def ranking(count):
    return pd.Series({f"{n:04d}.jpg": n / count for n in range(count)})


def test_good_is_the_best_tenth_typical_the_middle_bad_the_worst():
    chosen = choose(ranking(1000), each=3)
    places = {kind: [int(name[:4]) for name in names] for kind, names in chosen.items()}
    assert places == {"good": [900, 950, 999], "typical": [450, 500, 549], "bad": [0, 50, 99]}


def test_the_order_of_the_table_does_not_matter_and_ties_go_by_name():
    scores = pd.Series(0.5, index=[f"{n:04d}.jpg" for n in range(100)])
    assert choose(scores, each=4) == choose(scores.sample(frac=1, random_state=0), each=4)
    assert choose(scores, each=2)["bad"] == ["0000.jpg", "0009.jpg"]


@pytest.mark.parametrize("count", [1, 2, 5])
def test_few_images_are_enough(count):
    chosen = choose(ranking(count), each=4)
    assert list(chosen) == ["good", "typical", "bad"]
    for names in chosen.values():
        assert 0 < len(names) == len(set(names)) <= min(count, 4)
