"""Captions: from a dataset's texts to word ids, with every blemish counted."""

import csv
import json
import logging
import unicodedata
from collections import Counter
from pathlib import Path
from typing import Any

from captioner.base.errors import CaptionerError
from captioner.base.files import atomic_write, write_json
from captioner.captions.dataset import SPLITS
from captioner.captions.formats import NO_PHOTO, Columns, Listing, markers_in, read_listing
from captioner.captions.text import ENGLISH, lost_characters, lower, unsegmented
from captioner.captions.tokens import SEGMENT, learnt_tokens, plain_text, separate
from captioner.captions.vocabulary import SPECIAL, UNK, Vocabulary
from captioner.sources.archives import PHOTO_SUFFIXES, Archive, unread_kind, visible

_LOST_SHARE = 0.01  # more lost characters than this share are worth a warning
_EXAMPLES = 5  # lost characters that a warning names
_LONG_WORD = 8  # letters; a longer word of Thai, Lao, Khmer or Burmese that is a whole caption may be several

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
    columns: Columns | None = None,
) -> dict[str, Any]:  # each parameter is a key of params.yaml, but for the paths
    """Read both archives, write the three files of `captioner.captions.dataset` into `folder`, return the summary.

    `images` is an archive of photos or a folder of such, `captions` one of texts in a form of
    `captioner.captions.formats`. `dev`, `test` and `seed` draw the splits that the texts do not give. `columns` are
    those of `own.columns`. `language` decides about tokens (`captioner.captions.tokens`) and goes into the vocabulary.

    `on_bad` is "error" or "skip". It says what to do with a photo that a split names and that has no captions or is not
    there, with a photo that a table or sidecars do not name, and with a line of another form. Captions of Flickr8k's
    photos that are in no split and not there are counted only: there are five. Raises CaptionerError on these (naming
    file, line and photo), on texts that are not of their form, on splits that overlap and on two names of one photo.
    """
    archive = Archive(images)
    photos = set(archive.photos())
    columns = columns or Columns()
    listing = read_listing(Archive(captions), archive, form=form, dev=dev, test=test, seed=seed, columns=columns)
    bad = _Bad(on_bad)
    for kind, message in listing.tally.first.items():
        bad(kind, message, listing.tally.faults[kind])
    paths = _paths(listing, archive, photos, bad)
    learn = _Learn(language, tokenised=listing.tokenised, lowercase=lowercase, punctuation=punctuation)
    words, empty = _words(listing, learn)
    splits = _splits(listing, paths, words, bad)
    if listing.all_named:
        for path in sorted(photos - set(paths.values())):
            bad("photos without captions: in no split", _not_named(path, listing))
            bad.photos.add(path)

    training = [tokens for name in splits["train"] for tokens in words[name]]
    counts = Counter(token for tokens in training for token in tokens)
    vocabulary = Vocabulary.from_counts(counts, min_count=min_count, max_length=max_length, language=language)
    if not vocabulary.words:
        raise CaptionerError(
            f"captions.min_count: no training word stands {min_count} times or more; lower it in params.yaml"
        )
    _write(Path(folder), splits, listing.captions, words, vocabulary)

    learn.warn(listing.file)
    used = {paths[name] for split in SPLITS for name in splits[split]}
    return {
        "form": form,
        "language": language,
        "recognised": _recognised(listing),
        "images": {split: len(splits[split]) for split in SPLITS} | {"in no split": len(photos - used - bad.photos)},
        "captions": {split: sum(len(words[name]) for name in splits[split]) for split in SPLITS},
        **_training(training, counts, vocabulary),
        "lost characters": learn.summary(),
        "blemishes": {
            "lines with a duplicate's name": listing.renamed,
            "captions of no photo": listing.orphans,
            "captions without a word": empty,
        }
        | bad.counts,
    }


def _training(training: list[list[str]], counts: Counter[str], vocabulary: Vocabulary) -> dict[str, Any]:
    """Return what metrics/captions.json says of the training captions."""
    unknown = sum(count for word, count in counts.items() if word not in vocabulary)
    return {
        "training words": {
            "types": len(counts),
            "vocabulary": len(vocabulary.words),
            "unknown share": round(unknown / counts.total(), 6),
        },
        "training length": {
            "mean": round(counts.total() / len(training), 3),
            "longest": max(map(len, training)),
            "cut": sum(len(tokens) > vocabulary.max_length for tokens in training),
        },
    }


