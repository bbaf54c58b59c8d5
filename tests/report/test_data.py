"""The numbers behind the page's charts, without a browser."""

import itertools
import json
import re

import numpy as np
import pytest
from madeup import BETTER, NONE, ranking_of, write, write_methods, write_table
from scipy import stats

from clipbench.report import data
from clipbench.report.chart import Axis, Chart, Series
from clipbench.report.page import part_of


def test_a_pair_that_diverged_is_left_out_and_said(tmp_path):
    (rows,) = data.difference(write_methods(tmp_path, {"none": NONE, "norm": [*BETTER[:4], None]}))
    (row,) = rows.rows
    assert [name for name, _ in row.pairs] == ["seed 0", "seed 1", "seed 2", "seed 3"]
    gains = 100 * (np.array(BETTER[:4]) - NONE[:4])
    np.testing.assert_allclose([value for _, value in row.pairs], gains)
    assert row.words.endswith("1 of 5 pairs diverged")


def test_where_less_is_better_a_reduction_is_positive(tmp_path):
    methods = {"none": [3.0, 3.2, 3.1], "norm": [2.0, 2.4, 2.2]}
    (rows,) = data.difference(write_methods(tmp_path, methods, higher=False))
    assert rows.label == "reduction of test accuracy"
    np.testing.assert_allclose([value for _, value in rows.rows[0].pairs], [1.0, 0.8, 0.9])
    expected = stats.ttest_1samp([1.0, 0.8, 0.9], 0).confidence_interval(0.95)
    np.testing.assert_allclose([rows.rows[0].low, rows.rows[0].high], expected)


def test_two_pairs_have_no_interval(tmp_path):
    (rows,) = data.difference(write_methods(tmp_path, {"none": NONE[:2], "norm": BETTER[:2]}))
    (row,) = rows.rows
    assert np.isinf([row.low, row.high]).all()
    assert "(" not in row.words
    json.dumps(rows.json(), allow_nan=False)


def test_a_very_wide_interval_does_not_hide_the_others(tmp_path):
    methods = {"none": NONE, "wide": [0.1, 0.9, 0.2, 0.8, 0.5]}
    for i in range(4):
        methods[f"m{i}"] = [value + 0.001 * i for value in BETTER]
    (rows,) = data.difference(write_methods(tmp_path, methods))
    low, high = rows.ends
    every = [value for row in rows.rows for _, value in row.pairs]
    assert low <= min(every)
    assert max(every) <= high
    wide = next(row for row in rows.rows if row.method == "wide")
    assert wide.low < low


def test_what_a_budget_brings_is_the_expected_best_of_all_trials_stopped_ones_among_them(tmp_path):
    values = {0: [0.5, 0.7], 1: [0.6, 0.4]}
    for repetition, finals in values.items():
        for trial, value in enumerate(finals):
            status = "stopped" if trial else "done"
            own = {"repetition": repetition, "trial": trial, "role": "tune", "status": status}
            write(tmp_path, "none", 1000 + repetition, value, lr=0.1 + trial + 10 * repetition, **own)
        write(tmp_path, "none", repetition, 0.5, role="final", trial=0, repetition=repetition)
    (chart,) = data.budget(ranking_of(tmp_path))
    (line,) = chart.series
    pooled = np.array([0.5, 0.7, 0.6, 0.4]) - 0.01  # validation is that much below test there
    best_of_two = np.mean([max(pair) for pair in itertools.combinations(pooled, 2)])
    np.testing.assert_allclose(line.y, [pooled.mean(), best_of_two])


@pytest.mark.parametrize("n", [7, 8])
def test_up_to_seven_runs_are_lines_more_are_a_band(tmp_path, n):
    values = np.linspace(0.4, 0.6, n)
    found = write_methods(tmp_path, {"none": list(values)})
    _, chart = data.curves(found)
    thin = [each for each in chart.series if each.style == "thin"]
    assert len(thin) == (n if n <= 7 else 0)
    (line,) = [each for each in chart.series if each.style == "line"]
    half = stats.t.ppf(0.975, n - 1) * stats.sem(values)
    np.testing.assert_allclose(
        [line.y[-1], line.low[-1], line.high[-1]], np.mean(values) + half * np.array([0, -1, 1])
    )
    assert line.few == (n <= 7)
    assert [axis.label for axis in chart.x] == ["step", "seconds of training"]


