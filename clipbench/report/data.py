"""What the page's figures show, as numbers: a ranking → its charts. No matplotlib figure is drawn.

Means and intervals are those of the panels and of `ranking.comparisons`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import numpy as np
import pandas as pd

from clipbench import stats
from clipbench.analysis.across import REPEATS, Across
from clipbench.analysis.amounts import amount, interval
from clipbench.analysis.choice import is_without_clipping, pool
from clipbench.analysis.places import GRADIENT
from clipbench.analysis.ranking import Method, Ranking
from clipbench.analysis.sensitivity import mean_of_best, tried
from clipbench.analysis.steps import without_skipped
from clipbench.analysis.thresholds import median_level
from clipbench.plot import titles
from clipbench.plot.comparison import THIN, baseline, smooth, there, thinned
from clipbench.plot.looks import in_print
from clipbench.plot.style import binned
from clipbench.record.rows import NO_CLIPPING, is_clipped
from clipbench.report.across import SCALE
from clipbench.report.chart import Axis, Chart, Level, Row, Rows, Series
from clipbench.report.divergence import beyond, is_grid
from clipbench.report.sensitivity import NAMES
from clipbench.stats import Comparison, mean_and_half, smoothed

POINTS = 240  # of a line: two pixels apart on a wide page
BINS = 60  # of time, for what clipping did
TAUS = np.linspace(-0.5, 1.0, 61)


def difference(ranking: Ranking) -> Iterator[Rows]:
    """Of each method from the reference, by pair; the interval is the one that the verdict is made of."""
    reference = ranking.reference
    if reference is None or not ranking.comparisons:
        return
    rows, worth = [], 0.0
    for method in ranking.judged:
        comparison = ranking.comparisons.get(method.name)
        if comparison is not None:
            rows.append(_row(ranking, method, comparison))
            worth = 0.0 if math.isnan(comparison.worth) else comparison.worth
    name = titles.headline(ranking.group, ranking.judged_on)
    side = "gain in" if ranking.sign > 0 else "reduction of"
    label = f"{side} {name}, points" if ranking.in_points else f"{side} {name}"
    what = f"Difference to {in_print(reference.name, ranking.group.place)}, paired by {ranking.unit}"
    more = (
        f"A dot is the difference of two runs of one {ranking.unit}; the bar is their mean and its "
        "simultaneous interval. To the right is better."
    )
    if worth:
        more += " Grey: too small to be worth telling."
    yield Rows(what, more, label, _ends(rows), _scale(ranking) * worth, rows)


def _row(ranking: Ranking, method: Method, comparison: Comparison) -> Row:
    scale = _scale(ranking)
    gains = scale * ranking.paired_differences(method.name)
    pairs = []
    for place, gain in gains.items():
        if math.isfinite(gain):
            pairs.append((f"{ranking.unit} {place}", float(gain)))
    found = comparison.difference
    low, high = scale * found.low, scale * found.high
    words = []
    if math.isfinite(found.estimate):
        text = amount(ranking, found.estimate, found, signed=True)
        if math.isfinite(low):
            text += f" ({interval(ranking, found)})"
        words.append(f"{text}, n={len(pairs)}")
    if len(pairs) < len(gains):
        words.append(f"{len(gains) - len(pairs)} of {len(gains)} pairs diverged")
    return Row(_name(ranking, method), scale * found.estimate, low, high, "; ".join(words), pairs)


def _name(ranking: Ranking, method: Method) -> str:
    return in_print(method.name, ranking.group.place)


def _scale(ranking: Ranking) -> int:
    return 100 if ranking.in_points else 1


def _ends(rows: Sequence[Row]) -> tuple[float, float]:
    """Of the axis: 0 and every dot are inside, and an interval unless it is four times as far out as the
    usual one, so that the others can be seen.
    """
    inside = [0.0]
    ends = []
    for row in rows:
        inside += [value for _, value in row.pairs]
        ends += [value for value in (row.low, row.high) if math.isfinite(value)]
    if ends:
        furthest = 4 * float(np.median(np.abs(ends)))
        inside += [max(-furthest, min(furthest, value)) for value in ends]
    low, high = min(inside), max(inside)
    margin = 0.05 * (high - low) or 1.0
    return low - margin, high + margin


def curves(ranking: Ranking) -> Iterator[Chart]:
    """Loss and validation metric against step and against seconds of training, where there was any."""
    group = ranking.group
    if not group.place.trains:
        return
    configurations = [method.configuration for method in ranking.judged]
    loss = group.curve("loss", *configurations)
    seconds = thinned(group.curve("seconds", *configurations), POINTS)
    shown, raw = thinned(smooth(loss), POINTS), thinned(loss, POINTS)
    yield _curve(ranking, shown, seconds, "Training loss", "training loss", raw)
    val = group.evals_of("val")
    values = val.pivot(index="step", columns="run", values="value")
    seconds = val.pivot(index="step", columns="run", values="seconds")
    name, (value, words) = titles.headline(group), baseline([ranking])
    levels = [Level(value, words)] if math.isfinite(value) else []
    values, seconds = thinned(values, POINTS), thinned(seconds, POINTS)
    yield _curve(ranking, values, seconds, f"{name[:1].upper()}{name[1:]}", name, levels=levels)


def _curve(
    ranking: Ranking,
    values: pd.DataFrame,
    seconds: pd.DataFrame,
    what: str,
    label: str,
    raw: pd.DataFrame | None = None,
    levels: Sequence[Level] = (),
) -> Chart:
    series: list[Series] = []
    of_done = [np.zeros(0)]
    for method in reversed(ranking.judged):
        done = there(values, method.configuration.done)
        of_done.append(done.to_numpy(float).ravel())
        series += _lines(ranking, method, values, seconds, raw)
    more = "mean over runs"
    if raw is not None:
        more += ", smoothed over 2 % of the steps, faint as it was"
    alone = ranking.measured_alone
    time = "seconds of training" if alone else "seconds of training, beside other runs"
    wide = is_wide(np.concatenate(of_done))
    return Chart(what, more, (Axis("step"), Axis(time)), Axis(label, wide), series, levels)


def _lines(
    ranking: Ranking,
    method: Method,
    values: pd.DataFrame,
    seconds: pd.DataFrame,
    raw: pd.DataFrame | None,
) -> Iterator[Series]:
    """Seconds are the median over the method's runs: one of them on a busy machine moves nothing."""
    name = _name(ranking, method)
    own = there(values, [run for run in method.configuration.runs if run in seconds])
    own = own.dropna(how="all")  # evaluated at other steps than another method
    if own.empty:
        return
    time = there(seconds, own.columns).loc[own.index].median(axis=1).to_numpy(float)
    x = (own.index.to_numpy(float), time)
    done = there(own, method.configuration.done)
    if not done.empty:
        if raw is not None:
            yield Series(
                name, "faint", x, there(raw, done.columns).loc[own.index].mean(axis=1).to_numpy(float)
            )
        few = done.shape[1] <= THIN
        if few and done.shape[1] > 1 and raw is None:
            for run in done:
                yield Series(name, "thin", x, done[run], _name_of_run(ranking, run))
        mean, half = mean_and_half(done.to_numpy(float))
        count = f"{done.shape[1]} runs" if done.shape[1] > 1 else "1 run"
        yield Series(name, "line", x, mean, count, mean - half, mean + half, few=few or raw is not None)
    for run in there(own, method.configuration.diverged):
        there_is = own[run].notna().to_numpy()
        if there_is.any():
            place = tuple(along[there_is] for along in x)
            y = own[run].to_numpy(float)[there_is]
            yield Series(name, "lost", place, y, f"{_name_of_run(ranking, run)}, diverged")


