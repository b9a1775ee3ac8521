"""The HTML of a view. All text that comes from a visitor is escaped."""

from __future__ import annotations

import base64
import math
from collections.abc import Sequence
from html import escape

import numpy as np

from .curves import draw_curves
from .gauge import Gauge
from .views import Row, View

MARKS = {"none": "✓", "warning": "!", "hacked": "✕", "unknown": "?"}
TITLES = {"waiting": "Waiting", "running": "Running", "done": "Done", "cancelled": "Cancelled", "failed": "Failed"}
SHOWN_STEPS = 12
HELDOUT = (
    "The target is the reward mix, which guides. The held-out reward is another model, which does not guide. If it "
    "falls while the target rises, the reward is exploited."
)


def image_tag(data: bytes, text: str) -> str:
    """An image with its description."""
    return f'<img src="data:image/webp;base64,{base64.b64encode(data).decode()}" alt="{escape(text, quote=True)}">'


def status(view: View) -> str:
    """The state in words, for the live region that screen readers announce: it does not change at every step."""
    text = f"<strong>{TITLES[view.state]}.</strong> {escape(view.message)}"
    if view.state == "done":
        calls = sum(row.variant.nfe * len(row.variant.images) for row in view.rows)
        seconds = sum(row.variant.seconds for row in view.rows)
        text += f"{calls:.0f} network calls, {seconds:.1f} seconds."
    text += "".join(f"<br><strong>Warning.</strong> {escape(warning)}" for warning in view.warnings)
    return f'<p class="nt-status nt-{view.state}">{text}</p>'


def progress(view: View, unit: str = "step") -> str:
    """The progress of the row that a running view computes."""
    if view.state != "running" or not view.rows:
        return ""
    row = view.rows[-1]
    # The first iterate has the number 0.
    done, steps = (row.done, row.steps) if unit == "step" else (max(row.done - 1, 0), row.steps - 1)
    label = f"{row.title}: {unit} {done} of {steps}"
    return (
        f'<div class="nt-progress"><progress max="{row.steps}" value="{row.done}" aria-label="{escape(row.title)}">'
        f"</progress><span>{escape(label)}</span></div>"
    )


def generated(view: View) -> str:
    """Base and guided side by side, the gauge, the curves and the figures."""
    if not view.rows:
        return ""
    halves = "".join(_half(view, row) for row in view.rows)
    missing = 2 - len(view.rows)
    halves += '<section class="nt-half"><h2>Guided</h2><p class="nt-hint">after the base images</p></section>' * missing
    return (
        f'<div class="nt-result">{progress(view)}{gauge(view.gauge)}<div class="nt-halves">{halves}</div>'
        f"{_curves(view, 'step')}{figures(view)}</div>"
    )


def _half(view: View, row: Row) -> str:
    return f'<section class="nt-half"><h2>{escape(row.title)}</h2>{_images(row)}</section>'


def _images(row: Row) -> str:
    return _grid([_figure(row, index, row.frames[index][-1:]) for index in range(len(row.seeds))])


def _grid(cells: Sequence[str], columns: int | None = None) -> str:
    """Images in rows, at most so many in each; None: as many as make a square of them."""
    columns = columns or max(2, math.ceil(math.sqrt(len(cells))))
    return f'<div class="nt-images" style="--nt-columns: {columns}">{"".join(cells)}</div>'


def _figure(row: Row, index: int, frames: Sequence[bytes]) -> str:
    seed = row.seeds[index]
    shown = (
        image_tag(frames[-1], f"{row.title}, seed {seed}")
        if frames
        else '<div class="nt-empty" aria-hidden="true"></div>'
    )
    return f"<figure>{shown}<figcaption>seed {seed}{_rewards(row, index)}</figcaption></figure>"


def _rewards(row: Row, index: int) -> str:
    """The rewards of an image: of the result if there is one, else of x̂_0."""
    if index < len(row.variant.rewards):
        target, heldout = row.variant.rewards[index], row.variant.heldout[index]
    else:
        target, heldout = _last(row.target[:, index]), _last(row.heldout[:, index])
    text = "" if target is None else f"<br>target {target:+.2f}"
    return text + ("" if heldout is None else f"<br>held-out {heldout:+.2f}")


def _last(values: np.ndarray) -> float | None:
    known = values[~np.isnan(values)]
    return float(known[-1]) if len(known) else None


def gauge(found: Gauge | None) -> str:
    """Whether the run starts to be hacked, in words."""
    if found is None:
        return ""
    return (
        f'<p class="nt-gauge nt-level-{found.level}"><span aria-hidden="true">{MARKS[found.level]}</span>'
        f"{escape(found.text)}</p>"
    )


