"""The instrument tested on nothing, and on something planted: does each interval cover, and the verdict err, as often as it says?

python scripts/calibrate.py [STUDIES]      a Markdown table; 20 000 studies take some minutes on one core

Studies are simulated: values of methods at paired seeds, drawn from distributions whose truth is known. What is called are the functions
that the report calls.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from scipy import special
from scipy import stats as distributions

from clipbench import stats
from clipbench.stats import Interval

SEEDS = (3, 5, 10)
LEVEL = 0.95
Rng = np.random.Generator


@dataclass(frozen=True)
class Line:
    """`hits` of `studies` did what the line names; `stated`: the share that is claimed or follows from theory, NaN for none."""

    what: str
    n: int
    stated: float
    hits: int
    studies: int

    @property
    def error(self) -> float:
        """Half the 95 % Monte-Carlo interval of the share found."""
        share = min(max(self.hits / self.studies, 1 / self.studies), 1 - 1 / self.studies)
        return 1.96 * math.sqrt(share * (1 - share) / self.studies)

    def __str__(self) -> str:
        stated = "–" if math.isnan(self.stated) else f"{100 * self.stated:.1f} %"
        return f"| {self.what} | {self.n} | {stated} | {100 * self.hits / self.studies:.1f} ± {100 * self.error:.1f} % |"


def normal(rng: Rng, n: int) -> np.ndarray:
    return rng.normal(size=n)


def skewed(rng: Rng, n: int) -> np.ndarray:
    """Lognormal with σ = 0.8: skewness 3.7; mean 0."""
    return np.exp(rng.normal(scale=0.8, size=n)) - math.exp(0.32)


def coverage(interval: Callable[[], Interval], truth: float, studies: int) -> int:
    """How many of `studies` fresh intervals hold the truth."""
    return sum(truth in interval() for _ in range(studies))


def pair(rng: Rng, n: int, correlation: float = 0.8, draw: Callable[[Rng, int], np.ndarray] = normal) -> tuple[np.ndarray, np.ndarray]:
    """Two methods at n seeds, correlated through what the seeds share, equal in mean. (n,), (n,)"""
    shared = math.sqrt(correlation) * draw(rng, n)
    return shared + math.sqrt(1 - correlation) * draw(rng, n), shared + math.sqrt(1 - correlation) * draw(rng, n)


def unlike_pair(rng: Rng, n: int) -> tuple[np.ndarray, np.ndarray]:
    """One side skewed, the other not, equal in mean: their difference is skewed, where that of two alike is symmetric."""
    return skewed(rng, n), 0.1 * normal(rng, n)


def family(rng: Rng, n: int, methods: int, shifts: float = 0.0, correlation: float = 0.5) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """(none, methods) at paired seeds, all of one distribution of unit variance but the first, which is better by `shifts`."""
    shared = math.sqrt(correlation) * rng.normal(size=n)
    values = shared + math.sqrt(1 - correlation) * rng.normal(size=(methods + 1, n))
    values[1] += shifts
    return values[0], {f"method {i}": values[i] for i in range(1, methods + 1)}


def accuracies(rng: Rng, n: int, methods: int, examples: int = 500, accuracy: float = 0.98) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """The same, where the metric is the share right of few examples: ties, and spreads that are zero by chance."""
    values = rng.binomial(examples, accuracy, size=(methods + 1, n)) / examples
    return values[0], {f"method {i}": values[i] for i in range(1, methods + 1)}


def false_calls(draw: Callable[[], tuple[np.ndarray, dict[str, np.ndarray]]], studies: int) -> int:
    """Studies in which nothing differs and something is called different."""
    return sum(any(each.different for each in stats.compare(*draw()).values()) for _ in range(studies))


def found(rng: Rng, n: int, methods: int, effect: float, studies: int) -> int:
    """Studies in which the one method that is better is called so. `effect`: in standard deviations of the paired difference (here 1)."""
    hits = 0
    for _ in range(studies):
        first = stats.compare(*family(rng, n, methods, effect))["method 1"]
        hits += first.different and first.difference.estimate > 0
    return hits


def power(n: int, effect: float, alpha: float = 1 - LEVEL) -> float:
    """P(t > t_{1−α/2, n−1}), t noncentral with δ = effect·√n: of a two-sided paired t-test that finds it on the right side."""
    return float(distributions.nct.sf(special.stdtrit(n - 1, 1 - alpha / 2), n - 1, effect * math.sqrt(n)))


def effect_found_with(n: int, chance: float) -> float:
    """The effect that has this power at n."""
    low, high = 0.0, 50.0
    for _ in range(60):
        low, high = ((low + high) / 2, high) if power(n, (low + high) / 2) < chance else (low, (low + high) / 2)
    return low


def tasks_of(rng: Rng, n: int, draw: Callable[[Rng, int], np.ndarray], tasks: int = 4) -> dict[str, np.ndarray]:
    """Scores of four tasks that differ in mean and in spread; the mean over tasks of their means is 0.75."""
    return {str(i): 0.5 * (i % 2) + 0.5 + 0.1 * (1 + i) * draw(rng, n) for i in range(tasks)}


def mean_of_means(scores: stats.aggregate.Arrays) -> float:
    return float(np.mean([values.mean() for values in scores.values()]))


def lines(studies: int, rng: Rng) -> Iterator[Line]:
    few = max(1, studies // 10)  # where a study takes long
    for n in SEEDS:
        hits = coverage(lambda: stats.t_interval(normal(rng, n)), 0, studies)  # noqa: B023 (called at once)
        yield Line("t-interval covers, normal values", n, LEVEL, hits, studies)
    for n in SEEDS:
        hits = coverage(lambda: stats.t_interval(skewed(rng, n)), 0, studies)  # noqa: B023
        yield Line("t-interval covers, lognormal values (skewness 3.7)", n, LEVEL, hits, studies)
    for what, draw in (
        ("correlated normal pairs (ρ = 0.8)", pair),
        ("correlated lognormal pairs", lambda rng, n: pair(rng, n, draw=skewed)),
        ("lognormal against normal", unlike_pair),
    ):
        for n in SEEDS:
            hits = coverage(lambda: stats.paired_interval(*draw(rng, n)), 0, studies)  # noqa: B023
            yield Line(f"paired t-interval covers, {what}", n, LEVEL, hits, studies)
    for n in SEEDS:
        hits = coverage(lambda: stats.probability_of_improvement(*pair(rng, n, 0.0)), 0.5, studies)  # noqa: B023
        yield Line("interval of the probability of improvement covers ½, independent seeds", n, LEVEL, hits, studies)
    for n in SEEDS:
        hits = coverage(lambda: stats.probability_of_improvement(*pair(rng, n)), 0.5, studies)  # noqa: B023
        yield Line("… seeds correlated by 0.8", n, LEVEL, hits, studies)
    for n in SEEDS:
        hits = coverage(lambda: stats.stratified_bootstrap(tasks_of(rng, n, normal), mean_of_means, rng), 0.75, few)  # noqa: B023
        yield Line("stratified bootstrap covers, mean of 4 tasks of unequal spread", n, LEVEL, hits, few)
    for methods in (1, 4, 8):
        for n in SEEDS:
            hits = false_calls(lambda: family(rng, n, methods), studies // methods)  # noqa: B023
            yield Line(f"a difference is called where none is, {methods} against none", n, 1 - LEVEL, hits, studies // methods)
    for n in SEEDS:
        hits = false_calls(lambda: accuracies(rng, n, 4), studies // 4)  # noqa: B023
        yield Line("… 4 against none, accuracies near 0.98 on 500 examples", n, 1 - LEVEL, hits, studies // 4)
    for chance in (0.5, 0.8):
        for n in SEEDS:
            effect = effect_found_with(n, chance)
            yield Line(f"a difference of {effect:.2f} s is found", n, power(n, effect), found(rng, n, 1, effect, studies), studies)
    for n in SEEDS:
        effect = effect_found_with(n, 0.8)
        bonferroni = power(n, effect, (1 - LEVEL) / 4)
        yield Line(f"… {effect:.2f} s, one of 4 (Bonferroni alone: {bonferroni:.3f})", n, math.nan, found(rng, n, 4, effect, few), few)


if __name__ == "__main__":
    studies = int(sys.argv[1]) if len(sys.argv) > 1 else 20_000
    print("| what | n | stated | found |\n|---|---|---|---|")
    for line in lines(studies, np.random.default_rng(0)):
        print(line, flush=True)
