"""Whatever a page says comes from a template, which escapes it; nothing else makes markup."""

import ast
import json
import re
from html.parser import HTMLParser
from itertools import product
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from madeup import BETTER, NONE, write, write_methods, write_table
from markupsafe import escape

from clipbench.analysis.comparison import rankings
from clipbench.analysis.groups import read_groups
from clipbench.escape import visible
from clipbench.report import panels
from clipbench.report.fill import own
from clipbench.report.page import Page
from clipbench.report.svg import data_uri

PACKAGE = Path(__file__).parents[2] / "clipbench"
REPORT = PACKAGE / "report"
TAG = re.compile(
    r"</?(html|head|body|title|meta|style|script|noscript|header|main|nav|section|details|summary|div|span|p|a"
    r"|b|i|em|strong|small|code|pre|br|h[1-6]|ul|ol|li|dl|dt|dd|table|caption|thead|tbody|tr|th|td|figure"
    r"|figcaption|img|button|svg|line|circle)\b"
)
MAKERS = ("html", "xml.sax.saxutils", "jinja2", "markupsafe")
MAY = {
    "fill.py": "it is where markup is made",
    "svg.py": "it shortens what matplotlib wrote, for an image",
}


def made_by_hand(source):
    """What makes markup in a module: a tag in a string, what escapes, what calls a text markup."""
    nodes = list(ast.walk(ast.parse(source)))
    docstrings = [node.value for node in nodes if isinstance(node, ast.Expr)]
    for node in nodes:
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and node not in docstrings:
            if TAG.search(node.value):
                yield node.value
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name.startswith(MAKERS))
        elif isinstance(node, ast.ImportFrom) and node.module in MAKERS:
            yield from (
                alias.name for alias in node.names if alias.name != "Markup"
            )  # as a type it is no harm
        elif isinstance(node, ast.Call) and ast.unparse(node.func) == "Markup":
            yield ast.unparse(node)


def test_no_module_makes_markup_by_hand():
    found = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        if path.parent != REPORT or path.name not in MAY:
            found[str(path)] = list(made_by_hand(path.read_text(encoding="utf-8")))
    assert len(found) > 100
    assert not {path: made for path, made in found.items() if made}


@pytest.mark.parametrize(
    "source",
    [
        'cell = f"<td>{value}</td>"',
        "cell = '<td class=\"' + kind + '\">'",
        'cells = "</td><td>".join(texts)',
        "from html import escape",
        "def late():\n    import html",
        "import xml.sax.saxutils",
        "from markupsafe import Markup, escape",
        "cell = Markup(text)",
        "from jinja2 import Template",
    ],
)
def test_markup_made_by_hand_is_found(source):
    assert list(made_by_hand(source))


def test_templates_and_script_trust_nothing():
    for path in sorted((REPORT / "templates").iterdir()):
        text = path.read_text(encoding="utf-8")
        assert not re.search(r"\bsafe\b|autoescape|Markup", text), path
        assert not re.search(r"=\s*{{|\bon\w+=", text), path  # an attribute without quotes ends at a blank
    script = (REPORT / "page.js").read_text(encoding="utf-8")
    assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|DOMParser|\beval\b", script)


def test_what_goes_in_as_it_is_ends_no_element():
    assert not re.search("</|<!--", own("page.css"))
    assert not re.search("</script|<!--|<script", own("page.js"), re.IGNORECASE)


def test_a_drawings_address_needs_no_escape(tmp_path):
    found = write_methods(tmp_path, {"none": NONE, '<a href="x">&\'': BETTER})
    for _, figure in panels.curves(found):
        address = data_uri(figure)
        assert str(escape(address)) == address


def test_a_part_that_no_template_made_is_text(tmp_path):
    page = Page(tmp_path)
    page.add(write_methods(tmp_path, {"none": NONE}), "<img src=x>")
    assert "<img" not in page.html()
    assert "&lt;img src=x&gt;" in page.html()


class Read(HTMLParser):
    """The text of a page, and what its elements have for attributes."""

    def __init__(self, page):
        super().__init__()
        self.text, self.elements = "", set()
        self.feed(page)
        self.close()

    def handle_starttag(self, tag, attributes):
        self.elements.add((tag, *(name for name, _ in attributes)))

    def handle_data(self, data):
        self.text += data


COLUMNS = ("scale", "optimizer", "study", "headline", "data", "git", "device", "platform", "error")
FIELDS = ("folder", "file", "task", "method", "setting", "version", *COLUMNS)
"""Where a text that somebody else wrote comes from."""


def page_with(folder, texts):
    """`texts` by FIELDS. Two tasks, of each two rankings that differ in a setting, and a run that failed."""
    folder = folder / texts["folder"]
    for task, setting in product(("a", texts["task"]), ("b", texts["setting"])):
        for seed in range(3):
            write(folder, "none", seed, NONE[seed], task=task, setting=setting)
            write(folder, texts["method"], seed, BETTER[seed], task=task, setting=setting)
    write(folder, "none", 9, None, "failed", task="a", setting="b")
    columns = {name: texts[name] for name in COLUMNS} | {"versions": json.dumps({texts["version"]: "1"})}
    for table, changed in (("runs", columns), ("evals", {"metric": texts["headline"]})):
        for path in (folder / table).iterdir():
            rows = pq.read_table(path).to_pylist()
            write_table(folder, table, path.stem, [row | changed for row in rows])
    page = Page(folder)
    for group in read_groups(folder):
        for ranking in rankings(group):
            page.add(ranking, files=[folder / texts["file"]])
    return Read(page.html())


def test_whatever_is_in_the_files_is_text(tmp_path):
    """Each is on the page as it was written; none makes an element or ends an attribute."""
    texts = {}
    for i, name in enumerate(FIELDS):
        texts[name] = f"<img src=x onerror=alert({i})>&\"'\x1b\u202e"
    texts["setting"] += "\ud800"  # JSON may hold half a character, a page not
    page = page_with(tmp_path, texts)
    assert page.text.count("Across 2 tasks") == 2
    for name, text in texts.items():
        assert visible(text) in page.text, name
    for tag, *names in page.elements:
        assert all(re.fullmatch("[a-zA-Z0-9-]+", name) and not name.startswith("on") for name in names)
        assert tag != "img" or names == ["alt", "src"]
