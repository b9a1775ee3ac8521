"""Measure emoji64-turbo in 1, 2 and 4 steps beside its teacher, on the words of held-out pictures.

    python recipes/turbo/evaluate.py

The figures are those of recipes/emoji64/evaluate.py, which has those of real pictures. Writes `evaluation-turbo.json`
beside the weights and a sample grid to docs/images/emoji64-turbo.png.
"""

from __future__ import annotations

import sys
from pathlib import Path

from noisetilt import load
from noisetilt.models.emoji64.model import FOLDER

sys.path.insert(0, str(Path(__file__).parents[1] / "emoji64"))
from evaluate import HeldOut, draw, sheet, write_figures

if __name__ == "__main__":
    heldout, turbo, teacher = HeldOut(), load("emoji64-turbo"), load("emoji64")
    runs = [("emoji64-turbo", turbo, 1), ("emoji64-turbo", turbo, 2), ("emoji64-turbo", turbo, 4)]
    runs += [("emoji64", teacher, 25), ("emoji64", teacher, 1)]
    sets = {f"{name}, {n} step{'s' * (n > 1)}": draw(m, heldout.prompts, name, n) for name, m, n in runs}
    write_figures(sets, heldout, FOLDER / "evaluation-turbo.json")
    sheet(turbo, Path("docs/images/emoji64-turbo.png"), steps=1)
