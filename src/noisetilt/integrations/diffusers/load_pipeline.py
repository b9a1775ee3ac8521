"""Loads a diffusers pipeline from a folder or the hub, places it on a device, and adds LoRA weights."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ..._files import json_object
from ..._messages import missing_extra, nearest_name, one_line
from ..._quiet import without_progress_bars

SHORT_DTYPES = {"fp32": "float32", "fp16": "float16", "bf16": "bfloat16"}
LORA_SUFFIXES = (".safetensors", ".bin", ".pt")
OFFLOADS = ("none", "model", "sequential")


def find_dtype(dtype: torch.dtype | str | None, device: torch.device | str) -> torch.dtype:
    """A dtype by name; if it is None, bfloat16, and float32 on the CPU.

    Raises:
        ValueError: for any other dtype than float32, float16 and bfloat16.
    """
    if dtype is None:
        return torch.float32 if torch.device(device).type == "cpu" else torch.bfloat16
    found = getattr(torch, SHORT_DTYPES.get(dtype, dtype), None) if isinstance(dtype, str) else dtype
    if found not in (torch.float32, torch.float16, torch.bfloat16):
        hint = nearest_name(str(dtype), ("float32", "float16", "bfloat16"))
        raise ValueError(f"dtype = {dtype!r} is unknown{hint}; expected float32, float16 or bfloat16")
    return found


def pipeline_class_name(source: str | Path) -> str:
    """The class of the pipeline in a folder that `save_pretrained` wrote, or in a repository of the hub.

    Raises:
        ImportError: if diffusers is not installed.
        ValueError: if there is no pipeline.
    """
    if Path(source).is_dir():
        index = Path(source) / "model_index.json"
        if not index.is_file():
            raise ValueError(f"the folder {source} has no model_index.json; give a folder that save_pretrained wrote")
        return str(json_object(index).get("_class_name", ""))
    return _diffusers().DiffusionPipeline.load_config(str(source)).get("_class_name", "")


def _diffusers() -> Any:
    try:
        import diffusers
        import transformers  # noqa: F401
    except ImportError as error:
        raise ImportError(missing_extra("diffusers", "this model")) from error
    return diffusers


def load_pipeline(source: str | Path, dtype: torch.dtype, lora: Sequence[str] = ()) -> Any:
    """A pipeline on the CPU, with its weights in a dtype, without progress bars.

    Args:
        source: a folder that `save_pretrained` wrote, or a hub id such as "black-forest-labs/FLUX.1-dev".
        dtype: of the weights.
        lora: folders, files or hub ids of LoRA weights, each with an optional scale: "style.safetensors=0.8".
    Raises:
        ImportError: if diffusers or transformers is not installed, or peft for LoRA weights.
        ValueError: if the pipeline or a LoRA cannot be loaded.
        OSError: if a file is missing or the hub cannot be reached.
    """
    diffusers = _diffusers()
    check_lora(lora)
    local = {"local_files_only": True} if Path(source).is_dir() else {}
    with without_progress_bars():
        pipe = diffusers.DiffusionPipeline.from_pretrained(str(source), torch_dtype=dtype, **local)
    pipe.set_progress_bar_config(disable=True)
    if lora:
        _add_lora(pipe, lora)
    return pipe


def _add_lora(pipe: Any, lora: Sequence[str]) -> None:
    if not hasattr(pipe, "load_lora_weights"):
        raise ValueError(f"{type(pipe).__name__} takes no LoRA weights; leave lora out")
    adapters, scales = [], []
    for number, text in enumerate(lora):
        place, scale = _split_scale(text)
        try:
            pipe.load_lora_weights(place, adapter_name=f"lora{number}")
        except Exception as error:  # clients of the hub raise errors of many types
            reason = one_line(error)
            raise ValueError(f"the LoRA {place!r} cannot be loaded into {type(pipe).__name__}: {reason}") from error
        adapters.append(f"lora{number}")
        scales.append(scale)
    pipe.set_adapters(adapters, scales)


def check_lora(lora: Sequence[str]) -> None:
    """Raises what `load_pipeline` raises for LoRA weights of which there is no file, or without peft."""
    for text in lora:
        _check_place(_split_scale(text)[0])
    if lora:
        _check_peft()


def _check_place(place: str) -> None:
    """Raises a ValueError if a LoRA is neither a file or a folder that exists nor the id of a repository of the hub."""
    is_id = re.fullmatch(r"\w[\w.-]*/[\w.-]+", place) and not place.endswith(LORA_SUFFIXES)
    if not is_id and not Path(place).exists():
        raise ValueError(f"there is no LoRA {place!r}; give a file or folder that exists, or the id of one on the hub")


def _check_peft() -> None:
    """Raises an ImportError if peft, with which diffusers applies LoRA weights, is not installed."""
    try:
        import peft  # noqa: F401
    except ImportError as error:
        raise ImportError(missing_extra("lora", "a LoRA")) from error


def lora_files(lora: Sequence[str]) -> list[Path]:
    """The files of LoRA weights that are on this machine: those that are given, and those in the folders that are."""
    places = [Path(_split_scale(text)[0]) for text in lora]
    inside = [file for place in places if place.is_dir() for file in place.iterdir() if file.suffix in LORA_SUFFIXES]
    return [*(place for place in places if place.is_file()), *inside]


def _split_scale(text: str) -> tuple[str, float]:
    """ "style.safetensors=0.8" as ("style.safetensors", 0.8); the scale is 1 if there is none."""
    place, equals, scale = text.rpartition("=")
    try:
        return (place, float(scale)) if equals else (text, 1.0)
    except ValueError:
        return text, 1.0


def place_pipeline(pipe: Any, device: torch.device | str, offload: str = "none") -> None:
    """Moves a pipeline to a device, or lets its modules move there while they run.

    Args:
        pipe: the pipeline.
        device: the device on which it computes.
        offload: "none"; "model": each component is on the device while it runs; "sequential": each layer is.
    Raises:
        ValueError: for an unknown `offload`, or on the CPU, from which nothing can be offloaded.
    """
    check_offload(offload, device)
    for part in pipe.components.values():
        if isinstance(part, nn.Module):
            part.eval().requires_grad_(False)
    if offload == "none":
        pipe.to(device)
        return
    {"model": pipe.enable_model_cpu_offload, "sequential": pipe.enable_sequential_cpu_offload}[offload](device=device)


def check_offload(offload: str, device: torch.device | str) -> None:
    """Raises a ValueError for an unknown `offload`, or on the CPU, from which nothing can be offloaded."""
    if offload not in OFFLOADS:
        raise ValueError(f"offload = {offload!r} is unknown; expected one of {', '.join(OFFLOADS)}")
    if offload != "none" and torch.device(device).type == "cpu":
        raise ValueError(f"offload = {offload!r} needs a GPU, and the device is the CPU; use 'none'")
