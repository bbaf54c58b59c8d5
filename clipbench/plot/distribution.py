"""How large the gradients were before clipping: density, share of steps above a norm, and how many steps were
clipped.
"""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from scipy import stats

from clipbench.analysis.group import Group
from clipbench.analysis.steps import clipped_share, is_skipped
from clipbench.plot import style
from clipbench.plot.looks import Look, shown, title

LONGEST = 40  # characters of a label
POINTS = 500  # of a curve, however many steps there are


def distribution(group: Group) -> Figure:
    """a: histogram and kernel density of log₁₀ ‖g‖, each to its own height. b: P(‖g‖ ≥ x). All steps of all
    seeds, of diverged runs too.

    A norm of zero has no place on these axes and one that is not finite lies beyond them: they count in every
    share but that of steps clipped, where a step that was skipped has no part, and are named.
    """
    lines = shown(group)
    row_height = 0.36 if len(lines) <= 12 else 0.25  # inches
    height = max(2.3, 0.75 + len(lines) * row_height)
    configurations, _ = zip(*lines, strict=True)
    longest = max(len(configuration.label) for configuration in configurations)
    margin = 0.25 + 0.055 * min(LONGEST, longest)  # inches
    fig = style.figure(title(group, len(lines)), height, margins=(margin, 0.1, 0.4, 0.42))
    left = fig.add_gridspec(len(lines), 1, right=4.2 / style.WIDTH, hspace=0.25)
    rows = left.subplots(squeeze=False).ravel()
    right = fig.add_gridspec(1, 1, left=5.5 / style.WIDTH)
    above = fig.add_subplot(right[0])
    parts = list(map(group.steps_of, configurations))
    edges = _edges(pd.concat(parts)["grad_norm"])
    for ax, (configuration, look), steps in zip(rows, lines, parts, strict=True):
        norms = steps["grad_norm"].to_numpy(float)
        _density(ax, norms, edges, look)
        _label(ax, configuration.label)
        counts = _counts(norms, steps["clip_factor"])
        ax.text(1.01, 0.5, counts, transform=ax.transAxes, va="center", linespacing=1.1)
        _above(above, norms, configuration.label, look)
    style.letter(rows[0], 0, "density of the norms")
    for ax in rows[:-1]:
        ax.minorticks_off()
        ax.set_xticks([])
    rows[-1].set_xlabel("gradient norm before clipping")
    style.letter(above, 1, "share of steps above")  # no tail: these norms are not identically distributed
    most_steps = max(map(len, parts))
    rarest = 1 / max(1, most_steps)
    above.set(xscale="log", xlim=_limits(edges), xlabel="gradient norm x before clipping")
    above.set(yscale="log", ylim=(0.7 * rarest, 1.4), ylabel="share of steps with norm ≥ x")
    return fig


def _limits(edges: np.ndarray) -> tuple[float, float]:
    """The first and the last norm on the axis; `edges` are in log₁₀."""
    first, last = 10 ** edges[[0, -1]]
    return first, last


def _edges(norms: pd.Series) -> np.ndarray:
    """Sixty bins of equal width in log₁₀ over the norms of all configurations. (61,)"""
    positive = norms[np.isfinite(norms) & (norms > 0)].astype(float)
    low, high = 0.0, 0.0
    if len(positive):
        low = np.log10(positive.min())
        high = np.log10(positive.max())
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


def _label(ax: Axes, label: str) -> None:
    if len(label) > LONGEST:
        label = label[: LONGEST - 1] + "…"
    ax.set_ylabel(label, rotation=0, ha="right", va="center")


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


def _counts(norms: np.ndarray, clip_factor: pd.Series) -> str:
    """The share of steps clipped, then how many norms have no place on the axis, a line each."""
    if not len(norms):
        return "no steps"
    lines = []
    share = clipped_share(norms, clip_factor)
    if not np.isnan(share):
        lines.append(f"{100 * share:.1f} % clipped")
    for name, odd in {"zero": norms == 0, "not finite": is_skipped(norms)}.items():
        if odd.any():
            lines.append(f"{odd.sum()} {name}")
    return "\n".join(lines)
