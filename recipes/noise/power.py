"""The power of `audit`: the smallest strength of each fault that it detects at the 1 % level in half of the vectors.

    python recipes/noise/power.py [vectors]

Strengths go up by factors of √2 from well below what is seen; vectors are (3, 64, 64) of RMS 1 but for the fault.
"""

import math
import sys

import torch
from structured import coloured
from torch import Tensor

from noisetilt.noise import audit

EVENT = (3, 64, 64)


def faults(x: Tensor, seed: int) -> dict:
    """Name → (unit of strength, strength → faulty vectors)."""
    generator = torch.Generator().manual_seed(seed)
    image = coloured(torch.randn(x.shape, generator=generator), 1.5)
    image = image / image.square().mean((1, 2, 3), keepdim=True).sqrt()
    tile = torch.randn(len(x), 3, 8, 8, generator=generator).repeat(1, 1, 8, 8)
    phase = 2 * math.pi * torch.rand(len(x), 1, 1, 1, generator=generator)
    wave = torch.cos(2 * math.pi * (7 * torch.arange(64)[:, None] + 12 * torch.arange(64)) / 64 + phase)

    def unit(y: Tensor) -> Tensor:
        return y / y.square().mean((1, 2, 3), keepdim=True).sqrt()

    return {
        "blur": (
            "weight of the four neighbours",
            lambda s: unit(x + s * sum(x.roll(k, a) for k in (1, -1) for a in (2, 3))),
        ),
        "faint image": ("its RMS", lambda s: (x + s * image) / math.sqrt(1 + s * s)),
        "repeated tile": ("its RMS", lambda s: (x + s * tile) / math.sqrt(1 + s * s)),
        "channel copies": (
            "share of one channel in the others",
            lambda s: unit(x + s * x[:, :1] * torch.tensor([0, 1, 1]).view(3, 1, 1)),
        ),
        "one hot frequency": ("amplitude", lambda s: x + s * wave),
        "heavy tails": ("share of x³", lambda s: unit(x + s * (x**3 - 3 * x))),
        "scale off": ("relative", lambda s: (1 + s) * x),
        "mean shift": ("in RMS", lambda s: x + s),
    }


def main() -> None:
    vectors = int(sys.argv[1]) if len(sys.argv) > 1 else 40
    x = torch.randn(vectors, *EVENT, generator=torch.Generator().manual_seed(5))
    print(f"{'fault':<20}{'smallest strength':>18}{'detected':>10}   unit, and the test that sees it")
    for name, (meaning, apply) in faults(x, 6).items():
        for step in range(30):
            strength = 0.001 * 2 ** (step / 2)
            found = audit(apply(strength))
            rate = found.rejected(0.01).double().mean().item()
            if rate >= 0.5:
                best = min(found.tests, key=lambda test: found.tests[test].median().item())
                print(f"{name:<20}{strength:>18.4f}{rate:>10.2f}   {meaning}; {best}", flush=True)
                break
    settings = {
        "faint image at −20 dB": ("faint image", 0.1),
        "scale off by 1 %": ("scale off", 0.01),
        "mean shift 0.02": ("mean shift", 0.02),
    }
    for title, (name, strength) in settings.items():
        rate = audit(faults(x, 6)[name][1](strength)).rejected(0.01).double().mean().item()
        print(f"{title:<38}{rate:>10.2f}")


if __name__ == "__main__":
    main()
