"""Run benchmarks: python -m benchmarks [NAME ...] [--plain] [--rounds N] [--out FOLDER]

Run it from the project's folder after `dvc repro`. Without a NAME it runs all benchmarks but `stages`, which takes as
long as the pipeline with one epoch. It replaces the records in FOLDER: results.json (the pairs), variants.json,
profiling.json, scaling.json, neighbour.json and stages.json. With the default FOLDER it also writes the tables of
docs/performance.md and docs/scale.md.

`--plain` measures the pairs, or `stages`, as on a CPU without AVX-512, bfloat16 and AMX: it holds torch's libraries to
AVX2 and the stages to single precision (`PLAIN`). It writes results_plain.json and stages_plain.json.
"""

import argparse
import os
import sys
import tempfile
import time
from pathlib import Path

from benchmarks import neighbour, page, profiling, scale, scaling, stages, variants
from benchmarks.measure import Mismatch, compare
from benchmarks.pairs import PAIRS
from captioner.base.device import select_device
from captioner.base.errors import CaptionerError
from captioner.base.files import read_json, write_json

OTHERS = {module.__name__.rpartition(".")[2]: module for module in (variants, profiling, scaling, neighbour, stages)}
ON_REQUEST = {"stages"}
PLAIN = {
    "ATEN_CPU_CAPABILITY": "avx2",
    "ONEDNN_MAX_CPU_ISA": "AVX2",
    "MKL_ENABLE_INSTRUCTIONS": "AVX2",
    "CAPTIONER_PRECISION": "float32",
}


def main() -> int:
    """Run the benchmarks; return 1 if one fails or if its sides disagree."""
    names = [*PAIRS, *OTHERS]
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(names)} (default: all but stages)")
    parser.add_argument("--plain", action="store_true", help="as on a CPU with AVX2 only, in single precision")
    parser.add_argument("--rounds", type=int, default=5, help="of which the record has the median (default: 5)")
    parser.add_argument("--out", type=Path, default=page.FOLDER, help="folder of the records (default: benchmarks)")
    arguments = parser.parse_args()
    for name in arguments.names:
        if name not in names:
            parser.error(f"no benchmark is named {name}; there are {', '.join(names)}")
    if arguments.rounds < 1:
        parser.error("--rounds: expected 1 or more")
    if arguments.plain:
        if others := [name for name in arguments.names if name in OTHERS and name != "stages"]:
            parser.error(f"--plain: measures the pairs and stages only, not {others[0]}")
        if PLAIN.items() - os.environ.items():  # the libraries read them when they are loaded
            os.execve(sys.executable, [sys.executable, "-m", "benchmarks", *sys.argv[1:]], {**os.environ, **PLAIN})
        names = list(PAIRS)
    select_device()  # limits the CPU's caches of compiled kernels, as in the stages
    plain, failed = "_plain" if arguments.plain else "", []
    for name in arguments.names or [name for name in names if name not in ON_REQUEST]:
        began = time.perf_counter()
        try:
            with tempfile.TemporaryDirectory(prefix="benchmark-") as folder:
                if name in PAIRS:
                    record = compare(PAIRS[name].prepare(Path(folder)), arguments.rounds)
                else:
                    record = OTHERS[name].measure(Path(folder), arguments.rounds)
        except (CaptionerError, Mismatch) as error:
            print(f"{name}: error: {error}", file=sys.stderr)
            failed.append(name)
            continue
        if name in PAIRS:
            keep(arguments.out / f"results{plain}.json", name, record, list(PAIRS))
            print(
                f"{name}: {record['ratio']:.3g} ({record['ours']} against {record['baseline']} {record['unit']})",
                end="",
            )
        else:
            write_json(arguments.out / f"{name}{plain}.json", record)
            print(name, end="")
        print(f", took {time.perf_counter() - began:.0f} s", flush=True)
    if arguments.out.resolve() == page.FOLDER.resolve():
        page.update()
        scale.update()
    if failed:
        print(f"not measured: {', '.join(failed)}", file=sys.stderr)
    return int(bool(failed))


def keep(path: Path, name: str, record: dict, order: list[str]) -> None:
    """Add or replace one record, in `order`; drop the records of benchmarks that no longer exist."""
    records = (read_json(path) if path.exists() else {}) | {name: record}
    write_json(path, {known: records[known] for known in order if known in records})


if __name__ == "__main__":
    sys.exit(main())
