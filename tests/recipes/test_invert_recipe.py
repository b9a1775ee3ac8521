"""The table of the recipe of noise inversion: when a method reaches the result of another one."""

import json
import subprocess
import sys
from pathlib import Path

RECIPE = Path(__file__).parents[2] / "recipes" / "invert" / "measure.py"


def row(method, image, psnr):
    """A row whose PSNR, in dB, goes straight from the first to the last of some stored iterations."""
    same = dict.fromkeys(("mse", "feature", "mean_square", "failed_tests", "concept_correlation"), 0.1)
    same |= dict.fromkeys(("concept_overlap", "concept_named", "concept_styled", "style_correlation"), 0.1)
    same |= dict.fromkeys(("style_overlap", "style_named", "style_styled"), 0.1)
    curve = [10 ** (-value / 10) for value in psnr]
    return {**same, "stage": "test", "method": method, "image": image, "iterations": 20, "factor": 1.0, "curve": curve}


def test_the_table_says_when_a_method_reaches_the_result_of_another(tmp_path):
    curves = {"mpgr": [10, 16, 20], "gper": [10, 18, 26]}
    rows = [row(name, image, curve) for name, curve in curves.items() for image in range(2)]
    file = tmp_path / "rows.jsonl"
    file.write_text("".join(json.dumps(line) + "\n" for line in rows))
    command = [sys.executable, RECIPE, "--table", "--out", file]
    lines = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    header, *_ = (i for i, line in enumerate(lines) if line.startswith("method") and "reaches mpgr" in line)
    table = {line.split()[0]: line.split()[1:] for line in lines[header + 2 : header + 4]}
    assert table["mpgr"] == ["10.0", "16.0", "20.0", "20"]
    assert table["gper"] == ["10.0", "18.0", "26.0", "12", "20"]  # 20 dB is a quarter of the way from 18 to 26
