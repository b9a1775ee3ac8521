"""Measures the injected noise of a method for the audit, its network calls and its peak memory."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from ..methods import Method
from ..noise import audit
from ..proposals import Step


@dataclass(frozen=True)
class RecordingProposal:
    """A proposal that also records its injected noise (x_s − mean)/std at some steps, counted from 1."""

    proposal: Any
    numbers: Sequence[int]
    noises: list[Tensor] = field(default_factory=list)

    def __getattr__(self, name: str) -> Any:
        return getattr(object.__getattribute__(self, "proposal"), name)

    def __call__(self, step: Step, noise: Tensor) -> Tensor:
        x_s = self.proposal(step, noise)
        if step.number in self.numbers and step.std > 0:
            self.noises.append((x_s - step.mean) / step.std)
        return x_s


def record_noise(method: Method, numbers: Sequence[int]) -> tuple[Method, RecordingProposal]:
    """"""
    recorded = RecordingProposal(method.proposal, tuple(numbers))
    return method.replace(proposal=recorded), recorded


def injected_p_values(recorded: RecordingProposal, images: int, particles: int) -> Tensor:
    """p-value for white Gaussian injected noise, (image,) float64: the smallest over the recorded steps of an image's
    first particle, corrected for their number (Šidák). If a method draws again for some of the images (RBF), only steps
    of all images are used."""
    whole = [noise[::particles] for noise in recorded.noises if len(noise) == images * particles]
    if not whole:
        return torch.full((images,), torch.nan, dtype=torch.float64)
    p = torch.stack([audit(noise.float()).p_value for noise in whole])
    return 1 - (1 - p.amin(0)) ** len(whole)


class CallCounter:
    """`with CallCounter(network) as counter: …`, then counter.rows: the rows that the network was called with.

    A forward hook counts the rows of the first keyword argument, or of the first argument, so the count does not depend
    on what a sampler reports. Calls during a backward pass, which recompute a checkpoint, are not counted.
    """

    def __init__(self, network: nn.Module) -> None:
        self.network, self.rows = network, 0

    def _count(self, network: nn.Module, args: tuple, kwargs: dict[str, Any], output: Any) -> None:
        if torch._C._current_graph_task_id() == -1:  # no backward pass is running
            self.rows += len(args[0] if args else next(iter(kwargs.values())))

    def __enter__(self) -> CallCounter:
        self._handle = self.network.register_forward_hook(self._count, with_kwargs=True)
        return self

    def __exit__(self, *error: object) -> None:
        self._handle.remove()


class PeakMemory:
    """`with PeakMemory(device) as peak: …`, then peak.megabytes: the peak memory inside the context, in 10⁶ bytes.

    On a GPU it is the memory of torch's tensors, on a CPU the resident memory of the process (Linux only, else None).
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
