"""Figures of docs/how-ntrk-works.md, docs/how-gper-works.md, docs/choose.md and docs/results.md.

python recipes/docs/figures.py [--only ntrk gper strength mixture]
"""

from __future__ import annotations

import argparse
import math
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from noisetilt import METHODS, load, noise, rewards, sample
from noisetilt.bench.paper_plan import TARGETS
from noisetilt.bench.paper_suite import prompt_seeds
from noisetilt.report import to_image
from noisetilt.report.plotting.figures import new_figure

FOLDER = Path(__file__).parents[2] / "docs/images"
ONE_STEP_MODEL = "emoji128-turbo"
REWARD = "style:3d"
# Okabe and Ito's colours, which readers with any colour vision can tell apart.
COLOURS = {"gradient": "#D55E00", "projected": "#0072B2", "noise": "#7F7F7F"}
BLOCK = 16
STRENGTHS = (0.0, 0.005, 0.015, 0.05, 0.15)
MIXED = (("style:3d", 0.015), ("0.5*style:3d + 0.5*alignment", 0.1))
STRENGTH_PROMPTS = ("bird noto", "house twemoji", "red apple noto")


def unit_rms(x: Tensor) -> Tensor:
    return x / x.square().mean().sqrt()


def reward_gradient(model: Any, prompts: list[str], x_t: Tensor, t: float) -> Tensor:
    """∇_{x_t} r(x̂_0)."""
    x_t = x_t.requires_grad_()
    value = rewards.load(REWARD)(model.decode(model.denoiser(prompts)(x_t, t)), prompts)
    return torch.autograd.grad(value.sum(), x_t)[0]


