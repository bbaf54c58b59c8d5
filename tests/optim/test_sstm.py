"""Clipped SSTM: the rate of its theorem, its formulas in numpy, mistakes of the prior art, the answer y."""

import copy
from contextlib import suppress

import numpy as np
import pytest
import torch
from conftest import set_gradients, small_model, weights
from optim_helpers import same, saved
from torch import nn

from clipbench.optim import ClippedSGD, ClippedSSTM, clip_stats, estimate_smoothness, evaluation_weights
from clipbench.optim.laws import Waits

EIGENVALUES = np.geomspace(1e-4, 1.0, 30)  # so L = 1


def minimise(steps, noise=None, **settings):
    """f(y) − f* after each step on f = ½·Σ λ_i·x_i², from all ones."""
    h = torch.tensor(EIGENVALUES)
    p = nn.Parameter(torch.ones(30, dtype=torch.float64))
    optimizer = ClippedSSTM([p], **{"lr": 1.0, "L": 1.0, "clipping_type": "none", **settings})
    found = []
    for step in range(steps):
        p.grad = h * p.detach() + (0 if noise is None else torch.tensor(noise[step]))
        optimizer.step()
        with evaluation_weights(optimizer):
            found.append(float((h * p.detach() ** 2).sum() / 2))
    return np.array(found)


def test_f_at_y_falls_as_the_theorem_says():
    """A_N = N(N+1)/(4L) at ν = 1, a = 1, so f(y_N) − f* ≤ R²/(2·A_N) = 2LR²/(N(N+1)).

    (2005.10785, theorem 2.1 without noise)
    """
    found = minimise(400)
    n = np.arange(1, 401)
    assert (found <= 2 * 30 / (n * (n + 1))).all()
    p = nn.Parameter(torch.ones(30, dtype=torch.float64))
    plain = ClippedSGD([p], lr=1.0, clipping_type="none")
    for _ in range(400):
        p.grad = torch.tensor(EIGENVALUES) * p.detach()
        plain.step()
    assert found[-1] < 0.1 * float((torch.tensor(EIGENVALUES) * p.detach() ** 2).sum() / 2)


def by_hand(points, gradient, *, lr, L, nu, B, cap, steps):
    """x, y of each step, from the formulas: a = 1/lr; clipped by the norm of all at B/α."""
    a = 1 / lr
    x = y = z = points.copy()
    A, found = 0.0, []
    for k in range(steps):
        alpha = (k + 1) ** (2 * nu / (1 + nu)) / (2 * a * L)
        if cap < 1 and alpha < A * (1 - cap):
            A = (1 / (1 - cap) - 1) * alpha
        x = (A * y + alpha * z) / (A + alpha)
        g = gradient(x, k)
        z = z - alpha * g * min(1.0, B / alpha / np.linalg.norm(g))
        y = (A * y + alpha * z) / (A + alpha)
        A = A + alpha
        found.append((x, y))
    return found


