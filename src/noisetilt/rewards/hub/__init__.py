"""The reward models of the literature, from the hub or from a folder; all differentiable.

They need the extra `noisetilt[rewards]` (transformers). `rewards.load` loads them by name; the functions here take
their parts from different places.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch

from ..reward import Reward
from .aesthetic import aesthetic, aesthetic_v25
from .blip import imagereward
from .classifier import classifier
from .clip import clipscore, hpsv2, pickscore
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
    "imagereward": imagereward,
    "video-consistency": video_consistency,
    **{f"videoreward{part}": partial(_videoreward, part) for part in ("", ":vq", ":mq", ":ta")},
}

# Trained on other data with another network, so that what only fools the one is found out by the other. PickScore
# and HPSv2 are both CLIP-H and no judges of each other.
HELDOUT = {
    "aesthetic": "pickscore",
    "aesthetic-v2.5": "pickscore",
    "clipscore": "imagereward",
    "pickscore": "imagereward",
    "hpsv2": "imagereward",
    "hpsv2.1": "imagereward",
    "imagereward": "pickscore",
    "classifier": "clipscore",
    "video-consistency": "video:clipscore",
    "videoreward": "video:pickscore",
}


def is_hub(name: str) -> bool:
    """Whether a reward's name is of the literature."""
    if name.startswith("video:"):
        return is_hub(name.removeprefix("video:")) and not name.startswith("video:video")
    return name in _LOADERS or name.startswith("classifier:")


def partner(name: str) -> str:
    """The name of the reward that judges a run which follows this one."""
    if name.startswith("video:"):
        return f"video:{partner(name.removeprefix('video:'))}"
    return HELDOUT[name.split(":")[0]]


def load_hub(name: str, path: Source | None = None, dtype: torch.dtype = torch.float32) -> Reward:
    """A reward of the literature by name.

    Args:
        name: see the catalogue.
        path: a hub id or a local folder instead of the published place.
        dtype: that the towers compute in; rewards are given in the images' own.
    Raises:
        ValueError: if it cannot be loaded, in one sentence.
        ImportError: if transformers is not installed, naming the extra.
    """
    if name.startswith("video:"):
        return over_frames(load_hub(name.removeprefix("video:"), path, dtype))
    if name.startswith("classifier:"):
        return _load_classifier(name, path, dtype)
    return _LOADERS[name](dtype=dtype) if path is None else _LOADERS[name](path, dtype=dtype)


def _load_classifier(name: str, path: Source | None, dtype: torch.dtype) -> Reward:
    model, _, label = name.removeprefix("classifier:").rpartition(":")
    if not (model or path) or not label:
        raise ValueError(f"{name!r} names no model or no label; write it as classifier:<hub id or folder>:<label>")
    return classifier(path or model, label, dtype)


__all__ = [
    "HELDOUT",
    "aesthetic",
    "aesthetic_v25",
    "classifier",
    "clipscore",
    "hpsv2",
    "imagereward",
    "is_hub",
    "load_hub",
    "over_frames",
    "partner",
    "pickscore",
    "video_consistency",
    "videoreward",
]
