"""Train the flow model of emoji128 with its text encoders on a CPU; run it again and it goes on.

    python recipes/emoji128/train_cpu.py build/emoji128 build/emoji128/run --seconds 8000 --text build/emoji128/text

The first folder has pack.npz, vocabulary.json, vae.safetensors and features.pt. The second gets, every three minutes:
    checkpoint.pt         where the next run goes on, at the learning rate of its --rate
    before-decay.pt       the last checkpoint before the learning rate first fell: the better start for more training
    flow.safetensors, text.safetensors   averaged weights in float16, for assemble.py
and scale.json, and at the end samples.png. The learning rate is constant for a fraction --flat of the time, then falls
to zero. A run that goes on from weights with which it had fallen leaves before-decay.pt as it is.
An early layer is held to ImageNet features (REPA, arXiv 2410.06940) if there is features.pt, unless --no-alignment. A
run goes on only as it began, with them or without.

With --guided F, the network also learns to take a guidance strength from 1 to 5 as an input: for a fraction F of each
batch the target is what classifier-free guidance makes of two calls of the averaged network (Meng 2022, arXiv
2210.03142; here in the same run as the flow). flow.safetensors is then guidance-distilled at every time.
"""

from __future__ import annotations

import argparse
import copy
import math
import shutil
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from dataset import Dataset, load_dataset, save_grid
from diffusers import FluxPipeline
from networks import HEAD_WIDTH, autoencoder, new_text_encoders, new_transformer, pack
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel
from training import (
    PROMPTS,
    Precision,
    TimeLimit,
    Velocity,
    average_into,
    cached_captions,
    cached_latents,
    compiled,
    decode_packed,
    encode_prompts,
    euler_sample,
    flow_optimizers,
    keep_freed_memory,
    learning_rate_factor,
    load_parts,
    load_weights,
    log,
    normalisation,
    read_features,
    sample_times,
    save_weights,
    set_learning_rate,
    update,
    write_scale,
    write_whole,
)

