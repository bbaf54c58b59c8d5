"""Every rule keeps the contract, and has the properties that it claims.

A new rule is tested by adding one line to CLAIMS.
"""

import math
from dataclasses import dataclass
from functools import partial

import numpy as np
import pytest
import torch
from optim_helpers import IMPLEMENTATIONS
from torch import nn

from clipbench.optim import (
    ALIASES,
    RULES,
    SPAM,
    TIED,
    Auto,
    ClippedAdamW,
    ClippedSGD,
    ClippedSSTM,
    CoordinateWise,
    Gradients,
    Norm,
    StableSPAM,
    ZClip,
    clip_stats,
    make_rule,
    within,
)
from clipbench.optim.laws import (
    BOUNDED,
    CONTRACT,
    HOMOGENEOUS,
    IDEMPOTENT,
    PROPERTIES,
    SHRINKS,
    STRAIGHT,
    clip,
    gradient,
    norm,
)
from clipbench.optim.memory import rule_memories

# rule → the properties it claims, beside the laws that hold for all
CLAIMS = {
    "none": {SHRINKS, IDEMPOTENT, STRAIGHT},
    "norm": {SHRINKS, BOUNDED, IDEMPOTENT, HOMOGENEOUS, STRAIGHT},
    "linear_rand_norm": {SHRINKS, HOMOGENEOUS, STRAIGHT},
    "quadratic_rand_norm": {SHRINKS, HOMOGENEOUS, STRAIGHT},
    "layer_wise": {SHRINKS, IDEMPOTENT, HOMOGENEOUS},
    "coordinate_wise": {SHRINKS, IDEMPOTENT, HOMOGENEOUS},
    "value": {SHRINKS, IDEMPOTENT, HOMOGENEOUS},
    "normalize": {BOUNDED, IDEMPOTENT, STRAIGHT},
    "auto": {SHRINKS, STRAIGHT},
    "linear_rand_auto": {SHRINKS, STRAIGHT},
    "quadratic_rand_auto": {SHRINKS, STRAIGHT},
    "zclip": {SHRINKS, IDEMPOTENT, STRAIGHT},
    "adagc": {SHRINKS, IDEMPOTENT},
    "agc": {SHRINKS, IDEMPOTENT, HOMOGENEOUS},
    "uclip": {BOUNDED, HOMOGENEOUS},
    "block_rms": set(),  # it acts on the update
}
MAKE = {name: partial(make_rule, name) for name in CLAIMS}


def test_every_rule_is_in_the_list():
    assert CLAIMS.keys() == (RULES | TIED).keys()


@pytest.mark.parametrize("law", CONTRACT)
@pytest.mark.parametrize("name", CLAIMS)
def test_the_contract_of_every_rule(name, law):
    CONTRACT[law](MAKE[name])


CLAIMED = [(name, law) for name, laws in CLAIMS.items() for law in sorted(laws)]


@pytest.mark.parametrize(("name", "law"), CLAIMED)
def test_what_a_rule_claims(name, law):
    PROPERTIES[law](MAKE[name])


@pytest.mark.parametrize("law", [SHRINKS, BOUNDED, HOMOGENEOUS, STRAIGHT])
def test_the_smooth_form_of_normalize_shrinks_all_a_little(law):
    PROPERTIES[law](partial(make_rule, "normalize", smooth=True))


@pytest.mark.parametrize("name", [name for name, rule in RULES.items() if issubclass(rule, Auto)])
def test_the_largest_norm_as_level_is_no_clipping(name):
    state = None
    for seed in range(10):
        grads = gradient(seed, 10.0 ** (seed % 4))
        clipped, state = clip(make_rule(name, p_autoclip=1), grads, state)
        torch.testing.assert_close(clipped, grads, rtol=0, atol=0)


def test_a_norm_at_the_level_is_left_exactly_alone():
    assert within(2.0, torch.tensor([0.0, 1.9999, 2.0])).tolist() == [1.0, 1.0, 1.0]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_norms_are_summed_in_float32_or_wider(dtype):
    grads = Gradients([torch.full((1000,), 60.0, dtype=dtype)])  # its square overflows float16
    assert grads.norm.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    assert float(grads.norm) == pytest.approx(60 * math.sqrt(1000), rel=1e-2)


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize(
    "dtypes",
    [(torch.float32, torch.float64), (torch.bfloat16, torch.float32), (torch.float16, torch.float64)],
)
@pytest.mark.parametrize("name", RULES)
def test_gradients_of_several_types_are_clipped_as_those_of_one(name, dtypes, implementation):
    found = []
    for pair in (dtypes, (torch.float64, torch.float64)):
        params = [nn.Parameter(torch.ones(3, dtype=dtype)) for dtype in pair]
        optimizer = ClippedSGD(params, lr=1.0, clipping_type=name, **IMPLEMENTATIONS[implementation])
        for size in (1.0, 64.0):
            for p, entries in zip(params, ([3.0, 0.0, -1.0], [0.0, 4.0, 1.0]), strict=True):
                p.grad = size * torch.tensor(entries, dtype=p.dtype)
            optimizer.step()
        found.append(torch.cat([p.detach().double() for p in params]))
    torch.testing.assert_close(*found, rtol=2e-2, atol=2e-2)


