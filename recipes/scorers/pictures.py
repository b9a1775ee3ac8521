"""Pictures for training the scorers: split, placed, blurred, recoloured, and spoilt.

Everything works on float batches (n, 3, 64, 64) on white, in [0, 1] before noise is added, and nothing is clamped.
"""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from noisetilt.rewards.scorers import words64 as words

DATA = Path("build/emoji64/data.npz")
SAMPLES = Path("build/scorers/samples.npz")
SIZE = 64


def uniform(n: int, low: float, high: float) -> Tensor:
    return low + (high - low) * torch.rand(n)


def log_uniform(n: int, low: float, high: float) -> Tensor:
    return uniform(n, math.log(low), math.log(high)).exp()


def some(n: int, share: float) -> Tensor:
    """True with probability `share`."""
    return torch.rand(n) < share


def each(values: Tensor) -> Tensor:
    """(n,) → (n, 1, 1, 1)."""
    return values[:, None, None, None]


def sampling_matrix(scale: Tensor, shift: Tensor, blur: Tensor) -> Tensor:
    """(n, 64, 64) matrices that resample a line: scaled (negative: mirrored), shifted, blurred by a Gaussian."""
    middle = (SIZE - 1) / 2
    centres = middle + (torch.arange(SIZE) - middle) / scale[:, None] + shift[:, None]
    places = torch.arange(-16, SIZE + 16)
    weights = torch.exp(-(((places - centres[:, :, None]) / blur[:, None, None]) ** 2) / 2) + 1e-12
    return (weights / weights.sum(-1, keepdim=True))[:, :, 16:-16]


def place(x: Tensor, flippable: Tensor) -> Tensor:
    """Scale, shift, mirror and blur each picture by its own amounts; what comes in from outside is white."""
    n = len(x)
    blur = torch.where(some(n, 0.6), torch.full((n,), 0.4), log_uniform(n, 0.5, 2.5))
    scale = torch.where(some(n, 0.3), torch.ones(n), uniform(n, 0.72, 1.12))
    mirror = torch.where(flippable & some(n, 0.5), -1.0, 1.0)
    rows = sampling_matrix(scale, 2.5 * torch.randn(n), blur)
    columns = sampling_matrix(scale * mirror, 2.5 * torch.randn(n), blur)
    return 1 - rows[:, None] @ (1 - x) @ columns[:, None].transpose(-1, -2)


def recolour(x: Tensor) -> Tensor:
    """Mild changes of saturation, contrast, brightness and tint."""
    n = len(x)
    grey = x.mean(1, keepdim=True)
    x = grey + each(uniform(n, 0.7, 1.3)) * (x - grey)
    x = 0.5 + each(uniform(n, 0.75, 1.15)) * (x - 0.5) + each(0.05 * torch.randn(n))
    return x + 0.03 * torch.randn(n, 3, 1, 1)


def cut_out(x: Tensor) -> Tensor:
    """A quarter of the pictures lose a rectangle to a plain colour."""
    n = len(x)
    line = torch.arange(SIZE)
    top, left = torch.randint(0, SIZE - 8, (2, n, 1))
    height, width = torch.randint(6, 24, (2, n, 1))
    inside = ((line >= top) & (line < top + height))[:, :, None] & ((line >= left) & (line < left + width))[:, None]
    inside &= some(n, 0.25)[:, None, None]
    return torch.where(inside[:, None], torch.rand(n, 3, 1, 1), x)


def cosine_transform() -> Tensor:
    """The orthonormal 8×8 DCT-II matrix."""
    k, i = torch.arange(8.0)[:, None], torch.arange(8.0)
    matrix = torch.cos(math.pi * k * (2 * i + 1) / 16) / 2
    matrix[0] /= math.sqrt(2)
    return matrix


DCT = cosine_transform()


def jpeg_like(x: Tensor, step: Tensor) -> Tensor:
    """Round the coefficients of 8×8 blocks, coarser at higher frequencies; `step` (n,) is the step at frequency 0."""
    blocks = x.unflatten(3, (8, 8)).unflatten(2, (8, 8)).transpose(3, 4)
    coefficients = DCT @ blocks @ DCT.T
    steps = step.view(-1, 1, 1, 1, 1, 1) * (1 + 0.5 * (torch.arange(8)[:, None] + torch.arange(8)))
    blocks = DCT.T @ ((coefficients / steps).round() * steps) @ DCT
    return blocks.transpose(3, 4).flatten(4, 5).flatten(2, 3)


