"""Noise ascent: single steps, convergence, gradients through the network, and the public function `optimize`."""

import itertools
import math

import pytest
import torch

import noisetilt.initial_noise.ascent as ascent_module
from noisetilt import METHODS, Method, optimize, sample
from noisetilt.initial_noise import Ascent, NoiseObjective
from noisetilt.models.denoiser import Denoiser
from noisetilt.models.exact import GaussianModel
from noisetilt.noise import audit, project_wgnc, to_spectrum
from noisetilt.path import FlowPath, VPPath, reverse_kernel
from noisetilt.rewards import Reward
from noisetilt.sampling.deterministic import deterministic_chain, deterministic_grid

EVENT = (3, 8, 8)
COUNT = 192


def normal(*shape, seed=0):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def linear(a):
    """r(x) = aᵀx and its gradient, with the signature that `Ascent.iterate` needs."""

    def evaluate(x, rows, with_gradient):
        return (x * a).flatten(1).sum(1), a.expand_as(x)

    return evaluate


def sinusoidal(a):
    """r(x) = Σ sin(3 a x), whose gradient depends on x."""

    def evaluate(x, rows, with_gradient):
        return (3 * a * x).sin().flatten(1).sum(1), 3 * a * (3 * a * x).cos()

    return evaluate


def make_ascent(name, **options):
    return METHODS[name].replace(**options).initial


class LinearGenerator:
    """x_0 = A x at every time, a matrix on flattened events: a generator with known derivatives."""

    def __init__(self, matrix, event=(2, 16), path=None):
        self.matrix, self.shape, self.path = matrix, event, path or FlowPath()

    def denoiser(self, prompts):
        def network(x_t, t, index):
            return (x_t.flatten(1) @ self.matrix.T.to(x_t)).view_as(x_t)

        return Denoiser(self.path, network)

    def decode(self, x_0):
        return x_0


def make_generator(seed=0, **options):
    return LinearGenerator(normal(32, 32, seed=seed) / 6, **options)


def quadratic(target):
    return Reward("near", lambda images, prompts: -(images - target.to(images)).square().flatten(1).sum(1))


# Single steps


@pytest.mark.parametrize("name", ["gper", "gper-both"])
def test_gper_gradients_are_in_the_feasible_set(name):
    """The spectrum has ‖y‖₁ = (√π/2) B and ‖y‖₂² = B in each block, at every iterate."""
    ascent = make_ascent(name, iterations=5)
    for iterate in ascent.iterate(normal(2, *EVENT), sinusoidal(normal(*EVENT, seed=1))):
        if iterate.gradient is None:
            continue
        blocks = to_spectrum(ascent.direction(iterate.noise, iterate.gradient)).abs().view(2, -1, 16)
        torch.testing.assert_close(blocks.sum(2), torch.full((2, 6), 8 * math.sqrt(math.pi), dtype=torch.float64))
        torch.testing.assert_close(blocks.square().sum(2), torch.full((2, 6), 16.0, dtype=torch.float64))


@pytest.mark.parametrize("name", ["gper-latent", "gper-both"])
def test_projected_latents_stay_in_the_feasible_set(name):
    for iterate in make_ascent(name, iterations=5).iterate(normal(2, *EVENT), sinusoidal(normal(*EVENT, seed=1))):
        torch.testing.assert_close(project_wgnc(iterate.noise), iterate.noise, atol=1e-9, rtol=0)


def test_steps_match_adam():
    """m and v by the formulas of Kingma & Ba (2015), on the projected gradient."""
    ascent, x, m, v = make_ascent("gper", iterations=4, rate=0.1), normal(2, *EVENT), 0, 0
    for k, iterate in enumerate(ascent.iterate(x, sinusoidal(normal(*EVENT, seed=1)))):
        torch.testing.assert_close(iterate.noise, x, atol=1e-6, rtol=0)
        if iterate.gradient is not None:
            g = project_wgnc(iterate.gradient)
            m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g.square()
            x = x + 0.1 * (m / (1 - 0.9 ** (k + 1))) / (v / (1 - 0.999 ** (k + 1))).sqrt()


