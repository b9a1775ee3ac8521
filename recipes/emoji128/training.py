"""What the training scripts share: time limits, learning rates, optimizers, averages, the loss, sampling, files."""

from __future__ import annotations

import contextlib
import ctypes
import hashlib
import json
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from captions import encode, split_words
from dataset import Dataset, draw_captions, encode_images
from networks import WORD_ROWS, TextEncoders, position_ids, unpack
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

START = time.time()
MODES = ("bf16", "cublaslt", "tf32")
PROMPTS = (
    "cat face 3d|red heart noto|green apple 3d|grinning face blob|house flat|red car twemoji|rose 3d|pizza noto"
    "|rocket 3d|tiger face blob|alarm clock 3d|guitar flat|sunflower twemoji|airplane noto|crown 3d|octopus blob"
    "|christmas tree flat|santa noto|ghost 3d|cherries twemoji|bear 3d|umbrella flat|fire blob|sad robot"
).split("|")


def keep_freed_memory() -> None:
    """Makes glibc keep freed memory, so that large tensors do not cost page faults in every step.

    Environment variables such as MALLOC_MMAP_MAX_ do the same, but only from before the process starts.
    """
    if sys.platform == "linux":
        mallopt = getattr(ctypes.CDLL(None), "mallopt", None)  # other C libraries have none
        mmap_max, trim_threshold, top_pad = -4, -1, -2  # of malloc.h
        for option, value in ((mmap_max, 0), (trim_threshold, 2**31 - 1), (top_pad, 2**28)):
            if mallopt is not None:
                mallopt(option, value)


def compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """`torch.compile` with the roundings of uncompiled code.

    Without them the gradient of the trained network's second two-stream block is NaN in bfloat16 on a CPU (torch 2.13).
    """
    return torch.compile(function, options={"emulate_precision_casts": True})


def log(*parts: object) -> None:
    print(f"{time.time() - START:6.1f} s", *parts, flush=True)


class TimeLimit:
    """How much of so many seconds has passed since now."""

    def __init__(self, seconds: float) -> None:
        self.begin, self.seconds = time.time(), seconds

    @property
    def elapsed(self) -> float:
        return time.time() - self.begin

    @property
    def progress(self) -> float:
        """From 0 to 1 and beyond."""
        return self.elapsed / max(1e-6, self.seconds)


def learning_rate_factor(progress: float, step: int, warmup: int = 100, flat: float = 0.6) -> float:
    """Linear warm-up over some steps, constant up to a fraction `flat` of the time, then linear to zero."""
    decay = min(1.0, max(0.0, (1 - progress) / (1 - flat)))
    return min(1.0, (step + 1) / warmup) * decay


class Muon(torch.optim.Optimizer):
    """Muon (Jordan 2024) for matrices, all of one shape at once: a tenth of the kernel launches of torch's own.

    The update's size is AdamW's (arXiv 2502.16982); Nesterov momentum 0.95; five Newton-Schulz steps in bfloat16.
    """

    def __init__(self, params: Any, lr: float, weight_decay: float = 0.01, momentum: float = 0.95) -> None:
        super().__init__(params, {"lr": lr, "weight_decay": weight_decay, "momentum": momentum})

    @torch.no_grad()
    def step(self) -> None:
        for group in self.param_groups:
            shapes: dict[torch.Size, list[Tensor]] = {}
            for parameter in group["params"]:
                if parameter.grad is not None:
                    shapes.setdefault(parameter.shape, []).append(parameter)
            for shape, parameters in shapes.items():
                gradients = [parameter.grad for parameter in parameters]
                buffers = [self.state[p].setdefault("momentum", torch.zeros_like(p)) for p in parameters]
                torch._foreach_lerp_(buffers, gradients, 1 - group["momentum"])
                mixed = torch._foreach_lerp(gradients, buffers, group["momentum"])
                updates = orthogonal(torch.stack(mixed)).to(parameters[0].dtype)
                torch._foreach_mul_(parameters, 1 - group["lr"] * group["weight_decay"])
                size = 0.2 * max(shape) ** 0.5
                torch._foreach_add_(parameters, list(updates.unbind()), alpha=-group["lr"] * size)


def orthogonal(matrices: Tensor, steps: int = 5) -> Tensor:
    """The nearest semi-orthogonal matrices (k, m, n), roughly, by Newton-Schulz iterations in bfloat16."""
    a, b, c = 3.4445, -4.775, 2.0315
    tall = matrices.shape[1] > matrices.shape[2]
    x = (matrices.mT if tall else matrices).bfloat16()
    x = x / x.flatten(1).norm(dim=1).clamp(min=1e-7)[:, None, None]
    for _ in range(steps):
        gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x.mT if tall else x


