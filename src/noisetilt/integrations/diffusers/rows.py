"""The rows of a pipeline's batch: one per image and particle."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .continuation import IMAGE_COUNTS


def state_of(generator: torch.Generator | None) -> Tensor:
    """The state of a generator; that of torch's global generator if it is None."""
    return torch.get_rng_state() if generator is None else generator.get_state()


def set_state(generator: torch.Generator | None, state: Tensor) -> None:
    """Sets the state of a generator; that of torch's global generator if it is None."""
    if generator is None:
        torch.set_rng_state(state)
    else:
        generator.set_state(state)


def device_of(generator: torch.Generator | None) -> torch.device:
    """The device of a generator."""
    return torch.device("cpu") if generator is None else generator.device


def seeds_of(generators: Sequence[torch.Generator | None]) -> list[int]:
    """One seed for each generator of a list, in which a generator may occur more than once; None is torch's global one.

    They are drawn from copies: the generators do not advance, so that the pipeline draws the same as without guidance.
    """
    copies = {id(g): torch.Generator(device_of(g)).set_state(state_of(g)) for g in generators}
    drawn = (torch.randint(2**62, (1,), generator=copies[id(g)], device=device_of(g)) for g in generators)
    return [int(seed) for seed in drawn]


def row_generator(seed: int, particle: int, device: torch.device | str = "cpu") -> torch.Generator:
    """The generator of one row for what the pipeline itself draws; independent of the engine's random numbers."""
    mixed = np.random.SeedSequence([seed, particle, 0]).generate_state(1, np.uint64)[0]
    return torch.Generator(device).manual_seed(int(mixed >> 1))


@contextlib.contextmanager
def advancing(generators: Sequence[torch.Generator | None]) -> Iterator[None]:
    """Advances the generators that nothing was drawn from, so that the next call with them has other noise."""
    before = [state_of(g) for g in generators]
    yield
    for generator, state in zip(generators, before, strict=True):
        if torch.equal(state_of(generator), state):
            torch.rand(1, generator=generator, device=device_of(generator))


def count_images(given: Any) -> int:
    """The number of input images in a list, a batch (image, …) or a single image."""
    return len(given) if isinstance(given, list) or getattr(given, "ndim", 0) >= 4 else 1


def count_embeddings(given: Any) -> int:
    """The number of embeddings of images in a batch (image, …) or a list of batches, which pipelines concatenate."""
    if given is None:
        return 0
    return sum(map(len, given)) if isinstance(given, list) else len(given)


def first_particles(arguments: dict[str, Any], rows: int, particles: int, images: int) -> dict[str, Any] | None:
    """Arguments of `prepare_latents` as they are without particles, from those for `rows` rows with particles.

    None if its signature has no number of images. `images` is the number of input images.
    """
    counts = (*IMAGE_COUNTS, "batch_size")
    count = next((name for name in counts if name in arguments and arguments[name] % particles == 0), None)
    if count is None:
        return None
    sized = {name: value for name, value in arguments.items() if torch.is_tensor(value) or isinstance(value, list)}
    steps = {name: rows // images if name == "image" else particles for name in sized}
    first = {name: value[:: steps[name]] for name, value in sized.items() if len(value) == rows}
    return {**arguments, **first, count: arguments[count] // particles}


def with_first_particles(prepared: Any, first: Any, rows: int, particles: int) -> Any:
    """A tensor (or a tuple of them) of `rows` rows, with the rows of the first particles replaced."""
    if isinstance(prepared, tuple):
        pairs = zip(prepared, first, strict=True)
        return tuple(with_first_particles(value, own, rows, particles) for value, own in pairs)
    if not torch.is_tensor(prepared) or prepared.ndim == 0 or len(prepared) != rows:
        return prepared
    prepared = prepared.clone()
    prepared[::particles] = first
    return prepared


def pick_rows(output: Any, rows: Tensor, total: int) -> Any:
    """A pipeline's output with only these rows of each field that has `total` of them."""

    def pick(field: Any) -> Any:
        if isinstance(field, list) and len(field) == total:
            return [field[row] for row in rows.tolist()]
        if hasattr(field, "shape") and len(field) == total:
            return field[rows.to(field.device) if torch.is_tensor(field) else rows.cpu().numpy()]
        return field

    if isinstance(output, tuple):
        return tuple(pick(field) for field in output)
    for name in list(output):
        output[name] = pick(output[name])
    return output
