"""What every rule owes, and what some rules have: one list for our tests and for `clipbench check my_clip:Smooth`.

A law takes `make`, which builds the rule with some settings changed, and raises AssertionError where it finds a counterexample.
"""

from __future__ import annotations

import copy
import io
import math
from collections.abc import Callable, Sequence
from dataclasses import fields
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from clipbench.optim.memory import STATE_KEY as MEMORY, shapes
from clipbench.optim.optimizers import ClippedAdam, ClippedAdamW, ClippedSGD
from clipbench.optim.gradients import Gradients
from clipbench.optim.rule import Rule, State
from clipbench.optim.rules import NoClip
from clipbench.optim.stats import clip_stats

Make = Callable[..., Rule]
Law = Callable[[Make], None]

SHAPES: tuple[tuple[int, ...], ...] = ((4, 3), (4,), (2, 3, 2), ())
OPTIMIZERS: dict[Any, dict[str, Any]] = {
    ClippedSGD: {"lr": 0.1, "momentum": 0.9},
    ClippedAdam: {"lr": 0.01},
    ClippedAdamW: {"lr": 0.01},
}
IMPLEMENTATIONS: dict[str, dict[str, bool]] = {
    "fused": {"fused": True},
    "foreach": {"foreach": True, "fused": False},
    "loop": {"foreach": False, "fused": False},
}


def gradient(seed: int, scale: float = 1.0) -> list[Tensor]:
    rng = torch.Generator().manual_seed(seed)
    return [scale * torch.randn(shape, generator=rng) for shape in SHAPES]


def clip(
    rule: Rule, grads: Sequence[Tensor], state: State | None = None, seed: int = 0
) -> tuple[list[Tensor], State]:
    """clip(g) and the new memory, by the definition of a factor. The weights are always the same."""
    rng = torch.Generator().manual_seed(99)
    part, params = (
        Gradients(g.clone() for g in grads),
        [torch.randn(g.shape, generator=rng).to(g.dtype) for g in grads],
    )
    state = rule.init(params) if state is None else state
    factor, state = rule(part, params, state, torch.Generator().manual_seed(seed))
    if factor is None:
        return list(part), state
    factors = [factor] * len(part) if isinstance(factor, Tensor) and factor.ndim == 0 else list(factor)
    return [f * g for f, g in zip(factors, part, strict=True)], state


def norm(grads: Sequence[Tensor]) -> float:
    return math.sqrt(sum(float((g.double() ** 2).sum()) for g in grads))


def small_model(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 3))


def set_gradients(
    model: nn.Module, step: int, scale: float = 1.0, dtype: torch.dtype = torch.float32
) -> None:
    """Gradients that depend on `step` alone, of norms from far below 1 to far above."""
    rng = torch.Generator().manual_seed(step)
    size = scale * 10 ** (torch.rand((), generator=rng).item() * 2 - 1)
    for p in model.parameters():
        p.grad = (size * torch.randn(p.shape, generator=rng) / 3).to(dtype)


def weights(model: nn.Module) -> list[Tensor]:
    return [p.detach().clone() for p in model.parameters()]


def _kinds(rule: Rule) -> dict[Any, dict[str, Any]]:
    return {
        kind: keywords
        for kind, keywords in OPTIMIZERS.items()
        if rule.tied_to is None or issubclass(kind, rule.tied_to)
    }


def _optimizers(rule: Rule) -> dict[str, Callable[[nn.Module], Any]]:
    """{words: model → a fresh optimizer that clips by `rule`}, for each class and implementation of torch's."""

    def build(kind: Any, keywords: dict[str, Any], model: nn.Module) -> Any:
        return kind(model.parameters(), clipping_type=rule, **keywords)

    return {
        f"{kind.__name__}, {name}": partial(build, kind, keywords | implementation)
        for kind, keywords in _kinds(rule).items()
        for name, implementation in IMPLEMENTATIONS.items()
    }


