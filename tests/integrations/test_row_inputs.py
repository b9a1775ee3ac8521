"""Images, videos and prompts of which a batch has one per image, with several particles for each."""

import diffusers
import numpy as np
import pytest
import torch
import transformers
from PIL import Image
from tiny_pipelines import build, cogvideox, ltx, wan

from noisetilt import METHODS, align, rewards

RED = rewards.load("redness")
PROMPTS, NEGATIVES = ["a red fox", "blue cat"], ["snow", "green hill"]
SIDE = 16
CALL = dict(height=SIDE, width=SIDE, num_frames=9, num_inference_steps=3, max_sequence_length=8, output_type="pt")
BEST_OF_2 = METHODS["best-of-n"].replace(particles=2)


def cog(kind, channels):
    """A tiny CogVideoX whose network has these input channels."""
    torch.manual_seed(0)
    pipe = cogvideox(kind, channels)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def ltx_from_image():
    torch.manual_seed(0)
    pipe = ltx(diffusers.LTXImageToVideoPipeline)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def picture(number):
    pixels = np.random.default_rng(number).integers(0, 255, (SIDE, SIDE, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def frames(number):
    return [picture(9 * number + frame) for frame in range(9)]


def without_frames(call):
    return {name: value for name, value in call.items() if name != "num_frames"}


MAKERS = {
    "cogvideox": (lambda: cog(diffusers.CogVideoXPipeline, 4), None, CALL),
    "cogvideox-image": (lambda: cog(diffusers.CogVideoXImageToVideoPipeline, 8), "image", CALL),
    "cogvideox-video": (
        lambda: cog(diffusers.CogVideoXVideoToVideoPipeline, 4),
        "video",
        without_frames(CALL) | {"num_inference_steps": 5, "strength": 0.6},
    ),
    "cogvideox-control": (
        lambda: cog(diffusers.CogVideoXFunControlPipeline, 8),
        "control_video",
        without_frames(CALL),
    ),
    "ltx-image": (ltx_from_image, "image", CALL | {"height": 32, "width": 32}),
}


def condition(name, number):
    return {} if name is None else {name: picture(number) if name == "image" else frames(number)}


@pytest.mark.parametrize("name", MAKERS)
def test_an_image_of_a_batch_with_particles_is_the_image_alone(name):
    """Every prompt has its own negative prompt and its own picture, in each of its rows."""
    make, given, call = MAKERS[name]
    pipe = make()
    aligned = align(pipe, RED, BEST_OF_2)
    both = {} if given is None else {given: [condition(given, number)[given] for number in (0, 1)]}
    batch = aligned(prompt=PROMPTS, negative_prompt=NEGATIVES, seeds=[3, 4], **both, **call)
    for number, seed in enumerate((3, 4)):
        text = dict(prompt=PROMPTS[number], negative_prompt=NEGATIVES[number])
        alone = aligned(**text, seeds=[seed], **condition(given, number), **call)
        assert torch.allclose(alone.frames[0], batch.frames[number], atol=1e-5)
        assert torch.allclose(alone.rewards[0], batch.rewards[number], atol=1e-5)
    assert (batch.frames[0] - batch.frames[1]).abs().max() > 1e-3


def test_embeddings_of_prompts_have_rows_for_particles():
    pipe = cog(diffusers.CogVideoXPipeline, 4)
    embeddings = pipe.encode_prompt(PROMPTS, NEGATIVES, max_sequence_length=8)
    aligned = align(pipe, RED, BEST_OF_2)
    expected = aligned(PROMPTS, NEGATIVES, seeds=[3, 4], **CALL)
    given = dict(zip(("prompt_embeds", "negative_prompt_embeds"), embeddings, strict=True))
    found = aligned(**given, seeds=[3, 4], reward_prompts=PROMPTS, **CALL)
    assert torch.allclose(found.frames, expected.frames, atol=1e-5)


@pytest.mark.parametrize("form", ["tensor", "array"])
@pytest.mark.parametrize("name", ["cogvideox-image", "cogvideox-video"])
def test_pixels_of_one_picture_or_video_are_for_every_particle(name, form):
    make, given, call = MAKERS[name]
    aligned = align(make(), RED, BEST_OF_2)
    expected = aligned(prompt="a red fox", seeds=[3], **condition(given, 0), **call)
    pixels = np.stack([np.asarray(picture) for picture in (frames(0) if given == "video" else [picture(0)])]) / 255.0
    pixels = pixels if given == "video" else pixels[0]
    pixels = torch.from_numpy(pixels).movedim(-1, -3).float() if form == "tensor" else pixels.astype(np.float32)
    found = aligned(prompt="a red fox", seeds=[3], **{given: pixels}, **call)
    assert torch.allclose(found.frames, expected.frames, atol=1e-4)


@pytest.mark.parametrize("family", ["sana", "sd", "flux"])
def test_prompts_of_different_lengths_keep_their_masks(family):
    """diffusers repeats Sana's masks in another order than its prompts."""
    pipe, arguments = build(family)
    aligned = align(pipe, RED, METHODS["svdd"].replace(particles=2))
    prompts = ["a red fox in the snow", "cat"]
    batch = aligned(prompts, seeds=[3, 4], **arguments)
    for number, seed in enumerate((3, 4)):
        alone = aligned(prompts[number], seeds=[seed], **arguments)
        assert torch.allclose(alone.images[0], batch.images[number], atol=1e-5)


def wan_from_image():
    """Wan 2.1, whose embeddings of the image have one row per prompt, whatever num_videos_per_prompt is."""
    torch.manual_seed(0)
    parts = wan().components
    settings = dict(parts["transformer"].config, in_channels=36, image_dim=4, added_kv_proj_dim=24)
    parts["transformer"] = diffusers.WanTransformer3DModel.from_config(settings).eval()
    vision = transformers.CLIPVisionConfig(
        hidden_size=4, projection_dim=4, num_hidden_layers=2, num_attention_heads=2, image_size=16, patch_size=8
    )
    size = {"height": 16, "width": 16}
    pipe = diffusers.WanImageToVideoPipeline(
        **{name: part for name, part in parts.items() if name in ("tokenizer", "text_encoder", "vae", "scheduler")},
        transformer=parts["transformer"],
        image_encoder=transformers.CLIPVisionModelWithProjection(vision).eval(),
        image_processor=transformers.CLIPImageProcessor(size=size, crop_size=size),
    )
    pipe.set_progress_bar_config(disable=True)
    return pipe


@pytest.mark.parametrize("noise", ["seeds", "generator"])
def test_prompts_are_repeated_where_the_number_of_videos_fails(noise):
    """The call fails before its first step, and the second one has the same noise."""
    pipe = wan_from_image()
    embeddings = torch.randn(2, 1, 8, 16, generator=torch.Generator().manual_seed(0))
    texts = dict(zip(("prompt_embeds", "negative_prompt_embeds"), embeddings, strict=True))
    call = dict(CALL, num_frames=5, image=picture(0), reward_prompts=["a red fox"], **texts)

    def given():
        return {"seeds": [3]} if noise == "seeds" else {"generator": torch.Generator().manual_seed(3)}

    best = align(pipe, RED, BEST_OF_2)(**given(), **call)
    single = align(pipe, RED, "base")(**given(), **call)
    assert best.rewards >= single.rewards - 1e-6
    one = align(pipe, RED, METHODS["best-of-n"].replace(particles=1))(**given(), **call)
    assert torch.equal(one.frames, single.frames)
    assert torch.allclose(best.rewards, RED(best.frames[0], ["a red fox"] * 5).mean(), atol=1e-5)


@pytest.mark.parametrize(
    "change, message", [({"height": 15}, "^`height` and `width` have to be"), ({"prompt": None}, "^Provide either")]
)
def test_errors_that_are_not_of_particles_are_the_pipelines_own(change, message):
    pipe, arguments = build("sd")
    with pytest.raises(ValueError, match=message):
        align(pipe, RED, BEST_OF_2)(**{"prompt": "a red fox", "seeds": [0], **arguments, **change})


def test_a_class_without_source_is_refused():
    """As one that is executed from a text; its call cannot be read."""
    pipe, _ = build("sd")
    names = {"Base": type(pipe)}
    exec("class Own(Base):\n    def __call__(self, prompt=None):\n        return Base.__call__(self, prompt)", names)
    pipe.__class__ = names["Own"]
    with pytest.raises(ValueError, match=r"the source of __call__ .* define its class in a Python file"):
        align(pipe, RED, "ntrk")
