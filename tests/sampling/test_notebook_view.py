"""Results show themselves: in notebooks as images with rewards, bounded and escaped; in terminals as a few lines."""

import base64
import io
import re

import pytest
import torch
from PIL import Image

from noisetilt import METHODS, invert, noise, optimize, rewards, sample
from noisetilt.models.exact import GaussianModel
from noisetilt.sampling import Result, Trace
from noisetilt.sampling.notebook_view import MAX_IMAGES, MAX_SIDE, figures_html

MODEL = GaussianModel(torch.full((3, 8, 8), 0.5), torch.full((8, 8), 0.01))
REDNESS = rewards.load("redness")


def pictures(page):
    sources = re.findall(r'src="data:image/png;base64,([^"]+)"', page)
    return [Image.open(io.BytesIO(base64.b64decode(source))) for source in sources]


def captions(page):
    return re.findall(r"<figcaption>(.*?)</figcaption>", page)


def test_a_result_shows_each_image_with_its_rewards():
    result = sample(MODEL, ["", ""], REDNESS, "ntrk", 2, heldout=rewards.load("redness"))
    page = result._repr_html_()
    assert captions(page) == [
        f"reward {r:.3g}<br>held-out {h:.3g}" for r, h in zip(result.rewards, result.heldout, strict=True)
    ]
    shown = torch.frombuffer(bytearray(pictures(page)[1].tobytes()), dtype=torch.uint8).view(8, 8, 3)
    assert (shown.permute(2, 0, 1) / 255 - result.images[1].clamp(0, 1)).abs().max() < 0.003
    assert "2 network calls per image" in page


def test_a_result_without_rewards_has_images_only():
    page = sample(MODEL, [""], None, "base", 2)._repr_html_()
    assert len(pictures(page)) == 1 and captions(page) == [""]


def test_a_result_of_optimize_shows_the_iterate():
    result = optimize(MODEL, [""], REDNESS, METHODS["gper"].replace(iterations=2))
    assert captions(result._repr_html_()) == [f"reward {result.rewards[0]:.3g}<br>iterate {result.iterations[0]}"]


def test_the_number_of_images_is_bounded():
    page = figures_html(torch.rand(MAX_IMAGES + 3, 3, 4, 4), {"reward": torch.arange(MAX_IMAGES + 3)})
    assert len(pictures(page)) == MAX_IMAGES and f"{MAX_IMAGES} of {MAX_IMAGES + 3} images" in page


def test_large_images_are_reduced():
    (picture,) = pictures(figures_html(torch.rand(1, 3, 4 * MAX_SIDE, 2 * MAX_SIDE), {}))
    assert picture.size == (MAX_SIDE // 2, MAX_SIDE)


def test_of_a_video_the_first_frame_is_shown():
    video = torch.stack([torch.zeros(3, 4, 4), torch.ones(3, 4, 4)])[None]
    page = figures_html(video, {})
    assert pictures(page)[0].getpixel((0, 0)) == (0, 0, 0) and "first of 2 frames" in page


@pytest.mark.parametrize("label", ["<script>alert(1)</script>", 'a" onerror="b'])
def test_text_is_escaped(label):
    page = figures_html(torch.rand(1, 3, 4, 4), {label: [1.0]}, summary=label)
    assert label not in page


def test_values_that_are_not_finite_do_not_break_it():
    images = torch.full((1, 3, 4, 4), torch.nan)
    page = Result(images, torch.tensor([torch.nan]), Trace())._repr_html_()
    assert captions(page) == ["reward nan"]


def test_an_inversion_shows_targets_and_the_images_found_and_its_edit_shows_the_prompts():
    result = invert(MODEL, torch.rand(2, 3, 8, 8), ["<a>", "b"], METHODS["gper"], iterations=1)
    page = result._repr_html_()
    assert len(pictures(page)) == 4
    assert captions(page)[:2] == ["target: &lt;a&gt;", "target: b"]
    assert captions(page)[3].startswith(f"PSNR in dB {result.psnr[1]:.3g}<br>")
    assert captions(result.edit(["c", "d"])._repr_html_()) == ["c", "d"]


def test_a_printed_result_has_values_of_the_images_and_shapes_of_large_tensors():
    result = sample(MODEL, ["", ""], REDNESS, "ntrk", 2)
    text = repr(result)
    assert "images=tensor(2, 3, 8, 8)" in text and f"rewards=[{result.rewards[0]:.4g}, " in text
    assert "heldout=None" in text and "nfe=2" in text


@pytest.mark.parametrize("count", [1, 40])
def test_a_printed_result_is_short(count):
    prompts = [""] * count
    made = [
        sample(MODEL, prompts, REDNESS, "ntrk", 3),
        optimize(MODEL, prompts, REDNESS, METHODS["gper"].replace(iterations=2)),
        invert(MODEL, torch.rand(count, 3, 8, 8), prompts, METHODS["gper"], iterations=2),
        noise.audit(torch.randn(count, 3, 16, 16)),
    ]
    for result in made:
        assert len(repr(result)) < 1500, type(result)
