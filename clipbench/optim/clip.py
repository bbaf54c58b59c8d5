"""Joins a rule to any torch optimizer: the gradient is clipped at the start of every step.

torch's own `step` does the rest, and is not overridden.

The order is backward → (all-reduce, accumulation) → unscale → clip → weight decay, momentum, moments → step.
"""

from __future__ import annotations

import warnings
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from math import inf
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor
from torch.optim import Optimizer

from clipbench.optim import gradients, loading, randomness, ranks
from clipbench.optim.fused import FusedFactor
from clipbench.optim.gradients import Factor, Gradients, Place
from clipbench.optim.inside import innermost, path_to_innermost
from clipbench.optim.memory import OWN_LEVEL, Memory, at
from clipbench.optim.protocols import extra
from clipbench.optim.rule import Rule, UpdateRule
from clipbench.optim.rules import NoClip
from clipbench.optim.units import LEVEL, Group, Unit, at_level, check_group, rule_of_group, units_of

AnyOptimizer = TypeVar("AnyOptimizer", bound=Optimizer)
POLICIES = ("skip", "raise")
WINDOW = 100
"""Over how many steps `clip_stats` looks back."""


class Measured(NamedTuple):
    """Of one step: ‖g‖ before and after clipping, and whether it was left out. Each ()."""

    norm: Tensor
    clipped_norm: Tensor
    skipped: Tensor


def clip_gradients(
    optimizer: AnyOptimizer, rule: Rule, *, nonfinite: str = "skip", rng: torch.Generator | None = None
) -> AnyOptimizer:
    """Clip with `rule` at the start of every step of `optimizer`, which is returned.

    The norm is over all parameter groups. A group may have a "clipping_level" of its own, as it may have an
    "lr": groups of one level are normed together, apart from those of another; inf exempts, and
    `clip_separately=True` sets a group apart whatever its level. A closure's gradients are clipped after
    every call of it. Random rules draw from `rng`; it must live on the gradients' device and is seeded from
    torch's global seed unless given. Memory and the generator's state are part of `optimizer.state_dict()`.

    Where the gradient is divided among processes (DTensor, FSDP1, ZeroRedundancyOptimizer), norms are of the
    whole, on all ranks the same. Where torch.distributed is in use, a random rule takes rank 0's generator
    once, at the first step, which all ranks must then make.

    A non-finite gradient counts as skipped, whatever the rule (a norm that overflows float32 is one). A step
    of torch's fused kernels is left out exactly; other steps see a gradient of zeros, so momentum and weight
    decay still act. `nonfinite="raise"` raises FloatingPointError instead, and waits for the device at every
    step to know.

    A wrapper (of accelerate, Lightning, a Lookahead) is joined at the optimizer inside; TypeError where there
    is none. Copying or unpickling an optimizer drops its hooks: join the copy again. ClippedSGD, ClippedAdam
    and ClippedAdamW do so by themselves.
    """
    clipping = Clipping(rule, nonfinite, rng)
    for one in path_to_innermost(optimizer):
        clipping.elsewhere = clipping.elsewhere or ranks.sharding_of(one)
    clipping.attach(innermost(optimizer))
    return optimizer


def clipping_of(optimizer: Optimizer) -> Clipping | None:
    """By which `optimizer` itself clips; None if it does not."""
    for hook in optimizer._optimizer_step_pre_hooks.values():
        found = getattr(hook, "clipping", None)
        if found is not None:
            return found
    return None


