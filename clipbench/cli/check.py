"""`clipbench check`: the contract of rules and tasks, held against the user's own classes."""

from __future__ import annotations

import traceback
from argparse import Namespace
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.markup import escape

from clipbench.cli.messages import DONE, FAILED
from clipbench.errors import UserError, own_error, users_code
from clipbench.optim import RULES, TIED, Rule, make_rule
from clipbench.optim import laws as rule_laws
from clipbench.optim.make import rule_named
from clipbench.optim.names import NotImportable
from clipbench.runs import config
from clipbench.runs.build import PLACES, build_task, imported
from clipbench.task import Task
from clipbench.task import laws as task_laws

console = Console(highlight=False, soft_wrap=True)


def check(options: Namespace) -> int:
    """A rule by its name, a rule or task by module:Class, or a task by task=NAME; what holds is printed."""
    by_configuration = "=" in options.what[0]
    check_one = check_task if by_configuration else check_named
    return DONE if check_one(options.what, options.config_dir) else FAILED


def check_named(names: Sequence[str], config_dir: Path | None) -> bool:
    """Whether a rule (by its name) or a class (by module:Class) keeps its contract."""
    if len(names) > 1:
        raise UserError(
            f"`clipbench check` takes one name, got {' '.join(names)}. Settings go with task=NAME."
        )
    [name] = names
    config.make_importable(config_dir)
    if ":" not in name:
        return _check_rule(name)
    found = _imported(name)
    if isinstance(found, type) and issubclass(found, Task):
        return _check_task(name, partial(_fresh, found, name))
    if isinstance(found, type) and issubclass(found, Rule):
        return _check_rule(name)
    raise UserError(f"{name} must be a class that inherits clipbench.optim.Rule or clipbench.task.Task.")


def check_task(overrides: Sequence[str], config_dir: Path | None) -> bool:
    """Whether a task keeps its contract as it is configured, by task=NAME and other keys of a run."""
    settings = config.load(overrides, config_dir)
    return _check_task(f"task={settings.task.name}", partial(build_task, settings, torch.device("cpu")))


def _imported(path: str) -> Any:
    try:
        return imported(path, PLACES)
    except NotImportable as error:
        text = str(error)
        raise UserError(text[0].upper() + text[1:]) from error


def _fresh(task_class: Callable[[], Task], name: str) -> Task:
    try:
        with users_code(name, TypeError):
            return task_class()
    except TypeError as error:
        raise UserError(
            f"{name}: {error}. A class that needs settings is checked as task=NAME, with its file in "
            "--config-dir."
        ) from error


def _check_rule(name: str) -> bool:
    build = partial(make_rule, name)
    if ":" in name:
        _imported(name)
    try:
        with users_code(name, ValueError, TypeError):
            rule_class = rule_named(name)
            build()
    except (ValueError, TypeError) as error:
        raise UserError(str(error)) from error
    formula = (rule_class.__doc__ or "").strip().partition("\n")[0]
    console.print(f"[bold]{escape(name)}[/]  {escape(formula)}\n\nThe contract of every rule")
    keeps_contract = _report(rule_laws.CONTRACT, build, broken="[red]✗[/]")
    if name not in TIED:
        advice = "" if name in RULES else "; no rule has all of them"
        console.print(f"\nIts properties, as far as 100 random gradients show{advice}")
        _report(rule_laws.PROPERTIES, build, broken="·")
    return keeps_contract


def _check_task(name: str, build: Callable[[], Task]) -> bool:
    with users_code(name):
        about = str(build().data)
    console.print(f"[bold]{escape(name)}[/]  {escape(about)}\n\nThe contract of every task")
    return _report(task_laws.CONTRACT, build, broken="[red]✗[/]")


def _report(laws: Mapping[str, Callable[[Any], None]], subject: Any, broken: str) -> bool:
    """A line for each law, with the counterexample where it is broken. Whether all hold."""
    all_hold = True
    for promise, law in laws.items():
        try:
            law(subject)
        except UserError:
            raise
        except SystemExit as error:
            raise UserError(own_error(f"The law '{promise}'", error)) from error
        except Exception as error:
            all_hold = False
            console.print(f"  {broken} {escape(promise)}: {escape(_counterexample(error))}")
        else:
            console.print(f"  [green]✓[/] {escape(promise)}")
    return all_hold


def _counterexample(error: Exception) -> str:
    """What the law says; of an error in the user's class, where it was raised too."""
    if isinstance(error, AssertionError):
        return str(error)
    where = traceback.extract_tb(error.__traceback__)[-1]
    message = " ".join(str(error).split())
    return f"{type(error).__name__} at {Path(where.filename).name}:{where.lineno}: {message}"
