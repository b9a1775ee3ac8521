"""What W makes of structured input: how often tests tell the answer from noise, and how much of the signal is kept.

    python recipes/noise/whitening.py [vectors per input] [--ablate | --passing | --frontier PICTURE]

Rates are at the 1 % level. `others` are tests that the audit does not contain and W was not made by (`other_tests`).
`kept` is the mean cosine between input and answer, for W and for WGNC, and `bound` what no white vector exceeds: the
least of what one whose spectrum is even in bands of frequency, and one whose values are even in 8×8 tiles, can reach.
Gradients and pictures come from build/noise/gradients.safetensors (gradients.py), in shapes of their own, and are left
out where it is missing.
The inputs below the line were not used in the making of W. --ablate leaves out each step in turn; --frontier varies
how soon what is left is diluted; --passing tells how far white noise is turned.
"""

import math
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
from scipy import special
from structured import held_out, real, structured
from torch import Tensor
from variants import CRUDE, VARIANTS

from noisetilt.noise import _nulls as nulls
from noisetilt.noise import audit, project_wgnc, whiten, whitening
from noisetilt.noise._dilution import Levels
from noisetilt.noise._groups import spectral_bands
from noisetilt.report.plotting import Panel, Series, draw_panels, save_figure
from noisetilt.runs import make_folder

EVENT = (3, 64, 64)
LEVELS = (Levels(1e-6, 1e-4), Levels(1e-3, 0.03), Levels(1e-2, 0.1), whitening.LIKELY, Levels(3e-2, 0.4))
GRADIENTS = Path("build/noise/gradients.safetensors")


def cosines(a: Tensor, b: Tensor) -> Tensor:
    return torch.cosine_similarity(a.double().flatten(1), b.double().flatten(1))


def cosine(a: Tensor, b: Tensor) -> float:
    return cosines(a, b).mean().item()


def bound(g: Tensor) -> float:
    """The cosine with g that no white vector exceeds, up to chance, by the rearrangement inequality."""
    g = g.double()
    scale = g.flatten(1).norm(dim=1) * math.sqrt(g[0].numel())
    spectrum = torch.fft.rfftn(g, dim=(1, 2, 3), norm="ortho").abs().flatten(2)
    member, _, band = spectral_bands(tuple(g.shape[2:]), g.device, torch.float64)[0]
    lines = torch.zeros(len(g), dtype=torch.float64)
    for number in range(member.shape[1]):
        inside = band == number
        both = spectrum[:, :, inside].repeat_interleave(member[inside, number].long(), 2).flatten(1)
        rank = (torch.arange(both.shape[1], dtype=torch.float64) + 0.5) / both.shape[1]
        lines += (both.sort(dim=1).values * (-torch.log1p(-rank)).sqrt()).sum(1)
    tiles = g.unflatten(2, (-1, 8)).unflatten(4, (-1, 8)).transpose(3, 4).flatten(4).flatten(1, 3).abs()
    half = torch.special.ndtri(0.5 + (torch.arange(64, dtype=torch.float64) + 0.5) / 128)
    values = (tiles.sort(dim=2).values * half).sum((1, 2))
    return (torch.minimum(lines, values) / scale).mean().item()


