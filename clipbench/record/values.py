"""What somebody's own loop gives: numbers, on a device or not, and names of splits."""

from __future__ import annotations

import math
from numbers import Real

import torch
from torch import Tensor

from clipbench.errors import UserError

Number = float | Tensor

VALIDATION = ("val", "validation", "valid", "eval", "dev", "development")
"""What the split `val` is called elsewhere."""


def number(name: str, value: Number) -> Number:
    """A float, or a tensor () in float32 that is still on its device. UserError for what is no one number."""
    if isinstance(value, Tensor):
        if value.numel() != 1 or value.is_complex():
            raise UserError(f"{name} must be one number, got a tensor of shape {tuple(value.shape)}.")
        if hasattr(value, "full_tensor"):
            raise UserError(f"{name} is divided among processes: give {name}.full_tensor().")
        found = value.detach() if value.requires_grad else value
        return found.float().reshape(()) if found.ndim else found.float()
    if isinstance(value, bool) or not isinstance(value, Real):
        raise UserError(f"{name} must be a number, got {value!r}.")
    return float(value)


def stacked(**values: Number) -> Tensor:
    """Of each name its number, in one tensor on the device of those that are not on the host. (n,)"""
    numbers = [number(name, value) for name, value in values.items()]
    device = torch.device("cpu")
    for each in numbers:
        if isinstance(each, Tensor) and each.device.type != "cpu":
            device = each.device
    parts = []
    for each in numbers:
        if isinstance(each, Tensor):
            parts.append(each.to(device, non_blocking=True))
        else:
            parts.append(torch.full((), each, device=device))
    return torch.stack(parts)


def norm_within(norm: Number, level: float) -> Number:
    """min(norm, level): what clipping by norm leaves."""
    found = number("grad_norm", norm)
    return found.clamp(max=level) if isinstance(found, Tensor) else min(found, level)


def check_split(split: str) -> None:
    """UserError for what is no name, or another name of `val`."""
    if not isinstance(split, str) or not split.strip():
        raise UserError(f"split must be a name such as 'val' or 'test', got {split!r}.")
    if split != "val" and split.lower() in VALIDATION:
        raise UserError(f"The validation split is called 'val' here, got {split!r}.")


def check_positive(name: str, value: float | None) -> None:
    """UserError for what is given and no number above 0."""
    if value is None:
        return
    found = number(name, value)
    if not (found > 0 and math.isfinite(found)):
        raise UserError(f"{name} must be above 0 and finite, got {value!r}.")
