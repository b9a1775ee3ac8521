"""Schedulers that clip x̂_0: `clip_sample`, which is on by default in DDIM, DDPM and LCM, and `thresholding`."""

import diffusers
import pytest
import torch
from tiny_pipelines import BETAS, SIZE, build, check_same

from noisetilt import METHODS, align, rewards
from noisetilt.sampling.rng import PerImageRNG

RED = rewards.load("redness")
PROMPT = "a red fox"
SCHEDULE = {name: value for name, value in BETAS.items() if name != "clip_sample"}
CLIP, TIGHT, DYNAMIC = {}, dict(clip_sample_range=0.5), dict(clip_sample=False, thresholding=True, sample_max_value=2.0)


def clipping(kind, family="sd", **options):
    """A tiny pipeline whose x̂_0 exceeds the limits, and its start."""
    pipe, arguments = build(family)
    schedule = {name: value for name, value in SCHEDULE.items() if name != "steps_offset" or kind != "LCM"}
    pipe.scheduler = getattr(diffusers, f"{kind}Scheduler")(**schedule, **options)
    return pipe, dict(arguments, latents=3 * torch.randn(1, 4, SIZE // 2, SIZE // 2))


@pytest.mark.parametrize("family", ["sd", "pixart"])
@pytest.mark.parametrize(
    "kind, options",
    [
        ("DDIM", CLIP),
        ("DDIM", TIGHT),
        ("DDIM", DYNAMIC),
        ("DDIM", dict(prediction_type="v_prediction")),
        ("DDIMParallel", CLIP),
        ("DPMSolverMultistep", dict(solver_order=1, final_sigmas_type="zero", thresholding=True, sample_max_value=2.0)),
    ],
)
def test_base_at_eta_0_is_the_plain_pipeline(family, kind, options, record_property):
    pipe, call = clipping(kind, family, **options)
    plain = pipe(PROMPT, **call).images
    check_same(align(pipe, None, "base", eta=0.0)(PROMPT, **call).images, plain, record_property)
    pipe.scheduler = type(pipe.scheduler).from_config(pipe.scheduler.config, clip_sample=False, thresholding=False)
    assert (pipe(PROMPT, **call).images - plain).abs().max() > 1e-3


@pytest.mark.parametrize("options", [CLIP, TIGHT, DYNAMIC])
@pytest.mark.parametrize("kind", ["DDIM", "DDPM"])
def test_eta_1_is_the_plain_pipeline_with_the_same_noise(kind, options, monkeypatch, record_property):
    pipe, call = clipping(kind, **options)
    streams = PerImageRNG([4], 1, (4, SIZE // 2, SIZE // 2))
    module = f"diffusers.schedulers.scheduling_{kind.lower()}"
    monkeypatch.setattr(f"{module}.randn_tensor", lambda *args, **kwargs: streams.normal().flatten(0, 1))
    plain = pipe(PROMPT, **call, **(dict(eta=1.0) if kind == "DDIM" else {})).images
    check_same(align(pipe, None, "base")(PROMPT, seeds=[4], **call).images, plain, record_property)


def test_full_renoising_is_lcm_with_the_same_noise(monkeypatch, record_property):
    """LCM's boundary scaling is 1 up to 1e-6 at its timesteps, except for the last."""
    pipe, call = clipping("LCM", clip_sample=True, timestep_scaling=1e4)
    streams = PerImageRNG([4], 1, (4, SIZE // 2, SIZE // 2))
    module = "diffusers.schedulers.scheduling_lcm.randn_tensor"
    monkeypatch.setattr(module, lambda *args, **kwargs: streams.normal().flatten(0, 1))
    plain = pipe(PROMPT, **call).images
    same = align(pipe, None, "base", eta=float("inf"))(PROMPT, seeds=[4], **call).images
    check_same(same, plain, record_property, 1e-4)


@pytest.mark.parametrize("options", [CLIP, DYNAMIC])
def test_guidance_follows_the_clipped_prediction(options):
    pipe, call = clipping("DDIM", **options)
    base, tilted = (align(pipe, RED, name)(PROMPT, seeds=[0], **call) for name in ("base", "ntrk"))
    assert tilted.rewards > base.rewards and tilted.trace.gradient_norm.isfinite().all()


@pytest.mark.parametrize(
    "name, options", [("ntrk", dict(whitened="path")), ("gper", dict(chain_steps=2, iterations=2))]
)
def test_methods_that_need_the_unclipped_noise_are_refused(name, options):
    pipe, call = clipping("DDIM")
    del call["latents"]
    aligned = align(pipe, RED, METHODS[name].replace(**options))
    with pytest.raises(ValueError, match=r"DDIMScheduler clips .* clip_sample=False, thresholding=False"):
        aligned(PROMPT, seeds=[0], **call)
    pipe.scheduler = diffusers.DDIMScheduler.from_config(pipe.scheduler.config, clip_sample=False, thresholding=False)
    assert aligned(PROMPT, seeds=[0], **call).images.isfinite().all()


@pytest.mark.parametrize("kind", ["EulerDiscrete", "PNDM"])
def test_schedulers_made_from_a_config_that_clips_do_not(kind, record_property):
    """The config keeps the option of another class."""
    pipe, call = clipping("DDIM")
    pipe.scheduler = getattr(diffusers, f"{kind}Scheduler").from_config(pipe.scheduler.config, skip_prk_steps=True)
    found = align(pipe, None, "base", eta=0.0)(PROMPT, **call).images
    if kind == "PNDM":  # replaced by DDIM
        pipe.scheduler = diffusers.DDIMScheduler.from_config(pipe.scheduler.config, clip_sample=False)
    check_same(found, pipe(PROMPT, **call).images, record_property)


def test_a_scheduler_that_has_the_option_but_does_not_clip_is_followed(record_property):
    pipe, call = clipping("CogVideoXDDIM")
    assert pipe.scheduler.config.clip_sample
    plain = pipe(PROMPT, **call).images
    check_same(align(pipe, None, "base", eta=0.0)(PROMPT, **call).images, plain, record_property)
