"""METEOR: pycocoevalcap's numbers, and why it is missing."""

import logging
import os
import shutil

import numpy as np
import pytest

from captioner.scoring import evaluation, meteor

REFERENCES = {
    "a.jpg": ["a dog runs on the grass", "the brown dog is running"],
    "b.jpg": ["two men climb a steep rock", "climbers on a rock"],
    "c.jpg": ["a man sits on the big bench in the park"],
    "d.jpg": ["a cat"],
    "e.jpg": ["a caf\u00e9 in the street", "a bar"],
}
HYPOTHESES = {
    "a.jpg": "the dogs run fast in a field",
    "b.jpg": "two men sit on a rock",
    "c.jpg": "man is sitting at a bench",
    "d.jpg": "a cat",
    "e.jpg": "",
}
java = pytest.mark.skipif(shutil.which("java") is None, reason="no java for METEOR")
shell = pytest.mark.skipif(os.name == "nt", reason="the stand-in for java is a shell script")


@pytest.mark.slow
@java
def test_numbers_are_pycocoevalcaps_and_hold_for_draws(monkeypatch):
    from pycocoevalcap.meteor.meteor import Meteor

    theirs = Meteor()
    corpus, each = theirs.compute_score(REFERENCES, {image: [text] for image, text in HYPOTHESES.items()})
    monkeypatch.setenv("LC_ALL", "de_DE.UTF-8")
    monkeypatch.setenv("JAVA_TOOL_OPTIONS", "-Duser.language=de -Duser.country=DE")  # a decimal comma
    result = meteor.meteor(REFERENCES, HYPOTHESES)
    assert result.score == corpus
    assert result.each == dict(zip(REFERENCES, each, strict=True))
    assert result.resampled.score() == pytest.approx(corpus, abs=1e-9)
    for chosen in ([0, 3, 3], [1, 2], [4], [4, 4, 0]):
        lines = [" ".join(map(str, row)) for row in result.resampled.statistics[chosen]]
        theirs.meteor_p.stdin.write((" ||| ".join(["EVAL", *lines]) + "\n").encode())
        theirs.meteor_p.stdin.flush()
        *_, total = [float(theirs.meteor_p.stdout.readline()) for _ in range(len(chosen) + 1)]
        ours = meteor.meteor_scores(result.resampled.statistics[chosen].sum(0))
        assert ours == pytest.approx(total, abs=1e-9)


@pytest.fixture
def stand_in(tmp_path, monkeypatch):
    """A java of this shell script; None for none."""

    def write(script):
        if script is not None:
            (tmp_path / "java").write_text(f"#!/bin/sh\n{script}\n")
            (tmp_path / "java").chmod(0o755)
        monkeypatch.setenv("PATH", str(tmp_path))

    return write


VERSION = 'test "$1" = -version && exit 0'


@shell
@pytest.mark.parametrize(
    ("script", "cause", "advice"),
    [
        (None, "no java on the PATH", "Install a Java runtime"),
        (
            "echo Unable to locate a Java Runtime >&2; exit 1",
            "Unable to locate a Java Runtime",
            "Install a Java runtime",
        ),
        (f"{VERSION}; echo java.lang.OutOfMemoryError >&2; exit 1", "too little memory for a heap of", "Free memory"),
        ("echo Could not reserve enough space for object heap >&2; exit 1", "too little memory", "Free memory"),
        (f"{VERSION}; echo UnsupportedClassVersionError: x >&2; exit 1", "this Java is too old", "Install version 8"),
        (f"{VERSION}; echo Unable to access jarfile x >&2; exit 1", "is not there or cannot be read", "pycocoevalcap"),
        (f"{VERSION}; echo strange >&2; exit 3", "the METEOR program died: strange", "java -version"),
        (f"{VERSION}; while read line; do echo 0,5; done", "the METEOR program", "java -version"),
        (f"{VERSION}; kill -11 $$", "was ended by signal 11", "java -version"),
    ],
)
def test_it_is_left_out_with_the_cause_and_what_to_do(script, cause, advice, stand_in, caplog):
    stand_in(script)
    with caplog.at_level(logging.WARNING):
        result = evaluation.score_all(REFERENCES, HYPOTHESES)
    assert "METEOR" not in result.corpus.keys() | result.each.keys() | result.resampled.keys()
    (record,) = caplog.records
    assert cause in record.getMessage()
    assert advice in record.getMessage()


@shell
def test_the_process_ends_when_it_is_interrupted(stand_in, monkeypatch):
    started = []

    def interrupted(process, *_):
        started.append(process)
        raise KeyboardInterrupt

    stand_in(f"{VERSION}; while read line; do echo; done")
    monkeypatch.setattr(meteor, "_ask", interrupted)
    with pytest.raises(KeyboardInterrupt):
        meteor.meteor(REFERENCES, HYPOTHESES)
    assert started[0].poll() is not None


@shell
def test_java_has_an_english_locale_and_a_stated_heap(stand_in, tmp_path):
    stand_in(f'{VERSION}; echo "$@" > {tmp_path}/said; exit 1')
    with pytest.raises(meteor.MeteorUnavailable):
        meteor.meteor(REFERENCES, HYPOTHESES)
    command = (tmp_path / "said").read_text().split()
    assert {"-Duser.language=en", "-Duser.country=US", f"-Xmx{meteor.heap_mb()}m"} <= set(
        command[: command.index("-jar")]
    )


def test_the_heap_is_at_most_half_of_the_memory(monkeypatch):
    sizes = {"SC_PAGE_SIZE": 4096, "SC_PHYS_PAGES": 2**30 // 4096}  # 1 GB
    monkeypatch.setattr(os, "sysconf", sizes.__getitem__, raising=False)
    assert meteor.heap_mb() == 512
    sizes["SC_PHYS_PAGES"] //= 16
    assert meteor.heap_mb() == meteor.LEAST_HEAP_MB
    assert meteor.HEAP_MB == 2048


def test_captions_without_a_match_score_nothing():
    assert meteor.meteor_scores(np.zeros((2, 23))).tolist() == [0, 0]
