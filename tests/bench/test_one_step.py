"""The suite one-step, on the smallest run that has every part."""

import numpy as np
import pytest
from PIL import Image

from noisetilt.bench import one_step, one_step_report
from noisetilt.bench.one_step import SETTINGS, Run, Size, chosen_knobs, picture_file, settings_of

SMALL = Size(("style:3d",), ("bear face",), ("cat face", "tree"), 2, 3, 2)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    run = Run(tmp_path_factory.mktemp("bench"), methods=["none", "gper-rotation"], size=SMALL)
    run.measure()
    one_step_report.write(run.out, run)
    return run


def test_every_method_has_as_many_settings():
    assert {len(settings) for settings in SETTINGS.values()} == {6}
    assert settings_of("none", 2) == [{"rate": 0.05}, {"rate": 0.1}]


def test_a_row_tells_the_whole_way(finished):
    for row in finished.ledger.where(phase="test", method="none"):
        assert len(row["targets"]) == len(row["heldouts"]) == len(row["seconds"]) == 4
        assert row["target"] == pytest.approx(max(row["targets"]), abs=1e-4) and row["nfe"] == 4
        assert row["targets"][0] == pytest.approx(drawn(finished, row)["target"], abs=1e-3)
        assert -1 <= row["cosine"] < 1 and 0 <= row["p_value"] <= 1


def drawn(run, row):
    (found,) = run.ledger.where(phase="test", method=one_step.DRAWN, prompt=row["prompt"], seed=row["seed"])
    assert found["nfe"] == 1 and found["cosine"] == pytest.approx(1)
    return found


def test_knobs_are_those_with_the_best_held_out_reward_on_the_tuning_prompts(finished):
    for method in ("none", "gper-rotation"):
        rows = finished.ledger.where(phase="tune", method=method)
        assert {row["prompt"] for row in rows} == {"bear face"}
        means = {k: np.mean([r["heldout"] for r in rows if r["knobs"] == k]) for k in {r["knobs"] for r in rows}}
        best = max(means, key=means.get)
        assert len(means) == 2 and {r["knobs"] for r in finished.ledger.where(phase="test", method=method)} == {best}
        assert str(chosen_knobs(finished.ledger, "style:3d", method)["rate"]) in best


def test_what_was_measured_is_kept_and_what_was_lost_is_measured_again(finished):
    lines = finished.ledger.file.read_text().splitlines()
    finished.ledger.file.write_text("\n".join(lines[:-1]) + "\n" + lines[-1][:40])
    again = Run(finished.out, methods=["none", "gper-rotation"], size=SMALL)
    assert len(again.ledger) == len(lines) - 1
    again.measure()
    assert again.ledger.file.read_text().splitlines()[:-1] == lines[:-1] and len(again.ledger) == len(lines)
    with pytest.raises(ValueError, match="iterations"):
        Run(finished.out, size=Size(("style:3d",), ("bear face",), ("cat face", "tree"), 2, 4, 2))


def test_the_report_has_table_plots_and_pictures(finished):
    text = (finished.out / "report.md").read_text()
    assert "| gper-rotation |" in text and "told from noise" in text and "Target reward, highest first" in text
    for name in ("ways", "trade", "pictures"):
        Image.open(finished.out / f"style-3d-{name}.png").verify()
        assert f"style-3d-{name}.png" in text
    assert "data:image/png;base64" in (finished.out / "report.html").read_text()
    row = finished.ledger.where(phase="test", method="none")[0]
    assert picture_file(finished.out, row).exists()


def test_a_run_that_was_stopped_has_a_report(tmp_path):
    run = Run(tmp_path, methods=["none"], size=SMALL)
    one_step_report.write(tmp_path, run)
    assert "Settings" in (tmp_path / "report.md").read_text()


def test_the_first_iteration_that_reaches_a_level():
    assert one_step_report.first_at([0.0, 1.0, 3.0, 2.0], 1.5) == 2
    assert one_step_report.first_at([0.0, 1.0], 1.5) is None


def test_unknown_methods_are_refused(tmp_path):
    with pytest.raises(ValueError, match="'ntrk' is not in the suite one-step"):
        Run(tmp_path, methods=["ntrk"])
