"""Optimizers get where they should: on a parabola, in Rosenbrock's valley, on a matrix.

And SPAM and Stable-SPAM over their resets, with spikes planted, against what their papers say, reckoned here
number by number in Python's floats.
"""

import math
import random

import pytest
import torch
from torch import nn

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
    evaluation_weights,
)

OPTIMIZERS = {
    "ClippedSGD": lambda p, lr: ClippedSGD(p, lr=lr, momentum=0.9),
    "ClippedAdam": lambda p, lr: ClippedAdam(p, lr=lr),
    "ClippedAdamW": lambda p, lr: ClippedAdamW(p, lr=lr, weight_decay=0.0),
    "block_rms": lambda p, lr: ClippedAdamW(p, lr=lr, weight_decay=0.0, clipping_type="block_rms"),
    "SPAM": lambda p, lr: SPAM(p, lr=lr, reset_every=60, warmup=20),
    "StableSPAM": lambda p, lr: StableSPAM(p, lr=lr, reset_every=60),
    "ClippedSSTM": lambda p, lr: ClippedSSTM(p, lr=lr, L=1.0, cap=0.95, clipping_level=10.0),
    "ACClip": lambda p, lr: ACClip(p, lr=lr),
    "Lion": lambda p, lr: Lion(p, lr=lr),
    "Muon": lambda p, lr: Muon(p, lr=lr, weight_decay=0.0),
    "RMSprop, clipped": lambda p, lr: clip_gradients(torch.optim.RMSprop(p, lr=lr), Norm(1.0)),
}


def parabola(x):
    """Of curvatures from 0.1 to 1, least at (1, …, 1), where it is 0."""
    scales = torch.linspace(0.1, 1, x.numel(), dtype=x.dtype)
    return (scales * (x - 1) ** 2).sum() / 2


def rosenbrock(x):
    """Least at (1, 1), where it is 0; at (-1.2, 1) it is 24.2."""
    return (1 - x[0]) ** 2 + 100 * (x[1] - x[0] ** 2) ** 2


def regression(w):
    """‖W·A − B‖²/2 of a W that can make it 0."""
    rng = torch.Generator().manual_seed(1)
    a = torch.eye(6, dtype=w.dtype) + 0.2 * torch.randn(6, 6, generator=rng, dtype=w.dtype)
    b = torch.randn(4, 6, generator=rng, dtype=w.dtype) @ a
    return ((w @ a - b) ** 2).sum() / 2


def descend(function, start, build, steps, falls_to=0.0):
    """(the value at the start, at the end, the learning rate falling in a straight line to a share of it)."""
    p = nn.Parameter(start.clone())
    optimizer = build([p])
    first = float(function(p.detach()))
    rates = [group["lr"] for group in optimizer.param_groups]
    for step in range(steps):
        share = 1 - (1 - falls_to) * step / steps
        for group, rate in zip(optimizer.param_groups, rates, strict=True):
            group["lr"] = rate * share
        optimizer.zero_grad()
        function(p).backward()
        optimizer.step()
    with evaluation_weights(optimizer):
        return first, float(function(p.detach()))


PARABOLA_RATES = {
    "ClippedSGD": 0.3,
    "ClippedAdam": 0.2,
    "ClippedAdamW": 0.2,
    "block_rms": 0.2,
    "SPAM": 0.2,
    "StableSPAM": 0.2,
    "ClippedSSTM": 1.0,
    "ACClip": 1.0,
    "Lion": 0.1,
    "Muon": 0.2,
    "RMSprop, clipped": 0.1,
}
ROSENBROCK_RATES = {
    "ClippedSGD": 5e-3,
    "ClippedAdam": 0.05,
    "ClippedAdamW": 0.05,
    "block_rms": 0.4,
    "SPAM": 0.05,
    "StableSPAM": 0.05,
    "ClippedSSTM": 5e-3,
    "ACClip": 0.02,
    "Lion": 0.03,
    "Muon": 0.05,
    "RMSprop, clipped": 0.04,
}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_on_a_parabola(name):
    start = torch.linspace(-4, 4, 8, dtype=torch.float64)
    first, last = descend(parabola, start, lambda p: OPTIMIZERS[name](p, PARABOLA_RATES[name]), 160)
    assert last < 1e-2 * first


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_in_rosenbrocks_valley(name):
    start = torch.tensor([-1.2, 1.0], dtype=torch.float64)
    first, last = descend(rosenbrock, start, lambda p: OPTIMIZERS[name](p, ROSENBROCK_RATES[name]), 500)
    assert first == pytest.approx(24.2)
    assert last < 0.1


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_on_a_matrix(name):
    start = torch.zeros(4, 6, dtype=torch.float64)
    first, last = descend(regression, start, lambda p: OPTIMIZERS[name](p, PARABOLA_RATES[name]), 160)
    assert last < 1e-2 * first


