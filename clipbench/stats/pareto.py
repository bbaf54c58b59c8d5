"""The tail of a sample, and the generalised Pareto distribution that fits the excesses over its start."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike
from scipy import optimize, special, stats

from clipbench.stats.interval import Interval, check_level, vector

TAIL = 0.25  # the share of the sample that is its tail
LOWEST = -0.99  # of ξ: below −1 the likelihood has no maximum
HIGHEST = 5.0
SHORT = (
    21  # of exponential tails of 25 to 250 values, the upper end's drop times 1 + 21/n leaves 2.5 % below 0
)
ENOUGH = 5  # samples that fit worse: then p is known well enough


def tail_index(values: ArrayLike, level: float = 0.95, without: int = 0) -> Interval:
    """ξ of the generalised Pareto distribution of the excesses over the 75 % quantile, with its
    profile-likelihood interval.

    ξ = 1/α for a power tail, 0 for an exponential one, below 0 for a shorter one (a normal's or χ's is about
    −0.2 at this quantile). Unlike Hill's estimate it can tell these apart, and it does not change when a
    constant is added. The mean is infinite for ξ ≥ 1, the variance for ξ ≥ ½.

    `without`: so many of the largest values have no part, whatever they are. The others are a sample of the
    distribution cut off at the smallest of these, and that is the likelihood: no bias towards a short tail.

    A small sample's estimate is too low, and the likelihood alone would put the upper end too low as well:
    below 0 for 9 % of exponential tails of 25 values. It is moved by what simulation gives.

    Source: Pickands 1975; Davison and Smith 1990; Coles 2001, section 4.3. Cut off: Aban, Meerschaert and
    Panorska 2006, JASA 101.
    """
    check_level(level)
    excess, end = _excess(np.sort(vector(values)), without)
    best, _, _ = _best(excess) if math.isinf(end) else _best_within(excess, end)
    _, most = _best_scale(excess, best, end)
    drop = float(special.ndtri((1 + level) / 2)) ** 2 / 2
    drop_above = drop * (1 + SHORT / len(excess))

    def over(shape: float, drop: float) -> float:
        _, likelihood = _best_scale(excess, shape, end)
        return most - likelihood - drop

    low, high = -math.inf, math.inf
    if over(LOWEST, drop) > 0:
        low = float(optimize.brentq(over, LOWEST, best, (drop,)))
    if best < 20 and over(20, drop_above) > 0:
        high = float(optimize.brentq(over, best, 20, (drop_above,)))
    return Interval(best, low, high, len(excess))


def tail_fit(values: ArrayLike, rng: np.random.Generator | None = None, repeats: int = 99) -> float:
    """p of the hypothesis that the tail is a generalised Pareto at all: small where some values stand apart,
    as a rare example's do.

    Kolmogorov's distance to the fitted distribution among those of samples drawn from it and fitted likewise,
    `repeats` of them or until five lie as far. Source: Clauset, Shalizi and Newman 2009 (arXiv 0706.1062),
    section 4.1; Besag and Clifford 1991, Biometrika 78.
    """
    rng = np.random.default_rng(0) if rng is None else rng
    excess, _ = _excess(np.sort(vector(values)))
    shape, scale, _ = _best(excess)
    seen = _distance(excess, shape, scale)
    law = stats.genpareto(shape, scale=scale)
    n = len(excess)
    further = 0
    for repeat in range(repeats):
        drawn = np.sort(law.ppf(rng.uniform(size=n)))
        shape, scale, _ = _best(drawn)
        if _distance(drawn, shape, scale) >= seen:
            further += 1
        if further == ENOUGH:
            return ENOUGH / (1 + repeat)
    return (1 + further) / (1 + repeats)


def _distance(excess: np.ndarray, shape: float, scale: float) -> float:
    """Kolmogorov's, of sorted values."""
    n = len(excess)
    below = -np.expm1(_log_above(excess / scale, shape))
    steps = np.arange(n + 1) / n
    return float(max((steps[1:] - below).max(), (below - steps[:-1]).max()))


def _log_above(y: np.ndarray, shape: float) -> np.ndarray:
    """log P(Y > y) of the generalised Pareto distribution of scale 1."""
    if abs(shape) < 1e-6:
        return -y
    with np.errstate(divide="ignore"):
        return np.log1p(np.maximum(shape * y, -1)) / -shape


