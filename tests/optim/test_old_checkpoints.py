"""Checkpoints of version 0.1 load and go on as that version did.

`checkpoints_0_1.pt.gz` holds of each optimizer below, after six steps: its state_dict and the model's, as
version 0.1 saved them, and the weights that version 0.1 had after six steps more. The gradients are
3·set_gradients(step).
"""

import gzip
import io
from pathlib import Path

import pytest
import torch
from conftest import set_gradients, small_model, weights

from clipbench.optim import SPAM, ClippedAdam, ClippedAdamW, ClippedSGD, ClippedSSTM, StableSPAM
from clipbench.optim.memory import Memory

SGD = {"lr": 0.1, "momentum": 0.9}
RESETS = {"lr": 0.01, "reset_every": 4}
SPIKES = {"pause": 1, "warmup": 2, "threshold": 4.0}
OPTIMIZERS = {
    "sgd": (ClippedSGD, {**SGD, "clipping_type": "linear_rand_auto", "window": 20}),
    "adamw": (ClippedAdamW, {"lr": 0.01, "clipping_type": "adagc", "warmup_steps": 3}),
    "adam": (ClippedAdam, {"lr": 0.01, "clipping_type": "block_rms"}),
    "two units": (ClippedSGD, {**SGD, "clipping_type": "uclip"}),
    "spam": (SPAM, {**RESETS, **SPIKES, "clipping_type": "zclip"}),
    "stable_spam": (StableSPAM, RESETS),
    "sstm": (ClippedSSTM, {"lr": 0.1, "L": 1.0, "clipping_type": "linear_rand_norm"}),
}


@pytest.fixture(scope="module")
def checkpoints():
    file = Path(__file__).with_name("checkpoints_0_1.pt.gz")
    return torch.load(io.BytesIO(gzip.decompress(file.read_bytes())), weights_only=True)


def build(name, model):
    cls, settings = OPTIMIZERS[name]
    params = list(model.parameters())
    if name == "two units":
        return cls([{"params": params[:2]}, {"params": params[2:], "clipping_level": 0.5}], **settings)
    return cls(params, **settings)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_it_resumes(name, checkpoints):
    checkpoint = checkpoints[name]
    model = small_model(1)
    optimizer = build(name, model)
    model.load_state_dict(checkpoint["model"])
    optimizer.load_state_dict(checkpoint["optimizer"])
    for step in range(6, 12):
        set_gradients(model, step, 3.0)
        optimizer.step()
    # to the bit on the machine that made them; kernels of another processor may round otherwise
    torch.testing.assert_close(weights(model), checkpoint["weights"], rtol=1e-4, atol=1e-5)
    if optimizer.clipping.rule.draws:
        assert torch.equal(Memory(optimizer).rng_state, checkpoint["optimizer"]["state"]["clipping"]["coins"])


def test_what_is_saved_is_laid_out_as_now(checkpoints):
    optimizer = build("sstm", small_model())
    optimizer.load_state_dict(checkpoints["sstm"]["optimizer"])
    again = optimizer.state_dict()
    assert set(again["state"]) == set(range(4))
    old = checkpoints["sstm"]["optimizer"]["state"]["clipping"]
    assert torch.equal(again["param_groups"][0]["clipping_memory_rng_state"], old["coins"])
    assert int(again["param_groups"][0]["clipping_memory_skipped"]) == int(old["skipped"])
