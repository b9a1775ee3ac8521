"""What the tab Optimise computes: noise ascent, with every iterate kept for the scrubber."""

from __future__ import annotations

from collections.abc import Callable

import torch

from ..cli.comparison import Variant
from ..cli.optimize import PATIENCE, OptimizeJob
from ..methods import find_method
from ..rewards import has_heldout
from ..sampling import AscentReport, optimize
from .files import write_optimised
from .gauge import gauge_of_ascent
from .runs import Run
from .session import OWN, Session, Visitor
from .settings import Settings
from .strengths import options_for
from .views import Row


def optimise(
    session: Session, visitor: Visitor, settings: Settings, method: str, iterations: int
) -> Callable[[Run], None]:
    """The work of a run of the tab Optimise."""
    own = visitor.own
    job = OptimizeJob(
        prompt=settings.prompt.strip(),
        reward=settings.reward,
        method=method,
        iterations=iterations,
        n=settings.n,
        seed=settings.seed,
        model=session.one_step,
        options=options_for(method, settings.strength),
        patience=PATIENCE if has_heldout(settings.reward) else 0,
        device=session.job.device,
        batch=settings.n,
        chunk=session.job.chunk,
    )

    def work(run: Run) -> None:
        model = session.one_step_model()
        target = session.load_mix(job.reward, own)
        blank = model.decode(torch.zeros(1, *model.shape, device=model.device))
        name, heldout = session.choose_heldout(job.reward, own, job.prompt[0], blank)
        run.view.reward, run.view.heldout_name = job.reward.replace(OWN, "my reward"), name.replace(OWN, "my reward")
        variant = Variant("guided", find_method(method).replace(**job.options, iterations=iterations))
        row = Row(variant, method, settings.seeds, iterations + 1, heldout is not None)
        run.view.rows.append(row)
        visitor.iterates = row

        def record(report: AscentReport) -> None:
            run.check()
            row.record(report.number, 0, report.images, report.rewards, report.heldout)
            curve = row.curve("heldout") if row.has_heldout else None
            run.view.gauge = gauge_of_ascent(row.curve("target"), curve)
            run.changed()

        result = optimize(
            model,
            job.prompts,
            run.watched(target),
            variant.method,
            seeds=row.seeds,
            heldout=heldout,
            patience=job.patience or 0,
            chunk=job.chunk or 8,
            callback=record,
        )
        variant.images = list(result.images.cpu())
        variant.nfe, variant.seconds = float(result.trace.nfe.mean()), result.trace.seconds[-1]
        # The rewards last: the page is drawn while this runs, and takes an image with a reward for complete.
        variant.heldout = [None] * job.n if result.heldout is None else result.heldout.tolist()
        variant.rewards = result.rewards.tolist()
        row.best = result.iterations.tolist()
        write_optimised(session.new_folder(visitor), own, run.view, job, settings, row.best)

    return work