def _steps(model: nn.Module, optimizer: Any, numbers: Sequence[int]) -> list[Tensor]:
    for number in numbers:
        set_gradients(model, number)
        optimizer.step()
    return weights(model)


def _hold(promise: bool, counterexample: str) -> None:
    if not promise:
        raise AssertionError(counterexample)


def _same(ones: Sequence[Tensor], others: Sequence[Tensor]) -> bool:
    return len(ones) == len(others) and all(map(torch.equal, ones, others))


def _has(make: Make, field: str) -> bool:
    return field in {each.name for each in fields(make())}


# what every rule owes


def zero_stays_zero(make: Make) -> None:
    clipped, _ = clip(make(), [torch.zeros(shape) for shape in SHAPES])
    _hold(norm(clipped) == 0, f"a gradient of zeros got the norm {norm(clipped):.3g}")


def half_precision_agrees_with_float32(make: Make) -> None:
    """Where the square of an entry, or the sum of 1000, is no float16."""
    for scale in (1e-3, 1.0, 60.0):
        grads = [torch.full((1000,), scale), torch.zeros(3)]
        expected, _ = clip(make(), grads)
        _hold(math.isfinite(norm(expected)), f"1000 entries of {scale:g} became {norm(expected):.4g}")
        for dtype in (torch.float64, torch.bfloat16, torch.float16):
            clipped, _ = clip(make(), [g.to(dtype) for g in grads])
            close = math.isclose(norm(clipped), norm(expected), rel_tol=0.02)
            _hold(
                close,
                f"1000 entries of {scale:g} became {norm(expected):.4g} in float32, {norm(clipped):.4g} in {dtype}",
            )


def an_infinite_level_is_no_clipping(make: Make) -> None:
    if _has(make, "clipping_level"):
        grads = gradient(3, 1e4)
        clipped, _ = clip(make(clipping_level=math.inf), grads)
        _hold(
            _same(clipped, grads),
            f"at clipping_level=inf a norm of {norm(grads):.4g} became {norm(clipped):.4g}",
        )


def the_same_again_gives_the_same(make: Make) -> None:
    """From the same gradient, memory and coins; and the memory that came in is left as it was."""
    rule, state = make(), None
    for seed in range(3):
        _, state = clip(rule, gradient(seed), state, seed)
    before = copy.deepcopy(state)
    (one, first), (other, second) = (clip(rule, gradient(7, 10.0), state, 7) for _ in range(2))
    _hold(
        _same(one, other),
        "the same gradient, memory and coins gave two results: draw from rng, keep nothing outside of the memory",
    )
    _hold(_flat(first) == _flat(second), "the same gradient, memory and coins gave two memories")
    _hold(_flat(before) == _flat(state), "the memory that came in was changed: give back new tensors")


def _flat(state: State | None) -> list[list]:
    entries = [[entry] if isinstance(entry, Tensor) else list(entry) for entry in (state or {}).values()]
    return [item.tolist() for entry in entries for item in entry]


def the_memory_keeps_its_size(make: Make) -> None:
    """And all of it is in the optimizer's `state_dict`."""
    rule = make()
    _, state = clip(rule, gradient(0))
    early = shapes(state)
    for seed in range(1, 60):
        _, state = clip(rule, gradient(seed), state, seed)
    _hold(shapes(state) == early, f"after 1 step the memory had the shapes {early}, after 60 {shapes(state)}")
    model = small_model()
    optimizer = ClippedAdam(model.parameters(), clipping_type=rule)
    _steps(model, optimizer, range(2))
    saved, fresh = (
        shapes(optimizer.state_dict()["state"][MEMORY]["rules"]["all"]),
        shapes(rule.init(list(model.parameters()))),
    )
    _hold(saved == fresh, f"init gives a memory of the shapes {fresh}, after two steps they are {saved}")


