"""Tiny instances of the real pipelines, guided."""

import contextlib
import functools
import gc
import inspect
import warnings
import weakref
from dataclasses import replace

import diffusers
import pytest
import torch
from tiny_pipelines import FAMILIES, SIZE, build, check_same, ddim, sd

from noisetilt import METHODS, Method, align, rewards
from noisetilt.proposals import Base
from noisetilt.rewards import Reward
from noisetilt.sampling.rng import PerImageRNG

RED = rewards.load("redness")
PROMPT = "a red fox"
FEW = dict(budget=2, iterations=1, draws=2)


def small(name):
    """The method with few particles and calls."""
    method = METHODS[name]
    options = {option: value for option, value in FEW.items() if method.options().get(option)}
    if method.selection.particles > 1:
        options["particles"] = 2
    return method.replace(**options)


def field(output):
    return next(iter(output.values()))


def starting_noise(pipe, arguments, generator=0):
    """The latents that the pipeline itself would start from, of unit variance."""
    seen, original = [], pipe.prepare_latents

    def spy(*args, **kwargs):
        prepared = original(*args, **kwargs)
        seen.append(prepared[0] if isinstance(prepared, tuple) else prepared)
        return prepared

    pipe.prepare_latents = spy
    output = field(pipe(PROMPT, generator=torch.Generator().manual_seed(generator), **arguments))
    del pipe.prepare_latents
    return seen[0] / getattr(pipe.scheduler, "init_noise_sigma", 1.0), output


@pytest.mark.parametrize("family", FAMILIES)
def test_base_at_eta_0_is_the_plain_pipeline(family, record_property):
    """With DDIM for SD, SDXL and PixArt and FlowMatchEuler (shifted, dynamically shifted) for the others."""
    pipe, arguments = build(family)
    noise, plain = starting_noise(pipe, arguments)
    output = align(pipe, None, "base", eta=0.0)(PROMPT, latents=noise, **arguments)
    check_same(field(output), plain, record_property)
    assert output.rewards is None and output.trace.nfe == 4


@pytest.mark.parametrize(
    "scheduler, options",
    [
        (diffusers.EulerDiscreteScheduler, dict(timestep_spacing="leading")),
        (diffusers.EulerDiscreteScheduler, dict(use_karras_sigmas=True)),
        (diffusers.EulerDiscreteScheduler, dict(prediction_type="v_prediction", timestep_spacing="trailing")),
        (diffusers.DPMSolverMultistepScheduler, dict(solver_order=1, final_sigmas_type="zero")),
        (
            diffusers.DPMSolverMultistepScheduler,
            dict(solver_order=1, use_flow_sigmas=True, prediction_type="flow_prediction"),
        ),
        (diffusers.DPMSolverMultistepScheduler, dict(solver_order=1, use_flow_sigmas=True, prediction_type="sample")),
        (diffusers.DPMSolverMultistepScheduler, dict(solver_order=1, use_flow_sigmas=True, flow_shift=0.1)),
        (diffusers.DDIMScheduler, dict(prediction_type="sample", timestep_spacing="trailing")),
        (
            diffusers.DDIMScheduler,
            dict(prediction_type="v_prediction", rescale_betas_zero_snr=True, timestep_spacing="trailing"),
        ),
    ],
)
def test_other_schedulers_keep_their_own_times(scheduler, options, record_property):
    """Euler and first-order DPM-Solver are the same ODE step in other coordinates."""
    pipe, arguments = build("sd")
    pipe.scheduler = scheduler.from_config(pipe.scheduler.config, **options)
    noise, plain = starting_noise(pipe, arguments)
    output = align(pipe, None, "base", eta=0.0)(PROMPT, latents=noise, **arguments)
    # Without signal at the start, what is left of it is the network's prediction over a tiny α.
    check_same(field(output), plain, record_property, 2e-4 if options.get("rescale_betas_zero_snr") else 1e-5)


def test_a_flow_of_another_prediction_is_refused():
    pipe, _ = build("sd")
    pipe.scheduler = diffusers.UniPCMultistepScheduler(use_flow_sigmas=True, prediction_type="v_prediction")
    with pytest.raises(ValueError, match="set prediction_type='flow_prediction'"):
        align(pipe, RED)


EDM = [
    (diffusers.EDMEulerScheduler, dict()),
    (diffusers.EDMEulerScheduler, dict(prediction_type="v_prediction", sigma_schedule="exponential", sigma_data=1.5)),
    (diffusers.EDMEulerScheduler, dict(final_sigmas_type="sigma_min", sigma_min=0.1)),
    (diffusers.EDMDPMSolverMultistepScheduler, dict(solver_order=1, sigma_max=20.0)),
]


