"""The report of a run: one HTML page that needs no other file and no network.

Layout, style and behaviour are in report.html (a Jinja2 template), report.css and report.js beside this file. The
template escapes all values except the style and the script. The page's security policy forbids to load anything and to
run any other script.

Scores are shown x100. The page has the attention of a caption as base64 of words x positions bytes, each 255 *
sqrt(weight). The root distinguishes small weights, which even attention has.
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
from captioner.captions.tokens import scored_tokens
from captioner.captions.vocabulary import PAD, Vocabulary
from captioner.model.attention import attention_weights
from captioner.model.captioner import Captioner, Metadata, load_model
from captioner.results import published
from captioner.results.charts import Chart, line_chart
from captioner.results.intervals import DIFFERENCE, score_intervals
from captioner.scoring import language
from captioner.scoring.scores import diversity, known_captions
from captioner.sources.archives import Archive
from captioner.vision.photos import load_photo, upright_size
from captioner.vision.store import FeatureStore

HERE = Path(__file__).parent
MODELS = {"frozen": "frozen", "finetuned": "fine-tuned"}  # names in metrics/ and names on the page
PHOTO_PIXELS = 320 * 240  # of a photo in the page, at most
ALL_PIXELS = 36_000_000  # of all photos together, which makes about 7 MB
QUALITY = 60  # of WebP
LONGEST = 2048  # pixels of a side; a long, thin photo would need much memory, because it is decoded to a square
STRIDE = 32  # pixels of the encoder's input for a grid position
BATCH = 100  # images
TOP_WORDS = 10  # the most frequent words, whose share is shown

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
    search: Mapping[str, float],
) -> None:
    """Write the page from the outputs of the earlier stages.

    `decoder` and `model` are the files of the frozen and the fine-tuned captioner. `generated` is the table of test
    captions. `curves` maps "train" and "finetune" to the tables of their epochs, `summaries` maps the stages
    "download", "weights", "captions", "features", "train", "finetune" and "evaluate" to their metrics. `search` has the
    beam, length_penalty and consensus of the test captions. Raises CaptionerError that names the file if two files do
    not belong together or a photo cannot be read.
    """
    make_deterministic(seed=0)
    table = pd.read_csv(generated, index_col="image", keep_default_na=False, dtype=dict.fromkeys(MODELS, str))
    items = {item.image: item for item in read_captions(captions)}
    unknown = [name for name in table.index if name not in items]
    if unknown:
        raise CaptionerError(f"{captions}: no captions of {unknown[0]}, which {generated} names; run `dvc repro`")
    references = {name: items[name].raw for name in table.index}
    predictions = {name: table[name].to_dict() for name in MODELS}
    metrics = {name: read_json(file) for name, file in summaries.items()}
    _, frozen = load_model(decoder)
    captioner, card = load_model(model)
    store = FeatureStore(boundary_store, layer=card.start, encoder=card.encoder, **card.image)
    spoken = card.vocabulary.language
    attention = {}
    if captioner.decoder.attention:
        attention = _attention(captioner, card, store, predictions["finetuned"])
    params = dict(sorted((frozen.provenance["params"] | card.provenance["params"]).items()))
    missing = language.missing_words(predictions["finetuned"], references, spoken)
    understood = {token for word in card.vocabulary.words for token in scored_tokens(word, spoken)}
    strange = {tally.text for tally in missing} - understood
    gallery = list(_gallery(table, references, attention, card.vocabulary, Archive(images), card.image["fit"]))
    page = _template().render(
        **_assets(),
        **search,
        models=MODELS,
        metrics=metrics,
        card=card,
        grid=card.image["size"] // STRIDE,
        intervals=score_intervals(metrics["evaluate"]),
        difference=DIFFERENCE,
        published=published.PUBLISHED,
        incomparable=_incomparable(metrics, params.get("train.start")),
        change=_change(table),
        curves={name: _curve_charts(name, file, metrics[name]["best epoch"]) for name, file in curves.items()},
        lengths=_length_chart(predictions, references, spoken),
        variety=_variety(metrics["evaluate"], predictions, references, items.values(), spoken),
        top_words=TOP_WORDS,
        repeated=language.repeated_captions(predictions["finetuned"], spoken),
        hallucinated=language.hallucinated_words(predictions["finetuned"], references, spoken),
        missing=missing,
        strange=strange if metrics["captions"]["form"] == "raw" else set(),  # a model of lemmas learns no other form
        known=set(card.vocabulary.words),
        gallery=gallery,
        box=min(4 / 3, max([1.0, *(image["width"] / image["height"] for image in gallery)])),
        files={str(file): digest(file) for file in (decoder, model)},
        params=params,
        inputs=dict(sorted((frozen.provenance["inputs"] | card.provenance["inputs"]).items())),
    )
    write_text(path, page)
    log.info("%s: %d test images, %.1f MB", path, len(table), Path(path).stat().st_size / 1e6)


def _assets() -> dict[str, str]:
    """Return the style, the script and the script's hash, which the page's security policy names."""
    style, script = (HERE.joinpath(name).read_text(encoding="utf-8") for name in ("report.css", "report.js"))
    script_hash = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    return {"style": style, "script": script, "script_hash": script_hash}


def _template() -> Template:
    environment = Environment(
        loader=FileSystemLoader(HERE), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.tests["searchable"] = _is_searchable
    return environment.get_template("report.html")


def _is_searchable(text: str) -> bool:
    """Return whether the page's search can find a token; it ignores brackets and other signs."""
    return any(letter.isalnum() for letter in text) and not re.fullmatch(r"-[a-z]{3}-", text)


