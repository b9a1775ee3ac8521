"""What a guided pipeline will need of a GPU's memory, without its weights: everything runs on the meta device."""

from __future__ import annotations

import contextlib
import functools
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib import resources
from typing import Any

import torch
from torch import Tensor, nn

from ...report import table
from .memory import LiveMemory, fused_attention

DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
GIB = 2**30


@functools.cache
def known_models() -> dict[str, Any]:
    """The models' parts by name: their classes and configurations, and what their networks are called with."""
    return json.loads((resources.files(__package__) / "plan_models.json").read_text("utf-8"))


@dataclass(frozen=True)
class Part:
    """A component: its name, class, number of parameters and bytes of weights."""

    name: str
    kind: str
    parameters: int
    weights: int


@dataclass(frozen=True)
class Peaks:
    """Bytes of activations, on top of all weights.

    Attributes:
        plain: a network call without gradient.
        held: what a network call with gradient keeps for the way back.
        network: the most there is during a network call with gradient and its way back.
        decode: the most there is while `chunk` rows are decoded with gradient and the gradient is taken.
        final: the most there is while all rows are decoded at the end.
    """

    plain: int
    held: int
    network: int
    decode: int
    final: int

    def of(self, gradient_at: str | None) -> int:
        """The most there is in a run: without guidance (None), with the gradient at "x0", or through the network."""
        if gradient_at is None:
            return max(self.plain, self.final)
        if gradient_at == "x0":
            return max(self.plain, self.decode, self.final)
        return max(self.network, self.held + self.decode, self.final)


@dataclass(frozen=True)
class Plan:
    """What `plan` found: the parts, and the peaks without and with checkpointing."""

    parts: list[Part]
    peaks: Peaks
    checkpointed: Peaks

    @property
    def weights(self) -> int:
        return sum(part.weights for part in self.parts)

    def total(self, gradient_at: str | None, checkpointing: bool = False, text: bool = True) -> int:
        """Bytes of a run; without the text encoders if `text` is False."""
        peaks = self.checkpointed if checkpointing else self.peaks
        weights = sum(part.weights for part in self.parts if text or not part.name.startswith("text_encoder"))
        return weights + peaks.of(gradient_at)


def find_model(name: str) -> dict[str, Any]:
    """A known model, by its name or the last part of its hub id, in any case.

    Raises:
        ValueError: naming the models that are known.
    """
    models = known_models()
    wanted = name.split("/")[-1].lower()
    for known, model in models.items():
        if wanted in (known.lower(), *(alias.lower() for alias in model.get("aliases", []))):
            return model
    raise ValueError(f"model {name!r} is unknown to the plan; the models are: {', '.join(models)}")


def build(part: dict[str, Any], dtype: torch.dtype) -> Any:
    """A component on the meta device, frozen.

    Raises:
        ImportError: in one line, if diffusers or transformers is missing.
    """
    try:
        import diffusers
        import transformers
    except ImportError as error:
        raise ImportError('a plan needs diffusers; pip install "noisetilt[diffusers]"') from error
    settings = dict(part.get("config", {}))
    with torch.device("meta"):
        if hasattr(diffusers, part["class"]):
            module = getattr(diffusers, part["class"])(**settings)
        else:
            kind = getattr(transformers, part["class"])
            module = kind(kind.config_class(**settings))
    # diffusers' own .to() warns of layers that it would keep in float32; they are a thousandth of the weights.
    return nn.Module.to(module.eval().requires_grad_(False), dtype)


def count(name: str, module: nn.Module) -> Part:
    parameters = list(module.parameters())
    weights = sum(t.numel() * t.element_size() for t in (*parameters, *module.buffers()))
    return Part(name, type(module).__name__, sum(p.numel() for p in parameters), weights)


@contextlib.contextmanager
def counted(module: nn.Module, *tensors: Tensor) -> Iterator[LiveMemory]:
    """Counts the memory of what runs inside, without the module's weights."""
    memory = LiveMemory([module, *tensors])
    with fused_attention(), memory:
        yield memory


