"""Rounding to a uniform grid, against torch's own quantizer."""

import pytest
import torch
from torch import nn

from clipbench.transform import Round
from clipbench.transform.rounding import rounded


def torchs(weight, bits):
    """By torch.fake_quantize_per_channel_affine, with scale and zero point from the rows' ranges."""
    rows = weight.flatten(1)
    low, high = rows.amin(1).clamp(max=0), rows.amax(1).clamp(min=0)
    scale = (high - low) / (2**bits - 1)
    zero = torch.round(-low / scale).to(torch.int32)
    return torch.fake_quantize_per_channel_affine(rows, scale, zero, 0, 0, 2**bits - 1).reshape(weight.shape)


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
@pytest.mark.parametrize("shape", [(5, 7), (4, 3, 3, 3), (1, 50)])
def test_it_is_torchs_quantizer(bits, shape):
    torch.manual_seed(bits)
    weight = torch.randn(shape) + torch.linspace(-2, 2, shape[0]).reshape(-1, *[1] * (len(shape) - 1))
    found, expected = rounded(weight, bits), torchs(weight, bits)
    rows = weight.flatten(1)
    step = (rows.amax(1).clamp(min=0) - rows.amin(1).clamp(max=0)) / (2**bits - 1)
    apart = (found - expected).abs().flatten(1).amax(1) / step
    # torch multiplies by 1/scale: a value between two levels may go to the other one
    assert ((apart < 1e-3) | ((apart - 1).abs() < 1e-3)).all()
    assert ((found - expected).abs() < 1e-5).float().mean() > 0.98


@pytest.mark.parametrize("bits", [1, 2, 5, 16])
def test_a_row_has_at_most_so_many_values_and_moves_by_less_than_a_step(bits):
    torch.manual_seed(0)
    weight = torch.randn(6, 400).double().float()
    found = rounded(weight, bits)
    for row, before in zip(found, weight, strict=True):
        assert len(row.unique()) <= 2**bits
        step = (max(0, before.max()) - min(0, before.min())) / (2**bits - 1)
        assert (row - before).abs().max() <= step * (1 + 1e-4)


def test_zeros_stay():
    weight = torch.tensor([[0.0, 0.0, 0.0], [-1.0, 0.0, 1.0], [0.5, 1.0, 2.0]])
    found = rounded(weight, 3)
    assert (found[weight == 0] == 0).all()


def test_vectors_buffers_and_dtype_are_left_alone():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(4, 2))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    assert list(Round(bits=2).apply(model, None)) == [""]
    changed = {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
    assert changed == {"0.weight", "3.weight"}
    assert rounded(torch.randn(3, 3, dtype=torch.bfloat16), 4).dtype == torch.bfloat16


@pytest.mark.parametrize("bits", [0, 17, 2.0, True, None, "8"])
def test_bits_are_a_whole_number_from_1_to_16(bits):
    with pytest.raises(ValueError, match="whole number from 1 to 16"):
        Round(bits=bits)
