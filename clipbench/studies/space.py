"""Where a study's trials are drawn from: one quasi-random sequence for all methods, and what its points mean
as settings.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import qmc

from clipbench.errors import UserError, nearest
from clipbench.runs.settings import is_number

DIMENSIONS = 16
"""Of the sequence, whatever the number of axes: the draws of an axis must not change when another is added
behind it.
"""

KEYS = ("log", "linear", "also", "share")
SHAPE = (
    "Write {log: [low, high]} or {linear: [low, high]}, and if one value is to be drawn too, also: VALUE, "
    "share: its share of trials."
)


@dataclass(frozen=True)
class Axis:
    """Uniform in [low, high], on a logarithmic scale if `log`; the last `share` of the trials gets the value
    `also` instead.
    """

    low: float
    high: float
    log: bool
    also: float | None = None
    share: float = 0.0

    def at(self, u: float, unit: float = 1.0) -> float:
        """The value at 0 ≤ u < 1, in `unit`s, to three digits so that it can be typed. Grows with u where
        `also` is above `high`.
        """
        if self.also is not None and u >= 1 - self.share:
            return self.also
        u /= 1 - self.share
        value = self.low + (self.high - self.low) * u
        if self.log:
            value = self.low * (self.high / self.low) ** u
        return float(f"{unit * value:.3g}")

    def __str__(self) -> str:
        text = f"{self.low:g} to {self.high:g}"
        if self.log:
            text += " (log)"
        if self.also is not None:
            text += f" or {self.also:g} ({self.share:.3g} of the trials)"
        return text


def read_axis(where: str, given: Any) -> Axis:
    """The axis that a study's file describes. UserError, naming `where` it stands, for what is not one."""
    if not isinstance(given, Mapping):
        raise UserError(f"{where} must be a mapping, got {given!r}. {SHAPE}")
    for key in map(str, given):
        if key not in KEYS:
            raise UserError(f"{where}: unknown key '{key}'.{nearest(key, KEYS)} {SHAPE}")
    is_log, low, high = _read_range(where, given)
    also: Any = given.get("also")
    share: Any = given.get("share")
    if (also is None) != (share is None):
        raise UserError(f"{where}: `also` and `share` go together, got {dict(given)}. {SHAPE}")
    if also is None:
        return Axis(low, high, is_log)
    if not is_number(also) or not _is_finite(share) or not 0 < share < 1:
        raise UserError(
            f"{where}: `also` is a number and `share` lies between 0 and 1, got {also!r} and {share!r}."
        )
    return Axis(low, high, is_log, float(also), float(share))


def _read_range(where: str, given: Mapping[str, Any]) -> tuple[bool, float, float]:
    """Whether the range is logarithmic, and its ends."""
    kinds = [kind for kind in ("log", "linear") if given.get(kind) is not None]
    ends: Any = given[kinds[0]] if len(kinds) == 1 else None
    if not _is_pair(ends) or not ends[0] < ends[1]:
        raise UserError(
            f"{where}: it takes one range of two numbers, the lower first, got {dict(given)}. {SHAPE}"
        )
    is_log = kinds == ["log"]
    if is_log and ends[0] <= 0:
        raise UserError(f"{where}: a logarithmic range starts above 0, got {list(ends)}.")
    return is_log, float(ends[0]), float(ends[1])


def _is_pair(ends: Any) -> bool:
    """Of finite numbers."""
    if not isinstance(ends, (list, tuple)) or len(ends) != 2:
        return False
    return _is_finite(ends[0]) and _is_finite(ends[1])


def _is_finite(value: Any) -> bool:
    return is_number(value) and math.isfinite(value)


def points(axes: Sequence[str], trials: int, seed: int | Sequence[int]) -> dict[str, NDArray[np.float64]]:
    """Scrambled Sobol points in [0, 1): {axis: (trials,)}.

    Trial i is the same for every method, and for any larger number of trials. In each axis, 2^k trials fall
    one into each 2^-k of it. Owen 1998; scipy.stats.qmc.Sobol.
    """
    if len(axes) > DIMENSIONS:
        raise UserError(
            f"A study draws at most {DIMENSIONS} different hyperparameters, "
            f"got {len(axes)}: {', '.join(axes)}."
        )
    sequence = qmc.Sobol(DIMENSIONS, scramble=True, rng=np.random.default_rng(seed))
    drawn = sequence.random_base2(math.ceil(math.log2(trials)))
    return {name: drawn[:trials, i] for i, name in enumerate(axes)}


def names(spaces: Iterable[Mapping[str, Axis]]) -> list[str]:
    """Every axis once, in the order in which they are first met."""
    found: dict[str, None] = {}
    for space in spaces:
        found |= dict.fromkeys(space)
    return list(found)
