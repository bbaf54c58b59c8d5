"""How large the gradients were before clipping: density, tail, and how many steps were clipped."""

from __future__ import annotations

from matplotlib.figure import Figure

from clipbench.plot import style
from clipbench.plot.groups import Group

CLIPPED = 1 - 1e-6  # a step was clipped if its factor is below: float32 rounds a norm that was left alone
POINTS = 2000  # of a density or a tail, however many steps there are


def distribution(group: Group) -> Figure:
    """a: histogram and kernel density of log₁₀ ‖g‖, each to its own height. b: P(‖g‖ > x). All steps of all seeds, diverged runs too.

    A norm that is zero has no place on the logarithmic axes and one that is not finite lies beyond them: both count, in the share, in the tail, and in words.
    """
    methods = group.shown
    steps = {method.label: group.steps[group.steps["run"].isin(method.runs)] for method in methods}
    fig = style.figure(group.title, max(2.3, 0.6 + len(methods) * (0.38 if len(methods) <= 12 else 0.25)))
    left, right = fig.subfigures(1, 2, width_ratios=(1.35, 1))
    rows = left.subplots(len(methods), 1, sharex=True, squeeze=False).ravel()
    tail = right.subplots()
    for ax, method in zip(rows, methods, strict=True):
        _density(ax, steps[method.label], method)
        _tail(tail, steps[method.label]["grad_norm"].to_numpy(float), method)
    return fig
