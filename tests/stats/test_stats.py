"""Statistics against scipy, statsmodels and examples worked by others; what a handful of seeds cannot show is
said, never guessed.
"""

import itertools
import math

import numpy as np
import pytest
from scipy import stats as scipy_stats
from statsmodels.stats.contingency_tables import mcnemar
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.proportion import proportion_confint
from statsmodels.stats.weightstats import DescrStatsW

from clipbench import stats

# Student 1908, table of additional hours of sleep under two drugs, the same ten patients.
FIRST = [0.7, -1.6, -0.2, -1.2, -0.1, 3.4, 3.7, 0.8, 0.0, 2.0]
SECOND = [1.9, 0.8, 1.1, 0.1, -0.1, 4.4, 5.5, 1.6, 4.6, 3.4]
# Darwin's crossed and self-fertilised maize: differences in eighths of an inch, as Fisher gives them (1935,
# section 17).
MAIZE = [49, -67, 8, 16, 6, 23, 28, 41, 14, 29, 56, 24, 75, 60, -48]

INFINITE = (-math.inf, math.inf)


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def p_of(a, b):
    """Of the paired t-test of one comparison."""
    return stats.compare(b, {"a": a}, resolution=0)["a"].p


def ends(interval):
    return interval.low, interval.high


@pytest.mark.parametrize("n", [2, 3, 5, 10, 40])
@pytest.mark.parametrize("level", [0.9, 0.95, 0.99])
def test_t_interval_is_statsmodels(rng, n, level):
    values = rng.normal(3, 2, n)
    found = stats.t_interval(values, level)
    assert ends(found) == pytest.approx(DescrStatsW(values).tconfint_mean(1 - level))
    assert (found.estimate, found.n) == (pytest.approx(values.mean()), n)
    assert found.half == pytest.approx(found.high - found.estimate)
    assert found.estimate in found
    assert found.high + 1e-6 not in found


def test_paired_t_of_students_sleep_data():
    assert p_of(FIRST, SECOND) == pytest.approx(0.002833, abs=5e-7)
    found = stats.paired_interval(FIRST, SECOND)
    assert (found.estimate, found.low, found.high) == pytest.approx((-1.58, -2.4598858, -0.7001142), abs=5e-8)
    assert found.n == 10


def test_paired_t_is_scipys(rng):
    for n in (2, 3, 5, 10):
        a, b = rng.normal(size=(2, n))
        expected = scipy_stats.ttest_rel(a, b)
        if n >= 3:
            assert p_of(a, b) == pytest.approx(expected.pvalue)
        assert ends(stats.paired_interval(a, b, 0.9)) == pytest.approx(
            tuple(expected.confidence_interval(0.9))
        )


def test_paired_t_of_darwins_maize():
    assert p_of(MAIZE, np.zeros(15)) == pytest.approx(0.0497, abs=5e-5)  # Fisher 1935, section 17


def test_probability_of_improvement_is_mann_and_whitneys(rng):
    for m, n in ((3, 3), (5, 10), (1, 4)):
        a, b = rng.integers(0, 6, m).astype(float), rng.integers(0, 6, n).astype(float)
        found = stats.probability_of_improvement(a, b)
        assert found.estimate == pytest.approx(scipy_stats.mannwhitneyu(a, b).statistic / (m * n))
        assert found.low <= found.estimate <= found.high
        assert found.n == min(m, n)
        opposite = stats.probability_of_improvement(b, a)
        assert ends(found) == pytest.approx((1 - opposite.high, 1 - opposite.low))


def test_improvement_in_one_pair_is_wilsons_interval_and_in_all_pairs_not_certain():
    for a, b, hits in (([1.0], [0.0], 1), ([0.0], [1.0], 0)):
        expected = proportion_confint(hits, 1, method="wilson")
        assert ends(stats.probability_of_improvement(a, b)) == pytest.approx(expected)
    lows = [
        stats.probability_of_improvement(np.arange(n) + 100.0, np.arange(n)).low for n in (1, 2, 3, 5, 10, 50)
    ]
    assert lows == sorted(lows)
    assert lows[1] < 0.5 < lows[3] < lows[-1] < 1


