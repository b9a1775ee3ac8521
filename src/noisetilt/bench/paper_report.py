"""The report of the suite `paper`: per target and budget a table, plots of reward against its costs, and images."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from .document import Document
from .ledger import Row
from .paper_lines import Line, lines_of, mean_of, verdicts
from .paper_plan import KEEP, METHODS_OF_SUITE, Target
from .paper_plots import image_grid, plot_lines, plot_tuning
from .paper_suite import Runner
from .paper_verdict import GOALS, findings, summary

HEADER = (
    "method,strength,n,reward,gain,{0},{1},held-out alignment,Fréchet,precision,recall,Vendi,roughness,p,rejected,"
    "s/image,CPU s/image,MB"
)
RULE = (
    "The strength of a method is the one with the highest target reward in the tuning among those with a mean held-out "
    f"alignment at most {KEEP} below base's over {{1}} seeds (for the target alignment: with a mean total variation of "
    "2/3 to 3/2 of base's). Searches are tuned with {0} calls; a method with a search around it has the strength of "
    "the method alone. 'gain' is the difference to base at the same prompts and seeds; brackets are 95 % bootstrap "
    "intervals. Fréchet distance, precision and recall are against held-out real emoji and few images: compare them "
    "only within a table. 'p' is the median p-value for white Gaussian injected noise, 'rejected' the fraction of "
    "images where it is below 1 %. 's/image' is wall-clock time, 'CPU s/image' processor time, which does not depend "
    "on other programs. MB is the peak memory."
)
TUNING_CAPTION = (
    "Lines connect the strengths of a method, with 25 calls for a single trajectory and 100 for a search; circles are "
    "the chosen strengths. Up and to the right is better; total variation should stay that of base."
)


def write(out: Path, runner: Runner) -> Document:
    """Writes report.md, report.html, plots and image grids of all complete results."""
    document, plan = Document("Paper suite: methods at equal network calls on emoji64"), runner.plan
    text = f"Prompts: {', '.join(plan.prompts)}. Strengths are tuned on {', '.join(plan.tuning_prompts)}, with other "
    text += f"seeds and {len(plan.values)} values each. {runner.measured()} of {runner.count()} images are measured. "
    document.text(text + RULE.format(plan.tuning_budgets[1], plan.reference))
    _goals(document, runner)
    for target in plan.targets:
        for budget in plan.budgets:
            lines = lines_of(runner, target, budget)
            if lines:
                _section(document, out, target, budget, lines)
    _tuning_section(document, runner)
    document.write(out)
    return document


def _goals(document: Document, runner: Runner) -> None:
    """The goals, and whether they are reached."""
    by_target = findings(runner)
    document.heading("Goals")
    document.items(summary(runner, by_target))
    header = ["target", *(goal.format(*runner.plan.budgets) for goal in GOALS)]
    document.table(header, [[reward, *map(str, found)] for reward, found in by_target.items()])
    document.items([f"{reward}: {f.text}." for reward, found in by_target.items() for f in found if f.outcome])


def _section(document: Document, out: Path, target: Target, budget: int, lines: Sequence[Line]) -> None:
    """A target at a budget: sentences, table, plot, images."""
    stem = f"{_stem(target)}-{budget}"
    document.heading(f"{target.reward}, {budget} calls per image")
    document.items(verdicts(target, budget, lines))
    document.table(HEADER.format(*target.heldout).split(","), [_table_row(line) for line in lines])
    document.picture(f"{stem}.png", plot_lines(target, lines, budget), "Target reward; bars are 95 % intervals.")
    document.picture(f"{stem}-pictures.png", image_grid(out, lines), "All rows have the same prompts and seeds.")


def _table_row(line: Line) -> list[Any]:
    return [
        line.method,
        line.strength,
        len(line.rows),
        str(line.reward),
        str(line.gain),
        *map(str, line.heldout),
        line.alignment,
        line.frechet,
        line.precision,
        line.recall,
        line.vendi,
        line.roughness,
        line.p_value,
        line.rejected,
        line.seconds,
        line.processor_seconds,
        line.megabytes,
    ]


def _tuning_section(document: Document, runner: Runner) -> None:
    """All strengths tried, as a table and plots."""
    document.heading("Tuning")
    header = ["target", "method", "calls", "strength: target reward, held-out alignment, roughness"]
    document.table(header, [row for target in runner.plan.targets for row in _tuning_rows(runner, target)])
    for target in runner.plan.targets:
        tried = {name: cells for name in _tuned_names(runner, target) if (cells := _tried_cells(runner, target, name))}
        if tried:
            document.picture(f"{_stem(target)}-tuning.png", plot_tuning(runner, target, tried), TUNING_CAPTION)


def _tuned_names(runner: Runner, target: Target) -> list[str]:
    """The methods whose strength is tuned for a target."""
    names = dict.fromkeys(runner.tuned_method(name) for name in runner.methods(target))
    return [name for name in names if runner.values(name)]


def _tried_cells(runner: Runner, target: Target, name: str) -> dict[float, list[Row]]:
    """The rows of each strength of a method; empty unless all are measured."""
    cells = {value: runner.rows("tuning", target, name, value=value) for value in runner.values(name)}
    return cells if all(cells.values()) else {}


def _tuning_rows(runner: Runner, target: Target) -> list[list[Any]]:
    """One table row per method with all strengths tried; the chosen strength is in brackets."""
    table_rows = []
    for name in _tuned_names(runner, target):
        tried = _tried_cells(runner, target, name)
        if tried:
            texts = {value: f"{value:g}: {_means(rows)}" for value, rows in tried.items()}
            chosen, admissible = runner.chosen_strength(target, name), runner.admissible_strengths(target, name)
            texts[chosen] = f"[{texts[chosen]}]" + ("" if admissible else " (none admissible)")
            option = f"{METHODS_OF_SUITE[name].option} "
            table_rows.append([target.reward, name, runner.budget(name, "tuning"), option + "; ".join(texts.values())])
    return table_rows


def _means(rows: Sequence[Row]) -> str:
    reward, alignment, roughness = (mean_of(rows, field) for field in ("reward", "heldout_alignment", "roughness"))
    return f"{reward:.3g}, {alignment:.2f}, {roughness:.3f}"


def _stem(target: Target) -> str:
    return target.reward.replace(":", "-").replace("*", "").replace(" ", "")