def _best(excess: np.ndarray) -> tuple[float, float, float]:
    """Shape, scale and log-likelihood of the generalised Pareto distribution that fits best.

    For θ = shape/scale the best shape is the mean of log(1 + θy), so that one number is looked for. Source:
    Grimshaw 1993, Technometrics 35.
    """
    n, unit = len(excess), float(np.median(excess))
    y = excess / unit

    def shapes(theta: np.ndarray) -> np.ndarray:
        return np.log1p(theta[:, None] * y).mean(axis=1)

    def likelihoods(theta: np.ndarray) -> np.ndarray:
        shape = shapes(theta)
        likelihood = -np.log(shape / theta) - 1 - shape
        return np.where(shape >= LOWEST, likelihood, -math.inf)

    theta = np.r_[(np.geomspace(1e-9, 0.9, 24) - 1) / y.max(), np.geomspace(1e-3, 1e3, 48)]
    at = int(np.argmax(likelihoods(theta)))
    between = theta[max(at - 1, 0)], theta[min(at + 1, len(theta) - 1)]

    def minus(theta: float) -> float:
        nonzero = theta if abs(theta) > 1e-9 else 1e-9
        return min(-float(likelihoods(np.array([nonzero]))[0]), 1e9)

    found = optimize.minimize_scalar(minus, bounds=between, method="bounded", options={"xatol": 1e-7})
    best = found.x if abs(found.x) > 1e-9 else 1e-9
    shape = float(shapes(np.array([best]))[0])
    return shape, shape / best * unit, -n * (found.fun + math.log(unit))


def _best_within(excess: np.ndarray, end: float) -> tuple[float, float, float]:
    """The same of the distribution cut off at `end`: for each shape the best scale, and of these the best."""

    def minus(shape: float) -> float:
        _, likelihood = _best_scale(excess, shape, end)
        return -likelihood

    shapes = np.r_[np.linspace(LOWEST, 1, 12), np.geomspace(1.2, HIGHEST, 6)]
    at = int(np.argmin([minus(shape) for shape in shapes]))
    between = shapes[max(at - 1, 0)], shapes[min(at + 1, len(shapes) - 1)]
    found = optimize.minimize_scalar(minus, bounds=between, method="bounded")
    scale, likelihood = _best_scale(excess, found.x, end)
    return float(found.x), scale, likelihood


def _best_scale(excess: np.ndarray, shape: float, end: float = math.inf) -> tuple[float, float]:
    """The scale that goes best with a shape, and its log-likelihood; that of the distribution cut off at
    `end`.
    """
    n = len(excess)
    unit = float(np.median(excess))  # a mean may be as large as one value makes it

    def minus(log_scale: float) -> float:
        shrink = math.exp(-log_scale) / unit
        above = _log_above(excess * shrink, shape)
        total = n * log_scale - (1 + shape) * float(above.sum())
        if math.isfinite(end):
            below = -math.expm1(float(_log_above(np.array([end * shrink]), shape)[0]))
            total += n * math.log(below)
        return total

    lowest, highest = -10.0, 5.0
    if shape < 0:  # all values must lie within the distribution's end
        edge = math.log(-shape * float(excess.max()) / unit)
        lowest, highest = max(lowest, edge + 1e-9), max(highest, edge + 5)
    found = optimize.minimize_scalar(minus, bounds=(lowest, highest), method="bounded")
    scale = unit * math.exp(found.x)
    likelihood = -float(found.fun) - n * math.log(unit)
    return scale, likelihood


def _excess(x: np.ndarray, without: int = 0) -> tuple[np.ndarray, float]:
    """Of sorted values: the excesses of the tail without the largest, and where it is cut off, ∞ for
    nowhere.
    """
    rest = x[: len(x) - without]
    start, above = start_and_above(rest)
    excess = above - start
    if without == 0:
        return excess, math.inf
    return excess, max(float(x[len(rest)]) - start, float(excess[-1]))


def tail_size(n: int) -> int:
    """How many of n values are the tail."""
    return max(5, int(TAIL * n))


def start_and_above(x: np.ndarray) -> tuple[float, np.ndarray]:
    """Of sorted values: the largest one below the tail, and those of the tail."""
    count = tail_size(len(x))
    above = x[len(x) - count :]
    start = float(x[len(x) - count - 1])
    if above[-1] > start:
        return start, above[above > start]
    return start, above + 1e-12 * abs(start)
