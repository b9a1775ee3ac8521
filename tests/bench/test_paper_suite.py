"""The paper suite: equal budgets, the rule of fairness, recorded noise, and one small run of it all."""

import re
import shutil
from dataclasses import replace

import pytest
import torch

from noisetilt import METHODS, load, sample
from noisetilt.bench import paper_report
from noisetilt.bench.document import load_image
from noisetilt.bench.judge import real_features
from noisetilt.bench.meter import CallCounter, PeakMemory, injected_p_values, record_noise
from noisetilt.bench.paper_lines import lines_of, verdicts
from noisetilt.bench.paper_plan import (
    METHODS_OF_SUITE,
    QUICK,
    SEARCHES,
    SINGLE_TRAJECTORY,
    TARGETS,
    WAVES,
    Plan,
    count_calls,
    fit_to_budget,
    restrict,
)
from noisetilt.bench.paper_plots import plot_fronts
from noisetilt.bench.paper_suite import Runner, prompt_seeds
from noisetilt.bench.paper_verdict import (
    GOALS,
    Finding,
    compare_combinations,
    compare_ntrk,
    compare_single,
    compare_with_base,
    findings,
    summary,
)
from noisetilt.bench.run import bench
from noisetilt.bench.statistics import bootstrap
from noisetilt.models.exact import GaussianModel
from noisetilt.path import FlowPath
from noisetilt.rewards import Reward
from noisetilt.rewards.scorers.concepts import concept_row
from noisetilt.rewards.scorers.words import bags

MODEL = GaussianModel(torch.zeros(3, 16, 16), torch.ones(16, 16))
RED = Reward("red", lambda images, prompts: images[:, 0].mean((1, 2)))
RED_TARGET = next(target for target in TARGETS if target.reward == "redness")
JPEG_TARGET = next(target for target in TARGETS if target.reward == "jpeg")
PICTURE = torch.randn(3, 16, 16, generator=torch.Generator().manual_seed(4)).cumsum(-1)
NEAR = Reward("near", lambda images, prompts: -(images - PICTURE).square().mean((1, 2, 3)))


@pytest.mark.parametrize(
    ("name", "budget"),
    [*((n, SINGLE_TRAJECTORY[n].calls or 25) for n in SINGLE_TRAJECTORY), *((n, 500) for n in SEARCHES)],
)
def test_methods_use_their_budget_and_no_more(name, budget):
    entry = METHODS_OF_SUITE[name]
    method, steps = fit_to_budget(entry.method, FlowPath(), budget, entry.steps)
    used, particles = count_calls(method, FlowPath(), steps), method.selection.particles
    assert 0.8 * budget <= used <= budget
    assert (particles == 1 and name != "rbf") == (name in SINGLE_TRAJECTORY) == (not entry.is_search)
    assert name in SINGLE_TRAJECTORY or steps == entry.steps


@pytest.mark.parametrize("name", ["freedom", "svdd", "psi", "best-of-n"])
def test_counted_calls_are_the_network_s_own_count(name):
    method, steps = fit_to_budget(METHODS_OF_SUITE[name].method, FlowPath(), 100)
    result = sample(MODEL, ["", ""], RED, method, steps, chunk=256, track=False)
    assert result.trace.nfe == count_calls(method, FlowPath(), steps) <= 100


def test_a_budget_below_one_particle_is_refused():
    with pytest.raises(ValueError, match="budget of 20"):
        fit_to_budget(METHODS["svdd"], FlowPath(), 20)
    with pytest.raises(ValueError, match="a budget of 25 calls is too small for the 32 calls of one step"):
        fit_to_budget(METHODS["gper-ntrk"].replace(iterations=30), FlowPath(), 25)


def test_every_strength_that_is_tried_can_be_made():
    for name, entry in METHODS_OF_SUITE.items():
        values = METHODS_OF_SUITE[entry.like or name].values
        assert len(values) == (5 if entry.option else 0), name
        assert len({entry.at(value) for value in values}) == len(values)
        # from the weakest: a temperature falls, all else rises
        assert list(values) == sorted(values, reverse=entry.option == "temperature")


