"""The colour and the dash of each configuration and method, by its type: the same in every figure."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.colors import to_hex, to_rgb

from clipbench.analysis.group import Configuration, Group
from clipbench.analysis.names import optimizer_name
from clipbench.analysis.places import Place
from clipbench.analysis.ranking import Ranking

MODULE = re.compile(r"^[A-Za-z_][\w.]*:(?=\w)")  # before a class

Dash = str | tuple[int, tuple[float, ...]]

SHOWN = 12  # configurations in one figure: of more, each method at its best settings, and the title says so

DASHES: tuple[Dash, ...] = (
    "-",
    (0, (4, 1.4)),
    (0, (1.2, 1.2)),
    (0, (5, 1.2, 1.2, 1.2)),
    (0, (8, 2)),
    (0, (4, 1, 1, 1, 1, 1)),
    (0, (2.2, 0.9)),
    (0, (8, 1.2, 2.4, 1.2)),
    (0, (1.2, 2.6)),
    (0, (6, 1, 1, 1, 1, 1, 1, 1)),
    (0, (3, 2.6)),
)

# Okabe and Ito's palette and what is apart from it in lightness; the dash is a second cue, for print in grey
# and for readers who do not see the colours. Types of one dash are far apart in lightness.
REFERENCE = ("#000000", 0)
LOOKS: dict[str, tuple[str, int]] = {
    "norm": ("#0072B2", 1),
    "linear_rand_norm": ("#56B4E9", 2),
    "quadratic_rand_norm": ("#5B3FA0", 3),
    "layer_wise": ("#009E73", 4),
    "coordinate_wise": ("#B5A800", 5),
    "auto": ("#D55E00", 0),
    "linear_rand_auto": ("#E69F00", 6),
    "quadratic_rand_auto": ("#CC79A7", 3),
    "value": ("#6B7F2A", 7),
    "normalize": ("#7A4A1E", 6),
    "zclip": ("#882255", 5),
    "adagc": ("#4C5FD7", 8),
    "agc": ("#2F8F8F", 9),
    "uclip": ("#B8475A", 10),
    "block_rms": ("#5A6570", 2),
}
HUES = {name: hue for name, (hue, _) in LOOKS.items()}
OTHER_HUES = ("#9A6324", "#3A7D44", "#A3468C", "#808000", "#3D5A98", "#C0504D")


@dataclass(frozen=True)
class Look:
    """How a line is drawn: `colour` as "#rrggbb", `dash` as a linestyle of matplotlib."""

    colour: str
    dash: Dash

    @property
    def line(self) -> dict[str, Any]:
        """As keywords of a line."""
        return {"color": self.colour, "linestyle": self.dash}


Line = tuple[Configuration, Look]


def shown(found: Sequence[Ranking]) -> list[Line]:
    """The configurations that have a line or a panel of their own, in the order of all figures: the methods
    as in the table, of each the best settings first. Of more than SHOWN, no clipping and the best. `found`:
    the rankings of one group.
    """
    lines = ordered(found)
    if len(lines) <= SHOWN:
        return lines
    chosen = {method.configuration.runs for ranking in found for method in ranking.methods}
    lines = [line for line in lines if line[0].runs in chosen]
    if len(lines) <= SHOWN:
        return lines
    references = {ranking.reference.configuration.runs for ranking in found if ranking.reference}
    best = [configuration.runs for configuration in found[0].group.configurations]
    best = [runs for runs in best if runs in chosen]
    best.sort(key=lambda runs: runs not in references)  # what the others are compared with is never left out
    return [line for line in lines if line[0].runs in best[:SHOWN]]


def ordered(found: Sequence[Ranking]) -> list[Line]:
    """Every configuration of a group, with its look, in that order."""
    methods: list[str] = []
    for ranking in found:
        methods += [method.name for method in ranking.methods]
    place = {name: i for i, name in reversed(list(enumerate(methods)))}

    def at(line: Line) -> int:
        configuration, _ = line
        default = " (default)" if configuration.role == "default" else ""
        return place.get(configuration.name + default, len(place))

    return sorted(looks(found[0].group), key=at)  # those of a method stay best first


def looks(group: Group) -> list[Line]:
    """Every configuration of a group with its look: hue and dash of its type. The best of a type has the hue
    itself, those of smaller settings lighter shades and those of larger ones darker; an untuned default is
    light.
    """
    look_of = hues_and_dashes(group.configurations)
    variants: dict[str, list[int]] = {}
    for configuration in group.configurations:  # best first
        if configuration.role != "default":
            variants.setdefault(configuration.type, []).append(configuration.variant)
    found = []
    for configuration in group.configurations:
        kind = configuration.type
        hue, dash = look_of[kind]
        if configuration.role == "default":
            colour = shade(hue, -1)
        else:
            best = variants[kind][0]
            colour = shade(hue, _tilt(configuration.variant, best, variants[kind]))
        found.append((configuration, Look(colour, dash)))
    return found


def _tilt(variant: int, best: int, variants: list[int]) -> float:
    """From −1, the smallest settings, over 0, the best, to 1."""
    if variant == best:
        return 0.0
    end = min(variants) if variant < best else max(variants)
    return (variant - best) / abs(end - best)


def method_looks(ranking: Ranking) -> dict[str, Look]:
    """{method: its look}, that of its configuration."""
    look_of = {configuration.runs: look for configuration, look in looks(ranking.group)}
    return {method.name: look_of[method.configuration.runs] for method in ranking.methods}


def hues_and_dashes(configurations: Iterable[Configuration]) -> dict[str, tuple[str, Dash]]:
    """A colour and a dash for each of their types: the reference and the core types always have the same,
    others take theirs in order of name.
    """
    found = {}
    others = set()
    for configuration in configurations:
        name = configuration.type
        if configuration.is_reference or name in LOOKS:
            hue, dash = REFERENCE if configuration.is_reference else LOOKS[name]
            found[name] = (hue, DASHES[dash])
        else:
            others.add(name)
    for i, name in enumerate(sorted(others)):
        found[name] = (OTHER_HUES[i % len(OTHER_HUES)], DASHES[(4 + i) % len(DASHES)])
    return found


def shade(hue: str, tilt: float) -> str:
    """A hue mixed with white (tilt from 0 to −1: half way) or with black (to 1: half way)."""
    mixed = abs(tilt) / 2
    white = mixed if tilt < 0 else 0
    return to_hex((1 - mixed) * np.array(to_rgb(hue)) + white)


def named(configuration: Configuration) -> str:
    """In print; in a study the method's name alone: its settings may differ between repetitions."""
    place = configuration.place
    if not configuration.role:
        return in_print(configuration.label, place)
    default = " (default)" if configuration.role == "default" else ""
    return in_print(configuration.name, place) + default


def in_print(label: str, place: Place) -> str:
    """A label of a configuration or method as the field prints it: "adamw none" → "AdamW no clipping"; of a
    user's rule "module:Class" the class. `place`: whose reference it may name.
    """
    first, *rest = label.split(" ")
    words = [optimizer_name(place.in_words(first))]
    if rest and words[0] != first and first != place.reference:
        rest[0] = place.in_words(rest[0])
    return " ".join(MODULE.sub("", word) for word in (*words, *rest))
