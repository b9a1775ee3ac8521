"""What is measured stays, once, and is never mixed with another run's."""

import gzip
import json
from pathlib import Path

import pytest

from noisetilt.bench import paper_suite
from noisetilt.bench.ledger import Ledger

PUBLISHED = Path(__file__).resolve().parents[2] / "docs" / "bench" / "rows.jsonl.gz"

SETTINGS = {"suite": "x", "budgets": (25, 500)}


def rows(count):
    return [{"method": "a", "seed": seed, "reward": seed / 3} for seed in range(count)]


def test_rows_are_found_again_after_a_restart(tmp_path):
    Ledger(tmp_path, ("method", "seed"), SETTINGS).add(rows(3))
    again = Ledger(tmp_path, ("method", "seed"), SETTINGS)
    assert ("a", 2) in again and ("a", 3) not in again and ("b", 0) not in again
    assert again.where(method="a") == rows(3) and again.where(seed=1) == rows(3)[1:2]


def test_a_line_cut_off_is_dropped_and_the_next_is_whole(tmp_path):
    Ledger(tmp_path, ("method", "seed"), SETTINGS).add(rows(3))
    file = tmp_path / "rows.jsonl"
    file.write_text(file.read_text()[:-9])
    again = Ledger(tmp_path, ("method", "seed"), SETTINGS)
    assert len(again) == 2 and ("a", 2) not in again
    again.add(rows(3)[2:])
    assert [json.loads(line) for line in file.read_text().splitlines()] == rows(3)


def test_another_run_s_folder_is_refused(tmp_path):
    Ledger(tmp_path, ("seed",), SETTINGS)
    with pytest.raises(ValueError, match="another budgets"):
        Ledger(tmp_path, ("seed",), SETTINGS | {"budgets": (25, 100)})


def test_rows_of_another_kind_are_kept_as_they_are(tmp_path):
    (tmp_path / "rows.jsonl").write_text('{"index": 0, "status": "done"}\nno JSON\n')
    with pytest.raises(ValueError, match=r"rows.jsonl has rows without method, seed, of another run; choose another"):
        Ledger(tmp_path, ("method", "seed"), SETTINGS)
    assert [file.name for file in tmp_path.iterdir()] == ["rows.jsonl"]
    assert (tmp_path / "rows.jsonl").read_text().endswith("no JSON\n")


def test_published_rows_have_the_fields_of_the_suite(tmp_path):
    lines = gzip.decompress(PUBLISHED.read_bytes())
    (tmp_path / "rows.jsonl").write_bytes(lines)
    ledger = Ledger(tmp_path, paper_suite.KEY, {})
    assert len(ledger) == len(lines.splitlines())
    for row in ledger.where():
        assert {"reward", "heldout", "probability", "named", "named_top5", "judged_style", "features"} <= set(row)
        assert row["nfe"] == row["network_calls"]
