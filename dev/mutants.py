"""Measure which small changes of the code (mutants) the tests notice.

    python -m dev.mutants run [--sample 30] [--seed 1] [--python .venv/bin/python] [MODULE ...]
    python -m dev.mutants table

`run` needs cosmic-ray (`pip install cosmic-ray`, in any environment) and works in a copy of the last commit. It draws
`--sample` mutants of each module and runs the module's tests (MODULES) on each mutant, with the interpreter `--python`.
Replaced `|` signs are left out, because nearly all stand in type annotations. `table` writes docs/reliability.md.

mutants.json beside this module: {module: {"mutants": int, "killed": int, "stopped": int, "survivors": [{"operator",
"line", "diff"}]}}. A mutant whose tests reach a limit of time is killed, and counted in "stopped" too.
"""

import argparse
import json
import random
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
RECORD, PAGE = ROOT / "dev/mutants.json", ROOT / "docs/reliability.md"
MODULES = {
    "base/params.py": ["tests/base/test_params.py"],
    "captions/ptb.py": ["tests/captions/test_ptb.py", "tests/captions/test_tokens.py"],
    "captions/vocabulary.py": ["tests/captions/test_tokenise.py"],
    "vision/store.py": ["tests/vision/test_store.py"],
    "scoring/cider.py": [
        "tests/scoring/test_cider.py",
        "tests/training/test_reward.py",
        "tests/model/test_consensus.py",
    ],
    "model/search.py": ["tests/model/test_search.py"],
    "model/lstm.py": ["tests/model/test_lstm.py", "tests/model/test_decoder.py"],
    "model/consensus.py": ["tests/model/test_consensus.py"],
    "training/reward.py": ["tests/training/test_reward.py", "tests/training/test_self_critical.py"],
    "training/schedule.py": ["tests/training/test_training.py"],
}
LIMIT = 120  # seconds of processor time of a process; a mutant may loop forever
TIMEOUT = 3600.0  # seconds; only for a mutant that waits forever, because tests take long on a busy machine
STOPPED = ("timeout", "exit 152")  # how the output ends at a limit; 152 is 128 + SIGXCPU
LEFT_OUT = re.compile(r"ReplaceBinaryOperator_BitOr_")
# Why a mutant changes nothing that a user can see: (module, operator, the changed line) -> reason.
EQUIVALENT = {
    (
        "captions/ptb.py",
        "RemoveDecorator",
        "",
    ): "Without the cache the same pattern is built again, which takes time only.",
    (
        "captions/vocabulary.py",
        "ReplaceUnaryOperator_USub_Invert",
        "ranked = sorted((~count, word) for word, count in counts.items() "
        "if count >= min_count and word not in SPECIAL)",
    ): "~count is -count - 1, so the order is the same.",
    (
        "vision/store.py",
        "ReplaceComparisonOperator_Lt_NotEq",
        "lacks = next((image for image, of_image in rows.items() if len(of_image) != count), None)",
    ): "An image has at most `count` rows here.",
    (
        "vision/store.py",
        "NumberReplacer",
        "def pooled(self, rows: Sequence[int] | np.ndarray, piece: int = 1023) -> Tensor:",
    ): "The size of a piece changes no row.",
    (
        "vision/store.py",
        "NumberReplacer",
        'raise OSError(errno.ENOSPC, f"{os.strerror(errno.ENOSPC)} for {size / 999999999.0:.1f} GB", str(path))',
    ): "The message has one decimal.",
    (
        "scoring/cider.py",
        "NumberReplacer",
        "REFERENCES_AT_ONCE = 1025  # compared in one step; bounds the memory of a large batch",
    ): "The size of a step changes no score.",
    (
        "scoring/cider.py",
        "ReplaceBinaryOperator_LShift_Pow",
        "FILTER = 1 ** 16  # entries of a table, a power of 2, more than a batch has n-grams",
    ): "The table then rules out no n-gram, and the exact comparison after it does. Only the time differs.",
    (
        "scoring/cider.py",
        "ReplaceComparisonOperator_Gt_GtE",
        "shared = known[id] >= 0  # the others are in no reference",
    ): "An n-gram in no reference adds 0. Only the time differs.",
    (
        "model/search.py",
        "NumberReplacer",
        "LOOK_EVERY = 3  # words drawn between checks whether all captions have ended; each check waits for a GPU",
    ): "The number of checks changes no caption.",
    (
        "model/search.py",
        "AddNot",
        'return 1 if not device.type == "cpu" else LOOK_EVERY',
    ): "The number of checks changes no caption.",
    (
        "model/search.py",
        "NumberReplacer",
        "return torch.searchsorted(below, at, right=True).squeeze(-1).clamp(max=below.shape[-1] - 0)",
    ): "`at` is below the last sum, so the clamp only matters for logits that are not a number.",
    (
        "model/lstm.py",
        "ReplaceTrueWithFalse",
        "for (start, end), (_, last) in zip(reversed(steps), reversed(before), strict=False):",
    ): "Both lists have one entry for each step.",
    (
        "model/consensus.py",
        "NumberReplacer",
        "BLOCK = 63  # training images that are ruled out together in the search for the nearest",
    ): "The size of a block changes no place.",
    (
        "model/consensus.py",
        "ReplaceComparisonOperator_NotEq_Gt",
        "words = tokens > PAD",
    ): "PAD is the smallest id.",
    (
        "model/consensus.py",
        "ReplaceComparisonOperator_LtE_NotEq",
        "if blocks != count:",
    ): "The full sort and the blocks give the same places. Only the time differs.",
}


