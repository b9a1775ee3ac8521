import math
from dataclasses import dataclass, replace

import pytest
import torch

from noisetilt import METHODS, Method, load, optimize, sample
from noisetilt.initial_noise import Gaussian
from noisetilt.models.denoiser import Denoiser
from noisetilt.models.exact import GaussianModel, MixtureModel
from noisetilt.noise import clear_cache
from noisetilt.path import FlowPath, TimeTravel
from noisetilt.proposals import Base, BlackBoxTilt, MeanShift, NoiseTilt
from noisetilt.rewards import Reward
from noisetilt.sampling import reverse_steps
from noisetilt.sampling.rescaled_vjp import rescaled_vjp
from noisetilt.selection import Candidates, Independent, Search


def gaussian(size=8):
    frequency = torch.fft.fftfreq(size)
    radius = frequency[:, None] ** 2 + frequency[None] ** 2
    return GaussianModel(torch.zeros(3, size, size), 0.02 / (0.01 + radius))


def smooth_direction(model):
    """A unit direction in units of the prior: the reward aᵀx has standard deviation 1."""
    size = model.shape[-1]
    wave = torch.cos(2 * math.pi * torch.arange(size) / size).expand(model.shape)
    return wave / (wave * model._filter(wave, model.power)).sum().sqrt()


def linear(direction):
    return Reward("linear", lambda images, prompts: (images * direction).sum(dim=(1, 2, 3)))


ALL = list(METHODS)


def small(name):
    method = METHODS[name]
    return method.replace(particles=3) if method.selection.particles > 1 else method


@pytest.mark.parametrize("name", ALL)
def test_images_depend_on_their_seed_only(name):
    """The image is the same alone, at any position of a batch, and for any chunk size."""
    model = gaussian()
    reward = linear(smooth_direction(model))
    alone = sample(model, [""], reward, small(name), 5, seeds=[7])
    batch = sample(model, [""] * 3, reward, small(name), 5, seeds=[1, 7, 2], chunk=2)
    # This gradient has many ties, which W breaks by rank, so that rounding has a small effect.
    assert torch.allclose(batch.images[1], alone.images[0], atol=5e-3)
    assert not torch.allclose(batch.images[0], alone.images[0], atol=0.1)


@pytest.mark.parametrize("name", ["ntrk", "svdd", "das", "rbf"])
def test_heldout_reward_does_not_change_the_images(name):
    model = gaussian()
    reward = linear(smooth_direction(model))
    heldout = Reward("mean", lambda images, prompts: images.mean((1, 2, 3)))
    plain, evaluated = (sample(model, [""] * 3, reward, small(name), 5, heldout=h, chunk=2) for h in (None, heldout))
    assert plain.heldout is None and len(plain.trace.heldout) == 0
    assert torch.equal(plain.images, evaluated.images)
    assert torch.allclose(evaluated.heldout, heldout(evaluated.images, [""] * 3))
    assert evaluated.trace.heldout.shape == evaluated.trace.rewards.shape == (len(evaluated.trace.times), 3)


def test_first_particle_has_the_same_noise_for_any_number_of_particles():
    model = gaussian()
    worst_first = Reward("first", lambda images, prompts: -torch.arange(len(images), dtype=torch.float32))
    alone = sample(model, [""], None, "base", 5, seeds=[3])
    of_four = sample(model, [""], worst_first, METHODS["best-of-n"].replace(particles=4), 5, seeds=[3])
    assert torch.allclose(of_four.images, alone.images, atol=1e-5)


@pytest.mark.parametrize("name", ["best-of-n", "ntrk", "lgd", "svdd"])
def test_network_calls_have_at_most_chunk_rows(name):
    """The chunk bounds the memory for any number of images and particles."""
    model = gaussian()
    seen = []

    class Narrow(type(model)):
        def denoiser(self, prompts):
            denoiser = super().denoiser(prompts)
            inner = denoiser.network

            def network(x_t, t, index):
                seen.append(len(x_t))
                return inner(x_t, t, index)

            denoiser.network = network
            return denoiser

    narrow = Narrow(model.mean, model.power)
    method = METHODS[name].replace(draws=2) if name == "lgd" else small(name)
    sample(narrow, [""] * 5, linear(smooth_direction(model)), method, 3, chunk=2)
    assert max(seen) == 2 and sum(seen) == 3 * 5 * method.selection.particles


