"""Noise ascent (GPER) on a one-step pipeline: `python examples/ascent_sd_turbo.py --model stabilityai/sd-turbo`."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import common
import torch

import noisetilt
from noisetilt import METHODS


def warm(images: torch.Tensor, prompts: list[str]) -> torch.Tensor:
    """More red than blue; a reward is any function of images (batch, 3, H, W) in [0, 1]."""
    return (images[:, 0] - images[:, 2]).mean((1, 2))


def optimise(pipe: Any, prompt: str, method: str, seed: int = 0, iterations: int = 50) -> Any:
    """The pipeline's output for optimised noise, in one step and without classifier-free guidance."""
    aligned = noisetilt.align(pipe, reward=warm, method=METHODS[method].replace(iterations=iterations))
    return aligned(prompt, num_inference_steps=1, guidance_scale=0.0, seeds=[seed], output_type="pt")


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default=common.TINY, help="a hub name or folder of a one-step pipeline")
    parser.add_argument("--prompt", default="a red fox in the snow")
    parser.add_argument("--method", default="gper", help="none, reno, gper, gper-rotation, … (default: %(default)s)")
    parser.add_argument("--iterations", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("out"), help="output folder")
    parser.set_defaults(steps=1)
    given = parser.parse_args(argv)
    pipe, _ = common.pipeline(given, "sd")
    images = {}
    for iterations in (0, given.iterations):
        output = optimise(pipe, given.prompt, given.method, given.seed, iterations)
        print(f"{iterations} iterations: reward {output.rewards.item():+.4f}, {output.trace.nfe:g} evaluations")
        images[f"{iterations} iterations"] = output.images.float().cpu()
    common.save(images, given.out, "ascent_sd_turbo")


if __name__ == "__main__":
    main()
