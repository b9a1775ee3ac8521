"""Rewards that are the cosine of image and prompt in a CLIP embedding: CLIPScore, PickScore, HPSv2."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..reward import Reward
from .files import (
    fill,
    frozen,
    loaded_once,
    locate,
    moved,
    pretrained,
    pretrained_model,
    pretrained_tokenizer,
    read_state,
    transformers,
)
from .preprocess import Preprocess, preprocess_of
from .prompts import tokens_of

CLIP_B32 = "openai/clip-vit-base-patch32"
CLIP_H14 = "laion/CLIP-ViT-H-14-laion2B-s32B-b79K"
PICKSCORE, HPSV2 = "yuvalkirstain/PickScore_v1", "xswu/HPSv2"
HPSV2_FILES = {
    "2.0": ("HPS_v2_compressed.safetensors", "HPS_v2_compressed.pt"),
    "2.1": ("HPS_v2.1_compressed.safetensors", "HPS_v2.1_compressed.pt"),
}
CACHE_SIZE = 1024


def unit(embeddings: Tensor) -> Tensor:
    """Unit vectors (batch, dimension), at least in float32: half precision has too few values for a cosine."""
    return F.normalize(embeddings.to(torch.promote_types(embeddings.dtype, torch.float32)), dim=1)


class Cosine:
    """scale · cosine of the embeddings of image and prompt.

    Args:
        model: a CLIPModel, or a SiglipModel, which has no projections and reads texts padded to its full length.
        tokenizer: of its text encoder.
        preprocess: images (batch, 3, H, W) in [0, 1] → the input of its image encoder.
        scale: factor on the cosine.
        template: a format string for the prompt.
        name: of the reward, for the warning about a prompt that is too long.
    """

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        preprocess: Callable[[Tensor], Tensor],
        scale: float = 1.0,
        template: str = "{}",
        name: str = "the reward",
    ) -> None:
        self.name, self.model, self.tokenizer, self.preprocess = name, model, tokenizer, preprocess
        self.scale, self.template = scale, template
        self.has_projections = hasattr(model, "text_projection")
        self._cache: dict[str, Tensor] = {}

    def __call__(self, images: Tensor, prompts: Sequence[str]) -> Tensor:
        """(batch,) from images (batch, 3, H, W) in [0, 1] and a prompt for each; in the images' dtype."""
        if isinstance(prompts, str) or len(prompts) != len(images):
            raise ValueError(f"{len(images)} images and the prompts {prompts!r}; pass a list with one prompt per image")
        return (self.scale * (self.embed(images) * self._embed_prompts(prompts, images)).sum(1)).to(images.dtype)

    def embed(self, images: Tensor) -> Tensor:
        """Unit vectors (batch, dimension) of images (batch, 3, H, W) in [0, 1]."""
        dtype = moved(self.model, images)
        pooled = self.model.vision_model(pixel_values=self.preprocess(images).to(dtype)).pooler_output
        return unit(self.model.visual_projection(pooled) if self.has_projections else pooled)

    def _embed_prompts(self, prompts: Sequence[str], images: Tensor) -> Tensor:
        """Unit vectors (batch, dimension) of the prompts; cached, because all steps of sampling have the same ones."""
        known = self._cache  # never changed in place, because other threads may read it
        new = [prompt for prompt in dict.fromkeys(prompts) if prompt not in known]
        if new:
            made = dict(zip(new, self._encode(new, images.device), strict=True))
            fits = len(known) + len(made) <= CACHE_SIZE
            known = {**known, **made}
            self._cache = known if fits else {prompt: known[prompt] for prompt in prompts}
        return torch.stack([known[prompt].to(images.device) for prompt in prompts])

    @torch.no_grad()
    def _encode(self, prompts: Sequence[str], device: torch.device) -> Tensor:
        limit = self.model.config.text_config.max_position_embeddings
        texts = [self.template.format(prompt) for prompt in prompts]
        padding = True if self.has_projections else "max_length"
        text = tokens_of(self.name, self.tokenizer, texts, limit, padding).to(device)
        with torch.autocast(device.type, enabled=False):  # later calls without autocast have the same cache
            if not self.has_projections:
                return unit(self.model.text_model(input_ids=text.input_ids).pooler_output)
            pooled = self.model.text_model(input_ids=text.input_ids, attention_mask=text.attention_mask).pooler_output
            return unit(self.model.text_projection(pooled))


def _cosine(name: str, model: nn.Module, texts: str | Path, dtype: torch.dtype, **options: Any) -> Reward:
    library = transformers()
    tokenizer = pretrained_tokenizer(texts, f"{name}'s tokenizer")
    if "preprocess" not in options:
        processor = pretrained(library.AutoImageProcessor, texts, f"{name}'s image processor")
        options["preprocess"] = preprocess_of(processor, name)
    return Reward(name, Cosine(frozen(model, dtype), tokenizer, name=name, **options))


@loaded_once
def clipscore(model: str | Path = CLIP_B32, dtype: torch.dtype = torch.float32) -> Reward:
    """CLIPScore: 2.5 · cosine(image, "A photo depicts " + prompt) (Hessel et al. 2021, arXiv 2104.08718, eq. 1).

    Published scores are clamped at 0. Here they are not, because the gradient would vanish.

    Args:
        model: hub id or folder of a CLIPModel in transformers' layout.
        dtype: in which the networks compute.
    """
    loaded = pretrained_model(transformers().CLIPModel, model, "clipscore's model")
    return _cosine("clipscore", loaded, model, dtype, scale=2.5, template="A photo depicts {}")


