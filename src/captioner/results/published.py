"""Published scores for the Flickr8k test split (1,000 images), for comparison with a run.

Scores are x100 under the names of `captioner.scoring.scores`, as their authors print them. The systems have other
encoders, beams, tokenisers and versions of the metrics. This project measured none of them.
"""

from typing import NamedTuple

TEST_IMAGES = 1000  # of the official test split


class Published(NamedTuple):
    """A system, the width of its beam if it is known, its scores and their source."""

    system: str
    beam: int | None
    scores: dict[str, float]
    source: str
    url: str


_SHOW_AND_TELL = ("Vinyals et al. 2015, Show and Tell, table 2", "https://arxiv.org/abs/1411.4555")
_SHOW_ATTEND = ("Xu et al. 2015, Show, Attend and Tell, table 1", "https://arxiv.org/abs/1502.03044")
_VARIER = (
    "aravindvarier/Image-Captioning-Pytorch, experiments/rnnTest.csv",
    "https://github.com/aravindvarier/Image-Captioning-Pytorch",
)
_KATIYAR = ("sulabhkatiyar/Adaptive_Att", "https://github.com/sulabhkatiyar/Adaptive_Att")
_SPATIAL = ("sulabhkatiyar/Spatial_Att", "https://github.com/sulabhkatiyar/Spatial_Att")
_MOAAZTAHA = ("moaaztaha/Image-Captioning; BLEU by NLTK", "https://github.com/moaaztaha/Image-Captioning")


def _scores(
    bleu_1: float,
    bleu_4: float | None = None,
    meteor: float | None = None,
    rouge_l: float | None = None,
    cider: float | None = None,
) -> dict[str, float]:
    scores = {"BLEU-1": bleu_1, "BLEU-4": bleu_4, "METEOR": meteor, "ROUGE-L": rouge_l, "CIDEr": cider}
    return {name: value for name, value in scores.items() if value is not None}


PUBLISHED = (
    Published("a person, against the other references", None, _scores(70), *_SHOW_AND_TELL),
    Published("Show and Tell, GoogLeNet", 20, _scores(63), *_SHOW_ATTEND),
    Published("Show, Attend and Tell, soft attention", None, _scores(67, 19.5, 18.9), *_SHOW_ATTEND),
    Published("Show, Attend and Tell, hard attention", None, _scores(67, 21.3, 20.3), *_SHOW_ATTEND),
    Published("ResNet-18 frozen, attention LSTM", 4, _scores(58.6, 18.3, 20.0, 44.9, 47.7), *_VARIER),
    Published("ResNet-18 fine-tuned, attention LSTM", 4, _scores(60.5, 20.1, 20.1, 45.8, 49.6), *_VARIER),
    Published("ResNet-50 fine-tuned, attention LSTM", 4, _scores(62.7, 22.1, 21.4, 47.8, 55.1), *_VARIER),
    Published("ResNet-101 fine-tuned, attention LSTM", 4, _scores(63.0, 22.0, 21.9, 48.1, 58.6), *_VARIER),
    Published("ResNet-152 fine-tuned, adaptive attention", 5, _scores(65.9, 23.5, 20.7, 47.6, 58.9), *_KATIYAR),
    Published("ResNet-152 fine-tuned, spatial attention", 10, _scores(66.5, 23.4, 20.7, 48.3, 56.8), *_SPATIAL),
    Published("ResNet-101, soft attention", 3, _scores(64.6, 23.8), *_MOAAZTAHA),
)