@pytest.mark.parametrize("name", ALL)
def test_nfe_is_steps_times_particles(name):
    model = gaussian()
    method = small(name)
    result = sample(model, [""] * 2, linear(smooth_direction(model)), method, 5)
    times = method.times.expand(model.path, model.path.grid(5))
    taken = reverse_steps(model.path, times)
    assert taken >= 5
    # All but Langevin dynamics also evaluate the last noise.
    before = method.initial.iterations + (name != "langevin") if method.initial.needs_reward else 0
    calls = (before + taken) * method.selection.particles
    if name == "rbf":
        assert result.trace.nfe == method.selection.budget * taken
    else:
        assert result.trace.nfe == calls
    assert result.trace.rewards.shape == (taken, 2)
    assert result.images.shape == (2, 3, 8, 8)
    assert result.trace.seconds > 0
    assert (result.trace.gradient_norm.shape == (taken, 2)) == method.proposal.needs_gradient


def test_guided_methods_increase_the_reward():
    """In standard deviations of the prior, for a smooth linear reward.

    W keeps little of such a gradient alone, and nearly all of it in the mixture with fresh noise.
    """
    model = gaussian(16)
    reward = linear(smooth_direction(model))
    means = {
        name: sample(model, [""] * 48, reward, method, 20, chunk=1024).rewards.mean().item()
        for name, method in {
            "base": METHODS["base"],
            "best-of-n": METHODS["best-of-n"].replace(particles=8),
            "ntrk": METHODS["ntrk"].replace(rho=0.05, whitened="mixture"),
            "dps": METHODS["dps"].replace(scale=0.3),
        }.items()
    }
    assert abs(means["base"]) < 5 / math.sqrt(48)
    assert means["best-of-n"] == pytest.approx(1.42, abs=0.4)  # E max of 8 standard normals is 1.42
    assert means["ntrk"] > means["best-of-n"] + 0.5
    assert means["dps"] > means["best-of-n"]


def test_black_box_tilt_increases_the_reward_without_gradient():
    """It exceeds Best-of-N with a fraction of the network calls."""
    model = gaussian()
    direction = smooth_direction(model)
    black = Reward("black", lambda i, p: (i.detach() * direction).sum((1, 2, 3)), differentiable=False)
    few = METHODS["ntrk-black-box"].replace(draws=16)
    guided = sample(model, [""] * 32, black, few, 20)
    best = sample(model, [""] * 32, black, METHODS["best-of-n"].replace(particles=8), 20)
    assert guided.trace.nfe == 20 and best.trace.nfe == 160
    assert guided.rewards.mean() > best.rewards.mean() + 0.5


def test_the_estimated_gradient_has_the_scale_of_the_gradient():
    """Its expectation is ∇r = 3a for the reward 3 aᵀx, and the projection onto a has a relative error of √(2/n)."""
    seen = {}

    @dataclass(frozen=True)
    class Seen(BlackBoxTilt):
        def __call__(self, step, noise):
            seen[step.number] = step.gradient
            return Base()(step, noise)

    model = GaussianModel(torch.zeros(1, 2, 2), torch.ones(2, 2))
    direction = torch.tensor([[0.5, -0.5], [0.5, 0.5]]).expand(1, 2, 2)
    black = Reward("black", lambda i, p: 3 * (i.detach() * direction).sum((1, 2, 3)), differentiable=False)
    sample(model, [""], black, Method(proposal=Seen(draws=20_000, width=0.1)), 3)
    assert torch.allclose(seen[2], 3 * direction, atol=0.1)


def test_first_step_of_a_flow_is_unguided():
    """α = 0 at t = 1, so the gradient is exactly zero."""
    model = gaussian()
    result = sample(model, [""], linear(smooth_direction(model)), METHODS["ntrk"].replace(rho=1.0), 5)
    assert (result.trace.gradient_norm[0] == 0).all()
    assert (result.trace.gradient_norm[1:-1] > 0).all()
    assert result.images.isfinite().all()


TILTS = [
    name for name in ALL if METHODS[name].proposal.needs_gradient and hasattr(METHODS[name].proposal, "needs_noise")
]


