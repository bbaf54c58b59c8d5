"""What a few seeds can show. Pure functions on arrays; numpy and scipy, neither torch nor figures.

interval.py    an estimate with its interval and n: mean, median, share
paired.py      two methods at the same seeds; a family of methods against none
aggregate.py   several tasks on one scale: bootstrap, interquartile mean, optimality gap, profiles
curves.py      time to a target, best so far against budget
smoothing.py   a local mean of scattered points
tails.py       the tail of a sample: skewness, ρ_mR, Hill, fits
heaviness.py   the rule that calls it so, and how often that is wrong
pareto.py      where its tail starts, the index of the tail, and whether any tail law fits

A value that is not there (NaN) is a run that diverged. It is worse than any value and is never dropped: ranks
and shares count it so. A comparison has a test of its own for divergence, and tells a mean over the pairs in
which both sides ended.

No spread can be learned from one value, nor from values that are all equal: an interval is infinite there,
and that of a comparison as wide as the resolution of the metric allows.
"""

from clipbench.stats.aggregate import (
    Band,
    bootstrap_probability,
    interquartile_mean,
    median,
    optimality_gap,
    performance_profile,
    scaled,
    stratified_bootstrap,
)
from clipbench.stats.curves import expected_best, time_to_target
from clipbench.stats.heaviness import Heaviness, errors, heaviness
from clipbench.stats.interval import Interval, mean_and_half, median_interval, share_interval, t_interval
from clipbench.stats.paired import (
    DIFFERENT,
    EQUIVALENT,
    FEWEST,
    UNDECIDED,
    Comparison,
    Divergence,
    compare,
    compare_pairs,
    paired_interval,
    probability_of_improvement,
    seed_correlation,
)
from clipbench.stats.pareto import tail_fit, tail_index
from clipbench.stats.smoothing import smoothed
from clipbench.stats.tails import Tail, hill, rho_mr, skewness, tail

__all__ = [
    "DIFFERENT",
    "EQUIVALENT",
    "FEWEST",
    "UNDECIDED",
    "Band",
    "Comparison",
    "Divergence",
    "Heaviness",
    "Interval",
    "Tail",
    "bootstrap_probability",
    "compare",
    "compare_pairs",
    "errors",
    "expected_best",
    "heaviness",
    "hill",
    "interquartile_mean",
    "mean_and_half",
    "median",
    "median_interval",
    "optimality_gap",
    "paired_interval",
    "performance_profile",
    "probability_of_improvement",
    "rho_mr",
    "scaled",
    "seed_correlation",
    "share_interval",
    "skewness",
    "smoothed",
    "stratified_bootstrap",
    "t_interval",
    "tail",
    "tail_fit",
    "tail_index",
    "time_to_target",
]
