"""Weighted sums, their normalisation by the base model's spread, and rewards of images alone."""

import contextlib
import functools
import math
import types

import numpy as np
import pytest
import torch

from noisetilt import METHODS, load, optimize, rewards, sample
from noisetilt.path import FlowPath
from noisetilt.rewards import Reward
from noisetilt.rewards.catalogue import (
    check_named_heldout,
    heldout_spec,
    load_named_heldout,
    named_heldout,
    split_terms,
)
from noisetilt.rewards.reward import evaluate_reward, may_use_prompts, takes_prompts

PROMPTS, SEEDS = ["cat face", "house"], [0, 1]
SPEC = "0.5*style:3d + 0.5*redness"


def test_a_sum_whose_weights_are_all_0_is_refused():
    """One weight may be 0, as at the end of a sweep from one reward to another."""
    red, bright = rewards.load("redness"), rewards.load("brightness")
    for make in (lambda: rewards.load("0*redness"), lambda: rewards.weighted_sum([(0, red), (0.0, bright)])):
        with pytest.raises(ValueError, match=r"all weights of the sum of 'redness'.* are 0"):
            make()
    images = torch.rand(2, 3, 8, 8)
    total = rewards.weighted_sum([(0, red), (1, bright)])
    assert torch.allclose(total(images, [""] * 2), bright(images, [""] * 2))


def test_a_reward_of_images_alone():
    model = load("emoji128")
    one = sample(model, PROMPTS, lambda images: images[:, 0].mean((1, 2)), "ntrk", 4, SEEDS)
    two = sample(model, PROMPTS, lambda images, prompts: images[:, 0].mean((1, 2)), "ntrk", 4, SEEDS)
    assert torch.equal(one.images, two.images) and torch.equal(one.rewards, two.rewards)


def test_an_option_of_a_reward_of_images_is_not_given_the_prompts():
    images = torch.rand(2, 3, 8, 8)
    by_option = evaluate_reward(lambda images, weight=2.0: weight * images.mean((1, 2, 3)), images, ["a", "b"])
    assert torch.allclose(by_option, 2 * images.mean((1, 2, 3)))
    for weights in (np.full(3, 2.0), torch.full((3,), 2.0)):
        by_array = evaluate_reward(
            lambda images, weights=weights: (images.mean((2, 3)) * torch.as_tensor(weights)).mean(1), images, ["a", "b"]
        )
        assert torch.allclose(by_array.float(), 2 * images.mean((1, 2, 3)))
    for count in (lambda i, p=None: i.new_full((2,), len(p)), lambda i, prompts="": i.new_full((2,), len(prompts))):
        assert evaluate_reward(count, images, ["a", "b"]).tolist() == [2, 2]


def test_prompts_are_passed_by_name_wherever_they_are():
    images, texts = torch.rand(2, 3, 8, 8), ["a", "bc"]
    lengths = lambda prompts: torch.tensor([float(len(p)) for p in prompts])  # noqa: E731
    for function in (
        lambda images, temperature=0.1, prompts=None: lengths(prompts) * (temperature == 0.1),
        lambda images, *, prompt: lengths(prompt),
        lambda images, weight=1.0, *, prompts=(): lengths(prompts) * weight,
    ):
        assert takes_prompts(function) and evaluate_reward(function, images, texts).tolist() == [1, 2]
    bound = functools.partial(lambda images, prompts: lengths(prompts), prompts=["abc", "d"])
    assert not takes_prompts(bound) and evaluate_reward(bound, images, texts).tolist() == [3, 1]


class OfImages(torch.nn.Module):
    def forward(self, images):
        return images.mean((1, 2, 3))


class OfBoth(torch.nn.Module):
    def forward(self, images, prompts):
        return images.mean((1, 2, 3)) + len(prompts)


@pytest.mark.parametrize("kind, takes", [(OfImages, False), (OfBoth, True)])
def test_the_arguments_of_a_wrapped_module_are_known(kind, takes):
    wrapped = [torch.compile(kind(), backend="eager"), torch.nn.DataParallel(kind())]
    wrapped.append(torch.nn.DataParallel(wrapped[0]))
    assert [takes_prompts(module) for module in wrapped] == [takes] * 3
    images = torch.rand(2, 3, 4, 4)
    assert torch.allclose(evaluate_reward(wrapped[1], images, ["a", "b"]), images.mean((1, 2, 3)) + 2 * takes)


