"""The level η that a rule held ‖g‖ against, step by step."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from clipbench.analysis.settings import OWN, Settings

FIXED = ("norm", "linear_rand_norm", "quadratic_rand_norm", "normalize")
"""Types whose `clipping_level` is one of the norm of the whole gradient."""

MOVING = ("auto", "linear_rand_auto", "quadratic_rand_auto")
"""Types whose level is a quantile of the norms so far."""

OF_PARTS = ("optim.clip_exempt", "optim.clip_levels")  # by which only some parameters are clipped alike
MOMENTS = 60  # at which a run is asked for its level
WINDOW = 10_000  # norms: the default of `optim.clip.window`


def threshold(settings: Settings, norms: np.ndarray, at: np.ndarray) -> np.ndarray | None:
    """η at each step number of `at`, from 1: of one run, whose steps had these `norms`. None where the type's
    level is not one of ‖g‖, as that of a layer or an entry, and where there is none.

    The quantile of the auto types: of the last `window` norms, this step's among them, a step that was
    skipped left out (numpy's, linear between ranks, as in optim/auto.py).
    """
    kind = settings.get("clipping_type")
    if any(key.startswith(OF_PARTS) for key in settings):
        return None
    if kind in FIXED:
        level = settings.get("clipping_level")
        if level is None or not np.isfinite(level):
            return None
        return np.full(len(at), float(level))
    p = settings.get("p_autoclip")
    if kind not in MOVING or p is None:
        return None
    return _quantiles(norms, float(p), _window(settings.get(f"{OWN}window")), at)


def _window(value: Any) -> int:
    is_count = isinstance(value, int) and value > 0
    return value if is_count else WINDOW


def _quantiles(norms: np.ndarray, p: float, window: int, at: np.ndarray) -> np.ndarray:
    counted = norms[np.isfinite(norms)]
    before = np.cumsum(np.isfinite(norms))  # norms in memory after each step
    found = np.full(len(at), np.nan)
    for i, step in enumerate(at):
        end = before[min(step, len(norms)) - 1] if len(norms) else 0
        if end:
            found[i] = np.quantile(counted[max(0, end - window) : end], p)
    return found


def levels_of(steps: pd.DataFrame, settings: Mapping[str, Settings]) -> pd.Series:
    """η by step, at up to sixty steps of each run, one run after the other; empty where there is none.
    `settings`: of each run, by id: in a study those of a method differ between repetitions.
    """
    found = []
    for run, part in steps.groupby("run", observed=True):
        norms = part["grad_norm"].to_numpy(float)
        count = min(MOMENTS, len(norms))
        at = np.unique(np.linspace(1, len(norms), count).astype(int))
        level = threshold(settings[str(run)], norms, at)
        if level is not None:
            step = part["step"].to_numpy()[at - 1]
            found.append(pd.Series(level, step))
    return pd.concat(found) if found else pd.Series(dtype=float)


def median_level(steps: pd.DataFrame, settings: Mapping[str, Settings]) -> pd.Series:
    """Their median over runs, by step."""
    levels = levels_of(steps, settings)
    return levels.groupby(levels.index).median()