@pytest.mark.parametrize("name", RULES)
def test_under_every_rule(name):
    """Whose level is what it is unless given: some make short steps, and all of them get there."""
    start = torch.linspace(-2, 2, 8, dtype=torch.float64)
    torch.manual_seed(0)
    settings = {"clipping_level": 0.1} if name == "agc" else {}
    rate = 2.0 if name in ("coordinate_wise", "value", "agc") else 0.3
    momentum = 0.0 if rate > 1 else 0.9
    first, last = descend(
        parabola,
        start,
        lambda p: ClippedSGD(p, lr=rate * 0.9, momentum=momentum, clipping_type=name, **settings),
        200,
    )
    assert last < 1e-3 * first


def test_clipped_descent_walks_at_one_length_and_then_halves_what_is_left():
    """On x²/2 with lr ½ from 10, level 1: steps of ½ while x > 1, then x ← x/2."""
    p = nn.Parameter(torch.tensor(10.0, dtype=torch.float64))
    optimizer = ClippedSGD([p], lr=0.5, clipping_level=1.0)
    x = 10.0
    for _ in range(40):
        p.grad = p.detach().clone()
        optimizer.step()
        x = x - 0.5 * min(x, 1.0)
        assert p.item() == pytest.approx(x, rel=1e-7)
    assert x < 1e-6


def test_one_spike_moves_a_clipped_step_by_no_more_than_its_level():
    """It throws plain descent far away."""
    distances = {}
    for level in (1.0, math.inf):
        p = nn.Parameter(torch.zeros(4, dtype=torch.float64))
        optimizer = ClippedSGD([p], lr=0.1, clipping_level=level)
        for step in range(50):
            p.grad = p.detach().clone()
            if step == 49:
                p.grad += 1e6
            optimizer.step()
        distances[level] = float(p.detach().norm())
    assert distances[1.0] == pytest.approx(0.1, rel=1e-6)
    assert distances[math.inf] == pytest.approx(0.1 * 2e6)


@pytest.mark.parametrize("scale", [1.0, 7.0])
def test_similar_triangles_are_within_the_bound_of_their_theorem(scale):
    """Of its f with the smoothness L, f(y_N) − f* ≤ 2·L·‖x_0 − x*‖²/(N·(N + 1)).

    It is R²/(2·A_N), with A_N = N·(N + 1)/(4·L): Gorbunov et al. 2020, without noise and clipping. Gradient
    descent's, L·R²/(2·N), is broken: it is no accelerated method.
    """
    curvatures = scale * torch.logspace(-4, 0, 30, dtype=torch.float64)

    def f(x):
        return float((curvatures * x**2).sum() / 2)

    p = nn.Parameter(torch.ones(30, dtype=torch.float64))
    plain = torch.ones(30, dtype=torch.float64)
    optimizer = ClippedSSTM([p], lr=1.0, L=scale, clipping_level=math.inf)
    for n in range(1, 301):
        p.grad = curvatures * p.detach()
        optimizer.step()
        plain = plain - curvatures * plain / scale
        if n in (1, 2, 5, 20, 100, 300):
            with evaluation_weights(optimizer):
                assert f(p.detach()) <= 2 * scale * 30 / (n * (n + 1))
    with evaluation_weights(optimizer):
        assert f(p.detach()) < f(plain) / 100


# SPAM and Stable-SPAM, number by number


