"""The baselines: the code of the well-known captioning tutorials in a plain form.

Dimensions: B captions, T words of the longest, V words of the vocabulary, P grid positions, D feature width, W width.
"""

import io
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import h5py
import torch
import torch.nn.functional as F
import torchvision
from PIL import Image
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms

from captioner.captions.vocabulary import BOS, EOS, PAD, UNK
from captioner.model.decoder import Decoder
from captioner.vision.encoder import MEAN, STD

WORKERS = 2
BATCH = 32


class Photos(Dataset):
    """Photos from the bytes of their files in memory, resized to [3, size, size] and normalised as for ImageNet."""

    def __init__(self, photos: Sequence[bytes], size: int):
        self.photos = photos
        self.transform = transforms.Compose(
            [
                transforms.Resize((size, size), interpolation=transforms.InterpolationMode.BICUBIC),
                transforms.ToTensor(),
                transforms.Normalize(MEAN, STD),
            ]
        )

    def __len__(self) -> int:
        return len(self.photos)

    def __getitem__(self, index: int) -> Tensor:
        return self.transform(Image.open(io.BytesIO(self.photos[index])).convert("RGB"))


def resnet(state: dict[str, Tensor]) -> nn.Module:
    """Return torchvision's ResNet-18 with these weights, in eval mode."""
    network = torchvision.models.resnet18()
    network.load_state_dict(state, strict=False)  # the encoder's weights are without the classifier
    return network.eval()


def trunk(network: nn.Module) -> nn.Sequential:
    """Return a ResNet without its pooling and classifier."""
    return nn.Sequential(*list(network.children())[:-2])


@torch.no_grad()
def extract(photos: Sequence[bytes], network: nn.Module, path: Path, size: int) -> None:
    """Write the grids of the photos to an HDF5 dataset "features", float16 [N, h, w, D]."""
    encoder = trunk(network)
    with h5py.File(path, "w") as file:
        dataset = None
        at = 0
        for images in DataLoader(Photos(photos, size), batch_size=BATCH, num_workers=WORKERS):
            features = encoder(images).permute(0, 2, 3, 1)
            if dataset is None:
                dataset = file.create_dataset("features", (len(photos), *features.shape[1:]), dtype="float16")
            dataset[at : at + len(features)] = features.numpy()
            at += len(features)


def features_from_pixels(
    photos: Sequence[bytes], order: Iterable[Sequence[int]], network: nn.Module, size: int
) -> Callable[[Tensor], Tensor]:
    """Return a `read` for `CaptionSet` of `captioner.training.batches`.

    It ignores its argument and computes the grids [B, h, w, D] of the next batch of `order` from the photos' bytes.
    """
    loader = iter(DataLoader(Photos(photos, size), batch_sampler=list(order), num_workers=WORKERS))
    encoder = trunk(network)

    @torch.no_grad()
    def read(_: Tensor) -> Tensor:
        return encoder(next(loader)).permute(0, 2, 3, 1)

    return read


class StepDecoder(nn.Module):
    """The attention decoder of `captioner.model.decoder`, with its weights, as a loop of LSTMCells over time steps.

    As in the tutorials, each caption has its own copy of the image's features, captions are sorted by decreasing
    length, and the batch shrinks when captions end. The results are those of `Decoder`.
    """

    def __init__(self, decoder: Decoder):
        super().__init__()
        self.decoder = decoder
        self.words = _cell(decoder.lstm)
        self.language = _cell(decoder.language)

    def forward(self, features: Tensor, tokens: Tensor, lengths: Tensor) -> Tensor:
        """Return logits [B, T, V], zero after the end of a caption, from features [B, P, D], tokens [B, T] and sorted
        lengths [B]."""
        own = self.decoder
        drop = nn.Dropout(own.dropout.p).train(own.training)
        grid = drop(own.grid_norm(F.relu(own.image(own.standardise(features)))))
        h, c, g, d = torch.tanh(own.start(grid.mean(1))).chunk(4, dim=-1)
        keys, values = own.key_value(grid).unflatten(-1, (2, own.heads, -1)).unbind(2)  # each [B, P, H, W / H]
        embedded = drop(own.embedding(tokens))
        predictions = torch.zeros(*tokens.shape, own.output.out_features, device=features.device)
        for t in range(int(lengths.max())):
            going = int((lengths > t).sum())
            h, c = self.words(embedded[:going, t], (h[:going], c[:going]))
            query = own.query(h).unflatten(-1, (own.heads, -1))  # [B, H, W / H]
            weights = (torch.einsum("bhw,bphw->bhp", query, keys[:going]) / query.shape[-1] ** 0.5).softmax(-1)
            seen = torch.einsum("bhp,bphw->bhw", weights, values[:going]).flatten(1)
            g, d = self.language(drop(torch.cat((h, seen), dim=-1)), (g[:going], d[:going]))
            predictions[:going, t] = own.output(drop(own.output_norm(h + g))).float()
        return predictions


