"""The figures of docs/noise.md: a reward gradient and white noise before and after each projection.

    python recipes/noise/figures.py docs/noise.png docs/images/noise-statistics.png

The first shows the vectors, the second the statistics that the projections mend. The gradient is the first of
"style:3d, step 8" in build/noise/gradients.safetensors, which gradients.py makes.
"""

import sys
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file
from scipy import stats
from torch import Tensor
from variants import VARIANTS

from noisetilt.noise import _projections as projections
from noisetilt.noise import audit, project_wgnc, whiten
from noisetilt.noise._boxes import box_sums
from noisetilt.noise.typicality import radial_bands, sequence_bands
from noisetilt.noise.whitening import to_unit_rms
from noisetilt.report.plotting import Panel, Series, draw_images, draw_panels, save_figure
from noisetilt.runs import make_folder

GRADIENTS = Path("build/noise/gradients.safetensors")
METHODS = {
    "input": to_unit_rms,
    "two-level order statistics": lambda x: projections.clip_values(x, 1e-4),
    "values": projections.whiten_values,
    "channels": projections.whiten_channels,
    "tile means": lambda x: projections.equalize_box_means(x, (8, 8)),
    "tile energies": lambda x: projections.equalize_boxes(x, [(8, 8)]),
    "n-D Fourier": projections.whiten_field_spectrum,
    "1-D Fourier (WGNC)": project_wgnc,
    "W without dilution": lambda x: VARIANTS["without dilution"](x, fresh(x)),
    "W": lambda x: whiten(x, noise=fresh(x)),
}


def fresh(x: Tensor) -> Tensor:
    return torch.randn(x.shape, generator=torch.Generator().manual_seed(1))


def inputs() -> dict[str, Tensor]:
    """A gradient and white noise, (1, channel, height, width) each, with sides that 8 divides."""
    gradient = load_file(GRADIENTS)["style:3d, step 8"][:1]
    white = torch.randn(gradient.shape, generator=torch.Generator().manual_seed(3))
    return {"reward gradient": to_unit_rms(gradient), "white noise": white}


def vectors(file: str) -> None:
    """The first three channels of each vector as a colour picture: grey at 0, black or a full channel at −3 and 3."""
    rows = []
    for name, x in inputs().items():
        row = []
        for method, apply in METHODS.items():
            y = to_unit_rms(apply(x))
            kept = torch.cosine_similarity(x.flatten(), y.flatten(), dim=0).item()
            title = name if method == "input" else method
            p = audit(y).p_value.item()
            text = f"{title}\n{'p < 1e-16' if p < 1e-16 else f'p = {p:.1g}'}, cosine {kept:.2f}"
            row.append((text, (0.5 + y[0, :3].permute(1, 2, 0) / 6).clamp(0, 1).numpy()))
        rows += [row[:5], row[5:]]
    save_figure(draw_images(rows), Path(file))


def statistics(x: Tensor) -> dict[str, np.ndarray]:
    """Title → scores of x (1, channel, height, width), about ±1 for noise: sorted values, tiles (less their mean),
    bands."""
    count = x.numel()
    rank = (np.arange(count) + 0.5) / count
    normal = stats.norm.ppf(rank)
    spread = np.sqrt(rank * (1 - rank) / count) / stats.norm.pdf(normal)
    values = (x.flatten().sort().values.numpy() - normal) / spread
    means, energy = box_sums(x, (8, 8)).flatten() / 8, box_sums(x.square(), (8, 8)).flatten().numpy()

    def scores(energy: np.ndarray, df: np.ndarray | float) -> np.ndarray:
        return (np.cbrt(energy / df) - 1 + 2 / (9 * df)) / np.sqrt(2 / (9 * df))

    def bands(found: tuple[np.ndarray, np.ndarray]) -> np.ndarray:
        return scores(found[0][0], found[1])

    return {
        "sorted values": values[:: count // 200],
        "tile means, sorted": (means - means.mean()).sort().values.numpy(),
        "tile energies, sorted": np.sort(scores(energy / energy.mean() * 64, 64.0)),
        "half-octaves of frequency": bands(radial_bands(x.double())),
        "bands, flattened": bands(sequence_bands(x.double().flatten(1))),
    }


def before_and_after(file: str) -> None:
    """Scores of the gradient, of what one projection makes of it, of W and of white noise."""
    mends = {
        "sorted values": "values",
        "tile means, sorted": "tile means",
        "tile energies, sorted": "tile energies",
        "half-octaves of frequency": "n-D Fourier",
        "bands, flattened": "1-D Fourier (WGNC)",
    }
    gradient, white = inputs().values()
    before, noise, after = statistics(gradient), statistics(white), statistics(METHODS["W"](gradient))
    panels = []
    for title, method in mends.items():
        mended = statistics(METHODS[method](gradient))[title]
        curves = {"white noise": noise[title], "gradient": before[title], "after the projection": mended}
        curves["after W"] = after[title]
        place = np.linspace(0, 1, len(mended))
        series = {name: Series(place, values, markers=False) for name, values in curves.items()}
        panels.append(
            Panel(f"place in order; projection: {method}", "score", series, title, scales=("linear", "symlog"))
        )
    save_figure(draw_panels(panels, columns=3), Path(file))


def main() -> None:
    drawn, statistics = sys.argv[1:3]
    for file in (drawn, statistics):
        make_folder(Path(file).parent)
    vectors(drawn)
    before_and_after(statistics)


if __name__ == "__main__":
    main()
