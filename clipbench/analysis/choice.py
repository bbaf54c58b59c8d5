"""What tuning chose, from the table `runs` alone: one fixed rule, the same for every method."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from typing import Any

import pandas as pd

from clipbench.record.rows import NO_CLIPPING

ARENA = ["study", "task", "scale", "optimizer"]  # methods are compared within one of these


def trials(runs: pd.DataFrame) -> pd.DataFrame:
    """The tuning trials of all studies in `runs`, best first within each method.

    One row for each study, task, scale, optimizer, method and trial, with: value, the mean over the tuning seeds of the last
    validation value; diverged, how many of its runs did; seeds; numbers, {name: value} of what was drawn; place, from 1 for the
    winner.

    A trial with fewer diverged runs is better, then one with the better value, then the one with the smaller number. A run that
    failed is no result: a trial that lacks a run that others have has no place (it is left out).
    """
    tuned = runs[(runs["role"] == "tune") & (runs["status"] != "failed")]
    tuned = tuned.sort_values(["started", "run"]).drop_duplicates(
        [*ARENA, "method", "trial", "seed"], keep="last"
    )
    rows = [
        {**dict(zip([*ARENA, "method"], key, strict=True)), **row, "place": place}
        for key, part in tuned.groupby([*ARENA, "method"], dropna=False, sort=False)
        for place, row in enumerate(_ranked(part), 1)
    ]
    columns = [*ARENA, "method", "trial", "value", "diverged", "seeds", "numbers", "place"]
    return pd.DataFrame(rows, columns=columns)


def _ranked(runs: pd.DataFrame) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    for trial, part in runs.groupby("trial"):
        ended = part[(part["status"] == "done") & part["final"].notna()]
        value = float(ended["final"].mean()) if len(ended) else math.nan
        numbers = _numbers(part.iloc[0].to_dict())
        rows.append(
            {
                "trial": int(trial),
                "value": value,
                "diverged": len(part) - len(ended),
                "seeds": len(part),
                "numbers": numbers,
            }
        )  # type: ignore[call-overload]
    seeds = max(row["seeds"] for row in rows)
    sign = -1 if runs["higher_is_better"].iloc[0] else 1
    complete = [row for row in rows if row["seeds"] == seeds]
    return sorted(
        complete,
        key=lambda row: (
            row["diverged"],
            0.0 if math.isnan(row["value"]) else sign * row["value"],
            row["trial"],
        ),
    )


def _numbers(run: Mapping[str, Any]) -> dict[str, float]:
    """The learning rate and the numbers of a run's rule; those of a user's own rule stand in `config` only."""
    named = {
        name: run[name] for name in ("lr", "clipping_level", "p_autoclip", "beta") if pd.notna(run[name])
    }
    clip = json.loads(run["config"] or "{}").get("optim", {}).get("clip") or {}
    return {name: float(value) for name, value in (*named.items(), *clip.items()) if _is_number(value)}


def _is_number(value: Any) -> bool:
    return (isinstance(value, (int, float)) and not isinstance(value, bool)) or value == "inf"


def winners(runs: pd.DataFrame) -> pd.DataFrame:
    """The first of each method's `trials`, with `trials`, how many there were, and `edge`, {name: "lowest" or "highest"}.

    A number is at the edge when no trial was drawn beyond it: the best may lie outside the space. ∞ and p = 1 are no edge.
    """
    every = trials(runs)
    best = every[every["place"] == 1].drop(columns="place").reset_index(drop=True)
    together = [
        every[(every[[*ARENA, "method"]] == row[[*ARENA, "method"]]).all(axis=1)]
        for _, row in best.iterrows()
    ]
    edges = [dict(_edges(row, part["numbers"])) for row, part in zip(best["numbers"], together, strict=True)]
    return best.assign(trials=[len(part) for part in together], edge=edges)


def _edges(numbers: Mapping[str, float], tried: pd.Series) -> Iterator[tuple[str, str]]:
    for name, value in numbers.items():
        values = [each[name] for each in tried if name in each]
        if len(set(values)) > 1 and value != NO_CLIPPING.get(name):
            if value == min(values):
                yield name, "lowest"
            elif value == max(values):
                yield name, "highest"
