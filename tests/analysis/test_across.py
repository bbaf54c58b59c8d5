"""Several tasks on one scale: none is 0, the best run seen is 1."""

import numpy as np
import pytest
from madeup import BETTER, NONE, write
from scipy import stats

from clipbench.analysis.across import across
from clipbench.analysis.comparison import rankings
from clipbench.analysis.groups import read_groups


def all_rankings(folder):
    found = []
    for group in read_groups(folder):
        found += rankings(group)
    return found


def test_several_tasks_are_scaled_and_ranked(tmp_path):
    for task, shift in {"a": 0.0, "b": 0.3}.items():
        for name, values in {"none": NONE, "auto": BETTER, "norm": [value + 0.005 for value in NONE]}.items():
            for seed, value in enumerate(values):
                write(tmp_path, name, seed, value + shift, task=task)
    parts = all_rankings(tmp_path)
    assert across(parts[:1]) == []
    (found,) = across(parts)
    assert [row.name for row in found.rows] == ["auto", "norm", "none"]
    assert [row.rank for row in found.rows] == [1, 2, 3]
    scaled = (np.array(BETTER) - np.mean(NONE)) / (max(BETTER) - np.mean(NONE))
    assert found.rows[0].mean.estimate == pytest.approx(stats.trim_mean(np.tile(scaled, 2), 0.25))


def test_a_task_that_none_wins_counts_and_less_may_be_better(tmp_path):
    """0 is the mean of none and 1 the best run, whoever's; on a metric where less is better too."""
    worse = [value - 0.02 for value in NONE]
    for task, methods in {"a": {"none": NONE, "auto": BETTER}, "b": {"none": NONE, "auto": worse}}.items():
        for name, values in methods.items():
            for seed, value in enumerate(values):
                write(tmp_path, name, seed, value, task=task)
                write(tmp_path, name, seed, 1 - value, task="less", higher=False)
    parts = all_rankings(tmp_path)
    (found,) = across(parts)
    assert tuple(found.rankings) == ("a", "b", "less")
    scores = found.scores["auto"]
    np.testing.assert_allclose(scores["b"], (np.array(worse) - np.mean(NONE)) / (max(NONE) - np.mean(NONE)))
    assert scores["less"].mean() == pytest.approx(scores["a"].mean()) or scores["less"].mean() < 0


def test_tasks_of_other_optimizers_and_studies_are_no_further_tasks(tmp_path):
    for seed in range(3):
        for name in ("none", "auto"):
            write(tmp_path, name, seed, NONE[seed] + 0.01 * (name == "auto"))
            write(tmp_path, name, seed, NONE[seed] + 0.01 * (name == "auto"), optim="adamw")
            write(tmp_path, name, seed, NONE[seed] + 0.01 * (name == "auto"), task="b", role="final")
    assert across(all_rankings(tmp_path)) == []
