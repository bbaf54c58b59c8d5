"""Tables → groups: which runs are left out, and how each configuration is called."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa

from clipbench.analysis.choice import winners
from clipbench.analysis.group import Configuration, Group
from clipbench.analysis.parts import COUNTED, parts
from clipbench.analysis.places import PLACES, Place
from clipbench.analysis.settings import Settings, label, merged, order, settings_of
from clipbench.record import tables
from clipbench.record.files import is_recorded

__all__ = ["Configuration", "Group", "read_group", "read_groups"]

STEPS = ["step", "seconds", "loss", "grad_norm", "clipped_norm", "clip_factor"]
EVALS = ["run", "step", "seconds", "split", "metric", "value", "condition"]


def read_groups(folder: Path, run: str | None = None, apart: bool = False) -> Iterator[Group]:
    """Every group of a results folder, by name, or the one that holds `run`; each is read when it is asked
    for.

    `apart`: all optimizers of a task and scale are one group, and each configuration is a method of its own.
    UserError where no run has finished.
    """
    for runs in parts(folder, run, apart):
        yield read_group(folder, runs, apart)


def read_group(folder: Path, runs: pd.DataFrame, apart: bool = False) -> Group:
    """One of the `parts`, with its steps and evaluations."""
    place = PLACES[runs["place"].iloc[0]]
    counted = runs[runs["status"].isin(COUNTED)].sort_values(["started", "run"])
    finished = _numbered(counted, place)
    judge, otherwise = _judge(finished)
    earlier = _of_earlier_choice(finished)
    of_now = finished[~earlier & ~otherwise]
    # A new version of clipbench or of a user's rule repeats a seed: counted twice it would pass for a further
    # seed.
    latest = of_now.drop_duplicates(["number", "seed"], keep="last")
    again = latest["repetition"].notna() & latest.duplicated(["number", "repetition"], keep="last")
    latest = latest[~again].sort_values(["seed", "run"])
    tuned = latest["role"] == "tune"
    stopped = ~tuned & (latest["status"] == "stopped")
    shown = latest[~tuned & ~stopped]
    left_out = {
        "failed": int((runs["status"] == "failed").sum()),
        "whose max_time was over": int((runs["status"] == "timeout").sum()),
        "repeated later": len(of_now) - len(latest),
        "of what an earlier, smaller tuning chose": int(earlier.sum()),
        "stopped early": int(stopped.sum()),
        "judged by another metric": int(otherwise.sum()),
    }
    notes = []
    for why, count in left_out.items():
        if count:
            notes.append(f"runs left out: {count} {why}")
    first = latest.iloc[0]
    higher_is_better = bool(judge["higher_is_better"])
    each_for_itself = apart or all(map(is_recorded, latest["run"]))
    evals, conditions = _evals(folder, shown["run"])
    return Group(
        task=first["task"],
        scale=first["scale"],
        optimizer="" if apart else first["optimizer"],
        headline=judge["headline"],
        configurations=_best_first(_configurations(shown, each_for_itself, place), higher_is_better),
        steps=_steps(folder, shown["run"][shown["parent"].isna()] if place.trains else ()),
        evals=evals,
        higher_is_better=higher_is_better,
        notes=tuple(notes),
        study=first["study"],
        runs=shown.set_index("run"),
        tuning=latest[tuned].set_index("run"),
        failed=runs[runs["status"] == "failed"].set_index("run"),
        apart=each_for_itself,
        place=place,
        conditions=conditions,
    )


def _judge(runs: pd.DataFrame) -> tuple[pd.Series, pd.Series]:
    """(the latest run that has a value, which says by what metric all are judged; which runs have a value of
    another one, as loops of one's own may).
    """
    valued = runs[["final", "final_test"]].notna().any(axis=1)
    judge = (runs[valued] if valued.any() else runs).iloc[-1]
    return judge, valued & (runs["headline"] != judge["headline"])


def _best_first(configurations: Iterable[Configuration], higher_is_better: bool) -> tuple[Configuration, ...]:
    """By final value, those without one last; equal ones by label."""
    sign = -1 if higher_is_better else 1

    def place(configuration: Configuration) -> tuple[bool, float, str]:
        final = configuration.final
        if np.isnan(final):
            return True, 0.0, configuration.label
        return False, sign * final, configuration.label

    return tuple(sorted(configurations, key=place))


def _numbered(runs: pd.DataFrame, place: Place) -> pd.DataFrame:
    """With `settings`, and `number`: the same for runs that differ in nothing but the seed and, of a method's
    final runs in the repetitions of a study, in what was chosen.
    """
    settings, numbers = [], []
    known: dict[frozenset[Any], int] = {}
    tags = runs[["role", "method", "trial"]].fillna(-1).to_dict("records")
    for row, tag in zip(runs.to_dict("records"), tags, strict=True):
        found = settings_of(row)
        shared = list(found.items())
        if row["role"] == "final" and pd.notna(row["repetition"]):
            shared = [item for item in shared if not place.is_of_the_method(item[0])]
            tag = {"role": tag["role"], "method": tag["method"]}
        identity = frozenset([*shared, *tag.items()])
        number = known.setdefault(identity, len(known))
        settings.append(found)
        numbers.append(number)
    return runs.assign(settings=settings, number=numbers)


def _of_earlier_choice(runs: pd.DataFrame) -> pd.Series:
    """Which final runs are of another trial than tuning's winner in their repetition: a study that got more
    trials may have chosen anew.
    """
    chosen = {}
    for winner in winners(runs).to_dict("records"):
        chosen[_place(winner)] = winner["trial"]
    is_other = []
    for row in runs[["role", "method", "repetition", "trial"]].to_dict("records"):
        place = _place(row)
        is_known = row["role"] == "final" and place in chosen
        is_other.append(is_known and row["trial"] != chosen[place])
    return pd.Series(is_other, index=runs.index, dtype=bool)


def _place(row: Mapping[str, Any]) -> tuple[str, int]:
    """The method and the repetition, −1 where a study tuned once."""
    return row["method"], -1 if pd.isna(row["repetition"]) else int(row["repetition"])


def _steps(folder: Path, runs: Iterable[str]) -> pd.DataFrame:
    """Only what is drawn, with `run` as a category: as text it would be most of the memory."""
    found = dict(tables.read_parts(folder, "steps", STEPS, runs))
    fields = map(tables.SCHEMAS["steps"].field, STEPS)
    empty = pa.schema(list(fields)).empty_table()
    steps = pa.concat_tables([empty, *found.values()]).to_pandas()
    lengths = list(map(len, found.values()))
    codes = np.repeat(np.arange(len(found)), lengths)
    run = pd.Categorical.from_codes(codes, list(found))
    return steps.assign(run=run)


def _evals(folder: Path, runs: Iterable[str]) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Their evaluations under the last condition of each; and, of those that name one, under every."""
    every = tables.read(folder, "evals", EVALS, runs).fillna({"condition": ""})
    if (every["condition"] == "").all():
        return every, every[:0]
    of_run = every.groupby("run")["condition"]
    last, names_one = of_run.transform("last"), of_run.transform("max") != ""
    return every[every["condition"] == last], every[names_one]


def _configurations(runs: pd.DataFrame, apart: bool, place: Place) -> Iterator[Configuration]:
    """One for each number of `runs`, those of a type one after the other."""
    settings_of_number: dict[int, Settings] = {}
    varied_of_number: dict[int, dict[str, tuple[Any, ...]]] = {}
    for number, part in runs.groupby("number", sort=False):
        settings_of_number[number], varied_of_number[number] = merged(part["settings"])
    everyone = settings_of_number.values()
    types: dict[str, list[int]] = {}
    for number, settings in settings_of_number.items():
        types.setdefault(settings[place.type_key], []).append(number)
    for numbers in types.values():
        peers = [settings_of_number[number] for number in numbers]
        numbers.sort(key=lambda number: order(settings_of_number[number], place))
        for variant, number in enumerate(numbers):
            settings = settings_of_number[number]
            rows = runs[runs["number"] == number]
            done = rows[rows["status"] == "done"]
            diverged = rows[rows["status"] == "diverged"]
            role, method = rows["role"].iloc[0], rows["method"].iloc[0]
            text = label(settings, peers, everyone, place)
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
                # nothing is tuned after training: each setting of a transform stands for itself
                name=text if apart or not place.trains else method or settings[place.type_key],
                role=role,
                varied=varied_of_number[number],
                place=place,
            )
