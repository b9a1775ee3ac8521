"""Results are saved as files, and calls show a progress bar if asked."""

import json

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from noisetilt import METHODS, invert, optimize, rewards, sample
from noisetilt.models.exact import GaussianModel
from noisetilt.path import VPPath
from noisetilt.sampling import Result, Trace

PATH = VPPath.from_betas(torch.linspace(1e-3, 0.2, 30))
MODEL = GaussianModel(torch.full((3, 8, 8), 0.5), torch.full((8, 8), 0.01), PATH)
RED = rewards.load("redness")


def names(folder):
    return sorted(file.name for file in folder.iterdir())


def pixels(file):
    return torch.from_numpy(np.array(Image.open(file))).permute(2, 0, 1) / 255


def test_a_result_is_saved_with_what_it_knows(tmp_path):
    result = sample(MODEL, ["a", "b"], RED, "ntrk", 3, [4, 7], heldout=RED)
    for _ in range(2):  # files of the same name are replaced
        result.save(tmp_path / "new" / "run")
    assert names(tmp_path / "new" / "run") == ["image-0.png", "image-1.png", "result.json"]
    for number, known in enumerate([{"prompt": "a", "seed": 4}, {"prompt": "b", "seed": 7}]):
        file = tmp_path / "new" / "run" / f"image-{number}.png"
        assert json.loads(Image.open(file).text["noisetilt"]) == known
        assert (pixels(file) - result.images[number].clamp(0, 1)).abs().max() <= 0.5 / 255 + 1e-6
    record = json.loads((tmp_path / "new" / "run" / "result.json").read_text())
    assert record == {
        "prompts": ["a", "b"],
        "seeds": [4, 7],
        "rewards": result.rewards.tolist(),
        "heldout": result.heldout.tolist(),
        "nfe": 3.0,
        "seconds": result.trace.seconds,
    }


def test_an_optimised_result_is_saved_with_its_noise(tmp_path):
    result = optimize(MODEL, ["a"], RED, iterations=2, seeds=[3])
    result.save(tmp_path)
    assert names(tmp_path) == ["image-0.png", "noise.safetensors", "result.json"]
    assert torch.equal(load_file(tmp_path / "noise.safetensors")["noise"], result.noise)
    record = json.loads((tmp_path / "result.json").read_text())
    assert record["seeds"] == [3] and record["rewards"] == result.rewards.tolist() and record["nfe"] == [3.0]
    assert record["iterations"] == result.iterations.tolist() and record["heldout"] is None


def test_videos_become_animations_and_unknown_prompts_are_left_out(tmp_path):
    Result(torch.rand(1, 4, 3, 8, 8), None, Trace()).save(tmp_path)
    with Image.open(tmp_path / "image-0.png") as video:
        assert video.n_frames == 4 and json.loads(video.text["noisetilt"]) == {}


def test_images_that_are_not_finite_are_not_saved(tmp_path):
    images = torch.rand(2, 3, 8, 8)
    images[1, 0, 0, 0] = torch.nan
    with pytest.raises(FloatingPointError, match="image 1 has values that are not finite"):
        Result(images, None, Trace()).save(tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    "run, bar",
    [
        (lambda **options: sample(MODEL, "a", RED, "ntrk", 3, **options), "step 3 of 3"),
        (lambda **options: optimize(MODEL, "a", RED, iterations=2, **options), "iteration 2 of 2"),
        (lambda **options: invert(MODEL, torch.rand(1, 3, 8, 8), "a", iterations=2, **options), "iteration 2 of 2"),
    ],
)
def test_progress_is_shown_if_asked(run, bar, capsys):
    numbers = []
    torch.manual_seed(0)
    shown = run(progress=True, callback=lambda report: numbers.append(report.number))
    assert bar in capsys.readouterr().err and numbers[-1] == int(bar[-1])
    torch.manual_seed(0)
    assert torch.equal(run().images, shown.images) and not capsys.readouterr().err
    with pytest.raises(ValueError, match="callback = 3 must be a function"):
        run(progress=True, callback=3)


def test_the_methods_own_sample_gets_no_progress():
    """A model with its own loop, as a pipeline, takes the callback that moves the bar."""

    class Own:
        def sample(self, *_, callback, **options):
            assert "progress" not in options and callback is not None

    sample(Own(), "a", RED, METHODS["ntrk"], 3, progress=True)
