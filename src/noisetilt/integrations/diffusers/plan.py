"""Estimates the GPU memory of a guided pipeline without its weights: its networks run on the meta device."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ..._messages import nearest_name
from .components import build_component, find_model, latent_shape, meta_tensor, network_call, network_latents
from .memory import LiveMemory, fused_attention

DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}

# The ways to run a pipeline: a label, where the gradient is taken (None: no guidance), and whether with checkpointing.
MODES: tuple[tuple[str, str | None, bool], ...] = (
    ("plain pipeline", None, False),
    ("gradient at x0", "x0", False),
    ("gradient at x0, checkpointing", "x0", True),
    ("gradient at x_t", "x_t", False),
    ("gradient at x_t, checkpointing", "x_t", True),
)


@dataclass(frozen=True)
class Component:
    """A component of a pipeline: its name, class, number of parameters, and bytes of all weights and of the layer with
    the most."""

    name: str
    kind: str
    parameters: int
    weights: int
    largest_layer: int = 0


@dataclass(frozen=True)
class Peaks:
    """Peak bytes of activations, in addition to all weights.

    Attributes:
        plain: during a network call without gradient.
        graph: kept by autograd after a network call with gradient.
        network: during a network call with gradient and its backward pass.
        decode: while `chunk` rows are decoded with gradient, including the backward pass.
        final: while the images are decoded at the end.
    """

    plain: int
    graph: int
    network: int
    decode: int
    final: int

    def of(self, gradient_at: str | None) -> int:
        """The peak of a run: without guidance (None), or with the gradient at "x0" or "x_t"."""
        return max(self.of_network(gradient_at), self.of_decoder(gradient_at))

    def of_network(self, gradient_at: str | None) -> int:
        """The peak while the network runs."""
        return self.network if gradient_at == "x_t" else self.plain

    def of_decoder(self, gradient_at: str | None) -> int:
        """The peak while the decoder runs, with the network's graph if the gradient is taken through it."""
        graph = self.graph if gradient_at == "x_t" else 0
        return self.final if gradient_at is None else max(graph + self.decode, self.final)


NO_PEAKS = Peaks(0, 0, 0, 0, 0)


@dataclass(frozen=True)
class Plan:
    """The result of `plan`: the components, and the peaks without and with checkpointing.

    For a pipeline whose network `plan` cannot call, `weights_only` is True and the peaks are zero.
    """

    components: list[Component]
    peaks: Peaks
    checkpointed: Peaks
    weights_only: bool = False

    @property
    def weights(self) -> int:
        """Bytes of all weights."""
        return sum(component.weights for component in self.components)

    def total(
        self,
        gradient_at: str | None,
        checkpointing: bool = False,
        text: bool = True,
        *,
        offload: str = "none",
        activations: float = 1.0,
    ) -> int:
        """Bytes of weights and activations of a run.

        Args:
            gradient_at: None, "x0" or "x_t", as in `Peaks.of`.
            checkpointing: whether with gradient checkpointing.
            text: whether to count the text encoders.
            offload: "none"; "model": a network's weights count while it runs; "sequential": a layer's do. The weights
                that a gradient passes through count until its backward pass, in both.
            activations: factor of the activations.
        """
        peaks = self.checkpointed if checkpointing else self.peaks
        counted = {c.name: c.weights for c in self.components if text or not c.name.startswith("text_encoder")}
        decode, network = (round(activations * part(gradient_at)) for part in (peaks.of_decoder, peaks.of_network))
        if offload == "none":
            return sum(counted.values()) + max(decode, network)
        decoder = counted.pop("vae", 0)
        encoders = [counted.pop(name) for name in list(counted) if "encoder" in name]
        networks = sum(counted.values())
        if gradient_at == "x_t":
            return max([*(encoders if offload == "model" else []), networks + decoder + max(decode, network)])
        if offload == "sequential":
            layer = max(component.largest_layer for component in self.components)
            return max((0 if gradient_at is None else decoder) + decode, network) + layer
        # A module's call sends away only the module before it, so that the decoder stays beside the network.
        beside = 0 if gradient_at is None else decoder
        return max([*encoders, beside + networks + network, decoder + decode])


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
    images: int | None = None,
) -> Plan:
    """Estimates the memory of a model by running its networks on the meta device.

    Weights and tensors are counted. Not counted are the GPU context, workspaces of kernels and fragmentation: add 10 %
    and 1 GB. Attention is counted as fused. The memory of the reward's own network has to be added.

    Args:
        name: a known model, see `known_models`; or the folder or hub id of a pipeline, of which only the configuration
            files are read.
        resolution: height and width in pixels; the model's own if None.
        frames: number of frames of a video; 81 if None, and 1 for image models.
        batch: rows of the network's input: images times particles. Classifier-free guidance doubles them if the model
            uses it.
        dtype: of weights and activations: "float32", "float16" or "bfloat16".
        chunk: rows that are decoded with gradient at a time, as in `align`.
        height, width: in pixels, if they differ from `resolution`.
        images: how many images are decoded at the end; `batch` if None. With particles there are fewer, because only
            each image's best one is decoded, except in pipelines that combine all rows with other images then.
    Raises:
        ValueError: for an unknown model, or a size, dtype or number that it does not support.
        ImportError: if diffusers is not installed.
    """
    model = find_model(name)
    if dtype not in DTYPES:
        raise ValueError(f"dtype = {dtype!r} is unknown{nearest_name(dtype, DTYPES)}; use one of {', '.join(DTYPES)}")
    images = batch if images is None else images
    if min(batch, chunk, images) < 1:
        raise ValueError(f"batch = {batch}, chunk = {chunk} and images = {images} must be 1 or more")
    modules: dict[str, Any]
    torch_dtype = DTYPES[dtype]
    if model["family"] is None:
        modules = {part: build_component(component, torch_dtype) for part, component in model["parts"].items()}
        return Plan([count_weights(*part) for part in modules.items()], NO_PEAKS, NO_PEAKS, weights_only=True)
    video = model["family"] == "wan"
    own = model["resolution"]
    own_height, own_width = own if isinstance(own, list) else (own, own)
    sides = height or resolution or own_height, width or resolution or own_width
    shape = latent_shape(model, *sides, frames or (81 if video else 1))
    modules = {name: build_component(component, torch_dtype) for name, component in model["parts"].items()}
    network, vae = modules[model["network"]], modules["vae"]
    if torch_dtype == torch.float16 and vae.config.get("force_upcast"):
        vae = nn.Module.to(vae, torch.float32)
    x = network_latents(model, shape, batch * model["guidance_rows"], torch_dtype)
    chunk_latents, final = (meta_tensor(rows, *shape, dtype=vae.dtype) for rows in (min(chunk, batch), images))
    peaks, checkpointed = run_peaks(network, network_call(model, network, x), x, vae, chunk_latents, final)
    return Plan([count_weights(*part) for part in modules.items()], peaks, checkpointed)


