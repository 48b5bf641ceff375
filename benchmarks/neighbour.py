"""Measure how much a busy program on the same cores delays training, with threads that spin or sleep while they wait.

neighbour.json: {"machine": str, how the threads wait: {"alone": seconds a step, "beside a busy program": seconds a
step}}. The steps are of decoder training. The busy program has one thread and the same priority. A new process takes
the steps, because OpenMP reads the setting when torch is loaded.
"""

import os
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from benchmarks.measure import machine, significant
from benchmarks.world import decoding_problem, step
from captioner.training.objectives import next_word_losses

IMAGES = 32
STEPS = 12
VARIABLES = ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")
BUSY = "while True: pass"


def measure(folder: Path, rounds: int) -> dict[str, Any]:
    """Return the record of neighbour.json; each value is a median of `rounds`."""
    ways: dict[str, dict[str, str]] = {"as torch sets it": {}, "as the stages set it": stage_variables("train")}
    seconds: dict[str, dict[str, list[float]]] = {way: {} for way in ways}
    for _ in range(rounds):
        for way, variables in ways.items():
            seconds[way].setdefault("alone", []).append(_seconds(variables))
            with subprocess.Popen([sys.executable, "-c", BUSY]) as busy:
                try:
                    seconds[way].setdefault("beside a busy program", []).append(_seconds(variables))
                finally:
                    busy.kill()
    medians = {
        way: {where: significant(statistics.median(values)) for where, values in result.items()}
        for way, result in seconds.items()
    }
    return {**medians, "machine": machine()}


def stage_variables(stage: str) -> dict[str, str]:
    """Return the environment variables for OpenMP that the command of a stage in dvc.yaml sets."""
    command = YAML(typ="safe").load(Path("dvc.yaml"))["stages"][stage]["cmd"]
    pairs = (word.split("=", 1) for word in command.split() if "=" in word)
    return {name: value for name, value in pairs if name in VARIABLES}


def _seconds(variables: dict[str, str]) -> float:
    environment = {name: value for name, value in os.environ.items() if name not in VARIABLES} | variables
    command = [sys.executable, "-m", "benchmarks.neighbour"]
    return float(subprocess.run(command, env=environment, check=True, capture_output=True, text=True).stdout)


def main() -> None:
    """Print the median seconds of a step."""
    captioner, batch, _ = decoding_problem(IMAGES)
    take = step(captioner, lambda: next_word_losses(captioner, batch)[0])
    seconds = []
    for _ in range(STEPS):
        began = time.perf_counter()
        take()
        seconds.append(time.perf_counter() - began)
    print(statistics.median(seconds))


if __name__ == "__main__":
    main()
