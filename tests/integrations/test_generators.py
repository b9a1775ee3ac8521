"""`generator=` in an aligned pipeline: the initial latents are those of the plain pipeline."""

import pytest
import torch
from tiny_pipelines import FAMILIES, SIZE, build, check_same
from torch import Generator

from noisetilt import METHODS, Method, align, rewards
from noisetilt.proposals import Base

RED = rewards.load("redness")
PROMPT = "a red fox"
PLAIN = dict(reward=None, method="base", eta=0.0)
FORMS = {
    "one": lambda: Generator().manual_seed(7),
    "list": lambda: [Generator().manual_seed(seed) for seed in (7, 8, 9, 10)],
    "repeated": lambda: [Generator().manual_seed(7)] * 4,
    "global": lambda: None,
}


def field(output):
    return next(iter(output.values()))


def start_of(pipe):
    """The latents that the network is first called with, as a list to be filled."""
    seen, network = [], getattr(pipe, "unet", None) or pipe.transformer

    def note(module, args, kwargs):
        seen.append((args[0] if args else kwargs["hidden_states"]).detach().clone())

    network.register_forward_pre_hook(note, with_kwargs=True)
    return seen


class Starts(Base):
    """Base, which notes the initial states."""

    def __init__(self):
        object.__setattr__(self, "x", [])

    def __call__(self, step, noise):
        self.x.append(step.x_t)
        return super().__call__(step, noise)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_generator_gives_the_plain_pipelines_images(family, record_property):
    pipe, arguments = build(family)
    plain = field(pipe(PROMPT, generator=FORMS["one"](), **arguments))
    check_same(field(align(pipe, **PLAIN)(PROMPT, generator=FORMS["one"](), **arguments)), plain, record_property)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("family", ["sd", "flux"])
def test_with_several_prompts_and_images_per_prompt(family, form, record_property):
    pipe, arguments = build(family)
    call = dict(prompt=[PROMPT, "blue cat"], num_images_per_prompt=2, **arguments)
    torch.manual_seed(3)
    plain = field(pipe(generator=FORMS[form](), **call))
    torch.manual_seed(3)
    check_same(field(align(pipe, **PLAIN)(generator=FORMS[form](), **call)), plain, record_property)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("family", ["sd", "flux", "sdxl"])
def test_the_first_particle_starts_where_the_plain_pipeline_does(family, form):
    """The others from other noise."""
    pipe, arguments = build(family)
    arguments |= dict(prompt=[PROMPT, "blue cat"], num_images_per_prompt=2)
    seen, spy = start_of(pipe), Starts()
    torch.manual_seed(3)
    pipe(generator=FORMS[form](), **arguments)
    plain = seen[0][:4] if family == "flux" else seen[0][-4:]
    seen.clear()
    method = METHODS["svdd"].replace(particles=3)
    torch.manual_seed(3)
    align(pipe, RED, Method(proposal=spy, selection=method.selection))(generator=FORMS[form](), **arguments)
    found = (seen[0][:12] if family == "flux" else seen[0][-12:]).unflatten(0, (4, 3))
    assert torch.allclose(found[:, 0], plain, atol=1e-5)
    assert all(torch.pdist(particles).min() > 1 for particles in found.flatten(2))


@pytest.mark.parametrize("name", ["ntrk", "svdd"])
def test_guided_calls_repeat_and_the_noise_of_steps_differs_between_images(name):
    pipe, arguments = build("sd")
    method = METHODS[name].replace(particles=2) if METHODS[name].selection.particles > 1 else METHODS[name]
    aligned = align(pipe, RED, method)
    both = dict(prompt=[PROMPT] * 2, **arguments)
    first, second = (aligned(generator=FORMS["one"](), **both).images for _ in range(2))
    assert torch.equal(first, second)
    # The same latents for both images: only the steps' noise tells them apart.
    latents = torch.randn(1, 4, SIZE // 2, SIZE // 2).repeat(2, 1, 1, 1)
    images = aligned(generator=FORMS["one"](), latents=latents, **both).images
    assert not torch.allclose(images[0], images[1], atol=1e-3)


def test_a_generator_of_a_list_gives_its_image_alone_and_in_a_batch():
    pipe, arguments = build("sd")
    aligned = align(pipe, RED, "ntrk")
    batch = aligned([PROMPT] * 2, generator=[Generator().manual_seed(seed) for seed in (1, 7)], **arguments).images
    alone = aligned(PROMPT, generator=[Generator().manual_seed(7)], **arguments).images
    assert torch.allclose(batch[1:], alone, atol=1e-4)


@pytest.mark.parametrize("family", ["sd", "flux"])
def test_calls_with_one_generator_continue_as_the_plain_pipelines_do(family, record_property):
    pipe, arguments = build(family)
    ours, theirs = FORMS["one"](), FORMS["one"]()
    for _ in range(2):
        plain = field(pipe(PROMPT, generator=theirs, **arguments))
        check_same(field(align(pipe, **PLAIN)(PROMPT, generator=ours, **arguments)), plain, record_property)


@pytest.mark.parametrize("given", ["one", "global"])
def test_calls_with_the_same_latents_have_other_noise(given):
    pipe, arguments = build("sd")
    generator, latents = FORMS[given](), torch.randn(1, 4, SIZE // 2, SIZE // 2)
    torch.manual_seed(1)
    aligned = align(pipe, RED, "ntrk")
    first, second = (aligned(PROMPT, generator=generator, latents=latents, **arguments).images for _ in range(2))
    assert not torch.allclose(first, second, atol=1e-3)


def test_noise_ascent_climbs_from_the_generators_noise():
    pipe, arguments = build("sd")
    seen = start_of(pipe)
    pipe(PROMPT, generator=FORMS["one"](), **arguments)
    plain = seen[0][-1:]
    seen.clear()
    align(pipe, RED, METHODS["gper"].replace(iterations=2))(PROMPT, generator=FORMS["one"](), **arguments)
    first = seen[0][-1:]
    # GPER projects its noise before the first evaluation, which changes it little.
    cosine = torch.nn.functional.cosine_similarity(first.flatten(), plain.flatten(), dim=0)
    assert cosine > 0.95


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a second device")
@pytest.mark.parametrize("where, device", [("cpu", "cuda"), ("cuda", "cuda")])
def test_a_generator_on_another_device(where, device, record_property):
    pipe, arguments = build("sd")
    pipe.to(device)
    call = dict(prompt=[PROMPT, "blue cat"], **arguments)
    for generators in (
        lambda: Generator(where).manual_seed(7),
        lambda: [Generator(where).manual_seed(s) for s in (7, 8)],
    ):
        plain = pipe(generator=generators(), **call).images
        check_same(align(pipe, **PLAIN)(generator=generators(), **call).images, plain, record_property, 1e-4)
        guided = align(pipe, RED, METHODS["svdd"].replace(particles=2))(generator=generators(), **call)
        assert guided.images.isfinite().all()
