"""Tables → groups: the runs of one task, scale and optimizer, sorted into configurations. Runs of one differ
in nothing but the seed.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa

from clipbench.analysis.choice import winners
from clipbench.analysis.settings import Settings, label, order, settings_of
from clipbench.errors import UserError
from clipbench.record import tables

STEPS = ["step", "seconds", "loss", "grad_norm", "clipped_norm", "clip_factor"]
EVALS = ["run", "step", "seconds", "split", "metric", "value"]


@dataclass(frozen=True)
class Configuration:
    """A clipping type with its settings; `label` names those that set it apart. `finals`: final validation
    metric of each run in `done`.

    Of the group's `variants` configurations of its type it is number `variant`, from 0, by level, quantile,
    beta, learning rate.
    """

    label: str
    settings: Settings
    done: tuple[str, ...]
    diverged: tuple[str, ...]
    finals: np.ndarray  # (len(done),)
    variant: int
    variants: int
    name: str  # the type, or what a study calls the method
    role: str  # in a study "final" or "default", else ""

    @property
    def type(self) -> str:
        return self.settings["clipping_type"]

    @property
    def runs(self) -> tuple[str, ...]:
        return self.done + self.diverged

    @property
    def final(self) -> float:
        """Mean over the seeds that came to an end; NaN where none did."""
        return float(self.finals.mean()) if len(self.finals) else float("nan")


@dataclass(frozen=True)
class Group:
    """What one set of figures shows. `configurations` stand best first by their final validation metric,
    those without one last.
    """

    task: str
    scale: str
    optimizer: str
    headline: str
    configurations: tuple[Configuration, ...]
    steps: pd.DataFrame
    evals: pd.DataFrame
    higher_is_better: bool
    notes: tuple[str, ...]  # which runs are left out
    study: str  # "" outside one
    runs: pd.DataFrame  # of the configurations, by run
    tuning: pd.DataFrame  # a study's trials, by run: never drawn or judged together with the others
    failed: pd.DataFrame
    apart: bool  # each configuration stands for itself, with those of other optimizers

    @property
    def name(self) -> str:
        """Task, scale, optimizer and study, as far as there is one."""
        parts = [self.task, self.scale, self.optimizer, self.study]
        return " ".join(part for part in parts if part)

    @property
    def stem(self) -> str:
        """The same as the beginning of a file's name."""
        parts = [self.task, self.scale, self.optimizer, self.study]
        return re.sub(r"[^\w.-]+", "-", "_".join(part for part in parts if part))

    def steps_of(self, *configurations: Configuration) -> pd.DataFrame:
        """The rows of `steps` of their runs, one run after the other."""
        runs: list[str] = []
        for configuration in configurations:
            runs += configuration.runs
        return self.steps.iloc[self._rows(runs)]

    def _rows(self, runs: Iterable[str]) -> np.ndarray:
        """Where these runs stand in `steps`, which holds one run after the other. Those without steps are
        left out.
        """
        run = self.steps["run"].cat
        codes = np.sort(run.categories.get_indexer(list(runs)))
        codes = codes[codes >= 0]
        starts, ends = np.searchsorted(run.codes, [codes, codes + 1])
        rows = [np.zeros(0, int)]
        for start, end in zip(starts, ends, strict=True):
            rows.append(np.arange(start, end))
        return np.concatenate(rows)

    def curve(self, column: str, *configurations: Configuration) -> pd.DataFrame:
        """A column of `steps` against step, one column per run of these, of all by default; NaN after a run's
        end. (steps, runs)
        """
        steps = self.steps_of(*configurations) if configurations else self.steps
        runs = steps["run"].cat.remove_unused_categories().cat
        at, row = np.unique(steps["step"].to_numpy(), return_inverse=True)
        table = np.full((len(at), len(runs.categories)), np.nan)
        table[row, runs.codes] = steps[column].to_numpy()
        return pd.DataFrame(table, pd.Index(at, name="step"), runs.categories)

    def metric(self, split: str) -> pd.DataFrame:
        """The headline metric against step, one column per run. (evaluations, runs)"""
        rows = self.evals_of(split)
        return rows.pivot(index="step", columns="run", values="value")

    def evals_of(self, split: str) -> pd.DataFrame:
        """The rows of `evals` that hold the headline metric of a split."""
        return self.evals[(self.evals["metric"] == self.headline) & (self.evals["split"] == split)]


def read_groups(folder: Path, run: str | None = None, apart: bool = False) -> Iterator[Group]:
    """Every group of a results folder, by name, or the one that holds `run`; each is read when it is asked
    for.

    `apart`: all optimizers of a task and scale are one group, and each configuration is a method of its own.
    UserError where no run has finished.
    """
    for runs in parts(folder, run, apart):
        yield read_group(folder, runs, apart)


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


