"""From settings to objects: device, task, model, optimizer. What cannot be built is one message that says
what can.
"""

from __future__ import annotations

import inspect
from contextlib import suppress
from dataclasses import is_dataclass, replace
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from clipbench.errors import UserError, users_code
from clipbench.optim import Restarter, Rule, choose_fused, clip_gradients, make_rule
from clipbench.optim.names import NoSuchModule, NotImportable, import_object
from clipbench.optim.protocols import extra
from clipbench.runs.patterns import parameter_groups
from clipbench.runs.settings import FOUR_BITS, OptimSettings, Settings, TaskSettings, TransformSettings
from clipbench.task import Task
from clipbench.task.seeds import device_generator, fresh_model
from clipbench.train.four_bits import simulate
from clipbench.train.learner import Learner
from clipbench.train.schedule import Schedule
from clipbench.train.step import make_step
from clipbench.transform import TRANSFORMS, Transform

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
    device = check_device(name)
    if device.type not in there:
        raise UserError(
            f"device={name}: torch finds no such device here. There is: {', '.join(there)}; "
            "device=auto takes the fastest."
        )
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        count = torch.cuda.device_count()
        raise UserError(f"device={name}: there are {count} CUDA devices here, counted from 0.")
    return device


def check_device(name: str) -> torch.device:
    """UserError for what torch knows by no name. Whether it is there, `find_device` says: a sweep's jobs run
    elsewhere.
    """
    try:
        return torch.device("cpu" if name == "auto" else name)
    except (RuntimeError, TypeError, ValueError) as error:
        raise UserError(f"Unknown device '{str(name)[:40]}'. Known: auto, cpu, cuda, cuda:1, mps.") from error


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
    with users_code(f"task={named.name}"):
        return task_class(**keywords)


def task_class_of(task: TaskSettings) -> type[Task]:
    """The class that `task._target_` names. UserError where there is none, or it is no task."""
    try:
        found = imported(task.target, PLACES)
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


def build_model(settings: Settings, task: Task, device: torch.device) -> nn.Module:
    """The model at its starting weights, on the device."""
    model = fresh_model(task, settings.seed).to(device)
    if settings.precision in FOUR_BITS:
        simulate(model, settings.precision)
    if settings.channels_last:
        model = model.to(memory_format=torch.channels_last)
    if settings.compile:
        model.compile()
    return model


def transform_of(named: TransformSettings) -> Transform | None:
    """The transform that the settings ask for; None where the model stays as it was trained. UserError for a
    key that is not allowed, whether the transform uses it or not.
    """
    for ours in TRANSFORMS.values():
        _made(named, ours)
    if named.target is None:
        return None
    try:
        found = imported(named.target, PLACES)
    except NotImportable as error:
        raise UserError(f"transform._target_: {error}") from error
    if not (inspect.isclass(found) and issubclass(found, Transform) and is_dataclass(found)):
        raise UserError(
            f"transform={named.name}: {named.target} must be a dataclass that inherits "
            "clipbench.transform.Transform."
        )
    place = getattr(found, "place", None)
    if place not in PLACES_OF_TRANSFORMS:
        raise UserError(
            f"transform={named.name}: {found.__name__}.place must be {' or '.join(PLACES_OF_TRANSFORMS)}, "
            f"got {place!r}."
        )
    with users_code(f"transform={named.name}"):
        return _made(named, found)


PLACES_OF_TRANSFORMS = ("weight", "activation")


def _made(named: TransformSettings, kind: type[Transform]) -> Transform:
    """Of this kind, with those keys that it takes. UserError for one that it refuses, or lacks."""
    takes = inspect.signature(kind).parameters
    keywords = {key: value for key, value in named.keywords.items() if key in takes}
    try:
        return kind(**keywords)
    except (TypeError, ValueError) as error:
        raise UserError(f"transform.{error}") from error


def build_learner(settings: Settings, rule: Rule, task: Task, device: torch.device) -> Learner:
    """A learner at its first step."""
    model = build_model(settings, task, device)
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


def imported(path: str, places: str) -> Any:
    """The object that `path` names. NotImportable where there is none; UserError, with its own traceback,
    where its module raises.
    """
    with users_code(f"The module of {path}", NotImportable):
        return import_object(path, places=places)


def rule_of(optim: OptimSettings) -> Rule:
    """The rule that the settings ask for. UserError for a name or a setting that is none."""
    name = optim.clipping_type
    if isinstance(name, str) and ":" in name:
        with suppress(NotImportable):  # `make_rule` says it with what is known
            imported(name, PLACES)
    try:
        with users_code(f"clipping_type '{name}'", ValueError):
            return make_rule(name, **optim.rule_settings)
    except ValueError as error:  # a name that is none, or a setting that the rule refuses
        raise UserError(str(error)) from error


def optimizer_class_of(optim: OptimSettings) -> type[Optimizer]:
    """The class that `optim._target_` names. UserError where there is none, or it is no optimizer."""
    try:
        found = imported(optim.target, PLACES)
    except NotImportable as error:
        raise UserError(f"optim._target_: {error}") from error
    if not (inspect.isclass(found) and issubclass(found, Optimizer)):
        raise UserError(
            f"optim._target_: '{optim.target}' must be a class that inherits torch.optim.Optimizer."
        )
    return found


def check_optimizer(optim: OptimSettings, rule: Rule) -> None:
    """UserError for settings that the optimizer refuses: it is built over a model of a few weights.

    What depends on the names of the true model's parameters is found with that.
    """
    plain = replace(optim, clip_exempt=[], clip_levels=None)
    build_optimizer(plain, nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2)), rule)


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
    with users_code(f"optim={optim.name}"):
        takes = inspect.signature(optimizer_class).parameters
        try:
            sort_into_groups = extra(optimizer_class, "groups")
            if sort_into_groups is not None:
                params = sort_into_groups(model, params)
            if "fused" in takes and (fused := choose_fused(params)):
                keywords.setdefault("fused", fused)
            if "clipping_type" in takes:
                clips = {"clipping_type": rule, "nonfinite": optim.nonfinite, "rng": rng}
                return optimizer_class(params, **clips, **keywords)
            optimizer = optimizer_class(params, **keywords)
            return clip_gradients(optimizer, rule, nonfinite=optim.nonfinite, rng=rng)
        except (TypeError, ValueError, LookupError, ArithmeticError) as error:
            given = ", ".join(f"{key}={value!r}" for key, value in keywords.items())
            raise UserError(
                f"optim={optim.name}: {error}. It was given {given}; `clipbench run --help` has the defaults."
            ) from error
