"""One's own reward in a diffusers pipeline: `python examples/align_diffusers.py --model stabilityai/sdxl-turbo`."""

from __future__ import annotations

import argparse

import torch

import noisetilt
from noisetilt import METHODS


def blue_sky(images: torch.Tensor, prompts: list[str]) -> torch.Tensor:
    """Blue above: the blue channel minus the red one, in the upper third."""
    top = images[:, :, : images.shape[2] // 3]
    return (top[:, 2] - top[:, 0]).mean((1, 2))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", required=True, help="a hub name or a folder of a diffusers pipeline")
    parser.add_argument("--prompt", default="a red fox in the snow")
    parser.add_argument("--method", default="ntrk", choices=list(METHODS))
    parser.add_argument("--steps", type=int, default=25)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", default="aligned.png")
    options = parser.parse_args()

    import diffusers

    device = "cuda" if torch.cuda.is_available() else "cpu"
    dtype = torch.bfloat16 if device == "cuda" else torch.float32
    pipe = diffusers.DiffusionPipeline.from_pretrained(options.model, torch_dtype=dtype).to(device)
    aligned = noisetilt.align(pipe, reward=blue_sky, method=options.method)
    output = aligned(options.prompt, num_inference_steps=options.steps, seeds=[options.seed])
    output.images[0].save(options.out)
    print(f"reward {output.rewards.item():.4f} after {output.trace.nfe:g} evaluations, in {options.out}")


if __name__ == "__main__":
    main()
