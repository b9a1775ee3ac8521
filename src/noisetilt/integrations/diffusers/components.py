"""The networks of known models on the meta device, and how their pipelines call them."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable
from importlib import resources
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..._messages import missing_extra, unknown_name
from .folder_plan import find_folder, model_of_folder


@functools.cache
def known_models() -> dict[str, Any]:
    """By model name: the classes and configurations of its components, and the inputs of its network."""
    return json.loads((resources.files(__package__) / "plan_models.json").read_text("utf-8"))


def find_model(name: str) -> dict[str, Any]:
    """A model by its known name or the last part of its hub id, where upper and lower case are the same; or the
    pipeline in a folder or of any other hub id.

    Raises:
        ValueError: if the model is unknown; the message has the known models.
        OSError: if it looks like a hub id and the hub does not have it.
    """
    models = known_models()
    short_name = "" if Path(name).is_dir() else name.split("/")[-1].lower()
    for known, model in models.items():
        if short_name in (known.lower(), *(alias.lower() for alias in model.get("aliases", []))):
            return {**model, "resolution": model.get("resolutions", {}).get(short_name, model["resolution"])}
    folder = find_folder(name)
    if folder is None:
        raise ValueError(unknown_name("model", name, models) + ", or give the folder or the hub id of a pipeline")
    return model_of_folder(folder)


def build_component(component: dict[str, Any], dtype: torch.dtype) -> nn.Module:
    """A component on the meta device, without parameter gradients.

    Raises:
        ImportError: if diffusers or transformers is not installed.
    """
    try:
        import diffusers
        import transformers
    except ImportError as error:
        raise ImportError(missing_extra("diffusers", "the memory plan")) from error
    settings = dict(component.get("config", {}))
    with torch.device("meta"):
        if hasattr(diffusers, component["class"]):
            module = getattr(diffusers, component["class"]).from_config(settings)
        else:
            kind = getattr(transformers, component["class"])
            module = kind(kind.config_class.from_dict(settings))
    # diffusers' own .to() keeps some layers in float32 and warns; they are a thousandth of the weights.
    return nn.Module.to(module.eval().requires_grad_(False), dtype)


def meta_tensor(*shape: int, dtype: torch.dtype) -> Tensor:
    """A tensor without data."""
    return torch.empty(shape, device="meta", dtype=dtype)


def network_call(model: dict[str, Any], network: Any, x: Tensor) -> Callable[[Tensor], Tensor]:
    """The network as a function of its latents, of the shape of x (rows, …), with the other inputs of its pipeline."""
    rows, dtype, family = len(x), x.dtype, model["family"]
    new = functools.partial(meta_tensor, dtype=dtype)
    text, times = new(rows, *model["text"]), new(rows)
    inputs: dict[str, Any]
    if family == "flux":
        inputs = dict(
            encoder_hidden_states=text,
            pooled_projections=new(rows, network.config.pooled_projection_dim),
            timestep=times,
            img_ids=new(x.shape[1], 3),
            txt_ids=new(model["text"][0], 3),
            guidance=times if network.config.guidance_embeds else None,
        )
    elif family == "sd3":
        pooled = new(rows, network.config.pooled_projection_dim)
        inputs = dict(encoder_hidden_states=text, pooled_projections=pooled, timestep=times)
    else:
        inputs = dict(encoder_hidden_states=text, timestep=times)
    if family == "sdxl":
        config = network.config
        width = config.projection_class_embeddings_input_dim - 6 * config.addition_time_embed_dim
        inputs["added_cond_kwargs"] = {"text_embeds": new(rows, width), "time_ids": new(rows, 6)}
    if family == "pixart":
        inputs["added_cond_kwargs"] = {"resolution": None, "aspect_ratio": None}
    return lambda latents: network(latents, **inputs, return_dict=False)[0]


def latent_shape(model: dict[str, Any], height: int, width: int, frames: int) -> tuple[int, ...]:
    """The shape of one image's latents at the decoder's input.

    Raises:
        ValueError: if the model does not support this size.
    """
    factor, multiple = model["factor"], model["factor"] * model.get("patch", 1)
    for name, side in (("height", height), ("width", width)):
        if side < multiple or side % multiple:
            raise ValueError(f"{name} = {side} must be a multiple of {multiple} for this model")
    latent_height, latent_width = height // factor, width // factor
    if model["family"] != "wan":
        if frames != 1:
            raise ValueError(f"frames = {frames} is for video models and this model makes images; leave it out")
        return model["channels"], latent_height, latent_width
    if frames < 1 or (frames - 1) % 4:
        raise ValueError(f"frames = {frames} must be 4n + 1 for this model, such as 81")
    return model["channels"], (frames - 1) // 4 + 1, latent_height, latent_width


def network_latents(model: dict[str, Any], shape: tuple[int, ...], rows: int, dtype: torch.dtype) -> Tensor:
    """Latents in the layout of the network's input."""
    if model["family"] == "flux":
        channels, height, width = shape
        return meta_tensor(rows, height // 2 * (width // 2), 4 * channels, dtype=dtype)
    return meta_tensor(rows, *shape, dtype=dtype)
