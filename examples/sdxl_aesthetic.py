"""SDXL, followed by LAION's aesthetic score and judged by PickScore:
`python examples/sdxl_aesthetic.py --model stabilityai/stable-diffusion-xl-base-1.0`."""

from __future__ import annotations

from collections.abc import Sequence

import common


def main(argv: Sequence[str] | None = None) -> None:
    given = common.options(__doc__, "stabilityai/stable-diffusion-xl-base-1.0", argv)
    pipe, call = common.pipeline(given, "sdxl")
    followed, judge = common.reward(given, "aesthetic"), common.reward(given, "aesthetic", heldout=True)
    # The network computes its activations again on the way back, for memory; see docs/diffusers.md for the price.
    made = common.compare(pipe, given, call, followed, judge, checkpointing=True)
    common.save(made, given.out, "sdxl_aesthetic")


if __name__ == "__main__":
    main()
