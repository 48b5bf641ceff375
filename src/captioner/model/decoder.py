"""The decoder: LSTMs that start from the image or attend over its grid.

Dimensions
    B  images                    W  width of embeddings, LSTMs and attention
    K  captions of an image      D  width of an image feature
    L  tokens of a caption       P  grid positions
    V  words of the vocabulary   H  attention heads
    T  tokens of all captions, packed (see `captioner.model.packing`)
    n  captions or tokens that are computed together

The captions of an image are a dimension of their own. So the image's features are projected once, and not once for
each of K references in training or K beams in search.

With attention the network is: word embedding, first LSTM, attention over the grid, second LSTM, output. The query of
the attention is the state after the word was read (Luong et al. 2015, Lu et al. 2017). Two LSTMs are as in Anderson et
al. 2018, but the attention does not feed back into the first one. So in training each part computes all time steps at
once. Without attention the first LSTM starts from the image, and the output follows it.

`Decoder.forward` reads whole captions, for training. `Decoder.step` reads one word, for search and sampling. Both are
made of the same parts.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from captioner.model.dropout import Dropout
from captioner.model.lstm import LSTM
from captioner.model.packing import Packed

State = tuple[Tensor, ...]  # h and c of the first LSTM, then of the second, each [n, W]


class Memory(NamedTuple):
    """The decoder's encoding of images, which all steps of the generation use."""

    start: State  # the LSTM states before the first token, each [B, 1, W]
    keys: Tensor | None  # [B, H, P, W / H]; None without attention
    values: Tensor | None  # [B, H, P, W / H]; None without attention

    def of(self, images: Tensor) -> "Memory":
        """Return the memory of some of the images, by their places [n]."""
        keys, values = (None if part is None else part[images] for part in (self.keys, self.values))
        return Memory(tuple(part[images] for part in self.start), keys, values)

    def states(self, captions: int) -> State:
        """Return the states before the first token of `captions` captions of each image, each [B * captions, W]."""
        return tuple(part.expand(-1, captions, -1).flatten(0, 1) for part in self.start)


