"""The training loop that the decoder's stage and the fine-tuning stage share.

Dimensions as in `captioner.model.decoder`: B images, K captions of an image, L tokens, T tokens
of all captions, V words.

One epoch is one record: {"epoch", what the objective measures, "dev loss", "dev CIDEr", "learning rate"}; losses are
mean cross-entropies of the next word in nats, without label smoothing; dev CIDEr is of captions found by search.
"""

import copy
import functools
import hashlib
import logging
import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn
from tqdm import tqdm

from captioner.base.device import mixed_precision, to_device
from captioner.base.distributed import Mean, average, diverge, from_first, gather, processes, rank, share
from captioner.base.errors import CaptionerError
from captioner.base.resume import Resume
from captioner.captions.dataset import CaptionedImage
from captioner.captions.vocabulary import EOS, PAD, Vocabulary
from captioner.model.captioner import Captioner, Examples
from captioner.model.decoder import Decoder, Memory
from captioner.model.generate import generate
from captioner.model.packing import Packed, pack
from captioner.model.search import draw, forbidden
from captioner.scoring.scores import Cider, score

log = logging.getLogger(__name__)

CHECK_EVERY = 20  # batches between looks at the loss; each look waits for the device
DEV_BATCH = 100  # images
DEV_BEAM = 3  # of what is compared across stages


@dataclass(frozen=True)
class CaptionSet:
    """The images of one split with their captions; `read` gives the features of rows."""

    images: list[str]
    references: dict[str, list[str]]
    ids: Tensor  # [N, K, 1 + L + 1] int64, padded
    views: Tensor  # [N, views] int64, rows of the store; the first of each image is the one that is not mirrored
    read: Callable[[Tensor], Tensor]  # rows [B] to features [B, h, w, C]

    @classmethod
    def of_splits(
        cls,
        captions: Iterable[CaptionedImage],
        views: Mapping[str, Sequence[int]],
        read: Callable[[Tensor], Tensor],
    ) -> dict[str, "CaptionSet"]:
        """Take the training and the dev images that have views.

        Raises CaptionerError for the training or dev split without an image.
        """
        split_of: dict[str, list[CaptionedImage]] = {"train": [], "dev": []}
        for item in captions:
            if item.image in views and item.split in split_of:
                split_of[item.split].append(item)
        return {split: cls._of(split, items, views, read) for split, items in split_of.items()}

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
        self, order: Tensor, size: int, device: torch.device, *, view: Tensor | None = None, crop: float = 1.0
    ) -> Iterator["Batch | None"]:
        """Yield the images of `order` in batches of `size`, captions cut to the longest of their batch.

        `view` [N] says which view to take of each image; without it, it is the first. `crop` as in `cropped`.
        A batch is shared out among the processes; None stands for one that is too small for this one to have a part.
        """
        rows = self.views[:, 0] if view is None else self.views.gather(1, view.unsqueeze(1)).squeeze(1)
        for chosen in map(share, order.split(size)):
            if not len(chosen):
                yield None
                continue
            ids = self.ids[chosen]
            lengths = ((ids != PAD).sum(-1) - 1).clamp(min=0)  # some images have fewer captions than others
            longest = int(lengths.max())
            packed = pack(lengths, longest)
            ids = ids[:, :, : longest + 1]
            move = functools.partial(to_device, device=device)
            yield Batch(
                images=[self.images[at] for at in chosen.tolist()],
                rows=move(cropped(self.read(rows[chosen]), crop)),
                inputs=move(ids[:, :, :-1].contiguous()),
                packed=packed.to(move),
                targets=move(ids[:, :, 1:].flatten()[packed.places]),
                words=int(lengths.sum()),
            )


