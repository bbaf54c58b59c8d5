"""What a join owes its user: it goes with everything that people do to a torch optimizer."""

import copy
import io
import math
import pickle

import pytest
import torch
from conftest import set_gradients, small_model, weights
from torch import nn

from clipbench.optim import (
    RULES,
    SPAM,
    TIED,
    ClippedAdam,
    ClippedAdamW,
    ClippedSGD,
    Norm,
    StableSPAM,
    clip_gradients,
    clip_stats,
    make_rule,
)

CLASSES = {
    "sgd": (ClippedSGD, {"lr": 0.1, "momentum": 0.9}),
    "adam": (ClippedAdam, {"lr": 0.01}),
    "adamw": (ClippedAdamW, {"lr": 0.01}),
    "spam": (SPAM, {"lr": 0.01}),
    "stable_spam": (StableSPAM, {"lr": 0.01}),
}
PAIRS = [(name, kind) for kind in CLASSES for name in RULES] + [
    (name, kind) for kind in ("adam", "adamw") for name in TIED
]
IMPLEMENTATIONS = {
    "fused": {"fused": True},
    "foreach": {"foreach": True},
    "loop": {"foreach": False, "fused": False},
}


def steps(model, optimizer, numbers, scale=1.0):
    for number in numbers:
        set_gradients(model, number, scale)
        optimizer.step()
    return weights(model)


def saved(state_dict):
    """Through a file, read back without arbitrary code."""
    buffer = io.BytesIO()
    torch.save(state_dict, buffer)
    buffer.seek(0)
    return torch.load(buffer, weights_only=True)


@pytest.mark.parametrize("name", ["norm", "auto", "linear_rand_norm", "layer_wise"])
@pytest.mark.parametrize(
    "twin", [copy.deepcopy, lambda pair: pickle.loads(pickle.dumps(pair))], ids=["deepcopy", "pickle"]
)
@pytest.mark.parametrize("kind", CLASSES)
def test_a_copied_optimizer_still_clips(name, twin, kind):
    cls, keywords = CLASSES[kind]
    model = small_model()
    optimizer = cls(model.parameters(), clipping_type=name, **keywords)
    steps(model, optimizer, range(5))
    model_2, optimizer_2 = twin((model, optimizer))
    expected = steps(model, optimizer, range(5, 10), 10.0)
    assert all(
        torch.equal(a, b)
        for a, b in zip(steps(model_2, optimizer_2, range(5, 10), 10.0), expected, strict=True)
    )


def test_the_norm_is_over_all_groups_and_a_group_with_its_own_level_is_normed_alone():
    a, b, c = (nn.Parameter(torch.zeros(1)) for _ in range(3))
    optimizer = ClippedSGD(
        [{"params": [a]}, {"params": [b], "lr": 2.0}, {"params": [c], "clipping_level": 0.5}],
        lr=1.0,
        clipping_level=1,
    )
    for p, value in ((a, 3.0), (b, 4.0), (c, 7.0)):
        p.grad = torch.full((1,), value)
    optimizer.step()
    assert [round(p.item(), 5) for p in (a, b, c)] == [-0.6, -1.6, -0.5]
    stats = clip_stats(optimizer)
    assert float(stats.grad_norm) == pytest.approx(math.sqrt(9 + 16 + 49))
    assert float(stats.clipped_norm) == pytest.approx(math.sqrt(1 + 0.25))


def test_a_group_that_misspells_its_level_is_refused():
    with pytest.raises(ValueError, match="Unknown key 'cliping_level' in a parameter group"):
        ClippedSGD([{"params": [nn.Parameter(torch.zeros(1))], "cliping_level": 1}])
    with pytest.raises(ValueError, match="Auto has none"):
        ClippedSGD([{"params": [nn.Parameter(torch.zeros(1))], "clipping_level": 1}], clipping_type="auto")
    with pytest.raises(ValueError, match="must be above 0"):
        ClippedSGD([{"params": [nn.Parameter(torch.zeros(1))], "clipping_level": 0}])


def test_one_coin_per_step_whatever_the_groups():
    params = [nn.Parameter(torch.zeros(1)) for _ in range(6)]
    groups = [{"params": [p], "clipping_level": 1.0} for p in params]
    optimizer = ClippedSGD(groups, lr=1.0, clipping_type="linear_rand_norm", beta=0.5)
    outcomes = set()
    for _ in range(50):
        for p in params:
            p.grad = torch.full((1,), 10.0)
        optimizer.step()
        clipped = {round(p.grad.item(), 4) for p in params}
        assert len(clipped) == 1
        outcomes |= clipped
    assert outcomes == {1.0, 10.0}


