import warnings

import pytest
import torch

from captioner.base.device import select_device
from captioner.base.resume import Resume
from captioner.captions.dataset import CaptionedImage
from captioner.captions.vocabulary import Vocabulary
from captioner.model.captioner import Captioner
from captioner.model.decoder import Decoder
from captioner.training.loop import CHECK_EVERY, CaptionSet, NextWord, fit, parameter_groups
from captioner.training.self_critical import SelfCritical
from tests.support.pretended_gpu import GPUTensor, pretended_gpu

WORDS = ("red", "blue", "dog", "cat", "runs", "sits")
VOCABULARY = Vocabulary(words=WORDS, max_length=6)


@pytest.fixture
def gpu(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CAPTIONER_DEVICE", "cuda")
    monkeypatch.delenv("CAPTIONER_PRECISION", raising=False)
    with pretended_gpu() as gpu:
        yield gpu


def splits():
    def item(number, split):
        texts = [[WORDS[number % 2], WORDS[2 + number % 2], WORDS[4 + number // 2 % 2]], [WORDS[2 + number % 2]]]
        return CaptionedImage(
            f"{number}.jpg", split, [" ".join(text) for text in texts], [VOCABULARY.encode(text) for text in texts]
        )

    items = [item(number, "train" if number < 48 else "dev") for number in range(52)]
    features = torch.randn(len(items), 2, 2, 3, generator=torch.Generator().manual_seed(1))
    views = {item.image: [row] for row, item in enumerate(items)}
    return CaptionSet.of_splits(items, views, features.__getitem__)


def train(objective, attention, epochs=1):
    torch.manual_seed(0)
    decoder = Decoder(
        vocabulary=len(VOCABULARY), features=3, width=16, heads=2, attention=attention, tied=True, dropout=0.1
    )
    captioner = Captioner(decoder)
    sets = splits()
    device = select_device()
    aim = (
        SelfCritical(sets["train"].references, VOCABULARY, samples=3)
        if objective == "cider"
        else NextWord(label_smoothing=0.1, own_words=0.25)
    )
    records = fit(
        captioner, parameter_groups([decoder], lr=0.01, weight_decay=0.05), sets["train"], sets["dev"], VOCABULARY, aim,
        seed=3, start_is_candidate=True, dev_beam=2, device=device, resume=Resume("run", {}),
        on_epoch=lambda records: None, epochs=epochs, batch=8, warmup=0.5, clip=1.0, patience=9, ema=0.9, crop=1.0,
    )
    return captioner, records


@pytest.mark.parametrize("attention", [True, False])
@pytest.mark.parametrize("objective", ["next word", "cider"])
def test_epoch(gpu, objective, attention):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        captioner, records = train(objective, attention)
    print(gpu.waits, gpu.launches)
    assert all(isinstance(part, GPUTensor) for part in captioner.parameters())
