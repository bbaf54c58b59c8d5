"""Which parameters get a clipping level of their own, and which none: by patterns of their names."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any

from torch import Tensor, nn

from clipbench.errors import UserError
from clipbench.optim import Rule
from clipbench.optim.checks import check_level
from clipbench.runs.settings import OptimSettings

EXAMPLE = {
    "clip_exempt": 'optim.clip_exempt=["*.bias","head.*"]',
    "clip_levels": "optim.clip_levels={embed*: 0.5, head.*: 2}",
}


def check_patterns(optim: OptimSettings, rule: Rule) -> None:
    """UserError for patterns or levels of a wrong form: what can be known before there is a model."""
    exempt, levels = optim.clip_exempt, optim.clip_levels
    if exempt is not None and not (isinstance(exempt, list) and _are_texts(exempt)):
        raise UserError(
            f"optim.clip_exempt must be null or a list of patterns, as {EXAMPLE['clip_exempt']}, "
            f"got {exempt!r}."
        )
    if levels is not None and not (isinstance(levels, dict) and _are_texts(levels)):
        raise UserError(
            f"optim.clip_levels must be null or levels by pattern, as '{EXAMPLE['clip_levels']}', "
            f"got {levels!r}."
        )
    for pattern, level in (levels or {}).items():
        try:
            number = check_level(f"optim.clip_levels: the level of '{pattern}'", level)
        except ValueError as error:
            raise UserError(str(error)) from error
        if rule.clips and rule.level_or_none is None and not math.isinf(number):
            name = type(rule).__name__
            raise UserError(
                f"optim.clip_levels: {name} has no clipping_level. For it, only inf is allowed, "
                f"which exempts '{pattern}'."
            )


def _are_texts(values: Iterable[Any]) -> bool:
    return all(isinstance(value, str) for value in values)


def parameter_groups(
    model: nn.Module, rule: Rule, exempt: Sequence[str] | None, levels: Mapping[str, float] | None
) -> list[Any]:
    """The trainable parameters as torch takes them: plain, or in groups with a `clipping_level` of their own,
    each normed by itself, inf for the exempt.

    A pattern is matched against the whole name, with * and ?. The exempt come first, then the first pattern
    that matches counts. `exempt` None: the last linear layer for a rule that spares it, else nothing.
    """
    free: dict[str, Tensor] = {name: p for name, p in model.named_parameters() if p.requires_grad}
    if exempt is None:
        exempt = last_linear(model) if rule.spares_last_linear else []
    spared: list[Tensor] = []
    for pattern in exempt:
        spared += _pop_matching(pattern, free, "clip_exempt")
    groups: list[dict[str, Any]] = []
    for pattern, level in (levels or {}).items():
        params = _pop_matching(pattern, free, "clip_levels")
        groups.append({"params": params, "clipping_level": level, "clip_separately": True})
    if spared:
        groups.append({"params": spared, "clipping_level": math.inf})
    rest = list(free.values())
    if not groups:
        return rest
    return [{"params": rest}, *groups] if rest else groups


def last_linear(model: nn.Module) -> list[str]:
    """The names of the trainable parameters of the last torch.nn.Linear, in the order of the model's modules;
    [] where there is none.
    """
    last = None
    for name, module in model.named_modules():
        if isinstance(module, nn.Linear):
            last = name
    found = []
    for name, p in model.named_parameters():
        module_name, _, _ = name.rpartition(".")
        if p.requires_grad and module_name == last:
            found.append(name)
    return found


def _pop_matching(pattern: str, free: dict[str, Tensor], key: str) -> list[Tensor]:
    names = [name for name in free if fnmatchcase(name, pattern)]
    if not names:
        raise UserError(
            f"optim.{key}: '{pattern}' matches no parameter's name, or none that an earlier pattern left. "
            f"There are: {_some(free)}."
        )
    return [free.pop(name) for name in names]


def _some(names: Iterable[str], shown: int = 12) -> str:
    listed = list(names)
    more = f" and {len(listed) - shown} more" if len(listed) > shown else ""
    return ", ".join(listed[:shown]) + more