@pytest.mark.parametrize("name", ["reno", "prno", "mpgr", "gper"])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_follows_float32(name, dtype):
    """Also at FLUX's size, where sums of squares exceed float16."""
    x = torch.randn(1, 65536, generator=torch.Generator().manual_seed(0)).to(dtype)
    a = torch.randn(65536, generator=torch.Generator().manual_seed(1)) / 65536

    def last(x):
        return list(make_ascent(name, iterations=2).iterate(x, linear(a.to(x))))[-1].noise.float()

    difference = (last(x) - last(x.float())).abs()
    assert difference.mean() < 3e-3 and difference.max() < 0.1


def test_plain_gradient_ascent():
    a, x = normal(*EVENT, seed=1), normal(1, *EVENT)
    last = list(Ascent(3, 0.5, optimiser="sgd", momentum=0.0).iterate(x, linear(a)))[-1]
    torch.testing.assert_close(last.noise, x + 1.5 * a)


def test_rotation_is_a_noise_tilt_that_keeps_the_norm():
    """For g' orthogonal to x and of equal norm it is cos θ · x + sin θ · g', NTRK's mixture with ρ = sin²θ."""
    x, g = normal(1, *EVENT), normal(1, *EVENT, seed=1)
    g = g - (g * x).sum() / (x * x).sum() * x
    g = g / g.norm() * x.norm()
    first = list(Ascent(1, 0.3, optimiser="rotation", momentum=0.0).iterate(x, linear(g[0])))[-1].noise
    torch.testing.assert_close(first, math.cos(0.3) * x + math.sin(0.3) * g)
    for iterate in Ascent(9, 0.3, optimiser="rotation").iterate(x, sinusoidal(normal(*EVENT, seed=2))):
        torch.testing.assert_close(iterate.noise.norm(), x.norm())


def test_rotation_converges_to_a_constant_gradient():
    a, ascent = normal(*EVENT, seed=1), Ascent(40, 0.1, optimiser="rotation", momentum=0.0)
    x = torch.cat([normal(1, *EVENT), a[None]])
    for row in list(ascent.iterate(x, linear(a)))[-1].noise:
        torch.testing.assert_close(row / row.norm(), a / a.norm())


def test_rotation_keeps_noise_typical_for_a_constant_gradient():
    """For a constant, typical gradient the audit rejects Adam's noise, whose norm grows, and accepts rotated noise."""
    x, a = (torch.randn(4, 3, 16, 16, generator=torch.Generator().manual_seed(s)) for s in (0, 1))
    for ascent, typical in (
        (make_ascent("gper-rotation", gradient="raw", rate=0.1), True),
        (make_ascent("none"), False),
    ):
        *_, last = ascent.iterate(x, lambda x, rows, with_gradient: ((x * a[rows]).flatten(1).sum(1), a[rows]))
        assert (audit(last.noise).p_value > 1e-3).all() == typical
        assert (torch.cosine_similarity(last.noise.flatten(1), a.flatten(1)) > 0.7).all()


def test_clipping_bounds_the_gradient_of_each_image_alone():
    ascent, x = Ascent(clip=0.1), normal(3, *EVENT)
    gradient = torch.stack([normal(*EVENT), 1e-6 * normal(*EVENT), torch.zeros(EVENT, dtype=torch.float64)])
    clipped = ascent.direction(x, gradient)
    assert clipped[0].norm().item() == pytest.approx(0.1)
    assert torch.equal(clipped[1:], gradient[1:])


@pytest.mark.parametrize("name", ["none", "gper", "gper-w"])
def test_zero_gradient_keeps_the_noise(name):
    """Also if the projection of zero is noise."""
    x = normal(2, *EVENT)
    last = list(make_ascent(name, iterations=3).iterate(x, linear(torch.zeros(EVENT, dtype=torch.float64))))[-1]
    assert torch.equal(last.noise, x)


def smooth(*shape, seed):
    """Gradients with the spectrum 1/f², as those of rewards have."""
    rows, columns = (torch.fft.fftfreq(n) for n in shape[-2:])
    frequency = (rows[:, None].square() + columns.square()).sqrt().clamp_min(1 / shape[-1])
    return torch.fft.ifft2(torch.fft.fft2(normal(*shape, seed=seed)) / frequency.square()).real.float()