def _attention(
    captioner: Captioner, card: Metadata, store: FeatureStore, captions: Mapping[str, str]
) -> dict[str, np.ndarray]:
    """Return the attention at each word of each image's caption: uint8 [words, P] by image.

    Raises CaptionerError if an image is not in the store or the model does not know a word.
    """
    vocabulary = card.vocabulary
    words = {image: vocabulary.split(text) for image, text in captions.items()}
    for image, caption in words.items():
        unknown = [word for word in caption if word not in vocabulary]
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
    levels: dict[str, np.ndarray] = {}
    for at in range(0, len(names), BATCH):
        batch = names[at : at + BATCH]
        tokens = torch.full((len(batch), 1, max(1, *(len(words[name]) for name in batch))), PAD)
        for row, name in enumerate(batch):
            previous = vocabulary.encode(words[name])[: len(words[name])]  # <bos> and all words but the last
            tokens[row, 0, : len(previous)] = torch.tensor(previous, dtype=torch.long)
        with torch.inference_mode():
            rows = store.captioned(batch, mean=card.mean).T
            memory = captioner.encode(*(to_device(store.read(view), device) for view in rows))
            weights = attention_weights(captioner.decoder, memory, to_device(tokens, device))[:, 0]  # [B, L, P]
        stored = np.rint(255 * np.sqrt(weights.cpu().numpy())).astype(np.uint8)
        levels |= {name: stored[row, : len(words[name])] for row, name in enumerate(batch)}
    return levels


def _gallery(
    table: pd.DataFrame,
    references: Mapping[str, list[str]],
    attention: Mapping[str, np.ndarray],
    vocabulary: Vocabulary,
    photos: Archive,
    fit: str,
) -> Iterator[dict[str, Any]]:
    """Yield the data of the page for each test image, in the table's order."""
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
            "captions": {model: row[model] for model in MODELS},
            "words": _spaced(row["finetuned"], vocabulary),
            "ciders": ciders,
            "gain": ciders["finetuned"] - ciders["frozen"],
            "references": references[str(name)],
            "attention": base64.b64encode(attention[str(name)].tobytes()).decode() if name in attention else None,
        }


def _spaced(caption: str, vocabulary: Vocabulary) -> list[tuple[str, str]]:
    """Return each word of a caption, with the space after it if there is one."""
    words = vocabulary.split(caption)
    gaps = re.fullmatch("([ \u200b]?)".join(map(re.escape, words)), caption)
    return list(zip(words, [*gaps.groups(), ""], strict=False)) if gaps else [(caption, "")]


def thumbnail(data: bytes, *, fit: str, pixels: int) -> tuple[bytes, int, int]:
    """Return a photo as the bytes of a small WebP of at most about `pixels` pixels, with its width and height.

    Its sides have at most LONGEST pixels. It shows the encoder's input, in the photo's own shape if `fit` is "squash",
    and is never enlarged. Raises ValueError as `captioner.vision.photos.load_photo` does.
    """
    width, height = upright_size(data)
    if fit == "crop":
        width = height = min(width, height)
    scale = min(1.0, (pixels / (width * height)) ** 0.5, LONGEST / max(width, height))
    width, height = max(1, round(scale * width)), max(1, round(scale * height))
    square = Image.fromarray(load_photo(data, size=max(width, height), fit=fit))
    file_like = io.BytesIO()
    square.resize((width, height), Image.Resampling.LANCZOS).save(file_like, "WEBP", quality=QUALITY)
    return file_like.getvalue(), width, height


def _incomparable(metrics: Mapping[str, Any], start: str | None = None) -> list[str]:
    """Return the reasons why this run's scores are not comparable with published ones, if any."""
    dataset = metrics["download"]["dataset"]
    if dataset != "flickr8k":
        return [f"the dataset is {dataset}, not Flickr8k"]
    reasons = [
        f"the {what} are not the official files"
        for what in ("images", "captions")
        if not metrics["download"][what]["official"]
    ]
    count = metrics["evaluate"]["images"]
    if count != published.TEST_IMAGES:
        reasons.append(f"{count} test images were scored, not the official {published.TEST_IMAGES}")
    if not metrics["weights"]["official"]:
        reasons.append("the encoder did not start from torchvision's ImageNet weights")
    if start:
        reasons.append("training started from another model (train.start)")
    return reasons


def _change(table: pd.DataFrame) -> dict[str, int]:
    """Return the numbers of images whose captions fine-tuning changed, made better and made worse by CIDEr."""
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


def _length_chart(
    predictions: Mapping[str, Mapping[str, str]], references: Mapping[str, list[str]], spoken: str
) -> Chart:
    texts = {"references": [text for each in references.values() for text in each]}
    texts |= {label: list(predictions[model].values()) for model, label in MODELS.items()}
    kinds = dict(zip(texts, ("other", *MODELS), strict=True))
    shares = {name: language.length_shares(each, spoken) for name, each in texts.items()}
    lengths = [length for each in shares.values() for length in each]
    every = range(min(lengths), max(lengths) + 1)  # including lengths that occur in one series only
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
    predictions: Mapping[str, Mapping[str, str]],
    references: Mapping[str, list[str]],
    items: Iterable[CaptionedImage],
    spoken: str,
) -> dict[str, dict[str, float]]:
    """Return the language figures of the models and of a person, whose captions are the first references."""
    first = {image: texts[0] for image, texts in references.items()}
    known = known_captions((text for item in items if item.split == "train" for text in item.raw), spoken)
    figures = {MODELS[model]: (scores[model], predictions[model]) for model in MODELS}
    figures["a person"] = (diversity(first, known, spoken), first)
    return {
        who: {**each, "top words": language.top_words_share(captions.values(), TOP_WORDS, spoken)}
        for who, (each, captions) in figures.items()
    }
