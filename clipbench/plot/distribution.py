"""How large the gradients were before clipping: density, share of steps above a norm, and how many steps were clipped."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from scipy import stats

from clipbench.analysis.groups import Group, Method
from clipbench.plot import style
from clipbench.record.rows import is_clipped

LONGEST = 40  # characters of a label
POINTS = 500  # of a curve, however many steps there are


def distribution(group: Group) -> Figure:
    """a: histogram and kernel density of log₁₀ ‖g‖, each to its own height. b: P(‖g‖ ≥ x). All steps of all seeds, of diverged runs too.

    A norm of zero has no place on these axes and one that is not finite lies beyond them: they count in
    every share but that of steps clipped, where a step that was skipped has no part, and are named.
    """
    methods = group.shown
    height = max(2.3, 0.75 + len(methods) * (0.36 if len(methods) <= 12 else 0.25))
    margin = 0.25 + 0.055 * min(LONGEST, max(len(method.label) for method in methods))  # inches
    fig = style.figure(group.title(len(methods)), height, margins=(margin, 0.1, 0.4, 0.42))
    left = fig.add_gridspec(len(methods), 1, right=4.2 / style.WIDTH, hspace=0.25)
    rows = left.subplots(squeeze=False).ravel()
    above = fig.add_subplot(fig.add_gridspec(1, 1, left=5.5 / style.WIDTH)[0])
    parts = [group.steps_of(method) for method in methods]
    edges = _edges(pd.concat(parts)["grad_norm"])
    for ax, method, steps in zip(rows, methods, parts, strict=True):
        norms = steps["grad_norm"].to_numpy(float)
        _density(ax, norms, edges, method)
        ax.text(
            1.01,
            0.5,
            _words(norms, steps["clip_factor"]),
            transform=ax.transAxes,
            va="center",
            linespacing=1.1,
        )
        _above(above, norms, method)
    style.letter(rows[0], 0, "density of the norms")
    for ax in rows[:-1]:
        ax.minorticks_off()
        ax.set_xticks([])
    rows[-1].set_xlabel("gradient norm before clipping")
    style.letter(above, 1, "share of steps above")  # no tail: these norms are not identically distributed
    rarest = 1 / max(1, *(len(steps) for steps in parts))
    above.set(xscale="log", xlim=tuple(10 ** edges[[0, -1]]), xlabel="gradient norm x before clipping")
    above.set(yscale="log", ylim=(0.7 * rarest, 1.4), ylabel="share of steps with norm ≥ x")
    return fig


def _edges(norms: pd.Series) -> np.ndarray:
    """Sixty bins of equal width in log₁₀ over every method's norms. (61,)"""
    positive = norms[np.isfinite(norms) & (norms > 0)].astype(float)
    low, high = (np.log10(positive.min()), np.log10(positive.max())) if len(positive) else (0.0, 0.0)
    margin = 0.02 * (high - low) or 0.5
    return np.linspace(low - margin, high + margin, 61)


def _density(ax: Axes, norms: np.ndarray, edges: np.ndarray, method: Method) -> None:
    logs = np.log10(norms[np.isfinite(norms) & (norms > 0)])
    if len(logs):
        ax.stairs(
            np.histogram(logs, edges, density=True)[0], 10**edges, fill=True, color=method.colour, alpha=0.3
        )
    if len(logs) > 1 and np.ptp(logs) > 1e-6:  # the kernel of a constant has no width
        x = np.linspace(edges[0], edges[-1], 300)
        sample = np.sort(logs)[np.linspace(0, len(logs) - 1, min(len(logs), POINTS)).astype(int)]
        ax.plot(
            10**x,
            stats.gaussian_kde(sample, len(logs) ** -0.2)(x),
            color=method.colour,
            linestyle=method.dash,
        )
    ax.set(xscale="log", xlim=tuple(10 ** edges[[0, -1]]), ylim=(0, None), yticks=[])
    ax.spines["left"].set_visible(False)
    label = method.label if len(method.label) <= LONGEST else method.label[: LONGEST - 1] + "…"
    ax.set_ylabel(label, rotation=0, ha="right", va="center")


def _above(ax: Axes, norms: np.ndarray, method: Method) -> None:
    finite = np.sort(norms[np.isfinite(norms)])
    share = 1 - np.arange(len(finite)) / max(1, len(norms))  # what is not finite is larger than any x
    from_top = np.unique(np.geomspace(1, max(1, len(finite)), POINTS).astype(int))
    kept = len(finite) - from_top[from_top <= len(finite)]
    ax.plot(finite[kept], share[kept], color=method.colour, linestyle=method.dash, label=method.label)


def _words(norms: np.ndarray, clip_factor: pd.Series) -> str:
    if not len(norms):
        return "no steps"
    made = clip_factor[np.isfinite(norms)]
    words = [f"{100 * is_clipped(made).mean():.1f} % clipped"] if len(made) else []
    for name, odd in {"zero": norms == 0, "not finite": ~np.isfinite(norms)}.items():
        if odd.any():
            words.append(f"{odd.sum()} {name}")
    return "\n".join(words)
