"""Trains the decoder and the last blocks of the encoder together, from the stored boundary on."""

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from captioner.base.device import make_deterministic, select_device
from captioner.base.distributed import rank
from captioner.base.errors import CaptionerError
from captioner.base.files import read_json
from captioner.base.resume import Resume
from captioner.captions.dataset import read_captions
from captioner.captions.vocabulary import Vocabulary
from captioner.model.captioner import Captioner, load_model, provenance, save_model
from captioner.training.curves import write_curve, write_summary
from captioner.training.loop import (
    DEV_BEAM,
    CaptionSet,
    NextWord,
    Objective,
    dev_scores,
    examples_of,
    fit,
    parameter_groups,
)
from captioner.training.self_critical import SelfCritical
from captioner.vision.encoder import BLOCKS, load_encoder
from captioner.vision.encoder import fingerprint as weights_hash
from captioner.vision.store import FeatureStore

log = logging.getLogger(__name__)

SHARES = (60, 80, 100)  # percent of the way from the first weights to the trained ones


@dataclass(frozen=True)
class FinetuneSettings:
    """The section `finetune` of params.yaml."""

    unfreeze_from: str
    adapt_epochs: int
    adapt_lr: float
    adapt_encoder_lr: float
    objective: str
    samples: int
    epochs: int
    batch: int
    lr: float
    encoder_lr: float
    warmup: float
    weight_decay: float
    label_smoothing: float
    scheduled_sampling: float
    clip: float
    patience: int
    ema: float
    crop: float


def finetune(
    *,
    captions: str | Path,
    vocabulary: str | Path,
    boundary_store: str | Path,
    encoder: str | Path,
    decoder: str | Path,
    model: str | Path,
    curve: str | Path,
    summary: str | Path,
    made: dict[str, Any],
    settings: FinetuneSettings,
    seed: int,
) -> None:
    """Fine-tune the decoder with the blocks of the encoder from `unfreeze_from` on; write `model`, which
    takes photos by itself, the curve (CSV, from epoch 0: the frozen encoder) and the summary (JSON).

    Only the unfrozen blocks are computed: the rows of the boundary store are what they take in, so their
    gradients are those of the whole network but for the rows' half precision.

    In the first `adapt_epochs` the objective is the next word, at rates of their own, for the encoder to change and the
    decoder to follow. From the best of these, `epochs` more have the objective "cider" (self-critical training, with
    `samples` captions an image) or "cross-entropy" (the next word again). Then the model is moved back towards where
    these began, as far as `interpolate` finds best.

    Raises CaptionerError where the decoder was trained with another vocabulary or another encoder, or the store holds
    another boundary.
    """
    make_deterministic(seed)
    captioner, card = load_model(decoder)
    if card.vocabulary != Vocabulary.from_dict(read_json(vocabulary)):
        raise CaptionerError(f"{decoder}: trained with another vocabulary than {vocabulary}; run `dvc repro train`")
    network = load_encoder(load_file(encoder))
    if weights_hash(network) != card.encoder:
        raise CaptionerError(f"{decoder}: trained on features of another encoder than {encoder}; run `dvc repro train`")
    store = FeatureStore(boundary_store, layer=settings.unfreeze_from, encoder=card.encoder, **card.image)
    splits = CaptionSet.of_splits(read_captions(captions), store.views, store.read)

    captioner = Captioner(captioner.decoder, network, start=settings.unfreeze_from)
    unfrozen = network.block_modules(settings.unfreeze_from)
    for module in network.block_modules(BLOCKS[0], settings.unfreeze_from):
        module.requires_grad_(False)
    device = select_device()
    next_word = NextWord(label_smoothing=settings.label_smoothing, own_words=settings.scheduled_sampling)
    records: list[dict[str, float]] = []

    def train(name: str, aim: Objective, epochs: int, lr: float, encoder_lr: float) -> None:
        earlier = records.copy()

        def keep(found: list[dict[str, float]]) -> None:
            records[:] = earlier + continued(found, earlier)
            write_curve(curve, records, [NextWord.measure, SelfCritical.measure])

        groups = parameter_groups(unfrozen, lr=encoder_lr, weight_decay=settings.weight_decay)
        groups += parameter_groups([captioner.decoder], lr=lr, weight_decay=settings.weight_decay)
        fit(
            captioner,
            groups,
            splits["train"],
            splits["dev"],
            card.vocabulary,
            aim,
            epochs=epochs,
            seed=seed,
            start_is_candidate=True,
            dev_beam=DEV_BEAM,  # what fine-tuning gains is less than what greedy search loses at random
            device=device,
            resume=Resume(name, made),
            on_epoch=keep,
            batch=settings.batch,
            warmup=settings.warmup,
            clip=settings.clip,
            patience=settings.patience,
            ema=settings.ema,
            crop=settings.crop,
        )

    if settings.adapt_epochs:
        train("finetune-adapt", next_word, settings.adapt_epochs, settings.adapt_lr, settings.adapt_encoder_lr)
    start = {name: parameter.detach().clone() for name, parameter in captioner.named_parameters()}
    aim: Objective = next_word
    if settings.objective == "cider":
        aim = SelfCritical(splits["train"].references, card.vocabulary, samples=settings.samples)
    train("finetune", aim, settings.epochs, settings.lr, settings.encoder_lr)
    share, scores = interpolate(captioner, start, lambda: dev_scores(captioner, splits["dev"], card.vocabulary, device))
    if rank() != 0:
        return
    captioner.examples = examples_of(captioner, splits["train"], device)
    save_model(model, captioner, replace(card, start=settings.unfreeze_from, provenance=provenance(made)))
    trained = sum(parameter.numel() for parameter in captioner.parameters() if parameter.requires_grad)
    tried = {f"{each} %": found["CIDEr"] for each, found in scores.items()}
    write_summary(
        summary,
        records,
        **{
            "trained parameters": trained,
            "dev, beam 3": scores[share],
            "interpolation": {"share": share, "dev CIDEr": tried},
        },
    )
    Resume("finetune", made).remove()  # that of the first epochs too


def continued(records: list[dict[str, float]], earlier: list[dict[str, float]]) -> list[dict[str, float]]:
    """Return records with their epochs counted on from `earlier` ones, without epoch 0, which is the best of those."""
    if not earlier:
        return records
    return [{**record, "epoch": earlier[-1]["epoch"] + record["epoch"]} for record in records if record["epoch"]]


@torch.no_grad()
def interpolate(
    captioner: torch.nn.Module, start: Mapping[str, Tensor], measure: Callable[[], dict[str, float]]
) -> tuple[int, dict[int, dict[str, float]]]:
    """Set each parameter between its value in `start` and its own, at the share of the way with the best dev CIDEr.

    Fine-tuning fits the training photos further than others; weights on the way there describe others better than
    those at its end (WiSE-FT, Wortsman et al. 2022). `measure` returns the scores of the captioner as it is, of them
    "CIDEr". Returns the share in percent, of those that do equally well the largest, and the scores of all shares.
    """
    trained = {name: parameter.detach().clone() for name, parameter in captioner.named_parameters()}

    def move(share: int) -> None:
        for name, parameter in captioner.named_parameters():
            parameter.copy_(torch.lerp(start[name].to(parameter.device), trained[name], share / 100))

    scores = {}
    for share in SHARES:
        move(share)
        scores[share] = measure()
        log.info("%d %% of the way from the first weights: dev CIDEr %.4f", share, scores[share]["CIDEr"])
    best = max(reversed(SHARES), key=lambda share: scores[share]["CIDEr"])
    move(best)
    return best, scores