def planted(steps, sizes, spikes):
    """Gradients of several tensors: lists of numbers, step by step.

    `spikes`: step → (tensor, entry, value).
    """
    rng = random.Random(7)
    found = []
    for step in range(steps):
        tensors = []
        for size in sizes:
            tensors.append([rng.gauss(0.2, 1.0) for _ in range(size)])
        for tensor, entry, value in spikes.get(step, []):
            tensors[tensor][entry] = value
        found.append(tensors)
    return found


class Trace:
    """What an optimizer does with planted gradients: weights and what Adam saw, step by step.

    And Adam's (count, m, v) of each tensor after every step of `looked_at`.
    """

    def __init__(self, cls, gradients, looked_at=(), **settings):
        params = [nn.Parameter(torch.zeros(len(g), dtype=torch.float64)) for g in gradients[0]]
        self.optimizer = cls(params, **settings)
        self.weights, self.seen, self.states = [], [], {}
        for step, tensors in enumerate(gradients):
            for p, g in zip(params, tensors, strict=True):
                p.grad = torch.tensor(g, dtype=torch.float64)
            self.optimizer.step()
            self.weights.append([p.tolist() for p in params])
            self.seen.append([p.grad.tolist() for p in params])
            if step in looked_at:
                self.states[step] = [adams(self.optimizer.state[p]) for p in params]


def adams(state):
    return float(state["step"]), state["exp_avg"].tolist(), state["exp_avg_sq"].tolist()


def close(found, expected):
    torch.testing.assert_close(
        torch.tensor(found, dtype=torch.float64),
        torch.tensor(expected, dtype=torch.float64),
        rtol=1e-7,
        atol=1e-10,
    )


def adam_move(w, g, entry, lr, count, eps, decay):
    """One number's step of Adam with decoupled decay; `entry` is its [m, v]."""
    entry[0] = 0.9 * entry[0] + 0.1 * g
    entry[1] = 0.999 * entry[1] + 0.001 * g * g
    mean = entry[0] / (1 - 0.9**count)
    root = math.sqrt(entry[1] / (1 - 0.999**count))
    return w - lr * decay * w - lr * mean / (root + eps)


def spam(gradients, *, lr=1e-3, decay=0.0, every=500, warmup=150, pause=20, threshold=5000.0, eps=1e-6):
    """(weights, what Adam sees), step by step, as the paper has it."""
    weights = [[0.0] * len(g) for g in gradients[0]]
    moments = [[[0.0, 0.0] for _ in g] for g in gradients[0]]
    all_weights, all_seen = [], []
    for step, tensors in enumerate(gradients):
        age = step % every
        if age == 0:
            moments = [[[0.0, 0.0] for _ in g] for g in tensors]
        rate = lr
        if step >= every and age < warmup:
            rate = lr * (1 - 0.99 * 0.5 * (1 + math.cos(math.pi * age / (warmup + 1))))
        seen = []
        for w, m, gs in zip(weights, moments, tensors, strict=True):
            cut = []
            for i, g in enumerate(gs):
                limit = threshold * m[i][1]
                if age >= pause and g * g > limit:
                    g = math.copysign(math.sqrt(limit), g)
                w[i] = adam_move(w[i], g, m[i], rate, step + 1, eps, decay)
                cut.append(g)
            seen.append(cut)
        all_weights.append([list(w) for w in weights])
        all_seen.append(seen)
    return all_weights, all_seen


SPIKES = {
    3: [(0, 1, 1e3)],  # in the first pause: let through
    300: [(0, 0, 500.0), (1, 2, -800.0)],
    499: [(0, 2, 1e4)],  # the last step before a reset
    500: [(1, 0, 1e3)],  # the first step after it, in the pause
    519: [(0, 0, -1e3)],  # the last of the pause
    520: [(0, 0, -1e4), (1, 1, 9e3)],  # the first after it
    700: [(1, 1, 20.0)],  # large and below the limit
    900: [(0, 1, 5e3)],
    1000: [(0, 3, -7e3)],
    1080: [(0, 2, -7e3)],
}
SIZES = (4, 3)


LOOKED_AT = {499, 500, 1000} | {step - 1 for step in SPIKES}


