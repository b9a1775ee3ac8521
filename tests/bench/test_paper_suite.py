"""The paper suite: equal budgets, honest tuning, watched noise, and one small run of it all."""

import re

import pytest
import torch

from noisetilt import METHODS, load, sample
from noisetilt.bench import paper_report
from noisetilt.bench.features import real_features
from noisetilt.bench.meter import PeakMemory, injected_p_values, watch
from noisetilt.bench.paper_suite import MOVES, QUICK, SEARCHES, TARGETS, Plan, Runner, calls, matched, with_methods
from noisetilt.models.exact import GaussianModel
from noisetilt.path import FlowPath
from noisetilt.rewards import Reward

MODEL = GaussianModel(torch.zeros(3, 16, 16), torch.ones(16, 16))
RED = Reward("red", lambda images, prompts: images[:, 0].mean((1, 2)))
PICTURE = torch.randn(3, 16, 16, generator=torch.Generator().manual_seed(4)).cumsum(-1)
NEAR = Reward("near", lambda images, prompts: -(images - PICTURE).square().mean((1, 2, 3)))


@pytest.mark.parametrize(("name", "budget"), [*((n, 25) for n in MOVES), *((n, 500) for n in SEARCHES)])
def test_methods_use_their_budget_and_no_more(name, budget):
    entry = {**MOVES, **SEARCHES}[name]
    method, steps = matched(entry.method, FlowPath(), budget)
    used, particles = calls(method, FlowPath(), steps), method.selection.particles
    assert 0.8 * budget <= used <= budget
    assert (particles == 1 and name != "rbf") == (name in MOVES)
    assert name in MOVES or steps == 25


@pytest.mark.parametrize("name", ["freedom", "svdd", "psi", "best-of-n"])
def test_counted_calls_are_the_network_s_own_count(name):
    method, steps = matched({**MOVES, **SEARCHES}[name].method, FlowPath(), 100)
    result = sample(MODEL, ["", ""], RED, method, steps, chunk=256, track=False)
    assert result.trace.nfe == calls(method, FlowPath(), steps) <= 100


def test_a_budget_below_one_particle_is_refused():
    with pytest.raises(ValueError, match="budget of 20"):
        matched(METHODS["svdd"], FlowPath(), 20)


def test_every_strength_that_is_tried_can_be_made():
    for name, entry in {**MOVES, **SEARCHES}.items():
        assert len(entry.values) == (5 if entry.knob else 0), name
        assert len({entry.at(value) for value in entry.values}) == len(entry.values)


def test_methods_can_be_chosen_and_base_always_runs():
    assert with_methods(Plan(), ["base", "dps"]).methods == ("dps",)
    with pytest.raises(ValueError, match="magic"):
        with_methods(Plan(), ["magic"])


@pytest.mark.parametrize(("name", "typical"), [("base", True), ("ntrk", True), ("dps", False)])
def test_the_watched_noise_is_told_from_gaussian_only_where_it_is_shifted(name, typical):
    strong = {"ntrk": {"rho": 0.3}, "dps": {"scale": 1e3}}.get(name, {})
    method, watched = watch(METHODS[name].replace(**strong), (2, 4))
    plain = sample(MODEL, [""] * 6, NEAR, METHODS[name].replace(**strong), 6, track=False)
    result = sample(MODEL, [""] * 6, NEAR, method, 6, track=False)
    assert torch.equal(result.images, plain.images)  # watching changes nothing
    p = injected_p_values(watched, 6, 1)
    assert len(watched.seen) == 2 and p.shape == (6,)
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
    TARGETS[2:3], ("cat face", "red apple"), ("clock",), budgets=(4, 25), seeds=(2, 1), values=(1, 3), methods=("dps",)
)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    runner = Runner(tmp_path_factory.mktemp("paper"), SMALL, load("emoji64"))
    runner.run()
    paper_report.write(runner.out, runner)
    return runner


def test_every_picture_of_the_plan_is_made_once(run):
    assert len(run.ledger) == run.count() == (1 + 4) + (2 + 4)
    assert len(run.ledger.where(stage="tuning", method="dps")) == 2
    test = run.ledger.where(stage="test", method="dps")
    assert sorted((row["prompt"], row["seed"]) for row in test) == sorted(run._wanted("test", SMALL.targets[0], 4))
    assert all(row["nfe"] == 4 and (run.out / "pictures" / row["picture"]).exists() for row in test)
    assert not {row["seed"] for row in run.ledger.where(stage="tuning")} & {row["seed"] for row in test}


def test_rewards_are_those_of_the_reward_itself(run):
    """What the methods follow is divided by its spread; what is written down is not."""
    from noisetilt import rewards

    for row in run.ledger.where(stage="test", method="dps"):
        picture = paper_report._load(run.out / "pictures" / row["picture"])[None]
        assert rewards.load("redness")(picture, [""]).item() == pytest.approx(row["reward"], abs=2e-3)


def test_a_second_run_makes_nothing_anew(run):
    before = (run.out / "rows.jsonl").read_text()
    Runner(run.out, SMALL, run.model).run()
    assert (run.out / "rows.jsonl").read_text() == before


def test_the_report_has_its_tables_plots_and_pictures(run):
    page, text = (run.out / "report.html").read_text(), (run.out / "report.md").read_text()
    assert len(re.findall('src="data:image/png;base64,', page)) == 2
    assert "| dps | scale = " in text and "Highest target reward at 4 calls: dps" in text
    assert text.count("[3: ") + text.count("[30: ") == 1  # the chosen strength stands in brackets


def test_the_strength_is_the_highest_reward_of_those_that_keep_the_roughness(tmp_path):
    """On rows that are made up: 30 has more reward but has torn the pictures apart."""
    runner = Runner(tmp_path, Plan(values=(1, 2, 3)), load("emoji64"))
    cell = {"stage": "tuning", "target": "redness", "budget": 25, "prompt": "x", "seed": 0}

    def row(method, value, reward, roughness):
        return {**cell, "method": method, "value": value, "reward": reward, "roughness": roughness}

    runner.ledger.add([row("base", None, 0.0, 1.0), row("dps", 3.0, 1.0, 0.9), row("dps", 10.0, 2.0, 1.2)])
    runner.ledger.add([row("dps", 30.0, 9.0, 1.8)])
    assert runner.chosen(TARGETS[2], "dps", 25) == 10.0
    assert runner.chosen(TARGETS[2], "best-of-n", 500) is None


def test_a_target_without_gradient_is_for_methods_that_need_none(tmp_path):
    runner = Runner(tmp_path, Plan(), load("emoji64"))
    names = {name for name, _, _ in runner.cells(TARGETS[3])}
    assert "ntrk-black-box" in names and "svdd" in names and not names & {"dps", "ntrk", "das", "psi"}
    assert QUICK.budgets[1] < Plan().budgets[1]
