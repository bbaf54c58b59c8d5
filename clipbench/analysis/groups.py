"""Tables → groups: the runs of one task, scale and optimizer, sorted into methods. Runs of a method differ in nothing but the seed."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
from scipy import stats

from clipbench.analysis.choice import winners
from clipbench.errors import UserError
from clipbench.plot import style
from clipbench.record import tables

RESOLVED = (
    "clipping_type",
    "clipping_level",
    "p_autoclip",
    "beta",
    "lr",
)  # columns of `runs`: null where the type has no use for it
APART = {
    "seed",
    "device",
    "threads",
    "results",
    "checkpoint_every",
    "task.name",
    "task.device",
    "task.workers",
}
"""What may differ among the runs of a method."""
SYMBOLS = {"clipping_level": "", "p_autoclip": "p=", "beta": "β=", "lr": "lr="}

Settings = Mapping[str, Any]


@dataclass(frozen=True)
class Method:
    """A clipping type with its settings; `label` names those that set it apart. `finals`: final validation metric of each run in `done`."""

    label: str
    settings: Settings
    done: tuple[str, ...]
    diverged: tuple[str, ...]
    finals: np.ndarray  # (len(done),)
    colour: str
    dash: style.Dash
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
    """What one set of figures shows. `methods` stand best first by their final validation metric, those without one last."""

    task: str
    scale: str
    optimizer: str
    headline: str
    methods: tuple[Method, ...]
    steps: pd.DataFrame
    evals: pd.DataFrame
    higher_is_better: bool
    notes: tuple[str, ...]  # which runs are not drawn
    study: str  # "" outside one
    runs: pd.DataFrame  # of the methods, by run
    tuning: pd.DataFrame  # a study's trials, by run: never drawn or judged together with the others
    failed: pd.DataFrame
    apart: bool  # each setting stands for itself, with those of other optimizers

    @property
    def stem(self) -> str:
        return re.sub(
            r"[^\w.-]+", "-", "_".join(filter(None, [self.task, self.scale, self.optimizer, self.study]))
        )

    def title(self, methods: int) -> str:
        """What the figure shows, how many of the methods, and which runs it leaves out."""
        cut = [f"the best {methods} of {len(self.methods)} methods"] * (methods < len(self.methods))
        return "   ·   ".join(
            [" ".join(filter(None, [self.task, self.scale, self.optimizer, self.study])), *cut, *self.notes]
        )

    @property
    def shown(self) -> tuple[Method, ...]:
        """The methods that have a line or a panel of their own."""
        return self.methods[: style.MOST]

    def steps_of(self, *methods: Method) -> pd.DataFrame:
        return self.steps.iloc[self._rows([run for method in methods for run in method.runs])]

    def _rows(self, runs: Iterable[str]) -> np.ndarray:
        """Where these runs stand in `steps`, which holds one run after the other. Those without steps are left out."""
        run = self.steps["run"].cat
        codes = np.sort(run.categories.get_indexer(list(runs)))
        ends = np.searchsorted(run.codes, [codes, codes + 1])
        return np.concatenate(
            [np.arange(start, end) for start, end in ends.T[codes >= 0]] or [np.zeros(0, int)]
        )

    def curve(self, column: str, *methods: Method) -> pd.DataFrame:
        """A column of `steps` against step, one column per run of the methods, of all by default; NaN after a run's end. (steps, runs)"""
        steps = self.steps_of(*methods) if methods else self.steps
        runs = steps["run"].cat.remove_unused_categories().cat
        at, row = np.unique(steps["step"].to_numpy(), return_inverse=True)
        table = np.full((len(at), len(runs.categories)), np.nan)
        table[row, runs.codes] = steps[column].to_numpy()
        return pd.DataFrame(table, pd.Index(at, name="step"), runs.categories)

    def metric(self, split: str) -> pd.DataFrame:
        """The headline metric against step, one column per run. (evaluations, runs)"""
        rows = self.evals[(self.evals["metric"] == self.headline) & (self.evals["split"] == split)]
        return rows.pivot(index="step", columns="run", values="value")


def read_groups(folder: Path, run: str | None = None, apart: bool = False) -> Iterator[Group]:
    """Every group of a results folder, by name, or the one that holds `run`; each is read when it is asked for.

    `apart`: all optimizers of a task and scale are one group, and each setting is a method of its own.
    UserError where no run has finished.
    """
    for runs in parts(folder, run, apart):
        yield read_group(folder, runs, apart)


