"""Estimate the remaining time of the demo from the stages' times in demo/seconds.json.

A stage that has ended has written its metrics file. A training stage adds a line to its curve after each epoch. The
recorded seconds give the share of the work that is done. The elapsed time and this share give the remaining time.
"""

import sys
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path

METRICS = {
    "download": "download",
    "weights": "weights",
    "tokenise": "captions",
    "features": "features",
    "train": "train",
    "finetune": "finetune",
    "validate": "validate",
    "evaluate": "evaluate",
}
EVERY = 2.0  # seconds between two checks of the folder


class Progress(threading.Thread):
    """Prints the share of the work that is done and the remaining time when a stage or an epoch has ended.

    `seconds` are those of each stage of METRICS in a recorded run. `epochs` are the numbers of epochs of the training
    stages. Use it as a context manager around the run. A stage whose outputs come from the cache counts as done.
    """

    def __init__(
        self,
        folder: Path,
        seconds: Mapping[str, float],
        epochs: Mapping[str, int],
        show: Callable[[str], None] = lambda line: print(line, file=sys.stderr, flush=True),
    ):
        super().__init__(daemon=True)
        self.folder, self.seconds, self.epochs, self.show = folder, seconds, epochs, show
        self.began, self.ended = time.time(), threading.Event()
        self.ends: dict[str, float] = {}  # when each stage's metrics file was written
        self.shown = 0.0

    def __enter__(self) -> "Progress":
        self.start()
        return self

    def __exit__(self, *error: object) -> None:
        self.ended.set()
        self.join()
        self.look()

    def run(self) -> None:
        while not self.ended.wait(EVERY):
            self.look()

    def look(self) -> None:
        """Check which stages have ended; print the progress if there is any."""
        for stage, name in METRICS.items():
            written = self._written(self.folder / "metrics" / f"{name}.json")
            if written:
                self.ends[stage] = written
        done = self.done()
        if self.shown < done < 1:
            self.shown = done
            self.show(f"[demo] {100 * done:.0f} % done, about {_minutes(self.left(done))} left")

    def done(self) -> float:
        """Return the share of the recorded work that is done, 0 to 1."""
        work = 0.0
        for stage in METRICS:
            if stage in self.ends:
                work += self.seconds[stage]
            elif stage in self.epochs and self._written(curve := self.folder / "metrics" / f"{stage}_curve.csv"):
                lines = curve.read_text(encoding="utf-8").splitlines()[1:]
                passed = int(float(lines[-1].split(",")[0])) if lines else 0
                work += self.seconds[stage] * min(1.0, passed / self.epochs[stage])
        return work / sum(self.seconds[stage] for stage in METRICS)

    def left(self, done: float) -> float:
        """Return the remaining seconds if the rest runs as fast as the part that is done."""
        return (time.time() - self.began) * (1 - done) / done

    def stage_seconds(self) -> dict[str, float]:
        """Return the seconds of each stage, from the end of the one before; all stages must have run."""
        before, took = self.began, {}
        for stage, end in sorted(self.ends.items(), key=lambda item: item[1]):
            took[stage], before = round(end - before, 1), end
        return {stage: took[stage] for stage in METRICS}

    def _written(self, path: Path) -> float | None:
        """Return when a file was written, if that was after the beginning."""
        try:
            written = path.stat().st_mtime
        except OSError:
            return None
        return written if written >= self.began else None


def _minutes(seconds: float) -> str:
    if seconds < 90:
        return f"{max(5, 5 * round(seconds / 5))} s"
    return f"{seconds / 60:.1f} min"
