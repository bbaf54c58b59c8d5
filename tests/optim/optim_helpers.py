"""What several tests of the optimizers need."""

import io

import torch
from conftest import set_gradients, weights
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from clipbench.optim import SPAM, TIED, ClippedAdam, ClippedAdamW, ClippedSGD, Norm, StableSPAM

CLASSES = {
    "sgd": (ClippedSGD, {"lr": 0.1, "momentum": 0.9}),
    "adam": (ClippedAdam, {"lr": 0.01}),
    "adamw": (ClippedAdamW, {"lr": 0.01}),
    "spam": (SPAM, {"lr": 0.01}),
    "stable_spam": (StableSPAM, {"lr": 0.01}),
}
IMPLEMENTATIONS = {
    "fused": {"fused": True},
    "foreach": {"foreach": True, "fused": False},
    "loop": {"foreach": False, "fused": False},
}


def pairs_of(rules):
    """(rule's name, optimizer's kind).

    Every kind for each of `rules`, and Adam's for those that are tied to it.
    """
    found = [(name, kind) for kind in CLASSES for name in rules]
    for kind in ("adam", "adamw"):
        found += [(name, kind) for name in TIED]
    return found


def steps(model, optimizer, numbers, scale=1.0):
    """The weights after steps with the gradients of these numbers."""
    for number in numbers:
        set_gradients(model, number, scale)
        optimizer.step()
    return weights(model)


def moves(values, dtype=torch.float64, **keywords):
    """The steps that one weight makes under the given gradients, at lr 1, each as it was minus as it is."""
    p = nn.Parameter(torch.zeros(1, dtype=dtype))
    optimizer = ClippedSGD([p], lr=1.0, **keywords)
    found = []
    for value in values:
        before = p.item()
        p.grad = torch.tensor([float(value)], dtype=dtype)
        optimizer.step()
        found.append(before - p.item())
    return found


def same(ones, others):
    """To the bit."""
    return all(torch.equal(one, other) for one, other in zip(ones, others, strict=True))


def saved(state_dict):
    """Through a file, read back without arbitrary code."""
    buffer = io.BytesIO()
    torch.save(state_dict, buffer)
    buffer.seek(0)
    return torch.load(buffer, weights_only=True)


class Operators(TorchDispatchMode):
    """Counts what is launched, by name."""

    def __init__(self):
        super().__init__()
        self.names = []

    @property
    def count(self):
        return len(self.names)

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.names.append(func.name())
        return func(*args, **(kwargs or {}))


def groups_of(model, count):
    """The parameters of `model`, in one group or two."""
    params = list(model.parameters())
    return [{"params": params}] if count == 1 else [{"params": params[:2]}, {"params": params[2:]}]


MANY = [
    {"clipping_type": "norm", "clipping_level": 0.1, "nonfinite": "raise"},
    {"clipping_type": "auto", "p_autoclip": 0.1, "window": 5},
    {"clipping_type": "zclip", "z_threshold": 1.0, "warmup_steps": 2, "max_norm": None},
    {"clipping_type": "adagc", "lambda_abs": 0.2, "warmup_steps": 3},
    {"clipping_type": "uclip", "clipping_level": 0.2},
    {"clipping_type": "linear_rand_norm", "clipping_level": 0.2, "beta": 0.5},
    {"clipping_type": Norm(0.2)},
]
"""Settings of ClippedSGD, of all sorts."""
