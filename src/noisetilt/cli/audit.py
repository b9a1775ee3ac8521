"""The command `noisetilt audit`: tests whether vectors in a file are white Gaussian noise, and plots their bands."""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from safetensors import SafetensorError, safe_open
from scipy import stats
from torch import Tensor

from .._messages import missing_extra, nearest_name, one_line
from ..noise import Audit, audit
from ..noise._events import as_field
from ..noise.typicality import overall, radial_bands, row_chunks, sequence_bands
from ..report.plotting import Bands, draw_bands, has_matplotlib, save_figure
from ..runs import make_folder

INTERVAL = "interval of white noise: all bands are inside in 999 of 1000 panels"
SUFFIXES = (".npy", ".safetensors", ".png")


def main(args: argparse.Namespace) -> None:
    """Runs the audit of a file."""
    audit_file(args.file, args.out, args.tensor, args.batch, args.standardise, args.level)


def audit_file(file: Path, out: Path | None, tensor: str | None, batch: bool, standardise: bool, level: float) -> None:
    """Prints the table of tests of a file's vectors, and plots their band energies.

    Args:
        file: .npy, .safetensors or .png. A PNG is read as (channel, height, width) and standardised.
        out: the file of the plot, whose folder is made if it is missing; None: NAME.audit.png beside the file.
        tensor: the name of a tensor in a .safetensors file; None: its only tensor.
        batch: whether the first axis is the batch; otherwise the file holds one vector.
        standardise: whether to subtract the mean of each vector and divide by its RMS.
        level: significance level, in (0, 1).

    Raises:
        ValueError: if the file's type or the tensor's name is unknown, the tensor has no batch or no vector, `audit`
            cannot test it, or the plot would replace it.
        OSError: if the file does not exist, or the plot or its folder cannot be written.
    """
    if not 0 < level < 1:
        raise ValueError(f"level = {level} must be greater than 0 and less than 1, such as 0.01")
    out = file.with_suffix(".audit.png") if out is None else out
    if out.is_dir():
        raise ValueError(f"out = {out} is a folder, expected a file for the plot, such as bands.png")
    if out.suffix.lower() != ".png":
        raise ValueError(f"out = {out} must be a PNG file, such as {out.with_suffix('.png').name}")
    if file.exists() and out.exists() and out.samefile(file):
        raise ValueError(f"out = {out} is the file that is tested, which the plot would replace; give another name")
    if tensor is not None and file.suffix.lower() != ".safetensors":
        raise ValueError(f"tensor = {tensor!r} is for .safetensors files and the file is {file.name}; leave it out")
    x = read_tensor(file, tensor)
    x = x if batch else x[None]
    if x.ndim < 2:
        expected = "a batch of vectors; leave out --batch" if batch else "a vector of 256 or more numbers; join several"
        raise ValueError(f"{file} has the shape {tuple(x.shape[not batch :])}, expected {expected}")
    if standardise or file.suffix.lower() == ".png":
        flat = x.double().flatten(1)
        spread = flat.std(1, keepdim=True, correction=0)
        if (spread == 0).any():
            raise ValueError(f"{file} has a vector whose numbers are all equal, which cannot be scaled to RMS 1")
        x = ((flat - flat.mean(1, keepdim=True)) / spread).view(x.shape)
    make_folder(out.parent)
    result = audit(x)
    print(result)
    rejected = int(result.rejected(level).sum())
    verdict = f"{rejected} of {len(x)} rejected as white Gaussian noise at level {level:g}"
    print(verdict)
    names = rejecting_tests(result, level)
    if plot_bands(x, out, verdict + (f", by: {', '.join(names)}" if names else "")):
        print(f"Open {out}: the energy of the bands of frequency")
    else:
        print(missing_extra("plot", "the plot of the bands"))


