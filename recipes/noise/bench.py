"""Speed of the projections beside a sort of the same tensor, and its growth with the length.

    python recipes/noise/bench.py [docs/images/noise-speed.png]

Single precision, processor seconds, the least of several runs. The per-sample loop is the closed form of WGNC in double
precision, one vector and one block after another. W leaves out a half for vectors that are nearly white; in the figure
it gets smooth ones, sums along the last axis.
"""

import sys
import time
from pathlib import Path

import numpy as np
import torch

from noisetilt.noise import project_order_statistics, project_wgnc, whiten
from noisetilt.report.plotting import Panel, Series, draw_panels, save_figure
from noisetilt.runs import make_folder

BATCH, COUNT = 8, 65536
LENGTHS = [2**k for k in range(12, 23, 2)]


def least(run, repeats: int = 3) -> float:
    """Seconds of the fastest of some runs, after one that fills the caches."""
    run()
    taken = []
    for _ in range(repeats):
        start = time.process_time()
        run()
        taken.append(time.process_time() - start)
    return min(taken)


def wgnc_loop(x: torch.Tensor, block: int = 16) -> np.ndarray:
    """The projection of GPER (arXiv 2602.08646), block by block in double precision."""
    rows = []
    for row in x.double().numpy():
        half = np.fft.rfft(row, norm="ortho")
        y = np.concatenate([[(half[0].real + 1j * half[-1].real) / np.sqrt(2)], half[1:-1]])
        y = np.concatenate([nearest(part) for part in y.reshape(-1, block)])
        first = y[0] * np.sqrt(2)
        rows.append(np.fft.irfft(np.concatenate([[first.real], y[1:], [first.imag]]), n=len(row), norm="ortho"))
    return np.stack(rows)


def nearest(y: np.ndarray) -> np.ndarray:
    """The nearest block with ‖y‖₁ = (√π/2) B and ‖y‖₂² = B."""
    size, magnitude = len(y), np.abs(y)
    w = np.sort(magnitude)[::-1]
    s1, s2, n = np.cumsum(w), np.cumsum(w**2), np.arange(1, size + 1)
    with np.errstate(invalid="ignore", divide="ignore"):
        spread = np.sqrt((n * s2 - s1**2) / (n - np.pi * size / 4))
        threshold = s1 / n - np.sqrt(np.pi) / 2 * np.sqrt(size) / n * spread
    good = (n > np.pi * size / 4) & (threshold < w) & (threshold >= np.append(w[1:], -np.inf))
    k = int(np.argmax(good))
    active = np.maximum(magnitude - threshold[k], 0)
    return np.sqrt(np.pi) / 2 * size * active / active.sum() * y / magnitude


def table() -> None:
    x = torch.randn(BATCH, 16, 64, 64, generator=torch.Generator().manual_seed(0))
    noise = torch.randn(x.shape, generator=torch.Generator().manual_seed(1))
    flat = x.flatten(1)
    sort = least(lambda: flat.sort(dim=1))
    loop = least(lambda: wgnc_loop(flat), 1)
    off = np.abs(wgnc_loop(flat[:1]) - project_wgnc(flat[:1]).numpy()).max()
    runs = {
        "torch.sort": lambda: flat.sort(dim=1),
        "project_wgnc": lambda: project_wgnc(x),
        "project_order_statistics": lambda: project_order_statistics(x.view(BATCH, -1, 16)),
        "whiten, smooth vectors": lambda: whiten(x.cumsum(-1), noise=noise),
        "whiten, white vectors": lambda: whiten(x, noise=noise),
    }
    print(f"{BATCH} x {COUNT}, float32, {torch.get_num_threads()} thread(s)")
    for name, run in runs.items():
        seconds = least(run)
        print(f"{name:<28}{seconds * 1e3:>9.1f} ms{seconds / sort:>8.2f} sorts", flush=True)
    print(f"{'WGNC, per-sample loop':<28}{loop * 1e3:>9.1f} ms{loop / sort:>8.2f} sorts")
    print(
        f"project_wgnc: {loop / least(runs['project_wgnc']):.0f} x faster than the loop, largest difference {off:.1g}"
    )


def growth() -> dict[str, list[float]]:
    """Seconds for one vector of each length."""
    found = {"torch.sort": [], "project_wgnc": [], "whiten": []}
    for count in LENGTHS:
        x = torch.randn(1, count // 1024, 32, 32)
        smooth = x.cumsum(-1)
        found["torch.sort"].append(least(lambda x=x: x.flatten(1).sort(dim=1), 2))
        found["project_wgnc"].append(least(lambda x=x: project_wgnc(x), 2))
        found["whiten"].append(least(lambda x=smooth: whiten(x), 2))
        print(
            f"{count:>8}",
            *(f"{name} {values[-1] * 1e3:.1f} ms" for name, values in found.items()),
            sep="  ",
            flush=True,
        )
    return found


def main() -> None:
    if len(sys.argv) > 1:
        make_folder(Path(sys.argv[1]).parent)
    table()
    found = growth()
    if len(sys.argv) < 2:
        return
    series = {name: Series(LENGTHS, np.array(seconds) * 1e3) for name, seconds in found.items()}
    trend = np.array([n * np.log2(n) for n in LENGTHS], dtype=float)
    guides = {"N log N": (LENGTHS, trend / trend[-1] * found["whiten"][-1] * 1e3)}
    panel = Panel("numbers in the vector", "milliseconds", series, guides=guides, scales=("log", "log"))
    save_figure(draw_panels([panel], "one vector, float32"), Path(sys.argv[1]))


if __name__ == "__main__":
    main()
