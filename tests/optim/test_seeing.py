"""What one can see of the clipping: repr, clip_stats, and the warning of a step inside backward."""

import copy
import math
import pickle
import warnings

import numpy as np
import pytest
import torch
from conftest import set_gradients, small_model
from optim_helpers import CLASSES, IMPLEMENTATIONS, pairs_of
from torch import nn

from clipbench.optim import (
    RULES,
    TIED,
    ClippedAdamW,
    ClippedSGD,
    ClippedSSTM,
    Lion,
    Norm,
    clip_gradients,
    clip_stats,
    make_rule,
    set_clipping_level,
)
from clipbench.optim.laws import Waits

FIELDS = ("grad_norm", "clipped_norm", "clip_factor", "clipping_level", "share_clipped", "skipped")
EVERY_RULE = [*RULES, *TIED]


def optimizer_of(name, model, **settings):
    """ClippedAdamW, which goes with every rule."""
    torch.manual_seed(2)
    return ClippedAdamW(model.parameters(), clipping_type=name, **settings)


def norm_of(model):
    return float(torch.cat([p.grad.double().flatten() for p in model.parameters()]).norm())


def numbers(stats):
    return [float(getattr(stats, name)) for name in FIELDS]


class Numbers:
    """An optimizer of one weight whose gradient is a given number."""

    def __init__(self, cls=ClippedSGD, **settings):
        self.p = nn.Parameter(torch.zeros(1))
        torch.manual_seed(2)
        self.optimizer = cls([self.p], **{"lr": 0.0, **settings})

    def step(self, value):
        self.p.grad = torch.tensor([float(value)])
        self.optimizer.step()
        return clip_stats(self.optimizer)


# repr


@pytest.mark.parametrize(("name", "kind"), pairs_of(list(RULES)))
def test_repr_says_the_rule_and_not_its_memory(name, kind):
    cls, settings = CLASSES[kind]
    model = small_model()
    optimizer = cls(model.parameters(), clipping_type=name, nonfinite="raise", **settings)
    rule = make_rule(name)
    for step in range(3):
        text = repr(optimizer)
        if kind != "stable_spam":  # there it is one of a chain, or not at all
            assert repr(rule) in text
        elif rule.clips:
            assert type(rule).__name__ in text
        assert text.startswith(f"{cls.__name__} (")
        assert "lr: " in text
        assert f"lr: {settings['lr']}" in text
        assert "nonfinite='raise'" in text or "nonfinite: raise" in text
        assert "clipping_memory_" not in text
        assert "tensor(" not in text
        assert len(text) < 2000
        set_gradients(model, step)
        optimizer.step()


def test_repr_says_the_level_that_was_set():
    optimizer = ClippedSGD(small_model().parameters())
    assert "clipping_level=1.0" in repr(optimizer)
    set_clipping_level(optimizer, 0.125)
    assert "clipping_level=0.125" in repr(optimizer)
    assert "1.0" not in repr(optimizer).split("clipping_level")[-1]


def test_repr_shows_every_group_and_changes_nothing():
    model = small_model()
    params = list(model.parameters())
    groups = [{"params": params[:2]}, {"params": params[2:], "lr": 0.5, "clipping_level": math.inf}]
    optimizer = ClippedSGD(groups, clipping_type="norm")
    set_gradients(model, 0)
    optimizer.step()
    before = [dict(group) for group in optimizer.param_groups]
    text = repr(optimizer)
    assert "Parameter Group 1" in text
    assert "clipping_level: inf" in text
    assert [list(group) for group in optimizer.param_groups] == [list(group) for group in before]
    for group, old in zip(optimizer.param_groups, before, strict=True):
        assert all(group[key] is old[key] for key in old)


# clip_stats: the numbers


def test_before_the_first_step_there_are_no_numbers_and_no_error():
    for name in EVERY_RULE:
        optimizer = optimizer_of(name, small_model())
        stats = clip_stats(optimizer)
        for field in ("grad_norm", "clipped_norm", "clip_factor", "share_clipped"):
            assert math.isnan(getattr(stats, field)), field
        assert int(stats.skipped) == 0