def test_a_run_evaluated_at_other_steps_leaves_no_gap(tmp_path):
    found = write_methods(tmp_path, {"none": NONE[:2], "norm": BETTER[:2]})
    rows = []
    for step in (3, 7, 11):
        rows.append({"step": step, "seconds": step / 10, "split": "val", "metric": "accuracy", "value": 0.5})
    norm = next(method for method in found.methods if method.name == "norm")
    for run in norm.configuration.runs:
        write_table(tmp_path, "evals", run, rows)
    _, chart = data.curves(ranking_of(tmp_path))
    for each in chart.series:
        if each.style == "line":
            assert np.isfinite(np.asarray(each.y)).all()
            steps = [3, 7, 11] if each.method == "norm" else [4, 8, 12]
            assert np.asarray(each.x[0]).tolist() == steps


def test_thousands_of_steps_are_thinned(tmp_path):
    found = write_methods(tmp_path, {"none": NONE[:1]})
    norms = {"grad_norm": 1.0, "clipped_norm": 1.0, "clip_factor": 1.0}
    steps = [{"step": i, "seconds": i / 10, "loss": 1 / i, **norms} for i in range(1, 5001)]
    write_table(tmp_path, "steps", found.methods[0].configuration.runs[0], steps)
    chart, _ = data.curves(ranking_of(tmp_path))
    for each in chart.series:
        assert len(each.x[0]) <= data.POINTS
        assert each.x[0][[0, -1]].tolist() == [1, 5000]


def test_values_of_x_that_lines_share_are_written_once():
    x = np.arange(5)
    series = [Series(name, "line", (x, x / 10), x + i) for i, name in enumerate("abc")]
    found = Chart("what", "", (Axis("step"), Axis("seconds")), Axis("y"), series).json()
    assert len(found["xs"]) == 2
    assert {tuple(each["x"]) for each in found["series"]} == {(0, 1)}


def test_where_runs_diverged_is_counted_at_its_setting(tmp_path):
    for lr, lost in {0.1: 0, 1.0: 2, 10.0: 3}.items():
        for seed in range(3):
            write(tmp_path, "none", seed, 0.5, "diverged" if seed < lost else "done", lr=lr)
    chart, *_ = data.sensitivity(ranking_of(tmp_path))
    (rug,) = [each for each in chart.series if each.style == "rug"]
    assert dict(zip(rug.x[0].tolist(), rug.words, strict=True)) == {
        1.0: "2 of 3 diverged",
        10.0: "3 of 3 diverged",
    }


def test_a_skipped_step_has_no_part_in_what_clipping_did(tmp_path):
    found = write_methods(tmp_path, {"none": NONE, "norm": BETTER}, skipped=6)
    expected = {"Clip factor": {0.5}, "Share of steps clipped": {100.0}, "Gradient norm": {1.0, 2.0}}
    for chart in data.clipping(found):
        values = set()
        for each in chart.series:
            assert np.min(each.x[0]) > 6
            if each.style != "level":
                values.update(np.asarray(each.y).tolist())
        assert values == expected[chart.what]


def test_a_name_ends_no_script(tmp_path):
    hostile = "</script><!--<script>"
    found = write_methods(tmp_path, {"none": NONE, hostile: BETTER})
    text = part_of(found)
    assert hostile not in text
    names = set()
    for part in re.findall(r'<script type="application/json">(.*?)</script>', text, re.DOTALL):
        assert not re.search("[<>&]", part)
        for each in json.loads(part) if part.startswith("[") else json.loads(part).get("series", []):
            names.add(each.get("method", each.get("name")))
    assert names == {"no clipping", hostile}
