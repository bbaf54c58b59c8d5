"""What runs leave aside of what was asked for, or do otherwise than one may think: a line each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import Any

from clipbench.errors import UserError
from clipbench.optim.checks import SHARED
from clipbench.runs import config
from clipbench.runs.plan import Plan, make_plan
from clipbench.runs.settings import MACHINE

FEWEST = 3  # validations that make a curve
MOST = 100  # plans that are looked at for a setting that none of them uses; of more, nothing is said


def remarks(plans: Sequence[Plan]) -> list[str]:
    """On the runs of one command."""
    return [*_left_aside_by_types(plans), *_left_aside_by_all(plans), *_few_validations(plans)]


def _left_aside_by_types(plans: Sequence[Plan]) -> list[str]:
    """Settings of clipping that were given to types which have none of that name. A type without any, as no
    clipping, may stand beside those that use them.
    """
    found: dict[tuple[str, str], str] = {}
    used, without = set(), set()
    for plan in plans:
        optim = plan.settings.optim
        own = [field.name for field in fields(plan.rule)]
        if not own:
            without.add(optim.clipping_type)
        for key in _given(plan):
            name = key.removeprefix("optim.clip.").removeprefix("optim.")
            if name not in optim.rule_settings or optim.rule_settings[name] is None:
                continue
            if name in own:
                used.add(key)
            elif name in SHARED or key.startswith("optim.clip."):
                takes = ", ".join(own) or "no settings"
                found[key, optim.clipping_type] = (
                    f"{key} changes nothing for {optim.clipping_type}: it has {takes}."
                )
    return [text for (key, type_), text in found.items() if type_ not in without or key not in used]


def _left_aside_by_all(plans: Sequence[Plan]) -> list[str]:
    """Other settings without which each run would be the same, though they differ from the default."""
    candidates: dict[str, bool] = {}
    for plan in plans:
        for key in _given(plan):
            where = key.split(".")[0] in (*MACHINE, "task", "tag")
            if not where and key.removeprefix("optim.clip.").removeprefix("optim.") not in SHARED:
                candidates[key] = True
    composed: config.Composed = {}
    for number, plan in enumerate(plans):
        if number == MOST and candidates:
            return []
        for key in [key for key in candidates if key in _given(plan)]:
            if key.startswith("optim.clip.") or not _changes_nothing(plan, key, composed):
                del candidates[key]
    return [f"{key} changes nothing in what was asked for." for key in candidates]


def _changes_nothing(plan: Plan, key: str, composed: config.Composed) -> bool:
    kept = [override for override in plan.overrides if override.split("=")[0].lstrip("+") != key]
    try:
        without = make_plan(kept, plan.config_dir, composed)
    except UserError:  # others ask for it
        return False
    same_value = _at(plan.settings.config, key) == _at(without.settings.config, key)
    return without.run == plan.run and not same_value


def _at(settings: Mapping[str, Any], key: str) -> Any:
    found: Any = settings
    for name in key.split("."):
        found = found.get(name) if isinstance(found, Mapping) else None
    return found


def _given(plan: Plan) -> list[str]:
    """The dotted keys among its overrides, groups left out."""
    found = []
    for override in config.parse(plan.overrides):
        if _at(plan.settings.config, override.key_or_group) is not None:
            found.append(override.key_or_group)
    return [key for key in found if key not in ("task", "optim", "scale")]


def _few_validations(plans: Sequence[Plan]) -> list[str]:
    """Where `steps` was given and the time between validations was not."""
    for plan in plans:
        keys = _given(plan)
        steps, every = plan.settings.steps, plan.settings.eval_every
        points = -(-steps // every)
        if "steps" in keys and "eval_every" not in keys and points < FEWEST:
            times = "once" if points == 1 else f"{points} times"
            return [
                f"steps={steps} and eval_every={every}: validation is looked at {times}. For a curve: "
                f"eval_every={max(1, steps // 10)}."
            ]
    return []
