"""Noise ascent as the initial noise of diffusers pipelines, on tiny instances."""

import contextlib
import importlib
import sys
import tempfile
import threading
from pathlib import Path

import diffusers
import pytest
import torch
from PIL import Image
from tiny_pipelines import build, sd

import noisetilt
from noisetilt import METHODS, Method
from noisetilt.initial_noise import Ascent, Gaussian
from noisetilt.integrations import stepped_sampler
from noisetilt.integrations.stepped_sampler import SteppedSampler, gradient_of_call, stream_of_caller
from noisetilt.integrations.vjp import make_vjp
from noisetilt.models.denoiser import Denoiser
from noisetilt.models.exact import GaussianModel
from noisetilt.path import FlowPath
from noisetilt.proposals import Base, BlackBoxTilt, ManifoldTilt, NoiseTilt
from noisetilt.rewards import Reward
from noisetilt.selection import Search

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"


def turbo():
    """Stable Diffusion as SD-Turbo is set up: Euler steps on trailing timesteps."""
    torch.manual_seed(0)
    pipe = sd()
    pipe.scheduler = diffusers.EulerDiscreteScheduler(
        beta_schedule="scaled_linear", beta_start=0.00085, beta_end=0.012, timestep_spacing="trailing"
    )
    pipe.set_progress_bar_config(disable=True)
    return pipe


@pytest.fixture
def example(monkeypatch, tmp_path):
    monkeypatch.setattr(sys, "path", [str(EXAMPLES), *sys.path])
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return importlib.import_module("ascent_sd_turbo")


def test_the_example_runs_as_it_is(example, tmp_path, capsys):
    example.main(["--iterations", "3", "--out", str(tmp_path)])
    assert "3 iterations: reward" in capsys.readouterr().out
    assert Image.open(tmp_path / "ascent_sd_turbo.png").size == (32, 16)


@pytest.mark.parametrize("method", ["gper", "gper-both", "reno"])
def test_the_example_climbs_on_a_one_step_pipeline(method, example):
    pipe = turbo()
    before, after = (example.optimise(pipe, "a red fox", method, 3, iterations=n) for n in (0, 8))
    assert after.rewards.item() > before.rewards.item()
    # Each iterate once, the start included, and the pipeline's own step.
    assert (before.trace.nfe, after.trace.nfe) == (2, 10)


def test_a_flow_starts_from_ascended_noise_and_goes_on(example):
    pipe, arguments = build("sd3")
    warm = example.warm
    method = METHODS["gper"].replace(iterations=6)
    base = noisetilt.align(pipe, reward=warm, method="base")("a cat", seeds=[1], **arguments)
    climbed = noisetilt.align(pipe, reward=warm, method=method)("a cat", seeds=[1], **arguments)
    assert climbed.trace.nfe == base.trace.nfe + 7
    assert not torch.allclose(climbed.images, base.images)


def generator(shape=(1, 1, 16)):
    """A known model: Gaussian pictures, whose denoiser is exact."""
    return GaussianModel(torch.full(shape, 0.3), torch.linspace(0.2, 2, 16).expand(1, 16), FlowPath())


def guided(model, reward, method, steps, seeds, **how):
    """A sampler whose requests the model answers, as a pipeline would."""
    denoiser = model.denoiser([""] * len(seeds))
    grid = model.path.grid(steps)
    sampler = SteppedSampler(
        method, model.path, model.shape, seeds, [""] * len(seeds), reward, model.decode, **{"eta": 0.0, **how}
    )
    with sampler:
        while not sampler.done:
            sampler.grid = grid
            t = sampler.t
            with torch.set_grad_enabled(sampler.needs_vjp):
                leaf = sampler.x.detach().requires_grad_(sampler.needs_vjp)
                x0_hat = denoiser(leaf, t)
            sampler.advance(leaf, x0_hat, make_vjp(x0_hat, leaf))
    return sampler


def few(name):
    """The method with few particles and calls."""
    method = METHODS[name]
    options = {k: v for k, v in dict(budget=2, iterations=2, draws=2).items() if method.options().get(k)}
    return method.replace(**options, **({"particles": 3} if method.selection.particles > 1 else {}))


# One of each kind of proposal, selection, time grid and initial noise; the others take a minute together.
KINDS = ("base", "dps", "lgd", "freedom", "rbf", "das", "ntrk", "ntrk-x0", "gper")


