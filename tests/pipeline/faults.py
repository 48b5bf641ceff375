"""Kill the pipeline at random moments, and compare its outputs with those of an uninterrupted run.

    python tests/pipeline/faults.py [--kills 50] [--seed 1] [--out benchmarks/faults.json]

The dataset is a small form of the built-in one. An uninterrupted `dvc repro` gives the expected hashes (dvc.lock). Then
pipelines start in empty workspaces and are killed at random moments. After each kill `dvc repro` runs again until the
pipeline ends. Every stage is killed, by SIGINT, SIGTERM and SIGKILL, alone or with dvc's whole process group. After
each kill every output in the workspace has to be complete. After each pipeline every output has to have the expected
hash. A run is one part of the results, and another seed gives another part. Parts can run at the same time. The module
writes the part to the file, in place of the part with the same seed, and the sums of all parts into
docs/reliability.md.

    benchmarks/faults.json    {"parts": [{"seed": int, "commit": str, counts}, ...]}, sorted by seed
"""

import argparse
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import psutil
from ruamel.yaml import YAML

from captioner.base.files import digest, read_json, write_json, write_text
from dev.dvc_lock import mend
from tests.support.workspaces import ROOT, TINY, Workspace

DOCUMENT = ROOT / "docs" / "reliability.md"
MARK = "<!-- written by make fault-test -->"  # around the table in DOCUMENT
RESULTS = ROOT / "benchmarks" / "faults.json"
# With these rates a later epoch is the best, so that the models' bytes depend on every epoch.
SMALL = TINY | {
    "train.epochs": 4,
    "train.batch": 4,
    "train.lr": 0.02,
    "train.warmup": 0.2,
    "train.label_smoothing": 0.0,
    "finetune.epochs": 3,
    "finetune.lr": 0.005,
    "finetune.encoder_lr": 0.0003,
    "finetune.label_smoothing": 0.0,
    "captions.language": "de",  # so no METEOR, whose Java program takes longer than all other stages
}
STAGES = tuple(YAML(typ="safe").load(ROOT / "dvc.yaml")["stages"])
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGKILL)
BETWEEN = "dvc, between stages"
LONGEST = 3600  # seconds for the uninterrupted `dvc repro`; a killed one has ten times the seconds that it took


@dataclass(frozen=True)
class Kill:
    """Send `signal`, `wait` seconds after a line that contains `cue` was printed."""

    cue: str
    wait: float
    signal: signal.Signals
    alone: bool  # to the stage's process only, else to dvc's whole process group


@dataclass
class Outcome:
    """The result of one `dvc repro`."""

    struck: str | None = None  # the stage that ran when the signal was sent, BETWEEN, or None if no signal was sent
    kill: Kill | None = None
    status: int = 0
    printed: str = ""
    hung: bool = False
    seconds: dict[str, float] = field(default_factory=dict)  # by stage

    @property
    def killed(self) -> bool:
        return self.struck is not None and self.status != 0


def repro(folder: Path, kills: list[Kill], *arguments: str, longest: float = LONGEST) -> Outcome:
    """Run `dvc repro` in `folder` for at most `longest` seconds.

    Only the first of the kills is done, that is, the one whose moment comes first.
    """
    outcome, lock = Outcome(), threading.Lock()
    environment = {
        **os.environ,
        "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")]),
        "PYTHONUNBUFFERED": "1",
    }
    process = subprocess.Popen(
        [sys.executable, "-m", "dvc", "repro", *arguments],
        cwd=folder,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )

    def strike(kill: Kill) -> None:
        with lock:
            if outcome.struck is None and process.poll() is None:
                victim = _stage_process(process.pid)
                outcome.struck, outcome.kill = victim[1] if victim else BETWEEN, kill
                try:
                    if kill.alone and victim:
                        os.kill(victim[0], kill.signal)
                    else:
                        os.killpg(process.pid, kill.signal)
                except ProcessLookupError:
                    pass  # it has just ended

    def give_up() -> None:
        outcome.hung = True
        os.killpg(process.pid, signal.SIGKILL)

    watchdog = threading.Timer(longest, give_up)
    timers = [watchdog]
    watchdog.start()
    stage, began = None, 0.0
    for line in process.stdout or ():
        outcome.printed += line
        if line.startswith("Running stage"):
            outcome.seconds |= {stage: time.monotonic() - began} if stage else {}
            stage, began = line.split("'")[1], time.monotonic()
        for kill in [kill for kill in kills if kill.cue in line]:
            kills = [each for each in kills if each is not kill]
            timers.append(threading.Timer(kill.wait, strike, [kill]))
            timers[-1].start()
    outcome.seconds |= {stage: time.monotonic() - began} if stage else {}
    outcome.status = process.wait()
    for timer in timers:
        timer.cancel()
    return outcome


def _stage_process(dvc: int) -> tuple[int, str] | None:
    """Return the process and the name of the stage that dvc runs."""
    try:
        for child in psutil.Process(dvc).children(recursive=True):
            if match := re.fullmatch(r"stages/(\w+)\.py", (child.cmdline() or [""])[-1]):
                return child.pid, match[1]
    except psutil.NoSuchProcess:  # it ended during the query
        pass
    return None


