"""Noise is called heavy where it is, as rarely as stated where it is not, and never for a few outliers."""

import importlib.util
import math
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy import optimize
from scipy import stats as scipy_stats
from scipy.stats import binom

from clipbench import stats
from clipbench.stats.heaviness import ERRORS
from clipbench.stats.pareto import tail_fit, tail_index

ROOT = Path(__file__).parents[2]
N = 2000
POWER = {"pareto 1.5": scipy_stats.pareto(1.5), "pareto 2.5": scipy_stats.pareto(2.5)}
LIGHT = {
    "chi 3": scipy_stats.chi(3),
    "chi 1000": scipy_stats.chi(1000),
    "normal": scipy_stats.norm(20, 1),
    "uniform": scipy_stats.uniform(1, 1),
}


@pytest.fixture
def rng():
    return np.random.default_rng(0)


@pytest.mark.parametrize("name", POWER)
def test_a_power_tail_is_heavy_and_its_index_recovered(rng, name):
    alpha = POWER[name].args[0]
    tail = stats.tail(POWER[name].rvs(N, random_state=rng))
    assert tail.heaviness.outcome == "heavy"
    assert 1 / alpha in tail.heaviness.index
    assert 1 / alpha in tail.heaviness.kept
    k, estimate, low, high = stats.hill(tail.values)
    at = k == N // 4
    assert low[at] < alpha < high[at]
    assert tail.fits["pareto"].args[0] == pytest.approx(estimate[at][0])


@pytest.mark.parametrize("name", LIGHT)
def test_norms_of_gaussian_noise_and_lighter_are_not_heavy(rng, name):
    assert stats.heaviness(LIGHT[name].rvs(N, random_state=rng)).outcome == "not heavy"


def test_an_exponential_tail_is_the_border(rng):
    tail = stats.tail(rng.exponential(size=N))
    assert tail.heaviness.outcome == "cannot tell"
    assert 0 in tail.heaviness.index
    share = 1 / (4 * 3**1.5)  # quartiles log 4/3 and log 4, so P = e^−(log 4 + 1.5 log 3)
    assert share / 3.488e-3 in tail.rho
    assert scipy_stats.skew(tail.values) == tail.skewness.estimate
    assert tail.skewness.low < 2 < tail.skewness.high


def test_a_lognormal_tail_is_heavy_without_being_a_power_law(rng):
    assert stats.heaviness(rng.lognormal(size=5000)).outcome == "heavy"


@pytest.mark.parametrize(("n", "outliers"), [(240, 1), (400, 1), (1000, 10)])
def test_outliers_alone_are_no_heavy_tail(rng, n, outliers):
    """All values together say so each time: as the index of the earlier rule did."""
    for _ in range(8):
        norms = np.linalg.norm(rng.normal(size=(n, 50)), axis=1)
        norms[:outliers] *= rng.uniform(4, 10, outliers)
        found = stats.heaviness(norms)
        assert found.slow
        assert found.outcome == "cannot tell"


def test_false_alarms_are_as_rare_as_stated(rng):
    """With and without the largest values the border is said to be heavy in 2.5 %, at the sample's own n."""
    samples = 50
    for n in (100, 240):
        found = [stats.heaviness(rng.exponential(size=n)) for _ in range(samples)]
        most = binom.ppf(0.999, samples, 0.025)
        assert sum(each.slow for each in found) <= most
        assert sum(each.kept.low > 0 for each in found) <= most
        assert sum(each.index.high < 0 for each in found) <= most


def test_shorter_than_exponential_is_said_as_rarely_as_stated_of_few_values(rng):
    """The likelihood's drop alone would say so of 9 %."""
    found = [tail_index(rng.exponential(size=100)).high < 0 for _ in range(250)]
    assert sum(found) <= binom.ppf(0.999, 250, 0.025)


def test_intervals_cover_whatever_the_largest_values_are(rng):
    """Few of 100 excesses have no part; these were made a thousand times as large in half of the samples."""
    law, samples = scipy_stats.genpareto(0.3), 40
    covered = covered_kept = 0
    for i in range(samples):
        x = np.sort(law.rvs(400, random_state=rng))
        covered += 0.3 in tail_index(x)
        if i % 2:
            x[-3:] *= 1000
            x = np.r_[x[:-4], x[-3:]]  # of which a clean sample's largest is one
        covered_kept += 0.3 in tail_index(x, without=4)
    fewest = binom.ppf(0.001, samples, 0.93)  # profile likelihood with 100 values is a little short
    assert min(covered, covered_kept) >= fewest


