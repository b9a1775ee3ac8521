"""The command `noisetilt optimize`: noise ascent, with the images before and after and the iterates between them."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from .._progress import progress_bar
from ..methods import find_method
from ..report import save_image as save_image_file
from ..report.plotting import Panel, curve, draw_panels, has_matplotlib, save_figure
from ..rewards import Reward, has_heldout
from ..rewards import load as load_reward
from ..runs import Interrupts
from ..sampling import AscentReport, OptimizeResult, check_reward, optimize
from ..sampling.noise_ascent import check_optimizable, find_ascent
from .comparison import (
    MISSING_PLOT,
    ImageBatch,
    Variant,
    check_heldout,
    check_prompts,
    choose_heldout_reward,
    comparison_grid,
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
    draw_strip,
    has_final_drawings,
    merged_frames,
    read_iterates,
    remove_iterates,
    write_animation,
    write_iterates,
)
from .job import ComparisonJob
from .job_model import dtype_name, explained_memory, load_job_model, warn_of_memory, with_checksums, with_defaults
from .progress import Progress, check_run, claim_run, explained_interrupts

PATIENCE = 10


@dataclass(kw_only=True)
class OptimizeJob(ComparisonJob):
    """The arguments of `optimize`; `noisetilt optimize --help` describes them."""

    method: str = "gper-both"
    iterations: int = 10
    model: str = "emoji128-turbo"
    patience: int | None = None

    def drawings(self) -> list[str]:
        return ["grid.png", "rewards.png", "strip.png", "animation.webp"]

    def variants(self) -> list[Variant]:
        """Without and with noise ascent."""
        if "iterations" in self.options:
            raise ValueError("the number of iterations is the option --iterations; leave it out of --set")
        find_ascent(self.method)  # raises for methods without noise ascent
        guided = find_method(self.method).replace(**{**self.options, "iterations": self.iterations})
        return [Variant("base", guided.replace(iterations=0, latent="free")), Variant("guided", guided)]


def main(args: argparse.Namespace) -> None:
    """Runs the command."""
    run(OptimizeJob.from_arguments(args))


def run(job: OptimizeJob) -> dict[str, Any]:
    """Optimizes the noise of n images, writes all files, prints the table and returns the content of run.json.

    After Ctrl-C, which lets the current batch finish, or an error, the finished images are kept, and run.json has
    "complete": false. `resume` continues such a run.

    Raises:
        ValueError: for invalid input, in one sentence.
    """
    job = with_defaults(job)
    check_numbers(job)
    check_prompts(job)
    check_heldout(job)
    job = _with_patience(job)
    variants = job.variants()
    job = with_checksums(job)
    check_run(job, "optimize")
    reward = load_reward(job.reward)
    warn_of_memory(job, variants[1].method)
    model = load_job_model(job)
    check_optimizable(model)
    job = replace(job, guidance=model.guidance, dtype=job.dtype or dtype_name(model))
    model.denoiser(job.prompt)  # raises for unknown words, before a file is written
    heldout_name, heldout = choose_heldout_reward(job, model)
    if job.patience and heldout is None:
        raise ValueError(f"patience = {job.patience} needs a held-out reward; give --heldout, or --patience 0")
    check_reward(variants[1].method, reward)
    iterates: list[IterateImages] = []
    batches = len(list(image_batches(job)))
    with (
        claim_run(job, "optimize") as continued,
        Interrupts() as interrupts,
        explained_interrupts(job, lambda: sum(variant.count for variant in variants), 2 * len(job.prompts)),
    ):
        progress, complete = Progress(job, continued), False
        final = continued and has_final_drawings(job.out, ("strip.png", "animation.webp"))
        write_start(job, "optimize")
        try:
            with progress_bar(batches * (job.iterations + 2), "iteration", columns=given_columns()) as bar:
                for variant, batch in ((variant, batch) for variant in variants for batch in image_batches(job)):
                    drawn = variant is variants[1] and are_drawn(batch) and not final
                    images = read_iterates(job.out, variant, batch) if drawn else None
                    if (drawn and images is None) or not progress.restore(variant, batch):
                        before = variant.seconds
                        images = IterateImages(find_ascent(variant.method).iterations) if drawn else None
                        with explained_memory(job, model, variant.method):
                            _run_batch(job, variant, model, reward, heldout, batch, bar, images)
                        if images is not None:
                            write_iterates(job.out, variant, batch, images)
                        progress.add(variant, batch, variant.seconds - before)
                    else:
                        bar.update(find_ascent(variant.method).iterations + 1)
                    if images is not None:
                        iterates.append(images)
                    complete = all(variant.count == len(job.prompts) for variant in variants)
                    if not complete:
                        interrupts.check()
        finally:
            if variants[0].count:
                with interrupts.deferred():
                    record = _write_summary(job, variants, iterates, heldout_name, complete)
                    if complete:
                        remove_iterates(job.out)
    print_summary(job, variants, heldout_name, ("strip.png", "animation.webp", "rewards.png"))
    return record


def _with_patience(job: OptimizeJob) -> OptimizeJob:
    """The job with its default patience filled in: that of early stops if the held-out reward was given, or is the
    held-out version of the reward."""
    if job.patience is None:
        heldout = has_heldout(job.reward) if job.heldout is None else job.heldout != "none"
        return replace(job, patience=PATIENCE if heldout else 0)
    if job.patience < 0:
        raise ValueError(f"patience = {job.patience} must be 0, for no early stop, or more")
    return job


def _run_batch(
    job: OptimizeJob,
    variant: Variant,
    model: Any,
    reward: Reward,
    heldout: Reward | None,
    batch: ImageBatch,
    bar: Any,
    images: IterateImages | None,
) -> None:
    """Adds a batch's results to the variant, writes its images, and records its iterates in `images`."""
    ascent = find_ascent(variant.method)
    last: list[AscentReport] = []

    def record_iterate(report: AscentReport) -> None:
        last[:] = [report]
        if images is not None:
            images.record(report.number, lambda: report.images)
        text = f"{variant.name} reward {report.rewards.mean():+.3f}"
        text += "" if report.heldout is None else f" held-out {report.heldout.mean():+.3f}"
        bar.set_postfix_str(text, refresh=False)
        bar.update()

    result = optimize(
        model,
        batch.prompts,
        reward,
        variant.method,
        seeds=batch.seeds,
        heldout=heldout,
        patience=job.patience if ascent.iterations else 0,
        gradient_at=job.gradient_at,
        chunk=job.chunk,
        callback=record_iterate,
    )
    end = last[0].number
    bar.update(ascent.iterations - end)  # those that an early stop left out
    if images is not None:
        images.record_end(end, last[0].images)
    _add_results(job, variant, result, batch.first)


