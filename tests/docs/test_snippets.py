"""Every command and every Python snippet of README.md and docs/*.md works as a reader would paste it.

An HTML comment before a block says what the block needs: `<!-- test: slow -->` (much time) and `<!-- test: hub -->`
(weights of the hub) are checked without being run; `<!-- test: pipeline -->` runs with a tiny pipeline in place of the
published one.
"""

from __future__ import annotations

import ast
import importlib
import inspect
import pkgutil
import re
import shlex
import sys
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import pytest

from noisetilt.cli import main
from noisetilt.cli.arguments import build_parser

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib  # which pytest needs there

ROOT = Path(__file__).resolve().parents[2]
# docs/add-a-*.md show source files, which test_add_pages.py compares with the real ones; report.md has tables only.
UNTESTED = ("add-a-", "report")
# The blocks of these run in `make test`, those of all documents in `make test-long`.
FIRST = {"README.md", "docs/tutorial.md", "docs/diffusers.md"}
DOCUMENTS = [
    ROOT / "README.md",
    *(file for file in sorted((ROOT / "docs").rglob("*.md")) if not file.name.startswith(UNTESTED)),
]
LANGUAGES = {"python", "bash", "text"}
MARKERS = {"", "slow", "hub", "pipeline"}
WORD_LIMITS = {"noise.md": 1950, "bench.md": 1250}

# Size numbers that the tests reduce or give, and nothing else: pattern and replacement in Python, options of a command.
SMALLER = {
    r"\b(steps|num_inference_steps)=25\b": r"\1=2",
    r"\b(iterations)=\d+": r"\1=2",
    r"\b(chain_steps|steps)=4\b": r"\1=2",
    r"\bgrid\(25\)": "grid(2)",
    r'"runs/houses",': '"runs/houses", steps=2,',
}
SMALLER_OPTIONS = {
    "noisetilt generate": "--n 1 --steps 4 --overwrite",
    "noisetilt optimize": "--n 1 --iterations 2 --overwrite",
}
SMALLER_DRAWS = {r"--set draws=\d+": "--set draws=2"}

FENCE = re.compile(r"^```(?P<language>\w*)\n(?P<text>.*?)^```$", re.M | re.S)
MARKER = re.compile(r"<!-- test: (\w+) -->\n\Z")
LINK = re.compile(r"\]\(([^)\s]+)\)")
SHAPE = re.compile(r"^(?P<value>[\w.]+) +# \((?P<shape>\d+(?:, \d+)*),?\)", re.M)


@dataclass(frozen=True)
class Block:
    """A fenced block: its language, text, marker ("" without one) and the number of its first line."""

    language: str
    text: str
    marker: str
    line: int

    def lines(self) -> list[str]:
        return [line for line in self.text.splitlines() if line.strip() and not line.startswith("#")]


def blocks(document: Path) -> list[Block]:
    text = document.read_text("utf-8")
    found = []
    for match in FENCE.finditer(text):
        marker = MARKER.search(text[: match.start()])
        line = text.count("\n", 0, match.start()) + 2
        found.append(Block(match["language"], match["text"], marker[1] if marker else "", line))
    return found


def prose(document: Path) -> str:
    return FENCE.sub("", document.read_text("utf-8"))


def documents(test):
    return pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.relative_to(ROOT).as_posix())(test)


def reduced(text: str, table: dict[str, str]) -> str:
    for pattern, replacement in table.items():
        text = re.sub(pattern, replacement, text)
    return text


def run_python(block: Block, document: Path, names: dict) -> None:
    """Runs a block in the names of its document, and compares the shapes that its comments give."""
    code = compile("\n" * (block.line - 1) + reduced(block.text, SMALLER), str(document), "exec")
    exec(code, names)
    for match in SHAPE.finditer(block.text):
        value = eval(match["value"], names)
        assert tuple(getattr(value, "shape", value)) == tuple(map(int, match["shape"].split(", ")))