def clip_cosine(model: str | Path, dtype: torch.dtype = torch.float32) -> Reward:
    """The cosine of image and prompt in any CLIP or SigLIP of transformers, without a factor or a template.

    Args:
        model: hub id or folder of a CLIPModel or SiglipModel, such as "openai/clip-vit-large-patch14".
        dtype: in which the networks compute.
    Raises:
        ValueError: if it is another kind of model or cannot be loaded.
    """
    library = transformers()
    kinds = {"clip": library.CLIPModel, "siglip": library.SiglipModel}
    config = pretrained(library.AutoConfig, model, "the configuration of clip")
    if config.model_type not in kinds:
        raise ValueError(f"{str(model)!r} is a {config.model_type!r} model; clip needs a CLIPModel or a SiglipModel")
    return _cosine(f"clip:{model}", pretrained_model(kinds[config.model_type], model, "clip's model"), model, dtype)


def pickscore(
    model: str | Path = PICKSCORE, texts: str | Path | None = None, dtype: torch.dtype = torch.float32
) -> Reward:
    """PickScore: the cosine of a CLIP-H trained on human preferences (Kirstain et al. 2023, arXiv 2305.01569).

    In the units of papers on alignment, such as 0.22; the model's logits are 100 times that.

    Args:
        model: hub id or folder of the CLIPModel.
        texts: hub id or folder of the tokenizer and image processor; the model's own if it is a folder that has them.
        dtype: in which the networks compute.
    """
    loaded = pretrained_model(transformers().CLIPModel, model, "pickscore's model")
    texts = texts or (CLIP_H14 if str(model) == PICKSCORE else model)
    return _cosine("pickscore", loaded, texts, dtype)


def hpsv2(
    weights: str | Path = HPSV2,
    tower: str | Path | None = None,
    version: str = "2.0",
    dtype: torch.dtype = torch.float32,
) -> Reward:
    """HPSv2: the cosine of a CLIP-H trained on human preferences (Wu et al. 2023, arXiv 2306.09341), such as 0.28.

    As published, an image is resized to 224 on its longer side as a tensor of floats, bicubic with antialiasing and
    without PIL's clipping, and padded with black.

    Args:
        weights: hub id, folder or file of the published weights, in open_clip's layout.
        tower: hub id or folder with the configuration and tokenizer of the same CLIPModel in transformers' layout;
            `weights` itself if that is a folder.
        version: "2.0" or "2.1".
        dtype: in which the networks compute.
    Raises:
        ValueError: if the weights are not those of a CLIP of this configuration.
    """
    library = transformers()
    if version not in HPSV2_FILES:
        raise ValueError(f"HPSv2 has no version {version!r}; expected one of {', '.join(HPSV2_FILES)}")
    tower = tower or (weights if Path(weights).expanduser().is_dir() else CLIP_H14)
    settings = locate(tower, ["config.json"], "hpsv2's configuration")
    config = pretrained(library.CLIPConfig, settings.parent, "hpsv2's configuration")
    file = locate(weights, HPSV2_FILES[version], "hpsv2's weights")
    state = {name: tensor.float() for name, tensor in from_open_clip(read_state(file), file).items()}
    model = fill(library.CLIPModel(config), state, file)
    side = config.vision_config.image_size
    name = "hpsv2" if version == "2.0" else f"hpsv{version}"
    return _cosine(name, model, tower, dtype, preprocess=Preprocess((side, side), "pad"))


_RENAMED = [
    (r"^visual\.transformer\.resblocks\.", "vision_model.encoder.layers."),
    (r"^transformer\.resblocks\.", "text_model.encoder.layers."),
    (r"^visual\.class_embedding$", "vision_model.embeddings.class_embedding"),
    (r"^visual\.positional_embedding$", "vision_model.embeddings.position_embedding.weight"),
    (r"^visual\.conv1\.", "vision_model.embeddings.patch_embedding."),
    (r"^visual\.ln_pre\.", "vision_model.pre_layrnorm."),
    (r"^visual\.ln_post\.", "vision_model.post_layernorm."),
    (r"^positional_embedding$", "text_model.embeddings.position_embedding.weight"),
    (r"^token_embedding\.", "text_model.embeddings.token_embedding."),
    (r"^ln_final\.", "text_model.final_layer_norm."),
    (r"\.attn\.", ".self_attn."),
    (r"\.ln_([12])\.", r".layer_norm\1."),
    (r"\.mlp\.c_fc\.", ".mlp.fc1."),
    (r"\.mlp\.c_proj\.", ".mlp.fc2."),
]


def from_open_clip(state: dict[str, Tensor], file: Path) -> dict[str, Tensor]:
    """Converts the state of open_clip's CLIP to the names of transformers' CLIPModel.

    Stacked queries, keys and values are split, and projections are transposed.

    Raises:
        ValueError: if it is not the state of such a model.
    """
    if "visual.proj" not in state or "text_projection" not in state:
        raise ValueError(f"{file} is not in open_clip's layout: it has no visual.proj or text_projection")
    renamed = {}
    for name, tensor in state.items():
        if name in ("visual.proj", "text_projection"):
            renamed["visual_projection.weight" if "visual" in name else "text_projection.weight"] = (
                tensor.T.contiguous()
            )
            continue
        if name == "attn_mask":  # the causal mask, not a weight
            continue
        for pattern, new in _RENAMED:
            name = re.sub(pattern, new, name)
        stacked = re.fullmatch(r"(.*\.)in_proj_(weight|bias)", name)
        if stacked:
            for part, rows in zip("qkv", tensor.chunk(3), strict=True):
                renamed[f"{stacked[1]}{part}_proj.{stacked[2]}"] = rows.clone()
        else:
            renamed[name] = tensor
    return renamed
