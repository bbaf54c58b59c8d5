"""The report's page is whole, closed and safe, and its tables are the numbers."""

import csv
import io
import re
from html.parser import HTMLParser
from urllib.parse import unquote
from xml.etree import ElementTree

import numpy as np
import pytest
from madeup import BETTER, NONE, interval, ranking_of, study, write, write_methods, write_table
from scipy import stats

from clipbench.analysis.comparison import rankings
from clipbench.analysis.groups import read_groups
from clipbench.analysis.verdict import judge
from clipbench.cli.main import main
from clipbench.errors import Unreadable
from clipbench.record import tables
from clipbench.report.cells import Cell
from clipbench.report.draw import draw
from clipbench.report.fill import _environment
from clipbench.report.page import Page
from clipbench.report.table import tables as report_tables


def test_runs_of_an_earlier_version_are_of_the_same_settings(tmp_path):
    """It knew neither compile nor restarts: off and not there are one."""
    for seed, value in enumerate(NONE):
        later = {"compile": False, "restart": {"first": None, "coeff": 1.25}} if seed > 2 else {}
        write(tmp_path, "none", seed, value, **later)
        write(tmp_path, "norm", seed, value, level=1.0, **later)
    found = ranking_of(tmp_path)
    assert {method.name: method.n for method in found.methods} == {"none": 5, "norm": 5}


class Checked(HTMLParser):
    """Every element closed in turn; what is linked or loaded."""

    VOID = frozenset({"meta", "img", "br", "line", "circle"})

    def __init__(self):
        super().__init__()
        self.open, self.links, self.count = [], [], {}

    def handle_starttag(self, tag, attrs):
        kind = "data" if tag == "script" and attrs else tag
        self.count[kind] = self.count.get(kind, 0) + 1
        self.links += [value for name, value in attrs if name in ("src", "href", "srcset", "action")]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert tag in self.VOID or self.open.pop() == tag


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    """A study and a sweep of a task with a hostile name, which lost a run."""
    folder = tmp_path_factory.mktemp("r")
    study(folder)
    for seed in range(3):
        for name in ("none", "auto"):
            write(folder, name, seed, 0.5 + 0.01 * seed, task="<script>alert(1)</script>")
    write(folder, "auto", 9, None, "failed", task="<script>alert(1)</script>")
    page = Page(folder)
    for group in read_groups(folder):
        for part in rankings(group):
            page.add(part)
    return page.html()


def test_the_page_is_well_formed_and_closed(page):
    parser = Checked()
    parser.feed(page)
    parser.close()
    assert not parser.open
    assert parser.count["script"] == 1
    assert (
        parser.count["section"] == 3
    )  # two tasks, and how to read it; a study and a sweep are not pooled, so there is none across them
    assert parser.links
    assert all(link.startswith(("data:image/svg+xml,", "#")) for link in parser.links)
    assert not re.search(r"@import|url\(\s*['\"]?(http|//)", page)
    assert len(page) < 5e6


def test_runs_that_have_not_ended_are_counted(tmp_path, page):
    assert "not ended" not in page
    (tmp_path / "runs").mkdir()
    (
        tmp_path / "runs" / "r0123456789ad.parquet"
    ).touch()  # its process was killed between recording and clearing
    for name in (
        "r0123456789ab",
        "r0123456789ac",
        "r0123456789ad",
        "launch-0123",
    ):  # the last: of jobs, no run
        (tmp_path / ".work" / name).mkdir(parents=True)
        (tmp_path / ".work" / name / "plan.json").touch()
    assert "not ended: 2." in Page(tmp_path).html()


def test_names_are_escaped(page):
    assert "<script>alert" not in page
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in page
    assert "ValueError: &lt;b&gt;no&lt;/b&gt;" in page


