"""Final metric against clipping level, or another setting of a method: one panel per type, because levels of
different types do not compare.
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
from matplotlib.lines import Line2D

from clipbench.analysis.group import Configuration
from clipbench.analysis.ranking import Ranking
from clipbench.plot import style, titles
from clipbench.plot.comparison import THIN, baseline
from clipbench.plot.looks import Line, Look, in_print, ordered
from clipbench.stats import mean_and_half

LABELS = {"clipping_level": "clipping level", "p_autoclip": "quantile"}
SMALLEST, LARGEST = 1e-290, 1e290  # levels beyond stand there: an axis has room around them


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


def varied(found: Sequence[Ranking]) -> dict[str, list[Line]]:
    """The clipping types that were run at two levels or more, untuned defaults left out."""
    types: dict[str, list[Line]] = {}
    for configuration, look in ordered(found):
        if configuration.role != "default" and not configuration.is_reference:
            types.setdefault(configuration.type, []).append((configuration, look))
    several = {}
    for name, own in types.items():
        setting = _setting(own)
        if len({configuration.settings[setting] for configuration, _ in own}) > 1:
            several[name] = own
    return several


def levels(found: Sequence[Ranking], width: float = style.WIDTH) -> Figure:
    """Points are runs, lines their means; the auto types stand over the quantile. Black is the reference: its
    mean, and its runs thin or, of more than seven, the 95 % t-interval of the mean as a band.

    A line joins configurations that differ in the level alone. Diverged runs are ✕ at the losing edge; an
    infinite level stands at the right.
    """
    group, types = found[0].group, varied(found)
    most = max(1, int((width - 0.6) / 1.2))
    columns = min(4, most, len(types))
    rows = math.ceil(len(types) / columns)
    shown = [configuration for own in types.values() for configuration, _ in own]
    references = [each for each in group.configurations if each.is_reference and each.role != "default"]
    handles, words = _handles(found, [*shown, *references])
    value, word = baseline(found)
    heading = f"{word}: {style.number(value, style.decimals(value))}" if np.isfinite(value) else ""
    legend = style.Legend(handles, words, width, "; ".join(filter(None, [titles.order(found), heading])))
    height, gap = 1.15, 0.55
    margins = (0.52, 0.1, 0.4 + legend.height, 0.2)
    notes = titles.notes(found, len(group.configurations))
    fig = style.titled(titles.title(group), notes, rows * height + (rows - 1) * gap, margins, width)
    wspace = 0.12
    panels = style.grid(fig, len(types), columns, hspace=gap / height, wspace=wspace)
    room = (width - 0.62) / (columns + wspace * (columns - 1))
    finals = np.concatenate([each.finals for each in [*shown, *references]])
    for i, (ax, (name, own)) in enumerate(zip(panels, types.items(), strict=True)):
        style.letter(ax, i, in_print(name, group.place))
        style.fit(ax, finals)
        for reference in references:
            _reference(ax, reference)
        style.also(ax, *baseline(found), room)
        _points(ax, own, group.higher_is_better, room)
    style.outer_labels(panels, columns, x=False)
    style.beside(fig, panels, titles.headline(group, "final validation"))
    legend.draw(fig)
    return fig


def _setting(own: Sequence[Line]) -> str:
    """What the points of a panel stand over: of a transform the first of its numbers that varies."""
    place = own[0][0].place
    if not place.trains:
        for key, value in own[0][0].settings.items():
            is_number = place.is_of_the_rule(key) and isinstance(value, (int, float))
            if is_number and any(configuration.settings.get(key) != value for configuration, _ in own):
                return key
        return place.type_key
    if any(configuration.settings["clipping_level"] is not None for configuration, _ in own):
        return "clipping_level"
    return "p_autoclip"


def _handles(
    found: Sequence[Ranking], configurations: Sequence[Configuration]
) -> tuple[list[Line2D], list[str]]:
    unit = found[0].unit
    handles = [
        Line2D([], [], marker="o", linestyle="", color=style.GREY, markersize=2.5),
        Line2D([], [], color=style.GREY),
    ]
    names = [f"one {unit}", "mean"]
    references = [each for each in configurations if each.is_reference]
    if references:
        handles.append(Line2D([], [], color="black"))
        many = any(len(each.finals) > THIN for each in references)
        words = found[0].group.place.words
        names.append(f"{words}, mean and {'95 % t-interval' if many else f'{unit}s'}")
    if any(each.diverged for each in configurations):
        handles.append(Line2D([], [], marker="X", linestyle="", color="black", markersize=4))
        names.append("diverged")
    return handles, names


def _reference(ax: Axes, reference: Configuration) -> None:
    """The mean of the reference, and its runs or its interval."""
    if not len(reference.finals):
        return
    mean, half = mean_and_half(reference.finals)
    ax.axhline(float(mean), color="black", linewidth=0.9, zorder=1.5)
    if len(reference.finals) > THIN:
        ax.axhspan(mean - half, mean + half, color=style.GREY, alpha=0.2, linewidth=0)
    elif len(reference.finals) > 1:
        for value in reference.finals:
            ax.axhline(value, color="black", linewidth=0.3, alpha=0.5, zorder=1.4)


def _points(ax: Axes, own: Sequence[Line], higher_is_better: bool, room: float) -> None:
    """`own`: the configurations of one type; `room`: the panel's inches."""
    setting = _setting(own)
    losing_edge = -np.inf if higher_is_better else np.inf
    points = []
    places, names = _places(ax, [configuration.settings[setting] for configuration, _ in own], setting)
    for x, (configuration, look) in zip(places, own, strict=True):
        points.append(Point(x, configuration, look))
    points.sort(key=attrgetter("x"))
    lines: dict[frozenset[Any], list[Point]] = {}
    for point in points:
        lines.setdefault(point.other_settings(setting), []).append(point)
        _draw_point(ax, point, losing_edge)
    for line in lines.values():
        best = max(line, key=lambda point: _goodness(point, higher_is_better))
        means = [point.configuration.final for point in line]
        ax.plot([point.x for point in line], means, **best.look.line)
    if len(lines) > 1:
        _name(ax, list(lines.values()), room)
    style.named_ticks(ax, list(names), list(names.values()), room)


