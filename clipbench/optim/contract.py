"""What every rule promises, each as a function that looks for a counterexample."""

from __future__ import annotations

import copy
import io
import math
from typing import Any

import torch
from torch import Tensor

from clipbench.optim.memory import rule_memories, shapes
from clipbench.optim.optimizers import ClippedAdam
from clipbench.optim.probes import (
    SHAPES,
    Build,
    RuleFactory,
    Waits,
    classes_for,
    clip,
    gradient,
    has_field,
    hold,
    make_steps,
    norm,
    optimizers_for,
    same,
    set_gradients,
    small_model,
    weights,
)
from clipbench.optim.rule import Rule, State
from clipbench.optim.rules import NoClip
from clipbench.optim.stats import clip_stats


def zero_stays_zero(build_rule: RuleFactory) -> None:
    clipped, _ = clip(build_rule(), [torch.zeros(shape) for shape in SHAPES])
    hold(norm(clipped) == 0, f"a gradient of zeros got the norm {norm(clipped):.3g}")


def half_precision_agrees_with_float32(build_rule: RuleFactory) -> None:
    """Where the square of an entry, or the sum of 1000, is no float16."""
    for scale in (1e-3, 1.0, 60.0):
        grads = [torch.full((1000,), scale), torch.zeros(3)]
        clipped, _ = clip(build_rule(), grads)
        expected = norm(clipped)
        hold(math.isfinite(expected), f"1000 entries of {scale:g} became {expected:.4g}")
        for dtype in (torch.float64, torch.bfloat16, torch.float16):
            clipped, _ = clip(build_rule(), [g.to(dtype) for g in grads])
            found = norm(clipped)
            hold(
                math.isclose(found, expected, rel_tol=0.02),
                f"1000 entries of {scale:g} became {expected:.4g} in float32, {found:.4g} in {dtype}",
            )


def an_infinite_level_is_no_clipping(build_rule: RuleFactory) -> None:
    if has_field(build_rule, "clipping_level"):
        grads = gradient(3, 1e4)
        clipped, _ = clip(build_rule(clipping_level=math.inf), grads)
        hold(
            same(clipped, grads),
            f"at clipping_level=inf a norm of {norm(grads):.4g} became {norm(clipped):.4g}",
        )


def the_same_again_gives_the_same(build_rule: RuleFactory) -> None:
    """From the same gradient, memory and rng; and the memory that came in is left as it was."""
    rule = build_rule()
    state = after_steps(rule, range(3))
    before = copy.deepcopy(state)
    one, first = clip(rule, gradient(7, 10.0), state, 7)
    other, second = clip(rule, gradient(7, 10.0), state, 7)
    hold(
        same(one, other),
        "the same gradient, memory and rng gave two results: draw from rng, keep nothing outside of the "
        "memory",
    )
    hold(as_lists(first) == as_lists(second), "the same gradient, memory and rng gave two memories")
    hold(as_lists(before) == as_lists(state), "the memory that came in was changed: give back new tensors")


def the_memory_keeps_its_size(build_rule: RuleFactory) -> None:
    """And all of it is in the optimizer's `state_dict`."""
    rule = build_rule()
    early = shapes(after_steps(rule, range(1)))
    late = shapes(after_steps(rule, range(60)))
    hold(late == early, f"after 1 step the memory had the shapes {early}, after 60 {late}")
    model = small_model()
    optimizer = ClippedAdam(model.parameters(), clipping_type=rule)
    make_steps(model, optimizer, range(2))
    saved = shapes(rule_memories(**optimizer.state_dict()))
    fresh = shapes(rule.init(list(model.parameters())))
    hold(saved == fresh, f"init gives a memory of the shapes {fresh}, after two steps they are {saved}")


def five_steps_save_load_five_steps_are_ten_steps(build_rule: RuleFactory) -> None:
    """Weights and memory, bit for bit, through a file that is read without running code.

    With every class and implementation of torch's.
    """
    rules = [build_rule()]
    if has_field(build_rule, "warmup_steps"):  # ten steps would lie within the warm-up
        rules.append(build_rule(warmup_steps=3))
    for rule in rules:
        for words, build in optimizers_for(rule).items():
            _resumes(words, build)


