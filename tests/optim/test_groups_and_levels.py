"""Groups, levels and defaults: what is clipped together, at which level, and what builds it again."""

import math

import numpy as np
import pytest
import torch
from conftest import set_gradients, small_model, weights
from optim_helpers import MANY, groups_of, same
from torch import nn
from torch.nn.utils import clip_grad_norm_
from torch.optim import SGD, AdamW

from clipbench.optim import (
    RULES,
    SPAM,
    ACClip,
    ClippedAdam,
    ClippedAdamW,
    ClippedSGD,
    ClippedSSTM,
    Lion,
    Muon,
    Norm,
    StableSPAM,
    clip_gradients,
    clip_stats,
    make_rule,
    set_clipping_level,
)

LEVEL = 0.3
HOOKS = (
    "_optimizer_step_pre_hooks",
    "_optimizer_step_post_hooks",
    "_optimizer_state_dict_pre_hooks",
    "_optimizer_load_state_dict_pre_hooks",
    "_optimizer_load_state_dict_post_hooks",
)
SGD_SETTINGS = {"lr": 0.1, "momentum": 0.9}
KINDS = {
    "sgd": (SGD, ClippedSGD, SGD_SETTINGS),
    "adamw": (AdamW, ClippedAdamW, {"lr": 0.01}),
}


# groups


def norm_after(settings, *groups, rule=None):
    """Of two parameters with gradients of norm 100 each, in a group each, at lr 1."""
    params = [nn.Parameter(torch.zeros(4)) for _ in range(2)]
    given = [{"params": [p], **group} for p, group in zip(params, groups, strict=True)]
    if rule is None:
        optimizer = ClippedSGD(given, lr=1.0, **settings)
    else:
        optimizer = clip_gradients(SGD(given, lr=1.0), rule)
    for p in params:
        p.grad = torch.full((4,), 50.0)
    optimizer.step()
    return math.hypot(*(float(p.detach().norm()) for p in params))


TOGETHER = [
    ({}, {}),
    ({"clipping_level": 1.0}, {}),
    ({}, {"clipping_level": 1}),
    ({"clipping_level": 1.0}, {"clipping_level": 1.0}),
    ({"clipping_level": 1}, {"clipping_level": np.float64(1.0)}),
    ({"clipping_level": None}, {"clipping_level": 1.0}),
    ({"clip_separately": False}, {"clipping_level": 1.0}),
]


@pytest.mark.parametrize("joined", [False, True], ids=["ours", "joined"])
@pytest.mark.parametrize("groups", TOGETHER, ids=str)
def test_groups_of_one_level_are_one_norm(groups, joined):
    rule = Norm(1.0) if joined else None
    assert norm_after({"clipping_level": 1.0}, *groups, rule=rule) == pytest.approx(1.0, rel=1e-5)


def test_groups_of_one_level_that_is_not_the_optimizers_are_one_norm():
    groups = [{"clipping_level": 2.0}, {"clipping_level": 2.0}]
    assert norm_after({"clipping_level": 1.0}, *groups) == pytest.approx(2.0, rel=1e-5)


APART = [
    ([{"clip_separately": True}, {"clip_separately": True}], math.sqrt(2)),
    ([{"clip_separately": True}, {}], math.sqrt(2)),
    ([{"clipping_level": 2.0, "clip_separately": True}, {"clipping_level": 2.0}], math.sqrt(8)),
    ([{}, {"clipping_level": 2.0}], math.sqrt(5)),
    ([{}, {"clipping_level": math.inf}], math.hypot(1, 100)),
    ([{"clipping_level": math.inf, "clip_separately": True}, {}], math.hypot(1, 100)),
]


@pytest.mark.parametrize("joined", [False, True], ids=["ours", "joined"])
@pytest.mark.parametrize(("groups", "expected"), APART, ids=str)
def test_groups_are_apart_where_the_user_says_so(groups, expected, joined):
    rule = Norm(1.0) if joined else None
    assert norm_after({"clipping_level": 1.0}, *groups, rule=rule) == pytest.approx(expected, rel=1e-5)


