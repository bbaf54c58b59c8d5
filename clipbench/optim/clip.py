"""Joins a rule to any torch optimizer: the gradient is clipped at the start of every step.

torch's own `step` does the rest, and is not overridden.

The order is backward → (all-reduce, accumulation) → unscale → clip → weight decay, momentum, moments → step.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.optim import Optimizer

from clipbench.optim import fused, gradients, randomness
from clipbench.optim.fused import FusedFactor
from clipbench.optim.gradients import Factor, Gradients
from clipbench.optim.memory import STATE_KEY, Memory, at, rule_memories, shapes
from clipbench.optim.protocols import extra
from clipbench.optim.rule import Rule, UpdateRule
from clipbench.optim.rules import NoClip
from clipbench.optim.units import Group, Unit, rule_of_group, units_of

AnyOptimizer = TypeVar("AnyOptimizer", bound=Optimizer)
POLICIES = ("skip", "raise")


def clip_gradients(
    optimizer: AnyOptimizer, rule: Rule, *, nonfinite: str = "skip", rng: torch.Generator | None = None
) -> AnyOptimizer:
    """Clip with `rule` at the start of every step of `optimizer`, which is returned.

    The norm is over all parameter groups; a group with a key "clipping_level" of its own is normed and
    clipped alone, and inf exempts it. A closure's gradients are clipped after every call of it. Random
    rules draw from `rng`; it must live on the gradients' device and is seeded from torch's global seed
    unless given. Memory and the generator's state are part of `optimizer.state_dict()`.

    A non-finite gradient counts as skipped, whatever the rule (a norm that overflows float32 is one). With
    `fused=True` the step is left out exactly; other optimizers see a gradient of zeros, so momentum and
    weight decay still act. `nonfinite="raise"` raises FloatingPointError instead, and waits for the device
    at every step to know.

    Copying or unpickling an optimizer drops its hooks: join the copy again. ClippedSGD, ClippedAdam and
    ClippedAdamW do so by themselves.
    """
    Clipping(rule, nonfinite, rng).attach(optimizer)
    return optimizer


@dataclass
class Clipping:
    """The hooks by which one optimizer clips. Holds no tensors but the generator's: see Memory."""

    rule: Rule
    nonfinite: str = "skip"
    rng: torch.Generator | None = None

    def __post_init__(self) -> None:
        if self.nonfinite not in POLICIES:
            raise ValueError(f"nonfinite must be one of {', '.join(POLICIES)}, got {self.nonfinite!r}.")
        if not isinstance(self.rule, Rule):
            raise ValueError(f"rule must be a clipbench.optim.Rule such as Norm(1.0), got {self.rule!r}.")
        self._factor = FusedFactor()

    def __getstate__(self) -> dict[str, Any]:
        rng = randomness.without_generator(self.rng)
        return {"rule": self.rule, "nonfinite": self.nonfinite, "rng": rng}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.rule, self.nonfinite = state["rule"], state["nonfinite"]
        self.rng = randomness.generator_again(state["rng"])
        self._factor = FusedFactor()

    def attach(self, optimizer: Optimizer) -> None:
        """Register the hooks.

        RuntimeError if the optimizer clips already; ValueError where rule, groups and optimizer disagree.
        """
        if any(hasattr(hook, "clipping") for hook in optimizer._optimizer_step_pre_hooks.values()):
            raise RuntimeError("This optimizer clips already. Build a new one to change its rule.")
        tied = self.rule.tied_to
        if tied and not isinstance(optimizer, tied):
            raise ValueError(
                f"{type(self.rule).__name__} acts on the update of {tied.__name__} and of its subclasses, "
                f"not of {type(optimizer).__name__}."
            )
        self._rules(optimizer, optimizer.param_groups)  # a group's wrong level is refused now
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

    # the hooks, in the order in which they run

    def before_step(self, optimizer: Optimizer, args: tuple, kwargs: dict) -> tuple[tuple, dict] | None:
        """Clip, or put the clipping behind every call of the step's closure."""
        self._factor.release(optimizer)  # a step that raised never came to its post-hook
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
        groups = optimizer.param_groups
        every = units_of(groups, self._rules(optimizer, groups), self.rule)
        units = [unit for unit in every if unit.present]
        if not units:
            return
        self._factor.release(optimizer)
        parts = [gradients.gradients_of(unit.params) for unit in units]
        everything = [g for part in parts for g in part]
        gradients.check_gradients(everything)
        self._factor.unscale(optimizer, everything)
        norm = gradients.total_norm(parts)
        skipped = ~gradients.is_finite(norm)
        if self.nonfinite == "raise" and bool(skipped):
            raise FloatingPointError(
                f"The gradient's norm is {float(norm)}. Lower the learning rate, or use nonfinite='skip'."
            )
        memory = Memory(optimizer)
        memory.check_units(every)
        factors = self._factors(memory, units, parts, skipped)
        factors = _edited(optimizer, units, parts, factors)
        memory.record(norm, gradients.norm_after(factors, parts, skipped), skipped)
        self._apply(optimizer, factors, parts, skipped)

    @torch.no_grad()
    def clip_update(self, optimizer: Optimizer, *_: Any) -> None:
        """Let an UpdateRule act on what the step has done, and record by how much."""
        memory = Memory(optimizer)
        norm = memory.grad_norm
        if norm is None:
            return
        skipped = fused.left_out(optimizer, norm)
        squares = []
        for group in optimizer.param_groups:
            rule = rule_of_group(optimizer, self.rule, group)
            if isinstance(rule, UpdateRule):
                squares.append(torch.stack(rule.after_step(optimizer, group, skipped)))
        before, after = torch.stack(squares).sum(0) if squares else torch.ones(2)
        share = torch.where(before > 0, after / before, 1.0).sqrt()
        memory.clipped_norm = torch.where(gradients.is_finite(norm), norm * share, 0.0)

    def after_step(self, optimizer: Optimizer, *_: Any) -> None:
        """Give back what the fused step borrowed."""
        self._factor.release(optimizer)

    def before_saving(self, optimizer: Optimizer) -> None:
        """Put the generator's state where `state_dict` finds it."""
        memory = Memory(optimizer)
        if self.rng is not None and memory:
            memory.rng_state = self.rng.get_state()

    def before_loading(self, optimizer: Optimizer, state_dict: dict[str, Any]) -> None:
        """ValueError for another rule's memory, before anything of `state_dict` is loaded."""
        loaded = []
        for ours, theirs in zip(optimizer.param_groups, state_dict["param_groups"], strict=False):
            if len(ours["params"]) != len(theirs["params"]):
                return  # torch says so itself
            # the groups' levels are loaded too: the saved ones say which parameters are remembered together
            loaded.append({**theirs, "params": ours["params"]})
        units = {unit.name: unit for unit in units_of(loaded, self._rules(optimizer, loaded), self.rule)}
        for name, saved in rule_memories(state_dict["state"]).items():
            unit = units.get(name)
            if unit is None or shapes(saved) != shapes(unit.rule.init(unit.real_params)):
                names = ", ".join(saved) or "none"
                raise ValueError(
                    f"The checkpoint's clipping memory ({names}) is not one of {self.rule}. "
                    "Build the optimizer with the rule that was saved, or delete "
                    f"state_dict['state']['{STATE_KEY}'] to start with a fresh memory."
                )

    def after_loading(self, optimizer: Optimizer) -> None:
        """Take what was loaded to the parameters' device, and the generator to where it was."""
        memory = Memory(optimizer)
        if not memory:
            return
        memory.after_loading(_device(optimizer))
        if self.rng is not None and memory.rng_state is not None:
            self.rng.set_state(memory.rng_state)

    # their parts

    def _rules(self, optimizer: Optimizer, groups: Sequence[Group]) -> list[Rule]:
        return [rule_of_group(optimizer, self.rule, group) for group in groups]

    def _behind(self, closure: Callable[[], Any], optimizer: Optimizer) -> Callable[[], Any]:
        def clipped_closure() -> Any:
            loss = closure()
            self.clip(optimizer)
            return loss

        return clipped_closure

    def _factors(
        self, memory: Memory, units: list[Unit], parts: list[Gradients], skipped: Tensor
    ) -> list[Factor]:
        """Of each unit by its rule, which sees and then renews its memory."""
        rng = self.rng = randomness.on_device(self.rng, parts[0][0].device, memory.rng_state)
        at_start = rng.get_state() if len(units) > 1 else None
        factors = []
        for unit, part in zip(units, parts, strict=True):
            if at_start is not None and unit.rule.clips:
                # one draw per step: every unit sees the same. An exempt unit draws nothing, and after it the
                # generator would lie where it was
                rng.set_state(at_start)
            old = memory.recall(unit)
            params = [unit.real_params[i] for i in unit.present]
            factor, new = unit.rule(part, params, at(old, unit.present), rng)
            memory.remember(unit, old, new, skipped)
            factors.append(factor)
        return factors

    def _apply(
        self, optimizer: Optimizer, factors: list[Factor], parts: list[Gradients], skipped: Tensor
    ) -> None:
        """Multiply the gradients by their factors; let the fused step do it where it can."""
        is_fused = fused.is_fused(optimizer)
        if is_fused:
            self._factor.skip_where(optimizer, skipped)
            only = factors[0]
            if len(factors) == 1 and isinstance(only, Tensor) and only.ndim == 0:
                self._factor.hand_over(optimizer, only)
                return
        for factor, part in zip(factors, parts, strict=True):
            gradients.multiply(part, factor)
        if not is_fused:
            gradients.zero_where(skipped, [g for part in parts for g in part])


def _edited(
    optimizer: Optimizer, units: list[Unit], parts: list[Gradients], factors: list[Factor]
) -> list[Factor]:
    """Let the optimizer edit the clipped gradient, if it wants to: then there are no factors any more."""
    edit = extra(optimizer, "edit_gradients")
    if edit is None:
        return factors
    for unit, part, factor in zip(units, parts, factors, strict=True):
        if not isinstance(unit.rule, NoClip):
            gradients.multiply(part, factor)
    edit()
    return [None] * len(factors)


def _device(optimizer: Optimizer) -> torch.device:
    return next(p.device for group in optimizer.param_groups for p in group["params"])