@pytest.mark.parametrize("name", [n if n in KINDS else pytest.param(n, marks=pytest.mark.long) for n in METHODS])
def test_every_method_samples_as_in_sample(name):
    """In four steps, of which two are guided by noise tilts, with the images of no other method."""
    model, target = GaussianModel(torch.zeros(3, 16, 16), torch.ones(16, 16), FlowPath()), torch.linspace(-1, 1, 16)
    near = Reward("near", lambda images, prompts: -10 * (images - target).square().mean((1, 2, 3)))
    base, expected = (noisetilt.sample(model, [""] * 2, near, method, 4, [0, 1]) for method in ("base", few(name)))
    found = guided(model, near, few(name), 4, [0, 1], eta=1.0, chunk=8)
    assert (name == "base") == torch.equal(base.images, expected.images)
    assert torch.allclose(model.decode(found.x[found.rows]), expected.images, atol=2e-3)
    torch.testing.assert_close(found.rewards, expected.rewards, atol=1e-3, rtol=0)
    torch.testing.assert_close(found.trace.rewards, expected.trace.rewards, atol=1e-3, rtol=0)
    # `optimize` and `sample` also evaluate a noise that a projection has changed after the last iteration.
    assert found.trace.nfe == expected.trace.nfe or name == "gper-latent"


@pytest.mark.parametrize("gradient_at", ["x_t", "x0"])
@pytest.mark.parametrize(
    "options", [{"chain_steps": 3}, {"draws": 4}, {"draws": 4, "perturb": "image"}, {"draws": 2, "chain_steps": 3}]
)
def test_chains_and_black_boxes_climb_as_in_sample(options, gradient_at):
    """The same pictures and as many evaluations, whoever calls the network."""
    model, target = generator(), torch.linspace(-1, 1, 16)
    near = Reward("near", lambda images, prompts: -(images - target).square().mean((1, 2, 3)))
    method = METHODS["gper"].replace(iterations=4, **options)
    expected = noisetilt.sample(model, [""] * 2, near, method, 3, [0, 1], eta=0.0, gradient_at=gradient_at)
    found = guided(model, near, method, 3, [0, 1], gradient_at=gradient_at)
    assert torch.allclose(model.decode(found.x), expected.images, atol=1e-4)
    assert torch.allclose(found.rewards, expected.rewards, atol=1e-4)
    assert found.trace.nfe == expected.trace.nfe


@pytest.mark.parametrize("options", [{}, {"draws": 2, "rate": 0.2, "width": 0.3}])
def test_rows_stop_as_in_sample_and_the_first_step_keeps_their_noise(options):
    """Two steps of a flow with η = 1, of which the first would replace the noise."""
    model = GaussianModel(torch.zeros(3, 16, 16), torch.ones(16, 16), FlowPath())
    near = Reward("near", lambda images, prompts: images.flatten(1).sum(1))
    settings = {"iterations": 12, "rate": 0.03, "audit_level": 1e-2, "chain_steps": 2, **options}
    method = Method(initial=Ascent(**settings), proposal=NoiseTilt(0.1))
    expected = noisetilt.sample(model, [""] * 3, near, method, 2, [0, 1, 2], eta=1.0)
    found = guided(model, near, method, 2, [0, 1, 2], eta=1.0)
    assert torch.allclose(model.decode(found.x), expected.images, atol=1e-3)
    assert found.trace.nfe >= expected.trace.nfe


@pytest.mark.parametrize("method", ["base", "mpgd", "ntrk"])
def test_a_heldout_reward_and_a_callback_take_the_images_of_the_reward(method):
    decoded = []

    class Counted(GaussianModel):
        def decode(self, x_0):
            decoded.append(len(x_0))
            return x_0

    model = Counted(torch.zeros(3, 16, 16), torch.ones(16, 16), FlowPath())
    near = Reward("near", lambda images, prompts: images.flatten(1).sum(1))
    guided(model, near, METHODS[method], 3, [0, 1], eta=1.0)
    alone, shown = sum(decoded), []
    decoded.clear()
    show = {"callback": lambda report: shown.append(report.images())}
    both = guided(model, near, METHODS[method], 3, [0, 1], eta=1.0, heldout=near, **show)
    # MPGD moves x̂_0 in the last step too, and the final images are decoded for each reward.
    moved = 2 if method == "mpgd" else 0
    assert alone == 3 * 2 + moved and sum(decoded) == alone + moved
    torch.testing.assert_close(near(shown[-1], ["", ""]), both.trace.heldout[-1])


