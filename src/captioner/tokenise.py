"""Captions: from the archive's text files to word ids, with every blemish counted."""

import csv
import io
import json
import re
from collections import Counter
from pathlib import Path
from typing import Any

from captioner.archives import Archive
from captioner.dataset import SPLITS
from captioner.errors import CaptionerError
from captioner.files import write_json, write_text
from captioner.vocabulary import Vocabulary

PHOTO_FOLDER = "Flicker8k_Dataset"  # so spelt in the archive
CAPTION_FILES = {"raw": "Flickr8k.token.txt", "lemma": "Flickr8k.lemma.token.txt"}
SPLIT_FILES = {split: f"Flickr_8k.{split}Images.txt" for split in SPLITS}

_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]+")
_DUPLICATE_SUFFIX = re.compile(r"(.+\.jpe?g)\.\d+", re.IGNORECASE)


def clean(text: str, *, lowercase: bool, punctuation: bool) -> list[str]:
    """Split a caption, PTB-tokenised as the dataset's are, into words; without `punctuation`, tokens that
    hold no letter or digit are dropped."""
    tokens = (text.lower() if lowercase else text).split()
    return [token for token in tokens if punctuation or any(letter.isalnum() for letter in token)]


def tokenise(
    images: str | Path,
    captions: str | Path,
    *,
    folder: str | Path,
    form: str,
    lowercase: bool,
    punctuation: bool,
    min_count: int,
    max_length: int,
    on_bad: str,
) -> dict[str, Any]:
    """Read both archives, write the three files of `captioner.dataset` into `folder`, return the summary.

    `on_bad` is "error" or "skip": what to do with a photo that a split names and that has no captions or is
    not in the archive. Raises CaptionerError on these (naming file, line and photo), on lines that are not
    `name#index<TAB>caption` and on splits that overlap. Captions of photos that are in no split and not in
    the archive are counted only: Flickr8k has five.
    """
    photos = set(Archive(images).photos(PHOTO_FOLDER))
    texts = Archive(captions)
    bad = _Bad(on_bad)
    splits = _read_splits(texts, photos, bad)
    raw, renamed, orphans = _read_captions(texts, CAPTION_FILES[form], photos)

    words: dict[str, list[list[str]]] = {}
    empty = 0
    for name in list(raw):
        cleaned = [(text, clean(text, lowercase=lowercase, punctuation=punctuation)) for text in raw[name]]
        kept = [(text, tokens) for text, tokens in cleaned if any(map(str.isalnum, "".join(tokens)))]
        empty += len(cleaned) - len(kept)
        raw[name] = [text for text, _ in kept]
        words[name] = [tokens for _, tokens in kept]
    for split in SPLITS:
        without = [name for name in splits[split] if not words.get(name)]
        for name in without:
            bad(
                f"photos without captions: {split}",
                f"{texts.path}: {CAPTION_FILES[form]}: no caption for {name} of the {split} split",
            )
        splits[split] = [name for name in splits[split] if words.get(name)]
        bad.photos.update(without)
        if not splits[split]:
            raise CaptionerError(
                f"{texts.path}: {SPLIT_FILES[split]}: no photo of it has captions; expected at least one"
            )

    training = [tokens for name in splits["train"] for tokens in words[name]]
    counts = Counter(token for tokens in training for token in tokens)
    vocabulary = Vocabulary.from_counts(counts, min_count=min_count, max_length=max_length)
    if not vocabulary.words:
        raise CaptionerError(
            f"captions.min_count: no training word stands {min_count} times or more; lower it in params.yaml"
        )

    folder = Path(folder)
    lines, table = [], io.StringIO()
    writer = csv.writer(table, lineterminator="\n")
    writer.writerow(["image", "split"])
    for split in SPLITS:
        for name in splits[split]:
            writer.writerow([name, split])
            ids = [vocabulary.encode(tokens) for tokens in words[name]]
            lines.append(json.dumps({"image": name, "split": split, "raw": raw[name], "ids": ids}, ensure_ascii=False))
    write_text(folder / "images.csv", table.getvalue())
    write_text(folder / "captions.jsonl", "\n".join(lines) + "\n")
    write_json(folder / "vocabulary.json", vocabulary.as_dict())

    used = [name for split in SPLITS for name in splits[split]]
    unknown = sum(count for word, count in counts.items() if word not in vocabulary)
    return {
        "form": form,
        "images": {split: len(splits[split]) for split in SPLITS}
        | {"in no split": len(photos - set(used) - bad.photos)},
        "captions": {split: sum(len(words[name]) for name in splits[split]) for split in SPLITS},
        "training words": {
            "types": len(counts),
            "vocabulary": len(vocabulary.words),
            "unknown share": round(unknown / counts.total(), 6),
        },
        "training length": {
            "mean": round(counts.total() / len(training), 3),
            "longest": max(map(len, training)),
            "cut": sum(len(tokens) > max_length for tokens in training),
        },
        "blemishes": {
            "lines with a duplicate's name": renamed,
            "captions of no photo": orphans,
            "captions without a word": empty,
        }
        | bad.counts,
    }


