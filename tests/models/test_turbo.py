"""emoji128-turbo: one-step samples against those of its teacher."""

import pytest
import torch

from noisetilt import load, sample
from noisetilt.bench.metrics import total_variation

PROMPTS = ["cat face 3d", "house noto", "red apple 3d", "pizza twemoji", "rocket flat", "green heart blob"]


@pytest.fixture(scope="module")
def teacher():
    return load("emoji128")


@pytest.fixture(scope="module")
def turbo():
    return load("emoji128-turbo")


@pytest.fixture(scope="module")
def samples(teacher, turbo):
    """Samples of the same noise: turbo's, ten deterministic steps of its teacher, and one step of it."""
    runs = {"one": (turbo, 1), "four": (turbo, 4), "teacher": (teacher, 10), "teacher's one step": (teacher, 1)}
    return {name: sample(m, PROMPTS, None, "base", n, eta=0).images for name, (m, n) in runs.items()}


def distance(a, b):
    return (a - b).abs().mean((1, 2, 3))


def test_one_step_is_one_network_call(turbo):
    result = sample(turbo, ["cat face"], None, "base", 1)
    assert result.trace.nfe == 1


def test_one_step_follows_the_ode_of_the_teacher(samples):
    """It is nearer to the teacher's ten-step sample of the same noise than the teacher's one-step sample."""
    turbo, blurred = (distance(samples[name], samples["teacher"]) for name in ("one", "teacher's one step"))
    assert turbo.mean() < 0.8 * blurred.mean()


def test_one_step_is_not_blurred(samples):
    """The total variation is close to that of the teacher's ten-step samples."""
    detail = {name: total_variation(images).mean() for name, images in samples.items()}
    assert 0.75 * detail["teacher"] < detail["one"] < 1.5 * detail["teacher"]


def test_images_depend_on_the_noise(turbo):
    images = sample(turbo, ["face"] * 4, None, "base", 1, seeds=[0, 1, 2, 3]).images
    assert torch.pdist(images.flatten(1)).min() > 10


def test_all_parts_but_the_transformer_are_those_of_the_teacher(teacher, turbo):
    for name in ("vae", "text_encoder", "text_encoder_2"):
        theirs, ours = (getattr(model.pipe, name).state_dict() for model in (teacher, turbo))
        assert all(torch.equal(ours[key], tensor) for key, tensor in theirs.items())


def test_four_steps_refine_the_one_step_image(turbo, samples):
    """The four-step sample is nearer to the one-step sample of the same noise than samples of other noise are."""
    other = sample(turbo, PROMPTS, None, "base", 1, seeds=range(100, 100 + len(PROMPTS))).images
    assert distance(samples["four"], samples["one"]).mean() < distance(other, samples["one"]).mean()


def test_guidance_is_rejected():
    with pytest.raises(ValueError, match=r"guidance = 2\.0 .* leave it out"):
        load("emoji128-turbo", guidance=2.0)
    assert load("emoji128-turbo", guidance=None).guidance == 1.0