@pytest.mark.parametrize("name", TILTS)
def test_tilts_compute_no_gradient_in_steps_without_noise(name):
    """The last step has none, and neither does the first of a flow, where α = 0."""
    model, differentiated, evaluated = gaussian(), [], []

    def counted(images, prompts):
        evaluated.append(len(images))
        differentiated.append(images.requires_grad)
        return (images * smooth_direction(model)).sum((1, 2, 3))

    method = replace(METHODS[name], initial=Gaussian(), times=TimeTravel())
    method = method.replace(particles=3) if method.selection.particles > 1 else method
    result = sample(model, [""], counted, method, 5)
    assert sum(differentiated) == (0 if name == "ntrk-black-box" else 3)
    assert sum(evaluated) >= 5 * method.selection.particles and result.trace.rewards.shape == (5, 1)
    assert (result.trace.gradient_norm[1:-1] > 0).all() and (result.trace.gradient_norm[[0, -1]] == 0).all()
    if name == "ntrk-black-box":
        assert sum(evaluated) <= 5 + 3 * 64 + 1


def test_zero_gradient_gives_base_samples():
    model = gaussian()
    flat = Reward("flat", lambda images, prompts: (0 * images).sum(dim=(1, 2, 3)))
    guided = sample(model, [""] * 2, flat, "ntrk", 5)
    base = sample(model, [""] * 2, None, "base", 5)
    assert torch.allclose(guided.images, base.images, atol=1e-6)


def test_zero_strength_gives_base_samples():
    model = gaussian()
    reward = linear(smooth_direction(model))
    base = sample(model, [""] * 2, None, "base", 5).images
    for method in (METHODS["ntrk"].replace(rho=0.0), METHODS["dps"].replace(scale=0.0)):
        assert torch.allclose(sample(model, [""] * 2, reward, method, 5).images, base, atol=1e-6)


@pytest.mark.parametrize("gradient_at, jacobian", [("x_t", True), ("x0", False)])
def test_gradient_is_exact(gradient_at, jacobian):
    """A proposal gets Jᵀ∇r through the denoiser, and ∇r at x̂_0."""
    model = gaussian()
    direction = smooth_direction(model)
    steps = []

    class Recorder(Base):
        needs_gradient = True

        def __call__(self, step, noise):
            steps.append(step)
            return super().__call__(step, noise)

    sample(model, [""], linear(direction), Method(proposal=Recorder()), 4, gradient_at=gradient_at)
    step = steps[2]
    alpha, sigma = 1 - step.t, step.t
    gain = alpha * model.power / (alpha**2 * model.power + sigma**2)
    expected = model._filter(direction, gain) if jacobian else direction
    assert torch.allclose(step.gradient[0], expected, atol=1e-5)


def choose(selection, rewards, uniform=None, log_ratio=None, number=1, steps=1):
    uniform = torch.full_like(rewards, 0.5) if uniform is None else uniform
    log_ratio = torch.zeros_like(rewards) if log_ratio is None else log_ratio
    return selection.choose(Candidates(rewards, log_ratio, uniform, number, steps), None)[0]


def test_svdd_keeps_the_best_candidate():
    """All particles continue from the one with the best reward."""
    rewards = torch.tensor([[0.0, 3.0, 1.0], [5.0, 2.0, 1.0]])
    assert choose(Search(3), rewards).tolist() == [[1, 1, 1], [0, 0, 0]]


def test_soft_search_draws_one_candidate_in_proportion():
    """All particles of an image continue from it, whatever their own random numbers are."""
    rewards = torch.tensor([[0.0, math.log(3.0)]])
    uniform = torch.linspace(0, 1, 1001)[:-1]
    drawn = torch.stack([choose(Search(2, temperature=1.0), rewards, torch.stack([u, 1 - u])[None]) for u in uniform])
    assert drawn.float().mean().item() == pytest.approx(0.75, abs=0.01)
    assert torch.equal(drawn[..., 0], drawn[..., 1])


@pytest.mark.parametrize("particles", [8, 64])
def test_soft_search_approaches_the_tilted_distribution(particles):
    """If r is Gaussian of mean 0 and variance v without guidance, its mean under p(x) exp(r) is v."""
    model = gaussian(4)
    reward = linear(smooth_direction(model))
    variance = sample(model, [""] * 512, reward, "base", 8, chunk=4096).rewards.var()
    method = METHODS["svdd"].replace(particles=particles, temperature=1.0)
    rewards = sample(model, [""] * 192, reward, method, 8, chunk=4096).rewards
    assert abs(rewards.mean() - variance) < 0.25 and 0.5 < rewards.var() / variance < 1.5


def test_rollover_budget_exceeds_base_sampling():
    model = gaussian()
    reward = linear(smooth_direction(model))
    base = sample(model, [""] * 24, reward, "base", 8)
    rbf = sample(model, [""] * 24, reward, METHODS["rbf"].replace(budget=8), 8)
    assert rbf.rewards.mean() > base.rewards.mean() + 1
    assert rbf.trace.nfe == 64
    rising = rbf.trace.rewards.diff(dim=0) > 0
    assert rising[:-1].float().mean() > 0.85


