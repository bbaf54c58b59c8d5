"""Final metric against clipping level: one panel per clipping type, because levels of different types do not
compare.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from clipbench.analysis.groups import Configuration, Group
from clipbench.plot import style
from clipbench.plot.looks import Look, hues, looks, title
from clipbench.stats import mean_and_half

COLUMNS = 4
LABELS = {"clipping_level": "clipping level", "p_autoclip": "p_autoclip"}

Looked = tuple[Configuration, Look]


def levels(group: Group) -> Figure:
    """Points are seeds, lines their means; the auto types stand over `p_autoclip`. The grey band is `none`:
    mean and 95 % t-interval.

    A line joins configurations that differ in the level alone. Diverged runs are ✕ at the losing edge; an
    infinite level stands at the right.
    """
    types = list(hues(each.type for each in group.configurations))
    if "none" in types:
        types.remove("none")
    width = style.WIDTH * min(1, max(2, len(types)) / COLUMNS)
    rows = -(-len(types) // COLUMNS)
    fig = style.figure(title(group, len(group.configurations)), 0.5 + 1.35 * rows, width)
    panels = style.grid(fig, len(types), COLUMNS)
    finals = np.concatenate([each.finals for each in group.configurations])
    for i, (ax, name) in enumerate(zip(panels, types, strict=True)):
        style.letter(ax, i, name)
        style.fit(ax, finals)
        for each in group.configurations:
            if each.type == "none":
                _band(ax, each, named=i == 0)
        own = [(each, look) for each, look in looks(group) if each.type == name]
        _points(ax, own, group.higher_is_better)
    style.outer_labels(panels, COLUMNS, x=False)
    label = f"final validation {group.headline}"
    if any(each.diverged for each in group.configurations):
        label += "   (✕ diverged)"
    fig.supylabel(label, fontsize=6.5)
    return fig


def _band(ax: Axes, none: Configuration, named: bool) -> None:
    if not len(none.finals):
        return
    mean, half = mean_and_half(none.finals)
    ax.axhline(float(mean), color=style.GREY, linewidth=0.8)
    if np.isfinite(half):
        ax.axhspan(mean - half, mean + half, color=style.GREY, alpha=0.2, linewidth=0)
    if named:
        at, shift = (0.01, float(mean)), (0, 1.5)
        across = ax.get_yaxis_transform()
        ax.annotate(none.label, at, shift, across, "offset points", color=style.GREY, fontsize=6)


def _points(ax: Axes, own: Sequence[Looked], higher_is_better: bool) -> None:
    """`own`: the configurations of one type."""
    setting = "p_autoclip"
    if any(each.settings["clipping_level"] is not None for each, _ in own):
        setting = "clipping_level"
    edge = -np.inf if higher_is_better else np.inf
    places = _places(ax, [each.settings[setting] for each, _ in own], setting)
    lines: dict[frozenset, list[tuple[float, Looked]]] = {}
    for x, (each, look) in sorted(zip(places, own, strict=True), key=lambda pair: pair[0]):
        rest = frozenset(item for item in each.settings.items() if item[0] != setting)
        lines.setdefault(rest, []).append((x, (each, look)))
        point: dict[str, Any] = {"markersize": 2.5, "markeredgewidth": 0, "alpha": 0.6, "color": look.colour}
        ax.plot([x] * len(each.finals), each.finals, "o", **point)
        for _ in each.diverged:
            style.cross(ax, x, edge, look.colour)
    for line in lines.values():
        _, (_, middle) = line[len(line) // 2]
        means = [each.final for _, (each, _) in line]
        ax.plot([x for x, _ in line], means, color=middle.colour)
        if len(lines) > 1:
            _name(ax, line)


def _name(ax: Axes, line: list[tuple[float, Looked]]) -> None:
    """At the right end of a line: the words that its labels share, but for the type."""
    labels = [each.label.split() for _, (each, _) in line]
    common = labels[0]
    for words in labels[1:]:
        common = [word for word in common if word in words]
    x, (last, look) = line[-1]
    for place, (each, its_look) in reversed(line):
        if np.isfinite(each.final):
            x, last, look = place, each, its_look
            break
    text: dict[str, Any] = {"fontsize": 5, "va": "center", "color": look.colour}
    ax.annotate(" ".join(common[1:]), (x, last.final), (3, 0), "data", "offset points", **text)


def _places(ax: Axes, levels: list[float | None], setting: str) -> list[float]:
    """Where each level stands, on an axis that names those that were run. A type without a level stands at
    1.
    """
    finite = [level for level in levels if level is not None and np.isfinite(level)]
    beyond = 3 * max(finite) if finite else 1.0  # of infinity
    names, places = {}, []
    for level in levels:
        place = 1.0 if level is None else min(level, beyond)
        names[place] = _level_name(level)
        places.append(place)
    ax.set_xlabel(LABELS[setting] if any(levels) else "")
    ax.set_xscale("log" if setting == "clipping_level" else "linear")
    ax.set_xticks(list(names), list(names.values()))
    ax.minorticks_off()
    ax.margins(x=0.2)
    return places


def _level_name(level: float | None) -> str:
    if level is None:
        return ""
    return "∞" if level == np.inf else f"{level:g}"