def five_steps_save_load_five_steps_are_ten_steps(make: Make) -> None:
    """Weights and memory, bit for bit, through a file that is read without running code, with every class and implementation."""
    short = (
        [make(warmup_steps=3)] if _has(make, "warmup_steps") else []
    )  # ten steps would lie within the warm-up
    for words, build in [each for rule in (make(), *short) for each in _optimizers(rule).items()]:
        straight = small_model()
        expected = _steps(straight, through := build(straight), range(10))
        model = small_model()
        optimizer = build(model)
        _steps(model, optimizer, range(5))
        file = io.BytesIO()
        torch.save(optimizer.state_dict(), file)
        file.seek(0)
        later = small_model(1)
        later.load_state_dict(model.state_dict())
        torch.manual_seed(99)  # a resumed process has another global seed; the coins must not care
        resumed = build(later)
        resumed.load_state_dict(torch.load(file, weights_only=True))
        _hold(
            _same(_steps(later, resumed, range(5, 10)), expected),
            f"{words}: other weights after saving and loading at step 5",
        )
        _hold(
            _remembered(resumed) == _remembered(through),
            f"{words}: another memory after saving and loading at step 5",
        )


def what_is_not_finite_is_skipped_and_forgotten(make: Make) -> None:
    """A fused step with a NaN or an infinity leaves weights and memory as they were; so does one before the first."""
    for kind in _kinds(make()):
        for bad in (math.nan, math.inf):
            model = small_model()
            optimizer = kind(model.parameters(), clipping_type=make(), lr=0.1, fused=True)
            for step in range(6):
                set_gradients(model, step)
                if step not in (0, 3):
                    optimizer.step()
                    continue
                before, memory = weights(model), _remembered(optimizer)
                next(model.parameters()).grad[0, 0] = bad  # type: ignore[index]
                optimizer.step()
                _hold(
                    _same(weights(model), before),
                    f"{kind.__name__}: a gradient with {bad} at step {step} moved the weights",
                )
                _hold(
                    step == 0 or _remembered(optimizer) == memory,
                    f"{kind.__name__}: a gradient with {bad} entered the memory",
                )
            _hold(
                int(clip_stats(optimizer).skipped) == 2,
                f"{kind.__name__}: two skipped steps were counted as another number",
            )


def _remembered(optimizer: Any) -> list[list]:
    return _flat(optimizer.state[MEMORY]["rules"]["all"]) if MEMORY in optimizer.state else []


def a_missing_gradient_shifts_nothing(make: Make) -> None:
    """A parameter without a gradient stays as it is, and so does what the memory holds for it alone."""
    model = small_model()
    optimizer = ClippedAdam(model.parameters(), clipping_type=make())
    frozen = list(model.parameters())[1]
    for step in range(4):
        set_gradients(model, step)
        if step in (0, 2):
            frozen.grad = None
        before, memory = frozen.detach().clone(), _of_second(optimizer)
        optimizer.step()
        if step in (0, 2):
            _hold(torch.equal(frozen, before), "a parameter without a gradient moved")
            _hold(
                step == 0 or _of_second(optimizer) == memory,
                "the memory of a parameter without a gradient changed",
            )


def _of_second(optimizer: Any) -> list:
    state = optimizer.state[MEMORY]["rules"]["all"] if MEMORY in optimizer.state else {}
    return [entry[1].tolist() for entry in state.values() if not isinstance(entry, Tensor)]


WAITS = {
    "aten::_local_scalar_dense",
    "aten::item",
    "aten::is_nonzero",
    "aten::equal",
    "aten::nonzero",
    "aten::masked_select",
}


