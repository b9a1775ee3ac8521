"""A hook of MkDocs: a page for every entry of METHODS, from its summary, its parts' docstrings and measured rows."""

from __future__ import annotations

import collections
import dataclasses
import gzip
import inspect
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import griffe
from mkdocs.structure.files import File, Files

from noisetilt import METHODS, Method
from noisetilt.bench.paper_plan import BASE, METHODS_OF_SUITE, MORE_STRENGTHS, Entry
from noisetilt.bench.statistics import mean_interval
from noisetilt.initial_noise import Gaussian
from noisetilt.path import TimeTravel
from noisetilt.proposals import Base
from noisetilt.selection import Independent

ROOT = Path(__file__).parents[2]
ROLES = {"initial": "initial noise", "proposal": "proposal", "selection": "selection", "times": "time grid"}
MODULES = {
    "initial": "noisetilt.initial_noise",
    "proposal": "noisetilt.proposals",
    "selection": "noisetilt.selection",
    "times": "noisetilt.path",
}
PLAIN = (Gaussian(), Base(), Independent(), TimeTravel())
SECTIONS = re.compile(r"(?<!\n)\n(?=(?:Args|Attributes|Returns|Yields|Raises):\n)")
ARXIV = re.compile(r"(?<!/)arXiv (\d{4}\.\d{4,5})")
ONE_STEP_MODEL = "emoji128-turbo"
# METHODS' name → name of the published method.
TITLES = {
    "base": "Base sampling",
    "best-of-n": "Best-of-N",
    "dps": "DPS",
    "lgd": "LGD-MC",
    "mpgd": "MPGD",
    "ugd": "Universal guidance (UGD)",
    "freedom": "FreeDoM",
    "tfg": "TFG",
    "dsg": "DSG",
    "svdd": "SVDD",
    "rbf": "RBF",
    "fk": "FK steering",
    "das": "DAS",
    "psi": "Ψ-Sampler",
    "ntrk": "NTRK",
    "ntrk-best-of-n": "NTRK†",
    "none": "Noise ascent",
    "reno": "ReNO",
    "prno": "PRNO",
    "mpgr": "MPGR",
    "gper": "GPER",
}


def linked(text: str) -> str:
    """The text with links to the papers that it names."""
    return ARXIV.sub(r"[arXiv \1](https://arxiv.org/abs/\1)", text)


def parsed(part: Any) -> tuple[str, dict[str, str]]:
    """The text of a part's docstring, and its options' descriptions."""
    doc = SECTIONS.sub("\n\n", inspect.getdoc(type(part)) or "")
    text, options = [], {}
    for section in griffe.Docstring(doc).parse("google", warnings=False):
        if section.kind is griffe.DocstringSectionKind.text:
            text.append(section.value)
        elif section.kind is griffe.DocstringSectionKind.parameters:
            options |= {item.name: " ".join(item.description.split()) for item in section.value}
    return "\n\n".join(text), options


def described(part: Any, name: str) -> str:
    """An option's description; a line of a docstring may describe several options."""
    for names, text in parsed(part)[1].items():
        if name in re.split(r",\s*", names):
            return text
    return ""


def escaped(text: str) -> str:
    """Text for a cell of a table."""
    return text.replace("|", "\\|")


def is_ascent(method: Method) -> bool:
    return hasattr(method.initial, "iterate") and method.proposal == Base()


def parts_text(method: Method) -> Iterator[str]:
    yield "## Parts\n"
    yield "| part | class | options |\n|---|---|---|"
    for role, part in method.parts().items():
        kind = type(part).__name__
        link = f"[`{kind}`][{MODULES[role]}.{kind}]"
        options = ", ".join(f"`{f.name}={getattr(part, f.name)!r}`" for f in dataclasses.fields(part))
        yield f"| {ROLES[role]} | {link} | {options or '–'} |"
    for role, part in method.parts().items():
        if type(part) not in map(type, PLAIN):
            yield f"\n### {ROLES[role].capitalize()}: {type(part).__name__}\n"
            yield linked(parsed(part)[0])


def options_text(method: Method) -> Iterator[str]:
    rows = [(f.name, part) for part in method.parts().values() for f in dataclasses.fields(part)]
    yield "\n## Options\n"
    yield "| option | default | meaning |\n|---|---|---|"
    for name, part in rows:
        yield f"| `{name}` | `{getattr(part, name)!r}` | {escaped(linked(described(part, name)))} |"


def example(name: str, method: Method) -> str:
    """Python and shell commands that run a method."""
    if is_ascent(method):
        call = f"""from noisetilt import load, optimize, rewards

model = load("{ONE_STEP_MODEL}")
result = optimize(model, ["cat face"], rewards.load("style:3d"), "{name}")
result.images, result.rewards, result.iterations"""
        return f"```python\n{call}\n```\n\n```bash\nnoisetilt optimize {quoted(name)}\n```"
    reward = "jpeg" if getattr(method.proposal, "zeroth_order", False) else "style:3d"
    call = f"""from noisetilt import load, rewards, sample

model = load("emoji128")
result = sample(model, ["cat face"], rewards.load("{reward}"), "{name}", steps=25)
result.images, result.rewards, result.trace.nfe"""
    return f"```python\n{call}\n```\n\n```bash\nnoisetilt generate {quoted(name, reward)}\n```"


