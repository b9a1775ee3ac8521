"""Noise ascent as the initial noise of diffusers pipelines, on tiny instances."""

import importlib
import sys
from pathlib import Path

import diffusers
import pytest
import torch
from PIL import Image
from tiny_pipelines import build, sd

import noisetilt
from noisetilt import METHODS

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"


def turbo():
    """Stable Diffusion as SD-Turbo is set up: Euler steps on trailing timesteps."""
    torch.manual_seed(0)
    pipe = sd()
    pipe.scheduler = diffusers.EulerDiscreteScheduler(
        beta_schedule="scaled_linear", beta_start=0.00085, beta_end=0.012, timestep_spacing="trailing"
    )
    pipe.set_progress_bar_config(disable=True)
    return pipe


@pytest.fixture
def example(monkeypatch):
    monkeypatch.setattr(sys, "path", [str(EXAMPLES), *sys.path])
    return importlib.import_module("ascent_sd_turbo")


def test_the_example_runs_as_it_is(example, tmp_path, capsys):
    example.main(["--iterations", "3", "--out", str(tmp_path)])
    assert "3 iterations: reward" in capsys.readouterr().out
    assert Image.open(tmp_path / "ascent_sd_turbo.png").size == (32, 16)


@pytest.mark.parametrize("method", ["gper", "gper-both", "reno"])
def test_the_example_climbs_on_a_one_step_pipeline(method, example):
    pipe = turbo()
    before, after = (example.optimise(pipe, "a red fox", method, 3, iterations=n) for n in (0, 8))
    assert after.rewards.item() > before.rewards.item()
    # Each iterate once, the start included, and the pipeline's own step.
    assert (before.trace.nfe, after.trace.nfe) == (2, 10)


def test_a_flow_starts_from_ascended_noise_and_goes_on(example):
    pipe, arguments = build("sd3")
    warm = example.warm
    method = METHODS["gper"].replace(iterations=6)
    base = noisetilt.align(pipe, reward=warm, method="base")("a cat", seeds=[1], **arguments)
    climbed = noisetilt.align(pipe, reward=warm, method=method)("a cat", seeds=[1], **arguments)
    assert climbed.trace.nfe == base.trace.nfe + 7
    assert not torch.allclose(climbed.images, base.images)


@pytest.mark.parametrize("knobs", [{"chain_steps": 2}, {"draws": 2}])
def test_what_a_pipeline_cannot_do_is_refused(knobs, example):
    with pytest.raises(ValueError, match="pipeline's loop"):
        noisetilt.align(turbo(), reward=example.warm, method=METHODS["gper"].replace(**knobs))
