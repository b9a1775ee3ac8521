"""Alignment, concepts and ImageNet's labels: shapes, gradients, independence of the batch, refusals, and sense on
held-out images."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from noisetilt import rewards
from noisetilt.rewards.scorers import concepts, imagenet, words
from noisetilt.rewards.scorers.efficientnet_lite import FEATURES

DATA = Path(__file__).parents[1] / "data"
BOTH = pytest.mark.parametrize("which", ["target", "heldout"])
EVERY = pytest.mark.parametrize("name", ["alignment", "concept:cat face", "style:3d", "classifier:imagenet:teapot"])


@pytest.fixture(scope="module")
def images():
    """24 images that no scorer was trained on, (24, 3, 128, 128) in [0, 1]."""
    sheet = np.asarray(Image.open(DATA / "heldout_emoji.png").convert("RGB"))
    tiles = sheet.reshape(3, 64, 8, 64, 3).transpose(0, 2, 4, 1, 3).reshape(24, 3, 64, 64)
    small = torch.from_numpy(tiles.copy()) / 255.0
    return torch.nn.functional.interpolate(small, size=128, mode="bicubic").clamp(0, 1)


@pytest.fixture(scope="module")
def names():
    """The words of their names that the scorer knows."""
    found = [one["name"] for one in json.loads((DATA / "heldout_emoji.json").read_text())]
    return [" ".join(word for word in name.split() if word in words.rows()) for name in found]


@EVERY
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("size", [(128, 128), (96, 160)])
def test_values_follow_the_images(name, dtype, size):
    x = torch.rand(2, 3, *size, generator=torch.Generator().manual_seed(0)).to(dtype)
    values = rewards.load(name)(x, ["cat face", "red heart"])
    assert values.shape == (2,) and values.dtype == dtype and values.isfinite().all()


@EVERY
def test_a_small_step_along_the_gradient_raises_the_value(name, images):
    """By what the gradient says, within the curvature of a network with rectifiers."""
    reward, prompts = rewards.load(name), ["red heart", "cat face"]
    x = images[6:8].clone().requires_grad_()
    (gradient,) = torch.autograd.grad(reward(x, prompts).sum(), x)
    size = gradient.flatten(1).norm(dim=1)
    step = 0.001 * gradient / size[:, None, None, None]
    with torch.no_grad():
        up, down = (reward(x + sign * step, prompts) for sign in (1, -1))
    assert ((up - down) / 0.002 > 0.5 * size).all() and ((up - down) / 0.002 < 1.2 * size).all()


@EVERY
def test_an_image_scores_the_same_in_any_batch(name, images, names):
    reward = rewards.load(name)
    together, alone = reward(images[:6], names[:6]), reward(images[3:4], names[3:4])
    torch.testing.assert_close(together[3:4], alone, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("heldout", [False, True])
def test_heldout_images_align_with_their_names_better_than_with_others(heldout, images, names):
    reward = rewards.load("alignment", heldout=heldout)
    own = reward(images, names)
    wrong = torch.stack([reward(images, names[k:] + names[:k]) for k in (3, 8, 13)])
    assert (own > wrong).float().mean() >= 0.8
    assert own.mean() > wrong.mean() + 2


@pytest.mark.parametrize("heldout", [False, True])
def test_a_concept_has_higher_log_odds_in_its_own_image(heldout, images, names):
    for name in ("dagger", "scorpion", "crayon"):
        values = rewards.load(f"concept:{name}", heldout=heldout)(images[::2], names[::2])
        own = names[::2].index(name) if name in names[::2] else None
        others = values if own is None else torch.cat([values[:own], values[own + 1 :]])
        mine = rewards.load(f"concept:{name}", heldout=heldout)(images[names.index(name)][None], [name])
        assert mine > others.median() + 1


def test_a_concept_by_its_emoji_or_its_words_in_any_order():
    rows = {concepts.concept_row(name) for name in ("tiger face", "🐯", "face tiger", " Tiger Face ")}
    assert len(rows) == 1
    assert concepts.concept_row("❤️") == concepts.concept_row("red heart") != rows.pop()


def test_style_words_and_stop_words_do_not_count_for_alignment(images):
    reward = rewards.load("alignment")
    plain, *styled = (reward(images[:2], [p] * 2) for p in ("cat face", "a cat face in 3d style", "3-D cat face"))
    for values in styled:
        torch.testing.assert_close(plain, values)


def test_plurals_and_emoji_are_words():
    assert torch.equal(words.bags(["kittens"]), words.bags(["kitten"]))
    assert words.bags(["🐱 🐶"]).sum() == 2 and words.bags(["sad, kittens!"]).sum() == 2


@EVERY
def test_target_and_heldout_differ_and_agree(name, images, names):
    if not rewards.has_heldout(name):
        return
    both = torch.stack([rewards.load(name, heldout=h)(images, names) for h in (False, True)])
    assert torch.corrcoef(both)[0, 1] > 0.4 and (both[0] - both[1]).abs().max() > 0.1


def test_log_odds():
    logits, chosen = torch.tensor([[0.0, 1.0, 2.0]]), torch.tensor([[False, True, False]])
    expected = 1.0 - torch.logsumexp(torch.tensor([0.0, 2.0]), 0)
    assert concepts.log_odds(logits, chosen).item() == pytest.approx(expected.item())


def test_every_class_of_imagenet_has_a_name_of_its_own_or_is_refused():
    """No name gives another class than one of those that have it."""
    classes = {}
    for row, line in enumerate(imagenet.labels()):
        for name in line.split(","):
            classes.setdefault(name.strip(), set()).add(row)
    shared = {name for name, rows in classes.items() if len(rows) > 1}
    assert len(shared) == 18
    for name, rows in classes.items():
        if name not in shared:
            assert imagenet.label_row(name) in rows
    for name in shared:
        with pytest.raises(ValueError, match="2 classes with the label"):
            imagenet.label_row(name)


def test_a_label_by_its_number_or_one_of_its_names():
    assert imagenet.label_row("teapot") == imagenet.label_row("849") == 849
    assert imagenet.label_row("Carassius auratus") == imagenet.label_row("goldfish") == 1
    assert imagenet.label_row("cardigan") == 474 and imagenet.label_row("Cardigan") == 264  # the garment, and the dog
    assert imagenet.label_row("Giant_Panda") == 388 and imagenet.label_row("tam-tam") == 577
    assert len(imagenet.labels()) == 1000
    assert imagenet.load_imagenet_network("cpu").classifier.weight.shape == (1000, FEATURES)


@BOTH
def test_networks_are_frozen_and_kept(which):
    network = concepts.load_concept_network(which)
    assert not network.training and not any(p.requires_grad for p in network.parameters())
    assert concepts.load_concept_network(which) is network
    assert concepts.load_concept_network(which, "cpu") is concepts.load_concept_network(which, torch.device("cpu"))


def test_rewards_first_evaluated_in_inference_mode_have_a_gradient():
    """In a process of its own, because the networks are loaded once in a process."""
    code = """
