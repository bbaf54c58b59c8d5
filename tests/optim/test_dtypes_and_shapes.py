"""Dtypes and shapes that are not those of a dense matrix of floats, and states that are another optimizer's.

Right, or refused in words before anything moves.
"""

import copy
import math

import pytest
import torch
from conftest import set_gradients, small_model, weights
from optim_helpers import CLASSES, IMPLEMENTATIONS, same
from torch import nn
from torch.nn.utils import clip_grad_norm_
from torch.optim import SGD, Adagrad, AdamW, SparseAdam

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
    NoClip,
    Norm,
    StableSPAM,
    clip_gradients,
    clip_stats,
    make_rule,
)

OPTIMIZERS = {
    "sgd": (ClippedSGD, {"lr": 0.1, "momentum": 0.9}),
    "adam": (ClippedAdam, {"lr": 0.01}),
    "adamw": (ClippedAdamW, {"lr": 0.01}),
    "spam": (SPAM, {"lr": 0.01, "reset_every": 3, "pause": 1}),
    "stable_spam": (StableSPAM, {"lr": 0.01, "reset_every": 3}),
    "sstm": (ClippedSSTM, {"lr": 1.0}),
    "acclip": (ACClip, {}),
    "lion": (Lion, {}),
    "muon": (Muon, {}),
}
REFUSALS = (ValueError, TypeError, RuntimeError)


@pytest.fixture(autouse=True)
def _checked():
    """Sparse tensors are looked at; torch warns where nobody said whether they are to be."""
    with torch.sparse.check_sparse_tensor_invariants(True):
        yield


def add_and_step(optimizer, group):
    """A group that is wrong may be refused at once, or at the next step."""
    optimizer.add_param_group(group)
    optimizer.step()


# complex


def with_gradients(*params, seed=0):
    """`params`, each with a gradient of normal numbers, complex ones too."""
    generator = torch.Generator().manual_seed(seed)
    for p in params:
        p.grad = torch.randn(p.shape, dtype=p.dtype, generator=generator)
    return list(params)


def test_muon_refuses_complex_matrices_before_anything_moves():
    real = nn.Parameter(torch.ones(3, 2))
    matrix = nn.Parameter(torch.ones(3, 2, dtype=torch.complex64))
    with_gradients(real, matrix)
    with pytest.raises(REFUSALS, match="complex"):
        Muon([real, matrix], lr=0.1).step()
    assert torch.equal(real, torch.ones(3, 2))
    assert torch.equal(matrix, torch.ones(3, 2, dtype=torch.complex64))


def test_muon_refuses_a_complex_matrix_that_comes_later():
    real = nn.Parameter(torch.ones(3, 2))
    matrix = nn.Parameter(torch.ones(3, 2, dtype=torch.complex64))
    optimizer = Muon([real], lr=0.1)
    with_gradients(real, matrix)
    with pytest.raises(REFUSALS, match="complex"):
        add_and_step(optimizer, {"params": [matrix]})
    assert torch.equal(real, torch.ones(3, 2))


def test_muon_makes_adamws_steps_of_what_is_complex_and_no_matrix():
    start = torch.tensor([1 + 1j, 2 - 1j, 0.5j])
    ours, theirs = nn.Parameter(start.clone()), nn.Parameter(start.clone())
    matrix = nn.Parameter(torch.ones(2, 2, dtype=torch.complex64))
    matrix_of_torch = nn.Parameter(torch.ones(2, 2, dtype=torch.complex64))
    groups = [{"params": [ours]}, {"params": [matrix], "use_muon": False}]
    muon = Muon(groups, lr=0.1, betas=(0.9, 0.95), eps=1e-8, weight_decay=0.1)
    adamw = AdamW([theirs, matrix_of_torch], lr=0.1, betas=(0.9, 0.95), eps=1e-8, weight_decay=0.1)
    for step in range(3):
        with_gradients(ours, matrix, seed=step)
        with_gradients(theirs, matrix_of_torch, seed=step)
        muon.step()
        adamw.step()
    torch.testing.assert_close([ours, matrix], [theirs, matrix_of_torch])


