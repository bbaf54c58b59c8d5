"""The weights of a finished run, kept in the results folder (`keep=model`) and taken up by its children."""

from __future__ import annotations

import warnings
from pathlib import Path

from torch import Tensor, nn

from clipbench.errors import Unreadable, UserError
from clipbench.record.files import atomic_write, reason, set_aside
from clipbench.task.tensor_file import read_tensors, write_tensors
from clipbench.train.learner import Learner


def keep_weights(learner: Learner, path: Path) -> None:
    """Write the model at the weights that are evaluated, with its buffers, whole or not at all. UserError
    where the folder cannot be written. The model is `check_keepable`.
    """
    from safetensors import SafetensorError

    with learner.evaluation_weights():
        state = _state(learner.model)
    try:
        with atomic_write(path) as partial:
            write_tensors(state, partial)
    except SafetensorError as error:
        raise UserError(
            f"Cannot write {path}: {reason(error)}. Make room, and give the same command."
        ) from error


def load_weights(model: nn.Module, path: Path) -> None:
    """Put kept weights into `model`. KeptWeightsLost where they are not there, or not for this model; a file
    that is damaged is set aside, with a warning (Unreadable).
    """
    state = read_tensors(path)
    if state is None:
        if path.exists():
            place = set_aside(path.parents[1], path)
            warnings.warn(f"{path} is damaged and lies in {place} now.", Unreadable, stacklevel=2)
        raise KeptWeightsLost(f"there are no weights in {path} (any more)")
    try:
        model.load_state_dict(state)
    except RuntimeError as error:
        raise KeptWeightsLost(f"{path} holds the weights of another model: {reason(error)}") from error


class KeptWeightsLost(Exception):
    """Why a run's weights cannot be used."""


def check_keepable(model: nn.Module) -> None:
    """UserError for a model whose state is more than tensors."""
    for name, value in model.state_dict().items():
        if not isinstance(value, Tensor):
            raise UserError(
                f"keep=model: the model's state holds {name}, a {type(value).__name__}; only tensors can be "
                "kept."
            )


def _state(model: nn.Module) -> dict[str, Tensor]:
    """By name, on the CPU; what two names share, once for each."""
    return {name: value.detach().cpu().contiguous().clone() for name, value in model.state_dict().items()}