@pytest.fixture(scope="module")
def gradients():
    return planted(1090, SIZES, SPIKES)


@pytest.fixture(scope="module")
def spams(gradients):
    return Trace(SPAM, gradients, LOOKED_AT, lr=1e-3, weight_decay=0.3)


@pytest.fixture(scope="module")
def stable_spams(gradients):
    return Trace(StableSPAM, gradients, LOOKED_AT, lr=1e-3, reset_every=500)


def test_spam_with_its_papers_settings_over_two_resets(gradients, spams):
    weights, seen = spam(gradients, decay=0.3)
    for tensor in range(2):
        close([w[tensor] for w in spams.weights], [w[tensor] for w in weights])
        close([g[tensor] for g in spams.seen], [g[tensor] for g in seen])


def test_what_spams_paper_says_of_spikes_resets_and_the_warm_up(gradients, spams):
    trace = spams

    def uncut(step):
        return trace.seen[step] == gradients[step]

    # in the first 20 steps after a reset, and from the start, nothing is cut
    assert all(uncut(step) for step in (3, 500, 519, 1000))
    # beyond them a spike g² > 5000·v becomes √(5000·v), v that before this step, with its sign
    for step in (300, 499, 520, 900, 1080):
        for tensor, entry, value in SPIKES[step]:
            v = trace.states[step - 1][tensor][2][entry]
            expected = math.copysign(math.sqrt(5000 * v), value)
            assert abs(expected) < abs(value)
            assert trace.seen[step][tensor][entry] == pytest.approx(expected, rel=1e-12)
    assert uncut(700)
    # a reset is m = v = 0: after it they hold this step's gradient alone; Adam's counter goes on
    for step in (500, 1000):
        for (count, m, v), g in zip(trace.states[step], gradients[step], strict=True):
            assert count == step + 1
            assert m == pytest.approx([0.1 * x for x in g], rel=1e-12)
            assert v == pytest.approx([0.001 * x * x for x in g], rel=1e-12)
    # the first step after a reset is a hundredth of what it would be
    m, v = 0.1 * gradients[500][0][1], 0.001 * gradients[500][0][1] ** 2
    whole = 1e-3 * m / (1 - 0.9**501) / (math.sqrt(v / (1 - 0.999**501)) + 1e-6)
    before = trace.weights[499][0][1]
    move = before - trace.weights[500][0][1]
    assert move == pytest.approx(0.01 * (whole + 1e-3 * 0.3 * before), rel=1e-6)
    # and the learning rate is given back
    assert trace.optimizer.param_groups[0]["lr"] == 1e-3


def test_spam_counts_from_the_start_of_each_of_its_periods():
    """Where everything is a spike, it is cut after the first 20 steps of each period, and in none of them."""
    gradients = planted(240, (2,), {})
    trace = Trace(SPAM, gradients, threshold=1e-6, reset_every=100)
    cut = []
    for step, (seen, given) in enumerate(zip(trace.seen, gradients, strict=True)):
        if seen != given:
            cut.append(step)
    assert cut == [*range(20, 100), *range(120, 200), *range(220, 240)]


def stable_spam(gradients, *, lr=1e-3, every=1000, gammas=(0.7, 0.9, 0.999), eps=1e-8):
    """(weights, what Adam sees), step by step, as the paper has it."""
    gamma1, gamma2, gamma3 = gammas
    weights = [[0.0] * len(g) for g in gradients[0]]
    moments = [[[0.0, 0.0] for _ in g] for g in gradients[0]]
    means = [[0.0, 0.0, 0.0] for _ in gradients[0]]  # μ, a, b of each tensor
    all_weights, all_seen = [], []
    for step, tensors in enumerate(gradients):
        age = step % every
        if age == 0:
            moments = [[[0.0, 0.0] for _ in g] for g in tensors]
        seen = []
        for w, m, own, gs in zip(weights, moments, means, tensors, strict=True):
            largest = max(abs(g) for g in gs)
            own[0] = gamma3 * own[0] + (1 - gamma3) * largest
            limit = own[0] / (1 - gamma3 ** (step + 1))
            gs = [g * limit / largest if abs(g) > limit else g for g in gs]
            norm = math.sqrt(sum(g * g for g in gs))
            own[1] = gamma1 * own[1] + (1 - gamma1) * norm
            own[2] = gamma2 * own[2] + (1 - gamma2) * norm**2
            a, b = own[1] / (1 - gamma1 ** (step + 1)), own[2] / (1 - gamma2 ** (step + 1))
            gs = [g / norm * a / (math.sqrt(b) + eps) for g in gs]
            for i, g in enumerate(gs):
                w[i] = adam_move(w[i], g, m[i], lr, age + 1, eps, 0.0)
            seen.append(gs)
        all_weights.append([list(w) for w in weights])
        all_seen.append(seen)
    return all_weights, all_seen