def _name_of_run(ranking: Ranking, run: str) -> str:
    """ "seed 3", or "repetition 3" where that is what pairs are of."""
    row = ranking.group.runs.loc[run]
    kind = ranking.unit
    number = row.get(kind)
    if number is None or pd.isna(number):
        kind, number = "seed", row["seed"]
    return f"{kind} {int(number)}"


def is_wide(values: np.ndarray) -> bool:
    """Whether a logarithmic axis serves better: all positive, over more than a decade and a half."""
    finite = values[np.isfinite(values)]
    return bool(len(finite) and finite.min() > 0 and finite.max() >= 30 * finite.min())


def sensitivity(ranking: Ranking) -> Iterator[Chart]:
    """The final validation metric over the learning rate, then over each method's level."""
    if ranking.group.apart:
        return
    runs = tried(ranking)
    if runs["lr"].nunique() > 1:
        methods = list(reversed(ranking.judged))
        yield _over(ranking, runs, "lr", methods, "Learning rate")
    for method in ranking.judged:
        own = runs[runs["name"] == method.name]
        for setting in NO_CLIPPING:
            if own[setting].nunique() > 1:
                what = f"{_name(ranking, method)}: {NAMES[setting]}"
                yield _over(ranking, own, setting, [method], what, _reference(ranking, runs))


