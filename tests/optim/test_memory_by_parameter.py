"""What is remembered of a parameter is that parameter's, whatever happens to the list of them.

Parameters are replaced by larger and smaller ones as the code of 3-D Gaussian splatting does when points
are added to a scene and taken away, appended to a group, and moved from one to another. Expected numbers
are those of the rules' formulas, by hand: with SGD at lr 1 a parameter moves by its clipped gradient.
"""

import pytest
import torch
from conftest import set_gradients, small_model
from optim_helpers import same, saved
from torch import nn

from clipbench.optim import (
    SPAM,
    ACClip,
    ClippedAdam,
    ClippedAdamW,
    ClippedSGD,
    ClippedSSTM,
    Lion,
    Muon,
    StableSPAM,
    clip_gradients,
    make_rule,
)

PER_ENTRY = ("exp_avg", "exp_avg_sq", "momentum_buffer", "square_avg", "momentum", "moment", "y", "z")
"""What such code knows to hold a number for each entry, in the states of all these optimizers."""


def replaced(optimizer, number, change, known=PER_ENTRY):
    """The new parameter of the group `number`: `change` is done to the old one and to its state."""
    group = optimizer.param_groups[number]
    old = group["params"][0]
    stored = optimizer.state.get(old, None)
    new = nn.Parameter(change(old.detach()))
    if stored is not None:
        for key in known:
            if key in stored:
                stored[key] = change(stored[key])
        del optimizer.state[old]
        group["params"][0] = new
        optimizer.state[new] = stored
    else:
        group["params"][0] = new
    return new


def longer(x):
    return torch.cat((x, torch.zeros(2, *x.shape[1:])))


def shorter(x):
    return x[torch.tensor([True, False, True])].clone()


def with_norm(p, norm):
    """Give `p` a gradient of this norm, equal in all entries."""
    p.grad = torch.full_like(p, norm / p.numel() ** 0.5)


def moved(optimizer, gradients):
    """{parameter: the length of its step} under gradients of these norms."""
    before = {p: p.detach().clone() for p in gradients}
    for p, norm in gradients.items():
        with_norm(p, norm)
    optimizer.step()
    return [float((before[p] - p.detach()).norm()) for p in gradients]


def zeros():
    return nn.Parameter(torch.zeros(3, 2))


def sgd(groups, **settings):
    return ClippedSGD([{"params": params} for params in groups], lr=1.0, **settings)


# adagc: min(1, 1.05·γ/‖g‖) of each tensor, γ ← .98·γ + .02·‖clip(g)‖


def after_adagc(gamma, norm):
    """(the length of its step, the new γ) of one tensor after the warm-up."""
    length = min(norm, 1.05 * gamma)
    return length, 0.98 * gamma + 0.02 * length


@pytest.mark.parametrize("change", [longer, shorter])
@pytest.mark.parametrize("number", [0, 1], ids=["first", "second"])
def test_adagc_goes_on_where_a_parameter_is_replaced(number, change):
    params = [zeros(), zeros()]
    optimizer = sgd([[params[0]], [params[1]]], clipping_type="adagc", warmup_steps=2)
    gammas = [0.3, 0.4]  # together .5, less than 1: the warm-up clips nothing, and γ is the norm
    for _ in range(2):
        assert moved(optimizer, dict(zip(params, gammas, strict=True))) == pytest.approx(gammas)
    with_norm(params[number], 1.0)  # replaced between backward() and step(), it has no gradient then
    params[number] = replaced(optimizer, number, change)
    assert params[number].grad is None
    other = params[1 - number]
    length, gammas[1 - number] = after_adagc(gammas[1 - number], 1.0)
    assert moved(optimizer, {other: 1.0}) == pytest.approx([length])
    for _ in range(3):
        lengths = []
        for i, gamma in enumerate(gammas):
            length, gammas[i] = after_adagc(gamma, 1.0)
            lengths.append(length)
        assert moved(optimizer, dict.fromkeys(params, 1.0)) == pytest.approx(lengths)