@dataclass
class Clipping:
    """The hooks by which one optimizer clips.

    Holds no tensors that a checkpoint would need but the generator's: see Memory.
    """

    rule: Rule
    nonfinite: str = "skip"
    rng: torch.Generator | None = None
    automatic: bool = False
    """May take the fused kernel where nobody chose one."""
    memory: Memory = field(init=False, repr=False, compare=False)
    """Of the optimizer that it is attached to."""

    def __post_init__(self) -> None:
        if self.nonfinite not in POLICIES:
            raise ValueError(f"nonfinite must be one of {', '.join(POLICIES)}, got {self.nonfinite!r}.")
        if not isinstance(self.rule, Rule):
            raise ValueError(f"rule must be a clipbench.optim.Rule such as Norm(1.0), got {self.rule!r}.")
        self.elsewhere = ranks.sharding_of_maker()
        self._rng_at_start = randomness.without_generator(self.rng)
        self._begin()

    def _begin(self) -> None:
        self.latest: deque[Measured] = deque(maxlen=WINDOW)
        self._factor = FusedFactor(self.automatic)
        self._loading: loading.Loading | None = None
        self._number_of_groups = 0
        self._ranks_agree = False  # on the generator
        self._has_warned = False

    def __getstate__(self) -> dict[str, Any]:
        rng = randomness.without_generator(self.rng)
        return {"rule": self.rule, "nonfinite": self.nonfinite, "rng": rng, "automatic": self.automatic}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.rule, self.nonfinite = state["rule"], state["nonfinite"]
        self.rng = randomness.generator_again(state["rng"])
        self.automatic = state.get("automatic", True)
        self.elsewhere = None
        self._rng_at_start = randomness.without_generator(self.rng)
        self._begin()

    def attach(self, optimizer: Optimizer) -> None:
        """Register the hooks.

        RuntimeError if the optimizer clips already; ValueError where rule, groups and optimizer disagree.
        """
        if clipping_of(optimizer) is not None:
            raise RuntimeError("This optimizer clips already. Build a new one to change its rule.")
        tied = self.rule.tied_to
        if tied and not isinstance(optimizer, tied):
            raise ValueError(
                f"{type(self.rule).__name__} acts on the update of {tied.__name__} and of its subclasses, "
                f"not of {type(optimizer).__name__}."
            )
        self._check_groups(optimizer)
        units = self._units(optimizer, optimizer.param_groups)  # a group's wrong level is refused now
        self._give_levels(optimizer)
        self.memory = Memory(optimizer)
        self.memory.prepare(units)
        # a compiled step calls hooks as they are: to trace them gains nothing and loses what is borrowed
        before_step = torch.compiler.disable(self.before_step)
        before_step.clipping = self
        optimizer.register_step_pre_hook(before_step)
        if isinstance(self.rule, UpdateRule):
            # before the release: it asks what was skipped
            optimizer.register_step_post_hook(torch.compiler.disable(self.clip_update))
        optimizer.register_step_post_hook(torch.compiler.disable(self.after_step))
        optimizer.register_state_dict_pre_hook(self.before_saving)
        optimizer.register_load_state_dict_pre_hook(self.before_loading)
        optimizer.register_load_state_dict_post_hook(self.after_loading)

    # what others ask and set

    def level(self, optimizer: Optimizer) -> Callable[[], Tensor | float | None]:
        """What computes the level in force now, for the groups that have none of their own.

        It gives None where there is no one.
        """
        units = self._units(optimizer, optimizer.param_groups)
        clipped = [unit for unit in units if not isinstance(unit.rule, NoClip)]
        unit = (clipped or units)[0]
        return partial(unit.rule.level_in_force, self.memory.whole(unit))

    def set_level(self, optimizer: Optimizer, level: float) -> None:
        """Of all groups that have none of their own. ValueError for a rule without a level."""
        if self.rule.level_or_none is None:
            raise ValueError(f"{type(self.rule).__name__} has no clipping_level that could be set.")
        free = [group for group in optimizer.param_groups if not group.get(OWN_LEVEL)]
        common = [group for group in free if group.get(LEVEL) in (self.rule.level_or_none, None)]
        common = common or free  # where somebody has set all of them by hand
        self.rule = at_level(self.rule, level)
        for group in common:
            group[LEVEL] = level
        self._set_default(optimizer)

    def drop_unfinished(self, optimizer: Optimizer) -> None:
        """Give back and forget what a step that raised has left."""
        self._factor.release(optimizer)
        self.memory.drop_late()

    # the hooks, in the order in which they run

    def before_step(self, optimizer: Optimizer, args: tuple, kwargs: dict) -> tuple[tuple, dict] | None:
        """Clip, or put the clipping behind every call of the step's closure."""
        self.drop_unfinished(optimizer)  # a step that raised never came to its post-hook
        if len(optimizer.param_groups) != self._number_of_groups:
            self._check_groups(optimizer)
            self._give_levels(optimizer)
        closure = args[1] if len(args) > 1 else kwargs.get("closure")
        if closure is None:
            self.clip(optimizer)
            return None
        clipped_closure = self._behind(closure, optimizer)
        if len(args) > 1:
            return (args[0], clipped_closure, *args[2:]), kwargs
        return args, {**kwargs, "closure": clipped_closure}

    @torch.no_grad()
    def clip(self, optimizer: Optimizer) -> None:
        """Measure, apply the rule, remember: no wait for the device, unless nonfinite="raise"."""
        units, spread = self._units_and_spread(optimizer)
        if not units:
            return
        self._factor.release(optimizer)
        self._check_can_be_clipped(units, spread)
        self._factor.choose(optimizer, [unit.params[i] for unit in units for i in unit.present])
        if self._factor.all_contiguous and spread is None:
            parts = [Gradients(unit.gradients) for unit in units]  # as they are, which is quicker
        else:
            parts = _parts(units, spread, len(optimizer.param_groups))
        gradients.check_devices([g for part in parts for g in part])
        overflow = self._factor.overflow(optimizer)
        self._factor.unscale(optimizer, [g for part in parts for g in part])
        norm = gradients.total_norm(parts) if spread is None else None
        old, new, factors = self._results(optimizer, units, parts, spread)
        factors = _edited(optimizer, units, parts, factors)
        clipped_norm = gradients.norm_after(factors, parts)
        norm = gradients.total_norm(parts) if norm is None else norm
        skipped = ~gradients.is_finite(norm)
        if self.nonfinite == "raise" and bool(skipped):
            self._raise_unless_known(optimizer, norm, overflow)
        if overflow is not None:
            skipped = skipped | overflow.to(skipped.device)
        hold = skipped | (norm == 0) if _only_begins(optimizer) else skipped
        for unit, was, now in zip(units, old, new, strict=True):
            self.memory.remember(unit, was, now, hold)
        self.memory.count(skipped)
        self.latest.append(Measured(norm, torch.where(skipped, 0.0, clipped_norm), skipped))
        self._apply(optimizer, factors, parts, skipped)

    @torch.no_grad()
    def clip_update(self, optimizer: Optimizer, *_: Any) -> None:
        """Let an UpdateRule act on what the step has done, and record by how much."""
        if not self.latest:
            return
        norm, was_skipped = self.latest[-1].norm, self.latest[-1].skipped
        skipped = self._factor.left_out(optimizer, norm)
        squares = []
        for group in optimizer.param_groups:
            rule = rule_of_group(optimizer, self.rule, group)
            if isinstance(rule, UpdateRule):
                squares.append(torch.stack(rule.after_step(optimizer, group, skipped)))
        sums = torch.stack(squares).sum(0) if squares else torch.ones(2)
        sums = ranks.summed(sums, self.elsewhere)
        share = torch.where(sums[0] > 0, sums[1] / sums[0], 1.0).sqrt()
        clipped_norm = torch.where(was_skipped, 0.0, norm * share)
        self.latest[-1] = Measured(norm, clipped_norm, was_skipped)

    def after_step(self, optimizer: Optimizer, *_: Any) -> None:
        """Give back what the step borrowed, and put away what was remembered."""
        self._factor.release(optimizer)
        self.memory.settle()

    def before_saving(self, optimizer: Optimizer) -> None:
        """Put the generator's state where `state_dict` finds it."""
        self.drop_unfinished(optimizer)
        if self.rng is not None and self.rule.draws:
            self.memory.rng_state = self.rng.get_state()

    def before_loading(self, optimizer: Optimizer, state_dict: dict[str, Any]) -> dict[str, Any]:
        """ValueError for another rule's memory, before anything of `state_dict` is loaded."""
        self.drop_unfinished(optimizer)
        self._loading = loading.Loading(optimizer, self.rule, state_dict)
        return self._loading.state_dict

    def after_loading(self, optimizer: Optimizer) -> None:
        """Take what was loaded to the parameters' device, and the generator to where it was."""
        if self._loading is not None:
            self._loading.finish(optimizer)
            self._loading = None
        self.latest.clear()
        levels = {group.get(LEVEL) for group in optimizer.param_groups if not group.get(OWN_LEVEL)}
        common = levels.pop() if len(levels) == 1 else None
        if common is not None and self.rule.level_or_none is not None:
            self.rule = at_level(self.rule, common)
            self._set_default(optimizer)
        self._give_levels(optimizer)
        self._ranks_agree = False
        saved = self.memory.rng_state
        if saved is not None:
            if self.rng is not None:
                self.rng.set_state(saved)
        elif self.memory.is_before_first_draw:
            self.rng = randomness.generator_again(self._rng_at_start)

    # their parts

    def _units_and_spread(self, optimizer: Optimizer) -> tuple[list[Unit], ranks.Spread | None]:
        """The units that have a gradient, on whatever rank, and how their parameters lie over ranks."""
        units = self._units(optimizer, optimizer.param_groups)
        spread = ranks.spread_of([p for unit in units for p in unit.params], self.elsewhere)
        if spread is not None:
            for unit in units:
                unit.take_in_what_is_elsewhere(spread)
        return [unit for unit in units if unit.present], spread

    def _raise_unless_known(self, optimizer: Optimizer, norm: Tensor, overflow: Tensor | None) -> None:
        """FloatingPointError, unless a GradScaler has seen it and leaves the step out."""
        if overflow is not None and bool(overflow):
            return
        self._factor.release(optimizer)
        raise FloatingPointError(
            f"The gradient's norm is {float(norm)}. Lower the learning rate, or use nonfinite='skip'."
        )

    def _check_groups(self, optimizer: Optimizer) -> None:
        """ValueError for a misspelt key, a level that is none, or what cannot be differentiated."""
        for group in optimizer.param_groups:
            check_group(group)
            if group.get("differentiable"):
                raise ValueError(
                    "differentiable=True: the clipping itself is not differentiated, so the derivatives "
                    "would be wrong. Clip inside the loss, or differentiate without clipping."
                )

    def _give_levels(self, optimizer: Optimizer) -> None:
        """Each group holds its level, as it holds its learning rate, and whether that is one of its own."""
        self._number_of_groups = len(optimizer.param_groups)
        common = self.rule.level_or_none
        for group in optimizer.param_groups:
            if group.get(LEVEL) is None and common is not None:
                group[LEVEL] = common
            elif group.get(LEVEL) != common:
                group.setdefault(OWN_LEVEL, True)

    def _set_default(self, optimizer: Optimizer) -> None:
        """Of groups that come later."""
        defaults = optimizer.defaults
        if LEVEL in defaults:
            defaults[LEVEL] = self.rule.level_or_none
            if isinstance(defaults["clipping_type"], Rule):
                defaults["clipping_type"] = self.rule

    def _units(self, optimizer: Optimizer, groups: Sequence[Group]) -> list[Unit]:
        return units_of(groups, [rule_of_group(optimizer, self.rule, group) for group in groups])

    def _behind(self, closure: Callable[[], Any], optimizer: Optimizer) -> Callable[[], Any]:
        def clipped_closure() -> Any:
            loss = closure()
            self.clip(optimizer)
            return loss

        return clipped_closure

    def _check_can_be_clipped(self, units: Sequence[Unit], spread: ranks.Spread | None) -> None:
        """RuntimeError for gradients that a rule cannot clip rightly; a warning where it sees too little."""
        for unit in units:
            if not isinstance(unit.rule, NoClip):
                unit.check(spread)
        about_all = any("gradient" in unit.rule.acts_on and unit.rule.level_or_none != inf for unit in units)
        if about_all and not self._has_warned and torch._C._current_graph_task_id() != -1:
            self._has_warned = True
            count = sum(len(unit.present) for unit in units)
            warnings.warn(
                f"A step inside of backward(): {type(self.rule).__name__} clips by the norm of the {count} "
                "tensors that have a gradient by now, not of the whole gradient. Step after backward(), or "
                "use layer_wise, coordinate_wise or agc.",
                stacklevel=2,
            )

    def _results(
        self,
        optimizer: Optimizer,
        units: Sequence[Unit],
        parts: Sequence[Gradients],
        spread: ranks.Spread | None,
    ) -> tuple[list[Any], list[Any], list[Factor]]:
        """Of each unit its memory, what its rule makes of that, and the rule's factor."""
        device = parts[0][0].device
        saved = self.memory.rng_state if self.rng is None else None
        rng = self.rng = randomness.on_device(self.rng, device, saved)
        draws = any(unit.rule.draws for unit in units)
        if draws and not self._ranks_agree:
            self._ranks_agree = True
            if ranks.processes() > 1:
                rng.set_state(ranks.rank_0s_state(rng.get_state(), spread, device))
        at_start = rng.get_state() if draws or not self.latest else None
        old, new, factors = [], [], []
        for unit, part in zip(units, parts, strict=True):
            if draws and at_start is not None and len(units) > 1 and unit.rule.clips:
                # one draw per step: every unit sees the same. An exempt unit draws nothing, and after it the
                # generator would lie where it was
                rng.set_state(at_start)
            old.append(self.memory.recall(unit))
            params = unit.real_params
            if len(unit.present) < len(params):
                params = [params[i] for i in unit.present]
            factor, after = unit.rule(part, params, at(old[-1], unit.present), rng)
            new.append(after)
            factors.append(factor)
        if at_start is not None and not draws:
            self._check_draws_nothing(rng, at_start)
        if at_start is not None and _only_begins(optimizer):
            rng.set_state(at_start)
        return old, new, factors

    def _check_draws_nothing(self, rng: torch.Generator, at_start: Tensor) -> None:
        """RuntimeError, at the first step, for a rule that draws and does not say so."""
        if rng.get_state().numpy().tobytes() != at_start.numpy().tobytes():
            raise RuntimeError(
                f"{type(self.rule).__name__} draws from rng: its class must say `draws = True`, so that the "
                "generator is saved and all ranks draw alike."
            )

    def _apply(
        self, optimizer: Optimizer, factors: list[Factor], parts: list[Gradients], skipped: Tensor
    ) -> None:
        """Multiply the gradients by their factors; let the fused step do it where it can."""
        if self._factor.is_used:
            self._factor.skip_where(optimizer, skipped)
            only = factors[0] if len(factors) == 1 else None
            # the kernel takes a float32
            if isinstance(only, Tensor) and only.ndim == 0 and only.dtype != torch.float64:
                self._factor.hand_over(optimizer, only)
                return
        for factor, part in zip(factors, parts, strict=True):
            gradients.multiply(part, factor)
        if not self._factor.is_used:
            gradients.zero_where(skipped, [g for part in parts for g in part])


