"""Pipelines that start from an image, from given latents, or from the latents of another pipeline."""

import diffusers
import PIL.Image
import pytest
import torch
from test_variants import MAKE, PROMPT, RED, controlled, variant
from tiny_pipelines import SIZE, build, check_same, cogvideox, flux, ltx, sd
from torch import Generator

from noisetilt import METHODS, align
from noisetilt.integrations.diffusers.rows import row_generator

PLAIN = dict(reward=None, method="base", eta=0.0)
KINDS = {**MAKE, "StableDiffusionImg2ImgPipeline": sd, "StableDiffusionInpaintPipeline": sd}


def euler(pipe):
    pipe.scheduler = diffusers.EulerDiscreteScheduler.from_config(pipe.scheduler.config)


@pytest.fixture(params=KINDS)
def kind(request, monkeypatch):
    monkeypatch.setitem(MAKE, request.param, KINDS[request.param])
    return request.param


@pytest.mark.parametrize("form", ["one", "list"])
@pytest.mark.parametrize("noise", ["drawn", "given"])
def test_from_an_image_it_is_the_plain_pipeline(kind, noise, form, record_property):
    """With `generator=`, also as a list with several images per prompt, and with `latents=`."""
    pipe, call = variant(kind)
    if "Flux" not in kind and "Diffusion3" not in kind:
        euler(pipe)
    parameters = type(pipe).__call__.__wrapped__.__annotations__
    if noise == "given" and "latents" not in parameters:
        pytest.skip("the class takes no latents")
    channels = 16 if kind == "StableDiffusion3InpaintPipeline" else 4
    latents = torch.randn(2, channels, SIZE // 2, SIZE // 2)
    if "Flux" in kind:
        latents = pipe._pack_latents(latents, 2, 4, SIZE // 2, SIZE // 2)
    if noise == "given":
        call["latents"] = latents
    if form == "list":
        call["image"] = torch.rand(2, 3, SIZE, SIZE)
    before = latents.clone()
    call |= dict(prompt=PROMPT, num_images_per_prompt=2)
    generators = lambda: Generator().manual_seed(1) if form == "one" else [Generator().manual_seed(s) for s in (1, 2)]  # noqa: E731
    plain = pipe(generator=generators(), **call).images
    check_same(align(pipe, **PLAIN)(generator=generators(), **call).images, plain, record_property, 2e-5)
    assert torch.equal(latents, before)


@pytest.mark.parametrize("images", [1, 2])
def test_the_first_particle_starts_from_the_image_as_the_plain_pipeline_does(kind, images):
    pipe, call = variant(kind)
    call |= dict(prompt=PROMPT, num_images_per_prompt=2, image=torch.rand(images, 3, SIZE, SIZE))
    seen, network = [], getattr(pipe, "unet", None) or pipe.transformer
    note = lambda _, args, kwargs: seen.append(args[0] if args else kwargs["hidden_states"])  # noqa: E731
    network.register_forward_pre_hook(note, with_kwargs=True)
    pipe(generator=Generator().manual_seed(1), **call)
    plain = seen[0][:2]
    seen.clear()
    align(pipe, RED, METHODS["svdd"].replace(particles=3))(generator=Generator().manual_seed(1), **call)
    found = seen[0][:6].unflatten(0, (2, 3))
    assert torch.allclose(found[:, 0], plain, atol=1e-5) and not torch.allclose(found[:, 1], plain, atol=1e-2)


@pytest.mark.parametrize("name, images", [("ntrk", 2), ("svdd", 1)])
def test_a_crop_of_the_mask(name, images):
    """For which a pipeline takes one PIL image, with several images per prompt or particles."""
    pipe = sd(diffusers.StableDiffusionInpaintPipeline)
    pipe.set_progress_bar_config(disable=True)
    mask = PIL.Image.new("L", (SIZE, SIZE))
    mask.paste(255, (SIZE // 2, 0, SIZE, SIZE))
    call = dict(image=PIL.Image.new("RGB", (SIZE, SIZE), (200, 90, 20)), mask_image=mask, padding_mask_crop=2)
    call |= dict(num_images_per_prompt=images, strength=0.8, num_inference_steps=3, height=SIZE, width=SIZE)
    method = METHODS[name].replace(particles=2) if name == "svdd" else METHODS[name]
    found = align(pipe, RED, method)(PROMPT, seeds=range(images), **call).images
    assert len(found) == images and all(image.size == (SIZE, SIZE) for image in found)
    assert found[0].getpixel((0, 0)) == (200, 90, 20)  # outside of the mask


@pytest.mark.parametrize("kind", ["StableDiffusionXLImg2ImgPipeline", "StableDiffusion3Img2ImgPipeline"])
@pytest.mark.parametrize("name", ["ntrk", "svdd"])
def test_latents_that_a_pipeline_takes_as_they_are_are_guided(kind, name):
    """Without a call of prepare_latents."""
    pipe, call = variant(kind)
    call["latents"] = torch.randn(1, 4, SIZE // 2, SIZE // 2)
    method = METHODS[name].replace(particles=2) if name == "svdd" else METHODS[name]
    base, guided = (align(pipe, RED, m)(PROMPT, seeds=[0], **call) for m in ("base", method))
    assert guided.images.isfinite().all() and guided.trace.nfe == method.selection.particles * base.trace.nfe
    if name == "ntrk":
        assert guided.rewards > base.rewards and (guided.trace.gradient_norm[:-1] > 0).all()


def refiner(scheduler):
    """SDXL and its refiner, on the same schedule."""
    pipe, arguments = build("sdxl")
    if scheduler == "euler":
        euler(pipe)
    elif scheduler == "dpm-solver":
        pipe.scheduler = diffusers.DPMSolverMultistepScheduler.from_config(pipe.scheduler.config, solver_order=1)
    parts = {**pipe.components, "image_encoder": None, "feature_extractor": None}
    second = diffusers.StableDiffusionXLImg2ImgPipeline(**parts, add_watermarker=False)
    second.set_progress_bar_config(disable=True)
    size = dict(height=arguments.pop("height"), width=arguments.pop("width"))
    return pipe, second, {**arguments, "num_inference_steps": 4, "prompt": PROMPT}, size


@pytest.mark.parametrize("scheduler", ["ddim", "euler", "dpm-solver"])
def test_a_base_and_a_refiner(scheduler, record_property):
    """One denoises to 0.5 and gives its latents, the other goes on: each aligned or plain."""
    first, second, call, size = refiner(scheduler)

    def chain(one, two, seed=0):
        half = one(
            **{**call, **size, "output_type": "latent"}, denoising_end=0.5, generator=Generator().manual_seed(seed)
        )
        return two(**call, image=half.images, denoising_start=0.5, generator=Generator().manual_seed(seed)).images

    plain = chain(first, second)
    for one in (first, align(first, **PLAIN)):
        for two in (second, align(second, **PLAIN)):
            check_same(chain(one, two), plain, record_property, 2e-5)
    guided = chain(align(first, RED, "ntrk"), align(second, RED, "ntrk"))
    assert RED(guided, [PROMPT]) > RED(chain(align(first, RED, "base"), align(second, RED, "base")), [PROMPT])


def condition_only(kind):
    """A tiny pipeline with an image that is a condition, and its arguments."""
    torch.manual_seed(0)
    call = dict(prompt=PROMPT, num_inference_steps=3, output_type="pt")
    size = dict(height=SIZE, width=SIZE)
    image = torch.rand(1, 3, SIZE, SIZE)
    if kind == "ControlNet":
        return controlled(), dict(call, **size, image=image)
    if kind == "InstructPix2Pix":
        pipe = sd(diffusers.StableDiffusionInstructPix2PixPipeline, in_channels=8)
        return pipe, dict(call, image=image)
    if kind == "CogVideoX":
        pipe = cogvideox()
        network = diffusers.CogVideoXTransformer3DModel.from_config({**pipe.transformer.config, "in_channels": 8})
        parts = {**pipe.components, "transformer": network.eval()}
        return diffusers.CogVideoXImageToVideoPipeline(**parts), dict(
            call, **size, image=image, num_frames=9, max_sequence_length=8
        )
    pipe = flux(diffusers.FluxKontextPipeline)
    return pipe, dict(call, **size, image=image, max_sequence_length=8, _auto_resize=False, max_area=SIZE * SIZE)


@pytest.mark.parametrize("kind", ["ControlNet", "InstructPix2Pix", "Kontext", "CogVideoX"])
def test_noise_is_optimized_where_an_image_is_a_condition(kind, record_property):
    pipe, call = condition_only(kind)
    pipe.set_progress_bar_config(disable=True)
    plain = next(iter(pipe(generator=Generator().manual_seed(1), **call).values()))
    same = align(pipe, **PLAIN)(generator=Generator().manual_seed(1), **call)
    check_same(next(iter(same.values())), plain, record_property, 2e-5)
    base = align(pipe, RED, "base", eta=0.0)(seeds=[0], **call)
    method = METHODS["gper"].replace(iterations=4, chain_steps=3)
    ascended = align(pipe, RED, method, eta=0.0)(seeds=[0], **call)
    assert ascended.rewards > base.rewards and ascended.trace.nfe == base.trace.nfe + 15
    for name in () if kind == "CogVideoX" else ("psi", "langevin"):  # it has one image for all rows
        options = {n: v for n, v in dict(particles=2, iterations=1).items() if n in METHODS[name].options()}
        assert align(pipe, RED, METHODS[name].replace(**options))(seeds=[0], **call).rewards.isfinite().all()


def test_latents_with_those_of_an_image_are_a_start(record_property):
    """The first frame is fixed in them."""
    torch.manual_seed(0)
    pipe = ltx(diffusers.LTXImageToVideoPipeline)
    pipe.set_progress_bar_config(disable=True)
    call = dict(height=32, width=32, num_frames=9, num_inference_steps=2, output_type="latent", prompt=PROMPT)
    image = torch.rand(1, 3, 32, 32)
    plain = pipe(image=image, generator=[row_generator(0, 0)], **call).frames
    check_same(align(pipe, **PLAIN)(image=image, seeds=[0], **call).frames, plain, record_property, 2e-5)
    with pytest.raises(ValueError, match="this method chooses its own initial noise"):
        align(pipe, RED, "gper")(image=image, seeds=[0], **call)


def test_seeds_keep_a_video_as_the_start(record_property):
    torch.manual_seed(0)
    pipe = diffusers.CogVideoXVideoToVideoPipeline(**cogvideox().components)
    pipe.set_progress_bar_config(disable=True)
    video = [PIL.Image.new("RGB", (SIZE, SIZE), (20 * n, 99, 200)) for n in range(9)]
    call = dict(prompt=PROMPT, video=video, height=SIZE, width=SIZE, num_inference_steps=4, strength=0.5)
    call["max_sequence_length"] = 8
    plain = pipe(generator=[row_generator(0, 0)], output_type="pt", **call).frames
    check_same(align(pipe, **PLAIN)(seeds=[0], output_type="pt", **call).frames, plain, record_property, 2e-5)


@pytest.mark.parametrize("name", ["ntrk", "best-of-n", "svdd"])
def test_the_rewards_of_latents_with_noise_are_those_of_the_prediction(name):
    """With denoising_end, which gives latents to a refiner; also the choice of the particle."""
    first, _, call, size = refiner("ddim")
    method = METHODS[name].replace(particles=3) if name != "ntrk" else METHODS[name]
    seen = []
    aligned = align(first, RED, method, heldout=RED)
    aligned.callback = lambda report: seen.append(report.images())
    output = aligned(**call, **size, denoising_end=0.5, seeds=[0])
    assert torch.allclose(output.rewards, output.heldout)
    assert torch.allclose(output.rewards, output.trace.rewards[-1], atol=1e-5)
    assert torch.allclose(output.rewards, RED(seen[-1], [PROMPT]), atol=1e-5)
    assert (RED(output.images, [PROMPT]) - output.rewards).abs().max() > 1e-3
    whole = aligned(**call, **size, seeds=[0])
    assert torch.allclose(RED(whole.images, [PROMPT]), whole.rewards, atol=1e-5)


def test_a_pipeline_that_makes_its_latents_elsewhere_is_refused():
    pipe, _ = build("sd")

    class Elsewhere(type(pipe)):
        def __call__(self, prompt, num_inference_steps=4):
            self.scheduler.set_timesteps(num_inference_steps)
            x = torch.randn(1, 4, SIZE // 2, SIZE // 2)
            for t in self.scheduler.timesteps:
                x = self.scheduler.step(x, t, x).prev_sample

    with pytest.raises(RuntimeError, match="Elsewhere does not make its latents by prepare_latents"):
        align(Elsewhere(**pipe.components, requires_safety_checker=False), RED, "base")(PROMPT)
