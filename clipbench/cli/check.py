"""`clipbench check`: the laws of rules and tasks, on the user's own classes."""

from __future__ import annotations

import importlib
import traceback
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.markup import escape

from clipbench.errors import UserError
from clipbench.optim import RULES, TIED, Rule, make_rule
from clipbench.optim import laws as rule_laws
from clipbench.optim.make import rule_named
from clipbench.runs import config
from clipbench.runs.build import build_task
from clipbench.task import Task
from clipbench.task import laws as task_laws

console = Console(highlight=False, soft_wrap=True)


def check_words(words: Sequence[str], config_dir: Path | None) -> bool:
    """A rule by its name, or a rule or task by module:Class. Whether it keeps all that it owes; what holds is printed."""
    if len(words) > 1:
        raise UserError(
            f"`clipbench check` takes one name, got {' '.join(words)}. Settings go with task=NAME."
        )
    config.make_importable(config_dir)
    found = _imported(words[0]) if ":" in words[0] else None
    if isinstance(found, type) and issubclass(found, Task):
        return _of_task(words[0], partial(_fresh, found, words[0]))
    if found is not None and not (isinstance(found, type) and issubclass(found, Rule)):
        raise UserError(
            f"{words[0]} must be a class that inherits clipbench.optim.Rule or clipbench.task.Task."
        )
    return _of_rule(words[0])


def check_task(words: Sequence[str], config_dir: Path | None) -> bool:
    """A task by its configuration, task=NAME and other keys of a run."""
    settings = config.load(words, config_dir)
    return _of_task(f"task={settings.task.name}", partial(build_task, settings, torch.device("cpu")))


def _imported(path: str) -> Any:
    module_name, _, name = path.partition(":")
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name != module_name:
            raise
        raise UserError(
            f"There is no module '{module_name}' in the current folder, in --config-dir or on the import path."
        ) from error
    if not hasattr(module, name):
        raise UserError(f"There is no class '{name}' in {module_name}.")
    return getattr(module, name)


def _fresh(task_class: Callable[[], Task], name: str) -> Task:
    try:
        return task_class()
    except TypeError as error:
        raise UserError(
            f"{name}: {error}. A class that needs settings is checked as task=NAME, with its file in --config-dir."
        ) from error


def _of_rule(name: str) -> bool:
    make = partial(make_rule, name)
    try:
        rule_class = rule_named(name)
        make()
    except (ValueError, TypeError) as error:
        raise UserError(str(error)) from error
    formula = (rule_class.__doc__ or "").strip().splitlines()
    console.print(f"[bold]{escape(name)}[/]  {escape(formula[0] if formula else '')}\n\nWhat every rule owes")
    kept = _report(rule_laws.OWED, make, failed="[red]✗[/]")
    if name in TIED:
        return kept
    console.print(
        "\nWhat it has, as far as 100 random gradients show"
        + ("" if name in RULES else "; no rule has all of it")
    )
    _report(rule_laws.PROPERTIES, make, failed="·")
    return kept


def _of_task(name: str, build: Callable[[], Task]) -> bool:
    console.print(f"[bold]{escape(name)}[/]  {escape(build().data)}\n\nWhat every task owes")
    return _report(task_laws.OWED, build, failed="[red]✗[/]")


def _report(laws_of: Mapping[str, Callable[[Any], None]], subject: Any, failed: str) -> bool:
    """A line for each law, with the counterexample where it is broken. Whether all hold."""
    kept = True
    for promise, law in laws_of.items():
        try:
            law(subject)
        except UserError:
            raise
        except AssertionError as error:
            kept = False
            console.print(f"  {failed} {escape(promise)}: {escape(str(error))}")
        except Exception as error:
            kept = False
            where = traceback.extract_tb(error.__traceback__)[-1]
            place = f"{Path(where.filename).name}:{where.lineno}"
            console.print(
                f"  {failed} {escape(promise)}: {escape(type(error).__name__)} at {place}: {escape(' '.join(str(error).split()))}"
            )
        else:
            console.print(f"  [green]✓[/] {escape(promise)}")
    return kept
