"""Run the project's dvc.yaml on the built-in dataset, in a separate folder.

The folder (`.demo`) has a copy of the pipeline, with params.yaml changed by demo/params.yaml, and its own DVC cache. So
the demo changes none of the user's files, and a second run reruns only what changed.
"""

import argparse
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from captioner.base.files import read_json, write_json
from captioner.results.evaluate import table_of
from demo.progress import Progress
from dev.dvc_lock import mend

ROOT = Path(__file__).resolve().parent.parent
SECONDS = ROOT / "demo" / "seconds.json"  # what each stage took in a recorded run
COPIED = ("dvc.yaml", "params.yaml", ".dvcignore", "stages", "src", "own/README.md")


def make_workspace(folder: Path, changes: dict[str, Any]) -> None:
    """Copy the project's code and params to `folder`; `changes` maps dotted names of params to new values."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in COPIED:
        source, copy = ROOT / name, folder / name
        if source.is_dir():
            shutil.rmtree(copy, ignore_errors=True)
            shutil.copytree(source, copy, ignore=shutil.ignore_patterns("__pycache__", "*.egg-info", ".gitignore"))
        else:
            copy.parent.mkdir(exist_ok=True)
            shutil.copy(source, copy)
    yaml = YAML()
    values = yaml.load(folder / "params.yaml")
    for key, value in changes.items():
        *sections, leaf = key.split(".")
        section = values
        for part in sections:
            section = section[part]
        if leaf not in section:
            raise KeyError(f"{key} is not a key of params.yaml")
        section[leaf] = value
    yaml.dump(values, folder / "params.yaml")
    if not (folder / ".dvc").exists():
        dvc(folder, "init", "--no-scm", "--quiet")
        dvc(folder, "config", "core.check_update", "false")
        dvc(folder, "config", "core.analytics", "false")


def _may_be_workspace(folder: Path) -> bool:
    """Return whether a folder is new or empty, or has the workspace of an earlier demo."""
    config = folder / ".dvc" / "config"
    return not folder.exists() or not any(folder.iterdir()) or (config.exists() and "no_scm" in config.read_text())


def dvc(folder: Path, *arguments: str, **options: Any) -> subprocess.CompletedProcess:
    """Run dvc in `folder` with this interpreter first on the PATH, so that its stages use the same one."""
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    environment = {**os.environ, "PATH": path, "DVC_NO_ANALYTICS": "1"}
    command = [sys.executable, "-m", "dvc", *arguments]
    return subprocess.run(command, cwd=folder, env=environment, **{"check": True, **options})


def main() -> None:
    """Make the workspace, run the pipeline in it, and print the results."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", nargs="?", type=Path, default=ROOT / ".demo", help="where to run (default: .demo)")
    parser.add_argument("--record", action="store_true", help="run all stages and write demo/seconds.json")
    options = parser.parse_args()
    if options.folder != ROOT / ".demo" and not _may_be_workspace(options.folder):
        parser.error(f"{options.folder}: has other files in it, which the demo could overwrite; give a new folder")
    folder, params = options.folder, YAML(typ="safe").load(ROOT / "demo" / "params.yaml")
    make_workspace(folder, params)
    if mended := mend(folder):
        print(mended, file=sys.stderr)
    epochs = {stage: params[f"{stage}.epochs"] for stage in ("train", "finetune")}
    try:
        with Progress(folder, read_json(SECONDS), epochs) as progress:
            dvc(folder, "repro", *(["--force"] if options.record else []))
        if options.record:
            write_json(SECONDS, progress.stage_seconds())
    except (subprocess.CalledProcessError, KeyboardInterrupt):
        sys.exit("The demo did not finish; the lines above say why. `make demo` resumes the run.")
    results = read_json(folder / "metrics" / "evaluate.json")
    shown = Path(os.path.relpath(folder))
    print(f"\n{results['images']} test pictures, decoder on frozen features against fine-tuned end to end:\n")
    print(table_of(results))
    print(f"\nsample pictures    {shown / 'pictures' / 'samples.png'}")
    print(f"report             {shown / 'pictures' / 'report.html'}")
    print(f"fine-tuned model   {shown / 'models' / 'captioner.safetensors'}")
    print(f"all metrics        {shown / 'metrics'}")


if __name__ == "__main__":
    main()
