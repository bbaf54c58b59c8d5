"""A folder of the version before is read as that version read it: same verdicts, same numbers, same table.

`verdicts.json` and `expected_table.md` were written by that version. The words "a picture" became
"descriptive only" since: they stand in notes, which are not compared.
"""

import json
from pathlib import Path

import pytest

from clipbench.analysis.comparison import rankings
from clipbench.analysis.groups import read_groups
from clipbench.analysis.verdict import judge
from clipbench.report.table import tables

FOLDER = Path(__file__).parents[1] / "record" / "earlier_version"
EXPECTED = {each["title"]: each for each in json.loads((FOLDER / "verdicts.json").read_text())}


@pytest.fixture(scope="module")
def found():
    """{title: ranking}."""
    every = {}
    for group in read_groups(FOLDER / "results"):
        for ranking in rankings(group):
            every[ranking.title] = ranking
    return every


def test_the_same_methods_are_compared(found):
    assert list(found) == list(EXPECTED)
    for title, ranking in found.items():
        assert [method.name for method in ranking.methods] == list(EXPECTED[title]["arms"])


@pytest.mark.parametrize("title", EXPECTED)
def test_the_verdict_is_the_same_to_the_letter(found, title):
    verdict = judge(found[title])
    assert (verdict.kind, verdict.sentence) == (EXPECTED[title]["kind"], EXPECTED[title]["sentence"])


@pytest.mark.parametrize("title", EXPECTED)
def test_the_numbers_are_the_same(found, title):
    ranking = found[title]
    for method in ranking.methods:
        expected = EXPECTED[title]["arms"][method.name]
        assert method.settings_in_words == expected["words"]
        assert (method.n, method.diverged) == (expected["n"], expected["diverged"])
        assert method.score.estimate == pytest.approx(expected["score"], rel=1e-12, nan_ok=True)
        comparison = ranking.comparisons.get(method.name)
        p = comparison.p if comparison else None
        assert p == (expected["p"] if expected["p"] is None else pytest.approx(expected["p"], rel=1e-9))


def test_the_table_for_a_paper_is_the_same():
    assert tables(FOLDER / "results", ["md"])["md"] == (FOLDER / "expected_table.md").read_text()
