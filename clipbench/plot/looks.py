"""The colour and the dash of each configuration and method, by its type and its place among the others of
that type.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.colors import to_hex, to_rgb

from clipbench.analysis.group import Configuration, Group
from clipbench.analysis.ranking import Method, Ranking

Dash = str | tuple[int, tuple[float, ...]]

SHOWN = 30  # configurations in one figure; the best are drawn and the title says so

# Okabe and Ito's palette, its yellow darkened for white paper. A random type has its family's dash as a
# second cue.
HUES = {
    "none": "#000000",
    "norm": "#0072B2",
    "linear_rand_norm": "#56B4E9",
    "quadratic_rand_norm": "#5B3FA0",
    "layer_wise": "#009E73",
    "coordinate_wise": "#A6A11A",
    "auto": "#D55E00",
    "linear_rand_auto": "#E69F00",
    "quadratic_rand_auto": "#CC79A7",
    "value": "#6B7F2A",
    "normalize": "#7A4A1E",
    "zclip": "#882255",
    "adagc": "#4C5FD7",
    "agc": "#2F8F8F",
    "uclip": "#B8475A",
    "block_rms": "#5A6570",
}
OTHER_HUES = ("#9A6324", "#3A7D44", "#A3468C", "#808000", "#3D5A98", "#C0504D")
DASHES: tuple[Dash, ...] = ("-", (0, (4, 1.4)), (0, (1.2, 1.2)), (0, (5, 1.2, 1.2, 1.2)))


@dataclass(frozen=True)
class Look:
    """How a line is drawn: `colour` as "#rrggbb", `dash` as a linestyle of matplotlib."""

    colour: str
    dash: Dash

    @property
    def line(self) -> dict[str, Any]:
        """As keywords of a line."""
        return {"color": self.colour, "linestyle": self.dash}


def shown(group: Group) -> list[tuple[Configuration, Look]]:
    """The configurations that have a line or a panel of their own, the best ones, with their looks."""
    return looks(group)[:SHOWN]


def looks(group: Group) -> list[tuple[Configuration, Look]]:
    """Every configuration of a group with its look: a hue for each type, from light to dark by level, and
    dashes in turn.
    """
    hue_of = hues(group.configurations)
    found = []
    for configuration in group.configurations:
        kind, variant = configuration.type, configuration.variant
        colour = shade(hue_of[kind], variant, configuration.variants)
        look = Look(colour, dash(kind, variant))
        found.append((configuration, look))
    return found


def method_looks(ranking: Ranking) -> dict[str, Look]:
    """{method: its look}: the hue of its type, lighter for an untuned default; set side by side, that of its
    configuration.
    """
    found = {}
    if ranking.group.apart:
        look_of = {configuration.runs: look for configuration, look in looks(ranking.group)}
        for method in ranking.methods:
            found[method.name] = look_of[method.configuration.runs]
        return found
    hue_of = hues(ranking.configurations)
    for method in ranking.methods:
        found[method.name] = _look_of(method, hue_of)
    return found


def _look_of(method: Method, hue_of: dict[str, str]) -> Look:
    kind = method.configuration.type
    colour = hue_of[kind]
    if method.is_default:
        colour = shade(colour, 0, 2)
    return Look(colour, dash(kind, 0))


def hues(configurations: Iterable[Configuration]) -> dict[str, str]:
    """A colour for each of their clipping types: the core types always have the same, others take theirs in
    order of name.
    """
    types = {configuration.type for configuration in configurations}
    found = {}
    for name, hue in HUES.items():
        if name in types:
            found[name] = hue
    others = sorted(types - set(HUES))
    for i, name in enumerate(others):
        found[name] = OTHER_HUES[i % len(OTHER_HUES)]
    return found


def shade(hue: str, i: int, n: int) -> str:
    """The i-th of n variants of a hue, from light to dark."""
    if n == 1:
        return hue
    tilt = 2 * i / (n - 1) - 1  # -1: half way to white, 1: half way to black
    mixed = abs(tilt) / 2
    white = mixed if tilt < 0 else 0
    return to_hex((1 - mixed) * np.array(to_rgb(hue)) + white)


def dash(name: str, variant: int) -> Dash:
    """The dash of a type's variant, from 0: a random type begins one or two dashes on, its second cue."""
    family = 0
    if name.startswith("linear_rand"):
        family = 1
    elif name.startswith("quadratic_rand"):
        family = 2
    return DASHES[(family + variant) % len(DASHES)]


def title(group: Group, count: int) -> str:
    """What a figure shows: how many of the group's configurations, if not all, and which runs it leaves
    out.
    """
    parts = [group.name]
    every = len(group.configurations)
    if count < every:
        parts.append(f"the best {count} of {every} methods")
    parts += group.notes
    return "   ·   ".join(parts)