class Waits(TorchDispatchMode):
    """Counts the calls that wait for a device, also where there is none to wait for."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += func.name().split(".")[0] in WAITS
        return func(*args, **(kwargs or {}))


def no_step_waits_for_the_device(make: Make) -> None:
    def waits(build: Callable[[nn.Module], Any]) -> int:
        model = small_model()
        optimizer = build(model)
        _steps(model, optimizer, range(1))
        set_gradients(model, 1, 10.0)
        with Waits() as waits:
            optimizer.step()
        return waits.count

    plain = _optimizers(NoClip())
    for words, build in _optimizers(make()).items():
        extra = waits(build) - waits(plain[words])
        _hold(
            extra == 0,
            f"{words}: {extra} more waits per step than without clipping: no .item(), no float(tensor), no `if tensor:`",
        )


# what some rules have


def no_entry_grows_or_turns(make: Make) -> None:
    for scale in (1e-3, 1.0, 1e3):
        state = None
        for seed in range(20):
            grads = gradient(seed, scale)
            clipped, state = clip(make(), grads, state, seed)
            for before, after in zip(grads, clipped, strict=True):
                kept = (after * before >= 0) & (after.abs() <= before.abs() * (1 + 1e-6))
                _hold(
                    bool(kept.all()),
                    f"an entry of a gradient of norm {norm(grads):.3g} grew or changed its sign",
                )


def norm_after_is_at_most_the_level(make: Make) -> None:
    _needs_level(make)
    for level in (0.1, 1.0, 30.0):
        for seed in range(20):
            clipped, _ = clip(make(clipping_level=level), grads := gradient(seed, 10.0), seed=seed)
            _hold(
                norm(clipped) <= level * (1 + 1e-6),
                f"level {level:g}: ‖g‖ = {norm(grads):.4g} became {norm(clipped):.4g}",
            )


def clipping_the_clipped_changes_nothing(make: Make) -> None:
    """From the same memory, that of 120 steps, and whatever the coins."""
    rule, state = make(), None
    for seed in range(120):
        _, state = clip(rule, gradient(seed), state, seed)
    for seed in range(10):
        once, _ = clip(rule, gradient(seed, 10.0), state, seed)
        twice, _ = clip(rule, once, state, seed + 100)
        _hold(
            all(map(torch.allclose, once, twice)),
            f"‖clip(g)‖ = {norm(once):.4g}, ‖clip(clip(g))‖ = {norm(twice):.4g}",
        )


def gradient_and_level_scale_together(make: Make) -> None:
    _needs_level(make)
    for c in (0.01, 7.0):
        for seed in range(5):
            small, _ = clip(make(clipping_level=0.5), gradient(seed), seed=seed)
            large, _ = clip(make(clipping_level=0.5 * c), gradient(seed, c), seed=seed)
            close = all(
                torch.allclose(b, c * a, rtol=1e-5, atol=1e-7) for a, b in zip(small, large, strict=True)
            )
            _hold(
                close,
                f"c = {c:g}: c·‖clip(g, η)‖ = {c * norm(small):.4g}, ‖clip(c·g, c·η)‖ = {norm(large):.4g}",
            )


def the_direction_stays(make: Make) -> None:
    state = None
    for seed in range(30):
        grads = gradient(seed, 10.0 ** (seed % 3 - 1))
        clipped, state = clip(make(), grads, state, seed)
        flat, after = (torch.cat([g.flatten() for g in part]) for part in (grads, clipped))
        cosine = float(torch.cosine_similarity(flat, after, dim=0))
        _hold(
            cosine > 1 - 1e-6,
            f"cosine {cosine:.4f} between a gradient of norm {norm(grads):.3g} and what became of it",
        )


def _needs_level(make: Make) -> None:
    _hold(_has(make, "clipping_level"), "it has no clipping_level")


OWED: dict[str, Law] = {
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

SHRINKS, BOUNDED, IDEMPOTENT, HOMOGENEOUS, STRAIGHT = (
    "no entry grows or changes its sign",
    "‖clip(g)‖ ≤ η",
    "clip∘clip = clip",
    "clip(c·g, c·η) = c·clip(g, η)",
    "direction stays",
)
PROPERTIES: dict[str, Law] = {
    SHRINKS: no_entry_grows_or_turns,
    BOUNDED: norm_after_is_at_most_the_level,
    IDEMPOTENT: clipping_the_clipped_changes_nothing,
    HOMOGENEOUS: gradient_and_level_scale_together,
    STRAIGHT: the_direction_stays,
}
