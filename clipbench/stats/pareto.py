"""The tail of a sample, and the generalised Pareto distribution that fits the excesses over its start."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike
from scipy import optimize, special, stats

from clipbench.stats.interval import Interval, check_level, vector

TAIL = 0.1  # the share of the sample that is its tail
LOWEST = -0.99  # of ξ: below −1 the likelihood has no maximum


def tail_index(values: ArrayLike, level: float = 0.95) -> Interval:
    """ξ of the generalised Pareto distribution of the excesses over the 90 % quantile, with its
    profile-likelihood interval.

    ξ = 1/α for a power tail, 0 for an exponential one, below 0 for a shorter one (a normal's or χ's is about
    −0.1 at this quantile). Unlike Hill's estimate it can tell these apart, and it does not change when a
    constant is added. The mean is infinite for ξ ≥ 1, the variance for ξ ≥ ½. Source: Pickands 1975; Davison
    and Smith 1990; Coles 2001, section 4.3.
    """
    x = np.sort(vector(values))
    check_level(level)
    excess = _excess(x)
    best, _, most = _best(excess)
    drop = float(special.ndtri((1 + level) / 2)) ** 2 / 2

    def over(shape: float) -> float:
        _, likelihood = _best_scale(excess, shape)
        return most - likelihood - drop

    low, high = -math.inf, math.inf
    if over(LOWEST) > 0:
        low = float(optimize.brentq(over, LOWEST, best))
    if over(20) > 0:
        high = float(optimize.brentq(over, best, 20))
    return Interval(best, low, high, len(x))


def tail_fit(values: ArrayLike, rng: np.random.Generator | None = None, repeats: int = 99) -> float:
    """p of the hypothesis that the tail is a generalised Pareto at all: small where some values stand apart,
    as a rare example's do.

    Kolmogorov's distance to the fitted distribution among those of samples drawn from it and fitted likewise.
    Source: Clauset, Shalizi and Newman 2009 (arXiv 0706.1062), section 4.1.
    """
    rng = np.random.default_rng(0) if rng is None else rng
    excess = _excess(np.sort(vector(values)))
    shape, scale, _ = _best(excess)
    seen = _distance(excess, shape, scale)
    law = stats.genpareto(shape, scale=scale)
    n = len(excess)
    further = 0
    for _ in range(repeats):
        drawn = np.sort(law.ppf(rng.uniform(size=n)))
        shape, scale, _ = _best(drawn)
        if _distance(drawn, shape, scale) >= seen:
            further += 1
    return (1 + further) / (1 + repeats)


def _distance(excess: np.ndarray, shape: float, scale: float) -> float:
    law = stats.genpareto(shape, scale=scale)
    return float(stats.ks_1samp(excess, law.cdf, mode="asymp").statistic)


def _best(excess: np.ndarray) -> tuple[float, float, float]:
    """Shape, scale and log-likelihood of the generalised Pareto distribution that fits best."""

    def minus(shape: float) -> float:
        _, likelihood = _best_scale(excess, shape)
        return -likelihood

    found = optimize.minimize_scalar(minus, bounds=(LOWEST, 5), method="bounded")
    shape, likelihood = float(found.x), -float(found.fun)
    scale, _ = _best_scale(excess, found.x)
    return shape, scale, likelihood


def _best_scale(excess: np.ndarray, shape: float) -> tuple[float, float]:
    """The scale that goes best with a shape, and its log-likelihood."""
    n = len(excess)
    unit = float(excess.mean())

    def minus(log_scale: float) -> float:
        y = excess * (math.exp(-log_scale) / unit)
        if abs(shape) < 1e-6:
            return n * log_scale + float(y.sum())
        logs = float(np.log1p(shape * y).sum())
        return n * log_scale + (1 + 1 / shape) * logs

    lowest = -10.0
    if shape < 0:  # all values must lie within the distribution's end
        end = math.log(-shape * float(excess.max()) / unit)
        lowest = max(lowest, end + 1e-9)
    found = optimize.minimize_scalar(minus, bounds=(lowest, 5), method="bounded")
    scale = unit * math.exp(found.x)
    likelihood = -float(found.fun) - n * math.log(unit)
    return scale, likelihood


def _excess(x: np.ndarray) -> np.ndarray:
    start, above = start_and_above(x)
    return above - start


def start_and_above(x: np.ndarray) -> tuple[float, np.ndarray]:
    """Of sorted values: the largest one below the top tenth, and those above it."""
    count = max(5, int(TAIL * len(x)))
    above = x[len(x) - count :]
    start = float(x[len(x) - count - 1])
    if above[-1] > start:
        return start, above[above > start]
    return start, above + 1e-12 * abs(start)
