"""Reports in Markdown and HTML show texts as they are."""

import html
import re

from noisetilt.bench.document import Document

FORMULA = "0.5*style:3d + 0.5*alignment_2"


def test_formulas_are_not_read_as_emphasis(tmp_path):
    document = Document(FORMULA)
    document.heading(FORMULA)
    document.text(f"{FORMULA}, from `a_b*c*d`")
    document.items([FORMULA])
    document.table([FORMULA, "a|b"], [[FORMULA, 1.0]])
    document.picture("x.png", b"", FORMULA)
    document.write(tmp_path)
    text, page = (tmp_path / "report.md").read_text(), (tmp_path / "report.html").read_text()
    escaped = "0.5\\*style:3d + 0.5\\*alignment\\_2"
    assert text.count(escaped) == 8 and FORMULA not in text
    assert "`a_b*c*d`" in text and "a\\|b" in text and f"*{escaped}*\n" in text
    assert "\\" not in page and re.sub("<[^>]*>", " ", html.unescape(page)).count(FORMULA) == 8


def test_long_headings_of_columns_are_broken_into_lines(tmp_path):
    document = Document("goals")
    document.table(["target", "a goal of many words " * 4], [["style:3d", "reached"]])
    document.write(tmp_path)
    rules = re.findall(r"([^{}]*){([^}]*)}", (tmp_path / "report.html").read_text().partition("</style>")[0])
    last = [body for names, body in rules if "th" in re.findall(r"\w+", names) and "white-space" in body][-1]
    assert "white-space: normal" in last  # otherwise the table is wider than the page and is cut off
