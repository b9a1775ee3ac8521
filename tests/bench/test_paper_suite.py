"""The paper suite: equal budgets, honest tuning, recorded noise, and one small run of it all."""

import re
from dataclasses import replace

import pytest
import torch

from noisetilt import METHODS, load, sample
from noisetilt.bench import paper_report
from noisetilt.bench.features import real_features
from noisetilt.bench.meter import PeakMemory, injected_p_values, record_noise
from noisetilt.bench.paper_plan import (
    METHODS_OF_SUITE,
    PROMPTS,
    QUICK,
    SEARCHES,
    SINGLE_TRAJECTORY,
    TARGETS,
    TUNING_PROMPTS,
    WAVES,
    Plan,
    count_calls,
    fit_to_budget,
    restrict,
)
from noisetilt.bench.paper_plots import load_image
from noisetilt.bench.paper_suite import Runner
from noisetilt.bench.paper_verdict import (
    Finding,
    compare_combinations,
    compare_with_base,
    compare_with_others,
    findings,
    summary,
)
from noisetilt.bench.run import bench
from noisetilt.models.exact import GaussianModel
from noisetilt.path import FlowPath
from noisetilt.rewards import Reward
from noisetilt.rewards.scorers.words64 import bags

MODEL = GaussianModel(torch.zeros(3, 16, 16), torch.ones(16, 16))
RED = Reward("red", lambda images, prompts: images[:, 0].mean((1, 2)))
PICTURE = torch.randn(3, 16, 16, generator=torch.Generator().manual_seed(4)).cumsum(-1)
NEAR = Reward("near", lambda images, prompts: -(images - PICTURE).square().mean((1, 2, 3)))


@pytest.mark.parametrize(("name", "budget"), [*((n, 25) for n in SINGLE_TRAJECTORY), *((n, 500) for n in SEARCHES)])
def test_methods_use_their_budget_and_no_more(name, budget):
    entry = METHODS_OF_SUITE[name]
    method, steps = fit_to_budget(entry.method, FlowPath(), budget, entry.steps)
    used, particles = count_calls(method, FlowPath(), steps), method.selection.particles
    assert 0.8 * budget <= used <= budget
    assert (particles == 1 and name != "rbf") == (name in SINGLE_TRAJECTORY)
    assert name in SINGLE_TRAJECTORY or steps == entry.steps


@pytest.mark.parametrize("name", ["freedom", "svdd", "psi", "best-of-n"])
def test_counted_calls_are_the_network_s_own_count(name):
    method, steps = fit_to_budget(METHODS_OF_SUITE[name].method, FlowPath(), 100)
    result = sample(MODEL, ["", ""], RED, method, steps, chunk=256, track=False)
    assert result.trace.nfe == count_calls(method, FlowPath(), steps) <= 100


def test_a_budget_below_one_particle_is_refused():
    with pytest.raises(ValueError, match="budget of 20"):
        fit_to_budget(METHODS["svdd"], FlowPath(), 20)


def test_every_strength_that_is_tried_can_be_made():
    for name, entry in METHODS_OF_SUITE.items():
        values = METHODS_OF_SUITE[entry.like or name].values
        assert len(values) == (5 if entry.option else 0), name
        assert len({entry.at(value) for value in values}) == len(values)
        # from the weakest: a temperature falls, all else rises
        assert list(values) == sorted(values, reverse=entry.option == "temperature")


def test_the_waves_hold_every_method_once():
    assert sorted(name for wave in WAVES for name in wave) == sorted(METHODS_OF_SUITE)


def test_the_tuning_looks_at_prompts_of_its_own_that_the_model_knows():
    assert not set(PROMPTS) & set(TUNING_PROMPTS)
    bags([f"{prompt} {word}" for target in TARGETS for word in target.words for prompt in PROMPTS + TUNING_PROMPTS])


def test_methods_and_targets_can_be_chosen_and_base_always_runs():
    assert restrict(Plan(), ["base", "dps"]).waves == (("dps",),)
    assert restrict(Plan(), targets=["redness"]).targets == TARGETS[2:3]
    with pytest.raises(ValueError, match="method 'magic'"):
        restrict(Plan(), ["magic"])
    with pytest.raises(ValueError, match="target 'magic'"):
        restrict(Plan(), targets=["magic"])


@pytest.mark.parametrize("given", [{"targets": ["redness"]}, {"measure": False}])
def test_what_only_the_paper_suite_can_do_is_refused_elsewhere(given, tmp_path):
    with pytest.raises(ValueError, match="for the suite paper and the suite is exact"):
        bench("exact", tmp_path, quick=True, **given)


