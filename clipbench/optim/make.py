"""From a clipping type's name and settings to a rule: whatever can be misspelt is refused here."""

from __future__ import annotations

import dataclasses
from typing import Any

from clipbench.optim.adaptive import AGC, AdaGC, UClip, ZClip
from clipbench.optim.auto import Auto, LinearRandAuto, QuadraticRandAuto
from clipbench.optim.block_rms import BlockRMS
from clipbench.optim.checks import SHARED
from clipbench.optim.names import NoSuchName, NotImportable, import_object, nearest
from clipbench.optim.rule import Rule
from clipbench.optim.rules import (
    CoordinateWise,
    LayerWise,
    LinearRandNorm,
    NoClip,
    Norm,
    Normalize,
    QuadraticRandNorm,
    Value,
)

RULES: dict[str, type[Rule]] = {
    "none": NoClip,
    "norm": Norm,
    "linear_rand_norm": LinearRandNorm,
    "quadratic_rand_norm": QuadraticRandNorm,
    "layer_wise": LayerWise,
    "coordinate_wise": CoordinateWise,
    "value": Value,
    "normalize": Normalize,
    "auto": Auto,
    "linear_rand_auto": LinearRandAuto,
    "quadratic_rand_auto": QuadraticRandAuto,
    "zclip": ZClip,
    "adagc": AdaGC,
    "agc": AGC,
    "uclip": UClip,
}

TIED: dict[str, type[Rule]] = {
    "block_rms": BlockRMS,
}
"""Rules for some optimizers only: their `tied_to`."""

ALIASES = {
    "no_clip": "none",
    "auto_clip": "auto",
    "linear_stoch_norm": "linear_rand_norm",
    "quadratic_stoch_norm": "quadratic_rand_norm",
    "linear_rand_autoclip": "linear_rand_auto",
    "linear_stoch_autoclip": "linear_rand_auto",
    "quadratic_rand_autoclip": "quadratic_rand_auto",
    "quadratic_stoch_autoclip": "quadratic_rand_auto",
}


def make_rule(clipping_type: str | Rule = "norm", **settings: Any) -> Rule:
    """The rule named `clipping_type` (a key of RULES, an alias, or "module:Class") with its fields set.

    A setting that several types share may be None for the type's default; where this type does not use it,
    it is checked and left aside, so that one set of settings can serve a whole sweep. Any other is a
    ValueError that lists what is known, and so is any setting beside a rule, which has its own, unless it is
    what the rule has.
    """
    given = {}
    for name, value in settings.items():
        if value is not None or name not in SHARED:
            given[name] = value
    if isinstance(clipping_type, Rule):
        for name, value in given.items():
            if hasattr(clipping_type, name) and getattr(clipping_type, name) == value:
                continue
            raise ValueError(
                f"{name}={value!r} beside clipping_type={clipping_type!r}: a rule has its settings in "
                "itself. Set it there, or give the type by its name. If it is no setting of clipping, it is "
                "misspelt."
            )
        return clipping_type
    rule_class = rule_named(clipping_type)
    own = {field.name for field in dataclasses.fields(rule_class)}
    used = {}
    for name, value in given.items():
        if name in own:
            used[name] = value
        else:
            _check_unused(name, value, clipping_type, own)
    return rule_class(**used)


def _check_unused(name: str, value: Any, clipping_type: str, own: set[str]) -> None:
    """ValueError for a setting that no type knows, or a value that none would take; `own` are the type's."""
    if name not in SHARED:
        known = ", ".join(sorted(own)) or "none"
        close = nearest(name, {*own, *SHARED})
        raise ValueError(
            f"Unknown setting '{name}' of clipping_type '{clipping_type}'.{close} Its settings: {known}."
        )
    SHARED[name](name, value)


def rule_named(clipping_type: str) -> type[Rule]:
    """The rule's class. ValueError with the nearest spelling and the list of names where there is none."""
    if not isinstance(clipping_type, str):
        raise ValueError(f"clipping_type must be a name or a rule, got {clipping_type!r}.")
    if ":" in clipping_type:
        return _imported(clipping_type)
    rules = {**RULES, **TIED}
    name = ALIASES.get(clipping_type, clipping_type)
    if name not in rules:
        known, close = ", ".join(rules), nearest(clipping_type, {*rules, *ALIASES})
        raise ValueError(
            f"Unknown clipping_type '{clipping_type}'.{close} Known: {known}; or 'module:Class'."
        )
    return rules[name]


def _imported(path: str) -> type[Rule]:
    try:
        rule = import_object(path)
    except NoSuchName:
        rule = None
    except NotImportable as error:
        raise ValueError(f"clipping_type '{path}': {error}") from error
    if isinstance(rule, type) and issubclass(rule, Rule) and dataclasses.is_dataclass(rule):
        return rule
    module_name, _, class_name = path.partition(":")
    raise ValueError(
        f"clipping_type '{path}': '{class_name}' in {module_name} must be a dataclass that inherits "
        "clipbench.optim.Rule."
    )
