"""Loss, training metric and validation metric against step: one line per method."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from clipbench.analysis.groups import Group, Method, mean_interval
from clipbench.plot import style

POINTS = 500  # of a line: a panel is 450 pixels wide
BANDS = 12  # methods; more bands than that would hide the lines


def comparison(group: Group) -> Figure:
    """Mean over seeds with its 95 % t-interval. A run that diverged is a thin line of its own that ends in ✕, and no part of the mean.

    The loss is smoothed for the eye, each run before the mean: an exponential moving average over 2 % of the steps.
    """
    methods = group.shown
    counts = {len(method.done) for method in methods}
    entries = [_entry(method, n=len(counts) > 1) for method in methods]
    columns = min(
        3, max(1, 135 // (max(map(len, entries)) + 8))
    )  # 135 characters to a line, 8 of each column for its handle
    fig = style.figure(group.title(len(methods)), 2.4 + 0.125 * -(-len(methods) // columns))
    panels = {
        "training loss, smoothed": thinned(smooth(group.curve("loss"))),
        f"training {group.headline}": group.metric("train"),
        f"validation {group.headline}": group.metric("val"),
    }
    for i, (ax, (name, table)) in enumerate(zip(fig.subplots(1, 3), panels.items(), strict=True)):
        style.letter(ax, i, name)
        ax.set_xlabel("step")
        _limit(ax, table, methods)
        for method in methods:
            _draw(ax, table, method, band=len(methods) <= BANDS)
    fig.legend(
        [Line2D([], [], color=method.colour, linestyle=method.dash) for method in methods],
        entries,
        title=_explanation(group, counts),
        loc="outside lower center",
        ncols=columns,
        alignment="left",
    )
    return fig


def smooth(loss: pd.DataFrame) -> pd.DataFrame:
    """Each column's exponential moving average over 2 % of the steps; gaps where the loss is not finite."""
    finite = loss.where(np.isfinite(loss))
    return finite.ewm(span=max(1, len(loss) // 50)).mean().where(finite.notna())


def thinned(table: pd.DataFrame, points: int = POINTS) -> pd.DataFrame:
    """At most `points` rows at even distance, the first and the last among them."""
    return (
        table
        if len(table) <= points
        else table.iloc[np.linspace(0, len(table) - 1, points).round().astype(int)]
    )


def _limit(ax: Axes, table: pd.DataFrame, methods: tuple[Method, ...]) -> None:
    """The axis fits the runs that came to an end: one that explodes, or the wide interval of two seeds, leaves the panel."""
    done = table[[run for method in methods for run in method.done if run in table]]
    values = (table if done.empty else done).to_numpy(float)
    style.log_if_wide(ax, "y", values)
    style.fit(ax, values)


def _draw(ax: Axes, table: pd.DataFrame, method: Method, band: bool) -> None:
    look: dict[str, Any] = {
        "color": method.colour,
        "linestyle": method.dash,
        "marker": "." if len(table) <= 25 else "",
        "markersize": 3,
    }
    done = table[[run for run in method.done if run in table]]
    if not done.empty:
        mean, half = mean_interval(done.to_numpy(float))
        ax.plot(done.index, mean, label=method.label, **look)
        if band and done.shape[1] > 1:
            ax.fill_between(
                done.index, mean - half, mean + half, color=method.colour, alpha=0.12, linewidth=0
            )
    for run in method.diverged:
        if run in table and len(line := table[run].dropna()):
            ax.plot(line.index, line, linewidth=0.5, **look | {"marker": ""})
            style.cross(ax, line.index[-1], line.iloc[-1], method.colour)


def _entry(method: Method, n: bool) -> str:
    mean, half = mean_interval(method.finals) if len(method.finals) else (np.nan, np.nan)
    result = style.number(float(mean)) + ("" if np.isnan(half) else f" ± {style.number(float(half))}")
    counts = [f"n={len(method.done)}"] * n + [f"{len(method.diverged)}✕"] * bool(method.diverged)
    return "   ".join([method.label, result, *counts])


def _explanation(group: Group, counts: set[int]) -> str:
    spread = "" if counts <= {0, 1} else "mean ± 95 % t-interval"
    n = f"n={min(counts)}" if len(counts) == 1 else ""
    diverged = "✕ diverged, not in the mean" if any(method.diverged for method in group.shown) else ""
    bands = f"no bands for more than {BANDS} methods" if len(group.shown) > BANDS else ""
    return ", ".join(
        filter(None, [f"final validation {group.headline}, best first", spread, n, diverged, bands])
    )