def outputs(folder: Path) -> dict[str, str]:
    """Return DVC's MD5 of each output and metric, and of each file in an output folder, by path."""
    path = folder / "dvc.lock"
    stages = YAML(typ="safe").load(path)["stages"] if path.exists() else {}
    hashes = {}
    for out in (out for stage in stages.values() for out in stage.get("outs", [])):
        if out["md5"].endswith(".dir"):
            listing = json.loads((folder / ".dvc/cache/files/md5" / out["md5"][:2] / out["md5"][2:]).read_text())
            hashes |= {f"{out['path']}/{entry['relpath']}": entry["md5"] for entry in listing}
        else:
            hashes[out["path"]] = out["md5"]
    return hashes


def incomplete(folder: Path, right: Path) -> list[str]:
    """Return the outputs that exist in `folder` and differ from those of the workspace `right`.

    A curve may be the beginning of the right one, because training writes it after each epoch.
    """
    wrong = []
    for path, md5 in outputs(right).items():
        output = folder / path
        if output.exists() and digest(output) != md5:
            begun = (right / path).read_bytes().startswith(output.read_bytes())
            wrong += [] if path.endswith("_curve.csv") and begun else [path]
    return wrong


class Report:
    """Counts of runs and kills, and the faults."""

    def __init__(self) -> None:
        self.kills: Counter[tuple[str, str]] = Counter()
        self.alone = self.runs = self.resumed = self.pipelines = self.compared = self.mismatches = self.mended = 0
        self.faults: list[str] = []

    def at(self, stage: str) -> int:
        return sum(count for (name, _), count in self.kills.items() if name == stage)

    def fault(self, text: str) -> None:
        self.faults.append(text)
        print(f"FAULT: {text}", flush=True)


def quotas(kills: int) -> dict[str, int]:
    """Distribute the kills over the stages; the remainder goes to the training stages first."""
    each, more = divmod(kills, len(STAGES))
    order = sorted(STAGES, key=lambda stage: stage not in ("train", "finetune"))
    return {stage: each + (order.index(stage) < more) for stage in STAGES}


def run_pipeline(
    folder: Path, right: Path, seconds: dict[str, float], wanted: dict[str, int], chance: random.Random, report: Report
) -> None:
    """Run one pipeline in an empty workspace to its end; kill each stage at most three times and `wanted` times.

    `right` is the workspace of the uninterrupted run. `seconds` is the shortest time that each stage took so far, which
    this updates.
    """
    small_workspace(folder)
    plan = {stage: min(chance.randint(1, 3), left) for stage, left in wanted.items()}
    longest = 60 + 10 * sum(seconds.values())
    runs = sum(plan.values()) + 1
    while runs:
        runs -= 1
        kills = [
            Kill(f"Running stage '{stage}'", chance.uniform(0, seconds[stage]), chance.choice(SIGNALS), alone)
            for stage, left in plan.items()
            for alone in [chance.random() < 0.5]
            if left
        ]
        outcome = repro(folder, kills, longest=longest)
        completed = list(outcome.seconds)[: None if outcome.status == 0 else -1]
        for stage in completed:  # the uninterrupted run may have been on a busier machine
            seconds[stage] = min(seconds[stage], outcome.seconds[stage])
        report.runs += 1
        report.resumed += "going on after epoch" in outcome.printed
        what = "no kill"
        if kill := outcome.kill:
            aimed = kill.cue.split("'")[1]
            alone = kill.alone and outcome.struck != BETWEEN
            plan[aimed] -= 1
            what = (
                f"{kill.signal.name} {kill.wait:.1f} s into {aimed} hit {outcome.struck}, {'alone' if alone else 'all'}"
            )
            if outcome.killed:
                report.kills[outcome.struck, kill.signal.name] += 1
                report.alone += alone
        print(f"run {report.runs}: {what}; status {outcome.status}, {report.kills.total()} kills so far", flush=True)
        if outcome.hung:
            report.fault(f"run {report.runs} ({what}): did not end within {longest:.0f} s")
        for path in incomplete(folder, right):
            report.fault(f"run {report.runs} ({what}): {path} is there and is not right")
        if outcome.status == 0:
            break
        broken = r"dvc\.lock' (is invalid|validation failed)|join\(\) argument must be .* not 'NoneType'"
        if not outcome.killed and re.search(broken, outcome.printed) and (mended := mend(folder)):
            print(mended, flush=True)  # what `make repro` does
            report.mended += 1
            runs += 1
            continue
        if not outcome.killed and not outcome.hung:
            report.fault(f"run {report.runs} ({what}): failed without a kill:\n{outcome.printed}")
    hashes, expected = outputs(folder), outputs(right)
    different = [path for path in expected if hashes.get(path) != expected[path]]
    report.pipelines += 1
    report.compared += len(expected)
    report.mismatches += len(different)
    for path in different:
        report.fault(f"pipeline {report.pipelines}: {path} is {hashes.get(path)}, not {expected[path]}")
    for path in [*folder.glob(".resume/*-*"), *folder.rglob(".part-*")]:
        report.fault(f"pipeline {report.pipelines}: {path.relative_to(folder)} was left")
    print(f"pipeline {report.pipelines}: {len(different)} of {len(expected)} outputs differ", flush=True)


