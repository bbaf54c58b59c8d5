"""Which training steps count, and how many of them were clipped."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

from clipbench.record.rows import is_clipped


def measured_alone(runs: pd.DataFrame) -> bool:
    """Whether the seconds of these rows of `runs` may be compared: none was trained side by side with others,
    and no two overlapped on one machine, as under several workers. What is not recorded is no reproach.
    """
    if (runs["lockstep"].fillna(1).astype(float) > 1).any():
        return False
    started, ended = (
        pd.to_datetime(runs[name], format="ISO8601", errors="coerce", utc=True)
        for name in ("started", "ended")
    )
    times = pd.DataFrame({"host": runs["host"].fillna(""), "started": started, "ended": ended}).dropna()
    for _, own in times.sort_values("started").groupby("host"):
        if (own["started"].iloc[1:].to_numpy() < own["ended"].cummax().iloc[:-1].to_numpy()).any():
            return False
    return True


def is_skipped(grad_norm: Any) -> Any:
    """Whether a step with this grad_norm was skipped: it is not finite. Elementwise for an array or a
    column.
    """
    return ~np.isfinite(grad_norm)


def without_skipped(steps: pd.DataFrame) -> pd.DataFrame:
    """The rows of `steps` that count as clipped or as not clipped: a step that was skipped is neither."""
    return steps[~is_skipped(steps["grad_norm"])]


def clipped_share(grad_norm: ArrayLike, clip_factor: ArrayLike) -> float:
    """(number of steps that were clipped)/(number that were not skipped), NaN where all were skipped.

    Takes the two columns of `steps`, (steps,) each.
    """
    norms, factors = np.asarray(grad_norm), np.asarray(clip_factor)
    counted = factors[~is_skipped(norms)]
    if not len(counted):
        return float("nan")
    return float(is_clipped(counted).mean())
