"""ImageReward: human preference for an image given its prompt, by BLIP with cross attention to the image."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..._files import json_object
from ..reward import Reward
from .aesthetic import MLP_LAYERS
from .files import (
    AffineHead,
    at_least_single,
    fill,
    frozen,
    locate,
    moved,
    pretrained_tokenizer,
    read_state,
    transformers,
)
from .preprocess import Preprocess
from .prompts import tokens_of

IMAGEREWARD, BERT = "THUDM/ImageReward", "google-bert/bert-base-uncased"
WEIGHT_FILES = ("ImageReward.safetensors", "ImageReward.pt")
MEAN, STD = 0.16717362830052426, 1.0333394966054072
TOKENS, HEAD_WIDTH = 35, 64

_RENAMED = [
    (r"^cls_token$", "embeddings.class_embedding"),
    (r"^pos_embed$", "embeddings.position_embedding"),
    (r"^patch_embed\.proj\.", "embeddings.patch_embedding."),
    (r"^norm\.", "post_layernorm."),
    (r"^blocks\.(\d+)\.norm([12])\.", r"encoder.layers.\1.layer_norm\2."),
    (r"^blocks\.(\d+)\.attn\.proj\.", r"encoder.layers.\1.self_attn.projection."),
    (r"^blocks\.(\d+)\.attn\.", r"encoder.layers.\1.self_attn."),
    (r"^blocks\.", "encoder.layers."),
]


class ImageReward(nn.Module):
    """The text encoder with cross attention to the image's patches, and a head on its first token.

    Args:
        vision, text: BlipVisionModel and BlipTextModel.
        head: (batch, features) → (batch,), at least in float32.
    """

    def __init__(self, vision: nn.Module, text: nn.Module, head: nn.Module) -> None:
        super().__init__()
        self.vision, self.text, self.head = vision, text, head

    def forward(self, pixels: Tensor, tokens: Tensor, mask: Tensor) -> Tensor:
        """(batch,) from pixels (batch, 3, H, W), tokens (batch, length) and their mask."""
        patches = self.vision(pixel_values=pixels).last_hidden_state
        read = self.text(input_ids=tokens, attention_mask=mask, encoder_hidden_states=patches, is_decoder=False)
        return (self.head(read.last_hidden_state[:, 0].to(next(self.head.parameters()).dtype)) - MEAN) / STD


class ImageRewardScorer:
    """The reward function of ImageReward: tokenizer, preprocessing and model."""

    def __init__(self, model: ImageReward, tokenizer: Any, preprocess: Callable[[Tensor], Tensor]) -> None:
        self.model, self.tokenizer, self.preprocess = model, tokenizer, preprocess

    def __call__(self, images: Tensor, prompts: Sequence[str]) -> Tensor:
        """(batch,) from images (batch, 3, H, W) in [0, 1] and a prompt for each; in the images' dtype."""
        if isinstance(prompts, str) or len(prompts) != len(images):
            raise ValueError(f"{len(images)} images and the prompts {prompts!r}; pass a list with one prompt per image")
        dtype = moved(self.model, images)
        config: Any = self.model.text.config
        length = min(TOKENS, config.max_position_embeddings)
        text = tokens_of("imagereward", self.tokenizer, prompts, length, "max_length").to(images.device)
        return self.model(self.preprocess(images).to(dtype), text.input_ids, text.attention_mask).to(images.dtype)


def part(state: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """The tensors under a prefix, with the prefix removed; buffers of positions are left out."""
    inside = {name.removeprefix(prefix): tensor.float() for name, tensor in state.items() if name.startswith(prefix)}
    return {name: tensor for name, tensor in inside.items() if not name.endswith("position_ids")}


def vision_tower(state: dict[str, Tensor], file: Path) -> nn.Module:
    """A BlipVisionModel with the sizes of the published tensors."""
    if "pos_embed" not in state or "patch_embed.proj.weight" not in state:
        raise ValueError(f"{file} is not in ImageReward's layout: it has no blip.visual_encoder")
    library = transformers()
    width, _, patch, _ = state["patch_embed.proj.weight"].shape
    layers = {int(name.split(".")[1]) for name in state if name.startswith("blocks.")}
    config = library.BlipVisionConfig(
        hidden_size=width,
        intermediate_size=state["blocks.0.mlp.fc1.weight"].shape[0],
        num_hidden_layers=len(layers),
        num_attention_heads=max(1, width // HEAD_WIDTH),
        image_size=round((state["pos_embed"].shape[1] - 1) ** 0.5) * patch,
        patch_size=patch,
        layer_norm_eps=1e-6,
    )
    renamed = {}
    for name, tensor in state.items():
        for pattern, new in _RENAMED:
            name = re.sub(pattern, new, name)
        renamed[name] = tensor
    return fill(library.BlipVisionModel(config), renamed, file)


def text_tower(state: dict[str, Tensor], settings: dict[str, Any], width: int, file: Path) -> nn.Module:
    """A BlipTextModel with cross attention to patches (batch, patch, width), of the published med_config.json."""
    library = transformers()
    same = (
        "vocab_size hidden_size intermediate_size num_hidden_layers num_attention_heads max_position_embeddings "
        "hidden_act layer_norm_eps pad_token_id"
    ).split()
    config = library.BlipTextConfig(
        **{name: settings[name] for name in same if name in settings}, encoder_hidden_size=width, is_decoder=True
    )
    return fill(library.BlipTextModel(config, add_pooling_layer=False), state, file)


def imagereward(
    weights: str | Path = IMAGEREWARD, tokenizer: str | Path | None = None, dtype: torch.dtype = torch.float32
) -> Reward:
    """ImageReward, standardised, about −2 to 2 (Xu et al. 2023, arXiv 2304.05977).

    Args:
        weights: hub id or folder with the published ImageReward.pt and med_config.json.
        tokenizer: hub id or folder of BERT's tokenizer; if None, that in `weights` if it is a folder, else BERT's.
        dtype: in which the networks compute; the head computes at least in float32, as published.
    Raises:
        ValueError: if the weights have another layout.
    """
    file = locate(weights, WEIGHT_FILES, "imagereward's weights")
    settings = locate(file.parent if is_folder(weights) else IMAGEREWARD, ["med_config.json"], "imagereward's settings")
    state = read_state(file)
    vision: Any = vision_tower(part(state, "blip.visual_encoder."), file)
    width = vision.config.hidden_size
    text = text_tower(part(state, "blip.text_encoder."), json_object(settings), width, file)
    head = AffineHead(part(state, "mlp."), "layers.", MLP_LAYERS, file)
    texts = tokenizer or (weights if is_folder(weights) else BERT)
    words = pretrained_tokenizer(texts, "imagereward's tokenizer")
    side = vision.config.image_size
    head = frozen(head, at_least_single(dtype))
    model = ImageReward(frozen(vision, dtype), frozen(text, dtype), head)
    preprocess = Preprocess((side, side), "crop", rounding="even")  # the published code crops by torchvision
    return Reward("imagereward", ImageRewardScorer(model, words, preprocess))


def is_folder(source: str | Path) -> bool:
    """Whether a source is a local folder."""
    return Path(source).expanduser().is_dir()
