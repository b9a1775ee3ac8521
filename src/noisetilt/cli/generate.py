"""The main job: pictures without and with guidance at the same seeds, their figures and their files."""

from __future__ import annotations

import json
import platform
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from .. import __version__
from ..integrations.guide import GradientAt
from ..methods import METHODS, Method, find_method
from ..models import load as load_model
from ..report import file_stem, grid, plot_rewards, save_picture, table
from ..rewards import Reward, has_heldout
from ..rewards import load as load_reward
from ..rewards.reward import evaluate_reward
from ..sampling import Engine, StepReport, check_reward, reverse_steps, sample


@dataclass
class Arm:
    """One side of the comparison, filled batch by batch."""

    name: str
    method: Method
    images: list[torch.Tensor] = field(default_factory=list)
    rewards: list[float] = field(default_factory=list)
    heldout: list[float] = field(default_factory=list)
    curves: list[torch.Tensor] = field(default_factory=list)
    nfe: float = 0.0
    seconds: float = 0.0

    def figures(self) -> dict[str, float | None]:
        """Means over the pictures made so far, NFE per picture and seconds in all."""
        count = len(self.rewards)
        return {
            "reward_mean": sum(self.rewards) / count if count else None,
            "heldout_mean": sum(self.heldout) / count if count else None,
            "nfe": self.nfe,
            "seconds": round(self.seconds, 3),
            "count": count,
        }


@dataclass
class Job:
    """Everything `generate` needs to know; see the command's help for the fields."""

    prompt: str
    reward: str
    method: str = "ntrk"
    steps: int | None = None
    n: int = 8
    seed: int = 0
    out: Path = Path("out")
    model: str = "emoji64"
    guidance: float | None = None
    eta: float = 1.0
    options: dict[str, Any] = field(default_factory=dict)
    gradient_at: GradientAt = "x_t"
    device: str = "cpu"
    batch: int = 8
    chunk: int = 8

    def settings(self) -> dict[str, Any]:
        """The fields that make the pictures what they are."""
        return {k: v for k, v in vars(self).items() if k not in ("out", "batch", "chunk")}


def choose_heldout(job: Any, model: Any) -> tuple[str, Reward]:
    """What looks on, by name and in its held-out version: the reward itself if it is learned, else alignment with the
    prompt, since a colour or a file size is met most easily by pictures of something else.

    Raises:
        ValueError: if the reward cannot judge this prompt.
    """
    blank = model.decode(torch.zeros(1, *model.shape, device=model.device))
    if not has_heldout(job.reward):
        judge = load_reward("alignment", heldout=True)
        try:
            evaluate_reward(judge, blank, [job.prompt])
            return "alignment", judge
        except ValueError:  # the prompt names nothing to align with
            pass
    judge = load_reward(job.reward, heldout=True)
    evaluate_reward(judge, blank, [job.prompt])
    return job.reward, judge


def _run_batch(
    job: Job, arm: Arm, model: Any, reward: Reward, heldout: Reward, seeds: Sequence[int], bar: tqdm
) -> None:
    prompts = [job.prompt] * len(seeds)

    def show(report: StepReport) -> None:
        bar.update()
        bar.set_postfix_str(f"{arm.name} reward {report.rewards.mean():+.3f}")

    result = sample(
        model,
        prompts,
        reward=reward,
        method=arm.method,
        steps=job.steps,
        seeds=seeds,
        eta=job.eta,
        gradient_at=job.gradient_at,
        chunk=job.chunk,
        callback=show,
    )
    with torch.no_grad():
        heldout_rewards = evaluate_reward(heldout, result.images, prompts)
    arm.images += list(result.images)
    arm.rewards += result.rewards.tolist()
    arm.heldout += heldout_rewards.tolist()
    arm.curves.append(result.trace.rewards)
    arm.nfe = result.trace.nfe
    arm.seconds += result.trace.seconds
    for i, seed in enumerate(seeds):
        figures = {"reward_value": float(result.rewards[i]), "heldout_value": float(heldout_rewards[i])}
        settings = {**job.settings(), "seed": seed, "n": 1, "arm": arm.name, **figures}
        save_picture(result.images[i], job.out / f"{file_stem(job.prompt)}-{seed}-{arm.name}.png", settings)


