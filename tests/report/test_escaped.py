"""Names from files in Markdown, LaTeX, CSV, pages and figures: nothing of them is obeyed."""

import csv
import io
import re
import xml.etree.ElementTree as ElementTree
from html.parser import HTMLParser
from urllib.parse import unquote

import pytest
from madeup import BETTER, NONE, write

from clipbench.escape import on_one_line, visible
from clipbench.report.draw import draw
from clipbench.report.markup import _escaped, _tex
from clipbench.report.table import _csv_cell, tables

NAMES = ["=1+1", "@a", "a\n| b |", "$\\frac$ & %#_{}", "<script>alert(1)</script>", "\x1b[2J\x9b", "[x]*`~^"]


@pytest.fixture
def folder(tmp_path):
    for name in NAMES:
        for seed in range(3):
            write(tmp_path, "none", seed, NONE[seed], task=name)
            write(tmp_path, name, seed, BETTER[seed], task=name)
    return tmp_path


def test_tables_hold_no_more_rows_or_cells_than_methods(folder):
    found = tables(folder, ["md", "latex", "csv"])
    assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]", "".join(found.values()))
    for line in found["md"].splitlines():
        if line.startswith("|"):
            assert len(re.findall(r"(?<!\\)\|", line)) == 11
    assert found["md"].count("\n| ") == 4 * len(NAMES)  # a heading, a rule and two methods each
    for line in found["latex"].splitlines():
        if line.endswith(r" \\"):
            assert len(re.findall(r"(?<!\\)&", line)) == 9
    rows = list(csv.DictReader(io.StringIO(found["csv"])))
    assert len(rows) == 2 * len(NAMES)
    for row in rows:
        assert not row["task"].startswith(("=", "+", "-", "@"))
        float(row["mean"])


@pytest.mark.parametrize("text", ["=1", " =1", "+1", "-1", "@a", "\t=1", "\n=1"])
def test_a_formula_is_text(text):
    assert _csv_cell(text).startswith("'")
    assert _csv_cell(-1.5) == -1.5


def test_what_a_terminal_obeys_is_shown():
    assert visible("a\x1b[2J\x9b\u202e\ud800\n") == "a\\x1b[2J\\x9b\\u202e\\ud800\n"
    assert on_one_line("a\n\tb\u2028c") == "a  b c"
    assert _escaped("a|b\nc") == r"a\|b c"
    assert _tex("[a]\n\n*$") == r"{[}a]  {*}\$"


class Page(HTMLParser):
    """The tags of a page, and its images."""

    def __init__(self):
        super().__init__()
        self.scripts, self.images = 0, []

    def handle_starttag(self, tag, attributes):
        self.scripts += tag == "script" and not attributes  # data has a type
        source = dict(attributes).get("src", "")
        if source.startswith("data:image/svg+xml,"):
            self.images.append(unquote(source.partition(",")[2]))


def test_page_and_figures_show_names_as_they_are_written(tmp_path):
    hostile = "$\\frac$ <b>&amp;\x1b[2J</b>"
    for task in ("a", hostile):
        for seed in range(3):
            write(tmp_path, "none", seed, NONE[seed], task=task)
            write(tmp_path, hostile, seed, BETTER[seed], task=task)
    *_, report = draw(tmp_path, tmp_path / "out", ["svg"])
    page = Page()
    page.feed(report.read_text())
    assert page.scripts == 1
    assert page.images
    for image in page.images:
        ElementTree.fromstring(image)
