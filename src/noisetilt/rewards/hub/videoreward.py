"""VideoReward: what people prefer in videos, by Qwen2-VL with a reward head (Liu et al. 2025, arXiv 2501.13918)."""

from __future__ import annotations

import ast
import inspect
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..reward import Reward
from .files import fill, frozen, moved, pretrained, read_state, transformers
from .qwen import MERGE, frame_numbers, normalised, patches, resized
from .video import checked

QWEN = "Qwen/Qwen2-VL-2B-Instruct"
TOKENS = {"vq": "<|VQ_reward|>", "mq": "<|MQ_reward|>", "ta": "<|TA_reward|>"}
VIDEO = "<|video_pad|>"
CHAT = (
    "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n"
    "<|im_start|>user\n<|vision_start|>{video}<|vision_end|>{question}<|im_end|>\n"
    "<|im_start|>assistant\n"
)
TEMPLATE = "DETAILED_PROMPT_WITH_SPECIAL_TOKEN"
CHECKPOINTS = ("model.safetensors", "model.pth")


@dataclass(frozen=True)
class Settings:
    """What the published model_config.json says.

    Attributes:
        fps, count: frames a second that are looked at, or how many in all.
        pixels: of a frame, at most.
        outputs: of the head: 1, or 3, one for each token.
        scale: of LoRA's product that is added to a weight.
        means, stds: of the three scores over videos, by which they are standardised.
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
        ValueError: if they are of a scorer of another kind.
    """
    whole = json.loads(file.read_text("utf-8"))
    data, model, lora = whole["data_config"], whole["model_config"], whole.get("peft_lora_config") or {}
    for part, name, expected in (
        (data, "sample_type", "uniform"),
        (data, "prompt_template_type", "detailed_special"),
        (model, "use_special_tokens", True),
    ):
        if part.get(name) != expected:
            raise ValueError(f"{file} has {name} = {part.get(name)!r}, and only {expected!r} is known here")
    if model["output_dim"] not in (1, 3):
        raise ValueError(f"{file} has output_dim = {model['output_dim']}; expected 1 or 3")
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
    """The question put to the model, with {text_prompt} where the prompt goes: a text file, or the published
    prompt_template.py, which is read and not run.

    Raises:
        ValueError: if it is not there, or lacks the prompt or one of the three tokens.
    """
    text = file.read_text("utf-8")
    if file.suffix == ".py":
        named = (node for node in ast.parse(text).body if isinstance(node, ast.Assign))
        found = [node.value for node in named if getattr(node.targets[0], "id", None) == TEMPLATE]
        if not found:
            raise ValueError(f"{file} does not define {TEMPLATE}; give the published prompt_template.py")
        text = ast.literal_eval(found[0])
    places = [text.find(token) for token in TOKENS.values()]
    if "{text_prompt}" not in text or -1 in places or places != sorted(places):
        raise ValueError(f"{file} needs {{text_prompt}} and, in this order, {', '.join(TOKENS.values())}")
    return text


def merged(state: dict[str, Tensor], scale: float) -> dict[str, Tensor]:
    """A peft model's state as that of the model inside, each adapter's scale · B A added to its weight.

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


def parted(state: dict[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """The state of the Qwen2VLModel, under the names of today's transformers, and that of the head."""
    own, head = {}, {}
    for name, tensor in state.items():
        name = name.removeprefix("model.") if name.startswith(("model.visual.", "model.language_model.")) else name
        name = f"language_model.{name.removeprefix('model.')}" if name.startswith("model.") else name
        if name.startswith("rm_head."):
            head[name.removeprefix("rm_head.")] = tensor.float()
        elif not name.startswith("lm_head."):
            own[name] = tensor.float()
    return own, head