@pytest.mark.parametrize("last", [math.inf, 0.5])
def test_an_exempt_group_does_not_hold_the_coins_still(last):
    a, b = nn.Parameter(torch.zeros(1)), nn.Parameter(torch.zeros(1))
    groups = [{"params": [a]}, {"params": [b], "clipping_level": last}]
    optimizer = ClippedSGD(groups, lr=1.0, clipping_type="linear_rand_norm", beta=0.5)
    outcomes = []
    for _ in range(60):
        a.grad, b.grad = torch.full((1,), 10.0), torch.full((1,), 10.0)
        optimizer.step()
        outcomes.append(round(a.grad.item(), 4))
    assert set(outcomes) == {1.0, 10.0}


def test_a_checkpoint_loads_where_the_first_group_is_empty():
    def build(p):
        return ClippedSGD([{"params": []}, {"params": [p]}], lr=0.1, clipping_type="auto")

    optimizer = build(p := nn.Parameter(torch.zeros(2)))
    p.grad = torch.ones(2)
    optimizer.step()
    other = build(nn.Parameter(torch.zeros(2)))
    other.load_state_dict(saved(optimizer.state_dict()))
    assert int(other.state["clipping"]["rules"]["all"]["count"]) == 1


@pytest.mark.parametrize(
    ("before", "after"),
    [((None, None), (math.inf, None)), ((0.5, None), (None, None)), ((None,), (0.5,))],
    ids=str,
)
def test_a_group_that_gets_or_loses_its_level_after_the_first_step_is_refused(before, after):
    """Or the memory of one tensor would go on as that of another."""
    params = [nn.Parameter(torch.zeros(2)) for _ in before]
    groups = [
        {"params": [p], **({} if level is None else {"clipping_level": level})}
        for p, level in zip(params, before, strict=True)
    ]
    optimizer = ClippedSGD(groups, lr=0.1, clipping_type="uclip", clipping_level=0.1)
    for p in params:
        p.grad = torch.ones(2)
    optimizer.step()
    for group, level in zip(optimizer.param_groups, after, strict=True):
        group["clipping_level"] = level
    with pytest.raises(
        RuntimeError, match="has got or lost a clipping_level of its own since the first step"
    ):
        optimizer.step()


def test_a_group_that_is_added_later_starts_with_a_fresh_memory():
    a, b = nn.Parameter(torch.zeros(2)), nn.Parameter(torch.zeros(2))
    optimizer = ClippedSGD([a], lr=0.1, clipping_type="uclip", clipping_level=0.1)
    a.grad, b.grad = torch.ones(2), torch.ones(2)
    optimizer.step()
    optimizer.add_param_group({"params": [b]})
    carry = optimizer.state["clipping"]["rules"]["all"]["carry"][0].clone()
    optimizer.step()
    both = optimizer.state["clipping"]["rules"]["all"]["carry"]
    assert (both[0] > carry).all()
    assert (both[1] < 1).all()


@pytest.mark.parametrize("name", ["coordinate_wise", "uclip"])
def test_stats_after_zero_grad_say_what_to_do(name):
    model = small_model()
    optimizer = ClippedSGD(model.parameters(), clipping_type=name)
    steps(model, optimizer, range(2))
    optimizer.zero_grad()
    with pytest.raises(RuntimeError, match="call it before zero_grad"):
        clip_stats(optimizer)


@pytest.mark.parametrize("cls", [ClippedSGD, ClippedAdam])
def test_who_asks_for_no_foreach_gets_torchs_loop(cls):
    assert cls([nn.Parameter(torch.zeros(1))]).param_groups[0]["fused"]
    assert not cls([nn.Parameter(torch.zeros(1))], foreach=False).param_groups[0]["fused"]
    assert cls([nn.Parameter(torch.zeros(1))], foreach=False, fused=True).param_groups[0]["fused"]


def test_a_closures_gradient_is_clipped():
    model = small_model()
    optimizer = ClippedSGD(model.parameters(), lr=0.1, clipping_level=0.01)
    before = weights(model)

    def closure():
        optimizer.zero_grad()
        loss = 100 * model(torch.ones(4, 6)).square().mean()
        loss.backward()
        return loss

    for call in (lambda: optimizer.step(closure), lambda: optimizer.step(closure=closure)):
        assert call().item() > 0
        moved = math.sqrt(
            sum(float((a - b).square().sum()) for a, b in zip(before, weights(model), strict=True))
        )
        assert moved == pytest.approx(0.1 * 0.01, rel=1e-3)
        before = weights(model)


