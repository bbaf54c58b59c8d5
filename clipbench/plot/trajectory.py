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


def trajectory(group: Group) -> Figure:
    """Median, and the range as a shade, over the steps of a bin and all seeds: grey before clipping, coloured after it.

    The range keeps every spike, which a mean would hide. ▲ marks a norm that is not finite, ✕ the end of a run that diverged.
    """
    methods = group.shown
    columns = min(5 if len(methods) > 9 else 3, max(1, 125 // max(len(method.label) + 6 for method in methods)))
    fig = style.figure(group.title(len(methods)), 0.75 + 1.15 * -(-len(methods) // columns))
    panels = style.grid(fig, len(methods), columns, sharex=True, sharey=True)
    every = group.steps_of(*methods)
    style.log_if_wide(panels[0], "y", every[["grad_norm", "clipped_norm"]])
    style.fit(panels[0], every[["grad_norm", "clipped_norm"]])
    width = -(-(int(every["step"].max()) + 1) // BINS) if len(every) else 1
    for i, (ax, method) in enumerate(zip(panels, methods, strict=True)):
        style.letter(ax, i, method.label)
        steps = group.steps_of(method).astype({"grad_norm": float, "clipped_norm": float})
        _range(ax, steps, "grad_norm", width, style.GREY)
        _range(ax, steps, "clipped_norm", width, method.colour)
        _marks(ax, steps, method)
    for ax in panels[-columns:]:
        ax.set_xlabel("step")
    fig.supylabel("gradient norm", fontsize=6.5)
    handles = {
        "before clipping": Line2D([], [], color=style.GREY),
        "after clipping, in the method's colour": Line2D([], [], color=methods[0].colour),
    }
    if not np.isfinite(every["grad_norm"]).all():
        handles["norm not finite"] = Line2D([], [], marker="^", markersize=2.5, color="black", linestyle="")
    if any(method.diverged for method in methods):
        handles["diverged"] = Line2D([], [], marker="X", markersize=4, color="black", linestyle="")
    fig.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=4)
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