def _goodness(point: Point, higher_is_better: bool) -> float:
    final = point.configuration.final
    if np.isnan(final):
        return -math.inf
    return final if higher_is_better else -final


def _draw_point(ax: Axes, point: Point, losing_edge: float) -> None:
    """A dot for each run that came to an end, ✕ for each that diverged."""
    finals, colour = point.configuration.finals, point.look.colour
    x = [point.x] * len(finals)
    ax.plot(x, finals, "o", markersize=2.5, markeredgewidth=0, alpha=0.6, color=colour)
    for _ in point.configuration.diverged:
        style.cross(ax, point.x, losing_edge, colour)


def _name(ax: Axes, lines: list[list[Point]], room: float) -> None:
    """At the right end of each line that has room there, what its points share: the words of their labels,
    but for the type. The limits of the axis make room.
    """
    low, high = ax.get_ylim()
    place = ax.get_position().height * style.figure_of(ax).get_figheight() / (high - low)
    named: list[tuple[float, str, Point]] = []
    for line in lines:
        words = line[0].configuration.label.split()
        for point in line[1:]:
            others = point.configuration.label.split()
            words = [word for word in words if word in others]
        ended = [point for point in line if np.isfinite(point.configuration.final)]
        text = " ".join(words[1:])
        if ended and text:
            y = ended[-1].configuration.final
            if all(abs(y - other) * place > 0.11 for other, _, _ in named):
                named.append((y, style.shortened(text, 0.45 * room, style.SMALLEST), ended[-1]))
    if not named:
        return
    needed = max(style.inches(text, style.SMALLEST) for _, text, _ in named) + 0.08
    scale = ax.xaxis.get_transform()
    left, right = scale.transform(np.array(ax.get_xlim()))
    more = (right - left) * needed / max(room - needed, 0.2)
    ax.set_xlim(*scale.inverted().transform(np.array([left, right + more])))
    for y, text, point in named:
        where = ("data", "offset points")
        ax.annotate(
            text, (point.x, y), (4, 0), *where, fontsize=style.SMALLEST, va="center", color=point.look.colour
        )


def _places(ax: Axes, values: list[float | None], setting: str) -> tuple[list[float], dict[float, str]]:
    """Where each level stands, and {place: its name}: ∞ and 0 beyond the others, a type
    without a level at 1.
    """
    is_log = setting == "clipping_level"
    finite = [value for value in values if value is not None and np.isfinite(value)]
    positive = [min(max(value, SMALLEST), LARGEST) for value in finite if value > 0 or not is_log] or [1.0]
    least, most = min(positive), max(positive)
    names: dict[float, str] = {}
    places = []
    for value in values:
        if value is None:
            place = 1.0
        elif is_log and value <= 0:
            place = least / 3
        else:
            place = min(max(value, SMALLEST if is_log else -math.inf), 3 * most)
        names[place] = _level_name(value)
        places.append(place)
    low, high = min(places), max(places)
    if is_log:
        ratio = max(1.4, (high / low) ** 0.12)
        ax.set_xscale("log")
        ax.set_xlim(low / ratio, high * ratio)
    else:
        margin = 0.12 * (high - low) or 0.1
        ax.set_xlim(low - margin, high + margin)
    label = LABELS.get(setting, setting.rpartition(".")[2])
    ax.set_xlabel(label if any(value is not None for value in values) else "")
    return places, names


def _level_name(level: float | None) -> str:
    if level is None:
        return "no level"
    return "∞" if level == np.inf else f"{level:g}"