def test_the_waves_hold_every_method_once():
    assert sorted(name for wave in WAVES for name in wave) == sorted(METHODS_OF_SUITE)


def test_tuning_prompts_are_others_and_all_are_known_to_model_judge_and_alignment():
    for target in TARGETS:
        assert not set(target.prompts) & set(target.tuning_prompts)
        names = [*target.prompts, *target.tuning_prompts, *([target.concept] if target.concept else [])]
        assert len({concept_row(name) for name in names}) == len(names)
        bags([f"{prompt} {word}" for word in target.words for prompt in names])


def test_the_concept_that_a_target_asks_for_counts_as_right():
    assert TARGETS[0].concepts("top hat noto") == ["top hat"]
    assert TARGETS[2].concepts("cow face 3d") == ["cow face", "tiger face"]


def test_methods_targets_and_images_can_be_chosen_and_base_always_runs():
    assert restrict(Plan(), ["base", "dps"]).waves == (("dps",),)
    assert restrict(Plan(), ["mpgd", "ntrk", "mpgd"]).waves == (("mpgd", "ntrk"),)  # and counts each image once
    assert restrict(Plan(), targets=["redness"]).targets == (RED_TARGET,)
    assert restrict(QUICK, targets=["style:3d"]).targets == QUICK.targets
    assert restrict(Plan(), images=8).images == restrict(Plan(), images=8).tuning_images == 8
    assert restrict(Plan(), images=90).tuning_images == Plan().tuning_images
    with pytest.raises(ValueError, match="method 'magic'"):
        restrict(Plan(), ["magic"])
    with pytest.raises(ValueError, match="target 'magic'"):
        restrict(Plan(), targets=["magic"])
    with pytest.raises(ValueError, match="images = 1"):
        restrict(Plan(), images=1)


@pytest.mark.parametrize("given", [{"targets": ["redness"]}, {"measure": False}, {"images": 4}, {"images": 0}])
def test_what_the_exact_suite_cannot_do_is_refused(given, tmp_path):
    with pytest.raises(ValueError, match="for the suites paper and one-step and the suite is exact"):
        bench("exact", tmp_path, quick=True, **given)


@pytest.mark.parametrize("suite", ["paper", "one-step"])
def test_a_report_of_a_folder_without_rows_is_refused(suite, tmp_path):
    with pytest.raises(ValueError, match="typo has no measured rows to report"):
        bench(suite, tmp_path / "typo", measure=False)
    assert not (tmp_path / "typo").exists()


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


def test_network_calls_are_counted_by_the_network():
    """Rows of forward passes, without those that a checkpoint repeats in the backward pass."""
    network = torch.nn.Linear(2, 2)
    with CallCounter(network) as counter:
        network(torch.ones(3, 2))
        x = torch.ones(4, 2, requires_grad=True)
        torch.utils.checkpoint.checkpoint(network, x, use_reentrant=False).sum().backward()
        network(input=torch.ones(5, 2))
    network(torch.ones(7, 2))
    assert counter.rows == 12


def test_real_features_are_the_judge_s_own():
    assert real_features().shape == (3000, 192) and real_features().isfinite().all()


SMALL = Plan(
    (replace(RED_TARGET, words=("noto", "flat"), prompts=("cat face", "top hat"), tuning_prompts=("key",)),),
    budgets=(3, 4),
    tuning_budgets=(2, 4),
    images=2,
    tuning_images=2,
    values=(1, 3),
    waves=(("dps",), ("ntrk",)),
)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    runner = Runner(tmp_path_factory.mktemp("paper"), SMALL, load("emoji128"))
    runner.run()
    paper_report.write(runner.out, runner)
    return runner


