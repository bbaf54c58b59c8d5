"""The figure and the table of several tasks at once."""

from __future__ import annotations

import numpy as np
from matplotlib.figure import Figure

from clipbench import stats
from clipbench.analysis.across import REPEATS, Across, Aggregate
from clipbench.analysis.places import GRADIENT
from clipbench.plot import style
from clipbench.plot.looks import Look, method_looks
from clipbench.report.cells import Cell
from clipbench.report.frame import panel
from clipbench.stats import Interval

TAUS = np.linspace(-0.5, 1.0, 61)
SCALE = f"scaled score τ (0: {GRADIENT.words}, 1: best seen)"
COLUMNS = ("method", "interquartile mean", "median", "optimality gap", "mean rank", "best on")


def looks(found: Across) -> dict[str, Look]:
    """Of each method, as at the first task."""
    return method_looks(next(iter(found.rankings.values())))


def profile(found: Across) -> Figure:
    """Share of runs above τ, mean over tasks, with its pointwise 95 % band."""
    fig, ax = panel(SCALE, "share of runs above τ")
    look_of = looks(found)
    for row in reversed(found.rows):
        look = look_of[row.name]
        rng = np.random.default_rng(0)
        band = stats.performance_profile(found.scores[row.name], TAUS, rng, REPEATS)
        ax.plot(band.at, band.estimate, **look.line)
        if np.isfinite(band.low).all():
            ax.fill_between(band.at, band.low, band.high, color=look.colour, alpha=0.1, linewidth=0)
    for at in (0, 1):
        ax.axvline(at, color=style.GREY, linewidth=0.5)
    ax.set_ylim(-0.02, 1.02)
    return fig


def seeds(found: Across) -> str:
    """ "n=3 to 5 seeds a task"."""
    counts: set[int] = set()
    for scores in found.scores.values():
        counts.update(map(len, scores.values()))
    first, last = min(counts), max(counts)
    n = f"n={first} to {last}" if last > first else f"n={first}"
    return f"{n} seeds a task"


def cells(found: Across, row: Aggregate) -> list[Cell]:
    """One for each of COLUMNS but the first."""
    wins = f"{row.wins} of {len(found.rankings)}"
    return [
        _cell(row.mean),
        _cell(row.median),
        _cell(row.gap),
        Cell(row.rank, f"{row.rank:.1f}"),
        Cell(row.wins, wins),
    ]


def _cell(found: Interval) -> Cell:
    text = _text(found.estimate)
    if not np.isfinite([found.low, found.high]).any():
        return Cell(found.estimate, text)
    ends = f"{_text(found.low)} to {_text(found.high)}"
    return Cell(found.estimate, text, (ends,))


def _text(value: float) -> str:
    text = f"{value:.2f}"
    if float(text) == 0:
        text = text.lstrip("-")
    return text.replace("-", "−").replace("inf", "∞")