@pytest.mark.parametrize("name", ["auto", "linear_rand_auto", "quadratic_rand_auto"])
def test_a_float64_norm_is_no_larger_than_itself(name):
    grads = [torch.tensor([0.1, 0.7], dtype=torch.float64)]
    clipped, _ = clip(make_rule(name, p_autoclip=1), grads)
    assert torch.equal(clipped[0], grads[0])


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize("name", RULES)
def test_a_norm_beyond_float32_is_skipped_and_forgotten(name, implementation):
    p = nn.Parameter(torch.zeros(2, dtype=torch.float64))
    optimizer = ClippedSGD([p], lr=1.0, clipping_type=name, **IMPLEMENTATIONS[implementation])
    for value in (0.1, 1e100, 0.1):
        before, p.grad = p.detach().clone(), torch.full((2,), value, dtype=torch.float64)
        optimizer.step()
        assert torch.equal(p, before) == (value > 1)
        assert (float(clip_stats(optimizer).clipped_norm) == 0) == (value > 1)
    assert int(clip_stats(optimizer).skipped) == 1
    for key, entry in rule_memories(optimizer.param_groups, optimizer.state).items():
        if key in ("norms", "ranked"):  # whose empty places are infinite
            assert int(entry.isfinite().sum()) == 2
        else:
            assert all(torch.isfinite(item).all() for item in as_list(entry))


def as_list(entry):
    return [entry] if isinstance(entry, torch.Tensor) else entry


@pytest.mark.parametrize("start", [0, 10])
def test_zclip_forgets_a_norm_of_its_warm_up_whose_square_overflows(start):
    memories = []
    for spike in (True, False):
        p = nn.Parameter(torch.zeros(1, dtype=torch.float64))
        optimizer = ClippedSGD([p], lr=1.0, clipping_type="zclip")
        for step in range(40):
            if spike and step == start:
                before, p.grad = p.item(), torch.tensor([1e30], dtype=torch.float64)
                optimizer.step()
                assert before - p.item() == pytest.approx(1.0)
            p.grad = torch.tensor([0.5 + 0.1 * (step % 2)], dtype=torch.float64)
            optimizer.step()
        memories.append(rule_memories(optimizer.param_groups, optimizer.state))
    assert memories[0] == memories[1]


def test_a_level_that_float16_cannot_hold_clips_nothing_of_it():
    grads = [torch.tensor([6e4, -1.0], dtype=torch.float16), torch.tensor([1e6, -1e6])]
    clipped, _ = clip(make_rule("coordinate_wise", clipping_level=1e5), grads)
    assert [c.tolist() for c in clipped] == [grads[0].tolist(), [1e5, -1e5]]


def test_uclip_keeps_what_half_precision_would_lose():
    """1/128 more at each step beside a carry of 4, where bfloat16's numbers are 1/32 apart."""
    state, cut = None, 0.0
    for value in [5.0] + [1 + 1 / 128] * 400:
        g = torch.tensor([value], dtype=torch.bfloat16)
        (u,), state = clip(make_rule("uclip"), [g], state)
        cut += float(g) - float(u)
    assert cut == pytest.approx(4 + 400 / 128)
    assert float(state["carry"][0]) == pytest.approx(cut)


@pytest.mark.parametrize("alias", ALIASES)
def test_an_alias_is_its_rule(alias):
    assert make_rule(alias) == make_rule(ALIASES[alias])


