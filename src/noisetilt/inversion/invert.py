"""`invert`: the initial noise from which a generator makes given images."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from .._python_files import is_in_file
from ..initial_noise import Ascent
from ..methods import Method, find_method
from ..path.grids import check_steps
from ..rewards.images import check_images
from ..sampling import AscentReport, GradientAt, Model
from ..sampling.check_inputs import as_prompts, as_seeds, check_call, check_callback, check_chunk
from ..sampling.deterministic import deterministic_grid
from ..sampling.noise_ascent import NoiseAscent, check_iterations, check_optimizable, find_ascent, warn_of_one_step
from ..sampling.progress import shown_progress
from .distances import SCALE, Distance, TargetEvaluator, check_distance
from .noise_files import as_noise
from .photos import fit, read_photo
from .result import InversionResult

# The best of 0.03, 0.1 and 0.3 for gper in 25 iterations on emoji128-turbo (recipes/invert/measure.py).
INVERSION_RATE = 0.3
# How far values of images may be outside [0, 1], as those of decoders are; they are clamped.
TOLERANCE = 0.05
Photo = str | Path | Image.Image | Tensor


@torch.inference_mode(False)
@torch.no_grad()
def invert(
    model: Model,
    images: Photo | Sequence[Photo],
    prompts: Sequence[str] | str,
    method: str | Method = "gper-both",
    iterations: int | None = 100,
    *,
    distance: Distance = "pixels",
    steps: int | None = None,
    seeds: Sequence[int] | None = None,
    noise: Tensor | str | Path | None = None,
    gradient_at: GradientAt = "x_t",
    chunk: int = 16,
    callback: Callable[[AscentReport], Any] | None = None,
    progress: bool = False,
) -> InversionResult:
    """Find the initial noise from which a one-step or few-step generator makes given images.

    Noise ascent of −distance(M(x), image), where M(x) is x̂_0 at the start of the path or the result of `steps`
    deterministic steps. The iterate with the smallest distance is returned for each image.

        from noisetilt import invert, load

        model = load("emoji128-turbo")
        found = invert(model, ["cat.png"], ["cat face"])
        found.images                                # (1, 3, 128, 128), close to found.targets
        found.psnr                                  # (1,) dB
        found.edit(prompts=["dog face"]).images     # another prompt from the same noise

    Args:
        model: an object with `denoiser(prompts)`, `path`, `shape` and `decode`, such as `load("emoji128-turbo")`; the
            distance "latents" needs `encode` too.
        images: (image, 3, H, W) in [0, 1], or files, images of Pillow, or tensors (3, H, W); they are cropped to the
            centre and resized to the model's size.
        prompts: one per image, or one for all.
        method: a name in METHODS ("none", "reno", "prno", "mpgr", "gper", …) or a Method that consists of an Ascent
            alone. GPER's methods by name have a rate of 0.3 here, because an inversion has to go further.
        iterations: ascent steps, a whole number ≥ 0; None: the method's own number.
        distance: "pixels" (mean squared error), "latents" (of the model's states, without a gradient through its
            decoder), "features" (perceptual, of early layers of a network), or a differentiable function images
            (batch, 3, H, W) → (batch, …), whose mean squared difference is taken.
        steps: deterministic steps from noise to image, ≥ 1; None: the method's `chain_steps`, 1 by default.
        seeds: of the first iterates, one whole number ≥ 0 per image; 0, 1, 2, … by default.
        noise: the first iterates in place of those of the seeds, (image, *model.shape) of unit variance, or a file that
            `InversionResult.save` wrote. An earlier inversion is continued from them; with iterations=0 its images can
            be edited at once.
        gradient_at: "x_t" differentiates through the network; "x0" does not, which saves the network's backward pass.
        chunk: rows per network call and per reward evaluation ≥ 1, draws included, which bounds the memory.
        callback: called with an AscentReport at each iterate; its rewards are −100 · distance.
        progress: whether to show a progress bar of the iterations, or lines where the standard error is no terminal.

    Returns:
        InversionResult with the noise, its images and distances, and the method `edit`.

    Raises:
        ValueError: if an argument is invalid, a file is no image or has no noise, a tensor is outside [-0.05, 1.05],
            or the method is not a pure noise ascent.
        FileNotFoundError: if there is no such file.
        FloatingPointError: if the distance, its gradient or `noise` is not finite.
    """
    if progress:
        options: dict[str, Any] = dict(
            distance=distance, steps=steps, seeds=seeds, noise=noise, gradient_at=gradient_at, chunk=chunk
        )
        with shown_progress(callback, "iteration") as show:
            return invert(model, images, prompts, method, iterations, **options, callback=show)
    ascent = ascent_for(inversion_method(method), iterations, steps)
    check_optimizable(model)
    warn_of_one_step(model, ascent.chain_steps)
    check_distance(distance, model)
    targets = as_targets(images, image_size(model), getattr(model, "device", "cpu"))
    prompts = [prompts] * len(targets) if isinstance(prompts, str) else as_prompts(prompts)
    if len(prompts) != len(targets):
        raise ValueError(f"{len(prompts)} prompts for {len(targets)} images; give one prompt per image, or one for all")
    seeds = as_seeds(seeds, prompts)
    start = None if noise is None else as_noise(noise, len(targets), model.shape)
    grid = deterministic_grid(model.path, model.path.grid(1)[0], ascent.chain_steps)
    check_callback(callback)
    check_call(prompts, seeds, model.path, grid, gradient_at)
    chunk = check_chunk(chunk)
    evaluator = TargetEvaluator(
        None, model.decode, prompts, model=model, distance=distance, targets=targets, chunk=chunk
    )
    run = NoiseAscent(model, prompts, evaluator, None, ascent, 0, gradient_at, chunk, callback, grid)
    best = run(seeds, start)
    return InversionResult(
        images=best.images,
        targets=targets,
        noise=best.noise,
        distances=-best.rewards / SCALE,
        iterations=best.iterations,
        trace=best.trace,
        prompts=prompts,
        seeds=seeds,
        model=model,
        ascent=ascent,
        distance=distance,
        chunk=chunk,
        gradient_at=gradient_at,
    )


def inversion_method(method: str | Method) -> Method:
    """A method by name, with the rate of inversions if it is one of GPER's; a Method is returned unchanged."""
    found = find_method(method)
    is_gper = isinstance(method, str) and method.lower().startswith("gper") and not is_in_file(method)
    return found.replace(rate=INVERSION_RATE) if is_gper else found