@pytest.mark.parametrize("name", RULES)
@pytest.mark.parametrize("kind", ["sgd", "adamw"])
def test_a_complex_parameter_moves_as_the_pair_of_its_parts(kind, name):
    """The rules see (real, imaginary) pairs; torch's own Adam does too."""
    cls, settings = OPTIMIZERS[kind]
    start = torch.tensor([[1 + 1j, 2 - 1j], [0.5j, -1.0]])
    one, pair = nn.Parameter(start.clone()), nn.Parameter(torch.view_as_real(start).clone())

    def build(p):
        torch.manual_seed(4)
        return cls([p], clipping_type=name, **settings)

    first, second = build(one), build(pair)
    for step in range(4):
        with_gradients(one, seed=step)
        pair.grad = torch.view_as_real(one.grad).clone()
        first.step()
        second.step()
    torch.testing.assert_close(torch.view_as_real(one.detach()), pair.detach())


# empty parameters


EMPTY = [(0,), (0, 3), (3, 0), (2, 0, 4)]


def with_empty_ones(build, gradients=True, first=True):
    """The weights of a small model whose optimizer has empty parameters too, or, with None, has not."""
    model = small_model()
    empty = [] if gradients is None else [nn.Parameter(torch.zeros(shape)) for shape in EMPTY]
    params = [*empty, *model.parameters()] if first else [*model.parameters(), *empty]
    torch.manual_seed(6)
    optimizer = build(params)
    for step in range(5):
        set_gradients(model, step, 3.0)
        for p in empty:
            p.grad = torch.zeros_like(p) if gradients else None
        optimizer.step()
    for p in empty:
        for value in optimizer.state.get(p, {}).values():
            assert not (isinstance(value, torch.Tensor) and torch.isnan(value).any())
    return weights(model)


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize("name", [*RULES, "block_rms"])
@pytest.mark.parametrize("kind", ["sgd", "adamw"])
def test_empty_parameters_change_nothing_under_any_rule(kind, name, implementation):
    if (kind, name) == ("sgd", "block_rms"):
        pytest.skip("tied to Adam")
    cls, settings = CLASSES[kind]

    def build(params):
        return cls(params, clipping_type=name, **settings, **IMPLEMENTATIONS[implementation])

    expected = with_empty_ones(build, gradients=None)
    for gradients in (True, False):
        for first in (True, False):
            torch.testing.assert_close(with_empty_ones(build, gradients, first), expected)


@pytest.mark.parametrize("kind", OPTIMIZERS)
def test_empty_parameters_change_nothing_in_any_optimizer(kind):
    cls, settings = OPTIMIZERS[kind]

    def build(params):
        return cls(params, **settings)

    expected = with_empty_ones(build, gradients=None)
    for first in (True, False):
        torch.testing.assert_close(with_empty_ones(build, True, first), expected)


@pytest.mark.parametrize("kind", OPTIMIZERS)
def test_an_optimizer_of_nothing_but_empty_parameters_steps(kind):
    cls, settings = OPTIMIZERS[kind]
    params = [nn.Parameter(torch.zeros(shape)) for shape in EMPTY]
    optimizer = cls(params, **settings)
    for _ in range(4):
        for p in params:
            p.grad = torch.zeros_like(p)
        optimizer.step()
    if hasattr(optimizer, "clipping"):
        stats = clip_stats(optimizer)
        assert (float(stats.grad_norm), float(stats.clipped_norm), int(stats.skipped)) == (0.0, 0.0, 0)
        assert float(stats.clip_factor) == 1.0


