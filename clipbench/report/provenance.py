"""Where the runs of a ranking come from, in words."""

from __future__ import annotations

import pandas as pd

from clipbench.analysis.places import GRADIENT
from clipbench.analysis.ranking import Ranking
from clipbench.analysis.settings import training_in_words
from clipbench.record.rows import from_json


def facts(ranking: Ranking) -> dict[str, str]:
    """What → in words; what is not known is left out."""
    group = ranking.group
    runs = pd.concat([group.runs, group.tuning])
    seeds = "final " + _seeds(group.runs)
    if len(group.tuning):
        seeds += "; tuning " + _seeds(group.tuning)
    steps = sorted(runs.loc[runs["status"] == "done", "steps"].dropna().unique())
    found = {
        "runs": _counts(runs, len(group.failed)),
        "budget": _budget(ranking),
        "trained with": _training(ranking),
        "seeds": seeds,
        "steps": ", ".join(f"{int(value)}" for value in steps),
        "data": _distinct(runs["data"]),
        "device": _device(runs),
        "platform": _distinct(runs["platform"]),
        "versions": _versions(runs),
        "revision": _distinct(runs["git"]),
        "dates": _dates(runs),
    }
    return {name: text for name, text in found.items() if text}


def failures(ranking: Ranking) -> dict[str, str]:
    """{run: the last line of its error}."""
    found = {}
    for run, error in ranking.group.failed["error"].items():
        lines = error.strip().splitlines() if isinstance(error, str) else []
        found[str(run)] = lines[-1] if lines else "no reason recorded"
    return found


def _counts(runs: pd.DataFrame, failed: int) -> str:
    status = runs["status"].value_counts()
    counts = []
    for name in ("done", "diverged"):
        if name in status:
            counts.append(f"{status[name]} {name}")
    if failed:
        counts.append(f"{failed} failed")
    every = len(runs) + failed
    return f"{every}: {', '.join(counts)}"


def _seeds(runs: pd.DataFrame) -> str:
    seeds = runs["seed"].dropna().astype(int)
    return ", ".join(map(str, sorted(seeds.unique())))


def _budget(ranking: Ranking) -> str:
    tried = {method.name: method.tried for method in ranking.judged}
    kind = "trials" if ranking.group.study else "settings"
    if len(set(tried.values())) != 1:
        counts = [f"{name} {count}" for name, count in tried.items()]
        return f"{', '.join(counts)} {kind}"
    count = ranking.judged[0].tried
    if count == 1 and kind == "settings":
        kind = "setting"
    return f"{count} {kind} for each method"


def _training(ranking: Ranking) -> str:
    """Of models that were changed afterwards: clipping and learning rate."""
    if ranking.group.place.trains or not ranking.configurations:
        return ""
    shared = ranking.configurations[0].settings
    return training_in_words({key: value for key, value in shared.items() if GRADIENT.is_of_the_method(key)})


def _distinct(column: pd.Series) -> str:
    values = sorted(column.dropna().unique())
    return "; ".join(filter(None, values))


def _device(runs: pd.DataFrame) -> str:
    device = _distinct(runs["device"])
    threads = runs["threads"].dropna().astype(int).astype(str)
    if threads.empty:
        return device
    counts = " or ".join(sorted(threads.unique()))
    return f"{device}, {counts} threads"


def _versions(runs: pd.DataFrame) -> str:
    found = set()
    for text in runs["versions"].unique():
        versions = from_json(text, dict)
        parts = [f"{name} {version}" for name, version in versions.items()]
        found.add(", ".join(parts))
    return "; ".join(filter(None, sorted(found)))


def _dates(runs: pd.DataFrame) -> str:
    """From the first start to the last end."""
    first = min(runs["started"].dropna(), default="")
    last = max(runs["ended"].dropna(), default="")
    if not first and not last:
        return ""
    return f"{_minute(first)} to {_minute(last)} UTC"


def _minute(time: str) -> str:
    """ "2026-01-31 12:34"."""
    return str(time)[:16].replace("T", " ")