def _add_results(job: OptimizeJob, variant: Variant, result: OptimizeResult, first: int) -> None:
    """Adds a batch's results to the variant and writes its images; the first one has the index `first` in the run."""
    done, trace, count = variant.count, result.trace, len(result.images)
    heldout_rewards = [None] * count if result.heldout is None else result.heldout.tolist()
    # Files first: a signal must not leave a record of an image that has none.
    for i in range(count):
        rewards = {"reward_value": float(result.rewards[i]), "heldout_value": heldout_rewards[i]}
        chosen = {"iteration": int(result.iterations[i]), "nfe": float(trace.nfe[i])}
        save_image(job, variant, first + i, result.images[i], **rewards, **chosen)
    variant.nfe = (variant.nfe * done + float(trace.nfe.sum())) / (done + count)
    variant.keep(result.images)
    variant.rewards += result.rewards.tolist()
    variant.heldout += heldout_rewards
    variant.curves.append(torch.stack([trace.rewards] if result.heldout is None else [trace.rewards, trace.heldout]))
    variant.seconds += trace.seconds[-1]


def _reward_panels(job: OptimizeJob, variants: Sequence[Variant], heldout_name: str) -> list[Panel]:
    """Reward and held-out reward of the iterates beside those of the initial noise."""
    base, guided = (torch.cat(variant.curves, dim=2).numpy() for variant in variants)
    base = base.repeat(guided.shape[1], axis=1)
    titles = (job.reward, f"held-out {heldout_name}")
    panels = zip(titles, base, guided, strict=False)  # one title more, if there is no held-out reward
    projected = find_ascent(variants[1].method).latent != "free"
    label = "iteration (at 0 the projected initial noise)" if projected else "iteration"
    return [
        Panel(label, title, {"initial noise": curve(before, 0), job.method: curve(after, 0)})
        for title, before, after in panels
    ]


def _write_summary(
    job: OptimizeJob,
    variants: Sequence[Variant],
    iterates: Sequence[IterateImages],
    heldout_name: str,
    complete: bool,
) -> dict[str, Any]:
    """Writes run.json, grid.png, rewards.png, strip.png and animation.webp of the images finished so far; the last two
    only from iterates."""
    record = write_record(job, variants, heldout_name, complete)
    done = [variant for variant in variants if variant.count]
    labels = {"base": "initial noise", "guided": job.method}
    save_image_file(comparison_grid(variant_rows(variants, labels)), job.out / "grid.png")
    if iterates:
        save_image_file(draw_strip(merged_frames(iterates)), job.out / "strip.png")
        write_animation([(job.method, iterates)], job.out, "iteration")
    if len(done) == len(variants):
        if has_matplotlib():
            save_figure(draw_panels(_reward_panels(job, done, heldout_name)), job.out / "rewards.png")
        else:
            warn(MISSING_PLOT)
    return record
