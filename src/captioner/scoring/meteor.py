"""METEOR 1.5 for English (Denkowski and Lavie 2014), by the Java program in pycocoevalcap.

The program aligns each caption with its references and returns counts. The score of a set of images is computed from
the sums of these counts, so it is not the mean of the images' scores.

Java runs with an English locale, because the program prints numbers by the locale, and with a heap of `HEAP_MB`, less
where the machine has less memory.
"""

import os
import shutil
import subprocess
import tempfile
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import IO, NamedTuple

import numpy as np
from pycocoevalcap.meteor import meteor as published

from captioner.scoring.bootstrap import Resampled

HEAP_MB = 2048
LEAST_HEAP_MB = 400  # with less the program cannot read its table of paraphrases
JAVA_SECONDS = 30  # a Java that has not told its version by then is broken
COUNTS = 23  # that the program returns of an image
ALPHA, BETA, GAMMA, DELTA = 0.85, 0.2, 0.6, 0.75  # the program's for English
STAGES = np.array([1.0, 0.6, 0.8, 0.6])  # weights of words that match exactly, by stem, by synonym, by paraphrase
_MESSAGE_CHARACTERS = 300
_INSTALL = "Install a Java runtime, version 8 or later, to have it"
_FOLDER = Path(published.__file__).parent
_JAR = published.METEOR_JAR


class MeteorUnavailable(Exception):
    """METEOR cannot be computed here. The message has the cause and what to do, without a full stop at its end."""


class Meteor(NamedTuple):
    """METEOR of captions, as fractions of 1."""

    score: float  # of all images together
    each: dict[str, float]  # by image
    resampled: Resampled  # the score for draws of the images, in the order of `each`


def meteor(references: Mapping[str, list[str]], hypotheses: Mapping[str, str]) -> Meteor:
    """Return METEOR of `hypotheses`, one caption an image, against the references of the same images.

    All are tokens joined by spaces. Raises MeteorUnavailable where Java is missing, too old, without enough memory,
    or fails.
    """
    _require_java()
    heap = heap_mb()
    command = ["java", "-Duser.language=en", "-Duser.country=US", "-Dfile.encoding=UTF-8", f"-Xmx{heap}m"]
    command += ["-jar", _JAR, "-", "-", "-stdio", "-l", "en", "-norm"]
    with tempfile.TemporaryFile() as errors:
        pipe = subprocess.PIPE
        try:
            process = subprocess.Popen(command, cwd=_FOLDER, stdin=pipe, stdout=pipe, stderr=errors)
        except OSError as error:
            raise MeteorUnavailable(f"java does not start: {error}. {_INSTALL}") from None
        try:
            return _ask(process, references, hypotheses)
        except (OSError, ValueError, IndexError) as error:
            process.kill()
            raise MeteorUnavailable(_cause(_printed(errors), process.wait(), heap, error)) from None
        finally:
            _end(process)


def _ask(
    process: "subprocess.Popen[bytes]", references: Mapping[str, list[str]], hypotheses: Mapping[str, str]
) -> Meteor:
    """Return the scores from a started program; raises OSError, ValueError or IndexError where it does not answer."""
    to_program, from_program = process.stdin, process.stdout
    assert to_program is not None
    assert from_program is not None

    def answer() -> str:
        line = from_program.readline().decode("utf-8", "replace").strip()
        if not line:
            raise ValueError("it did not answer")
        return line

    def send(*parts: str) -> None:
        to_program.write((" ||| ".join(parts) + "\n").encode("utf-8"))
        to_program.flush()

    lines = []
    for image, texts in references.items():
        send("SCORE", *map(_plain, texts), _plain(hypotheses[image]))
        lines.append(answer())
    statistics = np.array([[float(number) for number in line.split()] for line in lines]).reshape(len(lines), COUNTS)
    send("EVAL", *lines)
    each = [float(answer()) for _ in lines]
    score = float(answer())
    perfect = (
        (statistics[:, 20] == 1) & (statistics[:, 21] == statistics[:, 0]) & (statistics[:, 22] == statistics[:, 1])
    )
    statistics[perfect, 20] = 0  # in a sum, the program counts no chunk for a caption that equals a reference
    return Meteor(score, dict(zip(references, each, strict=True)), Resampled(statistics, meteor_scores))


