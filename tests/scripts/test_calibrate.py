"""Verdicts err, and intervals cover, as often as they say: a bounded part of scripts/calibrate.py, which
notices what does not.
"""

import math
import sys
from dataclasses import replace
from importlib import import_module
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy.stats import binom, nct, norm, t, ttest_rel

from clipbench import stats

SCRIPTS = str(Path(__file__).parents[2] / "scripts")
FACTORS = (
    "noise of tuning",
    "noise of validation",
    "sensitivity to the rate",
    "budget",
    "ties",
    "shares of N examples",
    "divergence, equal",
    "divergence, unequal",
    "methods",
    "differences of w",
)


@pytest.fixture(scope="module")
def scripts():
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(SCRIPTS)
        yield import_module
    for name in ("calibrate", "simulated", "null_studies"):
        sys.modules.pop(name, None)


@pytest.fixture(scope="module")
def calibrate(scripts):
    return scripts("calibrate")


@pytest.fixture(scope="module")
def simulated(scripts):
    return scripts("simulated")


@pytest.fixture
def rng():
    return np.random.default_rng(11)


def as_stated(hits, studies, share):
    """Binomial with this share would be further off once in ten thousand times on either side."""
    return binom.ppf(1e-4, studies, share) <= hits <= binom.ppf(1 - 1e-4, studies, share)


def false_calls(simulated, truth, repetitions, studies, rng):
    return int(simulated.called(simulated.draw(truth, repetitions, studies, rng), truth).false(truth).sum())


@pytest.mark.parametrize("factor", FACTORS)
def test_at_most_one_study_of_twenty_calls_what_is_not_so(calibrate, simulated, rng, factor):
    assert set(FACTORS) == set(calibrate.TRUTHS) - {"outside the claim", "rare losses"}
    for truth in calibrate.TRUTHS[factor].values():
        truth = replace(truth, better=min(truth.better, truth.methods))
        for repetitions in (3, 10):
            assert false_calls(simulated, truth, repetitions, 2000, rng) <= binom.ppf(1 - 1e-5, 2000, 0.05)


@pytest.mark.parametrize("repetitions", [3, 5, 10])
def test_one_method_that_is_another_is_called_different_in_one_study_of_twenty(simulated, rng, repetitions):
    truth = simulated.Truth(methods=1, sensitivity=0)  # differences are normal: the level is exact
    assert as_stated(false_calls(simulated, truth, repetitions, 10_000, rng), 10_000, 0.05)


def test_what_is_not_said_to_hold_is_not_missed(calibrate, simulated, rng):
    """Tuning that is not repeated, which errs the more the more seeds there are; skewed differences; losses
    that are rare; a second look; no correction for the number of methods.
    """
    most = binom.ppf(1 - 1e-4, 2000, 0.05)
    outside = calibrate.TRUTHS["outside the claim"]
    found = [false_calls(simulated, outside["tuned once"], seeds, 2000, rng) for seeds in (5, 10, 20)]
    assert most < found[0] < found[1] < found[2]
    for truth in [outside["lognormal, none's normal"], outside["the worst diverge"]]:
        assert false_calls(simulated, replace(truth, methods=8), 20, 2000, rng) > most
    rare = calibrate.TRUTHS["rare losses"]["10 w in 1 of 10"]
    found = false_calls(simulated, replace(rare, methods=1, better=1), 3, 2000, rng)
    assert as_stated(found, 2000, 0.95 * 0.9**3)  # none of the three met it; of these few are not sure
    cells = list(calibrate.looked_again(replace(simulated.Truth(), methods=1), 2000, rng))
    assert [cell.repetitions for cell in cells] == [2, 3, 5, 10, 20, 20]
    assert cells[-2].hits > most
    each = simulated.draw(simulated.Truth(methods=8), 5, 2000, rng)
    p = ttest_rel(each[:, 1:], each[:, :1], axis=-1).pvalue
    assert (p < 0.05).any(1).sum() > most