def _resumes(words: str, build: Build) -> None:
    """Ten steps at once, and five, a file, five."""
    straight = small_model()
    through = build(straight)
    expected = make_steps(straight, through, range(10))
    model = small_model()
    optimizer = build(model)
    make_steps(model, optimizer, range(5))
    file = io.BytesIO()
    torch.save(optimizer.state_dict(), file)
    file.seek(0)
    later = small_model(1)
    later.load_state_dict(model.state_dict())
    torch.manual_seed(99)  # a resumed process has another global seed; random rules must not care
    resumed = build(later)
    resumed.load_state_dict(torch.load(file, weights_only=True))
    found = make_steps(later, resumed, range(5, 10))
    hold(same(found, expected), f"{words}: other weights after saving and loading at step 5")
    hold(
        remembered(resumed) == remembered(through),
        f"{words}: another memory after saving and loading at step 5",
    )


def what_is_not_finite_is_skipped_and_forgotten(build_rule: RuleFactory) -> None:
    """A fused step with a NaN or an infinity leaves weights and memory as they were, also the first one."""
    for kind in classes_for(build_rule()):
        for bad in (math.nan, math.inf):
            _skips(build_rule(), kind, bad)


def _skips(rule: Rule, kind: Any, bad: float) -> None:
    """Six steps of an optimizer of class `kind`, the first and the fourth with an entry `bad`."""
    name = kind.__name__
    model = small_model()
    first, *_ = model.parameters()
    optimizer = kind(model.parameters(), clipping_type=rule, lr=0.1, fused=True)
    for step in range(6):
        set_gradients(model, step)
        if step not in (0, 3):
            optimizer.step()
            continue
        before, memory = weights(model), remembered(optimizer)
        assert first.grad is not None
        first.grad[0, 0] = bad
        optimizer.step()
        hold(same(weights(model), before), f"{name}: a gradient with {bad} at step {step} moved the weights")
        unchanged = step == 0 or remembered(optimizer) == memory
        hold(unchanged, f"{name}: a gradient with {bad} entered the memory")
    counted = int(clip_stats(optimizer).skipped)
    hold(counted == 2, f"{name}: two skipped steps were counted as another number")


def a_missing_gradient_shifts_nothing(build_rule: RuleFactory) -> None:
    """A parameter without a gradient stays as it is, and so does what the memory holds for it alone."""
    model = small_model()
    optimizer = ClippedAdam(model.parameters(), clipping_type=build_rule())
    frozen = list(model.parameters())[1]
    for step in range(4):
        set_gradients(model, step)
        if step in (0, 2):
            frozen.grad = None
        before, memory = frozen.detach().clone(), _of_second(optimizer)
        optimizer.step()
        if step in (0, 2):
            hold(torch.equal(frozen, before), "a parameter without a gradient moved")
            unchanged = step == 0 or _of_second(optimizer) == memory
            hold(unchanged, "the memory of a parameter without a gradient changed")


def no_step_waits_for_the_device(build_rule: RuleFactory) -> None:
    plain = optimizers_for(NoClip())
    for words, build in optimizers_for(build_rule()).items():
        extra = _waits(build) - _waits(plain[words])
        hold(
            extra == 0,
            f"{words}: {extra} more waits per step than without clipping: no .item(), no float(tensor), no "
            "`if tensor:`",
        )


def _waits(build: Build) -> int:
    """How often the second step waits."""
    model = small_model()
    optimizer = build(model)
    make_steps(model, optimizer, range(1))
    set_gradients(model, 1, 10.0)
    with Waits() as waits:
        optimizer.step()
    return waits.count


def after_steps(rule: Rule, seeds: range) -> State:
    """The memory after clipping the gradients of these seeds."""
    state = None
    for seed in seeds:
        _, state = clip(rule, gradient(seed), state, seed)
    assert state is not None
    return state


def remembered(optimizer: Any) -> list[list]:
    """What the rule of all parameters remembers, as numbers."""
    return as_lists(rule_memories(optimizer.param_groups, optimizer.state))


def as_lists(state: State) -> list[list]:
    """A memory as numbers, to be compared."""
    numbers = []
    for entry in state.values():
        items = [entry] if isinstance(entry, Tensor) else entry
        numbers += [item.tolist() for item in items]
    return numbers


def _of_second(optimizer: Any) -> list:
    """What is remembered for the second parameter alone, as numbers."""
    second = {"params": optimizer.param_groups[0]["params"][1:2]}
    return as_lists(rule_memories([second], optimizer.state))
