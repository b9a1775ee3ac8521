"""A tiny Qwen-Image with random weights, aligned."""

import pytest
import torch
from tiny_pipelines import build, check_same

from noisetilt import METHODS, align, rewards

PROMPT = "a red fox"
RED = rewards.load("redness")
GUIDED = dict(true_cfg_scale=3.0, negative_prompt="snow")


@pytest.mark.parametrize("guidance", [{}, GUIDED])
def test_base_at_eta_0_equals_the_plain_pipeline(guidance, record_property):
    pipe, arguments = build("qwen")
    noise = torch.randn(1, 16, 16, generator=torch.Generator().manual_seed(0))  # 16 patches of 4 × 2 × 2 numbers
    plain = pipe(PROMPT, latents=noise, **guidance, **arguments).images
    aligned = align(pipe, None, "base", eta=0)(PROMPT, latents=noise, **guidance, **arguments).images
    assert plain.std() > 0.01
    check_same(aligned, plain, record_property)


def test_rewards_are_those_of_the_images_and_ntrk_raises_them():
    """The pipeline decodes the images, and its statements run again for the reward: both must agree."""
    pipe, arguments = build("qwen")
    call = dict(prompt=PROMPT, num_images_per_prompt=4, seeds=[0, 1, 2, 3], **GUIDED, **arguments)
    base, ntrk = (align(pipe, RED, method)(**call) for method in ("base", METHODS["ntrk"].replace(rho=0.3)))
    assert torch.allclose(ntrk.rewards, RED(ntrk.images, [PROMPT] * 4), atol=1e-5)
    assert (ntrk.rewards > base.rewards).all()


def test_the_pipeline_is_left_as_it_was_found():
    pipe, arguments = build("qwen")
    before, scheduler, config = set(vars(pipe)), pipe.scheduler, dict(pipe.config)
    align(pipe, RED, "ntrk")(PROMPT, seeds=[0], **arguments)
    assert pipe.scheduler is scheduler and dict(pipe.config) == config
    assert all(name.startswith("_") for name in set(vars(pipe)) - before)  # those of the pipeline's own last call
    assert all(parameter.requires_grad for parameter in pipe.transformer.parameters())