def test_stable_spam_with_its_papers_settings_over_two_resets(gradients, stable_spams):
    weights, seen = stable_spam(gradients, every=500)
    for tensor in range(2):  # its running means are in float32, as numbers beside the gradient
        for found, expected in ((stable_spams.weights, weights), (stable_spams.seen, seen)):
            torch.testing.assert_close(
                torch.tensor([row[tensor] for row in found]),
                torch.tensor([row[tensor] for row in expected]),
                rtol=1e-5,
                atol=1e-7,
            )


def test_what_stable_spams_paper_says_of_spikes_and_resets(gradients, stable_spams):
    trace = stable_spams
    # m = v = 0 and Adam's counter anew: after one step they hold its gradient alone
    for step in (500, 1000):
        for (count, m, v), g in zip(trace.states[step], trace.seen[step], strict=True):
            assert count == 1
            assert m == pytest.approx([0.1 * x for x in g], rel=1e-12)
            assert v == pytest.approx([0.001 * x * x for x in g], rel=1e-12)
    assert [own[0] for own in trace.states[499]] == [500, 500]
    # a spike ends at μ̂, the mean of the largest entries so far with this one in it, weighed by γ3
    for step, spikes in SPIKES.items():
        for tensor, entry, value in spikes:
            if abs(value) < 100:
                continue
            largest = [max(map(abs, tensors[tensor])) for tensors in gradients[: step + 1]]
            shares = [0.999 ** (step - i) for i in range(step + 1)]
            limit = sum(s * m for s, m in zip(shares, largest, strict=True)) / sum(shares)
            assert limit < abs(value)
            seen, given = trace.seen[step][tensor], gradients[step][tensor]
            other = min(i for i in range(len(given)) if i != entry and abs(given[i]) < limit)
            assert seen[entry] / seen[other] == pytest.approx(
                math.copysign(limit, value) / given[other], rel=1e-5
            )


def test_a_spike_right_after_a_reset_is_cut_as_one_before_it():
    """Had AdaClip taken Adam's counter, its threshold would be 100 times as high there, and cut nothing."""
    cut = {}
    for step in (99, 100, 101, 105):
        gradients = [[[1.0, 1.0, 1.0, 1.0]] for _ in range(step)] + [[[1000.0, 1.0, 1.0, 1.0]]]
        trace = Trace(StableSPAM, gradients, reset_every=100)
        row = trace.seen[-1][0]
        cut[step] = row[0] / row[1]
    for step, found in cut.items():
        assert found == pytest.approx(1 + 999 * 0.001 / (1 - 0.999 ** (step + 1)), rel=1e-5)
        assert found < 15


@pytest.mark.parametrize("cls", [SPAM, StableSPAM])
def test_spikes_do_not_keep_them_from_the_minimum(cls):
    """One gradient in fifty is ten thousand times too large."""
    torch.manual_seed(3)
    p = nn.Parameter(3 * torch.ones(8, dtype=torch.float64))
    optimizer = cls([p], lr=0.1, reset_every=100)
    rng = random.Random(1)
    for step in range(300):
        optimizer.zero_grad()
        parabola(p).backward()
        if step % 100 > 30 and rng.random() < 0.02:
            p.grad[rng.randrange(8)] *= 1e4
        optimizer.step()
        assert float(clip_stats(optimizer).skipped) == 0
    assert float((p.detach() - 1).abs().max()) < 0.3
