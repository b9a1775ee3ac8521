"""The command `noisetilt generate`: samples images without and with guidance from the same seeds."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from .._progress import progress_bar
from ..methods import METHODS, Method, find_method
from ..report import save_image as save_image_file
from ..report.plotting import Panel, curve, draw_panels, has_matplotlib, save_figure
from ..rewards import Reward
from ..rewards import load as load_reward
from ..runs import Interrupts
from ..sampling import Engine, StepReport, check_reward, reverse_steps, sample
from .comparison import (
    MISSING_PLOT,
    ImageBatch,
    Variant,
    check_heldout,
    check_prompts,
    choose_heldout_reward,
    comparison_grid,
    heldout_values,
    image_batches,
    print_summary,
    save_image,
    variant_rows,
    write_record,
    write_start,
)
from .console import given_columns, warn
from .early_checks import check_numbers
from .iterates import (
    IterateImages,
    are_drawn,
    has_final_drawings,
    read_iterates,
    remove_iterates,
    write_animation,
    write_iterates,
)
from .job import ComparisonJob
from .job_model import dtype_name, explained_memory, load_job_model, warn_of_memory, with_checksums, with_defaults
from .progress import Progress, check_run, claim_run, explained_interrupts


@dataclass(kw_only=True)
class GenerateJob(ComparisonJob):
    """The arguments of `generate`; `noisetilt generate --help` describes them."""

    method: str = "ntrk"
    steps: int | None = None
    eta: float = 1.0
    animate: bool = False

    def drawings(self) -> list[str]:
        return ["grid.png", "rewards.png", *(["animation.webp"] if self.animate else [])]


def main(args: argparse.Namespace) -> None:
    """Runs the command."""
    run(GenerateJob.from_arguments(args))


def run(job: GenerateJob) -> dict[str, Any]:
    """Samples both variants, writes all files, prints the table and returns the content of run.json. With the method
    base the images are sampled once.

    After Ctrl-C, which lets the current batch finish, or an error, the finished images are kept, and run.json has
    "complete": false. `resume` continues such a run.

    Raises:
        ValueError: for invalid input, in one sentence.
    """
    job = with_defaults(job)
    check_numbers(job)
    check_prompts(job)
    check_heldout(job)
    base, method = METHODS["base"], find_method(job.method).replace(**job.options)
    variants = [Variant("base", base), *([] if method == base else [Variant("guided", method)])]
    job = with_checksums(job)
    check_run(job, "generate")
    reward = load_reward(job.reward)
    warn_of_memory(job, method)
    model = load_job_model(job)
    steps = model.steps if job.steps is None else job.steps
    job = replace(job, guidance=model.guidance, steps=steps, dtype=job.dtype or dtype_name(model))
    for variant in variants:
        _check_variant(job, variant, model, reward)
    heldout_name, heldout = choose_heldout_reward(job, model)
    with (
        claim_run(job, "generate") as continued,
        Interrupts() as interrupts,
        explained_interrupts(job, lambda: sum(variant.count for variant in variants), len(variants) * len(job.prompts)),
    ):
        progress, complete = Progress(job, continued), False
        final = continued and has_final_drawings(job.out, ("animation.webp",))
        frames: dict[str, list[IterateImages]] = {variant.name: [] for variant in variants}
        write_start(job, "generate")
        try:
            steps_of = {variant.name: _count_steps(job, variant, model) for variant in variants}
            batches = len(list(image_batches(job)))
            with progress_bar(batches * sum(steps_of.values()), "step", columns=given_columns()) as bar:
                for variant, batch in ((variant, batch) for variant in variants for batch in image_batches(job)):
                    drawn = job.animate and are_drawn(batch) and not final
                    images = read_iterates(job.out, variant, batch) if drawn else None
                    if (drawn and images is None) or not progress.restore(variant, batch):
                        before = variant.seconds
                        images = IterateImages(0, first=1) if drawn else None
                        with explained_memory(job, model, variant.method):
                            _run_batch(job, variant, model, reward, heldout, batch, bar, images)
                        if images is not None:
                            write_iterates(job.out, variant, batch, images)
                        progress.add(variant, batch, variant.seconds - before)
                    else:
                        bar.update(steps_of[variant.name])
                    if images is not None:
                        frames[variant.name].append(images)
                    complete = all(variant.count == len(job.prompts) for variant in variants)
                    if not complete:
                        interrupts.check()
        finally:
            if variants[0].count:
                with interrupts.deferred():
                    record = _write_summary(job, variants, frames, heldout_name, complete)
                    if complete and job.animate:
                        remove_iterates(job.out)
    animation = ["animation.webp"] if job.animate else []
    print_summary(job, variants, heldout_name, [*animation, "rewards.png"])
    return record


def _time_grid(job: GenerateJob, method: Method, model: Any) -> list[float]:
    return method.times.expand(model.path, model.path.grid(job.steps))


def _check_variant(job: GenerateJob, variant: Variant, model: Any, reward: Reward) -> None:
    """Raises a ValueError for what the method or the model cannot run with, before any sampling."""
    if hasattr(model, "check"):
        if job.steps < 1:
            raise ValueError(f"steps = {job.steps} must be 1 or more")
        return model.check(job.prompt, variant.method, reward, job.eta)
    model.denoiser(job.prompt)  # raises for unknown words
    check_reward(variant.method, reward)
    engine = Engine(variant.method, model.path, model.shape, [job.seed], job.eta)
    engine.set_grid(_time_grid(job, variant.method, model))


def _count_steps(job: GenerateJob, variant: Variant, model: Any) -> int:
    """The steps of a batch of a variant; without those that time travel adds to a pipeline's own loop."""
    if hasattr(model, "sample"):
        return job.steps
    return reverse_steps(model.path, _time_grid(job, variant.method, model))


