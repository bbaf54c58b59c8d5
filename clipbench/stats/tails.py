"""Is a sample of positive values heavy-tailed? What the figure of `clipbench tails` draws and says."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike
from scipy import special, stats

from clipbench.stats.heaviness import Heaviness, heaviness
from clipbench.stats.interval import Interval, check_level, share_interval, vector
from clipbench.stats.pareto import start_and_above

OUTLYING = 3.488e-3  # P(X > Q3 + 1.5·IQR) of a normal
LEAST = 100  # values: a quarter of fewer is no tail


@dataclass(frozen=True)
class Tail:
    """A sample, its summary and its fits. `rho_chi`: the ρ_mR that the fitted χ has."""

    values: np.ndarray  # sorted
    skewness: Interval
    rho: Interval
    rho_chi: float
    heaviness: Heaviness
    # {name: frozen distribution of scipy.stats}; exponential and pareto are those of the values above `start`
    fits: dict[str, Any]
    start: float

    def ccdf(self, name: str, x: np.ndarray) -> np.ndarray:
        """P(X ≥ x) under a fit; NaN where it says nothing, below the start of the tail."""
        above = self.fits[name].sf(x)
        if name not in ("exponential", "pareto"):
            return above
        share = np.mean(self.values >= self.start)
        return np.where(x >= self.start, share * above, np.nan)


def tail(values: ArrayLike, rng: np.random.Generator | None = None, level: float = 0.95) -> Tail:
    """The whole analysis of at least 100 positive values, not all equal; ValueError for others. `rng`: of the
    bootstrap (seed 0).
    """
    x = np.sort(vector(values))
    positive = np.isfinite(x).all() and x[0] > 0
    if len(x) < LEAST or not positive or x[0] == x[-1]:
        raise ValueError(
            f"A tail takes at least {LEAST} positive finite numbers that are not all equal, got {len(x)}."
        )
    fits = fitted(x)
    quartiles = fits["chi"].ppf([0.25, 0.75])
    start, _ = start_and_above(x)
    return Tail(
        values=x,
        skewness=skewness(x, rng, level),
        rho=rho_mr(x, level),
        rho_chi=float(fits["chi"].sf(_fence(*quartiles)) / OUTLYING),
        heaviness=heaviness(x, level),
        fits=fits,
        start=start,
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
    n = len(x)
    drawn = []
    for _ in range(repeats):
        resample = x[rng.integers(n, size=n)]
        drawn.append(_skewness(resample))
    low, high = np.quantile(drawn, [(1 - level) / 2, (1 + level) / 2])
    return Interval(_skewness(x), float(low), float(high), n)


def _skewness(x: np.ndarray) -> float:
    centred = x - x.mean()
    square = centred * centred
    if not square.any():  # a resample of equal values
        return 0.0
    return float((square * centred).mean() / square.mean() ** 1.5)


def rho_mr(values: ArrayLike, level: float = 0.95) -> Interval:
    """P(X > Q3 + 1.5·IQR)/3.488·10⁻³: how many times as often as a normal a value lies far out. Clopper and
    Pearson's interval.

    The fence is taken as known. Source: Jordanova and Petkova 2017; Gorbunov et al. 2021 (arXiv 2106.05958),
    section 4.
    """
    x = vector(values)
    quartiles = np.quantile(x, [0.25, 0.75])
    outlying = int(np.sum(x > _fence(*quartiles)))
    share = share_interval(outlying, len(x), level)
    return Interval(
        estimate=share.estimate / OUTLYING,
        low=share.low / OUTLYING,
        high=share.high / OUTLYING,
        n=len(x),
    )


def _fence(first: float, third: float) -> float:
    return third + 1.5 * (third - first)


def hill(values: ArrayLike, level: float = 0.95) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """(k, α, low, high) for the k largest of n values, k = 5 … n/2: 1/α = mean of log X_(n+1−i) − log
    X_(n−k), i = 1 … k.

    For a power tail P(X > x) ~ x^−α it settles on a level; for a lighter tail it does not, and falls with k
    from values that are large. The band is exact for Pareto: 2kα/α̂ is χ² with 2k degrees of freedom. Source:
    Hill 1975, Ann. Statist. 3.
    """
    x = np.sort(vector(values))
    n = len(x)
    logs = np.log(x[::-1])
    k = np.arange(5, max(6, n // 2 + 1))
    k = k[k < n]
    mean_excess = np.cumsum(logs)[k - 1] / k - logs[k]
    with np.errstate(divide="ignore"):  # values that are equal: α is infinite
        alpha = 1 / mean_excess
    low = special.chdtri(2 * k, (1 + level) / 2) / (2 * k)
    high = special.chdtri(2 * k, (1 - level) / 2) / (2 * k)
    return k, alpha, alpha * low, alpha * high


def fitted(values: ArrayLike) -> dict[str, Any]:
    """Maximum-likelihood fits: normal, χ and lognormal to all values, exponential and Pareto to the largest
    quarter, from its start on.

    χ is σ·√(χ² with ν degrees of freedom), the norm of Gaussian noise in ν directions of equal size; ν need
    not be whole.
    """
    x = np.sort(vector(values))
    start, above = start_and_above(x)
    shape, _, scale = stats.gamma.fit(x**2, floc=0)
    logs = np.log(x)
    mean_excess = float(np.mean(above - start))
    mean_log_excess = float(np.mean(np.log(above / start)))
    return {
        "normal": stats.norm(x.mean(), x.std()),
        "chi": stats.chi(2 * shape, scale=math.sqrt(scale / 2)),
        "lognormal": stats.lognorm(logs.std(), scale=math.exp(logs.mean())),
        "exponential": stats.expon(start, mean_excess),
        "pareto": stats.pareto(1 / mean_log_excess, scale=start),
    }
