"""The recipe tilts.py: the unit of the reward, its rows, and the p-value of methods with several particles."""

import importlib.util
import json
import sys
from pathlib import Path

import numpy as np
import pytest


@pytest.fixture
def tilts(monkeypatch):
    file = Path(__file__).resolve().parents[2] / "recipes" / "bench" / "tilts.py"
    spec = importlib.util.spec_from_file_location("tilts", file)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)

    def small(method, path, calls):
        return (method.replace(particles=2) if method.selection.particles > 1 else method), 4

    monkeypatch.setattr(module, "fit_to_budget", small)
    return module


def test_methods_follow_the_reward_in_the_unit_that_is_printed(tilts, monkeypatch, tmp_path, capsys):
    units, of_base, run = [], [], tilts.rows_of
    monkeypatch.setattr(tilts, "UNIT_IMAGES", 3)

    def recorded(model, target, setting, images, calls, unit):
        units.append(unit)
        rows = run(model, target, setting, images, calls, unit)
        of_base.extend(row["reward"] for row in rows if setting == "base")
        return rows

    monkeypatch.setattr(tilts, "rows_of", recorded)
    file = tmp_path / "rows.jsonl"
    arguments = ["--reward", "redness", "--images", "2", "--standardise", "--rows", str(file), "best-of-n"]
    monkeypatch.setattr(sys, "argv", ["tilts.py", *arguments])
    tilts.main()
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    assert [row["setting"] for row in rows] == ["base"] * 2 + ["best-of-n"] * 2
    # The unit is that of more images than are measured.
    std = float(np.std(of_base))
    assert len(of_base) == 3 and units == [1.0, pytest.approx(std)]
    assert f"divided by {std:.4g}, its standard deviation over 3 images" in capsys.readouterr().out
    # The best of two particles, of which the first has base's seed, in the unit of the reward.
    assert all(best["reward"] > base["reward"] - 1e-3 for base, best in zip(rows[:2], rows[2:], strict=True))
    assert all(0 < row["p_value"] <= 1 for row in rows)