@pytest.mark.parametrize(("name", "typical"), [("base", True), ("ntrk", True), ("dps", False)])
def test_the_watched_noise_is_told_from_gaussian_only_where_it_is_shifted(name, typical):
    strong = {"ntrk": {"rho": 0.3}, "dps": {"scale": 1e3}}.get(name, {})
    method, recorded = record_noise(METHODS[name].replace(**strong), (2, 4))
    plain = sample(MODEL, [""] * 6, NEAR, METHODS[name].replace(**strong), 6, track=False)
    result = sample(MODEL, [""] * 6, NEAR, method, 6, track=False)
    assert torch.equal(result.images, plain.images)  # watching changes nothing
    p = injected_p_values(recorded, 6, 1)
    assert len(recorded.noises) == 2 and p.shape == (6,)
    assert (p > 1e-3).all() if typical else (p < 1e-3).all()


def test_peak_memory_sees_what_was_allocated_meanwhile():
    with PeakMemory("cpu") as before:
        pass
    if before.megabytes is None:
        pytest.skip("resident memory is known on Linux alone")
    with PeakMemory("cpu") as peak:
        torch.ones(300_000_000, dtype=torch.uint8)
    assert peak.megabytes > before.megabytes + 250


def test_real_features_are_the_metrics_own():
    assert real_features().shape == (333, 192) and (real_features() >= 0).all()


SMALL = Plan(
    TARGETS[2:3],
    ("cat face", "red apple"),
    ("clock",),
    budgets=(4, 25),
    tuning_budgets=(3, 25),
    seeds=(2, 1),
    reference=2,
    values=(1, 3),
    waves=(("dps",), ("ntrk",)),
)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    runner = Runner(tmp_path_factory.mktemp("paper"), SMALL, load("emoji64"))
    runner.run()
    paper_report.write(runner.out, runner)
    return runner


def test_every_picture_of_the_plan_is_made_once(run):
    assert len(run.ledger) == run.count() == (1 + 2 + 4) + 2 * (2 + 4)
    assert [row["nfe"] for row in run.ledger.where(stage="tuning", method="dps")] == [3, 3]
    test = run.ledger.where(stage="test", method="dps")
    wanted = run.prompt_seeds("test", SMALL.targets[0], "dps")
    assert sorted((row["prompt"], row["seed"]) for row in test) == sorted(wanted)
    assert all(row["nfe"] == 4 and (run.out / "pictures" / row["picture"]).exists() for row in test)
    assert not {row["seed"] for row in run.ledger.where(stage="tuning")} & {row["seed"] for row in test}


def test_rewards_are_those_of_the_reward_itself(run):
    """What the methods follow is divided by its spread; what is written down is not."""
    from noisetilt import rewards

    for row in run.ledger.where(stage="test", method="dps"):
        picture = load_image(run.out / "pictures" / row["picture"])[None]
        assert rewards.load("redness")(picture, [""]).item() == pytest.approx(row["reward"], abs=2e-3)


def test_a_second_run_makes_nothing_anew(run):
    before = (run.out / "rows.jsonl").read_text()
    Runner(run.out, SMALL, run.model).run()
    assert (run.out / "rows.jsonl").read_text() == before


def test_rows_of_strengths_that_are_no_longer_tried_are_not_counted(run, tmp_path):
    (tmp_path / "rows.jsonl").write_text((run.out / "rows.jsonl").read_text())
    fewer = Runner(tmp_path, replace(SMALL, waves=(("dps",),)), run.model, measure=False)
    assert fewer.measured() == fewer.count() < len(fewer.ledger)


def test_a_wave_is_finished_before_the_next(run):
    order = list(dict.fromkeys(row["method"] for row in run.ledger.where()))
    assert order == ["base", "dps", "ntrk"]


def test_the_report_has_its_tables_plots_and_pictures(run):
    page, text = (run.out / "report.html").read_text(), (run.out / "report.md").read_text()
    assert len(re.findall('src="data:image/png;base64,', page)) == 3  # a plot, pictures, what was tuned
    assert "| dps | scale = " in text and "Highest target reward at 4 calls: " in text
    assert text.count("[3: ") + text.count("[30: ") == 1  # the chosen strength stands in brackets
    assert "19 of 19 images are measured" in text and "ntrk against base: held-out alignment" in text
    assert "NTRK at 4 calls above every other method at 25 calls: not measured yet." in text


def test_a_run_split_by_targets_is_merged_by_its_lines(run, tmp_path):
    (tmp_path / "rows.jsonl").write_text((run.out / "rows.jsonl").read_text())
    assert len(Runner(tmp_path, SMALL, run.model).ledger) == run.count()


def test_looking_on_leaves_alone_what_another_process_is_writing(run, tmp_path):
    cut = (run.out / "rows.jsonl").read_text()[:-30]
    (tmp_path / "rows.jsonl").write_text(cut)
    assert len(Runner(tmp_path, SMALL, run.model, measure=False).ledger) == run.count() - 1
    assert (tmp_path / "rows.jsonl").read_text() == cut


def made_up(stage, name, rewards_, value=None, target="redness", budget=25, alignment=0.0, roughness=1.0, heldout=0.0):
    """Rows of a cell with these target rewards, a seed each."""
    cell = {"stage": stage, "target": target, "budget": budget, "method": name, "value": value, "prompt": "x"}
    figures = {"heldout_alignment": alignment, "roughness": roughness, "heldout_1": heldout}
    generator = torch.Generator().manual_seed(0)
    seen = [torch.rand(192, generator=generator).tolist() for _ in rewards_]
    return [{**cell, **figures, "seed": s, "reward": r, "features": seen[s]} for s, r in enumerate(rewards_)]


