"""Joins a rule to any torch optimizer: the gradient is clipped at the start of every step, and torch's own `step` does the rest.

The order is backward → (all-reduce, accumulation) → unscale → clip → weight decay, momentum, moments → step.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor
from torch.optim import SGD, Adagrad, Adam, Optimizer

from clipbench.optim.checks import check_level
from clipbench.optim.memory import MOVED, copied, grown, kept, shapes, taken
from clipbench.optim.rules import Factor, Gradients, NoClip, Rule, real

AnyOptimizer = TypeVar("AnyOptimizer", bound=Optimizer)
MEMORY = "clipping"  # where `optimizer.state` keeps what must be saved: a string, so that state_dict() carries it as it is
POLICIES = ("skip", "raise")
MISSING: Any = object()


class ClipStats(NamedTuple):
    """What clipping did to the latest gradient: 0-d tensors on its device, so reading them is the caller's wait."""

    grad_norm: Tensor
    clipped_norm: Tensor
    skipped: Tensor  # steps so far whose gradient was not finite


def clip_gradients(
    optimizer: AnyOptimizer, rule: Rule, *, nonfinite: str = "skip", rng: torch.Generator | None = None
) -> AnyOptimizer:
    """Clip with `rule` at the start of every step of `optimizer`, which is returned.

    The norm is over all parameter groups; a group with a key "clipping_level" of its own is normed and clipped alone, and inf exempts
    it. A closure's gradients are clipped after every call of it. `rng` tosses the coins of random rules; it must live on the gradients'
    device and is seeded from torch's global seed unless given. Memory and coins are part of `optimizer.state_dict()`.

    A non-finite gradient counts as skipped, whatever the rule (a norm that overflows float32 is one). With `fused=True` the step is
    left out exactly; other optimizers see a gradient of zeros, so momentum and weight decay still act. `nonfinite="raise"` raises
    FloatingPointError instead, and waits for the device at every step to know.

    Copying or unpickling an optimizer drops its hooks: join the copy again. ClippedSGD, ClippedAdam and ClippedAdamW do so by themselves.
    """
    Join(rule, nonfinite, rng).attach(optimizer)
    return optimizer


def clip_stats(optimizer: Optimizer) -> ClipStats:
    """Norm before and after clipping at the latest step, and the count of skipped ones.

    Call it before `zero_grad`: types that edit entries (coordinate_wise, uclip, …) leave the norm after to be measured now, and without
    gradients that is a RuntimeError.
    """
    memory = _memory(optimizer)
    if "grad_norm" not in memory:
        raise RuntimeError("clip_stats needs an optimizer that clips and has made a step.")
    clipped = memory["clipped_norm"]
    if clipped is None:  # the rule edited entries: only the gradients themselves know
        grads = Gradients(
            real(p.grad) for group in optimizer.param_groups for p in group["params"] if p.grad is not None
        )
        if not grads:
            raise RuntimeError(
                "clip_stats needs the gradients of the latest step here: call it before zero_grad."
            )
        clipped = torch.where(_finite(memory["grad_norm"]), grads.norm, 0.0)
    return ClipStats(memory["grad_norm"], clipped, memory["skipped"])


class Unit(NamedTuple):
    """What is normed, clipped and remembered together: a parameter group with a level of its own, or all the others."""

    name: str
    rule: Rule
    params: list[Tensor]

    @property
    def places(self) -> list[int]:
        """Which of `params` have a gradient."""
        return [i for i, p in enumerate(self.params) if p.grad is not None]


