"""Execute docs/tour.ipynb at the size of the demo and save its outputs: `python -m dev.tour`.

Times and the version of Python are left out, because they differ from run to run.
"""

import argparse
import json
import os
from pathlib import Path
from typing import Any
from unittest.mock import patch

import nbformat
from nbclient import NotebookClient
from nbformat import NotebookNode

ROOT = Path(__file__).resolve().parent.parent
TOUR = ROOT / "docs" / "tour.ipynb"


def execute(folder: str | Path = ROOT / ".tour", changes: dict[str, Any] | None = None) -> NotebookNode:
    """Return the notebook with the outputs of a run in the workspace `folder`.

    `changes` maps dotted names of params to new values; by default they are those of demo/params.yaml. Raises
    nbclient's CellExecutionError if a cell fails.
    """
    notebook = nbformat.read(TOUR, 4)
    code = os.pathsep.join([str(ROOT / "src"), str(ROOT)])
    with patch.dict(os.environ, TOUR_FOLDER=str(folder), TOUR_CHANGES=json.dumps(changes), PYTHONPATH=code):
        resources = {"metadata": {"path": str(TOUR.parent)}}
        NotebookClient(
            notebook, timeout=None, kernel_name="python3", record_timing=False, resources=resources
        ).execute()
    notebook.metadata.language_info = {"name": "python"}
    return notebook


def main() -> None:
    """Execute the notebook, then write it."""
    argparse.ArgumentParser(description=__doc__.splitlines()[0]).parse_args()
    nbformat.write(execute(), TOUR)


if __name__ == "__main__":
    main()
