"""Gradient norm before and after clipping over time: one panel per method."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from clipbench.plot import style
from clipbench.plot.groups import Group, Method

BINS = 120  # of steps: what a panel of this size can show
COLUMNS = 5


def trajectory(group: Group) -> Figure:
    """Median, and the range as a shade, over the steps of a bin and all seeds: grey before clipping, coloured after it.

    The range keeps every spike, which a mean would hide. ▲ marks a norm that is not finite, ✕ the end of a run that diverged.
    """
    methods = group.shown
    columns = COLUMNS if len(methods) > 9 else 3
    fig = style.figure(group.title, 0.75 + 1.15 * -(-len(methods) // columns))
    panels = style.grid(fig, len(methods), columns, sharex=True, sharey=True)
    norms = group.steps[["grad_norm", "clipped_norm"]]
    style.log_if_wide(panels[0], "y", norms)
    style.fit(panels[0], norms)
    width = max(1, -(-int(group.steps["step"].max() + 1) // BINS)) if len(group.steps) else 1
    for i, (ax, method) in enumerate(zip(panels, methods, strict=True)):
        style.letter(ax, i, method.label, color=method.colour)
        steps = group.steps[group.steps["run"].isin(method.runs)].astype({"grad_norm": float, "clipped_norm": float})
        _range(ax, steps, "grad_norm", width, style.GREY)
        _range(ax, steps, "clipped_norm", width, method.colour)
        _marks(ax, steps, method)
    marks = _marks_used(group)
    fig.legend(
        [Line2D([], [], color=style.GREY), Line2D([], [], color=methods[0].colour), *marks],
        ["before clipping", "after clipping, in the method's colour", *marks.values()],
        loc="outside lower center",
        ncols=4,
    )
    fig.supxlabel("step", fontsize=6.5)
    fig.supylabel("gradient norm", fontsize=6.5)
    return fig


def _range(ax: Axes, steps: pd.DataFrame, column: str, width: int, colour: str) -> None:
    finite = steps[np.isfinite(steps["grad_norm"]) & np.isfinite(steps[column])]
    bins = finite.groupby(finite["step"] // width)[column].agg(["min", "median", "max"])
    x = (bins.index + 0.5) * width - 0.5
    ax.fill_between(x, bins["min"], bins["max"], color=colour, alpha=0.25, linewidth=0)
    ax.plot(x, bins["median"], color=colour, label=column)


def _marks(ax: Axes, steps: pd.DataFrame, method: Method) -> None:
    top = ax.get_ylim()[1]
    odd = steps["step"][~np.isfinite(steps["grad_norm"])]
    if len(odd):
        ax.plot(odd, np.full(len(odd), top), "^", markersize=2.5, markeredgewidth=0, color="black", clip_on=False)
    ends = steps[steps["run"].isin(method.diverged)].groupby("run").last()
    for step, norm in zip(ends["step"], ends["grad_norm"], strict=True):
        style.cross(ax, step, norm, method.colour)


def _marks_used(group: Group) -> dict[Line2D, str]:
    """The marks that occur, for the legend."""
    marks = {}
    if not np.isfinite(group.steps["grad_norm"]).all():
        marks[Line2D([], [], marker="^", markersize=2.5, color="black", linestyle="")] = "norm not finite"
    if any(method.diverged for method in group.shown):
        marks[Line2D([], [], marker="X", markersize=4, color="black", linestyle="")] = "diverged"
    return marks