def flow_optimizers(
    network: nn.Module, text: nn.Module | None, rate: float, fused: bool = False
) -> list[torch.optim.Optimizer]:
    """Muon for hidden matrices of the network, AdamW for everything else, with five times the rate for words."""
    hidden, rest, words = [], [], []
    for name, parameter in network.named_parameters():
        is_hidden = "transformer_blocks." in name and parameter.ndim == 2 and "norm" not in name
        (hidden if is_hidden else rest).append(parameter)
    for parameter in () if text is None else text.parameters():
        (words if parameter.ndim == 2 and len(parameter) > WORD_ROWS else rest).append(parameter)
    muon = Muon([{"params": hidden, "peak": 1.5 * rate}], lr=1.5 * rate)
    groups = [{"params": rest, "peak": rate}, {"params": words, "peak": 5 * rate}]
    groups = [group for group in groups if group["params"]]
    return [muon, torch.optim.AdamW(groups, lr=rate, betas=(0.9, 0.98), weight_decay=0.0, fused=fused)]


def set_learning_rate(optimizers: Iterable[torch.optim.Optimizer], factor: float) -> None:
    """Every parameter group's learning rate as a fraction of its peak."""
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["lr"] = group["peak"] * factor


def load_parts(parts: Mapping[str, Any], state: dict[str, Any]) -> None:
    """Loads modules and optimizers by name. The learning rates stay those with which the optimizers were made."""
    for name, part in parts.items():
        given = state[name]
        if isinstance(part, torch.optim.Optimizer):
            groups = zip(given["param_groups"], part.param_groups, strict=True)
            given = {**given, "param_groups": [{**theirs, "peak": ours["peak"]} for theirs, ours in groups]}
        part.load_state_dict(given)


def update(
    loss: Tensor, optimizers: Iterable[torch.optim.Optimizer], parameters: Iterable[nn.Parameter], limit: float = 1.0
) -> None:
    """One step down the loss, with the gradient's norm clipped."""
    for optimizer in optimizers:
        optimizer.zero_grad(set_to_none=True)
    loss.backward()
    nn.utils.clip_grad_norm_(parameters, limit)
    for optimizer in optimizers:
        optimizer.step()


@torch.no_grad()
def average_into(average: nn.Module, model: nn.Module, step: int, most: float = 0.998) -> None:
    """An exponential average of weights whose decay rises from 0.1 at step 0 to `most`."""
    decay = min(most, (1 + step) / (10 + step))
    torch._foreach_lerp_(list(average.parameters()), list(model.parameters()), 1 - decay)
    for ours, theirs in zip(average.buffers(), model.buffers(), strict=True):
        ours.copy_(theirs)


def sample_times(n: int, device: torch.device | str = "cpu") -> Tensor:
    """Times of the flow loss (n,): logit-normal for four in five, uniform for the rest."""
    times = torch.sigmoid(torch.randn(n, device=device))
    uniform = torch.rand(n, device=device)
    return torch.where(torch.rand(n, device=device) < 0.2, uniform, times).clamp(1e-3, 1)


@dataclass
class Precision:
    """How matrix products are computed: one of MODES; on a CPU always in float32."""

    mode: str
    device: torch.device

    def __post_init__(self) -> None:
        if self.device.type == "cuda":
            torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True
            torch.backends.cudnn.benchmark = True
        if self.mode == "cublaslt":
            torch.backends.cuda.preferred_blas_library("cublaslt")

    def autocast(self) -> contextlib.AbstractContextManager:
        on = self.device.type == "cuda" and self.mode != "tf32"
        return torch.autocast(self.device.type, torch.bfloat16, enabled=on)


class Velocity:
    """A transformer as a function of packed latents (n, 64, 64), time (n,), text and guidance (n,)."""

    def __init__(self, network: nn.Module, precision: Precision, compile: bool = False) -> None:
        self.network, self.precision = network, precision
        self.text_ids, self.image_ids = (ids.to(precision.device) for ids in position_ids())
        self._call = compiled(self._network) if compile else self._network

    def _network(self, x: Tensor, t: Tensor, sequence: Tensor, pooled: Tensor, guidance: Tensor) -> Tensor:
        return self.network(
            hidden_states=x,
            timestep=t,
            encoder_hidden_states=sequence,
            pooled_projections=pooled,
            guidance=guidance,
            img_ids=self.image_ids,
            txt_ids=self.text_ids,
            return_dict=False,
        )[0]

    def __call__(self, x: Tensor, t: Tensor, sequence: Tensor, pooled: Tensor, guidance: Tensor) -> Tensor:
        with self.precision.autocast():
            return self._call(x, t, sequence, pooled, guidance).float()


def encode_prompts(prompts: Iterable[str], index: dict[str, int]) -> Tensor:
    """Token ids (n, 16) of prompts whose words are all known."""
    return torch.from_numpy(np.stack([encode(split_words(prompt), index) for prompt in prompts])).long()