def _parts(units: Sequence[Unit], spread: ranks.Spread | None, groups: int) -> list[Gradients]:
    """The gradients of each unit, of an optimizer with so many groups."""
    sums = ranks.Sums()
    parts = []
    for unit in units:
        params = [unit.params[i] for i in unit.present]
        place = None
        if spread is not None:
            numbers = [unit.numbers[i] for i in unit.present]
            place = Place(spread, sums, params, numbers, groups)
        parts.append(Gradients([gradients.gradient_of(p) for p in params], place))
    for unit, part in zip(units, parts, strict=True):
        part.ask()
        if unit.rule.needs_largest:
            part.ask_largest()
    return parts


def _edited(
    optimizer: Optimizer, units: Sequence[Unit], parts: list[Gradients], factors: list[Factor]
) -> list[Factor]:
    """Let the optimizer edit the clipped gradient, if it wants to: then there are no factors any more."""
    edit = extra(optimizer, "edit_gradients")
    if edit is None:
        return factors
    for unit, part, factor in zip(units, parts, factors, strict=True):
        part.norm_after = None
        if not isinstance(unit.rule, NoClip):
            gradients.multiply(part, factor)
    edit()
    return [None] * len(factors)


def _only_begins(optimizer: Optimizer) -> bool:
    """Whether there is no state and the step moves nothing: so torch's tools make a state begin."""
    if optimizer.state:
        return False
    for group in optimizer.param_groups:
        lr = group.get("lr")
        if (isinstance(lr, Tensor) and lr.device.type != "cpu") or lr != 0:
            return False
    return True
