"""Runs the notebooks of docs/notebooks and writes them, with their outputs, to build/notebooks: `make notebooks`.

python recipes/docs/run_notebooks.py [--small] [--out FOLDER]
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path

import jupytext
import nbformat
from nbclient import NotebookClient

ROOT = Path(__file__).parents[2]
SOURCES = sorted((ROOT / "docs/notebooks").glob("*.py"))


def run_notebook(source: Path, out: Path) -> nbformat.NotebookNode:
    """Runs a notebook from top to bottom in a kernel of its own, writes it, and returns it.

    Raises:
        nbclient.exceptions.CellExecutionError: if a cell fails; has the cell and its error.
    """
    notebook = jupytext.read(source)
    NotebookClient(notebook, kernel_name="python3", timeout=None).execute()
    out.mkdir(parents=True, exist_ok=True)
    nbformat.write(notebook, out / f"{source.stem}.ipynb")
    return notebook


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--small", action="store_true", help="two steps and one image, to see that they run")
    parser.add_argument("--out", type=Path, default=ROOT / "build/notebooks")
    args = parser.parse_args()
    if args.small:
        os.environ["NOISETILT_SMALL"] = "1"
    for source in SOURCES:
        run_notebook(source, args.out)
        print(args.out / f"{source.stem}.ipynb", flush=True)


if __name__ == "__main__":
    main()
