"""The tab Compare: methods at one budget of network calls, at the same seeds."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

import gradio as gr

from . import markup
from .fields import SharedFields, settings_of
from .outputs import cancel_on, downloads, follow, live_status
from .sampling_runs import compare
from .session import Session
from .settings import check_compare
from .strengths import SAMPLERS

SELECTED = ("base", "ntrk", "ntrk-x0", "dps")


def compare_tab(session: Session, shared: SharedFields) -> None:
    """Draws the tab."""
    methods = gr.CheckboxGroup(
        ["base", *SAMPLERS],
        value=list(SELECTED),
        label="Methods",
        info="base makes one image without guidance, with one call per step; best-of-n is base at the budget.",
        elem_id="nt-methods",
    )
    budget = gr.Number(
        2 * session.model.steps,
        label="Network calls per image",
        info="A method with one call per step and a larger budget returns the best of several images.",
    )
    with gr.Row():
        start = gr.Button("Compare", variant="primary", elem_id="nt-compare")
        stop = gr.Button("Cancel", elem_id="nt-compare-cancel")
    status = live_status("compare")
    result = gr.HTML("", elem_id="nt-compare-result")
    files = downloads("compare")
    numbers = itertools.count()

    def check(request: gr.Request, *values: Any) -> list[Any]:
        named, (chosen, calls) = shared.read(values)
        visitor = session.visitor(request.session_hash)
        return shared.errors(check_compare(session, visitor, named, chosen, calls), ["methods", "budget"])

    def run(request: gr.Request, *values: Any) -> Iterator[list[Any]]:
        named, (chosen, calls) = shared.read(values)
        visitor_key, key = request.session_hash, f"c{next(numbers)}"
        work = compare(session, session.visitor(visitor_key), settings_of(named), chosen, int(calls))
        yield from follow(session, visitor_key, work, lambda view: [markup.compared(view, key)])

    start.click(
        run,
        [*shared.inputs, methods, budget],
        [status, result, *files.components],
        validator=check,
        show_progress="hidden",
        concurrency_limit=None,
        api_visibility="private",
    )
    cancel_on(session, stop)