def add_noise(x: Tensor, strongest: float = 0.15) -> Tensor:
    """Two in five pictures get noise, fine or coarse, none clamped."""
    n = len(x)
    sigma = log_uniform(n, 0.01, strongest) * some(n, 0.4)
    coarse = F.interpolate(torch.randn(n, 3, 16, 16), size=SIZE, mode="bilinear")
    return x + each(sigma) * torch.where(each(some(n, 0.7)), torch.randn_like(x), coarse)


def augment(x: Tensor, flippable: Tensor) -> Tensor:
    """Pictures that are still good ones, as they may look half-way through sampling; a third are only mirrored.

    Resampling smooths the finest texture, by which styles are told apart, so some pictures must keep it.
    """
    mirrored = torch.where(each(flippable & some(len(x), 0.5)), x.flip(-1), x)
    changed = cut_out(recolour(place(x, flippable)))
    rounded = some(len(x), 0.2)
    changed[rounded] = jpeg_like(changed[rounded], log_uniform(int(rounded.sum()), 0.05, 0.3))
    return torch.where(each(some(len(x), 0.35)), mirrored, add_noise(changed))


def coloured_noise(n: int) -> Tensor:
    """Noise with a power spectrum 1/f^a, a ∈ [0, 3], contrasts and mean colours at random."""
    f = torch.fft.rfftfreq(SIZE), torch.fft.fftfreq(SIZE)
    radius = (f[0] ** 2 + f[1][:, None] ** 2).sqrt().clamp(min=1 / SIZE)
    spectrum = torch.fft.rfft2(torch.randn(n, 3, SIZE, SIZE)) * radius ** -each(uniform(n, 0, 1.5))
    noise = torch.fft.irfft2(spectrum, s=(SIZE, SIZE))
    noise = noise / noise.std((1, 2, 3), keepdim=True)
    return torch.rand(n, 3, 1, 1) + each(log_uniform(n, 0.02, 0.6)) * noise


def gratings(n: int) -> Tensor:
    """Sums of three coloured sine gratings, mostly of high frequency."""
    line = torch.arange(SIZE) * 2 * math.pi / SIZE
    u, v = torch.randint(-32, 33, (2, n, 3))
    phase = (u[..., None, None] * line[:, None] + v[..., None, None] * line) + uniform(n * 3, 0, 6.3).view(n, 3, 1, 1)
    colours = torch.randn(n, 3, 3)
    waves = torch.einsum("nkc,nkhw->nchw", colours, phase.sin())
    return torch.rand(n, 3, 1, 1) + each(uniform(n, 0.03, 0.4)) * waves


def shuffled(x: Tensor) -> Tensor:
    """Patches of 8 or 16 pixels in random order."""
    patch = 8 if torch.rand(()) < 0.5 else 16
    columns = F.unfold(x, patch, stride=patch)
    order = torch.rand(len(x), columns.shape[2]).argsort(1)
    return F.fold(columns.gather(2, order[:, None].expand_as(columns)), SIZE, patch, stride=patch)


def oversaturated(x: Tensor) -> Tensor:
    """Contrast and saturation two to five times too strong, clamped or not."""
    mean = x.mean((1, 2, 3) if torch.rand(()) < 0.5 else (1,), keepdim=True)
    x = mean + each(uniform(len(x), 2.0, 5.0)) * (x - mean)
    return x.clamp(0, 1) if torch.rand(()) < 0.5 else x


def spoil(x: Tensor) -> Tensor:
    """Pictures that are not good ones, one of eight kinds each."""
    n = len(x)
    other = x.roll(1, 0)
    share = each(uniform(n, 0.35, 0.65))
    kinds = torch.stack(
        [
            coloured_noise(n),
            gratings(n),
            shuffled(x),
            oversaturated(x),
            share * x + (1 - share) * other,
            x + coloured_noise(n) - 0.5 + each(uniform(n, 0.3, 0.7)) * torch.randn_like(x),
            0.5 * x + 0.5 * gratings(n),
            torch.rand(n, 3, 1, 1).round(decimals=1) + each(log_uniform(n, 1e-3, 0.1)) * torch.randn_like(x),
        ]
    )
    return kinds[torch.randint(0, len(kinds), (n,)), torch.arange(n)]


