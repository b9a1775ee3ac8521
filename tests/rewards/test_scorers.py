"""The scorers' contract: shapes, gradients, independence of the batch, refusals, and sense on held-out pictures."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from noisetilt.rewards import scorers
from noisetilt.rewards.checksums import read_verified
from noisetilt.rewards.scorers import words64 as words

DATA = Path(__file__).parents[1] / "data"
BOTH = pytest.mark.parametrize("which", ["target", "heldout"])


@pytest.fixture(scope="module")
def pictures():
    """24 pictures that no scorer was trained on, (24, 3, 64, 64) in [0, 1], eight of each style."""
    sheet = np.asarray(Image.open(DATA / "heldout_emoji.png").convert("RGB"))
    tiles = sheet.reshape(3, 64, 8, 64, 3).transpose(0, 2, 4, 1, 3).reshape(24, 3, 64, 64)
    return torch.from_numpy(tiles.copy()) / 255.0


@pytest.fixture(scope="module")
def labels():
    return json.loads((DATA / "heldout_emoji.json").read_text())


def styles_of(labels):
    return torch.tensor([words.STYLES.index(one["style"]) for one in labels])


@BOTH
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_shapes_and_dtypes_follow_the_images(which, dtype, pictures, labels):
    images = pictures[:5].to(dtype)
    scorer = scorers.load_scorer(which)
    style, alignment = scorer.style(images), scorer.alignment(images, [one["name"] for one in labels[:5]])
    assert style.shape == (5, 3) and style.dtype == dtype
    assert alignment.shape == (5,) and alignment.dtype == dtype
    assert torch.isfinite(style).all() and torch.isfinite(alignment).all()


@BOTH
@pytest.mark.parametrize("spread", [1.0, 3.0])
def test_gradient_is_that_of_finite_differences_in_and_out_of_range(which, spread, pictures):
    scorer = scorers.load_scorer(which, dtype=torch.float64)
    images = (0.5 + spread * (pictures[6:9].double() - 0.5)).requires_grad_()
    prompts = ["red heart", "cat face", "house"]
    direction = torch.randn(images.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))

    def value(x):
        return scorer.style(x).sum(1) + scorer.alignment(x, prompts)

    (gradient,) = torch.autograd.grad(value(images).sum(), images)
    step = 1e-5
    difference = (value(images + step * direction) - value(images - step * direction)) / (2 * step)
    torch.testing.assert_close((gradient * direction).sum((1, 2, 3)), difference, rtol=1e-5, atol=1e-7)
    assert (gradient.flatten(1).norm(dim=1) > 1e-3).all()


@BOTH
def test_a_picture_scores_the_same_in_any_batch(which, pictures, labels):
    scorer = scorers.load_scorer(which)
    names = [one["name"] for one in labels]
    together = scorer.style(pictures), scorer.alignment(pictures, names)
    order = torch.randperm(24, generator=torch.Generator().manual_seed(1))
    permuted = scorer.style(pictures[order]), scorer.alignment(pictures[order], [names[i] for i in order])
    alone = scorer.style(pictures[3:4]), scorer.alignment(pictures[3:4], names[3:4])
    for all_, moved, one in zip(together, permuted, alone, strict=True):
        torch.testing.assert_close(all_[order], moved, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(all_[3:4], one, rtol=1e-4, atol=1e-4)


@BOTH
def test_heldout_pictures_are_of_their_style(which, pictures, labels):
    found = scorers.load_scorer(which).style(pictures).argmax(1)
    assert (found == styles_of(labels)).float().mean() >= 0.7


@BOTH
def test_heldout_pictures_align_with_their_names_better_than_with_others(which, pictures, labels):
    scorer = scorers.load_scorer(which)
    names = [one["name"] for one in labels]
    own = scorer.alignment(pictures, names)
    wrong = torch.stack([scorer.alignment(pictures, names[k:] + names[:k]) for k in (3, 8, 13)])
    assert (own > wrong).float().mean() >= 0.75
    assert own.mean() > wrong.mean() + 1


@BOTH
def test_noise_and_blank_paper_have_no_style(which, pictures):
    scorer = scorers.load_scorer(which)
    noise = torch.rand(8, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    blank = torch.ones(1, 3, 64, 64)
    real = scorer.style(pictures).max(1).values.median()
    assert scorer.style(torch.cat([noise, blank])).max() < min(0.0, real.item())


@BOTH
def test_style_words_do_not_count_for_alignment(which, pictures):
    scorer = scorers.load_scorer(which)
    plain, styled = (scorer.alignment(pictures[:2], [p] * 2) for p in ("cat face", "cat face 3d"))
    torch.testing.assert_close(plain, styled)


def test_the_scorers_differ_in_network_and_agree_in_ranking(pictures):
    target, heldout = (scorers.load_scorer(which) for which in ("target", "heldout"))
    assert type(target.encoder) is not type(heldout.encoder)
    both = torch.stack([s.style(pictures).flatten() for s in (target, heldout)])
    assert torch.corrcoef(both)[0, 1] > 0.4


@BOTH
def test_scorers_are_frozen_and_kept(which):
    scorer = scorers.load_scorer(which)
    assert not scorer.training and not any(p.requires_grad for p in scorer.parameters())
    assert scorers.load_scorer(which) is scorer


@pytest.mark.parametrize("prompts", [["cat"], "cat"])
def test_a_wrong_number_of_prompts_is_refused(prompts, pictures):
    with pytest.raises(ValueError, match="one prompt per image"):
        scorers.load_scorer("target").alignment(pictures[:3], prompts)


def test_prompts_of_unknown_words_or_style_alone_are_refused(pictures):
    scorer = scorers.load_scorer("target")
    with pytest.raises(ValueError, match="does not know"):
        scorer.alignment(pictures[:1], ["xylograph"])
    with pytest.raises(ValueError, match="names no content"):
        scorer.alignment(pictures[:1], ["twemoji"])


@pytest.mark.parametrize("shape", [(3, 64, 64), (1, 3, 32, 32), (1, 4, 64, 64)])
def test_images_of_another_shape_are_refused(shape):
    with pytest.raises(ValueError, match="expect a float batch"):
        scorers.load_scorer("target").style(torch.zeros(shape))


def test_bytes_are_refused_as_images():
    with pytest.raises(ValueError, match="uint8"):
        scorers.load_scorer("target").style(torch.zeros(1, 3, 64, 64, dtype=torch.uint8))


def test_an_unknown_scorer_is_refused():
    with pytest.raises(ValueError, match="target, heldout"):
        scorers.load_scorer("best")


def test_changed_or_missing_weights_are_refused(tmp_path):
    for name in ("target.safetensors", "checksums.json"):
        shutil.copy(str(scorers.WEIGHTS / name), tmp_path / name)
    weights = tmp_path / "target.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    with pytest.raises(ValueError, match="SHA-256"):
        scorers.load_scorer("target", folder=tmp_path)
    weights.unlink()
    with pytest.raises(ValueError, match="missing"):
        scorers.load_scorer("target", folder=tmp_path)


@BOTH
def test_weights_say_where_they_come_from_and_are_small(which):
    path = Path(str(scorers.WEIGHTS / f"{which}.safetensors"))
    digests = json.loads((scorers.WEIGHTS / "checksums.json").read_text("utf-8"))
    _, metadata = read_verified(path, digests[path.name])
    assert {"which", "steps", "vocabulary", "style", "top5"} <= metadata.keys() and metadata["which"] == which
    assert path.stat().st_size < 4e6


def test_logit_margin_is_the_log_odds():
    logits = torch.randn(6, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    p = logits.softmax(1)
    torch.testing.assert_close(scorers.logit_margin(logits), torch.log(p / (1 - p)))
    huge = torch.tensor([[800.0, 0.0, 0.0, 0.0]], dtype=torch.float64)
    assert scorers.logit_margin(huge)[0, 0] == pytest.approx(800 - np.log(3))


def test_texts_that_say_the_same_are_no_rivals():
    prompts = words.bags(["cat face", "red apple"])
    texts = words.bags(["grinning cat face", "cat", "dog face", "red apple", "green apple"])
    expected = [[True, True, False, False, False], [False, False, False, True, False]]
    assert scorers.same_meaning(prompts, texts).tolist() == expected