def test_every_image_of_the_plan_is_made_once(run):
    assert run.measured() == run.count() == 2 * 2 + 2 * (2 * 2 + 2)
    assert len(run.ledger) in (run.count(), run.count() + 2, run.count() + 4)  # and without the rule
    assert [row["network_calls"] for row in run.ledger.where(stage="tuning", method="dps")] == [2] * 4
    test = run.ledger.where(stage="test", method="dps", value=run.chosen_strength(SMALL.targets[0], "dps"))
    wanted = [("cat face noto", 0), ("top hat flat", 0)]
    assert sorted((row["prompt"], row["seed"]) for row in test) == sorted(wanted)
    assert run.prompt_seeds("test", SMALL.targets[0]) == wanted
    assert all(row["nfe"] == row["network_calls"] == 3 for row in test)
    assert {row.get("reward_std") for row in test} == {run.reward_std(SMALL.targets[0])}
    assert all((run.out / "pictures" / row["picture"]).exists() for row in test)
    assert not {row["seed"] for row in run.ledger.where(stage="tuning")} & {row["seed"] for row in test}


def test_a_wrong_count_of_network_calls_is_refused(run):
    row = run.ledger.where(stage="test", method="dps")[0]
    with pytest.raises(ValueError, match="reported 3 network calls per image and the network was called 6 times"):
        paper_report.check_calls([row, {**row, "network_calls": 6}])


def test_rewards_are_those_of_the_reward_itself(run):
    """The methods follow the reward divided by its deviation; the row has the reward."""
    from noisetilt import rewards

    for row in run.ledger.where(stage="test", method="dps"):
        picture = load_image(run.out / "pictures" / row["picture"])[None]
        assert rewards.load("redness")(picture, [""]).item() == pytest.approx(row["reward"], abs=2e-3)


def test_a_second_run_makes_nothing_anew(run):
    before = (run.out / "rows.jsonl").read_text()
    Runner(run.out, SMALL, run.model).run()
    assert (run.out / "rows.jsonl").read_text() == before


def test_rows_that_the_plan_does_not_have_are_not_counted(run, tmp_path):
    (tmp_path / "rows.jsonl").write_text((run.out / "rows.jsonl").read_text())
    fewer = Runner(tmp_path, replace(SMALL, waves=(("dps",),)), run.model, measure=False)
    assert fewer.measured() == fewer.count() < len(fewer.ledger)
    more = Runner(tmp_path, replace(SMALL, images=3), run.model, measure=False)
    assert more.measured() < more.count()


def test_a_wave_is_finished_before_the_next(run):
    order = list(dict.fromkeys(row["method"] for row in run.ledger.where()))
    assert order == ["base", "dps", "ntrk"]


def test_the_report_has_its_tables_plots_and_images(run):
    page, text = (run.out / "report.html").read_text(), (run.out / "report.md").read_text()
    assert (
        len(re.findall('src="data:image/png;base64,', page)) == 6
    )  # the overview; fronts; a plot and images by the rule and without
    assert "| dps | scale = " in text and "Highest target reward: " in text
    assert text.count("| chosen") == 2  # the strengths of two methods
    assert "## Not measured" not in text and "ntrk against base: held-out alignment" in text
    assert "above every other method at 3 and at 4 calls: reached for" in text


def test_the_report_begins_with_results_and_ends_with_definitions(run):
    text = (run.out / "report.md").read_text()
    headings = re.findall("^## (.*)$", text, re.M)
    assert headings == ["Results", "redness", "Goals of noise tilting", "Definitions"]
    before, results = text.split("## Results")
    assert len(before.split()) < 150 and results.lstrip().startswith("| method | calls | redness |")
    base = run.ledger.where(stage="test", method="base")
    assert f"| base | 3 | {sum(row['reward'] for row in base) / 2:.3g} [" in results


def test_what_is_not_measured_is_said_once(run, tmp_path):
    (tmp_path / "rows.jsonl").write_text((run.out / "rows.jsonl").read_text())
    plan = replace(SMALL, waves=(("dps", "mpgd"), ("ntrk", "best-of-n")), targets=(*SMALL.targets, JPEG_TARGET))
    paper_report.write(tmp_path, Runner(tmp_path, plan, run.model, measure=False))
    text = (tmp_path / "report.md").read_text()
    missing = text.split("## Not measured")[1].split("##")[0]
    assert "Targets: jpeg." in missing and "Methods, for 2 images: mpgd, best-of-n." in missing
    assert text.count("mpgd") == 1 and "## jpeg" not in text
    assert text.count("whose files are not in the folder pictures") == 1