def test_the_strength_is_the_highest_reward_of_those_that_keep_to_the_prompt(tmp_path):
    """On rows that are made up: 30 has more reward but has lost the prompt."""
    runner = Runner(tmp_path, Plan(values=(1, 2, 3)), load("emoji64"))
    runner.ledger.add(made_up("reference", "base", [0.0], alignment=-1.0))
    for value, reward, alignment in ((3.0, 1.0, 0.0), (10.0, 2.0, -2.4), (30.0, 9.0, -2.6)):
        runner.ledger.add(made_up("tuning", "dps", [reward], value, alignment=alignment, roughness=2.0))
    assert runner.chosen_strength(TARGETS[2], "dps") == runner.chosen_strength(TARGETS[2], "dps-best-of-n") == 10.0
    assert runner.chosen_strength(TARGETS[2], "best-of-n") is None


def test_for_alignment_itself_the_strength_keeps_the_roughness_and_failing_all_is_the_weakest(tmp_path):
    runner = Runner(tmp_path, Plan(values=(1, 2, 3)), load("emoji64"))
    runner.ledger.add(made_up("reference", "base", [0.0], target="alignment"))
    for name, roughness in (("dps", (0.9, 1.2, 1.8)), ("ntrk", (2.0, 3.0, 4.0))):
        for value, reward, rough in zip(METHODS_OF_SUITE[name].values[1:4], (1.0, 2.0, 9.0), roughness, strict=True):
            runner.ledger.add(made_up("tuning", name, [reward], value, "alignment", alignment=-9.0, roughness=rough))
    assert runner.chosen_strength(TARGETS[1], "dps") == 10.0
    weakest = METHODS_OF_SUITE["ntrk"].values[1]
    assert runner.chosen_strength(TARGETS[1], "ntrk") == weakest and not runner.admissible_strengths(TARGETS[1], "ntrk")


@pytest.mark.parametrize(
    ("mine", "theirs", "answer"),
    [
        ([8.0, 9.0], [1.0, 2.0], "yes"),
        ([2.0, 9.0], [1.0, 8.0], "paired"),
        ([1.0, 9.0], [2.0, 3.0], "chance"),
        ([1.0, 2.0], [8.0, 9.0], "no"),
    ],
)
def test_the_verdict_is_read_off_the_rows(tmp_path, mine, theirs, answer):
    plan = Plan(TARGETS[2:3], ("x",), seeds=(2, 2), waves=(("ntrk", "best-of-n", "ntrk-best-of-n", "ntrk-svdd"),))
    runner, target = Runner(tmp_path, plan, load("emoji64")), TARGETS[2]
    assert [finding.outcome for finding in findings(runner)["redness"]] == [None] * 3
    runner.ledger.add(made_up("test", "base", [0.0, 0.0]))
    rho = runner.chosen_strength(target, "ntrk")
    runner.ledger.add(made_up("test", "ntrk", mine, rho, heldout=mine[0] - 5))
    for name, value, got in (("best-of-n", None, theirs), ("ntrk-svdd", rho, mine), ("ntrk-best-of-n", rho, theirs)):
        runner.ledger.add(made_up("test", name, got, value, budget=500))
    assert compare_with_others(runner, target).outcome == answer
    assert compare_combinations(runner, target).outcome == answer.replace("paired", "yes")
    # the same features as base's: the Fréchet distance has not changed, the held-out reward decides
    assert compare_with_base(runner, target).outcome == ("yes" if mine[0] > 5 else "no")


@pytest.mark.parametrize(("leads", "said"), [(4, "reached"), (3, "not reached"), (2, "not decided yet")])
def test_the_goal_is_four_targets(tmp_path, leads, said):
    """Two leads of the three measured leave it open; three of five miss it."""
    runner = Runner(tmp_path, Plan(prompts=("x",), seeds=(2, 2), waves=(("ntrk", "best-of-n"),)), load("emoji64"))
    found = {str(i): [Finding("", "yes" if i < leads else "no")] * 3 for i in range(5)}
    if said == "not decided yet":
        found |= {"3": [Finding("", None)] * 3, "4": [Finding("", "yes", open=True)] * 3}
    assert said in summary(runner, found)[0]


def test_a_target_without_gradient_is_for_methods_that_need_none(tmp_path):
    runner = Runner(tmp_path, Plan(), load("emoji64"))
    jpeg, red = set(runner.methods(TARGETS[3])), set(runner.methods(TARGETS[2]))
    assert {"ntrk-black-box", "svdd"} <= jpeg and not jpeg & {"dps", "ntrk", "das", "psi", "ntrk-svdd"}
    assert {"ntrk", "svdd"} <= red and "ntrk-black-box" not in red
    assert set(QUICK.waves[0]) <= set(METHODS_OF_SUITE)
