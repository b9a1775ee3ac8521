"""What the tabs Generate and Compare compute."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch

from ..cli.comparison import Variant, heldout_values, image_batches
from ..cli.generate import GenerateJob
from ..methods import METHODS, find_method
from ..rewards import Reward
from ..rewards.reward import evaluate_any
from ..sampling import StepReport, sample
from .files import write_comparison, write_generated
from .gauge import gauge_of_curves
from .runs import Run
from .session import OWN, OwnReward, Session, Visitor
from .settings import Settings, calls_per_trajectory, particles_within
from .strengths import options_for
from .views import Row


def generate(session: Session, visitor: Visitor, settings: Settings, method: str) -> Callable[[Run], None]:
    """The work of a run of the tab Generate: base and guided at the same seeds."""
    job, own = _job(session, settings, method, options_for(method, settings.strength)), visitor.own

    def work(run: Run) -> None:
        target, heldout = _start(session, own, job, run)
        rows = [
            _row(session, run, job, Variant("base", METHODS["base"]), "Base"),
            _row(
                session, run, job, Variant("guided", find_method(method).replace(**job.options)), f"Guided by {method}"
            ),
        ]
        base, guided = rows
        for row in rows:
            run.view.rows.append(row)

            def after_step(row: Row = row) -> None:
                if row is guided:
                    run.view.gauge = _gauge(base, guided)

            _sample_row(session, run, job, row, target, heldout, after_step)
        write_generated(session.new_folder(visitor), own, run.view, job, settings)

    return work


def compare(
    session: Session, visitor: Visitor, settings: Settings, methods: Sequence[str], budget: int
) -> Callable[[Run], None]:
    """The work of a run of the tab Compare: methods at one budget of network calls per image, at the same seeds."""
    jobs, own = {}, visitor.own
    for method in methods:
        within = particles_within(session, method, settings.steps, budget)
        jobs[method] = _job(session, settings, method, {**options_for(method, settings.strength), **within})

    def work(run: Run) -> None:
        first = jobs[methods[0]]
        target, heldout = _start(session, own, first, run)
        for method, job in jobs.items():
            variant = Variant(method, find_method(method).replace(**job.options))
            row = _row(session, run, job, variant, method)
            run.view.rows.append(row)
            _sample_row(session, run, job, row, target, heldout, lambda: None)
        write_comparison(session.new_folder(visitor), own, run.view, jobs, settings, budget)

    return work


def _job(session: Session, settings: Settings, method: str, options: dict[str, Any]) -> GenerateJob:
    return replace(
        session.job,
        prompt=settings.prompt.strip(),
        reward=settings.reward,
        method=method,
        options=options,
        steps=settings.steps,
        n=settings.n,
        seed=settings.seed,
    )


def _start(session: Session, own: OwnReward | None, job: GenerateJob, run: Run) -> tuple[Reward, Reward | None]:
    """The target and the held-out reward, whose names are put into the view."""
    target = session.load_mix(job.reward, own)
    name, heldout = session.choose_heldout(job.reward, own, job.prompt[0], session.blank())
    run.view.reward, run.view.heldout_name = job.reward.replace(OWN, "my reward"), name.replace(OWN, "my reward")
    return run.watched(target), heldout


def _row(session: Session, run: Run, job: GenerateJob, variant: Variant, title: str) -> Row:
    assert job.steps is not None
    steps = calls_per_trajectory(session, job.method if variant.name != "base" else "base", job.steps)
    return Row(variant, title, job.seeds, steps, run.view.heldout_name != "none")


def _sample_row(
    session: Session,
    run: Run,
    job: GenerateJob,
    row: Row,
    target: Reward,
    heldout: Reward | None,
    after_step: Callable[[], None],
) -> None:
    """Samples the images of a row, batch by batch, and fills the row in after each step."""
    variant, aside = row.variant, 0.0
    for batch in image_batches(job):

        def record(report: StepReport, start: int = batch.first, prompts: list[str] = batch.prompts) -> None:
            nonlocal aside
            began = time.perf_counter()
            run.check()
            images = report.images()
            with torch.no_grad():
                values = None if heldout is None else evaluate_any(heldout, images, prompts)
            row.record(report.number - 1, start, images, report.rewards, values)
            after_step()
            run.changed()
            aside += time.perf_counter() - began

        result = sample(
            session.model,
            batch.prompts,
            target,
            variant.method,
            steps=job.steps,
            seeds=batch.seeds,
            eta=job.eta,
            gradient_at=job.gradient_at,
            chunk=job.chunk,
            callback=record,
        )
        for index, image in enumerate(result.images.cpu(), batch.first):
            row.record(row.steps, index, image[None], None, None)
            variant.images.append(image)
        # The rewards last: the page is drawn while this runs, and takes an image with a reward for complete.
        variant.nfe = result.trace.nfe
        variant.seconds += result.trace.seconds - aside
        variant.heldout += heldout_values(heldout, result.images, batch.prompts)
        variant.rewards += result.rewards.tolist()
        aside = 0.0
        run.changed()


def _gauge(base: Row, guided: Row) -> Any:
    target, heldout = guided.curve("target"), guided.curve("heldout")
    columns = slice(0, target.shape[1])
    base_heldout = base.curve("heldout")[:, columns] if guided.has_heldout else None
    return gauge_of_curves(
        base.curve("target")[:, columns], base_heldout, target, heldout if guided.has_heldout else None, guided.steps
    )
