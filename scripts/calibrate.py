"""The instrument tested on nothing, and on something planted: of whole studies, tuning included, how often is
a verdict false, how often does it find what is there, and how often do intervals hold the truth?

python scripts/calibrate.py [STUDIES]      tables, and results/reference/calibration.parquet and .png

A cell has STUDIES simulated studies (10 000): simulated.py draws them, tunes them by the one rule of choice
and judges them all together; of the first of each cell it checks every comparison against `stats.compare`,
and the verdict. The intervals are those of clipbench.stats.
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
from simulated import LEVEL, Called, Rng, Truth, called, check, check_choice, draw, named, tune

from clipbench import stats
from clipbench.analysis.across import REPEATS
from clipbench.plot import style
from clipbench.plot.looks import HUES
from clipbench.stats import Interval
from clipbench.stats.aggregate import Arrays, bootstrap

REFERENCE = Path(__file__).parents[1] / "results" / "reference"
REPETITIONS = (2, 3, 5, 10, 20)
METHODS = (2, 8)  # beside none
CHECKED, JUDGED = 40, 10  # studies of a cell whose comparisons are checked, and whose verdicts are
WIDTH = 6.75  # inches
N = (3, 5, 10)  # values behind an interval
TOGETHER = 200  # studies across tasks that share their resamples: that saves the time
MEANS, SPREADS = (
    np.array([0.5, 1.0, 0.5, 1.0]),
    np.array([0.1, 0.2, 0.3, 0.4]),
)  # of the scores of four tasks, scaled
Draw = Callable[[Rng, int], np.ndarray]
DrawPair = Callable[[Rng, int], tuple[np.ndarray, np.ndarray]]


@dataclass(frozen=True)
class Cell:
    """`hits` of `studies` did what `kind` says: a false call (`stated`: at most), a planted difference found,
    an interval that holds the truth.

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
        "lognormal, final runs' too": replace(PLAIN, skewed="all"),
    },
    "noise of validation": {
        "as on test": PLAIN,
        "3 times": replace(PLAIN, validation_noise=1.5),
        "3 times, 56 for 500": replace(OF_500, validation_noise=1.5),
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
        "in steps of 1 s": replace(PLAIN, resolution=1.0),
        "of 3 s": replace(PLAIN, resolution=3.0),
        "of 1 s, not stated": replace(PLAIN, resolution=1.0, states_resolution=False),
    },
    "shares of N examples": {
        "0.98 of 500": OF_500,
        "0.6 of 1000": OF_1000,
        "0.98 of 500, not stated": replace(OF_500, states_resolution=False),
    },
    "divergence, equal": {
        "0.03": replace(PLAIN, diverging=(0.03, 0.03)),
        "0.1": replace(PLAIN, diverging=(0.1, 0.1)),
        "0.3": replace(PLAIN, diverging=(0.3, 0.3)),
        "0.5": replace(PLAIN, diverging=(0.5, 0.5)),
        "0.3, by seed": replace(PLAIN, diverging=(0.3, 0.3), why="seed"),
        "beyond a rate": replace(PLAIN, cliff=0.6),
    },
    "divergence, unequal": {
        "0.1 and 0.5": replace(PLAIN, diverging=(0.1, 0.5)),
        "0.1 and 0.5, by seed": replace(PLAIN, diverging=(0.1, 0.5), why="seed"),
        "0.1 and 0.3": replace(PLAIN, diverging=(0.1, 0.3)),
    },
    "methods": {str(methods): replace(PLAIN, methods=methods) for methods in (1, 2, 4, 8)},
    "differences of w": {
        "w = 1 s": replace(PLAIN, gain=1.0, worth=1.0, better=8),
        "w = 10 s": replace(PLAIN, gain=10.0, worth=10.0, better=8),
        "w = 10 s, of half of them": replace(PLAIN, gain=10.0, worth=10.0, better=1),
        "0.98 of 10 000": Truth(examples=10_000, rate=0.98, gain=0.01, worth=0.01, better=8),
    },
    "outside the claim": {
        "tuned once": replace(PLAIN, tuned_once=True),
        "lognormal, none's normal": replace(PLAIN, skewed="methods"),
        "the worst diverge": replace(PLAIN, diverging=(0.1, 0.5), why="value"),
    },
    "rare losses": {
        "10 w in 1 of 10": replace(PLAIN, gain=-10.0, worth=10.0, better=8, rare=0.1),
        "4 w in 1 of 4": replace(PLAIN, gain=-10.0, worth=10.0, better=8, rare=0.25),
        "2 w in 1 of 2": replace(PLAIN, gain=-10.0, worth=10.0, better=8, rare=0.5),
    },
}
LOOKS = ("looked at each R", "extended as told")  # besides, outside the claim

