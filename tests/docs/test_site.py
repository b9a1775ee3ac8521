"""The documentation site builds strictly, has no broken link, loads nothing from elsewhere and can be searched."""

from __future__ import annotations

import importlib.util
import inspect
import itertools
import json
import os
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
import torch
from test_snippets import SMALLER, blocks, check_command, reduced

import noisetilt
from noisetilt import METHODS, rewards
from noisetilt.bench.paper_plan import METHODS_OF_SUITE
from noisetilt.models.exact import GaussianModel

pytest.importorskip("material", reason="needs the extra docs")

ROOT = Path(__file__).parents[2]
# Elements that load a file when a page is opened, and the attribute that names it; a link to click is no such element.
LOADING = {"script": "src", "img": "src", "iframe": "src", "source": "src", "video": "src", "audio": "src"}
LOADING_RELATIONS = {"stylesheet", "preload", "preconnect", "icon", "modulepreload", "dns-prefetch"}


class Page(HTMLParser):
    """What an HTML page loads, links to and has as anchors, and its text."""

    def __init__(self, file: Path) -> None:
        super().__init__()
        self.file, self.loaded, self.links, self.ids, self.text = file, [], [], set(), []
        self.source = file.read_text("utf-8")
        self.feed(self.source)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        values = dict(attributes)
        self.ids |= {values[name] for name in ("id", "name") if values.get(name)}
        if tag in LOADING and values.get(LOADING[tag]):
            self.loaded.append(values[LOADING[tag]])
        if tag == "link" and LOADING_RELATIONS & set((values.get("rel") or "").split()):
            self.loaded.append(values["href"])
        if tag == "a" and values.get("href"):
            self.links.append(values["href"])

    def handle_data(self, data: str) -> None:
        self.text.append(data)


def recipe(name: str):
    spec = importlib.util.spec_from_file_location(name, ROOT / f"recipes/docs/{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def built(tmp_path_factory) -> Path:
    """The folder of the site, built from the sources alone, without notebooks that were run before."""
    folder = tmp_path_factory.mktemp("site")
    run = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(folder)],
        cwd=ROOT,
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1", "PYTHONWARNINGS": "ignore"},
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0 and "WARNING" not in run.stderr, run.stderr
    return folder


@pytest.fixture(scope="module")
def pages(built) -> dict[str, Page]:
    return {file.relative_to(built).as_posix(): Page(file) for file in built.rglob("*.html")}


def is_elsewhere(address: str) -> bool:
    return address.startswith("//") or urlsplit(address).scheme in ("http", "https", "ftp")


@pytest.mark.long
def test_no_page_loads_anything_from_another_host(built, pages):
    assert len(pages) > 40
    for name, page in pages.items():
        assert not [address for address in page.loaded if is_elsewhere(address)], name
    for file in built.rglob("*.css"):
        addresses = re.findall(r"(?:url\(|@import\s+)[\"']?([^\"')\s;]+)", file.read_text("utf-8"))
        assert not [address for address in addresses if is_elsewhere(address)], file


@pytest.mark.long
def test_no_page_needs_the_script_that_fetches_mermaid(pages):
    """The theme's script loads mermaid from a CDN where a page has such a diagram."""
    assert not [name for name, page in pages.items() if 'class="mermaid' in page.source]


@pytest.mark.long
def test_every_link_and_image_leads_somewhere(pages, built):
    for name, page in pages.items():
        if name == "404.html":  # its links are absolute
            continue
        for address in [*page.links, *page.loaded]:
            parts = urlsplit(address)
            if parts.scheme or address.startswith("//"):
                continue
            target = (page.file.parent / unquote(parts.path)).resolve() if parts.path else page.file
            assert target.exists(), f"{name}: {address}"
            if parts.fragment and target.suffix == ".html":
                known = pages[target.relative_to(built).as_posix()].ids
                assert unquote(parts.fragment) in known | {"__skip"}, f"{name}: {address}"


@pytest.mark.long
def test_the_search_index_has_every_page_and_needs_no_server(built, pages):
    script = (built / "search/search_index.js").read_text("utf-8")
    index = json.loads(script.removeprefix("var __index = "))
    found = {entry["location"].partition("#")[0] for entry in index["docs"]}
    assert found >= set(pages) - {"404.html"}
    assert any("reward hacking" in entry["text"].lower() for entry in index["docs"])
    # Without it the theme cannot search in pages that are opened as files.
    assert all("assets/iframe-worker.js" in page.source for name, page in pages.items() if name != "404.html")


@pytest.mark.long
@pytest.mark.parametrize("name", METHODS)
def test_every_method_has_a_page_with_its_options(name, pages):
    page = pages[f"methods/{name}.html"]
    text = " ".join("".join(page.text).split())
    for option, value in METHODS[name].options().items():
        assert f"{option} {value!r}" in text, option
    assert re.sub(r"\s*\(.*", "", METHODS[name].summary).split(":")[0] in text


def test_results_of_a_method_name_the_option_and_leave_out_strengths_that_the_suite_does_not_try():
    cell = {"stage": "tuning", "target": "redness", "budget": 25, "reward": -1.0, "heldout": 0.0, "probability": 0.5}
    rows = [
        {**cell, "value": value, "prompt": prompt} for value in (0.4, 2.0, 1e6) for prompt in ("key noto", "owl flat")
    ]
    lines = recipe("method_pages").measured_in_benchmark("ntrk-mixture", rows)["tuning"]
    assert [line.split(" | ")[1] for line in lines] == ["`rho=0.4`"]
    assert "| 2 | −1.00 [−1.00, −1.00] | " in lines[0]
    ladder = recipe("method_pages").ladder
    assert ladder(METHODS_OF_SUITE["ntrk"]) == [0.0025, 0.005, 0.01, 0.02, 0.03, 0.05, 0.1, 0.2, 0.4]
    assert ladder(METHODS_OF_SUITE["ntrk-best-of-n"]) == ladder(METHODS_OF_SUITE["ntrk"])
    assert ladder(METHODS_OF_SUITE["best-of-n"]) == [None] and ladder(METHODS_OF_SUITE["svdd"])[-1] == 0.0


