"""Methods of the user in the suite `paper`: from a file with a strength, and as an Entry."""

import json
import shutil
from dataclasses import replace

import pytest
import torch

from noisetilt import METHODS, Method
from noisetilt.bench import Entry, bench, paper_plan
from noisetilt.bench.own_methods import split_own
from noisetilt.bench.paper_plan import METHODS_OF_SUITE, TARGETS, Plan, restrict
from noisetilt.bench.paper_suite import Runner, prompt_seeds
from noisetilt.cli import main
from noisetilt.initial_noise import Ascent
from noisetilt.models.exact import GaussianModel

RED_TARGET = next(target for target in TARGETS if target.reward == "redness")
SMALL = Plan(
    (replace(RED_TARGET, words=("noto", "flat"), prompts=("cat face", "top hat"), tuning_prompts=("key",)),),
    budgets=(3, 4),
    tuning_budgets=(3, 4),
    images=2,
    tuning_images=2,
    values=(1, 3),
    waves=(("dps",),),
)
SHIFT = """
from dataclasses import dataclass
from typing import ClassVar


@dataclass(frozen=True)
class Shift:
    # DPS under another name
    force: float = 1.0
    needs_gradient: ClassVar[bool] = True

    def __call__(self, step, noise):
        return step.mean + self.force * step.std**2 * step.gradient + step.std * noise
"""
MINE = "from noisetilt import Method\nfrom shift import Shift\n\nMINE = Method(proposal=Shift())\n"
STRENGTH = ("force", (1.0, 2.0, 3.0, 10.0, 30.0))
TWIN = Entry(METHODS["dps"], "scale", METHODS_OF_SUITE["dps"].values, name="twin")


@pytest.fixture
def files(tmp_path, monkeypatch):
    """A folder with a method's file and the module that it imports."""
    (tmp_path / "mine.py").write_text(MINE)
    (tmp_path / "shift.py").write_text(SHIFT)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(paper_plan, "QUICK", SMALL)
    return tmp_path


@pytest.fixture(scope="module")
def measured(tmp_path_factory):
    """The folder of a run of a method of the suite, of the same as an Entry, and of one in a file."""
    out = tmp_path_factory.mktemp("measured")
    (out / "mine.py").write_text(MINE)
    (out / "shift.py").write_text(SHIFT)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(paper_plan, "QUICK", SMALL)
        bench("paper", out / "run", quick=True, methods=["dps", TWIN, f"{out}/mine.py:MINE"], strength=STRENGTH)
    return out / "run"


@pytest.fixture
def run(measured, files):
    """A copy of that run beside the files."""
    shutil.copytree(measured, files / "run")
    return files / "run"


def rows_of(folder, method):
    lines = (folder / "rows.jsonl").read_text().splitlines()
    return [row for row in map(json.loads, lines) if row["method"] == method]


def test_an_own_method_is_tuned_and_tested_as_one_of_the_suite(measured):
    """The suite's own method under another name has the same images."""
    keys = ("stage", "budget", "value", "prompt", "seed", "reward", "probability", "network_calls", "reward_std")
    found = [{tuple(row[key] for key in keys) for row in rows_of(measured, name)} for name in ("dps", "twin")]
    assert found[0] and found[0] == found[1]


def test_rows_name_it_without_its_folder_and_hold_its_strength(measured):
    rows = rows_of(measured, "mine.py:MINE")
    assert {row["value"] for row in rows if row["stage"] == "tuning"} == {2.0, 10.0}
    records = {json.dumps(row["own"]) for row in rows}
    assert len(records) == 1 and '"option": "force", "values": [1.0, 2.0, 3.0, 10.0, 30.0]' in records.pop()
    assert not any("own" in row for row in rows_of(measured, "dps"))


def test_the_report_compares_it_with_each_other_method(measured):
    text = (measured / "report.md").read_text()
    part = text.split("## mine.py:MINE against each other method")[1].split("##")[0]
    assert all(f"| redness | {name} |" in part for name in ("base", "dps", "twin"))
    assert "| mine.py:MINE | force = " in text and "## Not measured" not in text


def test_a_second_run_from_another_folder_makes_nothing_anew(run, files, monkeypatch):
    before = (run / "rows.jsonl").read_text()
    (files / "elsewhere").mkdir()
    monkeypatch.chdir(files / "elsewhere")
    monkeypatch.setattr(paper_plan, "QUICK", SMALL)
    bench("paper", run, quick=True, methods=["../mine.py:MINE"], strength=STRENGTH)
    assert (run / "rows.jsonl").read_text() == before
    text = (run / "report.md").read_text()  # of all rows in the folder, not of the measured method alone
    assert "| dps | scale = " in text and "| twin | scale = " in text


@pytest.mark.parametrize("name", ["mine.py", "shift.py"])
def test_a_change_of_its_code_is_noticed_before_more_is_measured(run, files, name):
    before = (run / "rows.jsonl").read_text()
    (files / name).write_text((files / name).read_text() + "# changed\n")
    with pytest.raises(ValueError, match=r"the code of mine\.py:MINE has changed since \d+ of its rows in .*run were"):
        bench("paper", run, quick=True, methods=["mine.py:MINE"], strength=STRENGTH)
    assert (run / "rows.jsonl").read_text() == before


