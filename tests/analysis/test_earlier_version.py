"""A folder of the version before is read as that version read it: the same methods with the same numbers.

`verdicts.json` was written by that version, which corrected by Holm's procedure and told no mean where a run
had diverged.
"""

import json
from pathlib import Path

import pytest

from clipbench.analysis.comparison import rankings
from clipbench.analysis.groups import read_groups
from clipbench.analysis.verdict import judge

FOLDER = Path(__file__).parents[1] / "record" / "earlier_version"
EXPECTED = json.loads((FOLDER / "verdicts.json").read_text())


@pytest.fixture(scope="module")
def found():
    """Rankings, in the order of the file."""
    every = []
    for group in read_groups(FOLDER / "results"):
        every += rankings(group)
    return every


def test_the_same_methods_are_compared(found):
    for expected, ranking in zip(EXPECTED, found, strict=True):
        assert ranking.title.lower() == expected["title"]
        assert [method.name for method in ranking.methods] == list(expected["arms"])


def test_the_numbers_are_the_same(found):
    compared = 0
    for expected, ranking in zip(EXPECTED, found, strict=True):
        for method in ranking.methods:
            earlier = expected["arms"][method.name]
            assert method.settings_in_words == earlier["words"]
            assert (method.n, method.diverged) == (earlier["n"], earlier["diverged"])
            assert method.score.estimate == pytest.approx(earlier["score"], rel=1e-12, nan_ok=True)
            comparison = ranking.comparisons.get(method.name)
            if comparison and comparison.outcome and not comparison.divergence.count:
                assert comparison.p == pytest.approx(earlier["p"], rel=1e-9)
                compared += 1
    assert compared


def test_a_study_tuned_once_is_told_as_that(found):
    studies = [ranking for ranking in found if ranking.group.study]
    assert studies
    for ranking in studies:
        assert ranking.tuned_once
        verdict = judge(ranking)
        assert verdict.descriptive
        assert "Tuned once" in " ".join(verdict.notes)
