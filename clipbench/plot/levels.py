"""Final metric against clipping level: one panel per clipping type, because levels of different types do not compare."""

from __future__ import annotations

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from clipbench.analysis.groups import Group, Method, mean_interval
from clipbench.plot import style

COLUMNS = 4


def levels(group: Group) -> Figure:
    """Points are seeds, lines their means; the auto types stand over `p_autoclip`. The grey band is `none`: mean and 95 % t-interval.

    A line joins methods that differ in the level alone. Diverged runs are ✕ at the losing edge; an infinite level stands at the right.
    """
    types = [name for name in style.hues({method.type for method in group.methods}) if name != "none"]
    width = style.WIDTH * min(1, max(2, len(types)) / COLUMNS)
    fig = style.figure(group.title(len(group.methods)), 0.5 + 1.35 * -(-len(types) // COLUMNS), width)
    panels = style.grid(fig, len(types), COLUMNS)
    finals = np.concatenate([method.finals for method in group.methods])
    for i, (ax, name) in enumerate(zip(panels, types, strict=True)):
        style.letter(ax, i, name)
        style.fit(ax, finals)
        for method in group.methods:
            if method.type == "none":
                _band(ax, method, named=i == 0)
        _points(ax, [method for method in group.methods if method.type == name], group.higher_is_better)
    style.outer_labels(panels, COLUMNS, x=False)
    diverged = "   (✕ diverged)" if any(method.diverged for method in group.methods) else ""
    fig.supylabel(f"final validation {group.headline}{diverged}", fontsize=6.5)
    return fig


def _band(ax: Axes, none: Method, named: bool) -> None:
    if len(none.finals):
        mean, half = mean_interval(none.finals)
        ax.axhline(float(mean), color=style.GREY, linewidth=0.8)
        if np.isfinite(half):
            ax.axhspan(mean - half, mean + half, color=style.GREY, alpha=0.2, linewidth=0)
        if named:
            ax.annotate(
                none.label,
                (0.01, float(mean)),
                (0, 1.5),
                ax.get_yaxis_transform(),
                "offset points",
                color=style.GREY,
                fontsize=6,
            )


def _points(ax: Axes, methods: list[Method], higher_is_better: bool) -> None:
    setting = (
        "clipping_level"
        if any(method.settings["clipping_level"] is not None for method in methods)
        else "p_autoclip"
    )
    xs = _positions(ax, [method.settings[setting] for method in methods], setting)
    lines: dict[frozenset, list[tuple[float, Method]]] = {}
    for x, method in sorted(zip(xs, methods, strict=True), key=lambda pair: pair[0]):
        rest = frozenset(item for item in method.settings.items() if item[0] != setting)
        lines.setdefault(rest, []).append((x, method))
        ax.plot(
            [x] * len(method.finals),
            method.finals,
            "o",
            markersize=2.5,
            markeredgewidth=0,
            alpha=0.6,
            color=method.colour,
        )
        for _ in method.diverged:
            style.cross(ax, x, -np.inf if higher_is_better else np.inf, method.colour)
    for line in lines.values():
        ax.plot(
            [x for x, _ in line],
            [method.final for _, method in line],
            color=line[len(line) // 2][1].colour,
        )
        if len(lines) > 1:
            common = [
                word
                for word in line[0][1].label.split()
                if all(word in method.label.split() for _, method in line)
            ]
            x, last = next(
                ((x, method) for x, method in reversed(line) if np.isfinite(method.final)), line[-1]
            )
            ax.annotate(
                " ".join(common[1:]),
                (x, last.final),
                (3, 0),
                "data",
                "offset points",
                fontsize=5,
                va="center",
                color=last.colour,
            )


def _positions(ax: Axes, levels: list[float | None], setting: str) -> list[float]:
    """Where each level stands, on an axis that names those that were run. A type without a level stands at 1."""
    finite = sorted({level for level in levels if level is not None and np.isfinite(level)})
    beyond = 3 * finite[-1] if finite else 1.0  # of infinity
    places = [1.0 if level is None else min(level, beyond) for level in levels]
    ax.set_xlabel(
        {"clipping_level": "clipping level", "p_autoclip": "p_autoclip"}[setting] if any(levels) else ""
    )
    ax.set_xscale("log" if setting == "clipping_level" else "linear")
    names = {
        place: "∞" if level == np.inf else "" if level is None else f"{level:g}"
        for place, level in zip(places, levels, strict=True)
    }
    ax.set_xticks(list(names), list(names.values()))
    ax.minorticks_off()
    ax.margins(x=0.2)
    return places
