"""Train the decoder and the last blocks of the encoder together, from the stored boundary on."""

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
from captioner.model.captioner import Captioner, Metadata, load_model, save_model, with_versions
from captioner.training.batches import CaptionSet
from captioner.training.curves import write_curve, write_summary
from captioner.training.dev import DEV_BEAM, DevEvaluation, dev_scores, examples_of
from captioner.training.loop import LoopSettings, fit, seed_of
from captioner.training.objectives import NextWord, Objective
from captioner.training.schedule import parameter_groups
from captioner.training.self_critical import SelfCritical
from captioner.vision.encoder import fingerprint as weights_hash
from captioner.vision.encoder import load_encoder
from captioner.vision.store import FeatureStore

log = logging.getLogger(__name__)

SHARES = (20, 40, 60, 80, 100)  # percent of the way from the first weights to the trained ones
PARTS = {"finetune-adapt": "first", "finetune": "second"}
LEVEL = 0.005  # CIDEr, a fraction of 1: what two shares may differ by and count as equal


@dataclass(frozen=True)
class FinetuneSettings(LoopSettings):
    """The section `finetune` of params.yaml."""

    unfreeze_from: str
    train_encoder: bool
    adapt_epochs: int
    adapt_lr: float
    adapt_encoder_lr: float
    objective: str
    samples: int
    next_word: float
    epochs: int
    lr: float
    encoder_lr: float
    weight_decay: float
    label_smoothing: float
    scheduled_sampling: float


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
    provenance: dict[str, Any],
    settings: FinetuneSettings,
    seed: int,
) -> None:
    """Fine-tune the decoder together with the encoder's blocks from `unfreeze_from` on.

    Writes `model`, which takes photos by itself, the curve (CSV; epoch 0 is the frozen encoder) and the summary (JSON).
    Only the unfrozen blocks are computed: they read the rows of the boundary store. Their gradients are those of the
    whole network, but for the rows' half precision. With `train_encoder` false only the decoder is trained.

    In the first `adapt_epochs` the objective is the next word, with separate learning rates. The second part starts
    from the best of these epochs. It trains for `epochs` more, with the objective "cider" or "cross-entropy" (the next
    word again). "cider" is self-critical training with `samples` captions for each image; a `next_word` above 0 adds
    the loss of the next word with this weight. At the end, `interpolate` chooses a point between the weights at the
    start and at the end of the second part.

    Raises CaptionerError if the decoder was trained with another vocabulary or encoder, or if the store holds another
    boundary.
    """
    make_deterministic(seed)
    device = select_device()
    captioner, metadata, splits = _load(captions, vocabulary, boundary_store, encoder, decoder, settings)
    # a beam, because chance moves the scores of greedy search more than fine-tuning does
    evaluate = DevEvaluation(splits["dev"], metadata.vocabulary, beam=DEV_BEAM, device=device)
    records: list[dict[str, float]] = []

    def train_part(name: str, objective: Objective, epochs: int, lr: float, encoder_lr: float) -> None:
        earlier = records.copy()
        first = int(earlier[-1]["epoch"]) + 1 if earlier else 1
        log.info("%s part of fine-tuning: its epoch 1 is epoch %d of the curve", PARTS[name], first)

        def keep(part: list[dict[str, float]]) -> None:
            records[:] = earlier + continued(part, earlier)
            write_curve(curve, records, [NextWord.measure, SelfCritical.measure])

        fit(
            captioner,
            _groups(captioner, settings, lr=lr, encoder_lr=encoder_lr),
            splits["train"],
            evaluate,
            objective,
            settings=settings,
            epochs=epochs,
            # with one seed all parts would draw the same views of the photos in each epoch
            seed=seed_of(seed, name),
            start_is_candidate=True,
            device=device,
            resume=Resume(name, provenance),
            on_epoch=keep,
        )

    first, second = _objectives(settings, splits["train"], metadata.vocabulary)
    if settings.adapt_epochs:
        train_part("finetune-adapt", first, settings.adapt_epochs, settings.adapt_lr, settings.adapt_encoder_lr)
    start = {name: parameter.detach().clone() for name, parameter in captioner.named_parameters()}
    train_part("finetune", second, settings.epochs, settings.lr, settings.encoder_lr)
    words = metadata.vocabulary
    share, scores = interpolate(captioner, start, lambda: dev_scores(captioner, splits["dev"], words, device))
    if rank() != 0:
        return
    captioner.examples = examples_of(captioner, splits["train"], device)
    save_model(model, captioner, replace(metadata, start=settings.unfreeze_from, provenance=with_versions(provenance)))
    _write_summary(summary, records, captioner, share, scores)
    Resume("finetune", provenance).remove()  # also the state of the first part


