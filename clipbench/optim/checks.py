"""What settings of rules may be. Each check gives the number, or a ValueError that says what is allowed."""

from __future__ import annotations

import math
from numbers import Real
from typing import Any

from torch import Tensor


def _number(name: str, value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, (Real, Tensor)):
        raise ValueError(f"{name} must be a number, got {value!r}.")
    try:
        return float(value)
    except OverflowError:
        raise ValueError(f"{name} must be a number below 1e308.") from None


def check_level(name: str, value: Any) -> float:
    """0 < level ≤ ∞; ∞ is no clipping."""
    number = _number(name, value)
    if not number > 0:
        raise ValueError(f"{name} must be above 0, got {value!r}. 'inf' means no clipping.")
    return number


def check_bound(name: str, value: Any) -> float:
    """As a level, and None is ∞."""
    return math.inf if value is None else check_level(name, value)


def check_quantile(name: str, value: Any) -> float:
    """0 < fraction ≤ 1; 1 is no clipping."""
    number = _number(name, value)
    if not 0 < number <= 1:
        raise ValueError(f"{name} is a fraction, 0 < {name} <= 1, got {value!r}. 1 means no clipping.")
    return number


def check_beta(name: str, value: Any) -> float:
    """0 < beta < 1, the base of the probability to clip."""
    number = _number(name, value)
    if not 0 < number < 1:
        raise ValueError(
            f"{name} must lie strictly between 0 and 1, got {value!r}: P(clip) = {name}^(level/norm)."
        )
    return number


def check_share(name: str, value: Any) -> float:
    """0 ≤ share < 1."""
    number = _number(name, value)
    if not 0 <= number < 1:
        raise ValueError(
            f"{name} must be at least 0 and below 1, got {value!r}: the share of the old value that stays "
            "at each step."
        )
    return number


def check_small(name: str, value: Any) -> float:
    """0 < number < ∞."""
    number = _number(name, value)
    if not 0 < number < math.inf:
        raise ValueError(f"{name} must be above 0 and finite, got {value!r}.")
    return number


def check_switch(name: str, value: Any) -> bool:
    """A bool as it is; 1, 0 and "true" are refused."""
    if not isinstance(value, bool):
        raise ValueError(f"{name} must be true or false, got {value!r}.")
    return value


def check_count(name: str, value: Any) -> int:
    """A whole number of at least 1, as an int."""
    number = _number(name, value)
    if number < 1 or not math.isfinite(number) or number != int(number):
        raise ValueError(f"{name} must be a whole number of at least 1, got {value!r}.")
    return int(number)


def check_that(name: str, value: Any, allowed: Any, words: str) -> None:
    """ValueError "{name} must be {words}, got …" unless `allowed`. True and False are no numbers."""
    if isinstance(value, bool) or not allowed:
        raise ValueError(f"{name} must be {words}, got {value!r}.")


SHARED = {
    "clipping_level": check_level,
    "p_autoclip": check_quantile,
    "beta": check_beta,
    "window": check_count,
}
"""The settings that several rules share: checked for every type, also for one that does not use them."""
