"""What noise inversion minimises: the mean squared difference between representations of two images."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from ..rewards.reward import reward_name
from ..rewards.scorers.network import SIDE
from ..rewards.scorers.style import load_style_network
from ..sampling.reward_evaluation import RewardEvaluator, chunks

Distance = Literal["pixels", "latents", "features"] | Callable[[Tensor], Tensor]
DISTANCES = ("pixels", "latents", "features")
# The penalties of reno, prno and mpgr have weights in units of reward. At this scale they compare with the distance.
SCALE = 100.0


def feature_maps(images: Tensor, which: str = "target") -> Tensor:
    """Features (batch, n) whose mean squared difference is a perceptual distance.

    Channels at strides 4, 8 and 16 of a style network are scaled to unit norm at every position, as in LPIPS (Zhang
    2018, arXiv 1801.03924) without its learned weights. The distance is the mean over positions and layers of the
    squared difference.

    Args:
        images: (batch, 3, H, W) in [0, 1]; other sizes than 128×128 are resized.
        which: the network, "target" (to optimise) or "heldout" (to evaluate).
    """
    network = load_style_network(which, images.device)
    x = images.float()
    if x.shape[2:] != (SIDE, SIDE):
        x = F.interpolate(x, size=(SIDE, SIDE), mode="bilinear", antialias=True, align_corners=False)
    x = network.stem((2 * x - 1).contiguous(memory_format=torch.channels_last))
    found = []
    for number, block in enumerate(network.blocks):
        x = block(x)
        if number in network.LAYERS:
            unit = F.normalize(x, dim=1, eps=1e-6)
            found.append((unit / (unit.shape[2] * unit.shape[3]) ** 0.5).flatten(1))
    features = torch.cat(found, 1)
    return (features * (features.shape[1] / len(found)) ** 0.5).to(images)


def coarse(images: Tensor) -> Tensor:
    """Images (batch, 3, H, W) as means over 8×8 boxes, (batch, 3, 8, 8).

    As `adaptive_avg_pool2d`, whose gradient CUDA refuses to compute under `torch.use_deterministic_algorithms`.
    """
    rows, columns = (_box_means(size).to(images) for size in images.shape[2:])
    return rows @ images @ columns.mT


def _box_means(size: int, boxes: int = 8) -> Tensor:
    """The matrix (boxes, size) that takes the means of equal intervals; they overlap if size is not a multiple."""
    position, box = torch.arange(size), torch.arange(boxes)[:, None]
    inside = (position >= box * size // boxes) & (position < -(-(box + 1) * size // boxes))
    return inside / inside.sum(1, keepdim=True)


def check_distance(distance: Any, model: Any) -> None:
    """Raises a ValueError if a distance is unknown, or needs what the model does not have."""
    if not callable(distance) and distance not in DISTANCES:
        raise ValueError(
            f"distance = {distance!r} is unknown; use one of {', '.join(DISTANCES)}, or a function of images"
        )
    if distance == "latents" and not hasattr(model, "encode"):
        raise ValueError(
            f"{type(model).__name__} has no `encode`, which the distance 'latents' needs; use 'pixels' or 'features'"
        )


def distance_name(distance: Distance) -> str:
    """A distance's name for messages and files."""
    return distance if isinstance(distance, str) else reward_name(distance)


@dataclass
class TargetEvaluator(RewardEvaluator):
    """Rewards −SCALE · weight · distance to each image's own target, plus another reward if there is one.

    Args:
        model: with `encode`, if the distance is "latents".
        distance: "pixels", "latents", "features", or a function images (batch, 3, H, W) → (batch, …).
        targets: (image, 3, H, W) in [0, 1].
        weight: of the distance.
        chunk: targets that are encoded and represented at a time, ≥ 1.
    """

    model: Any = None
    distance: Distance = "pixels"
    targets: Tensor | None = None
    weight: float = 1.0
    chunk: int = 16
    representations: Tensor = field(init=False)
    remedy: ClassVar[str] = "give a distance that is finite, or lower the rate of the method"

    def __post_init__(self) -> None:
        assert self.targets is not None
        with torch.no_grad():
            parts = [self.targets[part] for part in chunks(len(self.targets), self.chunk)]
            self.representations = torch.cat([self._represent_targets(part) for part in parts])

    def _represent_targets(self, images: Tensor) -> Tensor:
        return self._represent(self.model.encode(images) if self.distance == "latents" else images, images)

    def describe(self) -> str:
        name = f"the distance {distance_name(self.distance)!r}"
        return name if self.reward is None else f"{name} and {super().describe()}"

    def no_gradient(self) -> ValueError:
        return ValueError(
            f"{self.describe()} has no gradient and the inversion needs one; use 'pixels', 'features', or a "
            "differentiable function of images"
        )

    @property
    def depends_on_images_only(self) -> bool:
        return self.distance != "latents" and super().depends_on_images_only

    def evaluate_images(self, x_0: Tensor, index: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        only_latents = self.distance == "latents" and self.reward is None
        with torch.set_grad_enabled(torch.is_grad_enabled() and not only_latents):
            images = self.decoded(x_0, index)
        distance = (self._represent(x_0, images) - self.representations[index]).square().flatten(1).mean(1)
        closeness = -SCALE * self.weight * distance
        if self.reward is None:
            return images, closeness, closeness
        rewards, values = self.rewards_of_decoded(x_0, images, index)
        return images, closeness + rewards, closeness + values

    def _represent(self, x_0: Tensor, images: Tensor) -> Tensor:
        if callable(self.distance):
            return self.distance(images)
        return {"pixels": lambda: images, "latents": lambda: x_0, "features": lambda: feature_maps(images)}[
            self.distance
        ]()