@pytest.mark.parametrize("name", [*RULES, "block_rms"])
def test_a_group_of_nothing_but_empty_parameters_is_no_hindrance(name):
    def build(separate):
        model = small_model()
        groups = [{"params": list(model.parameters())}]
        if separate:
            empty = nn.Parameter(torch.zeros(0, 3))
            empty.grad = torch.zeros(0, 3)
            groups.append({"params": [empty], "clip_separately": True})
        torch.manual_seed(6)
        optimizer = ClippedAdamW(groups, lr=0.01, clipping_type=name)
        for step in range(4):
            set_gradients(model, step, 3.0)
            optimizer.step()
        return weights(model)

    torch.testing.assert_close(build(True), build(False))


# differentiable


@pytest.mark.parametrize("cls", [ClippedSGD, ClippedAdam, ClippedAdamW, SPAM, StableSPAM])
def test_differentiable_is_refused(cls):
    params = list(small_model().parameters())
    with pytest.raises(ValueError, match="differentiable"):
        cls(params, differentiable=True)
    with pytest.raises(ValueError, match="differentiable"):
        cls([{"params": params, "differentiable": True}])


def test_differentiable_is_refused_where_torchs_own_is_joined():
    optimizer = SGD(small_model().parameters(), lr=0.1, differentiable=True)
    with pytest.raises(ValueError, match="differentiable"):
        clip_gradients(optimizer, Norm(1.0))
    assert not optimizer._optimizer_step_pre_hooks


def test_a_group_that_is_made_differentiable_later_is_refused_before_anything_moves():
    model = small_model()
    params = list(model.parameters())
    optimizer = ClippedSGD(params[:2], lr=0.1)
    set_gradients(model, 0)
    before = weights(model)
    with pytest.raises(ValueError, match="differentiable"):
        add_and_step(optimizer, {"params": params[2:], "differentiable": True})
    assert same(weights(model), before)


# learning rates that are tensors


def with_lr(cls, lr, halve=False, **settings):
    model = small_model()
    optimizer = cls(model.parameters(), lr=lr, **settings)
    for step in range(6):
        if halve and step == 3:
            for group in optimizer.param_groups:
                if isinstance(group["lr"], torch.Tensor):
                    group["lr"].mul_(0.5)  # as a captured step's schedule does
                else:
                    group["lr"] *= 0.5
        set_gradients(model, step)
        optimizer.step()
    return weights(model)


SHAPES = [(), (1,)]


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize(
    ("cls", "settings"),
    [
        (Lion, {"weight_decay": 0.1}),
        (ACClip, {"weight_decay": 0.1}),
        (ACClip, {"power": 1.5}),
        (Muon, {}),
        (Muon, {"nesterov": False, "weight_decay": 0.0}),
    ],
    ids=str,
)
def test_a_tensor_of_one_element_is_a_learning_rate(cls, settings, shape):
    lr = 1 / 32
    ours = with_lr(cls, torch.full(shape, lr), **settings)
    torch.testing.assert_close(ours, with_lr(cls, lr, **settings))
    halved = with_lr(cls, torch.full(shape, lr), halve=True, **settings)
    torch.testing.assert_close(halved, with_lr(cls, lr, halve=True, **settings))
    assert not same(halved, ours)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_sstm_takes_a_tensor_of_one_element_or_refuses_it_in_words(shape):
    try:
        ours = with_lr(ClippedSSTM, torch.full(shape, 0.5))
    except ValueError as error:
        refusal = str(error)
        ours = None
    if ours is None:
        assert "lr must be a number" in refusal
    else:
        torch.testing.assert_close(ours, with_lr(ClippedSSTM, 0.5))


@pytest.mark.parametrize(
    "implementation", [{}, {"fused": True}, {"foreach": True}, {"foreach": False}], ids=str
)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize(("theirs", "ours"), [(SGD, ClippedSGD), (AdamW, ClippedAdamW)])
def test_where_torch_takes_a_tensor_as_learning_rate_ours_does(theirs, ours, shape, implementation):
    lr = 1 / 32

    def attempt(cls, **settings):
        try:
            return with_lr(cls, torch.full(shape, lr), halve=True, **settings)
        except REFUSALS as error:
            return type(error)

    expected = attempt(theirs, **implementation)
    actual = attempt(ours, clipping_type="none", **implementation)
    if isinstance(expected, list):
        torch.testing.assert_close(actual, expected)
    else:
        assert actual == expected or isinstance(actual, list)


