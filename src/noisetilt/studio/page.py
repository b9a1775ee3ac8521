"""The page: the shared fields, the tabs, and the PNG whose settings are restored."""

from __future__ import annotations

from html import escape
from pathlib import Path
from typing import Any

import gradio as gr

from .compare_tab import compare_tab
from .fields import SharedFields, shared_fields
from .files import restore
from .generate_tab import generate_tab
from .optimise_tab import optimise_tab
from .outputs import LIVE, message
from .reward_tab import reward_tab
from .session import Session

STYLE = Path(__file__).with_name("style.css")
HOUR = 3600  # in seconds
WELCOME = (
    "A reward gives an image a number, such as how much it looks like a style. Sampling is guided so that images get "
    "higher rewards. Type a prompt and press Generate to see images without and with guidance."
)


def theme() -> gr.themes.Base:
    """Fonts of the system, and colours of a contrast of 4.5 or more."""
    chosen = gr.themes.Default(
        primary_hue="indigo", font=["system-ui", "sans-serif"], font_mono=["ui-monospace", "monospace"]
    )
    return chosen.set(
        body_text_color_subdued="*neutral_600",
        body_text_color_subdued_dark="*neutral_300",
        block_info_text_color="*neutral_600",
        block_info_text_color_dark="*neutral_300",
        block_label_text_color="*neutral_700",
        block_title_text_color="*neutral_700",
        button_primary_background_fill="*primary_600",
        button_primary_background_fill_hover="*primary_700",
        input_placeholder_color="*neutral_600",
        input_placeholder_color_dark="*neutral_300",
    )


def build_page(session: Session) -> gr.Blocks:
    """The page of a session."""

    def leave(request: gr.Request) -> None:
        session.leave(request.session_hash)

    with gr.Blocks(
        title="noisetilt studio", analytics_enabled=False, fill_width=True, delete_cache=(HOUR, 24 * HOUR)
    ) as page:
        gr.HTML(
            f"<h1>noisetilt studio</h1><p>Model: {escape(str(session.job.model))}</p><p>{WELCOME}</p>",
            elem_id="nt-title",
        )
        with gr.Row(elem_id="nt-main"):
            with gr.Column(scale=2, min_width=300, elem_id="nt-fields"):
                shared = shared_fields(session)
                file = gr.File(
                    label="Restore settings: drop a PNG of a run", file_types=[".png"], height=130, elem_id="nt-restore"
                )
                restored = gr.HTML("", js_on_load=LIVE, elem_id="nt-restored")
            with gr.Column(scale=5, min_width=300, elem_id="nt-tabs"), gr.Tabs() as tabs:
                with gr.Tab("Generate", id="generate"):
                    sampling = generate_tab(session, shared)
                with gr.Tab("Compare", id="compare"):
                    compare_tab(session, shared)
                with gr.Tab("Optimise", id="optimise"):
                    ascent = optimise_tab(session, shared)
                with gr.Tab("My reward", id="reward"):
                    reward_tab(session)
        _restore_on(session, file, restored, tabs, shared, sampling, ascent)
        page.unload(leave)
    return page


def _restore_on(
    session: Session,
    file: gr.File,
    said: gr.HTML,
    tabs: gr.Tabs,
    shared: SharedFields,
    sampling: dict[str, Any],
    ascent: dict[str, Any],
) -> None:
    """Fills the fields in from a PNG that is dropped."""
    plain = {"prompt": shared.prompt, "strength": shared.strength, "n": shared.n, "seed": shared.seed}
    plain |= {"steps": shared.steps, "iterations": ascent["iterations"]}
    outputs = [said, tabs, *plain.values(), sampling["method"], ascent["method"], *shared.sliders.values()]

    def fill(place: str | None) -> list[Any]:
        unchanged = [gr.skip()] * (len(outputs) - 1)
        if place is None:
            return ["", *unchanged]
        try:
            fields, notes = restore(place, list(shared.sliders), session.job, session.one_step)
        except (ValueError, OSError) as error:
            return [message("failed", f"{error}."), *unchanged]
        values = [fields.get(name, gr.skip()) for name in plain]
        method = fields.get("method", gr.skip())
        methods = [gr.skip(), method] if fields["tab"] == "optimise" else [method, gr.skip()]
        sliders = [fields["sliders"].get(name, 0.0) for name in shared.sliders]
        text = " ".join(["The settings are restored.", *notes])
        return [message("done", text), gr.Tabs(selected=fields["tab"]), *values, *methods, *sliders]

    file.change(fill, file, outputs, show_progress="hidden", api_visibility="private")
