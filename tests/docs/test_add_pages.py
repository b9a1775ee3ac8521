"""The code that docs/add-a-*.md show is the code of the library, and is as short as they say.

A block that starts with `# <path>` shows that file, whole or in part: its lines are those of the file, in order and
without a gap, but for lines `...`, which stand for lines left out.
"""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = sorted((ROOT / "docs").glob("add-a-*.md"))
BLOCK = re.compile(r"^```python\n# (?P<path>\S+)\n(?P<code>.*?)^```$", re.DOTALL | re.MULTILINE)


def blocks(page):
    return [(match["path"], match["code"]) for match in BLOCK.finditer(page.read_text(encoding="utf-8"))]


def pieces(code):
    """What is shown between lines `...`."""
    return [piece.strip("\n") for piece in re.split(r"^ *\.\.\.$", code, flags=re.MULTILINE) if piece.strip()]


def missing(code, source):
    """The first piece of the code that the source does not have as whole lines, in order; None if it has all."""
    rest = f"\n{source}"
    for piece in pieces(code):
        found = rest.find(f"\n{piece}\n")
        if found < 0:
            return piece
        rest = rest[found + len(piece) + 1 :]
    return None


def lines_of(page, start):
    """How many lines of files under a folder a page shows."""
    return sum(len(code.strip().splitlines()) for path, code in blocks(page) if path.startswith(start))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_the_code_shown_is_the_code_of_the_library(page):
    shown = blocks(page)
    assert {path.partition("/")[0] for path, _ in shown} == {"src", "tests"}
    assert len(shown) == page.read_text(encoding="utf-8").count("```python")
    for path, code in shown:
        assert missing(code, (ROOT / path).read_text(encoding="utf-8")) is None, path


def test_whole_files_are_shown_whole():
    shown = {path: code for page in PAGES for path, code in blocks(page)}
    for path in (
        "src/noisetilt/proposals/spherical_gaussian.py",
        "tests/proposals/test_spherical_gaussian.py",
        "tests/rewards/test_colourfulness.py",
        "tests/integrations/test_qwen_image.py",
    ):
        assert shown[path].strip() == (ROOT / path).read_text(encoding="utf-8").strip()


def test_the_additions_are_as_short_as_the_pages_say():
    assert len((ROOT / "src/noisetilt/proposals/spherical_gaussian.py").read_text().splitlines()) <= 45
    assert lines_of(ROOT / "docs/add-a-reward.md", "src/") <= 20
    assert lines_of(ROOT / "docs/add-a-pipeline.md", "src/") <= 15


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_every_file_the_page_names_exists(page):
    names = re.findall(r"`((?:src|tests|docs|recipes)/[\w/.-]+)`", page.read_text(encoding="utf-8"))
    assert all((ROOT / name).exists() for name in names)


def test_a_block_that_differs_from_its_file_is_found():
    source = "import math\n\n\ndef f(x):\n    return math.sin(x)\n"
    assert missing("import math\n...\n    return math.sin(x)\n", source) is None
    assert missing("def f(x):\n    return math.cos(x)\n", source) is not None
    assert missing("    return math.sin(x)\n...\nimport math\n", source) == "import math"
