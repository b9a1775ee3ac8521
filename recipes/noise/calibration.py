"""How often `audit` rejects white Gaussian noise: the share of vectors below each level, per test and overall.

    python recipes/noise/calibration.py 3x64x64 10000

Beside each overall share stands the binomial 99 % interval that a perfectly calibrated audit would stay in.
"""

import sys
import time

import torch
from scipy import stats

from noisetilt.noise import audit

LEVELS = (0.5, 0.1, 0.05, 0.01, 0.001)


def main() -> None:
    event = tuple(int(n) for n in sys.argv[1].split("x"))
    vectors = int(sys.argv[2])
    batch = max(1, min(50, 2**21 // torch.Size(event).numel()))
    generator = torch.Generator().manual_seed(0)
    start, found = time.perf_counter(), []
    for _ in range(-(-vectors // batch)):
        found.append(audit(torch.randn(batch, *event, generator=generator)))
    p = {name: torch.cat([f.tests[name] for f in found]) for name in found[0].tests}
    p["overall"] = torch.cat([f.p_value for f in found])
    count = len(p["overall"])
    print(f"{sys.argv[1]}, {count} vectors, {(time.perf_counter() - start) / count * 1e3:.1f} ms each")
    print(f"{'level':<22}", *(f"{level:>8}" for level in LEVELS))
    for name, values in p.items():
        print(f"{name:<22}", *(f"{(values < level).double().mean():>8.4f}" for level in LEVELS))
    for end, tail in (("at least", 0.005), ("at most", 0.995)):
        print(f"{end:<22}", *(f"{stats.binom.ppf(tail, count, level) / count:>8.4f}" for level in LEVELS))


if __name__ == "__main__":
    main()