class _Learn:
    """Makes the tokens of captions, and counts the characters that reach none of them."""

    def __init__(self, language: str, *, tokenised: bool, lowercase: bool, punctuation: bool):
        self.language, self.tokenised = language, tokenised and language == ENGLISH
        self.lowercase, self.punctuation = lowercase, punctuation
        self.characters = self.foreign = 0  # foreign: letters and marks that are not Latin
        self.count = self.long_words = 0  # of captions
        self.lost: Counter[str] = Counter()
        self.captions: dict[str, str] = {}  # the first caption that lost each character

    def __call__(self, text: str) -> list[str]:
        tokens = text.split() if self.tokenised and text.isascii() else separate(text, self.language)
        learnt = learnt_tokens(tokens, language=self.language, lowercase=False, punctuation=self.punctuation)
        plain = plain_text(text, self.language)
        characters, lost = lost_characters(plain, learnt)
        self.characters += characters
        self.count += 1
        if not plain.isascii():
            self.foreign += sum(map(_is_foreign, plain))
            self.long_words += len(learnt) == 1 and unsegmented(learnt[0], _LONG_WORD) is not None
        self.lost.update(lost)
        for char in lost:
            self.captions.setdefault(char, text)
        return [lower(token, self.language) for token in learnt] if self.lowercase else learnt

    def summary(self) -> dict[str, float]:
        """Return the share of the characters that reached no token, punctuation and spaces apart, and their number."""
        count = self.lost.total()
        return {"share": round(count / max(1, self.characters), 6), "count": count}

    def warn(self, file: str) -> None:
        """Warn of a wrong language, of words that are not apart, and of more lost characters than `_LOST_SHARE`."""
        if self.language == ENGLISH and 2 * self.foreign > self.characters:
            advice = "set captions.language in params.yaml to their language, such as ar, hi or zh"
            _log.warning("%s: most letters are not Latin, and captions.language is en: %s", file, advice)
        if 2 * self.long_words > self.count:
            _log.warning("%s: most captions are one word of more than %d letters. %s", file, _LONG_WORD, SEGMENT)
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


def _is_foreign(char: str) -> bool:
    return unicodedata.category(char)[0] in "LM" and not unicodedata.name(char, "").startswith(("LATIN", "COMBINING"))


class _Bad:
    """Stops at a blemish or counts it, as `dataset.on_bad` says."""

    def __init__(self, on_bad: str):
        self.skip = on_bad == "skip"
        self.counts: Counter[str] = Counter()
        self.photos: set[str] = set()
        self.first: str | None = None  # message of the first that was skipped

    def __call__(self, kind: str, message: str, count: int = 1) -> None:
        if not self.skip:
            raise CaptionerError(f"{message}; correct it, or set dataset.on_bad to skip in params.yaml")
        self.first = self.first or message
        self.counts[kind] += count


def _recognised(listing: Listing) -> dict[str, Any]:
    """Return what metrics/captions.json says of the forms that were read."""
    tally = listing.tally
    return {
        "summary": listing.summary,
        "left out": {kind: count for kind, count in tally.left_out.items() if count},
        "repaired": {kind: count for kind, count in tally.repaired.items() if count},
        "ignored columns": tally.ignored_columns,
    }


def _words(listing: Listing, learn: _Learn) -> tuple[dict[str, list[list[str]]], int]:
    """Return the words of each caption and the number of captions without one, which are dropped from the listing.

    Each word is in memory once, however many captions have it.
    """
    raw = listing.captions
    words: dict[str, list[list[str]]] = {}
    same: dict[str, str] = {}
    empty = 0
    for name, texts in raw.items():
        learnt = [[same.setdefault(token, token) for token in learn(text)] for text in listing.lemmas.get(name, texts)]
        usable = [
            (text, tokens) for text, tokens in zip(texts, learnt, strict=True) if any(map(str.isalnum, "".join(tokens)))
        ]
        empty += len(learnt) - len(usable)
        raw[name] = [text for text, _ in usable]
        words[name] = [tokens for _, tokens in usable]
    return words, empty