def _load(
    captions: str | Path,
    vocabulary: str | Path,
    boundary_store: str | Path,
    encoder: str | Path,
    decoder: str | Path,
    settings: FinetuneSettings,
) -> tuple[Captioner, Metadata, dict[str, CaptionSet]]:
    """Return the decoder joined to the encoder from `unfreeze_from` on, the model's metadata, and both splits.

    All blocks that are not trained are frozen.
    """
    captioner, metadata = load_model(decoder)
    if metadata.vocabulary != Vocabulary.from_dict(read_json(vocabulary)):
        raise CaptionerError(f"{decoder}: trained with another vocabulary than {vocabulary}; run `dvc repro train`")
    network = load_encoder(load_file(encoder))
    if weights_hash(network) != metadata.encoder:
        raise CaptionerError(f"{decoder}: trained on features of another encoder than {encoder}; run `dvc repro train`")
    store = FeatureStore(boundary_store, layer=settings.unfreeze_from, encoder=metadata.encoder, **metadata.image)
    splits = CaptionSet.of_splits(read_captions(captions), store.views, store.read)
    if (splits["dev"].views.shape[1] > 1) != metadata.mean:
        raise CaptionerError(f"{decoder}: trained with another views.mean than {boundary_store}; run `dvc repro train`")
    network.requires_grad_(False)
    if settings.train_encoder:
        for module in network.block_modules(settings.unfreeze_from):
            module.requires_grad_(True)
    return Captioner(captioner.decoder, network, start=settings.unfreeze_from), metadata, splits


def _objectives(
    settings: FinetuneSettings, training: CaptionSet, vocabulary: Vocabulary
) -> tuple[Objective, Objective]:
    """Return the objectives of the first and of the second part."""
    next_word = NextWord(label_smoothing=settings.label_smoothing, scheduled_sampling=settings.scheduled_sampling)
    if settings.objective == "cider":
        return next_word, SelfCritical(
            training.references,
            vocabulary,
            samples=settings.samples,
            next_word=next_word,
            weight=settings.next_word,
        )
    return next_word, next_word


def _groups(captioner: Captioner, settings: FinetuneSettings, *, lr: float, encoder_lr: float) -> list[dict[str, Any]]:
    """Return the optimizer's groups: the unfrozen blocks if they are trained, and the decoder."""
    decoder = parameter_groups([captioner.decoder], name="decoder", lr=lr, weight_decay=settings.weight_decay)
    if not settings.train_encoder or captioner.encoder is None:
        return decoder
    blocks = captioner.encoder.block_modules(settings.unfreeze_from)
    return parameter_groups(blocks, name="encoder", lr=encoder_lr, weight_decay=settings.weight_decay) + decoder


def _write_summary(
    path: str | Path,
    records: list[dict[str, float]],
    captioner: Captioner,
    share: int,
    scores: dict[int, dict[str, float]],
) -> None:
    trained = sum(parameter.numel() for parameter in captioner.parameters() if parameter.requires_grad)
    cider = {f"{each} %": score["CIDEr"] for each, score in scores.items()}
    write_summary(
        path,
        records,
        **{
            "trained parameters": trained,
            "dev, beam 3": scores[share],
            "interpolation": {"share": share, "dev CIDEr": cider},
        },
    )


def continued(records: list[dict[str, float]], earlier: list[dict[str, float]]) -> list[dict[str, float]]:
    """Return the records with epoch numbers that continue the `earlier` ones, without epoch 0, the best of those."""
    if not earlier:
        return records
    return [{**record, "epoch": earlier[-1]["epoch"] + record["epoch"]} for record in records if record["epoch"]]


@torch.no_grad()
def interpolate(
    captioner: torch.nn.Module, start: Mapping[str, Tensor], measure: Callable[[], dict[str, float]]
) -> tuple[int, dict[int, dict[str, float]]]:
    """Set the parameters to a point between `start` and their present values with good scores and many words.

    Fine-tuning fits the training photos more closely than others. So weights between its start and its end can caption
    other photos better than the last ones (WiSE-FT, Wortsman et al. 2022). Nearer to the start the captions have more
    different words. So this takes the smallest of the SHARES whose dev CIDEr is at most LEVEL below the best. If CIDEr
    is 0 for all, as it is for a single dev image, the weights stay. `measure` returns the captioner's scores, including
    "CIDEr". Returns this share in percent and the scores of all shares. If no parameter differs from `start`, the share
    is 100, and nothing else is measured.
    """
    trained = {name: parameter.detach().clone() for name, parameter in captioner.named_parameters()}
    if all(torch.equal(start[name].to(weight.device), weight) for name, weight in trained.items()):
        return SHARES[-1], {SHARES[-1]: measure()}

    def move(share: int) -> None:
        for name, parameter in captioner.named_parameters():
            parameter.copy_(torch.lerp(start[name].to(parameter.device), trained[name], share / 100))

    scores = {}
    for share in SHARES:
        move(share)
        scores[share] = measure()
        log.info("%d %% of the way from the first weights: dev CIDEr %.4f", share, scores[share]["CIDEr"])
    best = max(score["CIDEr"] for score in scores.values())
    share = next(share for share in SHARES if scores[share]["CIDEr"] >= best - LEVEL) if best else SHARES[-1]
    move(share)
    return share, scores
