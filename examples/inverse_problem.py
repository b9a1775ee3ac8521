"""Super-resolution: finds an image whose downsampled version is a given small image:
`python examples/inverse_problem.py --model stable-diffusion-v1-5/stable-diffusion-v1-5 --prompt "a photo of a fox"`.

The small image is made from an image of the pipeline, so that the truth is known; `measured` may be any (3, h, w).
"""

from __future__ import annotations

from collections.abc import Sequence

import common
import torch

import noisetilt
from noisetilt.rewards import inverse


def main(argv: Sequence[str] | None = None) -> None:
    given = common.options(__doc__, "stable-diffusion-v1-5/stable-diffusion-v1-5", argv, method="dps", factor=4)
    pipe, call = common.pipeline(given, "sd")

    truth = noisetilt.align(pipe, None, "base")(given.prompt, seeds=[given.seed + 1], **call).images.float().cpu()
    operator = inverse.downsample(given.factor)
    measured = inverse.measure(operator, truth[0], noise=0.01)

    reward = inverse.matching(operator, measured, power=1)
    guided = noisetilt.align(pipe, reward, common.method(given))(given.prompt, seeds=[given.seed], **call)
    plain = noisetilt.align(pipe, reward, "base")(given.prompt, seeds=[given.seed], **call)
    for name, output in (("base", plain), (given.method, guided)):
        error = (output.images.float().cpu() - truth).square().mean()
        print(f"{name:8} distance of the measurements {-output.rewards.item():.4f}  PSNR {-10 * error.log10():.2f} dB")

    enlarged = torch.nn.functional.interpolate(measured[None], scale_factor=given.factor)
    images = {
        "truth": truth,
        "measured": enlarged,
        "base": plain.images.float().cpu(),
        given.method: guided.images.float().cpu(),
    }
    common.save(images, given.out, "inverse_problem")


if __name__ == "__main__":
    main()
