"""The table of docs/pipelines.md, from the rows of `diffusers_suite.py`."""

from __future__ import annotations

import importlib.metadata
import inspect
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

START, END = "<!-- table: start -->\n", "<!-- table: end -->\n"


def exported_pipelines() -> list[str]:
    """The names of the pipeline classes that the installed diffusers exports."""
    import diffusers

    names = {name for group in diffusers._import_structure.values() for name in group if "Pipeline" in name}
    found = []
    for name in sorted(names):
        kind = getattr(diffusers, name, None)
        if inspect.isclass(kind) and issubclass(kind, diffusers.DiffusionPipeline) and "__call__" in dir(kind):
            found.append(name)
    return [name for name in found if name != "DiffusionPipeline"]


def static_reason(name: str) -> str | None:
    """Why a class is refused, as far as its source tells without a pipeline."""
    import diffusers

    from noisetilt.integrations.diffusers.support import NOT_IMAGES, reason_against_call

    kind = getattr(diffusers, name)
    if name in NOT_IMAGES:
        return f"{name} makes {NOT_IMAGES[name]}"
    if inspect.unwrap(kind.__call__).__code__.co_filename.endswith("pipeline_utils.py"):
        return f"{name} has no call of its own"
    reason = reason_against_call(kind)
    return reason


def latest(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The last row of each test, in the order of a file that several runs appended to. A module that cannot be imported
    has no rows of an earlier run."""
    found: dict[tuple[Any, ...], dict[str, Any]] = {}
    for row in rows:
        if "import" in row:
            found = {key: kept for key, kept in found.items() if key[0] != row["module"]}
        found[tuple(row.get(key) for key in ("module", "tests", "pipeline"))] = row
    return list(found.values())


def verdict(name: str, rows: list[dict[str, Any]], guided: Callable[[dict[str, Any]], bool]) -> tuple[str, str]:
    """The mark of a class, "guided", "refused" or "not measured", and a remark."""
    own = [row for row in rows if row.get("pipeline") == name]
    passed = [row for row in own if guided(row)]
    if passed:
        scheduler = passed[0].get("scheduler", "")
        named = scheduler.split(" for ")[-1] if scheduler else ""
        remarks = [f"first-order deterministic form of {named}"] if named else []
        remarks += ["in float64"] if passed[0].get("float64") else []
        return "guided", ", ".join(remarks)
    reasons = [row["equal"] for row in own if str(row.get("equal", "")).startswith("ValueError: ")]
    if reasons:
        return "refused", reasons[-1].removeprefix("ValueError: ")
    reason = static_reason(name)
    if reason:
        return "refused", reason
    ran = [row for row in own if row.get("plain") is True]
    if ran:
        return "not measured", f"the test pipeline runs, but {failure(ran[-1])}"
    errors = [row[key] for row in own for key in ("build", "plain", "error") if isinstance(row.get(key), str)]
    if errors:
        return "not measured", f"the plain pipeline fails: {errors[-1][:160]}"
    return "not measured", "no tiny pipeline of it has run"


def failure(row: dict[str, Any]) -> str:
    """What a row fails."""
    for key, what in (
        ("equal", "guided images differ by"),
        ("rewards", "rewards differ by"),
        ("ntrk", "`ntrk` raises"),
    ):
        if isinstance(row.get(key), str):
            return f"{what.split()[0]}: {row[key][:160]}"
        if key != "ntrk" and row.get(key, 0.0) >= 1e-3:
            return f"{what} {row[key]:.1g}"
    return f"its reward is not raised ({row['ntrk'][0]:.4f} to {row['ntrk'][1]:.4f})"


def write_table(document: Path, rows: list[dict[str, Any]], guided: Callable[[dict[str, Any]], bool]) -> None:
    """Replaces the table between the marks of a document."""
    verdicts = {name: verdict(name, rows, guided) for name in exported_pipelines()}
    counts = {mark: sum(m == mark for m, _ in verdicts.values()) for mark in ("guided", "refused", "not measured")}
    head = ", ".join(f"{count} {mark}" for mark, count in counts.items())
    versions = " and ".join(f"{name} {importlib.metadata.version(name)}" for name in ("diffusers", "transformers"))
    lines = [f"{len(verdicts)} classes, with {versions}: {head}.", "", "| class | | remark |", "|---|---|---|"]
    for name, (mark, remark) in verdicts.items():
        text = re.sub(rf"^{name}(Wrapper)? ", "", re.sub(r"\s+", " ", remark))  # some tests wrap their pipeline
        text = text.replace("|", "\\|").replace("__call__", "`__call__`")
        lines.append(f"| {name} | {mark} | {text} |")
    before, _, rest = document.read_text("utf-8").partition(START)
    after = rest.partition(END)[2]
    document.write_text(before + START + "\n".join(lines) + "\n" + END + after, "utf-8")