def parts(folder: Path, run: str | None = None, apart: bool = False) -> list[pd.DataFrame]:
    """The rows of `runs` that make each group."""
    if not folder.is_dir():
        raise UserError(
            f"There is no folder {folder}. Give the one that `clipbench run` wrote (results=DIR): it holds runs/, steps/ and evals/."
        )
    runs = tables.read(folder, "runs")
    if not runs["status"].isin(["done", "diverged"]).any():
        failed = f" (failed: {len(runs)})" if len(runs) else ""
        raise UserError(
            f"{folder} holds no finished run{failed}. Train one first: clipbench run results={folder}"
        )
    runs = runs.fillna({"scale": "", "study": "", "role": "", "method": ""})
    tuning = runs["role"] == "tune"
    if tuning[runs["run"] == run].any():  # one is asked for: then its kind stands by itself
        runs = runs[tuning].assign(study=runs["study"] + " tuning", role="")
    groups = [part for _, part in runs.groupby(["task", "scale", *["optimizer"] * (not apart), "study"])]
    return [
        part
        for part in groups
        if (part["status"] != "failed").any() and (run is None or run in set(part["run"]))
    ]


def read_group(folder: Path, runs: pd.DataFrame, apart: bool = False) -> Group:
    """One of the `parts`, with its steps and evaluations."""
    finished = runs[runs["status"] != "failed"].sort_values(["started", "run"])
    settings = [_settings(row) for row in finished.to_dict("records")]
    number: dict[frozenset, int] = {}
    keys = [
        frozenset([*each.items(), *row.items()])
        for each, row in zip(
            settings, finished[["role", "method", "trial"]].fillna(-1).to_dict("records"), strict=True
        )
    ]
    finished = finished.assign(
        settings=settings, number=[number.setdefault(key, len(number)) for key in keys]
    )
    # A new version of clipbench or of a user's rule repeats a seed: counted twice it would pass for a further seed.
    latest = finished.drop_duplicates(["number", "seed"], keep="last").sort_values(["seed", "run"])
    earlier = _of_earlier_choice(latest)
    left_out = {
        "failed": len(runs) - len(finished),
        "repeated later": len(finished) - len(latest),
        "of what an earlier, smaller tuning chose": int(earlier.sum()),
    }
    latest = latest[~earlier]
    tuned = latest["role"] == "tune"
    first = latest.iloc[0]
    best = -1 if first["higher_is_better"] else 1
    methods = sorted(
        _methods(latest[~tuned], apart),
        key=lambda method: (np.isnan(method.final), best * np.nan_to_num(method.final), method.label),
    )
    return Group(
        task=first["task"],
        scale=first["scale"],
        optimizer="" if apart else first["optimizer"],
        headline=first["headline"],
        methods=tuple(methods),
        steps=_steps(folder, latest[~tuned]["run"]),
        evals=tables.read(
            folder, "evals", ["run", "step", "seconds", "split", "metric", "value"], latest[~tuned]["run"]
        ),
        higher_is_better=bool(first["higher_is_better"]),
        notes=tuple(f"runs left out: {count} {why}" for why, count in left_out.items() if count),
        study=first["study"],
        runs=latest[~tuned].set_index("run"),
        tuning=latest[tuned].set_index("run"),
        failed=runs[runs["status"] == "failed"].set_index("run"),
        apart=apart,
    )


def _of_earlier_choice(runs: pd.DataFrame) -> pd.Series:
    """Which final runs are of another trial than tuning's winner: a study that got more trials may have chosen anew."""
    chosen = winners(runs).set_index("method")["trial"]
    return (
        (runs["role"] == "final")
        & runs["method"].isin(chosen.index)
        & (runs["trial"] != runs["method"].map(chosen))
    )


def _steps(folder: Path, runs: Iterable[str]) -> pd.DataFrame:
    """Only what is drawn, with `run` as a category: as text it would be most of the memory."""
    columns = ["step", "seconds", "loss", "grad_norm", "clipped_norm", "clip_factor"]
    parts = dict(tables.read_parts(folder, "steps", columns, runs))
    empty = pa.schema([tables.SCHEMAS["steps"].field(name) for name in columns]).empty_table()
    names = pd.Categorical.from_codes(
        np.repeat(np.arange(len(parts)), [len(part) for part in parts.values()]), list(parts)
    )
    return pa.concat_tables([empty, *parts.values()]).to_pandas().assign(run=names)


