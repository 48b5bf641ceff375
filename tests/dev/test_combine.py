"""The ensemble that dev/combine.py scores: it must be what it says, or its figures say nothing."""

import torch

from captioner.captions.vocabulary import BOS
from captioner.model.captioner import Captioner
from captioner.model.decoder import Decoder
from captioner.model.search import beam_search
from dev.combine import Ensemble

FEATURES = 3


def captioner(seed):
    torch.manual_seed(seed)
    shape = {"width": 8, "heads": 2, "attention": True, "tied": False, "dropout": 0.3}
    return Captioner(Decoder(vocabulary=9, features=FEATURES, **shape)).eval()


def search(model, features):
    memory = model.decoder.encode(model.features(features))
    return beam_search(model.decoder, memory, beam=3, max_length=6, length_penalty=1.0)


def test_an_ensemble_of_the_same_model_is_that_model():
    model = captioner(1)
    features = torch.randn(5, 2, 2, FEATURES)
    alone, together = search(model, features), search(Ensemble([model, model]), features)
    assert torch.equal(alone.tokens, together.tokens)
    torch.testing.assert_close(alone.scores, together.scores)


@torch.no_grad()
def test_an_ensemble_predicts_the_mean_of_the_probabilities_at_every_step():
    models = [captioner(seed) for seed in (1, 2, 3)]
    ensemble = Ensemble(models)
    features = torch.randn(2, 2, 2, FEATURES)
    memory = ensemble.encode(ensemble.features(features))
    memories = [model.decoder.encode(model.features(features)) for model in models]
    states = [own.states(1) for own in memories]
    places, state = torch.arange(2), memory.states(1)
    for word in (BOS, 5, 6):
        token = torch.full((2,), word)
        hidden, state = ensemble.step(memory, token, state, places, 1)
        each = []
        for at, model in enumerate(models):
            own, states[at] = model.decoder.step(memories[at], token, states[at])
            each.append(model.decoder.logits(own).softmax(-1))
        torch.testing.assert_close(ensemble.logits(hidden).exp(), torch.stack(each).mean(0))
    some = torch.tensor([1])
    for part, whole in zip(memory.of(some).parts, memories, strict=True):
        assert torch.equal(part.keys, whole.keys[some])
