"""A study that repeats its tuning: what each repetition chose is one method, and repetitions are counted."""

from itertools import combinations

import numpy as np
import pyarrow.parquet as pq
import pytest
from madeup import BETTER, NONE, ranking_of, study, write
from scipy import stats

from clipbench.analysis.choice import trials, winners
from clipbench.analysis.groups import read_groups
from clipbench.analysis.sensitivity import best_setting, tried
from clipbench.analysis.target import reached, target
from clipbench.record import tables
from clipbench.report import panels
from clipbench.report.draw import draw

LRS = (0.01, 0.03, 0.1)
BEST = [1, 1, 0, 2, 1]  # the trial that each repetition chooses


def repeated(folder, repetitions=range(5), best=BEST, values=BETTER):
    """Three trials of two methods in each repetition, at learning rates of its own, and their final runs."""
    for r in repetitions:
        for name in ("none", "norm"):
            settings = {"repetition": r, "level": None if name == "none" else 2.0 + best[r]}
            for trial, lr in enumerate(LRS):
                value = 0.9 - 0.1 * abs(trial - best[r]) - 0.01 * r
                write(folder, name, 1000 + r, value, lr=lr * (1 + r), role="tune", trial=trial, **settings)
            lr = LRS[best[r]] * (1 + r)
            value = NONE[r] if name == "none" else values[r]
            write(folder, name, r, value, lr=lr, role="final", trial=best[r], **settings)
            write(folder, name, r, 0.4 + 0.01 * r, role="default", repetition=r)


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    folder = tmp_path_factory.mktemp("repeated")
    repeated(folder)
    return folder, ranking_of(folder)


def method(ranking, name):
    return next(each for each in ranking.methods if each.name == name)


def test_the_final_runs_of_a_method_are_one_whatever_each_repetition_chose(found):
    _, ranking = found
    assert [each.name for each in ranking.judged] == ["norm", "none"]
    norm = method(ranking, "norm")
    assert (norm.n, norm.tried, norm.choices, norm.unit, ranking.unit) == (
        5,
        3,
        5,
        "repetition",
        "repetition",
    )
    assert norm.scores.to_dict() == dict(enumerate(BETTER))
    assert norm.configuration.settings["lr"] is None
    assert norm.configuration.settings["clipping_type"] == "norm"
    lrs = tuple(LRS[best] * (1 + r) for r, best in enumerate(BEST))
    assert norm.configuration.varied == {"lr": lrs, "clipping_level": (3.0, 3.0, 2.0, 4.0, 3.0)}
    assert norm.settings_in_words == "level 2–4  lr=0.03–0.4"
    assert method(ranking, "norm (default)").settings_in_words == "lr=0.1"
    assert not ranking.group.tuned_once


def test_the_test_is_over_the_repetitions(found):
    _, ranking = found
    comparison = ranking.comparisons["norm"]
    assert comparison.difference.n == 5
    assert comparison.p == pytest.approx(stats.ttest_rel(BETTER, NONE).pvalue)


def test_edges_are_counted_over_the_repetitions(found):
    _, ranking = found
    assert method(ranking, "norm").edges == {"lr": 2}  # lowest in one, highest in another
    assert method(ranking, "none").edges == {"lr": 2}


def test_each_repetition_chooses_for_itself(found):
    folder, _ = found
    runs = tables.read(folder, "runs")
    best = winners(runs).set_index(["method", "repetition"])["trial"].to_dict()
    assert best == {(name, r): BEST[r] for name in ("none", "norm") for r in range(5)}
    every = trials(runs)
    assert every.groupby(["method", "repetition"])["place"].agg(list).to_list() == [[1, 2, 3]] * 10


def test_the_target_is_the_mean_of_what_nones_choices_reached(found):
    _, ranking = found
    assert target(ranking) == pytest.approx(np.mean([0.89 - 0.01 * r for r in range(5)]))
    own = tried(ranking)
    values = best_setting(ranking, own[own["name"] == "none"])
    assert sorted(values) == pytest.approx(sorted(0.89 - 0.01 * r for r in range(5)))


