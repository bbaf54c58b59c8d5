"""Is a sample of positive values heavy-tailed? What the figure of `clipbench tails` draws and says."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike
from scipy import optimize, special, stats

from clipbench.stats.interval import Interval, check_level, share_interval, vector

TAIL = 0.1  # the share of the sample that is its tail
OUTLYING = 3.488e-3  # P(X > Q3 + 1.5·IQR) of a normal
LEAST = 100  # values: a tenth of fewer is no tail
LOWEST = -0.99  # of ξ: below −1 the likelihood has no maximum


@dataclass(frozen=True)
class Tail:
    """A sample, its summary and its fits. `rho_chi`: the ρ_mR that the fitted χ has."""

    values: np.ndarray  # sorted
    skewness: Interval
    rho: Interval
    rho_chi: float
    index: Interval
    fit: float  # p of `tail_fit`
    # {name: frozen distribution of scipy.stats}; exponential and pareto are those of the values above `start`
    fits: dict[str, Any]
    start: float

    @property
    def verdict(self) -> str:
        """ "irregular": no tail law fits, so ξ says nothing. "heavy": heavier than exponential, ξ > 0.
        "outliers": that is not shown, but more lies far out than χ has. "light": neither.
        """
        if self.fit <= 0.05:
            return "irregular"
        if self.index.low > 0:
            return "heavy"
        return "outliers" if self.rho.low > max(1.0, self.rho_chi) else "light"

    def ccdf(self, name: str, x: np.ndarray) -> np.ndarray:
        """P(X ≥ x) under a fit; NaN where it says nothing, below the start of the tail."""
        if name not in ("exponential", "pareto"):
            return self.fits[name].sf(x)
        share = np.mean(self.values >= self.start)
        return np.where(x >= self.start, share * self.fits[name].sf(x), np.nan)


def tail(values: ArrayLike, rng: np.random.Generator | None = None, level: float = 0.95) -> Tail:
    """The whole analysis of at least 100 positive values, not all equal; ValueError for others. `rng`: of the
    bootstrap (seed 0).
    """
    x = np.sort(vector(values))
    if len(x) < LEAST or not (np.isfinite(x).all() and x[0] > 0 and x[-1] > x[0]):
        raise ValueError(
            f"A tail takes at least {LEAST} positive finite numbers that are not all equal, got {len(x)}."
        )
    fits = fitted(x)
    quartiles = fits["chi"].ppf([0.25, 0.75])
    return Tail(
        values=x,
        skewness=skewness(x, rng, level),
        rho=rho_mr(x, level),
        rho_chi=float(fits["chi"].sf(_fence(*quartiles)) / OUTLYING),
        index=tail_index(x, level),
        fit=tail_fit(x, rng),
        fits=fits,
        start=_start(x)[0],
    )


def skewness(
    values: ArrayLike, rng: np.random.Generator | None = None, level: float = 0.95, repeats: int = 2000
) -> Interval:
    """mean((x − x̄)³)/s³ with the percentile bootstrap's interval: rough, and for heavy tails too low. χ has
    some too.
    """
    x = vector(values)
    check_level(level)
    rng = np.random.default_rng(0) if rng is None else rng
    drawn = [_skewness(x[rng.integers(len(x), size=len(x))]) for _ in range(repeats)]
    low, high = np.quantile(drawn, [(1 - level) / 2, (1 + level) / 2])
    return Interval(_skewness(x), float(low), float(high), len(x))


def _skewness(x: np.ndarray) -> float:
    centred = x - x.mean()
    square = centred * centred
    return float((square * centred).mean() / square.mean() ** 1.5)


def rho_mr(values: ArrayLike, level: float = 0.95) -> Interval:
    """P(X > Q3 + 1.5·IQR)/3.488·10⁻³: how many times as often as a normal a value lies far out. Clopper and
    Pearson's interval.

    The fence is taken as known. Source: Jordanova and Petkova 2017; Gorbunov et al. 2021 (arXiv 2106.05958),
    section 4.
    """
    x = vector(values)
    fence = _fence(*np.quantile(x, [0.25, 0.75]))
    share = share_interval(int(np.sum(x > fence)), len(x), level)
    return Interval(share.estimate / OUTLYING, share.low / OUTLYING, share.high / OUTLYING, len(x))


def _fence(first: float, third: float) -> float:
    return third + 1.5 * (third - first)


def hill(values: ArrayLike, level: float = 0.95) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """(k, α, low, high) for the k largest of n values, k = 5 … n/2: 1/α = mean of log X_(n+1−i) − log
    X_(n−k), i = 1 … k.

    For a power tail P(X > x) ~ x^−α it settles on a level; for a lighter tail it does not, and falls with k
    from values that are large. The band is exact for Pareto: 2kα/α̂ is χ² with 2k degrees of freedom. Source:
    Hill 1975, Ann. Statist. 3.
    """
    logs = np.log(np.sort(vector(values))[::-1])
    k = np.arange(5, max(6, len(logs) // 2 + 1))
    k = k[k < len(logs)]
    mean_excess = np.cumsum(logs)[k - 1] / k - logs[k]
    with np.errstate(divide="ignore"):  # values that are equal: α is infinite
        alpha = 1 / mean_excess
    low = special.chdtri(2 * k, (1 + level) / 2) / (2 * k)
    high = special.chdtri(2 * k, (1 - level) / 2) / (2 * k)
    return k, alpha, alpha * low, alpha * high


def fitted(values: ArrayLike) -> dict[str, Any]:
    """Maximum-likelihood fits: normal, χ and lognormal to all values, exponential and Pareto to the largest
    tenth, from its start on.

    χ is σ·√(χ² with ν degrees of freedom), the norm of Gaussian noise in ν directions of equal size; ν need
    not be whole.
    """
    x = np.sort(vector(values))
    start, above = _start(x)
    shape, _, scale = stats.gamma.fit(x**2, floc=0)
    return {
        "normal": stats.norm(x.mean(), x.std()),
        "chi": stats.chi(2 * shape, scale=math.sqrt(scale / 2)),
        "lognormal": stats.lognorm(np.log(x).std(), scale=math.exp(np.log(x).mean())),
        "exponential": stats.expon(start, float(np.mean(above - start))),
        "pareto": stats.pareto(1 / float(np.mean(np.log(above / start))), scale=start),
    }


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
        return most - _best_scale(excess, shape)[1] - drop

    low = float(optimize.brentq(over, LOWEST, best)) if over(LOWEST) > 0 else -math.inf
    high = float(optimize.brentq(over, best, 20)) if over(20) > 0 else math.inf
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
    further = 0
    for _ in range(repeats):
        drawn = np.sort(law.ppf(rng.uniform(size=len(excess))))
        shape, scale, _ = _best(drawn)
        further += _distance(drawn, shape, scale) >= seen
    return (1 + further) / (1 + repeats)


def _distance(excess: np.ndarray, shape: float, scale: float) -> float:
    law = stats.genpareto(shape, scale=scale)
    return float(stats.ks_1samp(excess, law.cdf, mode="asymp").statistic)


def _best(excess: np.ndarray) -> tuple[float, float, float]:
    """Shape, scale and log-likelihood of the generalised Pareto distribution that fits best."""

    def minus(shape: float) -> float:
        return -_best_scale(excess, shape)[1]

    found = optimize.minimize_scalar(minus, bounds=(LOWEST, 5), method="bounded")
    scale, _ = _best_scale(excess, found.x)
    return float(found.x), scale, -float(found.fun)


def _best_scale(excess: np.ndarray, shape: float) -> tuple[float, float]:
    """The scale that goes best with a shape, and its log-likelihood."""
    n, unit = len(excess), float(excess.mean())

    def minus(log_scale: float) -> float:
        y = excess * (math.exp(-log_scale) / unit)
        if abs(shape) < 1e-6:
            return n * log_scale + float(y.sum())
        logs = float(np.log1p(shape * y).sum())
        return n * log_scale + (1 + 1 / shape) * logs

    lowest = -10.0
    if shape < 0:  # all values must lie within the distribution's end
        lowest = math.log(-shape * float(excess.max()) / unit) + 1e-9
    found = optimize.minimize_scalar(minus, bounds=(max(lowest, -10.0), 5), method="bounded")
    return unit * math.exp(found.x), -float(found.fun) - n * math.log(unit)


def _excess(x: np.ndarray) -> np.ndarray:
    start, above = _start(x)
    return above - start


def _start(x: np.ndarray) -> tuple[float, np.ndarray]:
    """Of sorted values: the largest one below the top tenth, and those above it."""
    above = x[len(x) - max(5, int(TAIL * len(x))) :]
    start = float(x[len(x) - len(above) - 1])
    if above[-1] > start:
        return start, above[above > start]
    return start, above + 1e-12 * abs(start)