@dataclass
class Join:
    """The hooks of one optimizer. Holds no tensors: those live in `optimizer.state`."""

    rule: Rule
    nonfinite: str = "skip"
    rng: torch.Generator | None = None

    def __post_init__(self) -> None:
        if self.nonfinite not in POLICIES:
            raise ValueError(f"nonfinite must be one of {', '.join(POLICIES)}, got {self.nonfinite!r}.")
        if not isinstance(self.rule, Rule):
            raise ValueError(f"rule must be a clipbench.optim.Rule such as Norm(1.0), got {self.rule!r}.")
        self.held: dict[
            str, Any
        ] = {}  # the optimizer's attributes that a fused step borrows, with what they were

    def __getstate__(self) -> dict[str, Any]:
        coins = None if self.rng is None else (self.rng.device, self.rng.get_state())
        return {"rule": self.rule, "nonfinite": self.nonfinite, "coins": coins}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.rule, self.nonfinite, self.rng, self.held = state["rule"], state["nonfinite"], None, {}
        if state["coins"]:
            device, coins = state["coins"]
            self.rng = torch.Generator(device)
            self.rng.set_state(coins)

    def attach(self, optimizer: Optimizer) -> None:
        if any(hasattr(hook, "clipping") for hook in optimizer._optimizer_step_pre_hooks.values()):
            raise RuntimeError("This optimizer clips already. Build a new one to change its rule.")
        if (tied := self.rule.tied_to) and not isinstance(optimizer, tied):
            name = type(self.rule).__name__
            raise ValueError(
                f"{name} acts on the update of {tied.__name__} and of its subclasses, not of {type(optimizer).__name__}."
            )
        for group in optimizer.param_groups:
            self._rule_of(group)
        before = torch.compiler.disable(
            self.before
        )  # a compiled step calls it as it is: to trace it gains nothing and loses `held`
        before.clipping = self
        optimizer.register_step_pre_hook(before)
        if tied:
            optimizer.register_step_post_hook(
                torch.compiler.disable(self._after_step)
            )  # before the release: it asks what was skipped
        optimizer.register_step_post_hook(torch.compiler.disable(self._release))
        optimizer.register_state_dict_pre_hook(self._save_coins)
        optimizer.register_load_state_dict_pre_hook(self._check_memory)
        optimizer.register_load_state_dict_post_hook(self._loaded)

    def before(self, optimizer: Optimizer, args: tuple, kwargs: dict) -> tuple[tuple, dict] | None:
        self._release(optimizer)  # a step that raised never came to its post-hook
        closure = args[1] if len(args) > 1 else kwargs.get("closure")
        if closure is None:
            self.clip(optimizer)
            return None

        def clipped_closure() -> Any:
            loss = closure()
            self.clip(optimizer)
            return loss

        if len(args) > 1:
            return (args[0], clipped_closure, *args[2:]), kwargs
        return args, {**kwargs, "closure": clipped_closure}

    @torch.no_grad()
    def clip(self, optimizer: Optimizer) -> None:
        """Measure, apply the rule, remember: no wait for the device, unless nonfinite="raise"."""
        every = self._units(optimizer.param_groups)
        units = [unit for unit in every if unit.places]
        if not units:
            return
        self._release(optimizer)
        grads = [Gradients(real(p.grad) for p in unit.params if p.grad is not None) for unit in units]
        _check(everything := [g for part in grads for g in part])
        self._unscale(optimizer, everything)
        norm = (
            grads[0].norm
            if len(grads) == 1
            else torch.linalg.vector_norm(torch.stack([part.norm for part in grads]))
        )
        bad = ~_finite(norm)
        if self.nonfinite == "raise" and bool(bad):
            raise FloatingPointError(
                f"The gradient's norm is {float(norm)}. Lower the learning rate, or use nonfinite='skip'."
            )
        memory = _memory(optimizer)
        if any(
            old and name not in {unit.name for unit in every} for name, old in memory.get("rules", {}).items()
        ):
            raise RuntimeError(MOVED)
        factors = self._factors(memory, units, grads, bad)
        memory["grad_norm"], memory["clipped_norm"] = norm, _norm_after(factors, grads, bad)
        memory["skipped"] = memory.get("skipped", 0) + bad.long()
        self._apply(optimizer, factors, grads, bad)

    def _units(self, groups: list[dict[str, Any]]) -> list[Unit]:
        units: dict[str, Unit] = {}
        for index, group in enumerate(groups):
            rule = self._rule_of(group)
            alike = (
                group.get("clipping_level") is None and units.get("all", Unit("all", rule, [])).rule == rule
            )
            name = "all" if rule is self.rule or alike else f"group {index}"
            units.setdefault(name, Unit(name, rule, [])).params.extend(group["params"])
        return list(units.values())

    def _rule_of(self, group: dict[str, Any]) -> Rule:
        if group.get("clipping_level") is None:
            return self.rule
        level = check_level("clipping_level", group["clipping_level"])
        if not self.rule.clips:
            return self.rule
        if math.isinf(level):
            return NoClip()
        if not hasattr(self.rule, "clipping_level"):
            raise ValueError(
                f"A parameter group has a clipping_level, but {type(self.rule).__name__} has none. Only inf is allowed, which exempts it."
            )
        return replace(self.rule, clipping_level=level)  # type: ignore[call-arg]

    def _factors(
        self, memory: dict[str, Any], units: list[Unit], grads: list[Gradients], bad: Tensor
    ) -> list[Factor]:
        rules = memory.setdefault("rules", {})
        rng = self._coins(memory, grads[0][0].device)
        coins = rng.get_state() if len(units) > 1 else None
        factors = []
        for unit, part in zip(units, grads, strict=True):
            if (
                coins is not None and unit.rule.clips
            ):  # an exempt unit draws nothing: after it the coins would lie where they were
                rng.set_state(coins)  # one coin per step: every unit sees the same
            params = [real(p) for p in unit.params]
            old = grown(rules[unit.name], unit.rule, params) if unit.name in rules else unit.rule.init(params)
            factor, new = unit.rule(part, [params[i] for i in unit.places], taken(old, unit.places), rng)
            rules[unit.name] = kept(old, new, unit.places, bad)
            factors.append(factor)
        return factors

    def _coins(self, memory: dict[str, Any], device: torch.device) -> torch.Generator:
        if self.rng is None:
            self.rng = torch.Generator(device)
            # not the global seed itself: the coins would repeat the numbers that drew the weights
            self.rng.manual_seed((torch.initial_seed() ^ 0x436F696E) & 0xFFFF_FFFF_FFFF)
            if "coins" in memory:
                self.rng.set_state(memory["coins"])
        if self.rng.device.type != device.type:
            raise RuntimeError(
                f"rng lives on {self.rng.device}, the gradients on {device}: use torch.Generator('{device}')."
            )
        return self.rng

    def _unscale(self, optimizer: Optimizer, grads: list[Tensor]) -> None:
        """Undo a GradScaler's factor now, where a fused step would do so itself: rules need true gradients."""
        if (scale := getattr(optimizer, "grad_scale", None)) is not None:
            torch._foreach_mul_(grads, scale.double().reciprocal().float())
            self._hold(optimizer, grad_scale=torch.ones_like(scale))

    def _apply(
        self, optimizer: Optimizer, factors: list[Factor], grads: list[Gradients], bad: Tensor
    ) -> None:
        if fuses(optimizer):
            _fill_momentum(optimizer)
            overflow = getattr(optimizer, "found_inf", None)
            found = bad.float() if overflow is None else torch.maximum(bad.float(), overflow.to(bad.device))
            self._hold(optimizer, found_inf=found)
            if len(factors) == 1 and isinstance(factors[0], Tensor) and factors[0].ndim == 0:
                # the kernel divides by grad_scale as it updates: the factor costs no pass over memory
                self._hold(optimizer, grad_scale=factors[0].float().reciprocal())
                return
        for factor, part in zip(factors, grads, strict=True):
            multiply(part, factor)
        if not fuses(optimizer):
            _zero_if(bad, [g for part in grads for g in part])

    @torch.no_grad()
    def _after_step(self, optimizer: Optimizer, *_: Any) -> None:
        memory = _memory(optimizer)
        if "grad_norm" not in memory:
            return
        norm = memory["grad_norm"]
        found = getattr(optimizer, "found_inf", None) if fuses(optimizer) else None
        skipped = torch.zeros_like(norm, dtype=torch.bool) if found is None else (found > 0).reshape(())
        groups = [(rule, group) for group in optimizer.param_groups if (rule := self._rule_of(group)).tied_to]
        sizes = [torch.stack(rule.after_step(optimizer, group, skipped)) for rule, group in groups]  # type: ignore[attr-defined]
        before, after = torch.stack(sizes).sum(0) if sizes else torch.ones(2)
        share = torch.where(before > 0, after / before, 1.0).sqrt()
        memory["clipped_norm"] = torch.where(_finite(norm), norm * share, 0.0)

    def _hold(self, optimizer: Optimizer, **borrowed: Tensor) -> None:
        for name, value in borrowed.items():
            self.held.setdefault(name, getattr(optimizer, name, MISSING))
            setattr(optimizer, name, value)

    def _release(self, optimizer: Optimizer, *_: Any) -> None:
        """Give back what a GradScaler had set; it deletes the attributes itself and would fail if they were gone."""
        for name, value in self.held.items():
            if value is MISSING:
                delattr(optimizer, name)
            else:
                setattr(optimizer, name, value)
        self.held.clear()

    def _save_coins(self, optimizer: Optimizer) -> None:
        if self.rng is not None and MEMORY in optimizer.state:
            _memory(optimizer)["coins"] = self.rng.get_state()

    def _check_memory(self, optimizer: Optimizer, state_dict: dict[str, Any]) -> None:
        pairs = list(zip(optimizer.param_groups, state_dict["param_groups"], strict=False))
        if any(len(ours["params"]) != len(theirs["params"]) for ours, theirs in pairs):
            return  # torch says so itself
        # the groups' levels are loaded too, so the saved ones say which parameters are remembered together
        units = {
            unit.name: unit
            for unit in self._units([{**theirs, "params": ours["params"]} for ours, theirs in pairs])
        }
        for name, saved in state_dict["state"].get(MEMORY, {}).get("rules", {}).items():
            unit = units.get(name)
            if unit is None or shapes(saved) != shapes(unit.rule.init([real(p) for p in unit.params])):
                raise ValueError(
                    f"The checkpoint's clipping memory ({', '.join(saved) or 'none'}) is not one of {self.rule}. Build the optimizer with "
                    f"the rule that was saved, or delete state_dict['state']['{MEMORY}'] to start with a fresh memory."
                )

    def _loaded(self, optimizer: Optimizer) -> None:
        if MEMORY not in optimizer.state:
            return
        device = next(p.device for group in optimizer.param_groups for p in group["params"])
        # load_state_dict moves and copies only what belongs to a parameter
        memory = optimizer.state[MEMORY] = copied(_memory(optimizer), device)  # type: ignore[index]
        if "coins" in memory:
            memory["coins"] = memory["coins"].cpu()
            if self.rng is not None:
                self.rng.set_state(memory["coins"])