@pytest.mark.parametrize("name", EVERY_RULE)
def test_every_number_is_a_plain_tensor_without_dimensions(name):
    model = small_model()
    optimizer = optimizer_of(name, model)
    for step in range(3):
        stats = clip_stats(optimizer)
        for field in FIELDS:
            value = getattr(stats, field)
            assert type(value) is torch.Tensor, field
            assert value.shape == (), field
            assert not value.requires_grad, field
        set_gradients(model, step)
        optimizer.step()


def formula(name, level, grads):
    """The clipped gradient, in float64."""
    whole = math.sqrt(sum(float((g**2).sum()) for g in grads))
    if name == "none":
        return grads
    if name == "norm":
        return [g * min(1.0, level / whole) for g in grads]
    if name == "layer_wise":
        return [g * min(1.0, level / float(g.norm())) for g in grads]
    return [g.clamp(-level, level) for g in grads]


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize("zero", ["not", "to_none", "to_zero"])
@pytest.mark.parametrize("name", ["none", "norm", "layer_wise", "coordinate_wise", "value"])
def test_norms_and_factor_are_those_of_the_formulas_also_after_zero_grad(name, zero, implementation):
    level = 0.1
    model = small_model()
    settings = {} if name == "none" else {"clipping_level": level}
    optimizer = ClippedSGD(
        model.parameters(), lr=0.1, clipping_type=name, **settings, **IMPLEMENTATIONS[implementation]
    )
    clipped = 0
    for step in range(5):
        set_gradients(model, step, 0.1)
        grads = [p.grad.double() for p in model.parameters()]
        before = norm_of(model)
        parts = [float((g**2).sum()) for g in formula(name, level, grads)]
        after = math.sqrt(sum(parts))
        clipped += after < before * (1 - 1e-6)
        optimizer.step()
        if zero != "not":
            optimizer.zero_grad(set_to_none=zero == "to_none")
        stats = clip_stats(optimizer)
        assert float(stats.grad_norm) == pytest.approx(before, rel=1e-5)
        assert float(stats.clipped_norm) == pytest.approx(after, rel=1e-5)
        assert float(stats.clip_factor) == pytest.approx(after / before, rel=1e-5)
        assert float(stats.share_clipped) == pytest.approx(clipped / (step + 1))
        assert int(stats.skipped) == 0
    assert (0 < clipped < 5) == (name != "none")


@pytest.mark.parametrize("name", EVERY_RULE)
def test_nothing_depends_on_when_it_is_read(name):
    """Before or after zero_grad, once or twice, and whether the gradient was changed since."""

    def read(zero):
        model = small_model()
        optimizer = optimizer_of(name, model)
        found = []
        for step in range(4):
            set_gradients(model, step, 10.0)
            optimizer.step()
            if zero:
                optimizer.zero_grad()
            else:
                for p in model.parameters():
                    p.grad.mul_(100)
            found.append(numbers(clip_stats(optimizer)))
            assert found[-1] == pytest.approx(numbers(clip_stats(optimizer)), nan_ok=True)
        return found

    for one, other in zip(read(True), read(False), strict=True):
        assert one == pytest.approx(other, nan_ok=True)


@pytest.mark.parametrize("name", EVERY_RULE)
def test_the_clipped_norm_is_that_of_the_gradient_that_the_step_took(name):
    """With SGD at lr 1, the step itself; block_rms acts on the update and is left out."""
    if name in TIED:
        pytest.skip("acts on the update")
    model = small_model().double()
    torch.manual_seed(2)
    optimizer = ClippedSGD(model.parameters(), lr=1.0, clipping_type=name)
    for step in range(5):
        set_gradients(model, step, 3.0, torch.float64)
        before = norm_of(model)
        old = torch.cat([p.detach().flatten() for p in model.parameters()])
        optimizer.step()
        moved = float((torch.cat([p.detach().flatten() for p in model.parameters()]) - old).norm())
        stats = clip_stats(optimizer)
        assert float(stats.grad_norm) == pytest.approx(before, rel=1e-5)
        assert float(stats.clipped_norm) == pytest.approx(moved, rel=1e-5)
        assert float(stats.clip_factor) == pytest.approx(moved / before, rel=1e-5)