def ascent_for(method: str | Method, iterations: int | None, steps: int | None) -> Ascent:
    """The method's noise ascent with these numbers of iterations and of deterministic steps; None: its own."""
    ascent = find_ascent(method)
    if iterations is not None:
        ascent = replace(ascent, iterations=check_iterations(iterations))
    if steps is not None:
        ascent = replace(ascent, chain_steps=check_steps(steps))
    return ascent


@torch.no_grad()
def image_size(model: Model) -> tuple[int, int]:
    """Height and width of a model's images in pixels.

    Raises:
        ValueError: if the model makes videos.
    """
    blank = model.decode(torch.zeros(1, *model.shape, device=getattr(model, "device", "cpu")))
    if blank.ndim != 4:
        raise ValueError(f"{type(model).__name__} makes videos, and `invert` needs a model of images")
    return blank.shape[-2], blank.shape[-1]


def as_targets(images: Photo | Sequence[Photo], size: tuple[int, int], device: torch.device | str = "cpu") -> Tensor:
    """Images in any form that `invert` takes, on any devices, as (image, 3, *size) in [0, 1] on one device.

    Raises:
        ValueError: if there is none, or one is no image or has values outside [-0.05, 1.05].
        FileNotFoundError: if there is no such file.
    """
    if isinstance(images, str | Path | Image.Image):
        images = [images]
    if isinstance(images, Tensor) and images.ndim == 3:
        images = images[None]
    if len(images) == 0:
        raise ValueError("images is empty; give at least one image")
    return torch.stack([_as_target(image, size).to(device) for image in images])


def _as_target(image: Photo, size: tuple[int, int]) -> Tensor:
    if isinstance(image, str | Path | Image.Image):
        return read_photo(image, size)
    check_images(image[None] if isinstance(image, Tensor) else image)
    if not image.isfinite().all():
        raise FloatingPointError("the images are not finite")
    least, most = (float(value) for value in image.aminmax())
    if least < -TOLERANCE or most > 1 + TOLERANCE:
        raise ValueError(
            f"images has values from {least:.3g} to {most:.3g}, expected [0, 1]; give images / 2 + 0.5 if they are in "
            "[-1, 1]"
        )
    return fit(image.detach().float(), size).clamp(0, 1)
