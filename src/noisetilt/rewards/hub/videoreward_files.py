"""The published files of VideoReward: settings, question template and checkpoint."""

from __future__ import annotations

import ast
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from ..._files import json_object
from ..._messages import one_line

TOKENS = {"vq": "<|VQ_reward|>", "mq": "<|MQ_reward|>", "ta": "<|TA_reward|>"}
TEMPLATE = "DETAILED_PROMPT_WITH_SPECIAL_TOKEN"
CHECKPOINTS = ("model.safetensors", "model.pth")


@dataclass(frozen=True)
class Settings:
    """The settings in the published model_config.json.

    Attributes:
        fps, count: evaluated frames per second, or their number if it is not None.
        pixels: maximal number of pixels per frame.
        outputs: outputs of the head: 1, or 3, one per token.
        scale: factor on the LoRA product that is added to a weight.
        means, stds: of the three scores, for standardisation.
    """

    fps: float
    count: int | None
    pixels: int
    outputs: int
    scale: float
    means: tuple[float, float, float]
    stds: tuple[float, float, float]


def read_settings(file: Path) -> Settings:
    """The settings in a model_config.json.

    Raises:
        ValueError: if a setting is missing or not supported.
    """
    try:
        return _settings(json_object(file), file)
    except (LookupError, TypeError, AttributeError, ArithmeticError) as error:
        reason = f"{type(error).__name__}: {one_line(error)}"
        raise ValueError(f"{file} lacks a setting, or it has another type ({reason}); use the published file") from None


def _settings(whole: dict[str, Any], file: Path) -> Settings:
    data, model, lora = whole["data_config"], whole["model_config"], whole.get("peft_lora_config") or {}
    for part, name, expected in (
        (data, "sample_type", "uniform"),
        (data, "prompt_template_type", "detailed_special"),
        (model, "use_special_tokens", True),
    ):
        if part.get(name) != expected:
            raise ValueError(f"{file} has {name} = {part.get(name)!r}, expected {expected!r}; use the published file")
    if model["output_dim"] not in (1, 3):
        raise ValueError(f"{file} has output_dim = {model['output_dim']}; expected 1 or 3; use the published file")
    inference = whole.get("inference_config") or {}
    means, stds = (
        tuple(inference.get(f"{name}_{kind}", neutral) for name in ("VQ", "MQ", "TA"))
        for kind, neutral in (("mean", 0.0), ("std", 1.0))
    )
    rank = lora.get("lora_r", 1)
    scale = lora.get("lora_alpha", 0) / (math.sqrt(rank) if lora.get("use_rslora") else rank)
    count, pixels = data.get("num_frames"), data["max_frame_pixels"]
    return Settings(data.get("fps", 2.0), count, pixels, model["output_dim"], scale, means, stds)


def read_template(file: Path) -> str:
    """The question to the model, with {text_prompt} in place of the prompt: from a text file, or from the published
    prompt_template.py, which is parsed and not executed.

    Raises:
        ValueError: if it is missing, or has no {text_prompt} or not the three tokens.
    """
    try:
        text = file.read_text("utf-8")
        text = _assigned(text) if file.suffix == ".py" else text
    except (ValueError, SyntaxError, LookupError, TypeError, MemoryError, RecursionError):
        raise ValueError(f"{file} does not define {TEMPLATE} as a text; use the published prompt_template.py") from None
    places = [text.find(token) for token in TOKENS.values()]
    if "{text_prompt}" not in text or -1 in places or places != sorted(places):
        raise ValueError(f"{file} needs {{text_prompt}} and, in this order, {', '.join(TOKENS.values())}")
    return text


def _assigned(code: str) -> str:
    """The text that a module assigns to TEMPLATE; the module is not executed."""
    named = (node for node in ast.parse(code).body if isinstance(node, ast.Assign))
    values = [node.value for node in named if getattr(node.targets[0], "id", None) == TEMPLATE]
    return str(ast.literal_eval(values[0]))


def merge_lora(state: dict[str, Tensor], scale: float) -> dict[str, Tensor]:
    """The state of a peft model's base model, with scale · B A of each adapter added to its weight.

    Args:
        state: by name, with or without adapters.
        scale: lora_alpha / r.
    """
    plain = {name.removeprefix("base_model.model.").replace(".base_layer.", "."): t for name, t in state.items()}
    saved = {n.replace(".modules_to_save.default.", "."): t for n, t in plain.items() if ".modules_to_save." in n}
    weights = {n.replace(".original_module.", "."): t for n, t in plain.items() if ".modules_to_save." not in n}
    weights |= saved
    for name in [n for n in weights if ".lora_A." in n or ".lora_embedding_A." in n]:
        down, up = weights.pop(name), weights.pop(name.replace("_A.", "_B."))
        product = (up.float() @ down.float()) * scale
        target = name.split(".lora_")[0] + ".weight"
        weights[target] = weights[target].float() + (product.T if "embedding" in name else product)
    return weights


def split_state(state: dict[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """The state of the Qwen2VLModel, under the names of current transformers, and that of the head."""
    own, head = {}, {}
    for name, tensor in state.items():
        name = name.removeprefix("model.") if name.startswith(("model.visual.", "model.language_model.")) else name
        name = f"language_model.{name.removeprefix('model.')}" if name.startswith("model.") else name
        if name.startswith("rm_head."):
            head[name.removeprefix("rm_head.")] = tensor
        elif not name.startswith("lm_head."):
            own[name] = tensor
    return own, head


def find_file(folder: Path, *names: str) -> Path:
    """The first of these files in the folder.

    Raises:
        ValueError: if there is none.
    """
    files = [folder / name for name in names if (folder / name).is_file()]
    if not files:
        raise ValueError(
            f"videoreward needs a folder with {' or '.join(names)}, and {str(folder)!r} has none; pass path=, the "
            "folder of the files of KwaiVGI/VideoReward (hub) and prompt_template.py of KwaiVGI/VideoAlign (GitHub)"
        )
    return files[0]


def find_template(folder: Path) -> Path:
    """The file of the question template."""
    return find_file(folder, "template.txt", "prompt_template.py")


def find_checkpoint(folder: Path) -> Path:
    """The checkpoint with the highest number, or the one in the folder itself."""
    folders = sorted(folder.glob("checkpoint-*"), key=lambda one: int(one.name.rpartition("-")[2]))
    return find_file(folders[-1] if folders else folder, *CHECKPOINTS)
