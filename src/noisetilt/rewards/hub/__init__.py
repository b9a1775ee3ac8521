"""Published reward models, from the Hugging Face hub or from a folder. All are differentiable.

They need transformers (the extra "rewards"). `rewards.load` loads them by name. The functions here also take the paths
of their parts.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch

from ..reward import Reward
from .aesthetic import aesthetic, aesthetic_v25
from .blip import imagereward
from .classifier import classifier
from .clip import clip_cosine, clipscore, hpsv2, pickscore
from .detection import objects
from .files import loaded_once, transformers
from .hpsv3 import hpsv3
from .imscore import IMSCORE, class_of, imscore
from .video import over_frames, video_consistency
from .videoreward import videoreward

Source = str | Path


def _videoreward(part: str, folder: Source = "", **options: Any) -> Reward:
    return videoreward(folder, part=part.removeprefix(":") or "overall", **options)


_LOADERS: dict[str, Callable[..., Reward]] = {
    "aesthetic": aesthetic,
    "aesthetic-v2.5": aesthetic_v25,
    "clipscore": clipscore,
    "pickscore": pickscore,
    "hpsv2": hpsv2,
    "hpsv2.1": partial(hpsv2, version="2.1"),
    "hpsv3": hpsv3,
    "imagereward": imagereward,
    **{name: partial(imscore, name) for name in IMSCORE},
    "video-consistency": video_consistency,
    **{f"videoreward{part}": partial(_videoreward, part) for part in ("", ":vq", ":mq", ":ta")},
}

HUB_NAMES = tuple(_LOADERS)  # those that need no further part in the name

# The held-out reward of each reward: another network trained on other data. In a sum it gives way to another one of
# RELATED if it is related to a term.
HELDOUT = {
    "aesthetic": "pickscore",
    "aesthetic-v2.5": "pickscore",
    "clipscore": "imagereward",
    "pickscore": "imagereward",
    "hpsv2": "imagereward",
    "hpsv2.1": "imagereward",
    "hpsv3": "imagereward",
    "mps": "imagereward",
    "vqascore": "imagereward",
    "aesthetic-shadow": "pickscore",
    "pickscore-siglip": "imagereward",
    "cyclereward": "pickscore",
    "evalmuse": "pickscore",
    "imscore": "pickscore",
    "clip": "imagereward",
    "objects": "clipscore",
    "count": "clipscore",
    "imagereward": "pickscore",
    "classifier": "clipscore",
    "video-consistency": "video:imagereward",
    "videoreward": "video:pickscore",
}

# The rewards that serve as held-out rewards, each with those that have its network or training data: CLIP ViT-H/14 or
# Pick-a-Pic, BLIP, OpenAI's CLIP. The model of clip:MODEL may be any CLIP; imscore:MODULE has several classes.
_OF_OPENAI_CLIP = frozenset(
    "aesthetic clip clipscore video-consistency vqascore imscore:aesthetic imscore:preference imscore:vqascore".split()
)
RELATED = {
    "pickscore": frozenset(
        "pickscore hpsv2 hpsv2.1 mps pickscore-siglip clip imscore:pickscore imscore:hps imscore:mps "
        "imscore:preference".split()
    ),
    "imagereward": frozenset(
        "imagereward cyclereward evalmuse imscore:imreward imscore:cyclereward imscore:evalmuse".split()
    ),
    "clipscore": _OF_OPENAI_CLIP,
    "aesthetic": _OF_OPENAI_CLIP,
}

# Names that continue with a model, a label or a number.
WITH_PARTS = ("classifier:", "clip:", "objects:", "count:", "imscore:")


def is_hub(name: str) -> bool:
    """Whether a name is that of a hub reward."""
    if name.startswith("video:"):
        return is_hub(name.removeprefix("video:")) and not name.startswith("video:video")
    return name in _LOADERS or name.startswith(WITH_PARTS)


def heldout_name(name: str) -> str:
    """The name of the held-out reward of a hub reward that is optimised alone."""
    return heldout_names([(1.0, name)])[0]


def heldout_names(terms: Sequence[tuple[float, str]]) -> list[str]:
    """The names of the held-out rewards of the hub rewards in a weighted sum, one for each.

    None of them is related to any term, see RELATED. Terms may have the same one, but not with weights of different
    signs, which would cancel.

    Args:
        terms: (weight, name) each.
    Raises:
        ValueError: if a term has none.
    """
    targets = {_kind(name) for _, name in terms}
    unrelated = [name for name, related in RELATED.items() if not related & targets]
    chosen: list[str] = []
    positive: dict[str, bool] = {}
    for weight, name in terms:
        preferred = HELDOUT[name.removeprefix("video:").partition(":")[0]]
        of_videos = "video:" if name.startswith("video:") or preferred.startswith("video:") else ""
        plain = preferred.removeprefix("video:")
        candidates = [plain, *unrelated] if plain in unrelated else unrelated
        one = next((one for one in candidates if positive.get(one, weight > 0) == (weight > 0)), None)
        if one is None:
            raise ValueError(
                f"there is no held-out reward for {name!r} in the sum of {', '.join(name for _, name in terms)}: each "
                f"of {', '.join(RELATED)} has the network or the training data of a term, or would cancel another; "
                "pass another reward as heldout=, or its name as --heldout"
            )
        positive[one] = weight > 0
        chosen.append(of_videos + one)
    return chosen


def _kind(name: str) -> str:
    """The name as in RELATED: without a model, a label or a class."""
    name = name.removeprefix("video:")
    return name.partition("." if name.startswith("imscore:") else ":")[0]


def network_name(name: str) -> str:
    """A name that is the same for hub rewards of the same network, apart from where its weights are."""
    kind, _, part = name.removeprefix("video:").partition(":")
    if kind == "classifier":
        return f"classifier:{part.rpartition(':')[0]}"
    if kind in ("clip", "imscore"):
        return f"{kind}:{part}"
    return {"count": "objects", "video-consistency": "clipscore"}.get(kind, kind)


def published_dtype(name: str) -> torch.dtype:
    """The dtype in which a hub reward was published."""
    return torch.bfloat16 if network_name(name) in ("hpsv3", "videoreward") else torch.float32


def check_hub(name: str, placed: bool = False) -> None:
    """Checks what can be checked of a hub reward without its weights.

    Args:
        name: of a hub reward, without the path of its weights.
        placed: whether it comes with such a path.
    Raises:
        ValueError: if a model, a label or a number is missing in the name.
        ImportError: if transformers is not installed.
    """
    transformers()
    name = name.removeprefix("video:")
    if name.startswith("classifier:"):
        _model_and_label(name, placed)
    if name.startswith(("objects:", "count:")):
        _label_and_count(name)
    if name.startswith("clip:"):
        _clip(name, placed)
    if name.startswith("imscore:"):
        class_of(name.removeprefix("imscore:"), placed)


def load_hub(name: str, path: Source | None = None, dtype: torch.dtype | None = None) -> Reward:
    """A hub reward by name.

    Args:
        name: see the catalogue.
        path: hub id or local folder, instead of the published one.
        dtype: in which the networks compute; rewards have the images' dtype. None: the published one, bfloat16 for
            hpsv3 and videoreward and float32 for all others.
    Raises:
        ValueError: if it cannot be loaded.
        ImportError: if transformers is not installed.
    """
    return _load(name, path, published_dtype(name) if dtype is None else dtype)


@loaded_once
def _load(name: str, path: Source | None, dtype: torch.dtype) -> Reward:
    if name.startswith("video:"):
        return over_frames(_load(name.removeprefix("video:"), path, dtype))
    if name.startswith("classifier:"):
        return _load_classifier(name, path, dtype)
    if name.startswith(("objects:", "count:")):
        return _load_objects(name, path, dtype)
    if name.startswith("clip:"):
        return clip_cosine(path or _clip(name, placed=False), dtype)
    if name.startswith("imscore:"):
        return imscore(name.removeprefix("imscore:"), path, dtype)
    return _LOADERS[name](dtype=dtype) if path is None else _LOADERS[name](path, dtype=dtype)


def _clip(name: str, placed: bool) -> str:
    model = name.removeprefix("clip:")
    if not model and not placed:
        raise ValueError(f"{name!r} has no model; write it as clip:<hub id or folder>")
    return model


def _model_and_label(name: str, placed: bool) -> tuple[str, str]:
    model, _, label = name.removeprefix("classifier:").rpartition(":")
    if not (model or placed) or not label:
        raise ValueError(f"{name!r} has no model or no label; write it as classifier:<hub id or folder>:<label>")
    return model, label


def _load_classifier(name: str, path: Source | None, dtype: torch.dtype) -> Reward:
    model, label = _model_and_label(name, path is not None)
    return classifier(path or model, label, dtype)


def _label_and_count(name: str) -> tuple[str, int | None]:
    kind, *parts = name.split(":")
    if len(parts) != (1 if kind == "objects" else 2) or not parts[0] or not parts[-1].strip():
        raise ValueError(f"{name!r} cannot be read; write it as objects:<label> or count:<label>:<number>")
    if kind == "count" and not parts[1].isdecimal():
        raise ValueError(f"{name!r} has the number {parts[1]!r}; write it as count:<label>:<whole number>")
    return parts[0], int(parts[1]) if kind == "count" else None


def _load_objects(name: str, path: Source | None, dtype: torch.dtype) -> Reward:
    label, count = _label_and_count(name)
    return objects(label, count, dtype=dtype) if path is None else objects(label, count, path, dtype)


__all__ = [
    "HELDOUT",
    "HUB_NAMES",
    "RELATED",
    "aesthetic",
    "aesthetic_v25",
    "classifier",
    "clip_cosine",
    "clipscore",
    "heldout_name",
    "heldout_names",
    "hpsv2",
    "hpsv3",
    "imagereward",
    "imscore",
    "is_hub",
    "load_hub",
    "objects",
    "over_frames",
    "pickscore",
    "video_consistency",
    "videoreward",
]
