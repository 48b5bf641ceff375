"""Draw words on a CUDA GPU with CUDA graphs.

To draw one word, the host starts about 40 GPU operations. A GPU finishes most of them faster than the host starts the
next. So it would mostly wait. A CUDA graph holds the operations of several words. The host starts them all at once.

A graph always uses the tensors that it was recorded with. So each `Drawing` is first copied into them.
"""

import logging
import os
from collections.abc import Callable, Hashable, Iterator

import torch
from torch import Tensor

from captioner.base.errors import CaptionerError
from captioner.captions.vocabulary import PAD
from captioner.model.decoder import Decoder, Memory
from captioner.model.search import Drawing, draw_words

log = logging.getLogger(__name__)

SAME = 0.9  # at least this share of a graph's words must be those drawn without it; products may be rounded differently
MOST = 32  # graphs; each keeps the keys and values of its own batches
SAFE = "2.14"  # torch since then recovers from a recording that fails


class WordGraphs:
    """Draws words as `captioner.model.search.draw_words` does. On CUDA it uses a graph for each shape of a `Drawing`.

    A new graph is tested once, with the random numbers that `draw_words` used. If fewer than SAME of the words are
    equal, or if recording fails, a warning is logged and no graph is used from then on. The weights may change in place
    between calls. The returned `Drawing` changes when its graph is used again; the words do not.

    Without graphs it draws on other devices, with CAPTIONER_GRAPHS=off, with torch older than SAFE, and for further
    shapes after the first MOST.
    """

    def __init__(self) -> None:
        setting = os.environ.get("CAPTIONER_GRAPHS", "auto")
        if setting not in ("auto", "off"):
            raise CaptionerError(f"CAPTIONER_GRAPHS: is {setting!r}, expected auto or off")
        self._used = setting == "auto" and torch.__version__ >= SAFE
        self._graphs: dict[Hashable, _Graph] = {}

    def __call__(self, decoder: Decoder, drawing: Drawing, count: int) -> tuple[Drawing, Tensor]:
        """Return the drawing after `count` more words of each caption, and the words [B, K, count] int64."""
        graph = self._graph_of(decoder, drawing, count) if drawing.last.device.type == "cuda" else None
        return draw_words(decoder, drawing, count) if graph is None else graph.draw(drawing)

    def _graph_of(self, decoder: Decoder, drawing: Drawing, count: int) -> "_Graph | None":
        if not self._used:
            return None
        shapes = tuple((part.shape, part.dtype) for part in (*_kept(drawing), *_changed(drawing)))
        key = (count, shapes, tuple(weight.data_ptr() for weight in decoder.parameters()))
        if key not in self._graphs and len(self._graphs) < MOST:
            try:
                self._graphs[key] = self._recorded(decoder, drawing, count)
            except RuntimeError as error:
                # the end of a failed recording raises another error, which says less
                first = error.__context__ if isinstance(error.__context__, RuntimeError) else error
                reason = str(first).splitlines()[0]
                log.warning("words are drawn without CUDA graphs, which takes longer (%s)", reason)
                self._used = False
                self._graphs.clear()
        return self._graphs.get(key)

    def _recorded(self, decoder: Decoder, drawing: Drawing, count: int) -> "_Graph":
        """Record a graph and compare its words with those of `draw_words`. Afterwards torch's generator is as before.

        Raises RuntimeError if recording fails or too few words are equal.
        """
        device = drawing.last.device
        random, stream = torch.cuda.get_rng_state(device), torch.cuda.current_stream(device)
        try:
            # this also loads kernels and copies to the GPU, which a recording does not allow
            wanted = _twice(lambda drawing: draw_words(decoder, drawing, count), drawing)
            graph = _Graph(decoder, drawing, count, next(iter(self._graphs.values()), None))
            torch.cuda.set_rng_state(random, device)
            words = _twice(graph.draw, drawing)
        finally:
            torch.cuda.set_stream(stream)  # a failed recording leaves its own
            torch.cuda.set_rng_state(random, device)
        same = (words == wanted)[wanted != PAD].float().mean().item()
        if same < SAME:
            raise RuntimeError(f"a graph drew other words: only {same:.1%} were the same")
        return graph


class _Graph:
    """The recorded operations of `draw_words` for drawings of the shapes of `drawing`.

    It takes memory for results from the pool of `other`. That is safe, because a graph's results are copied before
    another graph runs.
    """

    def __init__(self, decoder: Decoder, drawing: Drawing, count: int, other: "_Graph | None"):
        self._fixed = _copy(drawing)
        self._graph = torch.cuda.CUDAGraph()
        pool = None if other is None else other._graph.pool()
        # The weights change, so the graph must convert them itself: drop autocast's copies.
        torch.clear_autocast_cache()
        try:
            # the default mode would forbid that another thread pins the next batch meanwhile
            with torch.cuda.graph(self._graph, pool=pool, capture_error_mode="thread_local"):
                after, self._words = draw_words(decoder, self._fixed, count)
                for into, new in zip(_changed(self._fixed), _changed(after), strict=True):
                    into.copy_(new)
        finally:
            torch.clear_autocast_cache()  # nothing else may use the graph's copies

    def draw(self, drawing: Drawing) -> tuple[Drawing, Tensor]:
        if drawing is not self._fixed:
            of_graph, given = ((*_kept(each), *_changed(each)) for each in (self._fixed, drawing))
            for into, new in zip(of_graph, given, strict=True):
                into.copy_(new)
        self._graph.replay()
        return self._fixed, self._words.clone()


def _twice(draw: Callable[[Drawing], tuple[Drawing, Tensor]], drawing: Drawing) -> Tensor:
    """Return the words of two calls, the second of which goes on after the first."""
    after, first = draw(drawing)
    return torch.stack((first, draw(after)[1]))


def _copy(drawing: Drawing) -> Drawing:
    memory = drawing.memory
    keys, values = (None if part is None else part.clone() for part in (memory.keys, memory.values))
    state = tuple(part.clone() for part in drawing.state)
    return Drawing(Memory((), keys, values), state, drawing.last.clone(), drawing.finished.clone())


def _kept(drawing: Drawing) -> Iterator[Tensor]:
    """Return the tensors that drawing reads and does not change."""
    return (part for part in (drawing.memory.keys, drawing.memory.values) if part is not None)


def _changed(drawing: Drawing) -> Iterator[Tensor]:
    """Return the tensors that drawing changes."""
    return iter((*drawing.state, drawing.last, drawing.finished))