def read_tensor(file: Path, tensor: str | None = None) -> Tensor:
    """The tensor in a file; integers are converted to float64.

    Raises:
        ValueError: if the file is of another type, damaged, or holds no numbers; names the file.
        OSError: if there is no such file.
    """
    readers = {".npy": _read_npy, ".safetensors": lambda file: _read_safetensors(file, tensor), ".png": _read_png}
    suffix = file.suffix.lower()
    if suffix not in readers:
        raise ValueError(f"the file is {file.name}, expected one of {', '.join(SUFFIXES)}; save the tensor as .npy")
    if not file.is_file():
        raise FileNotFoundError(f"there is no file {file}; give a file that exists")
    x = readers[suffix](file)
    if x.is_complex():
        raise ValueError(f"{file} holds complex numbers; save the real part")
    return x if x.is_floating_point() else x.double()


def _read_npy(file: Path) -> Tensor:
    try:
        values = np.load(file, allow_pickle=False)
    except Exception as error:  # numpy's parser of headers raises errors of many types
        raise ValueError(
            f"{file} is damaged, or no array of numbers as numpy.save writes it: {one_line(error)}"
        ) from None
    if not isinstance(values, np.ndarray) or values.dtype.kind not in "biufc":
        kind = getattr(values, "dtype", type(values).__name__)
        raise ValueError(f"{file} holds {kind}, expected numbers; save the tensor with numpy.save")
    if values.dtype.kind == "f" and values.dtype.itemsize > 8:
        values = values.astype(np.float64)
    return torch.from_numpy(np.ascontiguousarray(values.astype(values.dtype.newbyteorder("="))))


def _read_png(file: Path) -> Tensor:
    try:
        image = np.asarray(Image.open(file).convert("RGB"))
    except Exception as error:  # Pillow's parsers raise errors of many types
        raise ValueError(f"{file} is damaged, or no image: {one_line(error)}") from None
    return torch.from_numpy(image.copy()).permute(2, 0, 1)


def _read_safetensors(file: Path, tensor: str | None) -> Tensor:
    try:
        with safe_open(file, framework="pt") as stored:
            names = list(stored.keys())
            if tensor is None and len(names) == 1:
                tensor = names[0]
            if tensor not in names:
                hint = nearest_name(tensor or "", names)
                known = ", ".join(names)
                raise ValueError(f"tensor is {tensor!r}{hint}, expected one of {known}; name it with --tensor")
            return stored.get_tensor(tensor)
    except (SafetensorError, OSError, OverflowError, RuntimeError, MemoryError) as error:
        raise ValueError(f"{file} is damaged, or no safetensors file: {one_line(error)}") from None


def rejecting_tests(result: Audit, level: float) -> list[str]:
    """The names of the tests that reject a vector at a level, corrected for the number of tests as the overall p-value
    is; those with the smallest p-values first."""
    found = {}
    for name, p in result.tests.items():
        others = {other: np.ones(len(p)) for other in result.tests if other != name}
        if (overall({name: p.numpy(), **others}) < level).any():
            found[name] = float(p.min())
    return sorted(found, key=found.__getitem__)


def plot_bands(x: Tensor, out: Path, heading: str) -> bool:
    """Plots the band energies of x (batch, *event), averaged over the batch, relative to those of white noise, below a
    heading.

    Returns False, and writes nothing, if matplotlib is not installed.
    """
    if not has_matplotlib():
        return False
    panels = {
        "bands of the flattened spectrum": lambda part: sequence_bands(part.flatten(1)),
        "half-octaves of spatial frequency": lambda part: radial_bands(as_field(part)),
    }
    drawn = {}
    for title, bands in panels.items():
        energies, dfs = zip(*(bands(part.double()) for part in row_chunks(x)), strict=True)
        drawn[title] = _bands(sum(energy.sum(0) for energy in energies), dfs[0] * len(x))
    save_figure(draw_bands(drawn, heading, INTERVAL), out)
    return True


def _bands(energy: np.ndarray, df: np.ndarray) -> Bands:
    """Energy over its expectation. White noise leaves the interval of a panel in one panel out of 1000."""
    outside = 0.001 / len(df) / 2
    low, high = (stats.chi2.ppf(p, df) / df for p in (outside, 1 - outside))
    return Bands(energy / df, low, high)
