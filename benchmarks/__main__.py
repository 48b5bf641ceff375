"""Run benchmarks: python -m benchmarks [NAME ...] [--rounds N] [--out FOLDER]

From the project's folder, after `dvc repro`. Without a name all but `memory`, which takes as long as the pipeline with
one epoch. Records go to results.json (the pairs), variants.json, profiling.json, scaling.json, memory.json in FOLDER,
in place of the older records of the same name; with the default folder the tables of docs/performance.md and
docs/scale.md follow.
"""

import argparse
import sys
import tempfile
import time
from pathlib import Path

from benchmarks import memory, page, profiling, scale, scaling, variants
from benchmarks.measure import Mismatch, compare
from benchmarks.pairs import PAIRS
from captioner.base.device import select_device
from captioner.base.errors import CaptionerError
from captioner.base.files import read_json, write_json

OTHERS = {module.__name__.rpartition(".")[2]: module for module in (variants, profiling, scaling, memory)}
ON_REQUEST = {"memory"}


def main() -> int:
    """Run what was asked for; return 1 where a benchmark could not be run or its sides disagree."""
    names = [*PAIRS, *OTHERS]
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(names)} (default: all but memory)")
    parser.add_argument("--rounds", type=int, default=5, help="of which the median is taken (default: 5)")
    parser.add_argument("--out", type=Path, default=page.FOLDER, help="folder of the records (default: benchmarks)")
    arguments = parser.parse_args()
    for name in arguments.names:
        if name not in names:
            parser.error(f"no benchmark is named {name}; there are {', '.join(names)}")
    if arguments.rounds < 1:
        parser.error("--rounds: expected 1 or more")
    select_device()  # limits what a CPU compiles and keeps, as in the stages
    failed = []
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
            keep(arguments.out / "results.json", name, record, list(PAIRS))
            print(
                f"{name}: {record['ratio']:.3g} ({record['ours']} against {record['baseline']} {record['unit']})",
                end="",
            )
        else:
            write_json(arguments.out / f"{name}.json", record)
            print(name, end="")
        print(f", took {time.perf_counter() - began:.0f} s", flush=True)
    if arguments.out.resolve() == page.FOLDER.resolve():
        page.update()
        scale.update()
    if failed:
        print(f"not measured: {', '.join(failed)}", file=sys.stderr)
    return int(bool(failed))


def keep(path: Path, name: str, record: dict, order: list[str]) -> None:
    """Put one record among those that are kept, in `order`; those of benchmarks that are no more are dropped."""
    records = (read_json(path) if path.exists() else {}) | {name: record}
    write_json(path, {known: records[known] for known in order if known in records})


if __name__ == "__main__":
    sys.exit(main())