def test_seed_correlation_is_scipys(rng):
    a = rng.normal(size=12)
    b = a + rng.normal(size=12)
    expected = scipy_stats.pearsonr(a, b)
    found = stats.seed_correlation(a, b)
    assert found.estimate == pytest.approx(expected.statistic)
    assert ends(found) == pytest.approx(tuple(expected.confidence_interval()))
    assert ends(stats.seed_correlation([1, 2, 3], [1, 3, 2])) == (-1, 1)
    assert stats.seed_correlation([1, 2, 3, 4], [2, 4, 6, 8]).estimate == 1
    assert math.isnan(stats.seed_correlation([1, 1, 1, 1], [1, 2, 3, 4]).estimate)


def test_a_share_has_clopper_and_pearsons_interval():
    for count, n in ((0, 5), (2, 7), (9, 9)):
        assert ends(stats.share_interval(count, n)) == pytest.approx(
            proportion_confint(count, n, method="beta")
        )
    with pytest.raises(ValueError, match="5 of 4"):
        stats.share_interval(5, 4)


def test_median_interval_takes_the_order_statistics_of_the_tables():
    """Conover's table of the binomial: 95 % needs the 1st and 6th of 6, 2nd and 9th of 10, 6th and 15th of
    20.
    """
    for n, low, high in ((6, 1, 6), (10, 2, 9), (15, 4, 12), (20, 6, 15)):
        assert ends(stats.median_interval(np.arange(1.0, n + 1))) == (low, high)
    assert ends(stats.median_interval([1, 2, 3, 4, 5])) == INFINITE
    assert stats.median_interval([5, math.inf, 7, math.nan, 6]).estimate == 7
    assert stats.median_interval([5, 6, math.inf, math.nan]).estimate == math.inf


def family(rng, n=10, gain=0.5):
    seeds = rng.normal(size=n)
    none = seeds + 0.1 * rng.normal(size=n)
    better = none + gain + 0.1 * rng.normal(size=n)
    return none, {"better": better, "same": seeds + 0.1 * rng.normal(size=n), "itself": none}


def test_the_family_is_judged_together():
    none, methods = family(np.random.default_rng(3))
    found = stats.compare(none, methods, resolution=0)
    raw = [scipy_stats.ttest_rel(methods[name], none).pvalue for name in ("better", "same")]
    expected = multipletests([*raw, 1.0], method="bonferroni")[1]
    assert [found[name].adjusted for name in methods] == pytest.approx(expected)
    outcomes = {name: each.outcome for name, each in found.items()}
    assert outcomes == {"better": "different", "same": "undecided", "itself": "undecided"}
    simultaneous = stats.paired_interval(methods["better"], none, 1 - 0.05 / 3)
    assert ends(found["better"].difference) == pytest.approx(ends(simultaneous))
    assert found["itself"].improvement.estimate == 0.5


@pytest.mark.parametrize("n", [3, 5, 12])
@pytest.mark.parametrize("more", [0, 3])
def test_the_interval_leaves_out_0_exactly_where_p_says_so(n, more):
    rng = np.random.default_rng(n)
    different = 0
    for _ in range(60):
        none, methods = family(rng, n, gain=rng.uniform(0, 0.4))
        for found in stats.compare(none, methods, more=more).values():
            assert found.different == (found.adjusted < 0.05) == (0 not in found.difference)
            different += found.different
    assert 5 < different < 100  # of 180: both happen


def test_methods_that_cannot_be_compared_yet_count():
    none, methods = family(np.random.default_rng(3))
    alone, counted = stats.compare(none, methods), stats.compare(none, methods, more=2)
    assert counted["better"].adjusted == pytest.approx(5 / 3 * alone["better"].adjusted)


@pytest.mark.parametrize("n", [1, 2])
def test_nothing_is_claimed_below_three_pairs(n):
    (found,) = stats.compare(np.arange(n), {"a": np.arange(n) + 5.0}, worth=100).values()
    assert ends(found.difference) == INFINITE
    assert (found.p, found.adjusted, found.outcome) == (1.0, 1.0, "")
    assert (found.difference.estimate, found.difference.n) == (5, n)


FLOAT32 = np.float32([[0.816, 0.813, 0.819], [0.815, 0.812, 0.818]]).astype(float)


@pytest.mark.parametrize("resolution", [None, 0.001])
def test_one_more_right_answer_of_a_thousand_is_no_difference(resolution):
    """Their differences are equal but for the rounding of float32."""
    (found,) = stats.compare(FLOAT32[1], {"a": FLOAT32[0]}, resolution=resolution, worth=0.002).values()
    assert found.outcome == "undecided"
    half = scipy_stats.t.ppf(0.975, 2) * 0.001 / math.sqrt(3)
    assert ends(found.difference) == pytest.approx((0.001 - half, 0.001 + half), rel=1e-3)


