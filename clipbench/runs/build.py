"""From settings to objects: device, task, model, optimizer. What cannot be built is one message that says
what can.
"""

from __future__ import annotations

import inspect
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from clipbench.errors import UserError
from clipbench.optim import Restarter, Rule, choose_fused, clip_gradients
from clipbench.optim.names import NoSuchModule, NotImportable, import_object
from clipbench.optim.protocols import extra
from clipbench.runs.patterns import parameter_groups
from clipbench.runs.settings import OptimSettings, Settings, TaskSettings
from clipbench.task import Task
from clipbench.task.seeds import device_generator, fresh_model
from clipbench.train.learner import Learner
from clipbench.train.schedule import Schedule
from clipbench.train.step import make_step

PLACES = "in the current folder, in --config-dir or on the import path"


def find_device(name: str) -> torch.device:
    """ "auto" is the first of cuda, mps and cpu that is there."""
    there = []
    if torch.cuda.is_available():
        there.append("cuda")
    if torch.backends.mps.is_available():
        there.append("mps")
    there.append("cpu")
    if name == "auto":
        return torch.device(there[0])
    try:
        device = torch.device(name)
    except (RuntimeError, TypeError) as error:
        raise UserError(f"Unknown device '{name}'. Known: auto, cpu, cuda, cuda:1, mps.") from error
    if device.type not in there:
        raise UserError(
            f"device={name}: torch finds no such device here. There is: {', '.join(there)}; "
            "device=auto takes the fastest."
        )
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        count = torch.cuda.device_count()
        raise UserError(f"device={name}: there are {count} CUDA devices here, counted from 0.")
    return device


def build_task(settings: Settings, device: torch.device) -> Task:
    """The task's class, called with the keys of its configuration."""
    named, keywords = settings.task, dict(settings.task.keywords)
    if "device" in keywords:
        keywords["device"] = str(device)
    task_class = task_class_of(named)
    try:
        inspect.signature(task_class).bind(**keywords)
        if missing := sorted(task_class.__abstractmethods__):
            raise TypeError(f"{task_class.__name__} lacks {', '.join(missing)}")
    except TypeError as error:
        signature = inspect.signature(task_class)
        raise UserError(f"Task '{named.name}': {error}. Its constructor takes {signature}.") from error
    return task_class(**keywords)


def task_class_of(task: TaskSettings) -> type[Task]:
    """The class that `task._target_` names. UserError where there is none, or it is no task."""
    try:
        found = import_object(task.target, places=PLACES)
    except NoSuchModule as error:
        raise UserError(f"Task '{task.name}': {error}") from error
    except NotImportable as error:
        raise UserError(f"task._target_: {error}") from error
    if not (inspect.isclass(found) and issubclass(found, Task)):
        module, _, name = task.target.rpartition(".")
        raise UserError(
            f"task._target_: '{name}' in module {module} must be a class that inherits clipbench.task.Task."
        )
    return found


def build_learner(settings: Settings, rule: Rule, task: Task, device: torch.device) -> Learner:
    """A learner at its first step."""
    model = fresh_model(task, settings.seed).to(device)
    if settings.channels_last:
        model = model.to(memory_format=torch.channels_last)
    if settings.compile:
        model.compile()
    rng = device_generator(settings.seed, "clip", device)
    restart = settings.restart
    restarter = Restarter(restart.first, restart.coeff, restart.max) if restart.first else None
    tunes = settings.tag.role == "tune"  # what is chosen must not have seen test
    return Learner(
        task,
        model,
        build_optimizer(settings.optim, model, rule, rng),
        seed=settings.seed,
        device=device,
        precision=settings.precision,
        schedule=Schedule(settings.schedule, settings.warmup, settings.steps),
        max_loss=settings.max_loss,
        restarter=restarter,
        splits=task.splits[:1] if tunes else None,
        step=make_step(settings.accumulate),
    )


def optimizer_class_of(optim: OptimSettings) -> type[Optimizer]:
    """The class that `optim._target_` names."""
    return import_object(optim.target)


def check_tie(optim: OptimSettings, rule: Rule) -> None:
    """UserError for a rule that acts on the update of an optimizer that this is not."""
    if rule.tied_to and not issubclass(optimizer_class_of(optim), rule.tied_to):
        tied = rule.tied_to.__name__
        raise UserError(
            f"optim={optim.name}: clipping_type '{optim.clipping_type}' acts on the update of {tied}. "
            "Use optim=adam or optim=adamw."
        )


def build_optimizer(
    optim: OptimSettings, model: nn.Module, rule: Rule, rng: torch.Generator | None = None
) -> Optimizer:
    """`optim._target_`, any torch optimizer, over the trainable parameters, clipping by `rule`; a keyword
    that is null is left to its default. `rng`: what random rules draw from.

    One that takes a `clipping_type` clips by itself; one with `groups(model, params)` sorts the parameters by
    their modules.
    """
    optimizer_class: Any = optimizer_class_of(optim)
    keywords = dict(optim.keywords)
    for key, value in optim.keywords.items():
        if value is None:
            del keywords[key]
    params = parameter_groups(model, rule, optim.clip_exempt, optim.clip_levels)
    sort_into_groups = extra(optimizer_class, "groups")
    if sort_into_groups is not None:
        params = sort_into_groups(model, params)
    takes = inspect.signature(optimizer_class).parameters
    if "fused" in takes and (fused := choose_fused(params)):
        keywords.setdefault("fused", fused)
    try:
        if "clipping_type" in takes:
            return optimizer_class(params, clipping_type=rule, nonfinite=optim.nonfinite, rng=rng, **keywords)
        optimizer = optimizer_class(params, **keywords)
        return clip_gradients(optimizer, rule, nonfinite=optim.nonfinite, rng=rng)
    except (TypeError, ValueError) as error:
        raise UserError(f"optim={optim.name}: {error}") from error
