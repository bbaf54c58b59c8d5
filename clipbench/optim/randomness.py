"""The generator that random rules draw from: on the gradients' device, and as it was before a copy."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

APART = 0x436F696E
"""Sets the generator's seed apart from the global one, whose numbers drew the weights."""


def on_device(
    rng: torch.Generator | None, device: torch.device, saved_state: Tensor | None
) -> torch.Generator:
    """`rng`, or where there is none yet a new one for `device`, at `saved_state` if that was loaded.

    A new one is seeded from torch's global seed, which it leaves alone. RuntimeError if `rng` lives
    elsewhere.
    """
    if device.type == "meta":  # where nothing is drawn
        device = torch.device("cpu")
    if rng is None:
        rng = torch.Generator(device)
        rng.manual_seed((torch.initial_seed() ^ APART) & 0xFFFF_FFFF_FFFF)
        if saved_state is not None:
            rng.set_state(saved_state)
    if rng.device.type != device.type:
        raise RuntimeError(
            f"rng lives on {rng.device}, the gradients on {device}: use torch.Generator('{device}')."
        )
    return rng


def without_generator(rng: torch.Generator | None) -> Any:
    """What can be pickled of `rng`: its device and state."""
    return None if rng is None else (rng.device, rng.get_state())


def generator_again(saved: Any) -> torch.Generator | None:
    """The inverse of `without_generator`."""
    if saved is None:
        return None
    device, state = saved
    rng = torch.Generator(device)
    rng.set_state(state)
    return rng
