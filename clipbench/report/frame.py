"""What the page's small figures share: size, fonts, the empty panel, and which methods show their runs."""

from __future__ import annotations

from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from clipbench.analysis.ranking import Method, Ranking
from clipbench.plot import style

SIZE = (3.05, 2.15)  # inches
MARGINS = (0.56, 0.08, 0.4, 0.08)
RC: dict[str, Any] = style.RC | {
    "font.size": 7.5,
    "axes.labelsize": 7.5,
    "xtick.labelsize": 7,
    "ytick.labelsize": 7,
    "legend.fontsize": 7,
    "lines.linewidth": 1.2,
    "svg.fonttype": "none",  # the reader's own font, and a fifth of the size
    "svg.hashsalt": "clipbench",
    "path.simplify_threshold": 0.3,
}
BANDS = 4  # methods; of more than that only none and the best show their runs

Drawing = tuple[str, Figure]  # what it shows, and it


def panel(xlabel: str, ylabel: str) -> tuple[Figure, Axes]:
    """An empty figure of one panel, its labels at the same place whatever the ticks."""
    fig = style.figure("", SIZE[1], SIZE[0], MARGINS)
    ax = fig.subplots()
    left, right, _, _ = MARGINS
    ylabel = style.shortened(ylabel, SIZE[1] - 0.1, RC["axes.labelsize"])
    xlabel = style.shortened(xlabel, SIZE[0] - left, RC["axes.labelsize"])
    ax.set(xlabel=xlabel, ylabel=ylabel)
    edge = -(left - 0.15) / (SIZE[0] - left - right)  # the left one of the figure
    ax.yaxis.set_label_coords(edge, 0.5)
    return fig, ax


def banded(ranking: Ranking) -> list[Method]:
    """The methods that show their runs or a band: more of them would hide the lines."""
    judged = ranking.judged
    if len(judged) <= BANDS:
        return list(judged)
    best = judged[0]
    return [method for method in judged if method is ranking.reference or method is best]
