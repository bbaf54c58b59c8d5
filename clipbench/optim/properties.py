"""What some rules have, each as a function that looks for a counterexample."""

from __future__ import annotations

import torch

from clipbench.optim.contract import after_steps
from clipbench.optim.probes import RuleFactory, clip, gradient, has_field, hold, norm


def no_entry_grows_or_turns(build_rule: RuleFactory) -> None:
    for scale in (1e-3, 1.0, 1e3):
        state = None
        for seed in range(20):
            grads = gradient(seed, scale)
            clipped, state = clip(build_rule(), grads, state, seed)
            for before, after in zip(grads, clipped, strict=True):
                no_longer = (after * before >= 0) & (after.abs() <= before.abs() * (1 + 1e-6))
                hold(
                    bool(no_longer.all()),
                    f"an entry of a gradient of norm {norm(grads):.3g} grew or changed its sign",
                )


def norm_after_is_at_most_the_level(build_rule: RuleFactory) -> None:
    _needs_level(build_rule)
    for level in (0.1, 1.0, 30.0):
        for seed in range(20):
            grads = gradient(seed, 10.0)
            clipped, _ = clip(build_rule(clipping_level=level), grads, seed=seed)
            hold(
                norm(clipped) <= level * (1 + 1e-6),
                f"level {level:g}: ‖g‖ = {norm(grads):.4g} became {norm(clipped):.4g}",
            )


def clipping_the_clipped_changes_nothing(build_rule: RuleFactory) -> None:
    """From the same memory, that of 120 steps, and whatever is drawn."""
    rule = build_rule()
    state = after_steps(rule, range(120))
    for seed in range(10):
        once, _ = clip(rule, gradient(seed, 10.0), state, seed)
        twice, _ = clip(rule, once, state, seed + 100)
        hold(
            all(map(torch.allclose, once, twice)),
            f"‖clip(g)‖ = {norm(once):.4g}, ‖clip(clip(g))‖ = {norm(twice):.4g}",
        )


def gradient_and_level_scale_together(build_rule: RuleFactory) -> None:
    _needs_level(build_rule)
    for c in (0.01, 7.0):
        for seed in range(5):
            small, _ = clip(build_rule(clipping_level=0.5), gradient(seed), seed=seed)
            large, _ = clip(build_rule(clipping_level=0.5 * c), gradient(seed, c), seed=seed)
            for a, b in zip(small, large, strict=True):
                hold(
                    torch.allclose(b, c * a, rtol=1e-5, atol=1e-7),
                    f"c = {c:g}: c·‖clip(g, η)‖ = {c * norm(small):.4g}, "
                    f"‖clip(c·g, c·η)‖ = {norm(large):.4g}",
                )


def the_direction_stays(build_rule: RuleFactory) -> None:
    state = None
    for seed in range(30):
        grads = gradient(seed, 10.0 ** (seed % 3 - 1))
        clipped, state = clip(build_rule(), grads, state, seed)
        before = torch.cat([g.flatten() for g in grads])
        after = torch.cat([g.flatten() for g in clipped])
        cosine = float(torch.cosine_similarity(before, after, dim=0))
        hold(
            cosine > 1 - 1e-6,
            f"cosine {cosine:.4f} between a gradient of norm {norm(grads):.3g} and what became of it",
        )


def _needs_level(build_rule: RuleFactory) -> None:
    hold(has_field(build_rule, "clipping_level"), "it has no clipping_level")
