"""Noise ascent as a command: pictures before and after, the way between them, their figures and their files."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from tqdm import tqdm

from ..integrations.guide import GradientAt
from ..methods import find_method
from ..models import load as load_model
from ..report import file_stem, grid, plot_panels, save_animation, save_picture
from ..rewards import Reward, has_heldout
from ..rewards import load as load_reward
from ..sampling import AscentReport, OptimizeResult, check_reward, optimize
from ..sampling.noise_ascent import find_ascent
from .generate import Arm, choose_heldout, comparison, headline, run_record

FRAMES, STRIP, SHOWN = 24, 8, 8
PATIENCE = 10


@dataclass
class OptimizeJob:
    """Everything `optimize` needs to know; see the command's help for the fields."""

    prompt: str
    reward: str
    method: str = "gper"
    iterations: int = 60
    n: int = 8
    seed: int = 0
    out: Path = Path("out")
    model: str = "emoji64-turbo"
    guidance: float | None = None
    options: dict[str, Any] = field(default_factory=dict)
    patience: int | None = None
    gradient_at: GradientAt = "x_t"
    device: str = "cpu"
    batch: int = 8
    chunk: int = 8

    def settings(self) -> dict[str, Any]:
        """The fields that make the pictures what they are."""
        return {k: v for k, v in vars(self).items() if k not in ("out", "batch", "chunk")}

    def arms(self) -> list[Arm]:
        """Without and with ascent."""
        find_ascent(self.method)  # refuses other methods
        guided = find_method(self.method).replace(**{**self.options, "iterations": self.iterations})
        return [Arm("base", guided.replace(iterations=0, latent="free")), Arm("guided", guided)]


@dataclass
class Film:
    """Pictures along the way, (image, 3, H, W) in [0, 1] by the number of the iterate; of the first images only."""

    iterations: int
    frames: dict[int, list[torch.Tensor]] = field(default_factory=dict)

    def wanted(self) -> set[int]:
        """At most FRAMES numbers from 0 to the last, evenly spaced."""
        count = min(FRAMES, self.iterations + 1)
        return {round(i * self.iterations / max(count - 1, 1)) for i in range(count)}

    def record(self, report: AscentReport) -> None:
        if report.number in self.wanted():
            frame = self.frames.setdefault(report.number, [])
            frame += list(report.images[: SHOWN - len(frame)].cpu())

    def close(self) -> None:
        """Where all images stopped early, what follows is the last frame."""
        last = self.frames[max(self.frames)]
        for number in self.wanted() - set(self.frames):
            self.frames[number] = list(last)


def _films(films: Sequence[Film]) -> dict[int, list[torch.Tensor]]:
    """The films of all batches as one."""
    numbers = sorted(films[0].frames)
    return {number: [p for film in films for p in film.frames[number]][:SHOWN] for number in numbers}


def _run_batch(
    job: OptimizeJob, arm: Arm, model: Any, reward: Reward, heldout: Reward, seeds: Sequence[int], bar: tqdm
) -> Film:
    ascent = find_ascent(arm.method)
    film = Film(ascent.iterations)

    def show(report: AscentReport) -> None:
        film.record(report)
        bar.update()
        bar.set_postfix_str(f"{arm.name} reward {report.rewards.mean():+.3f} held-out {report.heldout.mean():+.3f}")

    result = optimize(
        model,
        [job.prompt] * len(seeds),
        reward,
        arm.method,
        seeds=seeds,
        heldout=heldout,
        patience=job.patience if ascent.iterations else 0,
        gradient_at=job.gradient_at,
        chunk=job.chunk,
        callback=show,
    )
    film.close()
    _keep(job, arm, result, seeds)
    return film


def _keep(job: OptimizeJob, arm: Arm, result: OptimizeResult, seeds: Sequence[int]) -> None:
    """A batch's figures into the arm and its pictures onto the disk."""
    done, trace = len(arm.images), result.trace
    arm.nfe = (arm.nfe * done + float(trace.nfe.sum())) / (done + len(seeds))
    arm.images += list(result.images.cpu())
    arm.rewards += result.rewards.tolist()
    arm.heldout += result.heldout.tolist()
    arm.curves.append(torch.stack([trace.rewards, trace.heldout]))
    arm.seconds += trace.seconds[-1]
    for i, seed in enumerate(seeds):
        figures = {"reward_value": float(result.rewards[i]), "heldout_value": float(result.heldout[i])}
        chosen = {"iteration": int(result.iterations[i]), "nfe": float(trace.nfe[i])}
        settings = {**job.settings(), "seed": seed, "n": 1, "arm": arm.name, **figures, **chosen}
        save_picture(result.images[i], job.out / f"{file_stem(job.prompt)}-{seed}-{arm.name}.png", settings)