def other_tests(x: Tensor) -> np.ndarray:
    """(batch,) corrected p-values of tests beside the audit's: squares of neighbours, runs of signs, the Haar wavelet
    transform and the cosine transform."""
    x = x.double()
    count = x[0].numel()
    squares = (x.square() - 1) / math.sqrt(2)
    lags = [(0, 1), (1, 0), (1, 1), (1, -1), (0, 2), (2, 0)]
    related = [(squares * squares.roll(lag, (2, 3))).flatten(1).sum(1) / math.sqrt(count) for lag in lags]
    sign = x.flatten(1).sign()
    runs = (sign[:, 1:] * sign[:, :-1]).sum(1) / math.sqrt(count - 1)
    p = [nulls.chi2_two_sided(torch.stack(related).square().sum(0).numpy(), len(lags))]
    p.append(nulls.normal_two_sided(runs.numpy()))
    low, energies, sizes = x, [], []
    for _ in range(3):
        a, b = (low[..., ::2, :] + low[..., 1::2, :]) / 2**0.5, (low[..., ::2, :] - low[..., 1::2, :]) / 2**0.5
        parts = [
            f(y) for y in (a, b) for f in (lambda y: y[..., ::2] + y[..., 1::2], lambda y: y[..., ::2] - y[..., 1::2])
        ]
        low, details = parts[0] / 2**0.5, [part / 2**0.5 for part in parts[1:]]
        energies += [part.square().flatten(1).sum(1) for part in details]
        sizes += [part[0].numel() for part in details]
    p.append(nulls.energy_spread(torch.stack(energies, 1).numpy(), np.array(sizes, dtype=float)))
    cosines = cosine_transform(cosine_transform(x).transpose(2, 3)).flatten(1)
    p.append(nulls.anderson_darling(special.ndtr(cosines.numpy())))
    p.append(nulls.largest_of(2 * special.ndtr(-cosines.abs().amax(1).numpy()), count))
    return nulls.sidak(np.stack(p).min(0), len(p))


def cosine_transform(x: Tensor) -> Tensor:
    """The orthonormal DCT-II along the last axis, as a matrix."""
    n = x.shape[-1]
    k = torch.arange(n, dtype=x.dtype)
    basis = torch.cos(math.pi / n * (k + 0.5) * k[:, None]) * math.sqrt(2 / n)
    basis[0] /= math.sqrt(2)
    return x @ basis.T


def bank(count: int) -> dict[str, Tensor]:
    return structured(EVENT, count) | real(GRADIENTS, count)


def fresh(g: Tensor) -> Tensor:
    return torch.randn(g.shape, generator=torch.Generator().manual_seed(77))


def rejected(x: Tensor) -> tuple[Tensor, Tensor]:
    """Which rows the audit and the other tests reject, 0 or 1."""
    return audit(x).rejected(0.01).double(), torch.from_numpy(other_tests(x) < 0.01).double()


def rates(x: Tensor) -> tuple[float, float]:
    by_audit, by_others = rejected(x)
    return by_audit.mean().item(), by_others.mean().item()


def table(count: int) -> None:
    head = ("input", "W: audit", "others", "WGNC: audit", "kept by W", "by WGNC", "bound", "W / bound")
    print(f"{head[0]:<20}" + "".join(f"{name:>12}" for name in head[1:]))
    for part in (bank(count), held_out(EVENT, count)):
        for name, g in part.items():
            white, even = whiten(g, noise=fresh(g)), project_wgnc(g)
            kept, most = cosine(g, white), bound(g)
            rejected, others = rates(white)
            row = (rejected, others, audit(even).rejected(0.01).double().mean().item(), kept, cosine(g, even), most)
            print(f"{name:<20}" + "".join(f"{v:>12.4f}" for v in (*row, kept / max(most, 1e-9))), flush=True)
        print("-" * 104)


Group = tuple[Tensor, Tensor]


def averages(apply: Callable[[Tensor, Tensor], Tensor], groups: list[Group]) -> list[float]:
    """Rates of the audit and of the other tests, and cosines over all inputs and over gradients and pictures."""
    rows = []
    for inputs, real_ones in groups:
        white = apply(inputs, fresh(inputs))
        rows.append((*rejected(white), cosines(inputs, white), real_ones))
    by_audit, by_others, kept, real_ones = (torch.cat(column) for column in zip(*rows, strict=True))
    return [each.mean().item() for each in (by_audit, by_others, kept, kept[real_ones])]