def fuses(optimizer: Optimizer) -> bool:
    """Whether this step runs torch's fused kernel, which takes `grad_scale` and `found_inf`."""
    groups = optimizer.param_groups
    return (
        isinstance(optimizer, (SGD, Adam, Adagrad))
        and all(group.get("fused") for group in groups)
        # with dampening the first step differs from one with a zero buffer, and a skipped first step would leave garbage in it
        and not any(group.get("momentum") and group.get("dampening") for group in groups)
    )


def start_afresh(optimizer: Optimizer) -> None:
    """Empty the optimizer's state, the rule's memory included, as if newly built. Coins and the count of skipped steps go on.

    An optimizer that keeps numbers in its groups, or makes a state before its first step, has a `begin()`, which sets them back.
    """
    memory = _memory(optimizer) if MEMORY in optimizer.state else {}
    optimizer.state.clear()
    if isinstance(
        optimizer, Adagrad
    ):  # its constructor makes the state, and torch 2.11's step relies on that
        start = optimizer.defaults["initial_accumulator_value"]
        optimizer.state.update(
            Adagrad([{**group} for group in optimizer.param_groups], initial_accumulator_value=start).state
        )
    if memory:
        _memory(optimizer).update({key: value for key, value in memory.items() if key != "rules"})
    if hasattr(optimizer, "begin"):
        optimizer.begin()