def read_group(folder: Path, runs: pd.DataFrame, apart: bool = False) -> Group:
    """One of the `parts`, with its steps and evaluations."""
    finished = _numbered(runs[runs["status"] != "failed"].sort_values(["started", "run"]))
    # A new version of clipbench or of a user's rule repeats a seed: counted twice it would pass for a further
    # seed.
    latest = finished.drop_duplicates(["number", "seed"], keep="last").sort_values(["seed", "run"])
    earlier = _of_earlier_choice(latest)
    left_out = {
        "failed": len(runs) - len(finished),
        "repeated later": len(finished) - len(latest),
        "of what an earlier, smaller tuning chose": int(earlier.sum()),
    }
    latest = latest[~earlier]
    tuned = latest["role"] == "tune"
    shown = latest[~tuned]
    first = latest.iloc[0]
    sign = -1 if first["higher_is_better"] else 1

    def place(configuration: Configuration) -> tuple[bool, float, str]:
        final = configuration.final
        return bool(np.isnan(final)), sign * float(np.nan_to_num(final)), configuration.label

    return Group(
        task=first["task"],
        scale=first["scale"],
        optimizer="" if apart else first["optimizer"],
        headline=first["headline"],
        configurations=tuple(sorted(_configurations(shown, apart), key=place)),
        steps=_steps(folder, shown["run"]),
        evals=tables.read(folder, "evals", EVALS, shown["run"]),
        higher_is_better=bool(first["higher_is_better"]),
        notes=tuple(f"runs left out: {count} {why}" for why, count in left_out.items() if count),
        study=first["study"],
        runs=shown.set_index("run"),
        tuning=latest[tuned].set_index("run"),
        failed=runs[runs["status"] == "failed"].set_index("run"),
        apart=apart,
    )


def _numbered(runs: pd.DataFrame) -> pd.DataFrame:
    """With `settings`, and `number`: the same for runs that differ in nothing but the seed."""
    settings, numbers = [], []
    known: dict[frozenset[Any], int] = {}
    places = runs[["role", "method", "trial"]].fillna(-1).to_dict("records")
    for row, place in zip(runs.to_dict("records"), places, strict=True):
        found = settings_of(row)
        settings.append(found)
        numbers.append(known.setdefault(frozenset([*found.items(), *place.items()]), len(known)))
    return runs.assign(settings=settings, number=numbers)


def _of_earlier_choice(runs: pd.DataFrame) -> pd.Series:
    """Which final runs are of another trial than tuning's winner: a study that got more trials may have
    chosen anew.
    """
    chosen = winners(runs).set_index("method")["trial"]
    final = (runs["role"] == "final") & runs["method"].isin(chosen.index)
    return final & (runs["trial"] != runs["method"].map(chosen))


def _steps(folder: Path, runs: Iterable[str]) -> pd.DataFrame:
    """Only what is drawn, with `run` as a category: as text it would be most of the memory."""
    found = dict(tables.read_parts(folder, "steps", STEPS, runs))
    schema = pa.schema([tables.SCHEMAS["steps"].field(name) for name in STEPS])
    lengths = [len(part) for part in found.values()]
    codes = np.repeat(np.arange(len(found)), lengths)
    steps = pa.concat_tables([schema.empty_table(), *found.values()]).to_pandas()
    return steps.assign(run=pd.Categorical.from_codes(codes, list(found)))


def _configurations(runs: pd.DataFrame, apart: bool) -> Iterator[Configuration]:
    """One for each number of `runs`, those of a type one after the other."""
    kinds: dict[int, Settings] = dict(zip(runs["number"], runs["settings"], strict=True))
    types: dict[str, list[int]] = {}
    for number, settings in kinds.items():
        types.setdefault(settings["clipping_type"], []).append(number)
    for numbers in types.values():
        peers = [kinds[number] for number in numbers]
        for variant, number in enumerate(sorted(numbers, key=lambda number: order(kinds[number]))):
            rows = runs[runs["number"] == number]
            done, diverged = (rows[rows["status"] == status] for status in ("done", "diverged"))
            role, method = rows["role"].iloc[0], rows["method"].iloc[0]
            text = label(kinds[number], peers, kinds.values())
            if role == "default":
                text += " (default)"
            yield Configuration(
                label=text,
                settings=kinds[number],
                done=tuple(done["run"]),
                diverged=tuple(diverged["run"]),
                finals=done["final"].to_numpy(float),
                variant=variant,
                variants=len(numbers),
                name=text if apart else method or kinds[number]["clipping_type"],
                role=role,
            )