def test_a_constant_difference_is_judged_by_its_size():
    none = np.array([0.50, 0.52, 0.51])
    for resolution in (None, 0.001):
        (found,) = stats.compare(none, {"a": none - 0.1}, resolution=resolution).values()
        assert found.different
        assert found.difference.estimate == pytest.approx(-0.1)
    (found,) = stats.compare(none, {"a": none}, resolution=0.001, worth=0.003).values()
    assert found.outcome == "equivalent"


def test_a_spread_below_the_resolution_is_not_believed():
    """Counts of 500 examples: spreads that are 0, or near it, by chance."""
    none = np.array([490, 491, 489]) / 500
    (found,) = stats.compare(none, {"a": none + np.array([2, 2, 3]) / 500}, resolution=1 / 500).values()
    expected = scipy_stats.t.ppf(0.975, 2) / 500 / math.sqrt(3)
    assert found.difference.half == pytest.approx(expected)
    assert found.outcome == "undecided"


def test_differences_below_half_the_resolution_are_ties():
    none = np.array([0.5, 0.6, 0.7])
    nudged = none + np.array([4e-4, 4e-4, 4e-4])
    assert stats.compare(none, {"a": nudged}, resolution=1e-3)["a"].difference.estimate == 0
    assert stats.compare(none, {"a": nudged}, resolution=1e-5)["a"].difference.estimate > 0


@pytest.mark.parametrize(
    ("gain", "worth", "outcome"),
    [(0.0, 0.2, "equivalent"), (0.0, 0.05, "undecided"), (0.5, 0.2, "different"), (0.5, 1.0, "equivalent")],
)
def test_three_outcomes(gain, worth, outcome):
    """The half of the interval is near 0.1. Within ±worth comes first: what differs surely by less than is
    worth telling is equivalent.
    """
    none = np.linspace(0, 1, 6)
    noise = 0.1 * np.array([1, -1, 1, -1, 1, -1])
    (found,) = stats.compare(none, {"a": none + gain + noise}, resolution=0, worth=worth).values()
    half = scipy_stats.t.ppf(0.975, 5) * noise.std(ddof=1) / math.sqrt(6)
    assert ends(found.difference) == pytest.approx((gain - half, gain + half))
    assert found.outcome == outcome


@pytest.mark.parametrize(("gain", "worth"), [(0.05, math.nan), (0.02, 0.08), (0.3, 0.01)])
def test_the_pairs_that_would_decide_it(gain, worth):
    none = np.linspace(0, 1, 6)
    noise = 0.1 * np.array([1, -1, 1, -1, 1, -1])
    (found,) = stats.compare(none, {"a": none + gain + noise}, resolution=0, worth=worth).values()

    def decides(n):
        half = scipy_stats.t.ppf(0.975, n - 1) * noise.std(ddof=1) / math.sqrt(n)
        return half < gain or half < worth - gain

    assert decides(found.needed)
    assert found.needed == 3 or not decides(found.needed - 1)
    identical = stats.compare(none, {"a": none}, resolution=0.01)["a"]
    assert identical.needed is None


@pytest.mark.parametrize("ours", [0, 1, 3, 5])
@pytest.mark.parametrize("theirs", [0, 2, 5])
def test_divergence_has_fishers_exact_test(ours, theirs):
    values = np.arange(5.0)
    none, method = values.copy(), values + 1
    none[:theirs], method[:ours] = math.nan, math.nan
    found = stats.compare(none, {"a": method})["a"]
    table = [[ours, 5 - ours], [theirs, 5 - theirs]]
    assert found.divergence.p == pytest.approx(scipy_stats.fisher_exact(table).pvalue)
    both = 5 - max(ours, theirs)
    assert found.difference.n == both
    tests = (both >= 3) + (ours + theirs > 0)
    assert found.divergence.adjusted == pytest.approx(min(1, tests * found.divergence.p))


def test_five_of_five_against_none_is_a_difference():
    found = stats.compare([math.nan] * 5, {"a": np.arange(5.0)})["a"]
    assert found.divergence.adjusted == pytest.approx(2 / math.comb(10, 5))
    assert found.divergence.different
    assert found.outcome == ""


