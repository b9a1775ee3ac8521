"""The node that shows images with their rewards, and the rewards of the steps that made them."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import torch
from PIL import Image, ImageDraw
from torch import Tensor

from noisetilt.integrations.inference_tensors import normal_tensor
from noisetilt.report.pictures import to_image
from noisetilt.rewards.reward import evaluate_each, reward_name

LINE, PANEL = 18, (420, 240)
COLOURS = {"reward": "#c0392b", "held-out": "#2e6da4"}


def captioned(image: Tensor, lines: Sequence[str]) -> Image.Image:
    """An image (3, H, W) in [0, 1] with lines of text below it; images narrower than 192 pixels are enlarged."""
    tile = to_image(image)
    scale = max(1, -(-192 // tile.width))
    tile = tile.resize((tile.width * scale, tile.height * scale), Image.Resampling.NEAREST)
    sheet = Image.new("RGB", (tile.width, tile.height + LINE * len(lines) + 6), "white")
    sheet.paste(tile)
    draw = ImageDraw.Draw(sheet)
    for number, line in enumerate(lines):
        draw.text((4, tile.height + 3 + LINE * number), line, fill="black", font_size=13)
    return sheet


def curves(values: dict[str, Tensor]) -> Image.Image:
    """The mean over images of rewards (step, image), each on its own scale, with its first and last value."""
    width, height = PANEL
    sheet = Image.new("RGB", (width, height + LINE * len(values)), "white")
    draw = ImageDraw.Draw(sheet)
    for number, (name, rows) in enumerate(values.items()):
        means = rows.float().mean(1)
        low, high = float(means.min()), float(means.max())
        heights = (means - low) / (high - low if high > low else 1.0)
        across = torch.linspace(10, width - 10, len(means)).tolist()
        down = (height - 10 - (height - 20) * heights).tolist()
        draw.line(list(zip(across, down, strict=True)), fill=COLOURS[name], width=2)
        text = f"{name}: {means[0]:+.4g} at step 1, {means[-1]:+.4g} at step {len(means)}"
        draw.text((10, height + LINE * number), text, fill=COLOURS[name], font_size=13)
    return sheet


class NoisetiltPreview:
    """Shows images with their rewards, best first, and the rewards of the sampling steps."""

    CATEGORY = "noisetilt"
    DESCRIPTION = "Evaluates images with a reward and a held-out reward, and shows them sorted, with their values."
    RETURN_TYPES = ("IMAGE", "FLOAT")
    RETURN_NAMES = ("best image", "mean reward")
    FUNCTION = "preview"
    OUTPUT_NODE = True

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        """The inputs of the node."""
        return {
            "required": {"images": ("IMAGE",), "reward": ("NOISETILT_REWARD",)},
            "optional": {
                "heldout": ("NOISETILT_REWARD",),
                "trace": ("NOISETILT_TRACE",),
                "prompt": ("STRING", {"default": "", "multiline": True}),
            },
        }

    def preview(
        self, images: Tensor, reward: Any, heldout: Any = None, trace: Any = None, prompt: str = ""
    ) -> dict[str, Any]:
        """Evaluates images (batch, H, W, 3) in [0, 1] on ComfyUI's device, and shows them."""
        import comfy.model_management

        with torch.inference_mode(False), torch.no_grad():
            pixels = normal_tensor(images).movedim(-1, 1)[:, :3].float()
            # An IMAGE lies in the memory of the CPU, and rewards run where their images are.
            moved, prompts = pixels.to(comfy.model_management.get_torch_device()), [prompt] * len(pixels)
            values = {reward_name(reward): evaluate_each(reward, moved, prompts).cpu()}
            if heldout is not None:
                values[f"held-out {reward_name(heldout)}"] = evaluate_each(heldout, moved, prompts).cpu()
        first = next(iter(values.values()))
        order = first.argsort(descending=True).tolist()
        shown = [captioned(pixels[i], [f"{name} {value[i]:+.4f}" for name, value in values.items()]) for i in order]
        if trace is not None:
            steps = {"reward": trace.trace.rewards, "held-out": trace.trace.heldout}
            shown.append(curves({name: rows for name, rows in steps.items() if rows.numel()}))
        best = order[0]
        return {"ui": {"images": save_temporary(shown)}, "result": (images[best : best + 1], float(first.mean()))}


def save_temporary(images: Sequence[Image.Image]) -> list[dict[str, str]]:
    """Writes images to ComfyUI's temporary folder; returns what its frontend needs to show them."""
    import folder_paths

    folder, name, counter, subfolder, _ = folder_paths.get_save_image_path(
        "noisetilt", folder_paths.get_temp_directory()
    )
    saved = []
    for number, image in enumerate(images, start=counter):
        file = f"{name}_{number:05}_.png"
        image.save(os.path.join(folder, file))
        saved.append({"filename": file, "subfolder": subfolder, "type": "temp"})
    return saved
