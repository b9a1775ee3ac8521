"""How often `audit` rejects white Gaussian noise: the share of vectors below each level, per test and overall.

    python recipes/noise/calibration.py build/noise 3x64x64 10000    # draws up to 10 000 vectors, goes on where it was
    python recipes/noise/calibration.py build/noise                  # prints the tables of all shapes drawn so far

p-values are kept in FOLDER/SHAPE.npz after every hundred vectors; their number is rounded up to hundreds. Beside each
overall share stands the binomial 99 % interval that a perfectly calibrated audit would stay in. Batch k is drawn from
seed k, so it matters not how often the script was stopped.
"""

import io
import sys
from pathlib import Path

import numpy as np
import torch
from scipy import stats

from noisetilt.noise import audit
from noisetilt.noise.typicality import overall
from noisetilt.runs import write_bytes

LEVELS = (0.5, 0.1, 0.05, 0.01, 0.001)
BATCH = 100


def draw(file: Path, event: tuple[int, ...], vectors: int) -> None:
    """Audits fresh white vectors until the file holds the p-values of `vectors` of them, or of the next multiple of
    BATCH: a batch is drawn whole, as the values of its vectors depend on its size."""
    kept = dict(np.load(file)) if file.exists() else {}
    part = max(1, min(BATCH, 2**21 // torch.Size(event).numel()))
    done = len(next(iter(kept.values()))) if kept else 0
    for batch in range(done // BATCH, -(-vectors // BATCH)):
        generator = torch.Generator().manual_seed(batch)
        sizes = [len(s) for s in torch.arange(BATCH).split(part)]
        found = [audit(torch.randn(size, *event, generator=generator)).tests for size in sizes]
        fresh = {name: np.concatenate([f[name].numpy() for f in found]) for name in found[0]}
        kept = {name: np.concatenate([kept[name], p]) if kept else p for name, p in fresh.items()}
        stream = io.BytesIO()
        np.savez(stream, **kept)
        write_bytes(file, stream.getvalue())  # whole, even if the script is stopped here


def table(name: str, p: dict[str, np.ndarray]) -> str:
    """Shares of the p-values below each level, and the interval for the overall one."""
    p = {**p, "overall": overall(p)}
    count = len(p["overall"])
    lines = [f"{name}, {count} vectors", f"{'level':<22}" + "".join(f"{level:>9}" for level in LEVELS)]
    lines += [
        f"{test:<22}" + "".join(f"{np.mean(value < level):>9.4f}" for level in LEVELS) for test, value in p.items()
    ]
    for end, tail in (("at least", 0.005), ("at most", 0.995)):
        lines.append(f"{end:<22}" + "".join(f"{stats.binom.ppf(tail, count, v) / count:>9.4f}" for v in LEVELS))
    return "\n".join(lines)


def main() -> None:
    folder = Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    if len(sys.argv) > 2:
        draw(folder / f"{sys.argv[2]}.npz", tuple(int(n) for n in sys.argv[2].split("x")), int(sys.argv[3]))
        print(table(sys.argv[2], np.load(folder / f"{sys.argv[2]}.npz")))
        return
    for file in sorted(folder.glob("*.npz")):
        print(table(file.stem, np.load(file)), "\n")


if __name__ == "__main__":
    main()
