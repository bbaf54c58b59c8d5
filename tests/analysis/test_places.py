"""What is compared at each place, and with what: a changed model with itself as trained, nothing where there
is no reference, and nothing that has not ended.
"""

import ast
import csv
import io
from pathlib import Path

import numpy as np
import pytest
from madeup import BETTER, NONE, ranking_of, study, write, write_child, write_methods
from scipy import stats

from clipbench.analysis.choice import winners
from clipbench.analysis.comparison import rankings
from clipbench.analysis.conditions import by_condition
from clipbench.analysis.groups import read_groups
from clipbench.analysis.places import PLACES
from clipbench.analysis.verdict import judge
from clipbench.errors import UserError
from clipbench.plot.looks import method_looks
from clipbench.record import rows, tables
from clipbench.record.files import table_path
from clipbench.report.draw import draw
from clipbench.report.figures import figures_of
from clipbench.report.page import part_of
from clipbench.report.table import tables as report_tables

ROOT = Path(__file__).parents[2] / "clipbench"
LOST = {8: [0.001, 0.0, 0.002, -0.001, 0.003], 2: [0.1, 0.12, 0.15, 0.09, 0.11]}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Two ways of training, and of both what rounding to 8 and 2 bits makes."""
    made = tmp_path_factory.mktemp("r")
    for name, values, worse in (("none", NONE, 1), ("norm", BETTER, 2)):
        for seed, value in enumerate(values):
            level = None if name == "none" else 1.0
            parent = write(made, name, seed, value, level=level, data="toy, 3", git="a", skipped=1)
            for bits, lost in LOST.items():
                write_child(made, parent, value - worse * lost[seed], name="round", bits=bits, git="b")
    return made


@pytest.fixture(scope="module")
def found(folder):
    every = {}
    for group in read_groups(folder):
        for ranking in rankings(group):
            every[ranking.title] = ranking
    return every


CHANGED = "toy · mini · SGD · trained weights"


def test_every_place_of_the_table_runs_has_its_reference():
    assert tuple(PLACES) == rows.PLACES
    assert [place.name for place in PLACES.values()] == list(PLACES)


def test_changed_models_are_compared_with_themselves_as_trained(found):
    assert list(found) == ["toy · mini · SGD", f"{CHANGED} · norm  level 1", f"{CHANGED} · no clipping"]
    for context, worse in (("norm  level 1", 2), ("no clipping", 1)):
        ranking = found[f"{CHANGED} · {context}"]
        assert ranking.reference.name == "none"
        assert set(ranking.comparisons) == {"round bits=8", "round bits=2"}
        for bits, lost in LOST.items():
            expected = stats.ttest_1samp(-worse * np.array(lost), 0)
            difference = ranking.comparisons[f"round bits={bits}"].difference
            assert difference.estimate == pytest.approx(-worse * np.mean(lost))
            low, high = expected.confidence_interval(1 - 0.05 / 2)  # both together
            assert (difference.low, difference.high) == pytest.approx((low, high))
        changed = [method for method in ranking.judged if not method.is_reference]
        assert [(method.n, method.tried, method.skipped) for method in changed] == [(5, 1, 0)] * 2


def test_the_runs_that_trained_are_compared_as_if_there_were_no_others(found, tmp_path):
    alone = write_methods(tmp_path, {"none": NONE})
    for seed, value in enumerate(BETTER):
        write(tmp_path, "norm", seed, value, level=1.0)
    alone = ranking_of(tmp_path)
    ours = found["toy · mini · SGD"]
    assert ours.comparisons["norm"].difference == alone.comparisons["norm"].difference
    assert [method.n for method in ours.methods] == [5, 5]


def test_sentences_name_what_was_done_and_the_model_as_trained(found):
    verdict = judge(found[f"{CHANGED} · no clipping"])
    assert "changing the weights hurts: round bits=2 −11.4 points of accuracy against the weights as" in (
        verdict.sentence
    )
    assert "Undecided: round bits=8" in verdict.sentence
    assert verdict.descriptive
    for text in (verdict.sentence, *verdict.notes):
        assert "clipping" not in text
        assert "clipbench study" not in text
        assert "skipped" not in text


def test_what_trains_nothing_has_no_curves_and_no_time(folder, found, tmp_path):
    ranking = found[f"{CHANGED} · no clipping"]
    assert ranking.group.steps.empty
    assert figures_of([ranking]) == ["difference", "levels"]
    page = part_of(ranking)
    assert "the weights as trained" in page
    for word in ("clipped", "ms/step", "Training</h3>", "What clipping did"):
        assert word not in page
    assert method_looks(found[f"{CHANGED} · norm  level 1"])["none"].colour == "#000000"
    names = {path.name for path in draw(folder, tmp_path)}
    assert names >= {"toy_mini_sgd_trained-weights_difference.png", "toy_mini_sgd_trained-weights_levels.png"}
    assert "toy_mini_sgd_trained-weights_comparison.png" not in names
    assert "as trained, in the same way" in (tmp_path / "report.html").read_text()


def test_tables_for_a_paper_leave_out_what_there_is_not(folder):
    made = report_tables(folder, ["md", "csv"])
    blocks = made["md"].split("\n\n")
    [head] = [block for block in blocks if "as trained" in block][:1]
    assert "clipped" not in head
    found = list(csv.DictReader(io.StringIO(made["csv"])))
    assert [row["place"] for row in found] == ["", "", *["weight"] * 6]
    assert {row["ms_per_step"] for row in found[2:]} == {""}


def test_each_setting_stands_for_itself_beside_its_own_parent(folder):
    changed = [group for group in read_groups(folder, apart=True) if not group.place.trains]
    [first, second] = rankings(changed[0])
    assert set(first.comparisons) == {"round bits=8", "round bits=2"} == set(second.comparisons)


def test_a_parent_that_diverged_takes_its_children_along(tmp_path):
    for seed, value in enumerate(NONE):
        status = "diverged" if seed == 0 else "done"
        parent = write(tmp_path, "none", seed, value, status)
        write_child(tmp_path, parent, value - 0.01, status, name="round", bits=8)
    [_, group] = read_groups(tmp_path)
    [ranking] = rankings(group)
    assert [method.diverged for method in ranking.methods] == [1, 1]
    assert ranking.comparisons["round bits=8"].difference.n == 4
    draw(tmp_path, tmp_path / "figures")


def test_children_without_a_parent_are_compared_with_nothing(tmp_path):
    for seed, value in enumerate(NONE):
        parent = write(tmp_path, "none", seed, value)
        write_child(tmp_path, parent, value, name="round", bits=8)
        table_path(tmp_path, "runs", parent).unlink()
    verdict = judge(ranking_of(tmp_path))
    assert verdict.kind == "open"
    assert "as trained are not in this folder" in verdict.sentence
    draw(tmp_path, tmp_path / "figures")


def test_a_place_without_a_reference_compares_nothing_and_says_so(tmp_path):
    for name, values in (("none", NONE), ("norm", BETTER)):
        for seed, value in enumerate(values):
            write(tmp_path, name, seed, value, place="example")
    ranking = ranking_of(tmp_path)
    assert ranking.reference is None
    assert ranking.comparisons == {}
    assert judge(ranking).sentence.startswith("No verdict: there is nothing that these methods")
    assert "difference" not in figures_of([ranking])
    draw(tmp_path, tmp_path / "figures")
    assert "none" in report_tables(tmp_path, ["md"])["md"]


def test_rows_of_an_earlier_version_name_neither_place_nor_method(tmp_path):
    for seed, value in enumerate(NONE):
        of_now = {"place": "gradient", "method": "none"} if seed > 2 else {}
        write(tmp_path, "none", seed, value, **of_now)
    [method] = ranking_of(tmp_path).methods
    assert method.n == 5


def test_of_several_conditions_the_last_is_judged_and_all_are_shown(tmp_path):
    for seed, value in enumerate(NONE):
        parent = write(tmp_path, "none", seed, value)
        under = {"clean": value, "ber=1e-5": value - 0.02, "ber=1e-3": value - 0.2}
        write_child(tmp_path, parent, under, name="faults", rate=0.001)
    [_, group] = read_groups(tmp_path)
    [ranking] = rankings(group)
    [method] = [method for method in ranking.judged if not method.is_reference]
    assert method.score.estimate == pytest.approx(np.mean(NONE) - 0.2)
    [(name, shown)] = by_condition(ranking).items()
    assert name == method.name
    assert list(shown) == ["clean", "ber=1e-5", "ber=1e-3"]
    found = shown["ber=1e-5"]
    assert (found.estimate, found.n) == (pytest.approx(np.mean(NONE) - 0.02), 5)
    half = stats.t.ppf(0.975, 4) * stats.sem(NONE)
    assert found.half == pytest.approx(half)
    assert set(group.metric("test").columns) == set(method.configuration.runs)  # a value each
    page = part_of(ranking)
    assert page.count("ber=1e-3") == 1
    assert f"{np.mean(NONE) - 0.02:.3f}<small>± {half:.3f}</small><small>n=5</small>" in page


def test_runs_whose_time_was_over_are_left_out_and_named(tmp_path):
    write_methods(tmp_path, {"none": NONE, "norm": BETTER}, level=1.0)
    for seed in (5, 6):
        write(tmp_path, "norm", seed, None, "timeout", level=1.0)
    ranking = ranking_of(tmp_path)
    assert {method.n for method in ranking.methods} == {5}
    assert ranking.group.notes == ("runs left out: 2 whose max_time was over",)
    assert len(ranking.group.runs) == 10


def test_a_trial_whose_time_was_over_is_not_chosen(tmp_path):
    study(tmp_path)
    write(tmp_path, "norm", 0, 0.99, "timeout", 9.0, 0.2, role="tune", trial=9)
    chosen = winners(tables.read(tmp_path, "runs")).set_index("method")
    assert chosen.loc["norm", "trial"] == 1
    assert chosen.loc["norm", "trials"] == 5
    ranking = ranking_of(tmp_path)
    assert 9 not in set(ranking.group.tuning["trial"])


def test_a_folder_of_runs_whose_time_was_over_says_so(tmp_path):
    write(tmp_path, "none", 0, None, "timeout")
    with pytest.raises(UserError, match=r"max_time was over: 1.*larger max_time"):
        draw(tmp_path, tmp_path / "figures")


def test_no_other_file_holds_the_name_of_the_reference():
    """As text that a type, a method or a setting is compared with or looked up by."""
    found = set()
    for room in ("analysis", "plot", "report", "studies", "record"):
        for path in (ROOT / room).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.Constant) and node.value in {"none", "no clipping"}:
                    found.add(str(path.relative_to(ROOT)))
    assert found == {"analysis/places.py", "report/frame.py"}  # the second means the fonts of an SVG
