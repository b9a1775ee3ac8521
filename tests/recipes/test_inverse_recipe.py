"""The recipe of inverse problems on made-up images: other numbers of tuning images, and a run that was interrupted."""

import importlib.util
import json
import sys
from argparse import Namespace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

RECIPES = Path(__file__).parents[2] / "recipes"


@pytest.fixture
def recipe():
    """The module; the modules of the recipes that it imports are removed again, whose names others have too."""
    before, paths = dict(sys.modules), list(sys.path)
    for name in ("measure", "stored", "real_images", "captions", "training"):
        sys.modules.pop(name, None)
    spec = importlib.util.spec_from_file_location("inverse_measure", RECIPES / "inverse" / "measure.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    yield module
    sys.path[:] = paths
    for name in set(sys.modules) - set(before):
        if str(RECIPES) in str(getattr(sys.modules[name], "__file__", "")):
            del sys.modules[name]
    sys.modules.update(before)


@pytest.fixture
def run(recipe, monkeypatch, tmp_path):
    """Runs the recipe with gray images, of which number n has n/100."""
    seen = []

    def real_images(build, count, side, known):
        names = [f"concept{number}" for number in range(count)]
        images = torch.arange(count).reshape(-1, 1, 1, 1).expand(-1, 3, 16, 16) / 100
        return recipe.RealImages(images, names, ["3d"] * count, dict(zip(names, range(count), strict=True)))

    def reconstruct(model, name, strength, operator, real, seeds):
        assert len(seeds) == len(real.labels)
        seen.append((name, strength, real.prompts))
        return real.images + 0.1, list(real.images), 1.0

    model = SimpleNamespace(decode=lambda x: torch.zeros(1, 3, 16, 16), shape=(4, 2, 2))
    monkeypatch.setattr(recipe.noisetilt, "load", lambda name: model)
    monkeypatch.setattr(recipe, "read_real_images", real_images)
    monkeypatch.setattr(recipe, "reconstruct", reconstruct)
    monkeypatch.setattr(recipe, "digest", str)
    monkeypatch.setattr(recipe, "Judge", lambda *_: lambda images, labels, styles: ([True] * len(labels),) * 2)

    def measure(tuning, n=4, judge=recipe.WEIGHTS):
        seen.clear()
        out = tmp_path / "measured.jsonl"
        options = Namespace(build=None, judge=judge, out=out, methods=["base", "psld"], tasks=["deblurring"])
        vars(options).update(tuning=tuning, n=n, batch=2)
        recipe.measure(options, recipe.Rows(out))
        return [json.loads(line) for line in out.read_text().splitlines()]

    return SimpleNamespace(
        measure=measure, seen=seen, out=tmp_path / "measured.jsonl", show=recipe.show, rows=recipe.Rows
    )


def test_tests_start_after_the_tuning_images(run):
    rows = run.measure(tuning=3)
    assert {len(prompts) for name, strength, prompts in run.seen[:4]} == {3}
    assert [row["prompt"] for row in rows if row["stage"] == "test" and row["method"] == "base"] == [
        f"concept{number} 3d" for number in range(3, 7)
    ]


def test_tuning_with_another_number_of_images_is_another_tuning(run):
    run.measure(tuning=2)
    rows = run.measure(tuning=3)
    tuned = [len(row["psnr"]) for row in rows if row["stage"] == "tune"]
    assert sorted(tuned) == [2] * 4 + [3] * 4
    assert len([row for row in rows if row["stage"] == "test"]) == 2 * 8  # other test images


def test_an_interrupted_run_is_continued_without_repeating_rows(run):
    rows = run.measure(tuning=2)
    assert "concept among five" in run.show(run.rows(run.out))
    run.out.write_text("".join(json.dumps(row) + "\n" for row in rows[:-1]))  # one image of a batch is lost
    assert run.measure(tuning=2) == rows
    run.measure(tuning=2)
    assert not run.seen


def test_a_run_is_not_continued_with_another_judge(run):
    run.measure(tuning=2)
    with pytest.raises(ValueError, match=r"measured\.jsonl was measured with judge = .* and judge = 'other' is given"):
        run.measure(tuning=2, judge="other")


@pytest.fixture
def inversion(recipe, monkeypatch):
    """The recipe that measures inversion, which the other one uses."""
    module = sys.modules["measure"]
    monkeypatch.setattr(
        module.noisetilt, "load", lambda name, **_: SimpleNamespace(decode=lambda x: x, shape=(3, 8, 8))
    )
    monkeypatch.setattr(module, "digest", str)
    monkeypatch.setattr(module, "measure_cost", lambda *_: dict.fromkeys(module.METHOD_NAMES, 1.0))
    monkeypatch.setattr(module, "tune", lambda *_: {})
    monkeypatch.setattr(module, "Judge", lambda *_: None)

    def real_images(build, count, side, known):
        return recipe.RealImages(torch.zeros(count, 3, 8, 8), ["a"] * count, ["3d"] * count, {"a": 0})

    def rows(model, judge, name, factor, iterations, part, real):
        for image in part:
            yield {"stage": "test", "method": name, "image": image, "mse": 0.1}, torch.zeros(3, 3, 8, 8)

    monkeypatch.setattr(module, "read_real_images", real_images)
    monkeypatch.setattr(module, "measure_batch", rows)
    return module


def test_no_rows_are_stored_without_their_images(inversion, monkeypatch, tmp_path):
    """A run that goes on does not measure the images of rows again, and picture.py needs them."""
    options = Namespace(build=None, judge=inversion.WEIGHTS, out=tmp_path / "rows.jsonl", model="m", methods=["gper"])
    vars(options).update(iterations=20, n=2, batch=2)

    def stop(images, file):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(inversion, "write_tensor", stop)
        inversion.measure(options, inversion.Rows(options.out))
    assert not inversion.Rows(options.out).where(stage="test")
    inversion.measure(options, inversion.Rows(options.out))
    assert len(inversion.Rows(options.out).where(stage="test")) == 4
    assert {file.name for file in (tmp_path / "rows").iterdir()} == {"gper-0.pt", "random-noise-0.pt", "targets-0.pt"}


def test_the_published_rows_are_only_read(recipe, inversion, monkeypatch, tmp_path, capsys):
    for module in (recipe, inversion):
        before = module.PUBLISHED.read_bytes()
        monkeypatch.setattr(module, "show", lambda store: str(store.file))
        monkeypatch.setattr(sys, "argv", ["measure.py", "build"])
        with pytest.raises(SystemExit):
            module.main()
        assert "--out is missing" in capsys.readouterr().err
        monkeypatch.setattr(sys, "argv", ["measure.py", "--table"])
        module.main()
        assert capsys.readouterr().out.strip() == str(module.PUBLISHED) and module.PUBLISHED.read_bytes() == before
        monkeypatch.setattr(module, "measure", lambda options, store: None)
        monkeypatch.setattr(sys, "argv", ["measure.py", "build", "--out", str(tmp_path / "new" / "rows.jsonl")])
        module.main()
        assert (tmp_path / "new").is_dir()


def test_the_stored_rows_have_the_differences_of_the_document(recipe):
    found = recipe.leads(recipe.Rows(RECIPES / "inverse" / "measured.jsonl").where(stage="test"))
    leads = {tuple(line.split()[:2]): line for line in found.splitlines()}
    expected = {
        "super-resolution": "2.09 [0.871, 3.63]",
        "deblurring": "3.88 [2.92, 4.85]",
        "jpeg": "2.41 [1.71, 3.21]",
    }
    assert all(leads[task, "ntrk-x0"].endswith(value) for task, value in expected.items())
    assert leads["super-resolution", "ntrk"].split()[2] == "psld" and "1.3 [0.289" in leads["super-resolution", "ntrk"]


def test_a_run_is_not_continued_with_other_options(recipe, tmp_path):
    keep, file, defaults = sys.modules["stored"].keep_options, tmp_path / "rows.jsonl", {"model": "a", "iterations": 20}
    for _ in range(2):
        keep(recipe.Rows(file), defaults, {"model": "b", "iterations": 9})
    assert len(file.read_text().splitlines()) == 1
    with pytest.raises(ValueError, match=r"rows\.jsonl was measured with iterations = 9 and iterations = 20 is given"):
        keep(recipe.Rows(file), defaults, {"model": "b", "iterations": 20})
    file.write_text('{"stage": "cost"}\n')  # rows of before the options were noted
    keep(recipe.Rows(file), defaults, defaults)
    with pytest.raises(ValueError, match="measured with model = 'a' and model = 'b' is given"):
        keep(recipe.Rows(file), defaults, {"model": "b", "iterations": 20})