def call_peaks(module: nn.Module, call: Callable[[Tensor], Tensor], x: Tensor) -> tuple[int, int, int]:
    """Peak bytes of `call` at x without gradient; kept for its gradient by x; and peak bytes until that is taken."""
    with torch.no_grad(), counted(module, x) as memory:
        call(x)
    plain = memory.peak
    leaf = x.detach().requires_grad_()
    with torch.enable_grad(), counted(module, leaf) as memory:
        out = call(leaf)
        held = memory.live
        torch.autograd.grad(out, leaf, torch.empty_like(out))
    return plain, held, memory.peak


def meta(*shape: int, dtype: torch.dtype) -> Tensor:
    return torch.empty(shape, device="meta", dtype=dtype)


def network_call(model: dict[str, Any], network: Any, x: Tensor) -> Callable[[Tensor], Tensor]:
    """The network as a function of its latents x (rows, …), with everything else that its pipeline gives it."""
    rows, dtype, family = len(x), x.dtype, model["family"]
    new = functools.partial(meta, dtype=dtype)
    text, times = new(rows, *model["text"]), new(rows)
    if family == "flux":
        rest: dict[str, Any] = dict(
            encoder_hidden_states=text,
            pooled_projections=new(rows, 768),
            timestep=times,
            img_ids=new(x.shape[1], 3),
            txt_ids=new(model["text"][0], 3),
            guidance=times if network.config.guidance_embeds else None,
        )
    elif family == "sd3":
        rest = dict(encoder_hidden_states=text, pooled_projections=new(rows, 2048), timestep=times)
    else:
        rest = dict(encoder_hidden_states=text, timestep=times)
    if family == "sdxl":
        rest["added_cond_kwargs"] = {"text_embeds": new(rows, 1280), "time_ids": new(rows, 6)}
    if family == "pixart":
        rest["added_cond_kwargs"] = {"resolution": None, "aspect_ratio": None}
    return lambda latents: network(latents, **rest, return_dict=False)[0]


def latent_shape(model: dict[str, Any], height: int, width: int, frames: int) -> tuple[int, ...]:
    """The shape of one picture's latents, as the decoder takes them.

    Raises:
        ValueError: if the model cannot make this size.
    """
    factor, multiple = model["factor"], model["factor"] * model.get("patch", 1)
    for name, side in (("height", height), ("width", width)):
        if side < multiple or side % multiple:
            raise ValueError(f"{name} = {side} must be a multiple of {multiple} for this model")
    high, wide = height // factor, width // factor
    if model["family"] != "wan":
        if frames != 1:
            raise ValueError(f"frames = {frames}, and this model makes pictures; leave it out")
        return model["channels"], high, wide
    if frames < 1 or (frames - 1) % 4:
        raise ValueError(f"frames = {frames} must be 4n + 1 for this model, such as 81")
    return model["channels"], (frames - 1) // 4 + 1, high, wide