def _splits(
    listing: Listing, paths: dict[str, str], words: dict[str, list[list[str]]], bad: _Bad
) -> dict[str, list[str]]:
    """Return the photos of each split that are there and have captions, sorted."""
    splits = {split: sorted(name for name, _ in listing.splits[split] if name in paths) for split in SPLITS}
    for split in SPLITS:
        without = [name for name in splits[split] if not words.get(name)]
        for name in without:
            message = f"{listing.places.get(name, listing.file)}: no caption for {visible(name)} of the {split} split"
            bad(f"photos without captions: {split}", message)
        splits[split] = [name for name in splits[split] if words.get(name)]
        for name in splits[split]:
            place = listing.places[name] if listing.several else listing.file
            for text in listing.captions[name]:
                _check_markers(text, f"{place}: a caption of {visible(name)}")
        bad.photos.update(paths[name] for name in without)
        if not splits[split]:
            left = f" ({sum(bad.counts.values())} left out, as dataset.on_bad is skip; first {bad.first})"
            raise CaptionerError(
                f"{listing.split_files[split]}: no photo of the {split} split has captions; expected at least one"
                + (left if bad.first else "")
            )
    return splits


def _not_named(photo: str, listing: Listing) -> str:
    """Return the message for a photo that no captions file names."""
    if listing.sidecars:
        return f"no text file beside the photo {visible(photo)}"
    if listing.several:
        return f"no captions file names the photo {visible(photo)}"
    return f"{listing.file}: no row for the photo {visible(photo)}"


def _check_markers(text: str, who: str) -> None:
    """Raise CaptionerError where a caption was prepared for another program."""
    if SPECIAL[UNK] in text.lower():
        raise CaptionerError(
            f"{who} says {SPECIAL[UNK]}; expected captions as people wrote them, "
            "not those that another program replaced rare words in"
        )
    markers = markers_in(text)
    if markers:
        raise CaptionerError(
            f"{who} stands between {markers}; expected captions as people wrote them: remove these markers, which are "
            "added here"
        )


def _write(
    folder: Path,
    splits: dict[str, list[str]],
    raw: dict[str, list[str]],
    words: dict[str, list[list[str]]],
    vocabulary: Vocabulary,
) -> None:
    """Write the three files of `captioner.captions.dataset`, a line at a time."""
    with atomic_write(folder / "images.csv") as beside, beside.open("w", encoding="utf-8", newline="\n") as table:
        writer = csv.writer(table, lineterminator="\n")
        writer.writerow(["image", "split"])
        writer.writerows([name, split] for split in SPLITS for name in splits[split])
    with atomic_write(folder / "captions.jsonl") as beside, beside.open("w", encoding="utf-8", newline="\n") as lines:
        for split in SPLITS:
            for name in splits[split]:
                ids = [vocabulary.encode(tokens) for tokens in words[name]]
                line = {"image": name, "split": split, "raw": raw[name], "ids": ids}
                lines.write(json.dumps(line, ensure_ascii=False) + "\n")
    write_json(folder / "vocabulary.json", vocabulary.as_dict())


def _paths(listing: Listing, archive: Archive, photos: set[str], bad: _Bad) -> dict[str, str]:
    """Return the path of each photo that a split names and that is there."""
    paths: dict[str, str] = {}
    owner: dict[str, str] = {}
    named: dict[str, str] = {}  # by path
    for split in SPLITS:
        for name, place in listing.splits[split]:
            if name in owner:
                raise CaptionerError(
                    f"{place}: {visible(name)} is also in the {owner[name]} split; expected each photo in one split"
                )
            owner[name] = split
            path = archive.find(name)
            if path is None or path not in photos:
                bad(NO_PHOTO, f"{place}: {_no_photo(name, archive)}")
                continue
            missing = unread_kind(path)
            if missing:
                bad("photos of a kind that is not read", f"{place}: {visible(name)}: {missing}")
                continue
            if path in named:
                raise CaptionerError(
                    f"{place}: {visible(name)} is the photo {path}, as {named[path]} is; expected one name"
                )
            named[path] = name
            paths[name] = path
    return paths


def _no_photo(name: str, archive: Archive) -> str:
    if not name.lower().endswith(PHOTO_SUFFIXES):
        ends = ", ".join(PHOTO_SUFFIXES)
        return f"{visible(name)} does not end in one of {ends}; convert the photo, or write its whole name"
    return f"no photo {visible(name)} in {archive.path}"
