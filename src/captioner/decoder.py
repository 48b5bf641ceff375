"""The caption generator: an LSTM that starts from the image or attends over its grid.

Dimensions
    B  images                    W  width of embeddings, LSTM and attention
    K  captions of an image      D  width of an image feature
    L  tokens of a caption       P  grid positions
    V  words of the vocabulary   H  attention heads

The captions of an image are a dimension of their own, so that its features are projected once and not once
a caption, in training (K references) as in search (K beams).

No attention feeds back into an LSTM, so every time step of a training batch is computed by the same few
matrix products: two LSTMs with an attention between them (the query is the state after reading the word,
as in Luong et al. 2015 and Lu et al. 2017; two layers as in Anderson et al. 2018, without the feedback).
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

State = tuple[Tensor, ...]  # each [B, K, W]


class Memory(NamedTuple):
    """What a decoder keeps of the images while it writes about them."""

    start: State  # the LSTM states before the first token, each [B, 1, W]
    keys: Tensor | None  # [B, H, P, W / H]
    values: Tensor | None  # [B, H, P, W / H]


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
        self.dropout = nn.Dropout(dropout)
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
        return Memory(start=start, keys=self._split_heads(keys), values=self._split_heads(values))

    def forward(
        self, memory: Memory, tokens: Tensor, state: State | None = None, lengths: Tensor | None = None
    ) -> tuple[Tensor, State]:
        """Read tokens [B, K, L] after `state` (by default from the start).

        `lengths` [B, K], on the CPU and at least 1, are where the padding begins: nothing is computed for it.
        Returns what predicts the token after each, [B, K, L, W] (`logits` makes words of it), and the new state.
        """
        batch, captions, length = tokens.shape
        if state is None:
            state = tuple(part.expand(batch, captions, self.width) for part in memory.start)
        words = self.dropout(self.embedding(tokens)).flatten(0, 1)  # [B*K, L, W]
        hidden, new = self._run(self.lstm, words, state[:2], lengths)
        if self.attention:
            seen = self._attend(memory, hidden.reshape(batch, captions * length, self.width))  # [B, K*L, W]
            both = torch.cat((hidden, seen.reshape_as(hidden)), dim=-1)  # [B*K, L, 2W]
            language, after = self._run(self.language, self.dropout(both), state[2:], lengths)
            hidden, new = hidden + language, (*new, *after)
        hidden = self.output_norm(hidden).view(batch, captions, length, self.width)
        return hidden, tuple(part.view(batch, captions, self.width) for part in new)

    def logits(self, hidden: Tensor) -> Tensor:
        """Score the words: [..., W] to [..., V]."""
        return self.output(self.dropout(hidden))

    def _attend(self, memory: Memory, hidden: Tensor) -> Tensor:
        """Scaled dot-product attention (Vaswani et al. 2017) of every token on its image: [B, T, W] to [B, T, W]."""
        assert memory.keys is not None
        assert memory.values is not None
        queries = self._split_heads(self.query(hidden))  # [B, H, T, W / H]
        seen = F.scaled_dot_product_attention(queries, memory.keys, memory.values)
        return seen.transpose(1, 2).flatten(2)

    def _split_heads(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (self.heads, -1)).transpose(1, 2)  # [B, T, W] to [B, H, T, W / H]

    @staticmethod
    def _run(lstm: nn.LSTM, x: Tensor, state: State, lengths: Tensor | None) -> tuple[Tensor, State]:
        """Run over x [B*K, L, *] from a state of two [B, K, W]; returns [B*K, L, W] and the new state."""
        h, c = (part.flatten(0, 1).unsqueeze(0).contiguous() for part in state)
        if lengths is None:
            hidden, (h, c) = lstm(x, (h, c))
        else:
            packed = pack_padded_sequence(x, lengths.flatten(), batch_first=True, enforce_sorted=False)
            packed, (h, c) = lstm(packed, (h, c))
            hidden, _ = pad_packed_sequence(packed, batch_first=True, total_length=x.shape[1])
        return hidden, (h.squeeze(0), c.squeeze(0))
