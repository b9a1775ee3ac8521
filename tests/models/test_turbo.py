"""emoji64-turbo: what distillation promises."""

import pytest
import torch

from noisetilt import load, sample
from noisetilt.bench.metrics import total_variation
from noisetilt.rewards.scorers import words

PROMPTS = [f"{p} {words.STYLES[i % 3]}" for i, p in enumerate(words.GRID_PROMPTS[:12])]


@pytest.fixture(scope="module")
def teacher():
    return load("emoji64")


@pytest.fixture(scope="module")
def turbo():
    return load("emoji64-turbo")


@pytest.fixture(scope="module")
def drawn(teacher, turbo):
    """The same noise in one step of turbo, in ten deterministic steps of its teacher, and in one step of it."""
    runs = {"turbo": (turbo, 1), "teacher": (teacher, 10), "teacher's one step": (teacher, 1)}
    return {name: sample(m, PROMPTS, None, "base", n, eta=0).images for name, (m, n) in runs.items()}


def test_one_step_is_one_network_call(turbo):
    result = sample(turbo, ["cat face"], None, "base", 1)
    assert result.trace.nfe == 1


def test_it_follows_the_teachers_ode(drawn):
    """Nearer to what the teacher makes of the same noise in ten steps than the teacher's own single step is."""
    turbo, blurred = (
        (drawn[name] - drawn["teacher"]).abs().mean((1, 2, 3)) for name in ("turbo", "teacher's one step")
    )
    assert turbo.mean() < 0.8 * blurred.mean() and (turbo < blurred).float().mean() > 0.7


def test_it_is_no_blur(drawn):
    """About as much fine detail as the teacher's pictures of ten steps have."""
    detail = {name: total_variation(images).mean() for name, images in drawn.items()}
    assert 0.75 * detail["teacher"] < detail["turbo"] < 1.5 * detail["teacher"]


def test_noise_matters(turbo):
    """Words alone do not settle the picture."""
    images = sample(turbo, ["face"] * 4, None, "base", 1, seeds=[0, 1, 2, 3]).images
    assert torch.pdist(images.flatten(1)).min() > 5


def test_its_text_encoder_is_the_teachers(teacher, turbo):
    bags = words.bags(PROMPTS)
    assert torch.equal(teacher.network.encode_text(bags), turbo.network.encode_text(bags))


def test_more_steps_refine(turbo, drawn):
    """Four steps keep to what one step drew more than another noise's picture does."""
    four = sample(turbo, PROMPTS, None, "base", 4, eta=0).images
    near = (four - drawn["turbo"]).flatten(1).norm(dim=1)
    other = sample(turbo, PROMPTS, None, "base", 1, seeds=range(100, 112)).images
    assert near.mean() < (other - drawn["turbo"]).flatten(1).norm(dim=1).mean()


def test_guidance_is_refused():
    with pytest.raises(ValueError, match=r"guidance = 2\.0 .* leave it out"):
        load("emoji64-turbo", guidance=2.0)
    assert load("emoji64-turbo", guidance=None).guidance == 1.0
