"""Shared code of the examples: pipelines and rewards, real or tiny, and a comparison with the unguided pipeline.

With `--model tiny`, the default, an example runs on random networks of a few thousand weights, built from the real
classes in a second. The images are meaningless, but every line of the example is executed.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import noisetilt
from noisetilt import Method, rewards
from noisetilt.cli.arguments import parse_option
from noisetilt.methods import find_method

TINY = "tiny"
TINY_TOWERS = {
    "aesthetic": "aesthetic",
    "pickscore": "clip",
    "clipscore": "clip",
    "video-consistency": "clip",
    "imagereward": "imagereward",
}
TESTS = Path(__file__).resolve().parents[1] / "tests"


def options(
    description: str, real: str, argv: Sequence[str] | None, method: str = "ntrk", rho: float = 0.004, **further: Any
) -> argparse.Namespace:
    """The command line of an example.

    Args:
        description: its docstring.
        real: the hub name of a model for the example.
        argv: the command line, or None for the program's.
        method: the default of --method.
        rho: the strength of noise tilting for the size of this model's latents, unless --set gives another.
        further: additional options, by name and default value.
    """
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--model", default=TINY, help=f"a hub name or folder, such as {real} (default: tiny)")
    parser.add_argument("--prompt", default="a red fox in the snow")
    parser.add_argument("--method", default=method, help="see `noisetilt methods` (default: %(default)s)")
    parser.add_argument(
        "--set",
        action="append",
        type=parse_option,
        default=[],
        metavar="OPTION=VALUE",
        help=f"an option of the method, such as scale=3 (default of noise tilting: rho={rho})",
    )
    parser.set_defaults(rho=rho)
    parser.add_argument("--steps", type=int, default=25)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("out"), help="output folder")
    for name, default in further.items():
        parser.add_argument(f"--{name}", type=type(default), default=default)
    return parser.parse_args(argv)


def method(given: argparse.Namespace) -> Method:
    """The method of --method, with the options of --set."""
    found = find_method(given.method)
    strength = {"rho": given.rho} if given.method.startswith("ntrk") and given.method != "ntrk-black-box" else {}
    return found.replace(**{**strength, **dict(given.set)})


def pipeline(given: argparse.Namespace, family: str) -> tuple[Any, dict[str, Any]]:
    """The pipeline of --model, on the GPU if there is one, and arguments for its call."""
    if given.model == TINY:
        sys.path.insert(0, str(TESTS / "integrations"))
        from tiny_pipelines import build

        pipe, call = build(family)
        return pipe, call
    import diffusers

    device = "cuda" if torch.cuda.is_available() else "cpu"
    dtype = torch.bfloat16 if device == "cuda" else torch.float32
    pipe = diffusers.DiffusionPipeline.from_pretrained(given.model, torch_dtype=dtype).to(device)
    return pipe, {"num_inference_steps": given.steps, "output_type": "pt"}


def reward(given: argparse.Namespace, name: str, heldout: bool = False) -> rewards.Reward:
    """A published reward, or a tiny network of the same classes if the pipeline is tiny."""
    if given.model != TINY:
        return rewards.load(name, heldout=heldout)
    sys.path.insert(0, str(TESTS / "rewards"))
    import tiny_towers

    loaded = rewards.hub.heldout_name(name) if heldout else name
    folder = Path(tempfile.mkdtemp(prefix="noisetilt-"))
    getattr(tiny_towers, TINY_TOWERS[loaded.split(":")[-1]])(folder)
    return rewards.load(name, heldout=heldout, path=folder)


def compare(
    pipe: Any,
    given: argparse.Namespace,
    call: dict[str, Any],
    reward: Callable[..., Tensor],
    heldout: Callable[..., Tensor] | None = None,
    **options: Any,
) -> dict[str, Tensor]:
    """Images (or videos) without and with guidance at the same seed; prints their rewards.

    Args:
        pipe, given, call: from `pipeline` and `options`.
        reward: the reward.
        heldout: a held-out reward; if it decreases while the reward increases, that is reward hacking.
        options: further arguments of `align`.
    """
    images = {}
    for name, used in (("base", "base"), (given.method, method(given))):
        aligned = noisetilt.align(pipe, reward, used, heldout=heldout, **options)
        output = aligned(given.prompt, seeds=[given.seed], **call)
        images[name] = output[0].float().cpu()
        line = f"{name:8} reward {output.rewards.item():+.4f}"
        if heldout is not None:
            line += f"  held-out {output.heldout.item():+.4f}"
        print(f"{line}  {output.trace.nfe:g} evaluations, {output.trace.seconds:.1f} s")
    return images


def save(images: dict[str, Tensor], folder: Path, name: str) -> Path:
    """Writes images (1, 3, H, W) side by side to a PNG, or videos (1, frames, 3, H, W) to a GIF; returns the file."""
    from PIL import Image

    folder.mkdir(parents=True, exist_ok=True)
    strip = torch.cat([one[0] for one in images.values()], dim=-1)
    levels = (strip.clamp(0, 1) * 255).round().byte().movedim(-3, -1).numpy()
    if levels.ndim == 3:
        file = folder / f"{name}.png"
        Image.fromarray(levels).save(file)
    else:
        file = folder / f"{name}.gif"
        frames = [Image.fromarray(frame) for frame in levels]
        frames[0].save(file, save_all=True, append_images=frames[1:], duration=62, loop=0)
    print(f"{', '.join(images)} are in {file}")
    return file
