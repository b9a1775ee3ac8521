"""The suite one-step, on the smallest run that has every part."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from noisetilt import load
from noisetilt.bench import one_step, one_step_report
from noisetilt.bench.document import load_image
from noisetilt.bench.one_step import (
    FULL,
    SETTINGS,
    Run,
    Size,
    choose,
    picture_file,
    restrict,
    settings_of,
)
from noisetilt.bench.paper_plan import TARGETS
from noisetilt.bench.paper_suite import prompt_seeds

TARGET = replace(TARGETS[0], prompts=("cat face", "house"), tuning_prompts=("key",))
SMALL = Size((TARGET,), (1,), images=2, tuning_images=2, iterations=5, tuning_iterations=2, settings=2)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """emoji128 itself in one step, whose images are blurred, in place of a few-step model."""
    model = load("emoji128")
    run = Run(tmp_path_factory.mktemp("bench"), methods=["none", "gper-rotation"], size=SMALL, model=model)
    run.measure()
    one_step_report.write(run.out, run)
    return run


def test_every_method_has_as_many_settings():
    assert {len(settings) for settings in SETTINGS.values()} == {6}
    assert settings_of("none", 2) == [{"rate": 0.02}, {"rate": 0.05}]


def test_few_settings_cover_the_same_rates_for_all_methods_of_adam():
    methods = [name for name in SETTINGS if name not in ("reno", "gper-rotation")]
    assert {tuple(options["rate"] for options in settings_of(name, 3)) for name in methods} == {(0.02, 0.05, 0.01)}
    assert len({options["rate"] for options in settings_of("reno", 3)}) == 3


@pytest.mark.long
def test_a_row_has_the_whole_ascent(finished):
    for row in finished.ledger.where(phase="test", method="none"):
        assert len(row["targets"]) == len(row["alignments"]) == len(row["seconds"]) == 6
        assert row["target"] == pytest.approx(max(row["targets"]), abs=1e-4)
        assert row["nfe"] == row["network_calls"] == 6
        assert row["targets"][0] == pytest.approx(drawn(finished, row)["target"], abs=1e-3)
        assert -1 <= row["cosine"] < 1 and 0 <= row["p_value"] <= 1


def drawn(run, row):
    (found,) = run.ledger.where(phase="test", method=one_step.INITIAL, prompt=row["prompt"], seed=row["seed"])
    assert found["nfe"] == 1 and found["cosine"] == pytest.approx(1)
    return found


@pytest.mark.long
def test_the_chosen_knobs_were_tried_on_the_tuning_prompts_and_are_what_is_tested(finished):
    for method in ("none", "gper-rotation"):
        rows = finished.ledger.where(phase="tune", method=method)
        assert {row["prompt"] for row in rows} == {"key noto", "key twemoji"} and len(
            {row["options"] for row in rows}
        ) == 2
        chosen = choose(finished, TARGET, 1, method).options
        (used,) = {row["options"] for row in finished.ledger.where(phase="test", method=method)}
        assert json.loads(used) == chosen and used in {row["options"] for row in rows}


def test_options_and_stop_have_the_highest_target_among_what_the_judge_names_right(tmp_path):
    """On made-up rows: base has all 20 images right, so 19 are enough."""
    size = replace(SMALL, tuning_images=20)

    def rows(method, rate, targets, right):
        cell = {"reward": "style:3d", "steps": 1, "phase": "tune", "method": method}
        cell |= {"options": "{}" if rate is None else f'{{"rate": {rate}}}', "targets": targets}
        return [
            {
                **cell,
                "prompt": prompt,
                "seed": seed,
                "probability": float(i < right[0]),
                "snapshots": {str(n): {"probability": float(i < right[n])} for n in (2, 5) if n < len(targets)},
            }
            for i, (prompt, seed) in enumerate(prompt_seeds(TARGET, False, 20))
        ]

    tried = [
        *rows("gper", 0.1, [0.0, 1.0, 2.0, 3.0, 4.0, 5.0], [20, 20, 20, 19, 19, 19]),
        *rows("gper", 0.2, [0.0, 3.0, 4.0, 6.0, 8.0, 9.0], [20, 20, 19, 18, 18, 18]),
    ]
    run = Run(tmp_path, size=size, model=object())
    run.ledger.add([*rows(one_step.INITIAL, None, [0.0], [20]), *tried])
    assert choose(run, TARGET, 1, "gper") == ({"rate": 0.1}, 5, True)
    strict = Run(tmp_path / "strict", size=size, model=object())
    assert choose(strict, TARGET, 1, "gper") is None
    strict.ledger.add([*rows(one_step.INITIAL, None, [0.0], [20]), *rows("gper", 0.2, [0.0, 3.0, 4.0], [20, 0, 0])])
    assert choose(strict, TARGET, 1, "gper") == ({"rate": 0.2}, 2, False)
    methods = {one_step.INITIAL: [], "gper": []}
    assert one_step_report.broken_rules(run, TARGET, 1, methods) == []
    assert one_step_report.broken_rules(strict, TARGET, 1, methods)[0].endswith("is used: gper.")


def made_up(run, phase, method, options, target, first=0):
    """Adds rows with these rewards for the prompts and seeds of a phase, from the first one on."""
    cell = {"reward": "style:3d", "steps": 1, "phase": phase, "method": method, "options": json.dumps(options)}
    figures = {"probability": 1.0, "targets": [0.0, 0.0, target], "snapshots": {"2": {"probability": 1.0}}}
    pairs = run.prompt_seeds(TARGET, phase)[first:]
    run.ledger.add({**cell, **figures, "prompt": prompt, "seed": seed} for prompt, seed in pairs)


def test_more_images_may_change_the_options_and_fewer_are_those_of_before(tmp_path):
    """With four images the rate 0.01 is chosen, with eight the rate 0.02; both tests are reported, each on its own."""
    few, many = (replace(SMALL, images=n, tuning_images=n) for n in (4, 8))
    run = Run(tmp_path, ["gper"], few, model=object())
    for phase in ("tune", "test"):
        made_up(run, phase, one_step.INITIAL, {}, 0.0)
    made_up(run, "tune", "gper", {"rate": 0.01}, 5.0)
    made_up(run, "tune", "gper", {"rate": 0.02}, 1.0)
    made_up(run, "test", "gper", {"rate": 0.01}, 3.0)
    more = Run(tmp_path, ["gper"], many, model=object())
    for phase in ("tune", "test"):
        made_up(more, phase, one_step.INITIAL, {}, 0.0, first=4)
    made_up(more, "tune", "gper", {"rate": 0.01}, 1.0, first=4)
    assert choose(more, TARGET, 1, "gper").options == {"rate": 0.01}  # the other is not complete
    assert set(one_step_report.tested(more, TARGET, 1)) == {one_step.INITIAL}
    made_up(more, "tune", "gper", {"rate": 0.02}, 9.0, first=4)
    made_up(more, "test", "gper", {"rate": 0.02}, 3.0)
    for size, rate in ((few, 0.01), (many, 0.02)):
        run = Run(tmp_path, ["gper"], size, model=object())
        found = one_step_report.tested(run, TARGET, 1)
        assert {name: len(rows) for name, rows in found.items()} == {one_step.INITIAL: size.images, "gper": size.images}
        assert {row["options"] for row in found["gper"]} == {json.dumps({"rate": rate})}


@pytest.mark.long
def test_snapshots_are_iterates_of_the_ascent(finished):
    for row in finished.ledger.where(phase="test", method="gper-rotation"):
        assert set(row["snapshots"]) == {"2", "5"} and row["snapshots"]["5"]["cosine"] < 1
        assert len(row["snapshots"]["5"]["features"]) == 192 and row["snapshots"]["5"]["named"] in (True, False)
        if row["iteration"] == 5:
            best, last = (load_image(picture_file(finished.out, row, number)) for number in (None, 5))
            assert np.array_equal(best, last)


@pytest.mark.long
def test_measured_rows_are_kept_and_lost_ones_are_measured_again(finished):
    lines = finished.ledger.file.read_text().splitlines()
    finished.ledger.file.write_text("\n".join(lines[:-1]) + "\n" + lines[-1][:40])
    again = Run(finished.out, methods=["none", "gper-rotation"], size=SMALL, model=finished.model)
    assert len(again.ledger) == len(lines) - 1
    again.measure()
    assert again.ledger.file.read_text().splitlines()[:-1] == lines[:-1] and len(again.ledger) == len(lines)
    with pytest.raises(ValueError, match="iterations"):
        Run(finished.out, size=replace(SMALL, iterations=9), model=finished.model)


@pytest.mark.long
def test_the_report_has_table_plots_and_images(finished):
    text = (finished.out / "report.md").read_text()
    assert "| gper-rotation |" in text and "named right" in text and "Target reward, highest first" in text
    for name in ("stopped", "ways", "frontier", "trade", "pictures"):
        (found,) = finished.out.glob(f"*-{name}.png")
        Image.open(found).verify()
        assert f"({found.name})" in text
    assert "data:image/png;base64" in (finished.out / "report.html").read_text()
    row = finished.ledger.where(phase="test", method="none")[0]
    assert picture_file(finished.out, row).exists()


@pytest.mark.long
def test_a_run_that_was_stopped_has_a_report_of_the_complete_methods(finished, tmp_path):
    shutil.copytree(finished.out / "pictures", tmp_path / "pictures")
    lines = finished.ledger.file.read_text().splitlines()
    (tmp_path / "rows.jsonl").write_text("\n".join(lines[:-1]) + "\n")
    run = Run(tmp_path, methods=["none"], size=SMALL, measure=False, model=finished.model)
    one_step_report.write(tmp_path, run)
    text = (tmp_path / "report.md").read_text()
    assert "| none |" in text and "| gper-rotation |" not in text


def test_probabilities_are_compared_at_equal_target_between_the_snapshots():
    """Of methods on one front, the one that climbs faster overshoots the common reward at each of its snapshots."""

    def rows(rewards):
        snapshots = {str(n): {"probability": 1 - 0.1 * rewards[n]} for n in (2, 5)}
        return [{"prompt": p, "seed": 0, "targets": rewards, "snapshots": snapshots} for p in "abcdefgh"]

    initial = [{"prompt": p, "seed": 0, "probability": 1.0} for p in "hgfedcba"]
    fast, slow = rows([0, 2, 4, 5, 6, 7]), rows([0, 1, 1.5, 1.8, 1.9, 2])
    (line,) = one_step_report._probability_goals("gper", fast, {"mpgr": slow}, initial)
    assert "target of 1.90" in line and line.endswith("n = 8 (goal: above 0): not reached.")
    assert abs(float(line.split(" is ")[1].split(" ")[0])) < 1e-9
    better = [{**row, "snapshots": {k: {"probability": 1.0} for k in row["snapshots"]}} for row in fast]
    (line,) = one_step_report._probability_goals("gper-both", better, {"mpgr": slow}, initial)
    assert "of gper-both's images minus that of mpgr's is 0.19 [0.19, 0.19]" in line and line.endswith(": reached.")


def shifted(target, held_out=0.0):
    """Rows of 32 concepts with these target and held-out rewards."""
    targets, others = np.broadcast_to(target, 32), np.broadcast_to(held_out, 32)
    return [
        {"prompt": f"p{i}", "seed": 0, "target": float(t), "alignment": float(o), "heldout_2": float(o)}
        | {"probability": 0.5}
        for i, (t, o) in enumerate(zip(targets, others, strict=True))
    ]


def test_the_highest_of_several_methods_is_tested_for_all_pairs():
    """A mean difference of 0.42 ± 0.18 is significant for one pair of methods, and not for the best of nine."""
    noise = np.random.default_rng(0).normal(size=32)
    best, drawn = shifted(0.42 + (noise - noise.mean()) / noise.std()), shifted(0.0)
    (_, line) = one_step_report.verdicts({one_step.INITIAL: drawn, "a": best, "b": drawn})
    assert "(significant), probability" in line
    many = dict.fromkeys("bcdefghi", drawn)
    lines = one_step_report.verdicts({one_step.INITIAL: drawn, "a": best, **many})
    assert len(lines) == 9
    assert all("(not significant, an interval of 99.861% for 36 pairs)" in line for line in lines[1:])


def test_a_method_is_above_all_others_only_if_it_is_so_for_each():
    spread = np.resize([9.0, -9.0], 32)
    rows, drawn = shifted(1.0), shifted(0.0)
    near, wide = shifted(0.9), shifted(0.5 + spread)
    assert "above all others: reached (0.1 [0.1, 0.1] above near" in one_step_report._reward_goal(
        "gper", rows, {"near": near}, drawn
    )
    text = one_step_report._reward_goal("gper", rows, {"near": near, "wide": wide}, drawn)
    assert "above all others: not reached (0.5 [" in text and "above wide, the lowest bound" in text


@pytest.mark.parametrize(
    "loss, spread, outcome",
    [(0.1, 0.0, "preserved"), (0.1, 9.0, "undecided"), (0.3, 0.0, "not preserved"), (-1.0, 0.0, "preserved")],
)
def test_held_out_rewards_are_preserved_within_a_margin(loss, spread, outcome):
    """The margin is 0.2 of the standard deviation 1 of the initial noise."""
    drawn = shifted(0.0, np.resize([1.0, -1.0], 32))
    changes = np.repeat(np.resize([spread, -spread], 16), 2) - loss
    rows = shifted(1.0, np.resize([1.0, -1.0], 32) + changes)
    assert "(margin 0.2): " + outcome in one_step_report._reward_goal("gper", rows, {"none": drawn}, drawn)


def test_the_first_iteration_that_reaches_a_level():
    assert one_step_report.first_at([0.0, 1.0, 3.0, 2.0], 1.5) == 2
    assert one_step_report.first_at([0.0, 1.0], 1.5) is None


def test_unknown_methods_are_refused(tmp_path):
    with pytest.raises(ValueError, match="'ntrk' is not in the suite one-step"):
        Run(tmp_path, methods=["ntrk"])


def test_targets_and_images_can_be_chosen():
    assert [target.reward for target in restrict(FULL, ["redness", "style:3d"]).targets] == ["redness", "style:3d"]
    assert restrict(FULL, images=8).images == restrict(FULL, images=8).tuning_images == 8
    assert restrict(FULL, images=90).tuning_images == FULL.tuning_images
    with pytest.raises(ValueError, match="target 'jpeg' is not in the suite one-step"):
        restrict(FULL, ["jpeg"])
    with pytest.raises(ValueError, match="images = 1"):
        restrict(FULL, images=1)


def test_the_race_counts_seconds_up_to_the_level_the_rival_ends_with():
    def row(targets, seconds):
        return {
            "targets": targets,
            "seconds": seconds,
            "target": max(targets),
            "alignment": 0.0,
            "heldout_2": 0.0,
            "named": True,
            "probability": 1.0,
            "alignments": targets,
            "nfe": 1.0,
            "snapshots": {"0": {"named": True, "probability": 1.0}},
            "seed": 0,
        }

    methods = {
        one_step.INITIAL: [{**row([0.0], [1.0]), "prompt": p} for p in "ab"],
        "mpgr": [{**row([0.0, 1.0, 2.0, 3.0], [1.0, 10.0, 20.0, 30.0]), "prompt": p} for p in "ab"],
        "gper": [{**row([0.0, 3.0, 4.0, 5.0], [1.0, 12.0, 24.0, 36.0]), "prompt": p} for p in "ab"],
    }
    race, lead = one_step_report.goals(methods)[:2]
    assert "3.00 after 1 of 3 iterations, in 40% of the seconds in which mpgr does" in race
    assert race.endswith("not reached.")
    # what mpgr does after its best reward does not count
    methods["mpgr"] = [{**row([0.0, 3.0, 2.0, 1.0], [1.0, 15.0, 20.0, 300.0]), "prompt": p} for p in "ab"]
    assert "in 80% of the seconds" in one_step_report.goals(methods)[0]
    assert "above all others: reached" in lead and "above mpgr" in lead