def multiply(grads: Gradients, factor: Factor) -> None:
    """In place; None leaves them as they are."""
    if factor is not None:
        torch._foreach_mul_(
            grads, factor if isinstance(factor, Tensor) and factor.ndim == 0 else list(factor)
        )


def _fill_momentum(optimizer: Optimizer) -> None:
    """Zero buffers before the first step: fused SGD allocates its own but does not write them in a step that is skipped."""
    for group in optimizer.param_groups if isinstance(optimizer, SGD) else ():
        for p in group["params"] if group["momentum"] else ():
            if p.grad is not None and optimizer.state[p].get("momentum_buffer") is None:
                optimizer.state[p]["momentum_buffer"] = torch.zeros_like(p)


def _finite(norm: Tensor) -> Tensor:
    """In float32, as the rules' memories are: a float64 norm beyond it would enter them as infinity. ()"""
    return torch.isfinite(norm.float())


def _norm_after(factors: list[Factor], grads: list[Gradients], bad: Tensor) -> Tensor | None:
    """‖clip(g)‖ from factors and norms, 0 where the step is skipped; None where only the gradients themselves can tell. ()"""
    parts = []
    for factor, part in zip(factors, grads, strict=True):
        if not isinstance(factor, Tensor):
            return None
        parts.append(torch.linalg.vector_norm(factor * (part.norms if factor.ndim else part.norm)))
    whole = parts[0] if len(parts) == 1 else torch.linalg.vector_norm(torch.stack(parts))
    return torch.where(bad, 0.0, whole)


def _zero_if(bad: Tensor, grads: list[Tensor]) -> None:
    """Zeros everywhere if `bad`, without asking the device. NaN·0 is NaN, so the bits are multiplied, as integers."""
    integers = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
    keep = (~bad).long()
    for size, dtype in integers.items():
        if bits := [g.view(dtype) for g in grads if g.element_size() == size]:
            torch._foreach_mul_(bits, keep.to(dtype))


def _memory(optimizer: Optimizer) -> dict[str, Any]:
    state: dict[Any, Any] = (
        optimizer.state
    )  # typed as by tensors, but state_dict() carries other keys as they are
    return state.setdefault(MEMORY, {})


def _check(grads: list[Tensor]) -> None:
    if any(g.layout != torch.strided for g in grads):
        raise RuntimeError("Clipping needs dense gradients. Use sparse=False in the embedding layers.")
    if len(devices := {g.device for g in grads}) > 1:
        raise RuntimeError(
            f"The gradients lie on several devices ({', '.join(sorted(map(str, devices)))}). Use one optimizer per device."
        )
