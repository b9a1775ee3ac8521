"""The style reward of emoji128's images: its networks, its contract, and that it tells styles apart."""

import json
import shutil

import numpy as np
import pytest
import torch
from PIL import Image

from noisetilt import load, rewards, sample
from noisetilt.rewards.scorers.efficientnet_lite import EfficientNetLite
from noisetilt.rewards.scorers.network import ScorerNetwork, StyleNetwork
from noisetilt.rewards.scorers.style import STYLES, WEIGHTS, load_style_network, style_scores

BOTH = pytest.mark.parametrize("which", ["target", "heldout"])


def images(n=2, side=128, seed=0):
    return torch.rand(n, 3, side, side, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(("variant", "millions"), [("lite0", 3.35), ("lite1", 4.11), ("lite2", 4.78)])
def test_the_backbones_have_the_published_size(variant, millions):
    """Without the classifier: EfficientNet-Lite0, 1 and 2 have 4.65, 5.42 and 6.09 million parameters with it."""
    network = EfficientNetLite(variant).eval().fold()
    assert sum(p.numel() for p in network.parameters()) / 1e6 == pytest.approx(millions, abs=0.01)
    assert network(images(1, 96)).shape == (1, 1280, 3, 3)


@pytest.mark.parametrize("make", [lambda: EfficientNetLite("lite0"), lambda: StyleNetwork("lite1", 5)])
def test_folding_the_normalisation_changes_nothing(make):
    torch.manual_seed(0)
    network = make()
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            torch.nn.init.uniform_(module.running_mean, -0.2, 0.2)
            torch.nn.init.uniform_(module.running_var, 0.5, 2.0)
    network.eval()
    x = 2 * images() - 1
    with torch.no_grad():
        before = network(x)
        after = network.fold()(x)
    assert not any(isinstance(module, torch.nn.BatchNorm2d) for module in network.modules())
    assert torch.allclose(before, after, atol=1e-4)


def test_a_scorer_gives_unit_vectors():
    network = ScorerNetwork("lite0", 5, 7, 11).eval()
    with torch.no_grad():
        styles, vectors = network(2 * images() - 1)
        text = network.text(torch.tensor([[4, 5, 0], [6, 0, 0]]), torch.tensor([[1, 1, 0], [1, 0, 0]]).bool())
    assert styles.shape == (2, 5) and network.concept_logits(vectors).shape == (2, 7)
    assert torch.allclose(vectors.norm(dim=1), torch.ones(2)) and torch.allclose(text.norm(dim=1), torch.ones(2))


@BOTH
def test_scores_and_gradients(which):
    x = images().requires_grad_(True)
    scores = style_scores(x, which)
    assert scores.shape == (2, len(STYLES)) and scores.dtype == x.dtype
    (gradient,) = torch.autograd.grad(scores[:, 0].sum(), x)
    assert gradient.isfinite().all() and gradient.abs().amax() > 0


@BOTH
def test_a_score_depends_on_its_own_image_only(which):
    x = images(3)
    assert torch.allclose(style_scores(x, which)[1:2], style_scores(x[1:2], which), atol=1e-4)


@BOTH
def test_log_odds_are_those_of_a_softmax(which):
    scores = style_scores(images(), which)
    assert torch.allclose(torch.sigmoid(scores.double()).sum(1), torch.ones(2, dtype=torch.double), atol=1e-4)


def test_a_constant_image_has_a_finite_gradient():
    x = torch.ones(1, 3, 128, 128, requires_grad=True)
    (gradient,) = torch.autograd.grad(style_scores(x)[0, 0], x)
    assert gradient.isfinite().all()


@BOTH
@pytest.mark.parametrize("shape", [(300, 512), (40, 72)])
def test_other_sizes_are_resized_with_antialiasing(which, shape):
    """As PIL resizes channels of floats. On noise, a resize without antialiasing gives other scores."""
    noise = torch.rand(2, 3, *shape, generator=torch.Generator().manual_seed(0))
    resized = [
        [Image.fromarray(channel.numpy()).resize((128, 128), Image.Resampling.BILINEAR) for channel in x] for x in noise
    ]
    expected = style_scores(
        torch.from_numpy(np.array([[np.asarray(channel) for channel in x] for x in resized])), which
    )
    assert torch.allclose(style_scores(noise, which), expected, atol=1e-3)
    if shape[0] > 128:
        plain = torch.nn.functional.interpolate(noise, (128, 128), mode="bilinear")
        assert (style_scores(plain, which) - expected).abs().max() > 0.1


@BOTH
def test_it_tells_3d_from_the_other_styles(which):
    """Images of emoji128 that were asked for in 3-D have a higher score than those asked for in a flat style."""
    model = load("emoji128")
    prompts = [f"{thing} {style}" for style in ("3d", "flat", "twemoji") for thing in ("red heart", "house", "bear")]
    pictures = sample(model, prompts, None, "base", 8, seeds=[0, 1, 2] * 3, eta=0.0).images
    values = rewards.load("style:3d", heldout=which == "heldout")(pictures, prompts)
    assert (values[:3] > values[3:6] + 1).all() and (values[:3] > values[6:] + 1).all()


@pytest.mark.parametrize("bad", [torch.zeros(1, 3, 128, 128, dtype=torch.uint8), torch.zeros(3, 128, 128)])
def test_bad_images_are_refused(bad):
    with pytest.raises(ValueError, match=r"the images .* expected"):
        style_scores(bad)


def test_names_and_files(tmp_path):
    with pytest.raises(ValueError, match="no style network 'best'; expected one of target, heldout"):
        load_style_network("best")
    assert load_style_network("target") is load_style_network("target")
    shutil.copytree(str(WEIGHTS), tmp_path / "style")
    digests = json.loads((tmp_path / "style" / "checksums.json").read_text())
    assert set(digests) == {"target.safetensors", "heldout.safetensors"}
    (tmp_path / "style" / "target.safetensors").write_bytes(b"damaged")
    with pytest.raises(ValueError, match="SHA-256"):
        load_style_network("target", folder=tmp_path / "style")


@pytest.mark.parametrize("style", STYLES)
def test_every_style_is_a_reward(style):
    assert rewards.load(f"style:{style}")(images(1), ["cat"]).shape == (1,)
