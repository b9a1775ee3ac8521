"""The outputs that all tabs have: the state of a run, its downloads, and the loop that fills them in."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

import gradio as gr

from . import markup
from .fields import SharedFields, settings_of
from .runs import Run
from .session import Session
from .views import View

# A live region: screen readers announce its changes.
LIVE = "element.setAttribute('role', 'status'); element.setAttribute('aria-live', 'polite')"


@dataclass
class Downloads:
    """The files of a run and what repeats it."""

    box: gr.Column
    files: gr.File
    command: gr.Textbox
    code: gr.Textbox

    @property
    def components(self) -> list[Any]:
        """In the order of `updates`."""
        return [self.box, self.files, self.command, self.code]


def downloads(key: str) -> Downloads:
    """Draws the downloads, which are hidden until a run is done."""
    with gr.Column(visible=False, elem_id=f"nt-{key}-downloads") as box:
        files = gr.File(label="Files", file_count="multiple", interactive=False, height=320, elem_classes="nt-files")
        command = gr.Textbox(
            label="Command line that repeats the run",
            interactive=False,
            lines=2,
            buttons=["copy"],
            elem_classes="nt-code",
        )
        code = gr.Textbox(
            label="Python that repeats the run", interactive=False, lines=4, buttons=["copy"], elem_classes="nt-code"
        )
    return Downloads(box, files, command, code)


def download_updates(view: View) -> list[Any]:
    """The values of the components of `Downloads`."""
    if view.state != "done":
        return [gr.update(visible=False), None, "", ""]
    return [gr.update(visible=True), view.files, view.command, view.code]


def live_status(key: str) -> gr.HTML:
    """Draws the state of the tab's run."""
    return gr.HTML("", js_on_load=LIVE, elem_id=f"nt-{key}-status")


def follow(
    session: Session, visitor_key: str, work: Callable[[Run], None], render: Callable[[View], list[Any]]
) -> Iterator[list[Any]]:
    """Runs work in the queue; yields the status, what `render` draws of each change, and the downloads.

    A visitor that leaves the page cancels the run.
    """
    visitor = session.visitor(visitor_key)
    run = Run(session.queue, work)
    visitor.runs = [run, *(earlier for earlier in visitor.runs if not earlier.finished)]
    shown = None
    try:
        for view in run.updates():
            text = markup.status(view)
            status = gr.skip() if text == shown else text
            shown = text
            ended = view.state in ("done", "cancelled", "failed")
            changes = download_updates(view) if ended or not view.rows else [gr.skip()] * 4
            yield [status, *render(view), *changes]
    finally:
        run.cancel()


def start_on(
    session: Session,
    shared: SharedFields,
    button: gr.Button,
    own: dict[str, Any],
    check: Callable[..., dict[str, str]],
    run: Callable[..., Iterator[list[Any]]],
    outputs: Sequence[Any],
) -> None:
    """Starts a run when the button is pressed, or says beside each field, and below the button, what is wrong.

    Args:
        session: of the page.
        shared: the fields of all tabs.
        button: starts the run.
        own: the tab's own fields by name.
        check: (session, visitor, shared values by name, *own values) → messages by field.
        run: (key of the visitor, settings, *own values) → values of the outputs.
        outputs: of `run`; the status is the first.
    """
    inputs = [*shared.inputs, *own.values()]

    def found(request: gr.Request, values: Sequence[Any]) -> dict[str, str]:
        named, chosen = shared.read(values)
        return check(session, session.visitor(request.session_hash), named, *chosen)

    def validate(request: gr.Request, *values: Any) -> list[Any]:
        return shared.errors(found(request, values), list(own))

    def start(request: gr.Request, *values: Any) -> Iterator[list[Any]]:
        named, chosen = shared.read(values)
        yield from run(request.session_hash, settings_of(named), *chosen)

    def refuse(request: gr.Request, *values: Any) -> Any:
        if session.visitor(request.session_hash).is_running:
            return gr.skip()
        errors = found(request, values)
        return message("failed", " ".join(errors.values()), "Not started. ") if errors else gr.skip()

    hidden: dict[str, Any] = {"show_progress": "hidden", "concurrency_limit": None, "api_visibility": "private"}
    # A narrow page does not show the fields together with the button. This comes first, as gradio calls no function
    # after a validator that has found something.
    button.click(refuse, inputs, outputs[0], **hidden)
    button.click(start, inputs, list(outputs), validator=validate, **hidden)


def cancel_on(session: Session, button: gr.Button, status: gr.HTML) -> None:
    """Cancels the visitor's runs when the button is pressed; each ends within one step."""

    def cancel(request: gr.Request) -> Any:
        cancelled = session.visitor(request.session_hash).cancel()
        return gr.skip() if cancelled else message("cancelled", "No run of yours is running.")

    button.click(cancel, None, status, queue=False, show_progress="hidden", api_visibility="private")


def message(state: str, text: str, title: str = "") -> str:
    """A sentence as HTML, after a title in bold, in the colour of a state of `View`."""
    bold = f"<strong>{escape(title)}</strong>" if title else ""
    return f'<p class="nt-status nt-{state}">{bold}{escape(text[:1].upper() + text[1:])}</p>'
