"""Every rule keeps the laws that it claims. A new rule is tested by adding one line to LAWS."""

import math
from dataclasses import dataclass

import pytest
import torch

from clipbench.optim import ALIASES, RULES, Auto, CoordinateWise, Gradients, Rule, make_rule, within

# rule → the laws it claims, beside those that hold for all
BOUNDED, IDEMPOTENT, HOMOGENEOUS, STRAIGHT = "‖clip(g)‖ ≤ η", "clip∘clip = clip", "clip(c·g, c·η) = c·clip(g, η)", "direction stays"
LAWS = {
    "none": {IDEMPOTENT, STRAIGHT},
    "norm": {BOUNDED, IDEMPOTENT, HOMOGENEOUS, STRAIGHT},
    "linear_rand_norm": {HOMOGENEOUS, STRAIGHT},
    "quadratic_rand_norm": {HOMOGENEOUS, STRAIGHT},
    "layer_wise": {IDEMPOTENT, HOMOGENEOUS},
    "coordinate_wise": {IDEMPOTENT, HOMOGENEOUS},
    "auto": {STRAIGHT},
    "linear_rand_auto": {STRAIGHT},
    "quadratic_rand_auto": {STRAIGHT},
}
SHAPES = [(4, 3), (4,), (2, 3, 2), ()]


def gradient(seed, scale=1.0):
    rng = torch.Generator().manual_seed(seed)
    return [scale * torch.randn(shape, generator=rng) for shape in SHAPES]


def clip(rule: Rule, grads, state=None, seed=0):
    """clip(g) and the new memory, by the definition of a factor."""
    part = Gradients(g.clone() for g in grads)
    state = rule.init(part) if state is None else state
    factor, state = rule(part, part, state, torch.Generator().manual_seed(seed))
    if factor is None:
        return list(part), state
    factors = [factor] * len(part) if isinstance(factor, torch.Tensor) and factor.ndim == 0 else list(factor)
    return [f * g for f, g in zip(factors, part, strict=True)], state


def norm(grads):
    return math.sqrt(sum(float((g.double() ** 2).sum()) for g in grads))


def claiming(law):
    return [name for name, laws in LAWS.items() if law in laws]


def test_every_rule_is_in_the_list():
    assert LAWS.keys() == RULES.keys()


@pytest.mark.parametrize("name", LAWS)
@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e3])
def test_entries_shrink_and_keep_their_sign(name, scale):
    for seed in range(20):
        grads = gradient(seed, scale)
        clipped, _ = clip(make_rule(name), grads, seed=seed)
        for before, after in zip(grads, clipped, strict=True):
            assert (after * before >= 0).all()
            assert (after.abs() <= before.abs() * (1 + 1e-6)).all()


@pytest.mark.parametrize("name", LAWS)
def test_zero_stays_zero(name):
    clipped, _ = clip(make_rule(name), [torch.zeros(shape) for shape in SHAPES])
    assert norm(clipped) == 0


@pytest.mark.parametrize("name", claiming(BOUNDED))
@pytest.mark.parametrize("level", [0.1, 1.0, 30.0])
def test_norm_after_is_at_most_the_level(name, level):
    for seed in range(20):
        clipped, _ = clip(make_rule(name, clipping_level=level), gradient(seed, 10.0))
        assert norm(clipped) <= level * (1 + 1e-6)


@pytest.mark.parametrize("name", claiming(IDEMPOTENT))
def test_clipping_the_clipped_changes_nothing(name):
    once, _ = clip(make_rule(name), gradient(1, 10.0))
    twice, _ = clip(make_rule(name), once)
    torch.testing.assert_close(twice, once)


@pytest.mark.parametrize("name", claiming(HOMOGENEOUS))
@pytest.mark.parametrize("c", [0.01, 7.0])
def test_scaling_gradient_and_level_together_scales_the_result(name, c):
    small, _ = clip(make_rule(name, clipping_level=0.5), gradient(2))
    large, _ = clip(make_rule(name, clipping_level=0.5 * c), gradient(2, c))
    torch.testing.assert_close(large, [c * g for g in small], rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("name", claiming(STRAIGHT))
def test_direction_stays(name):
    state = None
    for seed in range(30):
        grads = gradient(seed, 10.0 ** (seed % 3 - 1))
        clipped, state = clip(make_rule(name), grads, state, seed)
        flat, after = (torch.cat([g.flatten() for g in part]) for part in (grads, clipped))
        assert torch.cosine_similarity(flat, after, dim=0) > 1 - 1e-6


@pytest.mark.parametrize("name", [name for name in LAWS if "clipping_level" in RULES[name].__dataclass_fields__])
def test_an_infinite_level_is_no_clipping(name):
    grads = gradient(3, 1e4)
    clipped, _ = clip(make_rule(name, clipping_level=math.inf), grads)
    torch.testing.assert_close(clipped, grads, rtol=0, atol=0)


@pytest.mark.parametrize("name", [name for name in LAWS if "p_autoclip" in RULES[name].__dataclass_fields__])
def test_the_largest_norm_as_level_is_no_clipping(name):
    state = None
    for seed in range(10):
        grads = gradient(seed, 10.0 ** (seed % 4))
        clipped, state = clip(make_rule(name, p_autoclip=1), grads, state)
        torch.testing.assert_close(clipped, grads, rtol=0, atol=0)


def test_a_norm_at_the_level_is_left_exactly_alone():
    assert within(2.0, torch.tensor([0.0, 1.9999, 2.0])).tolist() == [1.0, 1.0, 1.0]


@pytest.mark.parametrize("name", LAWS)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_norms_are_summed_in_float32_or_wider(name, dtype):
    grads = Gradients([torch.full((1000,), 60.0, dtype=dtype)])  # its square overflows float16
    assert grads.norm.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    assert float(grads.norm) == pytest.approx(60 * math.sqrt(1000), rel=1e-2)
    factor, _ = make_rule(name)(grads, grads, make_rule(name).init(grads), torch.Generator())
    assert factor is None or torch.isfinite(factor).all()


@pytest.mark.parametrize("alias", ALIASES)
def test_an_alias_is_its_rule(alias):
    assert make_rule(alias) == make_rule(ALIASES[alias])


@pytest.mark.parametrize("level", [5, 5.0, torch.tensor(5.0), __import__("numpy").float32(5), __import__("numpy").int64(5)])
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
@pytest.mark.parametrize("name", LAWS)
def test_a_wrong_setting_is_refused_by_every_type(name, settings, message):
    with pytest.raises(ValueError, match=message):
        make_rule(name, **settings)


def test_a_misspelt_type_gets_the_nearest_name_and_the_list():
    with pytest.raises(ValueError, match=r"Unknown clipping_type 'atuo'\. Did you mean 'auto'\? Known: none, norm, .*'module:Class'"):
        make_rule("atuo")


def test_a_setting_that_a_type_does_not_use_is_checked_and_left_aside():
    assert make_rule("none", clipping_level=3, beta=0.5, p_autoclip=0.1) == make_rule("none")


def test_null_is_the_types_default():
    assert make_rule("coordinate_wise", clipping_level=None) == CoordinateWise(0.1)


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
