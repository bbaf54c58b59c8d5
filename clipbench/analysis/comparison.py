"""Groups → rankings: which configurations may be compared, and which of them stands for its method."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from clipbench.analysis.choice import Candidate, best_first, edges_of, is_without_clipping
from clipbench.analysis.group import Configuration, Group
from clipbench.analysis.places import Place
from clipbench.analysis.ranking import Method, Ranking
from clipbench.analysis.settings import hyperparameters, training_in_words
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
        words = _in_words(context - common, group.place)
        found.append(Ranking(group, words, tuple(methods), tuple(configurations), split))
    return found


def _shares_clipped(group: Group) -> pd.DataFrame:
    """Of each run, by id, how many steps were clipped (sum) of how many that count (size)."""
    steps = without_skipped(group.steps)
    clipped = is_clipped(steps["clip_factor"])
    return clipped.groupby(steps["run"], observed=False).agg(["sum", "size"])


def _in_words(context: frozenset[Any], place: Place) -> str:
    """ "batch_size=64  momentum=0.9"; of trained models their clipping too."""
    if not place.trains:
        return training_in_words(dict(context))
    words = []
    for key, value in sorted(context, key=str):
        name = key.rpartition(".")[2]
        words.append(f"{name}={value}")
    return "  ".join(words)


def _context(configuration: Configuration, group: Group) -> frozenset[Any]:
    """The settings that methods must share to be compared; none where each stands for itself, but for a
    trained model: what is made of it is compared with that model alone.
    """
    if group.apart and group.place.trains:
        return frozenset()
    shared = []
    for key, value in configuration.settings.items():
        if not group.place.is_of_the_method(key):
            shared.append((key, value))
    return frozenset(shared)


def _place(method: Method, group: Group) -> tuple[bool, float, float, str]:
    mean = float(np.nan_to_num(method.score.estimate))
    if group.higher_is_better:
        mean = -mean
    return method.is_default, method.diverged / method.n, mean, method.name


def _chosen(group: Group, configurations: Iterable[Configuration]) -> list[tuple[Configuration, list[Tried]]]:
    """For each method its configuration by the rule of choice, and what it was chosen from.

    In a study tuning has chosen already, in each repetition, and the group holds the final runs of these
    choices only.
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
        best = best_first(candidates, group.higher_is_better)[0].what
        tried = [Tried(best.settings, [member.settings for member in members])]
        tuned = group.tuning[group.tuning["method"] == name]
        if role == "final" and not tuned.empty:
            tried = _tried_in_tuning(group, best, tuned)
        found.append((best, tried))
    return found


@dataclass(frozen=True)
class Tried:
    """Settings that were chosen, and all those that they were chosen from."""

    chosen: Mapping[str, Any]
    among: Sequence[Mapping[str, Any]]


def _tried_in_tuning(group: Group, configuration: Configuration, tuning: pd.DataFrame) -> list[Tried]:
    """Of each repetition that has a final run; one in all where a study tuned once."""
    finals = group.runs.loc[list(configuration.runs)]
    of_repetition = dict(list(tuning.groupby("repetition", dropna=False)))
    by_number = {_number(repetition): part for repetition, part in of_repetition.items()}
    found = []
    for repetition, part in finals.groupby("repetition", dropna=False):
        tried = by_number.get(_number(repetition))
        if tried is not None:
            among = list(tried.drop_duplicates("trial")["settings"])
            found.append(Tried(part["settings"].iloc[0], among))
    return found or [Tried(configuration.settings, [configuration.settings])]


def _number(repetition: Any) -> int:
    """Of a repetition, −1 where there is none."""
    return -1 if pd.isna(repetition) else int(repetition)


def _method(
    group: Group,
    configuration: Configuration,
    tried: list[Tried],
    split: str,
    shares: pd.DataFrame,
) -> Method:
    """`shares`: those of `_shares_clipped`."""
    runs = group.runs.loc[list(configuration.runs)]
    scores = runs.set_index(group.unit)["final_test" if split == "test" else "final"].astype(float)
    done = runs["status"].to_numpy() == "done"
    untested = done & scores.isna().to_numpy()
    steps = shares[shares.index.isin(configuration.runs)].sum()
    clipped = float(steps["sum"] / steps["size"]) if steps["size"] else np.nan
    times = 1000 * runs["seconds"].astype(float) / runs["steps"].astype(float)
    edges: Counter[str] = Counter()
    without = False
    for each in tried if group.place.trains else ():
        edges.update(edges_of(hyperparameters(each.chosen), map(hyperparameters, each.among)).keys())
        without = without or any(map(is_without_clipping, each.among))
    return Method(
        configuration=configuration,
        tried=min(len(each.among) for each in tried),
        edges=dict(edges),
        scores=scores.where(done)[~untested].sort_index(),
        clipped=clipped,
        without=without,
        ms_per_step=float(times.median()) if group.place.trains else np.nan,
        skipped=int(runs["skipped"].fillna(0).sum()) if group.place.trains else 0,
        choices=len(tried),
        untested=int(untested.sum()),
    )
