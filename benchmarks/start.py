"""Measure how long `captioner caption` takes for one photo in a new process, compared with importing torch alone.

    python -m benchmarks.start models/captioner.safetensors dog.jpg

Prints the median processor seconds and wall seconds of each, and their ratio. Both run in turns, after one warm-up run
of each.
"""

import argparse
import os
import statistics
import subprocess
import sys
import time

ROUNDS = 7


def seconds(arguments: list[str]) -> tuple[float, float]:
    """Return the processor seconds and the wall seconds of a Python process with these arguments."""
    before, start = os.times(), time.perf_counter()
    subprocess.run([sys.executable, *arguments], check=True, stdout=subprocess.DEVNULL)
    wall, after = time.perf_counter() - start, os.times()
    used = after.children_user + after.children_system - before.children_user - before.children_system
    return used, wall


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model")
    parser.add_argument("photo")
    options = parser.parse_args()
    programs = {
        "import torch": ["-c", "import torch"],
        "captioner caption": ["-m", "captioner", "caption", options.photo, "--model", options.model],
        "captioner --help": ["-m", "captioner", "--help"],
    }
    for arguments in programs.values():
        seconds(arguments)
    rounds = [{name: seconds(arguments) for name, arguments in programs.items()} for _ in range(ROUNDS)]
    medians = {name: [statistics.median(each[name][kind] for each in rounds) for kind in (0, 1)] for name in programs}
    for name, (used, wall) in medians.items():
        ratios = [seconds / torch for seconds, torch in zip((used, wall), medians["import torch"], strict=True)]
        print(f"{name:18}  {used:6.2f} s of the processor ({ratios[0]:.2f})  {wall:6.2f} s ({ratios[1]:.2f})")


if __name__ == "__main__":
    main()