def cropped(rows: Tensor, least: float) -> Tensor:
    """Cut a window [B, h', w', C] out of each map [B, h, w, C], at a place drawn for each.

    The window's height and width are drawn for all together, each at least the share `least` of the map's and smaller
    by an even number, which leaves a CPU few shapes to prepare for; with 1 nothing is drawn and the maps come back. On
    the input of a frozen boundary it stands for a crop of the photo.
    """
    if least == 1:
        return rows
    spans = []
    for side in rows.shape[1:3]:
        size = side - 2 * int(torch.randint((side - math.ceil(least * side)) // 2 + 1, ()))
        start = torch.randint(side - size + 1, (len(rows), 1))
        spans.append(start + torch.arange(size))  # [B, size]
    down, across = spans
    return rows[torch.arange(len(rows))[:, None, None], down[:, :, None], across[:, None, :]]


class Batch(NamedTuple):
    """Images with their captions as next-word problems."""

    images: list[str]  # B names
    rows: Tensor  # [B, h, w, C] as the store has them
    inputs: Tensor  # [B, K, L] int64, padded
    packed: Packed  # of the inputs
    targets: Tensor  # [T] int64, packed, padding where a caption has ended
    words: int  # that are not padding


class Objective(Protocol):
    """What training lowers."""

    measure: str  # the record's name for what is measured on training images

    def __call__(self, captioner: Captioner, batch: Batch) -> tuple[Mean, Mean]:
        """Return the loss to lower and the measure; the latter without gradient."""


class NextWord:
    """Teacher forcing: the cross-entropy of the next word, with a share of it from all words alike.

    `own_words` is the share of the words read that are the decoder's own, as `with_own_words` draws them.
    """

    measure = "train loss"

    def __init__(self, *, label_smoothing: float, own_words: float = 0.0):
        self.label_smoothing, self.own_words = label_smoothing, own_words

    def __call__(self, captioner: Captioner, batch: Batch) -> tuple[Mean, Mean]:
        """Return the smoothed loss and the plain one."""
        loss, uniform = next_word_losses(captioner, batch, self.own_words)
        smoothed = (1 - self.label_smoothing) * loss + self.label_smoothing * uniform
        return Mean(smoothed, batch.words), Mean(loss.detach(), batch.words)


def next_word_losses(captioner: Captioner, batch: Batch, own_words: float = 0.0) -> tuple[Tensor, Tensor]:
    """Return the mean cross-entropy of the targets, and of all words alike (what label smoothing mixes in)."""
    decoder = captioner.decoder
    memory = captioner.encode(batch.rows)
    inputs = with_own_words(decoder, memory, batch, own_words) if own_words else batch.inputs
    logits = decoder.logits(decoder(memory, inputs, batch.packed))  # [T, V]
    log_p = logits.float().log_softmax(-1)
    shares = (batch.targets != PAD).to(log_p.dtype) / batch.words  # [T]
    target = log_p.gather(1, batch.targets.unsqueeze(1)).squeeze(1)
    return -(shares * target).sum(), -(shares * log_p.mean(1)).sum()  # no product of matrices: autocast would round it


@torch.no_grad()
def with_own_words(decoder: Decoder, memory: Memory, batch: Batch, share: float) -> Tensor:
    """Return the batch's inputs [B, K, L], `share` of the words drawn from what the decoder predicts in their place.

    Scheduled sampling (Bengio et al. 2015) at a constant share, and in two passes (Mihaylova and Martins 2019): what is
    predicted follows the captions themselves, so that all time steps are still computed at once.
    """
    places, length = batch.packed.places, batch.inputs.shape[-1]
    hidden = decoder(memory, batch.inputs, batch.packed)  # [T, W]
    chosen = torch.randperm(len(places), device=places.device)[: round(share * len(places))]
    logits = decoder.logits(hidden[chosen])
    words = draw(logits, forbidden(logits.shape[-1], logits.device, EOS))
    places, targets = places[chosen], batch.targets[chosen]
    read = (targets != PAD) & (targets != EOS) & (places % length != length - 1)  # at the next step
    inputs = nn.functional.pad(batch.inputs.flatten(), (0, 1))  # and a place for the words that nobody reads
    return inputs.scatter(0, torch.where(read, places + 1, len(inputs) - 1), words)[:-1].view_as(batch.inputs)


def parameter_groups(modules: Sequence[nn.Module], *, lr: float, weight_decay: float) -> list[dict[str, Any]]:
    """Return optimizer groups of the modules' parameters; vectors (biases, norms) are not decayed."""
    parameters = list(dict.fromkeys(parameter for module in modules for parameter in module.parameters()))
    matrices = [parameter for parameter in parameters if parameter.ndim > 1]
    vectors = [parameter for parameter in parameters if parameter.ndim <= 1]
    return [
        {"params": matrices, "peak": lr, "weight_decay": weight_decay},
        {"params": vectors, "peak": lr, "weight_decay": 0.0},
    ]


def rate_scale(step: int, steps: int, warmup: int) -> float:
    """Return the learning rate as a fraction of its peak: a linear rise, then half a cosine down to zero."""
    if step < warmup:
        return (step + 1) / warmup
    return 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, steps - warmup)))


