"""Noise ascent (GPER) on a one-step pipeline: `python examples/ascent_sd_turbo.py --model stabilityai/sd-turbo`."""

from __future__ import annotations

import argparse
from typing import Any

import torch

import noisetilt
from noisetilt import METHODS


def warm(images: torch.Tensor, prompts: list[str]) -> torch.Tensor:
    """More red than blue: any function of pictures (batch, 3, H, W) in [0, 1] will do."""
    return (images[:, 0] - images[:, 2]).mean((1, 2))


def optimise(pipe: Any, prompt: str, method: str, seed: int = 0, **knobs: Any) -> Any:
    """The pipeline's output for noise that was optimised, each picture in one step without classifier-free guidance."""
    aligned = noisetilt.align(pipe, reward=warm, method=METHODS[method].replace(**knobs))
    return aligned(prompt, num_inference_steps=1, guidance_scale=0.0, seeds=[seed])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", required=True, help="a hub name or a folder of a one-step diffusers pipeline")
    parser.add_argument("--prompt", default="a red fox in the snow")
    parser.add_argument("--method", default="gper", help="none, reno, prno, mpgr, gper, …")
    parser.add_argument("--iterations", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", default="ascended.png")
    options = parser.parse_args()

    import diffusers

    device = "cuda" if torch.cuda.is_available() else "cpu"
    # Half precision loses small gradients on the way back; one-step pipelines are small enough for single.
    pipe = diffusers.DiffusionPipeline.from_pretrained(options.model, torch_dtype=torch.float32).to(device)
    for iterations in (0, options.iterations):
        output = optimise(pipe, options.prompt, options.method, options.seed, iterations=iterations)
        print(f"{iterations} iterations: reward {output.rewards.item():.4f} after {output.trace.nfe:g} evaluations")
    output.images[0].save(options.out)


if __name__ == "__main__":
    main()
