"""The recipe and the report that read the published rows, which come without images and in different numbers."""

import gzip
import importlib.util
import json
import re
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from PIL import Image

from noisetilt import METHODS
from noisetilt.bench import paper_lines, paper_plan
from noisetilt.bench.paper_suite import Runner, prompt_seeds
from noisetilt.bench.run import bench

ROOT = Path(__file__).resolve().parents[2]
TARGET = next(target for target in paper_plan.TARGETS if target.reward == "redness")


def recipe(name):
    spec = importlib.util.spec_from_file_location(name, ROOT / "recipes" / "bench" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def results():
    return recipe("results")


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    folder = tmp_path_factory.mktemp("published")
    (folder / "rows.jsonl").write_bytes(gzip.decompress((ROOT / "docs" / "bench" / "rows.jsonl.gz").read_bytes()))
    return folder


@pytest.fixture
def run_results(results, monkeypatch, capsys):
    """The recipe with these arguments, without precision and recall, which it does not print and which take long."""
    monkeypatch.setattr(paper_lines, "precision_recall", lambda real, fake: (1.0, 1.0))

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["results.py", *map(str, arguments)])
        results.main()
        return capsys.readouterr().out

    return run


def test_the_tables_need_no_options(published, run_results):
    """Each target has as many images as are measured for it."""
    printed = run_results(published, "--methods", "ntrk", "mpgd")
    targets = {json.loads(line)["target"] for line in (published / "rows.jsonl").open()}
    for reward in targets:
        assert f"\n{reward}, by the rule, n = " in printed and f"\n{reward}, equal probability and equal" in printed
    assert printed.count("| `mpgd` | scale = ") >= len(targets)
    assert "jpeg: base and a method are measured for 0 test images; measure more." in printed
    assert printed.count(", without the rule, n = 64\n") == len(targets)


def test_targets_without_so_many_images_are_left_out_with_the_number_they_have(published, run_results):
    printed = run_results(published, "--images", 1000, "--targets", "redness", "style:3d", "--methods", "ntrk")
    assert "redness: base and a method are measured for " in printed and "use --images " in printed
    assert "|" not in printed


def test_the_images_of_methods_have_their_prompts_seeds_and_strengths(published, tmp_path, monkeypatch):
    pictures, calls = recipe("pictures"), {}

    def sample(model, prompts, reward, method, steps, seeds, **options):
        calls[method] = (prompts, seeds, reward(torch.rand(2, 3, 16, 16), prompts[:2]))
        return SimpleNamespace(images=torch.rand(len(prompts), 3, 16, 16))

    monkeypatch.setattr(paper_lines, "precision_recall", lambda real, fake: (1.0, 1.0))
    monkeypatch.setattr(pictures, "sample", sample)
    monkeypatch.setattr(pictures, "load", lambda name: None)
    monkeypatch.setattr(sys, "argv", ["pictures.py", str(published), str(tmp_path / "a.png"), "--target", "redness"])
    pictures.main()
    assert METHODS["base"] in calls and METHODS["ntrk"].replace(rho=0.005) in calls
    assert all(
        len(set(zip(*call[:2], strict=True))) == 8 and call[:2] == calls[METHODS["base"]][:2] for call in calls.values()
    )
    assert Image.open(tmp_path / "a.png").height > 16 * len(calls)


def test_published_rows_have_a_report_without_images_and_without_their_number(published, tmp_path):
    (tmp_path / "rows.jsonl").write_bytes((published / "rows.jsonl").read_bytes())
    bench("paper", tmp_path, methods=["ntrk", "dps"], targets=["redness", "concept:tiger face"], measure=False)
    text = (tmp_path / "report.md").read_text()
    assert "| dps | scale = " in text and re.search(r"Without \d+ grids of images, whose files are not in", text)
    assert not list(tmp_path.glob("*-pictures.png")) and list(tmp_path.glob("*-fronts.png"))


def test_rows_whose_scale_is_not_known_are_read_and_not_continued(published, tmp_path):
    rows = [json.loads(line) for line in (published / "rows.jsonl").open()]
    lines = [json.dumps({k: v for k, v in row.items() if k != "reward_std"}) for row in rows[:2000]]
    (tmp_path / "rows.jsonl").write_text("\n".join(lines))
    target = next(t for t in paper_plan.TARGETS if t.reward == rows[0]["target"])
    assert Runner(tmp_path, paper_plan.Plan(), object(), measure=False).reward_std(target) > 0
    with pytest.raises(ValueError, match=r"rows of guided images of .* without reward_std, the deviation"):
        Runner(tmp_path, paper_plan.Plan(), object()).reward_std(target)


def test_measured_images_are_those_that_base_and_a_method_have(tmp_path):
    runner = Runner(tmp_path, paper_plan.Plan(), object(), measure=False)
    assert runner.measured_images(TARGET) == runner.measured_images(TARGET, "base") == 0
    for name, value, count in (("base", None, 9), ("dps", 1.0, 6), ("dps", 3.0, 4)):
        cell = {"stage": "test", "target": "redness", "budget": 25, "method": name, "value": value}
        pairs = prompt_seeds(TARGET, True, 9)
        some = pairs[:count] if count != 6 else [*pairs[:6], pairs[8]]  # one more, after a gap
        runner.ledger.add({**cell, "prompt": prompt, "seed": seed} for prompt, seed in some)
    assert runner.measured_images(TARGET, "base") == 9 and runner.measured_images(TARGET) == 6


BASE = (0.0, 0.9)


def front(results, fronts):
    """The cells of the last table for made-up methods: two images of each of 20 concepts, all alike."""
    prompts = [(f"concept{number} {word}", 0) for number in range(20) for word in ("3d", "noto")]

    def rows(reward, probability):
        return [{"prompt": p, "seed": s, "reward": reward, "probability": probability} for p, s in prompts]

    runner = SimpleNamespace(
        methods=lambda target: list(fronts),
        rows=lambda stage, target, name: rows(*BASE),
        tuning_rows=lambda target, name: {number: rows(*point) for number, point in enumerate(fronts[name])},
    )
    lines = list(results.fronts(runner, TARGET, "ntrk", 1))
    return lines[0], {line.split("|")[1].strip(" `"): [c.strip() for c in line.split("|")[2:-1]] for line in lines[2:]}


def test_rewards_of_methods_that_never_lose_so_much_are_bounds(results):
    fronts = {
        "ntrk": [(4.0, 0.88), (10.0, 0.78)],
        "dps": [(3.0, 0.89), (12.0, 0.88)],
        "mpgd": [(8.0, 0.6), (9.2, 0.1)],
    }
    head, cells = front(results, fronts)
    # 5 points below base's: ntrk between its strengths
    assert cells["ntrk"][0].startswith("5.8 [") and cells["ntrk"][2].startswith("≥ 10.0 [")
    assert cells["dps"][0].startswith("≥ 12.0 [") and cells["dps"][1].startswith("≥ 6.2 [")
    assert cells["dps"][2].startswith("≥ 12.0 [") and cells["dps"][3] == ""  # both are bounds
    assert cells["mpgd"][2].startswith("5.3 [") and cells["mpgd"][3].startswith("≤ −4.7 [")
    # 5 % below the smallest of the largest rewards, 9.2
    assert "probability at 8.7" in head