class Decoder(nn.Module):
    """Predicts the next word of a caption.

    `attention` false: the image's mean feature, embedded, is the LSTM's first input (Show and Tell, Vinyals et al.
    2015). True: the mean feature gives the first states, and the words attend over the grid. `tied`: the output layer
    has the weight of the word embedding (Press and Wolf 2017).

    Each channel of the image features is standardised: less `feature_mean` and divided by `feature_scale`, both float32
    [D]. They are 0 and 1 until they are set, and are saved with the weights; training does not change them.
    """

    feature_mean: Tensor
    feature_scale: Tensor

    def __init__(
        self,
        *,
        vocabulary: int,
        features: int,
        width: int,
        heads: int,
        attention: bool,
        tied: bool,
        dropout: float,
    ):
        super().__init__()
        self.width, self.heads, self.attention = width, heads, attention
        self.embedding = nn.Embedding(vocabulary, width)
        self.dropout = Dropout(dropout)
        self.register_buffer("feature_mean", torch.zeros(features))
        self.register_buffer("feature_scale", torch.ones(features))
        self.image = nn.Linear(features, width)
        self.lstm = LSTM(width, width)  # the first
        if attention:
            self.grid_norm = nn.LayerNorm(width)
            self.start = nn.Linear(width, 4 * width)
            self.query = nn.Linear(width, width)
            self.key_value = nn.Linear(width, 2 * width)
            self.language = LSTM(2 * width, width)  # the second
        self.output_norm = nn.LayerNorm(width)
        self.output = nn.Linear(width, vocabulary)
        nn.init.normal_(self.embedding.weight, std=width**-0.5)
        nn.init.zeros_(self.output.bias)
        if tied:
            self.output.weight = self.embedding.weight

    def encode(self, features: Tensor) -> Memory:
        """Return the memory of image features [B, P, D]; without attention only their mean over P counts."""
        if not self.attention:
            image = self.dropout(self.image(self.standardise(features.mean(1))))  # [B, W]
            h, c = self.lstm.begin(image)  # each [B, W]
            return Memory(start=(h.unsqueeze(1), c.unsqueeze(1)), keys=None, values=None)
        grid = self.dropout(self.grid_norm(F.relu(self.image(self.standardise(features)))))  # [B, P, W]
        start = torch.tanh(self.start(grid.mean(1, keepdim=True))).chunk(4, dim=-1)  # 4 x [B, 1, W]
        keys, values = self.key_value(grid).chunk(2, dim=-1)
        # contiguous, or each step of a search would copy them
        return Memory(start, self._split_heads(keys).contiguous(), self._split_heads(values).contiguous())

    def standardise(self, features: Tensor) -> Tensor:
        """Return image features [..., D] less their channels' means and divided by their scales."""
        return (features - self.feature_mean) / self.feature_scale

    def forward(self, memory: Memory, tokens: Tensor, packed: Packed) -> Tensor:
        """Return a state [T, W] for each token of captions [B, K, L] int64, from which `logits` predicts the next word.

        Padding costs little. After the end of a caption the values have no meaning.
        """
        _, captions, length = tokens.shape
        state = [part[packed.order] for part in memory.states(captions)]  # each [N, W]
        first = self.read(memory, tokens, packed)  # [T, W]
        if not self.attention:
            return self.output_norm(first)
        seen = self.see(memory, first, packed.places, captions * length)  # [T, W]
        second = self.language.over(self._join(first, seen), (state[2], state[3]), packed.sizes)  # [T, W]
        return self.output_norm(first + second)

    def step(
        self, memory: Memory, words: Tensor, state: State, places: Tensor | None = None, captions: int = 1
    ) -> tuple[Tensor, State]:
        """Read one more word [n] int64 of some captions, each after its own state.

        The captions are those at `places` [n] int64 of all B*K, where K is `captions`; without places they are all
        B*K. Returns what predicts the next word of each, [n, W], and the new state.
        """
        first = self.lstm.step(self._embed(words), (state[0], state[1]))  # h and c, each [n, W]
        if not self.attention:
            return self.output_norm(first[0]), first
        seen = self.see(memory, first[0], places, captions)  # [n, W]
        second = self.language.step(self._join(first[0], seen), (state[2], state[3]))  # h and c, each [n, W]
        return self.output_norm(first[0] + second[0]), (*first, *second)

    def logits(self, hidden: Tensor) -> Tensor:
        """Score the words: [..., W] to [..., V]."""
        return self.output(self.dropout(hidden))

    def read(self, memory: Memory, tokens: Tensor, packed: Packed) -> Tensor:
        """Return the states of the first LSTM, [T, W], after it read captions [B, K, L] int64."""
        h, c, *_ = (part[packed.order] for part in memory.states(tokens.shape[1]))  # each [N, W]
        return self.lstm.over(self._embed(tokens.flatten()[packed.places]), (h, c), packed.sizes)

    def look(self, memory: Memory, first: Tensor, places: Tensor | None = None, each: int = 1) -> Tensor:
        """Return the attention weights [B, H, m, P] of states [n, W] of the first LSTM; each row of P sums to 1.

        The states are those at `places` [n] int64 of all B*m, where m is `each`; without places they are all B*m. The
        weights at other places mean nothing. These are scaled dot products (Vaswani et al. 2017), written out: there
        are few positions, and torch's fused form is slower on a CPU (docs/performance.md).
        """
        assert memory.keys is not None
        images = memory.keys.shape[0]  # len() would make it a constant of the export
        queries = self.query(first)  # [n, W]
        if places is not None:
            queries = queries.new_zeros(images * each, self.width).index_copy(0, places, queries)
        queries = self._split_heads(queries.view(images, -1, self.width))  # [B, H, m, W / H]
        return (queries @ memory.keys.transpose(-1, -2) * queries.shape[-1] ** -0.5).softmax(-1)

    def see(self, memory: Memory, first: Tensor, places: Tensor | None = None, each: int = 1) -> Tensor:
        """Return the attended image features of states of the first LSTM, [n, W]; the arguments are those of `look`."""
        assert memory.values is not None
        seen = self.look(memory, first, places, each) @ memory.values  # [B, H, m, W / H]
        seen = seen.transpose(1, 2).flatten(2).flatten(0, 1)  # [B*m, W]
        return seen if places is None else seen[places]

    def _embed(self, words: Tensor) -> Tensor:
        return self.dropout(self.embedding(words))  # [n] to [n, W]

    def _join(self, first: Tensor, seen: Tensor) -> Tensor:
        return self.dropout(torch.cat((first, seen), dim=-1))  # [n, 2W]

    def _split_heads(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (self.heads, -1)).transpose(1, 2)  # [B, m, W] to [B, H, m, W / H]