def _methods(runs: pd.DataFrame, apart: bool) -> Iterator[Method]:
    kinds = dict(zip(runs["number"], runs["settings"], strict=True))
    hues = style.hues({kind["clipping_type"] for kind in kinds.values()})
    for name, hue in hues.items():
        peers = {number: kind for number, kind in kinds.items() if kind["clipping_type"] == name}
        for variant, number in enumerate(sorted(peers, key=lambda number: _order(kinds[number]))):
            rows, kind = runs[runs["number"] == number], kinds[number]
            done = rows[rows["status"] == "done"]
            role, method = rows["role"].iloc[0], rows["method"].iloc[0]
            label = _label(kind, peers.values(), kinds.values()) + " (default)" * (role == "default")
            yield Method(
                label=label,
                settings=kind,
                done=tuple(done["run"]),
                diverged=tuple(rows[rows["status"] == "diverged"]["run"]),
                finals=done["final"].to_numpy(float),
                colour=style.shade(hue, variant, len(peers)),
                dash=style.dash(name, variant),
                name=label if apart else method or name,
                role=role,
            )


def _settings(run: Mapping[str, Any]) -> dict[str, Any]:
    """Everything that defines a run but its seed, flat: {"clipping_level": 1.0, "optim.momentum": 0.9, …}."""
    resolved = {name: None if pd.isna(run[name]) else run[name] for name in RESOLVED}
    hidden = APART | {f"optim.{name}" for name in RESOLVED}
    config = dict(_flat(json.loads(run["config"] or "{}")))
    idle = ("task.lr.", "sweep.", "tag.") + ("restart.",) * ("restart.first" not in config)
    return resolved | {
        key: value for key, value in config.items() if key not in hidden and not key.startswith(idle)
    }


def _flat(tree: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in tree.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{name}.")
        elif (
            value is not None and value is not False
        ):  # as if it were not there: an earlier version may not have had the key
            yield f"{prefix}{name}", tuple(value) if isinstance(value, list) else value


def _order(settings: Settings) -> list[tuple[bool, Any]]:
    """By level, quantile, beta, learning rate, then the rest as text: the order of a type's shades."""
    numbers = [settings[name] for name in RESOLVED[1:]]
    rest = sorted((key, str(value)) for key, value in settings.items() if key not in RESOLVED)
    return [(value is not None, value or 0) for value in numbers] + [(True, str(rest))]


def _label(settings: Settings, peers: Iterable[Settings], everyone: Iterable[Settings]) -> str:
    """The optimizer, where there are several; the type; what differs: a clipping setting among the type's runs, any other among all."""
    optimizer = settings.get("optim.name")
    several = any(rival.get("optim.name") != optimizer for rival in everyone)
    peers, everyone = (
        [rival for rival in rivals if rival.get("optim.name") == optimizer] for rivals in (peers, everyone)
    )
    words = [str(optimizer)] * several + [settings["clipping_type"]]
    for key, value in settings.items():
        rivals = peers if key in RESOLVED[1:4] or key.startswith("optim.clip.") else everyone
        if value is not None and key != "clipping_type" and any(rival.get(key) != value for rival in rivals):
            symbol = SYMBOLS.get(key, key.rpartition(".")[2] + "=")
            words.append(
                f"{symbol}{value:g}".replace("inf", "∞") if isinstance(value, float) else f"{symbol}{value}"
            )
    return " ".join(dict.fromkeys(words))  # batch_size and task.batch_size are one


def mean_interval(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean over seeds and half the width of its 95 % t-interval, NaN for a single seed. (…, seeds) → (…), (…)

    A NaN in one seed is a NaN in the mean and shows as a gap; leaving that seed out would show as a jump.
    """
    n = values.shape[-1]
    if n == 1:
        return values[..., 0], np.full(values.shape[:-1], np.nan)
    return values.mean(-1), stats.t.ppf(0.975, n - 1) * values.std(-1, ddof=1) / np.sqrt(n)
