"""The report of a run: one HTML page that holds all it shows and needs no network.

Layout, style and behaviour stand beside this file in report.html (a Jinja2 template that escapes everything but
these two files), report.css and report.js. The page's own security policy forbids it to load anything and to run any
script but that one.

Scores are shown x100, as in papers. The attention of a caption is in the page as base64 of words x positions bytes,
each 255 * sqrt(weight): the root keeps the small weights of an even gaze apart.
"""

import base64
import hashlib
import io
import logging
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from jinja2 import Environment, FileSystemLoader, StrictUndefined, Template
from PIL import Image

from captioner.base.device import make_deterministic, select_device, to_device
from captioner.base.errors import CaptionerError
from captioner.base.files import digest, read_json, write_text
from captioner.captions.dataset import CaptionedImage, read_captions
from captioner.captions.vocabulary import PAD, Vocabulary
from captioner.model.attention import attention_weights
from captioner.model.captioner import Captioner, load_model
from captioner.results import published
from captioner.results.charts import Chart, line_chart
from captioner.scoring import language
from captioner.scoring.scores import diversity
from captioner.sources.archives import Archive
from captioner.vision.photos import load_photo, upright_size
from captioner.vision.store import FeatureStore

HERE = Path(__file__).parent
MODELS = {"frozen": "frozen", "finetuned": "fine-tuned"}  # as metrics/ calls them, and as the page does
PHOTO_PIXELS = 320 * 240  # of a photo in the page, at most
ALL_PIXELS = 36_000_000  # of all photos together, which makes about 7 MB
QUALITY = 60  # of WebP
STRIDE = 32  # pixels of what the encoder sees to a grid position
BATCH = 100  # images
COMMONEST = 10  # words

log = logging.getLogger(__name__)


def write_report(
    path: str | Path,
    *,
    images: str | Path,
    captions: str | Path,
    boundary_store: str | Path,
    decoder: str | Path,
    model: str | Path,
    generated: str | Path,
    curves: Mapping[str, str | Path],
    summaries: Mapping[str, str | Path],
    beam: int,
    length_penalty: float,
    consensus: float,
) -> None:
    """Write the page from what the stages left.

    `decoder` and `model` are the files of the frozen and the fine-tuned captioner, `generated` the table of test
    captions; `curves` ("train", "finetune") and `summaries` (these and "download", "weights", "captions", "features",
    "evaluate") are the stages' metrics by name; `beam`, `length_penalty` and `consensus` are those of the search.
    Raises CaptionerError that names the file where two of them do not belong together or a photo cannot be read.
    """
    make_deterministic(seed=0)
    table = pd.read_csv(generated, index_col="image", keep_default_na=False, dtype=dict.fromkeys(MODELS, str))
    items = {item.image: item for item in read_captions(captions)}
    missing = [name for name in table.index if name not in items]
    if missing:
        raise CaptionerError(f"{captions}: no captions of {missing[0]}, which {generated} names; run `dvc repro`")
    references = {name: items[name].raw for name in table.index}
    told = {name: table[name].to_dict() for name in MODELS}
    facts = {name: read_json(file) for name, file in summaries.items()}
    _, frozen = load_model(decoder)
    captioner, card = load_model(model)
    store = FeatureStore(boundary_store, layer=card.start, encoder=card.encoder, **card.image)
    gaze = _attention(captioner, card.vocabulary, store, told["finetuned"]) if captioner.decoder.attention else {}
    gallery = list(_gallery(table, references, gaze, Archive(images), card.image["fit"]))
    style, script = (HERE.joinpath(name).read_text(encoding="utf-8") for name in ("report.css", "report.js"))
    page = _template().render(
        style=style,
        script=script,
        script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
        models=MODELS,
        facts=facts,
        card=card,
        grid=card.image["size"] // STRIDE,
        beam=beam,
        length_penalty=length_penalty,
        consensus=consensus,
        published=published.PUBLISHED,
        incomparable=_incomparable(facts),
        change=_change(table),
        curves={name: _curve_charts(name, file, facts[name]["best epoch"]) for name, file in curves.items()},
        lengths=_length_chart(told, references),
        variety=_variety(facts["evaluate"], told, references, items.values()),
        commonest=COMMONEST,
        repeated=language.repeated(told["finetuned"]),
        in_vain=language.said_in_vain(told["finetuned"], references),
        never=language.never_said(told["finetuned"], references),
        known=set(card.vocabulary.words),
        gallery=gallery,
        box=min(4 / 3, max([1.0, *(image["width"] / image["height"] for image in gallery)])),
        files={str(file): digest(file) for file in (decoder, model)},
        params=dict(sorted((frozen.made["params"] | card.made["params"]).items())),
        inputs=dict(sorted((frozen.made["inputs"] | card.made["inputs"]).items())),
    )
    write_text(path, page)
    log.info("%s: %d test images, %.1f MB", path, len(table), Path(path).stat().st_size / 1e6)


