"""What clipping did to the latest gradient, and over the last steps; and the level that all groups share."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from clipbench.optim.checks import check_level
from clipbench.optim.clip import Clipping, Measured, clipping_of
from clipbench.optim.inside import innermost, path_to_innermost
from clipbench.optim.units import LEVEL

CLIPPED_BELOW = 1 - 1e-6
"""A step with a smaller factor was clipped; nearer 1 is rounding."""


class ClipStats:
    """What clipping did, as tensors on the gradients' device: to read their numbers is to wait. Each ().

    NaN before the first step. What takes more than a look is computed when it is asked for.
    """

    def __init__(
        self, latest: Sequence[Measured], level: Callable[[], Tensor | float | None], skipped: Tensor
    ) -> None:
        """`latest`: of the last steps, up to 100, the newest at the end; `level` computes that in force."""
        self._latest, self._level = latest, level
        self.skipped = skipped
        """Number of steps so far whose gradient was not finite."""

    @property
    def grad_norm(self) -> Tensor:
        """‖g‖ at the latest step, over everything that the optimizer trains."""
        return self._latest[-1].norm if self._latest else torch.tensor(math.nan)

    @property
    def clipped_norm(self) -> Tensor:
        """‖clip(g)‖, 0 where the step was skipped."""
        return self._latest[-1].clipped_norm if self._latest else torch.tensor(math.nan)

    @property
    def clip_factor(self) -> Tensor:
        """clipped_norm/grad_norm, 1 for a gradient of zeros, 0 where the step was skipped."""
        norm, clipped = self.grad_norm, self.clipped_norm
        factor = torch.where(norm == 0, 1.0, clipped / norm)
        return torch.where(self._latest[-1].skipped, 0.0, factor) if self._latest else factor

    @property
    def clipping_level(self) -> Tensor:
        """In force: of `auto` the quantile, inf without clipping, NaN for a type without one level."""
        level = self._level()
        if isinstance(level, Tensor):
            return level
        like = self.grad_norm
        if level is not None and level > torch.finfo(like.dtype).max:
            level = math.inf
        return torch.full_like(like, math.nan if level is None else level)

    @property
    def share_clipped(self) -> Tensor:
        """Of the last 100 steps that were not skipped, how many had a factor below 1."""
        if not self._latest:
            return torch.tensor(math.nan)
        norms = torch.stack([one.norm for one in self._latest])
        after = torch.stack([one.clipped_norm for one in self._latest])
        made = ~torch.stack([one.skipped for one in self._latest])
        cut = (after < CLIPPED_BELOW * norms) & made
        return cut.sum() / made.sum()

    def _asdict(self) -> dict[str, Tensor]:
        """{name: value} of all of them, for a logger, as a named tuple has it."""
        return {name: getattr(self, name) for name in FIELDS}

    def __iter__(self) -> Iterator[Tensor]:
        return iter(self._asdict().values())

    def __repr__(self) -> str:
        values = ", ".join(f"{name}={value.item():.4g}" for name, value in self._asdict().items())
        return f"ClipStats({values})"


FIELDS = ("grad_norm", "clipped_norm", "clip_factor", "clipping_level", "share_clipped", "skipped")


def clip_stats(optimizer: Optimizer) -> ClipStats:
    """Of the latest step, at any time until the next, and cheap: it may stand in every logger.

    `optimizer` may be a wrapper of one that clips. RuntimeError for one that does not.
    """
    inner, clipping = _clipping(optimizer)
    return ClipStats(tuple(clipping.latest), clipping.level(inner), clipping.memory.skipped)


def set_clipping_level(optimizer: Optimizer, level: float) -> None:
    """From now on clip at `level`, 0 < level ≤ inf: all groups but those with a level of their own.

    Cheap enough for every step. `optimizer` may be a wrapper of one that clips, and keeps the level in its
    checkpoints. ValueError for a type that has no level, RuntimeError for an optimizer that does not clip.
    """
    inner, clipping = _clipping(optimizer)
    clipping.set_level(inner, check_level("clipping_level", level))
    for outer in path_to_innermost(optimizer)[:-1]:  # some put their own groups over those inside
        for theirs, ours in zip(getattr(outer, "param_groups", []), inner.param_groups, strict=False):
            theirs[LEVEL] = ours[LEVEL]


def _clipping(optimizer: Any) -> tuple[Optimizer, Clipping]:
    inner = innermost(optimizer)
    clipping = clipping_of(inner)
    if clipping is None:
        raise RuntimeError(
            f"{type(inner).__name__} does not clip: build a clipped one, or join it by clip_gradients."
        )
    return inner, clipping