@pytest.mark.parametrize("nu", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("cap", [0.8, 0.99, 1.0])
@pytest.mark.parametrize("B", [0.05, 1e9])
def test_it_is_its_formula(nu, cap, B):
    noise = np.random.default_rng(0).standard_t(2, size=(60, 30))
    expected = by_hand(
        np.ones(30), lambda x, k: EIGENVALUES * x + noise[k], lr=0.3, L=2.0, nu=nu, B=B, cap=cap, steps=60
    )
    p = nn.Parameter(torch.ones(30, dtype=torch.float64))
    optimizer = ClippedSSTM([p], lr=0.3, L=2.0, nu=nu, cap=cap, clipping_level=B)
    for k, (x, y) in enumerate(expected):
        np.testing.assert_allclose(p.detach(), x, rtol=1e-6, atol=1e-9)
        p.grad = torch.tensor(EIGENVALUES) * p.detach() + torch.tensor(noise[k])
        optimizer.step()
        with evaluation_weights(optimizer):
            np.testing.assert_allclose(p.detach(), y, rtol=1e-6, atol=1e-9)


def test_cap_and_nu_by_hand():
    """α = k in step k, and z = −1, −3, −6, −10, −15 after it.

    A = 0, 1, 3, 6, of which 6 is above α/.8 = 5 and becomes α/4 = 1; then 5.

    x = (A·y + α·z)/(A + α) before: −3/3; (−7 − 9)/6; (−4.166667 − 24)/5; (−44.166667 − 50)/10. y after:
    −7/3; −25/6; −44.166667/5.
    """
    p = nn.Parameter(torch.zeros(1, dtype=torch.float64))
    optimizer = ClippedSSTM([p], lr=1.0, L=0.5, nu=1.0, cap=0.2, clipping_type="none")
    xs, ys = [], []
    for _ in range(5):
        xs.append(p.item())
        p.grad = torch.ones(1, dtype=torch.float64)
        optimizer.step()
        ys.append(optimizer.state[p]["y"].item())
    assert xs == pytest.approx([0, -1, -2.666667, -5.633333, -9.416667], rel=1e-6)
    assert ys[:4] == pytest.approx([-1, -2.333333, -4.166667, -8.833333], rel=1e-6)


def test_clipping_is_what_bounds_the_harm_of_heavy_tails():
    """Cauchy noise: no mean, so the unclipped method is thrown anywhere; five paths of noise."""
    clipped, free = [], []
    for seed in range(5):
        noise = 0.1 * np.random.default_rng(seed).standard_cauchy((200, 30))
        clipped.append(minimise(200, noise, lr=0.05, clipping_type="norm", clipping_level=0.1)[-1])
        free.append(minimise(200, noise, lr=0.05)[-1])
    start = EIGENVALUES.sum() / 2
    assert max(clipped) < start / 2
    assert np.median(free) > 10 * max(clipped)


def test_the_first_gradient_counts():
    p = nn.Parameter(torch.zeros(2, dtype=torch.float64))
    optimizer = ClippedSSTM([p], lr=0.5, L=2.0, clipping_type="none")
    p.grad = torch.tensor([1.0, -2.0], dtype=torch.float64)
    optimizer.step()
    expected = -0.5 / (2 * 2.0) * p.grad  # z = −α_1·g, and y = x = z
    torch.testing.assert_close(p.detach(), expected)
    with evaluation_weights(optimizer):
        torch.testing.assert_close(p.detach(), expected)


def test_a_group_has_a_state_of_its_own():
    """Two groups move as two optimizers do."""
    gs = np.random.default_rng(0).standard_normal((20, 2, 3))

    def go(groups_of):
        params = [nn.Parameter(torch.ones(3, dtype=torch.float64)) for _ in range(2)]
        optimizers = groups_of(
            *(
                {"params": [p], "lr": lr, "L": L}
                for p, lr, L in zip(params, (0.1, 0.7), (1.0, 5.0), strict=True)
            )
        )
        for pair in gs:
            for p, g in zip(params, pair, strict=True):
                p.grad = torch.tensor(g)
            for optimizer in optimizers:
                optimizer.step()
        return params

    def together(*groups):
        return [ClippedSSTM(list(groups), clipping_level=0.3)]

    def alone(*groups):
        return [ClippedSSTM([group], clipping_level=0.3) for group in groups]

    torch.testing.assert_close(go(together), go(alone))  # another α is another level, so it is normed alone


def test_groups_of_one_alpha_are_normed_together():
    params = [nn.Parameter(torch.zeros(1, dtype=torch.float64)) for _ in range(2)]
    optimizer = ClippedSSTM([{"params": [p]} for p in params], lr=1.0, L=0.5, clipping_level=1.0)
    for p, value in zip(params, (300.0, -400.0), strict=True):
        p.grad = torch.full((1,), value, dtype=torch.float64)
    optimizer.step()
    assert [p.item() for p in params] == pytest.approx([-0.6, 0.8])
    assert float(clip_stats(optimizer).grad_norm) == pytest.approx(500)


@pytest.mark.parametrize(("spike", "clipped"), [(0.05, False), (1e6, True)])
def test_a_spike_moves_z_by_the_level_at_any_step(spike, clipped):
    """α·clip(g, B/α) is min(α‖g‖, B) long, however large α has become."""
    p = nn.Parameter(torch.zeros(3, dtype=torch.float64))
    optimizer = ClippedSSTM([p], lr=1.0, L=1.0, clipping_level=0.7)
    for step in range(20):
        p.grad = (
            torch.tensor([spike, 0.0, 0.0]).double() if step in (0, 11) else torch.full((3,), 1e-3).double()
        )
        before = optimizer.state[p]["z"].clone() if step else torch.zeros(3).double()
        optimizer.step()
        moved = float((optimizer.state[p]["z"] - before).norm())
        if step in (0, 11):
            assert moved == pytest.approx(0.7 if clipped else (step + 1) / 2 * spike)


def test_step_returns_what_torch_returns():
    p = nn.Parameter(torch.ones(1))
    optimizer = ClippedSSTM([p])
    p.grad = torch.ones(1)
    assert optimizer.step() is None
    assert optimizer.step(lambda: torch.tensor(2.0)) == 2.0


def test_a_types_own_threshold_is_not_divided():
    """auto clips at a quantile of the norms, whatever α: a steady norm is not clipped, a spike is."""
    p = nn.Parameter(torch.zeros(1))
    optimizer = ClippedSSTM([p], clipping_type="auto", p_autoclip=0.5)
    for step in range(20):
        p.grad = torch.full((1,), 50.0 if step == 15 else 1.0)
        optimizer.step()
        assert p.grad.item() == pytest.approx(1.0)


@pytest.mark.parametrize(
    "name", ["none", "norm", "linear_rand_norm", "layer_wise", "coordinate_wise", "auto"]
)
def test_resuming_is_exact_and_evaluation_leaves_no_trace(name):
    """Twelve steps without evaluation are five, a file and seven with it."""
    settings = {"lr": 0.1, "L": 1.0, "cap": 0.7, "clipping_type": name}

    def go(model, optimizer, steps, evaluate):
        for step in steps:
            set_gradients(model, step)
            optimizer.step()
            if evaluate:
                with evaluation_weights(optimizer), evaluation_weights(optimizer):
                    pass

    straight = small_model()
    torch.manual_seed(0)
    go(straight, ClippedSSTM(straight.parameters(), **settings), range(12), evaluate=False)
    model = small_model()
    torch.manual_seed(0)
    optimizer = ClippedSSTM(model.parameters(), **settings)
    go(model, optimizer, range(5), evaluate=True)
    later = copy.deepcopy(model)
    resumed = ClippedSSTM(later.parameters(), **settings)
    resumed.load_state_dict(saved(optimizer.state_dict()))
    go(later, resumed, range(5, 12), evaluate=True)
    assert same(weights(later), weights(straight))


def test_evaluation_ends_at_x_also_when_it_fails_and_other_optimizers_are_left_alone():
    """The weights before and after `evaluation_weights` are the same, to the bit."""
    model = small_model()
    optimizer = ClippedSSTM(model.parameters(), lr=1.0, L=1.0)
    for step in range(3):
        set_gradients(model, step)
        optimizer.step()
    x = weights(model)
    inside = []
    with suppress(KeyError), evaluation_weights(optimizer):
        inside = weights(model)
        raise KeyError
    assert not torch.equal(inside[0], x[0])
    assert same(weights(model), x)
    other = ClippedSGD(model.parameters(), lr=1.0)
    other.step()
    x = weights(model)
    with evaluation_weights(other):
        assert same(weights(model), x)


class Averaged(torch.optim.SGD):
    answer = "mean"

    def step(self, closure=None):
        super().step(closure)
        for p in self.param_groups[0]["params"]:
            self.state[p]["mean"] = self.state[p].get("mean", 0) + p.detach() / 4


def test_any_optimizer_takes_part_by_naming_its_answer():
    p = nn.Parameter(torch.zeros(2))
    optimizer = Averaged([p], lr=1.0)
    with evaluation_weights(optimizer):  # no step yet, so no answer
        assert p.tolist() == [0, 0]
    for _ in range(4):
        p.grad = torch.tensor([1.0, -2.0])
        optimizer.step()
    with evaluation_weights(optimizer):
        assert p.tolist() == [-2.5, 5]  # of −1, −2, −3, −4, and −2 times that
    assert p.tolist() == [-4, 8]


def test_it_never_waits_for_the_device():
    model = small_model()
    optimizer = ClippedSSTM(model.parameters(), cap=0.5)
    set_gradients(model, 0)
    optimizer.step()
    with Waits() as counter:
        for step in range(4):
            set_gradients(model, step)
            optimizer.step()
            with evaluation_weights(optimizer):
                pass
    assert counter.count == waits_of_making_gradients(model)


def waits_of_making_gradients(model):
    with Waits() as counter:
        for step in range(4):
            set_gradients(model, step)
    return counter.count


def test_a_learning_rate_of_zero_stands_still():
    p = nn.Parameter(torch.ones(2))
    optimizer = ClippedSSTM([p], lr=1.0, L=1.0, cap=0.9)
    for lr in (1.0, 1.0, 0.0, 0.0, 1.0):
        optimizer.param_groups[0]["lr"] = lr
        p.grad = torch.ones(2)
        optimizer.step()
    assert torch.isfinite(p).all()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"L": 0}, "L must be a number with L > 0, got 0"),
        ({"lr": -1}, "lr must be a number with lr > 0"),
        ({"nu": 1.5}, "nu must be a number with 0 <= nu <= 1, got 1.5"),
        ({"cap": 0}, "cap must be a number with 0 < cap <= 1; 1 is no cap"),
        ({"lr": torch.tensor(1.0)}, "lr must be a number"),
        ({"smoothness": 3}, "Unknown setting 'smoothness'"),
    ],
)
def test_wrong_settings_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        ClippedSSTM([nn.Parameter(torch.zeros(1))], **settings)


def test_smoothness_of_quadratics_is_twice_their_curvature():
    p = nn.Parameter(torch.tensor([1.0, -2.0], dtype=torch.float64))
    curvatures = (3.0, 5.0)
    estimate = estimate_smoothness([p], (lambda c=c: c / 2 * p.square().sum() + p.sum() for c in curvatures))
    assert estimate == pytest.approx(2 * 4.0)
    assert p.tolist() == [1.0, -2.0]
    assert p.grad is None


def test_smoothness_does_not_take_dropout_for_curvature():
    """Linear in the weights, so the curvature is 0 whatever is dropped."""
    layer, x = nn.Linear(50, 1), torch.ones(8, 50)
    estimate = estimate_smoothness(
        layer.parameters(), [lambda: layer(nn.functional.dropout(x, 0.5)).mean()] * 5
    )
    assert estimate == pytest.approx(0, abs=1e-3)


def test_smoothness_of_nothing_is_refused():
    with pytest.raises(ValueError, match="`losses` was empty"):
        estimate_smoothness([nn.Parameter(torch.zeros(1))], [])