@pytest.mark.parametrize("repetitions", [2, 6])
def test_all_studies_together_are_judged_as_each_is(calibrate, simulated, rng, repetitions):
    """`check` compares with the choice of tuning, `stats.compare` and the verdict."""
    for factor, truths in calibrate.TRUTHS.items():
        for truth in truths.values():
            values = simulated.draw(truth, repetitions, 12, rng)
            found = simulated.called(values, truth)
            simulated.check(values, truth, found, 4, 2)
            if repetitions == 2:
                assert (found.pairs < 3).all()
                assert not found.false(truth).any(), factor
                _, tuned, diverged = simulated.tune(truth, 2, 3, rng)
                simulated.check_choice(tuned, diverged, 3)


def test_a_study_that_is_judged_otherwise_is_noticed(simulated, rng, monkeypatch):
    truth = simulated.Truth(gain=30.0, better=1, methods=1)
    values = simulated.draw(truth, 5, 2, rng)
    found = simulated.called(values, truth)
    assert found.up.all()
    simulated.check(values, truth, found, 2, 2)
    with pytest.raises(AssertionError):
        simulated.check(values, truth, replace(found, up=~found.up), 2, 0)
    with pytest.raises(AssertionError):
        simulated.check(values, truth, replace(found, down=found.up, up=found.down), 2, 2)
    _, tuned, diverged = simulated.tune(truth, 2, 2, rng)
    monkeypatch.setattr(simulated, "choose", lambda values, diverged: np.argmin(values, -1))
    with pytest.raises(AssertionError):
        simulated.check_choice(tuned, diverged, 2)


def test_the_truth_is_what_it_is_said_to_be(calibrate, simulated, rng):
    """Mean differences over many pairs are the gains, but for those runs that a value made diverge."""
    for truths in calibrate.TRUTHS.values():
        for truth in truths.values():
            truth = replace(truth, methods=2, better=min(truth.better, 1))
            if truth.why == "value":
                continue
            values = simulated.draw(truth, 1, 8000, rng)[..., 0]
            differences = values[:, 1:] - values[:, :1]
            error = np.nanstd(differences, axis=0) / np.sqrt(np.isfinite(differences).sum(0))
            assert (np.abs(np.nanmean(differences, axis=0) - truth.gains) < 5 * error).all(), truth
            shares = np.isnan(values).mean(0)
            if truth.cliff == 1:
                stated = truth.diverging[0], truth.diverging[1], truth.diverging[1]
                assert np.abs(shares - stated).max() < 0.03


def test_trials_are_tuned_as_a_study_tunes_them(simulated, rng):
    truth = simulated.Truth(trials=9, halving=3, sensitivity=10.0, tuning_noise=0.0, validation_noise=0.0)
    u, values, diverged = simulated.tune(truth, 2, 50, rng)
    assert (np.isfinite(values).sum(-1) == 3).all()
    chosen = simulated.choose(values, diverged)
    assert (np.take_along_axis(u, chosen[:, 0, :, None], -1)[..., 0] == best(u)).all()
    eight, values, _ = simulated.tune(replace(truth, trials=8, halving=1), 1, 50, rng)
    assert (np.sort(np.floor(8 * eight)) == np.arange(8)).all()  # one in each eighth: Sobol's
    np.testing.assert_allclose(values[:, 0], -40 * (eight - 0.5) ** 2, atol=1e-12)


def best(u):
    """The place nearest to where the learning rate is best."""
    return np.take_along_axis(u, np.abs(u - 0.5).argmin(-1)[..., None], -1)[..., 0]


@pytest.mark.parametrize("repetitions", [3, 10])
@pytest.mark.parametrize("methods", [1, 4])
def test_a_planted_difference_is_found_as_often_as_theory_says(simulated, rng, repetitions, methods):
    truth = simulated.Truth(methods=methods, better=1, sensitivity=0)
    spread = math.sqrt(2 * (1 + 0.5**2))  # own noise of 1, test noise of a half, on both sides
    effect = 2.0 if repetitions == 3 else 1.0
    truth = replace(truth, gain=effect * spread)
    critical = t.isf(0.025 / methods, repetitions - 1)
    theory = nct.sf(critical, repetitions - 1, effect * math.sqrt(repetitions))
    found = simulated.called(simulated.draw(truth, repetitions, 4000, rng), truth)
    assert as_stated(int(found.up[:, 0].sum()), 4000, theory)


