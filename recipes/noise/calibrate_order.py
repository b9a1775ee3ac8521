"""How many independent normal numbers the two-level order statistics of N values are worth: the constant of `audit`.

    python recipes/noise/calibrate_order.py [vectors]

Draws white vectors of several lengths, takes the farthest of their two-level order statistics as `audit` does, and
prints for several levels p the number K with P(farthest > t_p) = p and 1 − (1 − 2 Φ(−t_p))^K = p.
"""

import sys

import numpy as np
import torch
from scipy import special

from noisetilt.noise.typicality import extreme_order_statistic

LENGTHS = [2**k for k in (8, 10, 12, 14, 16, 18)]
LEVELS = [0.2, 0.1, 0.05, 0.02, 0.01, 0.005, 0.002]


def draw(count: int, vectors: int) -> np.ndarray:
    """The farthest order statistic of `vectors` white vectors of `count` numbers."""
    generator = torch.Generator().manual_seed(count)
    batch = max(1, 2**20 // count)
    parts = [
        extreme_order_statistic(torch.randn(batch, count, generator=generator)) for _ in range(-(-vectors // batch))
    ]
    return np.concatenate(parts)[:vectors]


def main() -> None:
    vectors = int(sys.argv[1]) if len(sys.argv) > 1 else 4000
    print(f"{'N':>8}", *(f"K at p={level:<5}" for level in LEVELS), sep="  ")
    for count in LENGTHS:
        farthest = draw(count, vectors if count <= 2**16 else vectors // 4)
        k = [np.log1p(-p) / np.log1p(-2 * special.ndtr(-np.quantile(farthest, 1 - p))) for p in LEVELS]
        print(f"{count:>8}", *(f"{value:>11.1f}" for value in k), sep="  ", flush=True)


if __name__ == "__main__":
    main()
