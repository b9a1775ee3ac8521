"""The figure of docs/noise.md: a structured vector and white noise, and what each projection makes of them.

python recipes/noise/figures.py docs/noise.png
"""

import sys

import matplotlib.pyplot as plt
import torch
from structured import coloured

from noisetilt.noise import audit, project_order_statistics, project_wgnc, whiten


def main() -> None:
    generator = torch.Generator().manual_seed(3)
    white = torch.randn(1, 1, 64, 64, generator=generator)
    inputs = {"1/f image": coloured(white, 1), "sparse": white * (white.abs() > 2.3), "white noise": white}
    methods = {
        "input, RMS 1": lambda x: x / x.square().mean().sqrt(),
        "order statistics": lambda x: project_order_statistics((x / x.std()).view(1, 256, 16)).view_as(x),
        "WGNC": project_wgnc,
        "W": whiten,
    }
    figure, axes = plt.subplots(len(inputs), len(methods), figsize=(10, 8), layout="constrained")
    for row, (name, x) in zip(axes, inputs.items(), strict=True):
        for axis, (method, apply) in zip(row, methods.items(), strict=True):
            y = apply(x)
            kept = torch.cosine_similarity(x.flatten(), y.flatten(), dim=0).item()
            axis.imshow(y[0, 0], cmap="gray", vmin=-3, vmax=3, interpolation="nearest")
            axis.set(xticks=[], yticks=[], ylabel=name if method.startswith("input") else "")
            axis.set_title(f"{method}\naudit p = {audit(y).p_value.item():.1g}, cosine {kept:.3f}", fontsize=9)
    figure.savefig(sys.argv[1], dpi=90)


if __name__ == "__main__":
    main()