def test_theory_is_that_of_the_books(calibrate, simulated, rng):
    assert calibrate.power(10, 1.0) == pytest.approx(
        0.803, abs=5e-4
    )  # Cohen's tables: paired t, d = 1, n = 10
    assert calibrate.power(8, calibrate.effect_found_with(8, 0.6, 0.01), 0.01) == pytest.approx(0.6)
    # two one-sided tests of a known spread: 2Φ(√n·w − z) − 1
    known = 2 * norm.cdf(math.sqrt(2000) * 0.06 - norm.ppf(0.975)) - 1
    assert calibrate.equivalence_power(2000, 0.06) == pytest.approx(known, abs=0.005)
    five = calibrate.divergence_power(5, 1.0, 0.0)  # 5 of 5 against 0 of 5, p = 0.008: always
    assert five == pytest.approx(1)
    assert simulated._fisher(5)[5, 0] == pytest.approx(2 / math.comb(10, 5))
    for repetitions, none, method in ((5, 0.9, 0.1), (10, 0.5, 0.0)):
        truth = simulated.Truth(methods=1, diverging=(none, method))
        found = simulated.called(simulated.draw(truth, repetitions, 3000, rng), truth)
        theory = calibrate.divergence_power(repetitions, none, method)
        assert as_stated(int(found.fewer.sum()), 3000, theory)
    truth = simulated.Truth(methods=1, sensitivity=0, worth=1.2 * math.sqrt(2.5))
    found = simulated.called(simulated.draw(truth, 10, 3000, rng), truth)
    assert as_stated(int(found.equivalent.sum()), 3000, calibrate.equivalence_power(10, 1.2))


@pytest.mark.slow
def test_real_studies_in_which_nothing_differs_call_a_difference_as_rarely(scripts, tmp_path):
    null_studies = scripts("null_studies")
    null_studies.prepare(tmp_path)
    found = list(null_studies.studies(tmp_path, range(10)))
    assert sum(study.calls > 0 for study in found) <= binom.ppf(1 - 1e-4, 10, 0.05)
    assert len({study.sentence for study in found}) == 10  # each has noise of its own
    runs = pd.read_parquet(tmp_path / "results_3" / "runs")
    assert runs["repetition"].nunique() == null_studies.REPETITIONS
    finals = runs[runs["role"] == "final"].pivot_table("final_test", "repetition", "method")
    assert finals.shape == (5, 3)
    assert (finals.nunique(axis=1) == 3).all()  # the same rule, and no two runs are the same


@pytest.mark.parametrize("n", [3, 5, 10])
def test_t_intervals_cover(calibrate, rng, n):
    studies = 4000
    assert as_stated(
        calibrate.coverage(lambda: stats.t_interval(calibrate.normal(rng, n)), 0, studies), studies, 0.95
    )
    assert as_stated(
        calibrate.coverage(lambda: stats.paired_interval(*calibrate.pair(rng, n)), 0, studies), studies, 0.95
    )
    assert as_stated(
        calibrate.coverage(lambda: stats.t_interval(calibrate.normal(rng, n), 0.8), 0, studies), studies, 0.8
    )


def first_order(calibrate, n, half):
    """P(|t_ν| < half): coverage of the mean of the tasks' means ± half standard errors, ν by Satterthwaite
    (Biometrics 1946).
    """
    variances = calibrate.SPREADS**2
    return 1 - 2 * t.sf(half, variances.sum() ** 2 / np.sum(variances**2 / (n - 1)))