def _reference(ranking: Ranking, runs: pd.DataFrame) -> list[Level]:
    """The reference at its best setting."""
    if ranking.reference is None:
        return []
    own = runs[runs["name"] == ranking.reference.name]
    mean = mean_of_best(ranking, own)[0] if len(own) else math.nan
    return [Level(mean, _name(ranking, ranking.reference))] if math.isfinite(mean) else []


def _over(
    ranking: Ranking,
    runs: pd.DataFrame,
    setting: str,
    methods: Sequence[Method],
    what: str,
    levels: Sequence[Level] = (),
) -> Chart:
    series: list[Series] = []
    for method in methods:
        series += _tried(ranking, runs[(runs["name"] == method.name) & (runs[setting] > 0)], setting, method)
    values = runs[setting].dropna()
    finite = np.sort(values[np.isfinite(values) & (values > 0)].unique())
    ticks = tuple(finite.tolist()) if is_grid(ranking, values) else ()
    infinity = None
    if setting != "p_autoclip" and any(is_without_clipping({setting: value}) for value in values.unique()):
        infinity = beyond(runs, setting)
    axis = Axis(NAMES[setting], setting != "p_autoclip", ticks, infinity)
    more = "points are runs"
    if any(each.style == "line" for each in series):
        more += ", the line their mean, of more than seven with its 95 % band"
    if runs["diverged"].any():
        more += "; ✕ on top: runs that diverged"
    y = Axis(titles.headline(ranking.group))
    return Chart(what, more, (axis,), y, series, levels)


def _tried(ranking: Ranking, runs: pd.DataFrame, setting: str, method: Method) -> Iterator[Series]:
    if runs.empty:
        return
    name = _name(ranking, method)
    x = runs[setting].clip(upper=beyond(runs, setting))
    ended = runs["value"].notna()
    if ended.any():
        yield Series(name, "points", (x[ended],), runs["value"][ended])
    if is_grid(ranking, runs[setting]):
        rows = []
        for place, part in runs.groupby(x):
            rows.append((place, *mean_of_best(ranking, part)))
        places, means, halves = np.array(rows, float).T
        few = max(len(configuration.runs) for configuration in ranking.configurations) <= THIN
    else:
        inside = ended & np.isfinite(runs[setting])
        at, values = x[inside], runs["value"][inside]
        few = len(at) <= THIN
        if setting == "p_autoclip":
            places, means, halves = smoothed(at, values)
        else:
            places, means, halves = smoothed(np.log(at), values)
            places = np.exp(places)
    if len(places):
        yield Series(name, "line", (places,), means, "mean", means - halves, means + halves, few=few)
    lost = runs["diverged"].groupby(x).agg(["sum", "size"])
    lost = lost[lost["sum"] > 0]
    if len(lost):
        words = []
        for count, of in lost.to_numpy().tolist():
            words.append(f"{count} of {of} diverged")
        nowhere = np.full(len(lost), np.nan)
        yield Series(name, "rug", (lost.index.to_numpy(float),), nowhere, words=words)