RARE = (
    "no repetition of the study met the loss that makes the true mean: it looks equivalent, and is but for it"
)
REASONS = {
    "tuned once": "one choice of each method ran at all seeds: the settings differ, and more seeds make that "
    "surer. The verdict says: at these settings",
    "lognormal, none's normal": "the differences are skewed, and a few of them do not show it: a t-interval "
    "takes them for symmetric",
    "10 w in 1 of 10": RARE,
    "4 w in 1 of 4": RARE,
    "2 w in 1 of 2": RARE,
    "the worst diverge": "1 run of 10 of none and 5 of 10 of the method, those that would have ended worst: "
    "what is left differs. The verdict tells the divergence first, and means over pairs that ended",
    "looked at each R": "a study is made larger until something is called: the 5 % are those of a number of "
    "repetitions that is fixed beforehand",
    "extended as told": "undecided at R = 5, then as many as the verdict says would decide it, at most 20: a "
    "second look, likewise",
}
"""Why the procedure errs more often there. Nothing in the values of one study tells it."""


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
    """False calls in every cell of TRUTHS, and where one looks more than once."""
    for factor, truths in TRUTHS.items():
        for what, one in truths.items():
            for methods in (one.methods,) if factor == "methods" else METHODS:
                better = math.ceil(methods / 2) if what.endswith("half of them") else min(one.better, methods)
                truth = replace(one, methods=methods, better=better)
                _, values, diverged = tune(truth, 2, 20, rng)
                check_choice(values, diverged, 10)
                for repetitions in REPETITIONS:
                    hits, refused = false_calls(truth, repetitions, studies, rng)
                    yield Cell("false", factor, what, methods, repetitions, 1 - LEVEL, hits, studies, refused)
    for methods in METHODS:
        yield from looked_again(replace(PLAIN, methods=methods), studies, rng)


