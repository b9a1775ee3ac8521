"""The tab Generate: base and guided side by side."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import gradio as gr

from . import markup
from .fields import SharedFields, settings_of
from .outputs import cancel_on, downloads, follow, live_status
from .sampling_runs import generate
from .session import Session
from .settings import check_generate
from .strengths import DEFAULT_STRENGTH, SAMPLERS, describe_strength


def generate_tab(session: Session, shared: SharedFields) -> dict[str, Any]:
    """Draws the tab; returns its own fields by name."""
    method = gr.Dropdown(list(SAMPLERS), value="ntrk-x0", label="Method", info=_described("ntrk-x0", DEFAULT_STRENGTH))
    for field in (method, shared.strength):
        field.change(_describe, [method, shared.strength], method, show_progress="hidden", api_visibility="private")
    with gr.Row():
        start = gr.Button("Generate", variant="primary", elem_id="nt-generate")
        stop = gr.Button("Cancel", elem_id="nt-generate-cancel")
    status = live_status("generate")
    result = gr.HTML("", elem_id="nt-generate-result")
    files = downloads("generate")

    def check(request: gr.Request, *values: Any) -> list[Any]:
        named, (chosen,) = shared.read(values)
        visitor = session.visitor(request.session_hash)
        return shared.errors(check_generate(session, visitor, named, chosen), ["method"])

    def run(request: gr.Request, *values: Any) -> Iterator[list[Any]]:
        named, (chosen,) = shared.read(values)
        key = request.session_hash
        work = generate(session, session.visitor(key), settings_of(named), chosen)
        yield from follow(session, key, work, lambda view: [markup.generated(view)])

    start.click(
        run,
        [*shared.inputs, method],
        [status, result, *files.components],
        validator=check,
        show_progress="hidden",
        concurrency_limit=None,
        api_visibility="private",
    )
    cancel_on(session, stop)
    return {"method": method}


def _described(method: str, strength: float) -> str:
    return f"This strength sets {describe_strength(method, strength)}."


def _describe(method: str, strength: Any) -> Any:
    try:
        return gr.update(info=_described(method, strength))
    except ValueError:
        return gr.skip()
