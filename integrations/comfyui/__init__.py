"""The ComfyUI node pack of noisetilt. Copy or link this folder into ComfyUI/custom_nodes."""

from .preview_node import NoisetiltPreview
from .reward_nodes import (
    NoisetiltHubReward,
    NoisetiltPythonReward,
    NoisetiltReward,
    NoisetiltRewardSum,
    NoisetiltStyleReward,
)
from .sampler_node import NoisetiltSampler

NODE_CLASS_MAPPINGS = {
    "NoisetiltSampler": NoisetiltSampler,
    "NoisetiltReward": NoisetiltReward,
    "NoisetiltStyleReward": NoisetiltStyleReward,
    "NoisetiltHubReward": NoisetiltHubReward,
    "NoisetiltPythonReward": NoisetiltPythonReward,
    "NoisetiltRewardSum": NoisetiltRewardSum,
    "NoisetiltPreview": NoisetiltPreview,
}
NODE_DISPLAY_NAME_MAPPINGS = {
    "NoisetiltSampler": "Noisetilt sampler (reward-guided)",
    "NoisetiltReward": "Noisetilt reward by name",
    "NoisetiltStyleReward": "Noisetilt reward: emoji style or prompt",
    "NoisetiltHubReward": "Noisetilt reward: published model",
    "NoisetiltPythonReward": "Noisetilt reward: own Python file",
    "NoisetiltRewardSum": "Noisetilt sum of two rewards",
    "NoisetiltPreview": "Noisetilt preview with rewards",
}

__all__ = ["NODE_CLASS_MAPPINGS", "NODE_DISPLAY_NAME_MAPPINGS"]
