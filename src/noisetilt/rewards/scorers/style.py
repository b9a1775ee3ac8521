"""The styles of emoji128's images: 3d, noto, twemoji, flat and blob.

There are two networks: `target` is optimised and `heldout` evaluates the result. Their backbones (EfficientNet-Lite0
and Lite1, pretrained on ImageNet) and their training images differ. Both were trained against adversarial perturbations
(Madry 2018, arXiv 1706.06083), so that a higher score needs a visible change. `recipes/emoji128/train_style.py` made
them.
"""

from __future__ import annotations

import math
from importlib import resources
from pathlib import Path

import torch
from torch import Tensor

from .images import in_float32, prepared
from .network import BACKBONES, StyleNetwork
from .pretrained import check_version, frozen, one_per_device, read_state
from .words import STYLES

WEIGHTS = resources.files(__package__) / "style"


@one_per_device
def load_style_network(which: str, device: str | torch.device = "cpu", folder: Path | None = None) -> StyleNetwork:
    """A trained network without parameter gradients; one copy per device is cached.

    Args:
        which: "target" (to optimise) or "heldout" (to evaluate).
        device: on which it computes, in float32.
        folder: of the weights and their checksums.json; the package's own if None.

    Raises:
        ValueError: if there is no such network, or its file differs from the published one.
    """
    check_version(which, "style network")
    state = read_state(Path(str(WEIGHTS)) if folder is None else folder, which)
    network = StyleNetwork(BACKBONES[which], len(STYLES)).fold()
    return frozen(network, state, device)


@in_float32
def style_scores(images: Tensor, which: str = "target") -> Tensor:
    """How far each image is in each style.

    Args:
        images: (batch, 3, height, width) float in [0, 1]; other sizes than 128×128 are resized with antialiasing.
        which: "target" or "heldout".

    Returns:
        (batch, 5) log odds of each of STYLES against the other four, on the images' device and in their dtype.

    Raises:
        ValueError: if the images have another shape or are not float.
    """
    network = load_style_network(which, images.device)
    return logit_margin(network(prepared(images))).to(images)


def logit_margin(logits: Tensor) -> Tensor:
    """Each logit of (batch, classes) minus the log-sum-exp of the others: the log odds, which do not saturate."""
    classes = logits.shape[1]
    own = torch.eye(classes, dtype=torch.bool, device=logits.device)
    others = logits[:, None, :].expand(-1, classes, -1).masked_fill(own, -math.inf)
    return logits - torch.logsumexp(others, dim=-1)