def _template() -> Template:
    environment = Environment(
        loader=FileSystemLoader(HERE), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.tests["sought"] = _is_sought
    return environment.get_template("report.html")


def _is_sought(text: str) -> bool:
    """Tell whether the page's search finds a token: brackets and other signs it does not."""
    return any(letter.isalnum() for letter in text) and not re.fullmatch(r"-[a-z]{3}-", text)


def _attention(
    captioner: Captioner, vocabulary: Vocabulary, store: FeatureStore, captions: Mapping[str, str]
) -> dict[str, np.ndarray]:
    """Return where the decoder looked at each word of each image's caption: uint8 [words, P] by image.

    Raises CaptionerError for an image that is not in the store, or a word that the model does not know.
    """
    words = {image: text.split() for image, text in captions.items()}
    for image, said in words.items():
        unknown = [word for word in said if word not in vocabulary]
        if unknown:
            raise CaptionerError(
                f"{image}: its test caption has a word that the model does not know, {unknown[0]!r}; "
                "run `dvc repro evaluate`"
            )
        if image not in store.rows:
            raise CaptionerError(f"{store.path}: no features of {image}, which has a test caption; run `dvc repro`")
    device = select_device()
    log.info("on %s: where the decoder looked in %d test images", device, len(words))
    captioner.to(device)
    names = list(words)
    found: dict[str, np.ndarray] = {}
    for at in range(0, len(names), BATCH):
        chosen = names[at : at + BATCH]
        tokens = torch.full((len(chosen), 1, max(1, *(len(words[name]) for name in chosen))), PAD)
        for row, name in enumerate(chosen):
            read = vocabulary.encode(words[name])[: len(words[name])]  # what was read before each word
            tokens[row, 0, : len(read)] = torch.tensor(read, dtype=torch.long)
        with torch.inference_mode():
            rows = to_device(store.read([store.rows[name] for name in chosen]), device)
            memory = captioner.decoder.encode(captioner.features(rows))
            weights = attention_weights(captioner.decoder, memory, to_device(tokens, device))[:, 0]  # [B, L, P]
        levels = np.rint(255 * np.sqrt(weights.cpu().numpy())).astype(np.uint8)
        found |= {name: levels[row, : len(words[name])] for row, name in enumerate(chosen)}
    return found


def _gallery(
    table: pd.DataFrame, references: Mapping[str, list[str]], gaze: Mapping[str, np.ndarray], photos: Archive, fit: str
) -> Iterator[dict[str, Any]]:
    """Yield what the page shows of each test image, in the table's order."""
    pixels = min(PHOTO_PIXELS, ALL_PIXELS // max(1, len(table)))
    for name, row in table.iterrows():
        try:
            photo, width, height = thumbnail(photos.read(str(name)), fit=fit, pixels=pixels)
        except ValueError as error:
            raise CaptionerError(f"{photos.path}: {name}: {error}") from None
        ciders = {model: 100 * row[f"{model} CIDEr"] for model in MODELS}
        yield {
            "name": name,
            "photo": base64.b64encode(photo).decode(),
            "width": width,
            "height": height,
            "said": {model: row[model] for model in MODELS},
            "ciders": ciders,
            "gain": ciders["finetuned"] - ciders["frozen"],
            "references": references[str(name)],
            "attention": base64.b64encode(gaze[str(name)].tobytes()).decode() if name in gaze else None,
        }


def thumbnail(data: bytes, *, fit: str, pixels: int) -> tuple[bytes, int, int]:
    """Return a photo's bytes as a small WebP of at most about `pixels` pixels, with its width and height.

    It shows what the encoder saw, in the photo's own shape where `fit` is "squash"; it is never enlarged. Raises
    ValueError as `captioner.vision.photos.load_photo` does.
    """
    width, height = upright_size(data)
    if fit == "crop":
        width = height = min(width, height)
    scale = min(1.0, (pixels / (width * height)) ** 0.5)
    width, height = max(1, round(scale * width)), max(1, round(scale * height))
    square = Image.fromarray(load_photo(data, size=max(width, height), fit=fit))
    file_like = io.BytesIO()
    square.resize((width, height), Image.Resampling.LANCZOS).save(file_like, "WEBP", quality=QUALITY)
    return file_like.getvalue(), width, height


def _incomparable(facts: Mapping[str, Any]) -> list[str]:
    """Return why this run's scores cannot be set beside the published ones; nothing if they can."""
    dataset = facts["download"]["dataset"]
    if dataset != "flickr8k":
        return [f"the dataset is {dataset}, not Flickr8k"]
    reasons = [
        f"the {what} are not the official files"
        for what in ("images", "captions")
        if not facts["download"][what]["official"]
    ]
    count = facts["evaluate"]["images"]
    if count != published.TEST_IMAGES:
        reasons.append(f"{count} test images were scored, not the official {published.TEST_IMAGES}")
    if not facts["weights"]["official"]:
        reasons.append("the encoder did not start from torchvision's ImageNet weights")
    return reasons


def _change(table: pd.DataFrame) -> dict[str, int]:
    """Return what fine-tuning did, in numbers of images."""
    gain = table["finetuned CIDEr"] - table["frozen CIDEr"]
    return {
        "images": len(table),
        "reworded": int((table["finetuned"] != table["frozen"]).sum()),
        "better": int((gain > 0).sum()),
        "worse": int((gain < 0).sum()),
    }


def _curve_charts(stage: str, path: str | Path, best: float) -> list[Chart]:
    curve = pd.read_csv(path, index_col="epoch")
    colour = "frozen" if stage == "train" else "finetuned"

    def series(of_training: str, of_dev: str, scale: int = 1) -> dict[str, tuple[str, dict[float, float]]]:
        lines = {
            name: (kind, curve[name]) for name, kind in ((of_training, "other"), (of_dev, colour)) if name in curve
        }
        return {name: (kind, (scale * line).to_dict()) for name, (kind, line) in lines.items() if line.notna().any()}

    return [
        line_chart("CIDEr of captions, x100", "epoch", series("sampled CIDEr", "dev CIDEr", 100), mark=best),
        line_chart(
            "Cross-entropy of the next word, nats", "epoch", series("train loss", "dev loss"), digits=3, mark=best
        ),
    ]


def _length_chart(told: Mapping[str, Mapping[str, str]], references: Mapping[str, list[str]]) -> Chart:
    texts = {"references": [text for each in references.values() for text in each]}
    texts |= {label: list(told[model].values()) for model, label in MODELS.items()}
    kinds = dict(zip(texts, ("other", *MODELS), strict=True))
    shares = {name: language.length_shares(each) for name, each in texts.items()}
    lengths = [length for each in shares.values() for length in each]
    every = range(min(lengths), max(lengths) + 1)  # also those that a speaker has no caption of
    return line_chart(
        "Captions by length in words, %",
        "words",
        {
            name: (kinds[name], {length: 100 * each.get(length, 0.0) for length in every})
            for name, each in shares.items()
        },
        unit=" %",
        from_zero=True,
    )


def _variety(
    scores: Mapping[str, Any],
    told: Mapping[str, Mapping[str, str]],
    references: Mapping[str, list[str]],
    items: Iterable[CaptionedImage],
) -> dict[str, dict[str, float]]:
    """Return the language figures of the models, and of people who say one caption an image too: its first."""
    first = {image: texts[0] for image, texts in references.items()}
    training = [text for item in items if item.split == "train" for text in item.raw]
    figures = {MODELS[model]: (scores[model], told[model]) for model in MODELS}
    figures["a person"] = (diversity(first, training), first)
    return {
        who: {**each, "commonest": language.share_of_commonest(captions.values(), COMMONEST)}
        for who, (each, captions) in figures.items()
    }
