"""Groups → rankings: which configurations may be compared, and which of them stands for its method."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import pandas as pd

from clipbench.analysis.choice import Candidate, best_first, edges_of, is_without_clipping
from clipbench.analysis.group import Configuration, Group
from clipbench.analysis.ranking import Method, Ranking
from clipbench.analysis.settings import hyperparameters, is_of_the_method
from clipbench.analysis.steps import without_skipped
from clipbench.record.rows import is_clipped

__all__ = ["Method", "Ranking", "rankings"]


def rankings(group: Group) -> list[Ranking]:
    """One for each set of settings that is neither the rule's nor the learning rate: batch sizes, for one,
    are not compared.
    """
    contexts: dict[frozenset[Any], list[Configuration]] = {}
    for configuration in group.configurations:
        contexts.setdefault(_context(configuration, group), []).append(configuration)
    split = "val"
    if group.runs.empty or group.runs["final_test"].notna().any():
        split = "test"
    if not contexts:
        return [Ranking(group, "", (), (), split)]
    shares = _shares_clipped(group)
    common = frozenset.intersection(*contexts)
    found = []
    for context, configurations in contexts.items():
        methods = []
        for chosen, tried in _chosen(group, configurations):
            methods.append(_method(group, chosen, tried, split, shares))
        methods.sort(key=lambda method: _place(method, group))
        words = _in_words(context - common)
        found.append(Ranking(group, words, tuple(methods), tuple(configurations), split))
    return found


def _shares_clipped(group: Group) -> pd.DataFrame:
    """Of each run, by id, how many steps were clipped (sum) of how many that count (size)."""
    steps = without_skipped(group.steps)
    clipped = is_clipped(steps["clip_factor"])
    return clipped.groupby(steps["run"], observed=False).agg(["sum", "size"])


def _in_words(context: frozenset[Any]) -> str:
    """ "batch_size=64  momentum=0.9"."""
    words = []
    for key, value in sorted(context, key=str):
        name = key.rpartition(".")[2]
        words.append(f"{name}={value}")
    return "  ".join(words)


def _context(configuration: Configuration, group: Group) -> frozenset[Any]:
    """The settings that methods must share to be compared; none where each stands for itself."""
    if group.apart:
        return frozenset()
    shared = []
    for key, value in configuration.settings.items():
        if not is_of_the_method(key):
            shared.append((key, value))
    return frozenset(shared)


def _place(method: Method, group: Group) -> tuple[bool, float, float, str]:
    mean = float(np.nan_to_num(method.score.estimate))
    if group.higher_is_better:
        mean = -mean
    return method.is_default, method.diverged / method.n, mean, method.name


def _chosen(
    group: Group, configurations: Iterable[Configuration]
) -> list[tuple[Configuration, list[Mapping[str, Any]]]]:
    """For each method its configuration by the rule of choice, and the settings of all that it was chosen
    from.

    In a study tuning has chosen already, and the group holds the final runs of that choice only.
    """
    families: dict[tuple[str, str], list[Configuration]] = {}
    for configuration in configurations:
        family = (configuration.role, configuration.name)
        families.setdefault(family, []).append(configuration)
    found = []
    for (role, name), members in families.items():
        candidates = []
        for member in members:
            candidates.append(Candidate(member, len(member.runs), len(member.diverged), member.final))
        best = best_first(candidates, group.higher_is_better)[0]
        tried = [member.settings for member in members]
        tuned = group.tuning[group.tuning["method"] == name]
        if role == "final" and not tuned.empty:
            tried = list(tuned.drop_duplicates("trial")["settings"])
        found.append((best.what, tried))
    return found


def _method(
    group: Group,
    configuration: Configuration,
    tried: list[Mapping[str, Any]],
    split: str,
    shares: pd.DataFrame,
) -> Method:
    """`shares`: those of `_shares_clipped`."""
    runs = group.runs.loc[list(configuration.runs)]
    scores = runs.set_index("seed")["final_test" if split == "test" else "final"].astype(float)
    done = runs["status"].to_numpy() == "done"
    steps = shares[shares.index.isin(configuration.runs)].sum()
    clipped = float(steps["sum"] / steps["size"]) if steps["size"] else np.nan
    times = 1000 * runs["seconds"].astype(float) / runs["steps"].astype(float)
    chosen = hyperparameters(configuration.settings)
    edges = edges_of(chosen, map(hyperparameters, tried))
    return Method(
        configuration=configuration,
        tried=len(tried),
        edges=tuple(edges),
        scores=scores.where(done).sort_index(),
        clipped=clipped,
        without=any(map(is_without_clipping, tried)),
        ms_per_step=float(times.median()),
        skipped=int(runs["skipped"].fillna(0).sum()),
    )
