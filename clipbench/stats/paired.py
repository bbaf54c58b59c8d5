"""Two methods at the same seeds, and a family of methods against one. Greater is better: negate a metric
where lower is.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy import optimize, special

from clipbench.stats.interval import SAME, Interval, check_level, mean_interval, standard_error, vector

EXACT = 16  # differences whose signs are all tried: 2^15 sums
REPEATS = 20_000  # random flips beyond that


@dataclass(frozen=True)
class Comparison:
    """A method against the reference. `adjusted` is `p` of the paired t-test after Holm over the whole
    family; `sign_p` is not adjusted.
    """

    difference: Interval
    p: float
    adjusted: float
    sign_p: float
    improvement: Interval
    correlation: Interval
    level: float = 0.95

    @property
    def different(self) -> bool:
        """The verdict. At most 1 − level of families in which nothing differs have one that is called so."""
        return self.adjusted <= 1 - self.level + 1e-12


def compare(
    reference: ArrayLike, methods: Mapping[str, ArrayLike], level: float = 0.95
) -> dict[str, Comparison]:
    """Each method − the reference; the i-th values of all are from the same seed. The family is `methods`: to
    be named before it is run.

    Source: paired t-tests under Holm 1979; calibrated by scripts/calibrate.py.
    """
    p_values = [paired_t(values, reference) for values in methods.values()]
    adjusted = holm(p_values)
    found = {}
    for i, (name, values) in enumerate(methods.items()):
        ours, theirs = _pair(values, reference)
        found[name] = Comparison(
            difference=paired_interval(values, reference, level),
            p=p_values[i],
            adjusted=float(adjusted[i]),
            sign_p=sign_flip(ours - theirs),
            improvement=probability_of_improvement(values, reference, level),
            correlation=seed_correlation(values, reference, level),
            level=level,
        )
    return found


def paired_interval(a: ArrayLike, b: ArrayLike, level: float = 0.95) -> Interval:
    """The t-interval of a − b, a[i] and b[i] from the same seed. n is the number of pairs."""
    x, y = _pair(a, b)
    check_level(level)
    return mean_interval(x - y, _size(x, y), level)


def paired_t(a: ArrayLike, b: ArrayLike) -> float:
    """Two-sided p of the paired t-test: t = mean(a − b)/(s/√n), n − 1 degrees of freedom. 1 where there is no
    t.
    """
    x, y = _pair(a, b)
    difference = x - y
    if not np.isfinite(difference).all():
        return 1.0
    error = standard_error(difference, _size(x, y))
    if error == 0:
        return 1.0
    t = difference.mean() / error
    return float(2 * special.stdtr(len(x) - 1, -abs(t)))


def sign_flip(differences: ArrayLike, rng: np.random.Generator | None = None) -> float:
    """Two-sided p: the share of all 2ⁿ choices of signs whose |sum| is at least the one seen. Exact for
    differences symmetric about 0.

    All choices up to n = 16; beyond, 20 000 drawn from `rng` (seed 0), the one seen among them. 1 where a
    difference is not finite.
    Source: Fisher, The Design of Experiments, 1935, section 21; Phipson and Smyth 2010 for the + 1.
    """
    x = vector(differences)
    if not np.isfinite(x).all():
        return 1.0
    # Sums that are equal but for rounding are equal.
    seen = abs(x.sum()) * (1 - 1e-9) - SAME * np.abs(x).max()
    n = len(x)
    if n <= EXACT:  # the last sign may stay: flipping all changes no |sum|
        bits = np.arange(2 ** (n - 1))[:, None] >> np.arange(n) & 1
        sums = (1 - 2 * bits) @ x
        return float(np.mean(np.abs(sums) >= seen))
    rng = np.random.default_rng(0) if rng is None else rng
    signs = rng.choice([-1.0, 1.0], size=(REPEATS, n))
    as_far = np.sum(np.abs(signs @ x) >= seen)
    return float((1 + as_far) / (1 + REPEATS))


def sign_flip_floor(n: int) -> float:
    """2/2ⁿ: the least p that n differences can have. 0.25 for n = 3, 0.0625 for n = 5, so below 0.05 from n =
    6 on.
    """
    return 2.0 ** (1 - n)


def holm(p_values: Sequence[float] | np.ndarray) -> np.ndarray:
    """Adjusted p, in the order given: with p_(1) ≤ … ≤ p_(m), max over j ≤ i of (m − j + 1)·p_(j), at most 1.
    NaN counts as 1. (m,)

    The chance of any false call in the family is at most α when p ≤ α is called. Source: Holm 1979, Scand. J.
    Statist. 6.
    """
    p = np.asarray(p_values, float)
    if ((p < 0) | (p > 1)).any():
        raise ValueError(f"p-values lie between 0 and 1, got {p.tolist()}.")
    p = np.where(np.isnan(p), 1.0, p)
    order = np.argsort(p, kind="stable")
    factors = np.arange(len(p), 0, -1)
    increasing = np.maximum.accumulate(p[order] * factors)
    adjusted = np.empty_like(p)
    adjusted[order] = np.minimum(1, increasing)
    return adjusted


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
    largest = np.abs([x, y]).max()
    return float(largest)
