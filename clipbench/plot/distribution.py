"""How large the gradients were before clipping: density, share of steps above a norm, and how many steps were
clipped.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from scipy import stats

from clipbench.analysis.group import Configuration
from clipbench.analysis.ranking import Ranking
from clipbench.analysis.steps import clipped_share, is_skipped
from clipbench.analysis.thresholds import MOVING, level_over_steps
from clipbench.plot import style, titles
from clipbench.plot.looks import Look, named, shown

POINTS = 500  # of a curve, however many steps there are


def distribution(found: Sequence[Ranking], width: float = style.WIDTH) -> Figure:
    """a: histogram and kernel density of log₁₀ ‖g‖, each to its own height, with the level η. b: P(‖g‖ ≥ x).
    All steps of all runs, of diverged ones too.

    A norm of zero has no place on these axes and one that is not finite lies beyond them: they count in every
    share but that of steps clipped, where a step that was skipped has no part, and are named.
    """
    group, lines = found[0].group, shown(found)
    configurations = [configuration for configuration, _ in lines]
    parts = [group.steps_of(configuration) for configuration in configurations]
    levels = [_levels(part, each) for part, each in zip(parts, configurations, strict=True)]
    edges = _edges(pd.concat(parts)["grad_norm"], levels)
    wide = width >= style.WIDE
    names = [named(configuration) for configuration in configurations]
    room = min(1.45 if wide else 1.25, max(style.inches(name, 6.5) for name in names))
    left, counts_room = 0.12 + room, 0.72
    row = 0.3 if len(lines) <= 8 else 0.25  # inches
    density = row * len(lines)
    handles, words = _handles(levels, configurations)
    legend = style.Legend(handles, words, width) if handles else None
    foot = 0.38 + (legend.height if legend else 0)
    tail, gap = (max(density, 1.5), 0.0) if wide else (1.4, 0.62)
    panels = tail if wide else density + gap + tail
    fig = style.titled(
        titles.title(group), titles.notes(found, len(lines)), panels, (left, 0.1, foot, 0.2), width
    )
    total = fig.get_figheight()
    right = 0.56 * width if wide else width - 0.1
    top = foot + panels
    above = fig.add_axes(_box(width, total, right + 0.6 if wide else 0.52, width - 0.1, foot, foot + tail))
    height = (panels if wide else density) / len(lines)
    for i, (configuration, look) in enumerate(lines):
        box = _box(width, total, left, right - counts_room, top - (i + 1) * height, top - (i + 0.12) * height)
        ax = fig.add_axes(box)
        norms = parts[i]["grad_norm"].to_numpy(float)
        _density(ax, norms, edges, look)
        _level(ax, levels[i])
        label = style.shortened(names[i], room, 6.5)
        ax.text(-0.03, 0.4, label, transform=ax.transAxes, ha="right", va="center", fontsize=6.5)
        counts = _counts(norms, parts[i]["clip_factor"], height)
        ax.text(1.02, 0.4, counts, transform=ax.transAxes, va="center", linespacing=1.05, fontsize=6)
        _above(above, norms, configuration.label, look)
        if i == 0:
            style.letter(ax, 0, "density")
        if i < len(lines) - 1:
            ax.minorticks_off()
            ax.set_xticks([])
        else:
            ax.set_xlabel("gradient norm before clipping")
            style.few_ticks(ax.xaxis, right - counts_room - left)
    style.letter(above, 1, "share of steps above")  # no tail: these norms are not identically distributed
    most_steps = max(map(len, parts))
    rarest = 1 / max(1, most_steps)
    above.set(xscale="log", xlim=_limits(edges), xlabel="gradient norm x before clipping")
    above.set(yscale="log", ylim=(0.7 * rarest, 1.4), ylabel="share of steps with norm ≥ x")
    style.few_ticks(above.xaxis, width - 0.1 - (right + 0.6 if wide else 0.52))
    style.few_ticks(above.yaxis, tail)
    if legend:
        legend.draw(fig)
    return fig


def _box(width: float, height: float, *ends: float) -> tuple[float, float, float, float]:
    """(left, bottom, width, height) in shares of the figure, of a box's left, right, bottom and top in
    inches.
    """
    left, right, bottom, top = ends
    return left / width, bottom / height, (right - left) / width, (top - bottom) / height


def _levels(steps: pd.DataFrame, configuration: Configuration) -> np.ndarray:
    """η at some steps; empty where the type has none of the norm."""
    level = level_over_steps(steps, configuration.settings).to_numpy(float)
    return level[np.isfinite(level) & (level > 0)]


def _handles(
    levels: Sequence[np.ndarray], configurations: Sequence[Configuration]
) -> tuple[list[Line2D | Patch], list[str]]:
    handles: list[Line2D | Patch] = []
    names = []
    if any(len(level) for level in levels):
        handles.append(Line2D([], [], color="black", linewidth=0.9))
        names.append("level η")
    if any(each.type in MOVING for each in configurations):
        handles.append(Patch(color="black", alpha=0.15, linewidth=0))
        names.append("middle 80 % of a level that moves; the line is its median")
    return handles, names


def _limits(edges: np.ndarray) -> tuple[float, float]:
    """The first and the last norm on the axis; `edges` are in log₁₀."""
    first, last = 10 ** edges[[0, -1]]
    return first, last


def _edges(norms: pd.Series, levels: Sequence[np.ndarray]) -> np.ndarray:
    """Sixty bins of equal width in log₁₀ over the norms of all configurations, and levels within a decade of
    them. (61,)
    """
    positive = norms[np.isfinite(norms) & (norms > 0)].astype(float)
    low, high = 0.0, 0.0
    if len(positive):
        low = np.log10(positive.min())
        high = np.log10(positive.max())
        near = [np.log10(np.quantile(level, (0.1, 0.9))) for level in levels if len(level)]
        for end in np.ravel(near):
            if low - 1 <= end <= high + 1:
                low, high = min(low, end), max(high, end)
    margin = 0.02 * (high - low) or 0.5
    return np.linspace(low - margin, high + margin, 61)


def _density(ax: Axes, norms: np.ndarray, edges: np.ndarray, look: Look) -> None:
    logs = np.log10(norms[np.isfinite(norms) & (norms > 0)])
    if len(logs):
        heights, _ = np.histogram(logs, edges, density=True)
        ax.stairs(heights, 10**edges, fill=True, color=look.colour, alpha=0.3)
    if len(logs) > 1 and np.ptp(logs) > 1e-6:  # the kernel of a constant has no width
        x = np.linspace(edges[0], edges[-1], 300)
        count = min(len(logs), POINTS)
        some = np.linspace(0, len(logs) - 1, count).astype(int)
        bandwidth = len(logs) ** -0.2
        kernel = stats.gaussian_kde(np.sort(logs)[some], bandwidth)
        ax.plot(10**x, kernel(x), **look.line)
    ax.set(xscale="log", xlim=_limits(edges))
    ax.set(ylim=(0, None), yticks=[])
    ax.spines["left"].set_visible(False)


def _level(ax: Axes, level: np.ndarray) -> None:
    """A line at η, a band where it moves; an arrow at the edge where it lies beyond the axis."""
    if not len(level):
        return
    low, middle, high = np.quantile(level, (0.1, 0.5, 0.9))
    left, right = ax.get_xlim()
    if not left <= middle <= right:
        at, text = (0.0, "◂η") if middle < left else (1.0, "η▸")
        side = "left" if middle < left else "right"
        ax.text(at, 0.5, text, transform=ax.transAxes, ha=side, va="center", fontsize=6)
        return
    if high > low * (1 + 1e-9):
        ax.axvspan(max(low, left), min(high, right), color="black", alpha=0.15, linewidth=0)
    ax.axvline(middle, color="black", linewidth=0.9)


def _above(ax: Axes, norms: np.ndarray, label: str, look: Look) -> None:
    """P(‖g‖ ≥ x) at some of the norms, closer together where they are rare; what is not finite is larger than
    any x.
    """
    finite = np.sort(norms[np.isfinite(norms)])
    n = len(finite)
    share = 1 - np.arange(n) / max(1, len(norms))
    ranks = np.geomspace(1, max(1, n), POINTS)
    from_top = np.unique(ranks.astype(int))
    from_top = from_top[from_top <= n]
    some = n - from_top
    ax.plot(finite[some], share[some], label=label, **look.line)


def _counts(norms: np.ndarray, clip_factor: pd.Series, height: float) -> str:
    """The share of steps clipped, then how many norms have no place on the axis: a line each, as far as the
    row's `height` in inches goes.
    """
    if not len(norms):
        return "no steps"
    lines = []
    share = clipped_share(norms, clip_factor)
    if not np.isnan(share):
        lines.append(f"{100 * share:.1f} % clipped")
    for name, odd in {"zero": norms == 0, "not finite": is_skipped(norms)}.items():
        if odd.any():
            lines.append(f"{odd.sum()} {name}")
    most = max(1, int(height / 0.1))
    if len(lines) > most:
        lines = [*lines[: most - 1], ", ".join(lines[most - 1 :])]
    return "\n".join(lines)