def run_command(line: str) -> None:
    """Runs a command in this process and folder; test_wheel.py runs the installed program itself."""
    for start, options in SMALLER_OPTIONS.items():
        line = f"{line.split('  #')[0]} {options}" if line.startswith(start) else line
    words = shlex.split(reduced(line, SMALLER_DRAWS), comments=True)
    assert not set(words) & {"|", ">", "<", "&&", "||", ";", "&"}, f"{line!r} needs a shell"
    assert main(words[1:]) == 0, line


def check_python(block: Block) -> None:
    """Compiles a block, resolves what it imports and takes from there, and binds the arguments of its calls."""
    tree = ast.parse(block.text)
    names: dict = {}
    imports = [node for node in tree.body if isinstance(node, (ast.Import, ast.ImportFrom))]
    exec(compile(ast.Module(imports, []), "imports", "exec"), names)
    if "rewards" not in names:  # imported by an earlier block of the document
        names["rewards"] = importlib.import_module("noisetilt.rewards")

    def resolve(node):
        if isinstance(node, ast.Name):
            return names.get(node.id)
        if isinstance(node, ast.Attribute) and (owner := resolve(node.value)) is not None:
            return getattr(owner, node.attr)
        return None

    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and (function := resolve(node.func)) is not None:
            keywords = {keyword.arg: None for keyword in node.keywords}
            inspect.signature(function).bind(*[None] * len(node.args), **keywords)


def check_command(line: str) -> None:
    """Parses the arguments of a command that is not run, and finds the files, targets and extras that it names."""
    words = shlex.split(line, comments=True)
    program, arguments = words[0], words[1:]
    if program == "noisetilt":
        parsed = build_parser().parse_args(arguments)
        if parsed.command == "bench":
            from noisetilt import METHODS, rewards

            assert parsed.suite in ("exact", "paper", "one-step")
            assert {name for name in parsed.methods or () if ".py:" not in name} <= set(METHODS)
            assert all(rewards.load(target) for target in parsed.targets or ())
    elif program == "make":
        targets = re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.M)
        assert set(arguments) <= set(targets)
    elif program == "pip":
        extras = re.findall(r"[\w-]+", arguments[-1])
        assert arguments[0] == "install" and arguments[-1].startswith(".")
        assert set(extras) <= set(
            tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
        )
    elif program == "source":
        folder = arguments[0].removesuffix("/bin/activate")
        assert f"VENV := {folder}\n" in (ROOT / "Makefile").read_text()
    elif program == "python":
        check_script(arguments)
    elif program == "mkdir":
        flag, folder, then = arguments[:3]
        assert (flag, then) == ("-p", "&&") and arguments[-1] == f"{folder}/rows.jsonl"
        assert (ROOT / arguments[5]).exists()
    else:
        pytest.fail(f"no check is known for {line!r}")


def check_script(arguments: list[str]) -> None:
    """The files of `python FILE …` and `python -m pytest FILE …` exist, and a script knows its options."""
    files = arguments[2:] if arguments[:2] == ["-m", "pytest"] else arguments[:1]
    assert files and all((ROOT / file).is_file() for file in files)
    sources = "".join(path.read_text() for path in [ROOT / files[0], *(ROOT / files[0]).parent.glob("common.py")])
    for option in arguments[1:] if files == arguments[:1] else ():
        assert not option.startswith("--") or option in sources or f'"{option[2:]}"' in sources


@pytest.fixture
def tiny_pipeline(monkeypatch):
    """`DiffusionPipeline.from_pretrained` gives a tiny random Stable Diffusion, on the CPU wherever it is sent."""
    monkeypatch.setattr(sys, "path", [str(ROOT / "tests" / "integrations"), *sys.path])
    diffusers = pytest.importorskip("diffusers")
    pipe, _ = importlib.import_module("tiny_pipelines").build("sd")
    pipe.to = lambda device: pipe
    original = diffusers.DiffusionPipeline.from_pretrained.__func__

    def from_pretrained(cls, name, **options):  # emoji128's FluxPipeline is the real one
        return pipe if cls is diffusers.DiffusionPipeline else original(cls, name, **options)

    monkeypatch.setattr(diffusers.DiffusionPipeline, "from_pretrained", classmethod(from_pretrained))