def radial_power(x: Tensor) -> tuple[np.ndarray, np.ndarray]:
    """Spatial frequency in cycles per pixel, and the mean power there, of (channel, H, W)."""
    side = x.shape[-1]
    power = torch.fft.fft2(x, norm="ortho").abs().square().mean(0)
    axis = torch.fft.fftfreq(side)
    radius = (torch.hypot(axis[:, None], axis[None]) * side).round().long().flatten()
    sums = torch.zeros(int(radius.max()) + 1).index_add_(0, radius, power.flatten())
    counts = torch.bincount(radius)
    keep = slice(1, side // 2 + 1)
    return np.arange(len(sums))[keep] / side, (sums / counts).numpy()[keep]


def show_field(axes: Any, field: Tensor, title: str, colour: str) -> None:
    axes.imshow(field.numpy(), cmap="gray", vmin=-3, vmax=3, interpolation="nearest")
    axes.set_title(title, color=colour, fontsize=11)
    axes.set(xticks=[], yticks=[])
    axes.set_anchor("C")


def tidy(axes: Any) -> None:
    axes.spines[["top", "right"]].set_visible(False)


def ntrk_figure() -> None:
    """A gradient in the middle of sampling, W of it, and white noise."""
    model, prompts = load("emoji128"), ["cat face noto"]
    generator = torch.Generator().manual_seed(0)
    x, t = torch.randn(1, *model.shape, generator=generator), 0.6
    x_0 = model.denoiser(prompts)(x, 1.0).detach()
    gradient = reward_gradient(model, prompts, (1 - t) * x_0 + t * x, t)
    fresh = torch.randn(1, *model.shape, generator=generator)
    fields = {
        "gradient g": (unit_rms(gradient)[0], COLOURS["gradient"]),
        "W(g)": (noise.whiten(gradient, noise=fresh.flip(-1))[0], COLOURS["projected"]),
        "white noise": (fresh[0], COLOURS["noise"]),
    }
    figure = new_figure(11, 2.9)
    panels = figure.subplots(1, 5, width_ratios=[1, 1, 1, 1.35, 1.35])
    for axes, (title, (field, colour)) in zip(panels, fields.items(), strict=False):
        show_field(axes, field[0], title, colour)
    for title, (field, colour) in fields.items():
        panels[3].plot(*radial_power(field), color=colour, label=title)
        density, edges = np.histogram(field.flatten().numpy(), bins=np.linspace(-5, 5, 61), density=True)
        panels[4].stairs(density, edges, color=colour, linewidth=1.4)
    panels[3].set(xlabel="cycles per latent pixel", ylabel="power", ylim=(0, None))
    panels[4].set(xlabel="value", ylabel="density", yscale="log", ylim=(3e-4, 2))
    panels[3].legend(frameon=False, fontsize=8)
    for axes in panels[3:]:
        tidy(axes)
    figure.savefig(FOLDER / "how-ntrk.png", dpi=140, bbox_inches="tight", pad_inches=0.08)


def block_norms(x: Tensor) -> tuple[Tensor, Tensor]:
    """Energy and evenness of all blocks, ‖y‖₂²/B and ‖y‖₁/(√B ‖y‖₂); at the constraints they are 1 and √π/2."""
    magnitude = noise.to_spectrum(x).unflatten(1, (-1, BLOCK)).abs()[0]
    energy = magnitude.square().sum(1) / BLOCK
    return energy, magnitude.mean(1) / energy.sqrt()


def gper_figure() -> None:
    """A gradient with respect to the noise of a one-step generator, before and after the projection."""
    model, prompts = load(ONE_STEP_MODEL), ["cat face"]
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(1, *model.shape, generator=generator)
    gradient = unit_rms(reward_gradient(model, prompts, x, model.path.grid(1)[0]))
    fields = {
        "gradient": (gradient, COLOURS["gradient"]),
        "projected": (noise.project_wgnc(gradient, BLOCK), COLOURS["projected"]),
        "white noise": (torch.randn(1, *model.shape, generator=generator), COLOURS["noise"]),
    }
    figure = new_figure(9.6, 3.5)
    left, middle, right = figure.subplots(1, 3, width_ratios=[1, 1, 1.3])
    show_field(left, gradient[0, 0], "gradient", COLOURS["gradient"])
    show_field(middle, fields["projected"][0][0, 0], "projected", COLOURS["projected"])
    for name in ("gradient", "white noise", "projected"):
        field, colour = fields[name]
        marker = dict(marker="x", s=60, linewidths=2, zorder=3) if name == "projected" else dict(s=6, alpha=0.5)
        right.scatter(*block_norms(field), color=colour, label=name, **marker)
    right.axhline(math.sqrt(math.pi) / 2, color="black", linewidth=0.6, zorder=0)
    right.axvline(1, color="black", linewidth=0.6, zorder=0)
    right.set(xlabel=r"energy of a block, $\|y\|_2^2 / B$", xscale="log")
    right.set_xticks([0.3, 1, 3], labels=["0.3", "1", "3"])
    right.set_xticks([], minor=True)
    right.set(ylabel=r"evenness, $\|y\|_1 / (\sqrt{B}\, \|y\|_2)$")
    right.legend(frameon=False, fontsize=8, loc="lower right")
    tidy(right)
    figure.savefig(FOLDER / "how-gper.png", dpi=140, bbox_inches="tight", pad_inches=0.08)


def strength_figure() -> None:
    """The same seeds at several rho."""
    model, prompts = load("emoji128"), list(STRENGTH_PROMPTS)
    reward, heldout = rewards.load(REWARD), rewards.load(REWARD, heldout=True)
    figure = new_figure(8.6, 5.6)
    panels = figure.subplots(len(prompts), len(STRENGTHS))
    for column, rho in enumerate(STRENGTHS):
        result = sample(model, prompts, reward, METHODS["ntrk"].replace(rho=rho), 25, track=False)
        with torch.no_grad():
            other = heldout(result.images, prompts).mean()
        for axes, image in zip(panels[:, column], result.images, strict=True):
            axes.imshow(to_image(image))
            axes.set(xticks=[], yticks=[])
            axes.spines[:].set_visible(False)
        title = f"rho = {rho:g}\nreward {result.rewards.mean():.1f}\nheld-out {other:.1f}"
        panels[0, column].set_title(title.replace("-", "−").replace("held−out", "held-out"), fontsize=10)
    figure.savefig(FOLDER / "ntrk-strength.png", dpi=120)


def mixture_figure() -> None:
    """Base, the style alone, and the style mixed with the prompt's content, on the first tuning prompts of the suite
    `paper`."""
    model, heldout = load("emoji128"), rewards.load(REWARD, heldout=True)
    prompts, seeds = map(list, zip(*prompt_seeds(TARGETS[0], False, 8), strict=True))
    rows = [
        ("base", None, "base", {}),
        *((f"{name}, rho = {rho:g}", name, "ntrk-x0", {"rho": rho}) for name, rho in MIXED),
    ]
    figure = new_figure(9.6, 1.5 * len(rows))
    for part, (title, name, method, options) in zip(figure.subfigures(len(rows)), rows, strict=True):
        reward = None if name is None else rewards.load(name)
        result = sample(model, prompts, reward, METHODS[method].replace(**options), 25, seeds, track=False)
        with torch.no_grad():
            other = heldout(result.images, prompts).mean()
        for axes, image in zip(part.subplots(1, len(prompts)), result.images, strict=True):
            axes.imshow(to_image(image))
            axes.set(xticks=[], yticks=[])
            axes.spines[:].set_visible(False)
        text = f"{title}, held-out {REWARD} {other:.1f}".replace(" -", " −")
        part.suptitle(text, fontsize=10, x=0.01, ha="left")
    figure.savefig(FOLDER / "mixture.png", dpi=120)


FIGURES = {"ntrk": ntrk_figure, "gper": gper_figure, "strength": strength_figure, "mixture": mixture_figure}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=FIGURES, default=list(FIGURES))
    for name in parser.parse_args().only:
        FIGURES[name]()


if __name__ == "__main__":
    main()