def small_workspace(folder: Path) -> Path:
    """Make a workspace with a small form of the built-in dataset."""
    return Workspace(folder, **{key.replace(".", "__"): value for key, value in SMALL.items()}).folder


def record(report: Report, seed: int) -> dict:
    """Return the part of a run, for the results file."""
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True)
    return {
        "seed": seed,
        "commit": commit.stdout.strip(),
        "kills": report.kills.total(),
        "kills of the stage alone": report.alone,
        "kills by stage": {
            name: {each.name: report.kills[name, each.name] for each in SIGNALS} for name in (*STAGES, BETWEEN)
        },
        "runs of dvc repro": report.runs,
        "runs that went on after an epoch": report.resumed,
        "runs that had to be mended": report.mended,
        "pipelines": report.pipelines,
        "outputs compared": report.compared,
        "mismatches": report.mismatches,
        "other faults": len(report.faults) - report.mismatches,
    }


def with_part(results: dict, part: dict) -> dict:
    """Return the results with the part, in place of one with its seed."""
    parts = [each for each in results["parts"] if each["seed"] != part["seed"]]
    return {"parts": sorted([*parts, part], key=lambda each: each["seed"])}


def sums(parts: list[dict]) -> dict:
    """Return the sum of every count over the parts."""
    totals = {key: sum(part[key] for part in parts) for key, value in parts[0].items() if isinstance(value, int)}
    by_stage = {
        stage: {
            each.name: sum(part["kills by stage"].get(stage, {}).get(each.name, 0) for part in parts)
            for each in SIGNALS
        }
        for stage in dict.fromkeys(stage for part in parts for stage in part["kills by stage"])
    }
    return {**totals, "kills by stage": by_stage}


def table_of(results: dict) -> str:
    """Return the results as the text in DOCUMENT."""
    parts = results["parts"]
    seeds = ", ".join(str(part["seed"]) for part in parts)
    results = sums(parts)
    rows = [["killed", *(each.name for each in SIGNALS)], ["---"] * 4]
    rows += [[name, *counts.values()] for name, counts in results["kills by stage"].items()]
    return "\n".join(
        [
            f"`make fault-test` with the SEEDs {seeds} killed {results['kills']:,} times: "
            f"{results['kills of the stage alone']} times the stage's process alone, otherwise the whole process group "
            f"of dvc. {results['pipelines']} pipelines needed {results['runs of dvc repro']:,} runs of `dvc repro`; "
            f"{results['runs that went on after an epoch']} runs resumed after an epoch, "
            f"{results['runs that had to be mended']} found a cut dvc.lock or an empty entry in DVC's run cache, which "
            f"`make repro` mends. {results['outputs compared']:,} outputs were compared; "
            f"mismatches: {results['mismatches']}, other faults: {results['other faults']}.",
            "",
            *(f"| {' | '.join(map(str, row))} |" for row in rows),
        ]
    )


def main() -> None:
    """Kill pipelines and write the results; exit with 1 after a fault."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=50, help="smallest number of kills (default: 50)")
    parser.add_argument("--seed", type=int, default=1, help="seed of the moments and the signals (default: 1)")
    parser.add_argument("--out", type=Path, default=RESULTS, help=f"default: {RESULTS.relative_to(ROOT)}")
    options = parser.parse_args()
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell starts background jobs with SIGINT ignored
    folder, report, chance = Path(tempfile.mkdtemp(prefix="faults-")), Report(), random.Random(options.seed)
    right = small_workspace(folder / "right")
    alone = repro(right, [])
    if alone.status:
        why = f"did not end within {LONGEST} s" if alone.hung else "failed"
        sys.exit(f"{alone.printed}\nthe uninterrupted run {why}; it is in {folder}")
    print("uninterrupted: " + ", ".join(f"{stage} {took:.1f} s" for stage, took in alone.seconds.items()), flush=True)
    wanted = quotas(options.kills)
    while any(wanted.values()):
        if report.pipelines == options.kills:
            report.fault(f"{report.pipelines} pipelines, with kills left: {wanted}")
            break
        place = folder / f"killed-{report.pipelines + 1}"
        run_pipeline(place, right, alone.seconds, wanted, chance, report)
        if not report.faults:
            shutil.rmtree(place)
        wanted = {stage: max(0, count - report.at(stage)) for stage, count in quotas(options.kills).items()}
    results = read_json(options.out) if options.out.exists() else {"parts": []}
    results = with_part(results, record(report, options.seed))
    write_json(options.out, results)
    print("\n" + table_of(results))
    if options.out == RESULTS:
        before, _, after = DOCUMENT.read_text(encoding="utf-8").split(MARK)
        write_text(DOCUMENT, f"{before}{MARK}\n{table_of(results)}\n{MARK}{after}")
    if report.faults:
        sys.exit(f"{len(report.faults)} faults, listed above; the workspaces are kept in {folder}")
    shutil.rmtree(folder)


if __name__ == "__main__":
    main()