def test_adagc_begins_anew_with_a_parameter_appended_to_the_first_of_two_groups():
    """As in the warm-up: the whole gradient is clipped to λ_abs = 1, and its γ is what is left of its own."""
    a, b, late = zeros(), zeros(), zeros()
    optimizer = sgd([[a], [b]], clipping_type="adagc", warmup_steps=1)
    moved(optimizer, {a: 0.3, b: 0.4})
    optimizer.param_groups[0]["params"].append(late)
    begun = 0.2 / (1 + 1 + 0.2**2) ** 0.5
    assert moved(optimizer, {a: 1.0, b: 1.0, late: 0.2}) == pytest.approx([1.05 * 0.3, 1.05 * 0.4, begun])
    gammas = [after_adagc(0.3, 1.0)[1], after_adagc(0.4, 1.0)[1], begun]
    expected = [after_adagc(gamma, 1.0)[0] for gamma in gammas]
    assert moved(optimizer, {a: 1.0, b: 1.0, late: 1.0}) == pytest.approx(expected)


def test_adagc_takes_its_memory_along_into_another_group():
    a, b, c = zeros(), zeros(), zeros()
    optimizer = sgd([[a, b], [c]], clipping_type="adagc", warmup_steps=1)
    gammas = [0.3, 0.4, 0.5]
    moved(optimizer, dict(zip((a, b, c), gammas, strict=True)))
    optimizer.param_groups[1]["params"].append(optimizer.param_groups[0]["params"].pop(0))
    expected = [after_adagc(gamma, 1.0)[0] for gamma in gammas]
    assert moved(optimizer, {a: 1.0, b: 1.0, c: 1.0}) == pytest.approx(expected)


# uclip: u = min(1, 1/‖g + Δ‖)·(g + Δ), Δ ← g + Δ − u


@pytest.mark.parametrize("change", [longer, shorter])
@pytest.mark.parametrize("number", [0, 1], ids=["first", "second"])
def test_uclip_goes_on_where_a_parameter_is_replaced(number, change):
    """Of (3, 4), a fifth is taken, and 2.4 and 3.2 are owed: to the one that is still there."""
    params = [zeros(), zeros()]
    optimizer = sgd([[params[0]], [params[1]]], clipping_type="uclip")
    assert moved(optimizer, dict(zip(params, (3.0, 4.0), strict=True))) == pytest.approx([0.6, 0.8])
    params[number] = replaced(optimizer, number, change)
    norms = [0.0, 0.0]
    norms[number] = (2.4, 3.2)[number]  # as much as was owed to the old one: again a whole of 4
    assert moved(optimizer, dict(zip(params, norms, strict=True))) == pytest.approx([0.6, 0.8])


def test_uclip_goes_on_with_what_was_owed_where_it_was_made_longer_too():
    """By code that knows of it: of entries of one size, a state is extended."""
    params = [zeros(), zeros()]
    optimizer = sgd([[params[0]], [params[1]]], clipping_type="uclip")
    moved(optimizer, dict(zip(params, (3.0, 4.0), strict=True)))
    params[0] = replaced(optimizer, 0, longer, (*PER_ENTRY, "clipping_memory_carry"))
    assert moved(optimizer, dict.fromkeys(params, 0.0)) == pytest.approx([0.6, 0.8])  # of 2.4 and 3.2


def test_uclip_owes_nothing_to_a_parameter_appended_to_the_first_of_two_groups():
    """2.4 and 3.2 are owed, 3 is new: together 5."""
    a, b, late = zeros(), zeros(), zeros()
    optimizer = sgd([[a], [b]], clipping_type="uclip")
    moved(optimizer, {a: 3.0, b: 4.0})
    optimizer.param_groups[0]["params"].append(late)
    expected = [2.4 / 5, 3.2 / 5, 3 / 5]
    assert moved(optimizer, {a: 0.0, b: 0.0, late: 3.0}) == pytest.approx(expected)


# all of them

OPTIMIZERS = {
    "spam": (SPAM, {"reset_every": 4, "warmup": 1}),
    "stable spam": (StableSPAM, {"reset_every": 4}),
    "sstm, uclip": (ClippedSSTM, {"clipping_type": "uclip"}),
    "sstm, adagc": (ClippedSSTM, {"clipping_type": "adagc", "warmup_steps": 2}),
    "acclip": (ACClip, {}),
    "lion": (Lion, {}),
    "muon": (Muon, {}),
}
for _rule in ("none", "norm", "auto", "quadratic_rand_auto", "zclip", "adagc", "uclip"):
    for _cls in (ClippedSGD, ClippedAdam, ClippedAdamW):
        _momentum = {"momentum": 0.9} if _cls is ClippedSGD else {}
        OPTIMIZERS[f"{_cls.__name__}, {_rule}"] = (_cls, {"clipping_type": _rule, **_momentum})


