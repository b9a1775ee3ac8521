"""Explains that a GPU ran out of memory: what the run needs, by the plan's arithmetic, and which options need less."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map_only

from .components import meta_tensor
from .offload import networks_of
from .plan import NO_PEAKS, Component, Peaks, Plan, count_weights, run_peaks

GIB = 2**30
# Activations of an image of half the height and width, with fused attention.
HALF_SIZE = 0.25
# What a flag costs in image and time, for the order of the advice; 0 for all others.
COSTS = {"--gradient-at": 1.0, "--dtype": 1.0, "--offload sequential": 2.0, "--height": 3.0}


@dataclass(frozen=True)
class Setting:
    """The options of a run that determine its memory.

    Attributes:
        gradient_at: "x_t", "x0", or None for a run without gradient.
        checkpointing, offload: as in `load`.
        activations, precision: the activations and all bytes relative to the run that was planned.
    """

    gradient_at: str | None = "x_t"
    checkpointing: bool = False
    offload: str = "none"
    activations: float = 1.0
    precision: float = 1.0

    def bytes_of(self, plan: Plan) -> float:
        """Bytes of weights and activations."""
        total = plan.total(self.gradient_at, self.checkpointing, offload=self.offload, activations=self.activations)
        return self.precision * total


@dataclass(frozen=True)
class NetworkCall:
    """A network and the arguments of one call of it, as tensors without data."""

    network: nn.Module
    args: tuple
    kwargs: dict[str, Any]


def choices(
    setting: Setting, rows: int, dtype: torch.dtype, size: tuple[int, int] | None, rows_of_one: int = 1
) -> dict[str, Setting]:
    """The flags that would change a setting, each with the setting that it makes.

    Args:
        setting: that of the run.
        rows: of a batch, images times particles.
        dtype: of the weights.
        size: height and width in pixels, if they are known.
        rows_of_one: rows of a batch of one image.
    """
    found = {}
    for offload in ("model", "sequential"):
        if setting.offload == "none" or (setting.offload, offload) == ("model", "sequential"):
            found[f"--offload {offload}"] = replace(setting, offload=offload)
    if setting.gradient_at == "x_t":
        found["--gradient-at x0"] = replace(setting, gradient_at="x0")
    if setting.gradient_at is not None and not setting.checkpointing:
        found["--checkpointing"] = replace(setting, checkpointing=True)
    if rows > rows_of_one:
        found["--batch 1"] = replace(setting, activations=setting.activations * rows_of_one / rows)
    if dtype == torch.float32:
        found["--dtype bfloat16"] = replace(setting, precision=setting.precision / 2)
    if size is not None and min(size) >= 256:
        flag = f"--height {size[0] // 32 * 16} --width {size[1] // 32 * 16}"
        found[flag] = replace(setting, activations=HALF_SIZE * setting.activations)
    return found


def advice(plan: Plan, setting: Setting, found: dict[str, Setting], has: float | None) -> str:
    """One sentence: what the run needs and has, and up to three flags that reduce it, each alone and together.

    Flags that together fit, with a tenth to spare, come first; then those that change the images or the time least.
    """
    need = setting.bytes_of(plan)
    text = f"the run needs about {_gib(need)}" + ("" if has is None else f" and the GPU has {_gib(has)}")
    helpful = {flag: changed for flag, changed in found.items() if changed.bytes_of(plan) < 0.98 * need}
    if not helpful:
        return text + "; use a smaller model"

    def rank(flags: Iterable[str]) -> tuple[bool, float, float]:
        together = _combined(setting, [helpful[flag] for flag in flags]).bytes_of(plan)
        return has is not None and 1.1 * together > has, sum(_cost(flag) for flag in flags), together

    best = sorted(min(_sets(helpful), key=rank), key=lambda flag: helpful[flag].bytes_of(plan))
    flags = [f"{flag} ({_gib(helpful[flag].bytes_of(plan))})" for flag in best]
    text += "; use " + (" or ".join([", ".join(flags[:-1]), flags[-1]]) if len(flags) > 1 else flags[0])
    if len(best) > 1:
        text += f", together {_gib(rank(best)[2])}"
    return text + " (estimated, without the reward's network)"


def _sets(flags: Iterable[str]) -> list[tuple[str, ...]]:
    """All sets of three flags, or of all if there are fewer, without two values of one option."""
    flags = list(flags)
    for count in (3, 2, 1):
        sets = [s for s in itertools.combinations(flags, count) if len({flag.split()[0] for flag in s}) == count]
        if sets:
            return sets
    return []


def _cost(flag: str) -> float:
    """0 for a flag that leaves the images as they are at little cost, more for others."""
    return next((cost for start, cost in COSTS.items() if flag.startswith(start)), 0.0)


def _combined(setting: Setting, changed: Sequence[Setting]) -> Setting:
    result = setting
    for one in changed:
        result = replace(
            result,
            gradient_at=one.gradient_at if one.gradient_at != setting.gradient_at else result.gradient_at,
            checkpointing=result.checkpointing or one.checkpointing,
            offload=one.offload if one.offload != setting.offload else result.offload,
            activations=result.activations * one.activations / setting.activations,
            precision=result.precision * one.precision / setting.precision,
        )
    return result


def _gib(size: float) -> str:
    return f"{size / GIB:.1f} GiB" if size >= GIB / 10 else f"{size / 2**20:.1f} MiB"


def weights_plan(pipe: Any) -> Plan:
    """The plan of a pipeline's weights alone."""
    return Plan(_components(pipe), NO_PEAKS, NO_PEAKS, weights_only=True)


