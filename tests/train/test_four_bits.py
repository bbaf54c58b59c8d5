"""Simulated four bits: the formulas, groups within rows, straight-through gradients, every kind of layer."""

import copy
import math
import sys
import warnings

import pytest
import torch
from torch import nn

from clipbench.errors import UserError
from clipbench.train.four_bits import fp4, int4, quantized, simulate, stochastic

FP4 = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0)
E2M1 = sorted({sign * value for value in FP4 for sign in (-1, 1)})


def by_hand(group):
    """One group in int4, a number at a time."""
    low, high = min(group), max(group)
    step = max(high - low, 1e-5) / 15
    zero = min(15, max(0, round(-low / step)))
    found = []
    for x in group:
        floor = math.floor(x / step)
        whole = floor + (x / step - floor > 0.5)
        found.append((min(15, max(0, whole + zero)) - zero) * step)
    return found


@pytest.mark.parametrize("shift", [0.0, 0.3, -2.0, 5.0])
def test_int4_is_the_formula(shift):
    x = torch.randn(7, 33, dtype=torch.float64) + shift
    expected = torch.tensor([by_hand(row) for row in x.tolist()], dtype=torch.float64)
    torch.testing.assert_close(int4(x), expected)
    assert all(len(row.unique()) <= 16 for row in int4(x))


def test_fp4_is_the_nearest_of_its_values():
    x = torch.randn(5, 40, dtype=torch.float64)
    step = x.abs().amax(1, keepdim=True) / 6
    values = torch.tensor(E2M1, dtype=torch.float64)
    distance = (x[..., None] / step[..., None] - values).abs()
    expected = values[distance.argmin(-1)] * step
    torch.testing.assert_close(fp4(x), expected)
    assert (fp4(torch.zeros(2, 3)) == 0).all()
    assert (fp4(x).abs().amax(1) == x.abs().amax(1)).all()


@pytest.mark.parametrize("kind", [int4, fp4])
def test_stochastic_rounding_keeps_the_mean(kind):
    torch.manual_seed(1)
    x = torch.linspace(-1, 1, 31).repeat(4000, 1)
    drawn = kind(x, stochastic)
    assert len(drawn[:, 12].unique()) == 2
    step = 2 / 6 if kind is fp4 else 2 / 15
    assert (drawn.mean(0) - x[0]).abs()[1:-1].max() < 5 * step / 2 / math.sqrt(4000)


def test_groups_lie_within_rows_and_the_last_one_is_what_is_left():
    x = torch.randn(3, 10)
    found = quantized(x, "int4", 4)
    for row, before in zip(found, x, strict=True):
        parts = [int4(part[None])[0] for part in before.split(4)]
        torch.testing.assert_close(row, torch.cat(parts))
    assert torch.equal(quantized(x, "int4", 256), int4(x))


def test_the_gradient_passes_straight_through():
    x = torch.randn(4, 6, requires_grad=True)
    (quantized(x, "fp4", 64) * torch.arange(6.0)).sum().backward()
    assert torch.equal(x.grad, torch.arange(6.0).expand(4, 6))


def layers():
    yield "Linear", nn.Linear(6, 5), torch.randn(3, 6)
    for kind in (nn.RNN, nn.LSTM, nn.GRU):
        yield kind.__name__, kind(6, 5, 2, batch_first=True), torch.randn(3, 4, 6)
    yield "LSTMCell", nn.LSTMCell(6, 5), torch.randn(3, 6)
    from transformers.pytorch_utils import Conv1D

    yield "Conv1D", Conv1D(5, 6), torch.randn(3, 6)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", r"`torch\.jit\.script` is deprecated")
        from torch_geometric.nn.dense import Linear

    yield "PyG", Linear(6, 5), torch.randn(3, 6)


@pytest.mark.parametrize(
    ("name", "layer", "x"), list(layers()), ids=lambda value: value if isinstance(value, str) else ""
)
@pytest.mark.parametrize("kind", ["int4", "fp4"])
def test_a_layer_computes_with_rounded_matrices_and_learns_its_own(name, layer, x, kind):
    layer = copy.deepcopy(layer).eval()
    before = {key: value.clone() for key, value in layer.state_dict().items()}
    rounded = {}
    for key, value in before.items():
        rounded[key] = value
        if value.ndim == 2:
            flipped = value.t() if name == "Conv1D" else value
            made = quantized(flipped, kind, 256)
            rounded[key] = made.t() if name == "Conv1D" else made

    def out(result):
        return result[0] if isinstance(result, tuple) else result

    layer.load_state_dict(rounded)
    expected = out(layer(quantized(x, kind, 64))).detach()
    layer.load_state_dict(before)
    simulate(layer, kind)
    found = out(layer(x))
    torch.testing.assert_close(found, expected)
    found.sum().backward()
    assert all(torch.equal(value, before[key]) for key, value in layer.state_dict().items())
    assert list(layer.state_dict()) == list(before)
    for parameter in layer.parameters():
        assert isinstance(parameter, nn.Parameter)
        assert parameter.grad is not None


def test_inputs_are_drawn_in_training_only():
    layer = nn.Linear(64, 3)
    simulate(layer, "int4")
    x = torch.randn(5, 64)
    assert torch.equal(layer.eval()(x), layer(x))
    assert not torch.equal(layer.train()(x), layer(x))
    torch.manual_seed(3)
    first = layer(x)
    torch.manual_seed(3)
    assert torch.equal(first, layer(x))


def test_a_layer_that_raises_has_its_own_weights_again():
    layer = nn.Linear(6, 3)
    weight = layer.weight
    simulate(layer, "int4")
    with pytest.raises(RuntimeError):
        layer(torch.randn(2, 5))
    assert layer.weight is weight


def test_a_model_without_such_a_layer_is_refused():
    with pytest.raises(UserError, match="the model has none"):
        simulate(nn.Sequential(nn.Conv2d(3, 3, 1), nn.ReLU()), "int4")


@pytest.mark.parametrize("precision", ["int4", "fp4"])
@pytest.mark.parametrize("task", ["cola", "reddit"])
def test_in_the_bench(precision, task, tmp_path, monkeypatch):
    from clipbench.cli.main import main
    from clipbench.record import tables

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    common = ["run", f"task={task}", "steps=4", "eval_every=4", "batch_size=8", "threads=1"]
    assert main([*common, f"precision={precision}", "results=four"]) == 0
    assert main([*common, "results=full"]) == 0
    four, full = tables.read(tmp_path / "four", "steps"), tables.read(tmp_path / "full", "steps")
    assert four["loss"].notna().all()
    assert (four["loss"] != full["loss"]).all()
    assert four["loss"].iloc[0] == pytest.approx(full["loss"].iloc[0], rel=0.5)
    assert main([*common, f"precision={precision}", "compile=true"]) == 2