def test_lbfgs_makes_the_steps_that_it_makes_when_the_closure_clips_by_itself():
    def minimise(clip, joined):
        x = nn.Parameter(torch.tensor([-1.5, 2.0]))
        optimizer = torch.optim.LBFGS([x], lr=0.5, max_iter=3)
        optimizer = clip_gradients(optimizer, Norm(1.0)) if joined else optimizer

        def closure():
            optimizer.zero_grad()
            loss = (torch.tensor([1.0, 3.0]) * (x - torch.tensor([3.0, -1.0])).square()).sum()
            loss.backward()
            clip([x])
            return loss

        optimizer.step(closure)
        return x.detach()

    theirs = minimise(lambda params: torch.nn.utils.clip_grad_norm_(params, 1.0), joined=False)
    torch.testing.assert_close(minimise(lambda params: None, joined=True), theirs, rtol=1e-3, atol=1e-3)
    assert not torch.equal(minimise(lambda params: None, joined=False), theirs)


def test_learning_rate_schedulers_act_and_do_not_warn():
    model = small_model()
    optimizer = ClippedSGD(model.parameters(), lr=1.0)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, step_size=2, gamma=0.1)
    rates = []
    for step in range(4):
        set_gradients(model, step)
        optimizer.step()
        rates.append(optimizer.param_groups[0]["lr"])
        scheduler.step()
    assert rates == pytest.approx([1.0, 1.0, 0.1, 0.1])


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize(("name", "kind"), PAIRS)
def test_under_a_grad_scaler_the_step_is_the_same_as_without(name, kind, implementation):
    cls, keywords = CLASSES[kind]
    keywords = {**keywords, **IMPLEMENTATIONS[implementation], "clipping_type": name}
    x, plain, scaled = torch.randn(8, 6), small_model(), small_model()
    torch.manual_seed(0)
    optimizer = cls(plain.parameters(), **keywords)
    torch.manual_seed(0)
    other = cls(scaled.parameters(), **keywords)
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0, growth_interval=2)
    for step in range(6):
        for model, opt in ((plain, optimizer), (scaled, other)):
            opt.zero_grad()
            loss = (10 * (step + 1) * model(x)).square().mean()
            if model is plain:
                loss.backward()
                opt.step()
            else:
                scaler.scale(loss).backward()
                if step % 2:
                    scaler.unscale_(opt)
                scaler.step(opt)
                scaler.update()
        torch.testing.assert_close(clip_stats(other)[:2], clip_stats(optimizer)[:2], rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(weights(scaled), weights(plain), rtol=1e-5, atol=1e-6)


def test_an_overflow_under_a_grad_scaler_leaves_the_step_out_and_halves_the_scale():
    model = small_model()
    optimizer = ClippedAdamW(model.parameters(), lr=0.1, clipping_type="auto")
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    before = weights(model)
    scaler.scale(model(torch.ones(1, 6)).sum() * 1e37).backward()  # 1024·1e37 is no float32
    scaler.step(optimizer)
    scaler.update()
    assert all(torch.equal(a, b) for a, b in zip(weights(model), before, strict=True))
    assert scaler.get_scale() == 512
    assert int(clip_stats(optimizer).skipped) == 1
    assert not hasattr(optimizer, "grad_scale")
    assert not hasattr(optimizer, "found_inf")


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize(("name", "kind"), PAIRS)
def test_a_fused_step_with_a_gradient_that_is_not_finite_is_left_out_exactly(name, kind, bad):
    cls, keywords = CLASSES[kind]
    model, clean = small_model(), small_model()
    torch.manual_seed(0)
    optimizer = cls(model.parameters(), clipping_type=name, **keywords)
    torch.manual_seed(0)
    other = cls(clean.parameters(), clipping_type=name, **keywords)
    for step in range(6):
        if step in (0, 3):  # the very first step too, before any momentum buffer
            set_gradients(model, step)
            next(model.parameters()).grad[0, 0] = bad
            before = weights(model)
            optimizer.step()
            assert all(torch.equal(a, b) for a, b in zip(weights(model), before, strict=True))
            assert float(clip_stats(optimizer).clipped_norm) == 0
            continue
        for m, o in ((model, optimizer), (clean, other)):
            set_gradients(m, step)
            if "rand" not in name:  # a skipped step has used up its coin
                o.step()
    if "rand" not in name:
        assert all(torch.equal(a, b) for a, b in zip(weights(model), weights(clean), strict=True))
    assert int(clip_stats(optimizer).skipped) == 2


@pytest.mark.parametrize("implementation", ["foreach", "loop"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64])
@pytest.mark.parametrize("name", [*RULES, *TIED])
def test_other_implementations_see_a_gradient_of_zeros(name, dtype, implementation):
    model = small_model().to(dtype)
    cls, keywords = (
        (ClippedAdam, {"eps": 1e-4}) if name in TIED else (ClippedSGD, {})
    )  # Adam's own 1e-8 is 0 in float16
    optimizer = cls(
        model.parameters(), lr=0.1, clipping_type=name, **keywords, **IMPLEMENTATIONS[implementation]
    )
    set_gradients(model, 0, dtype=dtype)
    first, *_, last = model.parameters()
    first.grad[0], last.grad[0] = math.nan, -math.inf
    before = weights(model)
    optimizer.step()
    assert all(torch.equal(a, b) for a, b in zip(weights(model), before, strict=True))
    assert all((p.grad == 0).all() for p in model.parameters())
    assert int(clip_stats(optimizer).skipped) == 1


def test_nonfinite_raise_names_the_norm_and_the_way_out():
    model = small_model()
    optimizer = ClippedSGD(model.parameters(), nonfinite="raise")
    set_gradients(model, 0)
    optimizer.step()
    next(model.parameters()).grad[0, 0] = math.inf
    with pytest.raises(
        FloatingPointError, match=r"norm is inf\. Lower the learning rate, or use nonfinite='skip'"
    ):
        optimizer.step()
    with pytest.raises(ValueError, match="nonfinite must be one of skip, raise, got 'ignore'"):
        ClippedSGD(model.parameters(), nonfinite="ignore")


def test_a_step_that_raises_leaves_nothing_behind():
    model = small_model()
    optimizer = ClippedSGD(model.parameters(), lr=0.1)
    set_gradients(model, 0)
    optimizer.param_groups[0]["lr"] = "broken"
    with pytest.raises((TypeError, RuntimeError)):
        optimizer.step()
    optimizer.param_groups[0]["lr"] = 0.1
    set_gradients(model, 1, 0.01)
    before, grads = weights(model), [p.grad.clone() for p in model.parameters()]
    optimizer.step()
    torch.testing.assert_close(weights(model), [b - 0.1 * g for b, g in zip(before, grads, strict=True)])
    assert not hasattr(optimizer, "grad_scale")


def test_bf16_parameters_are_clipped():
    model = small_model().to(torch.bfloat16)
    optimizer = ClippedAdamW(model.parameters(), lr=0.01)
    set_gradients(model, 0, 1e4, torch.bfloat16)
    optimizer.step()
    after = math.sqrt(sum(float(p.grad.double().square().sum()) for p in model.parameters()))
    assert after == pytest.approx(1.0, rel=0.01)


def test_complex_parameters_are_clipped():
    p = nn.Parameter(torch.zeros(2, dtype=torch.complex64))
    optimizer = ClippedSGD([p], lr=1.0)
    p.grad = torch.tensor([3.0 + 0j, 0 + 4j], dtype=torch.complex64)
    optimizer.step()
    torch.testing.assert_close(p.detach(), torch.tensor([-0.6 + 0j, -0.8j], dtype=torch.complex64))


def test_sparse_gradients_are_refused():
    embedding = nn.Embedding(5, 2, sparse=True)
    optimizer = ClippedSGD(embedding.parameters(), fused=False)
    embedding(torch.tensor([1])).sum().backward()
    with pytest.raises(RuntimeError, match=r"dense gradients\. Use sparse=False"):
        optimizer.step()


def test_unknown_keywords_fail_at_construction_with_what_is_known():
    model = small_model()
    for cls, _ in CLASSES.values():
        with pytest.raises(
            ValueError, match=r"Unknown setting 'cliping_level'.* Did you mean 'clipping_level'"
        ):
            cls(model.parameters(), cliping_level=1)


def test_generators_of_parameters_named_parameters_and_groups_are_taken():
    model = small_model()
    for params in (
        model.parameters(),
        model.named_parameters(),
        [{"params": model[0].parameters()}, {"params": model[2].named_parameters()}][:1],
        [{"params": model[0].parameters()}, {"params": model[2].parameters()}],
    ):
        optimizer = ClippedSGD(params, lr=0.1)
        set_gradients(model, 0)
        optimizer.step()
        assert optimizer.param_groups[0]["fused"]


def test_a_parameter_without_a_gradient_and_a_step_without_any_are_left_alone():
    model = small_model()
    optimizer = ClippedAdam(model.parameters(), clipping_type="auto")
    before = weights(model)
    optimizer.step()
    assert all(torch.equal(a, b) for a, b in zip(weights(model), before, strict=True))
    next(model.parameters()).grad = torch.ones(8, 6)
    optimizer.step()
    assert torch.equal(weights(model)[1], before[1])


def test_an_optimizer_is_joined_once():
    optimizer = clip_gradients(torch.optim.SGD(small_model().parameters()), Norm(1.0))
    with pytest.raises(RuntimeError, match="clips already"):
        clip_gradients(optimizer, Norm(2.0))
    with pytest.raises(ValueError, match=r"such as Norm\(1\.0\)"):
        clip_gradients(torch.optim.SGD(small_model().parameters()), "norm")


@pytest.mark.parametrize(
    "cls",
    [torch.optim.RMSprop, torch.optim.Adagrad, torch.optim.NAdam, torch.optim.Adamax, torch.optim.RAdam],
)
def test_any_torch_optimizer_can_be_joined(cls):
    ours, theirs = small_model(), small_model()
    optimizer, oracle = clip_gradients(cls(ours.parameters()), make_rule("norm")), cls(theirs.parameters())
    for step in range(5):
        set_gradients(ours, step)
        set_gradients(theirs, step)
        torch.nn.utils.clip_grad_norm_(theirs.parameters(), 1.0)
        optimizer.step()
        oracle.step()
    torch.testing.assert_close(weights(ours), weights(theirs), rtol=1e-4, atol=2e-5)


def test_a_plain_checkpoint_loads_and_the_memory_starts_anew():
    model = small_model()
    plain = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, fused=True)
    set_gradients(model, 0)
    plain.step()
    optimizer = ClippedSGD(model.parameters(), lr=0.1, momentum=0.9, clipping_type="auto")
    optimizer.load_state_dict(saved(plain.state_dict()))
    steps(model, optimizer, range(3))
    assert int(optimizer.state["clipping"]["rules"]["all"]["count"]) == 3