def fit(
    captioner: Captioner,
    groups: list[dict[str, Any]],
    training: CaptionSet,
    dev: CaptionSet,
    vocabulary: Vocabulary,
    objective: Objective,
    *,
    epochs: int,
    batch: int,
    warmup: float,
    clip: float,
    patience: int,
    ema: float,
    crop: float,
    seed: int,
    start_is_candidate: bool,
    dev_beam: int,
    device: torch.device,
    resume: Resume,
    on_epoch: Callable[[list[dict[str, float]]], None],
) -> list[dict[str, float]]:
    """Lower the objective, keep the weights of the epoch with the best dev CIDEr, return all records.

    The weights that are measured and kept are an exponential average of those of all steps, of which each step keeps
    the share `ema` (Polyak and Juditsky 1992; less in the first steps, as in TensorFlow's ExponentialMovingAverage);
    with 0 they are the last step's. Each epoch draws one view of each image, and each batch a window of it (`crop`, see
    `cropped`).

    `batch` counts images, each with all its captions; `warmup` is in epochs; training stops when `patience` epochs
    brought no better dev CIDEr. With `start_is_candidate` the given weights are epoch 0; `dev_beam` is the beam of the
    search that generates the dev captions. `on_epoch` is called with the records so far. After each epoch the state
    goes to `resume`, and a run that starts where one is found ends with the same weights as one that was never
    interrupted: all randomness of an epoch comes from (seed, epoch). Where several processes call it
    (`captioner.base.distributed`), `batch` is what they have together, and only the first saves and calls `on_epoch`.
    Raises CaptionerError when the loss is not finite.
    """
    captioner.to(device)
    averaged = copy.deepcopy(captioner)
    optimizer = torch.optim.AdamW(groups, fused=device.type != "mps")
    steps = math.ceil(len(training) / batch)
    scorer = Cider(dev.references, vocabulary.language)
    records: list[dict[str, float]] = []
    best: dict[str, Tensor] = {}
    trained = [parameter for group in groups for parameter in group["params"]]
    nothing = Mean(torch.zeros(()), 0)

    shared = f", shared by {processes()} processes" if processes() > 1 else ""
    log.info("on %s: %d training images, %d dev images%s", device, len(training), len(dev), shared)
    state = from_first(resume.load)
    if state:
        log.info("going on after epoch %d, from %s", state["records"][-1]["epoch"], resume.path)
        captioner.load_state_dict(state["weights"])
        averaged.load_state_dict(state["averaged"])
        optimizer.load_state_dict(state["optimizer"])
        records, best = state["records"], state["best"]
    elif start_is_candidate:
        records.append({"epoch": 0, **_dev_record(averaged, dev, vocabulary, scorer, dev_beam, device)})
        best = copy.deepcopy(averaged.state_dict())
        log.info(_line(records[-1], epochs))
    if rank() == 0:
        on_epoch(records)

    first = int(records[-1]["epoch"]) + 1 if records else 1
    for epoch in range(first, epochs + 1):
        if records and records[-1]["epoch"] - best_record(records)["epoch"] >= patience:
            log.info("no better dev CIDEr for %d epochs: stopped early", patience)
            break
        began = time.monotonic()
        torch.manual_seed(_epoch_seed(seed, epoch))
        order = torch.randperm(len(training))
        view = torch.randint(training.views.shape[1], (len(training),))
        diverge()
        captioner.train()
        losses: list[Tensor] = []
        measured: list[Tensor] = []
        progress = tqdm(
            training.batches(order, batch, device, view=view, crop=crop),
            total=steps,
            desc=f"epoch {epoch}",
            unit="batch",
            disable=None if rank() == 0 else True,
            leave=False,
        )
        for step, images in enumerate(progress, 1):
            done = (epoch - 1) * steps + step - 1
            scale = rate_scale(done, epochs * steps, round(warmup * steps))
            for group in optimizer.param_groups:
                group["lr"] = group["peak"] * scale
            optimizer.zero_grad(set_to_none=True)
            means = nothing, nothing
            if images:
                with mixed_precision(device):
                    means = objective(captioner, images)
                means[0].value.backward()
            loss, measure = average(trained, *means)
            norm = nn.utils.clip_grad_norm_(trained, clip)
            losses.append(loss)
            measured.append(measure)
            if step % CHECK_EVERY == 0 or step == steps:
                _check_finite(losses[-CHECK_EVERY:], norm, captioner, epoch, step)
                progress.set_postfix({objective.measure: f"{measure:.3f}"})
                log.debug("epoch %d, batch %d/%d: %s %.4f", epoch, step, steps, objective.measure, measure)
            optimizer.step()
            _follow(averaged, captioner, min(ema, (1 + done) / (10 + done)))
        records.append(
            {
                "epoch": epoch,
                objective.measure: round(torch.stack(measured).mean().item(), 5),
                **_dev_record(averaged, dev, vocabulary, scorer, dev_beam, device),
                "learning rate": groups[-1]["peak"] * scale,  # the decoder's, which come last
            }
        )
        if best_record(records) is records[-1]:
            best = copy.deepcopy(averaged.state_dict())
        if rank() == 0:
            resume.save(
                {
                    "weights": captioner.state_dict(),
                    "averaged": averaged.state_dict(),
                    "optimizer": optimizer.state_dict(),
                    "records": records,
                    "best": best,
                }
            )
            on_epoch(records)
        log.info("%s, %.0f s", _line(records[-1], epochs), time.monotonic() - began)
    captioner.load_state_dict(best)
    captioner.eval()
    return records