def quoted(name: str, reward: str = "style:3d") -> str:
    return f'"cat face" --reward {reward} --method {name} --out out/{name}'


def mean_text(rows: list[dict[str, Any]], field: str) -> str:
    """The mean of a field with its 95 % interval."""
    value, low, high = mean_interval(rows, field)
    return f"{value:.2f} [{low:.2f}, {high:.2f}]".replace("-", "−")


def ladder(entry: Entry) -> list[float | None]:
    """All strengths that the suite may try for a method; None for methods without a strength."""
    if entry.option is None:
        return [None]
    values = list(METHODS_OF_SUITE[entry.like].values if entry.like else entry.values)
    for _ in range(MORE_STRENGTHS):
        stronger = entry.stronger(values)
        values = [entry.weaker(values), *values, *([] if stronger is None else [stronger])]
    return values


def benchmark_rows() -> dict[str, list[dict[str, Any]]]:
    """Method → rows of the benchmark's images."""
    file, found = ROOT / "docs/bench/rows.jsonl.gz", collections.defaultdict(list)
    if file.exists():
        for line in gzip.decompress(file.read_bytes()).decode().splitlines():
            row = json.loads(line)
            found[row["method"]].append(row)
    return found


def measured_in_benchmark(name: str, rows: list[dict[str, Any]]) -> dict[str, list[str]]:
    """Test or tuning prompts → a line per target and strength that the suite tries; earlier versions tried others."""
    entry, groups = METHODS_OF_SUITE.get(name, BASE), collections.defaultdict(list)
    kept = ladder(entry)
    for row in rows:
        if row["value"] in kept:
            groups[row["stage"], row["target"], row["budget"], row["value"]].append(row)
    tables: dict[str, list[str]] = {}
    for (stage, target, budget, value), group in sorted(
        groups.items(), key=lambda item: (*item[0][:3], item[0][3] or 0)
    ):
        fields = ("reward", "heldout", "probability")
        values = " | ".join(mean_text(group, field) for field in fields)
        strength = "–" if value is None else f"`{entry.option}={value:g}`"
        tables.setdefault(stage, []).append(f"| `{target}` | {strength} | {budget} | {len(group)} | {values} |")
    return tables


def results_text(name: str, rows: list[dict[str, Any]]) -> Iterator[str]:
    tables = measured_in_benchmark(name, rows)
    yield "\n## Results\n"
    if not tables:
        yield "Not in the benchmark's table of results. The tests compare the method with its formula."
        return
    yield "Means and 95 % intervals over images of emoji128 in the [benchmark](../bench.md). Scales are for the reward"
    yield "divided by its standard deviation on images of `base`. The held-out reward is not optimised. The probability"
    yield "is the one that the judge gives the right concept. Strengths are chosen on the tuning prompts."
    for stage, lines in sorted(tables.items()):
        yield f"\n### {stage.capitalize()} prompts\n"
        yield "| target | strength | network calls | images | target reward | held-out reward | probability |"
        yield "|---|---|---:|---:|---:|---:|---:|"
        yield from lines


def method_page(name: str, rows: list[dict[str, Any]]) -> str:
    method = METHODS[name]
    title = TITLES.get(name, name)
    use = "one-step generators, in `optimize`" if is_ascent(method) else "sampling, in `sample` and `align`"
    summary = linked(method.summary)
    text = [
        f"# {title}" + ("" if title == name else f": `{name}`") + "\n",
        f"The method `{name}`: {summary}. This page is for readers who want to use it or to know what it computes;",
        f"it is for {use}.\n",
        example(name, method) + "\n",
        *parts_text(method),
        *options_text(method),
        *results_text(name, rows),
    ]
    return "\n".join(text) + "\n"


def index_page() -> str:
    lines = [
        "# Methods\n",
        "All named methods, with a page each. For readers who look for a method or compare what methods do;",
        "[Choose a method and strength](../choose.md) says which to use.\n",
        "A method is *initial noise × proposal × selection*: how x_T is chosen, how one particle moves, and which",
        "particles are kept.\n",
        "| method | initial noise | proposal | selection | summary |\n|---|---|---|---|---|",
    ]
    for name, method in METHODS.items():
        parts = " | ".join(
            "–" if part == plain else f"`{type(part).__name__}`"
            for part, plain in zip(list(method.parts().values())[:3], PLAIN, strict=False)
        )
        lines.append(f"| [`{name}`]({name}.md) | {parts} | {escaped(linked(method.summary))} |")
    return "\n".join(lines) + "\n"


def on_config(config: Any) -> Any:
    """Adds the pages to the navigation."""
    config.nav.append({"Methods": ["methods/index.md", *({name: f"methods/{name}.md"} for name in METHODS)]})
    return config


def on_files(files: Files, config: Any) -> Files:
    rows = benchmark_rows()
    files.append(File.generated(config, "methods/index.md", content=index_page()))
    for name in METHODS:
        files.append(File.generated(config, f"methods/{name}.md", content=method_page(name, rows.get(name, []))))
    return files
