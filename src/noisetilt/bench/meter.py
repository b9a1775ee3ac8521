"""What a method injects and what it costs: the noise of a few steps for the audit, and the peak of memory."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from ..methods import Method
from ..noise import audit
from ..proposals import Step


@dataclass(frozen=True)
class Watched:
    """A proposal that also keeps its standardised perturbations (x_s − mean)/std at some steps, counted from 1."""

    proposal: Any
    numbers: Sequence[int]
    seen: list[Tensor] = field(default_factory=list)

    def __getattr__(self, name: str) -> Any:
        return getattr(object.__getattribute__(self, "proposal"), name)

    def __call__(self, step: Step, noise: Tensor) -> Tensor:
        x_s = self.proposal(step, noise)
        if step.number in self.numbers and step.std > 0:
            self.seen.append((x_s - step.mean) / step.std)
        return x_s


def watch(method: Method, numbers: Sequence[int]) -> tuple[Method, Watched]:
    """The method with its proposal watched, and the watcher."""
    watched = Watched(method.proposal, tuple(numbers))
    return method.replace(proposal=watched), watched


def injected_p_values(watched: Watched, images: int, particles: int) -> Tensor:
    """p-value that an image's injected noise is white Gaussian, (image,) float64: the smallest over the watched steps
    of its first particle, corrected for their number (Šidák). A method that re-draws for some images alone (RBF) is
    judged by the steps that all images took together."""
    whole = [noise[::particles] for noise in watched.seen if len(noise) == images * particles]
    if not whole:
        return torch.full((images,), torch.nan, dtype=torch.float64)
    p = torch.stack([audit(noise.float()).p_value for noise in whole])
    return 1 - (1 - p.amin(0)) ** len(whole)


class PeakMemory:
    """`with PeakMemory(device) as peak: …`, then peak.megabytes: the most memory in use meanwhile, 10⁶ bytes.

    On an accelerator that of torch's tensors, on a CPU the process's resident memory (Linux; None elsewhere).
    """

    megabytes: float | None = None

    def __init__(self, device: torch.device | str) -> None:
        self.cuda = torch.device(device).type == "cuda"

    def __enter__(self) -> PeakMemory:
        if self.cuda:
            torch.cuda.reset_peak_memory_stats()
            return self
        try:
            with open("/proc/self/clear_refs", "w") as file:
                file.write("5")  # resets the peak of resident memory
        except OSError:
            pass
        return self

    def __exit__(self, *error: object) -> None:
        self.megabytes = torch.cuda.max_memory_allocated() / 1e6 if self.cuda else _resident_peak()


def _resident_peak() -> float | None:
    try:
        with open("/proc/self/status") as file:
            line = next(line for line in file if line.startswith("VmHWM"))
    except (OSError, StopIteration):
        return None
    return int(line.split()[1]) * 1024 / 1e6
