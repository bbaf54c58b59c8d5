"""Every use of randomness has a generator of its own, derived from the run's seed by name: that is what pairs
the methods.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from clipbench.task import Task


def generator(seed: int, name: str) -> torch.Generator:
    """The generator of one use of randomness ("init", "data", "dropout", "clip"): uses at one seed are
    independent of each other.
    """
    digest = hashlib.sha256(f"{seed}/{name}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:6], "big"))


def device_generator(seed: int, name: str, device: torch.device) -> torch.Generator:
    """`generator`, but on the device, for what is drawn there."""
    return torch.Generator(device).manual_seed(generator(seed, name).initial_seed())


class RandomState:
    """torch's global generators, as one run sees them: entered for a step, they resume where the last step
    left them.
    """

    def __init__(self, seed: int, device: torch.device) -> None:
        self.accelerator = {"cuda": torch.cuda, "mps": torch.mps}.get(device.type)
        with self._outer():
            torch.manual_seed(seed)
            self.state = self._now()

    def _now(self) -> list[Tensor]:
        state = [torch.get_rng_state()]
        if self.accelerator:
            state.append(self.accelerator.get_rng_state())
        return state

    def _set(self, state: list[Tensor]) -> None:
        torch.set_rng_state(state[0])
        if self.accelerator:
            self.accelerator.set_rng_state(state[1])

    @contextmanager
    def _outer(self) -> Iterator[None]:
        before = self._now()
        try:
            yield
        finally:
            self._set(before)

    @contextmanager
    def __call__(self) -> Iterator[None]:
        with self._outer():
            self._set(self.state)
            yield
            self.state = self._now()


def fresh_model(task: Task, seed: int) -> nn.Module:
    """`task.model` with its own generator and, so that layers may be built as usual, torch's global one
    seeded from it.
    """
    rng = generator(seed, "init")
    with RandomState(rng.initial_seed(), torch.device("cpu"))():
        return task.model(rng)
