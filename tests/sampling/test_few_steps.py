"""With few steps a method may have none to guide: a warning says so, from the noise and the signal of the kernel."""

import sys
import warnings
from pathlib import Path

import pytest
import torch

from noisetilt import METHODS, align, optimize, rewards, sample
from noisetilt.cli import main
from noisetilt.models.exact import GaussianModel
from noisetilt.path import VPPath
from noisetilt.rewards import Reward
from noisetilt.sampling import UnguidedWarning

sys.path.insert(0, str(Path(__file__).parents[1] / "integrations"))
from tiny_pipelines import build

RED = rewards.load("redness")
MODEL = GaussianModel(torch.full((3, 8, 8), 0.5), torch.ones(8, 8))
# Its prediction depends on the initial noise, which noise ascent needs.
SIGNAL = GaussianModel(torch.full((3, 8, 8), 0.5), torch.ones(8, 8), VPPath.from_betas(torch.linspace(1e-3, 0.2, 30)))
FLAT = Reward("flat", lambda images, prompts: 0 * images.mean((1, 2, 3)))


@pytest.mark.parametrize(
    "method, options",
    [
        ("ntrk", {}),
        ("mpgd", {}),
        ("ntrk-black-box", {"draws": 2}),
        ("ntrk-svdd", {"particles": 2}),
        ("gper", {"iterations": 1}),
        ("langevin", {"iterations": 1}),
    ],
)
def test_a_reward_without_effect_has_a_warning(method, options):
    method = METHODS[method].replace(**options)
    with pytest.warns(UnguidedWarning, match="the gradient of the reward was 0 for all images") as caught:
        sample(SIGNAL, ["", ""], FLAT, method, 3)
    assert len(caught) == 1
    with warnings.catch_warnings():
        warnings.simplefilter("error", UnguidedWarning)
        sample(SIGNAL, ["", ""], RED, method, 3)


@pytest.mark.parametrize("method", ["best-of-n", "svdd", "rbf", "fk"])
def test_a_search_warns_of_a_reward_without_effect(method):
    flat = Reward("flat", lambda images, prompts: images.new_zeros(len(images)), differentiable=False)
    short = {"rbf": {"budget": 12}}.get(method, {"particles": 3})
    short |= {"interval": 1} if method == "fk" else {}
    method = METHODS[method].replace(**short)
    with pytest.warns(UnguidedWarning, match="all candidates of each image the same value") as caught:
        sample(SIGNAL, ["", ""], flat, method, 3)
    assert len(caught) == 1
    with warnings.catch_warnings():
        warnings.simplefilter("error", UnguidedWarning)
        sample(SIGNAL, ["", ""], RED, method, 3)
        sample(SIGNAL, ["", ""], RED, method, 3, track=False)
        sample(SIGNAL, ["", ""], flat, "base", 3)


def test_optimize_warns_of_a_reward_without_effect():
    with pytest.warns(UnguidedWarning, match="the gradient of the reward was 0 for all images"):
        optimize(SIGNAL, [""], FLAT, iterations=1)
    with warnings.catch_warnings():
        warnings.simplefilter("error", UnguidedWarning)
        optimize(SIGNAL, [""], RED, iterations=1)


def test_a_pipeline_warns_of_a_reward_without_effect():
    pipe, arguments = build("sd")
    with pytest.warns(UnguidedWarning, match="the gradient of the reward was 0 for all images"):
        align(pipe, FLAT, "ntrk")("a red fox", seeds=[0], **{**arguments, "num_inference_steps": 2})


@pytest.mark.parametrize("steps", [1, 2])
@pytest.mark.parametrize("method", ["ntrk", "ntrk-x0", "das", "dsg"])
def test_a_method_that_cannot_guide_says_so(method, steps):
    with pytest.warns(UnguidedWarning, match=f"0 of {steps} steps? can be guided.*give 3 steps or more, or use"):
        sample(MODEL, [""], RED, method, steps)


@pytest.mark.parametrize("steps", [1, 5])
def test_a_method_that_resamples_too_late_says_so(steps):
    with pytest.warns(UnguidedWarning, match=f"interval = 5 resamples no particle .* step, number {steps},"):
        sample(MODEL, [""], RED, "fk", steps)


@pytest.mark.parametrize("method, steps", [("ntrk", 3), ("base", 1), ("svdd", 2), ("gper", 1), ("fk", 6)])
def test_others_do_not(method, steps):
    with warnings.catch_warnings():
        warnings.simplefilter("error", UnguidedWarning)
        sample(SIGNAL, [""], RED, method, steps)


def test_a_pipeline_decides_by_its_own_kernel():
    """A flow has nothing to guide in two steps; Stable Diffusion starts with a trace of signal and ends with noise."""
    pipe, arguments = build("flux")
    with pytest.warns(UnguidedWarning, match="0 of 2 steps"):
        align(pipe, RED, "ntrk")("a red fox", seeds=[0], **{**arguments, "num_inference_steps": 2})
    pipe, arguments = build("sd")
    with warnings.catch_warnings():
        warnings.simplefilter("error", UnguidedWarning)
        align(pipe, RED, "ntrk")("a red fox", seeds=[0], **{**arguments, "num_inference_steps": 2})


def test_the_command_shows_it_once(tmp_path, capsys):
    arguments = ["generate", "cat face", "--reward", "redness", "--steps", "2", "--n", "2", "--batch", "1"]
    assert main([*arguments, "--out", str(tmp_path / "run")]) == 0
    assert capsys.readouterr().err.count("noisetilt: warning: 0 of 2 steps can be guided") == 1