def test_a_gradient_of_zeros_has_factor_one():
    stats = Numbers().step(0.0)
    assert (float(stats.grad_norm), float(stats.clipped_norm)) == (0.0, 0.0)
    assert float(stats.clip_factor) == 1.0


@pytest.mark.parametrize("name", ["norm", "layer_wise", "coordinate_wise", "auto"])
def test_the_share_is_over_the_last_hundred_steps(name):
    """250 gradients, above the level or not by a coin."""
    rng = np.random.default_rng(0)
    settings = {"p_autoclip": 0.5} if name == "auto" else {"clipping_level": 1.0}
    one = Numbers(clipping_type=name, **settings)
    clipped, values = [], []
    for step in range(250):
        values.append(float(np.float32(rng.exponential(1.5))))
        level = np.quantile(values, 0.5) if name == "auto" else 1.0
        clipped.append(values[-1] > level * (1 + 1e-5))
        stats = one.step(values[-1])
        if step in (0, 1, 30, 99, 100, 150, 249):
            assert float(stats.share_clipped) == pytest.approx(np.mean(clipped[-100:]), abs=1e-6)
    assert 0.2 < np.mean(clipped) < 0.8


def test_the_share_forgets_what_is_older():
    one = Numbers(clipping_level=1.0)
    for _ in range(100):
        stats = one.step(5.0)
    assert float(stats.share_clipped) == 1.0
    for count in range(1, 101):
        stats = one.step(0.5)
        assert float(stats.share_clipped) == pytest.approx((100 - count) / 100)


@pytest.mark.parametrize("value", [1.0, 0.1, 0.3, 7.0])
def test_a_norm_at_the_level_is_not_clipped(value):
    stats = Numbers(clipping_level=value).step(value)
    assert float(stats.share_clipped) == 0.0


@pytest.mark.parametrize("p", [0.1, 0.5, 0.75])
@pytest.mark.parametrize("name", ["auto", "linear_rand_auto", "quadratic_rand_auto"])
def test_the_level_of_auto_is_the_quantile_of_the_norms(name, p):
    rng = np.random.default_rng(1)
    values = np.abs(rng.standard_cauchy(60)).astype(np.float32)
    one = Numbers(clipping_type=name, p_autoclip=p, window=20)
    for step, value in enumerate(values):
        stats = one.step(value)
        expected = np.quantile(values[max(0, step - 19) : step + 1].astype(float), p)
        assert float(stats.clipping_level) == pytest.approx(expected, rel=1e-4)
    # and after a load and a copy
    again = Numbers(clipping_type=name, p_autoclip=p, window=20)
    again.optimizer.load_state_dict(one.optimizer.state_dict())
    for optimizer in (again.optimizer, copy.deepcopy(one.optimizer)):
        assert float(clip_stats(optimizer).clipping_level) == pytest.approx(expected, rel=1e-4)


def test_the_level_of_types_that_have_one_and_of_those_that_have_none():
    for name in ("norm", "linear_rand_norm", "quadratic_rand_norm", "normalize", "uclip"):
        one = Numbers(clipping_type=name, clipping_level=0.25)
        assert float(clip_stats(one.optimizer).clipping_level) == 0.25  # known before the first step
        assert float(one.step(3.0).clipping_level) == 0.25
        set_clipping_level(one.optimizer, 0.5)
        assert float(one.step(3.0).clipping_level) == 0.5
    assert float(Numbers(clipping_type="none").step(3.0).clipping_level) == math.inf
    assert float(Numbers(clipping_level=math.inf).step(3.0).clipping_level) == math.inf
    assert math.isnan(Numbers(clipping_type="adagc").step(3.0).clipping_level)  # one for each tensor


def test_the_level_of_sstm_is_that_of_the_step():
    """λ_{k+1} = B/α_{k+1} with α_{k+1} = (k+1)·lr/(2L)."""
    one = Numbers(ClippedSSTM, lr=1.0, L=1.0, clipping_level=2.0)
    for k in range(4):
        alpha = (k + 1) / 2
        stats = one.step(1000.0)
        assert float(stats.clipped_norm) == pytest.approx(2.0 / alpha, rel=1e-5)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