class Scorer(nn.Module):
    """Qwen2-VL and its reward head.

    Args:
        model: a Qwen2VLModel.
        head: of its hidden states.
        tokens: the three reward tokens' numbers.
    """

    tokens: Tensor

    def __init__(self, model: nn.Module, head: nn.Linear, tokens: Sequence[int]) -> None:
        super().__init__()
        self.model, self.head = model, head
        self.register_buffer("tokens", torch.tensor(tokens), persistent=False)

    def forward(self, pixels: Tensor, grid: tuple[int, int, int], ids: Tensor, mask: Tensor) -> Tensor:
        """(batch, 3), what the head says at the reward tokens, in the order of the text.

        Args:
            pixels: (batch, patches, values).
            grid: (t, h, w) of the patches of each video.
            ids, mask: (batch, length), the text around them, padded on the right.
        """
        batch, length = ids.shape
        # The published forward gives no positions, and transformers 4.45 then counts tokens in all three axes.
        positions = torch.arange(length, device=ids.device).expand(3, batch, length)
        hidden = self.model(
            input_ids=ids,
            attention_mask=mask,
            position_ids=positions,
            pixel_values_videos=pixels.flatten(0, 1),
            video_grid_thw=torch.tensor([grid] * batch, device=ids.device),
            use_cache=False,
        ).last_hidden_state
        found = self.head(hidden[torch.isin(ids, self.tokens)]).unflatten(0, (batch, len(self.tokens)))
        return found[..., 0] if found.shape[-1] == 1 else found.diagonal(dim1=1, dim2=2)