def _curves(view: View, unit: str) -> str:
    steps = max(row.steps for row in view.rows)
    base = next((row.title for row in view.rows if row.variant.name == "base"), None)
    target = {row.title: row.curve("target") for row in view.rows}
    charts = draw_curves(target, f"target: {view.reward}", unit, steps, base)
    if view.heldout_name != "none":
        heldout = {row.title: row.curve("heldout") for row in view.rows}
        charts += draw_curves(heldout, f"held-out: {view.heldout_name}", unit, steps, base)
    hint = f'<p class="nt-hint">{HELDOUT}</p>' if charts and view.heldout_name != "none" else ""
    return f'<div class="nt-charts">{charts}</div>{hint}'


def figures(view: View, of: str = "images") -> str:
    """A table of mean rewards, network calls per image and seconds of the finished rows."""
    rows = [row for row in view.rows if row.variant.rewards]
    if not rows:
        return ""
    body = "".join(_table_row(view, row) for row in rows)
    heldout = "<th>held-out</th>" if view.heldout_name != "none" else ""
    return (
        '<table class="nt-table"><thead><tr><th>mean of the ' + escape(of) + "</th><th>target</th>"
        f"{heldout}<th>calls per image</th><th>seconds</th></tr></thead><tbody>{body}</tbody></table>"
    )


def _table_row(view: View, row: Row) -> str:
    means = row.variant.statistics()
    heldout = means["heldout_mean"]
    cell = "" if view.heldout_name == "none" else f"<td>{'–' if heldout is None else f'{heldout:+.2f}'}</td>"
    return (
        f'<tr><th scope="row">{escape(row.title)}</th><td>{means["reward_mean"]:+.2f}</td>{cell}'
        f"<td>{means['nfe']:g}</td><td>{means['seconds']:.1f}</td></tr>"
    )


def compared(view: View, key: str) -> str:
    """A row of images for each method with figures under each; a press on an image shows its steps.

    Args:
        key: distinguishes the popovers of this run from those of others on the page.
    """
    rows = "".join(_method_row(view, row, f"{key}-{number}") for number, row in enumerate(view.rows))
    return f'<div class="nt-result">{progress(view)}{rows}{figures(view)}</div>' if rows else ""


def _method_row(view: View, row: Row, key: str) -> str:
    cells = []
    for index in range(len(row.seeds)):
        frames = row.frames[index]
        if view.state != "done" or not frames:
            cells.append(_figure(row, index, frames[-1:]))
            continue
        name = f"steps-{key}-{index}"
        text = f"{row.title}, seed {row.seeds[index]}"
        cells.append(
            f'<figure><button type="button" class="nt-open" popovertarget="{name}" '
            f'aria-label="Show the steps of {escape(text)}">{image_tag(frames[-1], text)}</button>'
            f"<figcaption>seed {row.seeds[index]}{_rewards(row, index)}</figcaption>"
            f"{_steps_popover(row, index, name)}</figure>"
        )
    images = _grid(cells, min(max(len(cells), 4), 8))
    return f'<section class="nt-method"><h2>{escape(row.title)}</h2>{images}</section>'


def _steps_popover(row: Row, index: int, name: str) -> str:
    """The predicted images x̂_0 of an image's steps, in a popover."""
    frames, title = row.frames[index], f"{row.title}, seed {row.seeds[index]}: the predicted image after each step"
    picked = sorted({round(i * (len(frames) - 1) / (SHOWN_STEPS - 1)) for i in range(SHOWN_STEPS)})
    steps = []
    for number in picked:
        label = f"step {number + 1}" if number < row.steps else "result"
        steps.append(f"<figure>{image_tag(frames[number], label)}<figcaption>{label}</figcaption></figure>")
    return (
        f'<div popover id="{name}" class="nt-steps-popover" role="dialog" aria-label="{escape(title, quote=True)}">'
        f"<h3>{escape(title)}</h3>"
        f"{_grid(steps, 4)}"
        f'<button type="button" class="nt-close" popovertarget="{name}" popovertargetaction="hide">Close</button></div>'
    )


def optimised(view: View) -> str:
    """The gauge, the curves and the figures of a noise ascent; `iterate` has its images."""
    if not view.rows:
        return ""
    return (
        f'<div class="nt-result">{progress(view, "iteration")}{gauge(view.gauge)}{_curves(view, "iteration")}'
        f"{figures(view, 'best iterates')}</div>"
    )


def iterate(row: Row | None, number: int | None = None) -> str:
    """The images of an iterate (the last one if None) with their rewards at it."""
    if row is None or not any(row.frames):
        return ""
    cells = []
    for index, frames in enumerate(row.frames):
        if not frames:
            continue
        at = len(frames) - 1 if number is None else min(max(int(number), 0), len(frames) - 1)
        rewards = f"<br>target {row.target[at, index]:+.2f}"
        if row.has_heldout:
            rewards += f"<br>held-out {row.heldout[at, index]:+.2f}"
        text = f"seed {row.seeds[index]}, iteration {at}"
        best = "" if row.best is None else " (best)" if row.best[index] == at else f" (best: {row.best[index]})"
        cells.append(f"<figure>{image_tag(frames[at], text)}<figcaption>{text}{best}{rewards}</figcaption></figure>")
    return _grid(cells, min(max(len(cells), 4), 8))
