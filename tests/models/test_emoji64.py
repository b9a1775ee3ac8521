import shutil

import pytest
import torch

from noisetilt import load, rewards, sample
from noisetilt.models.emoji64.model import FOLDER
from noisetilt.models.weights import load_weights
from noisetilt.rewards.scorers import words64 as words


@pytest.fixture(scope="module")
def model():
    return load("emoji64")


def test_denoiser_denoises(model):
    """At a low noise level, the prediction is much nearer to the clean image than the noisy state."""
    clean = sample(model, ["red heart 3d"], None, "base", 12, seeds=[1]).images * 2 - 1
    noise = torch.randn(clean.shape, generator=torch.Generator().manual_seed(0))
    x_t = 0.7 * clean + 0.3 * noise
    x0_hat = model.denoiser(["red heart 3d"])(x_t, 0.3)
    assert (x0_hat - clean).square().mean() < 0.15 * (x_t - clean).square().mean()


def test_images_depend_on_the_prompt(model):
    """A red heart is redder than a green leaf with the same seeds."""
    redness = rewards.load("redness")
    means = [
        redness(sample(model, [prompt] * 4, None, "base", 10).images, [prompt] * 4).mean()
        for prompt in ("red heart", "green leaf")
    ]
    assert means[0] > means[1] + 0.1


def test_layout_predicts_the_mean_image_of_a_prompt(model):
    """The sketch of a prompt is nearer to the mean of its samples than to that of any other prompt."""
    prompts = ["red heart noto", "globe twemoji", "clock noto", "smiling cat face 3d"]
    layout = model.network.layout
    sketches = (layout.sketch(layout(words.bags(prompts))) + 1) / 2
    samples = sample(model, [p for p in prompts for _ in range(2)], None, "base", 10).images
    means = samples.unflatten(0, (4, 2)).mean(1)
    distance = torch.cdist(sketches.flatten(1), means.flatten(1))
    assert torch.equal(distance.argmin(1), torch.arange(4))


def test_images_are_in_range_and_on_white(model):
    images = sample(model, ["cat face", "house"], None, "base", 8).images
    assert images.shape == (2, 3, 64, 64)
    assert images.min() >= 0 and images.max() <= 1
    corners = images[:, :, [0, 0, -1, -1], [0, -1, 0, -1]]
    assert corners.median() > 0.9  # emoji are on white


def test_no_patch_seams(model):
    """On average, neighbouring pixels differ hardly more across patch borders than inside patches.

    In the training images the ratio is 1.06, because drawings tend to begin and end on even pixels.
    """
    prompts = [f"{p} {words.STYLES[i % 3]}" for i, p in enumerate(words.GRID_PROMPTS[:12])]
    images = sample(model, prompts, None, "base", 12).images
    across = torch.arange(63) % 8 == 7
    columns = images.diff(dim=-1).abs().mean(dim=(0, 1, 2))
    rows = images.diff(dim=-2).abs().mean(dim=(0, 1, 3))
    steps = columns + rows
    assert steps[across].mean() < 1.3 * steps[~across].mean()


@pytest.mark.parametrize("method", ["ntrk", "dps"])
def test_guided_methods_increase_the_reward(model, method):
    reward = rewards.load("redness")
    base = sample(model, ["face"] * 2, reward, "base", 10)
    guided = sample(model, ["face"] * 2, reward, method, 10)
    assert (guided.rewards > base.rewards).all() or method == "dps"
    assert guided.rewards.mean() > base.rewards.mean()


def test_guidance_of_one_is_the_conditional_network(model):
    plain = load("emoji64", guidance=1.0)
    x_t = torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    direct = plain.network(x_t, torch.tensor([0.6]), plain.network.encode_text(words.bags(["cat"])))
    assert torch.allclose(plain.denoiser(["cat"])(x_t, 0.6), direct, atol=1e-5)


def test_half_precision_networks_keep_float32_states(model):
    half = load("emoji64", dtype=torch.bfloat16)
    reward = rewards.load("redness")
    images = sample(half, ["red heart"], reward, "ntrk", 6).images
    assert images.dtype == torch.float32 and images.isfinite().all()
    plain = [sample(m, ["red heart"], None, "base", 6).images for m in (half, model)]
    assert (plain[0] - plain[1]).abs().mean() < 0.02


def test_words():
    assert words.known_words("Smiling cats, with a Red heart; 3D!") == ["smiling", "cat", "red", "heart", "3d"]
    bag = words.bags(["cat face", "face of the cat"])
    assert torch.equal(bag[0], bag[1]) and bag[0].sum() == 2
    with pytest.raises(ValueError, match=r"'smilng'.*smiling"):
        words.known_words("smilng cat")


def test_damaged_weights_are_rejected(tmp_path):
    for name in ("emoji64.safetensors", "emoji64.safetensors.sha256"):
        shutil.copy(FOLDER / name, tmp_path / name)
    assert load_weights(tmp_path / "emoji64.safetensors")
    data = bytearray((tmp_path / "emoji64.safetensors").read_bytes())
    data[-1] ^= 1
    (tmp_path / "emoji64.safetensors").write_bytes(data)
    with pytest.raises(ValueError, match="damaged"):
        load_weights(tmp_path / "emoji64.safetensors")


def test_unknown_model_is_rejected():
    with pytest.raises(ValueError, match="emoji64"):
        load("sd15")
