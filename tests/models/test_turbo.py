"""emoji64-turbo: one-step samples against those of its teacher."""

import pytest
import torch

from noisetilt import load, sample
from noisetilt.bench.metrics import total_variation
from noisetilt.rewards.scorers import words64 as words

PROMPTS = [f"{p} {words.STYLES[i % 3]}" for i, p in enumerate(words.GRID_PROMPTS[:12])]


@pytest.fixture(scope="module")
def teacher():
    return load("emoji64")


@pytest.fixture(scope="module")
def turbo():
    return load("emoji64-turbo")


@pytest.fixture(scope="module")
def samples(teacher, turbo):
    """Samples of the same noise: one step of turbo, ten deterministic steps of its teacher, and one step of it."""
    runs = {"turbo": (turbo, 1), "teacher": (teacher, 10), "teacher's one step": (teacher, 1)}
    return {name: sample(m, PROMPTS, None, "base", n, eta=0).images for name, (m, n) in runs.items()}


def test_one_step_is_one_network_call(turbo):
    result = sample(turbo, ["cat face"], None, "base", 1)
    assert result.trace.nfe == 1


def test_one_step_follows_the_ode_of_the_teacher(samples):
    """It is nearer to the teacher's ten-step sample of the same noise than the teacher's one-step sample."""
    turbo, blurred = (
        (samples[name] - samples["teacher"]).abs().mean((1, 2, 3)) for name in ("turbo", "teacher's one step")
    )
    assert turbo.mean() < 0.8 * blurred.mean() and (turbo < blurred).float().mean() > 0.7


def test_one_step_is_not_blurred(samples):
    """The total variation is close to that of the teacher's ten-step samples."""
    detail = {name: total_variation(images).mean() for name, images in samples.items()}
    assert 0.75 * detail["teacher"] < detail["turbo"] < 1.5 * detail["teacher"]


def test_images_depend_on_the_noise(turbo):
    images = sample(turbo, ["face"] * 4, None, "base", 1, seeds=[0, 1, 2, 3]).images
    assert torch.pdist(images.flatten(1)).min() > 5


def test_text_encoder_is_that_of_the_teacher(teacher, turbo):
    bags = words.bags(PROMPTS)
    assert torch.equal(teacher.network.encode_text(bags), turbo.network.encode_text(bags))


def test_four_steps_refine_the_one_step_image(turbo, samples):
    """The four-step sample is nearer to the one-step sample of the same noise than samples of other noise are."""
    four = sample(turbo, PROMPTS, None, "base", 4, eta=0).images
    near = (four - samples["turbo"]).flatten(1).norm(dim=1)
    other = sample(turbo, PROMPTS, None, "base", 1, seeds=range(100, 112)).images
    assert near.mean() < (other - samples["turbo"]).flatten(1).norm(dim=1).mean()


def test_guidance_is_rejected():
    with pytest.raises(ValueError, match=r"guidance = 2\.0 .* leave it out"):
        load("emoji64-turbo", guidance=2.0)
    assert load("emoji64-turbo", guidance=None).guidance == 1.0
