import math

import pytest
import torch

from noisetilt import METHODS, load, rewards, sample

COLOURFULNESS = rewards.load("colourfulness")


def random_images(count=2, size=6):
    return torch.rand(count, 3, size, size, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


def test_formula_on_half_red_half_blue():
    """rg = 1, 0 and yb = 1/2, -1: standard deviations 1/2 and 3/4, means 1/2 and -1/4."""
    image = torch.zeros(1, 3, 4, 4)
    image[:, 0, :2] = image[:, 2, 2:] = 1
    expected = math.hypot(0.5, 0.75) + 0.3 * math.hypot(0.5, 0.25)
    assert COLOURFULNESS(image, [""]).item() == pytest.approx(expected, abs=1e-6)


def test_grey_images_have_none_and_a_finite_gradient():
    grey = torch.full((2, 3, 4, 4), 0.5, requires_grad=True)
    value = COLOURFULNESS(grey, ["", ""])
    (gradient,) = torch.autograd.grad(value.sum(), grey)
    assert torch.equal(value, torch.zeros(2)) and gradient.isfinite().all()


def test_gradient_and_scale():
    images = random_images().requires_grad_()
    assert torch.autograd.gradcheck(lambda x: COLOURFULNESS(x, ["", ""]), images)
    assert torch.allclose(COLOURFULNESS(images / 2, ["", ""]), COLOURFULNESS(images, ["", ""]) / 2)


def test_guidance_raises_it_on_emoji128():
    model, seeds = load("emoji128"), [0, 1]
    base, guided = (
        sample(model, ["cat face"] * 2, COLOURFULNESS, method, 6, seeds).rewards
        for method in ("base", METHODS["ntrk"].replace(rho=0.05))
    )
    assert guided.mean() > base.mean()