def stacked(count: int) -> list[Group]:
    """All inputs of the bank but white noise, and which are real; one pair for each shape."""
    inputs = {name: g for name, g in bank(count).items() if name != "white noise"}
    names, groups = set(real(GRADIENTS, 1)), []
    for event in dict.fromkeys(g.shape[1:] for g in inputs.values()):
        same = {name: g for name, g in inputs.items() if g.shape[1:] == event}
        real_ones = torch.tensor([name in names for name in same]).repeat_interleave(count)
        groups.append((torch.cat(list(same.values())), real_ones))
    return groups


def ablate(count: int) -> None:
    inputs = stacked(count)
    print(f"{'variant':<28}{'audit':>9}{'others':>9}{'kept':>9}{'of real':>9}")

    for name, apply in (VARIANTS | CRUDE).items():
        print(f"{name:<28}" + "".join(f"{v:>9.4f}" for v in averages(apply, inputs)), flush=True)


def frontier(count: int, file: str) -> None:
    """Whiteness against signal, as the level of dilution goes."""
    inputs, found = stacked(count), []
    ours = whitening.LIKELY
    for levels in LEVELS:
        whitening.LIKELY = levels
        found.append(averages(lambda g, e: whiten(g, noise=e), inputs))
        figures = "".join(f"{v:>9.4f}" for v in found[-1])
        print(f"detected {levels.detected:g}, hidden {levels.hidden:g}{figures}", flush=True)
    whitening.LIKELY = ours
    found.append(averages(lambda g, e: project_wgnc(g), inputs))
    print("WGNC" + "".join(f"{v:>9.4f}" for v in found[-1]))
    draw_frontier(np.array(found), np.mean([bound(g) for g in real(GRADIENTS, count).values()]), file)


def draw_frontier(found: np.ndarray, limit: float, file: str) -> None:
    """Rates against the signal kept of gradients and pictures, for all LEVELS and, last, for WGNC."""
    audit_rate, others, _, kept = found.T
    ours = LEVELS.index(whitening.LIKELY)
    series = {
        "W, audit": Series(kept[:-1], audit_rate[:-1], circled=ours),
        "W, other tests": Series(kept[:-1], others[:-1]),
        "WGNC, audit": Series(kept[-1:], audit_rate[-1:], connected=False),
    }
    left = min(kept.min(), limit) - 0.02
    guides = {"bound": ([limit, limit], [0.002, 1.3]), "1 %": ([left, limit], [0.01, 0.01])}
    label = "kept of real gradients and pictures (cosine)"
    panel = Panel(
        label, "rejected at 1 %", series, guides=guides, limits=(None, (0.002, 1.3)), scales=("linear", "log")
    )
    save_figure(draw_panels([panel]), Path(file))


def passing(count: int) -> None:
    """How far W turns white noise of three sizes: 1 − cos, and how many of the vectors by more than 1e-5."""
    for event in ((1, 64, 64), EVENT, (16, 64, 64)):
        x = torch.randn(count, *event, generator=torch.Generator().manual_seed(count))
        off = torch.cat([1 - torch.cosine_similarity(g.double(), y.double()) for g, y in pairs(x)])
        print(
            f"{event}: mean {off.mean():.1e}, largest {off.max():.1e}, {int((off > 1e-5).sum())} of {count} above 1e-5"
        )


def pairs(x: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """Batches of x and of W(x), flattened."""
    for g, noise in zip(x.split(16), fresh(x).split(16), strict=True):
        yield g.flatten(1), whiten(g, noise=noise).flatten(1)


def main() -> None:
    numbers = [int(a) for a in sys.argv[1:] if a.isdigit()]
    count = numbers[0] if numbers else 16
    if "--ablate" in sys.argv:
        ablate(count)
    elif "--passing" in sys.argv:
        passing(count)
    elif "--frontier" in sys.argv:
        file = sys.argv[sys.argv.index("--frontier") + 1]
        make_folder(Path(file).parent)
        frontier(count, file)
    else:
        table(count)


if __name__ == "__main__":
    main()
