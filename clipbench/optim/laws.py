"""The contract that every rule keeps and the properties that some have, for tests and `clipbench check`.

A law takes `build_rule`, which builds the rule with some settings changed, and raises AssertionError where it
finds a counterexample.
"""

from __future__ import annotations

from clipbench.optim.contract import (
    a_missing_gradient_shifts_nothing,
    an_infinite_level_is_no_clipping,
    five_steps_save_load_five_steps_are_ten_steps,
    half_precision_agrees_with_float32,
    no_step_waits_for_the_device,
    the_memory_keeps_its_size,
    the_same_again_gives_the_same,
    what_is_not_finite_is_skipped_and_forgotten,
    zero_stays_zero,
)
from clipbench.optim.probes import (
    Law,
    RuleFactory,
    Waits,
    clip,
    gradient,
    norm,
    set_gradients,
    small_model,
    weights,
)
from clipbench.optim.properties import (
    clipping_the_clipped_changes_nothing,
    gradient_and_level_scale_together,
    no_entry_grows_or_turns,
    norm_after_is_at_most_the_level,
    the_direction_stays,
)

__all__ = [
    "BOUNDED",
    "CONTRACT",
    "HOMOGENEOUS",
    "IDEMPOTENT",
    "PROPERTIES",
    "SHRINKS",
    "STRAIGHT",
    "Law",
    "RuleFactory",
    "Waits",
    "clip",
    "gradient",
    "norm",
    "set_gradients",
    "small_model",
    "weights",
]

CONTRACT: dict[str, Law] = {
    "zero stays zero": zero_stays_zero,
    "half precision agrees with float32": half_precision_agrees_with_float32,
    "clipping_level=inf is no clipping": an_infinite_level_is_no_clipping,
    "the same again gives the same": the_same_again_gives_the_same,
    "the memory keeps its size": the_memory_keeps_its_size,
    "five steps, save, load, five steps are ten steps": five_steps_save_load_five_steps_are_ten_steps,
    "what is not finite is skipped and forgotten": what_is_not_finite_is_skipped_and_forgotten,
    "a missing gradient shifts nothing": a_missing_gradient_shifts_nothing,
    "no step waits for the device": no_step_waits_for_the_device,
}

SHRINKS = "no entry grows or changes its sign"
BOUNDED = "‖clip(g)‖ ≤ η"
IDEMPOTENT = "clip∘clip = clip"
HOMOGENEOUS = "clip(c·g, c·η) = c·clip(g, η)"
STRAIGHT = "direction stays"

PROPERTIES: dict[str, Law] = {
    SHRINKS: no_entry_grows_or_turns,
    BOUNDED: norm_after_is_at_most_the_level,
    IDEMPOTENT: clipping_the_clipped_changes_nothing,
    HOMOGENEOUS: gradient_and_level_scale_together,
    STRAIGHT: the_direction_stays,
}