@pytest.mark.parametrize("level", [5, 5.0, torch.tensor(5.0), np.float32(5), np.int64(5)])
def test_any_number_is_a_level(level):
    assert make_rule("norm", clipping_level=level).clipping_level == 5.0


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"clipping_level": 0}, "clipping_level must be above 0, got 0"),
        ({"clipping_level": -1}, "clipping_level must be above 0"),
        ({"clipping_level": float("nan")}, "clipping_level must be above 0"),
        ({"clipping_level": "1"}, "clipping_level must be a number"),
        ({"clipping_level": True}, "clipping_level must be a number"),
        ({"p_autoclip": 1.5}, "p_autoclip is a fraction"),
        ({"p_autoclip": 0}, "p_autoclip is a fraction"),
        ({"beta": 0}, "beta must lie strictly between 0 and 1"),
        ({"beta": 1}, "beta must lie strictly between 0 and 1"),
        ({"window": 0}, "window must be a whole number"),
        ({"clipping_levle": 1}, "Did you mean 'clipping_level'"),
        ({"momentum": 0.9}, "Unknown setting 'momentum'"),
    ],
)
@pytest.mark.parametrize("name", CLAIMS)
def test_a_wrong_setting_is_refused_by_every_type(name, settings, message):
    with pytest.raises(ValueError, match=message):
        make_rule(name, **settings)


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        ("zclip", {"decay": 1}, "decay must be at least 0 and below 1"),
        ("zclip", {"warmup_steps": 0}, "warmup_steps must be a whole number"),
        ("zclip", {"max_norm": 0}, "max_norm must be above 0"),
        ("adagc", {"lambda_rel": -1}, "lambda_rel must be above 0"),
        ("normalize", {"smooth": 1}, "smooth must be true or false"),
        ("normalize", {"eps": 0}, "eps must be above 0"),
        ("agc", {"eps": math.inf}, "eps must be above 0 and finite"),
        ("norm", {"decay": 0.9}, "Unknown setting 'decay' of clipping_type 'norm'"),
    ],
)
def test_a_wrong_setting_of_its_own_is_refused(name, settings, message):
    with pytest.raises(ValueError, match=message):
        make_rule(name, **settings)


def test_a_misspelt_type_gets_the_nearest_name_and_the_list():
    with pytest.raises(
        ValueError,
        match=r"Unknown clipping_type 'atuo'\. Did you mean 'auto'\? Known: none, norm, .*'module:Class'",
    ):
        make_rule("atuo")


def test_a_setting_that_a_type_does_not_use_is_checked_and_left_aside():
    assert make_rule("none", clipping_level=3, beta=0.5, p_autoclip=0.1) == make_rule("none")


def test_null_is_the_types_default():
    assert make_rule("coordinate_wise", clipping_level=None) == CoordinateWise(0.1)


def test_zclip_without_a_second_bound():
    for rule in (
        ZClip(max_norm=None),
        make_rule("zclip", max_norm=None),
        ClippedSGD([nn.Parameter(torch.zeros(1))], clipping_type="zclip", max_norm=None).clipping.rule,
    ):
        assert rule == ZClip(max_norm=math.inf)
        clipped, _ = clip(rule, [torch.tensor([300.0, 400.0])])
        assert norm(clipped) == 500


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("zclip", {"decay": None}),
        ("normalize", {"smooth": None}),
        ("agc", {"eps": None}),
        ("norm", {"wieght_decay": None}),
    ],
)
def test_an_explicit_none_is_no_default_of_a_setting_of_its_own(name, settings):
    with pytest.raises(ValueError, match=next(iter(settings))):
        make_rule(name, **settings)


@pytest.mark.parametrize("cls", [ClippedSGD, ClippedAdamW, SPAM, StableSPAM, ClippedSSTM])
def test_settings_beside_a_rule_are_refused(cls):
    for settings in ({"clipping_level": 5}, {"wieght_decay": 0.1}, {"wieght_decay": None}, {"beta": 0.5}):
        with pytest.raises(
            ValueError, match=rf"{next(iter(settings))}=.* beside clipping_type=Norm\(clipping_level=1.0\)"
        ):
            cls([nn.Parameter(torch.zeros(1))], clipping_type=Norm(1.0), **settings)
    cls(
        [nn.Parameter(torch.zeros(1))],
        clipping_type=Norm(1.0),
        **({} if cls in (SPAM, StableSPAM) else {"clipping_level": None}),
    )


def test_a_rule_of_ones_own_is_found_by_module_and_class(tmp_path, monkeypatch):
    (tmp_path / "my_rule_file.py").write_text(
        "from dataclasses import dataclass\nfrom clipbench.optim import Rule\n\n"
        "@dataclass(frozen=True)\nclass Smooth(Rule):\n    clipping_level: float = 1.0\n"
        "    def __call__(self, grads, params, state, rng):\n"
        "        return self.clipping_level / (self.clipping_level + grads.norm), state\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    rule = make_rule("my_rule_file:Smooth", clipping_level=3, beta=0.5)
    clipped, _ = clip(rule, [torch.tensor([3.0, 4.0])])
    torch.testing.assert_close(clipped, [torch.tensor([3.0, 4.0]) * 3 / 8])
    with pytest.raises(ValueError, match=r"'Smoth' in my_rule_file must be a dataclass that inherits"):
        make_rule("my_rule_file:Smoth")
    with pytest.raises(ValueError, match="there is no module 'nowhere'"):
        make_rule("nowhere:Smooth")


def test_the_memory_of_auto_has_the_size_it_states():
    @dataclass(frozen=True)
    class Small(Auto):
        window: int = 100

    state = Small().init([torch.zeros(3)])
    assert sum(t.numel() * t.element_size() for name, t in state.items() if name != "count") == 8 * 100
