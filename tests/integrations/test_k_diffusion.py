"""Against the real k-diffusion sampler."""

import importlib
import importlib.util
import itertools
import sys
import types
from unittest import mock

import pytest
import torch
from tiny_pipelines import check_same

from noisetilt import METHODS, rewards
from noisetilt.integrations.k_diffusion import sample_noisetilt
from noisetilt.path import FlowPath
from noisetilt.sampling.trace import Trace

RED = rewards.load("redness")
SIGMAS = torch.tensor([14.0, 6.0, 3.0, 1.5, 0.7, 0.2, 0.0], dtype=torch.float64)


def model(x, sigma, pull=0.5):
    """A denoiser that knows nothing but that pictures are smooth and about one half."""
    sigma = sigma.view(-1, *[1] * (x.ndim - 1))
    smooth = (x + x.roll(1, -1) + x.roll(-1, -1)) / 3
    return (pull * sigma**2 + smooth) / (1 + sigma**2)


def noise(seed=0, rows=2):
    return 14.0 * torch.randn(rows, 3, 8, 8, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.fixture(scope="module")
def k_sampling():
    """k_diffusion.sampling itself, without the package's __init__, which imports what its samplers never use."""
    spec = importlib.util.find_spec("k_diffusion")
    if spec is None:
        pytest.skip("needs pip install --no-deps k-diffusion")
    package = types.ModuleType("k_diffusion")
    package.__path__ = list(spec.submodule_search_locations)
    names = ["torchvision", "torchvision.transforms", "torchvision.transforms.functional", "torchdiffeq", "torchsde"]
    with mock.patch.dict(sys.modules, {"k_diffusion": package, **{name: mock.MagicMock() for name in names}}):
        yield importlib.import_module("k_diffusion.sampling")


@pytest.mark.parametrize("eta", [0.0, 0.6, 1.0])
@pytest.mark.parametrize("method", ["base", "ntrk", "dps"])
def test_zero_strength_is_euler_ancestral(k_sampling, eta, method, record_property):
    chosen = METHODS[method].replace(scale=0.0) if method == "dps" else METHODS[method]
    rho = 0.0 if method == "ntrk" and eta > 0 else None
    if method == "ntrk" and eta == 0:
        pytest.skip("there is no noise to tilt")

    def sampler():
        generator = torch.Generator().manual_seed(3)
        return lambda sigma, following: torch.randn(2, 3, 8, 8, generator=generator, dtype=torch.float64)

    x, steps, ours = noise(), [], []
    plain = k_sampling.sample_euler_ancestral(
        model, x, SIGMAS, dict(pull=0.4), steps.append, True, eta=eta, noise_sampler=sampler()
    )
    guided = sample_noisetilt(
        model,
        x,
        SIGMAS,
        dict(pull=0.4),
        ours.append,
        True,
        reward=RED,
        method=chosen,
        rho=rho,
        eta=eta,
        noise_sampler=sampler(),
    )
    check_same(guided, plain, record_property, 1e-12)
    assert [step["i"] for step in ours] == [step["i"] for step in steps] == list(range(6))
    for one, other in zip(ours, steps, strict=True):
        assert (one["denoised"] - other["denoised"]).abs().max() < 1e-12
        assert one["sigma"] == other["sigma"]


def fixed_noise(sigma, following):
    """Standard normal noise that the sigmas determine, as that of a Brownian tree."""
    return noise(round(1000 * float(sigma))) / 14.0


def flat(images, prompts):
    return 0 * images.sum((1, 2, 3))


@pytest.mark.parametrize("method", ["base", "ntrk", "ntrk-black-box", "lgd", "freedom", "ugd", "rbf"])
def test_the_noise_sampler_is_called_once_for_each_step_with_noise(method):
    pairs, calls = [], []

    def noise_sampler(sigma, following):
        assert sigma.dtype == following.dtype == SIGMAS.dtype and sigma.ndim == following.ndim == 0
        pairs.append((float(sigma), float(following)))
        return fixed_noise(sigma, following)

    trace = Trace()
    options = dict(reward=RED, method=method, seeds=[0, 1], noise_sampler=noise_sampler, trace=trace)
    sample_noisetilt(model, noise(), SIGMAS, None, calls.append, True, **options)
    assert pairs == list(zip(SIGMAS[:-2].tolist(), SIGMAS[1:-1].tolist(), strict=True))
    assert (len(calls) > 6) == (method in ("freedom", "ugd", "rbf"))
    assert trace.nfe == len(calls)  # also where one image needs no other candidate


def test_draws_for_smoothing_leave_the_noise_of_the_steps_alone(record_property):
    options = dict(disable=True, reward=flat, seeds=[0, 1], noise_sampler=fixed_noise)
    plain, smoothed = (sample_noisetilt(model, noise(), SIGMAS, method=m, **options) for m in ("base", "lgd"))
    check_same(smoothed, plain, record_property, 1e-12)


def test_candidates_have_different_noise_whatever_the_noise_sampler_is():
    """With a constant reward no candidate is better, so that the budget is used up from the third step on."""
    states = []
    sample_noisetilt(
        model,
        noise(),
        SIGMAS,
        callback=lambda call: states.append((call["sigma"], call["x"])),
        disable=True,
        reward=flat,
        method=METHODS["rbf"].replace(budget=3),
        seeds=[0, 1],
        noise_sampler=fixed_noise,
    )
    for sigma in SIGMAS[2:-1].tolist():
        candidates = [x for at, x in states if at == sigma]
        assert len(candidates) >= 3
        assert all((a - b).abs().max() > 0.01 for a, b in itertools.combinations(candidates, 2))


@pytest.mark.parametrize("method", [name for name, method in METHODS.items() if not method.initial.needs_reward])
def test_every_method_runs(method):
    chosen = METHODS[method]
    chosen = chosen.replace(particles=2) if chosen.selection.particles > 1 else chosen
    x = noise().float()
    out = sample_noisetilt(model, x, SIGMAS, disable=True, reward=RED, method=chosen, seeds=[0, 1])
    assert out.shape == x.shape and out.dtype == x.dtype and out.isfinite().all()


def test_tilting_raises_the_reward():
    x = noise(rows=16).float()
    base, tilted = (
        sample_noisetilt(model, x, SIGMAS, disable=True, reward=RED, rho=rho, seeds=range(16)) for rho in (0.0, 0.5)
    )
    assert (RED(tilted, [""] * 16) > RED(base, [""] * 16)).float().mean() > 0.9


def test_what_happened_is_told():
    """With the held-out reward of each step's x̂_0, the last of which is the picture."""
    trace, darkness = Trace(), lambda images, prompts: -images.mean((1, 2, 3))
    method = METHODS["svdd"].replace(particles=3)
    x = noise().float()
    out = sample_noisetilt(
        model, x, SIGMAS, disable=True, reward=RED, method=method, seeds=[0, 1], heldout=darkness, trace=trace
    )
    assert trace.nfe == 18 and trace.rewards.shape == trace.heldout.shape == (6, 2)
    assert torch.allclose(trace.heldout[-1], darkness(out, None), atol=1e-5)


@pytest.mark.parametrize("seed", range(3))
def test_the_best_particle_is_returned(seed):
    """Of particles with the same start and other noise; the last step has none, and ends at their predictions."""
    calls, method = [], METHODS["best-of-n"].replace(particles=4)
    seeds = [2 * seed, 2 * seed + 1]
    out = sample_noisetilt(model, noise(), SIGMAS, None, calls.append, True, reward=RED, method=method, seeds=seeds)
    final = calls[-1]["denoised"].unflatten(0, (2, 4))
    values = torch.stack([RED(particles.float(), [""] * 4) for particles in final])
    assert torch.allclose(RED(out.float(), [""] * 2), values.amax(1), atol=1e-5)
    assert torch.allclose(out, final[torch.arange(2), values.argmax(1)])
    assert (values.argmax(1) != 0).any() and (values.amax(1) > values.amin(1) + 1e-3).all()


def test_the_place_of_the_gradient():
    """At x̂_0 the model is called without gradient, and the images differ."""
    differentiated = []

    def seen(x, sigma):
        differentiated.append(x.requires_grad)
        return model(x, sigma).sin()

    def guided(**options):
        differentiated.clear()
        method = METHODS["dps"].replace(scale=20.0)
        options = {"reward": RED, "method": method, "seeds": [0, 1], **options}
        return sample_noisetilt(seen, noise(), SIGMAS, disable=True, **options), any(differentiated)

    (default, first), (through, second), (without, third) = (
        guided(**options) for options in ({}, {"gradient_at": "x_t"}, {"gradient_at": "x0"})
    )
    assert torch.equal(default, through) and (through - without).abs().max() > 1e-3
    assert (first, second, third) == (True, True, False)


@pytest.mark.parametrize("options, rows", [({}, 1), ({"chunk": 2}, 2), ({"chunk": 8}, 5)])
def test_the_chunk_bounds_the_rows_that_are_decoded(options, rows):
    decoded = []

    def decode(x_0):
        decoded.append(len(x_0))
        return x_0

    x = noise(rows=5)
    call = dict(disable=True, reward=RED, rho=0.5, seeds=range(5))
    out = sample_noisetilt(model, x, SIGMAS, decode=decode, **call, **options)
    assert max(decoded) == rows
    assert torch.allclose(out, sample_noisetilt(model, x, SIGMAS, chunk=5, **call), atol=1e-5)


def test_without_seeds_the_noise_is_that_of_the_global_generator():
    x, images = noise(rows=1).repeat(2, 1, 1, 1), []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        images.append(sample_noisetilt(model, x, SIGMAS, disable=True, reward=RED, method="base"))
    assert torch.equal(images[0], images[1])
    assert (images[0] - images[2]).abs().max() > 0.01 and (images[0][0] - images[0][1]).abs().max() > 0.01


def test_rows_of_conditioning_follow_the_particles():
    seen = []

    def conditioned(x, sigma, cond):
        seen.append((len(x), len(cond)))
        return model(x, sigma) + 0 * cond.view(-1, 1, 1, 1)

    method = METHODS["svdd"].replace(particles=3)
    sample_noisetilt(conditioned, noise(), SIGMAS, dict(cond=torch.ones(2)), disable=True, reward=RED, method=method)
    assert set(seen) == {(6, 6)}


@pytest.mark.parametrize(
    "change, word",
    [
        (dict(seeds=[1]), "1 seeds"),
        (dict(method="psi"), "initial noise"),
        (dict(method="svdd", noise_sampler=lambda a, b: None), "noise_sampler"),
        (dict(noise_sampler=lambda a, b: None), "noise_sampler returned None, expected a tensor like x"),
        (dict(noise_sampler=lambda a, b: noise()[:1]), r"has shape \(1, .*, expected \(2, "),
        (dict(reward=None), "reward"),
        (dict(rho=2.0), "rho = 2"),
    ],
)
def test_bad_input_is_refused(change, word):
    with pytest.raises(ValueError, match=word):
        sample_noisetilt(model, noise(), SIGMAS, disable=True, **{"reward": RED, **change})


@pytest.mark.parametrize("count", [0, 1])
def test_without_a_step_the_noise_is_returned_as_by_k_diffusion(k_sampling, count):
    x, sigmas = noise(), SIGMAS[:count]
    assert torch.equal(k_sampling.sample_euler_ancestral(model, x, sigmas, disable=True), x)
    assert torch.equal(sample_noisetilt(model, x, sigmas, reward=RED, disable=True), x)


@pytest.mark.parametrize(
    "sigmas, word",
    [
        ([0.2, 1.5, 14.0], "rises from t = 0.2 to t = 1.5"),
        ([14.0, 1.5, 3.0, 0.0], "rises from t = 1.5 to t = 3"),
        ([14.0, float("inf")], "rises"),
        ([float("nan"), 0.0], "t = nan"),
        ([14.0, 1.0, -1.0], "t = -1.0"),
        ([0.0, 0.0], "no noise left"),
    ],
)
def test_sigmas_that_do_not_fall_are_refused(sigmas, word):
    with pytest.raises(ValueError, match=word):
        sample_noisetilt(model, noise(), torch.tensor(sigmas), reward=RED, disable=True)


def test_equal_sigmas_are_steps_that_change_nothing():
    x = noise()
    steps = [
        sample_noisetilt(model, x, torch.tensor(s), reward=RED, method="base", seeds=[0, 1], eta=0.0, disable=True)
        for s in ([14.0, 3.0, 0.0], [14.0, 14.0, 3.0, 3.0, 0.0])
    ]
    assert torch.allclose(*steps, atol=1e-12)


def test_flow_states_take_a_flow_path():

    def flow(x, sigma):
        return 0.5 * (1 - sigma.view(-1, 1, 1, 1)) * x + 0.25

    x = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    out = sample_noisetilt(flow, x, torch.linspace(1, 0, 9), disable=True, reward=RED, path=FlowPath(), seeds=[0, 1])
    assert out.isfinite().all() and out.abs().max() < 3
