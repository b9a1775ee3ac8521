"""Train emoji128 and emoji128-turbo on one GPU in some minutes: flow, guidance distillation, few-step distillation.

    python recipes/emoji128/train_gpu.py build/emoji128 out --backbones weights --seconds 300 70 140 --start run

The first folder has pack.npz, vocabulary.json, vae.safetensors; --start has flow.safetensors and text.safetensors of an
earlier training or of pretrain_text.py (text alone). The stages, with their seconds:
1. flow: the velocity network and the text encoders; an early layer is held to ImageNet features (REPA, arXiv
   2410.06940). Writes flow.safetensors, text.safetensors, scale.json.
2. guidance: one call with the guidance strength as an input does what two calls mixed by classifier-free guidance do
   (Meng 2022, arXiv 2210.03142). Writes guided.safetensors.
3. turbo: the straight ways from noise to where the guided model takes it (Liu 2022, arXiv 2209.03003), so that one to
   four steps are enough. Writes turbo.safetensors.
All weights are float16. Each stage draws sample images, and figures.json says how far it came. --resume-at guidance or
turbo goes on from the stage before: --start then has flow.safetensors or guided.safetensors, text.safetensors, and
figures.json, whose figures of earlier stages are kept.
"""

from __future__ import annotations

import argparse
import copy
import json
from pathlib import Path

import torch
from dataset import Dataset, draw_captions, load_dataset, move, save_grid
from networks import HEAD_WIDTH, autoencoder, new_text_encoders, new_transformer, pack, unpack
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional as F
from training import (
    MODES,
    PROMPTS,
    Precision,
    TimeLimit,
    Velocity,
    average_into,
    compiled,
    decode_packed,
    encode_prompts,
    euler_sample,
    flow_optimizers,
    learning_rate_factor,
    load_weights,
    log,
    normalisation,
    sample_times,
    save_weights,
    set_learning_rate,
    update,
    write_scale,
    write_whole,
)

from noisetilt.rewards.scorers.efficientnet_lite import EfficientNetLite

HEADS, MIDDLE_BLOCK, EARLY_BLOCK, ALIGNMENT_WEIGHT = 4, 10, 4, 0.5
STRONGEST, DEFAULT_GUIDANCE, TEACHER_STEPS = 5.0, 3.0, 16
PERCEPTUAL_WEIGHT, DECODED = 0.3, 64
RESUMED_FROM = {"guidance": "flow", "turbo": "guided"}  # stage → the network that it begins with


