"""The suite one-step, on the smallest run that has every part."""

import json
import shutil

import numpy as np
import pytest
from PIL import Image

from noisetilt.bench import one_step, one_step_report
from noisetilt.bench.ledger import Ledger
from noisetilt.bench.one_step import KEY, SETTINGS, Run, Size, choose, picture_file, picture_of, settings_of

SMALL = Size(("style:3d",), ("bear face",), ("cat face", "tree"), 2, 2, 5, 10, 2)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    run = Run(tmp_path_factory.mktemp("bench"), methods=["none", "gper-rotation"], size=SMALL)
    run.measure()
    one_step_report.write(run.out, run)
    return run


def test_every_method_has_as_many_settings():
    assert {len(settings) for settings in SETTINGS.values()} == {6}
    assert settings_of("none", 2) == [{"rate": 0.02}, {"rate": 0.05}]


def test_a_row_tells_the_whole_way(finished):
    for row in finished.ledger.where(phase="test", method="none"):
        assert len(row["targets"]) == len(row["alignments"]) == len(row["seconds"]) == 11
        assert row["target"] == pytest.approx(max(row["targets"]), abs=1e-4) and row["nfe"] == 11
        assert row["targets"][0] == pytest.approx(drawn(finished, row)["target"], abs=1e-3)
        assert -1 <= row["cosine"] < 1 and 0 <= row["p_value"] <= 1


def drawn(run, row):
    (found,) = run.ledger.where(phase="test", method=one_step.INITIAL, prompt=row["prompt"], seed=row["seed"])
    assert found["nfe"] == 1 and found["cosine"] == pytest.approx(1)
    return found


def test_the_chosen_knobs_were_tried_on_the_tuning_prompts_and_are_what_is_tested(finished):
    for method in ("none", "gper-rotation"):
        rows = finished.ledger.where(phase="tune", method=method)
        assert {row["prompt"] for row in rows} == {"bear face"} and len({row["options"] for row in rows}) == 2
        chosen = choose(finished.ledger, "style:3d", method).options
        (used,) = {row["options"] for row in finished.ledger.where(phase="test", method=method)}
        assert json.loads(used) == chosen and used in {row["options"] for row in rows}


def test_knobs_and_stop_have_the_highest_target_among_what_keeps_to_the_prompt(tmp_path):
    def row(method, rate, targets, alignments):
        ways = {"targets": targets, "alignments": alignments, "alignment": alignments[-1]}
        what = {"reward": "style:3d", "phase": "tune", "prompt": "bear face", "seed": 0, "method": method}
        return {**what, "options": "{}" if rate is None else f'{{"rate": {rate}}}', **ways}

    tried = [
        row("gper", 0.1, [0.0, 1.0, 2.0, 3.0, 4.0, 5.0], [-1.0, -1.0, -1.0, -1.5, -2.0, -2.4]),
        row("gper", 0.2, [0.0, 3.0, 4.0, 6.0, 8.0, 9.0], [-1.0, -1.5, -2.4, -3.0, -3.0, -3.0]),
    ]
    ledger = Ledger(tmp_path, KEY, {})
    ledger.add([row(one_step.INITIAL, None, [0.0], [-1.0]), *tried])
    assert choose(ledger, "style:3d", "gper") == ({"rate": 0.1}, 5)
    strict = Ledger(tmp_path / "strict", KEY, {})
    strict.add([row(one_step.INITIAL, None, [0.0], [9.0]), *tried])
    assert choose(strict, "style:3d", "gper") == ({"rate": 0.1}, 2)


def test_snapshots_are_iterates_on_the_way(finished):
    for row in finished.ledger.where(phase="test", method="gper-rotation"):
        assert set(row["snapshots"]) == {"2", "5", "10"} and row["snapshots"]["10"]["cosine"] < 1
        if row["iteration"] == 10:
            assert np.array_equal(picture_of(finished.out, row), picture_of(finished.out, row, 10))


def test_what_was_measured_is_kept_and_what_was_lost_is_measured_again(finished):
    lines = finished.ledger.file.read_text().splitlines()
    finished.ledger.file.write_text("\n".join(lines[:-1]) + "\n" + lines[-1][:40])
    again = Run(finished.out, methods=["none", "gper-rotation"], size=SMALL)
    assert len(again.ledger) == len(lines) - 1
    again.measure()
    assert again.ledger.file.read_text().splitlines()[:-1] == lines[:-1] and len(again.ledger) == len(lines)
    with pytest.raises(ValueError, match="iterations"):
        Run(finished.out, size=Size(("style:3d",), ("bear face",), ("cat face", "tree"), 2, 2, 5, 9, 2))


def test_the_report_has_table_plots_and_pictures(finished):
    text = (finished.out / "report.md").read_text()
    assert "| gper-rotation |" in text and "rejected" in text and "Target reward, highest first" in text
    for name in ("stopped", "ways", "frontier", "trade", "pictures"):
        Image.open(finished.out / f"style-3d-{name}.png").verify()
        assert f"style-3d-{name}.png" in text
    assert "data:image/png;base64" in (finished.out / "report.html").read_text()
    row = finished.ledger.where(phase="test", method="none")[0]
    assert picture_file(finished.out, row).exists()


def test_a_run_that_was_stopped_has_a_report_of_the_methods_that_are_whole(finished, tmp_path):
    run = Run(tmp_path, methods=["none"], size=SMALL)
    one_step_report.write(tmp_path, run)
    assert "Settings" in (tmp_path / "report.md").read_text()
    shutil.copytree(finished.out / "pictures", tmp_path / "pictures")
    lines = finished.ledger.file.read_text().splitlines()
    (tmp_path / "rows.jsonl").write_text("\n".join(lines[:-1]) + "\n")
    one_step_report.write(tmp_path, Run(tmp_path, methods=["none"], size=SMALL))
    text = (tmp_path / "report.md").read_text()
    assert "| none |" in text and "| gper-rotation |" not in text


def test_the_first_iteration_that_reaches_a_level():
    assert one_step_report.first_at([0.0, 1.0, 3.0, 2.0], 1.5) == 2
    assert one_step_report.first_at([0.0, 1.0], 1.5) is None


def test_unknown_methods_are_refused(tmp_path):
    with pytest.raises(ValueError, match="'ntrk' is not in the suite one-step"):
        Run(tmp_path, methods=["ntrk"])


def test_the_race_counts_seconds_up_to_the_level_the_rival_ends_with():
    def row(targets, seconds):
        return {
            "targets": targets,
            "seconds": seconds,
            "target": max(targets),
            "alignment": 0.0,
            "heldout_2": 0.0,
            "seed": 0,
        }

    methods = {
        one_step.INITIAL: [{**row([0.0], [1.0]), "prompt": p} for p in "ab"],
        "mpgr": [{**row([0.0, 1.0, 2.0, 3.0], [1.0, 10.0, 20.0, 30.0]), "prompt": p} for p in "ab"],
        "gper": [{**row([0.0, 3.0, 4.0, 5.0], [1.0, 12.0, 24.0, 36.0]), "prompt": p} for p in "ab"],
    }
    race, lead = one_step_report.goals(methods)
    assert "3.00 after 1 of 3 iterations, in 40% of its seconds" in race and race.endswith("not reached.")
    assert "above all others: reached" in lead and "above mpgr" in lead