def _strip(frames: dict[int, list[torch.Tensor]]) -> Image.Image:
    """One line a picture, from the start to the last iterate."""
    numbers = sorted(frames)
    count = min(STRIP, len(numbers))
    picked = [numbers[round(i * (len(numbers) - 1) / max(count - 1, 1))] for i in range(count)]
    label = "iterations " + ", ".join(map(str, picked))
    rows = [("" if i else label, [frames[n][i] for n in picked]) for i in range(len(frames[picked[0]]))]
    return grid(rows, per_line=count)


def _panels(job: OptimizeJob, arms: Sequence[Arm], judge: str) -> dict[str, dict[str, np.ndarray]]:
    """Reward and held-out reward of the iterates, (iteration, image), beside those of the noise as it was drawn."""
    base, guided = (torch.cat(arm.curves, dim=2).numpy() for arm in arms)
    base = base.repeat(guided.shape[1], axis=1)
    titles = (job.reward, f"held-out {judge}")
    return {title: {"as drawn": base[i], job.method: guided[i]} for i, title in enumerate(titles)}


def _write_summary(
    job: OptimizeJob, arms: Sequence[Arm], films: Sequence[Film], judge: str, complete: bool
) -> dict[str, Any]:
    """run.json, grid.png, rewards.png, strip.png and animation.png of what is finished so far."""
    done = [arm for arm in arms if arm.images]
    run = run_record(job, arms[1].method, done, judge, complete)
    names = {"base": "as drawn", "guided": job.method}
    grid([(headline(arm, names[arm.name]), arm.images) for arm in done]).save(job.out / "grid.png")
    if films:
        frames = _films(films)
        _strip(frames).save(job.out / "strip.png")
        moving = [grid([(f"{job.method}, iteration {n}", frames[n])]) for n in sorted(frames)]
        save_animation(moving, job.out / "animation.png")
        if not plot_panels(_panels(job, done, judge), "iteration", job.out / "rewards.png", first=0):
            tqdm.write("rewards.png is not drawn: matplotlib is missing; pip install 'noisetilt[plot]'")
    (job.out / "run.json").write_text(json.dumps(run, indent=2) + "\n")
    return run


def run(job: OptimizeJob) -> dict[str, Any]:
    """Optimises the noise of n pictures, writes all files, prints the table; returns run.json's content.

    After Ctrl-C or an error, what is finished stays, readable, with "complete": false in run.json.

    Raises:
        ValueError: for bad input, in one sentence.
    """
    if job.n < 1 or job.batch < 1:
        raise ValueError(f"n = {job.n} and batch = {job.batch} must be 1 or more")
    if job.patience is None:
        job = replace(job, patience=PATIENCE if has_heldout(job.reward) else 0)
    if job.patience < 0:
        raise ValueError(f"patience = {job.patience} must be 0, for no early stop, or more")
    arms = job.arms()
    model = load_model(job.model, guidance=job.guidance, device=job.device)
    job = replace(job, guidance=model.guidance)
    reward = load_reward(job.reward)
    model.denoiser([job.prompt])  # unknown words are refused before any file is touched
    judge, heldout = choose_heldout(job, model)
    check_reward(arms[1].method, reward)
    job.out.mkdir(parents=True, exist_ok=True)
    seeds = list(range(job.seed, job.seed + job.n))
    films: list[Film] = []
    complete, batches = False, -(-job.n // job.batch)
    try:
        with tqdm(total=batches * (job.iterations + 2), unit="iteration") as bar:
            for arm in arms:
                for first in range(0, job.n, job.batch):
                    film = _run_batch(job, arm, model, reward, heldout, seeds[first : first + job.batch], bar)
                    films += [film] if arm is arms[1] else []
        complete = True
    finally:
        if arms[0].images:
            run = _write_summary(job, arms, films, judge, complete)
    print(comparison(job, arms, judge))
    print(f"\npictures, grid.png, strip.png, animation.png, rewards.png and run.json are in {job.out}/")
    return run
