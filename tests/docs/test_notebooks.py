"""The notebooks of docs/notebooks run from top to bottom, small, and show their results."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path

import pytest

pytest.importorskip("nbclient", reason="needs the extra docs")

ROOT = Path(__file__).parents[2]
NOTEBOOKS = sorted((ROOT / "docs/notebooks").glob("*.py"))


@pytest.fixture
def run_notebooks(monkeypatch):
    monkeypatch.setenv("NOISETILT_SMALL", "1")
    monkeypatch.setenv("JUPYTER_PLATFORM_DIRS", "1")
    spec = importlib.util.spec_from_file_location("run_notebooks", ROOT / "recipes/docs/run_notebooks.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_there_are_three():
    assert [file.stem for file in NOTEBOOKS] == ["own_method", "own_reward", "tutorial"]


@pytest.mark.long
@pytest.mark.parametrize("source", NOTEBOOKS, ids=lambda file: file.stem)
def test_runs_from_top_to_bottom(source, run_notebooks, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    notebook = run_notebooks.run_notebook(source, tmp_path / "out")
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", ())]
    shown = [output.data["text/html"] for output in outputs if "text/html" in output.get("data", {})]
    assert shown and all('<img src="data:image/png;base64,' in page for page in shown)
    assert (tmp_path / "out" / f"{source.stem}.ipynb").is_file()
    assert all(cell.execution_count for cell in notebook.cells if cell.cell_type == "code")


@pytest.mark.parametrize("source", NOTEBOOKS, ids=lambda file: file.stem)
def test_starts_with_a_title_and_what_it_is_for(source):
    text = source.read_text("utf-8")
    assert re.search(r"^# %% \[markdown\]\n# # .+\n#\n(# .+\n){1,3}", text, re.M)
    assert "For readers who" in text