@pytest.mark.parametrize("name", EVERY_RULE)
def test_a_skipped_step_is_counted_and_has_no_length(name, bad):
    model = small_model()
    optimizer = optimizer_of(name, model)
    for step in range(6):
        set_gradients(model, step)
        if step in (0, 3):
            next(model.parameters()).grad[0, 0] = bad
        optimizer.step()
        stats = clip_stats(optimizer)
        assert int(stats.skipped) == 1 + (step >= 3)
        if step in (0, 3):
            assert not math.isfinite(stats.grad_norm)
            assert float(stats.clipped_norm) == 0.0
            assert float(stats.clip_factor) == 0.0
        else:
            assert float(stats.grad_norm) > 0
            assert 0 <= float(stats.share_clipped) <= 1


@pytest.mark.parametrize("name", EVERY_RULE)
def test_it_never_raises_for_an_optimizer_that_clips(name):
    """After a load, a copy, a pickle, a step without any gradient, a group that has just come."""
    model = small_model()
    optimizer = optimizer_of(name, model)
    optimizer.step()  # nothing has a gradient
    numbers(clip_stats(optimizer))
    for step in range(3):
        set_gradients(model, step)
        optimizer.step()
    fresh = optimizer_of(name, small_model())
    fresh.load_state_dict(optimizer.state_dict())
    numbers(clip_stats(fresh))
    numbers(clip_stats(copy.deepcopy(optimizer)))
    numbers(clip_stats(pickle.loads(pickle.dumps(optimizer))))
    optimizer.add_param_group({"params": [nn.Parameter(torch.zeros(2))]})
    numbers(clip_stats(optimizer))
    optimizer.zero_grad()
    optimizer.step()
    numbers(clip_stats(optimizer))


def test_the_count_of_skipped_steps_is_in_the_checkpoint():
    one, again = Numbers(), Numbers()
    for value in (math.nan, 1.0, math.inf):
        one.step(value)
    again.optimizer.load_state_dict(one.optimizer.state_dict())
    assert int(clip_stats(again.optimizer).skipped) == 2
    assert int(again.step(math.nan).skipped) == 3


def test_what_was_read_does_not_change_with_later_steps():
    one = Numbers(clipping_level=1.0)
    first = one.step(4.0)
    one.step(0.5)
    one.step(math.nan)
    assert numbers(first) == pytest.approx([4.0, 1.0, 0.25, 1.0, 1.0, 0.0])


def test_torchs_optimizers_joined_and_not():
    model = small_model()
    optimizer = torch.optim.RMSprop(model.parameters())
    for bare in (optimizer, Lion(model.parameters())):
        with pytest.raises(RuntimeError, match="clip"):
            clip_stats(bare)
    clip_gradients(optimizer, Norm(0.5))
    assert math.isnan(clip_stats(optimizer).grad_norm)
    set_gradients(model, 0, 100.0)
    before = norm_of(model)
    optimizer.step()
    optimizer.zero_grad()
    stats = clip_stats(optimizer)
    assert float(stats.grad_norm) == pytest.approx(before, rel=1e-5)
    assert float(stats.clipped_norm) == pytest.approx(0.5, rel=1e-5)


def test_the_norms_are_over_all_groups_exempt_ones_too():
    params = [nn.Parameter(torch.zeros(1)) for _ in range(3)]
    groups = [
        {"params": params[:1]},
        {"params": params[1:2], "clipping_level": math.inf},
        {"params": params[2:], "clipping_level": 2.0},
    ]
    optimizer = ClippedSGD(groups, clipping_level=1.0)
    for p, value in zip(params, (3.0, 4.0, 12.0), strict=True):
        p.grad = torch.tensor([value])
    optimizer.step()
    stats = clip_stats(optimizer)
    assert float(stats.grad_norm) == pytest.approx(13.0, rel=1e-5)
    assert float(stats.clipped_norm) == pytest.approx(math.sqrt(1 + 16 + 4), rel=1e-5)
    assert float(stats.clip_factor) == pytest.approx(math.sqrt(21) / 13, rel=1e-5)
    assert float(stats.share_clipped) == 1.0