def _steps(job: Job, arm: Arm, model: Any) -> int:
    """Steps of all batches of an arm."""
    grid = arm.method.times.expand(model.path, model.path.grid(job.steps))
    return -(-job.n // job.batch) * reverse_steps(model.path, grid)


def run_record(job: Any, method: Method, arms: Sequence[Arm], judge: str, complete: bool) -> dict[str, Any]:
    """The content of run.json."""
    return {
        "complete": complete,
        "heldout_reward": judge,
        "settings": {**job.settings(), "options": method.options()},
        **{arm.name: arm.figures() for arm in arms},
        "pictures": [
            {"file": f"{file_stem(job.prompt)}-{job.seed + i}-{arm.name}.png", "reward": r, "heldout": h}
            for arm in arms
            for i, (r, h) in enumerate(zip(arm.rewards, arm.heldout, strict=True))
        ],
        "versions": {"noisetilt": __version__, "torch": torch.__version__, "python": platform.python_version()},
        "time": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
    }


def headline(arm: Arm, method: str) -> str:
    """An arm and its means, above its pictures."""
    means = arm.figures()
    return f"{arm.name} ({method})  reward {means['reward_mean']:+.3f}  held-out {means['heldout_mean']:+.3f}"


def comparison(job: Any, arms: Sequence[Arm], judge: str) -> str:
    """The table that a run ends with: one line an arm."""
    rows = [[arm.name, *(arm.figures()[k] for k in ("reward_mean", "heldout_mean", "nfe", "seconds"))] for arm in arms]
    return table(["", job.reward, f"held-out {judge}", "NFE", "seconds"], rows)


def _write_summary(job: Job, arms: Sequence[Arm], judge: str, complete: bool) -> dict[str, Any]:
    """run.json, grid.png and rewards.png of what is finished so far."""
    done = [arm for arm in arms if arm.images]  # the base arm at least
    run = run_record(job, find_method(job.method).replace(**job.options), done, judge, complete)
    names = {"base": "base", "guided": job.method}
    grid([(headline(arm, names[arm.name]), arm.images) for arm in done]).save(job.out / "grid.png")
    curves = {arm.name: torch.cat(arm.curves, dim=1).numpy() for arm in done if arm.curves}
    if not plot_rewards(curves, f"{job.reward} of the predicted picture", job.out / "rewards.png"):
        tqdm.write("rewards.png is not drawn: matplotlib is missing; pip install 'noisetilt[plot]'")
    (job.out / "run.json").write_text(json.dumps(run, indent=2) + "\n")
    return run


def run(job: Job) -> dict[str, Any]:
    """Runs base and guided sampling at the same seeds, writes all files, prints the table; returns run.json's content.

    After Ctrl-C or an error, what is finished stays, readable, with "complete": false in run.json.

    Raises:
        ValueError: for bad input, in one sentence.
    """
    if job.n < 1 or job.batch < 1:
        raise ValueError(f"n = {job.n} and batch = {job.batch} must be 1 or more")
    model = load_model(job.model, guidance=job.guidance, device=job.device)
    job = replace(job, guidance=model.guidance, steps=model.steps if job.steps is None else job.steps)
    reward = load_reward(job.reward)
    model.denoiser([job.prompt])  # unknown words are refused before any file is touched
    judge, heldout = choose_heldout(job, model)
    arms = [Arm("base", METHODS["base"]), Arm("guided", find_method(job.method).replace(**job.options))]
    for arm in arms:
        check_reward(arm.method, reward)
        times = arm.method.times.expand(model.path, model.path.grid(job.steps))
        Engine(arm.method, model.path, model.shape, [job.seed], job.eta).set_grid(times)  # refuses what it cannot run
    job.out.mkdir(parents=True, exist_ok=True)
    seeds = list(range(job.seed, job.seed + job.n))
    complete = False
    try:
        with tqdm(total=sum(_steps(job, arm, model) for arm in arms), unit="step") as bar:
            for arm in arms:
                for first in range(0, job.n, job.batch):
                    _run_batch(job, arm, model, reward, heldout, seeds[first : first + job.batch], bar)
        complete = True
    finally:
        if arms[0].images:
            run = _write_summary(job, arms, judge, complete)
    print(comparison(job, arms, judge))
    print(f"\npictures, grid.png, rewards.png and run.json are in {job.out}/")
    return run
