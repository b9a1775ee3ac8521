"""The sampler as AUTOMATIC1111's and Forge's KDiffusionSampler calls it, with their denoiser's arguments.

The web UIs themselves were not run; the calls follow their sources.
"""

import inspect
import types

import pytest
import torch
from comfyui_pack import TinyDecoder, TinyNet

from noisetilt import METHODS, rewards
from noisetilt.integrations.webui import webui_sampler

RED = rewards.load("redness")


class CFGDenoiser(torch.nn.Module):
    """With the arguments, the counter of steps and the one row per condition of the web UIs' class."""

    def __init__(self):
        super().__init__()
        self.net, self.step, self.seen = TinyNet(), 0, []

    def forward(self, x, sigma, uncond, cond, cond_scale, s_min_uncond, image_cond):
        assert len(x) == len(cond)
        self.seen.append(self.step)
        level = sigma.view(-1, 1, 1, 1)
        out = torch.zeros_like(torch.cat([x, x]))
        out[: len(x)] = self.net(x * (1 + level**2).rsqrt(), sigma, cond)
        out[len(x) :] = self.net(x * (1 + level**2).rsqrt(), sigma, uncond)
        denoised = torch.clone(x - level * out[len(x) :])
        denoised -= cond_scale * level * (out[: len(x)] - out[len(x) :])
        self.step += 1
        return denoised


class VAE(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.decoder = TinyDecoder()

    def decode(self, x):
        return self.decoder.decode(x)

    def process_out(self, x):
        return x / 0.5


def run(forge=False, rows=2, inference=True, reward=RED, **options):
    """As KDiffusionSampler.sample: it passes what the function's signature has."""
    with torch.inference_mode(inference):
        torch.manual_seed(0)
        vae, model = VAE(), CFGDenoiser()
        sd_model = types.SimpleNamespace(first_stage_model=vae, scale_factor=0.5)
        if forge:
            sd_model = types.SimpleNamespace(
                forge_objects=types.SimpleNamespace(vae=types.SimpleNamespace(first_stage_model=vae))
            )
        function = webui_sampler(sd_model, reward, "a red fox", seeds=list(range(rows)), **options)
        parameters = inspect.signature(function).parameters
        assert not {"n", "sigma_min", "sigma_max", "sigma_sched"} & set(parameters)
        given = {"sigmas": torch.tensor([6.0, 3.0, 1.2, 0.4, 0.0]), "eta": 1.0}
        assert set(given) <= set(parameters)
        cond, uncond = torch.randn(rows, 5, 8), torch.randn(rows, 5, 8)
        extra = dict(cond=cond, image_cond=torch.zeros(rows, 1), uncond=uncond, cond_scale=3.0, s_min_uncond=0.0)
        x = torch.randn(rows, 4, 8, 8) * 6.0
        steps = []
        out = function(model, x, extra_args=extra, disable=True, callback=steps.append, **given)
        return out, model, steps


def test_both_web_uis_give_the_same():
    (one, _, steps), (other, _, _) = run(), run(forge=True)
    assert torch.equal(one, other) and [step["i"] for step in steps] == [0, 1, 2, 3]


def test_given_options_replace_those_of_the_web_ui():
    seen = []

    def reward(images, prompts):
        seen.append(prompts)
        return images.mean((1, 2, 3))

    (plain, *_), (same, *_), (other, *_) = run(), run(eta=1.0), run(eta=0.5, prompts=["a", "b"], reward=reward)
    assert torch.equal(plain, same) and not torch.equal(plain, other) and [*seen[0], *seen[1]] == ["a", "b"]


def test_inference_mode_changes_nothing():
    assert torch.equal(run()[0], run(inference=False)[0])


@pytest.mark.parametrize("method", ["ntrk", "dps", "svdd", "ntrk-black-box"])
def test_methods_run_and_count_each_step_once(method):
    chosen = METHODS[method]
    chosen = chosen.replace(particles=3) if chosen.selection.particles > 1 else chosen
    out, model, _ = run(method=chosen)
    assert out.isfinite().all() and model.step == 4
    assert sorted(set(model.seen)) == [0, 1, 2, 3]