def test_the_images_are_svg_with_the_numbers_that_stand_on_the_axes(page):
    images = [unquote(link.split(",", 1)[1]) for link in re.findall(r'src="(data:image/svg[^"]*)"', page)]
    assert len(images) > 10
    trees = [ElementTree.fromstring(image) for image in images]
    labels = {
        "".join(node.itertext()) for tree in trees for node in tree.iter("{http://www.w3.org/2000/svg}text")
    }
    assert {"step", "seconds of training", "learning rate", "tuning trials", "∞"} <= labels
    assert "0.001" in labels  # not rounded with the coordinates


def test_a_figure_in_each_format(tmp_path):
    write_methods(tmp_path, {"none": NONE[:1]})
    written = draw(tmp_path, tmp_path / "out", ["svg", "pdf", "png"])
    heads = {".svg": b"<?xml", ".pdf": b"%PDF", ".png": b"\x89PNG", ".html": b"<!doctype html>"}
    assert sorted(path.name for path in written if "comparison" in path.name) == [
        f"toy_mini_sgd_comparison.{name}" for name in ("pdf", "png", "svg")
    ]
    assert {path.suffix for path in written} == set(heads)
    assert all(path.read_bytes().startswith(heads[path.suffix]) for path in written)


def test_the_cells_of_the_page_are_the_tables_numbers(tmp_path):
    write_methods(tmp_path, {"none": NONE, "auto": BETTER})
    page = Page(tmp_path)
    page.add(ranking_of(tmp_path))
    text = page.html()
    body = re.search(r"<tbody>(.*?)</tbody>", text, re.DOTALL)[1]
    auto = next(row for row in body.split("<tr>") if ">auto<" in row)
    values = [float(value) if value else None for value in re.findall(r'<td data-v="([^"]*)"', auto)]
    p = stats.ttest_rel(BETTER, NONE).pvalue
    better = np.mean(np.subtract.outer(BETTER, NONE) > 0)
    r = stats.pearsonr(BETTER, NONE).statistic
    expected = [
        5,
        np.mean(BETTER),
        *[np.mean(BETTER) - np.mean(NONE)] * 2,
        0,  # different: the first of the outcomes
        p,
        better,
        r,
        0,
        1,
        1000 / 10,
    ]
    np.testing.assert_allclose(values, expected)


def test_csv_has_every_digit(tmp_path):
    write_methods(tmp_path, {"none": NONE, "auto": BETTER, "norm": [0.5, 0.53, 0.50, 0.51, 0.49]})
    rows = {
        row["method"]: row for row in csv.DictReader(io.StringIO(report_tables(tmp_path, ["csv"])["csv"]))
    }
    assert list(rows) == ["auto", "norm", "none"]
    low, high = interval(BETTER, tests=2)
    assert float(rows["auto"]["difference_low"]) == pytest.approx(low)
    assert float(rows["auto"]["difference_high"]) == pytest.approx(high)
    assert float(rows["auto"]["p"]) == pytest.approx(2 * stats.ttest_rel(BETTER, NONE).pvalue)
    half = stats.t.ppf(0.975, 4) * stats.sem(NONE)
    assert float(rows["none"]["high"]) == pytest.approx(np.mean(NONE) + half)
    assert rows["none"]["difference"] == ""


def test_markdown_and_latex_parse_back(tmp_path, capsys):
    write_methods(tmp_path, {"none": NONE, "quadratic_rand_norm": BETTER})
    assert main(["table", str(tmp_path), "--format", "md,latex"]) == 0
    markdown, latex = capsys.readouterr().out.split("\\begin{table}")
    rows = []
    for line in markdown.splitlines():
        if line.startswith("|"):
            rows.append([cell.strip() for cell in line.strip("|").split("|")])
    assert {len(row) for row in rows} == {10}
    assert rows[2][0].replace("\\", "") == "quadratic_rand_norm"
    assert rows[2][3] == f"{np.mean(BETTER):.3f} ± {stats.t.ppf(0.975, 4) * stats.sem(BETTER):.3f}"
    body = latex.split("\\toprule")[1].split("\\bottomrule")[0]
    lines = [line.strip() for line in body.splitlines() if line.strip() and "rule" not in line]
    assert all(len(re.split(r"(?<!\\)&", line)) == 10 and line.endswith(r"\\") for line in lines)
    assert r"quadratic\_rand\_norm" in body
    assert not re.search(r"(?<!\\)[_%#]", body)