def test_an_entry_with_another_method_under_the_same_name_is_noticed(run):
    other = replace(TWIN, method=METHODS["dps"].replace(repeats=2))
    with pytest.raises(ValueError, match="the code of twin has changed"):
        bench("paper", run, quick=True, methods=[other])


def test_rows_of_two_versions_are_not_mixed(run):
    (run / "rows.jsonl").open("a").write(json.dumps(rows_of(run, "twin")[0] | {"own": {"code": "another"}}) + "\n")
    with pytest.raises(ValueError, match="has rows of two versions of the method twin; keep those of one"):
        bench("paper", run, quick=True, measure=False)


def test_a_report_needs_neither_the_file_nor_the_strength(run, files):
    (files / "mine.py").unlink()
    bench("paper", run, quick=True, measure=False, methods=["gone/mine.py:MINE", "dps"])
    text = (run / "report.md").read_text()
    assert "| mine.py:MINE | force = " in text and "| dps | scale = " in text and "| twin |" not in text
    bench("paper", run, quick=True, measure=False)
    assert all(f"| {name} | scale = " in (run / "report.md").read_text() for name in ("dps", "twin"))
    bench("paper", run, quick=True, measure=False, methods=["mine.py:MINE"])
    assert "| dps | scale = " not in (run / "report.md").read_text()
    with pytest.raises(ValueError, match=r"method 'mine\.py:YOURS' is not in the suite paper .did you mean"):
        bench("paper", run, quick=True, measure=False, methods=["mine.py:YOURS"])


def made_up(stage, name, count, reward, value=None, probability=1.0):
    cell = {"stage": stage, "target": "redness", "budget": 25, "method": name, "value": value}
    pairs = prompt_seeds(RED_TARGET, stage == "test", count)
    return [{**cell, "prompt": p, "seed": s, "reward": reward, "probability": probability} for p, s in pairs]


def test_published_methods_keep_the_strengths_that_their_own_tuning_images_chose(tmp_path):
    """With --images 2: the first two images alone would choose another strength, which has no test images."""
    plan = Plan((RED_TARGET,), images=2, tuning_images=2, waves=(("mine",),), all_tuning=True)
    mine = Entry(METHODS["dps"], "scale", (0.1, 0.2, 0.3, 0.4, 0.5), name="mine")
    runner = Runner(tmp_path, replace(plan, own={"mine": mine}), GaussianModel(torch.zeros(3, 8, 8), torch.ones(8, 8)))
    runner.ledger.add(made_up("tuning", "base", 32, 0.0))
    for value in METHODS_OF_SUITE["ntrk"].values:  # the stronger, the better; at first only
        rows = made_up("tuning", "ntrk", 32, 1.0 - value, value)
        runner.ledger.add([{**row, "reward": 10 * value} if n < 2 else row for n, row in enumerate(rows)])
    for value in mine.values:
        runner.ledger.add(made_up("tuning", "mine", 2, value, value))
    assert runner.tuned_images(RED_TARGET, "ntrk") == 32 and runner.tuned_images(RED_TARGET, "mine") == 2
    assert runner.chosen_strength(RED_TARGET, "ntrk") == 0.01 and runner.chosen_strength(RED_TARGET, "mine") == 0.5
    assert {"mine", "ntrk", "dps"} <= set(runner.reported(RED_TARGET))
    assert runner.methods(RED_TARGET) == ["mine"]
    runner.plan = replace(runner.plan, all_tuning=False)
    assert runner.chosen_strength(RED_TARGET, "ntrk") == 0.1


PLAIN = Method(proposal=METHODS["dps"].proposal)


@pytest.mark.parametrize(
    ("given", "strength", "said"),
    [
        ("mine.py:MINE", None, r"needs the option that is its strength, .*--strength omega=.*its options are: force, "),
        ("mine.py:MINE", ("forse", (1, 2, 3, 4, 5)), r"has no option 'forse' .did you mean 'force'"),
        ("mine.py:MINE", ("force", (1, 2, 3)), "has the values 1, 2, 3; give five different numbers"),
        ("mine.py:MINE", ("force", (1, 2, 3, 3, 4)), "give five different numbers"),
        ("mine.py:MINE", ("force", (1, 2, 3, 5, 4)), "from the weakest to the strongest"),
        ("mine.py:MINE", ("force", (0, 1, 2, 3, 4)), "only the last one may be 0"),
        ("mine.py:MINE", ("particles", (0.5, 1, 2, 3, 4)), r"particles = 0\.5 must be a whole number"),
        ("mine.py:NONE", STRENGTH, "has no method 'NONE'"),
        ("mine.py", STRENGTH, "'mine.py' is a file; give also the name"),
        (PLAIN, None, r"give Entry\(method, 'omega', "),
        (3, None, "method = 3 is unknown"),
        (Entry(PLAIN, "scale", (1, 2, 3, 4, 5)), None, "an entry has no name"),
        (Entry(PLAIN, "scale", (1, 2, 3, 4, 5), name="dps"), None, "the name 'dps' of a method of the suite"),
        (Entry(PLAIN, None, (1, 2, 3, 4, 5), name="mine"), None, "values and no option"),
        (Entry("dps", None, name="mine"), None, "is 'dps', expected a Method"),
        ("dps", STRENGTH, "strength is for methods given as FILE.py:NAME"),
    ],
)
def test_what_is_wrong_with_a_method_is_said_before_anything_is_written(files, given, strength, said):
    with pytest.raises(ValueError, match=said):
        bench("paper", files / "run", quick=True, methods=[given], strength=strength)
    assert not (files / "run" / "rows.jsonl").exists()