def run_peaks(
    network: Any, call: Callable[[Tensor], Tensor], x: Tensor, vae: Any, chunk_latents: Tensor, final_latents: Tensor
) -> tuple[Peaks, Peaks]:
    """The peaks of a run without and with checkpointing, which stays on in the modules.

    Args:
        network, call, x: a diffusers network, a function that calls it on latents, and these latents.
        vae: the autoencoder.
        chunk_latents, final_latents: the latents that are decoded at a time with gradient, and those at the end.
    """
    decode = lambda z: vae.decode(z, return_dict=False)[0]  # noqa: E731
    with torch.no_grad(), count_memory(vae, final_latents) as final:
        decode(final_latents)
    peaks = []
    for checkpointing in (False, True):
        if checkpointing:
            for module in (network, vae):
                if module._supports_gradient_checkpointing:
                    module.enable_gradient_checkpointing()
        plain, graph, peak = call_peaks(network, call, x)
        peaks.append(Peaks(plain, graph, peak, call_peaks(vae, decode, chunk_latents)[2], final.peak))
    return peaks[0], peaks[1]


def call_peaks(module: nn.Module, call: Callable[[Tensor], Tensor], x: Tensor) -> tuple[int, int, int]:
    """Bytes of `call` at x: the peak without gradient, what autograd keeps, and the peak with the backward pass."""
    with torch.no_grad(), count_memory(module, x) as memory:
        call(x)
    plain = memory.peak
    leaf = x.detach().requires_grad_()
    with torch.enable_grad(), count_memory(module, leaf) as memory:
        out = call(leaf)
        graph = memory.live
        torch.autograd.grad(out, leaf, torch.empty_like(out))
    return plain, graph, memory.peak


@contextlib.contextmanager
def count_memory(module: nn.Module, *tensors: Tensor) -> Iterator[LiveMemory]:
    """Counts the memory used inside the context, without the module's weights and these tensors."""
    memory = LiveMemory([module, *tensors])
    with fused_attention(), memory:
        yield memory


def count_weights(name: str, module: nn.Module) -> Component:
    """The size of a component."""
    parameters = sum(p.numel() for p in module.parameters())
    largest = max(_weight_bytes(layer, recurse=False) for layer in module.modules())
    return Component(name, type(module).__name__, parameters, _weight_bytes(module), largest)


def _weight_bytes(module: nn.Module, recurse: bool = True) -> int:
    return sum(t.numel() * t.element_size() for t in (*module.parameters(recurse), *module.buffers(recurse)))