def test_time_grid_may_return_to_noisier_times():
    model = gaussian()
    steps = []
    result = sample(model, [""], None, "base", grid=[1.0, 0.5, 0.7, 0.3, 0.0], callback=steps.append)
    assert result.trace.nfe == 3
    assert [round(s.t, 2) for s in steps] == [1.0, 0.7, 0.3]


def test_dps_finds_the_rewarded_mode():
    model = MixtureModel(torch.tensor([[-2.0, 0.0], [2.0, 0.0]]), torch.full((2,), 0.01), torch.ones(2))
    right = Reward("right", lambda states, prompts: states[:, 0])
    plain = sample(model, [""] * 200, None, "base", 20, chunk=200).images[:, 0]
    guided = sample(model, [""] * 200, right, METHODS["dps"].replace(scale=0.2), 20, chunk=200).images[:, 0]
    assert 0.35 < (plain > 0).float().mean() < 0.65
    assert (guided > 0).float().mean() > 0.85


@pytest.mark.parametrize(
    "change, error, word",
    [
        (dict(method="nope"), ValueError, "unknown"),
        (dict(method="ntrk", reward=None), ValueError, "reward"),
        (dict(seeds=[1]), ValueError, "seeds"),
        (dict(seeds=[1, -2]), ValueError, "seed"),
        (dict(seeds=3), ValueError, r"seeds = 3 must have one seed per prompt, such as \[3\]"),
        (dict(chunk="4"), ValueError, r"chunk = '4' must be a whole number"),
        (dict(chunk=math.inf), ValueError, r"chunk = inf must be a whole number"),
        (dict(chunk=2.5), ValueError, r"chunk = 2\.5 must be a whole number"),
        (dict(prompts=[]), ValueError, "prompts"),
        (dict(steps=0), ValueError, "steps"),
        (dict(grid=[1.0]), ValueError, "grid"),
        (dict(chunk=0), ValueError, "chunk"),
        (dict(eta=-1.0), ValueError, "eta"),
        (dict(gradient_at="x1"), ValueError, "gradient_at"),
        (dict(reward=Reward("box", lambda i, p: i.sum((1, 2, 3)), differentiable=False)), ValueError, "box.*gradient"),
        (dict(reward=lambda i, p: i.detach().sum((1, 2, 3))), ValueError, "gradient"),
        (dict(reward=lambda i, p: i.sum()), ValueError, "shape"),
        (dict(reward=lambda i, p: 3.0), ValueError, "float"),
        (dict(reward=lambda i, p: 1j * i.sum((1, 2, 3))), ValueError, "complex64, which has no largest value"),
        (dict(reward=Reward("bad", lambda i, p: i.sum((1, 2, 3)) / 0)), FloatingPointError, "'bad'.*step 1"),
        (
            dict(reward=Reward("root", lambda i, p: (0 * i).abs().sqrt().sum((1, 2, 3)))),
            FloatingPointError,
            "gradient.*'root'.*step 2",
        ),
    ],
)
def test_invalid_arguments_are_rejected(change, error, word):
    model = gaussian()
    call = {"prompts": ["", ""], "reward": linear(smooth_direction(model)), "method": "ntrk", "steps": 4, **change}
    with pytest.raises(error, match=word):
        sample(model, **call)


@pytest.mark.parametrize("name", ["ntrk", "dsg", "freedom", "svdd", "rbf", "fk", "das", "psi"])
def test_methods_that_need_noise_refuse_eta_0(name):
    model = gaussian()
    with pytest.raises(ValueError, match="eta = 0 injects no noise, which this method needs"):
        sample(model, [""], linear(smooth_direction(model)), small(name), 4, eta=0.0)


def test_steps_may_be_a_whole_float():
    model = gaussian()
    images = [sample(model, [""], None, "base", steps).images for steps in (4, 4.0)]
    assert torch.equal(*images)


def test_the_chunk_may_be_a_whole_float():
    model, reward = gaussian(), linear(smooth_direction(gaussian()))
    images = [sample(model, [""] * 3, reward, "ntrk", 2, chunk=chunk).images for chunk in (2, 2.0)]
    assert torch.equal(*images)
    found = [optimize(model, [""] * 3, reward, "gper", 2, chunk=chunk).images for chunk in (2, 2.0)]
    assert torch.equal(*found)


