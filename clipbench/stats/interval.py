"""An estimate with its interval and the number of values behind it."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy import special, stats

SAME = 1e-12  # relative to the size of the values: differences below are rounding


@dataclass(frozen=True)
class Interval:
    """`estimate` from `n` values, and the ends of its interval: −inf and inf where n values cannot give
    one.
    """

    estimate: float
    low: float
    high: float
    n: int

    @property
    def half(self) -> float:
        """Half the width: what stands behind ±."""
        return (self.high - self.low) / 2

    def __contains__(self, value: float) -> bool:
        return self.low <= value <= self.high


def t_interval(values: ArrayLike, level: float = 0.95) -> Interval:
    """mean ± t_{(1+level)/2, n−1}·s/√n. Covers at its rate for normal values, at any n from 2.

    Infinite for one value, for equal values and where one is not finite; the mean of the latter is NaN.
    ValueError for none.
    Source: Student 1908; any textbook.
    """
    x = vector(values)
    check_level(level)
    return mean_interval(x, float(np.abs(x).max()), level)


def mean_interval(x: np.ndarray, size: float, level: float) -> Interval:
    """`size`: of the numbers that x was computed from, to tell a spread from their rounding."""
    n = len(x)
    if not np.isfinite(x).all():
        return Interval(math.nan, -math.inf, math.inf, n)
    mean = float(x.mean())
    error = standard_error(x, size)
    if error == 0:
        return Interval(mean, -math.inf, math.inf, n)
    t = float(special.stdtrit(n - 1, (1 + level) / 2))
    half = t * error
    return Interval(mean, mean - half, mean + half, n)


def mean_and_half(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean over the last axis, the seeds, and half the width of its 95 % t-interval, NaN for a single seed.
    (…, seeds) → (…), (…)

    A NaN in one seed is a NaN in the mean and shows as a gap; leaving that seed out would show as a jump.
    """
    n = values.shape[-1]
    if n == 1:
        unknown = np.full(values.shape[:-1], np.nan)
        return values[..., 0], unknown
    t = stats.t.ppf(0.975, n - 1)
    half = t * values.std(-1, ddof=1) / np.sqrt(n)
    return values.mean(-1), half


def standard_error(x: np.ndarray, size: float) -> float:
    """s/√n; 0 where n is 1 or all are equal but for rounding in numbers of `size`."""
    if len(x) < 2:
        return 0.0
    spread = float(np.ptp(x))
    if spread <= SAME * size:
        return 0.0
    return float(x.std(ddof=1)) / math.sqrt(len(x))


def median_interval(values: ArrayLike, level: float = 0.95) -> Interval:
    """The median and the narrowest symmetric pair of order statistics that covers it at least at `level`,
    whatever the distribution.

    inf is a value like others (a target that was never reached), NaN counts as inf. Both ends are infinite
    where no pair is wide enough: for n < 6 at 0.95. The median of an even n is the upper of the two in the
    middle if the lower is infinite or they differ by it.
    Source: Conover, Practical Nonparametric Statistics, section 3.2: P(X_(k) ≤ m ≤ X_(n+1−k)) ≥ 1 − 2·P(B <
    k), B ~ Bin(n, ½).
    """
    x = vector(values)
    x = np.sort(np.where(np.isnan(x), math.inf, x))
    check_level(level)
    n = len(x)
    # The largest k with P(B < k) ≤ (1 − level)/2, as P(B < k) = cdf(k − 1).
    k = int(stats.binom.ppf((1 - level) / 2, n, 0.5))
    if k < 1:
        return Interval(middle(x), -math.inf, math.inf, n)
    low, high = x[k - 1], x[n - k]
    return Interval(middle(x), float(low), float(high), n)


def middle(ranked: np.ndarray) -> float:
    """The median of sorted values, which may be infinite: no mean is taken of two that are equal."""
    n = len(ranked)
    low, high = ranked[(n - 1) // 2], ranked[n // 2]
    if low == high:
        return float(low)
    return float((low + high) / 2)


def share_interval(count: int, n: int, level: float = 0.95) -> Interval:
    """count/n with the interval of Clopper and Pearson (Biometrika 1934): covers at least at `level` for any
    share and n.
    """
    if n < 1 or not 0 <= count <= n:
        raise ValueError(f"A share is of at least one: got {count} of {n}.")
    check_level(level)
    ends = stats.binomtest(count, n).proportion_ci(level, "exact")
    return Interval(count / n, float(ends.low), float(ends.high), n)


def vector(values: ArrayLike) -> np.ndarray:
    """(n,) float64. ValueError where there is nothing, or not one dimension."""
    x = np.asarray(values, float)
    if x.ndim != 1 or len(x) == 0:
        raise ValueError(f"Values must be a list of at least one number, got shape {x.shape}.")
    return x


def check_level(level: float) -> None:
    """ValueError unless 0 < level < 1: a share such as 0.95, not a percentage."""
    if not 0 < level < 1:
        raise ValueError(f"level must lie between 0 and 1, got {level!r}; 0.95 is usual.")
