"""The exact suite measures what it says, goes on where it stopped, and reports in two formats."""

import math
import re

import numpy as np
import pytest
import torch

from noisetilt.bench import exact_report
from noisetilt.bench.exact_suite import Run, disturbance, natural_spectrum, problems, rings
from noisetilt.bench.run import bench
from noisetilt.cli import main
from noisetilt.models.exact import GaussianModel


@pytest.mark.parametrize("number", [0, 1, 2])
def test_rewards_have_unit_deviation_and_whitened_prior_is_white(number):
    problem = problems(16)[number]
    generator = torch.Generator().manual_seed(3)
    if isinstance(problem.model, GaussianModel):
        x = problem.model.draw(400, generator)
    else:
        centre = problem.model.means[torch.randint(8, (400,), generator=generator)]
        x = centre + 0.05**0.5 * torch.randn(centre.shape, generator=generator)
    values = problem.reward(x, [""] * 400)
    assert values.mean().abs() < 0.2 and values.std().item() == pytest.approx(1, abs=0.12)
    z = problem.whiten(x)
    assert z.square().mean().item() == pytest.approx(1, abs=0.02)
    assert (rings(z).mean(0) - 1).abs().max() < 0.15


def test_the_optimal_tilt_lies_on_the_diagonal():
    """Its mean is g standard deviations up, and the energy it adds is g²."""
    model = GaussianModel(torch.zeros(3, 16, 16), natural_spectrum(16))
    problem, generator = problems(16)[0], torch.Generator().manual_seed(0)
    gradient = torch.func.grad(lambda x: problem.reward(x[None], [""])[0])(torch.zeros(3, 16, 16))
    x = model.draw(2, generator)
    tilted = x + model.tilted_mean(gradient, 1 / 6.0)
    added = problem.whiten(tilted).square().sum((1, 2, 3)) - problem.whiten(x).square().sum((1, 2, 3))
    cross = 2 * (problem.whiten(x) * problem.whiten(tilted - x)).sum((1, 2, 3))
    assert problem.reward(tilted, []) - problem.reward(x, []) == pytest.approx([6.0, 6.0], rel=1e-4)
    assert (added - cross).tolist() == pytest.approx([36.0, 36.0], rel=1e-4)
    assert disturbance(36.0) == 6 and disturbance(-4.0) == -2


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    out = tmp_path_factory.mktemp("exact")
    names = ["twisted shift", "best-of-n", "ntrk mixture"]
    assert main(["bench", "--suite", "exact", "--quick", "--methods", *names, "--out", str(out)]) == 0
    return out


def test_the_report_is_whole_and_its_html_needs_nothing_else(finished):
    page, text = (finished / "report.html").read_text(), (finished / "report.md").read_text()
    assert len(re.findall('src="data:image/png;base64,', page)) == 3
    page = re.sub('base64,[^"]*', "", page)
    assert "http" not in page and "src" in page and "NaN" not in page and "nan" not in text
    for name in ("twisted shift", "best-of-n", "ntrk mixture", "base"):
        assert f"| {name} |" in text
    for picture in re.findall(r"\((\S+\.png)\)", text):
        assert (finished / picture).stat().st_size > 5000


def test_verdicts_are_computed_from_the_points(finished):
    run = Run(finished, quick=True)
    points = exact_report.points(run.ledger.where(problem="noise-like"))
    tilts = [p for p in points if p.method == "ntrk mixture"]
    for point in tilts:
        assert point.gain.value == pytest.approx(point.strength, rel=0.2)
    gain = exact_report.gain_at(points, "ntrk mixture", 8.0)
    assert gain == pytest.approx(8.0, rel=0.25)
    assert any(f"{gain:.1f}" in line for line in exact_report.verdicts("noise-like", points))


def test_a_run_goes_on_where_it_stopped_with_the_same_figures(finished):
    file = finished / "rows.jsonl"
    before = file.read_text()
    lines = before.splitlines(keepends=True)
    file.write_text("".join(lines[: len(lines) - 3]))
    bench("exact", finished, quick=True, methods=["twisted shift", "best-of-n", "ntrk mixture"])
    strip = re.compile(r', "seconds": [\d.e-]+')
    assert np.array_equal(*[sorted(strip.sub("", text).splitlines()) for text in (before, file.read_text())])


def test_what_is_measured_before_an_interruption_is_kept_and_reported(tmp_path, monkeypatch):
    from noisetilt.bench import exact_suite

    real, calls = exact_suite.sample, []

    def interrupted(*args, **kwargs):
        calls.append(1)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return real(*args, **kwargs)

    monkeypatch.setattr(exact_suite, "sample", interrupted)
    arguments = ["bench", "--suite", "exact", "--quick", "--methods", "twisted shift", "--out", str(tmp_path)]
    assert main(arguments) == 130
    assert len((tmp_path / "rows.jsonl").read_text().splitlines()) == 3 * 6
    assert "| twisted shift | 2 |" in (tmp_path / "report.md").read_text()


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (["--suite", "big"], "exact, paper"),
        (["--suite", "exact", "--methods", "magic"], "magic"),
        (["--suite", "paper", "--quick", "--methods", "magic"], "magic"),
    ],
)
def test_refusals_are_one_sentence(arguments, word, tmp_path, capsys):
    assert main(["bench", *arguments, "--out", str(tmp_path / "out")]) == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith("noisetilt: ") and word in error


def test_a_report_that_is_of_no_benchmark_is_not_replaced(tmp_path, capsys):
    (tmp_path / "report.md").write_text("mine")
    assert main(["bench", "--suite", "exact", "--quick", "--out", str(tmp_path)]) == 2
    assert "has report.md, which is no file of a benchmark and would be replaced" in capsys.readouterr().err
    assert [file.name for file in tmp_path.iterdir()] == ["report.md"]


def test_gain_at_a_disturbance_is_interpolated_and_never_beyond():
    def point(gain, disturbed):
        one = exact_report.Interval
        return exact_report.Point("m", 1, 25, one(gain, 0, 0), one(disturbed, 0, 0), 1.0)

    points = [point(2.0, 4.0), point(6.0, 8.0)]
    assert exact_report.gain_at(points, "m", 6.0) == pytest.approx(4.0)
    assert exact_report.gain_at(points, "m", 2.0) == pytest.approx(1.0)
    assert exact_report.gain_at(points, "m", 9.0) is None and math.isfinite(points[0].ring)
