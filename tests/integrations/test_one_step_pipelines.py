"""Noise ascent on one-step pipelines, set up as the distilled models are."""

import functools

import diffusers
import pytest
import torch
from tiny_pipelines import FAMILIES, flux, sana, sd, sdxl

from noisetilt import METHODS, align, rewards
from noisetilt.initial_noise import Ascent

RED = rewards.load("redness")
ASCENTS = [name for name, method in METHODS.items() if isinstance(method.initial, Ascent)]


def turbo(make):
    """Euler on trailing timesteps, without classifier-free guidance: SD-Turbo and SDXL-Turbo."""
    pipe = make()
    pipe.scheduler = diffusers.EulerDiscreteScheduler(
        beta_schedule="scaled_linear", beta_start=0.00085, beta_end=0.012, timestep_spacing="trailing"
    )
    return pipe


def schnell():
    """A flow without shift and without guidance embedding: FLUX.1-schnell."""
    pipe = flux(guidance=False)
    pipe.scheduler = diffusers.FlowMatchEulerDiscreteScheduler(shift=1.0)
    return pipe


ONE_STEP = {
    "sd-turbo": (lambda: turbo(sd), "sd", dict(guidance_scale=0.0)),
    "sdxl-turbo": (lambda: turbo(sdxl), "sdxl", dict(guidance_scale=0.0)),
    "flux-schnell": (schnell, "flux", dict(guidance_scale=0.0)),
    "sana-sprint": (lambda: sana(sprint=True), "sana", dict(guidance_scale=4.5, intermediate_timesteps=None)),
}


@functools.cache
def started(family):
    """A tiny pipeline, arguments for it, and the reward of the picture of its plain noise."""
    make, like, more = ONE_STEP[family]
    torch.manual_seed(0)
    pipe = make()
    pipe.set_progress_bar_config(disable=True)
    call = {**FAMILIES[like][1], "num_inference_steps": 1, **more}
    return pipe, call, align(pipe, RED, "base")("a red fox", seeds=[0], **call).rewards


@pytest.mark.parametrize("name", ASCENTS)
@pytest.mark.parametrize("family", ONE_STEP)
def test_every_ascent_on_every_one_step_family(family, name):
    """It climbs from the plain noise: each iterate costs one call, and the picture of the best another."""
    pipe, call, before = started(family)
    method = METHODS[name].replace(iterations=3, particles=1)
    after = align(pipe, RED, method)("a red fox", seeds=[0], **call)
    assert after.rewards > before and after.images.isfinite().all()
    assert after.trace.nfe == 5