def test_a_part_of_the_rows_has_a_report(run, tmp_path):
    lines = (run.out / "rows.jsonl").read_text().splitlines(keepends=True)
    shutil.copytree(run.out / "pictures", tmp_path / "pictures")
    (tmp_path / "rows.jsonl").write_text("".join(line for line in lines if '"method": "ntrk"' not in line))
    paper_report.write(tmp_path, Runner(tmp_path, SMALL, run.model, measure=False))
    text = (tmp_path / "report.md").read_text()
    assert "| dps | scale = " in text and "| ntrk |" not in text and "Methods, for 2 images: ntrk." in text


def test_a_run_split_by_targets_is_merged_by_its_lines(run, tmp_path):
    (tmp_path / "rows.jsonl").write_text((run.out / "rows.jsonl").read_text())
    assert len(Runner(tmp_path, SMALL, run.model).ledger) == len(run.ledger)


def test_looking_on_leaves_alone_what_another_process_is_writing(run, tmp_path):
    cut = (run.out / "rows.jsonl").read_text()[:-30]
    (tmp_path / "rows.jsonl").write_text(cut)
    assert len(Runner(tmp_path, SMALL, run.model, measure=False).ledger) == len(run.ledger) - 1
    assert (tmp_path / "rows.jsonl").read_text() == cut


OTHER_FIGURES = dict.fromkeys(
    ("heldout_alignment", "roughness", "p_value", "network_calls", "seconds", "processor_seconds", "megabytes"), 1.0
)


def made_up(stage, name, rewards_, value=None, target="redness", budget=25, named=True, heldout=0.0):
    """Rows of a cell with these target rewards, in the order of the plan's prompts and seeds."""
    cell = {"stage": stage, "target": target, "budget": budget, "method": name, "value": value}
    found = next(t for t in TARGETS if t.reward == target)
    pairs = prompt_seeds(found, stage == "test", len(rewards_))
    generator = torch.Generator().manual_seed(0)
    names = named if isinstance(named, list) else [named] * len(rewards_)
    return [
        {
            **cell,
            **{"prompt": prompt, "seed": seed, "reward": reward, "heldout": heldout},
            **{"named": right, "probability": float(right), **OTHER_FIGURES},
            "features": torch.rand(192, generator=generator).tolist(),
        }
        for (prompt, seed), reward, right in zip(pairs, rewards_, names, strict=True)
    ]


def of_plan(tmp_path, **changes):
    """A runner that only reads."""
    return Runner(tmp_path, replace(Plan(images=2, tuning_images=20), **changes), object(), measure=False)


def test_the_strength_is_the_highest_reward_of_those_that_the_judge_names_right(tmp_path):
    """On made-up rows: of 20 images base has 19 right, so 18 are enough and 17 are not."""
    runner, target = of_plan(tmp_path), RED_TARGET
    right = {n: [True] * n + [False] * (20 - n) for n in (17, 18, 19)}
    runner.ledger.add(made_up("tuning", "base", [0.0] * 20, named=right[19]))
    for value, reward, n in ((3.0, 1.0, 19), (10.0, 2.0, 18), (30.0, 9.0, 17)):
        runner.ledger.add(made_up("tuning", "dps", [reward] * 20, value, named=right[n]))
    runner.ledger.add(made_up("tuning", "dps", [99.0] * 19, 100.0))  # not complete
    assert runner.chosen_strength(target, "dps") == runner.chosen_strength(target, "dps-best-of-n") == 10.0
    assert runner.chosen_strength(target, "dps", constrained=False) == 30.0
    assert runner.chosen_strength(target, "best-of-n") is None