def test_mcnemars_test_from_six_discordant_pairs():
    values = np.arange(10.0)
    for lost in (5, 6, 9):
        none = values.copy()
        none[:lost] = math.nan
        found = stats.compare(none, {"a": values})["a"].divergence
        assert found.discordant == lost
        if lost < 6:
            assert math.isnan(found.mcnemar)
        else:
            table = [[0, lost], [0, 10 - lost]]
            assert found.mcnemar == pytest.approx(mcnemar(table, exact=True).pvalue)


def test_one_value_and_equal_values_have_no_width_to_claim():
    assert stats.t_interval([0.3]) == stats.Interval(0.3, *INFINITE, 1)
    assert stats.t_interval([0.3, 0.3, 0.3]) == stats.Interval(pytest.approx(0.3), *INFINITE, 3)
    assert ends(stats.t_interval([1e-9, 2e-9, 3e-9])) == pytest.approx(
        DescrStatsW([1e-9, 2e-9, 3e-9]).tconfint_mean()
    )
    assert ends(stats.t_interval([0.3, math.nan])) == INFINITE


def test_a_diverged_run_loses_every_rank():
    found = stats.probability_of_improvement([0.9, math.nan], [0.5, 0.6])
    assert found.estimate == 0.5
    assert stats.probability_of_improvement([math.nan], [math.nan]).estimate == 0.5


@pytest.mark.parametrize("values", [[], 0.5, [[1.0, 2.0]]])
def test_what_is_no_list_of_values_is_refused(values):
    with pytest.raises(ValueError, match="at least one number"):
        stats.t_interval(values)


def test_wrong_levels_and_unequal_pairs_are_refused():
    with pytest.raises(ValueError, match="between 0 and 1"):
        stats.t_interval([1, 2], 95)
    with pytest.raises(ValueError, match="got 2 and 3"):
        stats.paired_interval([1, 2], [1, 2, 3])


def test_aggregates_are_rliables(rng):
    """Agarwal et al. 2021 on a matrix of runs × tasks."""
    matrix = rng.normal(0.6, 0.5, size=(7, 5))
    scores = {str(task): matrix[:, task] for task in range(5)}
    assert stats.interquartile_mean(scores) == pytest.approx(scipy_stats.trim_mean(matrix, 0.25, axis=None))
    assert stats.median(scores) == pytest.approx(np.median(matrix.mean(0)))
    assert stats.optimality_gap(scores) == pytest.approx(1 - np.mean(np.minimum(matrix, 1)))
    assert stats.median({str(task): matrix[:, task] for task in range(4)}) == pytest.approx(
        np.median(matrix[:, :4].mean(0))
    )
    other = rng.normal(0.4, 0.5, size=(7, 5))
    rival = {str(task): other[:, task] for task in range(5)}
    expected = np.mean([scipy_stats.mannwhitneyu(matrix[:, i], other[:, i]).statistic / 49 for i in range(5)])
    assert stats.bootstrap_probability(scores, rival, rng, repeats=50).estimate == pytest.approx(expected)


def test_bootstrap_of_one_task_is_scipys_at_the_expanded_level():
    values = np.random.default_rng(5).normal(size=12)
    found = stats.stratified_bootstrap(
        {"a": values}, lambda s: float(s["a"].mean()), np.random.default_rng(1), repeats=20_000
    )
    tail = scipy_stats.norm.cdf(scipy_stats.t.ppf(0.025, 11) * math.sqrt(12 / 11))
    expected = scipy_stats.bootstrap(
        (values,), np.mean, confidence_level=1 - 2 * tail, method="percentile", n_resamples=20_000, rng=2
    )
    assert ends(found) == pytest.approx(tuple(expected.confidence_interval), abs=0.03)
    half = stats.t_interval(values).half  # what the expansion is for
    assert found.half == pytest.approx(half, rel=0.08)


def test_bootstrap_resamples_within_tasks_and_keeps_rows_together(rng):
    means = {"a": 0.0, "b": 100.0}
    found = stats.stratified_bootstrap(
        {task: mean + rng.normal(size=6) for task, mean in means.items()},
        lambda s: float(s["b"].mean() - s["a"].mean()),
        rng,
        300,
    )
    assert found.low > 98
    assert found.n == 6
    paired = np.stack([np.arange(5) + 1.0, np.arange(5)], axis=1)
    found = stats.stratified_bootstrap(
        {"a": paired}, lambda s: float((s["a"][:, 0] - s["a"][:, 1]).mean()), rng, 100
    )
    assert ends(found) == (1, 1)


