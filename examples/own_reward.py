"""A custom reward in five lines:
`python examples/own_reward.py --model stable-diffusion-v1-5/stable-diffusion-v1-5`."""

from __future__ import annotations

from collections.abc import Sequence

import common
from torch import Tensor


def main(argv: Sequence[str] | None = None) -> None:
    given = common.options(__doc__, "stable-diffusion-v1-5/stable-diffusion-v1-5", argv)
    pipe, call = common.pipeline(given, "sd")

    def blue_sky(images: Tensor, prompts: Sequence[str]) -> Tensor:
        top = images[:, :, : images.shape[2] // 3]
        return (top[:, 2] - top[:, 0]).mean((1, 2))

    common.save(common.compare(pipe, given, call, blue_sky), given.out, "own_reward")


if __name__ == "__main__":
    main()