def _components(pipe: Any) -> list[Component]:
    parts = [(name, part) for name, part in pipe.components.items() if isinstance(part, nn.Module)]
    return [count_weights(name, part) for name, part in parts]


def call_plan(
    pipe: Any,
    call: NetworkCall,
    shape: Sequence[int],
    rows: int,
    chunk: int,
    passes: int | None = None,
    images: int | None = None,
) -> Plan:
    """The plan of a pipeline whose network was called with these arguments, on the meta device.

    Args:
        pipe: the pipeline.
        call: a call of its network.
        shape: of one image's latents at the decoder's input.
        rows: images times particles.
        chunk: rows that are decoded at a time.
        passes: calls of the network per step; if None, two for classifier-free guidance whose halves are not one batch.
        images: how many rows are decoded at the end; all if None.
    """
    network, vae = (_on_meta(module) for module in (call.network, pipe.vae))
    dtype = next(pipe.vae.parameters()).dtype
    shape = (shape[0], 1, *shape[1:]) if len(shape) == 3 and _is_3d(vae) else tuple(shape)
    chunk_latents, final = (meta_tensor(n, *shape, dtype=dtype) for n in (min(chunk, rows), images or rows))
    args, kwargs, x = _without_latents(call)

    def run(latents: Tensor) -> Tensor:
        output = network(*args(latents), **kwargs(latents))
        return output[0] if isinstance(output, tuple) else next(iter(output.values()))

    if passes is None:
        passes = 2 if len(x) == rows and _is_guided(pipe) else 1
    peaks, checkpointed = run_peaks(network, run, x, vae, chunk_latents, final)
    return Plan(_components(pipe), _with_passes(peaks, passes), _with_passes(checkpointed, passes))


def _is_guided(pipe: Any) -> bool:
    """Whether the pipeline's last call used classifier-free guidance."""
    return bool(getattr(pipe, "do_classifier_free_guidance", False))


def _with_passes(peaks: Peaks, passes: int) -> Peaks:
    """The peaks of a step that calls the network several times, whose graphs are all kept until its gradient."""
    more = (passes - 1) * peaks.graph
    return replace(peaks, graph=peaks.graph + more, network=peaks.network + more)


def _on_meta(module: Any) -> Any:
    with torch.device("meta"):
        copy = type(module).from_config(module.config)
    return nn.Module.to(copy.eval().requires_grad_(False), next(module.parameters()).dtype)


def _is_3d(vae: nn.Module) -> bool:
    return any(isinstance(module, nn.Conv3d) for module in vae.modules())


