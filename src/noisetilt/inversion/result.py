"""The result of `invert`, and edits of it."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save as to_safetensors
from torch import Tensor

from ..initial_noise import Ascent
from ..methods import Method
from ..noise import audit
from ..noise.typicality import SMALLEST_EVENT
from ..path.grids import check_steps
from ..report import save_picture
from ..rewards.reward import RewardFunction, evaluate_any
from ..runs import make_folder, write_bytes, write_json
from ..sampling import AscentReport, AscentTrace, GradientAt
from ..sampling.deterministic import deterministic_chain, deterministic_grid
from ..sampling.loop import normalised_on_base
from ..sampling.noise_ascent import NoiseAscent, check_iterations
from ..sampling.notebook_view import figures_html
from ..sampling.progress import shown_progress
from ..sampling.reward_evaluation import RewardEvaluator, check_reward, chunks
from ..sampling.saved_images import save_images
from ..sampling.short_repr import ShortRepr
from .distances import SCALE, Distance, TargetEvaluator, coarse, distance_name


@dataclass(repr=False)
class EditResult(ShortRepr):
    """Images made from the noise of an inversion with other prompts or a reward, returned by `InversionResult.edit`.

    Attributes:
        images: (image, 3, H, W) in [0, 1].
        noise: (image, *event), of unit variance; that of the inversion unless a reward was given.
        prompts: one per image.
        rewards: (image,), or None without a reward.
        seeds: of the inversion, one per image; empty if they are not known.
    """

    images: Tensor
    noise: Tensor
    prompts: list[str]
    rewards: Tensor | None = None
    seeds: list[int] = field(default_factory=list, repr=False)

    def save(self, folder: str | Path) -> None:
        """Write image-0.png, image-1.png, …, each with its prompt and seed, the noise (noise.safetensors) and the
        rewards (result.json).

        Each file is written as a whole or not at all; one of the same name is replaced.

        Raises:
            FloatingPointError: if an image is not finite; nothing is written.
            OSError: if a file cannot be written; names the file.
        """
        figures = {"rewards": None if self.rewards is None else self.rewards.tolist()}
        save_images(folder, self.images, self.prompts, self.seeds, figures, self.noise)

    def _repr_html_(self) -> str:
        """Images with their prompts and rewards, which a notebook shows."""
        return figures_html(self.images, {"": self.prompts, "reward": self.rewards})


@dataclass(repr=False)
class InversionResult(ShortRepr):
    """The iterate with the smallest distance of each image, returned by `invert`.

    Attributes:
        images: (image, 3, H, W) in [0, 1], made from the noise.
        targets: (image, 3, H, W) in [0, 1], the given images at the model's size.
        noise: (image, *event), of unit variance.
        distances: (image,), between images and targets.
        iterations: (image,) int64, number of the iterate, from 0.
        trace: the history of all iterates; its rewards are −100 · distance.
        prompts, seeds: one per image.
        model, ascent, distance, chunk, gradient_at: as `invert` used them; `edit` uses them too.
    """

    images: Tensor
    targets: Tensor
    noise: Tensor
    distances: Tensor
    iterations: Tensor
    trace: AscentTrace
    prompts: list[str]
    seeds: list[int]
    model: Any = field(repr=False)
    ascent: Ascent = field(default_factory=Ascent)
    distance: Distance = "pixels"
    chunk: int = 16
    gradient_at: GradientAt = "x_t"

    def _repr_html_(self) -> str:
        """Targets, and below them the images from the noise found, which a notebook shows."""
        found = figures_html(self.images, {"PSNR in dB": self.psnr, "iterate": self.iterations})
        return figures_html(self.targets, {"target:": self.prompts}) + found

    @property
    def curve(self) -> Tensor:
        """Distances of all iterates, (iterations + 1, image)."""
        return -self.trace.rewards / SCALE

    @property
    def psnr(self) -> Tensor:
        """Peak signal-to-noise ratio of the images to the targets in dB, (image,); infinite where they are equal."""
        return -10 * (self.images - self.targets).square().mean((1, 2, 3)).log10()

    def finite_psnr(self) -> list[float | None]:
        """The PSNR as JSON can have it: None instead of infinity."""
        return [value if math.isfinite(value) else None for value in self.psnr.tolist()]

    def typicality(self) -> Any:
        """The audit of the noise (`noise.audit`): its `p_value` is small for noise that is not white Gaussian."""
        return audit(self.noise)

    def p_values(self) -> list[float] | None:
        """The audit's p-values; None for noise of fewer numbers than the audit needs."""
        return None if self.noise[0].numel() < SMALLEST_EVENT else self.typicality().p_value.tolist()

    @torch.inference_mode(False)
    @torch.no_grad()
    def edit(
        self,
        prompts: Sequence[str] | str | None = None,
        reward: RewardFunction | None = None,
        *,
        steps: int | None = None,
        iterations: int = 20,
        keep: float = 1.0,
        layout: float = 0.0,
        callback: Callable[[AscentReport], Any] | None = None,
        progress: bool = False,
    ) -> EditResult:
        """Images from the found noise with other prompts, optionally moved towards a reward or the target's layout.

        Args:
            prompts: one per image, or one for all; those of the inversion by default.
            reward: (images, prompts) → (batch,), maximised by noise ascent from the found noise with the inversion's
                method.
            steps: deterministic steps from noise to image, ≥ 1; those of the inversion by default.
            iterations: ascent steps for the reward and the layout, ≥ 0.
            keep: weight ≥ 0 of the inversion's distance to the image from the found noise while a reward is maximised,
                in units of 100 · distance per unit of reward; not used with `layout`.
            layout: weight ≥ 0 of the distance to the target at 8×8 pixels, in the same units, which is minimised from
                the found noise.
            callback: called with an AscentReport at each iterate for the reward and the layout; its rewards are the
                objective.
            progress: whether to show a progress bar of the iterations, or lines where the standard error is no
                terminal.

        Raises:
            ValueError: if an argument is invalid.
            FloatingPointError: if the reward or its gradient is not finite.
        """
        if progress:
            options: dict[str, Any] = dict(steps=steps, iterations=iterations, keep=keep, layout=layout)
            with shown_progress(callback, "iteration") as show:
                return self.edit(prompts, reward, **options, callback=show)
        names = (
            self.prompts if prompts is None else [prompts] * len(self.noise) if isinstance(prompts, str) else prompts
        )
        names = list(names)
        if len(names) != len(self.noise):
            raise ValueError(f"{len(names)} prompts for {len(self.noise)} images; give one per image, or one for all")
        if not 0 <= keep < math.inf or not 0 <= layout < math.inf:
            raise ValueError(f"keep = {keep} and layout = {layout} must be finite numbers, 0 or more")
        iterations = check_iterations(iterations)
        steps = self.ascent.chain_steps if steps is None else check_steps(steps)
        path = self.model.path
        grid = deterministic_grid(path, path.grid(1)[0], steps)
        images = self._images(names, grid)
        if reward is None and not layout:
            return EditResult(images, self.noise, names, seeds=self.seeds)
        rewards, _ = normalised_on_base((reward,), self.model, names, grid, 0.0, self.chunk)
        ascent = replace(self.ascent, iterations=iterations, chain_steps=steps)
        if reward is not None:
            check_reward(Method(initial=ascent), rewards[0])
        evaluator = self._evaluator(rewards[0], names, images, keep, layout)
        at = self.gradient_at
        run = NoiseAscent(self.model, names, evaluator, None, ascent, 0, at, self.chunk, callback, grid)
        best = run(self.seeds, self.noise)
        if reward is None:
            return EditResult(best.images, best.noise, names, seeds=self.seeds)
        run.warn_if_not_guided()
        values = [evaluate_any(rewards[0], best.images[i : i + 1], names[i : i + 1]) for i in range(len(names))]
        return EditResult(best.images, best.noise, names, torch.cat(values), self.seeds)

    def _evaluator(
        self, reward: RewardFunction | None, prompts: list[str], images: Tensor, keep: float, layout: float
    ) -> RewardEvaluator:
        options: dict[str, Any] = dict(model=self.model, weight=layout or keep, chunk=self.chunk)
        if layout:
            return TargetEvaluator(reward, self.model.decode, prompts, distance=coarse, targets=self.targets, **options)
        if keep:
            return TargetEvaluator(
                reward, self.model.decode, prompts, distance=self.distance, targets=images, **options
            )
        return RewardEvaluator(reward, self.model.decode, prompts)

    def _images(self, prompts: list[str], grid: list[float]) -> Tensor:
        denoiser, start = self.model.denoiser(prompts), self.model.path.prior_std(grid[0]) * self.noise
        rows = torch.arange(len(prompts), device=start.device)
        made = [
            self.model.decode(deterministic_chain(denoiser, start[part], grid, rows[part]))
            for part in chunks(len(prompts), self.chunk)
        ]
        images = torch.cat(made)
        return images.to(torch.promote_types(images.dtype, torch.float32))

    def save(self, folder: str | Path) -> None:
        """Write target-0.png, found-0.png, …, the noise (noise.safetensors) and the figures (inversion.json).

        Each file is written as a whole or not at all.

        Raises:
            OSError: if a file cannot be written; names the file.
        """
        folder = Path(folder)
        make_folder(folder)
        for number, (target, image, prompt) in enumerate(zip(self.targets, self.images, self.prompts, strict=True)):
            settings = {"prompt": prompt, "seed": self.seeds[number]}
            save_picture(target, folder / f"target-{number}.png", settings)
            save_picture(image, folder / f"found-{number}.png", settings)
        stored = to_safetensors({"noise": self.noise.detach().cpu().contiguous()})
        write_bytes(folder / "noise.safetensors", stored)
        write_json(folder / "inversion.json", self.record())

    def record(self) -> dict[str, Any]:
        """The figures as JSON has them: prompts, seeds, distances, PSNR (None if infinite), p-values, curve."""
        return {
            "prompts": self.prompts,
            "seeds": [int(seed) for seed in self.seeds],
            "distance": distance_name(self.distance),
            "distances": self.distances.tolist(),
            "psnr": self.finite_psnr(),
            "p_values": self.p_values(),
            "iterations": self.iterations.tolist(),
            "seconds": self.trace.seconds[-1],
            "curve": self.curve.tolist(),
        }
