"""The figure of `clipbench tails`: a row of panels for each step."""

from __future__ import annotations

import textwrap
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, MaxNLocator, NullLocator, ScalarFormatter

from clipbench import stats
from clipbench.analysis.noise import amount, conclusion, provenance, samples, statistics_in_words
from clipbench.errors import UserError
from clipbench.plot import style
from clipbench.plot.looks import DASHES, Dash
from clipbench.stats import Tail
from clipbench.stats.pareto import TAIL

COLOURS = {
    "normal": style.GREY,
    "chi": "#0072B2",
    "lognormal": "#D55E00",
    "exponential": "#009E73",
    "pareto": "#882255",
}
DASH: dict[str, Dash] = {
    "normal": DASHES[1],
    "chi": "-",
    "lognormal": "-",
    "exponential": DASHES[2],
    "pareto": DASHES[3],
}
NAMES = {"chi": "χ", "pareto": "Pareto"}

NOISE = r"‖∇f$_\mathrm{B}$ − ∇f‖"


def draw_tails(rows: pd.DataFrame, path: Path) -> Path:
    """Write the figure of one run's rows of `tails`. UserError where it cannot be written."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with style.drawing():
            figure(rows).savefig(path)
    except OSError as error:
        reason = error.strerror or error
        raise UserError(f"Cannot write {path}: {reason}. Choose another folder with results=DIR.") from error
    return path


def figure(rows: pd.DataFrame) -> Figure:
    """For each step: histogram with densities, P(‖noise‖ ≥ x) with fits, Q-Q, Hill's α over k with its band;
    numbers and a sentence.
    """
    label, tails = rows["label"].iloc[0], samples(rows)
    title = f"{label}   ·   {amount(rows)}\n{provenance(rows)}"
    fig = style.figure(title, 0.65 + 2.2 * len(tails))
    parts = np.atleast_1d(fig.subfigures(len(tails), 1))  # type: ignore[arg-type]
    draws = (_density, _ccdf, _quantiles, _hill)
    letter = 0
    for part, (step, tail) in zip(parts, tails.items(), strict=True):
        full_norm = rows["full_norm"][rows["step"] == step].iloc[0]
        part.suptitle(_head(step, tail, full_norm), x=0.005, ha="left", fontsize=6.5)
        for draw, ax in zip(draws, part.subplots(1, 4), strict=True):
            name = draw(ax, tail)
            style.letter(ax, letter, name)
            letter += 1
    handles, labels = parts[0].axes[1].get_legend_handles_labels()
    fig.legend(handles, labels, loc="outside lower center", ncols=len(labels))
    return fig


def _head(step: int, tail: Tail, full_norm: float) -> str:
    """What stands over the panels of a step: its numbers, and below them what may be concluded."""
    median = np.median(tail.values)
    norms = f"‖∇f‖ {full_norm:.3g}, median {NOISE} {median:.3g}"
    sentence = textwrap.fill(conclusion(tail), 150)
    return f"{statistics_in_words(step, tail)}   {norms}\n{sentence}"


def _density(ax: Axes, tail: Tail) -> str:
    smallest, largest = tail.values[0], tail.values[-1]
    x = np.linspace(smallest, largest, 400)
    bins = "fd" if len(tail.values) < 5000 else 80
    ax.hist(tail.values, bins=bins, density=True, color="#d9d9d9")
    for name in ("normal", "chi", "lognormal"):
        density = tail.fits[name].pdf(x)
        ax.plot(x, density, color=COLOURS[name], linestyle=DASH[name])
    ax.set(yticks=[], xlabel=NOISE, ylim=(0, None))
    ax.spines["left"].set_visible(False)
    return "density"


def _ccdf(ax: Axes, tail: Tail) -> str:
    """The share of batches at or above each norm, and that of the fits."""
    n = len(tail.values)
    share = 1 - np.arange(n) / n
    ax.plot(tail.values, share, ".", color="black", markersize=2, label="batches")
    smallest, largest = tail.values[0], tail.values[-1]
    x = np.geomspace(smallest, largest * 1.15, 400)
    for name, colour in COLOURS.items():
        ax.plot(
            x,
            tail.ccdf(name, x),
            label=NAMES.get(name, name),
            color=colour,
            linestyle=DASH[name],
            linewidth=0.9,
        )
    ax.set(xscale="log", yscale="log")
    ax.set(ylim=(0.4 / n, 1.6), xlabel="x")
    _few_ticks(ax)
    return f"P({NOISE} ≥ x)"


def _quantiles(ax: Axes, tail: Tail) -> str:
    """The batches on the quantiles of each fit: on the line where it holds."""
    n = len(tail.values)
    at = (np.arange(n) + 0.5) / n
    for name in ("normal", "lognormal", "chi"):
        expected = tail.fits[name].ppf(at)
        ax.plot(
            expected,
            tail.values,
            ".",
            color=COLOURS[name],
            markersize=1.8,
            markeredgewidth=0,
        )
    ends = [tail.values[0], tail.values[-1]]
    ax.plot(ends, ends, color="black", linewidth=0.5)
    limits = _around(*ends)
    ax.set(xlabel="quantile of the fit", xlim=limits, ylim=limits)
    ax.xaxis.set_major_locator(MaxNLocator(4))
    ax.yaxis.set_major_locator(MaxNLocator(4))
    return "Q-Q: batches on fits"


def _hill(ax: Axes, tail: Tail) -> str:
    """Hill's α with its band, the line below which no variance exists, and the size of the tail."""
    k, alpha, low, high = stats.hill(tail.values)
    finite = np.isfinite(alpha)
    ax.fill_between(k[finite], low[finite], high[finite], color="black", alpha=0.15, linewidth=0)
    ax.plot(k, alpha, color="black")
    colour = COLOURS["pareto"]
    ax.axhline(2, color=colour, linewidth=0.6, linestyle=":")
    ax.annotate(
        "variance infinite below",
        (1, 2),
        (0, -1.5),
        ("axes fraction", "data"),
        "offset points",
        ha="right",
        va="top",
        fontsize=5,
        color=colour,
    )
    tail_size = max(5, int(TAIL * len(tail.values)))
    ax.axvline(tail_size, color=style.GREY, linewidth=0.5)
    lowest = min(1.4, float(low[finite].min()))
    ax.set(xscale="log", yscale="log")
    ax.set(xlabel="k largest", ylim=(lowest, None))
    _few_ticks(ax)
    return "Hill's α, 95 % band"


def _around(low: float, high: float) -> tuple[float, float]:
    margin = 0.04 * (high - low)
    return low - margin, high + margin


def _few_ticks(ax: Axes) -> None:
    """1, 2, 5 on logarithmic axes that span little, as plain numbers."""
    _few_ticks_on(ax.xaxis, *ax.get_xlim())
    _few_ticks_on(ax.yaxis, *ax.get_ylim())


def _few_ticks_on(axis: Axis, low: float, high: float) -> None:
    if high >= 60 * low:
        return
    axis.set_major_locator(FixedLocator(_ticks(low, high)))
    axis.set_major_formatter(ScalarFormatter())
    axis.set_minor_locator(NullLocator())


def _ticks(low: float, high: float) -> list[float]:
    ticks = []
    for exponent in range(-12, 13):
        for first in (1, 2, 5):
            tick = first * 10.0**exponent
            if low <= tick <= high:
                ticks.append(tick)
    if len(ticks) > 1:
        return ticks
    even = np.asarray(MaxNLocator(3).tick_values(low, high))
    return even[(low <= even) & (even <= high)].tolist()