class WithoutGradient:
    """A model whose network, or whose decoder, computes no gradient."""

    path, shape = FlowPath(), (3, 16, 16)

    def __init__(self, part):
        self.part = part

    def denoiser(self, prompts):
        def network(x_t, t, index):
            with torch.set_grad_enabled(self.part != "network"):
                return (0.5 * x_t).tanh()

        return Denoiser(self.path, network)

    def decode(self, x_0):
        return x_0.detach() if self.part == "decode" else x_0


@pytest.mark.parametrize("part, word", [("network", "prediction has no gradient"), ("decode", "`decode`")])
def test_a_model_without_a_gradient_is_named(part, word):
    """The gradient would be zero where x_t has a direct part in the step."""
    model, reward = WithoutGradient(part), Reward("mean", lambda images, prompts: images.mean((1, 2, 3)))
    calls = [lambda: sample(model, [""], reward, "dps", 4), lambda: optimize(model, [""], reward, "gper", iterations=2)]
    for call in calls:
        with pytest.raises(ValueError, match=word):
            call()
    sample(model, [""], reward, "svdd", 2)
    if part == "network":
        assert sample(model, [""], reward, "mpgd", 4).rewards > sample(model, [""], reward, "base", 4).rewards


def test_rewards_and_results_are_float32_for_a_decoder_in_half_precision():
    class Half(GaussianModel):
        def decode(self, x_0):
            return super().decode(x_0).bfloat16()

    model, seen = Half(torch.zeros(3, 8, 8), torch.ones(8, 8)), set()

    def mean(images):
        seen.add(images.dtype)
        return images.mean((1, 2, 3))

    assert sample(model, [""], mean, "dps", 3).images.dtype == torch.float32
    assert optimize(model, [""], mean, "gper", iterations=1).images.dtype == torch.float32
    assert seen == {torch.float32}


def test_smoothing_of_width_0_costs_no_further_rewards():
    model, calls = gaussian(), []

    def mean(images):
        calls.append(len(images))
        return images.mean((1, 2, 3))

    sample(model, [""], mean, METHODS["tfg"].replace(gamma=0.0, mu=0.0), 4, track=False)
    assert len(calls) <= 5


def test_method_replaces_parts_and_options():
    method = METHODS["ntrk"].replace(rho=0.2, particles=4)
    assert method.proposal == NoiseTilt(rho=0.2) and method.selection == Independent(4)
    assert METHODS["ntrk"].proposal == NoiseTilt()
    assert METHODS["base"].replace(proposal=MeanShift(2.0)).options()["scale"] == 2.0
    das = METHODS["das"].replace(temperature=0.3, tempering=0.05)
    for part in (das.proposal, das.selection):
        assert (part.temperature, part.tempering) == (0.3, 0.05)
    with pytest.raises(ValueError, match=r"option 'rhoo'.*rho"):
        METHODS["ntrk"].replace(rhoo=1)
    with pytest.raises(ValueError, match="rho = 2"):
        METHODS["ntrk"].replace(rho=2)


def test_rho_beside_best_of_is_refused():
    by_best_of, message = METHODS["ntrk"].replace(best_of=1e6), "rho = 0.5 has no effect beside best_of = 1e.06"
    for method, changes in ((METHODS["ntrk"], {"rho": 0.5, "best_of": 1e6}), (by_best_of, {"rho": 0.5})):
        with pytest.raises(ValueError, match=message):
            method.replace(**changes)
    assert by_best_of.replace(rho=0.5, best_of=None).options()["rho"] == 0.5
    assert METHODS["ntrk"].replace(rho=0.5).replace(best_of=1e6) == METHODS["ntrk"].replace(
        best_of=1e6, proposal=(NoiseTilt(rho=0.5))
    )


def test_an_unknown_name_of_methods_has_the_nearest_one():
    with pytest.raises(KeyError, match=r"method 'ntkr' is unknown \(did you mean 'ntrk'"):
        METHODS["ntkr"]
    assert METHODS.get("ntkr") is None and "ntkr" not in METHODS


def test_noise_tilt_keeps_variance_and_mean():
    """The injected noise has unit variance for any ρ, and a positive component along the gradient."""
    from noisetilt.proposals import Step

    generator = torch.Generator().manual_seed(0)
    gradient = torch.randn(4, 3, 32, 32, generator=generator).cumsum(-1)
    noise = torch.randn(4, 3, 32, 32, generator=generator)
    zero = torch.zeros_like(noise)
    for rho in (0.01, 0.3, 1.0):
        step = Step(FlowPath(), 0.5, 0.46, zero, zero, zero, 2.0, None, gradient)
        moved = NoiseTilt(rho)(step, noise) / 2.0
        assert moved.flatten(1).square().mean(1).allclose(torch.ones(4), atol=0.05)
        assert (((moved - noise) * gradient).flatten(1).sum(1) > 0).all()


