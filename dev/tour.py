"""Execute docs/tour.ipynb and save its outputs: `python -m dev.tour --size demo`.

Times and the version of Python are left out, because they differ from run to run.
"""

import argparse
import os
import re
from pathlib import Path
from unittest.mock import patch

import nbformat
from nbclient import NotebookClient
from nbformat import NotebookNode

ROOT = Path(__file__).resolve().parent.parent
TOUR = ROOT / "docs" / "tour.ipynb"
SAVED = re.compile(r"(The saved outputs are those of the size )`\w+`")


def execute(size: str, folder: str | Path = ROOT / ".tour") -> NotebookNode:
    """Return the notebook with the outputs of a run of `size`, demo or tiny, in the workspace `folder`.

    Raises nbclient's CellExecutionError where a cell fails.
    """
    notebook = nbformat.read(TOUR, 4)
    code = os.pathsep.join([str(ROOT / "src"), str(ROOT)])
    with patch.dict(os.environ, TOUR_SIZE=size, TOUR_FOLDER=str(folder), PYTHONPATH=code):
        resources = {"metadata": {"path": str(TOUR.parent)}}
        NotebookClient(
            notebook, timeout=None, kernel_name="python3", record_timing=False, resources=resources
        ).execute()
    notebook.metadata.language_info = {"name": "python"}
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            cell.source = SAVED.sub(rf"\1`{size}`", cell.source)
    return notebook


def main() -> None:
    """Execute the notebook, then write it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", choices=["demo", "tiny"], default="demo", help="(default: %(default)s)")
    nbformat.write(execute(parser.parse_args().size), TOUR)


if __name__ == "__main__":
    main()
