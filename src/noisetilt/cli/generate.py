"""The command `noisetilt generate`: samples images without and with guidance from the same seeds."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from tqdm.auto import tqdm

from ..methods import METHODS, Method, find_method
from ..report import plot_rewards
from ..report import save_image as save_image_file
from ..rewards import Reward
from ..rewards import load as load_reward
from ..runs import Interrupts, claim_folder
from ..sampling import Engine, StepReport, check_reward, reverse_steps, sample
from ..sampling.check_inputs import GradientAt
from .comparison import (
    MISSING_PLOT,
    NOT_SETTINGS,
    Variant,
    check_numbers,
    choose_heldout_reward,
    comparison_grid,
    grid_label,
    heldout_values,
    print_summary,
    save_image,
    seed_batches,
    thumbnails,
    write_record,
    write_start,
)
from .job_model import dtype_name, explained_memory, load_job_model, warn_of_memory, with_defaults
from .names import check_method
from .progress import Progress


@dataclass
class GenerateJob:
    """The arguments of `generate`; `noisetilt generate --help` describes them."""

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
    heldout: str | None = None
    device: str | None = None
    dtype: str | None = None
    offload: str | None = None
    height: int | None = None
    width: int | None = None
    lora: list[str] = field(default_factory=list)
    checkpointing: bool = False
    frames: int | None = None
    batch: int | None = None
    chunk: int | None = None
    resume: bool = False
    overwrite: bool = False

    def settings(self) -> dict[str, Any]:
        """The fields that determine the images."""
        return {k: v for k, v in vars(self).items() if k not in NOT_SETTINGS}


def main(args: argparse.Namespace) -> None:
    """Runs the command."""
    fields = {k: v for k, v in vars(args).items() if k not in ("command", "options")}
    run(GenerateJob(**fields, options=dict(args.options)))


def run(job: GenerateJob) -> dict[str, Any]:
    """Samples both variants, writes all files, prints the table and returns the content of run.json.

    After Ctrl-C, which lets the current batch finish, or an error, the finished images are kept, and run.json has
    "complete": false. `resume` continues such a run.

    Raises:
        ValueError: for invalid input, in one sentence.
    """
    job = with_defaults(job)
    check_numbers(job)
    check_method(job.method)
    variants = [Variant("base", METHODS["base"]), Variant("guided", find_method(job.method).replace(**job.options))]
    reward = load_reward(job.reward)
    warn_of_memory(job, variants[1].method)
    model = load_job_model(job)
    steps = model.steps if job.steps is None else job.steps
    job = replace(job, guidance=model.guidance, steps=steps, dtype=job.dtype or dtype_name(model))
    for variant in variants:
        _check_variant(job, variant, model, reward)
    heldout_name, heldout = choose_heldout_reward(job, model)
    with (
        claim_folder(job.out, overwrite=job.overwrite, resume=job.resume, command="generate") as continued,
        Interrupts() as interrupts,
    ):
        progress, complete = Progress(job, continued), False
        write_start(job, "generate")
        try:
            with tqdm(total=sum(_count_steps(job, variant, model) for variant in variants), unit="step") as bar:
                for variant, seeds in ((variant, seeds) for variant in variants for seeds in seed_batches(job)):
                    if not progress.restore(variant, seeds):
                        before = variant.seconds
                        with explained_memory(job, model, variant.method):
                            _run_batch(job, variant, model, reward, heldout, seeds, bar)
                        progress.add(variant, seeds, variant.seconds - before)
                    interrupts.check()
            complete = True
        finally:
            if variants[0].images:
                with interrupts.deferred():
                    record = _write_summary(job, variants, heldout_name, complete)
    print_summary(job, variants, heldout_name, "grid.png, rewards.png and run.json")
    return record


def _time_grid(job: GenerateJob, method: Method, model: Any) -> list[float]:
    return method.times.expand(model.path, model.path.grid(job.steps))


def _check_variant(job: GenerateJob, variant: Variant, model: Any, reward: Reward) -> None:
    """Raises a ValueError for what the method or the model cannot run with, before any sampling."""
    if hasattr(model, "check"):
        if job.steps < 1:
            raise ValueError(f"steps = {job.steps} must be 1 or more")
        return model.check([job.prompt], variant.method, reward, job.eta)
    model.denoiser([job.prompt])  # raises for unknown words
    check_reward(variant.method, reward)
    engine = Engine(variant.method, model.path, model.shape, [job.seed], job.eta)
    engine.set_grid(_time_grid(job, variant.method, model))


def _count_steps(job: GenerateJob, variant: Variant, model: Any) -> int:
    """The steps of all batches of a variant; without those that time travel adds to a pipeline's own loop."""
    batches = len(list(seed_batches(job)))
    return batches * (
        job.steps if hasattr(model, "sample") else reverse_steps(model.path, _time_grid(job, variant.method, model))
    )


def _run_batch(
    job: GenerateJob,
    variant: Variant,
    model: Any,
    reward: Reward,
    heldout: Reward | None,
    seeds: Sequence[int],
    bar: tqdm,
) -> None:
    prompts = [job.prompt] * len(seeds)

    def show_progress(report: StepReport) -> None:
        bar.update()
        bar.set_postfix_str(f"{variant.name} reward {report.rewards.mean():+.3f}")

    result = sample(
        model,
        prompts,
        reward=reward,
        method=variant.method,
        steps=job.steps,
        seeds=seeds,
        eta=job.eta,
        gradient_at=job.gradient_at,
        chunk=job.chunk,
        callback=show_progress,
    )
    heldout_rewards = heldout_values(heldout, result.images, prompts)
    variant.images += list(result.images.cpu())
    variant.rewards += result.rewards.tolist()
    variant.heldout += heldout_rewards
    variant.curves.append(result.trace.rewards)
    variant.nfe = result.trace.nfe
    variant.seconds += result.trace.seconds
    for image, seed, value, heldout_value in zip(result.images, seeds, result.rewards, heldout_rewards, strict=True):
        save_image(job, variant, seed, image, reward_value=float(value), heldout_value=heldout_value)


def _write_summary(job: GenerateJob, variants: Sequence[Variant], heldout_name: str, complete: bool) -> dict[str, Any]:
    """Writes run.json, grid.png and rewards.png of the images finished so far, and returns the content of run.json."""
    record = write_record(job, variants, heldout_name, complete)
    done = [variant for variant in variants if variant.images]
    methods = {"base": "base", "guided": job.method}
    rows = [(grid_label(variant, methods[variant.name]), thumbnails(variant.images)) for variant in done]
    save_image_file(comparison_grid(rows), job.out / "grid.png")
    curves = {variant.name: torch.cat(variant.curves, dim=1).numpy() for variant in done if variant.curves}
    if not plot_rewards(curves, f"{job.reward} of the predicted image", job.out / "rewards.png"):
        tqdm.write(MISSING_PLOT)
    return record
