"""How a section's runs were made, in words."""

from __future__ import annotations

import json

import pandas as pd

from clipbench.analysis.comparison import Section


def facts(section: Section) -> dict[str, str]:
    """What → in words; what is not known is left out."""
    group = section.group
    runs = pd.concat([group.runs, group.tuning])
    versions = sorted(
        {
            ", ".join(f"{k} {v}" for k, v in json.loads(text or "{}").items())
            for text in runs["versions"].fillna("{}")
        }
    )
    status = runs["status"].value_counts()
    counts = [f"{status[name]} {name}" for name in ("done", "diverged") if name in status] + [
        f"{len(group.failed)} failed"
    ] * bool(len(group.failed))
    threads = sorted({f"{int(value)}" for value in runs["threads"].dropna()})
    made = [
        str(edge(runs[name].dropna(), default=""))[:16].replace("T", " ")
        for edge, name in ((min, "started"), (max, "ended"))
    ]
    found = {
        "runs": f"{len(runs) + len(group.failed)}: {', '.join(counts)}",
        "budget": _budget(section),
        "seeds": _seeds("final", group.runs)
        + ("; " + _seeds("tuning", group.tuning) if len(group.tuning) else ""),
        "steps": ", ".join(
            f"{int(value)}" for value in sorted(runs.loc[runs["status"] == "done", "steps"].dropna().unique())
        ),
        "data": "; ".join(sorted(runs["data"].dropna().unique())),
        "device": "; ".join(sorted(runs["device"].dropna().unique()))
        + (f", {' or '.join(threads)} threads" if threads else ""),
        "platform": "; ".join(sorted(runs["platform"].dropna().unique())),
        "versions": "; ".join(filter(None, versions)),
        "revision": "; ".join(filter(None, sorted(runs["git"].dropna().unique()))),
        "made": f"{made[0]} to {made[1]} UTC" if any(made) else "",
    }
    return {name: text for name, text in found.items() if text}


def _seeds(what: str, runs: pd.DataFrame) -> str:
    return f"{what} " + ", ".join(map(str, sorted(runs["seed"].dropna().astype(int).unique())))


def _budget(section: Section) -> str:
    tried = {arm.name: arm.tried for arm in section.judged}
    if len(set(tried.values())) == 1:
        number = next(iter(tried.values()))
        return (
            f"{number} {'trials' if section.group.study else 'setting' + 's' * (number > 1)} for each method"
        )
    return ", ".join(f"{name} {number}" for name, number in tried.items()) + (
        " trials" if section.group.study else " settings"
    )
