"""Captions: from a dataset's texts to word ids, with every blemish counted."""

import csv
import io
import json
from collections import Counter
from pathlib import Path
from typing import Any

from captioner.base.errors import CaptionerError
from captioner.base.files import write_json, write_text
from captioner.captions.dataset import SPLITS
from captioner.captions.formats import Listing, read_listing, separated
from captioner.captions.vocabulary import SPECIAL, UNK, Vocabulary
from captioner.sources.archives import PHOTO_SUFFIXES, Archive


def clean(text: str, *, lowercase: bool, punctuation: bool) -> list[str]:
    """Split a caption in PTB tokens into words; without `punctuation`, tokens that
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
    dev: float,
    test: float,
    seed: int,
) -> dict[str, Any]:
    """Read both archives, write the three files of `captioner.captions.dataset` into `folder`, return the summary.

    `images` is an archive of photos or a folder of such, `captions` one of texts in a layout of
    `captioner.captions.formats`. `dev`, `test` and `seed` draw the splits where the texts give none.

    `on_bad` is "error" or "skip". It says what to do with a photo that a split names and that has no captions or is not
    there, and with a photo that a CSV file does not name. Captions of photos that are in no split and not there are
    counted only: Flickr8k has five. Raises CaptionerError on these (naming file, line and photo), on texts that are not
    of their layout, on splits that overlap and on two names of one photo.
    """
    archive = Archive(images)
    photos = set(archive.photos())
    listing = read_listing(Archive(captions), archive, form=form, dev=dev, test=test, seed=seed)
    bad = _Bad(on_bad)
    paths = _paths(listing, archive, photos, bad)
    splits = {split: sorted(name for name, _ in listing.splits[split] if name in paths) for split in SPLITS}

    raw = listing.captions
    words: dict[str, list[list[str]]] = {}
    empty = 0
    for name, texts in raw.items():
        tokens_of = [text if listing.tokenised else separated(text) for text in listing.lemmas.get(name, texts)]
        cleaned = [
            (text, clean(tokens, lowercase=lowercase, punctuation=punctuation))
            for text, tokens in zip(texts, tokens_of, strict=True)
        ]
        kept = [(text, tokens) for text, tokens in cleaned if any(map(str.isalnum, "".join(tokens)))]
        empty += len(cleaned) - len(kept)
        raw[name] = [text for text, _ in kept]
        words[name] = [tokens for _, tokens in kept]
    for split in SPLITS:
        without = [name for name in splits[split] if not words.get(name)]
        for name in without:
            bad(f"photos without captions: {split}", f"{listing.file}: no caption for {name} of the {split} split")
        splits[split] = [name for name in splits[split] if words.get(name)]
        for name in splits[split]:
            if any(SPECIAL[UNK] in text.lower() for text in raw[name]):
                raise CaptionerError(
                    f"{listing.file}: a caption of {name} says {SPECIAL[UNK]}; expected captions as people wrote them, "
                    "not those that another program replaced rare words in"
                )
        bad.photos.update(paths[name] for name in without)
        if not splits[split]:
            raise CaptionerError(
                f"{listing.split_files[split]}: no photo of the {split} split has captions; expected at least one"
            )
    if listing.all_named:
        for path in sorted(photos - set(paths.values())):
            bad("photos without captions: in no split", f"{listing.file}: no row for the photo {path}")
            bad.photos.add(path)

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

    used = {paths[name] for split in SPLITS for name in splits[split]}
    unknown = sum(count for word, count in counts.items() if word not in vocabulary)
    return {
        "form": form,
        "images": {split: len(splits[split]) for split in SPLITS} | {"in no split": len(photos - used - bad.photos)},
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
            "lines with a duplicate's name": listing.renamed,
            "captions of no photo": listing.orphans,
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


def _paths(listing: Listing, archive: Archive, photos: set[str], bad: _Bad) -> dict[str, str]:
    """Return the path of each photo that a split names and that is there."""
    paths: dict[str, str] = {}
    owner: dict[str, str] = {}
    named: dict[str, str] = {}  # by path
    for split in SPLITS:
        for name, place in listing.splits[split]:
            if name in owner:
                raise CaptionerError(f"{place}: {name} is in the {owner[name]} split already; expected in one split")
            owner[name] = split
            if not name.lower().endswith(PHOTO_SUFFIXES):
                ends = ", ".join(PHOTO_SUFFIXES)
                said = f"{place}: {name} does not end in one of {ends}; convert the photo, or write its whole name"
                bad("split entries without a photo", said)
                continue
            path = archive.find(name)
            if path is None or path not in photos:
                bad("split entries without a photo", f"{place}: no photo {name} in {archive.path}")
                continue
            if path in named:
                raise CaptionerError(f"{place}: {name} is the photo {path}, as {named[path]} is; expected one name")
            named[path] = name
            paths[name] = path
    return paths