def halves(data: dict, seed: int = 7) -> dict[str, np.ndarray]:
    """Disjoint rows for the two scorers: of each concept's one to three styles, some go here and the others there.

    `features` may see all of them; held-out pictures are in none.
    """
    random = np.random.default_rng(seed)
    target = np.zeros(len(data["style"]), bool)
    for concept in np.unique(data["concept"]):
        mine = data["concept"] == concept
        styles = random.permutation(np.unique(data["style"][mine & ~data["heldout"]]))
        take = (len(styles) + int(random.random() < 0.5)) // 2
        target |= mine & np.isin(data["style"], styles[:take])
    allowed = ~data["heldout"]
    return {
        "target": np.flatnonzero(allowed & target),
        "heldout": np.flatnonzero(allowed & ~target),
        "features": np.flatnonzero(allowed),
    }


class Pictures:
    """Pictures and words of one scorer's half, with samples of the generator where there are any."""

    def __init__(self, which: str, seed: int) -> None:
        data = dict(np.load(DATA))
        lists = [json.loads(line) for line in data["words"]]
        vocabulary = words.vocabulary()
        index = {w: i for i, w in enumerate(vocabulary)}
        self.names = [[w for w in name if w not in words.STYLES] for name, _ in lists]
        self.bank = sorted({" ".join(name) for name in self.names if name})
        self.bank_bags = words.bags(self.bank)
        place_of = {text: i for i, text in enumerate(self.bank)}
        self.name_row = torch.tensor([place_of.get(" ".join(name), 0) for name in self.names])
        self.bags = torch.zeros(len(lists), len(vocabulary))
        for row, (name, further) in enumerate(lists):
            self.bags[row, [index[w] for w in name + further if w not in words.STYLES]] = 1
        self.pictures = torch.from_numpy(data["pictures"]).permute(0, 3, 1, 2).contiguous()
        self.style = torch.from_numpy(data["style"])
        self.flippable = torch.from_numpy(data["flippable"])
        self.kinds, kinds = np.unique(data["subcategory"], return_inverse=True)
        self.kind = torch.from_numpy(kinds)
        self.heldout = np.flatnonzero(data["heldout"])
        self.rows = halves(data)[which]
        self.chance = data["weight"][self.rows] / data["weight"][self.rows].sum()
        self.random = np.random.default_rng(seed)
        if SAMPLES.exists():
            self.add_samples(which)

    def add_samples(self, which: str) -> None:
        """The generator's pictures, each labelled with its prompt; one in five draws is one.

        They go where the picture itself is not, so that the scorer sees the concept in the style it lacks.
        """
        samples = np.load(SAMPLES)
        seen = np.isin(samples["row"], self.rows)
        take = np.flatnonzero(~seen if which != "features" else np.zeros_like(seen))
        if not len(take):
            return
        row = torch.from_numpy(samples["row"][take])
        first = len(self.pictures)
        new = torch.from_numpy(samples["pictures"][take]).permute(0, 3, 1, 2)
        self.pictures = torch.cat([self.pictures, new])
        for name in ("style", "flippable", "kind", "name_row", "bags"):
            values = getattr(self, name)
            setattr(self, name, torch.cat([values, values[row]]))
        self.rows = np.concatenate([self.rows, np.arange(first, first + len(take))])
        self.chance = np.concatenate([0.8 * self.chance, np.full(len(take), 0.2 / len(take))])

    def draw(self, size: int) -> tuple[Tensor, Tensor]:
        """`size` augmented pictures and their rows."""
        chosen = torch.from_numpy(self.random.choice(self.rows, size, p=self.chance))
        return augment(self.pictures[chosen] / 255.0, self.flippable[chosen]), chosen

    def texts(self, chosen: Tensor) -> Tensor:
        """A random non-empty part of each picture's words, as bags (n, vocabulary)."""
        keep = torch.rand(self.bags[chosen].shape) < uniform(len(chosen), 0.15, 1.0)[:, None]
        kept = self.bags[chosen] * keep
        return torch.where(kept.sum(1, keepdim=True) > 0, kept, self.bags[chosen])
