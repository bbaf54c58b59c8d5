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
    in the seed alone; repetition, 0 for all where there is none; diverged; stopped, whether it was before its
    last step; value, the final validation metric, NaN where it did not come to its end.
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
        tuning = group.tuning
        setting = tuning.groupby(["repetition", "trial"], dropna=False).ngroup()
        rows = tuning.assign(name=tuning["method"], setting=setting)
    found = rows[["lr", *NO_CLIPPING]].astype(float)
    return found.assign(
        name=rows["name"],
        setting=rows["setting"],
        diverged=rows["status"] == "diverged",
        stopped=rows["status"] == "stopped",
        repetition=rows["repetition"].fillna(0).astype(int),
        value=rows["final"].astype(float).where(rows["status"] == "done"),
    )


def best_setting(ranking: Ranking, runs: pd.DataFrame) -> pd.Series:
    """The values of the best setting's runs that ended, by the rule of choice; in a study those of each
    repetition's best. A trial that was stopped is not among them.
    """
    best = [runs["value"].iloc[:0]]
    for _, own in runs[~runs["stopped"]].groupby("repetition"):
        candidates = []
        for _, part in own.groupby("setting"):
            values = part["value"]
            diverged = int(values.isna().sum())
            candidates.append(Candidate(values, len(values), diverged, float(values.mean())))
        first, *_ = best_first(candidates, ranking.group.higher_is_better)
        best.append(first.what.dropna())
    return pd.concat(best)


def mean_of_best(ranking: Ranking, runs: pd.DataFrame) -> tuple[float, float]:
    """Mean of `best_setting` and half its 95 % interval, over seeds or repetitions; NaN without any."""
    ended = best_setting(ranking, runs)
    if ended.empty:
        return np.nan, np.nan
    mean, half = mean_and_half(ended.to_numpy(float))
    return float(mean), float(half)
