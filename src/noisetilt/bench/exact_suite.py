"""The suite `exact`: reward gain against disturbance of the images, on models where both are known in closed form.

The gain is in standard deviations of the reward under the prior. The disturbance is in the same units: the square root
of the increase of E‖z‖², where z = Σ^(−1/2)(x − m) is the whitened image. A shift by g along any direction has
disturbance g, so the optimal tilt N(m + Σa/β, Σ) of a linear reward is on the diagonal. A point above it is due to
chance or to errors of the sampler.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .. import __version__
from .._messages import nearest_name
from .._progress import progress_bar
from ..methods import METHODS, Method
from ..models.exact import GaussianModel, MixtureModel
from ..path.strength import best_of_gain
from ..rewards import Reward
from ..sampling import sample
from .ledger import Ledger, Row

KEY = ("problem", "method", "strength", "seed")


@dataclass(frozen=True)
class Problem:
    """A model, a reward with standard deviation 1 under its prior, and the function that whitens images."""

    name: str
    model: Any
    reward: Reward
    whiten: Callable[[Tensor], Tensor]
    summary: str


@dataclass(frozen=True)
class Entry:
    """A method at one strength, with the eta of its reverse kernel."""

    name: str
    strength: float
    method: Method
    eta: float = 1.0


def natural_spectrum(size: int) -> Tensor:
    """The power spectrum 1/(1 + |k|²), similar to that of natural images, with mean 1 over the grid (size, size)."""
    k = torch.fft.fftfreq(size, 1 / size)
    power = 1 / (1 + k[:, None] ** 2 + k[None] ** 2)
    return power / power.mean()


def _linear(model: GaussianModel, direction: Tensor, name: str, summary: str) -> Problem:
    """aᵀ(x − m) with a scaled so that aᵀΣa = 1."""
    direction = direction / (direction * model._filter(direction, model.power)).sum().sqrt()
    reward = Reward(name, lambda images, prompts: ((images - model.mean) * direction).sum((1, 2, 3)))
    return Problem(name, model, reward, model.whiten, summary)


def _mixture(size: int, components: int = 8) -> Problem:
    """A mixture at images of the Gaussian model; the reward is the log odds of the first over the nearest other one."""
    centres = GaussianModel(torch.zeros(3, size, size), natural_spectrum(size)).draw(
        components, torch.Generator().manual_seed(1)
    )
    model = MixtureModel(centres, torch.full((components,), 0.05), torch.ones(components))
    flat = centres.flatten(1)

    def distances(images: Tensor) -> Tensor:
        return torch.cdist(images.flatten(1), flat.to(images)).square()

    def margin(images: Tensor) -> Tensor:
        squared = distances(images)
        return squared[:, 1:].amin(1) - squared[:, 0]

    prior = torch.cat([c + 0.05**0.5 * torch.randn(32, *c.shape, generator=_generator(2)) for c in centres])
    centre, spread = margin(prior).mean(), margin(prior).std()

    def whiten(images: Tensor) -> Tensor:
        nearest = centres[distances(images).argmin(1)]
        return (images - nearest) / 0.05**0.5

    reward = Reward("mixture", lambda images, prompts: (margin(images) - centre) / spread)
    return Problem(
        "mixture", model, reward, whiten, f"{components} images with noise; the reward is highest at the first"
    )


def _generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def problems(size: int) -> list[Problem]:
    """A smooth reward, a noise-like reward and a reward for one mode, on images 3 × size × size."""
    model = GaussianModel(torch.zeros(3, size, size), natural_spectrum(size))
    place = torch.arange(size) / size
    spot = torch.exp(-((place[:, None] - 0.4) ** 2 + (place[None] - 0.6) ** 2) * 72)
    rough = model._filter(torch.randn(model.shape, generator=_generator(0)), model.power.rsqrt())
    return [
        _linear(model, spot * torch.tensor([1, -0.5, -0.5]).view(3, 1, 1), "smooth", "a red spot, linear"),
        _linear(model, rough, "noise-like", "all waves alike, linear"),
        _mixture(size),
    ]


GAINS = (2.0, 4.0, 8.0, 16.0, 32.0)
TILTS = {
    "ntrk": {},
    "ntrk bump": {"schedule": "bump"},
    "ntrk early": {"schedule": "early"},
    "ntrk eta 0.7": {},
    "ntrk mixture": {"whitened": "mixture"},
    "ntrk mixture early": {"whitened": "mixture", "schedule": "early"},
    "ntrk path": {"whitened": "path"},
    "ntrk path early": {"whitened": "path", "schedule": "early"},
}


def make_entries(gains: tuple[float, ...] = GAINS) -> list[Entry]:
    """All methods at all strengths; the strength of noise tilts is set by `best_of` to the requested gain."""
    tilts = [
        Entry(name, gain, METHODS["ntrk"].replace(best_of=best_of_gain(gain), **options), _eta(name))
        for name, options in TILTS.items()
        for gain in gains
    ]
    das: Any = METHODS["das"].proposal
    return [
        Entry("base", 0.0, METHODS["base"]),
        Entry("base eta 0.7", 0.0, METHODS["base"], 0.7),
        *tilts,
        *(Entry("dps", s, METHODS["dps"].replace(scale=s)) for s in (0.1, 0.3, 1.0, 3.0, 10.0)[: len(gains)]),
        *(Entry("twisted shift", g, Method(proposal=replace(das, temperature=1 / g, tempering=None))) for g in gains),
        *(Entry("best-of-n", n, METHODS["best-of-n"].replace(particles=n)) for n in (5, 20)),
        *(Entry("svdd", k, METHODS["svdd"].replace(particles=k)) for k in (5, 20)),
    ]


def _eta(name: str) -> float:
    return 0.7 if name.endswith("eta 0.7") else 1.0


def rings(z: Tensor) -> Tensor:
    """Power of whitened images z (batch, 3, H, W) per ring of |k|, (batch, ring); 1 for samples of the prior."""
    size = z.shape[-1]
    k = torch.fft.fftfreq(size, 1 / size, device=z.device)
    ring = (k[:, None] ** 2 + k[None] ** 2).sqrt().round().long().flatten()
    power = torch.fft.fft2(z, norm="ortho").abs().square().mean(1).flatten(1)
    total = torch.zeros(len(z), int(ring.max()) + 1, device=z.device).index_add(1, ring, power)
    return total / torch.bincount(ring)


def _rows(problem: Problem, entry: Entry, seeds: list[int], steps: int) -> list[Row]:
    result = sample(
        problem.model,
        [""] * len(seeds),
        problem.reward,
        entry.method,
        steps,
        seeds,
        eta=entry.eta,
        chunk=256,
        track=False,
    )
    z = problem.whiten(result.images)
    energy, power = z.square().sum((1, 2, 3)), rings(z)
    return [
        {
            "problem": problem.name,
            "method": entry.name,
            "strength": entry.strength,
            "seed": seed,
            "reward": result.rewards[i].item(),
            "energy": energy[i].item(),
            "rings": [round(v, 4) for v in power[i].tolist()],
            "nfe": result.trace.nfe,
            "seconds": result.trace.seconds / len(seeds),
        }
        for i, seed in enumerate(seeds)
    ]


class Run:
    """One run of the suite: images of 32 × 32, or of 16 × 16 with fewer seeds and strengths if `quick`.

    Args:
        out: folder of the run.
        quick: whether to run the small version.
        methods: run only the entries of these names, and base.
    Raises:
        ValueError: if a name is unknown, or the folder has a run with other settings.
    """

    def __init__(self, out: Path, quick: bool = False, methods: Sequence[str] | None = None) -> None:
        self.size, self.seeds, self.steps = (16, 6, 15) if quick else (32, 16, 25)
        entries = make_entries((2.0, 8.0, 32.0) if quick else GAINS)
        known = dict.fromkeys(entry.name for entry in entries)
        unknown = [name for name in methods or () if name not in known]
        if unknown:
            hint = nearest_name(unknown[0], known)
            raise ValueError(f"method {unknown[0]!r} is not in the suite exact{hint}; it has: {', '.join(known)}")
        self.entries = [
            entry for entry in entries if not methods or entry.name in methods or entry.name.startswith("base")
        ]
        self.problems = problems(self.size)
        settings = {"suite": "exact", "size": self.size, "steps": self.steps, "noisetilt": __version__}
        self.ledger = Ledger(out, KEY, settings)

    def measure(self) -> Ledger:
        """Measures all missing rows and returns the ledger."""
        with progress_bar(len(self.problems) * len(self.entries), "setting") as bar:
            for problem, entry in itertools.product(self.problems, self.entries):
                key = (problem.name, entry.name, entry.strength)
                missing = [seed for seed in range(self.seeds) if (*key, seed) not in self.ledger]
                if missing:
                    self.ledger.add(_rows(problem, entry, missing, self.steps))
                bar.update()
        return self.ledger


def disturbance(excess: float) -> float:
    """The square root of the added energy, with its sign."""
    return math.copysign(math.sqrt(abs(excess)), excess)
