"""Methods that evaluate a timestep more than once, in pipelines that find something by the index of their loop."""

import diffusers
import pytest
import torch
from test_variants import PROMPT, RED, controlled, variant
from tiny_pipelines import SIZE, build, sd

from noisetilt import METHODS, align
from noisetilt.integrations.diffusers.support import reads_next_step

TRAVEL = {"freedom": METHODS["freedom"].replace(after=0.0, before=1.0), "ugd": METHODS["ugd"]}
ASCENT = {"gper": METHODS["gper"].replace(iterations=3, chain_steps=2)}
REDRAWN = {"rbf": METHODS["rbf"].replace(budget=3)}


@pytest.mark.parametrize("name, method", [*TRAVEL.items(), *REDRAWN.items(), *ASCENT.items()])
def test_a_controlnet_acts_at_the_same_timesteps_at_each_visit(name, method):
    """Its share of the timesteps is that of the plain pipeline, which has it as a list of one entry per timestep."""
    pipe, seen = controlled(), []
    call = dict(height=SIZE, width=SIZE, num_inference_steps=4, output_type="pt", control_guidance_end=0.5)
    call |= dict(prompt=PROMPT, image=torch.rand(1, 3, SIZE, SIZE), guidance_scale=1.0)
    note = lambda _, args, kwargs: seen.append((int(args[1]), kwargs["conditioning_scale"]))  # noqa: E731
    pipe.controlnet.register_forward_pre_hook(note, with_kwargs=True)
    pipe(**call)
    expected = dict(seen)
    assert list(expected.values()) == [1, 1, 0, 0]
    seen.clear()
    numbers = []
    callback = lambda pipe, number, t, values: numbers.append(number) or {}  # noqa: E731

    align(pipe, RED, method)(**call, callback_on_step_end=callback)
    assert len(seen) > 4 and all(expected[t] == scale for t, scale in seen)
    assert [list(expected)[number] for number in numbers] == [t for t, _ in seen]


INPAINTING = ["StableDiffusionInpaintPipeline", "StableDiffusionXLInpaintPipeline", "FluxInpaintPipeline"]


def inpainting(kind):
    if kind != "StableDiffusionInpaintPipeline":
        return variant(kind)
    torch.manual_seed(0)
    pipe = sd(diffusers.StableDiffusionInpaintPipeline)
    pipe.set_progress_bar_config(disable=True)
    return pipe, variant("StableDiffusionXLInpaintPipeline")[1]


@pytest.mark.parametrize("kind", INPAINTING)
@pytest.mark.parametrize("name", TRAVEL)
def test_time_travel_keeps_the_known_region_at_the_noise_of_the_state(kind, name):
    """The plain pipeline gives its network the same there at the same timestep, because its noise is fixed."""
    pipe, call = inpainting(kind)
    network, states = getattr(pipe, "unet", None) or pipe.transformer, {}

    def note(_, args, kwargs):
        x = args[0] if args else kwargs["hidden_states"]
        t = float(args[1] if args else kwargs["timestep"].flatten()[0])
        x = pipe._unpack_latents(x, SIZE, SIZE, pipe.vae_scale_factor) if x.ndim == 3 else x
        states.setdefault(t, []).append(x[0, ..., : SIZE // 4])

    network.register_forward_pre_hook(note, with_kwargs=True)
    align(pipe, None, "base", eta=0.0)(PROMPT, generator=torch.Generator().manual_seed(1), **call)
    expected = {t: known[0] for t, known in states.items()}
    states.clear()
    align(pipe, RED, TRAVEL[name])(PROMPT, generator=torch.Generator().manual_seed(1), **call)
    assert max(len(visits) for visits in states.values()) > 1
    for t, visits in states.items():
        assert all(torch.allclose(known, expected[t], atol=1e-4) for known in visits)


@pytest.mark.parametrize("kind", INPAINTING)
def test_several_candidates_at_one_timestep_of_inpainting_are_refused(kind):
    pipe, call = inpainting(kind)
    for name, part in (("rbf", "RolloverBudget"), ("gper", "Ascent")):
        with pytest.raises(ValueError, match=rf"^{kind} .* {part} evaluates several .* such as ntrk"):
            align(pipe, RED, name)
    aligned = align(pipe, RED, "ntrk")
    aligned.method = METHODS["rbf"]
    with pytest.raises(ValueError, match=rf"^{kind} .* RolloverBudget"):
        aligned(PROMPT, **call)


def test_an_index_that_a_callback_reports_is_no_reason():
    assert not reads_next_step(diffusers.CogView4Pipeline)
    assert reads_next_step(diffusers.StableDiffusion3InpaintPipeline)


def test_a_callback_gets_the_index_of_the_timestep():
    pipe, arguments = build("sd")
    numbers = []
    callback = lambda pipe, number, t, values: numbers.append((number, int(t))) or {}  # noqa: E731
    pipe(PROMPT, callback_on_step_end=callback, **arguments)
    times = [t for _, t in numbers]
    numbers.clear()
    align(pipe, RED, TRAVEL["ugd"])(PROMPT, seeds=[0], callback_on_step_end=callback, **arguments)
    assert len(numbers) > 4 and all(times[number] == t for number, t in numbers)
