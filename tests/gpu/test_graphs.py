"""Words drawn by CUDA graphs are those drawn without, and a graph is one launch."""

import copy
import logging

import pytest
import torch

from captioner.base.device import mixed_precision
from captioner.base.errors import CaptionerError
from captioner.captions.dataset import CaptionedImage
from captioner.captions.vocabulary import EOS, Vocabulary
from captioner.model import graphs as graphs_module
from captioner.model.captioner import Captioner
from captioner.model.decoder import Decoder
from captioner.model.graphs import WordGraphs
from captioner.model.search import LOOK_EVERY, draw_words, sample
from captioner.training.batches import CaptionSet
from captioner.training.objectives import NextWord
from captioner.training.self_critical import SelfCritical
from tests.support.pretended_gpu import DEVICE, PretendedGraph

pytestmark = pytest.mark.slow

MAX_LENGTH = 3 * LOOK_EVERY - 1


def decoder_of(attention=True, seed=1):
    torch.manual_seed(seed)
    shape = {"features": 6, "width": 8, "heads": 2, "attention": attention, "tied": True, "dropout": 0.5}
    decoder = Decoder(vocabulary=12, **shape)
    with torch.no_grad():
        decoder.embedding.weight.mul_(4.0)  # so that words depend on the state
        decoder.output.bias[EOS] = -4.0
    return decoder.to(DEVICE).eval()


def features_of(images, positions=4, seed=2):
    torch.manual_seed(seed)
    return torch.randn(images, positions, 6).pin_memory().to(DEVICE, non_blocking=True)


def drawn(decoder, features, graphs, seed=3):
    with torch.no_grad(), mixed_precision(DEVICE):
        memory = decoder.encode(features)
        torch.manual_seed(seed)
        return sample(decoder, memory, samples=5, max_length=MAX_LENGTH, draw_words=graphs).cpu()


@pytest.fixture
def without(monkeypatch, gpu):
    monkeypatch.setenv("CAPTIONER_GRAPHS", "off")
    graphs = WordGraphs()
    monkeypatch.delenv("CAPTIONER_GRAPHS")
    return graphs


@pytest.mark.parametrize("attention", [True, False])
@pytest.mark.parametrize("precision", ["auto", "float32"])
def test_graphs_draw_what_is_drawn_without_them(gpu, without, monkeypatch, attention, precision):
    monkeypatch.setenv("CAPTIONER_PRECISION", precision)
    decoder, graphs = decoder_of(attention), WordGraphs()
    results = []
    for number, images in enumerate((7, 7, 2, 7, 2)):
        features = features_of(images, positions=(4, 6)[number % 2], seed=number)
        with torch.no_grad():  # as a step of training does, in place
            decoder.embedding.weight.mul_(1.1)
            decoder.output.bias[EOS] += 1.0
        results.append(drawn(decoder, features, graphs, seed=number))
        assert torch.equal(results[-1], drawn(decoder, features, without, seed=number))
        assert gpu.launches["graph"] > 0
    assert len({tuple(result[0, 0].tolist()) for result in results}) > 1


def test_four_words_are_one_launch_and_words_that_do_not_go_on_are_none(gpu):
    decoder, graphs = decoder_of(), WordGraphs()
    drawn(decoder, features_of(7), graphs)
    gpu.reset()
    drawn(decoder, features_of(7, seed=4), graphs)
    assert gpu.launches["graph"] <= 3
    assert gpu.launches["searchsorted"] == 0
    with torch.no_grad():
        decoder.output.bias[EOS] = 100.0
    gpu.reset()
    assert drawn(decoder, features_of(7), graphs).shape == (7, 5, 1)
    assert gpu.launches["graph"] == 1


def test_a_decoder_in_another_place_gets_a_graph_of_its_own(gpu, without):
    decoder, graphs = decoder_of(), WordGraphs()
    drawn(decoder, features_of(7), graphs)
    other = copy.deepcopy(decoder)
    with torch.no_grad():
        other.embedding.weight.mul_(-2.0)
    assert torch.equal(drawn(other, features_of(7), graphs), drawn(other, features_of(7), without))


def _cannot_begin(*_, **__):
    raise RuntimeError("operation not supported\nmore lines")


