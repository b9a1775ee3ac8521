"""The tab My reward: a typed Python function, which is executed only on a page that was started with --allow-code."""

from __future__ import annotations

from typing import Any

import gradio as gr

from .outputs import LIVE, message
from .own_reward import EXAMPLE, use_code, write_code
from .session import OWN, Session

ALLOWED = "Define `reward(images, prompts)`. **Use** executes the code on this computer and adds it to the reward mix."
NOT_ALLOWED = (
    "This page does not execute what is typed here. Download the file and start the page with it: "
    f"`noisetilt studio --reward {OWN}`. Or start the page with `--allow-code`."
)

KEPT = "Your earlier reward stays in use."


def reward_tab(session: Session) -> None:
    """Draws the tab."""
    gr.Markdown(ALLOWED if session.allow_code else NOT_ALLOWED)
    code = gr.Textbox(EXAMPLE, label="Python", lines=10, max_lines=30, elem_id="nt-own-code", elem_classes="nt-code")
    with gr.Row():
        use = gr.Button("Use", variant="primary", interactive=session.allow_code, elem_id="nt-use")
        save = gr.Button("Make my_reward.py", elem_id="nt-save-own")
    status = gr.HTML("", js_on_load=LIVE, elem_id="nt-own-status")
    file = gr.File(label="File", interactive=False, visible=False)

    def check_and_use(request: gr.Request, text: str) -> str:
        visitor = session.visitor(request.session_hash)
        try:
            return message("done", use_code(session, visitor, text))
        except ValueError as error:
            return message("failed", f"{error}. {KEPT}" if visitor.own else f"{error}.", "Not used. ")

    def write(request: gr.Request, text: str) -> list[Any]:
        try:
            place = write_code(session, session.visitor(request.session_hash), text)
        except ValueError as error:
            return [message("failed", str(error)), gr.update(visible=False)]
        return [gr.skip(), gr.update(value=str(place), visible=True)]

    use.click(check_and_use, code, status, show_progress="hidden", api_visibility="private")
    save.click(write, code, [status, file], show_progress="hidden", api_visibility="private")
