"""Loss, training metric and validation metric against step: one line per method."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from clipbench.plot import style
from clipbench.plot.groups import Group, Method, mean_interval

COLUMNS = 3  # of the legend


def comparison(group: Group) -> Figure:
    """Mean over seeds with its 95 % t-interval. A run that diverged is a thin line of its own that ends in ✕, and no part of the mean.

    The loss is smoothed for the eye, each run before the mean: an exponential moving average over 2 % of the steps.
    """
    fig = style.figure(group.title, 2.4 + 0.125 * -(-len(group.shown) // COLUMNS))
    panels = [
        (
            "training loss, smoothed",
            _smooth(group.steps.pivot(index="step", columns="run", values="loss").astype(float)),
        ),
        (f"training {group.headline}", group.metric("train")),
        (f"validation {group.headline}", group.metric("val")),
    ]
    for i, (ax, (name, table)) in enumerate(zip(fig.subplots(1, 3), panels, strict=True)):
        style.letter(ax, i, name)
        ax.set_xlabel("step")
        _limit(ax, table, group.shown)
        for method in group.shown:
            _draw(ax, table, method)
    counts = {len(method.done) for method in group.shown}
    n = f"n = {counts.pop()}, " if len(counts) == 1 else ""
    fig.legend(
        [Line2D([], [], color=method.colour, linestyle=method.dash) for method in group.shown],
        [_entry(method, "" if n else f"n={len(method.done)}") for method in group.shown],
        title=f"final validation {group.headline}: mean ± 95 % t-interval, {n}best first" + _note(group),
        loc="outside lower center",
        ncols=COLUMNS,
        alignment="left",
    )
    return fig


def _smooth(loss: pd.DataFrame) -> pd.DataFrame:
    finite = loss.where(np.isfinite(loss))
    return finite.ewm(span=max(1, len(loss) // 50)).mean().where(finite.notna())


def _limit(ax: Axes, table: pd.DataFrame, methods: tuple[Method, ...]) -> None:
    """The axis fits the runs that came to an end: one that explodes, or the wide interval of two seeds, leaves the panel."""
    done = table[[run for method in methods for run in method.done if run in table]]
    values = (table if done.empty else done).to_numpy(float)
    style.log_if_wide(ax, "y", values)
    style.fit(ax, values)


def _draw(ax: Axes, table: pd.DataFrame, method: Method) -> None:
    look = {
        "color": method.colour,
        "linestyle": method.dash,
        "marker": "." if len(table) <= 25 else "",
        "markersize": 3,
    }
    done = table[[run for run in method.done if run in table]]
    if not done.empty:
        mean, half = mean_interval(done.to_numpy(float))
        ax.plot(done.index, mean, label=method.label, **look)
        ax.fill_between(done.index, mean - half, mean + half, color=method.colour, alpha=0.12, linewidth=0)
    for run in method.diverged:
        if run in table and len(line := table[run].dropna()):
            ax.plot(line.index, line, linewidth=0.5, **look | {"marker": ""})
            style.cross(ax, line.index[-1], line.iloc[-1], method.colour)


def _entry(method: Method, n: str) -> str:
    mean, half = mean_interval(method.finals) if len(method.finals) else (np.nan, np.nan)
    result = style.number(float(mean)) + ("" if np.isnan(half) else f" ± {style.number(float(half))}")
    lost = f"{len(method.diverged)}✕" if method.diverged else ""
    return "   ".join(filter(None, [method.label, result, n, lost]))


def _note(group: Group) -> str:
    return "; ✕ diverged, not in the mean" if any(method.diverged for method in group.shown) else ""
