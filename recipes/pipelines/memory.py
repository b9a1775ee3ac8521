"""Memory and time per step of guided pipelines against the plain one: `python recipes/pipelines/memory.py`.

A Stable Diffusion pipeline with networks of the real build (four levels, attention, a decoder that enlarges 8 times)
and fewer channels runs on one thread of the CPU; its weights are random, which changes neither. Memory is the most the
process held beyond what it had before the run, as Linux counts it; beside it stands what `noisetilt plan` says by its
count on the meta device. Time is the thread's own, so that other programs do not count.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import functools
import gc
import re
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import diffusers
import torch
import transformers
from torch import nn

import noisetilt
from noisetilt import rewards
from noisetilt.integrations.diffusers.components import meta_tensor
from noisetilt.integrations.diffusers.plan import MODES, run_peaks
from noisetilt.report import table

TEXT, MIB = 64, 2**20


def parts(channels: int) -> tuple[nn.Module, nn.Module]:
    """A U-Net and an autoencoder of Stable Diffusion's build."""
    unet = diffusers.UNet2DConditionModel(
        sample_size=32,
        block_out_channels=(channels, 2 * channels, 4 * channels, 4 * channels),
        cross_attention_dim=TEXT,
        attention_head_dim=8,
    )
    vae = diffusers.AutoencoderKL(
        block_out_channels=(channels // 2, channels, channels, channels),
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        layers_per_block=2,
        norm_num_groups=8,
    )
    return unet.eval().requires_grad_(False), vae.eval().requires_grad_(False)


def pipeline(channels: int) -> Any:
    sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "tests" / "integrations"))
    from tiny_pipelines import WORDS, ddim, tokenizer

    text = transformers.CLIPTextConfig(
        vocab_size=len(WORDS),
        hidden_size=TEXT,
        intermediate_size=TEXT,
        num_hidden_layers=1,
        num_attention_heads=2,
        eos_token_id=2,
    )
    unet, vae = parts(channels)
    pipe = diffusers.StableDiffusionPipeline(
        vae=vae,
        text_encoder=transformers.CLIPTextModel(text).eval(),
        tokenizer=tokenizer(),
        unet=unet,
        scheduler=ddim(),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipe.set_progress_bar_config(disable=True)
    return pipe


def held(which: str) -> int:
    """Bytes of the process: "VmRSS" now, "VmHWM" at most since the last reset."""
    return 1024 * int(re.search(rf"{which}:\s+(\d+)", Path("/proc/self/status").read_text())[1])


def measured(run: Callable[[], Any]) -> tuple[float, int]:
    """Seconds of processor time of a run, and the most bytes it held beyond what there was."""
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")  # the high-water mark starts anew
    before, started = held("VmRSS"), time.process_time()
    run()
    return time.process_time() - started, held("VmHWM") - before


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--channels", type=int, default=32, help="of the first level; the real one has 320")
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--repeats", type=int, default=3)
    given = parser.parse_args()
    if not Path("/proc/self/clear_refs").exists():
        sys.exit("memory.py reads Linux's /proc, which is not here; run it on Linux")
    torch.manual_seed(0)
    torch.set_num_threads(1)
    with contextlib.suppress(AttributeError):
        ctypes.CDLL(None).mallopt(-3, 65536)  # freed tensors go back to the system at once, else the mark overlaps
    pipe = pipeline(given.channels)
    call = dict(prompt="a red fox", num_inference_steps=given.steps, output_type="pt", height=256, width=256)
    reward = rewards.load("redness")
    with torch.device("meta"):
        unet, vae = parts(given.channels)
    new = functools.partial(meta_tensor, dtype=torch.float32)
    x, latents = new(2, 4, 32, 32), new(1, 4, 32, 32)
    rest = dict(timestep=new(2), encoder_hidden_states=new(2, 77, TEXT))
    estimates = run_peaks(unet, lambda z: unet(z, **rest, return_dict=False)[0], x, vae, latents, latents)
    rows = []
    for label, at, checkpointing in MODES:
        if at is None:
            run = lambda: pipe(generator=torch.Generator().manual_seed(0), **call)  # noqa: E731
        else:
            aligned = noisetilt.align(pipe, reward, "ntrk", gradient_at=at, checkpointing=checkpointing)
            run = lambda aligned=aligned: aligned(seeds=[0], **call)  # noqa: E731
        run()
        found = [measured(run) for _ in range(given.repeats)]
        seconds, peak = min(s for s, _ in found) / given.steps, min(p for _, p in found)
        estimate = estimates[checkpointing].of(at)
        rows.append([label, peak / MIB, estimate / MIB, 100 * (estimate / peak - 1), seconds])
        rows[-1].append(seconds / rows[0][4])
        print(f"{label}: {seconds:.2f} s", file=sys.stderr, flush=True)
    heads = ["", "peak, MiB", "planned, MiB", "error, %", "seconds a step", "of plain"]
    print(table(heads, rows))
    print(
        f"\nU-Net of {sum(p.numel() for p in pipe.unet.parameters()) / 1e6:.1f} M weights, 256 × 256 pixels, float32,"
    )
    print("classifier-free guidance, one picture, one thread; the decoder is part of every guided step.")


if __name__ == "__main__":
    main()
