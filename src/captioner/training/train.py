"""Train a decoder on the stored features of the frozen encoder."""

from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from captioner.base.device import make_deterministic, select_device
from captioner.base.distributed import rank
from captioner.base.files import read_json
from captioner.base.resume import Resume
from captioner.captions.dataset import read_captions
from captioner.captions.vocabulary import Vocabulary
from captioner.model.captioner import Captioner, Metadata, save_model, with_versions
from captioner.model.decoder import Decoder
from captioner.model.standardise import feature_statistics
from captioner.training.batches import CaptionSet
from captioner.training.curves import write_curve, write_summary
from captioner.training.dev import DevEvaluation, dev_scores, examples_of
from captioner.training.loop import LoopSettings, fit
from captioner.training.objectives import NextWord
from captioner.training.schedule import parameter_groups
from captioner.training.start import start_decoder
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
class TrainSettings(LoopSettings):
    """The section `train` of params.yaml. The stage `weights` gets the model that `start` names."""

    start: str | None
    epochs: int
    lr: float
    weight_decay: float
    label_smoothing: float
    scheduled_sampling: float


def train_decoder(
    *,
    captions: str | Path,
    vocabulary: str | Path,
    grid_store: str | Path,
    start: str | Path,
    model: str | Path,
    curve: str | Path,
    summary: str | Path,
    provenance: dict[str, Any],
    decoder: DecoderSettings,
    settings: TrainSettings,
    seed: int,
) -> None:
    """Train a decoder on the store of grids and write the model, its curve (CSV) and its summary (JSON).

    A decoder without attention reads the grids' means, which are kept in memory. With `decoder.standardise` it
    standardises image features by the mean and deviation of all training views. If the folder `start` has a model, the
    decoder starts from it, and standardises by that model's mean and deviation (see
    `captioner.training.start.start_decoder`). `provenance` is the result of
    `captioner.base.resume.stage_provenance`. It is stored in the model and names the state from which an interrupted
    run resumes.
    """
    make_deterministic(seed)
    words = Vocabulary.from_dict(read_json(vocabulary))
    store = FeatureStore(grid_store, layer=END)
    read = store.read if decoder.attention else store.pooled(range(store.shape[0])).__getitem__
    splits = CaptionSet.of_splits(read_captions(captions), store.views, read)
    started = next(Path(start).glob("*.safetensors"), None)
    captioner, shape = _captioner_to_train(decoder, words, store, read, splits["train"], started)
    device = select_device()
    resume = Resume("train", provenance)
    records = fit(
        captioner,
        parameter_groups([captioner.decoder], name="decoder", lr=settings.lr, weight_decay=settings.weight_decay),
        splits["train"],
        DevEvaluation(splits["dev"], words, beam=1, device=device),
        NextWord(label_smoothing=settings.label_smoothing, scheduled_sampling=settings.scheduled_sampling),
        settings=settings,
        epochs=settings.epochs,
        seed=seed,
        start_is_candidate=started is not None,
        device=device,
        resume=resume,
        on_epoch=lambda records: write_curve(curve, records, [NextWord.measure]),
    )
    scores = dev_scores(captioner, splits["dev"], words, device)
    if rank() != 0:
        return
    metadata = Metadata(
        encoder=store.attributes["encoder"],
        start=END,
        image={"size": store.attributes["size"], "fit": store.attributes["fit"]},
        decoder=shape,
        vocabulary=words,
        provenance=with_versions(provenance),
        mean=splits["dev"].views.shape[1] > 1,
    )
    captioner.examples = examples_of(captioner, splits["train"], device)
    save_model(model, captioner, metadata)
    write_summary(
        summary,
        records,
        parameters=sum(parameter.numel() for parameter in captioner.parameters()),
        **{"dev, beam 3": scores},
    )
    resume.remove()


def _captioner_to_train(
    settings: DecoderSettings,
    words: Vocabulary,
    store: FeatureStore,
    read: Callable[[Tensor], Tensor],
    training: CaptionSet,
    started: Path | None,
) -> tuple[Captioner, dict[str, Any]]:
    """Return a captioner with random weights or with those of the model `started`, and the arguments of its decoder."""
    shape = {"vocabulary": len(words), "features": store.shape[-1], **asdict(settings)}
    del shape["standardise"]
    captioner = Captioner(Decoder(**shape))
    if started:
        start_decoder(captioner.decoder, words, shape, store.attributes["encoder"], started)
    elif settings.standardise:
        mean, scale = feature_statistics(read, training.views.flatten())
        captioner.decoder.feature_mean.copy_(mean)
        captioner.decoder.feature_scale.copy_(scale)
    return captioner, shape
