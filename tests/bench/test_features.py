"""The metrics' own network: shapes, sense on held-out pictures, and that it tells good sets from bad ones."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from noisetilt.bench import features
from noisetilt.bench.metrics import frechet_distance
from noisetilt.rewards.scorers.words64 import STYLES

DATA = Path(__file__).parents[1] / "data"


@pytest.fixture(scope="module")
def pictures():
    sheet = np.asarray(Image.open(DATA / "heldout_emoji.png").convert("RGB"))
    tiles = sheet.reshape(3, 64, 8, 64, 3).transpose(0, 2, 4, 1, 3).reshape(24, 3, 64, 64)
    return torch.from_numpy(tiles.copy()) / 255.0


def test_features_have_their_shape_in_any_batch_size(pictures):
    whole = features.features(pictures)
    assert whole.shape == (24, features.FEATURES) and whole.dtype == torch.float32 and (whole >= 0).all()
    torch.testing.assert_close(features.features(pictures, batch=7), whole, rtol=1e-4, atol=1e-5)


def test_classes_of_heldout_pictures(pictures):
    labels = json.loads((DATA / "heldout_emoji.json").read_text())
    kind, style = features.classify(pictures)
    assert kind.shape == (24, len(features.kinds())) and style.shape == (24, 3)
    torch.testing.assert_close(kind.sum(1), torch.ones(24))
    right_style = [STYLES[i] == one["style"] for i, one in zip(style.argmax(1), labels, strict=True)]
    best = [[features.kinds()[i] for i in row] for row in kind.topk(5).indices]
    right_kind = [one["kind"] in five for five, one in zip(best, labels, strict=True)]
    assert np.mean(right_style) >= 0.7 and np.mean(right_kind) >= 0.5


def test_distance_grows_with_noise(pictures):
    noise = torch.randn(pictures.shape, generator=torch.Generator().manual_seed(0))
    clean = features.features(pictures)
    apart = [frechet_distance(clean, features.features(pictures + s * noise)) for s in (0.05, 0.2, 0.6)]
    assert 0 < apart[0] < apart[1] < apart[2]


def test_textures_notice_more_of_noise_and_blur_than_features(pictures):
    noisy = pictures + 0.2 * torch.randn(pictures.shape, generator=torch.Generator().manual_seed(0))
    blurred = torch.nn.functional.avg_pool2d(pictures, 5, stride=1, padding=2, count_include_pad=False)

    def moved(look, worse):
        clean = look(pictures)
        return frechet_distance(clean, look(worse)) / clean.var(0).sum().item()

    assert features.textures(pictures).shape == (24, 48)
    for worse in (noisy, blurred):
        assert moved(features.textures, worse) > 1.3 * moved(features.features, worse)


def test_images_of_another_shape_are_refused():
    with pytest.raises(ValueError, match="expect a float batch"):
        features.features(torch.zeros(2, 3, 32, 32))
