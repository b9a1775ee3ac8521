"""Aesthetic scores of images: LAION's linear heads on CLIP, and their successor on SigLIP."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..reward import Reward
from .clip import unit
from .files import (
    AffineHead,
    at_least_single,
    frozen,
    locate,
    moved,
    pretrained,
    pretrained_model,
    read_state,
    transformers,
)
from .preprocess import preprocess_of

CLIP_L14, SIGLIP = "openai/clip-vit-large-patch14", "google/siglip-so400m-patch14-384"
HEAD = "trl-lib/ddpo-aesthetic-predictor"
HEAD_FILES = (
    "aesthetic-head.safetensors",
    "aesthetic-model.pth",
    "sac+logos+ava1-l14-linearMSE.safetensors",
    "sac+logos+ava1-l14-linearMSE.pth",
    "sa_0_4_vit_l_14_linear.pth",
)
V25_FILES = ("aesthetic_predictor_v2_5.safetensors", "aesthetic_predictor_v2_5.pth")
V25_PAGE = "https://github.com/discus0434/aesthetic-predictor-v2-5/raw/main/models/aesthetic_predictor_v2_5.pth"
MLP_LAYERS, V25_LAYERS = (0, 2, 4, 6, 7), (0, 2, 4, 6, 8)


class HeadOnTower:
    """A head on the normalised embedding of an image; the prompt is ignored.

    Args:
        tower: pixels → embedding (batch, features).
        network: the module that `tower` runs, which is moved to the images' device.
        head: (batch, features) → (batch,), at least in float32: half precision has too few values for a score.
        preprocess: images (batch, 3, H, W) in [0, 1] → pixels.
    """

    def __init__(
        self,
        tower: Callable[[Tensor], Tensor],
        network: nn.Module,
        head: nn.Module,
        preprocess: Callable[[Tensor], Tensor],
    ) -> None:
        self.tower, self.network, self.head, self.preprocess = tower, network, head, preprocess

    def __call__(self, images: Tensor, prompts: Sequence[str]) -> Tensor:
        """(batch,) from images (batch, 3, H, W) in [0, 1]; in the images' dtype."""
        dtype = moved(self.network, images)
        embedding = unit(self.tower(self.preprocess(images).to(dtype)))
        return self.head(embedding.to(moved(self.head, images))).to(images.dtype)


def check_width(head: AffineHead, width: int, file: Path) -> None:
    """Raises a ValueError if a head does not fit the width of the embedding."""
    if head.weights[0].shape[1] != width:
        raise ValueError(
            f"{file} expects {head.weights[0].shape[1]} features and the tower has {width}; "
            "use the tower that the head was trained on"
        )


def aesthetic(
    tower: str | Path = CLIP_L14, head: str | Path | None = None, dtype: torch.dtype = torch.float32
) -> Reward:
    """LAION's aesthetic score, about 1 to 10: affine in the normalised embedding of CLIP ViT-L/14 (Schuhmann et al.
    2022, arXiv 2210.08402). Version 2 has five linear layers without activations, version 1 a single one.

    Args:
        tower: hub id or folder of the CLIP vision tower with projection, in transformers' layout.
        head: hub id, folder or file of the head; its layers determine the version. If None, it is searched in
            `tower` if that is a folder, else version 2 is downloaded from the hub.
        dtype: in which the tower computes; the head computes at least in float32.
    """
    library = transformers()
    folder = Path(tower).expanduser().is_dir()
    file = locate(head or (tower if folder else HEAD), HEAD_FILES, "aesthetic's head")
    state = read_state(file)
    single = "weight" in state
    affine = AffineHead(state, "" if single else "layers.", () if single else MLP_LAYERS, file)
    network: Any = pretrained_model(library.CLIPVisionModelWithProjection, tower, "aesthetic's tower")
    check_width(affine, network.config.projection_dim, file)
    processor = pretrained(library.AutoImageProcessor, tower, "aesthetic's image processor")
    network, affine = frozen(network, dtype), frozen(affine, at_least_single(dtype))
    embed = lambda pixels: network(pixel_values=pixels).image_embeds  # noqa: E731
    scorer = HeadOnTower(embed, network, affine, preprocess_of(processor, "aesthetic"))
    return Reward("aesthetic", scorer, uses_prompts=False)


def aesthetic_v25(
    tower: str | Path = SIGLIP, head: str | Path | None = None, dtype: torch.dtype = torch.float32
) -> Reward:
    """Aesthetic predictor v2.5, about 1 to 10: five linear layers on the normalised pooled embedding of SigLIP
    (discus0434 2024, github.com/discus0434/aesthetic-predictor-v2-5).

    Args:
        tower: hub id or folder of the SigLIP vision model, in transformers' layout.
        head: folder or file of the head, aesthetic_predictor_v2_5.pth; searched in `tower` if that is a folder.
        dtype: in which the tower computes; the head computes at least in float32.
    """
    library = transformers()
    if head is None and not Path(tower).expanduser().is_dir():
        raise ValueError(
            f"the head of aesthetic-v2.5 is not on the hub; download {V25_PAGE} and pass path=, the folder with it and "
            "the tower"
        )
    file = locate(head or tower, V25_FILES, "aesthetic-v2.5's head")
    affine = AffineHead(read_state(file), "scoring_head.", V25_LAYERS, file)
    network: Any = pretrained_model(library.SiglipVisionModel, tower, "aesthetic-v2.5's tower")
    check_width(affine, network.config.hidden_size, file)
    processor = pretrained(library.AutoImageProcessor, tower, "aesthetic-v2.5's image processor")
    network, affine = frozen(network, dtype), frozen(affine, at_least_single(dtype))
    embed = lambda pixels: network(pixel_values=pixels).pooler_output  # noqa: E731
    scorer = HeadOnTower(embed, network, affine, preprocess_of(processor, "aesthetic-v2.5"))
    return Reward("aesthetic-v2.5", scorer, uses_prompts=False)