class Backbone:
    """Features of an untouched ImageNet network at strides 8 and 16."""

    def __init__(self, folder: Path, precision: Precision) -> None:
        network = load_weights(EfficientNetLite("lite0"), folder / "lite0.safetensors").eval().fold()
        self.network = network.requires_grad_(False).to(precision.device, memory_format=torch.channels_last)
        self.precision = precision

    def __call__(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Images (n, 3, 128, 128) to features (n, 40, 16, 16) and (n, 112, 8, 8)."""
        with self.precision.autocast():
            x = self.network.stem(images)
            early = x
            for number, block in enumerate(self.network.blocks[: MIDDLE_BLOCK + 1]):
                x = block(x)
                early = x if number == EARLY_BLOCK else early
        return early, x


class Batches:
    """Latents, captions and features of all images, in several variants each, on the device."""

    def __init__(
        self, data: Dataset, captions: Tensor, vae: nn.Module, backbone: Backbone, options: argparse.Namespace
    ) -> None:
        self.device, self.size = torch.device(options.device), options.batch
        self.captions = captions.to(self.device)
        self.chance = data.chance.to(self.device)
        flippable = data.flippable.to(self.device)
        latents, features = [], []
        for begin in range(0, len(data.pictures), 256):
            rows = slice(begin, begin + 256)
            x = data.images(rows, self.device)
            variants = self._variants(x, flippable[rows, None, None, None], options.variants)
            with torch.no_grad():
                latents.append(torch.stack([vae.encode(v).latent_dist.mean.half() for v in variants], 1))
                features.append(torch.stack([backbone(v)[1].half() for v in variants], 1))
        raw, middle = torch.cat(latents), torch.cat(features)
        self.shift, self.scale = normalisation(raw[:, :2])
        self.latents = ((raw.float() - self.shift) * self.scale).half()
        std, mean = torch.std_mean(middle[:, 0].float(), (0, 2, 3))
        self.mean, self.std = mean[:, None, None], std[:, None, None]
        self.features = middle

    @staticmethod
    def _variants(x: Tensor, flippable: Tensor, number: int) -> list[Tensor]:
        """The images, their mirror images, and further ones slightly smaller and shifted."""
        variants = [x, torch.where(flippable, x.flip(-1), x)]
        for index in range(2, number):
            variants.append(move(variants[index % 2], (0.9, 1.0), 0.03, mirror=False))
        return variants

    def draw(self) -> tuple[Tensor, Tensor, Tensor]:
        """(x_0 (batch, 64, 64), token ids (batch, 16), unit features (batch, 64, 112))."""
        chosen = torch.multinomial(self.chance, self.size, replacement=True)
        variant = torch.randint(self.latents.shape[1], (self.size,), device=self.device)
        ids = self.captions[chosen, torch.randint(self.captions.shape[1], (self.size,), device=self.device)].long()
        features = (self.features[chosen, variant].float() - self.mean) / self.std
        targets = F.normalize(features, dim=1).flatten(2).transpose(1, 2)
        return pack(self.latents[chosen, variant].float()), ids, targets


def start_network(start: Path, resume_at: str | None) -> Path | None:
    """The file of the network that training begins with; None for a new one."""
    file = start / f"{RESUMED_FROM.get(resume_at, 'flow')}.safetensors"
    if resume_at is not None and not file.exists():
        raise FileNotFoundError(f"{start} has no {file.name}, with which {resume_at} begins; finish that stage first")
    return file if file.exists() else None


def earlier_figures(start: Path, resume_at: str | None) -> dict[str, dict]:
    """What figures.json of a folder says of the stages before `resume_at`."""
    file, stages = start / "figures.json", ("flow", *RESUMED_FROM)
    if resume_at is None or not file.exists():
        return {}
    figures = json.loads(file.read_text("utf-8"))
    return {name: figures[name] for name in stages[: stages.index(resume_at)] if name in figures}


class Stages:
    """The three stages of training, which share the networks."""

    def __init__(
        self, data: Dataset, vae: nn.Module, batches: Batches, precision: Precision, options: argparse.Namespace
    ) -> None:
        self.data, self.vae, self.batches, self.precision, self.options = data, vae, batches, precision, options
        self.device, self.out, self.figures = precision.device, options.out, {}
        network, text = new_transformer(HEADS), new_text_encoders(len(data.index))
        if options.start:
            load_weights(text, options.start / "text.safetensors")
            if (file := start_network(options.start, options.resume_at)) is not None:
                load_weights(network, file)
            self.figures = earlier_figures(options.start, options.resume_at)
        self.network, self.text = network.to(self.device), text.to(self.device)
        self.velocity = Velocity(self.network, precision, options.compile)
        self.one = torch.ones(options.batch, device=self.device)

    def sample(self, name: str, velocity: Velocity, **options) -> None:
        """Draws the fixed prompts with the same noise for every model."""
        known = [p for p in PROMPTS if all(word in self.data.index for word in p.split())]
        if not known:
            return
        ids = encode_prompts(known, self.data.index).to(self.device)
        tokens = euler_sample(velocity, self.text, ids, self.data.index, **options)
        images = decode_packed(self.vae, tokens, self.batches.shift, self.batches.scale)
        save_grid(images, 8, self.out / f"{name}.png")

    def _loop(self, name: str, seconds: float, rate: float, text: nn.Module | None, flat: float, loss_of, extra=()):
        """Steps down `loss_of()` for some seconds; returns the average of the network's weights."""
        optimizers = flow_optimizers(self.network, text, rate, fused=self.device.type == "cuda")
        if extra:
            optimizers[1].add_param_group({"params": list(extra), "peak": rate})
        parameters = [p for o in optimizers for group in o.param_groups for p in group["params"]]
        average = copy.deepcopy(self.network).requires_grad_(False)
        average_text = None if text is None else copy.deepcopy(text).requires_grad_(False)
        limit, steps = TimeLimit(seconds), 0
        while limit.progress < 1:
            set_learning_rate(optimizers, learning_rate_factor(limit.progress, steps, 100, flat))
            loss = loss_of(steps)
            update(loss, optimizers, parameters)
            if steps % 4 == 0:  # often enough for averages over a thousand steps
                average_into(average, self.network, steps // 4, 0.996)
                if text is not None:
                    average_into(average_text, text, steps // 4, 0.996)
            steps += 1
            if steps % self.options.every == 0:
                rate_now = steps * self.options.batch / limit.elapsed
                log(f"{name}: step {steps}, loss {loss.item():.4f}, {rate_now:.0f} images/s")
        self.figures[name] = {"steps": steps, "images": steps * self.options.batch, "seconds": seconds}
        log(f"{name}: {steps} steps of {self.options.batch}")
        self.network.load_state_dict(average.state_dict())
        if text is not None:
            text.load_state_dict(average_text.state_dict())

    def _write(self, name: str) -> None:
        save_weights(self.network, self.out / f"{name}.safetensors")
        text = json.dumps(self.figures, indent=1) + "\n"
        write_whole(self.out / "figures.json", lambda unfinished: unfinished.write_text(text))

    def write_text(self) -> None:
        """The text encoders, which the later stages keep, and the scale of the latents."""
        self.text.requires_grad_(False)
        save_weights(self.text, self.out / "text.safetensors")
        write_scale(self.out, self.batches.shift, self.batches.scale)

    def flow(self, seconds: float) -> None:
        """Flow matching (Lipman 2022, arXiv 2210.02747) with an early layer held to ImageNet features."""
        features = self.batches.features.shape[2]
        head = nn.Sequential(nn.Linear(HEADS * HEAD_WIDTH, 512), nn.SiLU(), nn.Linear(512, features)).to(self.device)
        seen: dict[str, Tensor] = {}
        hook = self.network.transformer_blocks[-1].register_forward_hook(
            lambda module, given, result: seen.update(middle=result[1])
        )

        def predict(x_t: Tensor, t: Tensor, ids: Tensor) -> tuple[Tensor, Tensor]:
            v = self.velocity._network(x_t, t, *self.text(ids), self.one)
            return v, F.normalize(head(seen["middle"]).float(), dim=-1)

        fast = compiled(predict) if self.options.compile else predict

        def loss_of(step: int) -> Tensor:
            x_0, ids, targets = self.batches.draw()
            t, noise = sample_times(len(x_0), self.device), torch.randn_like(x_0)
            x_t = x_0 + t[:, None, None] * (noise - x_0)
            with self.precision.autocast():
                v, aligned = fast(x_t, t, ids)
            return F.mse_loss(v.float(), noise - x_0) + ALIGNMENT_WEIGHT * (1 - (aligned * targets).sum(-1).mean())

        self._loop("flow", seconds, self.options.rate, self.text, 0.5, loss_of, head.parameters())
        hook.remove()
        self.text.tie_plurals(self.data.vocabulary["same_as"])
        self.write_text()
        self.figures["flow"]["heldout_loss"] = self._heldout_loss()
        log("held-out loss", self.figures["flow"]["heldout_loss"])
        self._write("flow")
        plain = Velocity(self.network, self.precision)  # not compiled: its batches have other sizes
        self.sample("samples-flow-cfg3", plain, cfg=DEFAULT_GUIDANCE)

    @torch.no_grad()
    def _heldout_loss(self) -> float:
        rows = self.data.heldout.nonzero()[:256, 0].to(self.device)
        x_0, generator = pack(self.batches.latents[rows, 0].float()), torch.Generator().manual_seed(1)
        noise = torch.randn(x_0.shape, generator=generator).to(self.device)
        t = torch.linspace(0.05, 0.95, len(rows), device=self.device)
        with self.precision.autocast():
            given = self.text(self.batches.captions[rows, 0].long())
        v = Velocity(self.network, self.precision)(
            x_0 + t[:, None, None] * (noise - x_0), t, *given, torch.ones_like(t)
        )
        return F.mse_loss(v, noise - x_0).item()

    def guidance(self, seconds: float) -> None:
        teacher_network = copy.deepcopy(self.network).requires_grad_(False)
        teacher = Velocity(teacher_network, self.precision, self.options.compile)
        empty_ids = encode_prompts([""], self.data.index).to(self.device).expand(self.options.batch, -1)
        with torch.no_grad(), self.precision.autocast():
            empty = self.text(empty_ids)

        def loss_of(step: int) -> Tensor:
            x_0, ids, _ = self.batches.draw()
            n = len(x_0)
            t, noise = sample_times(n, self.device), torch.randn_like(x_0)
            x_t = x_0 + t[:, None, None] * (noise - x_0)
            strength = 1 + (STRONGEST - 1) * torch.rand(n, device=self.device)
            strength = torch.where(torch.rand(n, device=self.device) < 0.1, 1.0, strength)
            with torch.no_grad():
                with self.precision.autocast():
                    given = self.text(ids)
                v, unconditional = teacher(x_t, t, *given, self.one), teacher(x_t, t, *empty, self.one)
                target = unconditional + strength[:, None, None] * (v - unconditional)
            return F.mse_loss(self.velocity(x_t, t, *given, strength), target)

        self._loop("guidance", seconds, 0.5 * self.options.rate, None, 0.3, loss_of)
        self._write("guided")
        self.sample("samples-guided3", Velocity(self.network, self.precision), guidance=DEFAULT_GUIDANCE)

    def turbo(self, seconds: float, backbone: Backbone) -> None:
        teacher_network = copy.deepcopy(self.network).requires_grad_(False)
        teacher = Velocity(teacher_network, self.precision, self.options.compile)
        strength, pairs = DEFAULT_GUIDANCE * self.one, []
        limit = TimeLimit(seconds)

        @torch.no_grad()
        def new_pairs() -> None:
            """Noise, where the guided model takes it, and the captions."""
            _, ids, _ = self.batches.draw()
            with self.precision.autocast():
                given = self.text(ids)
            noise = torch.randn(len(ids), 64, 64, device=self.device)
            x = noise
            for number in range(TEACHER_STEPS):
                # Shorter steps at the start, where the ways bend: times of a shift of 1.5.
                now, then = (
                    1.5 * s / (1 + 0.5 * s) for s in (1 - number / TEACHER_STEPS, 1 - (number + 1) / TEACHER_STEPS)
                )
                x = x - (now - then) * teacher(x, now * self.one, *given, strength)
            pairs.append((noise.half(), x.half(), ids))

        def decoded(tokens: Tensor) -> Tensor:
            with self.precision.autocast():
                return self.vae.decode(unpack(tokens) / self.batches.scale + self.batches.shift).sample.float()

        def image_loss(made: Tensor, true: Tensor) -> Tensor:
            """Differences of pixels, of their gradients at three scales, and of ImageNet features."""
            theirs = backbone(true)
            loss = PERCEPTUAL_WEIGHT * sum(
                (F.normalize(a.float(), dim=1) - F.normalize(b.float(), dim=1)).square().sum(1).mean()
                for a, b in zip(backbone(made), theirs, strict=True)
            )
            error = made - true
            loss = loss + error.abs().mean()
            for _ in range(3):
                loss = loss + 0.5 * (error.diff(dim=-1).abs().mean() + error.diff(dim=-2).abs().mean())
                error = F.avg_pool2d(error, 2)
            return loss

        def loss_of(step: int) -> Tensor:
            # New pairs throughout, until the last part of the time, which sees all of them again.
            if not pairs or (step % 5 == 0 and limit.progress < 0.8):
                new_pairs()
            noise, end, ids = pairs[int(torch.randint(len(pairs), ()))]
            noise, end, n = noise.float(), end.float(), len(noise)
            quarters = torch.randint(1, 5, (n,), device=self.device) / 4
            t = torch.where(torch.rand(n, device=self.device) < 0.5, 1.0, quarters)
            x_t = end + t[:, None, None] * (noise - end)
            with torch.no_grad(), self.precision.autocast():
                given = self.text(ids)
            x_0 = x_t - t[:, None, None] * self.velocity(x_t, t, *given, self.one)
            few = torch.randint(n, (min(DECODED, n),), device=self.device)
            with torch.no_grad():
                true = decoded(end[few])
            return (x_0 - end).square().mean() + image_loss(decoded(x_0[few]), true)

        self._loop("turbo", seconds, 0.7 * self.options.rate, None, 0.4, loss_of)
        self.figures["turbo"]["pairs"] = len(pairs) * self.options.batch
        self._write("turbo")
        for steps in (1, 2, 4):
            self.sample(f"samples-turbo{steps}", Velocity(self.network, self.precision), steps=steps)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("build", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--backbones", type=Path, required=True, help="folder of convert_backbones.py")
    parser.add_argument("--seconds", type=float, nargs=3, required=True, help="for flow, guidance and turbo")
    parser.add_argument("--start", type=Path, help="folder with text.safetensors, and flow.safetensors if there is one")
    parser.add_argument("--resume-at", choices=RESUMED_FROM, help="go on from the stage before, which --start has")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--mode", default="bf16", choices=MODES)
    parser.add_argument("--no-compile", dest="compile", action="store_false")
    parser.add_argument("--limit", type=int, help="only the first images")
    parser.add_argument("--batch", type=int, default=768)
    parser.add_argument("--variants", type=int, default=6, help="slightly different forms of each image")
    parser.add_argument("--copies", type=int, default=64, help="captions of each image")
    parser.add_argument("--workers", type=int, default=10)
    parser.add_argument(
        "--rate", type=float, default=1.2e-3, help="learning rate of AdamW; Muon's is 1.5 times as large"
    )
    parser.add_argument("--every", type=int, default=200)
    options = parser.parse_args()
    if options.resume_at is not None and options.start is None:
        needed = f"a folder with {RESUMED_FROM[options.resume_at]}.safetensors and text.safetensors"
        parser.error(f"--resume-at {options.resume_at} needs --start, {needed}")
    options.out.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(0)
    data = load_dataset(options.build, options.limit)
    captions = draw_captions(data, options.copies, options.workers)  # by processes: before CUDA is initialised
    log(len(data.pictures), "images,", captions.shape[1], "captions each")
    precision = Precision(options.mode, torch.device(options.device))
    vae = autoencoder()
    vae.load_state_dict({k: v.float() for k, v in load_file(options.build / "vae.safetensors").items()})
    vae = vae.requires_grad_(False).to(options.device, memory_format=torch.channels_last)
    backbone = Backbone(options.backbones, precision)
    batches = Batches(data, captions, vae, backbone, options)
    log("latents", tuple(batches.latents.shape), f"shift {batches.shift:.4f}, scale {batches.scale:.4f}")
    stages = Stages(data, vae, batches, precision, options)
    flow, guidance, turbo = options.seconds
    if options.resume_at is None:
        stages.flow(flow)
    else:
        stages.write_text()
    if options.resume_at != "turbo":
        stages.guidance(guidance)
    stages.turbo(turbo, backbone)
    log("done")


if __name__ == "__main__":
    main()
