"""Loss, training metric and validation metric against step: one line per method."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from clipbench.plot import style
from clipbench.plot.groups import Group, Method, mean_interval

COLUMNS = 3  # of the legend


def comparison(group: Group) -> Figure:
    """Mean over seeds with its 95 % t-interval. Diverged runs are thin lines of their own that end in ✕, outside the mean.

    The loss is smoothed for the eye: an exponential moving average over 2 % of the steps, on each run before the mean.
    """
    methods = group.methods[: style.MOST]
    fig = style.figure(group.title, 2.3 + 0.125 * -(-len(methods) // COLUMNS))
    loss = group.steps.pivot(index="step", columns="run", values="loss").astype(float)
    panels = [
        ("training loss", _smooth(loss)),
        (f"training {group.headline}", group.metric("train")),
        (f"validation {group.headline}", group.metric("val")),
    ]
    lines = []
    for i, (ax, (name, table)) in enumerate(zip(fig.subplots(1, 3), panels, strict=True)):
        style.letter(ax, i, name)
        ax.set_xlabel("step")
        _limits(ax, table, methods)
        lines = [_line(ax, table, method) for method in methods]
    done = {len(method.done) for method in methods}
    fig.legend(
        lines,
        [_entry(method, count=len(done) > 1) for method in methods],
        title=_legend_title(group, done),
        loc="outside lower center",
        ncols=COLUMNS,
    )
    return fig