# nothing waits until it is read


@pytest.mark.parametrize("kept", [False, True], ids=["asked_for", "kept"])
@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize("name", EVERY_RULE)
def test_to_ask_waits_for_nothing(name, implementation, kept):
    """Also many steps' of it, kept to be read at the end."""

    def waits(ask):
        model = small_model()
        optimizer = optimizer_of(name, model, **IMPLEMENTATIONS[implementation])
        found = []
        set_gradients(model, 0)
        optimizer.step()
        with Waits() as counter:
            for step in range(1, 5):
                set_gradients(model, step)
                optimizer.step()
                optimizer.zero_grad()
                if ask:
                    stats = clip_stats(optimizer)
                    found.append([getattr(stats, field) for field in FIELDS])
                    found = found if kept else found[-1:]
        return counter.count, found

    without, _ = waits(ask=False)
    with_it, found = waits(ask=True)
    assert with_it == without
    with Waits() as counter:
        for value in found[-1]:
            float(value)
    assert counter.count >= 1  # to read it is to wait


def test_before_the_first_step_to_ask_waits_for_nothing_either():
    optimizer = ClippedSGD(small_model().parameters(), clipping_type="auto")
    with Waits() as counter:
        stats = clip_stats(optimizer)
        for field in FIELDS:
            getattr(stats, field)
    assert counter.count == 0


# a step inside of backward


def backwards(name, count=3, one_for_each=False, settings=None):
    """The warnings of steps made inside backward, as soon as a parameter's gradient is there."""
    model = small_model()
    settings = {"lr": 0.01, "clipping_type": name, **(settings or {})}
    found = {}
    if one_for_each:
        for p in model.parameters():
            found[p] = ClippedSGD([p], **settings)
    else:
        common = ClippedSGD(model.parameters(), **settings)
        found = dict.fromkeys(model.parameters(), common)

    def step(p):
        found[p].step()
        found[p].zero_grad()

    for p in model.parameters():
        p.register_post_accumulate_grad_hook(step)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for _ in range(count):
            model(torch.ones(4, 6)).square().sum().backward()
    return [warning for warning in caught if issubclass(warning.category, UserWarning)]


ABOUT_ALL = [
    "norm",
    "normalize",
    "linear_rand_norm",
    "quadratic_rand_norm",
    "auto",
    "linear_rand_auto",
    "quadratic_rand_auto",
    "zclip",
    "adagc",
    "uclip",
]


@pytest.mark.parametrize("name", ABOUT_ALL)
def test_a_step_inside_backward_warns_once_where_the_whole_gradient_is_meant(name):
    caught = backwards(name)
    assert len(caught) == 1
    text = str(caught[0].message)
    assert "backward" in text
    assert "layer_wise" in text  # what would be right there


@pytest.mark.parametrize("name", ["none", "layer_wise", "coordinate_wise", "value", "agc"])
def test_it_does_not_warn_where_each_tensor_or_entry_is_by_itself(name):
    assert not backwards(name)
    assert not backwards(name, one_for_each=True)


def test_an_infinite_level_does_not_warn():
    assert not backwards("norm", settings={"clipping_level": math.inf})


def test_an_optimizer_for_each_parameter_warns_and_not_again_at_every_backward():
    first = len(backwards("norm", count=1, one_for_each=True))
    assert 1 <= first <= 4
    assert len(backwards("norm", count=3, one_for_each=True)) == first


def test_steps_elsewhere_do_not_warn():
    """After backward, in a closure, under no_grad; in a thread that is none of autograd's."""
    model = small_model()
    optimizer = ClippedSGD(model.parameters(), lr=0.01)

    def closure():
        optimizer.zero_grad()
        loss = model(torch.ones(4, 6)).square().sum()
        loss.backward()
        return loss

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        closure()
        optimizer.step()
        optimizer.step(closure)
        with torch.no_grad():
            optimizer.step()
        # an accumulating hook that steps nothing
        for p in model.parameters():
            p.register_post_accumulate_grad_hook(lambda p: None)
        closure()
        optimizer.step()