def test_two_methods_of_one_name_are_refused(files):
    (files / "other").mkdir()
    (files / "other" / "mine.py").write_text("from noisetilt import METHODS\nMINE = METHODS['dps']\n")
    (files / "mine.py").write_text("from noisetilt import METHODS\nMINE = METHODS['mpgd']\n")
    strength = ("scale", (1, 2, 3, 4, 5))
    with pytest.raises(ValueError, match=r"two methods have the name 'mine\.py:MINE'"):
        split_own(["mine.py:MINE", "other/mine.py:MINE"], strength, METHODS_OF_SUITE)
    names, own = split_own(["mine.py:MINE", "dps", "mine.py:MINE"], strength, METHODS_OF_SUITE)
    assert restrict(replace(SMALL, own=own), names).waves == (("mine.py:MINE", "dps"),)


def test_a_method_that_suits_no_target_or_no_budget_is_refused(tmp_path):
    model = GaussianModel(torch.zeros(3, 8, 8), torch.ones(8, 8))
    jpeg = next(target for target in TARGETS if target.reward == "jpeg")
    plan = Plan((jpeg,), own={"twin": TWIN}, waves=(("twin",),))
    with pytest.raises(ValueError, match=r"needs a gradient|no gradient|not differentiable"):
        Runner(tmp_path / "a", plan, model)
    slow = Entry(Method(initial=Ascent(iterations=40)), "rate", (0.1, 0.2, 0.3, 0.4, 0.5), name="slow")
    with pytest.raises(ValueError, match="a budget of 25 calls is too small for the 42 calls of one step"):
        Runner(tmp_path / "b", replace(plan, targets=(RED_TARGET,), own={"slow": slow}), model)


def test_a_search_with_the_strength_of_another_entry_needs_that_entry(tmp_path):
    model = GaussianModel(torch.zeros(3, 8, 8), torch.ones(8, 8))
    many = Entry(TWIN.method.replace(selection=METHODS["best-of-n"].selection), "scale", like="twin", name="many")
    names, own = split_own([TWIN, many], None, METHODS_OF_SUITE)
    plan = restrict(Plan((RED_TARGET,), own=own), names)
    runner = Runner(tmp_path / "a", plan, model)
    assert runner.budget("many") == 500 and runner.values(RED_TARGET, "many") == list(TWIN.values)
    with pytest.raises(ValueError, match="has the strength of 'twin', which is not given"):
        Runner(tmp_path / "b", replace(plan, own={"many": many}, waves=(("many",),)), model)


@pytest.mark.parametrize("suite", ["exact", "one-step"])
def test_other_suites_refuse_it(files, suite):
    with pytest.raises(ValueError, match=rf"mine\.py:MINE is not in the suite {suite}; the suite paper takes your own"):
        bench(suite, files / "run", methods=["mine.py:MINE"], strength=STRENGTH)


def test_strengths_beyond_the_five_are_ones_that_the_method_takes():
    whole = Entry(METHODS["reno"], "iterations", (1, 2, 4, 8, 16), name="mine")
    assert whole.stronger(whole.values) == 32 and isinstance(whole.stronger(whole.values), int)
    assert whole.weaker((1, 2)) is None  # 0.5 is no whole number, and 0 no strength
    rate = Entry(METHODS["dsg"], "guidance_rate", (0.1, 0.2, 0.4, 0.6, 0.9), name="mine")
    assert rate.stronger(rate.values) is None and rate.weaker(rate.values) == 0.05


def test_the_command_reads_a_strength(files, capsys):
    arguments = ["bench", "--suite", "paper", "--quick", "--methods", "mine.py:MINE", "--out", "run"]
    for text in ("force", "force=1,b", "force="):
        with pytest.raises(SystemExit):
            main([*arguments, "--strength", text])
        assert "must have the form OPTION=V1,V2,V3,V4,V5" in " ".join(capsys.readouterr().err.split())
    assert main([*arguments, "--strength", "force=1,2,3"]) == 2
    assert "has the values 1, 2, 3; give five" in " ".join(capsys.readouterr().err.split())
    assert main(arguments) == 2
    assert "--strength omega=" in capsys.readouterr().err