@pytest.mark.parametrize(
    "text, weight",
    [
        ("1e+1*redness", 10.0),
        ("2E+0*redness + 1e-1*brightness", 2.0),
        ("2.*redness", 2.0),
        (".5e+1*redness+jpeg", 5.0),
        ("5e−1*redness", 0.5),
    ],
)
def test_weights_may_have_exponents(text, weight):
    assert split_terms(text)[0] == (weight, "redness")


def test_a_module_and_a_reward_of_images_alone():
    class Net(torch.nn.Module):
        def forward(self, images):
            return images.mean((1, 2, 3))

    images = torch.rand(2, 3, 4, 4)
    for reward in (Net(), Reward("mean", lambda images: images.mean((1, 2, 3)))):
        total = rewards.weighted_sum([(2.0, reward), (1.0, rewards.load("redness"))])
        expected = 2 * images.mean((1, 2, 3)) + rewards.load("redness")(images, ["", ""])
        assert torch.allclose(total(images, ["", ""]), expected)


def test_normalised_terms_have_unit_spread():
    images = torch.rand(8, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    images = images * torch.linspace(0.2, 1, 8).view(-1, 1, 1, 1)
    texts = [""] * 8
    total = rewards.load("2*brightness - 3*redness", normalise="base")
    with pytest.raises(ValueError, match="no images of the base model yet"):
        total(images, texts)
    a, b = (rewards.load(name)(images, texts) for name in ("brightness", "redness"))
    assert torch.allclose(total.normalised(images, texts)(images, texts), 2 * a / a.std() - 3 * b / b.std(), rtol=1e-4)
    with pytest.raises(ValueError, match="standard deviation 0"):
        total.normalised(images[:1].expand(3, -1, -1, -1), texts[:3])
    with pytest.raises(ValueError, match="not a sum"):
        rewards.load("redness").normalised(images, texts)
    for spec in (SPEC, "redness"):
        with pytest.raises(ValueError, match="normalise = 'other'"):
            rewards.load(spec, normalise="other")
    for prompts in ("cat face", texts[:3]):
        with pytest.raises(ValueError, match=r"8 images and the prompts .*one prompt per image"):
            total.normalised(images, prompts)


@pytest.mark.parametrize("weight", [math.nan, math.inf])
def test_a_sum_needs_terms_and_finite_weights(weight):
    with pytest.raises(ValueError, match="has no terms"):
        rewards.weighted_sum([])
    with pytest.raises(ValueError, match=rf"weight of 'redness' is {weight}, expected a finite number"):
        rewards.weighted_sum([(weight, rewards.load("redness"))])


def test_sample_normalises_on_images_of_the_base_model():
    """Both parts rise, where the plain sum follows the one with the larger spread; the base images are counted."""
    model, tilt = load("emoji128"), METHODS["ntrk-x0"].replace(rho=0.2)
    base = sample(model, PROMPTS, None, "base", 4, SEEDS)
    guided = sample(model, PROMPTS, rewards.load(SPEC, normalise="base"), tilt, 4, SEEDS)
    plain = sample(model, PROMPTS, rewards.load(SPEC), tilt, 4, SEEDS)
    red, style = rewards.load("redness"), rewards.load("style:3d")
    assert red(guided.images, PROMPTS).mean() > red(plain.images, PROMPTS).mean() + 0.005
    for part in (red, style):
        assert part(guided.images, PROMPTS).mean() > part(base.images, PROMPTS).mean()
    assert guided.trace.nfe == plain.trace.nfe + 4 * 16 / 2


def test_an_image_does_not_depend_on_the_seeds_of_the_others_in_a_normalised_sum():
    model, reward = load("emoji128"), rewards.load("2*brightness - 3*redness", normalise="base")
    alone, batch = (sample(model, ["house"] * len(s), reward, "dps", 3, seeds=s) for s in ([5], [1000, 5]))
    assert torch.allclose(alone.images[0], batch.images[1], atol=1e-4)


def test_optimize_normalises_too():
    model = load("emoji128-turbo")
    result = optimize(model, ["house"], rewards.load(SPEC, normalise="base"), "gper", iterations=2, seeds=[0])
    assert result.rewards.isfinite().all() and float(result.trace.nfe[0]) == 3 + 16


def test_a_sum_inside_a_sum_is_refused_until_it_is_normalised():
    inner = rewards.load("2*brightness - 3*redness", normalise="base")
    for normalise in (None, "base"):
        with pytest.raises(ValueError, match=r"term '2\*brightness - 3\*redness' of a sum has normalise='base'"):
            rewards.weighted_sum([(1.0, inner), (0.5, rewards.load("redness"))], normalise=normalise)
    images = torch.rand(4, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    normalised = inner.normalised(images, [""] * 4)
    total = rewards.weighted_sum([(2.0, normalised), (0.5, rewards.load("redness"))])
    expected = 2 * normalised(images, [""] * 4) + 0.5 * rewards.load("redness")(images, [""] * 4)
    assert torch.allclose(total(images, [""] * 4), expected)


def test_a_sum_of_a_file_keeps_its_normalisation(tmp_path):
    file = tmp_path / "mix.py"
    file.write_text("from noisetilt import rewards\nmix = rewards.load('brightness + redness', normalise='base')\n")
    mix = rewards.load(f"{file}:mix")
    assert mix.normalise == "base" and mix.name == f"{file}:mix"
    with pytest.raises(ValueError, match="no images of the base model yet"):
        mix(torch.rand(2, 3, 8, 8), ["", ""])


@pytest.mark.parametrize("shape", [(), (1,), (2, 1)])
def test_each_term_of_a_sum_returns_one_number_per_image(shape):
    bad = Reward("bad", lambda images: images.new_zeros(shape))
    total = rewards.weighted_sum([(1.0, rewards.load("redness")), (1.0, bad)])
    with pytest.raises(ValueError, match=r"'bad' returned .*expected a tensor of shape \(2,\)"):
        total(torch.rand(2, 3, 8, 8), ["", ""])


@pytest.mark.parametrize(
    "dtype, expected",
    [
        (torch.bfloat16, torch.float32),
        (torch.float16, torch.float32),
        (torch.int64, torch.float32),
        (torch.float32, torch.float32),
        (torch.float64, torch.float64),
    ],
)
def test_rewards_have_at_least_single_precision(dtype, expected):
    values = evaluate_reward(lambda images: torch.tensor([1, 3], dtype=dtype), torch.rand(2, 3, 4, 4), ["", ""])
    assert values.dtype == expected and values.tolist() == [1, 3]


@pytest.mark.parametrize("call", [sample, optimize])
def test_empty_prompts_are_refused_before_the_base_images(call):
    model, reward = load("emoji128-turbo"), rewards.load("brightness + redness", normalise="base")
    with pytest.raises(ValueError, match="prompts is empty"):
        call(model, [], reward)
    with pytest.raises(ValueError, match="1 seeds for 2 prompts"):
        call(model, PROMPTS, reward, seeds=[1])


@pytest.mark.parametrize(
    "text, terms",
    [
        ("-redness", [(-1.0, "redness")]),
        ("- redness", [(-1.0, "redness")]),
        ("- 2*redness + brightness", [(-2.0, "redness"), (1.0, "brightness")]),
        ("brightness + -redness", [(1.0, "brightness"), (-1.0, "redness")]),
        ("brightness - -redness", [(1.0, "brightness"), (1.0, "redness")]),
        (" - redness", [(-1.0, "redness")]),
        ("+redness − brightness", [(1.0, "redness"), (-1.0, "brightness")]),
        ("+ 2*redness", [(2.0, "redness")]),
        ("−2*redness", [(-2.0, "redness")]),
        ("colour:#00ff0e+redness", [(1.0, "colour:#00ff0e"), (1.0, "redness")]),
        ("2*colour:#00000e+1e+1*redness", [(2.0, "colour:#00000e"), (10.0, "redness")]),
    ],
)
def test_a_sign_alone_is_a_weight(text, terms):
    assert split_terms(text) == terms


def test_terms_without_a_heldout_version_are_left_out_of_a_heldout_sum(tmp_path):
    """The optimised reward itself is no judge of it."""
    file = tmp_path / "mine.py"
    file.write_text("def warm(images):\n    return images[:, 0].mean((1, 2))\n")
    held = rewards.load(f"0.5*style:3d + 2*{file}:warm - redness", heldout=True)
    assert [(weight, term.name) for weight, term in held.terms] == [(0.5, "style:3d")] and held.name == "0.5*style:3d"
    assert heldout_spec("redness + jpeg") is None and heldout_spec("style:3d + concept:cat face") is not None


def test_a_named_heldout_reward_has_the_second_network_of_learned_terms(monkeypatch):
    images = torch.rand(2, 3, 128, 128)
    named, first = load_named_heldout("style:3d"), rewards.load("style:3d")
    assert torch.equal(named(images, []), rewards.load("style:3d", heldout=True)(images, []))
    assert not torch.equal(named(images, []), first(images, []))
    total = load_named_heldout("2*style:3d - redness")
    assert torch.allclose(total(images, []), 2 * named(images, []) - rewards.load("redness")(images, []))
    monkeypatch.setattr("noisetilt.rewards.catalogue.load_hub", lambda name, *_: rewards.Reward(name, torch.Tensor.sum))
    assert load_named_heldout("pickscore").name == "pickscore"  # not imagereward, its held-out version
    marked = "0.5*alignment (second network) - redness"
    assert named_heldout("0.5*alignment - redness") == marked and named_heldout("- redness") == "- redness"


@pytest.mark.parametrize(
    "heldout, reward, same",
    [
        ("redness", "redness", True),
        ("2*redness", "Redness", True),
        ("redness + brightness", "0.5*brightness + 0.5*redness", True),
        ("redness + 2*brightness", "redness + brightness", False),
        ("style:3d", "style:3d", False),
        ("brightness", "redness", False),
        ("redness", "cannot be read", False),
    ],
)
def test_a_heldout_reward_that_is_the_optimised_one_is_found(heldout, reward, same):
    with pytest.raises(ValueError, match="is the optimised reward") if same else contextlib.nullcontext():
        check_named_heldout(heldout, reward)


def test_equal_terms_are_evaluated_once(tmp_path):
    total = rewards.load("0.5*redness - 2*jpeg + redness")
    assert [(weight, term.name) for weight, term in total.terms] == [(1.5, "redness"), (-2.0, "jpeg")]
    assert rewards.load("0.5*redness + 0.5*redness").name == "redness"
    assert rewards.load("style:3d + 2*redness + style:3d", heldout=True).name == "2*style:3d"
    file = tmp_path / "mine.py"
    file.write_text("import torch\ndef noise(images):\n    return torch.rand(len(images))\n")
    assert len(rewards.load(f"{file}:noise - {file}:noise").terms) == 2


@pytest.mark.parametrize(
    "name, used",
    [
        ("redness", False),
        ("colour:#ff0000", False),
        ("jpeg", False),
        ("style:3d", False),
        ("concept:cat face", False),
        ("redness + jpeg", False),
        ("alignment", True),
        ("redness + alignment", True),
    ],
)
def test_whether_a_reward_uses_the_prompts(name, used):
    assert may_use_prompts(rewards.load(name)) == used


@pytest.mark.parametrize("call", [sample, optimize])
@pytest.mark.parametrize("of", ["reward", "heldout"])
def test_prompts_without_a_score_are_refused_before_the_first_network_call(call, of):
    network = lambda prompts: pytest.fail("the network was called")  # noqa: E731
    model = types.SimpleNamespace(denoiser=network, path=FlowPath(), shape=(3, 8, 8), decode=lambda x: x)
    rewards_of = {"reward": rewards.load("redness"), of: rewards.load("0.5*alignment + redness")}
    with pytest.raises(ValueError, match="does not know the word 'xylograph'"):
        call(model, ["house", "xylograph"], **rewards_of)


def test_a_reward_that_changes_its_images_is_refused():
    def darkened(images):
        return images.mul_(0.5).mean((1, 2, 3))

    with pytest.raises(ValueError, match=r"'darkened' changes its images in place.*images.clone"):
        sample(load("emoji128"), PROMPTS, darkened, "base", 2, SEEDS)
    with pytest.raises(ValueError, match="changes its images in place"):
        evaluate_reward(darkened, torch.rand(2, 3, 8, 8), PROMPTS)
