"""Captions and features of one split, and the batches that training reads from them.

Dimensions as in `captioner.model.decoder`: B images, K captions of an image, L tokens, T tokens of all captions,
V words.
"""

import functools
import itertools
import math
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from captioner.base.device import pinned, prefers_few_shapes, to_device
from captioner.base.distributed import share
from captioner.base.errors import CaptionerError
from captioner.captions.dataset import CaptionedImage
from captioner.captions.vocabulary import PAD
from captioner.model.packing import Packed, pack


@dataclass(frozen=True)
class CaptionSet:
    """The images of one split with their captions; `read` returns the features of rows."""

    images: list[str]
    references: dict[str, list[str]]
    ids: Tensor  # [N, K, 1 + L + 1] int64, padded
    views: Tensor  # [N, views] int64, rows of the store; each image's first is not mirrored
    read: Callable[[Tensor], Tensor]  # rows [B] to features [B, h, w, C]

    @classmethod
    def of_splits(
        cls,
        captions: Iterable[CaptionedImage],
        views: Mapping[str, Sequence[int]],
        read: Callable[[Tensor], Tensor],
    ) -> dict[str, "CaptionSet"]:
        """Return the training and the dev images that have views, by split.

        Raises CaptionerError if a split has no such image.
        """
        items_of: dict[str, list[CaptionedImage]] = {"train": [], "dev": []}
        for item in captions:
            if item.image in views and item.split in items_of:
                items_of[item.split].append(item)
        return {split: cls._of(split, items, views, read) for split, items in items_of.items()}

    @classmethod
    def _of(
        cls,
        split: str,
        chosen: list[CaptionedImage],
        views: Mapping[str, Sequence[int]],
        read: Callable[[Tensor], Tensor],
    ) -> "CaptionSet":
        if not chosen:
            raise CaptionerError(f"no image of the {split} split has features; run `dvc repro features`")
        most = max(len(item.ids) for item in chosen)
        longest = max(len(ids) for item in chosen for ids in item.ids)
        padded = torch.full((len(chosen), most, longest), PAD)
        for at, item in enumerate(chosen):
            for k, ids in enumerate(item.ids):
                padded[at, k, : len(ids)] = torch.tensor(ids)
        return cls(
            images=[item.image for item in chosen],
            references={item.image: item.raw for item in chosen},
            ids=padded,
            views=torch.tensor([views[item.image] for item in chosen]),
            read=read,
        )

    def __len__(self) -> int:
        return len(self.images)

    def batches(
        self,
        order: Tensor,
        size: int,
        device: torch.device,
        *,
        view: Tensor | None = None,
        crop: float = 1.0,
        prefetch: bool = False,
    ) -> Iterator["Batch | None"]:
        """Yield the images of `order` in batches of `size`, with captions as long and as many as the batch has.

        `view` [N] is the view to take of each image; by default the first. `crop` is the `least` of `random_window`.
        Each process gets its share of a batch, or None where the batch is too small for every process to get one.
        With `prefetch` a thread reads the next batch while the caller uses the present one, for a GPU into pinned
        memory. Windows are drawn in the caller's thread, so that the caller's random numbers are the same with and
        without it.
        """
        rows = self.views[:, 0] if view is None else self.views.gather(1, view.unsqueeze(1)).squeeze(1)
        shares = map(share, order.split(size))
        read = functools.partial(self._read_batch, rows, device)
        for batch in _read_ahead(read, shares, device) if prefetch else map(read, shares):
            yield batch and batch.to(device, crop)

    def _read_batch(self, rows: Tensor, device: torch.device, chosen: Tensor) -> "Batch | None":
        if not len(chosen):
            return None
        ids = self.ids[chosen]
        lengths = ((ids != PAD).sum(-1) - 1).clamp(min=0)  # some images have fewer captions than others
        longest, most = int(lengths.max()), int((lengths > 0).sum(1).max())
        ids, lengths = ids[:, :most, : longest + 1], lengths[:, :most]
        packed = pack(lengths, longest, few_shapes=prefers_few_shapes(device))
        return Batch(
            images=[self.images[at] for at in chosen.tolist()],
            rows=pinned(self.read(rows[chosen]), device),
            inputs=ids[:, :, :-1].contiguous(),
            packed=packed,
            targets=ids[:, :, 1:].flatten()[packed.places],
            words=int(lengths.sum()),
        )


class Batch(NamedTuple):
    """Images with their captions as next-word problems."""

    images: list[str]  # B names
    rows: Tensor  # [B, h, w, C] as stored
    inputs: Tensor  # [B, K, L] int64, padded
    packed: Packed  # order of the inputs
    targets: Tensor  # [T] int64, packed; padding where a caption has ended
    words: int  # targets that are not padding

    def to(self, device: torch.device, crop: float = 1.0) -> "Batch":
        """Return the batch on the device, its rows cut by `random_window`."""
        move = functools.partial(to_device, device=device)
        return self._replace(
            rows=random_window(move(self.rows), crop),
            inputs=move(self.inputs),
            packed=self.packed.to(move),
            targets=move(self.targets),
        )


def random_window(rows: Tensor, least: float) -> Tensor:
    """Cut a window [B, h', w', C] out of each map [B, h, w, C], each at a random place.

    All windows of a batch have the same random height and width. Both are at least the share `least` of the map's side
    and differ from it by an even number, because a CPU compiles kernels for each shape. With `least` 1 the maps are
    returned and nothing is drawn. On the input of the unfrozen blocks a window replaces a crop of the photo.
    """
    if least == 1:
        return rows
    spans = []
    for side in rows.shape[1:3]:
        size = side - 2 * int(torch.randint((side - math.ceil(least * side)) // 2 + 1, ()))
        start = torch.randint(side - size + 1, (len(rows), 1))
        spans.append(start + torch.arange(size))  # [B, size]
    down, across = (to_device(span, rows.device) for span in spans)
    return rows[torch.arange(len(rows), device=rows.device)[:, None, None], down[:, :, None], across[:, None, :]]


def _read_ahead(
    read: Callable[[Tensor], Batch | None], shares: Iterable[Tensor], device: torch.device
) -> Iterator[Batch | None]:
    """Yield `read(share)` of each share; a thread is one share ahead."""
    # a thread's current GPU is the first one, unless it is set
    use = functools.partial(torch.cuda.set_device, device) if device.type == "cuda" else None
    with ThreadPoolExecutor(max_workers=1, initializer=use) as thread:
        parts = iter(shares)
        pending = deque(thread.submit(read, part) for part in itertools.islice(parts, 1))
        while pending:
            batch = pending.popleft().result()
            pending.extend(thread.submit(read, part) for part in itertools.islice(parts, 1))
            yield batch