def test_a_group_that_comes_later_joins_the_norm():
    params = [nn.Parameter(torch.zeros(4)) for _ in range(3)]
    optimizer = ClippedSGD(params[:1], lr=1.0)
    optimizer.add_param_group({"params": params[1:2]})
    optimizer.add_param_group({"params": params[2:], "clip_separately": True})
    for p in params:
        p.grad = torch.full((4,), 50.0)
    optimizer.step()
    assert float(torch.cat(params[:2]).detach().norm()) == pytest.approx(1.0, rel=1e-5)
    assert float(params[2].detach().norm()) == pytest.approx(1.0, rel=1e-5)


MISSPELT = {
    "cliping_level": "clipping_level",
    "clipping_levle": "clipping_level",
    "clip_level": "clipping_level",
    "Clipping_level": "clipping_level",
    "cliplevel": "clipping_level",
    "clip_seperately": "clip_separately",
    "clip_separatly": "clip_separately",
    "clips_separately": "clip_separately",
}


@pytest.mark.parametrize(("key", "right"), MISSPELT.items())
@pytest.mark.parametrize("kind", [ClippedSGD, ClippedAdamW, SPAM, ClippedSSTM])
def test_a_misspelt_key_of_a_group_is_refused_with_the_nearest_spelling(kind, key, right):
    params = [nn.Parameter(torch.zeros(2)) for _ in range(2)]
    with pytest.raises(ValueError, match=f"'{key}'.*Did you mean '{right}'"):
        kind([{"params": params, key: 0.5}])
    optimizer = kind(params[:1])
    with pytest.raises(ValueError, match=f"'{key}'.*Did you mean '{right}'"):
        optimizer.add_param_group({"params": params[1:], key: 0.5})
    assert len(optimizer.param_groups) == 1


@pytest.mark.parametrize(("key", "right"), MISSPELT.items())
def test_a_misspelt_key_is_refused_of_torchs_optimizers_too(key, right):
    params = [nn.Parameter(torch.zeros(2)) for _ in range(2)]
    optimizer = SGD([{"params": params[:1], key: 0.5}], lr=1.0)
    with pytest.raises(ValueError, match=f"'{key}'.*Did you mean '{right}'"):
        clip_gradients(optimizer, Norm(1.0))
    optimizer = clip_gradients(SGD(params[:1], lr=1.0), Norm(1.0))
    optimizer.add_param_group({"params": params[1:], key: 0.5})
    for p in params:
        p.grad = torch.ones(2)
    with pytest.raises(ValueError, match=f"'{key}'.*Did you mean '{right}'"):
        optimizer.step()  # torch's add_param_group tells nobody
    assert all(not p.any() for p in params)


def test_keys_that_others_put_into_groups_pass():
    keys = {"name": "head", "lr_scale": 0.5, "initial_lr": 0.1, "level": 3, "apply_decay": True, "k": 5}
    params = [nn.Parameter(torch.zeros(2)) for _ in range(2)]
    optimizer = ClippedAdamW([{"params": params[:1], **keys}])
    optimizer.add_param_group({"params": params[1:], **keys})
    for p in params:
        p.grad = torch.ones(2)
    optimizer.step()
    for group in optimizer.param_groups:
        assert {key: group[key] for key in keys} == keys


# a schedule of the level


LEVELS = [1.0, 0.5, 0.25, 0.75, 2.0, 0.1]


def by_hand(optimizer, level):
    for group in optimizer.param_groups:
        group["clipping_level"] = level


def scheduled(name, set_level, kind=ClippedSGD, groups=2, **settings):
    model = small_model()
    torch.manual_seed(7)
    optimizer = kind(groups_of(model, groups), lr=0.1, clipping_type=name, **settings)
    after = []
    for step, level in enumerate(LEVELS):
        set_level(optimizer, level)
        set_gradients(model, step, 10.0)
        optimizer.step()
        after.append(float(clip_stats(optimizer).clipped_norm))
    return weights(model), after


WITH_LEVEL = [name for name in RULES if make_rule(name).level_or_none is not None]