@pytest.mark.parametrize("n", [3, 5, 10])
def test_bootstrap_over_tasks_covers_and_plain_percentiles_do_not(calibrate, rng, n):
    """The expansion takes t with Σ(n − 1) degrees of freedom. At three seeds it is approximate: the
    docstring's 92 %.
    """
    studies, tasks = 4000 if n == 10 else 2000, len(calibrate.SPREADS)
    stated = 0.92 if n == 3 else first_order(calibrate, n, t.ppf(0.975, tasks * (n - 1)))
    least = binom.ppf(1e-4, studies, stated)
    assert (
        least
        <= calibrate.bootstrap_coverage(rng, n, "mean", studies, 500)
        <= binom.ppf(1 - 1e-4, studies, 0.96)
    )
    plain = 0
    for _ in range(studies // 500):
        parts = calibrate.tasks_of(rng, n, 500).values()
        drawn = [
            np.mean([part[rng.integers(n, size=n)].mean(0) for part in parts], axis=0) for _ in range(600)
        ]
        low, high = np.quantile(drawn, [0.025, 0.975], axis=0)
        plain += int(((low <= 0.75) & (high >= 0.75)).sum())
    assert plain < least
    assert (
        as_stated(plain, studies, first_order(calibrate, n, norm.ppf(0.975) * math.sqrt((n - 1) / n)))
        or n == 3
    )  # the reason


@pytest.mark.parametrize("n", [3, 10])
@pytest.mark.parametrize("what", ["interquartile mean", "optimality gap"])
def test_bootstrap_of_aggregates_covers_nearly(calibrate, rng, n, what):
    studies = 1000
    assert calibrate.bootstrap_coverage(rng, n, what, studies) >= binom.ppf(
        1e-4, studies, 0.90 if n == 3 else 0.93
    )


def test_aggregates_of_many_studies_are_those_of_each(calibrate, rng):
    scores = calibrate.tasks_of(rng, 5, 7)
    for i in range(7):
        one = {task: values[:, i] for task, values in scores.items()}
        assert calibrate.interquartile_means(scores)[i] == pytest.approx(stats.interquartile_mean(one))
        assert calibrate.optimality_gaps(scores)[i] == pytest.approx(stats.optimality_gap(one))
    many = calibrate.tasks_of(rng, 500_000, 1)
    assert calibrate.interquartile_means(many)[0] == pytest.approx(
        calibrate.true_interquartile_mean(), abs=1e-3
    )
    assert calibrate.optimality_gaps(many)[0] == pytest.approx(calibrate.true_optimality_gap(), abs=1e-3)


@pytest.mark.parametrize("n", [3, 5, 10])
@pytest.mark.parametrize("truth", [0.5, 0.8])
def test_the_interval_of_the_probability_of_improvement_covers_and_walds_does_not(calibrate, rng, n, truth):
    studies = 1000
    pairs = [calibrate.better(rng, n, truth) for _ in range(studies)]
    stated = (
        0.9 if (n, truth) == (3, 0.5) else 0.95
    )  # 2 of the 20 orders of three and three are outside, and all are equally likely
    least = binom.ppf(1e-4, studies, stated)
    assert sum(truth in stats.probability_of_improvement(a, b) for a, b in pairs) >= least

    def wald(a, b):
        """p ± z·√variance(p) of Hanley and McNeil 1982: of no width where p is 1."""
        p = np.mean(a[:, None] > b)
        variance = (p * (1 - p) + (n - 1) * (p / (2 - p) + 2 * p**2 / (1 + p) - 2 * p**2)) / n**2
        return abs(p - truth) <= norm.ppf(0.975) * math.sqrt(max(variance, 0))

    if n < 10:
        assert sum(wald(a, b) for a, b in pairs) < least


def test_an_interval_that_does_not_cover_is_noticed(calibrate, rng):
    """An interval with the normal quantile, a percentile bootstrap: each fails the same bounds."""

    def with_normal_quantile():
        values = calibrate.normal(rng, 5)
        half = norm.ppf(0.975) * values.std(ddof=1) / math.sqrt(5)
        return stats.Interval(values.mean(), values.mean() - half, values.mean() + half, 5)

    def percentile():
        values = calibrate.normal(rng, 5)
        return stats.Interval(
            0, *np.quantile(values[rng.integers(5, size=(300, 5))].mean(1), [0.025, 0.975]), 5
        )

    for interval in (with_normal_quantile, percentile):
        assert not as_stated(calibrate.coverage(interval, 0, 2000), 2000, 0.95)


def test_the_table_says_what_was_found(calibrate):
    cell = calibrate.Cell("false", "ties", "coarse", 2, 3, 0.05, 100, 500, 0.25)
    other = calibrate.Cell("false", "ties", "coarse", 2, 5, 0.05, 0, 500)
    assert calibrate.table([cell, other]).splitlines() == [
        "| factor | condition | methods | R = 3 | R = 5 |",
        "|---|---|---|---|---|",
        "| ties | coarse | 2 | 20.0 ± 3.5 * (25 refused) | 0.0 ± 0.4 |",
    ]
    assert cell.is_above
    assert not other.is_above
