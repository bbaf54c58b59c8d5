"""How much the learning rate and the level matter: what was tried, and what is best where."""

from __future__ import annotations

import numpy as np
import pandas as pd

from clipbench.analysis.choice import Candidate, best_first
from clipbench.analysis.ranking import Ranking
from clipbench.record.rows import NO_CLIPPING
from clipbench.stats import mean_and_half


def tried(ranking: Ranking) -> pd.DataFrame:
    """The tuning trials of a study, or else every run of the ranking, a row each.

    Columns: lr, clipping_level, p_autoclip; name, the method; setting, equal for runs of a name that differ
    in the seed alone; diverged; value, the final validation metric, NaN where it diverged.
    """
    group = ranking.group
    if group.tuning.empty:
        runs: list[str] = []
        names: list[str] = []
        settings: list[int] = []
        for i, configuration in enumerate(ranking.configurations):
            if configuration.role != "default":
                runs += configuration.runs
                names += [configuration.name] * len(configuration.runs)
                settings += [i] * len(configuration.runs)
        rows = group.runs.loc[runs].assign(name=names, setting=settings)
    else:
        rows = group.tuning.assign(name=group.tuning["method"], setting=group.tuning["trial"])
    found = rows[["lr", *NO_CLIPPING]].astype(float)
    return found.assign(
        name=rows["name"],
        setting=rows["setting"],
        diverged=rows["status"] == "diverged",
        value=rows["final"].astype(float).where(rows["status"] == "done"),
    )


def best_setting(ranking: Ranking, runs: pd.DataFrame) -> pd.Series:
    """The values of the best setting's runs that ended, by the rule of choice."""
    candidates = []
    for _, part in runs.groupby("setting"):
        values = part["value"]
        diverged = int(values.isna().sum())
        candidates.append(Candidate(values, len(values), diverged, float(values.mean())))
    best, *_ = best_first(candidates, ranking.group.higher_is_better)
    return best.what.dropna()


def mean_of_best(ranking: Ranking, runs: pd.DataFrame) -> tuple[float, float]:
    """Mean over seeds of the best setting and half its 95 % interval; NaN where there is none."""
    ended = best_setting(ranking, runs)
    if ended.empty:
        return np.nan, np.nan
    mean, half = mean_and_half(ended.to_numpy(float))
    return float(mean), float(half)