def test_no_test_value_is_said(tmp_path):
    for seed, value in enumerate(NONE):
        for name in ("none", "auto"):
            write(tmp_path, name, seed, value)
    for path in (tmp_path / "runs").iterdir():
        row = tables.read(tmp_path, "runs", runs=[path.stem]).drop(columns="run").to_dict("records")[0]
        row = {key: None if value != value else value for key, value in row.items()} | {"final_test": None}
        write_table(tmp_path, "runs", path.stem, [row])
    verdict = judge(ranking_of(tmp_path))
    assert "validation stands in for it" in " ".join(verdict.notes)


@pytest.mark.parametrize("words", [["plot", "--format", "gif"], ["table", "--format", "tex"]])
def test_unknown_format(tmp_path, capsys, words):
    write_methods(tmp_path, {"none": NONE[:1]})
    assert main([words[0], str(tmp_path), *words[1:]]) == 2
    assert f"Unknown format '{words[2]}'" in capsys.readouterr().err


def test_side_by_side_draws_the_same(tmp_path, monkeypatch):
    for task in ("a", "b"):
        for seed in (0, 1):
            write(tmp_path, "none", seed, 0.5 + seed / 10, task=task)
    (tmp_path / "evals" / next((tmp_path / "steps").iterdir()).name).write_text("not a table")
    with pytest.warns(Unreadable, match="evals"):
        written = draw(tmp_path, tmp_path / "one")
    monkeypatch.setattr("clipbench.report.draw.MANY", 1)
    monkeypatch.setattr("clipbench.report.draw.WORKERS", 2)
    with pytest.warns(Unreadable, match="evals"):
        aside = draw(tmp_path, tmp_path / "two")
    assert len(written) == 7
    assert [path.name for path in aside] == [path.name for path in written]
    assert (tmp_path / "one" / "report.html").read_text() == (tmp_path / "two" / "report.html").read_text()


def test_the_part_on_several_tasks_is_escaped_and_closed(tmp_path):
    for task in ("<script>alert(2)</script>", "b"):
        for seed in range(3):
            write(tmp_path, "none", seed, NONE[seed], task=task)
            write(tmp_path, "auto", seed, BETTER[seed], task=task)
    page = Page(tmp_path)
    for group in read_groups(tmp_path):
        for ranking in rankings(group):
            page.add(ranking)
    text = page.html()
    assert ">Across 2 tasks · mini · sgd</h2>" in text
    assert "<script>alert" not in text
    parser = Checked()
    parser.feed(text)
    parser.close()
    assert not parser.open


def test_a_p_below_a_thousandth_is_text():
    """ "<.001" must not be taken for an element."""
    template = "{% import 'parts.html' as parts with context %}{{ parts.cell(cell, '') }}"
    assert _environment().from_string(template).render(cell=Cell(0.0001, "<.001", bold=True)) == (
        '<td data-v="0.0001"><b>&lt;.001</b></td>'
    )


@pytest.mark.parametrize(("lockstep", "heading"), [(1, "ms/step"), (4, "ms/step, beside other runs")])
def test_seconds_measured_beside_other_runs_say_so(tmp_path, lockstep, heading):
    for name, values in {"none": NONE, "auto": BETTER}.items():
        for seed, value in enumerate(values):
            write(tmp_path, name, seed, value, lockstep=lockstep)
    first = report_tables(tmp_path, ["md"])["md"].splitlines()[2]
    assert first.endswith(f"| {heading} |")
