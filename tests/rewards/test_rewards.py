import pytest
import torch

from noisetilt import rewards
from noisetilt.models.pixels import clamp_unit
from noisetilt.rewards.jpeg import kilobytes

RED = torch.tensor([1.0, 0.0, 0.0])


def plain(colour, size=16):
    return torch.as_tensor(colour).view(1, 3, 1, 1).expand(1, 3, size, size).clone()


def value(name, images):
    return rewards.load(name)(images, [""] * len(images))


@pytest.mark.parametrize(
    "name, colour, expected",
    [
        ("redness", [1.0, 0.0, 0.0], 1.0),
        ("redness", [0.0, 1.0, 0.0], -0.5),
        ("redness", [0.4, 0.4, 0.4], 0.0),
        ("greenness", [0.0, 1.0, 0.0], 1.0),
        ("blueness", [0.0, 0.0, 1.0], 1.0),
        ("brightness", [1.0, 1.0, 1.0], 1.0),
        ("brightness", [0.0, 1.0, 0.0], 0.587),
        ("darkness", [1.0, 1.0, 1.0], 0.0),
        ("saturation", [0.9, 0.5, 0.2], 0.7),
        ("saturation", [0.5, 0.5, 0.5], 0.0),
        ("colour:#ff0000", [1.0, 0.0, 0.0], 0.0),
        ("colour:#ff0000", [0.0, 1.0, 1.0], -3.0),
    ],
)
def test_closed_forms(name, colour, expected):
    assert value(name, plain(colour)).item() == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("name", ["redness", "greenness", "blueness", "brightness", "darkness", "colour:#123456"])
def test_closed_forms_have_exact_gradients(name):
    images = torch.rand(2, 3, 4, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: value(name, x), images)


def test_saturation_rises_along_its_gradient():
    images = torch.rand(2, 3, 4, 4, generator=torch.Generator().manual_seed(0)).requires_grad_()
    (gradient,) = torch.autograd.grad(value("saturation", images).sum(), images)
    assert (value("saturation", images + 0.01 * gradient) > value("saturation", images)).all()


def test_jpeg_both_ways():
    flat, noisy = plain([0.5, 0.5, 0.5], 64), torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    both = torch.cat([flat, noisy])
    assert kilobytes(flat[0], 95) < kilobytes(noisy[0], 95)
    assert torch.equal(value("jpeg", both), -value("jpeg:large", both))
    sizes = torch.tensor([kilobytes(image, 95) for image in both.bfloat16()])
    assert torch.equal(value("jpeg:large", both.bfloat16()), sizes) and (sizes != sizes.bfloat16()).any()
    assert not rewards.load("jpeg").differentiable
    assert not rewards.load("redness - 0.1*jpeg").differentiable


def test_weighted_sums():
    images = torch.rand(3, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    expected = 0.7 * value("redness", images) - 2 * value("brightness", images) + value("saturation", images)
    for text in ("0.7*redness - 2*brightness + saturation", "0.7 * redness + -2*brightness+saturation"):
        assert torch.allclose(value(text, images), expected)
    assert rewards.load("0.7*redness + brightness").name == "0.7*redness + brightness"


@pytest.mark.parametrize(
    "text, word",
    [
        ("rednes", "unknown"),
        ("style:cubist", "unknown"),
        ("colour:#ff00", "colour"),
        ("colour:red", "colour"),
        ("0.7**redness", "cannot read"),
        ("", "cannot read"),
        ("redness +", "cannot read"),
        ("0.5*(redness + jpeg)", "has no parentheses; multiply the weights out"),
        ("aesthetic@/my models/a", "a path after @ may have no spaces; pass it as path="),
        ("0.5*my file.py:calm", "the file .*my file.py does not exist"),
    ],
)
def test_unknown_rewards_are_refused(text, word):
    with pytest.raises(ValueError, match=word):
        rewards.load(text)


def test_clamp_lets_pixels_come_back():
    """Past the border the gradient of a maximised function may lead inwards, never outwards."""
    x = torch.tensor([-0.2, 0.5, 1.2, -0.2, 1.2], requires_grad=True)
    (clamp_unit(x) * torch.tensor([1.0, 1.0, 1.0, -1.0, -1.0])).sum().backward()
    assert x.grad.tolist() == [1.0, 1.0, 0.0, 0.0, -1.0]
    assert clamp_unit(x).tolist() == pytest.approx([0.0, 0.5, 1.0, 0.0, 1.0])
