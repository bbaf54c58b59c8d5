"""Final metric against clipping level: one panel per clipping type, because levels of different types do not
compare.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from operator import attrgetter
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from clipbench.analysis.group import Configuration, Group
from clipbench.plot import style
from clipbench.plot.looks import Look, hues, looks, title
from clipbench.record.rows import REFERENCE
from clipbench.stats import mean_and_half

COLUMNS = 4
LABELS = {"clipping_level": "clipping level", "p_autoclip": "p_autoclip"}


@dataclass(frozen=True)
class Point:
    """A configuration at its place along the axis of levels."""

    x: float
    configuration: Configuration
    look: Look

    def other_settings(self, setting: str) -> frozenset[Any]:
        """All but `setting`: what the points of a line have in common."""
        others = dict(self.configuration.settings)
        del others[setting]
        return frozenset(others.items())


def levels(group: Group) -> Figure:
    """Points are seeds, lines their means; the auto types stand over `p_autoclip`. The grey band is `none`:
    mean and 95 % t-interval.

    A line joins configurations that differ in the level alone. Diverged runs are ✕ at the losing edge; an
    infinite level stands at the right.
    """
    configurations = group.configurations
    types = list(hues(configurations))
    if REFERENCE in types:
        types.remove(REFERENCE)
    width = style.WIDTH * min(1, max(2, len(types)) / COLUMNS)
    rows = math.ceil(len(types) / COLUMNS)
    fig = style.figure(title(group, len(configurations)), 0.5 + 1.35 * rows, width)
    panels = style.grid(fig, len(types), COLUMNS)
    finals = np.concatenate([configuration.finals for configuration in configurations])
    references = [configuration for configuration in configurations if configuration.type == REFERENCE]
    for i, (ax, name) in enumerate(zip(panels, types, strict=True)):
        style.letter(ax, i, name)
        style.fit(ax, finals)
        for reference in references:
            _band(ax, reference, named=i == 0)
        own = [(configuration, look) for configuration, look in looks(group) if configuration.type == name]
        _points(ax, own, group.higher_is_better)
    style.outer_labels(panels, COLUMNS, x=False)
    label = f"final validation {group.headline}"
    if any(configuration.diverged for configuration in configurations):
        label += "   (✕ diverged)"
    fig.supylabel(label, fontsize=6.5)
    return fig


def _band(ax: Axes, reference: Configuration, named: bool) -> None:
    """The mean without clipping and its interval, where there is one."""
    if not len(reference.finals):
        return
    mean, half = mean_and_half(reference.finals)
    ax.axhline(float(mean), color=style.GREY, linewidth=0.8)
    if np.isfinite(half):
        ax.axhspan(mean - half, mean + half, color=style.GREY, alpha=0.2, linewidth=0)
    if named:
        ax.annotate(
            reference.label,
            (0.01, float(mean)),
            (0, 1.5),
            ax.get_yaxis_transform(),
            "offset points",
            color=style.GREY,
            fontsize=6,
        )


def _points(ax: Axes, own: Sequence[tuple[Configuration, Look]], higher_is_better: bool) -> None:
    """`own`: the configurations of one type."""
    setting = "p_autoclip"
    if any(configuration.settings["clipping_level"] is not None for configuration, _ in own):
        setting = "clipping_level"
    losing_edge = -np.inf if higher_is_better else np.inf
    points = []
    places = _places(ax, [configuration.settings[setting] for configuration, _ in own], setting)
    for x, (configuration, look) in zip(places, own, strict=True):
        points.append(Point(x, configuration, look))
    points.sort(key=attrgetter("x"))
    lines: dict[frozenset[Any], list[Point]] = {}
    for point in points:
        lines.setdefault(point.other_settings(setting), []).append(point)
        _draw_point(ax, point, losing_edge)
    for line in lines.values():
        middle = line[len(line) // 2]
        means = [point.configuration.final for point in line]
        ax.plot([point.x for point in line], means, color=middle.look.colour)
        if len(lines) > 1:
            _name(ax, line)


def _draw_point(ax: Axes, point: Point, losing_edge: float) -> None:
    """A dot for each seed that came to an end, ✕ for each that diverged."""
    finals, colour = point.configuration.finals, point.look.colour
    x = [point.x] * len(finals)
    ax.plot(x, finals, "o", markersize=2.5, markeredgewidth=0, alpha=0.6, color=colour)
    for _ in point.configuration.diverged:
        style.cross(ax, point.x, losing_edge, colour)


def _name(ax: Axes, line: list[Point]) -> None:
    """At the right end of a line: the words that its labels share, but for the type."""
    common = line[0].configuration.label.split()
    for point in line[1:]:
        words = point.configuration.label.split()
        common = [word for word in common if word in words]
    last = line[-1]
    for point in reversed(line):
        if np.isfinite(point.configuration.final):
            last = point
            break
    ax.annotate(
        " ".join(common[1:]),
        (last.x, last.configuration.final),
        (3, 0),
        "data",
        "offset points",
        fontsize=5,
        va="center",
        color=last.look.colour,
    )


def _places(ax: Axes, levels: list[float | None], setting: str) -> list[float]:
    """Where each level stands, on an axis that names those that were run. A type without a level stands at
    1.
    """
    finite = [level for level in levels if level is not None and np.isfinite(level)]
    infinity = 3 * max(finite) if finite else 1.0
    names, places = {}, []
    for level in levels:
        place = 1.0 if level is None else min(level, infinity)
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