def _plain(text: str) -> str:
    return text.replace("|||", "").replace("  ", " ")


def meteor_scores(sums: np.ndarray) -> np.ndarray:
    """Return METEOR [...] of sums [..., 23] of the program's counts of images.

    The columns are the words of the caption and of the reference, the function words of both; for each of the four
    stages the matched content words of both, the matched function words of both; the chunks, the matched words of both.
    """
    stages = sums[..., 4:20].reshape(*sums.shape[:-1], len(STAGES), 4)
    sides = []
    for side in (0, 1):
        matched = DELTA * (stages[..., side] @ STAGES) + (1 - DELTA) * (stages[..., 2 + side] @ STAGES)
        words = DELTA * (sums[..., side] - sums[..., 2 + side]) + (1 - DELTA) * sums[..., 2 + side]
        sides.append(np.divide(matched, words, out=np.zeros_like(matched), where=words > 0))
    precision, recall = sides
    both = ALPHA * precision + (1 - ALPHA) * recall
    harmonic = np.divide(precision * recall, both, out=np.zeros_like(both), where=both > 0)
    matches = (sums[..., 21] + sums[..., 22]) / 2
    fragments = np.divide(sums[..., 20], matches, out=np.zeros_like(matches), where=matches > 0)
    return harmonic * (1 - GAMMA * fragments**BETA)


def _require_java() -> None:
    """Raise MeteorUnavailable if Java does not work. macOS has a `java` that only reports that Java is missing."""
    if shutil.which("java") is None:
        raise MeteorUnavailable(f"no java on the PATH. {_INSTALL}")
    try:
        done = subprocess.run(["java", "-version"], capture_output=True, timeout=JAVA_SECONDS)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise MeteorUnavailable(f"java does not start: {error}. {_INSTALL}") from None
    if done.returncode != 0:
        message = done.stderr.decode(errors="replace").strip()
        if _is_memory(message):
            raise MeteorUnavailable(_cause(message, done.returncode, heap_mb(), None))
        raise MeteorUnavailable(f"java -version ended with {done.returncode}: {_short(message)}. {_INSTALL}")


def heap_mb() -> int:
    """Return the heap in MB: HEAP_MB, or half of this process's memory limit if that is less."""
    limits = [2 * HEAP_MB * 2**20]
    with suppress(AttributeError, OSError, ValueError):  # Windows does not tell
        limits.append(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    for file in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        try:
            limits.append(int(Path(file).read_text()))  # of a container; "max" where there is none
        except (OSError, ValueError):
            continue
    return max(LEAST_HEAP_MB, min(limits) // 2 // 2**20)


def _is_memory(message: str) -> bool:
    return any(
        sign in message for sign in ("OutOfMemoryError", "enough space", "insufficient memory", "allocate memory")
    )


def _cause(message: str, code: int, heap: int, error: Exception | None) -> str:
    """Return why the program failed and what to do, from what it printed."""
    if "UnsupportedClassVersionError" in message:
        return f"this Java is too old for {_JAR}: {_short(message)}. Install version 8 or later"
    if _is_memory(message):
        return f"Java has too little memory for a heap of {heap} MB: {_short(message)}. Free memory, or raise its limit"
    if "Unable to access jarfile" in message:
        return f"{_FOLDER / _JAR} is not there or cannot be read. Install pycocoevalcap again"
    how = f"was ended by signal {-code}" if code < 0 and code != -9 else "died" if code else "ended"
    return (
        f"the METEOR program {how}: {_short(message)} ({error}). Try `java -version`; a broken Java has to be replaced"
    )


def _printed(errors: IO[bytes]) -> str:
    errors.seek(0)
    return errors.read().decode(errors="replace").strip()


def _short(message: str) -> str:
    return message[:_MESSAGE_CHARACTERS].strip() or "no message"


def _end(process: "subprocess.Popen[bytes]") -> None:
    process.kill()
    for pipe in (process.stdin, process.stdout):
        with suppress(OSError):  # it was dead before it read all
            if pipe is not None:
                pipe.close()
    process.wait()
