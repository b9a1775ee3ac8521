"""The tab Optimise: noise ascent for a one-step generator, with a scrubber over the iterations."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import gradio as gr

from . import markup
from .fields import SharedFields, method_field
from .optimise_run import optimise
from .outputs import cancel_on, downloads, follow, live_status, start_on
from .session import Session
from .settings import Settings, check_optimise
from .strengths import ASCENTS
from .views import View

SCRUBBER = "0 is the image of the first noise. The files have the best iterate of each image."


def optimise_tab(session: Session, shared: SharedFields) -> dict[str, Any]:
    """Draws the tab; returns its own fields by name."""
    gr.Markdown(f"Optimises the noise from which the one-step model {session.one_step} makes an image.")
    with gr.Row():
        method = method_field(shared, ASCENTS, "gper")
        iterations = gr.Number(40, label="Iterations")
    with gr.Row():
        start = gr.Button("Optimise", variant="primary", elem_id="nt-optimise")
        stop = gr.Button("Cancel", elem_id="nt-optimise-cancel")
    status = live_status("optimise")
    scrubber = gr.Slider(
        0, 1, 0, step=1, label="Iteration", info=SCRUBBER, interactive=True, visible=False, elem_id="nt-scrubber"
    )
    images = gr.HTML("", elem_id="nt-optimise-images")
    result = gr.HTML("", elem_id="nt-optimise-result")
    files = downloads("optimise")

    def run(key: str, settings: Settings, chosen: str, count: float) -> Iterator[list[Any]]:
        work = optimise(session, session.visitor(key), settings, chosen, int(count))
        return follow(session, key, work, _render)

    def scrub(request: gr.Request, number: float) -> str:
        return markup.iterate(session.visitor(request.session_hash).iterates, int(number))

    own = {"method": method, "iterations": iterations}
    start_on(session, shared, start, own, check_optimise, run, [status, images, result, scrubber, *files.components])
    scrubber.input(
        scrub, scrubber, images, show_progress="hidden", api_visibility="private", trigger_mode="always_last"
    )
    cancel_on(session, stop, status)
    return own


def _render(view: View) -> list[Any]:
    """The images, the curves and the scrubber."""
    row = view.rows[0] if view.rows else None
    if row is None or view.state == "running":
        return [markup.iterate(row), markup.optimised(view), gr.update(visible=False)]
    last = max(len(row.frames[0]) - 1, 1)
    return [markup.iterate(row), markup.optimised(view), gr.update(visible=True, maximum=last, value=last)]
