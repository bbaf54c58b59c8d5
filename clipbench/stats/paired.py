"""Two methods at the same seeds, and a family of methods against one. Greater is better: negate a metric
where lower is.

One procedure stands behind every verdict: m tests are made, each at level α/m (single-step Bonferroni), and
the interval at 1 − α/m leaves out 0 exactly where p·m < α.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy import optimize, special, stats

from clipbench.stats.interval import Interval, check_level, mean_interval, standard_error, vector

FEWEST = 3  # pairs: an interval from two is wider than anything one would call a result
MOST_NEEDED = 1000  # pairs that are looked ahead
FEWEST_DISCORDANT = 6  # pairs in which one side alone diverged: with five McNemar's p cannot go below .0625
ROUNDING = (
    2.0**-20
)  # relative to a value: eight units in the last place of float32, in which metrics are kept

DIFFERENT, EQUIVALENT, UNDECIDED = "different", "equivalent", "undecided"


@dataclass(frozen=True)
class Divergence:
    """Runs that diverged, of a method and of the reference, which stand in pairs.

    `p`: two-sided, of Fisher's exact test; `adjusted`: p·m, at most 1. Conservative too where the divergences
    of a pair are not negatively correlated. `discordant`: pairs in which one side alone diverged; `mcnemar`:
    the exact test over these, NaN for fewer than six.

    Source: Fisher 1935, The Design of Experiments; McNemar 1947, Psychometrika 12.
    """

    count: int
    n: int
    reference_count: int
    reference_n: int
    p: float
    adjusted: float
    discordant: int
    mcnemar: float
    level: float

    @property
    def different(self) -> bool:
        return self.adjusted <= 1 - self.level


@dataclass(frozen=True)
class Comparison:
    """A method less the reference, over the pairs in which both came to an end.

    `difference`: the mean and its simultaneous interval, at 1 − α/m; without bounds below three pairs. `p`:
    of the paired t-test; `adjusted`: p·m, at most 1. `outcome`: "equivalent" where the interval lies within
    ±worth, else "different" where it leaves out 0, else "undecided"; "" below three pairs. `needed`: pairs
    that would decide it at this mean and spread, None for more than 1000. `resolution`: the least difference
    of two values; a spread below it is not believed.
    """

    difference: Interval
    p: float
    adjusted: float
    outcome: str
    worth: float
    resolution: float
    needed: int | None
    divergence: Divergence
    improvement: Interval
    correlation: Interval
    level: float
    tests: int  # m

    @property
    def different(self) -> bool:
        return self.outcome == DIFFERENT

    @property
    def equivalent(self) -> bool:
        return self.outcome == EQUIVALENT


def compare(
    reference: ArrayLike,
    methods: Mapping[str, ArrayLike],
    level: float = 0.95,
    resolution: float | None = None,
    worth: float = math.nan,
    more: int = 0,
) -> dict[str, Comparison]:
    """Each method − the reference; the i-th values of all are from the same seed, NaN where the run diverged.

    The family is `methods` and `more` that cannot be compared yet: to be named before it is run. It counts a
    test of means for each that has three pairs, and one of divergence for each in which a run diverged.
    `resolution`: of the metric, by default the least gap between two of these values; `worth`: the smallest
    difference worth telling, NaN for none.

    Of families in which nothing differs at most 1 − level have a method that is called different; equivalent
    is false where the true difference is `worth` or more. Calibrated, tuning included, by
    scripts/calibrate.py.
    """
    pairs = {}
    for name, values in methods.items():
        pairs[name] = _pair(values, reference)
    return compare_pairs(pairs, level, resolution, worth, more)


def compare_pairs(
    pairs: Mapping[str, tuple[np.ndarray, np.ndarray]],
    level: float = 0.95,
    resolution: float | None = None,
    worth: float = math.nan,
    more: int = 0,
) -> dict[str, Comparison]:
    """`compare`, for methods that share other seeds with the reference each: {method: (its values, the
    reference's)}.
    """
    check_level(level)
    pairs = {name: _pair(*both) for name, both in pairs.items()}
    if resolution is None or math.isnan(resolution):
        every = [side for both in pairs.values() for side in both]
        resolution = least_gap(np.concatenate(every)) if every else 0.0
    tests = more + sum(_tests_made(*both) for both in pairs.values())
    found = {}
    for name, (ours, theirs) in pairs.items():
        found[name] = _comparison(ours, theirs, level, resolution, worth, max(1, tests))
    return found


def _tests_made(ours: np.ndarray, theirs: np.ndarray) -> int:
    """One of means, where pairs are enough, and one of divergence, where a run diverged."""
    ended = np.isfinite(ours) & np.isfinite(theirs)
    return int(ended.sum() >= FEWEST) + int(np.isnan(ours).any() or np.isnan(theirs).any())


def _comparison(
    ours: np.ndarray, theirs: np.ndarray, level: float, resolution: float, worth: float, tests: int
) -> Comparison:
    ended = np.isfinite(ours) & np.isfinite(theirs)
    x, y = ours[ended], theirs[ended]
    each = 1 - (1 - level) / tests
    difference, p = _difference(x - y, _size(x, y), resolution, each)
    return Comparison(
        difference=difference,
        p=p,
        adjusted=min(1.0, tests * p),
        outcome=_outcome(difference, worth),
        worth=worth,
        resolution=resolution,
        needed=_needed(x - y, difference, resolution, worth, each),
        divergence=_divergence(ours, theirs, level, tests),
        improvement=probability_of_improvement(ours, theirs, level),
        correlation=seed_correlation(x, y, level) if len(x) else Interval(math.nan, -1.0, 1.0, 0),
        level=level,
        tests=tests,
    )


def _difference(d: np.ndarray, size: float, resolution: float, level: float) -> tuple[Interval, float]:
    """Mean of the paired differences with its t-interval, and p; without bounds and 1 below three pairs."""
    n = len(d)
    if n == 0:
        return Interval(math.nan, -math.inf, math.inf, 0), 1.0
    d = without_ties(d, size, resolution)
    mean = float(d.mean())
    error = _error(d, resolution)
    if n < FEWEST:
        return Interval(mean, -math.inf, math.inf, n), 1.0
    if error == 0:  # all are equal to the last digit
        return Interval(mean, mean, mean, n), 1.0 if mean == 0 else 0.0
    half = float(special.stdtrit(n - 1, (1 + level) / 2)) * error
    p = float(2 * special.stdtr(n - 1, -abs(mean) / error))
    return Interval(mean, mean - half, mean + half, n), p


def without_ties(d: np.ndarray, size: float, resolution: float) -> np.ndarray:
    """The differences, 0 where they are rounding or below half the resolution."""
    return np.where(np.abs(d) <= max(ROUNDING * size, resolution / 2), 0.0, d)


def _error(d: np.ndarray, resolution: float) -> float:
    """s/√n; s is at least the resolution: a spread that a metric cannot show is not known to be smaller."""
    spread = float(d.std(ddof=1)) if len(d) > 1 else 0.0
    return max(spread, resolution) / math.sqrt(len(d))


def least_gap(values: np.ndarray) -> float:
    """The least difference between two of the values that is no rounding: no less than the resolution of the
    metric. 0 where all are equal.
    """
    values = np.sort(values[np.isfinite(values)])
    if not len(values):
        return 0.0
    gaps = np.diff(values)
    gaps = gaps[gaps > ROUNDING * np.abs(values).max()]
    return float(gaps.min()) if len(gaps) else 0.0


def _outcome(found: Interval, worth: float) -> str:
    if found.n < FEWEST:
        return ""
    if -worth < found.low and found.high < worth:
        return EQUIVALENT
    return UNDECIDED if 0 in found else DIFFERENT


def _needed(d: np.ndarray, found: Interval, resolution: float, worth: float, level: float) -> int | None:
    if len(d) < 2:
        return None
    gap = abs(found.estimate)
    if worth > gap:  # False for NaN
        gap = max(gap, worth - gap)
    spread = _error(d, resolution) * math.sqrt(len(d))
    for n in range(FEWEST, MOST_NEEDED + 1):
        if float(special.stdtrit(n - 1, (1 + level) / 2)) * spread / math.sqrt(n) < gap:
            return n
    return None


def _divergence(ours: np.ndarray, theirs: np.ndarray, level: float, tests: int) -> Divergence:
    """Of two sides that stand in pairs."""
    here, there = np.isnan(ours), np.isnan(theirs)
    count, other, n = int(here.sum()), int(there.sum()), len(ours)
    p = float(stats.fisher_exact([[count, n - count], [other, n - other]]).pvalue) if count or other else 1.0
    alone = int((here & ~there).sum())
    discordant = int((here != there).sum())
    mcnemar = math.nan
    if discordant >= FEWEST_DISCORDANT:
        mcnemar = float(stats.binomtest(alone, discordant).pvalue)
    return Divergence(count, n, other, n, p, min(1.0, tests * p), discordant, mcnemar, level)


def paired_interval(a: ArrayLike, b: ArrayLike, level: float = 0.95) -> Interval:
    """The t-interval of a − b, a[i] and b[i] from the same seed. n is the number of pairs."""
    x, y = _pair(a, b)
    check_level(level)
    return mean_interval(x - y, _size(x, y), level)


def probability_of_improvement(a: ArrayLike, b: ArrayLike, level: float = 0.95) -> Interval:
    """P(A > B) + ½·P(A = B) over all pairs (a_i, b_j), with the interval of Newcombe's method 5; n is the
    smaller number of values.

    NaN loses to any value and ties with NaN. The interval takes a and b for independent; where seeds are
    paired it is too wide rather than too narrow. Three independent values a side cover ½ at 90 %: all above
    and all below are 2 of 20 orders. It is never of zero width, also where all a are above all b.
    Source: Mann and Whitney 1947; Agarwal et al. 2021 (rliable), section 4.3; Newcombe 2006, Statist. Med.
    25:559.
    """
    x, y = vector(a), vector(b)
    x = np.where(np.isnan(x), -math.inf, x)
    y = np.where(np.isnan(y), -math.inf, y)
    check_level(level)
    share = float(win_share(x, y))
    m, n = len(x), len(y)
    z = float(special.ndtri((1 + level) / 2))

    def excess(p: float) -> float:
        """|p − share| − z·standard error under p, (Hanley and McNeil 1982) with both sample sizes set to
        their mean less 1.
        """
        more = (m + n) / 2 - 1
        variance = p * (1 - p) * (1 + more * ((1 - p) / (2 - p) + p / (1 + p))) / (m * n)
        return abs(p - share) - z * math.sqrt(variance)

    low, high = 0.0, 1.0
    # At 0 and 1 themselves the error is 0.
    if share > 0:
        low = float(optimize.brentq(excess, 0, min(share, 1 - 1e-9)))
    if share < 1:
        high = float(optimize.brentq(excess, max(share, 1e-9), 1))
    return Interval(share, low, high, min(m, n))


def win_share(x: np.ndarray, y: np.ndarray) -> np.floating:
    """P(X > Y) + ½·P(X = Y) over all pairs of their values."""
    x = x[:, None]
    return np.mean((x > y) + 0.5 * (x == y))


def seed_correlation(a: ArrayLike, b: ArrayLike, level: float = 0.95) -> Interval:
    """Pearson's r between paired seeds with Fisher's interval, tanh(artanh r ± z/√(n−3)); (−1, 1) for n ≤ 3.
    What pairing gains: 1 − r.

    NaN with (−1, 1) where there is none: one pair, equal values on a side, a value that is not finite.
    Source: Fisher 1921, Metron 1.
    """
    x, y = _pair(a, b)
    check_level(level)
    n = len(x)
    if not _varies(x) or not _varies(y):
        return Interval(math.nan, -1.0, 1.0, n)
    r = float(np.clip(np.corrcoef(x, y)[0, 1], -1, 1))
    if n <= 3:
        return Interval(r, -1.0, 1.0, n)
    z = float(special.ndtri((1 + level) / 2))
    half = z / math.sqrt(n - 3)
    almost_one = 1 - 1e-15
    centre = math.atanh(min(max(r, -almost_one), almost_one))
    low = math.tanh(centre - half)
    high = math.tanh(centre + half)
    return Interval(r, low, high, n)


def _varies(x: np.ndarray) -> bool:
    """Whether all values are finite and they differ."""
    if not np.isfinite(x).all():
        return False
    size = float(np.abs(x).max())
    return standard_error(x, size) > 0


def _pair(a: ArrayLike, b: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    x, y = vector(a), vector(b)
    if len(x) != len(y):
        raise ValueError(
            f"Pairs need as many values on both sides, got {len(x)} and {len(y)}. "
            "The i-th of each must be of the same seed."
        )
    # NaN for what is not finite: inf − inf would warn.
    x = np.where(np.isfinite(x), x, math.nan)
    y = np.where(np.isfinite(y), y, math.nan)
    return x, y


def _size(x: np.ndarray, y: np.ndarray) -> float:
    return float(np.abs([x, y]).max(initial=0))
