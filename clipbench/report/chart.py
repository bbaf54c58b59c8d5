"""What page.js draws: series of numbers on named axes, rounded to what a pixel shows, and the same in a
sentence.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from clipbench.plot.style import number

PIXELS = 4000  # of the largest screen: what is finer is rounded away
MOST_DIGITS = 12


@dataclass(frozen=True)
class Axis:
    """`ticks`: the only values that have one, or all round ones. `infinity`: where ∞ stands, beyond the last
    value. `ends`: of an axis that does not follow what is drawn.
    """

    label: str
    log: bool = False
    ticks: tuple[float, ...] = ()
    infinity: float | None = None
    ends: tuple[float, float] | None = None

    def json(self) -> dict[str, Any]:
        found: dict[str, Any] = {"label": self.label, "log": self.log}
        if self.ticks:
            found["ticks"] = list(self.ticks)
        if self.infinity is not None:
            found["infinity"] = self.infinity
        if self.ends is not None:
            found["ends"] = list(self.ends)
        return found


@dataclass(frozen=True)
class Series:
    """What is drawn of one method.

    `style`: line, the mean or median `of` runs; fine, another beside it; level, what it is held against;
    thin, one run; faint, behind the others; points, a run each; lost, a run that ends in ✕; rug, marks on
    top, each with a word in `words`.
    `x`: along each of the chart's axes. `low` and `high`: the ends of an interval, drawn as a band
    unless few runs are behind it.
    """

    method: str
    style: str
    x: tuple[ArrayLike, ...]
    y: ArrayLike
    of: str = ""
    low: ArrayLike | None = None
    high: ArrayLike | None = None
    words: Sequence[str] = ()
    few: bool = False


@dataclass(frozen=True)
class Level:
    """A line across the chart, with its name."""

    y: float
    name: str


@dataclass(frozen=True)
class Chart:
    """`what` it shows, and `more`; `x`: the axes that one may choose from."""

    what: str
    more: str
    x: tuple[Axis, ...]
    y: Axis
    series: Sequence[Series]
    levels: Sequence[Level] = ()

    def json(self) -> dict[str, Any]:
        """Values of x that several series share are written once: `x` of a series are places in `xs`."""
        pool = _Pool()
        size = _extent([each.y for each in self.series if each.style != "rug"])
        widths = []
        for i in range(len(self.x)):
            widths.append(_extent([each.x[i] for each in self.series]))
        series = []
        for each in self.series:
            row: dict[str, Any] = {
                "method": each.method,
                "style": each.style,
                "x": [pool.place(rounded(x, width)) for x, width in zip(each.x, widths, strict=True)],
                "y": rounded(each.y, size),
            }
            for name in ("low", "high"):
                values = getattr(each, name)
                if values is not None and np.isfinite(np.asarray(values, float)).any():
                    row[name] = rounded(values, size)
            if each.few:
                row["few"] = True
            if each.of:
                row["of"] = each.of
            if each.words:
                row["words"] = list(each.words)
            series.append(row)
        levels = []
        for level in self.levels:
            levels.append({"y": level.y, "name": level.name})
        axes = [axis.json() for axis in self.x]
        return {
            "kind": "curves",
            "what": self.what,
            "x": axes,
            "y": self.y.json(),
            "xs": pool.lists,
            "series": series,
            "levels": levels,
        }

    @property
    def in_words(self) -> str:
        """Where each line ends, for who cannot see it; the range of points without a line."""
        parts, lines = [], set()
        for each in self.series:
            values = _finite(each.y)
            if each.style == "line" and len(values):
                lines.add(each.method)
                of = f" {each.of}" if each.of else ""
                parts.append(f"{each.method}{of} ends at {number(float(values[-1]))}")
        for each in self.series:
            values = _finite(each.y)
            if each.style == "points" and each.method not in lines and len(values):
                least, most = number(float(values.min())), number(float(values.max()))
                parts.append(f"{each.method} {len(values)} points from {least} to {most}")
        along = " or ".join(axis.label for axis in self.x)
        return f"{self.y.label} against {along}. {'; '.join(parts)}."


@dataclass(frozen=True)
class Row:
    """A method's paired differences, by the name of the pair; their mean and interval, and both in words."""

    method: str
    mean: float
    low: float
    high: float
    words: str
    pairs: Sequence[tuple[str, float]]


@dataclass(frozen=True)
class Rows:
    """A row for each method around the line of no difference. `ends`: of the axis; longer
    intervals are cut. `worth`: the smallest difference worth telling, 0 where none is known.
    """

    what: str
    more: str
    label: str
    ends: tuple[float, float]
    worth: float
    rows: Sequence[Row]

    def json(self) -> dict[str, Any]:
        rows, extent = [], self.ends[1] - self.ends[0]
        for row in self.rows:
            mean, low, high = rounded([row.mean, row.low, row.high], extent)
            names = [name for name, _ in row.pairs]
            values = rounded([value for _, value in row.pairs], extent)
            rows.append(
                {
                    "method": row.method,
                    "mean": mean,
                    "low": low,
                    "high": high,
                    "words": row.words,
                    "pairs": list(zip(names, values, strict=True)),
                }
            )
        found = {"kind": "rows", "what": self.what, "label": self.label, "rows": rows}
        return {**found, "ends": rounded(self.ends, extent), "worth": self.worth}

    @property
    def in_words(self) -> str:
        parts = [f"{row.method} {row.words}" for row in self.rows]
        return f"{self.label}. {'; '.join(parts)}."


@dataclass
class _Pool:
    """Lists, each once."""

    lists: list[list[float | None]] = field(default_factory=list)
    places: dict[tuple[float | None, ...], int] = field(default_factory=dict)

    def place(self, values: list[float | None]) -> int:
        key = tuple(values)
        if key not in self.places:
            self.places[key] = len(self.lists)
            self.lists.append(values)
        return self.places[key]


def rounded(values: ArrayLike, extent: float) -> list[float | None]:
    """To four digits, or to as many as tell a pixel of an axis as long as `extent`; None for what is not
    finite.
    """
    array = np.asarray(values, float)
    largest = float(np.abs(_finite(array)).max(initial=0))
    digits = 4
    if extent > 0 and largest > 0:
        digits = max(digits, math.ceil(math.log10(largest / extent * PIXELS)))
    digits = min(digits, MOST_DIGITS)
    found: list[float | None] = []
    for value in array.tolist():
        found.append(_short(value, digits) if math.isfinite(value) else None)
    return found


def _short(value: float, digits: int) -> float:
    """A whole number without ".0"."""
    short = float(f"{value:.{digits}g}")
    return int(short) if short.is_integer() and abs(short) < 2**53 else short


def _extent(parts: Iterable[ArrayLike]) -> float:
    """From the least to the largest finite value."""
    low, high = math.inf, -math.inf
    for part in parts:
        finite = _finite(part)
        low = min(low, finite.min(initial=math.inf))
        high = max(high, finite.max(initial=-math.inf))
    return high - low if high > low else 0.0


def _finite(values: ArrayLike) -> np.ndarray:
    array = np.asarray(values, float)
    return array[np.isfinite(array)]