def run(module: str, *, sample: int, seed: int, python: str) -> dict[str, Any]:
    """Return the record of one module."""
    from cosmic_ray.work_db import WorkDB, use_db
    from cosmic_ray.work_item import TestOutcome, WorkerOutcome, WorkResult

    with tempfile.TemporaryDirectory(prefix="mutants-") as name:
        copy = Path(name) / "project"
        subprocess.run(["git", "clone", "--quiet", ROOT, copy], check=True)
        tests = " ".join(MODULES[module])
        config, session = copy / "mutants.toml", copy / "mutants.sqlite"
        command = f"ulimit -S -t {LIMIT}; {python} -m pytest -q -x -p no:cacheprovider {tests}"
        command += " || { code=$?; echo exit $code; exit $code; }"
        config.write_text(
            f'[cosmic-ray]\nmodule-path = "src/captioner/{module}"\ntimeout = {TIMEOUT}\nexcluded-modules = []\n'
            f"test-command = \"sh -c '{command}'\"\n"
            '[cosmic-ray.distributor]\nname = "local"\n'
        )
        program = [sys.executable, "-m", "cosmic_ray.cli"]
        subprocess.run([*program, "baseline", config.name], cwd=copy, check=True)
        subprocess.run([*program, "init", config.name, session.name], cwd=copy, check=True)
        with use_db(session, WorkDB.Mode.open) as jobs:
            known = {job.job_id: job.mutations[0] for job in jobs.pending_work_items}
            drawn = [
                key
                for key, mutation in sorted(known.items(), key=_place)
                if not LEFT_OUT.search(mutation.operator_name)
            ]
            drawn = random.Random(seed).sample(drawn, min(sample, len(drawn)))
            jobs.set_multiple_results(set(known) - set(drawn), WorkResult(WorkerOutcome.SKIPPED))
        subprocess.run([*program, "exec", config.name, session.name], cwd=copy, check=True)
        with use_db(session, WorkDB.Mode.open) as jobs:
            results = {key: result for key, result in jobs.results if key in drawn}
    survivors = [
        {
            "operator": known[key].operator_name.removeprefix("core/"),
            "line": known[key].start_pos[0],
            "diff": [line for line in (result.diff or "").splitlines() if re.match(r"[+-](?![+-])", line)],
        }
        for key, result in results.items()
        if result.test_outcome == TestOutcome.SURVIVED
    ]
    return {
        "mutants": len(results),
        "killed": len(results) - len(survivors),
        "stopped": sum((result.output or "").rstrip().endswith(STOPPED) for result in results.values()),
        "survivors": sorted(survivors, key=lambda each: (each["line"], each["operator"])),
    }


def _place(item: tuple[str, Any]) -> tuple[Any, ...]:
    mutation = item[1]
    return (mutation.start_pos, mutation.operator_name, mutation.occurrence)


def equivalent(module: str, survivor: dict[str, Any]) -> bool:
    """Return whether EQUIVALENT has a reason for a survivor."""
    lines = {sign: [line[1:].strip() for line in survivor["diff"] if line[0] == sign] for sign in "+-"}
    changed = lines["+"] or lines["-"]  # a line that is only removed stands for the change
    return any((module, survivor["operator"], line) in EQUIVALENT for line in changed)


def table_of(records: dict[str, Any]) -> str:
    """Return the table of docs/reliability.md."""
    from benchmarks.page import table

    counted = {
        module: [
            each["mutants"],
            each["killed"],
            each.get("stopped", "not counted"),
            sum(equivalent(module, survivor) for survivor in each["survivors"]),
        ]
        for module, each in records.items()
    }
    rows = [[f"`{module}`", *map(str, counts)] for module, counts in counted.items()]
    total, killed, same = (sum(counts[at] for counts in counted.values()) for at in (0, 1, 3))
    rows.append(["all", f"{total}", f"{killed} ({100 * killed / total:.1f} %)", "", f"{same}"])
    return table(["module", "mutants drawn", "killed", "of these by a limit of time", "equivalent"], rows)


def main() -> None:
    """Run the mutants, or write the table."""
    parser = argparse.ArgumentParser(prog="python -m dev.mutants", description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=["run", "table"])
    parser.add_argument("modules", nargs="*", metavar="MODULE", help="default: all")
    parser.add_argument("--sample", type=int, default=30, help="mutants of a module (default: 30)")
    parser.add_argument("--seed", type=int, default=1, help="of the sample (default: 1)")
    parser.add_argument("--python", default=str(ROOT / ".venv/bin/python"), help="runs the tests (.venv/bin/python)")
    options = parser.parse_intermixed_args()
    records = json.loads(RECORD.read_text(encoding="utf-8")) if RECORD.exists() else {}
    if options.what == "table":
        from benchmarks.page import put

        put(PAGE, "mutants", table_of(records))
        return
    for module in options.modules or MODULES:
        if module not in MODULES:
            parser.error(f"no module is named {module}; there are {', '.join(MODULES)}")
        records[module] = run(module, sample=options.sample, seed=options.seed, python=options.python)
        print(f"{module}: {records[module]['killed']} of {records[module]['mutants']} killed", flush=True)
        ordered = {name: records[name] for name in MODULES if name in records}
        RECORD.write_text(json.dumps(ordered, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
