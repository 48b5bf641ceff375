"""Captions: from a dataset's texts to word ids, with every blemish counted."""

import csv
import io
import json
import logging
import unicodedata
from collections import Counter
from pathlib import Path
from typing import Any

from captioner.base.errors import CaptionerError
from captioner.base.files import write_json, write_text
from captioner.captions.dataset import SPLITS
from captioner.captions.formats import Listing, read_listing
from captioner.captions.text import ENGLISH, lost_characters, lower
from captioner.captions.tokens import learnt_tokens, plain_text, separate
from captioner.captions.vocabulary import SPECIAL, UNK, Vocabulary
from captioner.sources.archives import PHOTO_SUFFIXES, Archive

_LOST_SHARE = 0.01  # more lost characters than this share are worth a warning
_EXAMPLES = 5  # lost characters that a warning names

_log = logging.getLogger(__name__)


def tokenise_dataset(
    images: str | Path,
    captions: str | Path,
    *,
    folder: str | Path,
    form: str,
    language: str,
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
    `captioner.captions.formats`. `dev`, `test` and `seed` draw the splits where the texts give none. `language` decides
    about tokens (`captioner.captions.tokens`) and goes into the vocabulary.

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
    learn = _Learn(language, tokenised=listing.tokenised, lowercase=lowercase, punctuation=punctuation)
    for name, texts in raw.items():
        learnt = [learn(text) for text in listing.lemmas.get(name, texts)]
        kept = [
            (text, tokens) for text, tokens in zip(texts, learnt, strict=True) if any(map(str.isalnum, "".join(tokens)))
        ]
        empty += len(learnt) - len(kept)
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
    vocabulary = Vocabulary.from_counts(counts, min_count=min_count, max_length=max_length, language=language)
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

    learn.warn(listing.file)
    used = {paths[name] for split in SPLITS for name in splits[split]}
    unknown = sum(count for word, count in counts.items() if word not in vocabulary)
    return {
        "form": form,
        "language": language,
        "images": {split: len(splits[split]) for split in SPLITS} | {"in no split": len(photos - used - bad.photos)},
        "captions": {split: sum(len(words[name]) for name in splits[split]) for split in SPLITS},
        "training words": {
            "types": len(counts),
            "vocabulary": len(vocabulary.words),
            "unknown share": round(unknown / counts.total(), 6),
        },
        "lost characters": learn.summary(),
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


class _Learn:
    """Makes the tokens of captions, and counts the characters that reach none of them."""

    def __init__(self, language: str, *, tokenised: bool, lowercase: bool, punctuation: bool):
        self.language, self.tokenised = language, tokenised and language == ENGLISH
        self.lowercase, self.punctuation = lowercase, punctuation
        self.characters = 0
        self.lost: Counter[str] = Counter()
        self.captions: dict[str, str] = {}  # the first caption that lost each character

    def __call__(self, text: str) -> list[str]:
        tokens = text.split() if self.tokenised and text.isascii() else separate(text, self.language)
        kept = learnt_tokens(tokens, language=self.language, lowercase=False, punctuation=self.punctuation)
        characters, lost = lost_characters(plain_text(text, self.language), kept)
        self.characters += characters
        self.lost.update(lost)
        for char in lost:
            self.captions.setdefault(char, text)
        return [lower(token, self.language) for token in kept] if self.lowercase else kept

    def summary(self) -> dict[str, float]:
        """Return the share of the characters that reached no token, punctuation and spaces apart, and their number."""
        count = self.lost.total()
        return {"share": round(count / max(1, self.characters), 6), "count": count}

    def warn(self, file: str) -> None:
        """Warn where more than a share of `_LOST_SHARE` was lost."""
        count = self.lost.total()
        if count <= _LOST_SHARE * self.characters:
            return
        examples = "; ".join(
            f"U+{ord(char):04X} {unicodedata.name(char, 'without a name')}, {times} times, first in "
            f"{self.captions[char][:60]!r}"
            for char, times in self.lost.most_common(_EXAMPLES)
        )
        _log.warning(
            "%s: %.1f %% of the captions' characters reach no word (%d of %d, punctuation and spaces apart): %s. "
            "Look at how the file was saved",
            file,
            100 * count / self.characters,
            count,
            self.characters,
            examples,
        )


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