def test_stronger_ones_are_tried_while_the_rule_chooses_the_strongest(tmp_path):
    runner, target = of_plan(tmp_path), RED_TARGET
    runner.ledger.add(made_up("tuning", "base", [0.0] * 20))
    assert runner.further(target, "ntrk") is None
    for number, value in enumerate(METHODS_OF_SUITE["ntrk"].values):  # 0.01, 0.02, 0.03, 0.05, 0.1
        runner.ledger.add(made_up("tuning", "ntrk", [float(number)] * 20, value))
    for number, value in ((5, 0.2), (6, 0.4)):
        assert runner.further(target, "ntrk") == value
        runner.ledger.add(made_up("tuning", "ntrk", [float(number)] * 20, value))
    assert runner.further(target, "ntrk") is None
    assert runner.chosen_strength(target, "ntrk") == 0.4
    assert runner.values(target, "ntrk")[-3:] == [0.1, 0.2, 0.4]


def test_a_further_strength_that_is_partly_measured_is_not_chosen(tmp_path):
    """As after Ctrl-C in the middle of it, if no strength satisfies the rule."""
    runner, target = of_plan(tmp_path), RED_TARGET
    runner.ledger.add(made_up("tuning", "base", [0.0] * 20))
    for value in METHODS_OF_SUITE["ntrk"].values:
        runner.ledger.add(made_up("tuning", "ntrk", [1.0] * 20, value, named=False))
    runner.ledger.add(made_up("tuning", "ntrk", [1.0] * 3, 0.005, named=False))
    assert runner.values(target, "ntrk")[0] == 0.005 and runner.chosen_strength(target, "ntrk") == 0.01
    assert plot_fronts(runner, target, {"ntrk": runner.tuning_rows(target, "ntrk")})


def test_rewards_are_scaled_alike_whatever_the_number_of_images_is(tmp_path):
    """Base's images that are measured later, for more --images, change nothing."""
    few, many = (of_plan(tmp_path / str(n), tuning_images=n) for n in (4, 20))
    base = made_up("tuning", "base", [0.1 * n**2 for n in range(20)])
    guided = made_up("tuning", "ntrk", [1.0] * 4, 0.01)
    few.ledger.add(base[:4])
    std = few.reward_std(RED_TARGET)
    many.ledger.add([*base[:4], *({**row, "reward_std": std} for row in guided), *base[4:]])
    assert many.reward_std(RED_TARGET) == std
    earlier = of_plan(tmp_path / "earlier", tuning_images=20)  # rows without it
    earlier.ledger.add([*base[:4], *guided, *base[4:]])
    assert earlier.reward_std(RED_TARGET) == std
    many.ledger.add({**row, "reward_std": 2 * std} for row in made_up("tuning", "ntrk", [1.0] * 4, 0.02))
    with pytest.raises(ValueError, match=r"rows of redness that were measured with rewards divided by 0\.\d+ and by"):
        many.reward_std(RED_TARGET)


def test_no_stronger_one_is_tried_if_the_strongest_breaks_the_rule(tmp_path):
    runner, target = of_plan(tmp_path), RED_TARGET
    runner.ledger.add(made_up("tuning", "base", [0.0] * 20))
    for number, value in enumerate(METHODS_OF_SUITE["dps"].values):
        runner.ledger.add(made_up("tuning", "dps", [float(number)] * 20, value, named=value < 30))
    assert runner.further(target, "dps") is None and runner.chosen_strength(target, "dps") == 10.0


def test_weaker_ones_are_tried_while_none_satisfies_the_rule(tmp_path):
    runner, target = of_plan(tmp_path), RED_TARGET
    runner.ledger.add(made_up("tuning", "base", [0.0] * 20))
    for value in METHODS_OF_SUITE["ntrk"].values:
        assert runner.further(target, "ntrk") is None
        runner.ledger.add(made_up("tuning", "ntrk", [1.0] * 20, value, named=[False] * 20))
    assert runner.further(target, "ntrk") == 0.005
    runner.ledger.add(made_up("tuning", "ntrk", [1.0] * 20, 0.005, named=[False] * 20))
    assert runner.further(target, "ntrk") == 0.0025 and runner.chosen_strength(target, "ntrk") == 0.005
    runner.ledger.add(made_up("tuning", "ntrk", [0.5] * 20, 0.0025))
    assert runner.further(target, "ntrk") is None and runner.chosen_strength(target, "ntrk") == 0.0025
    assert runner.values(target, "ntrk")[:3] == [0.0025, 0.005, 0.01]


