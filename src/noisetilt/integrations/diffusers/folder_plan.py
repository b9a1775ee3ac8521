"""What `plan` has to know of a pipeline in a folder or on the hub, read from its configuration files alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ..._files import json_object
from ..._messages import one_line
from ...models.flux import trained_guidance

# The classes whose network `components.network_call` can call, and the number of text tokens of their last encoder.
FAMILIES = {
    "StableDiffusionPipeline": ("sd", 77),
    "StableDiffusionXLPipeline": ("sdxl", 77),
    "StableDiffusion3Pipeline": ("sd3", 256),
    "FluxPipeline": ("flux", 512),
    "PixArtAlphaPipeline": ("pixart", 120),
    "PixArtSigmaPipeline": ("pixart", 300),
    "SanaPipeline": ("sana", 300),
    "WanPipeline": ("wan", 512),
}
TEXT_WIDTHS = ("joint_attention_dim", "caption_channels", "text_dim", "cross_attention_dim")
WITHOUT_WEIGHTS = ("scheduler", "tokenizer", "feature_extractor", "processor", "image_processor")


def find_folder(name: str | Path) -> Path | None:
    """The folder of a pipeline's configuration files: a local one, or those of a hub id; None if it is neither.

    Raises:
        ImportError: if huggingface_hub is not installed.
        OSError: if the hub has no such pipeline or cannot be reached.
    """
    if Path(name).is_dir():
        return Path(name)
    if str(name).count("/") != 1 or str(name).startswith("."):
        return None
    from huggingface_hub import snapshot_download

    try:
        patterns = ["model_index.json", "*/config.json", "*/tokenizer_config.json"]
        return Path(snapshot_download(str(name), allow_patterns=patterns))
    except Exception as error:
        raise OSError(
            f"{str(name)!r} is no known model and no folder, and as a hub id it cannot be read: {reason_of_hub(error)}"
        ) from error


def reason_of_hub(error: Exception) -> str:
    """Why a hub id could not be read, in one line; offline, the libraries' errors name other reasons."""
    from huggingface_hub import constants

    if constants.HF_HUB_OFFLINE:
        return "it is not in the cache, and HF_HUB_OFFLINE is set; unset it, or give a folder"
    return str(error).strip().splitlines()[0]


def model_of_folder(folder: Path) -> dict[str, Any]:
    """A pipeline as an entry of `known_models`; its "family" is None if its network cannot be called.

    Raises:
        ValueError: if the folder holds no pipeline, or one of its files is damaged.
    """
    file = folder / "model_index.json"
    if not file.is_file():
        raise ValueError(f"the folder {folder} has no model_index.json; give a folder that save_pretrained wrote")
    try:
        return _model(folder, json_object(file))
    except (LookupError, TypeError, AttributeError, ArithmeticError, StopIteration) as error:
        raise ValueError(
            f"the configuration in {folder} lacks an entry, or one has another type "
            f"({type(error).__name__}: {one_line(error)}); give a folder that save_pretrained wrote"
        ) from None


def _model(folder: Path, index: dict[str, Any]) -> dict[str, Any]:
    parts = {name: part for name, value in index.items() if (part := _part(folder, name, value)) is not None}
    network = next((name for name in ("transformer", "unet") if name in parts), None)
    family, tokens = FAMILIES.get(index.get("_class_name", ""), (None, 0))
    if family is None or network is None or "vae" not in parts:
        return {"class": index.get("_class_name"), "family": None, "parts": parts}
    config, vae = parts[network]["config"], parts["vae"]["config"]
    factor = _factor(vae)
    return {
        "class": index["_class_name"],
        "family": family,
        "network": network,
        "resolution": _resolution(family, config, vae, factor),
        "factor": factor,
        "patch": _patch(network, config) if family != "flux" else 2,
        "channels": vae.get("latent_channels") or vae.get("z_dim", 16),
        "text": [_tokens(folder, family, tokens), next(config[width] for width in TEXT_WIDTHS if config.get(width))],
        # FLUX's default is no classifier-free guidance; emoji128's is not.
        "guidance_rows": 1 if family == "flux" and trained_guidance(folder) is None else 2,
        "parts": parts,
    }


def _part(folder: Path, name: str, value: Any) -> dict[str, Any] | None:
    """A component with weights as {"class", "config"}."""
    if not isinstance(value, list) or value[0] is None or name.startswith(WITHOUT_WEIGHTS):
        return None
    file = folder / name / "config.json"
    return {"class": value[1], "config": json_object(file)} if file.is_file() else None


def _factor(vae: dict[str, Any]) -> int:
    """Pixels per latent, along one side."""
    if "scale_factor_spatial" in vae or "z_dim" in vae:
        return vae.get("scale_factor_spatial") or 8
    channels = vae.get("encoder_block_out_channels") or vae.get("block_out_channels") or [0] * 4
    return 2 ** (len(channels) - 1)


def _patch(network: str, config: dict[str, Any]) -> int:
    """The number of latents of which a side must be a multiple."""
    if network == "unet":
        return 2 ** (len(config.get("block_out_channels") or [0] * 4) - 1)
    patch = config.get("patch_size") or 1
    return patch[-1] if isinstance(patch, list) else patch


def _resolution(family: str, config: dict[str, Any], vae: dict[str, Any], factor: int) -> int | list[int]:
    """The pipeline's own size in pixels; a list is height and width."""
    if family == "flux":
        return vae.get("sample_size") or 1024
    if family == "wan":
        return [480, 832]
    return (config.get("sample_size") or 128) * factor


def _tokens(folder: Path, family: str, tokens: int) -> int:
    """The number of text tokens that the network is given; SD3 appends those of T5 to those of CLIP."""
    last = next((n for n in ("tokenizer_3", "tokenizer_2", "tokenizer") if (folder / n).is_dir()), "tokenizer")
    clip = _limit(folder / "tokenizer", 77) if family == "sd3" else 0
    return clip + _limit(folder / last, tokens)


def _limit(tokenizer: Path, tokens: int) -> int:
    """`tokens`, unless the tokenizer reads fewer."""
    file = tokenizer / "tokenizer_config.json"
    found = json_object(file).get("model_max_length") if file.is_file() else None
    return min(tokens, int(found or tokens))
