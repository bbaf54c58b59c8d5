"""Successive halving: poor trials are stopped early, at the same steps for every method.

Jamieson & Talwalkar 2016 (arXiv 1502.07943). A method's n trials are trained to the first rung, the best
⌈n/η⌉ of them to the next, and so on; what is left is trained to its end.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Rung:
    """`count` trials of each method go from step `begin` to step `until`, None for their last one."""

    begin: int
    until: int | None
    count: int


def rungs(trials: int, steps: int, eval_every: int, eta: int) -> tuple[Rung, ...]:
    """At `steps`/η^k, k = K … 1, rounded up to an evaluation, with K the largest for which η^K ≤ `trials`;
    and the last steps.

    Rungs that fall on one evaluation are one, and the last evaluation is none. With η = 1, the last steps
    alone.
    """
    found = []
    begin, count = 0, trials
    for k in range(_depth(trials, eta), 0, -1):
        until = eval_every * math.ceil(steps / eta**k / eval_every)
        if not begin < until < steps:
            continue
        found.append(Rung(begin, until, count))
        begin, count = until, math.ceil(count / eta)
    return (*found, Rung(begin, None, count))


def _depth(trials: int, eta: int) -> int:
    """The largest K for which η^K ≤ trials; 0 for η = 1."""
    depth = 0
    while eta > 1 and eta ** (depth + 1) <= trials:
        depth += 1
    return depth


def promoted(values: Mapping[int, float], count: int, higher_is_better: bool) -> list[int]:
    """The numbers of the best `count` trials by their validation `values` at a rung, in their order.

    Of equal ones the smaller number goes on. A trial without a value, or with one that is no number, does
    not.
    """
    sign = -1 if higher_is_better else 1

    def place(number: int) -> tuple[float, int]:
        return sign * values[number], number

    numbers = [number for number, value in values.items() if not math.isnan(value)]
    return sorted(sorted(numbers, key=place)[:count])