@pytest.mark.parametrize("name", WITH_LEVEL)
def test_a_level_set_in_every_group_is_set_clipping_level(name):
    ours, _ = scheduled(name, by_hand)
    others, _ = scheduled(name, set_clipping_level)
    single, _ = scheduled(name, set_clipping_level, groups=1)
    assert same(ours, others)
    torch.testing.assert_close(ours, single)


@pytest.mark.parametrize("set_level", [by_hand, set_clipping_level])
def test_a_level_set_in_every_group_is_that_of_clip_grad_norm(set_level):
    model = small_model()
    optimizer = SGD(model.parameters(), lr=0.1)
    norms = []
    for step, level in enumerate(LEVELS):
        set_gradients(model, step, 10.0)
        norms.append(float(clip_grad_norm_(model.parameters(), level)))
        optimizer.step()
    ours, after = scheduled("norm", set_level)
    torch.testing.assert_close(ours, weights(model), rtol=1e-5, atol=1e-6)
    expected = [min(norm, level) for norm, level in zip(norms, LEVELS, strict=True)]
    assert after == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("set_level", [by_hand, set_clipping_level])
def test_uclip_goes_on_with_its_memory_when_the_level_changes(set_level):
    """u = clip(g + Δ, η_t), Δ ← g + Δ − u."""
    model = small_model()
    point = torch.cat([p.detach().double().flatten() for p in model.parameters()])
    carried = torch.zeros_like(point)
    for step, level in enumerate(LEVELS):
        set_gradients(model, step, 10.0)
        carried = carried + torch.cat([p.grad.double().flatten() for p in model.parameters()])
        update = carried * min(1.0, level / float(carried.norm()))
        carried = carried - update
        point = point - 0.1 * update
    ours, _ = scheduled("uclip", set_level)
    torch.testing.assert_close(torch.cat([p.flatten() for p in ours]).double(), point, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("by", [by_hand, set_clipping_level])
def test_an_exempt_group_stays_exempt_in_a_schedule(by):
    def of_all_but_the_exempt(optimizer, level):
        for group in optimizer.param_groups[:1]:
            group["clipping_level"] = level

    set_level = of_all_but_the_exempt if by is by_hand else by
    params = [nn.Parameter(torch.zeros(4)) for _ in range(2)]
    groups = [{"params": params[:1]}, {"params": params[1:], "clipping_level": math.inf}]
    optimizer = ClippedSGD(groups, lr=1.0)
    expected = 0.0
    for level in LEVELS:
        set_level(optimizer, level)
        for p in params:
            p.grad = torch.full((4,), 50.0)
        optimizer.step()
        expected += level
    assert float(params[0].detach().norm()) == pytest.approx(expected, rel=1e-5)
    assert float(params[1].detach().norm()) == pytest.approx(100 * len(LEVELS), rel=1e-5)


def test_a_level_that_was_set_is_in_the_checkpoint():
    def after_a_load(set_level):
        model = small_model()
        first = ClippedSGD(groups_of(model, 2), lr=1.0)
        set_level(first, 0.25)
        second = ClippedSGD(groups_of(model, 2), lr=1.0)
        second.load_state_dict(first.state_dict())
        set_gradients(model, 0, 100.0)
        second.step()
        return float(clip_stats(second).clipped_norm)

    assert after_a_load(by_hand) == pytest.approx(0.25, rel=1e-5)
    assert after_a_load(set_clipping_level) == pytest.approx(0.25, rel=1e-5)


@pytest.mark.parametrize(
    "make", [float, np.float64, np.float32, torch.tensor], ids=lambda make: make.__name__
)
def test_a_level_set_by_hand_may_be_any_number(make):
    ours, _ = scheduled("norm", lambda optimizer, level: by_hand(optimizer, make(level)))
    expected, _ = scheduled("norm", by_hand)
    torch.testing.assert_close(ours, expected)


def levels_after(*calls, groups=({}, {})):
    """The levels of the groups, as the steps show them, after `calls` with the optimizer."""
    params = [nn.Parameter(torch.zeros(4)) for _ in groups]
    given = [
        {"params": [p], "clip_separately": True, **group} for p, group in zip(params, groups, strict=True)
    ]
    optimizer = ClippedSGD(given, lr=1.0)
    for call in calls:
        call(optimizer)
    params = [p for group in optimizer.param_groups for p in group["params"]]
    for p in params:
        p.grad = torch.full((4,), 50.0)
    optimizer.step()
    return [pytest.approx(float(p.detach().norm()), rel=1e-5) for p in params]


def test_set_clipping_level_leaves_a_level_of_ones_own_alone():
    own = {"clipping_level": 3.0}, {}, {"clipping_level": math.inf}
    assert levels_after(lambda o: set_clipping_level(o, 0.5), groups=own) == [3.0, 0.5, 100.0]


def test_set_clipping_level_after_all_levels_were_set_by_hand():
    calls = [lambda o: by_hand(o, 0.25), lambda o: set_clipping_level(o, 0.5)]
    assert levels_after(*calls) == [0.5, 0.5]


def test_a_group_that_comes_after_set_clipping_level_has_that_level():
    def add(optimizer):
        optimizer.add_param_group({"params": [nn.Parameter(torch.zeros(4))], "clip_separately": True})

    assert levels_after(lambda o: set_clipping_level(o, 0.5), add) == [0.5, 0.5, 0.5]


def test_no_clipping_for_a_while_and_an_exempt_group_is_still_exempt():
    calls = [lambda o: set_clipping_level(o, math.inf), lambda o: set_clipping_level(o, 0.5)]
    assert levels_after(*calls, groups=({}, {"clipping_level": math.inf})) == [0.5, 100.0]


@pytest.mark.parametrize("level", [0, -1.0, math.nan, "1", True])
def test_a_level_that_is_none_is_refused_and_nothing_changes(level):
    model = small_model()
    optimizer = ClippedSGD(model.parameters(), lr=1.0, clipping_level=0.5)
    with pytest.raises(ValueError, match="clipping_level"):
        set_clipping_level(optimizer, level)
    set_gradients(model, 0, 100.0)
    optimizer.step()
    assert float(clip_stats(optimizer).clipped_norm) == pytest.approx(0.5, rel=1e-5)


def test_a_type_without_a_level_refuses_one_and_torchs_optimizers_do_not_clip():
    params = small_model().parameters
    with pytest.raises(ValueError, match="level"):
        set_clipping_level(ClippedSGD(params(), clipping_type="auto"), 1.0)
    with pytest.raises((RuntimeError, ValueError), match="clip"):
        set_clipping_level(SGD(params()), 1.0)


# defaults rebuild the optimizer


BASICS = {
    ClippedSGD: [
        {"lr": 0.1, "momentum": 0.9},
        {"lr": 0.1, "momentum": 0.9, "dampening": 0.1, "weight_decay": 0.1},
        {"lr": 0.1, "momentum": 0.5, "nesterov": True, "maximize": True},
        {"lr": 0.1, "foreach": True},
        {"lr": 0.1, "fused": True, "nonfinite": "raise"},
        {"lr": 0.1, "foreach": False, "fused": False},
    ],
    ClippedAdam: [{"lr": 0.02, "betas": (0.5, 0.9), "weight_decay": 0.1}, {"amsgrad": True, "eps": 1e-3}],
    ClippedAdamW: [
        {"lr": 0.02, "betas": (0.5, 0.9), "weight_decay": 0.1},
        {"lr": 0.02, "amsgrad": True, "maximize": True},
        {"lr": 0.02, "clipping_type": "block_rms", "clipping_level": 0.5},
    ],
    SPAM: [
        {"lr": 0.02, "threshold": 1.5, "reset_every": 4, "warmup": 3, "pause": 1},
        {"lr": 0.02, "clipping_type": "norm", "clipping_level": 0.1},
    ],
    StableSPAM: [
        {"lr": 0.02, "gamma1": 0.5, "gamma2": 0.6, "gamma3": 0.7, "reset_every": 4},
        {"lr": 0.02, "gamma1": 0.5, "clipping_type": "auto", "p_autoclip": 0.1},
    ],
    ClippedSSTM: [{"lr": 0.5, "L": 2.0, "nu": 0.5, "cap": 0.7}, {"clipping_type": "auto", "p_autoclip": 0.1}],
    ACClip: [{"lr": 0.2, "betas": (0.5, 0.9), "power": 1.5, "eps": 1e-3, "weight_decay": 0.1}],
    Lion: [{"lr": 0.01, "betas": (0.5, 0.9), "weight_decay": 0.1}],
    Muon: [{"lr": 0.01, "momentum": 0.5, "nesterov": False, "betas": (0.5, 0.9), "ns_steps": 3}],
}
CHANGED = {
    "norm": {"clipping_level": 0.1},
    "linear_rand_norm": {"clipping_level": 0.1, "beta": 0.5},
    "quadratic_rand_norm": {"clipping_level": 0.1, "beta": 0.5},
    "layer_wise": {"clipping_level": 0.1},
    "coordinate_wise": {"clipping_level": 0.01},
    "value": {"clipping_level": 0.01},
    "normalize": {"clipping_level": 0.1},
    "auto": {"p_autoclip": 0.1, "window": 5},
    "linear_rand_auto": {"p_autoclip": 0.1, "window": 5, "beta": 0.5},
    "quadratic_rand_auto": {"p_autoclip": 0.1, "window": 5, "beta": 0.5},
    "zclip": {"z_threshold": 0.5, "decay": 0.5, "warmup_steps": 2, "max_norm": None},
    "adagc": {"lambda_abs": 0.1, "lambda_rel": 1.5, "decay": 0.5, "warmup_steps": 3},
    "agc": {"clipping_level": 0.1, "eps": 1e-2},
    "uclip": {"clipping_level": 0.1},
}


def many_optimizers():
    found = []
    for kind, several in BASICS.items():
        found += [(kind, settings) for settings in several]
    for name, settings in CHANGED.items():
        found.append((ClippedSGD, {"lr": 0.1, "clipping_type": name, **settings}))
        rule = make_rule(name, **settings)
        found.append((ClippedAdamW, {"lr": 0.02, "clipping_type": rule}))
    return found


def steps_of(kind, settings):
    """The weights after ten steps; the optimizer."""
    model = small_model()
    torch.manual_seed(11)
    optimizer = kind(model.parameters(), **settings)
    for step in range(10):
        set_gradients(model, step)
        optimizer.step()
    return weights(model), optimizer


@pytest.mark.parametrize(("kind", "settings"), many_optimizers(), ids=str)
def test_defaults_rebuild_the_optimizer(kind, settings):
    first, optimizer = steps_of(kind, settings)
    again, rebuilt = steps_of(kind, optimizer.defaults)
    assert same(first, again)
    assert rebuilt.defaults == optimizer.defaults
    # a second time, as by a wrapper in a wrapper
    assert same(first, steps_of(kind, dict(rebuilt.defaults))[0])
    only_lr = {"lr": settings["lr"]} if "lr" in settings else {}
    if settings.keys() - {"lr", "foreach", "fused", "nonfinite"}:
        assert not same(first, steps_of(kind, only_lr)[0])  # the settings do something


def test_defaults_hold_what_to_do_with_a_gradient_that_is_not_finite():
    first = ClippedSGD(small_model().parameters(), nonfinite="raise")
    model = small_model()
    again = ClippedSGD(model.parameters(), **first.defaults)
    set_gradients(model, 0, math.inf)
    with pytest.raises(FloatingPointError):
        again.step()


@pytest.mark.parametrize("settings", MANY, ids=lambda settings: str(settings["clipping_type"]))
def test_groups_hold_of_the_settings_of_clipping_only_the_level(settings):
    optimizer = ClippedSGD(small_model().parameters(), lr=0.1, **settings)
    plain = set(SGD(small_model().parameters()).param_groups[0])
    for group in optimizer.param_groups:
        more = {key for key in group if not key.startswith("clipping_memory_")} - plain
        assert more <= {"clipping_level"}


def test_a_level_that_was_set_is_in_the_defaults():
    optimizer = ClippedSGD(small_model().parameters(), lr=1.0)
    set_clipping_level(optimizer, 0.25)
    model = small_model()
    again = ClippedSGD(model.parameters(), **optimizer.defaults)
    set_gradients(model, 0, 100.0)
    again.step()
    assert float(clip_stats(again).clipped_norm) == pytest.approx(0.25, rel=1e-5)
