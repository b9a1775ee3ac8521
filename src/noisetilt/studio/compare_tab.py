"""The tab Compare: methods at one budget of network calls, at the same seeds."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

import gradio as gr

from . import markup
from .fields import SharedFields
from .outputs import cancel_on, downloads, follow, live_status, start_on
from .sampling_runs import compare
from .session import Session
from .settings import Settings, check_compare
from .strengths import SAMPLERS

SELECTED = ("base", "ntrk", "ntrk-x0", "dps")


def compare_tab(session: Session, shared: SharedFields) -> None:
    """Draws the tab."""
    methods = gr.CheckboxGroup(
        ["base", *SAMPLERS],
        value=list(SELECTED),
        label="Methods",
        info="Each method makes the number of images under Images, at the same seeds. base is not guided and takes one "
        "call per step; best-of-n is base at the budget.",
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

    def run(visitor_key: str, settings: Settings, chosen: list[str], calls: float) -> Iterator[list[Any]]:
        key = f"c{next(numbers)}"
        work = compare(session, session.visitor(visitor_key), settings, chosen, int(calls))
        return follow(session, visitor_key, work, lambda view: [markup.compared(view, key)])

    own = {"methods": methods, "budget": budget}
    start_on(session, shared, start, own, check_compare, run, [status, result, *files.components])
    cancel_on(session, stop, status)