def budget(ranking: Ranking) -> Iterator[Chart]:
    """What tuning brought: the expected best of k trials, over the pool of all repetitions."""
    group = ranking.group
    series = []
    for method in reversed(ranking.judged):
        trials = pool(group.tuning[group.tuning["method"] == method.configuration.name])
        if trials.isna().all():
            continue
        expected = stats.expected_best(trials, group.higher_is_better)[: method.tried]
        x = np.arange(1, len(expected) + 1)
        series.append(Series(_name(ranking, method), "line", (x,), expected, "expected"))
    if series:
        y = Axis(f"best {titles.headline(group)}")
        more = "what so many of all trials bring on average"
        yield Chart("Best validation against budget", more, (Axis("tuning trials"),), y, series)


def clipping(ranking: Ranking) -> Iterator[Chart]:
    """What clipping did: the factor, the share of steps clipped, and the norms over time."""
    methods = [method for method in reversed(ranking.judged) if not method.is_reference]
    group = ranking.group
    if not methods or group.steps.empty:
        return
    width = math.ceil(int(group.steps["step"].max()) / BINS)
    factors: list[Series] = []
    shares: list[Series] = []
    norms: list[Series] = []
    for method in methods:
        steps = without_skipped(group.steps_of(method.configuration))
        steps = steps[np.isfinite(steps["clip_factor"])]
        if steps.empty:
            continue
        name = _name(ranking, method)
        bins = np.maximum(steps["step"].to_numpy() - 1, 0) // width
        factor = steps["clip_factor"].to_numpy(float)
        filled, (low, middle, high) = binned(bins, factor, (0.1, 0.5, 0.9))
        x = ((filled + 0.5) * width,)
        factors.append(Series(name, "line", x, middle, "median", low, high))
        share = np.bincount(bins, is_clipped(factor))[filled] / np.bincount(bins)[filled]
        shares.append(Series(name, "line", x, 100 * share))
        for column, style, of in (("grad_norm", "fine", "before"), ("clipped_norm", "line", "after")):
            _, (median,) = binned(bins, steps[column].to_numpy(float), (0.5,))
            norms.append(Series(name, style, x, median, of))
        level = median_level(group.steps_of(method.configuration), group.runs["settings"])
        if len(level):
            norms.append(Series(name, "level", (level.index.to_numpy(float),), level, "level η"))
    if not factors:
        return
    step = (Axis("step"),)
    steps_of_all = group.steps_of(*(method.configuration for method in methods))
    counted = without_skipped(steps_of_all)["clip_factor"]
    ends = counted[counted > 0].quantile([0.05, 1]).to_numpy(float)
    factor_axis = Axis("clip factor", is_wide(ends))
    yield Chart("Clip factor", "median and the middle 80 % of steps and runs", step, factor_axis, factors)
    share_axis = Axis("steps clipped, %", ends=(0, 100))
    yield Chart("Share of steps clipped", "", step, share_axis, shares)
    drawn = np.concatenate([np.asarray(each.y, float) for each in norms])
    norm_axis = Axis("gradient norm", is_wide(drawn))
    more = "medians over steps and runs, thin before clipping, thick after, dotted the level η"
    yield Chart("Gradient norm", more, step, norm_axis, norms)


def profile(found: Across) -> Iterator[Chart]:
    """Share of runs above τ, mean over tasks, with its pointwise 95 % band."""
    series = []
    for row in reversed(found.rows):
        rng = np.random.default_rng(0)
        band = stats.performance_profile(found.scores[row.name], TAUS, rng, REPEATS)
        name = in_print(row.name, GRADIENT)
        series.append(Series(name, "line", (band.at,), band.estimate, "", band.low, band.high))
    x, y = Axis(SCALE), Axis("share of runs above τ", ends=(0, 1))
    yield Chart("Performance profile", "higher is better", (x,), y, series)
