"""From settings to objects: device, task, model, optimizer. What cannot be built is one message that says what can."""

from __future__ import annotations

import importlib
import inspect
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from clipbench.errors import UserError
from clipbench.optim import Restarter, Rule, choose_fused, clip_gradients
from clipbench.record.rows import CLIP_KEYS
from clipbench.runs.config import Settings
from clipbench.runs.patterns import parameter_groups
from clipbench.task import Task
from clipbench.task.seeds import device_generator, fresh_model
from clipbench.train.learner import Learner, Schedule

PATTERN_KEYS = ("clip_exempt", "clip_levels")


def find_device(name: str) -> torch.device:
    """ "auto" is the first of cuda, mps and cpu that is there."""
    there = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if name == "auto":
        return torch.device(next(kind for kind, found in there.items() if found))
    try:
        device = torch.device(name)
    except (RuntimeError, TypeError) as error:
        raise UserError(f"Unknown device '{name}'. Known: auto, cpu, cuda, cuda:1, mps.") from error
    if not there.get(device.type):
        found = ", ".join(kind for kind, is_there in there.items() if is_there)
        raise UserError(
            f"device={name}: torch finds no such device here. There is: {found}; device=auto takes the fastest."
        )
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise UserError(
            f"device={name}: there are {torch.cuda.device_count()} CUDA devices here, counted from 0."
        )
    return device


def build_task(settings: Settings, device: torch.device) -> Task:
    """The task's class, called with the keys of its configuration."""
    node = {key: value for key, value in settings.task.items() if key not in ("name", "lr")}
    module, _, name = node.pop("_target_").rpartition(".")
    if "device" in node:
        node["device"] = str(device)
    task_class = getattr(import_module_of(module, settings.task["name"]), name, None)
    if not (inspect.isclass(task_class) and issubclass(task_class, Task)):
        raise UserError(
            f"task._target_: '{name}' in module {module} must be a class that inherits clipbench.task.Task."
        )
    try:
        inspect.signature(task_class).bind(**node)
        if missing := sorted(task_class.__abstractmethods__):
            raise TypeError(f"{name} lacks {', '.join(missing)}")
    except TypeError as error:
        raise UserError(
            f"Task '{settings.task['name']}': {error}. Its constructor takes {inspect.signature(task_class)}."
        ) from error
    return task_class(**node)


def import_module_of(module: str, task: str) -> Any:
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name and not module.startswith(error.name):
            raise
        raise UserError(
            f"Task '{task}': there is no module '{module}' in the current folder, in --config-dir or on the import path."
        ) from error


def build_learner(settings: Settings, rule: Rule, task: Task, device: torch.device) -> Learner:
    model = fresh_model(task, settings.seed).to(device)
    if settings.channels_last:
        model = model.to(memory_format=torch.channels_last)
    if settings.compile:
        model.compile()
    optimizer = build_optimizer(settings.optim, model, rule, device_generator(settings.seed, "clip", device))
    return Learner(
        task,
        model,
        optimizer,
        seed=settings.seed,
        device=device,
        precision=settings.precision,
        schedule=Schedule(settings.schedule, settings.warmup, settings.steps),
        max_loss=settings.max_loss,
        restarter=Restarter(**settings.restart) if settings.restart["first"] else None,
        splits=task.splits[:1]
        if settings.tag["role"] == "tune"
        else None,  # what is chosen must not have seen test
    )


def optimizer_class_of(optim: dict[str, Any]) -> type[Optimizer]:
    module, _, name = optim["_target_"].rpartition(".")
    return getattr(importlib.import_module(module), name)


def check_tie(optim: dict[str, Any], rule: Rule) -> None:
    if rule.tied_to and not issubclass(optimizer_class_of(optim), rule.tied_to):
        tied = rule.tied_to.__name__
        raise UserError(
            f"optim={optim['name']}: clipping_type '{optim['clipping_type']}' acts on the update of {tied}. Use optim=adam or optim=adamw."
        )


def build_optimizer(
    optim: dict[str, Any], model: nn.Module, rule: Rule, coins: torch.Generator | None = None
) -> Optimizer:
    """`optim._target_`, any torch optimizer, over the trainable parameters, clipping by `rule`; a key that is null is left to its default.

    One that takes a `clipping_type` clips by itself; one with `groups(model, params)` sorts the parameters by their modules.
    """
    optimizer_class: Any = optimizer_class_of(optim)
    other = (*CLIP_KEYS, *PATTERN_KEYS, "_target_", "name", "clip", "nonfinite")
    keywords = {key: value for key, value in optim.items() if key not in other and value is not None}
    params = parameter_groups(model, rule, *(optim[key] for key in PATTERN_KEYS))
    if hasattr(optimizer_class, "groups"):
        params = optimizer_class.groups(model, params)
    takes = inspect.signature(optimizer_class).parameters
    if "fused" in takes and (fused := choose_fused(params)):
        keywords.setdefault("fused", fused)
    clip = {"nonfinite": optim["nonfinite"], "rng": coins}
    try:
        if "clipping_type" in takes:
            return optimizer_class(params, clipping_type=rule, **clip, **keywords)
        return clip_gradients(optimizer_class(params, **keywords), rule, **clip)
    except (TypeError, ValueError) as error:
        raise UserError(f"optim={optim['name']}: {error}") from error
