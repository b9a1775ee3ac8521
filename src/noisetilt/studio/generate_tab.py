"""The tab Generate: base and guided side by side."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import gradio as gr

from . import markup
from .fields import SharedFields, method_field
from .outputs import cancel_on, downloads, follow, live_status, start_on
from .sampling_runs import generate
from .session import Session
from .settings import Settings, check_generate
from .strengths import SAMPLERS


def generate_tab(session: Session, shared: SharedFields) -> dict[str, Any]:
    """Draws the tab; returns its own fields by name."""
    method = method_field(shared, SAMPLERS, "ntrk-x0")
    with gr.Row():
        start = gr.Button("Generate", variant="primary", elem_id="nt-generate")
        stop = gr.Button("Cancel", elem_id="nt-generate-cancel")
    status = live_status("generate")
    result = gr.HTML("", elem_id="nt-generate-result")
    files = downloads("generate")

    def run(key: str, settings: Settings, chosen: str) -> Iterator[list[Any]]:
        work = generate(session, session.visitor(key), settings, chosen)
        return follow(session, key, work, lambda view: [markup.generated(view)])

    own = {"method": method}
    start_on(session, shared, start, own, check_generate, run, [status, result, *files.components])
    cancel_on(session, stop, status)
    return own