def joined(groups, lr):
    return clip_gradients(torch.optim.RMSprop(groups, lr=lr), make_rule("adagc", warmup_steps=2))


OPTIMIZERS["joined rmsprop"] = (joined, {})
each_optimizer = pytest.mark.parametrize("name", OPTIMIZERS)


def scene(name, sizes=(3, 3, 3)):
    """Parameters of so many points, each in a group of its own, and their optimizer."""
    cls, settings = OPTIMIZERS[name]
    params = [nn.Parameter(torch.ones(size, 2)) for size in sizes]
    return params, cls([{"params": [p]} for p in params], lr=0.01, **settings)


def steps(params, optimizer, numbers):
    for number in numbers:
        rng = torch.Generator().manual_seed(number)
        for p in params:
            p.grad = torch.randn(p.shape, generator=rng)
        optimizer.step()
    return [p.detach().clone() for p in params]


def per_entry(state):
    return {key: value for key, value in state.items() if key in PER_ENTRY}


@each_optimizer
def test_a_scene_grows_and_shrinks_and_the_others_go_on(name):
    params, optimizer = scene(name)
    steps(params, optimizer, range(3))
    others = {p: dict(optimizer.state.get(p, {})) for p in params[1:]}
    params[0] = replaced(optimizer, 0, longer)
    for p, state in others.items():
        assert optimizer.state.get(p, {}).keys() == state.keys()
        assert all(optimizer.state[p][key] is value for key, value in state.items())
    steps(params, optimizer, range(3, 6))
    params[1] = replaced(optimizer, 1, shorter)
    found = steps(params, optimizer, range(6, 9))
    assert [len(p) for p in found] == [5, 2, 3]
    assert all(torch.isfinite(p).all() for p in found)
    for p in params:
        for value in per_entry(optimizer.state.get(p, {})).values():
            assert value.shape == p.shape


@pytest.mark.parametrize("stepped", [True, False], ids=["after a step", "before its first gradient"])
@pytest.mark.parametrize("change", [longer, shorter])
@each_optimizer
def test_a_checkpoint_from_after_a_change_is_resumed(name, change, stepped):
    """That code replaces between backward() and step(), and saves after that: with no gradient yet."""
    params, optimizer = scene(name)
    steps(params, optimizer, range(3))
    params[0] = replaced(optimizer, 0, change)
    steps(params if stepped else params[1:], optimizer, [3])
    kept = saved(optimizer.state_dict())
    again, resumed = scene(name, [len(p) for p in params])
    for p, old in zip(again, params, strict=True):
        p.data.copy_(old.data)
    resumed.load_state_dict(kept)
    torch.manual_seed(99)
    assert same(steps(again, resumed, range(4, 8)), steps(params, optimizer, range(4, 8)))


@pytest.mark.parametrize("name", ["auto", "zclip", "quadratic_rand_auto"])
def test_what_belongs_to_the_whole_gradient_goes_on_whatever_comes_or_is_replaced(name):
    params, optimizer = scene(f"ClippedSGD, {name}")
    steps(params, optimizer, range(3))
    params[0] = replaced(optimizer, 0, longer)
    late = nn.Parameter(torch.ones(4))
    optimizer.param_groups[0]["params"].append(late)
    steps([*params, late], optimizer, range(3, 5))
    assert int(optimizer.param_groups[0]["clipping_memory_count"]) == 5


def test_the_first_parameter_of_a_model_is_left_out_of_a_step_and_no_memory_shifts():
    """The γ of each tensor is the smallest norm that this tensor had, below λ_abs = 1 in the warm-up."""
    model = small_model()
    optimizer = ClippedSGD(model.parameters(), lr=0.1, clipping_type="adagc")
    smallest = dict.fromkeys(model.parameters(), float("inf"))
    for step in range(6):
        set_gradients(model, step, 0.01)
        if step % 2:
            model[0].weight.grad = None
        for p in smallest:
            if p.grad is not None:
                smallest[p] = min(smallest[p], float(p.grad.norm()))
        optimizer.step()
    for p, gamma in smallest.items():
        assert float(optimizer.state[p]["clipping_memory_gamma"]) == pytest.approx(gamma)