def similarity(a, b):
    return torch.cosine_similarity(a.flatten(1), b.flatten(1)).abs()


def test_whitened_gradients_of_different_images_and_steps_are_independent():
    """W adds most of the noise to smooth gradients: it must be another for each image and at each step."""
    ascent, event = make_ascent("gper-w", iterations=1), (3, 32, 32)
    x, gradient = normal(8, *event).float(), smooth(8, *event, seed=1)
    *_, last = ascent.iterate(x, lambda x, rows, with_gradient: ((x * gradient[rows]).flatten(1).sum(1), gradient))
    moved = last.noise - x
    assert similarity(moved[:-1], moved[1:]).mean() < 0.05
    alone = ascent.iterate(x[3:4], lambda x, rows, with_gradient: (x.flatten(1).sum(1), gradient[3:4]))
    assert similarity(list(alone)[-1].noise - x[3:4], moved[3:4]) > 0.999
    first, second = (ascent.direction(x, smooth(8, *event, seed=1 + k), k, x) for k in (0, 1))
    assert similarity(first, second).mean() < 0.05


# Convergence


@pytest.mark.parametrize("name", ["gper", "gper-w", "gper-rotation"])
@pytest.mark.parametrize("scale", [1e-30, 1e30])
def test_projected_gradients_do_not_depend_on_their_scale(name, scale):
    ascent, noise = make_ascent(name, iterations=3), normal(1, *EVENT).float()
    a = normal(*EVENT, seed=1).float()
    plain, scaled = ([iterate.noise for iterate in ascent.iterate(noise, linear(k * a))][-1] for k in (1.0, scale))
    assert torch.allclose(plain, scaled, atol=1e-4) and not torch.allclose(plain, noise, atol=1e-2)


def test_clipping_of_gradients_whose_squares_overflow():
    x, gradient = torch.zeros(2, *EVENT), normal(2, *EVENT).float()
    gradient[1] *= 1e25
    clipped = make_ascent("reno", penalty="none").direction(x, gradient)
    assert torch.allclose(clipped.flatten(1).norm(dim=1), torch.full((2,), 0.1))
    assert make_ascent("none").direction(x, gradient).isfinite().all()


def test_without_regularisation_the_norm_grows():
    """Plain ascent of aᵀx gains rate·‖a‖² a step and ‖x‖ grows without bound."""
    a = normal(*EVENT, seed=1)
    iterates = list(Ascent(200, 0.5, optimiser="sgd", momentum=0.0).iterate(normal(1, *EVENT), linear(a)))
    gained = iterates[-1].rewards[0] - iterates[0].rewards[0]
    assert gained.item() == pytest.approx(200 * 0.5 * a.square().sum().item())
    assert iterates[-1].noise.norm() > 50 * math.sqrt(COUNT)


def fixed_point(penalty, a, weight, block_size, iterations=250, rate=None):
    """The limit of plain gradient ascent of aᵀx − λ P(x)."""
    ascent = Ascent(
        iterations,
        rate,
        penalty=penalty,
        penalty_weight=weight,
        block_size=block_size,
        optimiser="sgd",
        momentum=0.0,
    )
    return list(ascent.iterate(normal(1, *EVENT), linear(a)))[-1].noise


def test_reno_converges_to_its_fixed_point():
    """x = s·a/‖a‖ with s − (N − 1)/s = ‖a‖/λ."""
    a, weight = normal(*EVENT, seed=1), 0.5
    x = fixed_point("reno", a, weight, 16, rate=0.3)
    pull = a.norm() / weight
    s = (pull + (pull**2 + 4 * (COUNT - 1)).sqrt()) / 2
    torch.testing.assert_close(x[0], s * a / a.norm(), atol=1e-6, rtol=0)


