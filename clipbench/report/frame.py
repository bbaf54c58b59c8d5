"""What the page's small figures share: size, fonts, the empty panel, and which methods have a band."""

from __future__ import annotations

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from clipbench.analysis.ranking import Method, Ranking
from clipbench.plot import style

SIZE = (3.05, 2.15)  # inches
MARGINS = (0.56, 0.08, 0.4, 0.08)
RC = style.RC | {
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
BANDS = 4  # methods; of more than that only none and the best keep theirs
LONGEST = 34  # characters along the axis

Drawing = tuple[str, Figure]  # what it shows, and it


def panel(xlabel: str, ylabel: str) -> tuple[Figure, Axes]:
    """An empty figure of one panel, its labels at the same place whatever the ticks."""
    fig = style.figure("", SIZE[1], SIZE[0], MARGINS)
    ax = fig.subplots()
    if len(ylabel) > LONGEST:
        ylabel = ylabel[: LONGEST - 1] + "…"
    ax.set(xlabel=xlabel, ylabel=ylabel)
    left, right, _, _ = MARGINS
    edge = -(left - 0.15) / (SIZE[0] - left - right)  # the left one of the figure
    ax.yaxis.set_label_coords(edge, 0.5)
    return fig, ax


def banded(ranking: Ranking) -> list[Method]:
    """The methods that have a band: more of them would hide the lines."""
    judged = ranking.judged
    if len(judged) <= BANDS:
        return list(judged)
    best = judged[0]
    return [method for method in judged if method is ranking.reference or method is best]
