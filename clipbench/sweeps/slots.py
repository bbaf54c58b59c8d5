"""The places where worker processes run: one for each GPU, or for each few cores of the CPU."""

from __future__ import annotations

import os
from dataclasses import dataclass

import torch

from clipbench.runs.build import find_device


@dataclass(frozen=True)
class Slot:
    """Where one worker runs: its device, and the CPU cores it may use (all where None)."""

    name: str
    device: str
    cores: tuple[int, ...] | None


def slots(device: str, threads: int, per_device: int | None) -> list[Slot]:
    """One for each GPU, or for each `threads` cores of the CPU; or `per_device` of them. The cores are shared
    out among all.
    """
    kind = find_device(device)
    cores = _usable_cores()
    devices = [str(kind)]
    if kind.type == "cuda" and kind.index is None:
        devices = [f"cuda:{index}" for index in range(torch.cuda.device_count())]
    count = per_device or 1
    if per_device is None and kind.type == "cpu":
        count = max(1, len(cores) // threads)
    total = len(devices) * count
    cores_are_shared = total > 1 and hasattr(os, "sched_setaffinity") and len(cores) >= total
    found: list[Slot] = []
    for each in devices:
        for number in range(1, count + 1):
            name = f"{each} #{number}" if count > 1 else each
            own_cores = tuple(cores[len(found) :: total]) if cores_are_shared else None
            found.append(Slot(name, each, own_cores))
    return found


def _usable_cores() -> list[int]:
    if hasattr(os, "sched_getaffinity"):
        return sorted(os.sched_getaffinity(0))
    return list(range(os.cpu_count() or 1))