@pytest.mark.parametrize("family", ["sd", "sdxl"])
@pytest.mark.parametrize("scheduler, options", EDM)
def test_edm_schedulers(family, scheduler, options, record_property):
    """As in Playground 2.5: base at η = 0 is the plain pipeline, and it is guided."""
    pipe, arguments = build(family)
    pipe.scheduler = scheduler(**options)
    noise, plain = starting_noise(pipe, arguments)
    output = align(pipe, None, "base", eta=0.0)(PROMPT, latents=noise, **arguments)
    check_same(field(output), plain, record_property, 2e-5)
    methods = ("base", METHODS["ntrk"].replace(rho=0.05))
    base, tilted = (align(pipe, RED, method)(PROMPT, seeds=[0], **arguments).rewards for method in methods)
    assert tilted > base


@pytest.mark.parametrize("edm", [False, True])
def test_eta_1_is_the_stochastic_dpm_solver_with_the_same_noise(edm, monkeypatch, record_property):
    """SDE-DPM-Solver++ of first order draws from DDPM's posterior (Lu et al. 2022, arXiv 2211.01095)."""
    pipe, arguments = build("sd")
    name = f"{'EDM' if edm else ''}DPMSolverMultistepScheduler"
    options = dict(algorithm_type="sde-dpmsolver++", solver_order=1, use_karras_sigmas=True)
    scheduler = getattr(diffusers, name)
    pipe.scheduler = (
        scheduler(**{k: v for k, v in options.items() if "karras" not in k})
        if edm
        else scheduler.from_config(pipe.scheduler.config, **options)
    )
    streams = PerImageRNG([4], 1, (4, SIZE // 2, SIZE // 2))
    noise = torch.randn(1, 4, SIZE // 2, SIZE // 2, generator=torch.Generator().manual_seed(2))
    monkeypatch.setattr(f"{scheduler.__module__}.randn_tensor", lambda *args, **kwargs: streams.normal().flatten(0, 1))
    plain = pipe(PROMPT, latents=noise, **arguments).images
    guided = align(pipe, None, "base", eta=1.0)(PROMPT, latents=noise, seeds=[4], **arguments).images
    check_same(guided, plain, record_property, 2e-5)


@pytest.mark.parametrize("name", ["PNDMScheduler", "HeunDiscreteScheduler", "UniPCMultistepScheduler", "LCMScheduler"])
def test_schedulers_of_higher_order_are_replaced(name):
    pipe, arguments = build("sd")
    pipe.scheduler = getattr(diffusers, name).from_config(pipe.scheduler.config, skip_prk_steps=True)
    output = align(pipe, RED, "ntrk")(PROMPT, seeds=[0], **arguments)
    assert output.trace.nfe == 4 and output.images.isfinite().all()


def test_eta_1_is_ddim_with_the_same_noise(monkeypatch, record_property):
    pipe, arguments = build("sd")
    streams = PerImageRNG([4], 1, (4, SIZE // 2, SIZE // 2))
    noise = starting_noise(pipe, arguments)[0]
    monkeypatch.setattr(
        "diffusers.schedulers.scheduling_ddim.randn_tensor", lambda *args, **kwargs: streams.normal().flatten(0, 1)
    )
    plain = pipe(PROMPT, latents=noise, eta=1.0, **arguments).images
    guided = align(pipe, None, "base", eta=1.0)(PROMPT, latents=noise, seeds=[4], **arguments).images
    check_same(guided, plain, record_property)


def test_eta_1_is_ddpm_with_the_same_noise(monkeypatch, record_property):
    pipe, arguments = build("sd")
    pipe.scheduler = diffusers.DDPMScheduler.from_config(pipe.scheduler.config, variance_type="fixed_small")
    streams = PerImageRNG([4], 1, (4, SIZE // 2, SIZE // 2))
    noise = starting_noise(pipe, arguments)[0]
    monkeypatch.setattr(
        "diffusers.schedulers.scheduling_ddpm.randn_tensor", lambda *args, **kwargs: streams.normal().flatten(0, 1)
    )
    plain = pipe(PROMPT, latents=noise, **arguments).images
    guided = align(pipe, None, "base", eta=1.0)(PROMPT, latents=noise, seeds=[4], **arguments).images
    check_same(guided, plain, record_property)


class Spy(Base):
    needs_gradient = True

    def __init__(self):
        object.__setattr__(self, "steps", [])

    def __call__(self, step, noise):
        self.steps.append(step)
        return super().__call__(step, noise)


@pytest.mark.parametrize("family", ["sd", "flux"])
@pytest.mark.parametrize("gradient_at", ["x_t", "x0"])
def test_gradient_equals_finite_differences(family, gradient_at):
    """In float64, along random directions, through the pipeline's own loop, guidance and network.

    Flux rotates queries and keys in float32 whatever its dtype, so its differences need a longer step, less exact.
    """
    length, tolerance = (1e-3, 1e-3) if family == "flux" else (1e-5, 1e-5)
    pipe, arguments = build(family)
    pipe.to(torch.float64)
    spy = Spy()
    quadratic = Reward("quadratic", lambda images, prompts: images.square().sum((1, 2, 3)))
    aligned = align(pipe, quadratic, Method(proposal=spy), gradient_at=gradient_at)
    aligned(PROMPT, seeds=[0], **{**arguments, "num_inference_steps": 3})
    step = spy.steps[1]
    x_t = step.x_t

    def value(x):
        if gradient_at == "x0":
            return float(quadratic(decode(x), [""]))
        run = align(pipe, quadratic, Method(proposal=(inner := Spy())), gradient_at="x0")
        handed = swap_latents(pipe, run, x)
        handed(PROMPT, seeds=[0], **{**arguments, "num_inference_steps": 3})
        return float(inner.steps[1].rewards)

    def decode(x_0):
        config = pipe.vae.config
        latents = x_0 / config.scaling_factor + (config.shift_factor or 0.0)
        return (pipe.vae.decode(latents, return_dict=False)[0] / 2 + 0.5).clamp(0, 1)

    def swap_latents(pipe, aligned, x):
        """An aligned pipeline whose callback replaces the state after the first step by x."""

        def replace(pipe, number, timestep, values):
            if number > 0:
                return {}
            size = SIZE // 2
            packed = pipe._pack_latents(x, 1, 4, size, size) if family == "flux" else x
            return {"latents": packed}

        return lambda *args, **kwargs: aligned(*args, callback_on_step_end=replace, **kwargs)

    at = x_t if gradient_at == "x_t" else step.x0_hat
    generator = torch.Generator().manual_seed(1)
    for _ in range(2):
        direction = torch.randn(at.shape, generator=generator, dtype=torch.float64)
        direction /= direction.norm()
        with torch.no_grad():
            difference = (value(at + length * direction) - value(at - length * direction)) / (2 * length)
        assert (step.gradient * direction).sum().item() == pytest.approx(difference, rel=tolerance, abs=1e-8)


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("family", FAMILIES)
def test_every_method_on_every_family(family, name, pipelines):
    pipe, arguments = pipelines(family)
    method = small(name)
    calls = [0]
    network = getattr(pipe, "unet", None) or pipe.transformer
    hook = network.register_forward_hook(lambda *_: calls.__setitem__(0, calls[0] + 1))
    output = align(pipe, RED, method)(PROMPT, seeds=[3], **{**arguments, "num_inference_steps": 3})
    hook.remove()
    expected_calls = calls[0] / (2 if family == "wan" else 1)
    assert len(field(output)) == 1 and field(output).isfinite().all()
    assert output.rewards.shape == (1,)
    assert output.trace.nfe == expected_calls * method.selection.particles
    assert output.trace.rewards.shape == (len(output.trace.times), 1)


@pytest.fixture(scope="module")
def pipelines():
    return functools.cache(build)


def test_final_rewards_are_those_of_the_pictures():
    pipe, arguments = build("sd")
    output = align(pipe, RED, small("best-of-n"))(
        [PROMPT, "blue cat"], seeds=[0, 1], num_images_per_prompt=1, **arguments
    )
    assert (RED(output.images, ["", ""]) - output.rewards).abs().max() < 1e-5
    one = [align(pipe, RED, "base")(PROMPT, seeds=[0], **arguments).rewards]
    assert output.rewards[0] >= one[0] - 1e-6


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("name", ["best-of-n", "svdd"])
def test_the_final_decoding_is_of_the_best_particles_alone(family, name, monkeypatch):
    """Of all particles at once it would need the most memory of the call. A callback changes nothing about it."""
    pipe, arguments = build(family)
    rows, original = [], pipe.vae.decode
    monkeypatch.setattr(pipe.vae, "decode", lambda z, *a, **k: rows.append(len(z)) or original(z, *a, **k))
    prompts = [PROMPT, "blue cat"]
    callback = lambda pipe, number, t, values: {}  # noqa: E731
    inputs = dict(callback_on_step_end=callback, callback_on_step_end_tensor_inputs=["latents", "prompt_embeds"])
    if "callback_on_step_end" not in inspect.signature(pipe.__call__).parameters:
        inputs = {}
    method = METHODS[name].replace(particles=3)
    output = align(pipe, RED, method)(prompts, seeds=[0, 1], **inputs, **arguments)
    assert rows[-1] == 2 and set(rows[:-1]) == {1}
    final = RED(field(output).flatten(0, -4), [""]) if family != "wan" else None
    assert final is None or torch.allclose(final, output.rewards, atol=1e-4)


def test_particles_are_selected_by_the_rewards_of_images():
    """A term of states, which guides the steps, is no part of them; "best-of-n" has no guidance."""
    method = METHODS["best-of-n"].replace(particles=4)
    torn = replace(RED, of_states=lambda x_0, images, prompts: -1e3 * RED(images, prompts))
    pipe, arguments = build("sd")
    plain, found = (
        align(pipe, reward, method, heldout=reward)(PROMPT, seeds=[1], **arguments) for reward in (RED, torn)
    )
    assert torch.equal(found.images, plain.images) and torch.equal(found.rewards, plain.rewards)
    assert torch.equal(found.heldout, plain.heldout)


def test_noise_tilting_raises_the_reward():
    pipe, arguments = build("flux")
    seeds = [0, 1, 2, 3]
    base = align(pipe, RED, "base")(PROMPT, num_images_per_prompt=4, seeds=seeds, **arguments).rewards
    tilted = align(pipe, RED, METHODS["ntrk"].replace(rho=0.3))(
        PROMPT, num_images_per_prompt=4, seeds=seeds, **arguments
    ).rewards
    assert (tilted > base).all()


class Onlooker:
    """Darkness, and a note of who asked."""

    def __init__(self):
        self.asked = []

    def __call__(self, images, prompts):
        self.asked.append((len(images), tuple(prompts), images.requires_grad or torch.is_grad_enabled()))
        return -images.mean((1, 2, 3))


@pytest.mark.parametrize(
    "name, family", [("ntrk", "sd"), ("svdd", "sd"), ("rbf", "flux"), ("gper", "sd"), ("ntrk", "wan")]
)
def test_a_heldout_reward_looks_on_and_changes_nothing(name, family):
    """It is asked without gradients about each picture's best particle after every step, and about the final one unless
    that is the last prediction, as on flows."""
    pipe, arguments = build(family)
    judge, prompts = Onlooker(), [PROMPT, "blue cat"]
    plain = align(pipe, RED, small(name))(prompts, seeds=[0, 1], **arguments)
    output = align(pipe, RED, small(name), heldout=judge, chunk=2)(prompts, seeds=[0, 1], **arguments)
    assert plain.heldout is None and len(plain.trace.heldout) == 0
    assert torch.allclose(field(plain), field(output), atol=1e-4)
    frames = 5 if family == "wan" else 1
    everyone = tuple(p for p in prompts for _ in range(frames))
    assert judge.asked == [(2 * frames, everyone, False)] * (len(output.trace.times) + (family == "sd"))
    pictures = field(output).flatten(0, 1) if frames > 1 else field(output)
    assert torch.allclose(output.heldout, -pictures.unflatten(0, (2, frames)).mean((1, 2, 3, 4)), atol=1e-5)
    assert output.trace.heldout.shape == output.trace.rewards.shape == (len(output.trace.times), 2)
    # The last step leads to x̂_0 itself.
    if METHODS[name].selection.particles == 1:
        assert torch.allclose(output.trace.heldout[-1], output.heldout, atol=1e-4)


@pytest.mark.parametrize("name, needed", [("base", 0), ("best-of-n", 0), ("svdd", 4), ("ntrk", 4)])
def test_untracked_rewards_are_evaluated_where_the_method_needs_them(name, needed):
    pipe, arguments = build("sd")
    calls, method = [], small(name)
    reward = Reward("counted", lambda images: calls.append(len(images)) or RED(images, [""]))
    tracked = align(pipe, reward, method, chunk=2)(PROMPT, seeds=[0], **arguments)
    assert len(calls) == 5 and len(tracked.trace.rewards) == 4
    calls.clear()
    found = align(pipe, reward, method, chunk=2, track=False)(PROMPT, seeds=[0], **arguments)
    assert len(calls) == needed + 1 and len(found.trace.rewards) == needed and len(found.trace.times) == 4
    assert torch.equal(found.images, tracked.images) and torch.equal(found.rewards, tracked.rewards)


def test_a_heldout_reward_without_a_value_is_named():
    pipe, arguments = build("sd")
    judge = Reward("lost", lambda images, prompts: images.mean((1, 2, 3)) * float("nan"))
    with pytest.raises(FloatingPointError, match="'lost' is not finite at step 1"):
        align(pipe, RED, "base", heldout=judge)(PROMPT, seeds=[0], **arguments)


def test_black_boxes_are_followed():
    """Rewards of pictures around x̂_0 stand in for the gradient: no network call more, and none differentiated."""
    pipe, arguments = build("flux")
    black = Reward("black", lambda images, prompts: RED(images.detach(), prompts), differentiable=False)
    seeds, method = [0, 1, 2, 3], METHODS["ntrk-black-box"].replace(rho=0.5, draws=64)
    seen = []
    hook = pipe.transformer.register_forward_hook(lambda *call: seen.append(call[2][0].requires_grad))
    tilted = align(pipe, black, method, chunk=4)(PROMPT, num_images_per_prompt=4, seeds=seeds, **arguments)
    hook.remove()
    base = align(pipe, black, "base")(PROMPT, num_images_per_prompt=4, seeds=seeds, **arguments)
    assert tilted.rewards.mean() > base.rewards.mean() + 0.01
    assert seen == [False] * 4 and tilted.trace.nfe == 4


@pytest.mark.parametrize("name", ["base", "ntrk", "svdd"])
def test_a_seed_is_a_picture(name):
    """Alone or in a batch, by seeds or by generators."""
    pipe, arguments = build("sd")
    aligned = align(pipe, RED, small(name))
    alone = aligned(PROMPT, seeds=[7], **arguments).images
    batch = aligned(["a cat", PROMPT], seeds=[1, 7], **arguments).images
    assert torch.allclose(batch[1], alone[0], atol=1e-4)
    generators = lambda: [torch.Generator().manual_seed(5)]  # noqa: E731
    first, second = (aligned(PROMPT, generator=generators(), **arguments).images for _ in range(2))
    assert torch.equal(first, second)
    assert not torch.allclose(first, alone, atol=1e-3)


def test_one_generator_gives_different_pictures_and_repeats():
    pipe, arguments = build("sd")
    aligned = align(pipe, RED, "base")
    images = [
        aligned(PROMPT, num_images_per_prompt=2, generator=torch.Generator().manual_seed(0), **arguments).images
        for _ in range(2)
    ]
    assert torch.equal(*images) and not torch.allclose(images[0][0], images[0][1], atol=1e-3)


class Boom(Exception):
    pass


def public(pipe):
    """Names of a pipeline's attributes; those with an underscore hold its last call's arguments."""
    return {name for name in vars(pipe) if not name.startswith("_")}


@pytest.mark.parametrize("error", [Boom, KeyboardInterrupt])
@pytest.mark.parametrize("where", ["reward", "network", "callback"])
def test_the_pipeline_is_left_as_it_was(error, where):
    pipe, arguments = build("sd")
    scheduler, config, own = pipe.scheduler, dict(pipe.config), public(pipe)
    grads = [p.requires_grad for p in pipe.unet.parameters()]

    def fail(*_):
        raise error("stop")

    reward = Reward("fails", fail) if where == "reward" else RED
    if where == "network":
        hook = pipe.unet.mid_block.register_forward_hook(fail)
    if where == "callback":
        arguments["callback_on_step_end"] = fail
    with pytest.raises(error, match="stop"):
        align(pipe, reward, "ntrk", checkpointing=True)(PROMPT, **arguments)
    if where == "network":
        hook.remove()
    assert pipe.scheduler is scheduler and dict(pipe.config) == config and public(pipe) == own
    assert [p.requires_grad for p in pipe.unet.parameters()] == grads and all(grads)
    assert not pipe.unet.is_gradient_checkpointing
    assert torch.is_grad_enabled()


def test_a_call_that_failed_does_not_keep_the_networks_graph():
    """The aligned pipeline keeps the call itself, for the shape of its latents."""
    pipe, arguments = build("sd")
    outputs = []

    def fail(*_):
        raise Boom

    with contextlib.ExitStack() as stack:
        hook = pipe.unet.register_forward_hook(lambda *parts: outputs.append(weakref.ref(parts[-1][0])))
        stack.callback(hook.remove)
        aligned = align(pipe, Reward("fails", fail), "ntrk")
        stack.enter_context(contextlib.suppress(Boom))
        aligned(PROMPT, **arguments)
    gc.collect()
    assert aligned.current_call is not None
    assert outputs and all(output() is None for output in outputs)


@pytest.mark.parametrize("family, flow", [("flux", True), ("sd3", True), ("wan", True), ("sd", False)])
def test_steps_without_a_gradient_keep_no_graph(family, flow):
    """The last step of a flow, and the first, whose graph the pipeline would hold while the second makes its own."""
    pipe, arguments = build(family)
    network = getattr(pipe, "unet", None) or pipe.transformer
    calls, alive, at_call = [0], weakref.WeakSet(), []

    class Saved:
        def __init__(self, tensor):
            self.tensor = tensor

    def pack(tensor):
        saved = Saved(tensor)
        alive.add(saved)
        return saved

    def note(*_):
        calls[0] += 1
        gc.collect()
        at_call.append(len(alive))

    per_step = 2 if family == "wan" else 1  # Wan calls its network for each branch of guidance
    network.register_forward_hook(note)
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda saved: saved.tensor):
        output = align(pipe, RED, "ntrk")(PROMPT, seeds=[0], **arguments)
    steps = at_call[per_step - 1 :: per_step]
    assert abs(steps[1] - steps[2]) <= 1 and steps[2] > 10
    # 1: the order of Flux's packed latents
    assert steps[0] <= 1 and steps[3] <= 1 if flow else steps[0] == steps[1] == steps[3]
    assert (output.trace.gradient_norm.flatten() > 0).tolist() == [not flow, True, True, not flow]


def test_checkpointing_and_chunks_change_nothing():
    pipe, arguments = build("sd")
    plain = align(pipe, RED, "ntrk")([PROMPT] * 3, seeds=[0, 1, 2], **arguments).images
    other = align(pipe, RED, "ntrk", checkpointing=True, chunk=2.0)([PROMPT] * 3, seeds=[0, 1, 2], **arguments).images
    assert torch.allclose(plain, other, atol=1e-4)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("family", ["sdxl", "flux", "wan"])
def test_half_precision_pipelines_keep_a_float32_state(family, dtype):
    """SDXL's decoder is raised to float32 for float16, where it overflows, and is put back."""
    pipe, arguments = build(family)
    pipe.to(dtype)
    spy = Spy()
    output = align(pipe, RED, Method(proposal=spy))(PROMPT, seeds=[0], **arguments)
    assert output.rewards.isfinite().all() and field(output).isfinite().all()
    assert all(step.x_t.dtype == step.gradient.dtype == torch.float32 for step in spy.steps)
    last = spy.steps[-1].x_t
    assert not torch.equal(last, last.to(dtype).float())
    assert pipe.vae.dtype == next(pipe.text_encoder.parameters()).dtype == dtype


def test_classes_tuples_and_callbacks_are_the_pipelines_own():
    pipe, arguments = build("sd")
    seen = []

    def callback(pipe, number, timestep, values):
        seen.append((number, tuple(values["latents"].shape)))
        return {}

    aligned = align(pipe, RED, small("best-of-n"))
    output = aligned(PROMPT, callback_on_step_end=callback, **{**arguments, "output_type": "pil"})
    assert type(output).__name__ == "StableDiffusionPipelineOutput" and len(output.images) == 1
    assert output.images[0].size == (SIZE, SIZE) and list(output) == ["images"]
    assert len(seen) == 4 and seen[0] == (0, (2, 4, SIZE // 2, SIZE // 2))
    images, _ = aligned(PROMPT, return_dict=False, **arguments)
    assert len(images) == 1 and aligned.rewards.shape == (1,)


@pytest.mark.parametrize("name", ["ntrk", "svdd"])
def test_methods_that_need_noise_refuse_eta_0(name):
    pipe, arguments = build("sd")
    with pytest.raises(ValueError, match=r"^eta = 0 injects no noise, which this method needs"):
        align(pipe, RED, small(name), eta=0.0)(PROMPT, **arguments)


def test_what_is_set_is_set_on_the_pipeline():
    pipe, arguments = build("sd")
    aligned = align(pipe, RED, small("ntrk"))
    before = aligned(PROMPT, seeds=[0], **arguments).images
    scheduler = diffusers.DDIMScheduler.from_config(pipe.scheduler.config, prediction_type="v_prediction")
    aligned.scheduler = scheduler
    assert pipe.scheduler is scheduler
    assert not torch.allclose(torch.as_tensor(before), torch.as_tensor(aligned(PROMPT, seeds=[0], **arguments).images))
    aligned.reward, aligned.note = None, "mine"
    assert not hasattr(pipe, "reward") and not hasattr(pipe, "note") and aligned.note == "mine"


def test_methods_that_return_the_pipeline_return_the_aligned_one():
    class Chained(diffusers.StableDiffusionPipeline):
        def enable_something(self, value):
            self.something = value
            return self

    pipe, arguments = build("sd")
    pipe = Chained(**pipe.components, requires_safety_checker=False)
    aligned = align(pipe, RED, "ntrk")
    assert aligned.to("cpu") is aligned and aligned.to(dtype=torch.float32).enable_something(3) is aligned
    assert pipe.something == 3 and aligned.enable_something.__name__ == "enable_something"
    assert aligned.enable_attention_slicing() is None and aligned.components.keys() == pipe.components.keys()
    assert align(pipe, RED, "ntrk").to("cpu")(PROMPT, **arguments).rewards is not None


@pytest.mark.parametrize("kind, more", [("StableDiffusionImg2ImgPipeline", {}), ("StableDiffusionInpaintPipeline", {})])
@pytest.mark.parametrize("name", ["ntrk", "svdd", "freedom"])
def test_img2img_and_inpainting(kind, more, name):
    torch.manual_seed(0)
    pipe = sd(getattr(diffusers, kind))
    pipe.set_progress_bar_config(disable=True)
    image = torch.rand(1, 3, SIZE, SIZE)
    call = dict(image=image, strength=0.8, num_inference_steps=5, output_type="pt")
    if "Inpaint" in kind:
        mask = torch.zeros(1, 1, SIZE, SIZE)
        mask[..., SIZE // 2 :] = 1
        call |= dict(mask_image=mask, height=SIZE, width=SIZE)
    output = align(pipe, RED, small(name))(PROMPT, seeds=[0], **call)
    assert output.images.shape == (1, 3, SIZE, SIZE) and output.images.isfinite().all()
    assert output.trace.nfe >= 4


def test_img2img_at_eta_0_is_the_plain_pipeline(record_property):
    torch.manual_seed(0)
    pipe = sd(diffusers.StableDiffusionImg2ImgPipeline)
    pipe.set_progress_bar_config(disable=True)
    from noisetilt.integrations.diffusers.rows import row_generator

    call = dict(image=torch.rand(1, 3, SIZE, SIZE), strength=0.6, num_inference_steps=5, output_type="pt")
    plain = pipe(PROMPT, generator=[row_generator(0, 0)], **call).images
    check_same(align(pipe, None, "base", eta=0.0)(PROMPT, seeds=[0], **call).images, plain, record_property)


@pytest.mark.parametrize("strength", [0.09, 0.03])
def test_rounded_timesteps_that_occur_twice_are_told_apart(strength, record_property):
    """With 100 Karras steps the last timesteps are 1, 0, 0, 0, 0 and so on, each with its own σ."""
    torch.manual_seed(0)
    pipe = sd(diffusers.StableDiffusionImg2ImgPipeline)
    pipe.set_progress_bar_config(disable=True)
    scheduler = diffusers.DPMSolverMultistepScheduler
    pipe.scheduler = scheduler.from_config(pipe.scheduler.config, solver_order=1, use_karras_sigmas=True)
    call = dict(image=torch.rand(1, 3, SIZE, SIZE), strength=strength, num_inference_steps=100, output_type="pt")
    plain = pipe(PROMPT, generator=torch.Generator().manual_seed(1), **call).images
    found = align(pipe, None, "base", eta=0.0)(PROMPT, generator=torch.Generator().manual_seed(1), **call).images
    check_same(found, plain, record_property)


@pytest.mark.parametrize(
    "spacing, steps, eta, warned",
    [
        ("linspace", 4, 0.0, True),
        ("trailing", 7, 0.0, True),
        ("trailing", 4, 0.0, False),
        ("leading", 7, 0.0, False),
        ("linspace", 4, 1.0, False),
    ],
)
def test_a_difference_from_ddims_own_times_is_warned_of(spacing, steps, eta, warned):
    pipe, arguments = build("sd")
    pipe.scheduler = diffusers.DDIMScheduler.from_config(pipe.scheduler.config, timestep_spacing=spacing)
    call = dict(arguments, prompt=PROMPT, num_inference_steps=steps)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        found = field(align(pipe, None, "base", eta=eta)(generator=torch.Generator().manual_seed(1), **call))
    told = [str(warning.message) for warning in caught if "differs from the plain pipeline" in str(warning.message)]
    assert len(told) == warned
    if eta == 0:
        plain = field(pipe(generator=torch.Generator().manual_seed(1), **call))
        assert ((found - plain).abs().max() > 1e-4) == warned
    if warned:
        assert f"timestep_spacing='{spacing}' steps to times between its {steps} timesteps" in told[0]


class Stranger(diffusers.DiffusionPipeline):
    def __init__(self, unet, scheduler):
        super().__init__()
        self.register_modules(unet=unet, scheduler=scheduler)

    def prepare_latents(self):
        return torch.randn(1, 4, 8, 8)

    def __call__(self):
        return self.prepare_latents()


def test_a_pipeline_without_a_loop_is_refused():
    pipe = Stranger(sd().unet, ddim())
    with pytest.raises(ValueError, match=r"Stranger calls no step of a scheduler"):
        align(pipe, RED)


class Wrapped(diffusers.StableDiffusionPipeline):
    def __call__(self, *args, **kwargs):
        return super().__call__(*args, **kwargs)


def test_a_modular_pipeline_whose_components_are_not_loaded_is_refused():
    with pytest.raises(ValueError, match=r"is a modular pipeline.*DiffusionPipeline.from_pretrained"):
        align(object.__new__(diffusers.FluxModularPipeline), RED)


def test_a_call_of_the_base_class_names_the_base_class():
    with pytest.raises(ValueError, match=r"Wrapped calls the __call__ of Stable.*align StableDiffusionPipeline\("):
        align(sd(Wrapped), RED)


@pytest.mark.parametrize(("method", "warned"), [("ntrk", True), ("gper", True), ("base", False), ("svdd", False)])
def test_a_step_cache_is_warned_of_where_it_changes_the_guidance(method, warned):
    pipe, arguments = build("flux")
    pipe.transformer.enable_cache(diffusers.FirstBlockCacheConfig(threshold=0.05))
    few = {"gper": {"iterations": 1}, "svdd": {"particles": 2}}.get(method, {})
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        align(pipe, RED, METHODS[method].replace(**few))("a red fox", seeds=[0], **arguments)
    found = [str(warning.message) for warning in caught if "step cache" in str(warning.message)]
    assert len(found) == warned and all("call pipe.transformer.disable_cache()" in text for text in found)


def test_decode_replaces_the_pipelines_own_decoding():
    known, arguments = build("sd")
    decode = lambda x: (known.vae.decode(x / 0.7).sample / 2 + 0.5).clamp(0, 1)  # noqa: E731
    own = align(known, RED, "base")(PROMPT, seeds=[0], **arguments)
    given = align(known, RED, "base", decode=decode)(PROMPT, seeds=[0], **arguments)
    assert torch.allclose(own.rewards, given.rewards, atol=1e-5)


@pytest.mark.parametrize("scale, offset", [(2, -1), (255, 0)])
def test_images_of_a_decode_in_another_range_are_refused(scale, offset):
    known, arguments = build("sd")
    decode = lambda x: scale * x[:, :3].sigmoid() + offset  # noqa: E731
    with pytest.raises(
        ValueError, match=r"decode returned values from -?[\d.]+ to [\d.]+, expected images in \[0, 1\]"
    ):
        align(known, RED, decode=decode)(PROMPT, seeds=[0], **arguments)


@pytest.mark.parametrize(
    "options, call, word",
    [
        (dict(method="nope"), {}, "unknown"),
        (dict(reward=None), {}, "reward"),
        (dict(gradient_at="x1"), {}, "gradient_at"),
        (dict(chunk=0), {}, "chunk"),
        (dict(eta=0.0), {}, "eta = 0"),
        ({}, dict(seeds=[1, 2]), "2 seeds for 1 images"),
        ({}, dict(generator=[torch.Generator()] * 3), "3 generators"),
        (dict(reward=lambda i, p: i.detach().mean((1, 2, 3))), {}, "no gradient"),
        (dict(method="psi"), dict(latents=torch.randn(1, 4, SIZE // 2, SIZE // 2)), "initial noise"),
    ],
)
def test_bad_input_is_refused(options, call, word):
    pipe, arguments = build("sd")
    with pytest.raises(ValueError, match=word):
        align(pipe, **{"reward": RED, **options})(PROMPT, **call, **arguments)


def test_schedulers_that_are_not_supported_are_refused():
    """One of discrete tokens, say."""
    pipe, _ = build("sd")
    pipe.scheduler = diffusers.AmusedScheduler(mask_token_id=0)
    with pytest.raises(ValueError, match="AmusedScheduler is not supported"):
        align(pipe, RED)


def test_latents_that_a_scheduler_enlarges_are_refused():
    pipe, _ = build("sd3")
    pipe.scheduler = diffusers.FlowMatchLCMScheduler(scale_factors=[1.0, 1.5, 2.0], upscale_mode="bicubic")
    with pytest.raises(ValueError, match=r"has scale_factors = \[1.0, 1.5, 2.0\], by which latents grow"):
        align(pipe, RED, eta=float("inf"))


@pytest.mark.parametrize("seed", [-1, 0.5, "a", True, float("inf")])
def test_a_seed_that_is_no_whole_number_is_refused(seed):
    pipe, arguments = build("sd")
    with pytest.raises(ValueError, match="must be a whole number, 0 or more"):
        align(pipe, RED, "ntrk")(PROMPT, seeds=[seed], **arguments)


def test_eta_of_a_call_is_that_of_align():
    pipe, arguments = build("sd")
    latents = torch.randn(1, 4, SIZE // 2, SIZE // 2)
    drawn, of_call, of_align = (
        field(align(pipe, None, "base", **own)(PROMPT, latents=latents, seeds=[3], **given, **arguments))
        for own, given in (({}, {}), ({}, {"eta": 0.0}), ({"eta": 0.0}, {}))
    )
    assert torch.equal(of_call, of_align)
    assert (of_call - drawn).abs().max() > 1e-2


def test_eta_by_position_is_that_of_the_call():
    pipe, arguments = build("sd")
    parameters = inspect.signature(type(pipe).__call__).parameters
    before = list(parameters)[1 : list(parameters).index("eta")]
    given = [arguments.pop(name, PROMPT if name == "prompt" else parameters[name].default) for name in before]
    aligned, more = align(pipe, None, "base"), dict(arguments, seeds=[3])
    named = dict(zip(before, given, strict=True))
    by_position, by_name = field(aligned(*given, 0.0, **more)), field(aligned(**named, eta=0.0, **more))
    assert torch.equal(by_position, by_name)
    assert not torch.equal(by_name, field(aligned(**named, **more)))


@pytest.mark.parametrize("eta", [-1, "a", True, float("nan")])
def test_an_eta_that_is_no_number_from_0_is_refused_at_once(eta):
    pipe, _ = build("sd")
    with pytest.raises(ValueError, match=r"eta = .* must be a number, 0 \(deterministic\) or more"):
        align(pipe, RED, "ntrk", eta=eta)


def test_a_state_that_is_not_finite_names_the_step():
    class Escapes(Base):
        def __call__(self, step, noise):
            return step.mean * torch.inf

    pipe, arguments = build("sd")
    with pytest.raises(
        FloatingPointError, match=r"the state is not finite after step 1 \(t = .*\); lower the strength"
    ):
        align(pipe, None, Method(proposal=Escapes()))(PROMPT, seeds=[0], **arguments)