@pytest.mark.parametrize(
    ("name", "values", "following"),
    [("ntrk", (0.4, 0.8), 1.0), ("ntrk", (0.8, 1.0), None), ("tfg", (3.0, 10.0), 33.0), ("svdd", (0.1, 0.0), None)],
)
def test_the_strength_after_the_strongest(name, values, following):
    assert METHODS_OF_SUITE[name].stronger(values) == following


def test_if_every_strength_breaks_the_rule_the_weakest_is_used(tmp_path):
    runner = of_plan(tmp_path)
    runner.ledger.add(made_up("tuning", "base", [0.0] * 20))
    for value in METHODS_OF_SUITE["ntrk"].values:
        runner.ledger.add(made_up("tuning", "ntrk", [1.0] * 20, value, named=False))
    assert runner.chosen_strength(RED_TARGET, "ntrk") == METHODS_OF_SUITE["ntrk"].values[0]
    assert not runner.admissible_strengths(RED_TARGET, "ntrk")


@pytest.mark.parametrize(
    ("mine", "theirs", "answer"),
    [
        ([8.0, 9.0], [1.0, 2.0], "yes"),
        ([1.0, 9.0], [2.0, 3.0], "chance"),
        ([1.0, 2.0], [8.0, 9.0], "no"),
    ],
)
def test_the_verdict_is_read_off_the_rows(tmp_path, mine, theirs, answer):
    waves = (("ntrk", "best-of-n", "ntrk-best-of-n", "ntrk-svdd"),)
    runner, target = of_plan(tmp_path, targets=(RED_TARGET,), waves=waves), RED_TARGET
    assert [finding.outcome for finding in findings(runner)["redness"]] == [None] * len(GOALS)
    runner.ledger.add(made_up("test", "base", [0.0, 0.0]))
    rho = runner.chosen_strength(target, "ntrk")
    runner.ledger.add(made_up("test", "ntrk", mine, rho, heldout=mine[0] - 5))
    for name, value, got in (("best-of-n", None, theirs), ("ntrk-svdd", rho, mine), ("ntrk-best-of-n", rho, theirs)):
        runner.ledger.add(made_up("test", name, got, value, budget=500))
    assert compare_ntrk(runner, target).outcome == answer
    assert compare_combinations(runner, target).outcome == answer
    # the same names as base's: the held-out reward decides
    assert compare_with_base(runner, target).outcome == ("yes" if mine[0] > 5 else "no")


