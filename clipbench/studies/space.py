"""Where a study's trials are drawn from: one quasi-random sequence for all methods, and what its points mean as settings."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.stats import qmc

from clipbench.errors import UserError, nearest

DIMENSIONS = 16
"""Of the sequence, whatever the number of axes: the draws of an axis must not change when another is added behind it."""
KEYS = {"log", "linear", "also", "share"}
SHAPE = "Write {log: [low, high]} or {linear: [low, high]}, and if one value is to be drawn too, also: VALUE, share: its share of trials."


@dataclass(frozen=True)
class Axis:
    """Uniform in [low, high], on a logarithmic scale if `log`; the last `share` of the trials gets the value `also` instead."""

    low: float
    high: float
    log: bool
    also: float | None = None
    share: float = 0.0

    def at(self, u: float, unit: float = 1.0) -> float:
        """The value at 0 ≤ u < 1, in `unit`s, to three digits so that it can be typed. Grows with u where `also` is above `high`."""
        if u >= 1 - self.share:
            return float(self.also)  # type: ignore[arg-type]
        u /= 1 - self.share
        value = self.low * (self.high / self.low) ** u if self.log else self.low + (self.high - self.low) * u
        return float(f"{unit * value:.3g}")

    def __str__(self) -> str:
        also = f" or {self.also:g} ({self.share:.3g} of the trials)" if self.share else ""
        return f"{self.low:g} to {self.high:g}{' (log)' * self.log}{also}"


def read_axis(where: str, given: Any) -> Axis:
    """The axis that a study's file describes. UserError, naming `where` it stands, for what is not one."""
    if not isinstance(given, Mapping):
        raise UserError(f"{where} must be a mapping, got {given!r}. {SHAPE}")
    if unknown := [str(key) for key in given if key not in KEYS]:
        raise UserError(f"{where}: unknown key '{unknown[0]}'.{nearest(unknown[0], KEYS)} {SHAPE}")
    kinds = [kind for kind in ("log", "linear") if given.get(kind) is not None]
    ends = given[kinds[0]] if len(kinds) == 1 else None
    if (
        not isinstance(ends, (list, tuple))
        or len(ends) != 2
        or not all(map(_is_finite, ends))
        or not ends[0] < ends[1]
    ):
        raise UserError(
            f"{where}: it takes one range of two numbers, the lower first, got {dict(given)}. {SHAPE}"
        )
    if kinds == ["log"] and ends[0] <= 0:
        raise UserError(f"{where}: a logarithmic range starts above 0, got {list(ends)}.")
    also, share = given.get("also"), given.get("share")
    if (also is None) != (share is None):
        raise UserError(f"{where}: `also` and `share` go together, got {dict(given)}. {SHAPE}")
    if also is not None and not (_is_number(also) and _is_finite(share) and 0 < float(share or 0) < 1):
        raise UserError(
            f"{where}: `also` is a number and `share` lies between 0 and 1, got {also!r} and {share!r}."
        )
    return Axis(
        float(ends[0]),
        float(ends[1]),
        kinds == ["log"],
        None if also is None else float(also),
        float(share or 0.0),
    )


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _is_finite(value: Any) -> bool:
    return _is_number(value) and math.isfinite(value)


def points(axes: Sequence[str], trials: int, seed: int) -> dict[str, np.ndarray]:
    """Scrambled Sobol points in [0, 1): {axis: (trials,)}. Trial i is the same for every method, and for any larger number of trials.

    Owen 1998; scipy.stats.qmc.Sobol. In each axis, 2^k trials fall one into each 2^-k of it.
    """
    if len(axes) > DIMENSIONS:
        raise UserError(
            f"A study draws at most {DIMENSIONS} different numbers, got {len(axes)}: {', '.join(axes)}."
        )
    drawn = qmc.Sobol(DIMENSIONS, scramble=True, rng=seed).random_base2(math.ceil(math.log2(trials)))
    return {name: drawn[:trials, i] for i, name in enumerate(axes)}


def names(spaces: Iterable[Mapping[str, Axis]]) -> list[str]:
    """Every axis once, in the order in which they are first met."""
    return list(dict.fromkeys(name for space in spaces for name in space))
