"""Pipelines that noise the final latents for their decoder (LTX): rewards are those of the returned videos."""

import diffusers
import pytest
import torch
from tiny_pipelines import ltx
from torch import Generator

from noisetilt import METHODS, align, rewards

RED = rewards.load("redness")
CALL = {
    "prompt": ["a red fox", "blue cat"],
    "height": 32,
    "width": 32,
    "num_frames": 1,
    "num_inference_steps": 1,
    "output_type": "pt",
    "max_sequence_length": 8,
    "guidance_scale": 1.0,
}
SCALARS = {"decode_timestep": 0.5, "decode_noise_scale": 0.9}
LISTS = {"decode_timestep": [0.1, 0.9], "decode_noise_scale": [0.2, 0.9]}
TWICE = Generator()
NOISE = {
    "seeds": lambda: {"seeds": [0, 1]},
    "one": lambda: {"generator": Generator().manual_seed(1)},
    "list": lambda: {"generator": [Generator().manual_seed(seed) for seed in (1, 2)]},
    "repeated": lambda: {"generator": [TWICE.manual_seed(1)] * 2},
    "global": dict,
}


@pytest.fixture(scope="module")
def pipe():
    torch.manual_seed(0)
    pipe = ltx(timestep_conditioning=True)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def check_rewards(output):
    """Compares each reward with that of the video, and with those of the others, which the noise makes different."""
    found = torch.stack([RED(video, [""] * len(video)).mean() for video in output.frames])
    assert torch.allclose(output.rewards, found, atol=1e-6)
    assert torch.pdist(found[:, None]).min() > 1e-5


@pytest.mark.parametrize(
    "noise, particles",
    [("seeds", 1), ("one", 1), ("repeated", 1), ("global", 1), ("seeds", 3), ("one", 3), ("list", 3)],
)
def test_each_row_has_its_own_noise_in_chunks_of_one(pipe, noise, particles):
    torch.manual_seed(1)
    method, given = ("base", SCALARS) if particles == 1 else (METHODS["best-of-n"].replace(particles=particles), LISTS)
    check_rewards(align(pipe, RED, method)(**CALL, **given, **NOISE[noise]()))


def test_with_a_generator_it_is_the_plain_pipelines_video(pipe):
    plain = pipe(**CALL, **LISTS, **NOISE["one"]()).frames
    found = align(pipe, RED, "base", eta=0.0)(**CALL, **LISTS, **NOISE["one"]())
    assert torch.allclose(found.frames, plain, atol=1e-5)
    check_rewards(found)


def test_with_several_videos_per_prompt_and_a_decode_of_the_caller(pipe):
    several = {"num_videos_per_prompt": 2, "seeds": [0, 1, 2, 3]}
    method = METHODS["best-of-n"].replace(particles=2)
    check_rewards(align(pipe, RED, method)(**CALL, **LISTS, **several))
    decode = lambda z: torch.sigmoid(z.mean((1, 2)))[:, None, None, None].expand(-1, 3, 4, 4)  # noqa: E731
    assert len(align(pipe, RED, method, decode=decode)(**CALL, **LISTS, **several).frames) == 4


@pytest.mark.parametrize("noise", ["seeds", "one"])
def test_from_an_image_whose_pipeline_draws_by_torch(pipe, noise):
    pipe = diffusers.LTXImageToVideoPipeline(**pipe.components)
    pipe.set_progress_bar_config(disable=True)
    call = CALL | {"num_frames": 9, "image": torch.rand(2, 3, 32, 32, generator=Generator().manual_seed(5))}
    check_rewards(align(pipe, RED, "base")(**call, **SCALARS, **NOISE[noise]()))


@pytest.mark.parametrize("particles, videos", [(1, 1), (3, 1), (1, 3)])
def test_a_list_of_another_length_is_refused(pipe, particles, videos):
    method = METHODS["best-of-n"].replace(particles=particles)
    with pytest.raises(ValueError, match="decode_timestep has 3 entries for 2 prompts; pass a number, or a list"):
        align(pipe, RED, method)(**CALL, num_videos_per_prompt=videos, decode_timestep=[0.1, 0.5, 0.9])
