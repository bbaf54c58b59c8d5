"""Loss, training metric and validation metric against step: one line per configuration."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from clipbench.analysis.group import Configuration, Group
from clipbench.plot import style
from clipbench.plot.looks import Look, shown, title
from clipbench.stats import mean_and_half

POINTS = 500  # of a line: a panel is 450 pixels wide
BANDS = 12  # configurations; more bands than that would hide the lines
CHARACTERS = 135  # to a line of the legend, 8 of each column for its handle


def comparison(group: Group) -> Figure:
    """Mean over seeds with its 95 % t-interval. A run that diverged is a thin line of its own that ends in ✕,
    and no part of the mean.

    The loss is smoothed for the eye, each run before the mean: an exponential moving average over 2 % of the
    steps.
    """
    lines = shown(group)
    configurations, _ = zip(*lines, strict=True)
    counts = {len(configuration.done) for configuration in configurations}
    unequal = len(counts) > 1
    entries = [_entry(configuration, n=unequal) for configuration in configurations]
    longest = max(map(len, entries))
    columns = min(3, max(1, CHARACTERS // (longest + 8)))
    rows = math.ceil(len(lines) / columns)
    fig = style.figure(title(group, len(lines)), 2.4 + 0.125 * rows)
    panels = {
        "training loss, smoothed": thinned(smooth(group.curve("loss"))),
        f"training {group.headline}": group.metric("train"),
        f"validation {group.headline}": group.metric("val"),
    }
    for i, (ax, (name, table)) in enumerate(zip(fig.subplots(1, 3), panels.items(), strict=True)):
        style.letter(ax, i, name)
        ax.set_xlabel("step")
        _limit(ax, table, configurations)
        for configuration, look in lines:
            _draw(ax, table, configuration, look, band=len(lines) <= BANDS)
    fig.legend(
        [Line2D([], [], **look.line) for _, look in lines],
        entries,
        title=_explanation(group, configurations, counts),
        loc="outside lower center",
        ncols=columns,
        alignment="left",
    )
    return fig


def smooth(loss: pd.DataFrame) -> pd.DataFrame:
    """Each column's exponential moving average over 2 % of the steps; gaps where the loss is not finite."""
    finite = loss.where(np.isfinite(loss))
    span = max(1, len(loss) // 50)
    averages = finite.ewm(span=span).mean()
    return averages.where(finite.notna())


def thinned(table: pd.DataFrame, points: int = POINTS) -> pd.DataFrame:
    """At most `points` rows at even distance, the first and the last among them."""
    if len(table) <= points:
        return table
    last = len(table) - 1
    rows = np.linspace(0, last, points).round()
    return table.iloc[rows.astype(int)]


def there(table: pd.DataFrame, runs: Sequence[str]) -> pd.DataFrame:
    """Those of `runs` that have a column."""
    return table[[run for run in runs if run in table]]


def _limit(ax: Axes, table: pd.DataFrame, configurations: Sequence[Configuration]) -> None:
    """The axis fits the runs that came to an end: one that explodes, or the wide interval of two seeds,
    leaves the panel.
    """
    runs: list[str] = []
    for configuration in configurations:
        runs += configuration.done
    done = there(table, runs)
    shown_values = table if done.empty else done
    values = shown_values.to_numpy(float)
    style.log_if_wide(ax, "y", values)
    style.fit(ax, values)


def _draw(ax: Axes, table: pd.DataFrame, configuration: Configuration, look: Look, band: bool) -> None:
    marker = "." if len(table) <= 25 else ""
    done = there(table, configuration.done)
    if not done.empty:
        mean, half = mean_and_half(done.to_numpy(float))
        label = configuration.label
        ax.plot(done.index, mean, label=label, marker=marker, markersize=3, **look.line)
        if band and done.shape[1] > 1:
            low, high = mean - half, mean + half
            ax.fill_between(done.index, low, high, color=look.colour, alpha=0.12, linewidth=0)
    for run in there(table, configuration.diverged):
        values = table[run].dropna()
        if len(values):
            ax.plot(values.index, values, linewidth=0.5, **look.line)
            style.cross(ax, values.index[-1], values.iloc[-1], look.colour)


def _entry(configuration: Configuration, n: bool) -> str:
    """ "norm 0.5   0.713 ± 0.012   n=5   1✕"; `n`: whether to say how many seeds."""
    result = "–"
    if len(configuration.finals):
        mean, half = map(float, mean_and_half(configuration.finals))
        result = style.number(mean)
        if not np.isnan(half):
            result += f" ± {style.number(half)}"
    parts = [configuration.label, result]
    if n:
        parts.append(f"n={len(configuration.done)}")
    if configuration.diverged:
        parts.append(f"{len(configuration.diverged)}✕")
    return "   ".join(parts)


def _explanation(group: Group, configurations: Sequence[Configuration], counts: set[int]) -> str:
    parts = [f"final validation {group.headline}, best first"]
    if not counts <= {0, 1}:
        parts.append("mean ± 95 % t-interval")
    if len(counts) == 1:
        parts.append(f"n={min(counts)}")
    if any(configuration.diverged for configuration in configurations):
        parts.append("✕ diverged, not in the mean")
    if len(configurations) > BANDS:
        parts.append(f"no bands for more than {BANDS} methods")
    return ", ".join(parts)