class _Bad:
    """Stops at a blemish or counts it, as `dataset.on_bad` says."""

    def __init__(self, on_bad: str):
        self.skip = on_bad == "skip"
        self.counts: Counter[str] = Counter()
        self.photos: set[str] = set()

    def __call__(self, kind: str, message: str) -> None:
        if not self.skip:
            raise CaptionerError(f"{message}; mend it, or set dataset.on_bad to skip in params.yaml")
        self.counts[kind] += 1


def _lines(texts: Archive, name: str) -> list[tuple[int, str]]:
    """Return a text file's lines that are not blank, numbered from 1."""
    data = texts.read(name)
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        raise CaptionerError(f"{texts.path}: {name}, line {line}: not UTF-8; save the file as UTF-8") from None
    return [(number, line.rstrip("\r")) for number, line in enumerate(text.split("\n"), 1) if line.strip()]


def _read_splits(texts: Archive, photos: set[str], bad: _Bad) -> dict[str, list[str]]:
    splits: dict[str, list[str]] = {}
    owner: dict[str, str] = {}
    for split, file in SPLIT_FILES.items():
        names = []
        for number, line in _lines(texts, file):
            name = line.strip()
            if name in owner:
                raise CaptionerError(
                    f"{texts.path}: {file}, line {number}: {name} is in the {owner[name]} split already; "
                    "expected in one split"
                )
            owner[name] = split
            if name not in photos:
                bad(
                    "split entries without a photo",
                    f"{texts.path}: {file}, line {number}: no photo {name} in the images archive",
                )
                continue
            names.append(name)
        splits[split] = sorted(names)
    return splits


def _read_captions(texts: Archive, file: str, photos: set[str]) -> tuple[dict[str, list[str]], int, int]:
    """Return the captions of each photo in their order in the file, how many lines name a photo by a
    duplicate's name (Flickr8k: `2258277193_586949ec62.jpg.1`), and how many belong to no photo."""
    captions: dict[str, list[str]] = {}
    renamed = orphans = 0
    for number, line in _lines(texts, file):
        key, tab, text = line.partition("\t")
        name, mark, index = key.rpartition("#")
        if not tab or not mark or not index.strip().isdigit():
            raise CaptionerError(
                f"{texts.path}: {file}, line {number}: {line[:80]!r} is not of the form name.jpg#0<TAB>caption"
            )
        if name not in photos and (twin := _DUPLICATE_SUFFIX.fullmatch(name)):
            name = twin[1]
            renamed += 1
        if name not in photos:
            orphans += 1  # its photo is in no split, or that would have stopped the stage: nobody needs it
            continue
        captions.setdefault(name, []).append(" ".join(_CONTROL.sub(" ", text).split()))
    return captions, renamed, orphans
