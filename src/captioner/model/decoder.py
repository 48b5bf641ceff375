"""The caption generator: an LSTM that starts from the image or attends over its grid.

Dimensions
    B  images                    W  width of embeddings, LSTM and attention
    K  captions of an image      D  width of an image feature
    L  tokens of a caption       P  grid positions
    V  words of the vocabulary   H  attention heads
    T  tokens of all captions, packed

The captions of an image are a dimension of their own, so that its features are projected once and not once
a caption, in training (K references) as in search (K beams).

No attention feeds back into an LSTM, so every time step of a training batch is computed by the same few
matrix products: two LSTMs with an attention between them (the query is the state after reading the word,
as in Luong et al. 2015 and Lu et al. 2017; two layers as in Anderson et al. 2018, without the feedback).
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

from captioner.model.lstm import run_packed

State = tuple[Tensor, ...]  # each [B, K, W]


class Memory(NamedTuple):
    """What a decoder keeps of the images while it writes about them."""

    start: State  # the LSTM states before the first token, each [B, 1, W]
    keys: Tensor | None  # [B, H, P, W / H]
    values: Tensor | None  # [B, H, P, W / H]

    def of(self, images: Tensor) -> "Memory":
        """Return the memory of some of the images, by their places [n]."""
        keys, values = (None if part is None else part[images] for part in (self.keys, self.values))
        return Memory(tuple(part[images] for part in self.start), keys, values)


PACKED_BY = 32  # captions of a time step
TOKENS_BY = 256  # tokens of a batch


class Packed(NamedTuple):
    """Where the tokens of a batch [B, K, L] lie, in the order of time and at each step the longest captions first.

    Each step has a multiple of PACKED_BY captions, or all of them, and all steps together a multiple of TOKENS_BY
    tokens, where there is room; so some captions have ended and have padding there. That makes few shapes of matrix
    products, which come again and again, and a CPU prepares one for each shape.
    """

    places: Tensor  # [T] int64: of each token in B*K*L
    order: Tensor  # [N] int64: those of the B*K captions that have a place in the first step, by falling length
    sizes: Tensor  # [L] int64, on the CPU: how many captions have a place in each step

    def to(self, move: Callable[[Tensor], Tensor]) -> "Packed":
        """Return it with its places and its order moved; torch wants the sizes on the CPU."""
        return Packed(move(self.places), move(self.order), self.sizes)


def pack(lengths: Tensor, padded: int) -> Packed:
    """Pack captions of `lengths` [B, K] int64, on the CPU, each padded to so many tokens; not all are empty."""
    falling, order = lengths.flatten().sort(descending=True, stable=True)
    steps = torch.arange(int(falling[0])).unsqueeze(1)  # [L, 1]
    sizes = (falling > steps).sum(1)
    sizes = (-(sizes // -PACKED_BY) * PACKED_BY).clamp(max=len(order))
    lacking = int(-sizes.sum() % TOKENS_BY)
    for step in range(1, len(sizes)):
        more = min(int(sizes[step - 1] - sizes[step]), lacking // PACKED_BY * PACKED_BY)
        sizes[step] += more
        lacking -= more
    taken = torch.arange(len(order)) < sizes.unsqueeze(1)  # [L, B*K]
    return Packed((order * padded + steps)[taken], order[: sizes[0]], sizes)


class Dropout(nn.Dropout):
    """torch's, but on a CPU faster, by 16 random bits an element: torch's draws took a fifth of a training step."""

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or self.p == 0 or x.device.type != "cpu":
            return super().forward(x)
        dropped = min(round(self.p * 2**16), 2**16 - 1)  # of 2**16
        bits = torch.empty(-(-x.numel() // 4), dtype=torch.int64).random_(-(2**63), None).view(torch.int16)
        kept = bits[: x.numel()].view(x.shape) >= dropped - 2**15
        return x * kept.to(x.dtype).mul_(2**16 / (2**16 - dropped))


class Decoder(nn.Module):
    """Predicts the next word of a caption.

    `attention` false: the image's mean feature, embedded, is the LSTM's first input (Show and Tell, Vinyals
    et al. 2015). True: the mean feature gives the first states, and the words attend over the grid.
    `tied` makes the output layer's weight the embedding's (Press and Wolf 2017).
    """

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
        self.image = nn.Linear(features, width)
        self.lstm = nn.LSTM(width, width, batch_first=True)
        if attention:
            self.grid_norm = nn.LayerNorm(width)
            self.start = nn.Linear(width, 4 * width)
            self.query = nn.Linear(width, width)
            self.key_value = nn.Linear(width, 2 * width)
            self.language = nn.LSTM(2 * width, width, batch_first=True)
        self.output_norm = nn.LayerNorm(width)
        self.output = nn.Linear(width, vocabulary)
        nn.init.normal_(self.embedding.weight, std=width**-0.5)
        nn.init.zeros_(self.output.bias)
        if tied:
            self.output.weight = self.embedding.weight

    def encode(self, features: Tensor) -> Memory:
        """Take in image features [B, P, D]; without attention their mean over P."""
        if not self.attention:
            image = self.dropout(self.image(features.mean(1, keepdim=True)))  # [B, 1, W]
            _, (h, c) = self.lstm(image)
            return Memory(start=(h.transpose(0, 1), c.transpose(0, 1)), keys=None, values=None)
        grid = self.dropout(self.grid_norm(F.relu(self.image(features))))  # [B, P, W]
        start = torch.tanh(self.start(grid.mean(1, keepdim=True))).chunk(4, dim=-1)  # 4 x [B, 1, W]
        keys, values = self.key_value(grid).chunk(2, dim=-1)
        # contiguous, or each step of a search would copy them
        return Memory(start, self._split_heads(keys).contiguous(), self._split_heads(values).contiguous())

    def forward(self, memory: Memory, tokens: Tensor, state: State | None = None) -> tuple[Tensor, State]:
        """Read tokens [B, K, L] after `state` (by default from the start).

        Returns what predicts the token after each, [B, K, L, W] (`logits` makes words of it), and the new state.
        """
        batch, captions, length = tokens.shape
        if state is None:
            state = tuple(part.expand(batch, captions, self.width) for part in memory.start)
        words = self.dropout(self.embedding(tokens)).flatten(0, 1)  # [B*K, L, W]
        hidden, new = self._run(self.lstm, words, state[:2])
        if self.attention:
            queries = self.query(hidden).reshape(batch, captions * length, self.width)
            seen = self._attend(memory, queries)  # [B, K*L, W]
            both = torch.cat((hidden, seen.reshape_as(hidden)), dim=-1)  # [B*K, L, 2W]
            language, after = self._run(self.language, self.dropout(both), state[2:])
            hidden, new = hidden + language, (*new, *after)
        hidden = self.output_norm(hidden).view(batch, captions, length, self.width)
        return hidden, tuple(part.view(batch, captions, self.width) for part in new)

    def step(self, memory: Memory, words: Tensor, places: Tensor, captions: int, state: State) -> tuple[Tensor, State]:
        """Read one more word of some captions only: words [n] int64 of those at `places` [n] int64 of all B*K, where
        K is `captions`, each after its own state, [n, W].

        Returns what predicts the next word of each, [n, W], and the new states.
        """
        hidden, cell = torch.lstm_cell(self.dropout(self.embedding(words)), state[:2], *self.lstm.all_weights[0])
        if not self.attention:
            return self.output_norm(hidden), (hidden, cell)
        seen = self._see(memory, self.query(hidden), places, captions)
        both = self.dropout(torch.cat((hidden, seen), dim=-1))  # [n, 2W]
        after = torch.lstm_cell(both, state[2:], *self.language.all_weights[0])
        return self.output_norm(hidden + after[0]), (hidden, cell, *after)

    def read(self, memory: Memory, tokens: Tensor, packed: Packed) -> Tensor:
        """Read whole captions [B, K, L] of different lengths from the start, computing little for their padding.

        Returns what predicts the token after each, packed: [T, W]; what stands where a caption has ended says nothing.
        """
        batch, captions, length = tokens.shape
        start = [part.expand(batch, captions, self.width).flatten(0, 1)[packed.order] for part in memory.start]
        words = self.dropout(self.embedding(tokens.flatten()[packed.places]))  # [T, W]
        hidden = self._run_packed(self.lstm, words, start[:2], packed.sizes)
        if self.attention:
            seen = self._see(memory, self.query(hidden), packed.places, captions * length)
            both = torch.cat((hidden, seen), dim=-1)  # [T, 2W]
            hidden = hidden + self._run_packed(self.language, self.dropout(both), start[2:], packed.sizes)
        return self.output_norm(hidden)

    def logits(self, hidden: Tensor) -> Tensor:
        """Score the words: [..., W] to [..., V]."""
        return self.output(self.dropout(hidden))

    def look(self, memory: Memory, queries: Tensor) -> Tensor:
        """Return how much of each grid position every query [B, T, W] takes in, [B, H, T, P]; sums of P are 1.

        Scaled dot products (Vaswani et al. 2017), written out: there are few positions, and torch's fused form is five
        times slower in bfloat16 on a CPU.
        """
        assert memory.keys is not None
        queries = self._split_heads(queries)  # [B, H, T, W / H]
        return (queries @ memory.keys.transpose(-1, -2) * queries.shape[-1] ** -0.5).softmax(-1)

    def _see(self, memory: Memory, queries: Tensor, places: Tensor, each: int) -> Tensor:
        """Return what queries [n, W] at `places` [n] int64 of all, `each` of an image, see of their image, [n, W]."""
        assert memory.keys is not None
        padded = queries.new_zeros(len(memory.keys) * each, self.width).index_copy(0, places, queries)
        return self._attend(memory, padded.view(-1, each, self.width)).flatten(0, 1)[places]

    def _attend(self, memory: Memory, queries: Tensor) -> Tensor:
        """Return what queries [B, T, W] see of their image, [B, T, W]."""
        assert memory.values is not None
        return (self.look(memory, queries) @ memory.values).transpose(1, 2).flatten(2)

    def _split_heads(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (self.heads, -1)).transpose(1, 2)  # [B, T, W] to [B, H, T, W / H]

    @staticmethod
    def _run(lstm: nn.LSTM, x: Tensor, state: State) -> tuple[Tensor, State]:
        """Run over x [B*K, L, *] from a state of two [B, K, W]; returns [B*K, L, W] and the new state."""
        h, c = (part.flatten(0, 1) for part in state)
        if x.shape[1] == 1:  # search: the whole LSTM prepares its weights anew for each call
            h, c = torch.lstm_cell(x.squeeze(1), (h, c), *lstm.all_weights[0])
            return h.unsqueeze(1), (h, c)
        hidden, (h, c) = lstm(x, (h.unsqueeze(0).contiguous(), c.unsqueeze(0).contiguous()))
        return hidden, (h.squeeze(0), c.squeeze(0))

    @staticmethod
    def _run_packed(lstm: nn.LSTM, x: Tensor, state: list[Tensor], sizes: Tensor) -> Tensor:
        """Run over packed x [T, *] from a state of two [N, W]; returns [T, W]."""
        h, c = state
        if x.device.type != "cuda":
            return run_packed(lstm, x, h, c, sizes)
        with torch.autocast("cuda", enabled=False):  # which would make it float16, and small gradients 0
            packed = PackedSequence(x.float(), sizes)
            return lstm(packed, (h.float().unsqueeze(0), c.float().unsqueeze(0)))[0].data