class Judge:
    """The standardised scores of videos, weighted.

    Args:
        scorer: see above.
        tokenizer: of the model, with the reward tokens.
        template: the question, see `read_template`.
        settings: see above.
        weights: of visual quality, motion quality and text alignment.
        video_fps: frames a second of the videos that will be judged.
    """

    def __init__(
        self,
        scorer: Scorer,
        tokenizer: Any,
        template: str,
        settings: Settings,
        weights: Sequence[float],
        video_fps: float,
    ) -> None:
        self.scorer, self.tokenizer, self.template, self.settings = scorer, tokenizer, template, settings
        self.weights, self.video_fps = weights, video_fps

    def __call__(self, videos: Tensor, prompts: Sequence[str]) -> Tensor:
        """(batch,) from videos (batch, frames, 3, H, W) in [0, 1] and a prompt for each; in the videos' dtype."""
        return (self.scores(videos, prompts) * videos.new_tensor(self.weights)).sum(1)

    def scores(self, videos: Tensor, prompts: Sequence[str]) -> Tensor:
        """Standardised visual quality, motion quality and text alignment, (batch, 3)."""
        if isinstance(prompts, str) or len(prompts) != len(videos):
            raise ValueError(f"{len(videos)} videos and the prompts {prompts!r}; give a list of one prompt per video")
        settings, dtype = self.settings, moved(self.scorer, videos)
        seen = frame_numbers(checked(videos).shape[1], self.video_fps, settings.fps, settings.count)
        frames = videos[:, seen].to(torch.promote_types(videos.dtype, torch.float32))
        pixels, grid = patches(normalised(resized(frames, settings.pixels)))
        text = self._text(prompts, math.prod(grid) // MERGE**2).to(videos.device)
        raw = self.scorer(pixels.to(dtype), grid, text.input_ids, text.attention_mask).to(frames.dtype)
        means, stds = (raw.new_tensor(values) for values in (settings.means, settings.stds))
        return ((raw - means) / stds).to(videos.dtype)

    def _text(self, prompts: Sequence[str], count: int) -> Any:
        """The tokens of the conversation, with `count` places for the video."""
        for prompt in prompts:
            if any(token in prompt for token in (VIDEO, *TOKENS.values())):
                raise ValueError(f"the prompt {prompt!r} holds a token of the scorer; leave it out")
        questions = [self.template.replace("{text_prompt}", prompt) for prompt in prompts]
        texts = [CHAT.format(video=VIDEO * count, question=question) for question in questions]
        return self.tokenizer(texts, padding=True, return_tensors="pt")


def videoreward(
    folder: str | Path,
    base: str | Path | None = None,
    part: str = "overall",
    video_fps: float = 16.0,
    dtype: torch.dtype = torch.float32,
) -> Reward:
    """VideoReward's standardised scores of a video: visual quality, motion quality, text alignment, or their sum.

    The steps are those of the published inference code: frames at 2 a second, resized to multiples of 28 and at most
    `max_frame_pixels`; one question with three reward tokens, whose hidden states a linear head reads; tokens counted
    in sequence, without Qwen2-VL's positions in time and space. It was run on tiny random networks only: no published
    score was reproduced, and the published checkpoint's tensor names are taken from the code that writes them.

    Args:
        folder: a local folder with model_config.json and checkpoint-*/model.pth (or model.safetensors) of
            KwaiVGI/VideoReward on the hub, and prompt_template.py of KwaiVGI/VideoAlign on GitHub, which is not ours to
            pass on. A .safetensors file, which is preferred, holds the same names.
        base: hub id or folder of the Qwen2-VL with its configuration and tokenizer; the folder itself if it has a
            config.json.
        part: "overall" (the sum), "vq", "mq" or "ta".
        video_fps: frames a second of the videos that will be judged; Wan makes 16.
        dtype: that the network computes in.
    Raises:
        ValueError: if something is missing, or of another kind than the published.
    """
    library = transformers()
    if part != "overall" and part not in TOKENS:
        raise ValueError(f"videoreward has no part {part!r}; expected overall, {', '.join(TOKENS)}")
    place = Path(folder).expanduser()
    settings, template = read_settings(found(place, "model_config.json")), read_template(template_in(place))
    base = base or (place if (place / "config.json").is_file() else QWEN)
    config = pretrained(library.AutoConfig, base, "videoreward's configuration")
    words = pretrained(library.AutoTokenizer, base, "videoreward's tokenizer")
    words.padding_side = "right"
    words.add_tokens([token for token in TOKENS.values() if token not in words.get_vocab()], special_tokens=True)
    numbers = words.convert_tokens_to_ids(list(TOKENS.values()))
    scorer = load_scorer(library, config, checkpoint_in(place), settings, numbers)
    if words.convert_tokens_to_ids(VIDEO) != config.video_token_id:
        raise ValueError(f"the tokenizer in {base} does not know {VIDEO} as its model does; give Qwen2-VL's own")
    weights = [float(part in ("overall", name)) for name in TOKENS]
    judge = Judge(frozen(scorer, dtype), words, template, settings, weights, video_fps)
    return Reward("videoreward" if part == "overall" else f"videoreward:{part}", judge, video=True)


def load_scorer(library: Any, config: Any, file: Path, settings: Settings, tokens: Sequence[int]) -> Scorer:
    """The network with the weights of a checkpoint, whose embedding says how many tokens there are."""
    if "pixel_values_videos" not in inspect.signature(library.Qwen2VLModel.forward).parameters:
        raise ImportError(
            f"videoreward needs a newer transformers than {library.__version__}; pip install -U transformers"
        )
    own, head = parted(merged(read_state(file), settings.scale))
    embedding = own.get("language_model.embed_tokens.weight")
    if embedding is None or "weight" not in head:
        raise ValueError(f"{file} is not VideoReward's whole model: it has no embed_tokens or no rm_head")
    if max(tokens) >= len(embedding):
        raise ValueError(f"{file} has {len(embedding)} tokens and a reward token would be number {max(tokens)}")
    config.get_text_config().vocab_size, width = embedding.shape
    linear = nn.Linear(width, settings.outputs, bias=False)
    return Scorer(fill(library.Qwen2VLModel(config), own, file), fill(linear, head, file), tokens)


def found(place: Path, *names: str) -> Path:
    """The first of these files that the folder has.

    Raises:
        ValueError: if it has none.
    """
    there = [place / name for name in names if (place / name).is_file()]
    if not there:
        raise ValueError(
            f"videoreward needs a folder with {' or '.join(names)}, and {str(place)!r} has none; give path=, with the "
            "files of KwaiVGI/VideoReward (hub) and prompt_template.py of KwaiVGI/VideoAlign (GitHub) in it"
        )
    return there[0]


def template_in(place: Path) -> Path:
    return found(place, "template.txt", "prompt_template.py")


def checkpoint_in(place: Path) -> Path:
    """The checkpoint with the highest number, or the one in the folder itself."""
    folders = sorted(place.glob("checkpoint-*"), key=lambda folder: int(folder.name.rpartition("-")[2]))
    return found(folders[-1] if folders else place, *CHECKPOINTS)