@pytest.mark.parametrize(
    "grid, word",
    [
        ([], "has no step"),
        ([1.0], "has no step"),
        ([0.0, 1.0], "ends with a step from t = 0.0 to a noisier t = 1.0"),
        ([1.0, 0.0, 0.5], "ends with a step"),
        ([float("nan"), 0.0], "t = nan"),
        ([1.5, 0.0], "t = 1.5 of the time grid is not a time of FlowPath"),
        ([1.0, -0.1], "t = -0.1"),
        (["a", "b"], r"grid = \['a', 'b'\] must be a list of times"),
        (3, "grid = 3 must be a list of times"),
    ],
)
def test_grids_without_a_last_reverse_step_are_refused(grid, word):
    with pytest.raises(ValueError, match=word):
        sample(gaussian(), [""], method="base", grid=grid)


def test_what_is_no_text_or_no_function_is_refused():
    for prompts, words in ((None, "prompts = None must be a text"), ([b"cat"], "the prompt b'cat' is no text")):
        with pytest.raises(ValueError, match=words):
            sample(gaussian(), prompts, method="base")
    with pytest.raises(ValueError, match="callback = 3 must be a function"):
        sample(gaussian(), [""], method="base", callback=3)


def test_time_travel_with_a_whitened_path_is_refused_before_the_first_reward():
    def reward(images):
        raise AssertionError

    with pytest.raises(ValueError, match="whitened = 'path' does not support time travel"):
        sample(gaussian(), [""], reward, METHODS["ntrk-x0"].replace(repeats=2), 10)


@pytest.mark.parametrize("gradient_at", ["x_t", "x0"])
def test_small_gradients_survive_float16(gradient_at):
    """float16 rounds everything below 6e-8 to 0; a mean over pixels has such gradients."""

    def gradient(model, scale):
        seen = []

        @dataclass(frozen=True)
        class Seen(MeanShift):
            def __call__(self, step, noise):
                seen.append(step.gradient.flatten() / scale)
                return Base()(step, noise)

        reward = Reward("red", lambda images, prompts: scale * images[:, 0].mean((1, 2)))
        sample(model, ["house"], reward, Method(proposal=Seen()), grid=[0.6, 0.3], gradient_at=gradient_at)
        return seen[0]

    exact, half = gradient(load("emoji128"), 1.0), load("emoji128", dtype="float16")
    for scale in (1.0, 1e-3, 1e-9):
        assert torch.cosine_similarity(gradient(half, scale), exact, dim=0) > 0.95
        assert gradient(half, scale).norm() == pytest.approx(exact.norm().item(), rel=0.1)


@pytest.mark.parametrize("gradient, jacobian", [([40000.0, -3.0], 1.0), ([60000.0, 0.0], 0.5), ([0.0, 0.0], 1.0)])
def test_large_gradients_survive_float16(gradient, jacobian):
    """The next power of 2 above 32768 is beyond float16."""
    half = torch.tensor([gradient], dtype=torch.float16)
    for given in (half, half.float()):
        found = rescaled_vjp(lambda g: (jacobian * g).half(), given)
        assert found.dtype == torch.float16 and torch.equal(found, jacobian * half)


@pytest.mark.parametrize(
    "change, value", [(torch.set_default_dtype, torch.float64), (torch.set_default_device, "meta")]
)
def test_defaults_of_torch_change_nothing(change, value):
    size, before = (3, 16, 18), {torch.set_default_dtype: torch.float32}.get(change)
    model, reward = GaussianModel(torch.full(size, 0.5), torch.full(size[1:], 0.05)), linear(torch.ones(size))

    def results():
        few = [small(name) for name in ("das", "ntrk", "cns")]
        found = [sample(model, [""], reward, method, 3) for method in few]
        found += [optimize(model, [""], reward, name, 1, heldout=reward, patience=1) for name in ("mpgr", "gper-w")]
        return [result.images for result in found]

    change(value)
    clear_cache()
    try:
        changed = results()
    finally:
        change(before)
    for found, expected in zip(changed, results(), strict=True):
        assert found.dtype == torch.float32 and torch.equal(found, expected)