@pytest.mark.parametrize("kind", OPTIMIZERS)
def test_a_learning_rate_of_two_elements_is_refused(kind):
    cls, _ = OPTIMIZERS[kind]
    with pytest.raises(ValueError, match=r"lr|1-element"):
        cls(small_model().parameters(), lr=torch.tensor([0.1, 0.2]))


# sparse gradients


class Words(nn.Module):
    """An embedding with sparse gradients, or not, and a linear layer after it."""

    def __init__(self, sparse=True):
        super().__init__()
        torch.manual_seed(0)
        self.embedding = nn.Embedding(10, 4, sparse=sparse)
        self.head = nn.Linear(4, 3)

    def backward(self, step, scale=1.0):
        self.zero_grad()
        generator = torch.Generator().manual_seed(step)
        words = torch.randint(0, 5, (8,), generator=generator)  # some of them twice
        (scale * self.head(self.embedding(words)).square().sum()).backward()


SPARSE = {
    "sgd": (SGD, ClippedSGD, {"lr": 0.01}),
    "momentum": (SGD, ClippedSGD, {"lr": 0.01, "momentum": 0.9}),
    "adagrad": (Adagrad, None, {"lr": 0.1}),
}


@pytest.mark.parametrize("joined", [False, True], ids=["ours", "joined"])
@pytest.mark.parametrize("kind", SPARSE)
def test_sparse_gradients_in_an_exempt_group_move_as_torchs(kind, joined):
    theirs, ours, settings = SPARSE[kind]
    if ours is None and not joined:
        pytest.skip("torch's own, joined")
    level = 0.5

    def groups(model, **exempt):
        return [
            {"params": model.head.parameters()},
            {"params": model.embedding.parameters(), **exempt},
        ]

    model, other = Words(), Words()
    if joined:
        optimizer = theirs(groups(model, clipping_level=math.inf), **settings)
        clip_gradients(optimizer, Norm(level))
    else:
        optimizer = ours(groups(model, clipping_level=math.inf), clipping_level=level, **settings)
    expected = theirs(groups(other), **settings)
    for step in range(4):
        model.backward(step)
        assert model.embedding.weight.grad.layout == torch.sparse_coo
        other.backward(step)
        assert float(clip_grad_norm_(other.head.parameters(), level)) > level
        optimizer.step()
        expected.step()
    torch.testing.assert_close(weights(model), weights(other), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("joined", [False, True], ids=["ours", "joined"])
@pytest.mark.parametrize("kind", SPARSE)
def test_sparse_gradients_under_none_move_as_torchs(kind, joined):
    theirs, ours, settings = SPARSE[kind]
    if ours is None and not joined:
        pytest.skip("torch's own, joined")
    model, other = Words(), Words()
    if joined:
        optimizer = clip_gradients(theirs(model.parameters(), **settings), NoClip())
    else:
        optimizer = ours(model.parameters(), clipping_type="none", **settings)
    expected = theirs(other.parameters(), **settings)
    for step in range(4):
        model.backward(step)
        other.backward(step)
        optimizer.step()
        expected.step()
    torch.testing.assert_close(weights(model), weights(other), rtol=1e-5, atol=1e-6)


def test_sparse_adam_goes_where_nothing_is_clipped():
    model, other = Words(), Words()
    optimizer = clip_gradients(SparseAdam(model.embedding.parameters()), NoClip())
    expected = SparseAdam(other.embedding.parameters())
    for step in range(4):
        model.backward(step)
        other.backward(step)
        optimizer.step()
        expected.step()
    torch.testing.assert_close(weights(model), weights(other))


def test_the_norm_counts_rows_that_come_twice_as_their_sum():
    model, dense = Words(), Words(sparse=False)
    optimizer = ClippedSGD(model.parameters(), clipping_type="none", lr=0.01)
    model.backward(0)
    dense.backward(0)
    assert not model.embedding.weight.grad.is_coalesced()
    norm = torch.cat([p.grad.flatten() for p in dense.parameters()]).norm()
    optimizer.step()
    stats = clip_stats(optimizer)
    assert float(stats.grad_norm) == pytest.approx(float(norm), rel=1e-5)
    assert float(stats.clipped_norm) == pytest.approx(float(norm), rel=1e-5)


@pytest.mark.parametrize("bad", [math.inf, math.nan])
def test_a_sparse_gradient_that_is_not_finite_is_skipped(bad):
    model = Words()
    optimizer = ClippedSGD(model.parameters(), clipping_type="none", lr=0.01)
    before = weights(model)
    model.backward(0, bad)
    optimizer.step()
    assert same(weights(model), before)
    assert int(clip_stats(optimizer).skipped) == 1


REFUSED = [name for name in RULES if name != "none"]


@pytest.mark.parametrize("name", REFUSED)
def test_sparse_gradients_are_refused_elsewhere_before_anything_moves(name):
    model = Words()
    optimizer = ClippedSGD(model.parameters(), lr=0.01, momentum=0.9, clipping_type=name)
    model.backward(0)
    model.embedding.weight.grad = model.embedding.weight.grad.to_dense()
    optimizer.step()
    model.backward(1)
    before, kept = weights(model), copy.deepcopy(optimizer.state_dict())
    with pytest.raises(RuntimeError, match="dense"):
        optimizer.step()
    assert same(weights(model), before)
    torch.testing.assert_close(optimizer.state_dict(), kept, rtol=0, atol=0)
    # and with dense ones it goes on
    model.embedding.weight.grad = model.embedding.weight.grad.to_dense()
    optimizer.step()
    assert not same(weights(model), before)


def test_other_groups_do_not_exempt_a_sparse_one():
    model = Words()
    groups = [
        {"params": model.head.parameters(), "clipping_level": math.inf},
        {"params": model.embedding.parameters()},
    ]
    optimizer = ClippedSGD(groups, lr=0.01)
    before = weights(model)
    model.backward(0)
    with pytest.raises(RuntimeError, match="dense"):
        optimizer.step()
    assert same(weights(model), before)


# states of other optimizers


def stepped(cls, model, numbers=range(3), **settings):
    optimizer = cls(model.parameters(), **settings)
    for number in numbers:
        set_gradients(model, number)
        optimizer.step()
    return optimizer


@pytest.mark.parametrize(
    ("theirs", "settings"),
    [(AdamW, {}), (AdamW, {"amsgrad": True}), (ClippedAdamW, {"clipping_type": "none"})],
)
def test_a_checkpoint_of_adamw_goes_on_in_spam(theirs, settings):
    """With nothing to cut and no reset, SPAM is AdamW."""
    model = small_model()
    first = stepped(theirs, model, lr=0.01, weight_decay=0.1, **settings)
    copied = copy.deepcopy(model)
    second = SPAM(copied.parameters(), threshold=math.inf, reset_every=10**6)
    second.load_state_dict(copy.deepcopy(first.state_dict()))
    for number in range(3, 8):
        for one, optimizer in ((model, first), (copied, second)):
            set_gradients(one, number)
            optimizer.step()
    torch.testing.assert_close(weights(copied), weights(model))


def test_after_it_spam_cuts_and_resets_by_its_own_settings():
    """θ = 2 against v of the checkpoint, from the first step after the pause."""
    model = small_model()
    first = stepped(AdamW, model, lr=0.0)
    second = SPAM(model.parameters(), lr=0.0, threshold=2.0, pause=1, reset_every=4)
    second.load_state_dict(first.state_dict())
    set_gradients(model, 3)
    second.step()
    moments = [second.state[p]["exp_avg_sq"].clone() for p in model.parameters()]
    set_gradients(model, 4, 1000.0)
    given = [p.grad.clone() for p in model.parameters()]
    second.step()
    for p, g, moment in zip(model.parameters(), given, moments, strict=True):
        limit = (2.0 * moment).sqrt()
        used = torch.clamp(g, -limit, limit)
        expected = 0.999 * moment + 0.001 * used.square()
        torch.testing.assert_close(second.state[p]["exp_avg_sq"], expected, rtol=1e-4, atol=1e-12)
    for number in (5, 6):
        set_gradients(model, number)
        second.step()
    set_gradients(model, 7)
    given = [p.grad.clone() for p in model.parameters()]
    second.step()  # the fifth: moments are of this gradient alone
    for p, g in zip(model.parameters(), given, strict=True):
        torch.testing.assert_close(second.state[p]["exp_avg"], 0.1 * g, rtol=1e-4, atol=1e-8)


def test_a_checkpoint_of_adamw_goes_on_in_stable_spam():
    model = small_model()
    first = stepped(AdamW, model, lr=0.01)
    second = StableSPAM(model.parameters(), reset_every=2)
    second.load_state_dict(first.state_dict())
    before = weights(model)
    for number in range(3, 8):
        set_gradients(model, number)
        second.step()
    assert not same(weights(model), before)
    assert all(torch.isfinite(p).all() for p in model.parameters())


FOREIGN = [
    (lambda params: SGD(params, lr=0.1, momentum=0.9), ClippedAdamW),
    (lambda params: SGD(params, lr=0.1, momentum=0.9), SPAM),
    (lambda params: SGD(params, lr=0.1, momentum=0.9), StableSPAM),
    (lambda params: SGD(params, lr=0.1, momentum=0.9), Lion),
    (AdamW, ClippedSSTM),
    (AdamW, ACClip),
    (Lion, ClippedAdamW),
    (Lion, SPAM),
    (ClippedSSTM, ClippedAdamW),
    (ACClip, ClippedSSTM),
    (Adagrad, ClippedAdam),
]


@pytest.mark.parametrize(("theirs", "ours"), FOREIGN)
def test_a_state_that_lacks_what_is_needed_is_refused_before_anything_is_loaded(theirs, ours):
    model = small_model()
    foreign = stepped(lambda params: theirs(list(params)), model)
    own = stepped(ours, small_model(), lr=0.125)
    kept = copy.deepcopy(own.state_dict())
    with pytest.raises(ValueError, match=r"checkpoint|state"):
        own.load_state_dict(foreign.state_dict())
    torch.testing.assert_close(own.state_dict(), kept, rtol=0, atol=0)


def test_block_rms_passes_by_what_has_not_moved():
    """A parameter without a gradient, and one that is empty; the update of the other has RMS 1."""
    params = [nn.Parameter(torch.ones(shape)) for shape in ((3,), (2, 2), (0,))]
    optimizer = ClippedAdamW(params, clipping_type="block_rms", lr=0.1, weight_decay=0.0)
    params[0].grad = torch.full((3,), 5.0)
    params[2].grad = torch.zeros(0)
    optimizer.step()
    torch.testing.assert_close(params[0].detach(), torch.full((3,), 0.9))
    assert torch.equal(params[1], torch.ones(2, 2))


def test_only_none_clips_nothing():
    """That the list above is all there is to refuse."""
    assert {name for name in RULES if not make_rule(name).clips} == {"none"}


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("chosen", [{}, {"fused": True}], ids=str)
def test_momentum_in_half_precision_on_a_cpu_is_added_up(dtype, chosen):
    """torch 2.11's fused kernel loses it beyond 16 entries, without a word."""
    p = nn.Parameter(torch.zeros(64, dtype=dtype))
    optimizer = ClippedSGD([p], lr=1.0, momentum=0.5, clipping_type="none", **chosen)
    for _ in range(3):
        p.grad = torch.ones_like(p)
        optimizer.step()
    assert p.tolist() == [-(1 + 1.5 + 1.75)] * 64