def _waits(decoder, drawing, count):
    drawing.finished.all().item()
    return draw_words(decoder, drawing, count)


def _forgets_states(drawing):
    return iter((drawing.last, drawing.finished))


@pytest.mark.parametrize(
    ("place", "name", "replacement", "reason"),
    [
        (torch.cuda, "graph", _cannot_begin, "operation not supported)"),
        (graphs_module, "draw_words", _waits, "_local_scalar_dense: operation not permitted when stream is capturing)"),
        (PretendedGraph, "replay", lambda graph: None, "a graph drew other words: only"),
        (graphs_module, "_changed", _forgets_states, "a graph drew other words: only"),
    ],
)
def test_where_graphs_do_not_work_words_are_drawn_without_them_and_that_is_told_once(
    gpu, without, monkeypatch, caplog, place, name, replacement, reason
):
    monkeypatch.setattr(place, name, replacement)
    decoder, graphs = decoder_of(), WordGraphs()
    with caplog.at_level(logging.WARNING):
        for images in (7, 3, 7):
            words = drawn(decoder, features_of(images), graphs)
            assert torch.equal(words, drawn(decoder, features_of(images), without))
    (record,) = caplog.records
    assert record.getMessage().startswith(f"words are drawn without CUDA graphs, which takes longer ({reason}")
    assert torch.cuda.current_stream() == "default"


def test_a_torch_that_does_not_recover_from_a_failed_recording_records_nothing(gpu, monkeypatch):
    monkeypatch.setattr(graphs_module, "SAFE", "99.0")
    drawn(decoder_of(), features_of(7), WordGraphs())
    assert gpu.launches["graph"] == 0


def test_shapes_beyond_the_most_are_drawn_without_graphs(gpu, without, monkeypatch):
    monkeypatch.setattr(graphs_module, "MOST", 1)
    decoder, graphs = decoder_of(), WordGraphs()
    for images in (7, 3, 7):
        gpu.reset()
        words = drawn(decoder, features_of(images), graphs)
        assert (gpu.launches["graph"] > 0) == (images == 7)
        assert torch.equal(words, drawn(decoder, features_of(images), without))


def test_every_weight_gets_a_gradient_whether_a_graph_is_recorded_or_only_used(gpu):
    """Weights that autocast converted for a graph would have no gradient."""
    images = [CaptionedImage(f"{at}.jpg", "train", ["a dog runs"], [[1, 4, 5, 6, 2]]) for at in range(4)]
    images.append(CaptionedImage("dev.jpg", "dev", ["a dog"], [[1, 4, 5, 2]]))
    features = torch.randn(5, 2, 2, 6, generator=torch.Generator().manual_seed(1))
    views = {image.image: [row] for row, image in enumerate(images)}
    training = CaptionSet.of_splits(images, views, features.__getitem__)["train"]
    words = Vocabulary(words=("a", "dog", "runs", *"bcdef"), max_length=MAX_LENGTH)
    objective = SelfCritical(training.references, words, samples=3, next_word=NextWord(label_smoothing=0.1), weight=0.5)
    captioner = Captioner(decoder_of()).train()
    assert len(words) == len(captioner.decoder.embedding.weight)
    for _ in range(2):
        (batch,) = training.batches(torch.arange(4), 4, DEVICE)
        captioner.zero_grad()
        with mixed_precision(DEVICE):
            loss, _ = objective(captioner, batch)
        loss.value.backward()
        for name, weight in captioner.named_parameters():
            assert weight.grad is not None, name
            assert weight.grad.cpu().abs().sum() > 0, name


def test_a_graph_may_not_wait(gpu):
    graph = torch.cuda.CUDAGraph()
    ones = torch.ones(3, device=DEVICE)
    with pytest.raises(RuntimeError, match="due to a previous error") as caught, torch.cuda.graph(graph):
        ones.sum().item()
    assert "not permitted when stream is capturing" in str(caught.value.__context__)


def test_other_settings_are_refused(monkeypatch):
    monkeypatch.setenv("CAPTIONER_GRAPHS", "on")
    with pytest.raises(CaptionerError, match="CAPTIONER_GRAPHS: is 'on', expected auto or off"):
        WordGraphs()
