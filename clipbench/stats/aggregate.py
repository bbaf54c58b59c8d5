"""Several tasks on one scale. `Scores` maps each task to its values, one row per seed; greater is better, 0
is none and 1 the best seen.

Tasks count by their number of values where values are pooled (interquartile mean, optimality gap): give each
as many seeds.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike
from scipy import special

from clipbench.stats.interval import Interval, check_level, middle
from clipbench.stats.paired import win_share

Scores = Mapping[str, Any]  # {task: (seeds, …)}
Arrays = Mapping[str, np.ndarray]

REPEATS = 2000


@dataclass(frozen=True)
class Band:
    """An estimate with pointwise interval at each of `at`. (k,) each; `n`: the fewest values behind a task's
    part.
    """

    at: np.ndarray
    estimate: np.ndarray
    low: np.ndarray
    high: np.ndarray
    n: int


def scaled(score: ArrayLike, none: float, best: float) -> np.ndarray:
    """(score − none)/(best − none): no clipping is 0, the best seen is 1, lower-is-better metrics too. NaN
    where they are equal.
    """
    distance = best - none
    if not math.isfinite(distance) or distance == 0:
        return np.full(np.shape(score), np.nan)
    return (np.asarray(score, float) - none) / distance


def interquartile_mean(scores: Scores) -> float:
    """Mean of the pooled values without the ⌊n/4⌋ lowest and highest: rliable's, scipy's trim_mean(…, 0.25).
    NaN counts as −inf.

    Source: Agarwal et al. 2021 (arXiv 2108.13264), section 4.3.
    """
    values = np.sort(_pooled(scores))
    cut = len(values) // 4
    return _mean(values[cut : len(values) - cut])


def median(scores: Scores) -> float:
    """Median over tasks of each task's mean over seeds: rliable's aggregate median. NaN counts as −inf."""
    means = [_mean(_filled(values)) for values in scores.values()]
    return middle(np.sort(means))


def optimality_gap(scores: Scores, target: float = 1.0) -> float:
    """target − mean of min(score, target) over the pooled values: how far from the target, with no credit
    beyond it. NaN counts as −inf.

    Source: Agarwal et al. 2021, section 4.3.
    """
    return target - _mean(np.minimum(_pooled(scores), target))


def stratified_bootstrap(
    scores: Scores,
    statistic: Callable[[Arrays], float],
    rng: np.random.Generator,
    repeats: int = REPEATS,
    level: float = 0.95,
) -> Interval:
    """`statistic(scores)` with the interval of its values over resamples: seeds drawn with replacement within
    each task, rows as a whole.

    So methods that stand side by side in a task's columns stay paired: {task: (seeds, methods)} and a
    statistic of the columns. The percentiles are expanded for few seeds: from n = 3 on 95 % covers some 92 to
    95 % for means (an optimality gap: 90 at n = 3), where plain percentiles cover 83. n is the fewest seeds
    of a task, and with one the interval is infinite. The tasks are fixed: nothing is said on tasks that were
    not run.
    Source: Agarwal et al. 2021, section 4.1; Hesterberg 2014 (arXiv 1411.5279), section 4.
    """

    def as_array(part: Arrays) -> np.ndarray:
        return np.array([statistic(part)])

    estimate, low, high, n = bootstrap(scores, as_array, rng, repeats, level)
    return Interval(float(estimate[0]), float(low[0]), float(high[0]), n)


def bootstrap_probability(
    a: Scores, b: Scores, rng: np.random.Generator, repeats: int = REPEATS, level: float = 0.95
) -> Interval:
    """Mean over tasks of P(A > B) + ½·P(A = B), each over all pairs of seeds; a's and b's seeds are resampled
    together (they are paired).

    Source: Agarwal et al. 2021, section 4.3, "probability of improvement".
    """
    both = {}
    for task in a:
        columns = _filled(a[task]), _filled(b[task])
        both[task] = np.stack(columns, axis=1)

    def statistic(scores: Arrays) -> float:
        shares = []
        for part in scores.values():
            x, y = part[:, 0], part[:, 1]
            shares.append(win_share(x, y))
        return float(np.mean(shares))

    return stratified_bootstrap(both, statistic, rng, repeats, level)


def performance_profile(
    scores: Scores,
    thresholds: ArrayLike,
    rng: np.random.Generator,
    repeats: int = REPEATS,
    level: float = 0.95,
) -> Band:
    """Mean over tasks of the share of runs above each threshold, with a pointwise band of the stratified
    bootstrap. NaN is above none.

    Source: Agarwal et al. 2021, section 4.2; Dolan and Moré 2002.
    """
    at = np.asarray(thresholds, float)

    def shares(part: Arrays) -> np.ndarray:
        found = []
        for values in part.values():
            above = _filled(values)[:, None] > at
            found.append(above.mean(0))
        return np.mean(found, axis=0)

    estimate, low, high, n = bootstrap(scores, shares, rng, repeats, level)
    return Band(at, estimate, low, high, n)


def bootstrap(
    scores: Scores,
    statistic: Callable[[Arrays], np.ndarray],
    rng: np.random.Generator,
    repeats: int,
    level: float,
) -> tuple[np.ndarray, np.ndarray, np.ndarray, int]:
    """(estimate, low, high, n): `stratified_bootstrap` of a statistic with several values. (k,), (k,),
    (k,)
    """
    check_level(level)
    parts = _parts(scores)
    estimate = statistic(parts)
    sizes = [len(part) for part in parts.values()]
    n = min(sizes)
    if n == 1:
        infinite = np.full(estimate.shape, math.inf)
        return estimate, -infinite, infinite, 1
    drawn = []
    for _ in range(repeats):
        resample = {}
        for task, part in parts.items():
            rows = rng.integers(len(part), size=len(part))
            resample[task] = part[rows]
        drawn.append(statistic(resample))
    freedom = sum(sizes) - len(sizes)
    wider = math.sqrt(n / (n - 1)) * special.stdtrit(freedom, (1 - level) / 2)
    tail = float(special.ndtr(wider))
    # The inverted distribution function takes no mean of −inf and a number.
    low, high = np.quantile(drawn, [tail, 1 - tail], axis=0, method="inverted_cdf")
    return estimate, low, high, n


def _parts(scores: Scores) -> dict[str, np.ndarray]:
    """The scores as arrays. ValueError where there is no task, or one without values."""
    parts = {task: np.asarray(values, float) for task, values in scores.items()}
    empty = [task for task, part in parts.items() if part.ndim == 0 or len(part) == 0]
    if empty or not parts:
        shapes = {task: part.shape for task, part in parts.items()}
        raise ValueError(f"Each task needs at least one value, got {shapes}.")
    return parts


def _filled(values: ArrayLike) -> np.ndarray:
    x = np.asarray(values, float)
    return np.where(np.isnan(x), -math.inf, x)


def _pooled(scores: Scores) -> np.ndarray:
    filled = [_filled(values).ravel() for values in scores.values()]
    return np.concatenate(filled)


def _mean(values: np.ndarray) -> float:
    if np.isfinite(values).all():
        return float(values.mean())
    if (values == -math.inf).any():
        return -math.inf
    return math.inf