def test_one_seed_in_a_task_leaves_the_aggregate_open(rng):
    scores = {"a": [0.1, 0.2, 0.3], "b": [0.5]}
    assert stats.stratified_bootstrap(scores, stats.interquartile_mean, rng) == stats.Interval(
        pytest.approx(0.25), *INFINITE, 1
    )
    profile = stats.performance_profile(scores, [0.2], rng)
    assert (profile.low[0], profile.high[0], profile.n) == (*INFINITE, 1)
    with pytest.raises(ValueError, match="at least one value"):
        stats.stratified_bootstrap({"a": []}, stats.median, rng)


def test_a_diverged_run_counts_in_every_aggregate(rng):
    scores = {"a": [0.5, math.nan, 0.7, 0.9], "b": [0.2, 0.4, 0.6, 0.8]}
    assert stats.interquartile_mean(scores) == pytest.approx(
        (0.4 + 0.5 + 0.6 + 0.7) / 4
    )  # −inf and .2 below, .8 and .9 above
    assert stats.median(scores) == -math.inf
    assert stats.optimality_gap(scores) == math.inf
    profile = stats.performance_profile(scores, [0.0, 0.45, 0.85], rng, repeats=200)
    assert profile.estimate == pytest.approx([(0.75 + 1) / 2, (0.75 + 0.5) / 2, (0.25 + 0) / 2])
    assert (profile.low <= profile.estimate).all()
    assert (profile.estimate <= profile.high).all()
    assert stats.stratified_bootstrap(scores, stats.interquartile_mean, rng, 200).high < 1


def test_profile_is_the_survival_function_for_one_task(rng):
    values = rng.normal(size=20)
    at = np.linspace(-2, 2, 9)
    expected = scipy_stats.ecdf(values).sf.evaluate(at)
    np.testing.assert_allclose(
        stats.performance_profile({"a": values}, at, rng, repeats=10).estimate, expected
    )


def test_scale_runs_from_none_to_best():
    np.testing.assert_allclose(stats.scaled([0.5, 0.6, 0.8], none=0.6, best=0.8), [-0.5, 0, 1])
    np.testing.assert_allclose(stats.scaled([10, 5, 2.5], none=10, best=5), [0, 1, 1.5])  # a loss
    assert np.isnan(stats.scaled([0.5], none=0.5, best=0.5)).all()


def test_time_to_target_counts_misses_and_divergences_as_infinite():
    steps = [10, 20, 30]
    curves = [
        (steps, [0.1, 0.5, 0.7]),
        (steps, [0.1, 0.2, 0.3]),
        ([10, 20], [0.6, math.nan]),
        ([10], [math.nan]),
        ([], []),  # diverged before its first evaluation
    ]
    assert stats.time_to_target(curves, 0.5).tolist() == [20, math.inf, 10, math.inf, math.inf]
    assert stats.time_to_target([(steps, [3.0, 2.0, 1.0])], 2.0, higher_is_better=False).tolist() == [20]


@pytest.mark.parametrize("higher", [True, False])
def test_expected_best_is_the_mean_over_every_order(higher):
    trials = [0.3, 0.9, 0.1, 0.4, 0.4, 0.7]
    best = np.maximum if higher else np.minimum
    orders = [best.accumulate(order) for order in itertools.permutations(trials)]
    np.testing.assert_allclose(stats.expected_best(trials, higher), np.mean(orders, axis=0))


def test_expected_best_with_diverged_trials_and_many():
    np.testing.assert_allclose(
        stats.expected_best([math.nan, 1.0, 0.5]), stats.expected_best([0.5, 1.0, 0.5])
    )
    assert np.isnan(stats.expected_best([math.nan, math.nan])).all()
    many = np.random.default_rng(0).normal(size=300)
    found = stats.expected_best(many)
    assert found[0] == pytest.approx(many.mean())
    assert found[-1] == pytest.approx(many.max())


def test_a_wide_local_line_is_the_least_squares_line():
    rng = np.random.default_rng(0)
    x, y = rng.uniform(size=12), rng.normal(size=12)
    at, mean, half = stats.smoothed(x, y, width=1e4)
    line = scipy_stats.linregress(x, y)
    np.testing.assert_allclose(mean, line.intercept + line.slope * at, atol=1e-6)
    sigma = np.sqrt(np.sum((y - line.intercept - line.slope * x) ** 2) / 10)
    error = sigma * np.sqrt(1 / 12 + (at - x.mean()) ** 2 / np.sum((x - x.mean()) ** 2))
    np.testing.assert_allclose(half, scipy_stats.t.ppf(0.975, 10) * error, rtol=1e-5)