@pytest.mark.parametrize("penalty, block", [("prno", 1), ("mpgr", COUNT // 2)])
def test_moment_penalties_converge_to_their_fixed_point(penalty, block):
    """With one block P depends on mean and energy q alone, and for a of mean zero x = s·a/RMS(a) with
    λ s (s² − 1) = RMS(a)."""
    a = normal(*EVENT, seed=1)
    a = a - a.mean()
    rms, weight = a.square().mean().sqrt(), 0.5
    x = fixed_point(penalty, a, weight, block, iterations=250, rate=0.2)
    s = max(r.real for r in roots_of(rms.item() / weight))
    torch.testing.assert_close(x[0], s * a / rms, atol=1e-5, rtol=0)


def roots_of(c):
    """Roots of s³ − s − c."""
    import numpy as np

    return np.roots([1, 0, -1, -c])


def test_the_best_iterate_is_returned():
    """A step that is far too long overshoots −‖x‖², and the start is kept."""
    x = normal(1, 2, *EVENT)
    objective = NoiseObjective(lambda z, with_gradient, rows: (-z.square().flatten(1).sum(1), -2 * z), None, None)
    assert torch.equal(Ascent(5, 100.0)(x, objective), x)
    nearer = Ascent(20, 0.05)(x, objective)
    assert (nearer.flatten(2).norm(dim=2) < 0.5 * x.flatten(2).norm(dim=2)).all()


def test_audited_image_stops_before_rejection():
    x = torch.randn(4, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    ascent = Ascent(20, 0.05, audit_level=1e-3)
    iterates = list(ascent.iterate(x, linear(torch.ones(3, 16, 16))))
    assert not iterates[-1].active.all() and len(iterates) < 21
    assert (audit(iterates[-1].noise).p_value >= 1e-3).all()
    assert (iterates[-1].rewards > iterates[0].rewards).all()
    free = list(Ascent(20, 0.05).iterate(x, linear(torch.ones(3, 16, 16))))[-1]
    assert (audit(free.noise).p_value < 1e-3).all()


def test_images_that_fail_the_first_audit_keep_their_noise():
    model = GaussianModel(torch.zeros(3, 16, 16), torch.ones(16, 16), VPPath.from_betas(torch.linspace(1e-3, 0.2, 30)))
    reward = Reward("sum", lambda i, p: i.flatten(1).sum(1))
    method = Method(initial=Ascent(5, 2.0, audit_level=1e-3))
    result = optimize(model, [""] * 2, reward, method)
    assert result.iterations.tolist() == [0, 0] and result.trace.nfe.tolist() == [1, 1]
    torch.testing.assert_close(result.images, sample(model, [""] * 2, reward, method, 1).images)


def test_stopped_rows_are_not_evaluated():
    x, evaluated = normal(3, *EVENT), []

    def evaluate(rows_x, rows, with_gradient):
        evaluated.append(rows.tolist())
        return linear(normal(*EVENT, seed=1))(rows_x, rows, with_gradient)

    iterates = Ascent(4).iterate(x, evaluate)
    first = next(iterates)
    second = iterates.send(torch.tensor([True, False, True]))
    assert torch.equal(second.noise[1], first.noise[1]) and not torch.equal(second.noise[0], first.noise[0])
    list(iterates)
    assert evaluated == [[0, 1, 2], *[[0, 2]] * 4]


@pytest.mark.parametrize("name, function", [("gper-both", "project_wgnc"), ("gper-w", "whiten")])
def test_stopped_rows_are_not_projected(name, function, monkeypatch):
    rows, real = [], getattr(ascent_module, function)
    monkeypatch.setattr(ascent_module, function, lambda x, *args, **more: rows.append(len(x)) or real(x, *args, **more))
    iterates = make_ascent(name, iterations=3).iterate(normal(3, *EVENT), linear(normal(*EVENT, seed=1)))
    next(iterates)
    rows.clear()
    iterates.send(torch.tensor([True, False, True]))
    assert rows and set(rows) == {2}


@pytest.mark.parametrize(
    "options, event, words",
    [
        (
            dict(gradient="wgnc"),
            (3, 5, 5),
            r"gradient = 'wgnc' .* \(3, 5, 5\), which has 75 values; it needs an even number",
        ),
        (dict(latent="wgnc"), (2,), "latent = 'wgnc' .* 2 values; it needs an even number of 4 or more"),
        (dict(audit_level=0.1), (3, 4, 4), "audit_level = 0.1 .* 48 values; it needs 256 or more"),
        (dict(penalty="prno", penalty_weight=1.0, block_size=4), (2, 5), "10 values; it needs a multiple of 4"),
        (dict(penalty="mpgr", penalty_weight=1.0, block_size=4), (2, 6), "12 values; it needs a multiple of 8"),
    ],
)
def test_noise_that_an_ascent_cannot_optimise_is_refused_before_the_first_reward(options, event, words):
    def reward(images):
        raise AssertionError

    model = LinearGenerator(torch.eye(math.prod(event)), event)
    with pytest.raises(ValueError, match=words):
        optimize(model, [""], reward, Method(initial=Ascent(2, **options)))


@pytest.mark.parametrize("draws, rate", [(0, 0.03), (2, 0.2)])
def test_an_ascent_that_stops_does_not_depend_on_the_others_of_its_batch(draws, rate):
    """Neither its network calls nor the noise of its later steps."""
    path = VPPath.from_betas(torch.linspace(1e-3, 0.2, 30))
    model = GaussianModel(torch.zeros(3, 16, 16), torch.ones(16, 16), path)
    reward = Reward("sum", lambda i, p: i.flatten(1).sum(1))
    initial = Ascent(12, rate, audit_level=1e-2, draws=draws, width=0.3)
    method, seeds = Method(initial=initial), [0, 1, 2, 3]
    batch = sample(model, [""] * 4, reward, method, 3, seeds)
    alone = [sample(model, [""], reward, method, 3, [seed]) for seed in seeds]
    calls = [result.trace.nfe for result in alone]
    assert len(set(calls)) > 1 and batch.trace.nfe == sum(calls) / 4
    for image, result in zip(batch.images, alone, strict=True):
        torch.testing.assert_close(image, result.images[0], rtol=1e-3, atol=1e-4)


# Through the network


@pytest.mark.parametrize("path", [FlowPath(), VPPath.from_betas(torch.linspace(1e-3, 0.3, 20).numpy())])
def test_checkpointed_gradient_matches_autograd(path):
    """It equals autograd without checkpoints and finite differences, in float64."""
    model = GaussianModel(torch.zeros(1, 4, 4, dtype=torch.float64), torch.full((4, 4), 0.5).double(), path)
    denoiser, index = model.denoiser([""]), torch.zeros(1, dtype=torch.long)
    grid = deterministic_grid(path, path.grid(4)[0] * 0.9, 4)
    target = normal(1, 1, 4, 4, seed=2)

    def reward(x):
        return -(deterministic_chain(denoiser, x, grid, index) - target).square().sum()

    def plain(x):
        for t, s in itertools.pairwise(grid):
            x = reverse_kernel(path, x, denoiser(x, t, index), t, s, eta=0)[0]
        return -(x - target).square().sum()

    x = normal(1, 1, 4, 4).requires_grad_()
    checkpointed, written = (torch.autograd.grad(f(x), x)[0] for f in (reward, plain))
    torch.testing.assert_close(checkpointed, written, atol=1e-12, rtol=1e-12)
    assert checkpointed.abs().max() > 1e-3
    step = 1e-5 * normal(1, 1, 4, 4, seed=3)
    slope = (reward(x + step) - reward(x - step)) / 2
    torch.testing.assert_close(slope, (checkpointed * step).sum(), rtol=1e-6, atol=1e-12)


def test_one_step_chain_is_the_denoiser():
    model = make_generator()
    x, index = normal(2, 2, 16), torch.arange(2)
    made = deterministic_chain(model.denoiser(["", ""]), x, deterministic_grid(model.path, 1.0, 1), index)
    torch.testing.assert_close(made, (x.flatten(1) @ model.matrix.T).view_as(x))


METHOD_NAMES = ["none", "reno", "prno", "mpgr", "gper", "gper-latent", "gper-both", "gper-w", "gper-rotation"]


@pytest.mark.parametrize("name", METHOD_NAMES)
def test_every_method_increases_the_reward_in_one_step(name):
    model, reward = make_generator(), quadratic(normal(2, 16, seed=5))
    method = METHODS[name].replace(iterations=30, rate=0.5 if name == "reno" else 0.03)
    plain = sample(model, [""] * 3, reward, "base", 1)
    optimized = sample(model, [""] * 3, reward, method, 1)
    assert (optimized.rewards > plain.rewards + 1).all()
    assert optimized.trace.nfe == 30 + 1 + 1


def test_nfe_excludes_recomputation_by_checkpoints():
    model, reward = make_generator(), quadratic(normal(2, 16, seed=5))
    method = Method(initial=Ascent(4, 0.03, chain_steps=3))
    assert sample(model, [""] * 2, reward, method, 3).trace.nfe == 5 * 3 + 3
    noisy = Method(initial=Ascent(4, 0.03, draws=2, perturb="noise"))
    assert sample(model, [""] * 2, reward, noisy, 1).trace.nfe == 4 * (1 + 2 * 2) + 1 + 1


def test_ascent_through_a_chain_raises_the_reward_of_that_chain():
    """The noise is optimised for the image after these deterministic steps."""
    model, reward = make_generator(), quadratic(normal(2, 16, seed=5))
    one, four = (
        sample(model, [""] * 4, reward, Method(initial=Ascent(40, 0.05, chain_steps=k)), 4, eta=0.0) for k in (1, 4)
    )
    assert (four.rewards > one.rewards).all()


def test_images_are_independent_of_their_batch():
    model, reward = make_generator(), quadratic(normal(2, 16, seed=5))
    for name in METHOD_NAMES:
        method = METHODS[name].replace(iterations=6, particles=2)
        alone = sample(model, [""], reward, method, 1, seeds=[7])
        batch = sample(model, [""] * 3, reward, method, 1, seeds=[1, 7, 2], chunk=2)
        torch.testing.assert_close(batch.images[1], alone.images[0], atol=2e-4, rtol=0)


def test_zeroth_order_estimates_are_unbiased():
    """Their expectation is Jᵀ∇r for perturbed images, and Jᵀ J Jᵀ∇r for perturbed noise of a linear generator."""
    from noisetilt.sampling.evaluation import Evaluator
    from noisetilt.sampling.reward_evaluation import RewardEvaluator

    model, target = make_generator(), normal(2, 16, seed=5)
    black = Reward("black", lambda i, p: quadratic(target)(i.detach(), p), differentiable=False)
    x, index, grid = normal(1, 2, 16), torch.zeros(1, dtype=torch.long), [1.0, 0.0]
    matrix = model.matrix
    slope = -2 * (matrix @ x.flatten() - target.flatten())
    expected = {"image": matrix.T @ slope, "noise": matrix.T @ matrix @ matrix.T @ slope}
    for perturb, truth in expected.items():
        evaluate = Evaluator(model.path, model.denoiser([""]), RewardEvaluator(black, model.decode, [""]), "x_t", 8)
        found = evaluate.evaluate_noise(x, grid, index, normal(1, 20_000, 2, 16, seed=6), width=0.3, perturb=perturb)[1]
        cosine = torch.cosine_similarity(found.flatten(), truth, dim=0)
        assert cosine > 0.995
        assert found.norm() / truth.norm() == pytest.approx(1, abs=0.05)


def test_rewards_without_gradient_increase():
    model, target = make_generator(), normal(2, 16, seed=5)
    black = Reward("black", lambda i, p: quadratic(target)(i.detach(), p), differentiable=False)
    plain = sample(model, [""] * 8, black, "base", 1).rewards
    for perturb in ("image", "noise"):
        method = METHODS["gper"].replace(iterations=30, rate=0.03, draws=8, perturb=perturb)
        assert (sample(model, [""] * 8, black, method, 1).rewards > plain + 1).all()


def test_noise_ascent_improves_ntrk():
    """Initial noise from ascent, then noise-tilted steps."""
    model = GaussianModel(torch.zeros(3, 8, 8), torch.ones(8, 8), VPPath.from_betas(torch.linspace(1e-3, 0.2, 30)))
    wave = torch.linspace(-1, 1, 8).expand(3, 8, 8) / 6
    reward = Reward("linear", lambda i, p: (i * wave).sum((1, 2, 3)))
    ntrk, both = (sample(model, [""] * 16, reward, METHODS[m], 8).rewards.mean() for m in ("ntrk", "gper-ntrk"))
    assert both > ntrk + 0.2


@pytest.mark.parametrize("options, extra", [({}, 0), ({"draws": 4, "perturb": "image"}, 0), ({"draws": 4}, 4 * 2 * 4)])
def test_the_last_iterate_is_not_differentiated(options, extra):
    """Four iterations need four gradients; an estimate from noise takes network calls."""
    model, differentiated = GaussianModel(torch.zeros(3, 8, 8), torch.ones(8, 8)), []

    def mean(images):
        differentiated.append(images.requires_grad)
        return images.mean((1, 2, 3))

    method = METHODS["none"].replace(iterations=4, **options)
    result = sample(model, [""], mean, method, 3)
    assert sum(differentiated) == (0 if options else 4)
    assert result.trace.nfe == 5 + extra + 3


# optimize


def test_optimize_starts_from_the_noise_of_sample_and_returns_the_best_iterate():
    model, reward = make_generator(), quadratic(normal(2, 16, seed=5))
    seen = []
    result = optimize(model, [""] * 3, reward, METHODS["none"].replace(iterations=8, rate=1.0), callback=seen.append)
    torch.testing.assert_close(seen[0].images, sample(model, [""] * 3, None, "base", 1).images)
    assert [report.number for report in seen] == list(range(9))
    rewards = torch.stack([report.rewards for report in seen])
    torch.testing.assert_close(result.trace.rewards, rewards)
    torch.testing.assert_close(result.rewards, rewards.max(0).values)
    assert torch.equal(result.iterations, rewards.argmax(0)) and (result.iterations < 8).any()
    torch.testing.assert_close(reward(result.images, [""] * 3), result.rewards)
    assert result.trace.nfe.tolist() == [9, 9, 9]


def test_optimize_and_sample_run_the_same_ascent():
    model, reward = make_generator(), quadratic(normal(2, 16, seed=5))
    for name in ("gper", "reno"):
        method = METHODS[name].replace(iterations=6)
        looped, sampled = optimize(model, [""] * 2, reward, method), sample(model, [""] * 2, reward, method, 1)
        torch.testing.assert_close(looped.images, sampled.images, atol=1e-5, rtol=0)


def test_images_stop_when_the_heldout_reward_stops_improving():
    """The held-out target is a third of the reward's target; each image stops near it, in any batch."""
    model = make_generator()
    target = (model.matrix @ normal(32, seed=5)).view(2, 16)
    reward, half = quadratic(3 * target), quadratic(target)
    method = METHODS["none"].replace(iterations=80, rate=0.05)
    result = optimize(model, [""] * 3, reward, method, heldout=half, patience=3)
    free = optimize(model, [""] * 3, reward, method, heldout=half)
    torch.testing.assert_close(result.heldout, free.trace.heldout.max(0).values)
    assert (result.heldout > free.heldout + 1).all() and (result.rewards < free.rewards).all()
    assert torch.equal(result.trace.nfe, result.iterations + 4.0)
    assert (result.trace.rewards[-1] == result.trace.rewards[result.iterations + 3, range(3)]).all()
    norms, stopped = result.trace.gradient_norm, result.iterations + 3
    assert len(set(stopped.tolist())) > 1 and (norms > 0).all() and norms.shape == (80, 3)
    assert all((norms[stop:, image] == norms[stop, image]).all() for image, stop in enumerate(stopped))
    alone = optimize(model, [""], reward, method, seeds=[2], heldout=half, patience=3)
    torch.testing.assert_close(alone.images[0], result.images[2], atol=1e-4, rtol=0)


def test_optimize_takes_positional_arguments_in_the_order_of_sample():
    """model, prompts, reward, method, iterations, seeds; `iterations` replaces the method's own number."""
    model, reward = make_generator(), quadratic(normal(2, 16, seed=5))
    result = optimize(model, ["", ""], reward, "none", 3, [5, 6])
    named = optimize(model, prompts=["", ""], reward=reward, method=METHODS["none"].replace(iterations=3), seeds=[5, 6])
    assert torch.equal(result.images, named.images) and result.trace.rewards.shape == (4, 2)
    torch.testing.assert_close(result.rewards, result.trace.rewards.max(0).values)
    untouched = optimize(model, [""], reward, "gper", 0, [5])
    torch.testing.assert_close(untouched.images, sample(model, [""], reward, "base", 1, [5]).images)


def test_optimize_ends_when_all_images_have_stopped():
    numbers = []
    optimize(
        make_generator(),
        [""] * 2,
        quadratic(torch.zeros(2, 16)),
        METHODS["none"].replace(rate=5.0),
        heldout=quadratic(torch.zeros(2, 16)),
        patience=2,
        callback=lambda report: numbers.append(report.number),
    )
    assert numbers == [0, 1, 2]


# Invalid arguments


@pytest.mark.parametrize(
    "change, word",
    [
        ({"method": "ntrk"}, "not a noise ascent"),
        ({"method": "gper-ntrk"}, "use `sample`"),
        ({"patience": 2}, "patience = 2"),
        ({"patience": "x"}, "patience = 'x' must be a whole number, 0 or more"),
        ({"patience": 1.5}, r"patience = 1\.5 must be a whole number"),
        ({"patience": True}, "patience = True must be a whole number"),
        ({"seeds": [1]}, "seeds"),
        ({"prompts": None}, "prompts = None must be a text or a list of texts"),
        ({"prompts": ["", 3]}, "the prompt 3 is no text"),
        ({"callback": 3}, "callback = 3 must be a function"),
        ({"chunk": 0}, "chunk"),
        ({"iterations": -1}, "iterations = -1 must be a whole number, 0 or more"),
        ({"iterations": 2.5}, r"iterations = 2\.5 must be a whole number"),
        ({"iterations": "many"}, "iterations = 'many' must be a whole number"),
        ({"iterations": True}, "iterations = True must be a whole number"),
        ({"reward": Reward("black", lambda i, p: i.flatten(1).sum(1), differentiable=False)}, "black"),
    ],
)
def test_optimize_rejects_invalid_arguments(change, word):
    call = {"prompts": ["", ""], "reward": quadratic(torch.zeros(2, 16)), **change}
    with pytest.raises(ValueError, match=word):
        optimize(make_generator(), **call)


@pytest.mark.parametrize(
    "change",
    [
        {"iterations": -1},
        {"iterations": 2.5},
        {"iterations": "3"},
        {"rate": 0.0},
        {"gradient": "white"},
        {"latent": "fixed"},
        {"penalty": "norm"},
        {"penalty_weight": -1.0},
        {"optimiser": "lbfgs"},
        {"momentum": 1.0},
        {"clip": 0.0},
        {"audit_level": 1.0},
        {"chain_steps": 0},
        {"draws": -1},
        {"draws": 1.5},
        {"block_size": 0},
        {"width": 0.0},
        {"perturb": "nowhere"},
    ],
)
def test_ascent_rejects_invalid_options(change):
    with pytest.raises(ValueError, match=next(iter(change))):
        Ascent(**change)


def test_non_finite_rewards_raise_an_error_with_reward_and_iteration():
    """The reward becomes NaN after some iterations."""
    broken = Reward("broken", lambda i, p: (60 - i.square().flatten(1).sum(1)).sqrt() * 0 + i.flatten(1).sum(1))
    with pytest.raises(FloatingPointError, match=r"'broken'.*iteration [1-9]"):
        sample(make_generator(), [""], broken, METHODS["none"].replace(rate=0.2), 1)


def test_rewards_without_gradient_are_rejected():
    black = Reward("black", lambda i, p: i.flatten(1).sum(1), differentiable=False)
    with pytest.raises(ValueError, match=r"'black'.*gradient"):
        sample(make_generator(), [""], black, "gper", 1)