@pytest.mark.parametrize("proposal", [NoiseTilt(0.2), ManifoldTilt(0.2), BlackBoxTilt(0.2, draws=2)])
def test_a_search_differentiates_the_best_candidate_alone(proposal):
    """With the images of `sample`, and no further network call."""
    differentiated = []

    def near(images, prompts):
        differentiated.append(len(images) if images.requires_grad else 0)
        return images.flatten(1).sin().sum(1)

    model = GaussianModel(torch.zeros(3, 16, 16), torch.ones(16, 16), FlowPath())
    method, reward = Method(proposal=proposal, selection=Search(particles=4)), Reward("near", near)
    expected = noisetilt.sample(model, [""] * 2, reward, method, 4, [0, 1])
    differentiated.clear()
    found = guided(model, reward, method, 4, [0, 1], eta=1.0, chunk=8)
    assert torch.allclose(model.decode(found.x[found.rows]), expected.images, atol=1e-3)
    assert found.trace.nfe == expected.trace.nfe == 16
    assert sum(differentiated) == (0 if isinstance(proposal, BlackBoxTilt) else 2 * 2)


class Recorder(GaussianModel):
    """The known model, with the states that its network was given."""

    def denoiser(self, prompts):
        known, self.states = super().denoiser(prompts), []

        def network(x_t, t, index):
            self.states.append(x_t.detach())
            return known(x_t, t, index)

        return Denoiser(self.path, network)


@pytest.mark.parametrize("run", ["sample", "stepped"])
def test_the_ascent_differentiates_where_the_caller_says_whatever_the_steps_do(run):
    """`ManifoldTilt` needs no gradient through the network; the initial noise is as before steps without a tilt."""
    model = Recorder(torch.full((1, 1, 16), 0.3), torch.linspace(0.2, 2, 16).expand(1, 16), FlowPath())
    target = torch.linspace(-1, 1, 16)
    near = Reward("near", lambda images, prompts: -(images - target).square().mean((1, 2, 3)))
    ascent, starts = Ascent(iterations=3, chain_steps=2), {}
    for proposal in (Base(), ManifoldTilt()):
        for gradient_at in ("x_t", "x0"):
            method = Method(initial=ascent, proposal=proposal)
            if run == "sample":
                noisetilt.sample(model, [""] * 2, near, method, 3, [0, 1], gradient_at=gradient_at)
            else:
                guided(model, near, method, 3, [0, 1], gradient_at=gradient_at, eta=1.0)
            starts[type(proposal), gradient_at] = model.states[-3]
    assert (starts[Base, "x_t"] - starts[Base, "x0"]).abs().max() > 0.01
    for gradient_at in ("x_t", "x0"):
        assert torch.equal(starts[ManifoldTilt, gradient_at], starts[Base, gradient_at])


def test_a_pipeline_differentiates_the_ascent_before_steps_that_do_not(example):
    """In one step, whose noise is zero, the image is that of the ascent alone."""
    ascent = METHODS["gper"].replace(iterations=3).initial
    images = [
        noisetilt.align(turbo(), example.warm, Method(initial=ascent, proposal=proposal))(
            "a cat", num_inference_steps=1, guidance_scale=0.0, seeds=[1], output_type="pt"
        ).images
        for proposal in (Base(), ManifoldTilt())
    ]
    assert torch.equal(*images)


def test_a_pipeline_starts_from_the_noise_with_the_best_image(example):
    """The ascent climbs a term of states that makes every later image worse than the first."""
    torn = Reward("torn", example.warm, of_states=lambda x_0, images, prompts: -1e3 * example.warm(images, prompts))
    base, climbed = (
        noisetilt.align(turbo(), torn, method)(
            "a cat", num_inference_steps=1, guidance_scale=0.0, seeds=[1], output_type="pt"
        ).images
        for method in ("base", METHODS["gper"].replace(iterations=3))
    )
    assert torch.equal(base, climbed)


