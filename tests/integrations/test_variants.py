"""Pipelines that start from a picture, or have a further network, on tiny instances of the real classes."""

import functools

import diffusers
import pytest
import torch
from PIL import Image
from tiny_pipelines import FAMILIES, SIZE, check_same, flux, pixart, sana, sd, sd3, sdxl, wan

from noisetilt import METHODS, align, rewards
from noisetilt.sampling.rng import PerImageRNG

RED = rewards.load("redness")
PROMPT = "a red fox"
MAKE = {
    "StableDiffusionXLImg2ImgPipeline": sdxl,
    "StableDiffusionXLInpaintPipeline": sdxl,
    "StableDiffusion3Img2ImgPipeline": sd3,
    "StableDiffusion3InpaintPipeline": functools.partial(sd3, channels=16),
    "FluxImg2ImgPipeline": flux,
    "FluxInpaintPipeline": flux,
}


def variant(kind):
    """A tiny pipeline of this class and arguments for it: a picture, and a mask over its right half."""
    torch.manual_seed(0)
    pipe = MAKE[kind](getattr(diffusers, kind))
    pipe.set_progress_bar_config(disable=True)
    call = dict(image=torch.rand(1, 3, SIZE, SIZE), strength=0.8, num_inference_steps=5, output_type="pt")
    if "Flux" in kind or "Diffusion3" in kind:
        call |= dict(height=SIZE, width=SIZE, max_sequence_length=8)
    if "Inpaint" in kind:
        mask = torch.zeros(1, 1, SIZE, SIZE)
        mask[..., SIZE // 2 :] = 1
        call |= dict(mask_image=mask, height=SIZE, width=SIZE)
    return pipe, call


@pytest.mark.parametrize("kind", MAKE)
@pytest.mark.parametrize("name", ["ntrk", "svdd"])
def test_from_a_picture(kind, name):
    pipe, call = variant(kind)
    method = METHODS[name].replace(particles=2) if name == "svdd" else METHODS[name]
    output = align(pipe, RED, method)(PROMPT, seeds=[0], **call)
    assert output.images.shape == (1, 3, SIZE, SIZE) and output.images.isfinite().all()
    assert output.trace.nfe == (8 if name == "svdd" else 4)
    assert type(output.images) is type(output.rewards) is torch.Tensor
    if name == "ntrk":
        assert output.rewards > align(pipe, RED, "base")(PROMPT, seeds=[0], **call).rewards


def test_an_account_of_the_noise_is_refused_where_the_pipeline_overwrites_it():
    method = METHODS["ntrk"].replace(whitened="path")
    with pytest.raises(ValueError, match=r"FluxInpaintPipeline replaces .* use whitened='mixture'"):
        align(variant("FluxInpaintPipeline")[0], RED, method)
    pipe, call = variant("FluxImg2ImgPipeline")
    assert align(pipe, RED, method)(PROMPT, seeds=[0], **call).images.isfinite().all()


@pytest.mark.parametrize("form", ["tensor", "list", "array"])
@pytest.mark.parametrize("kind", ["StableDiffusionXLImg2ImgPipeline", "StableDiffusion3Img2ImgPipeline"])
def test_each_picture_starts_from_its_own(kind, form):
    """Also with several particles, which are rows of the same batch."""
    pipe, call = variant(kind)
    pictures = torch.rand(2, 3, SIZE, SIZE)
    given = {
        "tensor": pictures,
        "list": [to_pil_image(one) for one in pictures],
        "array": pictures.permute(0, 2, 3, 1).numpy(),
    }[form]
    aligned = align(pipe, RED, METHODS["svdd"].replace(particles=2))
    both = aligned([PROMPT] * 2, seeds=[0, 1], **{**call, "image": given, "strength": 0.4}).images
    for row in range(2):
        alone = aligned(PROMPT, seeds=[row], **{**call, "image": given[row : row + 1], "strength": 0.4}).images
        assert torch.allclose(both[row], alone[0], atol=1e-4)


def to_pil_image(picture):
    return Image.fromarray((picture.permute(1, 2, 0) * 255).round().byte().numpy())


@pytest.mark.parametrize("kind", MAKE)
def test_at_eta_0_it_is_the_plain_pipeline(kind, record_property):
    """With the same random numbers for the noise that is put on the picture."""
    from noisetilt.integrations.diffusers.rows import row_generator

    pipe, call = variant(kind)
    plain = pipe(PROMPT, generator=[row_generator(0, 0)], **call).images
    check_same(align(pipe, None, "base", eta=0.0)(PROMPT, seeds=[0], **call).images, plain, record_property)


def test_from_a_picture_on_edms_schedule(record_property):
    """Whose states are in other units than the picture's latents."""
    from noisetilt.integrations.diffusers.rows import row_generator

    pipe, call = variant("StableDiffusionXLImg2ImgPipeline")
    pipe.scheduler = diffusers.EDMEulerScheduler(sigma_data=0.5)
    plain = pipe(PROMPT, generator=[row_generator(0, 0)], **call).images
    check_same(align(pipe, None, "base", eta=0.0)(PROMPT, seeds=[0], **call).images, plain, record_property, 1e-4)


def test_two_networks_one_after_the_other(record_property):
    """Wan 2.2 has a second transformer for the times of little noise."""
    torch.manual_seed(0)
    first, second = wan(), wan()
    parts = {**first.components, "transformer_2": second.transformer}
    pipe = diffusers.WanPipeline(**parts, boundary_ratio=0.8)
    pipe.set_progress_bar_config(disable=True)
    call = dict(FAMILIES["wan"][1], guidance_scale=1.0)
    noise = torch.randn(1, 16, 2, 2, 2)
    plain = pipe(PROMPT, latents=noise, **call).frames
    check_same(align(pipe, None, "base", eta=0.0)(PROMPT, latents=noise, **call).frames, plain, record_property)
    calls = []
    for name in ("transformer", "transformer_2"):
        getattr(pipe, name).register_forward_hook(lambda *_, name=name: calls.append(name))
    guided = align(pipe, RED, "ntrk")(PROMPT, seeds=[0], **call)
    # Flow times start where nothing of the video is in the state.
    assert (guided.trace.gradient_norm[1:-1] > 0).all() and calls == 2 * ["transformer"] + 2 * ["transformer_2"]


def test_pixart_alpha(record_property):
    """Which tells its network of the picture's size."""
    torch.manual_seed(0)
    pipe = diffusers.PixArtAlphaPipeline(**pixart().components)
    pipe.set_progress_bar_config(disable=True)
    call = FAMILIES["pixart"][1]
    noise = torch.randn(1, 4, SIZE // 2, SIZE // 2)
    plain = pipe(PROMPT, latents=noise, **call).images
    check_same(align(pipe, None, "base", eta=0.0)(PROMPT, latents=noise, **call).images, plain, record_property)
    base, tilted = (align(pipe, RED, method)(PROMPT, seeds=[0], **call).rewards for method in ("base", "ntrk"))
    assert tilted > base


def controlled():
    torch.manual_seed(0)
    base = sd()
    # Its last layers start at zero, so that it would change nothing.
    net = diffusers.ControlNetModel.from_unet(base.unet, conditioning_embedding_out_channels=(4, 8)).eval()
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    pipe = diffusers.StableDiffusionControlNetPipeline(**base.components, controlnet=net, requires_safety_checker=False)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def test_controlnet_keeps_its_say(record_property):
    """Base at η = 0 is the plain pipeline; its picture of control counts; the gradient goes through it as well."""
    pipe = controlled()
    call = dict(height=SIZE, width=SIZE, num_inference_steps=4, output_type="pt", guidance_scale=3.0)
    control, other = torch.rand(2, 1, 3, SIZE, SIZE)
    latents = torch.randn(1, 4, SIZE // 2, SIZE // 2)
    plain = pipe(PROMPT, image=control, latents=latents, **call).images
    same = align(pipe, None, "base", eta=0.0)(PROMPT, image=control, latents=latents, **call).images
    check_same(same, plain, record_property)
    aligned = align(pipe, RED, "ntrk")
    guided, elsewhere = (aligned(PROMPT, image=image, seeds=[0], **call) for image in (control, other))
    before = align(pipe, RED, "base")(PROMPT, image=control, seeds=[0], **call)
    pairs = align(pipe, RED, METHODS["svdd"].replace(particles=2))
    both = pairs([PROMPT] * 2, image=[control, other], seeds=[0, 1], **call)
    alone = pairs(PROMPT, image=other, seeds=[1], **call)
    assert torch.allclose(both.images[1], alone.images[0], atol=1e-4)
    assert guided.rewards > before.rewards and (guided.images - elsewhere.images).abs().max() > 1e-3


def test_hooks_that_move_networks_keep_working():
    """What CPU offloading attaches to networks: they are loaded when called and their calls are wrapped."""
    from accelerate.hooks import ModelHook, add_hook_to_module

    class Loader(ModelHook):
        calls = 0

        def pre_forward(self, module, *args, **kwargs):
            self.calls += 1
            return args, kwargs

    torch.manual_seed(0)
    pipe = sd()
    pipe.set_progress_bar_config(disable=True)
    call = dict(height=SIZE, width=SIZE, num_inference_steps=4, output_type="pt")
    plain = align(pipe, RED, "ntrk", gradient_at="x0")(PROMPT, seeds=[0], **call)
    loader = Loader()
    add_hook_to_module(pipe.unet, loader)
    hooked = align(pipe, RED, "ntrk", gradient_at="x0")(PROMPT, seeds=[0], **call)
    assert loader.calls == 4 and torch.equal(plain.images, hooked.images)


def sprint():
    torch.manual_seed(0)
    pipe = sana(sprint=True)
    pipe.set_progress_bar_config(disable=True)
    call = dict(height=32, width=32, use_resolution_binning=False, complex_human_instruction=None, output_type="pt")
    return pipe, dict(call, num_inference_steps=2, guidance_scale=4.5)


def test_trigflow_with_full_renoising_is_the_plain_pipeline(monkeypatch, record_property):
    """Sana-Sprint's consistency sampler puts fresh noise on every prediction, which is η = ∞."""
    pipe, call = sprint()
    streams = PerImageRNG([4], 1, (4, 16, 16))
    latents = streams.normal().flatten(0, 1)
    monkeypatch.setattr(
        "diffusers.schedulers.scheduling_scm.randn_tensor", lambda *args, **kwargs: streams.normal().flatten(0, 1)
    )
    plain = pipe(PROMPT, latents=latents, **call).images
    same = align(pipe, None, "base", eta=float("inf"))(PROMPT, seeds=[4], **call)
    check_same(same.images, plain, record_property)
    assert same.trace.nfe == 2
    assert pipe.scheduler.config.sigma_data == 0.5


@pytest.mark.parametrize("name, nfe", [("ntrk", 2), ("svdd", 4), ("dps", 2)])
def test_trigflow_is_guided(name, nfe):
    """Pictures of a batch, too, each as if alone."""
    pipe, call = sprint()
    method = METHODS[name].replace(particles=2) if name == "svdd" else METHODS[name]
    both = align(pipe, RED, method)([PROMPT] * 2, seeds=[0, 1], **call)
    alone = align(pipe, RED, method)(PROMPT, seeds=[1], **call)
    assert both.trace.nfe == nfe and torch.allclose(both.images[1:], alone.images, atol=1e-5)
    if name != "svdd":
        assert (both.rewards > align(pipe, RED, "base")([PROMPT] * 2, seeds=[0, 1], **call).rewards).all()
