"""Derive captioner/scoring/english.csv, the lemmas and function words of `captioner.scoring.words`, from Flickr8k.

python -m dev.english_words data/raw/captions.zip

Flickr8k.lemma.token.txt has the lemma of each word of Flickr8k.token.txt, line by line. A word's lemma is its most
frequent lemma in the training captions. Lines with different numbers of words are left out. The function words are the
words of the closed classes below that occur in the training captions. Numbers (two, three) are content words, because a
wrong number is a mistake. Verbs other than be, have and do are content words, too.
"""

import argparse
import csv
import io
from collections import Counter, defaultdict
from pathlib import Path

from captioner.base.files import write_text
from captioner.captions.formats import CAPTION_FILES
from captioner.captions.ptb import ptb_tokens
from captioner.scoring.words import TABLE
from captioner.sources.archives import Archive

TRAIN = "Flickr_8k.trainImages.txt"
CLOSED = {
    "determiners": "a an the this that these those some any each every either neither another other others both all "
    "no such what which whose whatever several many much more most few less enough",
    "pronouns": "i me my mine myself you your yours yourself he him his himself she her hers herself it its "
    "itself we us our ours ourselves they them their theirs themselves who whom one ones oneself "
    "someone somebody something anyone anybody anything everyone everybody everything none nobody "
    "nothing",
    "prepositions": "aboard about above across after against along alongside amid amidst among amongst around as at "
    "atop before behind below beneath beside besides between beyond by despite down during except for "
    "from in inside into like near next of off on onto out outside over past per than through "
    "throughout to toward towards under underneath until unto up upon upside via with within without "
    "front",
    "conjunctions": "and but or nor so yet if because while whilst when whenever where wherever whereas although "
    "though since unless whether",
    "auxiliaries": "be am is are was were been being have has had having do does did done doing can could will would "
    "shall should may might must let",
    "particles": "not n't 's 're 've 'll 'd 'm ' there here then now just only also too very quite rather almost "
    "even still again ever never already away how why",
    "brackets": "-lrb- -rrb- -lsb- -rsb- -lcb- -rcb- & % $ # / *",
}


def lemma_counts(archive: Archive) -> dict[str, Counter[str]]:
    """Return how often each lower-case word of the training captions has each lemma."""
    train = set(archive.read(TRAIN).decode("utf-8").split())
    texts = {form: _captions(archive, CAPTION_FILES[form]) for form in ("raw", "lemma")}
    counts: defaultdict[str, Counter[str]] = defaultdict(Counter)
    for key, raw in texts["raw"].items():
        words, lemmas = raw.lower().split(), texts["lemma"].get(key, "").lower().split()
        if key.partition("#")[0] in train and len(words) == len(lemmas):
            for word, lemma in zip(words, lemmas, strict=True):
                counts[word][lemma] += 1
    return counts


def _captions(archive: Archive, file: str) -> dict[str, str]:
    lines = archive.read(file).decode("utf-8").splitlines()
    return {key: text for key, _, text in (line.partition("\t") for line in lines)}


def table_of(counts: dict[str, Counter[str]]) -> dict[str, str]:
    """Return the rows of english.csv: the lemma of each word, empty for a function word."""
    closed = set(" ".join(CLOSED.values()).split())
    best = {  # if lemmas are equally frequent, the alphabetically first
        word: min(lemmas, key=lambda lemma: (-lemmas[lemma], lemma))
        for word, lemmas in counts.items()
        if ptb_tokens(word) == [word]
    }
    rows = {word: "" for word in closed if word in best or not word.isalpha()}
    for word, lemma in sorted(best.items()):
        lemma = best.get(lemma, lemma)  # the lemma of "sightseeing" is a word with a lemma of its own
        if word not in closed and word != lemma and ptb_tokens(lemma) == [lemma]:
            rows[word] = lemma
    return dict(sorted(rows.items()))


def main() -> None:
    """Write english.csv."""
    parser = argparse.ArgumentParser(prog="python -m dev.english_words", description=__doc__.splitlines()[0])
    parser.add_argument("captions", type=Path, help="Flickr8k_text.zip")
    rows = table_of(lemma_counts(Archive(parser.parse_args().captions)))
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([("word", "lemma"), *rows.items()])
    write_text(TABLE, text.getvalue())
    functions = sum(not lemma for lemma in rows.values())
    print(f"{TABLE}: {len(rows) - functions} words with another lemma, {functions} function words")


if __name__ == "__main__":
    main()
