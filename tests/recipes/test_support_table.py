"""The table of pipelines from a file of rows that several runs appended to."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2] / "recipes" / "pipelines"))
import support_table

sys.path.pop(0)


def test_the_last_row_of_a_test_counts(monkeypatch):
    monkeypatch.setattr(support_table, "static_reason", lambda name: None)  # it needs diffusers
    shared = {"module": "tests.flux", "pipeline": "FluxPipeline", "plain": True}
    good, other = {**shared, "tests": "Flux", "equal": 0.0}, {**shared, "tests": "FluxIP", "equal": 0.0}
    bad = {**shared, "tests": "Flux", "equal": 0.5, "ntrk": [0.0, 1.0]}

    def mark(*rows):
        return support_table.verdict("FluxPipeline", support_table.latest(rows), lambda row: row["equal"] == 0.0)

    assert mark(good)[0] == mark(bad, good)[0] == mark(good, bad, other)[0] == "guided"
    assert mark(good, bad) == ("not measured", "the test pipeline runs, but guided images differ by 0.5")
    assert support_table.latest([good, {"module": "tests.flux", "import": "ImportError"}])[0].get("pipeline") is None