def test_values_that_are_left_out_have_no_part(rng):
    x = np.sort(rng.lognormal(size=500))
    y = x.copy()
    y[-4:] *= [10, 1e3, 1e6, 1e9]  # what is left out fifth is where the others are cut off
    assert tail_index(x, without=5) == tail_index(y, without=5)
    assert tail_index(x) != tail_index(y)


def test_values_that_stand_apart_are_no_tail_law(rng):
    """One example in 46 batches gives a gradient three times as large: 22 passes are 22 such values, at one
    place.
    """
    found = stats.heaviness(np.r_[rng.normal(2, 0.3, 990), rng.normal(6, 0.1, 22)])
    assert found.slow
    assert found.fit <= 0.01
    assert found.outcome == "cannot tell"


def test_a_tail_law_is_rejected_as_rarely_as_stated():
    rng = np.random.default_rng(2)
    p = [tail_fit(scipy_stats.genpareto(0.2).rvs(200, random_state=rng), rng, 39) for _ in range(40)]
    assert sum(each <= 0.05 for each in p) <= binom.ppf(0.999, 40, 0.05)
    assert max(p) > 0.5


def test_the_index_is_scipys_maximum_likelihood(rng):
    x = np.sort(scipy_stats.t(4).rvs(N, random_state=rng) ** 2)
    start = x[N - N // 4 - 1]
    expected, _, _ = scipy_stats.genpareto.fit(x[x > start] - start, floc=0)
    assert tail_index(x).estimate == pytest.approx(expected, abs=2e-3)
    assert tail_index(x + 1000).estimate == pytest.approx(expected, abs=2e-3)
    assert tail_index(x * 1e-6).estimate == pytest.approx(expected, abs=2e-3)


def test_without_the_largest_it_is_maximum_likelihood_of_a_law_that_is_cut_off(rng):
    """Estimate and both ends, against scipy's density and distribution function and another optimiser."""
    x, without = np.sort(rng.pareto(1.5, 1000)), 10
    rest = x[:-without]
    start = rest[len(rest) - len(rest) // 4 - 1]
    excess, end = rest[rest > start] - start, x[-without] - start

    def minus(shape, log_scale):
        law = scipy_stats.genpareto(shape, scale=math.exp(log_scale))
        return len(excess) * law.logcdf(end) - law.logpdf(excess).sum()

    def least(shape):
        return optimize.minimize(lambda at: minus(shape, at[0]), [0.0], method="Nelder-Mead").fun

    best = optimize.minimize(lambda at: minus(*at), [0.5, 0.0], method="Nelder-Mead")
    found = tail_index(x, without=without)
    assert found.estimate == pytest.approx(best.x[0], abs=5e-3)
    drop = scipy_stats.chi2(1).ppf(0.95) / 2
    assert least(found.low) - best.fun == pytest.approx(drop, abs=1e-2)
    assert least(found.high) - best.fun == pytest.approx(drop * (1 + 21 / len(excess)), abs=1e-2)


@pytest.mark.parametrize("alpha", [0.2, 0.5])
def test_a_tail_without_a_mean_is_heavy(rng, alpha):
    assert stats.heaviness(rng.pareto(alpha, 1000) + 1).outcome == "heavy"


def test_hill_is_its_definition(rng):
    x = np.sort(rng.pareto(2, 60) + 1)[::-1]
    k, alpha, low, high = stats.hill(x)
    assert (k[0], k[-1]) == (5, 30)
    for i in (0, 7, 25):
        assert 1 / alpha[i] == pytest.approx(np.mean([math.log(x[j] / x[k[i]]) for j in range(k[i])]))
        shape, _, _ = scipy_stats.pareto.fit(x[: k[i]], floc=0, fscale=x[k[i]])
        assert alpha[i] == pytest.approx(shape)
    exact = (
        scipy_stats.gamma(30).ppf([0.025, 0.975]) / 30
    )  # Σ of 30 log-excesses, each exponential of mean 1/α
    assert (low[-1], high[-1]) == pytest.approx(tuple(alpha[-1] * exact))


def test_fits_are_of_maximum_likelihood(rng):
    x = 3 * np.linalg.norm(rng.normal(size=(500, 7)), axis=1)
    tail = stats.tail(x)
    fits = tail.fits
    degrees, _, scale = scipy_stats.chi.fit(x, floc=0)
    assert fits["chi"].logpdf(x).sum() >= scipy_stats.chi(degrees, scale=scale).logpdf(x).sum() - 1e-3
    assert fits["chi"].args[0] == pytest.approx(7, rel=0.2)
    assert fits["chi"].kwds["scale"] == pytest.approx(3, rel=0.1)
    assert fits["lognormal"].args[0] == pytest.approx(scipy_stats.lognorm.fit(x, floc=0)[0], rel=1e-3)
    above = x[x > tail.start]
    assert len(above) == 125
    assert tail.ccdf("exponential", np.array([tail.start]))[0] == pytest.approx(0.25, abs=0.005)
    assert fits["exponential"].mean() == pytest.approx(above.mean())
    _, mean_excess = scipy_stats.expon.fit(above, floc=tail.start)
    assert fits["exponential"].std() == pytest.approx(mean_excess)
    shape, _, _ = scipy_stats.pareto.fit(above, floc=0, fscale=tail.start)
    assert fits["pareto"].args[0] == pytest.approx(shape)
    assert np.isnan(tail.ccdf("pareto", np.array([tail.start * 0.9]))).all()


@pytest.mark.parametrize(
    "values", [np.ones(200), np.zeros(200), np.arange(1, 60), np.r_[np.arange(1, 200.0), math.nan]]
)
def test_what_has_no_tail_is_refused(values):
    with pytest.raises(ValueError, match="at least 100 positive"):
        stats.tail(values)


@pytest.mark.parametrize(
    "values", [np.r_[np.ones(500), np.full(500, 2.0)], np.r_[np.full(997, 1.0), 2, 3, 4], [1, 2, 3, 4] * 50]
)
def test_many_equal_values_are_no_crash(values):
    assert stats.tail(values).heaviness.outcome != "heavy"


@pytest.fixture(scope="module")
def table():
    return pd.read_parquet(ROOT / "results" / "reference" / "tails_calibration.parquet")


def test_the_rates_that_are_stated_are_those_measured(table):
    """Of each n, counted here from the table that the script wrote."""
    assert [row.n for row in ERRORS] == [100, 240, 1000, 5000] == sorted(table["n"].unique())
    assert len(table) == 4 * 8 * 3
    assert (table["heavy"] + table["not_heavy"] + table["cannot_tell"] == table["samples"]).all()
    for row in ERRORS:
        here = table[table["n"] == row.n].assign(rate=lambda each: 100 * each["heavy"] / each["samples"])
        light, clean = ~here["is_heavy"], here["outliers"] == "none"
        assert row.wrong == pytest.approx(here["rate"][light & clean].max(), abs=0.05)
        assert row.wrong_outliers == pytest.approx(here["rate"][light & ~clean].max(), abs=0.05)
        heavy = here[~light & clean].set_index("distribution")["rate"]
        assert row.missed == pytest.approx((100 - heavy).to_dict(), abs=0.05)


def test_clean_noise_is_called_heavy_as_rarely_as_stated_in_every_cell(table):
    for _, cell in table[~table["is_heavy"] & (table["outliers"] == "none")].iterrows():
        assert cell["heavy"] <= binom.ppf(0.999, cell["samples"], 0.025)


def test_the_rates_of_an_n_are_those_of_the_largest_below():
    assert [stats.errors(n).n for n in (100, 239, 240, 252, 999, 5000, 10**6)] == [
        *(100, 100, 240, 240, 240, 5000, 5000)
    ]


def test_the_script_measures_a_cell():
    path = ROOT / "scripts" / "calibrate_tails.py"
    spec = importlib.util.spec_from_file_location("calibrate_tails", path)
    script = sys.modules["calibrate_tails"] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    try:
        names = [noise.name for noise in script.NOISES]
        row = script.measure(names.index("Pareto, α = 1.5"), 1000, "1 %", 3)
        assert row["is_heavy"]
        assert row["heavy"] == row["samples"] == 3
        rng = np.random.default_rng(0)
        clean = rng.normal(10, 1, 1000)
        dirty = script.with_outliers(rng, clean.copy(), "1 %")
        assert np.sum(dirty != clean) == 10
        assert dirty[:10].min() > clean.max()
    finally:
        del sys.modules["calibrate_tails"]
