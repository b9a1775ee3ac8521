"""SDXL guided by LAION's aesthetic score, with PickScore as the held-out reward:
`python examples/sdxl_aesthetic.py --model stabilityai/stable-diffusion-xl-base-1.0`."""

from __future__ import annotations

from collections.abc import Sequence

import common


def main(argv: Sequence[str] | None = None) -> None:
    given = common.options(__doc__, "stabilityai/stable-diffusion-xl-base-1.0", argv, rho=0.001)
    pipe, call = common.pipeline(given, "sdxl")
    reward, heldout = common.reward(given, "aesthetic"), common.reward(given, "aesthetic", heldout=True)
    # Gradient checkpointing takes less memory and more time; docs/diffusers.md has measurements.
    images = common.compare(pipe, given, call, reward, heldout, checkpointing=True)
    common.save(images, given.out, "sdxl_aesthetic")


if __name__ == "__main__":
    main()