def _run_batch(
    job: GenerateJob,
    variant: Variant,
    model: Any,
    reward: Reward,
    heldout: Reward | None,
    batch: ImageBatch,
    bar: Any,
    predicted: IterateImages | None,
) -> None:
    """Adds a batch's results to the variant, writes its images, and records those of its steps in `predicted`."""

    def show_progress(report: StepReport) -> None:
        if predicted is not None:
            predicted.last = report.steps
            predicted.record(report.number, report.images)
        bar.set_postfix_str(f"{variant.name} reward {report.rewards.mean():+.3f}", refresh=False)
        bar.update()

    result = sample(
        model,
        batch.prompts,
        reward=reward,
        method=variant.method,
        steps=job.steps,
        seeds=batch.seeds,
        eta=job.eta,
        gradient_at=job.gradient_at,
        chunk=job.chunk,
        callback=show_progress,
    )
    heldout_rewards = heldout_values(heldout, result.images, batch.prompts)
    # Files first: a signal must not leave a record of an image that has none.
    results = zip(result.images, result.rewards, heldout_rewards, strict=True)
    for index, (image, value, heldout_value) in enumerate(results, batch.first):
        save_image(job, variant, index, image, reward_value=float(value), heldout_value=heldout_value)
    variant.keep(result.images)
    variant.rewards += result.rewards.tolist()
    variant.heldout += heldout_rewards
    variant.curves.append(result.trace.rewards)
    variant.nfe = result.trace.nfe
    variant.seconds += result.trace.seconds


def _write_summary(
    job: GenerateJob,
    variants: Sequence[Variant],
    frames: Mapping[str, Sequence[IterateImages]],
    heldout_name: str,
    complete: bool,
) -> dict[str, Any]:
    """Writes run.json and the pictures of the images finished so far, and returns the content of run.json."""
    record = write_record(job, variants, heldout_name, complete)
    done = [variant for variant in variants if variant.count]
    methods = {"base": "base", "guided": job.method}
    save_image_file(comparison_grid(variant_rows(variants, methods)), job.out / "grid.png")
    if any(frames.values()):
        write_animation([(methods[name], batches) for name, batches in frames.items() if batches], job.out, "step")
    if not has_matplotlib():
        warn(MISSING_PLOT)
        return record
    curves = {methods[v.name]: curve(torch.cat(v.curves, dim=1).numpy()) for v in done if v.curves}
    panel = Panel("step", f"{job.reward} of the predicted image", curves)
    save_figure(draw_panels([panel]), job.out / "rewards.png")
    return record