@torch.no_grad()
def euler_sample(
    velocity: Velocity,
    text: TextEncoders,
    ids: Tensor,
    index: dict[str, int],
    steps: int = 25,
    cfg: float | None = None,
    guidance: float = 1.0,
    seed: int = 0,
) -> Tensor:
    """Packed latents at t = 0 for token ids; `cfg` mixes two calls, `guidance` goes into the network."""
    device, n = ids.device, len(ids)
    with velocity.precision.autocast():
        given, empty = text(ids), text(encode_prompts([""], index).to(device).expand(n, -1))
    x = torch.randn(n, 64, 64, generator=torch.Generator().manual_seed(seed)).to(device)
    strength = torch.full((n,), guidance, device=device)
    for number in range(steps):
        t = torch.full((n,), 1 - number / steps, device=device)
        v = velocity(x, t, *given, strength)
        if cfg is not None:
            unconditional = velocity(x, t, *empty, strength)
            v = unconditional + cfg * (v - unconditional)
        x = x - v / steps
    return x


@torch.no_grad()
def decode_packed(vae: nn.Module, tokens: Tensor, shift: float, scale: float) -> Tensor:
    """Images (n, 3, 128, 128) from packed normalised latents."""
    latents = unpack(tokens) / scale + shift
    return torch.cat([vae.decode(part).sample for part in latents.split(32)])


def normalisation(latents: Tensor) -> tuple[float, float]:
    """(shift, scale): (latents − shift) · scale has mean 0 and variance 1."""
    latents = latents.float()
    return latents.mean().item(), 1 / latents.std().item()


def load_weights(module: nn.Module, file: Path) -> nn.Module:
    """The module with a file's weights, in float32."""
    state = load_file(file)
    module.load_state_dict({k: v.float() if v.is_floating_point() else v for k, v in state.items()})
    return module


def save_weights(module: nn.Module, file: Path, dtype: torch.dtype = torch.float16) -> None:
    """Writes a module's weights; an older file is replaced only once the new one is complete."""
    state = {
        name: (tensor.to(dtype) if tensor.is_floating_point() else tensor).detach().cpu().contiguous().clone()
        for name, tensor in module.state_dict().items()
    }
    write_whole(file, lambda unfinished: save_file(state, unfinished))


def write_whole(file: Path, write: Callable[[Path], object]) -> None:
    """Writes a file by `write(path)`; an older file is replaced only once the new one is complete."""
    unfinished = file.with_suffix(".unfinished")
    write(unfinished)
    unfinished.replace(file)


def write_scale(folder: Path, shift: float, scale: float) -> None:
    """Writes scale.json: (latents - shift) · scale is what the networks of the folder see."""
    (folder / "scale.json").write_text(json.dumps({"shift": shift, "scale": scale}) + "\n")


def read_scale(*folders: Path) -> tuple[float, float]:
    """(shift, scale) of the first of some folders that has scale.json."""
    for folder in folders:
        if (folder / "scale.json").exists():
            scale = json.loads((folder / "scale.json").read_text("utf-8"))
            return scale["shift"], scale["scale"]
    places = " or ".join(map(str, folders))
    raise FileNotFoundError(f"there is no scale.json in {places}; train_cpu.py, train_gpu.py and others write it")


def digest(*inputs: object) -> str:
    """SHA-256 of the contents of files (paths), and of other values as they are printed."""
    parts = (each.read_bytes() if isinstance(each, Path) else repr(each).encode() for each in inputs)
    return hashlib.sha256(b"".join(hashlib.sha256(part).digest() for part in parts)).hexdigest()


def cached(file: Path, inputs: str, make: Callable[[], Tensor]) -> Tensor:
    """A tensor that is kept in a file, and computed if the file is of other inputs, which `digest` describes."""
    stored = torch.load(file) if file.exists() else None
    if not isinstance(stored, dict) or stored.get("inputs") != inputs:
        stored = {"inputs": inputs, "value": make()}
        write_whole(file, lambda unfinished: torch.save(stored, unfinished))
    return stored["value"]


def cached_captions(build: Path, out: Path, data: Dataset, limit: int | None, copies: int = 32) -> Tensor:
    """Captions (n, copies, 16) of the images, in captions.pt of a folder."""
    inputs = digest(build / "pack.npz", build / "vocabulary.json", limit, copies)
    return cached(out / "captions.pt", inputs, lambda: draw_captions(data, copies))


def cached_latents(build: Path, out: Path, data: Dataset, limit: int | None, vae: nn.Module) -> Tensor:
    """Latents (n, 2, 16, 16, 16) of the images and their mirror images, in latents.pt of a folder."""
    inputs = digest(build / "pack.npz", build / "vae.safetensors", limit)
    return cached(out / "latents.pt", inputs, lambda: encode_images(vae, data))


def read_features(build: Path, limit: int | None) -> dict[str, Tensor]:
    """The arrays of features.pt, which have to be of the same images."""
    features = torch.load(build / "features.pt")
    if features.get("inputs") != digest(build / "pack.npz", limit):
        raise ValueError(
            f"{build / 'features.pt'} is not of the images of pack.npz with --limit {limit}; run features.py again "
            "with the same --limit"
        )
    return features