def network_latents(model: dict[str, Any], shape: tuple[int, ...], rows: int, dtype: torch.dtype) -> Tensor:
    if model["family"] == "flux":
        channels, high, wide = shape
        return meta(rows, high // 2 * (wide // 2), 4 * channels, dtype=dtype)
    return meta(rows, *shape, dtype=dtype)


def plan(
    name: str,
    resolution: int | None = None,
    frames: int | None = None,
    batch: int = 1,
    dtype: str = "bfloat16",
    chunk: int = 1,
    *,
    height: int | None = None,
    width: int | None = None,
) -> Plan:
    """What a model needs, by running its classes on the meta device.

    Counted are weights and tensors; not the GPU context, the workspaces of kernels, and what the allocator loses to
    fragments: leave a tenth and a gigabyte. Attention is counted as fused. The reward's own network comes on top.

    Args:
        name: a known model, see `known_models`.
        resolution: height and width in pixels; the model's own if left out.
        frames: of a video; 81 if left out, and 1 for models of pictures.
        batch: rows that the network sees at a time: pictures times particles. Classifier-free guidance doubles them
            where the model has it.
        dtype: of weights and activations: "float32", "float16" or "bfloat16".
        chunk: rows decoded with gradient at a time, as in `align`.
        height, width: in pixels, where they are not both `resolution`.
    Raises:
        ValueError: in one sentence, for what cannot be planned.
        ImportError: if diffusers is missing.
    """
    model = find_model(name)
    if dtype not in DTYPES:
        raise ValueError(f"dtype = {dtype!r} is unknown; expected one of {', '.join(DTYPES)}")
    if batch < 1 or chunk < 1:
        raise ValueError(f"batch = {batch} and chunk = {chunk} must be 1 or more")
    video = model["family"] == "wan"
    side = resolution or model["resolution"]
    shape = latent_shape(model, height or side, width or side, frames or (81 if video else 1))
    kind = DTYPES[dtype]
    parts = {name: build(part, kind) for name, part in model["parts"].items()}
    network, vae = parts[model["network"]], parts["vae"]
    if kind == torch.float16 and vae.config.get("force_upcast"):
        vae = nn.Module.to(vae, torch.float32)
    x = network_latents(model, shape, batch * model["guidance_rows"], kind)
    latents, everything = (meta(rows, *shape, dtype=vae.dtype) for rows in (min(chunk, batch), batch))
    peaks, checkpointed = run_peaks(network, network_call(model, network, x), x, vae, latents, everything)
    return Plan([count(name, module) for name, module in parts.items()], peaks, checkpointed)


def run_peaks(
    network: Any, call: Callable[[Tensor], Tensor], x: Tensor, vae: Any, latents: Tensor, everything: Tensor
) -> tuple[Peaks, Peaks]:
    """The peaks of a run without and with checkpointing.

    Args:
        network, call, x: a diffusers network, a call of it by its latents, and these.
        vae, latents, everything: its decoder, the latents decoded at a time with gradient, and all of them.
    """
    decode = lambda z: vae.decode(z, return_dict=False)[0]  # noqa: E731
    with torch.no_grad(), counted(vae, everything) as final:
        decode(everything)
    found = []
    for checkpointing in (False, True):
        if checkpointing:
            able = [module for module in (network, vae) if module._supports_gradient_checkpointing]
            for module in able:
                module.enable_gradient_checkpointing()
        plain, held, peak = call_peaks(network, call, x)
        found.append(Peaks(plain, held, peak, call_peaks(vae, decode, latents)[2], final.peak))
    return found[0], found[1]


def gib(size: int) -> float:
    return round(size / GIB, 2)


MODES: tuple[tuple[str, str | None, bool], ...] = (
    ("plain pipeline", None, False),
    ("gradient at x0", "x0", False),
    ("gradient at x0, checkpointing", "x0", True),
    ("gradient at x_t", "x_t", False),
    ("gradient at x_t, checkpointing", "x_t", True),
)


def report(found: Plan, gradient_at: str, checkpointing: bool) -> str:
    """The tables, with the mode that was asked for marked."""
    parts = [[p.name, p.kind, p.parameters / 1e9, gib(p.weights)] for p in found.parts]
    parts.append(["all", "", sum(p.parameters for p in found.parts) / 1e9, gib(found.weights)])
    rows = []
    for label, at, less in MODES:
        asked = (at, less) == (gradient_at, checkpointing)
        peaks = found.checkpointed if less else found.peaks
        held = gib(peaks.held) if at == "x_t" else 0.0
        sizes = (peaks.of(at), found.total(at, less), found.total(at, less, text=False))
        rows.append([f"> {label}" if asked else f"  {label}", held, *(gib(size) for size in sizes)])
    heads = ["", "network's graph", "activations, peak", "total", "total without text encoders"]
    decoding = " GiB, with checkpointing ".join(str(gib(peaks.decode)) for peaks in (found.peaks, found.checkpointed))
    return (
        table(["component", "class", "billions", "GiB"], parts)
        + "\n\nGiB\n"
        + table(heads, rows)
        + "\n\nDecoding one chunk with gradient: "
        + f"{decoding} GiB. Kernel workspaces, fragments and the reward's network come on top."
    )
