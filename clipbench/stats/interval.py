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
    if not np.isfinite(x).all():
        return Interval(math.nan, -math.inf, math.inf, len(x))
    mean, error = float(x.mean()), standard_error(x, size)
    half = math.inf
    if error:
        half = float(special.stdtrit(len(x) - 1, (1 + level) / 2)) * error
    return Interval(mean, mean - half, mean + half, len(x))


def mean_and_half(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean over the last axis, the seeds, and half the width of its 95 % t-interval, NaN for a single seed.
    (…, seeds) → (…), (…)

    A NaN in one seed is a NaN in the mean and shows as a gap; leaving that seed out would show as a jump.
    """
    n = values.shape[-1]
    if n == 1:
        return values[..., 0], np.full(values.shape[:-1], np.nan)
    half = stats.t.ppf(0.975, n - 1) * values.std(-1, ddof=1) / np.sqrt(n)
    return values.mean(-1), half


def standard_error(x: np.ndarray, size: float) -> float:
    """s/√n; 0 where n is 1 or all are equal but for rounding in numbers of `size`."""
    if len(x) < 2 or float(np.ptp(x)) <= SAME * size:
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
    low, high = x[(n - 1) // 2], x[n // 2]
    middle = float(low if low == high else (low + high) / 2)
    k = int(
        stats.binom.ppf((1 - level) / 2, n, 0.5)
    )  # the largest k with P(B < k) ≤ (1 − level)/2, as P(B < k) = cdf(k − 1)
    if k < 1:
        return Interval(middle, -math.inf, math.inf, n)
    return Interval(middle, float(x[k - 1]), float(x[n - k]), n)


def share_interval(count: int, n: int, level: float = 0.95) -> Interval:
    """count/n with the interval of Clopper and Pearson (Biometrika 1934): covers at least at `level` for any
    share and n.
    """
    if not 0 <= count <= n or n < 1:
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
    if not 0 < level < 1:
        raise ValueError(f"level must lie between 0 and 1, got {level!r}; 0.95 is usual.")