def dev_scores(captioner: Captioner, dev: CaptionSet, vocabulary: Vocabulary, device: torch.device) -> dict[str, float]:
    """Return BLEU-4 and CIDEr (fractions of 1) of dev captions that a beam of 3 finds: for choosing, so that the
    test split need not be touched."""
    captions = _dev_captions(captioner, dev, vocabulary, DEV_BEAM, device)
    corpus, _ = score(dev.references, captions, meteor=False, language=vocabulary.language)
    return {name: round(corpus[name], 5) for name in ("BLEU-4", "CIDEr")}


@torch.inference_mode()
def examples_of(captioner: Captioner, training: CaptionSet, device: torch.device) -> Examples:
    """Return what a captioner keeps of the images that it was trained on, of each the view that is not mirrored."""
    captioner.to(device).eval()
    features = [
        captioner.features(to_device(training.read(rows), device)).float().mean(1).half().cpu()
        for rows in training.views[:, 0].split(DEV_BATCH)
    ]
    return Examples(torch.cat(features), training.ids[:, :, 1:].int())


def best_record(records: list[dict[str, float]]) -> dict[str, float]:
    """Return the record of the highest dev CIDEr, of equals that of the lowest dev loss, the first of them."""
    return max(records, key=lambda record: (record["dev CIDEr"], -record["dev loss"]))


def _epoch_seed(seed: int, epoch: int) -> int:
    """Return 32 bits, of which torch's CPU generator takes no more; two seeds or epochs hardly ever share them."""
    return int.from_bytes(hashlib.sha256(f"{seed} {epoch}".encode()).digest()[:4], "big")


def _line(record: dict[str, float], epochs: int) -> str:
    shown = ", ".join(f"{key} {value:.4f}" for key, value in record.items() if key not in ("epoch", "learning rate"))
    return f"epoch {record['epoch']:.0f}/{epochs}: {shown}"


def _follow(averaged: Captioner, captioner: Captioner, kept: float) -> None:
    """Move the averaged weights towards the captioner's, of which 1 - `kept` comes in."""
    pair = ([each for each in of.parameters() if each.requires_grad] for of in (averaged, captioner))
    get_ema_multi_avg_fn(kept)(*pair, None)


def _check_finite(losses: list[Tensor], norm: Tensor, captioner: Captioner, epoch: int, step: int) -> None:
    finite = torch.isfinite(torch.stack(losses))
    if finite.all() and torch.isfinite(norm):
        return
    bad = step if finite.all() else step - len(losses) + 1 + int((~finite).int().argmax())  # the norm is this step's
    norms = {name: f"{parameter.norm().item():.4g}" for name, parameter in captioner.named_parameters()}
    raise CaptionerError(
        f"the loss or its gradient is not finite in epoch {epoch}, batch {bad} (gradient norm {norm.item():.4g}); "
        "lower the learning rate in params.yaml. The state after the last whole epoch is kept. "
        f"Parameter norms: {norms}"
    )


@torch.inference_mode()
def _dev_record(
    captioner: Captioner, dev: CaptionSet, vocabulary: Vocabulary, scorer: Cider, beam: int, device: torch.device
) -> dict[str, float]:
    captioner.eval()
    total, words = 0.0, 0
    for images in dev.batches(torch.arange(len(dev)), DEV_BATCH * processes(), device):
        if images:
            loss, _ = next_word_losses(captioner, images)
            total, words = total + loss.item() * images.words, words + images.words
    total, words = map(sum, zip(*gather((total, words)), strict=True))
    captions = _dev_captions(captioner, dev, vocabulary, beam, device)
    return from_first(lambda: {"dev loss": round(total / words, 5), "dev CIDEr": round(scorer.score(captions)[0], 5)})


def _dev_captions(
    captioner: Captioner, dev: CaptionSet, vocabulary: Vocabulary, beam: int, device: torch.device
) -> dict[str, str]:
    """Return the caption of each dev image that a beam search finds; each process searches for its share."""
    mine = share(torch.arange(len(dev)))
    captions = (
        {}
        if not len(mine)
        else generate(
            captioner,
            [dev.images[at] for at in mine.tolist()],
            lambda chosen: dev.read(dev.views[mine[chosen], 0]),
            vocabulary,
            beam=beam,
            length_penalty=1.0,
            device=device,
        )
    )
    return {image: caption for part in gather(captions) for image, caption in part.items()}
