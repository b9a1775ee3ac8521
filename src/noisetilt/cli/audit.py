"""The command `noisetilt audit`: is what a file holds white Gaussian noise, and if not, in which bands is it not?"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from PIL import Image
from safetensors import safe_open
from scipy import stats
from torch import Tensor

from ..noise import audit
from ..noise.typicality import radial_bands, sequence_bands

KINDS = (".npy", ".safetensors", ".png")


def audit_file(file: Path, out: Path | None, tensor: str | None, batch: bool, standardise: bool, level: float) -> None:
    """Prints the table of tests of a file's vectors, and draws their bands.

    Args:
        file: .npy, .safetensors or .png. A PNG is read as (channel, height, width) and standardised.
        out: where to draw; None is beside the file, as NAME.audit.png.
        tensor: which tensor of a .safetensors file; None is its only one.
        batch: the first axis counts vectors; otherwise the file holds one.
        standardise: subtract the mean and divide by the RMS, vector by vector.
        level: of the verdict, in (0, 1).

    Raises:
        ValueError: for another kind of file, a tensor that is not in it, or what `audit` refuses.
    """
    x = read(file, tensor)
    x = x if batch else x[None]
    if standardise or file.suffix.lower() == ".png":
        flat = x.double().flatten(1)
        x = ((flat - flat.mean(1, keepdim=True)) / flat.std(1, keepdim=True, correction=0)).view(x.shape)
    found = audit(x)
    print(found)
    told = int(found.rejected(level).sum())
    print(f"{told} of {len(x)} told from white Gaussian noise at the level {level:g}")
    out = file.with_suffix(".audit.png") if out is None else out
    if draw(x, out):
        print(f"bands drawn to {out}")
    else:
        print("bands are not drawn: matplotlib is missing; pip install 'noisetilt[plot]'")


def read(file: Path, tensor: str | None = None) -> Tensor:
    """What a file holds, with integers as double precision."""
    kind = file.suffix.lower()
    if kind == ".npy":
        x = torch.from_numpy(np.load(file, allow_pickle=False))
    elif kind == ".safetensors":
        with safe_open(file, framework="pt") as stored:
            names = list(stored.keys())
            if tensor is None and len(names) == 1:
                tensor = names[0]
            if tensor not in names:
                raise ValueError(f"tensor is {tensor!r}, expected one of {', '.join(names)}; name it with --tensor.")
            x = stored.get_tensor(tensor)
    elif kind == ".png":
        picture = np.asarray(Image.open(file).convert("RGB"))
        x = torch.from_numpy(picture.copy()).permute(2, 0, 1)
    else:
        raise ValueError(f"the file is {file.name}, expected one of {', '.join(KINDS)}; save the vector as .npy.")
    return x if x.is_floating_point() else x.double()


def draw(x: Tensor, out: Path) -> bool:
    """Draws the energies of bands against what noise has, mean over the vectors x (batch, *event).

    Returns False, and writes nothing, where matplotlib is not installed.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError:
        return False
    x = x.double()
    field = x if x.ndim > 3 else x[:, None]
    panels = {
        "bands of the flattened spectrum": sequence_bands(x.flatten(1)),
        "half-octaves of spatial frequency": radial_bands(field),
    }
    figure = Figure(figsize=(10, 3.5), layout="constrained")
    for axis, (title, (energy, df)) in zip(figure.subplots(1, 2), panels.items(), strict=True):
        draw_bands(axis, energy.sum(0), df * len(x))
        axis.set(title=title, xlabel="band, low to high frequency", ylabel="energy / expected")
    figure.savefig(out, dpi=90)
    return True


def draw_bands(axis, energy: np.ndarray, df: np.ndarray) -> None:
    """Bars of energy over expectation; red where noise would leave the shaded interval once in 1000 drawings."""
    outside = 0.001 / len(df) / 2
    low, high = (stats.chi2.ppf(p, df) / df for p in (outside, 1 - outside))
    ratio, place = energy / df, np.arange(len(df))
    offending = (ratio < low) | (ratio > high)
    axis.bar(place, ratio, color=np.where(offending, "tab:red", "tab:blue"))
    axis.fill_between(place, low, high, step="mid", color="black", alpha=0.2)
    axis.set_yscale("log")
    axis.axhline(1, color="black", lw=0.8)
