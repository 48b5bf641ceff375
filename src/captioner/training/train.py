"""Trains a decoder on the cached features of the frozen encoder."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from captioner.base.device import make_deterministic, select_device
from captioner.base.distributed import rank
from captioner.base.files import read_json
from captioner.base.resume import Resume
from captioner.captions.dataset import read_captions
from captioner.captions.vocabulary import Vocabulary
from captioner.model.captioner import Captioner, Metadata, provenance, save_model
from captioner.model.decoder import Decoder
from captioner.model.standardise import feature_statistics
from captioner.training.curves import write_curve, write_summary
from captioner.training.loop import CaptionSet, NextWord, dev_scores, examples_of, fit, parameter_groups
from captioner.vision.encoder import END
from captioner.vision.store import FeatureStore


@dataclass(frozen=True)
class DecoderSettings:
    """The section `decoder` of params.yaml."""

    attention: bool
    width: int
    heads: int
    tied: bool
    dropout: float
    standardise: bool


@dataclass(frozen=True)
class TrainSettings:
    """The section `train` of params.yaml."""

    epochs: int
    batch: int
    lr: float
    warmup: float
    weight_decay: float
    label_smoothing: float
    scheduled_sampling: float
    clip: float
    patience: int
    ema: float
    crop: float


def train_decoder(
    *,
    captions: str | Path,
    vocabulary: str | Path,
    grid_store: str | Path,
    model: str | Path,
    curve: str | Path,
    summary: str | Path,
    made: dict[str, Any],
    decoder: DecoderSettings,
    settings: TrainSettings,
    seed: int,
) -> None:
    """Train on the store of grids (without attention on their means, kept in memory) and write `model`,
    the curve (CSV) and the summary (JSON).

    With `decoder.standardise` the decoder standardises image features by the mean and deviation of all training views.
    `made` (see `captioner.base.resume.stage_provenance`) is stored in the model. It also names the state from which an
    interrupted run resumes.
    """
    make_deterministic(seed)
    words = Vocabulary.from_dict(read_json(vocabulary))
    store = FeatureStore(grid_store, layer=END)
    read = store.read if decoder.attention else store.pooled(range(store.shape[0])).__getitem__
    splits = CaptionSet.of_splits(read_captions(captions), store.views, read)
    shape = {"vocabulary": len(words), "features": store.shape[-1], **asdict(decoder)}
    del shape["standardise"]
    captioner = Captioner(Decoder(**shape))
    if decoder.standardise:
        mean, scale = feature_statistics(read, splits["train"].views.flatten())
        captioner.decoder.feature_mean.copy_(mean)
        captioner.decoder.feature_scale.copy_(scale)
    device = select_device()
    resume = Resume("train", made)
    records = fit(
        captioner,
        parameter_groups([captioner.decoder], lr=settings.lr, weight_decay=settings.weight_decay),
        splits["train"],
        splits["dev"],
        words,
        NextWord(label_smoothing=settings.label_smoothing, own_words=settings.scheduled_sampling),
        seed=seed,
        start_is_candidate=False,
        dev_beam=1,
        device=device,
        resume=resume,
        on_epoch=lambda records: write_curve(curve, records, [NextWord.measure]),
        epochs=settings.epochs,
        batch=settings.batch,
        warmup=settings.warmup,
        clip=settings.clip,
        patience=settings.patience,
        ema=settings.ema,
        crop=settings.crop,
    )
    found = dev_scores(captioner, splits["dev"], words, device)
    if rank() != 0:
        return
    card = Metadata(
        encoder=store.attributes["encoder"],
        start=END,
        image={"size": store.attributes["size"], "fit": store.attributes["fit"]},
        decoder=shape,
        vocabulary=words,
        provenance=provenance(made),
    )
    captioner.examples = examples_of(captioner, splits["train"], device)
    save_model(model, captioner, card)
    write_summary(
        summary,
        records,
        parameters=sum(parameter.numel() for parameter in captioner.parameters()),
        **{"dev, beam 3": found},
    )
    resume.remove()
