"""Weighted sums, their normalisation by the base model's spread, and rewards of images alone."""

import pytest
import torch

from noisetilt import METHODS, load, optimize, rewards, sample
from noisetilt.rewards import Reward

PROMPTS, SEEDS = ["cat face", "house"], [0, 1]
SPEC = "0.5*style:3d + 0.5*redness"


def test_a_reward_of_images_alone():
    model = load("emoji128")
    one = sample(model, PROMPTS, lambda images: images[:, 0].mean((1, 2)), "ntrk", 4, SEEDS)
    two = sample(model, PROMPTS, lambda images, prompts: images[:, 0].mean((1, 2)), "ntrk", 4, SEEDS)
    assert torch.equal(one.images, two.images) and torch.equal(one.rewards, two.rewards)


def test_a_module_and_a_reward_of_images_alone():
    class Net(torch.nn.Module):
        def forward(self, images):
            return images.mean((1, 2, 3))

    images = torch.rand(2, 3, 4, 4)
    for reward in (Net(), Reward("mean", lambda images: images.mean((1, 2, 3)))):
        total = rewards.weighted_sum([(2.0, reward), (1.0, rewards.load("redness"))])
        expected = 2 * images.mean((1, 2, 3)) + rewards.load("redness")(images, ["", ""])
        assert torch.allclose(total(images, ["", ""]), expected)


def test_normalised_terms_have_unit_spread():
    images = torch.rand(8, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    images = images * torch.linspace(0.2, 1, 8).view(-1, 1, 1, 1)
    texts = [""] * 8
    total = rewards.load("2*brightness - 3*redness", normalise="base")
    with pytest.raises(ValueError, match="no images of the base model yet"):
        total(images, texts)
    a, b = (rewards.load(name)(images, texts) for name in ("brightness", "redness"))
    assert torch.allclose(total.normalised(images, texts)(images, texts), 2 * a / a.std() - 3 * b / b.std(), rtol=1e-4)
    with pytest.raises(ValueError, match="standard deviation 0"):
        total.normalised(images[:1].expand(3, -1, -1, -1), texts[:3])
    with pytest.raises(ValueError, match="not a sum"):
        rewards.load("redness").normalised(images, texts)
    with pytest.raises(ValueError, match="normalise = 'other'"):
        rewards.load(SPEC, normalise="other")


def test_sample_normalises_on_images_of_the_base_model():
    """Both parts rise, where the plain sum follows the one with the larger spread; the base images are counted."""
    model, tilt = load("emoji128"), METHODS["ntrk"].replace(rho=0.1)
    base = sample(model, PROMPTS, None, "base", 8, SEEDS)
    guided = sample(model, PROMPTS, rewards.load(SPEC, normalise="base"), tilt, 8, SEEDS)
    plain = sample(model, PROMPTS, rewards.load(SPEC), tilt, 8, SEEDS)
    red, style = rewards.load("redness"), rewards.load("style:3d")
    assert red(guided.images, PROMPTS).mean() > red(plain.images, PROMPTS).mean() + 0.005
    for part in (red, style):
        assert part(guided.images, PROMPTS).mean() > part(base.images, PROMPTS).mean()
    assert guided.trace.nfe == plain.trace.nfe + 8 * 16 / 2


def test_optimize_normalises_too():
    model = load("emoji128-turbo")
    result = optimize(model, ["house"], rewards.load(SPEC, normalise="base"), "gper", iterations=2, seeds=[0])
    assert result.rewards.isfinite().all() and float(result.trace.nfe[0]) == 3 + 16
