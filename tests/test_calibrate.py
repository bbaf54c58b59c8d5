"""Intervals cover, and verdicts err, as often as they say: a bounded part of scripts/calibrate.py, which notices what does not."""

import importlib.util
import math
import sys
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import binom, norm, ttest_rel

from clipbench import stats


@pytest.fixture(scope="module")
def calibrate():
    spec = importlib.util.spec_from_file_location("calibrate", Path(__file__).parents[1] / "scripts" / "calibrate.py")
    module = sys.modules["calibrate"] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    yield module
    del sys.modules["calibrate"]


@pytest.fixture
def rng():
    return np.random.default_rng(11)


def as_stated(hits, studies, share):
    """Binomial with this share would be further off once in ten thousand times on either side."""
    return binom.ppf(1e-4, studies, share) <= hits <= binom.ppf(1 - 1e-4, studies, share)


@pytest.mark.parametrize("n", [3, 5, 10])
def test_t_intervals_cover(calibrate, rng, n):
    studies = 4000
    assert as_stated(calibrate.coverage(lambda: stats.t_interval(calibrate.normal(rng, n)), 0, studies), studies, 0.95)
    assert as_stated(calibrate.coverage(lambda: stats.paired_interval(*calibrate.pair(rng, n)), 0, studies), studies, 0.95)
    assert as_stated(calibrate.coverage(lambda: stats.t_interval(calibrate.normal(rng, n), 0.8), 0, studies), studies, 0.8)


@pytest.mark.parametrize("n", [3, 5, 10])
def test_identical_methods_are_called_different_in_at_most_one_study_of_twenty(calibrate, rng, n):
    studies = 1000
    hits = calibrate.false_calls(lambda: calibrate.family(rng, n, 4), studies)
    assert hits <= binom.ppf(1 - 1e-4, studies, 0.05)
    assert hits >= binom.ppf(1e-4, studies, 0.02)  # no procedure that never calls


@pytest.mark.parametrize("n", [3, 5, 10])
def test_a_planted_difference_is_found_as_often_as_theory_says(calibrate, rng, n):
    studies, effect = 1500, calibrate.effect_found_with(n, 0.8)
    assert as_stated(calibrate.found(rng, n, 1, effect, studies), studies, 0.8)
    hits = calibrate.found(rng, n, 4, effect, 500)  # one better method of four: Holm lies between Bonferroni and no correction
    assert binom.ppf(1e-4, 500, calibrate.power(n, effect, 0.05 / 4)) <= hits <= binom.ppf(1 - 1e-4, 500, 0.8)


def test_bootstrap_over_tasks_covers(calibrate, rng):
    """Three seeds: Hesterberg's expansion is approximate there, and the docstring says how far."""

    def interval():
        return stats.stratified_bootstrap(calibrate.tasks_of(rng, 3, calibrate.normal), calibrate.mean_of_means, rng, 600)

    assert calibrate.coverage(interval, 0.75, 100) >= binom.ppf(1e-3, 100, 0.92)


def test_what_does_not_do_as_it_says_is_noticed(calibrate, rng):
    """An interval with the normal quantile, a percentile bootstrap, tests without Holm: each fails the same bounds."""

    def with_normal_quantile():
        values = calibrate.normal(rng, 5)
        half = norm.ppf(0.975) * values.std(ddof=1) / math.sqrt(5)
        return stats.Interval(values.mean(), values.mean() - half, values.mean() + half, 5)

    def percentile():
        values = calibrate.normal(rng, 5)
        return stats.Interval(0, *np.quantile(values[rng.integers(5, size=(300, 5))].mean(1), [0.025, 0.975]), 5)

    for interval in (with_normal_quantile, percentile):
        assert not as_stated(calibrate.coverage(interval, 0, 2000), 2000, 0.95)
    values = np.array([[none, *methods.values()] for none, methods in (calibrate.family(rng, 5, 4) for _ in range(1000))])
    p = ttest_rel(values[:, 1:], values[:, :1], axis=-1).pvalue  # (studies, methods)
    assert (p < 0.05).any(1).sum() > binom.ppf(1 - 1e-4, 1000, 0.05)


def test_the_table_says_what_was_found(calibrate):
    line = calibrate.Line("it covers", 3, 0.95, 480, 500)
    assert str(line) == "| it covers | 3 | 95.0 % | 96.0 ± 1.7 % |"
    assert "± 0.0" not in str(calibrate.Line("never", 3, math.nan, 0, 500))
    assert calibrate.power(10, 1.0) == pytest.approx(0.803, abs=5e-4)  # Cohen's tables: paired t, d = 1, n = 10
