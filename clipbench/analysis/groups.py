"""Tables → groups: which runs belong together, which are left out, and how each configuration is called."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa

from clipbench.analysis.choice import winners
from clipbench.analysis.group import Configuration, Group
from clipbench.analysis.settings import Settings, label, order, settings_of
from clipbench.errors import UserError
from clipbench.record import tables

__all__ = ["Configuration", "Group", "parts", "read_group", "read_groups"]

STEPS = ["step", "seconds", "loss", "grad_norm", "clipped_norm", "clip_factor"]
EVALS = ["run", "step", "seconds", "split", "metric", "value"]


def read_groups(folder: Path, run: str | None = None, apart: bool = False) -> Iterator[Group]:
    """Every group of a results folder, by name, or the one that holds `run`; each is read when it is asked
    for.

    `apart`: all optimizers of a task and scale are one group, and each configuration is a method of its own.
    UserError where no run has finished, or none that can be read.
    """
    empty = True
    for runs in parts(folder, run, apart):
        group = read_group(folder, runs, apart)
        if group is not None:
            empty = False
            yield group
    if empty:
        raise nothing_readable(folder)


def nothing_readable(folder: Path) -> UserError:
    """For a folder in which each finished run lacks its steps or evaluations."""
    return UserError(f"{folder} holds no finished run whose tables can be read.")


def parts(folder: Path, run: str | None = None, apart: bool = False) -> list[pd.DataFrame]:
    """The rows of `runs` that make each group. `run`, `apart` and UserError as in `read_groups`."""
    if not folder.is_dir():
        raise UserError(
            f"There is no folder {folder}. Give the one that `clipbench run` wrote (results=DIR): "
            "it holds runs/, steps/ and evals/."
        )
    runs = tables.read(folder, "runs")
    if not runs["status"].isin(["done", "diverged"]).any():
        failed = f" (failed: {len(runs)})" if len(runs) else ""
        advice = f"Train one first: clipbench run results={folder}"
        raise UserError(f"{folder} holds no finished run{failed}. {advice}")
    runs = runs.fillna({"scale": "", "study": "", "role": "", "method": ""})
    tuning = runs["role"] == "tune"
    if tuning[runs["run"] == run].any():  # one is asked for: then its kind stands by itself
        runs = runs[tuning].assign(study=runs["study"] + " tuning", role="")
    keys = ["task", "scale", "study"] if apart else ["task", "scale", "optimizer", "study"]
    found = []
    for _, part in runs.groupby(keys):
        asked = run is None or run in set(part["run"])
        if asked and (part["status"] != "failed").any():
            found.append(part)
    return found


def read_group(folder: Path, runs: pd.DataFrame, apart: bool = False) -> Group | None:
    """One of the `parts`, with its steps and evaluations. Runs whose steps or evaluations cannot be read are
    left out, tuning runs apart, of which neither is used; None where no run is left.
    """
    drawn = runs.loc[(runs["status"] != "failed") & (runs["role"] != "tune"), "run"]
    steps = dict(tables.read_parts(folder, "steps", STEPS, drawn))
    evals = dict(tables.read_parts(folder, "evals", EVALS, drawn))
    lost = [run for run in drawn if run not in steps or run not in evals]
    runs = runs[~runs["run"].isin(lost)]
    if not (runs["status"] != "failed").any():
        return None
    finished = _numbered(runs[runs["status"] != "failed"].sort_values(["started", "run"]))
    # A new version of clipbench or of a user's rule repeats a seed: counted twice it would pass for a further
    # seed.
    latest = finished.drop_duplicates(["number", "seed"], keep="last").sort_values(["seed", "run"])
    earlier = _of_earlier_choice(latest)
    left_out = {
        "damaged": len(lost),
        "failed": len(runs) - len(finished),
        "repeated later": len(finished) - len(latest),
        "of what an earlier, smaller tuning chose": int(earlier.sum()),
    }
    notes = []
    for why, count in left_out.items():
        if count:
            notes.append(f"runs left out: {count} {why}")
    latest = latest[~earlier]
    tuned = latest["role"] == "tune"
    shown = latest[~tuned]
    first = latest.iloc[0]
    higher_is_better = bool(first["higher_is_better"])
    return Group(
        task=first["task"],
        scale=first["scale"],
        optimizer="" if apart else first["optimizer"],
        headline=first["headline"],
        configurations=_best_first(_configurations(shown, apart), higher_is_better),
        steps=_steps({run: steps[run] for run in shown["run"]}),
        evals=_joined("evals", EVALS, [evals[run] for run in shown["run"]]),
        higher_is_better=higher_is_better,
        notes=tuple(notes),
        study=first["study"],
        runs=shown.set_index("run"),
        tuning=latest[tuned].set_index("run"),
        failed=runs[runs["status"] == "failed"].set_index("run"),
        apart=apart,
    )


def _best_first(configurations: Iterable[Configuration], higher_is_better: bool) -> tuple[Configuration, ...]:
    """By final value, those without one last; equal ones by label."""
    sign = -1 if higher_is_better else 1

    def place(configuration: Configuration) -> tuple[bool, float, str]:
        final = configuration.final
        if np.isnan(final):
            return True, 0.0, configuration.label
        return False, sign * final, configuration.label

    return tuple(sorted(configurations, key=place))


def _numbered(runs: pd.DataFrame) -> pd.DataFrame:
    """With `settings`, and `number`: the same for runs that differ in nothing but the seed."""
    settings, numbers = [], []
    known: dict[frozenset[Any], int] = {}
    places = runs[["role", "method", "trial"]].fillna(-1).to_dict("records")
    for row, place in zip(runs.to_dict("records"), places, strict=True):
        found = settings_of(row)
        identity = frozenset([*found.items(), *place.items()])
        number = known.setdefault(identity, len(known))
        settings.append(found)
        numbers.append(number)
    return runs.assign(settings=settings, number=numbers)


def _of_earlier_choice(runs: pd.DataFrame) -> pd.Series:
    """Which final runs are of another trial than tuning's winner: a study that got more trials may have
    chosen anew.
    """
    chosen = winners(runs).set_index("method")["trial"]
    is_final = runs["role"] == "final"
    was_tuned = runs["method"].isin(chosen.index)
    is_other = runs["trial"] != runs["method"].map(chosen)
    return is_final & was_tuned & is_other


def _steps(found: Mapping[str, pa.Table]) -> pd.DataFrame:
    """Only what is drawn, with `run` as a category: as text it would be most of the memory."""
    steps = _joined("steps", STEPS, found.values())
    lengths = list(map(len, found.values()))
    codes = np.repeat(np.arange(len(found)), lengths)
    run = pd.Categorical.from_codes(codes, list(found))
    return steps.assign(run=run)


def _joined(table: str, names: Iterable[str], found: Iterable[pa.Table]) -> pd.DataFrame:
    fields = map(tables.SCHEMAS[table].field, names)
    empty = pa.schema(list(fields)).empty_table()
    return pa.concat_tables([empty, *found]).to_pandas()


def _configurations(runs: pd.DataFrame, apart: bool) -> Iterator[Configuration]:
    """One for each number of `runs`, those of a type one after the other."""
    settings_of_number: dict[int, Settings] = dict(zip(runs["number"], runs["settings"], strict=True))
    everyone = settings_of_number.values()
    types: dict[str, list[int]] = {}
    for number, settings in settings_of_number.items():
        types.setdefault(settings["clipping_type"], []).append(number)
    for numbers in types.values():
        peers = [settings_of_number[number] for number in numbers]
        numbers.sort(key=lambda number: order(settings_of_number[number]))
        for variant, number in enumerate(numbers):
            settings = settings_of_number[number]
            rows = runs[runs["number"] == number]
            done = rows[rows["status"] == "done"]
            diverged = rows[rows["status"] == "diverged"]
            role, method = rows["role"].iloc[0], rows["method"].iloc[0]
            text = label(settings, peers, everyone)
            if role == "default":
                text += " (default)"
            yield Configuration(
                label=text,
                settings=settings,
                done=tuple(done["run"]),
                diverged=tuple(diverged["run"]),
                finals=done["final"].to_numpy(float),
                variant=variant,
                variants=len(numbers),
                name=text if apart else method or settings["clipping_type"],
                role=role,
            )
