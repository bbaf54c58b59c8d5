"""The page's small figures of one ranking: a panel each, so that a page can set them in as many columns as it
is wide.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from clipbench import stats
from clipbench.analysis.choice import pool
from clipbench.analysis.ranking import Method, Ranking
from clipbench.analysis.steps import without_skipped
from clipbench.analysis.thresholds import median_level
from clipbench.plot import difference as paired
from clipbench.plot import style, titles
from clipbench.plot.comparison import baseline, smooth, spread, there, thinned
from clipbench.plot.looks import Look, method_looks
from clipbench.record.rows import is_clipped
from clipbench.report.frame import MARGINS, SIZE, Drawing, banded, panel
from clipbench.stats import mean_and_half

POINTS = 120  # of a line
BINS = 48  # of time, for what clipping did
LEVEL = (0, (1, 1.5))

Tables = Mapping[str, pd.DataFrame]  # of each method, by name: a column per run


def difference(ranking: Ranking) -> Iterator[Drawing]:
    """Each method minus the reference, pair by pair."""
    rows = paired.compared(ranking)
    if not rows:
        return
    _, right, _, _ = MARGINS
    names = max(style.inches(name, 7) for name in paired.printed(ranking))
    left = 0.12 + min(1.2, names)
    room = SIZE[0] - left + right
    bottom = 0.26 + 0.14 * len(paired.axis_label(ranking, room))
    fig = style.figure("", bottom + paired.ROW * len(rows) + 0.2, SIZE[0], (left, right, bottom, 0.1))
    ax = fig.subplots()
    paired.draw(ax, ranking, method_looks(ranking), left - 0.1, room, counts=True)
    unit = ranking.unit
    what = f"difference to {ranking.group.place.words}, paired by {unit}: a dot is one {unit}"
    yield f"{what}, the line the simultaneous 95 % interval of their mean", fig


def curves(ranking: Ranking) -> Iterator[Drawing]:
    """Loss and validation metric against step and against seconds of training, where there was any."""
    group = ranking.group
    if not group.place.trains:
        return
    configurations = [method.configuration for method in ranking.judged]
    loss = group.curve("loss", *configurations)
    seconds = thinned(group.curve("seconds", *configurations), POINTS)
    smoothed, raw = thinned(smooth(loss), POINTS), thinned(loss, POINTS)
    name, time = "training loss, smoothed", _time(ranking)
    tables = _on_steps(ranking, smoothed)
    yield f"{name}, against step: faint, as it was", _curve(ranking, tables, "step", name, raw)
    tables = on_seconds(ranking, smoothed, seconds)
    yield f"{name}, against time", _curve(ranking, tables, time, name)
    name = titles.headline(group)
    val = group.evals_of("val")
    values = val.pivot(index="step", columns="run", values="value")
    seconds = val.pivot(index="step", columns="run", values="seconds")
    tables = _on_steps(ranking, values)
    figure = _curve(ranking, tables, "step", name)
    style.also(figure.axes[0], *baseline([ranking]), 1.5)
    yield f"{name}, against step", figure
    tables = on_seconds(ranking, values, seconds)
    yield f"{name}, against time", _curve(ranking, tables, time, name)


def _time(ranking: Ranking) -> str:
    """Seconds measured beside other runs say so."""
    alone = ranking.measured_alone
    return "seconds of training" if alone else "seconds of training, beside other runs"


def _on_steps(ranking: Ranking, table: pd.DataFrame) -> dict[str, pd.DataFrame]:
    found = {}
    for method in ranking.judged:
        found[method.name] = there(table, method.configuration.runs)
    return found


def on_seconds(ranking: Ranking, values: pd.DataFrame, seconds: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """Each method's runs against the median, over its seeds, of the seconds at which a step ended: one run on
    a busy machine moves nothing.
    """
    found = {}
    for method in ranking.judged:
        runs = [run for run in method.configuration.runs if run in seconds]
        own = there(values, runs)
        if own.columns.size:
            time = seconds[own.columns].median(axis=1)
            own = own.set_axis(time, axis="index")
        found[method.name] = own
    return found


def _curve(
    ranking: Ranking, tables: Tables, xlabel: str, ylabel: str, raw: pd.DataFrame | None = None
) -> Figure:
    """A line for each method, the best on top, over faint ones of `raw`; the axis fits the runs that came to
    an end.
    """
    fig, ax = panel(xlabel, ylabel)
    values = [np.zeros(0)]
    for method in ranking.judged:
        done = there(tables[method.name], method.configuration.done)
        values.append(done.to_numpy(float).ravel())
    every = np.concatenate(values)
    style.log_if_wide(ax, "y", every)
    style.fit(ax, every)
    if raw is not None:
        _faint(ax, ranking, raw)
    looks, bands = method_looks(ranking), banded(ranking)
    for method in reversed(ranking.judged):
        _mean(ax, tables[method.name], method, looks[method.name], raw is None and method in bands)
    return fig


def _faint(ax: Axes, ranking: Ranking, raw: pd.DataFrame) -> None:
    """The means as they were before they were smoothed, of the methods that have a band."""
    looks = method_looks(ranking)
    for method in reversed(banded(ranking)):
        done = there(raw, method.configuration.done)
        colour = looks[method.name].colour
        ax.plot(raw.index, done.mean(axis=1), color=colour, alpha=0.3, linewidth=0.5)


def _mean(ax: Axes, table: pd.DataFrame, method: Method, look: Look, band: bool) -> None:
    done = there(table, method.configuration.done)
    if not done.empty:
        mean, half = mean_and_half(done.to_numpy(float))
        ax.plot(done.index, mean, **look.line)
        if band:
            spread(ax, done, look, mean, half)
    for run in there(table, method.configuration.diverged):
        line = table[run].dropna()
        if len(line):
            ax.plot(line.index, line, linewidth=0.5, **look.line)
            style.cross(ax, line.index[-1], line.iloc[-1], look.colour)


def clipping(ranking: Ranking) -> Iterator[Drawing]:
    """What clipping did: the factor and the norms over time, and the share of steps that were clipped."""
    methods = [method for method in ranking.judged if not method.is_reference]
    group = ranking.group
    if not methods or group.steps.empty:
        return
    factor, factors = panel("step", "clip factor")
    share, shares = panel("step", "steps clipped, %")
    norm, norms = panel("step", "gradient norm")
    width = math.ceil(int(group.steps["step"].max()) / BINS)
    looks, bands = method_looks(ranking), banded(ranking)
    for method in reversed(methods):
        look = looks[method.name]
        steps = group.steps_of(method.configuration)
        steps = without_skipped(steps)
        steps = steps[np.isfinite(steps["clip_factor"])]
        if steps.empty:
            continue
        bins = np.maximum(steps["step"].to_numpy() - 1, 0) // width
        _factors(factors, steps, bins, width, look, method in bands)
        _shares(shares, steps, bins, width, look)
        _norms(norms, steps, bins, width, look)
        level = median_level(group.steps_of(method.configuration), group.runs["settings"])
        if len(level):
            norms.plot(level.index, level, color=look.colour, linewidth=0.7, linestyle=LEVEL)
    every = group.steps_of(*(method.configuration for method in methods))
    counted = without_skipped(every)["clip_factor"]
    positive = counted[np.isfinite(counted) & (counted > 0)]
    style.log_if_wide(factors, "y", positive.quantile([0.05, 1]))
    shares.set_ylim(-3, 103)
    drawn = [np.zeros(0)]
    for line in norms.lines:
        drawn.append(np.asarray(line.get_ydata(), float))
    style.log_if_wide(norms, "y", np.concatenate(drawn))
    if norms.get_yscale() == "log":
        style.few_ticks(norms.yaxis, 1.6)
    yield "clip factor: median and the middle 80 % of steps and runs", factor
    yield "share of steps clipped", share
    yield (
        "gradient norm: medians over steps and runs, thin before clipping, thick after, dotted the level η",
        norm,
    )


def _factors(ax: Axes, steps: pd.DataFrame, bins: np.ndarray, width: int, look: Look, band: bool) -> None:
    factors = steps["clip_factor"].to_numpy(float)
    filled, quantiles = style.binned(bins, factors, (0.1, 0.5, 0.9))
    low, middle, high = quantiles
    x = (filled + 0.5) * width
    if band:
        ax.fill_between(x, low, high, color=look.colour, alpha=0.12, linewidth=0)
    ax.plot(x, middle, **look.line)


def _shares(ax: Axes, steps: pd.DataFrame, bins: np.ndarray, width: int, look: Look) -> None:
    is_one = is_clipped(steps["clip_factor"].to_numpy())
    clipped = np.bincount(bins, is_one)
    counts = np.bincount(bins)
    filled = np.flatnonzero(counts)
    x = (filled + 0.5) * width
    share = clipped[filled] / counts[filled]
    ax.plot(x, 100 * share, **look.line)


def _norms(ax: Axes, steps: pd.DataFrame, bins: np.ndarray, width: int, look: Look) -> None:
    for column, thickness in {"grad_norm": 0.5, "clipped_norm": 1.2}.items():
        norms = steps[column].to_numpy(float)
        filled, (middle,) = style.binned(bins, norms, (0.5,))
        x = (filled + 0.5) * width
        ax.plot(x, middle, linewidth=thickness, **look.line)


def budget(ranking: Ranking) -> Iterator[Drawing]:
    """What tuning brought: the expected best of k trials, over the pool of all repetitions."""
    tuning, group = ranking.group.tuning, ranking.group
    if tuning.empty:
        return
    fig, ax = panel("tuning trials", f"best {titles.headline(group)}")
    looks, drawn = method_looks(ranking), []
    for method in reversed(ranking.judged):
        trials = pool(tuning[tuning["method"] == method.configuration.name])
        if trials.isna().all():
            continue
        expected = stats.expected_best(trials, group.higher_is_better)[: method.tried]
        ax.plot(np.arange(1, len(expected) + 1), expected, **looks[method.name].line)
        drawn.append(expected)
    if drawn:
        style.fit(ax, np.concatenate(drawn))
        yield "best validation against budget: what so many of all trials bring on average", fig