def looked_again(truth: Truth, studies: int, rng: Rng) -> Iterator[Cell]:
    """The false calls of who goes on: at R repetitions, those at R or before; and at 20, those of who looks
    at five and then at as many as these say are needed.
    """
    where = ("false", "outside the claim")
    values = draw(truth, REPETITIONS[-1], studies, rng)
    false = np.zeros(studies, bool)
    for repetitions in REPETITIONS:
        false |= called(values[..., :repetitions], truth).false(truth)
        yield Cell(*where, LOOKS[0], truth.methods, repetitions, 1 - LEVEL, int(false.sum()), studies)
    fewer = max(1, studies // 5)
    hits = 0
    for one in values[:fewer]:
        first = stats.compare(one[0, :5], named(one[:, :5]), LEVEL, truth.step)
        largest = max(first.values(), key=lambda comparison: abs(comparison.difference.estimate))
        if not any(comparison.different for comparison in first.values()):
            needed = min(largest.needed or 0, len(one[0]))
            first = (
                stats.compare(one[0, :needed], named(one[:, :needed]), LEVEL, truth.step) if needed else {}
            )
        hits += any(comparison.different for comparison in first.values())
    yield Cell(*where, LOOKS[1], truth.methods, REPETITIONS[-1], 1 - LEVEL, hits, fewer)


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
                    text = f"{what}, one of {methods} better by {effect:.2f} s of the differences"
                    yield Cell("found", "different", text, methods, repetitions, theory, hits, studies)
        for repetitions in REPETITIONS[1:]:
            half_width = worth_found_with(repetitions, 0.8)
            truth = replace(one, methods=1, worth=half_width * spread)
            hits = int(judged(truth, repetitions, studies, rng).equivalent.sum())
            theory = equivalence_power(repetitions, half_width)
            text = f"{what}, no difference, w = {half_width:.2f} s of the differences"
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

    m, of one method: one where no run diverged, or fewer than three pairs ended; else two. Of `a` runs of
    none and `b` of the method that diverged, hypergeometrically many are in the same pairs.
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


def bootstrap_coverage(rng: Rng, n: int, what: str, studies: int, together: int = TOGETHER) -> int:
    """How many of `studies` intervals of an aggregate hold the truth; `studies` is a multiple of `together`.
    ValueError where it is not.
    """
    if studies % together:
        raise ValueError(f"Studies must be a multiple of {together}, got {studies}.")
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
    """False calls against repetitions, a panel for each factor; power; divergences found against theory;
    coverage. Bars: 95 % Monte-Carlo intervals.
    """
    false = [cell for cell in cells if cell.kind == "false"]
    power_of = [cell for cell in cells if cell.kind == "found"]
    with style.drawing():
        fig = style.figure("", 8.8, WIDTH)
        axes = list(fig.subplots(5, 3, height_ratios=[1, 1, 1, 1, 1.1]).ravel())
        for i, factor in enumerate(TRUTHS):
            style.letter(axes[i], i, factor)
            of_factor = [cell for cell in false if cell.factor == factor]
            shown = [cell for cell in of_factor if factor == "methods" or cell.methods == METHODS[0]]
            _false_panel(axes[i], shown)
        last = len(TRUTHS)
        style.letter(axes[last], last, " power, tuned, at 50 and 80 %")
        _power_panel(axes[last], [cell for cell in power_of if cell.what.startswith("tuned")])
        style.letter(axes[last + 1], last + 1, "divergence: power")
        _theory_panel(axes[last + 1], [cell for cell in power_of if cell.factor == "diverges"])
        style.letter(axes[last + 2], last + 2, "95 % intervals")
        _coverage_panel(axes[last + 2], [cell for cell in cells if cell.kind == "covers"])
        for i in range(0, last, 3):
            axes[i].set_ylabel("studies with a false call, %")
        for ax in axes[:last]:
            ax.set_xlabel("repetitions R")
        fig.savefig(REFERENCE / "calibration.png")


MARKERS = "osD^vP"
COLOURS = (
    "#000000",
    *(HUES[name] for name in ("norm", "auto", "layer_wise", "quadratic_rand_auto", "uclip")),
)


def _false_panel(ax: Axes, cells: list[Cell]) -> None:
    lines = _by_what(cells)
    ax.axhline(100 * (1 - LEVEL), color=style.GREY, linewidth=0.6, zorder=0)
    for i, (what, some) in enumerate(lines.items()):
        places = np.array([REPETITIONS.index(cell.repetitions) for cell in some])
        _bars(ax, places + 0.12 * (i - (len(lines) - 1) / 2), some, i, what)
    highest = 100 * max(cell.share for cell in cells)
    ax.set(xticks=range(len(REPETITIONS)), xticklabels=REPETITIONS)
    top = 5 if highest < 8 else 10 * math.ceil(highest / 10)
    ax.set(ylim=(-0.06 * top, 2.3 * top), yticks=np.linspace(0, top, 6 if top == 5 else 3))
    _legend(ax, "upper left", 2 if len(lines) > 4 else 1)


def _legend(ax: Axes, where: str, columns: int = 1) -> None:
    legend = ax.legend(
        fontsize=6,
        labelspacing=0.2,
        handletextpad=0.3,
        columnspacing=0.8,
        loc=where,
        borderaxespad=0,
        ncols=columns,
    )
    legend.set_in_layout(False)


def _by_what(cells: Iterable[Cell]) -> dict[str, list[Cell]]:
    found: dict[str, list[Cell]] = {}
    for cell in cells:
        found.setdefault(cell.what, []).append(cell)
    return found


def _bars(ax: Axes, at: np.ndarray, cells: list[Cell], i: int, label: str, upright: bool = True) -> None:
    """The shares found with their Monte-Carlo errors, at these places of the other axis."""
    share = np.array([100 * cell.share for cell in cells])
    error = np.array([100 * cell.error for cell in cells])
    x, y = (at, share) if upright else (share, at)
    across, along = (None, error) if upright else (error, None)
    colour = COLOURS[i]
    ax.errorbar(x, y, along, across, MARKERS[i], label=label, color=colour, markersize=2.6, linewidth=0.7)


def _power_panel(ax: Axes, cells: list[Cell]) -> None:
    """Found, where theory says 50 and 80 %."""
    groups: dict[str, list[Cell]] = {}
    for cell in cells:
        name = f"different, one of {cell.methods}" if cell.factor == "different" else cell.factor
        groups.setdefault(name, []).append(cell)
    for stated in (50, 80):
        ax.axhline(stated, color=style.GREY, linewidth=0.6, zorder=0)
    for i, (name, some) in enumerate(groups.items()):
        places = np.array([REPETITIONS.index(cell.repetitions) - 1 for cell in some])
        _bars(ax, places + 0.15 * (i - (len(groups) - 1) / 2), some, i, name)
    ax.set(xticks=range(len(REPETITIONS) - 1), xticklabels=REPETITIONS[1:], xlabel="repetitions R")
    ax.set(ylim=(40, 125), yticks=(40, 60, 80, 100), ylabel="found, %")
    _legend(ax, "upper left")


def _theory_panel(ax: Axes, cells: list[Cell]) -> None:
    ax.plot([0, 100], [0, 100], color=style.GREY, linewidth=0.6, zorder=0)
    for i, repetitions in enumerate((5, 10, 20)):
        some = [cell for cell in cells if cell.repetitions == repetitions]
        _bars(ax, np.array([100 * cell.stated for cell in some]), some, i, f"R = {repetitions}")
    ax.set(xlabel="by theory, %", ylabel="found, %", xlim=(0, 105), ylim=(0, 105))
    _legend(ax, "lower right")


def _coverage_panel(ax: Axes, cells: list[Cell]) -> None:
    """Every kind of interval, by n."""
    names = list(_by_what(cells))
    ax.axvline(100 * LEVEL, color=style.GREY, linewidth=0.6, zorder=0)
    for i, n in enumerate(N):
        some = [cell for cell in cells if cell.repetitions == n]
        places = np.array([names.index(cell.what) for cell in some]) + 0.22 * (i - 1)
        _bars(ax, places, some, i, f"n = {n}", upright=False)
    ax.set(yticks=range(len(names)), yticklabels=[SHORT[name] for name in names], xlabel="hold the truth, %")
    ax.set_xlim(78, 101)
    ax.tick_params(axis="y", labelsize=6, length=0)
    ax.invert_yaxis()
    _legend(ax, "lower left")


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
    covers = _shown(intervals_hold_the_truth(TOGETHER * max(1, studies // 1000), rng))
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
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 10_000)