def _without_latents(call: NetworkCall) -> tuple[Callable[[Tensor], tuple], Callable[[Tensor], dict], Tensor]:
    """Functions that put latents into the call's arguments, and the call's own latents."""
    name = next((n for n in ("hidden_states", "sample") if n in call.kwargs), None)
    if name is None:
        return lambda latents: (latents, *call.args[1:]), lambda _: call.kwargs, call.args[0]
    return lambda _: call.args, lambda latents: {**call.kwargs, name: latents}, call.kwargs[name]


@contextlib.contextmanager
def recorded_call(pipe: Any) -> Iterator[list[NetworkCall]]:
    """Records the last call of the pipeline's networks, without the tensors' data."""
    calls: list[NetworkCall] = []

    def record(module: nn.Module, args: tuple, kwargs: dict) -> None:
        empty = tree_map_only(Tensor, lambda tensor: tensor.detach().to("meta"), (args, kwargs))
        calls[:] = [NetworkCall(module, *empty)]

    hooks = [
        network.register_forward_pre_hook(record, with_kwargs=True)
        for name, network in networks_of(pipe)
        if name != "controlnet"
    ]
    try:
        yield calls
    finally:
        for hook in hooks:
            hook.remove()


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that a GPU has too little memory."""
    return isinstance(error, torch.cuda.OutOfMemoryError) or (
        isinstance(error, RuntimeError) and "out of memory" in str(error)
    )


def gpu_memory(device: torch.device | str) -> float | None:
    """Bytes of a GPU's memory; None if it is unknown."""
    return float(torch.cuda.mem_get_info(device)[1]) if torch.device(device).type == "cuda" else None


@contextlib.contextmanager
def explained_loading(pipe: Any, device: torch.device | str, offload: str) -> Iterator[None]:
    """Replaces the error of a GPU that cannot hold a pipeline's weights by a MemoryError with advice."""
    try:
        yield
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
        plan, setting = weights_plan(pipe), Setting(None, False, offload)
        found = choices(setting, 1, pipe.dtype, None)
        raise MemoryError(f"the GPU ran out of memory: {advice(plan, setting, found, gpu_memory(device))}") from None


@contextlib.contextmanager
def explained_memory_errors(
    pipe: Any,
    device: torch.device | str,
    setting: Setting,
    rows: int,
    chunk: int,
    shape: Callable[[], Sequence[int] | None],
    passes: int | None = None,
    images: Callable[[], int] | None = None,
    rows_of_one: int = 1,
) -> Iterator[None]:
    """Replaces the error of a GPU that has too little memory by a MemoryError with the flags that would help.

    Args:
        pipe, device: the pipeline, and where it computes.
        setting: the options of the run.
        rows, chunk: images times particles, and rows that are decoded at a time.
        shape: the shape of one image's latents at the decoder's input; None before the pipeline prepared them.
        passes: as in `call_plan`.
        images: how many rows are decoded at the end; all if None.
        rows_of_one: rows of a batch of one image.
    """
    with recorded_call(pipe) as calls:
        try:
            yield
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
            latents = shape()
            plan = _plan_or_weights(pipe, calls, latents, rows, chunk, passes, images() if images else None)
            size = None if latents is None else _pixels(pipe, latents)
            found = choices(setting, rows, pipe.dtype, size, rows_of_one)
            text = advice(plan, setting, found, gpu_memory(device))
            raise MemoryError(f"the GPU ran out of memory: {text}") from None


def _plan_or_weights(
    pipe: Any,
    calls: Sequence[NetworkCall],
    shape: Sequence[int] | None,
    rows: int,
    chunk: int,
    passes: int | None,
    images: int | None,
) -> Plan:
    """The plan of the recorded call; that of the weights alone if no network ran, or one does not run on meta."""
    if calls and shape is not None:
        # The plan must not hide the error that it explains.
        with contextlib.suppress(Exception):
            return call_plan(pipe, calls[0], shape, rows, chunk, passes, images)
    return weights_plan(pipe)


def _pixels(pipe: Any, shape: Sequence[int]) -> tuple[int, int] | None:
    factor = getattr(pipe, "vae_scale_factor", None) or getattr(pipe, "vae_scale_factor_spatial", None)
    return None if factor is None else (shape[-2] * factor, shape[-1] * factor)
