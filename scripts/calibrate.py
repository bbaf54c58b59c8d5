"""The instrument tested on nothing, and on something planted: of whole studies, tuning included, how often is
a verdict false, how often does it find what is there, and how often do intervals hold the truth?

python scripts/calibrate.py [STUDIES]      tables, and results/reference/calibration.parquet and .png

A cell has STUDIES simulated studies (20 000): simulated.py draws them, tunes them by the one rule of choice and
judges them all together; of the first of each cell it checks every comparison against `stats.compare`, and the
verdict's sentence. The intervals are those of clipbench.stats.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from scipy import optimize, special
from scipy import stats as distributions
from simulated import LEVEL, Called, Rng, Truth, called, check, check_choice, draw, tune

from clipbench import stats
from clipbench.analysis.across import REPEATS
from clipbench.plot import style
from clipbench.plot.looks import HUES
from clipbench.stats import Interval
from clipbench.stats.aggregate import Arrays, bootstrap

REFERENCE = Path(__file__).parents[1] / "results" / "reference"
REPETITIONS = (2, 3, 5, 10, 20)
METHODS = (2, 8)  # beside none
CHECKED, JUDGED = 100, 25  # studies of a cell whose comparisons are checked, and whose verdicts are
WIDTH = 6.75  # inches
N = (3, 5, 10)  # values behind an interval
MEANS, SPREADS = (
    np.array([0.5, 1.0, 0.5, 1.0]),
    np.array([0.1, 0.2, 0.3, 0.4]),
)  # of the scores of four tasks, scaled
Draw = Callable[[Rng, int], np.ndarray]
DrawPair = Callable[[Rng, int], tuple[np.ndarray, np.ndarray]]


@dataclass(frozen=True)
class Cell:
    """`hits` of `studies` did what `kind` says: a false call (`stated`: at most), a planted difference found, an
    interval that holds the truth (`stated`: by theory, NaN for none).

    `refused`: the share of comparisons of means for which there were too few pairs.
    """

    kind: str  # false, found or covers
    factor: str
    what: str
    methods: int
    repetitions: int
    stated: float
    hits: int
    studies: int
    refused: float = 0.0

    @property
    def share(self) -> float:
        return self.hits / self.studies

    @property
    def error(self) -> float:
        """Half the 95 % Monte-Carlo interval of the share found."""
        share = min(max(self.share, 1 / self.studies), 1 - 1 / self.studies)
        return 1.96 * math.sqrt(share * (1 - share) / self.studies)

    @property
    def is_above(self) -> bool:
        """A share as high as stated would give so many hits less than once in a thousand times."""
        return self.hits > distributions.binom.ppf(0.999, self.studies, self.stated)

    def __str__(self) -> str:
        return f"{100 * self.share:.1f} ± {100 * self.error:.1f}"


PLAIN = Truth()
OF_500 = Truth(examples=500, rate=0.98)
OF_1000 = Truth(examples=1000, rate=0.6)

# Where nothing differs, or less is so than could be called.
TRUTHS: dict[str, dict[str, Truth]] = {
    "noise of tuning": {
        "0.3 of a run's own": replace(PLAIN, tuning_noise=0.3),
        "as a run's own": PLAIN,
        "3 times": replace(PLAIN, tuning_noise=3.0),
    },
    "noise of validation": {
        "as on test": PLAIN,
        "3 times": replace(PLAIN, validation_noise=1.5),
        "3 times, of 56 for 500": replace(OF_500, validation_noise=1.5),
    },
    "sensitivity to the rate": {
        "0": replace(PLAIN, sensitivity=0.0),
        "10 s at the ends": PLAIN,
        "100 s": replace(PLAIN, sensitivity=100.0),
    },
    "budget": {
        "8 trials": PLAIN,
        "16": replace(PLAIN, trials=16),
        "8, halving = 3": replace(PLAIN, halving=3),
    },
    "ties": {
        "values in steps of 1 s": replace(PLAIN, resolution=1.0),
        "of 3 s": replace(PLAIN, resolution=3.0),
        "of 1 s, not stated": replace(PLAIN, resolution=1.0, states_resolution=False),
    },
    "shares of N examples": {
        "0.98 of 500": OF_500,
        "0.6 of 1000": OF_1000,
        "0.98 of 500, N not stated": replace(OF_500, states_resolution=False),
    },
    "runs diverge, chances equal": {
        "0.1": replace(PLAIN, diverging=(0.1, 0.1)),
        "0.3": replace(PLAIN, diverging=(0.3, 0.3)),
        "0.5": replace(PLAIN, diverging=(0.5, 0.5)),
        "0.3, by seed": replace(PLAIN, diverging=(0.3, 0.3), why="seed"),
        "beyond a rate": replace(PLAIN, cliff=0.6),
    },
    "runs diverge, unequal": {
        "0.1 and 0.5": replace(PLAIN, diverging=(0.1, 0.5)),
        "0.1 and 0.5, by seed": replace(PLAIN, diverging=(0.1, 0.5), why="seed"),
        "0.1 and 0.3": replace(PLAIN, diverging=(0.1, 0.3)),
    },
    "methods": {str(methods): replace(PLAIN, methods=methods) for methods in (1, 2, 4, 8)},
    "differences of w": {
        "all by w = 1 s": replace(PLAIN, gain=1.0, worth=1.0, better=8),
        "all by w = 10 s": replace(PLAIN, gain=10.0, worth=10.0, better=8),
        "half of them by w = 10 s": replace(PLAIN, gain=10.0, worth=10.0, better=1),
        "all by w, 0.98 of 10 000": Truth(examples=10_000, rate=0.98, gain=0.01, worth=0.01, better=8),
    },
    "skew": {
        "lognormal, all alike": replace(PLAIN, skewed="all"),
        "lognormal against normal": replace(PLAIN, skewed="methods"),
    },
    "rare or chosen": {
        "a loss of 10 w in 1 of 10": replace(PLAIN, gain=-10.0, worth=10.0, better=8, rare=0.1),
        "worst half diverges, 0.1 of none's": replace(PLAIN, diverging=(0.1, 0.5), why="value"),
    },
}

REASONS = {
    "lognormal against normal": "the differences are skewed, and a few of them do not show it: a t-interval "
    "takes them for symmetric",
    "a loss of 10 w in 1 of 10": "it is not among the few repetitions, or in one of them: then the mean is far "
    "from the true one and the spread too",
    "worst half diverges, 0.1 of none's": "the runs that ended differ, though all runs would not: the mean is "
    "told over pairs that ended, and the divergence before it",
}
"""Why the procedure errs more often there. Nothing in the values of such a study tells it."""


def false_calls(truth: Truth, repetitions: int, studies: int, rng: Rng) -> tuple[int, float]:
    """(studies with a false call, share of comparisons of means that are refused). The first are checked."""
    found = judged(truth, repetitions, studies, rng)
    return int(found.false(truth).sum()), float((found.pairs < stats.FEWEST).mean())


def judged(truth: Truth, repetitions: int, studies: int, rng: Rng) -> Called:
    values = draw(truth, repetitions, studies, rng)
    found = called(values, truth)
    check(values, truth, found, CHECKED, JUDGED)
    return found


def nothing_is_called(studies: int, rng: Rng) -> Iterator[Cell]:
    """False calls in every cell of TRUTHS."""
    for factor, truths in TRUTHS.items():
        for what, one in truths.items():
            families = (one.methods,) if factor == "methods" else METHODS
            for methods in families:
                better = math.ceil(methods / 2) if what.startswith("half") else min(one.better, methods)
                truth = replace(one, methods=methods, better=better)
                _, values, diverged = tune(truth, 2, 20, rng)
                check_choice(values, diverged, 20)
                for repetitions in REPETITIONS:
                    hits, refused = false_calls(truth, repetitions, studies, rng)
                    yield Cell("false", factor, what, methods, repetitions, 1 - LEVEL, hits, studies, refused)


def what_is_planted_is_found(studies: int, rng: Rng) -> Iterator[Cell]:
    """Power beside theory: of one method of m that differs, of equivalence, of divergence."""
    for what, one in {"no choice to make": replace(PLAIN, sensitivity=0.0), "tuned": PLAIN}.items():
        spread = spread_of_differences(one, rng)
        for methods in (1, 4, 8):
            for repetitions in REPETITIONS[1:]:
                for chance in (0.5, 0.8):
                    alpha = (1 - LEVEL) / methods
                    effect = effect_found_with(repetitions, chance, alpha)
                    truth = replace(one, methods=methods, better=1, gain=effect * spread)
                    hits = int(judged(truth, repetitions, studies, rng).up[:, 0].sum())
                    theory = power(repetitions, effect, alpha)
                    text = f"{what}, one of {methods} better by {effect:.2f} s"
                    yield Cell("found", "different", text, methods, repetitions, theory, hits, studies)
        for repetitions in REPETITIONS[1:]:
            half_width = worth_found_with(repetitions, 0.8)
            truth = replace(one, methods=1, worth=half_width * spread)
            hits = int(judged(truth, repetitions, studies, rng).equivalent.sum())
            theory = equivalence_power(repetitions, half_width)
            text = f"{what}, no difference, w = {half_width:.2f} s"
            yield Cell("found", "equivalent", text, 1, repetitions, theory, hits, studies)
    for none, method in ((0.9, 0.1), (0.5, 0.0), (1.0, 0.0)):
        for repetitions in (5, 10, 20):
            truth = replace(PLAIN, methods=1, diverging=(none, method))
            hits = int(judged(truth, repetitions, studies, rng).fewer.sum())
            theory = divergence_power(repetitions, none, method)
            text = f"none diverges with chance {none:g}, the method with {method:g}"
            yield Cell("found", "diverges", text, 1, repetitions, theory, hits, studies)


def spread_of_differences(truth: Truth, rng: Rng, pairs: int = 200_000) -> float:
    """Standard deviation of a paired difference."""
    values = draw(replace(truth, methods=1), 1, pairs, rng)
    return float((values[:, 1] - values[:, 0]).std())


def power(n: int, effect: float, alpha: float = 1 - LEVEL) -> float:
    """P(t > t_{1−α/2, n−1}), t noncentral with δ = effect·√n: of a two-sided paired t-test that finds it on
    the right side. `effect`: in standard deviations of the paired difference.
    """
    return float(distributions.nct.sf(special.stdtrit(n - 1, 1 - alpha / 2), n - 1, effect * math.sqrt(n)))


def equivalence_power(n: int, worth: float, alpha: float = 1 - LEVEL) -> float:
    """P(|D̄| + t_{1−α/2, n−1}·s/√n < w) where nothing differs: the mean over s² ~ χ²_{n−1}/(n − 1) of
    2Φ(√n·w − t·s) − 1, if above 0. `worth`: in standard deviations.
    """
    shares = (np.arange(20_000) + 0.5) / 20_000
    s = np.sqrt(distributions.chi2.ppf(shares, n - 1) / (n - 1))
    left = math.sqrt(n) * worth - special.stdtrit(n - 1, 1 - alpha / 2) * s
    return float(np.maximum(2 * special.ndtr(left) - 1, 0).mean())


def divergence_power(n: int, none: float, method: float) -> float:
    """P(Fisher's p ≤ α/m and the method diverged in fewer), over all outcomes of n independent pairs.

    m, of one method: one where no run diverged, or fewer than three pairs ended; else two. Of `a` runs of none
    and `b` of the method that diverged, hypergeometrically many are in the same pairs.
    """
    total = 0.0
    for a in range(n + 1):
        for b in range(a):
            p = distributions.fisher_exact([[b, n - b], [a, n - a]]).pvalue
            chance = distributions.binom.pmf(a, n, none) * distributions.binom.pmf(b, n, method)
            # n − a − b + both ≥ 3 pairs ended
            enough = float(distributions.hypergeom.sf(stats.FEWEST - 1 - n + a + b, n, a, b))
            total += chance * (enough * (2 * p <= 1 - LEVEL) + (1 - enough) * (p <= 1 - LEVEL))
    return total


def effect_found_with(n: int, chance: float, alpha: float = 1 - LEVEL) -> float:
    """The effect that has this power at n."""
    return _where(lambda effect: power(n, effect, alpha), chance)


def worth_found_with(n: int, chance: float) -> float:
    """The smallest difference worth telling within which equivalence has this power at n."""
    return _where(lambda worth: equivalence_power(n, worth), chance)


def _where(rising: Callable[[float], float], value: float) -> float:
    low, high = 0.0, 100.0
    for _ in range(40):
        middle = (low + high) / 2
        if rising(middle) < value:
            low = middle
        else:
            high = middle
    return low


def normal(rng: Rng, n: int) -> np.ndarray:
    return rng.normal(size=n)


def skewed(rng: Rng, n: int) -> np.ndarray:
    """Lognormal with σ = 0.8: skewness 3.7; mean 0."""
    return np.exp(rng.normal(scale=0.8, size=n)) - math.exp(0.32)


def coverage(interval: Callable[[], Interval], truth: float, studies: int) -> int:
    """How many of `studies` fresh intervals hold the truth."""
    return sum(truth in interval() for _ in range(studies))


def pair(
    rng: Rng, n: int, correlation: float = 0.8, draw_one: Draw = normal
) -> tuple[np.ndarray, np.ndarray]:
    """Two methods at n seeds, correlated through what the seeds share, equal in mean. (n,), (n,)"""
    shared, own = math.sqrt(correlation) * draw_one(rng, n), math.sqrt(1 - correlation)
    return shared + own * draw_one(rng, n), shared + own * draw_one(rng, n)


def unlike_pair(rng: Rng, n: int) -> tuple[np.ndarray, np.ndarray]:
    """One side skewed, the other not, equal in mean: their difference is skewed, where that of two alike is
    symmetric.
    """
    return skewed(rng, n), 0.1 * normal(rng, n)


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


def single(draw_one: Draw, rng: Rng, n: int) -> Interval:
    return stats.t_interval(draw_one(rng, n))


def paired(draw_two: DrawPair, rng: Rng, n: int) -> Interval:
    return stats.paired_interval(*draw_two(rng, n))


def improved(draw_two: DrawPair, rng: Rng, n: int) -> Interval:
    return stats.probability_of_improvement(*draw_two(rng, n))


SINGLES: dict[str, Draw] = {
    "t-interval, normal values": normal,
    "t-interval, lognormal values (skewness 3.7)": skewed,
}
PAIRS: dict[str, DrawPair] = {
    "paired t-interval, normal pairs (ρ = 0.8)": pair,
    "paired t-interval, lognormal pairs": partial(pair, draw_one=skewed),
    "paired t-interval, lognormal against normal": unlike_pair,
}
SHARES: dict[str, tuple[DrawPair, float]] = {
    "P(improvement) = 0.5, independent seeds": (partial(better, share=0.5), 0.5),
    "P(improvement) = 0.8, independent seeds": (partial(better, share=0.8), 0.8),
    "P(improvement) = 0.5, seeds correlated by 0.8": (pair, 0.5),
}


def intervals_hold_the_truth(studies: int, rng: Rng) -> Iterator[Cell]:
    """How often each interval holds the truth."""
    for n in N:
        for what, draw_one in SINGLES.items():
            hits = coverage(partial(single, draw_one, rng, n), 0, studies)
            yield Cell("covers", "values", what, 0, n, LEVEL, hits, studies)
        for what, two in PAIRS.items():
            hits = coverage(partial(paired, two, rng, n), 0, studies)
            yield Cell("covers", "pairs", what, 0, n, LEVEL, hits, studies)
        for what, (two, truth) in SHARES.items():
            hits = coverage(partial(improved, two, rng, n), truth, studies // 2)
            yield Cell("covers", "P(improvement)", what, 0, n, LEVEL, hits, studies // 2)
        for what in AGGREGATES:
            hits = bootstrap_coverage(rng, n, what, studies)
            yield Cell("covers", "tasks", f"bootstrap, {what} of 4 tasks", 0, n, LEVEL, hits, studies)


def table(cells: Iterable[Cell]) -> str:
    """A row for what is alike but for the repetitions. In %; * is above what is stated."""
    rows: dict[tuple[str, str, int], dict[int, str]] = {}
    for cell in cells:
        text = str(cell)
        if cell.kind == "false" and cell.is_above:
            text += " *"
        if cell.refused > 0.0005:
            text += f" ({100 * cell.refused:.0f} refused)"
        rows.setdefault((cell.factor, cell.what, cell.methods), {})[cell.repetitions] = text
    columns: dict[int, None] = {}
    for row in rows.values():
        columns |= dict.fromkeys(row)
    lines = [
        "| factor | condition | methods | " + " | ".join(f"R = {each}" for each in columns) + " |",
        "|---" * (3 + len(columns)) + "|",
    ]
    for (factor, what, methods), row in rows.items():
        found = [row.get(each, "") for each in columns]
        lines.append("| " + " | ".join([factor, what, str(methods or ""), *found]) + " |")
    return "\n".join(lines)


def powers(cells: Iterable[Cell]) -> str:
    lines = ["| called | planted | R | theory, % | found, % |", "|---|---|---|---|---|"]
    for cell in cells:
        stated = f"{100 * cell.stated:.1f}"
        lines.append(f"| {cell.factor} | {cell.what} | {cell.repetitions} | {stated} | {cell} |")
    return "\n".join(lines)


def figure(cells: list[Cell]) -> None:
    """False calls against repetitions, a panel for each factor; power found against that of theory; coverage.

    Bars: 95 % Monte-Carlo intervals.
    """
    of_kind: dict[str, list[Cell]] = {"covers": [], "false": [], "found": []}
    for cell in cells:
        of_kind[cell.kind].append(cell)
    with style.drawing():
        fig = style.figure("", 9.0, WIDTH)
        axes = list(fig.subplots(5, 3).ravel())
        for i, factor in enumerate(TRUTHS):
            some = [cell for cell in of_kind["false"] if cell.factor == factor]
            style.letter(axes[i], i, factor)
            _false_panel(
                axes[i], [cell for cell in some if factor == "methods" or cell.methods == METHODS[0]]
            )
        for i in range(0, len(TRUTHS), 3):
            axes[i].set_ylabel("studies with a\nfalse call, %")
        last = len(TRUTHS)
        style.letter(axes[last], last, "power: different, equivalent")
        _power_panel(axes[last], [cell for cell in of_kind["found"] if cell.factor != "diverges"])
        style.letter(axes[last + 1], last + 1, "power: divergence")
        _power_panel(axes[last + 1], [cell for cell in of_kind["found"] if cell.factor == "diverges"])
        axes[last].set_ylabel("found, %")
        style.letter(axes[last + 2], last + 2, "intervals")
        _coverage_panel(axes[last + 2], of_kind["covers"])
        fig.savefig(REFERENCE / "calibration.png")


MARKERS = "osD^v"
COLOURS = ("#000000", *(HUES[name] for name in ("norm", "auto", "layer_wise", "quadratic_rand_auto")))


def _false_panel(ax: Axes, cells: list[Cell]) -> None:
    lines = _by_what(cells)
    ax.axhline(100 * (1 - LEVEL), color=style.GREY, linewidth=0.6, zorder=0)
    for i, (what, some) in enumerate(lines.items()):
        places = np.array([REPETITIONS.index(cell.repetitions) for cell in some])
        _bars(ax, places + 0.12 * (i - (len(lines) - 1) / 2), some, i, what)
    highest = max(cell.share for cell in cells)
    ax.set(xticks=range(len(REPETITIONS)), xticklabels=REPETITIONS, xlabel="repetitions R")
    ax.set_ylim(-0.3, 9.5 if highest < 0.08 else 150 * highest)
    ax.legend(
        fontsize=6, labelspacing=0.25, loc="upper left", borderaxespad=0, ncols=2 if len(lines) > 3 else 1
    )


def _by_what(cells: Iterable[Cell]) -> dict[str, list[Cell]]:
    found: dict[str, list[Cell]] = {}
    for cell in cells:
        found.setdefault(cell.what, []).append(cell)
    return found


def _bars(ax: Axes, x: np.ndarray, cells: list[Cell], i: int, label: str) -> None:
    y = np.array([100 * cell.share for cell in cells])
    bar = [100 * cell.error for cell in cells]
    look = {"color": COLOURS[i], "markersize": 2.6, "linewidth": 0.7}
    ax.errorbar(x, y, bar, fmt=MARKERS[i], label=label, **look)


def _power_panel(ax: Axes, cells: list[Cell]) -> None:
    """Of one family each: what was found against what theory says."""
    groups: dict[str, list[Cell]] = {}
    for cell in cells:
        start = cell.what.partition(",")[0]
        name = f"{cell.factor}, {start}" if cell.factor != "diverges" else f"R = {cell.repetitions}"
        groups.setdefault(name, []).append(cell)
    for i, (name, some) in enumerate(groups.items()):
        stated = np.array([100 * cell.stated for cell in some])
        spread = np.linspace(-1.5, 1.5, len(some)) if cells[0].factor != "diverges" else 0
        _bars(ax, stated + spread, some, i, name)
    low = 100 * min(min(cell.share, cell.stated) for cell in cells) - 5
    high = 100 * max(max(cell.share, cell.stated) for cell in cells) + 5
    ax.plot([low, high], [low, high], color=style.GREY, linewidth=0.6, zorder=0)
    ax.set(xlabel="by theory, %")
    ax.set_ylim(low, high + 0.5 * (high - low))
    ax.legend(fontsize=6, labelspacing=0.25, loc="upper left", borderaxespad=0)


def _coverage_panel(ax: Axes, cells: list[Cell]) -> None:
    """Every kind of interval, by n."""
    names = list(_by_what(cells))
    ax.axhline(100 * LEVEL, color=style.GREY, linewidth=0.6, zorder=0)
    for i, n in enumerate(N):
        some = [cell for cell in cells if cell.repetitions == n]
        places = np.array([names.index(cell.what) for cell in some])
        _bars(ax, places + 0.2 * (i - 1), some, i, f"n = {n}")
    ax.set(xticks=range(len(names)), xticklabels=[SHORT[name] for name in names], ylabel="hold the truth, %")
    ax.tick_params(axis="x", rotation=90, labelsize=6)
    ax.legend(fontsize=6, labelspacing=0.25, loc="lower right", borderaxespad=0)


SHORT = {
    "t-interval, normal values": "t, normal",
    "t-interval, lognormal values (skewness 3.7)": "t, lognormal",
    "paired t-interval, normal pairs (ρ = 0.8)": "paired, normal",
    "paired t-interval, lognormal pairs": "paired, lognormal",
    "paired t-interval, lognormal against normal": "paired, unlike",
    "P(improvement) = 0.5, independent seeds": "P = 0.5",
    "P(improvement) = 0.8, independent seeds": "P = 0.8",
    "P(improvement) = 0.5, seeds correlated by 0.8": "P = 0.5, ρ = 0.8",
    "bootstrap, mean of 4 tasks": "tasks, mean",
    "bootstrap, interquartile mean of 4 tasks": "tasks, IQM",
    "bootstrap, optimality gap of 4 tasks": "tasks, gap",
}


def main(studies: int) -> None:
    rng = np.random.default_rng(0)
    false = _shown(nothing_is_called(studies, rng))
    print(table(false))
    for what in sorted({cell.what for cell in false if cell.is_above}):
        print(f"* {what}: {REASONS.get(what, 'not explained')}.")
    found = _shown(what_is_planted_is_found(max(1, studies // 4), rng))
    print(powers(found))
    covers = _shown(intervals_hold_the_truth(max(200, studies // 7), rng))
    print(table(covers))
    cells = [*false, *found, *covers]
    REFERENCE.mkdir(parents=True, exist_ok=True)
    rows = [asdict(cell) | {"share": cell.share, "error": cell.error} for cell in cells]
    pd.DataFrame(rows).to_parquet(REFERENCE / "calibration.parquet", index=False)
    figure(cells)


def _shown(cells: Iterable[Cell]) -> list[Cell]:
    """The same, with how far it is on the terminal."""
    found = []
    for cell in cells:
        found.append(cell)
        print(f"{cell.what}, R = {cell.repetitions}: {cell} %", file=sys.stderr, flush=True)
    return found


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 20_000)