HEADS, SAVE_EVERY, MOST_AVERAGING, ALIGNMENT_WEIGHT, STRONGEST = 4, 180, 0.999, 0.5, 5.0


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("build", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--seconds", type=float, required=True)
    parser.add_argument("--text", type=Path, help="folder of pretrain_text.py")
    parser.add_argument(
        "--start", type=Path, help="folder with flow.safetensors and text.safetensors, or of a pipeline, to start from"
    )
    parser.add_argument("--rate", type=float, default=1e-3, help="learning rate of AdamW; Muon's is 1.5 times as large")
    parser.add_argument("--flat", type=float, default=0.6, help="fraction of the time at a constant learning rate")
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--guided", type=float, default=0.0, help="fraction of a batch that trains the guidance input")
    parser.add_argument("--no-alignment", dest="alignment", action="store_false", help="do not use features.pt")
    parser.add_argument("--limit", type=int, help="only the first images, as many as features.py had")
    parser.add_argument("--every", type=int, default=50, help="steps between two lines of the log")
    parser.add_argument("--no-compile", dest="compile", action="store_false")
    options = parser.parse_args()
    if not 0 <= options.guided <= 0.5:
        parser.error(f"--guided is {options.guided}, expected 0 to 0.5; the rest of a batch trains the flow")
    return options


def alignment_targets(middle: Tensor) -> Tensor:
    """Unit vectors (n, 2, 64, 112) from features (n, 2, 112, 8, 8): one for each image token."""
    middle = middle.float()
    mean, std = (statistic((0, 1, 3, 4), keepdim=True) for statistic in (middle.mean, middle.std))
    return F.normalize((middle - mean) / std, dim=2).flatten(3).transpose(2, 3).half()


class Batches:
    """Random batches of images as latents, with a caption each."""

    def __init__(self, data: Dataset, vae: nn.Module, options: argparse.Namespace) -> None:
        latents = cached_latents(options.build, options.out, data, options.limit, vae)
        self.captions = cached_captions(options.build, options.out, data, options.limit)
        self.shift, self.scale = normalisation(latents)
        self.latents = ((latents.float() - self.shift) * self.scale).half()
        self.chance, self.size = data.chance, options.batch
        aligned = options.alignment and (options.build / "features.pt").exists()
        self.targets = alignment_targets(read_features(options.build, options.limit)["middle"]) if aligned else None

    def draw(self) -> tuple[Tensor, Tensor, Tensor | None]:
        """(x_0 (batch, 64, 64), token ids (batch, 16), features to align with (batch, 64, 112) or None)."""
        chosen = torch.multinomial(self.chance, self.size, replacement=True)
        mirrored = torch.randint(2, (self.size,))
        ids = self.captions[chosen, torch.randint(self.captions.shape[1], (self.size,))].long()
        targets = None if self.targets is None else self.targets[chosen, mirrored].float()
        return pack(self.latents[chosen, mirrored].float()), ids, targets


def load_start(network: nn.Module, text: nn.Module, folder: Path) -> None:
    """Loads weights that training begins with, from a folder of training or of a guidance-distilled pipeline."""
    if (folder / "model_index.json").exists():
        pipe = FluxPipeline.from_pretrained(folder, torch_dtype=torch.float32)
        network.load_state_dict(pipe.transformer.state_dict())
        text.sequence.load_state_dict(pipe.text_encoder_2.state_dict())
        text.pooled.load_state_dict(pipe.text_encoder.state_dict())
    else:
        load_weights(network, folder / "flow.safetensors")
        load_weights(text, folder / "text.safetensors")


class Trainer:
    """Networks, their averages, optimizers, and how far training is."""

    def __init__(self, data: Dataset, options: argparse.Namespace, features: int | None) -> None:
        self.network, self.text = new_transformer(HEADS), new_text_encoders(len(data.index))
        if options.text:
            load_weights(self.text, options.text / "text.safetensors")
        if options.start:
            load_start(self.network, self.text, options.start)
        self.average, self.average_text = (copy.deepcopy(m).requires_grad_(False) for m in (self.network, self.text))
        self.optimizers = flow_optimizers(self.network, self.text, options.rate)
        self.head = None
        if features is not None:
            self.head = nn.Sequential(nn.Linear(HEADS * HEAD_WIDTH, 512), nn.SiLU(), nn.Linear(512, features))
            self.optimizers[1].add_param_group({"params": list(self.head.parameters()), "peak": options.rate})
        self.network.transformer_blocks[-1].register_forward_hook(self._keep_middle)
        self.velocity = Velocity(self.network, Precision("bf16", torch.device("cpu")))
        self._compiled = compiled(self._predict) if options.compile else self._predict
        self._teacher = Velocity(self.average, self.velocity.precision)
        self._empty = encode_prompts([""], data.index)
        self.guided = round(options.guided * options.batch)
        self.one, self.images, self.middle = torch.ones(options.batch), 0, None
        self.decayed = False  # whether the learning rate has fallen in this or an earlier run

    def _keep_middle(self, module: nn.Module, given: Any, result: tuple[Tensor, Tensor]) -> None:
        self.middle = result[1]

    def _predict(self, x_t: Tensor, t: Tensor, ids: Tensor, strength: Tensor) -> tuple[Tensor, Tensor | None]:
        """The velocity, and unit vectors that are to be the features' at the image tokens."""
        v = self.velocity._network(x_t, t, *self.text(ids), strength)
        return v, None if self.head is None else F.normalize(self.head(self.middle).float(), dim=-1)

    @torch.no_grad()
    def _guided_targets(self, x_t: Tensor, t: Tensor, ids: Tensor, strength: Tensor) -> Tensor:
        """Velocities (m, 64, 64) that classifier-free guidance of the averaged network makes."""
        both = torch.cat([ids, self._empty.expand_as(ids)])
        with torch.autocast("cpu", torch.bfloat16):
            given = self.average_text(both)
            v, unconditional = self._teacher(x_t.repeat(2, 1, 1), t.repeat(2), *given, self.one[: len(both)]).chunk(2)
        return unconditional + strength[:, None, None] * (v - unconditional)

    def step(self, x_0: Tensor, ids: Tensor, targets: Tensor | None) -> tuple[float, float]:
        """One step of training; (loss of the flow at guidance 1, mean cosine with the features)."""
        t, noise = sample_times(len(x_0)), torch.randn_like(x_0)
        velocities, strength, plain = noise - x_0, self.one, slice(self.guided, None)
        x_t = x_0 + t[:, None, None] * velocities
        if self.guided:
            some = slice(self.guided)
            strength = self.one.clone()
            strength[some] += (STRONGEST - 1) * torch.rand(self.guided)
            velocities = velocities.clone()
            velocities[some] = self._guided_targets(x_t[some], t[some], ids[some], strength[some])
        with torch.autocast("cpu", torch.bfloat16):
            v, aligned = self._compiled(x_t, t, ids, strength)
        errors = (v.float() - velocities).square().mean((1, 2))
        loss, flow_loss = errors.mean(), errors[plain].mean()
        cosine = torch.zeros(()) if targets is None else (aligned * targets).sum(-1).mean()
        update(
            loss if targets is None else loss + ALIGNMENT_WEIGHT * (1 - cosine),
            self.optimizers,
            [*self.network.parameters(), *self.text.parameters()],
        )
        self.images += len(x_0)
        for average, module in ((self.average, self.network), (self.average_text, self.text)):
            average_into(average, module, self.images // len(x_0), MOST_AVERAGING)
        return flow_loss.item(), cosine.item()

    def _parts(self) -> dict[str, Any]:
        parts = {
            "network": self.network,
            "text": self.text,
            "average": self.average,
            "average_text": self.average_text,
            "muon": self.optimizers[0],
            "adamw": self.optimizers[1],
        }
        return parts if self.head is None else {**parts, "head": self.head}

    def save(self, out: Path) -> None:
        """Checkpoint, a copy of it until the learning rate has fallen, and averaged weights."""
        state = {name: part.state_dict() for name, part in self._parts().items()}
        state |= {"images": self.images, "decayed": self.decayed}
        write_whole(out / "checkpoint.pt", lambda unfinished: torch.save(state, unfinished))
        if not self.decayed:
            write_whole(out / "before-decay.pt", lambda unfinished: shutil.copy(out / "checkpoint.pt", unfinished))
        save_weights(self.average, out / "flow.safetensors")
        save_weights(self.average_text, out / "text.safetensors")

    def resume(self, file: Path) -> None:
        state = torch.load(file)
        if ("head" in state) != (self.head is not None):
            before, mended = ("with", "run it with features.pt and without") if "head" in state else ("without", "pass")
            raise ValueError(
                f"{file} was trained {before} the features of features.pt; {mended} --no-alignment to go on"
            )
        load_parts(self._parts(), state)
        self.images, self.decayed = state["images"], state.get("decayed", True)


def train(trainer: Trainer, batches: Batches, options: argparse.Namespace) -> None:
    limit, saved, losses = TimeLimit(options.seconds), time.time(), []
    with sdpa_kernel(SDPBackend.MATH):
        while limit.progress < 1:
            factor = learning_rate_factor(limit.progress, len(losses), 200, options.flat)
            set_learning_rate(trainer.optimizers, factor)
            loss, cosine = trainer.step(*batches.draw())
            if not math.isfinite(loss):
                raise FloatingPointError(
                    f"the loss is {loss} at step {len(losses)}; {options.out} has the last checkpoint, from which the "
                    "same command goes on; try a smaller --rate, or --no-compile"
                )
            losses.append(loss)
            if len(losses) % options.every == 0:
                rate = len(losses) * options.batch / limit.elapsed
                mean = np.mean(losses[-options.every :])
                log(f"{trainer.images} images, loss {mean:.4f}, cosine {cosine:.3f}, {rate:.1f} images/s")
            trainer.decayed |= limit.progress > options.flat
            if time.time() - saved > SAVE_EVERY:
                trainer.save(options.out)
                saved = time.time()
    trainer.save(options.out)
    log(f"{trainer.images} images in all, loss {np.mean(losses[-200:]):.4f}")


def main() -> None:
    options = parse()
    options.out.mkdir(parents=True, exist_ok=True)
    keep_freed_memory()
    torch.manual_seed(time.time_ns())
    data = load_dataset(options.build, options.limit)
    vae = load_weights(autoencoder(), options.build / "vae.safetensors").requires_grad_(False)
    vae.to(memory_format=torch.channels_last)
    batches = Batches(data, vae, options)
    write_scale(options.out, batches.shift, batches.scale)
    trainer = Trainer(data, options, None if batches.targets is None else batches.targets.shape[-1])
    if (options.out / "checkpoint.pt").exists():
        trainer.resume(options.out / "checkpoint.pt")
    train(trainer, batches, options)
    velocity = Velocity(trainer.average, trainer.velocity.precision)
    ids = encode_prompts([p for p in PROMPTS if all(word in data.index for word in p.split())], data.index)
    if len(ids):
        tokens = euler_sample(velocity, trainer.average_text, ids, data.index, cfg=3.0)
        save_grid(decode_packed(vae, tokens, batches.shift, batches.scale), 8, options.out / "samples.png")


if __name__ == "__main__":
    main()