def is_run(line: str) -> bool:
    return line.startswith("noisetilt ")


@pytest.mark.parametrize(
    "document",
    [
        pytest.param(path, id=name, marks=[] if name in FIRST else pytest.mark.long)
        for path in DOCUMENTS
        for name in [path.relative_to(ROOT).as_posix()]
    ],
)
def test_blocks_work(document, tmp_path, monkeypatch, request):
    """The blocks of a document, in their order: Python in one namespace, commands in one folder."""
    monkeypatch.chdir(tmp_path)
    module = ModuleType("snippet")
    monkeypatch.setitem(sys.modules, "snippet", module)  # where dataclasses look their annotations up
    names = vars(module)
    for block in blocks(document):
        if block.marker == "pipeline":
            request.getfixturevalue("tiny_pipeline")
        if block.language == "python":
            check_python(block) if block.marker in ("hub", "slow") else run_python(block, document, names)
        elif block.language == "bash":
            for line in block.lines():
                run_command(line) if not block.marker and is_run(line) else check_command(line)


@documents
def test_loops_give_whiten_new_noise(document):
    """With its default noise, which is the same in every call, the steps of a sampler add up to a fixed pattern."""
    trees = [ast.parse(block.text) for block in blocks(document) if block.language == "python"]
    loops = [node for tree in trees for node in ast.walk(tree) if isinstance(node, (ast.For, ast.While))]
    for call in (node for loop in loops for node in ast.walk(loop) if isinstance(node, ast.Call)):
        if ast.unparse(call.func).split(".")[-1] == "whiten":
            assert "noise" in [keyword.arg for keyword in call.keywords]


@documents
def test_blocks_are_fenced_and_named(document):
    """Code stands in fences with a language, never in indented blocks, and markers are known ones."""
    for block in blocks(document):
        assert block.language in LANGUAGES and block.marker in MARKERS, f"line {block.line}"
    assert not re.search(r"\n\n(    |\t)\S", prose(document))
    assert "```" not in prose(document)


@documents
def test_environment_is_activated_first(document):
    """A document with commands of the environment activates it once, before the first of them."""
    lines = [line for block in blocks(document) if block.language == "bash" for line in block.lines()]
    activated = [i for i, line in enumerate(lines) if line.startswith("source .venv/bin/activate")]
    used = [i for i, line in enumerate(lines) if line.startswith(("noisetilt ", "python ", "pip "))]
    assert len(activated) == bool(used)
    assert not used or activated[0] < used[0]


def anchors(document: Path) -> set[str]:
    """The names that GitHub gives to the headings."""
    headings = re.findall(r"^#+ (.*)$", prose(document), re.M)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@documents
def test_links_lead_somewhere(document):
    """Relative links, pictures, anchors and paths in code exist."""
    text = prose(document)
    for target in LINK.findall(text):
        if "://" in target:
            continue
        name, _, anchor = target.partition("#")
        file = document.parent / name if name else document
        assert file.exists(), target
        assert not anchor or anchor in anchors(file), target
    for path in re.findall(r"`((?:docs|examples|integrations|recipes|src|tests)/[\w./-]*)`", text):
        assert (ROOT / path).exists(), path


@documents
def test_names_in_the_text_exist(document):
    """Names in code that begin with noisetilt resolve, and options are those of a command, an example or a recipe."""
    text = prose(document)
    for name in re.findall(r"`(noisetilt(?:\.\w+)+)", text):
        pkgutil.resolve_name(name)
    subparsers = next(action for action in build_parser()._actions if isinstance(action.choices, dict))
    known = {option for parser in subparsers.choices.values() for option in parser._option_string_actions}
    scripts = "".join(file.read_text() for folder in ("examples", "recipes") for file in (ROOT / folder).rglob("*.py"))
    for option in re.findall(r"`(?:\w+ )?(--[\w-]+)", text):
        assert option in known or f'"{option}"' in scripts, option


@pytest.mark.parametrize("name", WORD_LIMITS)
def test_stays_short(name):
    assert len((ROOT / "docs" / name).read_text("utf-8").split()) <= WORD_LIMITS[name]