def test_results_of_a_method_are_sorted_by_prompts_target_and_strength():
    cell = {"budget": 25, "reward": 0.0, "heldout": 0.0, "probability": 0.5, "prompt": "key noto"}
    cells = itertools.product(("tuning", "test"), ("style:3d", "redness"), (0.1, 0.02))
    rows = [{**cell, "stage": stage, "target": target, "value": value} for stage, target, value in cells]
    tables = recipe("method_pages").measured_in_benchmark("ntrk", rows)
    first = [tuple(line.split(" | ")[:2]) for line in tables["test"]]
    assert first == [(f"| `{target}`", f"`rho={rho}`") for target in ("redness", "style:3d") for rho in (0.02, 0.1)]
    text = "\n".join(recipe("method_pages").results_text("ntrk", rows))
    assert text.count("| target |") == 2 and text.index("### Test prompts") < text.index("### Tuning prompts")


def test_a_page_of_the_reference_begins_with_functions_and_describes_every_entry():
    reference, names = recipe("reference_pages"), noisetilt.__all__
    page = reference.reference_page(*reference.PAGES["main"])
    entries = [line.rpartition(".")[2] for line in page.splitlines() if line.startswith("::: ")]
    functions = [name for name in names if inspect.isfunction(getattr(noisetilt, name))]
    assert entries[: len(functions)] == functions and entries[-1] == "METHODS" and len(entries) > len(functions) + 1


@pytest.mark.long
def test_every_public_name_is_in_the_reference_with_its_docstring(pages):
    reference = recipe("reference_pages")
    ids = set().union(*(page.ids for name, page in pages.items() if name.startswith("reference/")))
    source = "".join(page.source for name, page in pages.items() if name.startswith("reference/"))
    names = reference.documented_names()
    assert len(names) > 60
    assert not re.search(r"doc-symbol-(?:toc|heading) doc-symbol-module", source)
    with_arguments = 0
    for module, name in names:
        value = getattr(importlib.import_module(module), name)
        canonical = f"{getattr(value, '__module__', module)}.{getattr(value, '__qualname__', name)}"
        assert {f"{module}.{name}", canonical} & ids, f"{module}.{name}"
        assert inspect.isfunction(value) is False or inspect.getdoc(value), f"{module}.{name} has no docstring"
        with_arguments += "\nArgs:\n" in (inspect.getdoc(value) or "")
    # Each list of arguments is a section, and not a paragraph that begins with "Args:".
    assert source.count("Parameters:") >= with_arguments > 20
    assert not re.search(r"<p>(?:Args|Returns|Raises|Attributes):", source)


@pytest.mark.long
def test_formulas_are_mathml(pages):
    for name in ("how-ntrk-works.html", "how-gper-works.html"):
        assert pages[name].source.count("<math") > 10
    assert not [name for name, page in pages.items() if "arithmatex" in page.source]


@pytest.mark.long
def test_a_page_names_no_private_class(pages):
    assert not [name for name, page in pages.items() if "ShortRepr" in page.source]


@pytest.mark.long
def test_every_document_of_the_repository_is_a_page(pages):
    for file in (ROOT / "docs").rglob("*.md"):
        assert file.relative_to(ROOT / "docs").with_suffix(".html").as_posix() in pages
    for file in (ROOT / "docs/notebooks").glob("*.py"):
        assert f"notebooks/{file.stem}.html" in pages


def test_a_docstring_without_empty_lines_has_sections():
    separated = recipe("docstring_sections").separated
    assert separated("f.\n\nArgs:\n    x: a.\nReturns:\n    b.") == "f.\n\nArgs:\n    x: a.\n\nReturns:\n    b."
    several = "f.\n\nArgs:\n    x, y: a\n        b.\n    z: c."
    assert separated(several) == "f.\n\nArgs:\n    x: a\n        b.\n    y: a\n        b.\n    z: c."


def test_a_formula_becomes_mathml():
    content = '<p><span class="arithmatex">\\(x_t &lt; 1\\)</span></p><div class="arithmatex">\\[\\sqrt{2}\\]</div>'
    result = recipe("formulas").on_page_content(content)
    assert "<msub>" in result and "<msqrt>" in result and 'display="block"' in result and "arithmatex" not in result


@pytest.mark.parametrize("name", METHODS)
def test_the_example_of_a_method_runs(name, monkeypatch, tmp_path):
    """The Python runs on a model in closed form with a closed-form reward; the command has arguments that exist."""
    model, redness = GaussianModel(torch.full((3, 8, 8), 0.5), torch.full((8, 8), 0.01)), rewards.load("redness")
    monkeypatch.setattr(noisetilt, "load", lambda name: model)
    monkeypatch.setattr(rewards, "load", lambda name: redness)
    page = tmp_path / "page.md"
    page.write_text(recipe("method_pages").method_page(name, []), "utf-8")
    python, bash = blocks(page)
    names = {}
    exec(reduced(python.text, SMALLER), names)
    assert names["result"].images.shape == (1, 3, 8, 8)
    for line in bash.lines():
        check_command(line)
