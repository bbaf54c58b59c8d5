"""Where the runs of a ranking come from, in words."""

from __future__ import annotations

import json

import pandas as pd

from clipbench.analysis.comparison import Ranking


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
        lines = (error or "").strip().splitlines()
        found[str(run)] = lines[-1] if lines else "no reason recorded"
    return found


def _counts(runs: pd.DataFrame, failed: int) -> str:
    status = runs["status"].value_counts()
    counts = [f"{status[name]} {name}" for name in ("done", "diverged") if name in status]
    if failed:
        counts.append(f"{failed} failed")
    return f"{len(runs) + failed}: {', '.join(counts)}"


def _seeds(runs: pd.DataFrame) -> str:
    return ", ".join(map(str, sorted(runs["seed"].dropna().astype(int).unique())))


def _budget(ranking: Ranking) -> str:
    tried = {method.name: method.tried for method in ranking.judged}
    kind = "trials" if ranking.group.study else "settings"
    if len(set(tried.values())) != 1:
        return ", ".join(f"{name} {number}" for name, number in tried.items()) + f" {kind}"
    number = next(iter(tried.values()))
    if number == 1 and kind == "settings":
        kind = "setting"
    return f"{number} {kind} for each method"


def _distinct(column: pd.Series) -> str:
    return "; ".join(value for value in sorted(column.dropna().unique()) if value)


def _device(runs: pd.DataFrame) -> str:
    device = _distinct(runs["device"])
    threads = sorted({f"{int(value)}" for value in runs["threads"].dropna()})
    return f"{device}, {' or '.join(threads)} threads" if threads else device


def _versions(runs: pd.DataFrame) -> str:
    found = set()
    for text in runs["versions"].fillna("{}"):
        versions = json.loads(text or "{}")
        found.add(", ".join(f"{name} {version}" for name, version in versions.items()))
    return "; ".join(text for text in sorted(found) if text)


def _dates(runs: pd.DataFrame) -> str:
    """From the first start to the last end."""
    first = min(runs["started"].dropna(), default="")
    last = max(runs["ended"].dropna(), default="")
    if not first and not last:
        return ""
    first, last = (str(time)[:16].replace("T", " ") for time in (first, last))
    return f"{first} to {last} UTC"
