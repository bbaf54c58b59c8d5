"""The instrument tested on nothing, and on something planted: does each interval cover, and the verdict err,
as often as it says?

python scripts/calibrate.py [STUDIES]      a table, and results/reference/calibration.parquet and .png

Studies are simulated: values of methods at paired seeds, drawn from distributions whose truth is known. What
is called are the functions that the report calls; differences are judged by its verdict, on rankings made up
of these values. Verdicts take a fifth of STUDIES.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from scipy import optimize, special
from scipy import stats as distributions

from clipbench import stats
from clipbench.analysis.across import REPEATS
from clipbench.analysis.comparison import Method, Ranking
from clipbench.analysis.groups import Configuration, Group
from clipbench.analysis.settings import RESOLVED
from clipbench.analysis.verdict import judge
from clipbench.plot import style
from clipbench.plot.looks import HUES, OTHER_HUES
from clipbench.stats import Interval
from clipbench.stats.aggregate import Arrays, bootstrap

REFERENCE = Path(__file__).parents[1] / "results" / "reference"
SEEDS = (3, 5, 10)
LEVEL = 0.95
MEANS, SPREADS = (
    np.array([0.5, 1.0, 0.5, 1.0]),
    np.array([0.1, 0.2, 0.3, 0.4]),
)  # of the scores of four tasks, scaled
Rng = np.random.Generator
Family = tuple[np.ndarray, dict[str, np.ndarray]]
Draw = Callable[[Rng, int], np.ndarray]
DrawPair = Callable[[Rng, int], tuple[np.ndarray, np.ndarray]]


@dataclass(frozen=True)
class Line:
    """`hits` of `studies` did what the line names; `stated`: the share that is claimed or follows from
    theory, NaN for none.
    """

    kind: str  # covers, false or found
    what: str
    n: int
    stated: float
    hits: int
    studies: int

    @property
    def share(self) -> float:
        return self.hits / self.studies

    @property
    def error(self) -> float:
        """Half the 95 % Monte-Carlo interval of the share found."""
        share = min(max(self.share, 1 / self.studies), 1 - 1 / self.studies)
        return 1.96 * math.sqrt(share * (1 - share) / self.studies)

    def __str__(self) -> str:
        stated = "–" if math.isnan(self.stated) else f"{100 * self.stated:.1f} %"
        return f"| {self.what} | {self.n} | {stated} | {100 * self.share:.1f} ± {100 * self.error:.1f} % |"


def normal(rng: Rng, n: int) -> np.ndarray:
    return rng.normal(size=n)


def skewed(rng: Rng, n: int) -> np.ndarray:
    """Lognormal with σ = 0.8: skewness 3.7; mean 0."""
    return np.exp(rng.normal(scale=0.8, size=n)) - math.exp(0.32)


def coverage(interval: Callable[[], Interval], truth: float, studies: int) -> int:
    """How many of `studies` fresh intervals hold the truth."""
    return sum(truth in interval() for _ in range(studies))


def pair(
    rng: Rng, n: int, correlation: float = 0.8, draw: Callable[[Rng, int], np.ndarray] = normal
) -> tuple[np.ndarray, np.ndarray]:
    """Two methods at n seeds, correlated through what the seeds share, equal in mean. (n,), (n,)"""
    shared, own = math.sqrt(correlation) * draw(rng, n), math.sqrt(1 - correlation)
    return shared + own * draw(rng, n), shared + own * draw(rng, n)


def unlike_pair(rng: Rng, n: int) -> tuple[np.ndarray, np.ndarray]:
    """One side skewed, the other not, equal in mean: their difference is skewed, where that of two alike is
    symmetric.
    """
    return skewed(rng, n), 0.1 * normal(rng, n)


def family(rng: Rng, n: int, methods: int, shifts: float = 0.0, correlation: float = 0.5) -> Family:
    """(none, methods) at paired seeds, all of one distribution of unit variance but the first, which is
    better by `shifts`.
    """
    shared = math.sqrt(correlation) * rng.normal(size=n)
    values = shared + math.sqrt(1 - correlation) * rng.normal(size=(methods + 1, n))
    values[1] += shifts
    return values[0], {f"method {i}": values[i] for i in range(1, methods + 1)}


def accuracies(rng: Rng, n: int, methods: int, examples: int = 500, accuracy: float = 0.98) -> Family:
    """The same, where the metric is the share right of few examples: ties, and spreads that are zero by
    chance.
    """
    values = rng.binomial(examples, accuracy, size=(methods + 1, n)) / examples
    return values[0], {f"method {i}": values[i] for i in range(1, methods + 1)}


def ranking_of(none: np.ndarray, methods: dict[str, np.ndarray]) -> Ranking:
    """What the report makes of the final runs of a study, from their test values alone."""
    runs = tuple(map(str, range(len(none))))
    nothing = pd.DataFrame({"method": []})
    group = Group(
        task="made up",
        scale="",
        optimizer="",
        headline="metric",
        configurations=(),
        steps=nothing,
        evals=nothing,
        higher_is_better=True,
        notes=(),
        study="calibration",
        runs=nothing,
        tuning=nothing,
        failed=nothing,
        apart=False,
    )
    found = []
    for name, values in {"none": none, **methods}.items():
        found.append(_method(name, values, runs))
    return Ranking(group, "", tuple(found), tuple(each.configuration for each in found), "test")


def _method(name: str, values: np.ndarray, runs: tuple[str, ...]) -> Method:
    is_none = name == "none"
    settings = {**dict.fromkeys(RESOLVED), "clipping_type": "none" if is_none else "norm", "lr": 0.1}
    configuration = Configuration(
        label=name,
        settings=settings,
        done=runs,
        diverged=(),
        finals=values,
        variant=0,
        variants=1,
        name=name,
        role="final",
    )
    return Method(
        configuration=configuration,
        tried=1,
        edges={},
        scores=pd.Series(values),
        clipped=0.0 if is_none else 0.5,
        without=False,
        ms_per_step=1.0,
        skipped=0,
    )


def false_calls(draw: Callable[[], Family], studies: int) -> int:
    """Studies in which nothing differs and the verdict calls something different."""
    return sum(judge(ranking_of(*draw())).kind != "same" for _ in range(studies))


def found(rng: Rng, n: int, methods: int, effect: float, studies: int) -> int:
    """Studies whose verdict is that clipping helps by the one method that is better, another perhaps too, or
    that it depends.

    `effect`: in standard deviations of the paired difference (here 1).
    """
    hits = 0
    for _ in range(studies):
        ranking = ranking_of(*family(rng, n, methods, effect))
        first = ranking.comparisons["method 1"]
        is_found = judge(ranking).kind in ("helps", "mixed")
        hits += is_found and first.different and first.difference.estimate > 0
    return hits


def power(n: int, effect: float, alpha: float = 1 - LEVEL) -> float:
    """P(t > t_{1−α/2, n−1}), t noncentral with δ = effect·√n: of a two-sided paired t-test that finds it on
    the right side.
    """
    return float(distributions.nct.sf(special.stdtrit(n - 1, 1 - alpha / 2), n - 1, effect * math.sqrt(n)))


def effect_found_with(n: int, chance: float) -> float:
    """The effect that has this power at n."""
    low, high = 0.0, 50.0
    for _ in range(60):
        middle = (low + high) / 2
        if power(n, middle) < chance:
            low = middle
        else:
            high = middle
    return low


def tasks_of(rng: Rng, n: int, studies: int) -> dict[str, np.ndarray]:
    """Scores of four tasks that differ in mean and in spread, normal; a column is a study. {task: (n,
    studies)}
    """
    scores = {}
    for i, (mean, spread) in enumerate(zip(MEANS, SPREADS, strict=True)):
        scores[str(i)] = rng.normal(mean, spread, (n, studies))
    return scores


def mean_of_means(scores: Arrays) -> np.ndarray:
    return np.mean([values.mean(0) for values in scores.values()], axis=0)


def interquartile_means(scores: Arrays) -> np.ndarray:
    """stats.interquartile_mean of each column."""
    pooled = np.sort(np.concatenate(list(scores.values())), axis=0)
    cut = len(pooled) // 4
    return pooled[cut : len(pooled) - cut].mean(0)


def optimality_gaps(scores: Arrays) -> np.ndarray:
    """stats.optimality_gap of each column."""
    return 1 - np.minimum(np.concatenate(list(scores.values())), 1).mean(0)


def true_interquartile_mean() -> float:
    """Of the mixture of the four normals: 2·E[X; q₁ < X < q₃]."""
    low, high = ((_quantile(share) - MEANS) / SPREADS for share in (0.25, 0.75))
    between = special.ndtr(high) - special.ndtr(low)
    density = distributions.norm.pdf(high) - distributions.norm.pdf(low)
    return float(2 * np.mean(MEANS * between - SPREADS * density))


def _quantile(share: float) -> float:
    """Of the mixture of the four normals."""

    def excess(x: float) -> float:
        return special.ndtr((x - MEANS) / SPREADS).mean() - share

    return float(optimize.brentq(excess, -2, 4))


def true_optimality_gap() -> float:
    """1 − E[min(X, 1)], E[(X − 1)₊] = (μ − 1)Φ(d) + σφ(d) with d = (μ − 1)/σ."""
    d = (MEANS - 1) / SPREADS
    return float(1 - np.mean(MEANS - (MEANS - 1) * special.ndtr(d) - SPREADS * distributions.norm.pdf(d)))


AGGREGATES: dict[str, tuple[Callable[[Arrays], np.ndarray], float]] = {
    "mean": (mean_of_means, float(MEANS.mean())),
    "interquartile mean": (interquartile_means, true_interquartile_mean()),
    "optimality gap": (optimality_gaps, true_optimality_gap()),
}


def bootstrap_coverage(rng: Rng, n: int, what: str, studies: int, together: int = 200) -> int:
    """How many of `studies` intervals of an aggregate hold the truth. So many at a time share their
    resamples: that saves the time.
    """
    statistic, truth = AGGREGATES[what]
    hits = 0
    for _ in range(studies // together):
        _, low, high, _ = bootstrap(tasks_of(rng, n, together), statistic, rng, REPEATS, LEVEL)
        hits += int(((low <= truth) & (truth <= high)).sum())
    return hits


def better(rng: Rng, n: int, share: float) -> tuple[np.ndarray, np.ndarray]:
    """Independent normal values, the first side above the second with probability `share`: a shift of
    √2·Φ⁻¹(share).
    """
    return rng.normal(math.sqrt(2) * special.ndtri(share), 1, n), rng.normal(size=n)


def single(draw: Draw, rng: Rng, n: int) -> Interval:
    return stats.t_interval(draw(rng, n))


def paired(draw: DrawPair, rng: Rng, n: int) -> Interval:
    return stats.paired_interval(*draw(rng, n))


def improved(draw: DrawPair, rng: Rng, n: int) -> Interval:
    return stats.probability_of_improvement(*draw(rng, n))


SINGLES: dict[str, Draw] = {
    "t-interval, normal values": normal,
    "t-interval, lognormal values (skewness 3.7)": skewed,
}
PAIRS: dict[str, DrawPair] = {
    "paired t-interval, normal pairs (ρ = 0.8)": pair,
    "paired t-interval, lognormal pairs": partial(pair, draw=skewed),
    "paired t-interval, lognormal against normal": unlike_pair,
}
SHARES: dict[str, tuple[DrawPair, float]] = {
    "P(improvement) = 0.5, independent seeds": (partial(better, share=0.5), 0.5),
    "P(improvement) = 0.8, independent seeds": (partial(better, share=0.8), 0.8),
    "P(improvement) = 0.5, seeds correlated by 0.8": (pair, 0.5),
}


def coverages(rng: Rng, studies: int) -> Iterator[Line]:
    """How often each interval holds the truth."""
    for n in SEEDS:
        for what, draw in SINGLES.items():
            hits = coverage(partial(single, draw, rng, n), 0, studies)
            yield Line("covers", what, n, LEVEL, hits, studies)
        for what, two in PAIRS.items():
            hits = coverage(partial(paired, two, rng, n), 0, studies)
            yield Line("covers", what, n, LEVEL, hits, studies)
        for what, (two, truth) in SHARES.items():
            hits = coverage(partial(improved, two, rng, n), truth, studies // 2)
            yield Line("covers", what, n, LEVEL, hits, studies // 2)
        for what in AGGREGATES:
            hits = bootstrap_coverage(rng, n, what, studies)
            yield Line("covers", f"bootstrap, {what} of 4 tasks", n, LEVEL, hits, studies)


def verdicts(rng: Rng, studies: int) -> Iterator[Line]:
    """How often a verdict calls a difference where there is none, and finds one that was planted."""
    for n in SEEDS:
        for methods in (1, 4):
            hits = false_calls(partial(family, rng, n, methods), studies)
            yield Line("false", f"{methods} against none, nothing differs", n, 1 - LEVEL, hits, studies)
        hits = false_calls(partial(accuracies, rng, n, 4), studies)
        yield Line("false", "4 against none, accuracies near 0.98 of 500", n, 1 - LEVEL, hits, studies)
        for chance in (0.5, 0.8):
            effect = effect_found_with(n, chance)
            hits = found(rng, n, 1, effect, studies)
            yield Line("found", f"a difference of {effect:.2f} s", n, power(n, effect), hits, studies)
        alone = 100 * power(n, effect, (1 - LEVEL) / 4)
        hits = found(rng, n, 4, effect, studies)
        what = f"{effect:.2f} s, one of 4 (Bonferroni alone: {alone:.1f} %)"
        yield Line("found", what, n, math.nan, hits, studies)


def figure(lines: list[Line]) -> None:
    """a: coverage against n. b: false calls against n. c: power found against that of theory.

    Bars: 95 % Monte-Carlo intervals.
    """
    titles = ("coverage", "false calls of the verdict", "power of the verdict")
    of_kind: dict[str, list[Line]] = {"covers": [], "false": [], "found": []}
    for line in lines:
        of_kind[line.kind].append(line)
    with style.drawing():
        fig = style.figure("", 3.4)
        axes = fig.subplots(1, 3, width_ratios=[1.5, 1, 1])
        _against_n(axes[0], of_kind["covers"], "intervals that hold the truth, %", LEVEL)
        _against_n(axes[1], of_kind["false"], "studies with a false call, %", 1 - LEVEL)
        axes[1].set_ylim(0, None)
        _powers(axes[2], of_kind["found"])
        below = {"loc": "upper left", "bbox_to_anchor": (-0.08, -0.17), "frameon": False}
        for i, (ax, title) in enumerate(zip(axes, titles, strict=True)):
            ax.legend(fontsize=5.5, labelspacing=0.3, **below)
            style.letter(ax, i, title)
        fig.savefig(REFERENCE / "calibration.png")


def _against_n(ax: Axes, lines: list[Line], label: str, stated: float) -> None:
    kinds: dict[str, list[Line]] = {}
    for line in lines:
        kinds.setdefault(line.what, []).append(line)
    ax.axhline(100 * stated, color=style.GREY, linewidth=0.5, zorder=0)
    for i, (what, some) in enumerate(kinds.items()):
        x = np.arange(len(some)) + 0.6 * ((i + 0.5) / len(kinds) - 0.5)
        y, bar = np.array([(100 * line.share, 100 * line.error) for line in some]).T
        marker, colour = "osD^v"[i % 5], list(HUES.values())[i]
        ax.errorbar(x, y, bar, fmt=marker, color=colour, markersize=2.5, linewidth=0.8, label=what)
    ax.set(xticks=range(len(SEEDS)), xticklabels=SEEDS, xlabel="seeds n", ylabel=label)


def _powers(ax: Axes, lines: list[Line]) -> None:
    """Those whose power follows from theory, a colour for each n; side by side, so that they do not hide each
    other.
    """
    for i, (n, colour) in enumerate(zip(SEEDS, OTHER_HUES, strict=False)):
        some = [line for line in lines if line.n == n and not math.isnan(line.stated)]
        x = np.array([100 * line.stated for line in some]) + 0.6 * (i - 1)
        y = [100 * line.share for line in some]
        bar = [100 * line.error for line in some]
        ax.errorbar(x, y, bar, fmt="o", color=colour, markersize=2.5, linewidth=0.8, label=f"n = {n}")
    ax.plot([40, 90], [40, 90], color=style.GREY, linewidth=0.5, zorder=0)
    ax.set(xlabel="power by theory, %", ylabel="planted differences found, %")


def main(studies: int) -> None:
    rng, lines = np.random.default_rng(0), []
    print("| what | n | stated | found |\n|---|---|---|---|")
    for part in (coverages(rng, studies), verdicts(rng, max(1, studies // 5))):
        for line in part:
            print(line, flush=True)
            lines.append(line)
    REFERENCE.mkdir(parents=True, exist_ok=True)
    pd.DataFrame([vars(line) | {"share": line.share, "error": line.error} for line in lines]).to_parquet(
        REFERENCE / "calibration.parquet", index=False
    )
    figure(lines)


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 3000)
