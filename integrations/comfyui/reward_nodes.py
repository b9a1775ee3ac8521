"""Nodes that load rewards. Their output NOISETILT_REWARD is a function of images and prompts."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from noisetilt import rewards
from noisetilt._python_files import is_in_file
from noisetilt.rewards import Reward
from noisetilt.rewards.catalogue import LEARNED, split_terms
from noisetilt.rewards.from_file import load_from_file
from noisetilt.rewards.hub import HUB_NAMES

DTYPES = {"published": None, "float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
PYTHON_REWARDS = "noisetilt_rewards"


class RewardNode:
    """What the reward nodes have in common."""

    CATEGORY = "noisetilt/rewards"
    RETURN_TYPES = ("NOISETILT_REWARD",)
    RETURN_NAMES = ("reward",)
    FUNCTION = "load"


def load_reward(spec: str, heldout: bool = False, **options: Any) -> Reward:
    """A reward of the catalogue. Its weights are ordinary tensors, although ComfyUI runs nodes in inference mode.

    Raises:
        ValueError: if a term is a function in a Python file, which a workflow of somebody else could name to run it.
    """
    for _, name in split_terms(spec):
        if is_in_file(name):
            raise ValueError(
                f"the reward {name!r} is a function in a Python file, expected a name of the catalogue; put the file "
                f"into ComfyUI/models/{PYTHON_REWARDS} and use the node 'Noisetilt reward: own Python file'"
            )
    with torch.inference_mode(False):
        return rewards.load(spec.strip(), heldout, **options)


class NoisetiltReward(RewardNode):
    """A reward of the catalogue, or a weighted sum of rewards."""

    DESCRIPTION = "A reward by name, such as redness or 0.7*pickscore + 0.3*aesthetic. `noisetilt rewards` lists them."

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        """The inputs of the node."""
        return {
            "required": {
                "name": ("STRING", {"default": "redness", "multiline": False}),
                "heldout": ("BOOLEAN", {"default": False, "tooltip": "load its held-out version, for evaluation only"}),
            }
        }

    def load(self, name: str, heldout: bool) -> tuple[Reward]:
        """Loads the reward.

        Raises:
            ValueError: if a name is unknown or that of a function in a Python file.
        """
        return (load_reward(name, heldout),)


class NoisetiltStyleReward(RewardNode):
    """A learned reward that comes with noisetilt."""

    DESCRIPTION = "Emoji style, or agreement with an emoji's name. Trained on emoji; needs no download."

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        """The inputs of the node."""
        return {
            "required": {
                "name": ([*LEARNED[1:], LEARNED[0]], {"default": "style:3d"}),
                "heldout": ("BOOLEAN", {"default": False, "tooltip": "load the second network, for evaluation only"}),
            }
        }

    def load(self, name: str, heldout: bool) -> tuple[Reward]:
        """Loads the reward."""
        return (load_reward(name, heldout),)


class NoisetiltHubReward(RewardNode):
    """A published reward model."""

    DESCRIPTION = "PickScore, HPSv2, HPSv3, ImageReward and others, from the Hugging Face hub or a folder."

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        """The inputs of the node."""
        names = [name for name in HUB_NAMES if not name.startswith("video")]
        return {
            "required": {
                "name": (names, {"default": "pickscore"}),
                "dtype": (
                    list(DTYPES),
                    {"default": "published", "tooltip": "published: bfloat16 for hpsv3, else float32"},
                ),
            },
            "optional": {
                "path": ("STRING", {"default": "", "tooltip": "hub id or folder of the weights; empty: published ones"})
            },
        }

    def load(self, name: str, dtype: str, path: str = "") -> tuple[Reward]:
        """Loads the reward."""
        return (load_reward(name, path=path.strip() or None, dtype=DTYPES[dtype]),)


class NoisetiltPythonReward(RewardNode):
    """A function in a Python file of the folder ComfyUI/models/noisetilt_rewards."""

    DESCRIPTION = (
        "A function (images (batch, 3, H, W) in [0, 1], prompts) -> (batch,) or (images) -> (batch,), from a file that "
        "you put into ComfyUI/models/noisetilt_rewards. A workflow names the file; it cannot carry the code."
    )

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        """The inputs of the node."""
        return {
            "required": {
                "file": (sorted(python_files()),),
                "function": ("STRING", {"default": "reward", "multiline": False}),
                "differentiable": ("BOOLEAN", {"default": True}),
            }
        }

    @classmethod
    def IS_CHANGED(cls, file: str, function: str, differentiable: bool) -> float:
        """The time of the file's last change, so that an edited file is loaded again."""
        path = python_files().get(file)
        return path.stat().st_mtime if path else 0.0

    def load(self, file: str, function: str, differentiable: bool) -> tuple[Reward]:
        """Runs the file and takes the function.

        Raises:
            ValueError: if there is no such file or function, or the file raises an error.
        """
        path, function = python_files().get(file), function.strip()
        if path is None:
            raise ValueError(f"{file!r} is not in ComfyUI/models/{PYTHON_REWARDS}; put the file there")
        with torch.inference_mode(False):
            reward = load_from_file(f"{path}:{function}")
        return (replace(reward, name=f"{path.stem}:{function}", differentiable=differentiable),)


class NoisetiltRewardSum(RewardNode):
    """weight_a · a + weight_b · b."""

    DESCRIPTION = (
        "A weighted sum. With base_images, images of the unguided model, each reward is divided by its standard "
        "deviation over them, so that the weights compare rewards of unlike scales."
    )

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        """The inputs of the node."""
        weight = ("FLOAT", {"default": 0.5, "min": -1000.0, "max": 1000.0, "step": 0.0001})
        return {
            "required": {
                "reward_a": ("NOISETILT_REWARD",),
                "weight_a": weight,
                "reward_b": ("NOISETILT_REWARD",),
                "weight_b": weight,
            },
            "optional": {
                "base_images": ("IMAGE",),
                "prompt": ("STRING", {"default": "", "multiline": True, "tooltip": "the prompt of base_images"}),
            },
        }

    def load(
        self, reward_a: Any, weight_a: float, reward_b: Any, weight_b: float, base_images: Any = None, prompt: str = ""
    ) -> tuple[Reward]:
        """Builds the sum; the rewards of base_images are computed on ComfyUI's device."""
        import comfy.model_management

        total = rewards.weighted_sum([(weight_a, reward_a), (weight_b, reward_b)])
        if base_images is None:
            return (total,)
        with torch.inference_mode(False), torch.no_grad():
            images = base_images[..., :3].movedim(-1, 1).clone().to(comfy.model_management.get_torch_device())
            return (total.normalised(images, [prompt] * len(images)),)


def python_files() -> dict[str, Path]:
    """The user's Python files by name; the folder is made if it does not exist."""
    import folder_paths

    if PYTHON_REWARDS not in folder_paths.folder_names_and_paths:
        folder = os.path.join(folder_paths.models_dir, PYTHON_REWARDS)
        os.makedirs(folder, exist_ok=True)
        folder_paths.folder_names_and_paths[PYTHON_REWARDS] = ([folder], {".py"})
    names = folder_paths.get_filename_list(PYTHON_REWARDS)
    return {name: Path(folder_paths.get_full_path_or_raise(PYTHON_REWARDS, name)) for name in names}
