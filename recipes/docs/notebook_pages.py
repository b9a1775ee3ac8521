"""A hook of MkDocs: the notebooks of docs/notebooks as pages, with their outputs if `make notebooks` has run them.

Each page links to the notebook as .ipynb, which is put beside it.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import jupytext
import nbformat
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parents[2]
SOURCES = sorted((ROOT / "docs/notebooks").glob("*.py"))
RUN = ROOT / "build/notebooks"  # where `make notebooks` writes


def read_notebook(source: Path) -> nbformat.NotebookNode:
    """The notebook that was run, if it has the code of the source, or else the source without outputs."""
    plain = jupytext.read(source)
    run = RUN / f"{source.stem}.ipynb"
    if run.exists():
        notebook = nbformat.read(run, as_version=4)
        if [cell.source for cell in notebook.cells] == [cell.source for cell in plain.cells]:
            return notebook
    return plain


def shown(output: nbformat.NotebookNode) -> str:
    """An output of a cell as Markdown: HTML, image or text."""
    data = output.get("data", {})
    if "text/html" in data:
        return f'<div class="output">{re.sub(chr(10) + "+", " ", data["text/html"])}</div>\n'
    if "image/png" in data:
        return f'<div class="output"><img alt="" src="data:image/png;base64,{data["image/png"].strip()}"></div>\n'
    text = output.get("text") or data.get("text/plain", "")
    return f"```text\n{text.rstrip()}\n```\n" if text and output.get("name") != "stderr" else ""


def to_markdown(notebook: nbformat.NotebookNode, name: str) -> str:
    parts = []
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            parts.append(cell.source + "\n")
        elif cell.source.strip():
            parts.append(f"```python\n{cell.source}\n```\n")
            parts += [shown(output) for output in cell.get("outputs", ())]
    parts.insert(1, f"[Download this notebook]({name}.ipynb){{ .md-button download }}\n")
    return "\n".join(parts)


def title_of(source: Path) -> str:
    return re.search(r"^# # (.+)$", source.read_text("utf-8"), re.M)[1]


def on_config(config: Any) -> Any:
    """Adds the pages to the navigation."""
    config.nav.append({"Notebooks": [{title_of(source): f"notebooks/{source.stem}.md"} for source in SOURCES]})
    return config


def on_files(files: Files, config: Any) -> Files:
    for source in SOURCES:
        notebook = read_notebook(source)
        page, download = f"notebooks/{source.stem}.md", f"notebooks/{source.stem}.ipynb"
        files.append(File.generated(config, page, content=to_markdown(notebook, source.stem)))
        files.append(File.generated(config, download, content=nbformat.writes(notebook)))
        files.remove(files.get_file_from_path(f"notebooks/{source.name}"))
    return files