@pytest.mark.parametrize(
    ("right", "outcome", "said"), [(100, "yes", "no worse"), (95, "chance", "undecided"), (80, "no", "worse")]
)
def test_ntrk_is_no_worse_than_base_only_if_the_interval_says_so(tmp_path, right, outcome, said):
    """100 images, of which base has all right: a small loss that is not significant does not show that none is lost."""
    runner = of_plan(tmp_path, targets=(RED_TARGET,), images=100)
    rho = runner.chosen_strength(RED_TARGET, "ntrk")
    runner.ledger.add(made_up("test", "base", [0.0] * 100))
    named = [i % 20 >= (100 - right) // 5 for i in range(100)]
    runner.ledger.add(made_up("test", "ntrk", [1.0] * 100, rho, named=named))
    found = compare_with_base(runner, RED_TARGET)
    assert (found.outcome, str(found)) == (outcome, said) and "(margin 0.05)" in found.text


def test_above_every_other_method_is_open_while_a_method_of_the_suite_is_not_measured(tmp_path):
    """Also if --methods left it out."""
    runner, target = of_plan(tmp_path, targets=(RED_TARGET,), waves=(("ntrk", "dps"),)), RED_TARGET
    for name in ("ntrk", "dps"):
        rewards_ = [9.0, 8.0] if name == "ntrk" else [1.0, 2.0]
        runner.ledger.add(made_up("test", name, rewards_, runner.chosen_strength(target, name)))
    found = compare_ntrk(runner, target)
    assert str(found) == "reached so far" and re.search(r"; \d+ methods more not measured$", found.text)
    assert "reached for 0 of 1 measured targets (1 incomplete)" in summary(runner, findings(runner))[0]
    others = [n for n in METHODS_OF_SUITE if n in runner.methods(target, WAVES[0] + WAVES[2])]
    for name in others:
        value, budget = runner.chosen_strength(target, name), runner.budget(name)
        if not name.startswith("ntrk") and name != "dps":
            runner.ledger.add(made_up("test", name, [1.0, 2.0], value, budget=budget))
    assert str(compare_ntrk(runner, target)) == "reached"
    dps_only = of_plan(tmp_path, targets=(RED_TARGET,), waves=(("dps",),))
    assert compare_ntrk(dps_only, target).text.startswith("ntrk (25 calls) minus ")


def test_the_best_of_several_variants_is_tested_for_all_comparisons(tmp_path):
    """Its difference is significant for one comparison and not for ten."""
    runner, target = of_plan(tmp_path, targets=(RED_TARGET,), images=32), RED_TARGET
    gains = [0.1 + 0.05 * (-1) ** n * n for n in range(32)]
    single = bootstrap(gains)
    assert single.low < 0.1
    shift = 0.02 - single.low
    for name, rewards_ in (("ntrk", [0.0] * 32), ("ntrk-path", [gain + shift for gain in gains])):
        runner.ledger.add(made_up("test", name, rewards_, runner.chosen_strength(target, name)))
    found = compare_single(runner, target)
    assert found.outcome == "chance" and found.open
    assert re.search(r"ntrk-path, the best of 1, minus ntrk: .* an interval of 99\.\d+% for 8 comparisons", found.text)


def test_without_the_rule_a_best_strength_at_the_end_of_those_tried_is_told(tmp_path):
    runner, target = of_plan(tmp_path, targets=(RED_TARGET,)), RED_TARGET
    for stage, count in (("tuning", 20), ("test", 2)):
        runner.ledger.add(made_up(stage, "base", [0.0] * count))
    for number, value in enumerate(METHODS_OF_SUITE["dps"].values):
        runner.ledger.add(made_up("tuning", "dps", [float(number)] * 20, value, named=value < 30))
    for value in (10.0, 30.0):
        runner.ledger.add(made_up("test", "dps", [1.0, 1.0], value))
    said = "The strength is the weakest or strongest tried, so another value may be better: dps (scale = 30)."
    for constrained in (True, False):
        lines = lines_of(runner, target, False, constrained)
        assert (said in verdicts(target, lines)) == (not constrained)


@pytest.mark.parametrize(("leads", "said"), [(4, "reached"), (3, "not reached"), (2, "not decided yet")])
def test_the_goal_is_four_targets(tmp_path, leads, said):
    """Two of three measured targets leave it open; three of five do not reach it."""
    found = {str(i): [Finding("", "yes" if i < leads else "no")] * len(GOALS) for i in range(5)}
    if said == "not decided yet":
        found |= {"3": [Finding("", None)] * len(GOALS), "4": [Finding("", "yes", open=True)] * len(GOALS)}
    assert said in summary(of_plan(tmp_path), found)[0]


def test_a_target_without_gradient_is_for_methods_that_need_none(tmp_path):
    runner = of_plan(tmp_path)
    jpeg, red = set(runner.methods(JPEG_TARGET)), set(runner.methods(RED_TARGET))
    assert {"ntrk-black-box", "svdd"} <= jpeg and not jpeg & {"dps", "ntrk", "das", "psi", "ntrk-svdd"}
    assert {"ntrk", "svdd"} <= red and "ntrk-black-box" not in red
    assert set(QUICK.waves[0]) <= set(METHODS_OF_SUITE)
