"""Pipelines that lay out, use and decode their latents differently: a tiny one of the real class for each way."""

import copy
import types

import diffusers
import numpy as np
import PIL.Image
import pytest
import torch
from tiny_pipelines import SIZE, check_same, cogvideox, ddim, flux, ideogram, kandinsky, ltx, sana_world, sd, sdxl, vae

from noisetilt import METHODS, align, rewards
from noisetilt.integrations.diffusers.layout import Packing, layout_of, sample_view
from noisetilt.integrations.diffusers.scheduler import GuidedScheduler
from noisetilt.integrations.diffusers.schedules import path_of, times_of
from noisetilt.integrations.diffusers.support import reason_against, reason_against_call
from noisetilt.integrations.diffusers.temporary import complete

RED = rewards.load("redness")
IMAGE = dict(height=SIZE, width=SIZE, num_inference_steps=4)
LARGE = dict(height=32, width=32, num_inference_steps=4)
TEXT = dict(prompt="a red fox", guidance_scale=3.0)


def picture(size=SIZE):
    return torch.rand(1, 3, size, size, generator=torch.Generator().manual_seed(1))


def embeddings():
    image, negative = torch.randn(2, 1, 16, generator=torch.Generator().manual_seed(2)).unbind()
    return dict(image_embeds=image, negative_image_embeds=negative, guidance_scale=3.0)


def camera():
    """A camera that does not move, the text as embeddings, and the first frame."""
    text = torch.randn(2, 1, 1, 4, 16, generator=torch.Generator().manual_seed(2))
    present = torch.ones(1, 4, dtype=torch.int64)
    return dict(
        **LARGE,
        image=PIL.Image.new("RGB", (32, 32), "red"),
        prompt="a red fox",
        prompt_embeds=text[0],
        prompt_attention_mask=present,
        negative_prompt_embeds=text[1],
        negative_prompt_attention_mask=present,
        guidance_scale=3.0,
        num_frames=9,
        c2w=np.tile(np.eye(4), (9, 1, 1)),
        intrinsics=[32.0, 32.0, 16.0, 16.0],
    )


def pag():
    return sd(diffusers.StableDiffusionPAGPipeline)


def flux_fill():
    return flux(diffusers.FluxFillPipeline)