import torch
from noisetilt import rewards

for name in ("alignment", "concept:cat face", "style:3d", "classifier:imagenet:teapot"):
    reward, images = rewards.load(name), torch.rand(1, 3, 32, 32)
    with torch.inference_mode():
        value = reward(images, ["cat face"])
    again = reward(images.requires_grad_(), ["cat face"])
    again.sum().backward()
    assert torch.allclose(again, value, atol=1e-4) and images.grad.abs().max() > 0, name
"""
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)


def test_rewards_first_evaluated_under_autocast_compute_in_float32():
    """There and afterwards; in a process of its own, because networks and texts are kept in a process."""
    code = """
import torch
from noisetilt import rewards

for name in ("alignment", "concept:cat face", "style:3d", "classifier:imagenet:teapot"):
    reward, images = rewards.load(name), torch.rand(1, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    with torch.autocast("cpu", torch.bfloat16):
        inside = reward(images.requires_grad_(), ["cat face"])
    outside = reward(images, ["cat face"])
    outside.sum().backward()
    assert inside.dtype == torch.float32 and torch.allclose(inside, outside, atol=1e-5), name
"""
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)


@pytest.mark.parametrize("prompts", [["cat"], "cat"])
def test_a_wrong_number_of_prompts_is_refused(prompts, images):
    with pytest.raises(ValueError, match="one prompt per image"):
        rewards.load("alignment")(images[:3], prompts)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("concept:tigr", "no concept 'tigr'; nearest names: .*tiger"),
        ("concept:", "no concept ''"),
        ("concept:👍🏽", "no concept '👍🏽'; nearest names: thumbs up$"),
        ("concept:🧑🏽‍🚒", "nearest names: firefighter$"),
        ("classifier:imagenet:teapott", "no label 'teapott'; nearest labels: teapot"),
        ("classifier:imagenet:1000", "no label '1000'"),
        ("classifier:imagenet:crane", "2 classes with the label 'crane': 134 is crane; 517 is crane; give the number"),
        ("classifier:imagenet:Panda", "387 is lesser panda, .*; 388 is giant panda, .*; give the number"),
        ("classifier:imagenet:maillot", "638 is maillot; 639 is maillot, tank suit; give the number"),
        ("classifier:imagenet:CARDIGAN", "264 is Cardigan, Cardigan Welsh corgi; 474 is cardigan; give the number"),
    ],
)
def test_unknown_names_are_refused(name, message):
    with pytest.raises(ValueError, match=message):
        rewards.load(name)


def test_prompts_of_unknown_words_or_style_alone_are_refused(images):
    reward = rewards.load("alignment")
    with pytest.raises(ValueError, match="does not know the word 'xylograph'"):
        reward(images[:1], ["xylograph"])
    with pytest.raises(ValueError, match=r"the word 'kat' of .*: at, skate, cat, hat$"):
        reward(images[:1], ["kat face"])
    with pytest.raises(ValueError, match=r"the word 'café' of .*: cafe, "):
        reward(images[:1], ["café"])
    with pytest.raises(ValueError, match=r"the word '👍🏽' of .*: 👍$"):
        reward(images[:1], ["👍🏽"])
    with pytest.raises(ValueError, match="names no content"):
        reward(images[:1], ["twemoji"])


@EVERY
@pytest.mark.parametrize(
    "x",
    [
        torch.zeros(3, 99, 99),
        torch.zeros(1, 4, 99, 99),
        torch.zeros(1, 3, 99, 99).byte(),
        torch.full((1, 3, 9, 9), 255.0),
    ],
)
def test_images_of_another_shape_are_refused(name, x):
    with pytest.raises(ValueError, match=r"the images .* expected"):
        rewards.load(name)(x, ["cat face"] * len(x))


@pytest.mark.parametrize("name", ["concept:Cat Face", "Classifier:ImageNet:Teapot", "STYLE:3D"])
def test_names_may_have_capitals(name):
    assert rewards.load(name).name.lower() == name.lower()


@pytest.mark.parametrize(
    "module, place, name, read",
    [
        (words, "FOLDER", "words.json", words.rows),
        (words, "FOLDER", "concepts.json", words.concepts),
        (imagenet, "WEIGHTS", "labels.json", imagenet.labels),
    ],
)
def test_damaged_and_missing_lists_of_names_are_refused(module, place, name, read, tmp_path, monkeypatch):
    """The function without its cache."""
    folder = Path(str(getattr(module, place)))
    for file in ("checksums.json", name):
        shutil.copy(folder / file, tmp_path)
    monkeypatch.setattr(module, place, tmp_path)
    assert read.__wrapped__() == read()
    (tmp_path / name).write_bytes((folder / name).read_bytes() + b" ")
    with pytest.raises(ValueError, match=rf"{name} has SHA-256 .* damaged or was replaced: install noisetilt again"):
        read.__wrapped__()
    (tmp_path / name).unlink()
    with pytest.raises(ValueError, match=f"{name} is missing; install noisetilt again"):
        read.__wrapped__()


def test_damaged_and_missing_weights_are_refused(tmp_path):
    with pytest.raises(ValueError, match="no scorer 'judge'"):
        concepts.load_concept_network("judge")
    folder = Path(str(concepts.WEIGHTS))
    shutil.copy(folder / "checksums.json", tmp_path)
    with pytest.raises(ValueError, match="are missing"):
        concepts.load_concept_network("target", folder=tmp_path)
    (tmp_path / "target.safetensors").write_bytes((folder / "target.safetensors").read_bytes()[:-1] + b"\x01")
    with pytest.raises(ValueError, match="damaged or was replaced"):
        concepts.load_concept_network("target", folder=tmp_path)
