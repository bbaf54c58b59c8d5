"""Curves to numbers: when a target was reached, and what a budget of trials brings."""

from __future__ import annotations

import math
from collections.abc import Iterable

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import gammaln

from clipbench.stats.interval import vector


def time_to_target(
    curves: Iterable[tuple[ArrayLike, ArrayLike]], target: float, higher_is_better: bool = True
) -> np.ndarray:
    """The first x, in steps or in seconds, at which each curve (x, values) is at the target or beyond; inf
    where it never is. (curves,)

    A run that missed it or diverged, before its first evaluation perhaps, is inf, never left out; NaN reaches
    nothing. Values between evaluations
    are not made up. Take targets from other runs than those judged. Source: Dahl et al. 2023 (AlgoPerf, arXiv
    2306.07179), section 4.
    """
    sign = 1.0 if higher_is_better else -1.0
    times = []
    for at, values in curves:
        x, y = np.asarray(at, float), np.asarray(values, float)
        reached = x[sign * y >= sign * target]
        first = reached.min(initial=math.inf)
        times.append(float(first))
    return np.array(times)


def expected_best(trials: ArrayLike, higher_is_better: bool = True) -> np.ndarray:
    """E[best of k of these n trials drawn without replacement], k = 1 … n: Σ_i v_(i)·C(i−1, k−1)/C(n, k).
    (n,)

    It shows a budget without the luck of the order. A trial that diverged counts as the worst value seen; NaN
    where all did.
    Source: Dodge et al. 2019 (arXiv 1909.03004), with the unbiased form of Tang et al. 2020 (arXiv
    2004.14355).
    """
    trials = vector(trials)
    if not higher_is_better:
        return -expected_best(-trials)
    n = len(trials)
    finite = np.isfinite(trials)
    if not finite.any():
        return np.full(n, math.nan)
    worst = trials[finite].min()
    v = np.sort(np.where(finite, trials, worst))
    i = np.arange(1, n + 1)[:, None]
    k = np.arange(1, n + 1)[None, :]
    with np.errstate(invalid="ignore"):
        weights = np.exp(_log_choose(i - 1, k - 1) - _log_choose(n, k))
    return v @ np.where(i >= k, weights, 0.0)


def _log_choose(n: ArrayLike, k: ArrayLike) -> np.ndarray:
    n = np.asarray(n, float)
    k = np.asarray(k, float)
    rest = np.maximum(n - k, 0)
    return gammaln(n + 1) - gammaln(k + 1) - gammaln(rest + 1)
