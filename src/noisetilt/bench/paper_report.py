"""The report of the suite `paper`: an overview, for each target the tables with and without the rule of fairness and
the fronts of target reward against what it costs, the goals, and what the words mean."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from .document import Document
from .ledger import Row
from .paper_lines import Line, mean_of, verdicts
from .paper_overview import Results, results_of, write_overview
from .paper_plan import POINTS, Target
from .paper_plots import distance_of, image_files, plot_fronts, plot_lines
from .paper_suite import Runner
from .paper_verdict import GOALS, findings, summary

HEADER = (
    "method,strength,n,calls,reward,gain,probability,named right,style 3d,held-out {0},held-out alignment,"
    "kernel distance,precision,recall,Vendi,roughness,p,rejected,s/image,CPU s/image,MB"
)
# What the words of the report mean; {0}: the calls of a search in the tuning.
DEFINITIONS = (
    "Rule: on the tuning prompts, strengths are excluded at which the mean probability that the judge gives the right "
    f"concept, of 1 406, is more than {POINTS} below base's, at the same prompts and seeds. Of the others, the one "
    "with the highest mean target reward is chosen. If all are excluded, the weakest is used. Searches are tuned with "
    f"{0} calls; a method with a search around it has the strength of the method alone.",
    "Right concept: the prompt's, or the one that the target asks for. Named right: the images where it has the "
    "highest probability. No method optimises the judge.",
    "Gain: the difference to base at the same prompts and seeds. Brackets: 95 % bootstrap intervals, in which the "
    "images of a concept are drawn together.",
    "Calls: network calls per image, counted by a hook on the network. s/image: wall-clock time. CPU s/image: "
    "processor time. MB: the peak memory.",
    "Held-out: a reward of the same kind from another network, which is not optimised. Style 3d: the fraction of "
    "images whose style the judge calls 3d.",
    "Kernel distance (KID), precision and recall are against 3 000 real emoji by the judge's features. Images of a few "
    "concepts are far from all emoji, so compare them with base. Precision, recall and Vendi depend on the number of "
    "images: compare them only at equal n.",
    "p: the median p-value for white Gaussian injected noise. Rejected: the fraction of images where it is below 1 %.",
)
FRONT_CAPTION = (
    "Lines connect the strengths of a method; circles are the strengths that the rule chooses. Up and to the right is "
    "better on the left, up and to the left on the right."
)


def check_calls(rows: Iterable[Row]) -> None:
    """Compares the network calls that the sampler reported with those that a hook on the network counted.

    Raises:
        ValueError: if a row has two different numbers.
    """
    for row in rows:
        if abs(row["nfe"] - row["network_calls"]) > 1e-6:
            raise ValueError(
                f"{row['method']} on {row['target']} reported {row['nfe']:g} network calls per image and the network "
                f"was called {row['network_calls']:g} times; the sampler's count is wrong"
            )


def write(out: Path, runner: Runner) -> Document:
    """Writes report.md, report.html, plots and image grids of all complete results.

    Raises:
        ValueError: if a row's reported and counted network calls differ, or the rows of a target were measured with
            rewards of different scales.
    """
    check_calls(runner.ledger.where())
    for target in runner.plan.targets:
        runner.reward_std(target)  # raises for rows of different scales
    document, results = Document("Benchmark: methods at equal network calls on emoji128"), results_of(runner)
    write_overview(document, runner, results)
    for target in runner.plan.targets:
        _target(document, out, runner, target, results)
    _goals(document, runner)
    _definitions(document, runner)
    document.write(out)
    return document


def _target(document: Document, out: Path, runner: Runner, target: Target, results: Results) -> None:
    """All results for a target; nothing if there is none."""
    plan = runner.plan
    measured = runner.measured_images(target)
    tables = {part: lines for part, lines in results.items() if part.target == target}
    fewer = 2 <= measured < plan.images
    tried = {name: cells for name in _tuned_names(runner, target) if (cells := runner.tuning_rows(target, name))}
    if not (tables or tried or fewer):
        return
    document.heading(target.reward)
    for part, lines in tables.items():
        _section(document, out, target, plan.budgets[part.searches], lines, part.constrained)
    _fronts(document, runner, target, tried)
    if fewer:
        document.text(
            f"Base and a method are measured for {measured} test images: --report --images {measured} has them."
        )


def _goals(document: Document, runner: Runner) -> None:
    """The goals that are measured for a target, and whether they are reached."""
    by_target = findings(runner)
    shown = [n for n in range(len(GOALS)) if any(found[n].outcome for found in by_target.values())]
    if not shown:
        return
    document.heading("Goals of noise tilting")
    document.text("What NTRK should reach, for methods tuned by the rule. –: a method that it needs is not measured.")
    document.items(summary(runner, by_target))
    budgets = runner.plan.budgets
    rows = [[GOALS[n].text.format(*budgets), *(str(found[n]) for found in by_target.values())] for n in shown]
    document.table(["goal", *by_target], rows)
    document.items([f"{reward}: {f.text}." for reward, found in by_target.items() for f in found if f.outcome])


def _definitions(document: Document, runner: Runner) -> None:
    """What the words mean, and the prompts."""
    plan = runner.plan
    document.heading("Definitions")
    document.items([text.format(plan.tuning_budgets[1]) for text in DEFINITIONS])
    by_prompts: dict[tuple[tuple[str, ...], tuple[str, ...]], list[str]] = {}
    for target in plan.targets:
        by_prompts.setdefault((target.prompts, target.tuning_prompts), []).append(target.reward)
    document.items(
        [
            f"Prompts for {', '.join(rewards)}: {', '.join(test)}. Tuning prompts: {', '.join(tuning)}."
            for (test, tuning), rewards in by_prompts.items()
        ]
    )


def _section(
    document: Document, out: Path, target: Target, budget: int, lines: Sequence[Line], constrained: bool
) -> None:
    """A target at a budget: sentences, table, plot, images."""
    stem = f"{_stem(target)}-{budget}" + ("" if constrained else "-free")
    title = f"{target.reward}, {budget} calls per image, " + ("by the rule" if constrained else "without the rule")
    document.heading(title, 3)
    document.items(verdicts(target, lines))
    document.table(HEADER.format(target.heldout).split(","), [_table_row(line) for line in lines])
    document.picture(f"{stem}.png", plot_lines(target, lines, title), "Bars are 95 % intervals.")
    caption = "All rows have the same prompts and seeds."
    document.images(f"{stem}-pictures.png", image_files(out, lines), caption, scale=1)


def _table_row(line: Line) -> list[Any]:
    styles = [float(row["judged_style"] == "3d") for row in line.rows]
    return [
        line.method,
        line.strength,
        len(line.rows),
        line.calls,
        str(line.reward),
        str(line.gain),
        str(line.probability),
        str(line.named),
        sum(styles) / len(styles),
        str(line.heldout),
        line.alignment,
        line.distance,
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


def _fronts(document: Document, runner: Runner, target: Target, tried: dict[str, dict[float, list[Row]]]) -> None:
    """All strengths tried, as a table and a plot.

    Args:
        tried: method → strength → rows.
    """
    base = runner.tuning_base(target)
    if not (tried and base):
        return
    document.heading("Every strength tried", 3)
    header = ["method", "strength", "n", "reward", "probability", "named right", "held-out", "kernel distance", "rule"]
    rows: list[list[Any]] = [["base", "", *_figures(base), ""]]
    for name, cells in tried.items():
        admissible, chosen = runner.admissible_strengths(target, name), runner.chosen_strength(target, name)
        for value, some in cells.items():
            state = "chosen" if value == chosen else "kept" if value in admissible else "broken"
            state += ", none keeps it" if value == chosen and not admissible else ""
            rows.append([name, f"{runner.entries[name].option} = {value:g}", *_figures(some), state])
    document.table(header, rows)
    document.picture(f"{_stem(target)}-fronts.png", plot_fronts(runner, target, tried), FRONT_CAPTION)


def _tuned_names(runner: Runner, target: Target) -> list[str]:
    """The methods whose strength is tuned for a target."""
    names = dict.fromkeys(runner.tuned_method(name) for name in runner.reported(target))
    return [name for name in names if runner.values(target, name)]


def _figures(rows: Sequence[Row]) -> list[Any]:
    means = (mean_of(rows, field) for field in ("reward", "probability", "named", "heldout"))
    return [len(rows), *means, distance_of(rows)]


def _stem(target: Target) -> str:
    return target.reward.translate({ord(":"): "-", ord("*"): None, ord(" "): None})
