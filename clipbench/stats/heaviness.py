"""Heavy, not heavy, or not to be told at this n: the rule, and how often it errs."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike

from clipbench.stats.interval import Interval, vector
from clipbench.stats.pareto import tail_fit, tail_index, tail_size

Outcome = Literal["heavy", "not heavy", "cannot tell"]
FITS = 0.01  # p of `tail_fit`, above which a tail law is not rejected


@dataclass(frozen=True)
class Heaviness:
    """Whether the largest quarter of a sample falls off more slowly than exponentially.

    `index`: ξ of all values. `kept`: ξ `without` the largest 1 %, at least three, whatever they are: a few
    outlying values alone make no tail.
    """

    values: np.ndarray  # sorted
    index: Interval
    without: int
    level: float

    @property
    def outcome(self) -> Outcome:
        """ "heavy": both intervals of ξ lie above 0, and a tail law fits. "not heavy": that of all values
        lies below 0.

        Of clean exponential noise, the border, each is said of about 2.5 % of samples at most; of lighter
        noise "heavy" is rarer. The rates at several n, with outliers too: `errors`.
        """
        if self.tied:
            return "cannot tell"
        if self.index.high < 0:
            return "not heavy"
        if self.slow and self.kept.low > 0 and self.fit > FITS:
            return "heavy"
        return "cannot tell"

    @property
    def tied(self) -> bool:
        """Most values of the tail equal its start: there is nothing to fit."""
        return self.index.n < tail_size(len(self.values)) / 2

    @property
    def slow(self) -> bool:
        """All values taken together fall off more slowly than exponentially: it takes one outlier only."""
        return self.index.low > 0

    @cached_property
    def kept(self) -> Interval:
        """See above."""
        return tail_index(self.values, self.level, self.without)

    @cached_property
    def fit(self) -> float:
        """p of `tail_fit`."""
        return tail_fit(self.values)


def heaviness(values: ArrayLike, level: float = 0.95) -> Heaviness:
    """The rule on at least 100 values that are not all equal; `level` of both intervals."""
    x = np.sort(vector(values))
    without = max(3, math.ceil(len(x) / 100))
    return Heaviness(x, tail_index(x, level), without, level)


@dataclass(frozen=True)
class Errors:
    """Of samples of `n` values, per cent. `wrong`: "heavy" of Gaussian, χ and exponential noise, the worst of
    the three; `wrong_outliers`: of these with one outlier or 1 % of them; `missed`: not "heavy" of noise that
    is.
    """

    n: int
    wrong: float
    wrong_outliers: float
    missed: dict[str, float]


# Measured: scripts/calibrate_tails.py, results/reference/tails_calibration.parquet.
ERRORS: tuple[Errors, ...] = (
    Errors(
        n=100,
        wrong=0.0,
        wrong_outliers=1.0,
        missed={
            "lognormal, σ = 1": 99.0,
            "t with 5": 100.0,
            "t with 3": 99.5,
            "Pareto, α = 3": 98.5,
            "Pareto, α = 1.5": 89.0,
        },
    ),
    Errors(
        n=240,
        wrong=0.0,
        wrong_outliers=3.5,
        missed={
            "lognormal, σ = 1": 91.5,
            "t with 5": 99.0,
            "t with 3": 93.0,
            "Pareto, α = 3": 86.0,
            "Pareto, α = 1.5": 39.0,
        },
    ),
    Errors(
        n=1000,
        wrong=0.5,
        wrong_outliers=5.0,
        missed={
            "lognormal, σ = 1": 50.0,
            "t with 5": 98.5,
            "t with 3": 82.0,
            "Pareto, α = 3": 37.0,
            "Pareto, α = 1.5": 2.5,
        },
    ),
    Errors(
        n=5000,
        wrong=0.5,
        wrong_outliers=2.5,
        missed={
            "lognormal, σ = 1": 2.5,
            "t with 5": 97.0,
            "t with 3": 28.5,
            "Pareto, α = 3": 1.0,
            "Pareto, α = 1.5": 1.5,
        },
    ),
)


def errors(n: int) -> Errors:
    """Those at the largest measured n that a sample has, at least 100."""
    found = [row for row in ERRORS if row.n <= n]
    return found[-1] if found else ERRORS[0]
