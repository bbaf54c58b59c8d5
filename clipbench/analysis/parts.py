"""The table `runs` → its parts: which runs belong together."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd

from clipbench.analysis.places import GRADIENT, PLACES
from clipbench.errors import UserError
from clipbench.record import tables

COUNTED = ("done", "diverged", "stopped")
"""Statuses of runs that say something of their method."""


def parts(folder: Path, run: str | None = None, apart: bool = False) -> list[pd.DataFrame]:
    """The rows of `runs` that make each group. `run`, `apart` and UserError as in `groups.read_groups`."""
    if not folder.is_dir():
        raise UserError(
            f"There is no folder {folder}. Give the one that `clipbench run` wrote (results=DIR): "
            "it holds runs/, steps/ and evals/."
        )
    runs = tables.read(folder, "runs")
    if not runs["status"].isin(COUNTED).any():
        raise UserError(f"{folder} holds no finished run{_unfinished(folder, runs)}")
    runs = runs.fillna({"scale": "", "study": "", "role": "", "method": "", "place": GRADIENT.name})
    in_study = runs["role"] != ""  # where methods are clipping types, whatever becomes of the weights
    runs = runs.assign(method=runs["method"].where(in_study, ""))
    runs["place"] = runs["place"].mask(in_study & ~_is_trained(runs), GRADIENT.name)
    tuning = runs["role"] == "tune"
    if tuning[runs["run"] == run].any():  # one is asked for: then its kind stands by itself
        runs = runs[tuning].assign(study=runs["study"] + " tuning", role="")
    keys = ["task", "scale", "study"] if apart else ["task", "scale", "optimizer", "study"]
    found = []
    for _, part in runs.groupby([*keys, "place"]):
        asked = run is None or run in set(part["run"])
        if asked and part["status"].isin(COUNTED).any():
            found.append(_with_parents(part, runs))
    return found


def _unfinished(folder: Path, runs: pd.DataFrame) -> str:
    """Why there is none, and what to do."""
    over = int((runs["status"] == "timeout").sum())
    if over:
        return f" (max_time was over: {over}). They go on with a larger max_time."
    failed = f" (failed: {len(runs)})" if len(runs) else ""
    return f"{failed}. Train one first: clipbench run results={folder}"


def _is_trained(runs: pd.DataFrame) -> pd.Series:
    """Whether a run's methods act in training."""
    return runs["place"].map({name: place.trains for name, place in PLACES.items()})


def _with_parents(part: pd.DataFrame, runs: pd.DataFrame) -> pd.DataFrame:
    """Runs that change trained models, and with them those models as they were: what they are compared
    with.
    """
    place = PLACES[part["place"].iloc[0]]
    if place.trains:
        return part
    parents = runs[runs["run"].isin(part["parent"]) & runs["status"].isin(COUNTED)]
    as_trained = json.dumps({"name": place.reference})
    return pd.concat([part, parents.assign(place=place.name, transform=as_trained)])