def unconditional():
    torch.manual_seed(0)
    network = diffusers.UNet2DModel(
        sample_size=SIZE,
        down_block_types=("DownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "UpBlock2D"),
        block_out_channels=(8, 16),
        layers_per_block=1,
        norm_num_groups=4,
    ).eval()
    return diffusers.DDIMPipeline(unet=network, scheduler=ddim())


def dit():
    network = diffusers.DiTTransformer2DModel(
        sample_size=SIZE // 2, num_layers=1, patch_size=2, attention_head_dim=8, num_attention_heads=2, out_channels=8
    ).eval()
    return diffusers.DiTPipeline(transformer=network, vae=vae(4), scheduler=ddim())


def inverted_flux():
    pipe = flux()
    pipe.scheduler = diffusers.FlowMatchEulerDiscreteScheduler(invert_sigmas=True, shift=2.0)
    return pipe


CASES = {
    "noise of the call itself": (unconditional, lambda: dict(batch_size=2, num_inference_steps=4)),
    "noise of the call itself, twice for guidance": (
        dit,
        lambda: dict(class_labels=[3, 7], guidance_scale=3.0, num_inference_steps=4),
    ),
    "a flow schedule from 0 to 1": (inverted_flux, lambda: dict(prompt="a red fox", **IMAGE, max_sequence_length=8)),
    "frames before channels": (cogvideox, lambda: dict(**TEXT, **IMAGE, num_frames=8, max_sequence_length=8)),
    "packed in three dimensions": (ltx, lambda: dict(**TEXT, **LARGE, num_frames=9, max_sequence_length=8)),
    "a fixed first frame": (
        lambda: ltx(diffusers.LTXImageToVideoPipeline),
        lambda: dict(**TEXT, **LARGE, image=picture(32), num_frames=9, max_sequence_length=8),
    ),
    "a learned variance, no processor": (kandinsky, lambda: dict(embeddings(), **IMAGE)),
    "processors reset at the end": (pag, lambda: dict(**TEXT, **IMAGE, pag_scale=2.0)),
    "an image beside the latents": (
        lambda: sd(diffusers.StableDiffusionInstructPix2PixPipeline, in_channels=8),
        lambda: dict(**TEXT, num_inference_steps=4, image=picture()),
    ),
    "tokens of an image after the latents": (
        lambda: flux(diffusers.FluxKontextPipeline),
        lambda: dict(**TEXT, **IMAGE, image=picture(), max_sequence_length=8, _auto_resize=False, max_area=SIZE * SIZE),
    ),
    "decoded with the number of prompts": (
        ideogram,
        lambda: dict(
            prompt=["a red fox", "snow"],
            num_images_per_prompt=2,
            **IMAGE,
            guidance_scale=3.0,
            guidance_schedule=None,
            max_sequence_length=8,
        ),
    ),
    "tokens of channels, and one video": (sana_world, camera),
    "a larger image at the end": (
        lambda: sdxl(diffusers.StableDiffusionXLPAGPipeline),
        lambda: dict(**TEXT, **IMAGE, pag_scale=2.0),
    ),
}


def build(name):
    torch.manual_seed(0)
    make, arguments = CASES[name]
    pipe = make()
    pipe.set_progress_bar_config(disable=True)
    return pipe, arguments()


def images_of(output):
    """Images (image, channel, H, W) or videos (video, frame, channel, H, W) from arrays with channels last."""
    images = output.frames if "frames" in output else output.images
    return torch.as_tensor(np.asarray(images)).float().movedim(-1, -3)


def run(pipe, arguments):
    generator = torch.Generator().manual_seed(3)
    output = pipe(**arguments, generator=generator, output_type="np")
    return output, images_of(output)


@pytest.mark.parametrize("name", CASES)
def test_base_at_eta_0_equals_the_plain_pipeline(name, record_property):
    pipe, arguments = build(name)
    plain = run(pipe, arguments)[1]
    output, aligned = run(align(pipe, RED, "base", eta=0), arguments)
    assert plain.std() > 0.001
    check_same(aligned, plain, record_property)
    frames = aligned.flatten(0, -4)
    expected = RED(frames, [""] * len(frames)).view(len(output.rewards), -1).mean(1)
    assert torch.allclose(output.rewards, expected, atol=1e-5)


@pytest.mark.parametrize("name", CASES)
def test_ntrk_raises_the_reward_and_leaves_the_pipeline_as_it_was(name):
    pipe, arguments = build(name)
    networks = [part for part in pipe.components.values() if isinstance(part, torch.nn.Module)]
    before = dict(vars(pipe)), [[type(m) for m in network.modules()] for network in networks]
    base, ntrk = (run(align(pipe, RED, method), arguments)[0] for method in ("base", METHODS["ntrk"].replace(rho=0.1)))
    assert (ntrk.rewards > base.rewards).all()
    assert {n: v for n, v in vars(pipe).items() if not n.startswith("_")} == {
        n: v for n, v in before[0].items() if not n.startswith("_")
    }
    assert [[type(m) for m in network.modules()] for network in networks] == before[1]


@pytest.mark.parametrize("name", ["svdd", "best-of-n"])
def test_particles_keep_what_belongs_to_their_image(name):
    """Each of two images has its own input, which the statements after the loop combine with the latents."""
    torch.manual_seed(0)
    pipe = sd(diffusers.StableDiffusionInpaintPipeline)
    pipe.set_progress_bar_config(disable=True)
    mask = torch.zeros(2, 1, SIZE, SIZE)
    mask[0, ..., : SIZE // 2], mask[1, ..., SIZE // 2 :] = 1, 1
    inputs = torch.cat([picture(), 1 - picture()])
    call = dict(image=inputs, mask_image=mask, strength=1.0, height=SIZE, width=SIZE, num_inference_steps=3)
    output = align(pipe, RED, METHODS[name].replace(particles=4))(
        ["a red fox", "snow"], seeds=[0, 1], output_type="pt", **call
    )
    assert torch.allclose(output.rewards, RED(output.images, ["a red fox", "snow"]), atol=1e-4)


def test_particles_where_the_number_of_videos_is_ignored(record_property):
    """CogVideoX makes one video for each prompt, whatever num_videos_per_prompt is."""
    pipe, arguments = build("frames before channels")
    plain = run(pipe, dict(arguments, num_videos_per_prompt=2))[1]
    _, aligned = run(align(pipe, RED, "base", eta=0), dict(arguments, num_videos_per_prompt=2))
    check_same(aligned, plain, record_property)
    output, videos = run(align(pipe, RED, METHODS["svdd"].replace(particles=2)), arguments)
    assert len(videos) == len(output.rewards) == 1
    assert torch.allclose(output.rewards, RED(videos[0], [""] * len(videos[0])).mean(), atol=1e-5)


def test_particles_are_refused_by_a_pipeline_of_one_row():
    pipe, arguments = build("tokens of channels, and one video")
    aligned = align(pipe, RED, METHODS["svdd"].replace(particles=2))
    with pytest.raises(
        ValueError, match=r"SanaWMPipeline failed before its first step.* 2 rows per image.* particles = 1"
    ):
        run(aligned, arguments)


REFUSED = {
    "HunyuanVideoFramepackPipeline": "several parts",
    "WanAnimatePipeline": "several parts",
    "LTXI2VLongMultiPromptPipeline": "several parts",
    "StableDiffusionPix2PixZeroPipeline": "several loops",
    "CosmosTextToWorldPipeline": "twice in every step",
    "AudioLDM2Pipeline": "makes sound|self.scheduler.step",
    "SkyReelsV2DiffusionForcingPipeline": r"calls sample_schedulers\[idx\].step",
    "UnCLIPPipeline": "self.decoder_scheduler.step",
    "AmusedPipeline": "no Gaussian noise",
    "LEditsPPPipelineStableDiffusion": "the noise of every step",
    "StableDiffusionPanoramaPipeline": "overlapping views",
    "StableDiffusionLatentUpscalePipeline": "the σ of its scheduler",
    "StableDiffusionDiffEditPipeline": "an inversion of the image",
    "KandinskyV22CombinedPipeline": "calls other pipelines",
    "FluxModularPipeline": r"is a modular pipeline.*DiffusionPipeline\.from_pretrained",
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_class_is_refused_for_a_reason(name):
    import re

    reason = reason_against_call(getattr(diffusers, name))
    assert reason.startswith(name) and re.search(REFUSED[name], reason)


@pytest.mark.parametrize("name", ["KandinskyV22PriorPipeline", "MarigoldDepthPipeline", "ShapEPipeline"])
def test_a_pipeline_that_makes_no_images_is_refused(name):
    pipe = object.__new__(getattr(diffusers, name))
    assert f"{name} makes" in reason_against(pipe)


@pytest.mark.parametrize("make", [unconditional, dit])
def test_first_particles_start_from_the_noise_of_the_call(make):
    """With particles and a generator, the first particle of each image starts as the plain pipeline does."""
    pipe = make()
    pipe.set_progress_bar_config(disable=True)
    images = dict(batch_size=2) if make is unconditional else dict(class_labels=[3, 7], guidance_scale=1.0)
    starts = []
    for method in ("base", METHODS["svdd"].replace(particles=3)):
        aligned, states = align(pipe, RED, method), []
        aligned.callback = lambda _, aligned=aligned, states=states: states.append(aligned.current_call.leaf.detach())
        aligned(**images, num_inference_steps=2, generator=torch.Generator().manual_seed(3), output_type="pt")
        starts.append(states[0])
    assert len(starts[1]) == 6 and torch.equal(starts[1][::3], starts[0])


def test_states_of_a_variance_exploding_schedule_are_refused():
    """As those of Cosmos 2, whose pipelines write their own limits into the scheduler."""
    pipe = flux()
    pipe.scheduler = diffusers.FlowMatchEulerDiscreteScheduler(use_karras_sigmas=True)
    pipe.scheduler.register_to_config(sigma_max=80.0)
    with pytest.raises(ValueError, match="σ up to 80"):
        align(pipe, RED)


def test_the_scheduler_of_consistency_models_is_refused():
    """It has a schedule, but not of a network that predicts ε, v, x_0 or a velocity."""
    pipe = diffusers.ConsistencyModelPipeline(unconditional().unet, diffusers.CMStochasticIterativeScheduler())
    with pytest.raises(ValueError, match="output of a consistency model"):
        align(pipe, RED)


def test_a_layout_inverts_the_packing():
    """Latents of two rows of 2 × 2 patches; the state has the channels first."""
    pack = lambda x: x.unflatten(3, (-1, 2)).permute(0, 3, 2, 1, 4).flatten(3).flatten(1, 2)  # noqa: E731
    x = torch.randn(2, 3, 4, 6)
    layout = layout_of(pack(x), [Packing(pack, x.shape, pack(x).shape)], {"num_channels_latents": 3})
    assert layout.state == (3, 4, 6)
    assert torch.equal(layout.unpack(pack(x)), x) and torch.equal(layout.pack(x), pack(x))


def test_a_part_of_the_latents_is_found():
    x = torch.randn(2, 4, 3, 5)
    layout = layout_of(x, [], {})
    view = sample_view(layout, x, x, x[:, :, 1:])
    assert torch.equal(view.to_sample(x), x[:, :, 1:])
    assert torch.equal(view.to_state(x[:, :, 1:])[:, :, 1:], x[:, :, 1:])
    assert sample_view(layout, x, x, torch.randn(2, 4, 2, 5)) is None


def test_latents_beside_a_fixed_image_are_found():
    x, image = torch.randn(2, 1, 4, 3), torch.randn(2, 2, 4, 3)
    view = sample_view(layout_of(x, [], {}), x, x, torch.cat([image, x], dim=1))
    assert torch.equal(view.to_sample(-x), torch.cat([image, -x], dim=1))
    assert torch.equal(view.to_state(view.to_sample(-x)), -x)


def test_frames_as_rows_are_found():
    """Text-to-video of 2023 gives its scheduler each frame as a row."""
    x = torch.randn(2, 4, 3, 5, 6)
    layout = layout_of(x, [], {})
    rows = x.transpose(1, 2).flatten(0, 1)
    view = sample_view(layout, x, x, rows)
    assert torch.equal(view.to_sample(x), rows) and torch.equal(view.to_state(rows), x)
    assert torch.equal(view.to_sample(x[:1]), rows[:3])


def test_tokens_of_channels_are_found():
    x = torch.randn(2, 4, 3, 5, 6)
    tokens = x.flatten(2).transpose(1, 2)
    view = sample_view(layout_of(x, [], {}), x, x, tokens)
    assert torch.equal(view.to_sample(-x), -tokens) and torch.equal(view.to_state(tokens), x)


def test_a_copy_of_the_guided_scheduler_is_not_guided():
    """Pipelines with sound copy their scheduler for it."""

    class Call:
        method = METHODS["base"]

    assert type(copy.deepcopy(GuidedScheduler(ddim(), Call()))) is diffusers.DDIMScheduler


def test_the_last_step_of_a_consistency_model_returns_x_0():
    scheduler = diffusers.LCMScheduler(set_alpha_to_one=False)
    scheduler.set_timesteps(4)
    assert times_of(scheduler)[-1] == -1 and path_of(scheduler).sigma(-1) == 0


def test_networks_without_a_flag_of_checkpointing_have_one_during_the_call():
    """Such as Z-Image's ControlNet, which reads it when gradients are on."""

    class Network(torch.nn.Linear):
        _supports_gradient_checkpointing = True

    network = Network(2, 2)
    with complete(types.SimpleNamespace(components={"controlnet": network})):
        assert network.gradient_checkpointing is False
    assert not hasattr(network, "gradient_checkpointing")


def test_the_cosine_path_is_that_of_its_scheduler():
    scheduler = diffusers.DDPMWuerstchenScheduler()
    scheduler.set_timesteps(4)
    path, clean = path_of(scheduler), torch.ones(1, 1)
    for t in (0.25, 0.5, 1.0):
        noised = scheduler.add_noise(clean, torch.zeros(1, 1), torch.tensor([t]))
        assert path.alpha(t) == pytest.approx(float(noised), abs=1e-6)
        assert path.alpha(t) ** 2 + path.sigma(t) ** 2 == pytest.approx(1)
    assert path.alpha(0.0) == 1