def test_what_a_budget_brings_is_told_from_the_pool_of_all_trials(found):
    _, ranking = found
    [(_, figure)] = panels.budget(ranking)
    line, *_ = figure.axes[0].lines
    everything = []
    for r, best in enumerate(BEST):
        everything += [0.89 - 0.1 * abs(trial - best) - 0.01 * r for trial in range(3)]
    expected = [np.mean([max(drawn) for drawn in combinations(everything, k)]) for k in (1, 2, 3)]
    np.testing.assert_allclose(line.get_ydata(), expected)  # as far as a repetition goes


def test_a_choice_that_a_larger_tuning_has_overtaken_is_left_out_in_its_repetition_alone(tmp_path):
    repeated(tmp_path)
    for name in ("none", "norm"):
        settings = {"lr": 0.5, "level": None if name == "none" else 9.0, "repetition": 2}
        write(tmp_path, name, 1002, 0.99, role="tune", trial=3, **settings)
        write(tmp_path, name, 2, 0.7, role="final", trial=3, **settings)
    ranking = ranking_of(tmp_path)
    norm = method(ranking, "norm")
    assert norm.scores.to_dict() == {**dict(enumerate(BETTER)), 2: 0.7}
    assert "runs left out: 2 of what an earlier, smaller tuning chose" in ranking.group.notes
    assert norm.tried == 3  # of the repetition that had the fewest


def test_what_was_stopped_is_chosen_only_where_nothing_came_further(tmp_path):
    for trial, status in enumerate(["done", "stopped", "diverged"]):
        write(
            tmp_path,
            "none",
            1000,
            0.5 + 0.1 * trial,
            status,
            lr=LRS[trial],
            role="tune",
            trial=trial,
            repetition=0,
        )
        stopped = "diverged" if status == "done" else status
        write(tmp_path, "norm", 1000, 0.5, stopped, lr=LRS[trial], role="tune", trial=trial, repetition=0)
    runs = tables.read(tmp_path, "runs")
    runs.loc[runs["status"] == "stopped", "final"] = 0.99
    assert winners(runs).set_index("method")["trial"].to_dict() == {"none": 0, "norm": 1}
    order = trials(runs).groupby("method")["trial"].agg(list).to_dict()
    assert order == {"none": [0, 1, 2], "norm": [1, 0, 2]}


def test_a_folder_of_an_earlier_version_tuned_once(tmp_path):
    ranking = study(tmp_path)
    assert ranking.group.tuned_once
    norm = method(ranking, "norm")
    assert (ranking.unit, norm.unit, norm.choices) == ("seed", "seed", 1)
    assert list(norm.scores.index) == [1, 2, 3, 4, 5]
    assert not norm.configuration.varied


def test_a_sweep_is_told_by_seeds(tmp_path):
    write(tmp_path, "none", 3, 0.5)
    (group,) = read_groups(tmp_path)
    assert (group.unit, group.tuned_once) == ("seed", False)


@pytest.mark.parametrize("lost", [["norm"], ["none", "norm"]])
def test_runs_that_diverged_before_their_first_evaluation_are_reported(tmp_path, lost):
    repeated(tmp_path)
    for r in (0, 3):
        for name in lost:
            level = None if name == "none" else 2.0 + BEST[r]
            settings = {"lr": LRS[BEST[r]] * (1 + r), "level": level, "repetition": r}
            write(tmp_path, name, r, None, "diverged", role="final", trial=BEST[r], **settings)
    for row in tables.read(tmp_path, "runs").query("status == 'diverged'").itertuples():
        path = tmp_path / "evals" / f"{row.run}.parquet"
        pq.write_table(pq.read_table(path).slice(0, 0), path)
    ranking = ranking_of(tmp_path)
    norm = method(ranking, "norm")
    assert norm.diverged == 2
    assert reached(ranking, norm, 0.0).count == 3
    *_, page = draw(tmp_path, tmp_path / "figures")
    assert page.name == "report.html"
