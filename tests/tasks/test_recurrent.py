"""Recurrent nets: their starts against their definitions, and the state that a padded sequence ends with."""

from __future__ import annotations

import pytest
import torch

from clipbench.errors import UserError
from clipbench.tasks.recurrent import GATES, last, recurrent

HIDDEN = 60


def seeded(*args, **keywords) -> torch.nn.RNNBase:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return recurrent(*args, **keywords)


def matrices(net: torch.nn.RNNBase, kind: str) -> list[torch.Tensor]:
    """The h × h matrices, of each layer and gate."""
    found: list[torch.Tensor] = []
    for name, weight in net.named_parameters():
        if name.startswith("weight_hh"):
            found += weight.detach().chunk(GATES[kind])
    return found


@pytest.mark.parametrize(
    ("kind", "theirs", "more"),
    [
        ("rnn_tanh", torch.nn.RNN, {"nonlinearity": "tanh"}),
        ("rnn_relu", torch.nn.RNN, {"nonlinearity": "relu"}),
        ("lstm", torch.nn.LSTM, {}),
        ("gru", torch.nn.GRU, {}),
    ],
)
def test_without_a_start_of_its_own_a_net_is_torchs(kind, theirs, more):
    net = seeded(kind, 5, HIDDEN, 2)
    torch.manual_seed(0)
    plain = theirs(5, HIDDEN, 2, batch_first=True, **more)
    x = torch.randn(3, 7, 5)
    assert torch.equal(net(x)[0], plain(x)[0])
    assert net.state_dict().keys() == plain.state_dict().keys()


@pytest.mark.parametrize("kind", GATES)
def test_normal_has_the_variance_one_over_h(kind):
    net = seeded(kind, 5, HIDDEN, 2, recurrent_init="normal")
    for matrix in matrices(net, kind):
        # the standard error of a variance is √(2/n) of it, n = 3600
        assert float(matrix.var()) * HIDDEN == pytest.approx(1, abs=4 * (2 / HIDDEN**2) ** 0.5)
        assert float(matrix.abs().max()) > 2.5 / HIDDEN**0.5  # no uniform has such a tail at this variance


@pytest.mark.parametrize("kind", GATES)
def test_orthogonal_is_orthogonal_in_each_gate(kind):
    found = matrices(seeded(kind, 5, HIDDEN, 2, recurrent_init="orthogonal"), kind)
    for matrix in found:
        torch.testing.assert_close(matrix.T @ matrix, torch.eye(HIDDEN), atol=1e-5, rtol=0)
    assert len({float(matrix[0, 0]) for matrix in found}) == 2 * GATES[kind]


def test_identity_begins_as_the_sum_of_what_it_reads():
    """h_t = relu(h_{t−1} + W x_t): of inputs that W maps to positive numbers, W times their sum."""
    net = seeded("rnn_relu", 5, HIDDEN, 1, recurrent_init="identity")
    with torch.no_grad():
        net.weight_ih_l0.abs_()
    x = torch.rand(3, 7, 5)
    torch.testing.assert_close(net(x)[0][:, -1], x.sum(1) @ net.weight_ih_l0.T)


def test_the_forget_gates_biases_add_up_to_the_number():
    plain, net = seeded("lstm", 5, HIDDEN, 2), seeded("lstm", 5, HIDDEN, 2, forget_bias=1.5)
    for layer in range(2):
        both = getattr(net, f"bias_ih_l{layer}") + getattr(net, f"bias_hh_l{layer}")
        before = getattr(plain, f"bias_ih_l{layer}") + getattr(plain, f"bias_hh_l{layer}")
        forget = slice(HIDDEN, 2 * HIDDEN)
        assert torch.equal(both[forget], torch.full((HIDDEN,), 1.5))
        kept = torch.ones(4 * HIDDEN, dtype=torch.bool)
        kept[forget] = False
        assert torch.equal(both[kept], before[kept])


def test_the_forget_bias_keeps_the_cell():
    """With a gate that is open for good, an LSTM forgets nothing: c_t − c_{t−1} = i_t g_t, and with the input
    gate shut, c stays.
    """
    net = seeded("lstm", 5, HIDDEN, 1, forget_bias=100.0)
    with torch.no_grad():
        net.bias_ih_l0[:HIDDEN] = -100.0
        cell = torch.randn(1, 3, HIDDEN)
        _, (_, found) = net(torch.randn(3, 7, 5), (torch.zeros(1, 3, HIDDEN), cell))
    torch.testing.assert_close(found, cell)


@pytest.mark.parametrize("kind", ["rnn_relu", "gru"])
def test_nets_without_a_forget_gate_leave_its_bias_unused(kind):
    one, other = seeded(kind, 5, 6, 1), seeded(kind, 5, 6, 1, forget_bias=1.0)
    assert all(map(torch.equal, one.parameters(), other.parameters()))


@pytest.mark.parametrize("start", [None, "normal", "orthogonal"])
def test_a_generator_of_ones_own_decides_all_weights(start):
    def made(seed: int) -> torch.nn.RNNBase:
        rng = torch.Generator().manual_seed(seed)
        return recurrent("gru", 5, 6, 2, recurrent_init=start, generator=rng)

    assert all(map(torch.equal, made(1).parameters(), made(1).parameters()))
    assert not any(map(torch.equal, made(1).parameters(), made(2).parameters()))


@pytest.mark.parametrize("kind", GATES)
def test_padding_changes_nothing_and_the_last_state_is_that_of_a_sequence_alone(kind):
    net = seeded(kind, 5, 6, 2)
    lengths = torch.tensor([7, 1, 4])
    x = torch.randn(3, 7, 5)
    noisy = torch.cat([x, torch.randn(3, 4, 5)], dim=1)
    for i, length in enumerate(lengths):
        noisy[i, length:] = 1e6
        alone = net(x[i : i + 1, :length])[0][0, -1]
        torch.testing.assert_close(last(net(x)[0], lengths)[i], alone)
    assert torch.isfinite(net(noisy)[0]).all() or kind == "rnn_relu"
    torch.testing.assert_close(last(net(noisy)[0], lengths), last(net(x)[0], lengths))


def test_one_layer_has_no_dropout_between_layers():
    assert recurrent("lstm", 5, 6, 1, dropout=0.5).dropout == 0
    assert recurrent("lstm", 5, 6, 2, dropout=0.5).dropout == 0.5


@pytest.mark.parametrize(
    ("keywords", "message"),
    [
        ({"kind": "lstn"}, "Unknown task.model 'lstn'. Did you mean 'lstm'?"),
        ({"kind": None}, "Unknown task.model 'None'."),
        (
            {"recurrent_init": "ortogonal"},
            "Unknown task.recurrent_init 'ortogonal'. Did you mean 'orthogonal'?",
        ),
        ({"kind": "gru", "recurrent_init": "identity"}, "not for gru"),
        ({"hidden": 0}, "task.hidden must be a whole number of at least 1, got 0."),
        ({"layers": 1.5}, "task.layers must be a whole number of at least 1, got 1.5."),
        ({"dropout": 1.0}, "task.dropout must be a number from 0 to below 1, got 1.0."),
        ({"forget_bias": "one"}, "task.forget_bias must be a finite number or null, got 'one'."),
        ({"forget_bias": float("inf")}, "got inf"),
    ],
)
def test_what_cannot_be_is_one_message(keywords, message):
    with pytest.raises(UserError) as error:
        recurrent(**{"kind": "rnn_relu", "inputs": 5, "hidden": 6, "layers": 1, **keywords})
    assert message in str(error.value)
