"""What is found on somebody's own optimizer: its name, what clips there, the norms. Of this room it alone
imports clipbench.optim.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from clipbench.errors import UserError
from clipbench.optim import ALIASES, RULES, TIED, Gradients, NoClip, Rule, make_rule
from clipbench.optim.clip import Measured, clipping_of
from clipbench.optim.gradients import gradient_of
from clipbench.optim.inside import innermost
from clipbench.record.rows import CLIP_KEYS

OPTIMIZERS = {
    "torch.SGD": "sgd",
    "torch.Adam": "adam",
    "torch.AdamW": "adamw",
    "clipbench.ClippedSGD": "sgd",
    "clipbench.ClippedAdam": "adam",
    "clipbench.ClippedAdamW": "adamw",
    "clipbench.ACClip": "acclip",
    "clipbench.SPAM": "spam",
    "clipbench.StableSPAM": "stable_spam",
    "clipbench.ClippedSSTM": "sstm",
    "clipbench.Lion": "lion",
    "clipbench.Muon": "muon",
}
"""What the bench calls them, `optim=`; others go by the name of their class."""


def type_name(kind: type[Rule]) -> str:
    """ "norm"; of a rule that is not in the tables "module:Class"."""
    for name, known in {**RULES, **TIED}.items():
        if known is kind:
            return name
    return f"{kind.__module__}:{kind.__qualname__}"


UNCLIPPED = type_name(NoClip)


def inside(optimizer: Any) -> Optimizer:
    """What steps, behind whatever wraps it. UserError where there is none."""
    try:
        return innermost(optimizer)
    except TypeError as error:
        raise UserError(str(error)) from error


def optimizer_name(optimizer: Optimizer) -> str:
    """The bench's name of its class, "adamw", or the class's own."""
    kind = type(optimizer)
    package = kind.__module__.partition(".")[0]
    return OPTIMIZERS.get(f"{package}.{kind.__name__}", kind.__name__)


def clipping_found(optimizer: Optimizer, told: Mapping[str, Any]) -> dict[str, Any] | None:
    """The cells of CLIP_KEYS of an optimizer that clips itself, None of one that does not. UserError where
    something is told besides.
    """
    clipping = clipping_of(optimizer)
    if clipping is None:
        return None
    rule = clipping.rule
    for name, value in told.items():
        if value is not None:
            raise UserError(f"{name}: the optimizer clips by itself, by {rule}. Leave it out.")
    return {"clipping_type": type_name(type(rule)), **_settings_of(rule)}


def clipping_told(told: Mapping[str, Any]) -> dict[str, Any]:
    """The cells of CLIP_KEYS as the user says them. UserError for what no type takes."""
    kind, settings = told["clipping_type"], {name: told[name] for name in CLIP_KEYS[1:]}
    for name, value in settings.items():
        if value is not None and kind is None:
            raise UserError(
                f"{name}={value!r} without clipping_type: say what clips, as clipping_type='norm'."
            )
    if kind is None:
        return {"clipping_type": UNCLIPPED, **settings}
    try:
        rule = make_rule(kind, **settings)
    except ValueError as error:
        raise UserError(str(error)) from error
    used = _settings_of(rule)
    for name, value in settings.items():
        used[name] = used[name] if value is not None else None  # the type's default is not what was told
    return {"clipping_type": ALIASES.get(kind, kind), **used}


def _settings_of(rule: Rule) -> dict[str, float | None]:
    return {name: getattr(rule, name, None) for name in CLIP_KEYS[1:]}


def latest(optimizer: Optimizer) -> Measured | None:
    """What the optimizer's own clipping has measured at its last step; None before the first."""
    clipping = clipping_of(optimizer)
    return clipping.latest[-1] if clipping and clipping.latest else None


@torch.no_grad()
def measured(optimizer: Optimizer) -> Tensor:
    """‖g‖ over everything that has a gradient, in float32. ()"""
    found = []
    for group in optimizer.param_groups:
        found += [gradient_of(p) for p in group["params"] if p.grad is not None]
    if not found:
        raise UserError(
            "There is no gradient to measure: call record.step(loss) after optimizer.step() and before "
            "zero_grad(), or give grad_norm."
        )
    return Gradients(found).norm