def test_a_checkpoint_of_another_rules_memory_is_refused_before_anything_is_loaded():
    model = small_model()
    optimizer = ClippedSGD(model.parameters(), lr=0.1, clipping_type="auto", window=20)
    steps(model, optimizer, range(3))
    state = saved(optimizer.state_dict())
    for settings in ({"clipping_type": "norm"}, {"clipping_type": "auto", "window": 30}):
        other = ClippedSGD(model.parameters(), lr=0.5, **settings)
        with pytest.raises(
            ValueError,
            match=r"Build the optimizer with the rule that was saved, or delete state_dict\['state'\]\['clipping'\]",
        ):
            other.load_state_dict(state)
        assert other.param_groups[0]["lr"] == 0.5
    ClippedSGD(model.parameters(), clipping_type="auto", window=20, p_autoclip=0.1).load_state_dict(state)


def test_one_checkpoint_loaded_twice_makes_two_memories():
    model = small_model()
    optimizer = ClippedSGD(model.parameters(), lr=0.1, clipping_type="auto")
    steps(model, optimizer, range(3))
    state = saved(optimizer.state_dict())
    twins = [ClippedSGD(small_model().parameters(), lr=0.1, clipping_type="auto") for _ in range(2)]
    for twin in twins:
        twin.load_state_dict(state)
    set_gradients(other := small_model(), 7)
    for p, q in zip(twins[0].param_groups[0]["params"], other.parameters(), strict=True):
        p.grad = q.grad
    twins[0].step()
    counts = [int(twin.state["clipping"]["rules"]["all"]["count"]) for twin in twins]
    assert counts == [4, 3]
    assert int(state["state"]["clipping"]["rules"]["all"]["count"]) == 3


def test_coins_leave_torchs_own_stream_alone():
    """And they are not the numbers that drew the weights."""
    torch.manual_seed(5)
    first = torch.rand(1)
    torch.manual_seed(5)
    p = nn.Parameter(torch.zeros(1))
    optimizer = ClippedSGD([p], clipping_type="linear_rand_norm")
    p.grad = torch.ones(1)
    optimizer.step()
    join = optimizer.clipping
    join.rng.manual_seed(join.rng.initial_seed())
    assert torch.rand(1, generator=join.rng) != first
    assert torch.equal(torch.rand(1), first)  # and torch's own stream was not touched