def _cell(lstm: nn.LSTM) -> nn.LSTMCell:
    cell = nn.LSTMCell(lstm.input_size, lstm.hidden_size)
    cell.weight_ih, cell.weight_hh = lstm.weight_ih_l0, lstm.weight_hh_l0
    cell.bias_ih, cell.bias_hh = lstm.bias_ih_l0, lstm.bias_hh_l0
    return cell


class ClassicDecoder(nn.Module):
    """The decoder of Show, Attend and Tell (Xu et al. 2015) in the tutorials' form: one LSTMCell, a gate, additive
    attention that projects the features at every step and feeds back into the cell, and dropout before the output."""

    def __init__(self, *, vocabulary: int, features: int, width: int, dropout: float):
        super().__init__()
        self.embedding = nn.Embedding(vocabulary, width)
        self.dropout = nn.Dropout(dropout)
        self.from_features = nn.Linear(features, width)
        self.from_hidden = nn.Linear(width, width)
        self.score = nn.Linear(width, 1)
        self.cell = nn.LSTMCell(width + features, width)
        self.start_h, self.start_c = nn.Linear(features, width), nn.Linear(features, width)
        self.gate = nn.Linear(width, features)
        self.output = nn.Linear(width, vocabulary)

    def forward(self, features: Tensor, tokens: Tensor, lengths: Tensor) -> Tensor:
        """As `StepDecoder.forward`."""
        embedded = self.embedding(tokens)
        mean = features.mean(1)
        h, c = self.start_h(mean), self.start_c(mean)
        predictions = torch.zeros(*tokens.shape, self.output.out_features, device=features.device)
        for t in range(int(lengths.max())):
            going = int((lengths > t).sum())
            projected = self.from_features(features[:going])
            weights = self.score(F.relu(projected + self.from_hidden(h[:going]).unsqueeze(1))).softmax(1)  # [B, P, 1]
            seen = torch.sigmoid(self.gate(h[:going])) * (features[:going] * weights).sum(1)
            h, c = self.cell(torch.cat((embedded[:going, t], seen), dim=1), (h[:going], c[:going]))
            predictions[:going, t] = self.output(self.dropout(h)).float()
        return predictions


def step_loss(decoder: nn.Module, features: Tensor, tokens: Tensor) -> Tensor:
    """Return the mean cross-entropy of the next words of padded captions [B, K, 1 + L], from features [B, P, D]."""
    captions = tokens.flatten(0, 1)
    lengths = (captions != PAD).sum(-1) - 1
    lengths, order = lengths.sort(descending=True)
    captions = captions[order]
    copies = features.repeat_interleave(tokens.shape[1], dim=0)[order]
    predictions = decoder(copies, captions[:, :-1], lengths)
    scores = pack_padded_sequence(predictions, lengths, batch_first=True).data
    return F.cross_entropy(scores, pack_padded_sequence(captions[:, 1:], lengths, batch_first=True).data)


@torch.no_grad()
def beam_search_of_one(
    decoder: Decoder, features: Tensor, *, beam: int, max_length: int, length_penalty: float
) -> tuple[list[int], float]:
    """Return the caption of one image, features [1, P, D], by beam search: its tokens and its score.

    The beams are a Python list. One forward pass extends all beams that have not ended.
    """
    memory = decoder.encode(features)
    beams: list[tuple[float, float, list[int], bool]] = [(0.0, 0.0, [], False)]  # score, log-probability, tokens, ended
    state = memory.states(1)  # each [K, W]
    for _ in range(max_length):
        going = [one for one in beams if not one[3]]
        last = torch.tensor([one[2][-1] if one[2] else BOS for one in going])  # [K]
        hidden, state = decoder.step(memory, last, state)
        words = decoder.logits(hidden).float().log_softmax(-1)  # [K, V]
        words[:, [PAD, BOS, UNK]] = -torch.inf
        candidates = [(score, log_p, tokens, True, -1) for score, log_p, tokens, ended in beams if ended]
        for parent, (_, log_p, tokens, _) in enumerate(going):
            best, ids = words[parent].topk(beam)
            for gained, word in zip(best.tolist(), ids.tolist(), strict=True):
                total, longer = log_p + gained, [*tokens, word]
                candidates.append((total / len(longer) ** length_penalty, total, longer, word == EOS, parent))
        candidates = sorted(candidates, key=lambda candidate: -candidate[0])[:beam]
        beams = [candidate[:4] for candidate in candidates]
        parents = [parent for *_, ended, parent in candidates if not ended]
        if not parents:
            break
        state = tuple(part[parents] for part in state)
    score, _, tokens, _ = beams[0]
    return tokens, score
