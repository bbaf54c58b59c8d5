"""What a sweep is: a list of override lists, in Hydra's syntax or as the arms of an experiment file."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import product
from pathlib import Path
from typing import Any

from hydra.core.override_parser.types import Override, RangeSweep, ValueType

from clipbench.errors import UserError, nearest
from clipbench.optim import RULES
from clipbench.runs import config
from clipbench.runs.plan import Plan, make_plan
from clipbench.runs.settings import MACHINE
from clipbench.runs.yaml_files import read_content
from clipbench.task.content import Contents

MOST_RUNS = 100_000  # of a sweep
DEFAULT_GRID = (f"optim.clipping_type={','.join(RULES)}", "seed=0,1")
EXPERIMENT_SHAPE = (
    "It takes `arms:`, a list of lists of overrides as on the command line; `all:`, a list of those that all "
    "arms share; `full:`, likewise at scale=full."
)


def make_plans(
    overrides: Sequence[str], config_dir: Path | None = None, contents: Contents | None = None
) -> list[Plan]:
    """Every point, once: points that differ only in what they ignore are one run. All core types where
    nothing is swept. `contents`: what their data hold.

    UserError for what a run may not be asked for, and where the points disagree on where and how to run.
    """
    plans: dict[str, Plan] = {}
    composed: config.Composed = {}
    contents = contents or Contents()
    for point in points(overrides, config_dir):
        plan = make_plan(point, config_dir, composed, contents)
        plans.setdefault(plan.run, plan)
        first = next(iter(plans.values()))
        _check_same_machine(first, plan)
    return list(plans.values())


def _check_same_machine(first: Plan, other: Plan) -> None:
    for name in MACHINE:
        expected, value = getattr(first.settings, name), getattr(other.settings, name)
        if value != expected:
            raise UserError(f"{name} must be the same for all runs of a sweep, got {expected} and {value}.")


def split_launcher(overrides: Sequence[str]) -> tuple[list[str], list[str]]:
    """The overrides of the runs; and those of the engine that is to make them, hydra/launcher=NAME and
    hydra.launcher.KEY=VALUE.
    """
    of_runs: list[str] = []
    of_launcher: list[str] = []
    for override in config.parse(overrides):
        key = override.key_or_group
        launches = key == "hydra/launcher" or key.startswith("hydra.launcher.")
        chosen = of_launcher if launches else of_runs
        chosen.append(str(override.input_line))
    return of_runs, of_launcher


def points(overrides: Sequence[str], config_dir: Path | None = None) -> list[list[str]]:
    """The override lists of the runs.

    A sweep's runs get one thread each unless `threads` is given, so that cores serve runs.
    """
    parsed = config.parse(overrides)
    experiments = [override for override in parsed if override.key_or_group == "experiment"]
    others = [override for override in parsed if override.key_or_group != "experiment"]
    given = [str(override.input_line) for override in others]
    if not experiments and not any(override.is_sweep_override() for override in parsed):
        given += _default_axes(parsed)
    found = []
    for scale in _scales(others):
        at_scale = [scale] if scale else []
        for arm in _arms(experiments, config_dir, full=scale == "scale=full"):
            found += expand(later_wins(["threads=1", *arm, *given, *at_scale]))
    return found


def _default_axes(parsed: Sequence[Override]) -> list[str]:
    """Those of the default grid whose keys are not given."""
    keys = {override.key_or_group for override in parsed}
    return [axis for axis in DEFAULT_GRID if axis.split("=")[0] not in keys]


def _scales(parsed: Sequence[Override]) -> list[str]:
    """An override for each scale that is asked for; "" alone where none is."""
    found = []
    for override in parsed:
        if override.key_or_group == "scale":
            for [scale] in expand([str(override.input_line)]):
                found.append(scale)
    return found or [""]


def _arms(experiments: Sequence[Override], config_dir: Path | None, full: bool) -> list[list[str]]:
    """Of all experiments; without one, a single arm that says nothing."""
    found = []
    for override in experiments:
        name = override.value()
        if not isinstance(name, str):
            raise UserError(
                "experiment takes one name. "
                "Several experiments are several sweeps into the same results folder."
            )
        found += experiment(name, config_dir, full)
    return found or [[]]


def expand(overrides: Sequence[str]) -> list[list[str]]:
    """Hydra's sweep syntax (a,b · range(5) · choice(…) · glob) as the list of its points: one list of
    overrides each.
    """
    axes = []
    for override in config.parse(overrides):
        line = str(override.input_line)
        if not override.is_sweep_override():
            axes.append([line])
            continue
        key = line.split("=", 1)[0]
        axis = []
        for value in _values(override):
            unescaped = value.replace("\\:", ":")  # Hydra escapes it without need
            axis.append(f"{key}={unescaped}")
        if not axis:
            raise UserError(f"{line} has no values. Leave it out, or give it some: seed=range(3)")
        axes.append(axis)
    if math.prod(map(len, axes)) > MOST_RUNS:
        raise UserError(
            f"This grid has {math.prod(map(len, axes))} runs; a sweep takes at most {MOST_RUNS}. "
            "Make it in parts."
        )
    return [list(point) for point in product(*axes)]


def _values(override: Override) -> list[str]:
    """Those of an axis, as texts. UserError for what has no list of values, or too long a one."""
    line, key = override.input_line, override.key_or_group
    if override.value_type == ValueType.INTERVAL_SWEEP:
        raise UserError(
            f"{line}: an interval has no list of values. Write some of it, {key}=range(0,1,0.25) or "
            f"{key}=0.1,0.5; `clipbench study` draws from a whole range."
        )
    if override.value_type == ValueType.GLOB_CHOICE_SWEEP:
        raise UserError(f"{line}: glob is not taken. Write the names, {key}=a,b; `clipbench list` has them.")
    if _is_too_long(override.value()):
        raise UserError(f"{line} has more than {MOST_RUNS} values. A sweep takes at most so many runs.")
    try:
        return [str(value) for value in override.sweep_string_iterator()]
    except Exception as error:  # whatever the grammar does not look at before, as a step of 0
        reason = str(error) if isinstance(error, ValueError) else type(error).__name__
        raise UserError(f"{line} has no values: {reason}. Give it some: seed=range(3)") from error


def _is_too_long(values: Any) -> bool:
    """Of a range, without counting it through: it may have no end."""
    if not isinstance(values, RangeSweep):
        return False
    start, stop, step = float(values.start or 0), float(values.stop or 0), float(values.step)
    return step != 0 and (stop - start) / step > MOST_RUNS


def experiment(name: str, config_dir: Path | None = None, full: bool = False) -> list[list[str]]:
    """The arms of conf/experiment/<name>.yaml, each after the overrides that all share, or that all share at
    scale=full.

    all: [task=cola, schedule=constant]
    full: [steps=220]
    arms:
      - [optim=sgd, optim.clipping_type=norm, "optim.clipping_level=0.5,1,2"]
      - [optim=adam, optim.lr=5e-5]
    """
    known = config.options("experiment", config_dir)
    if name not in known:
        raise UserError(
            f"Unknown experiment '{name}'.{nearest(name, known)} Known: {', '.join(known) or 'none'}. "
            f"One of your own: --config-dir DIR with DIR/experiment/{name}.yaml."
        )
    path = config.find_file("experiment", name, config_dir)
    content = read_content(path)
    if not _is_experiment(content):
        raise UserError(f"{path}: {EXPERIMENT_SHAPE}")
    shared = content.get("all") or []
    if full:
        shared = [*shared, *(content.get("full") or [])]
    return [later_wins([*shared, *arm]) for arm in content["arms"]]


def _is_experiment(content: Any) -> bool:
    if not isinstance(content, dict) or set(content) - {"all", "full", "arms"}:
        return False
    arms = content.get("arms")
    if not isinstance(arms, list) or not arms:
        return False
    lists = [content.get("all") or [], content.get("full") or [], *arms]
    return all(_is_list_of_texts(each) for each in lists)


def _is_list_of_texts(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(each, str) for each in value)


def later_wins(overrides: Sequence[str]) -> list[str]:
    """Without the overrides that a later one for the same key replaces: an arm's own for the shared, the
    command line's for the arm's.
    """
    last = {}
    for override in config.parse(overrides):
        last[override.key_or_group] = str(override.input_line)
    return list(last.values())