@pytest.mark.parametrize(
    "initial, proposal, gradient_at, expected",
    [
        (Gaussian(), Base(), "x_t", None),
        (Gaussian(), BlackBoxTilt(), "x_t", None),
        (Gaussian(), NoiseTilt(), "x_t", "x_t"),
        (Gaussian(), NoiseTilt(), "x0", "x0"),
        (Gaussian(), ManifoldTilt(), "x_t", "x0"),
        (Ascent(), ManifoldTilt(), "x_t", "x_t"),
        (Ascent(), ManifoldTilt(), "x0", "x0"),
        (Ascent(), BlackBoxTilt(), "x_t", "x_t"),
    ],
)
def test_where_a_call_takes_gradients(initial, proposal, gradient_at, expected):
    assert gradient_of_call(Method(initial=initial, proposal=proposal), gradient_at) == expected


def test_a_chain_climbs_on_a_pipeline_of_several_steps(example):
    """With as many steps as the pipeline has and η = 0, its picture is the best one that was climbed to."""
    pipe, arguments = build("sd3")
    method = METHODS["gper"].replace(iterations=3, chain_steps=4)
    calls = []
    hook = pipe.transformer.register_forward_hook(lambda *_: calls.append(1))
    before, after = (
        noisetilt.align(pipe, example.warm, m, eta=0.0)("a cat", seeds=[1], **arguments) for m in ("base", method)
    )
    hook.remove()
    assert after.rewards > before.rewards
    assert (before.trace.nfe, after.trace.nfe) == (4, 20) and len(calls) == 24


def test_black_boxes_are_climbed_on_a_pipeline(example):
    black = Reward("black", lambda images, prompts: example.warm(images.detach(), prompts), differentiable=False)
    method = METHODS["gper"].replace(iterations=4, draws=4, width=0.2)
    before, after = (
        noisetilt.align(turbo(), black, m)(
            "a cat", num_inference_steps=1, guidance_scale=0.0, seeds=[1], output_type="pt"
        )
        for m in ("base", method)
    )
    assert after.rewards > before.rewards


def test_a_chain_of_more_steps_than_the_call_has_is_refused(example):
    aligned = noisetilt.align(turbo(), reward=example.warm, method=METHODS["gper"].replace(chain_steps=3))
    with pytest.raises(ValueError, match="chain_steps = 3 exceeds the 2 steps of this call"):
        aligned("a cat", num_inference_steps=2, seeds=[0], output_type="pt")


def stepped(model, reward, on_step, device="cpu"):
    """Runs a SteppedSampler; `on_step` makes the context of each of its calls, from their number."""
    denoiser = model.denoiser([""])
    options = dict(grid=model.path.grid(3), gradient_at="x0", device=device)
    sampler = SteppedSampler(METHODS["mpgd"], model.path, model.shape, [0], [""], reward, model.decode, **options)
    with on_step(0):
        sampler.__enter__()
    number = 0
    while not sampler.done:
        number += 1
        with on_step(number):
            sampler.advance(sampler.x, denoiser(sampler.x, sampler.t))
    sampler.__exit__()


def test_the_body_uses_the_stream_of_each_call(monkeypatch):
    """Streams belong to threads; here they are names, as far as a machine without a GPU can tell."""
    callers, of_thread, seen = [None], {}, []
    monkeypatch.setattr(stepped_sampler, "stream_of_caller", lambda device: callers[-1])
    monkeypatch.setattr(torch.cuda, "set_stream", lambda stream: of_thread.update({threading.get_ident(): stream}))

    @contextlib.contextmanager
    def named(number):
        callers.append(f"stream {number}")
        yield
        callers.pop()

    def reward(images):
        seen.append((of_thread[threading.get_ident()], callers[-1]))
        return images.mean((1, 2, 3))

    stepped(generator((3, 1, 16)), Reward("seen", reward), named)
    assert {stream for _, stream in seen} == {"stream 1", "stream 2", "stream 3"}
    assert all(used == stream for used, stream in seen) and threading.get_ident() not in of_thread


def test_other_devices_have_no_stream():
    assert stream_of_caller("cpu") is None and stream_of_caller(torch.device("meta")) is None


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
def test_the_body_uses_the_callers_cuda_stream():
    streams, seen = [torch.cuda.Stream() for _ in range(4)], []
    model = generator((3, 1, 16))
    network = Denoiser(model.path, lambda x_t, t, index: 0.5 * x_t)
    model.denoiser = lambda prompts: network

    def reward(images):
        seen.append(torch.cuda.current_stream().cuda_stream)
        return images.mean((1, 2, 3))

    stepped(model, Reward("seen", reward), lambda number: torch.cuda.stream(streams[number]), "cuda")
    assert set(seen) == {stream.cuda_stream for stream in streams[1:]}
