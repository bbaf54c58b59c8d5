"""The settings and mistakes that torch tries its own optimizers on, tried on ours.

They are those of `torch.testing._internal.common_optimizers`, as installed. What torch's class does is
expected: to the bit where nothing is clipped, else after `torch.nn.utils.clip_grad_norm_`.
"""

import copy
import importlib.util
import inspect
import math
import sys
from typing import NamedTuple
from unittest import mock

import pytest
import torch
from optim_helpers import same, saved
from torch import nn
from torch.nn.utils import clip_grad_norm_

from clipbench.optim import (
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
)
from clipbench.optim.fused import adds_momentum_right

INTERNAL = "torch.testing._internal"


def torchs_table():
    """The module with torch's table.

    Only the table is wanted. The test machinery beside it needs packages that torch does not bring, and
    freezes torch's global flags, so it is kept out: the table takes decorators from it and nothing else.
    """
    spec = importlib.util.find_spec(f"{INTERNAL}.common_optimizers")
    if spec is None:
        pytest.skip(f"this torch has no {INTERNAL}.common_optimizers", allow_module_level=True)
    machinery = {}
    for name in ("common_device_type", "common_methods_invocations", "common_utils"):
        machinery[f"{INTERNAL}.{name}"] = mock.MagicMock(_TestParametrizer=object)
    before = {name: sys.modules.get(name) for name in machinery}
    sys.modules.update(machinery)
    try:
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
    except (ImportError, AttributeError, TypeError) as error:
        pytest.skip(f"this torch's table of optimizers cannot be read: {error!r}", allow_module_level=True)
    finally:
        for name, was in before.items():
            if was is None:
                del sys.modules[name]
            else:
                sys.modules[name] = was
    return module


TABLE = torchs_table()
INFOS = {info.name: info for info in TABLE.optim_db}
OURS = {"SGD": ClippedSGD, "Adam": ClippedAdam, "AdamW": ClippedAdamW}
FUSED, FOREACH, LOOP = {"fused": True}, {"foreach": True, "fused": False}, {"foreach": False, "fused": False}
IMPLEMENTATIONS = {"as it comes": {}, "fused": FUSED, "foreach": FOREACH, "loop": LOOP}
IDLE = {
    "none": {"clipping_type": "none"},
    "norm at inf": {"clipping_type": "norm", "clipping_level": math.inf},
    "norm far below its level": {"clipping_type": "norm", "clipping_level": 1e9},
}
IDLE_RULES = {"none": NoClip(), "norm at inf": Norm(math.inf), "norm far below its level": Norm(1e9)}
SHAPES = ((4, 3), (5,), (), (33, 17))
MATRICES = ((4, 3), (33, 17))


class Case(NamedTuple):
    """One row of torch's table, or one that it has for other devices only."""

    name: str
    words: str
    settings: dict

    def fresh(self):
        """Its settings, with tensors of their own."""
        return copy.deepcopy(self.settings)


def cases_of(name):
    info = INFOS.get(name)
    if info is None:
        return []
    found = []
    for given in info.optim_inputs_func("cpu"):
        found.append(Case(name, given.desc, dict(given.kwargs)))
    return found


def tensor_cases():
    """Tensors as learning rate and betas, which torch's table has for the GPU only."""
    numbers = torch.tensor(0.9), torch.tensor(0.99)
    shaped = torch.tensor([[[0.9]]]), torch.tensor([[0.99]])
    found = [
        Case("SGD", "tensors for lr and decay", {"lr": torch.tensor(0.1), "weight_decay": torch.tensor(0.1)})
    ]
    for name in ("Adam", "AdamW"):
        found.append(Case(name, "tensor for lr", {"lr": torch.tensor(0.01)}))
        found.append(Case(name, "tensor of one for lr", {"lr": torch.tensor([0.01])}))
        found.append(Case(name, "tensors for betas", {"betas": numbers}))
        found.append(Case(name, "tensors for lr and betas", {"lr": torch.tensor(0.01), "betas": numbers}))
        found.append(Case(name, "tensors of shape (1, 1, 1) for betas", {"betas": shaped, "amsgrad": True}))
    return found


def ids(cases):
    return [f"{case.name}: {case.words}" for case in cases]


OUR_CASES = [*cases_of("SGD"), *cases_of("Adam"), *cases_of("AdamW")]
ALL_OUR_CASES = [*OUR_CASES, *tensor_cases()]
OTHER_CASES = []
for _info in TABLE.optim_db:
    if not _info.only_supports_sparse_grads and not _info.step_requires_closure:
        OTHER_CASES += cases_of(_info.name)

each_of_ours = pytest.mark.parametrize("case", OUR_CASES, ids=ids(OUR_CASES))
each_of_ours_and_tensors = pytest.mark.parametrize("case", ALL_OUR_CASES, ids=ids(ALL_OUR_CASES))
each_of_torchs = pytest.mark.parametrize("case", OTHER_CASES, ids=ids(OTHER_CASES))
each_implementation = pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
each_class = pytest.mark.parametrize("name", OURS)


def make_parameters(shapes=SHAPES, dtype=torch.float32):
    rng = torch.Generator().manual_seed(3)
    wide = torch.complex128 if dtype.is_complex else torch.float64
    return [nn.Parameter(torch.randn(shape, generator=rng, dtype=wide).to(dtype)) for shape in shapes]


def set_gradients(params, number):
    """Gradients of norms far above 1 and far below, by turns."""
    rng = torch.Generator().manual_seed(number)
    size = 10.0 if number % 2 else 0.01
    for p in params:
        wide = torch.complex128 if p.is_complex() else torch.float64
        p.grad = (size * torch.randn(p.shape, generator=rng, dtype=wide)).to(p.dtype)


def go(params, optimizer, numbers, clip=None):
    """Steps with the gradients of these numbers; `clip` is called with the parameters before each."""
    for number in numbers:
        set_gradients(params, number)
        if clip is not None:
            clip(params)
        optimizer.step()


def result(params, optimizer):
    """The weights, and the states that torch's class has, in a fixed order."""
    found = [p.detach().clone() for p in params]
    for p in params:
        state = optimizer.state.get(p, {})
        for key in sorted(key for key in state if not key.startswith("clipping_memory_")):
            if isinstance(state[key], torch.Tensor):
                found.append(state[key].detach().clone())
    return found


def outcome(build, shapes=SHAPES, dtype=torch.float32, clip=None, steps=3):
    """What `build(params)` makes of some steps, or the type of the error that it ends in."""
    params = make_parameters(shapes, dtype)
    try:
        optimizer = build(params)
        go(params, optimizer, range(steps), clip)
    except Exception as error:
        return type(error)
    return result(params, optimizer)


def is_same(found, expected):
    if isinstance(expected, type) or isinstance(found, type):
        return found is expected
    return same(found, expected)


def shapes_of(name):
    return MATRICES if name == "Muon" else SHAPES


def clip_to_one(params):
    clip_grad_norm_(params, 1.0)


def torchs(name):
    return INFOS[name].optim_cls


def takes_tensors(settings):
    """Whether other than the learning rate are tensors: the fused kernel is then not taken unasked."""
    numbers = [settings.get("weight_decay"), *settings.get("betas", ())]
    return any(isinstance(number, torch.Tensor) for number in numbers)


def kernel_for(implementation, settings, dtype=torch.float32):
    """The implementation of torch's that ours is expected to run."""
    if implementation != "as it comes":
        return IMPLEMENTATIONS[implementation]
    left_to_torch = dtype.is_complex or settings.get("dampening") or takes_tensors(settings)
    return {} if left_to_torch else FUSED


def torchs_outcome(case, kernel, **keywords):
    return outcome(lambda params: torchs(case.name)(params, **case.fresh(), **kernel), **keywords)


def our_outcome(case, clipping, implementation, **keywords):
    chosen = IMPLEMENTATIONS[implementation]
    return outcome(lambda params: OURS[case.name](params, **case.fresh(), **clipping, **chosen), **keywords)


# nothing is clipped


@each_implementation
@each_of_ours_and_tensors
def test_where_nothing_is_clipped_the_step_is_torchs_to_the_bit(case, implementation):
    expected = torchs_outcome(case, kernel_for(implementation, case.settings))
    for words, clipping in IDLE.items():
        assert is_same(our_outcome(case, clipping, implementation), expected), words


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16], ids=str)
@each_of_ours
def test_in_other_precisions_too(case, dtype):
    if dtype == torch.float16 and case.name != "SGD":
        case.settings["eps"] = 0.1  # as in torch's table: 1e-8 is 0 there
    if case.name == "SGD" and not adds_momentum_right(dtype):
        pytest.skip("this torch's fused SGD is wrong in half precision, so ours takes another kernel")
    keywords = {"dtype": dtype}
    for implementation in IMPLEMENTATIONS:
        expected = torchs_outcome(case, kernel_for(implementation, case.settings, dtype), **keywords)
        found = our_outcome(case, IDLE["norm at inf"], implementation, **keywords)
        assert is_same(found, expected), implementation


@pytest.mark.parametrize("dtype", [torch.complex64, torch.complex128], ids=str)
@each_of_ours
def test_complex_numbers_too(case, dtype):
    """For which torch has no fused kernel: who asks for it gets torch's error, or torch's other kernel."""
    keywords = {"dtype": dtype}
    plain = torchs_outcome(case, {}, **keywords)
    for implementation, kernel in IMPLEMENTATIONS.items():
        expected = torchs_outcome(case, kernel, **keywords)
        found = our_outcome(case, IDLE["norm at inf"], implementation, **keywords)
        assert is_same(found, expected) or (kernel == FUSED and is_same(found, plain)), implementation


@each_of_torchs
def test_joined_to_any_of_torchs_optimizers_it_changes_nothing(case):
    info = INFOS[case.name]
    keywords = {"shapes": shapes_of(case.name)}
    kernels = [{}]
    for name in ("foreach", "fused"):
        if name in info.supported_impls:
            kernels.append({name: True})
    for kernel in kernels:
        expected = torchs_outcome(case, kernel, **keywords)
        for words, rule in IDLE_RULES.items():

            def build(params, kernel=kernel, rule=rule):
                return clip_gradients(info.optim_cls(params, **case.fresh(), **kernel), rule)

            assert is_same(outcome(build, **keywords), expected), (kernel, words)


COMPLEX = [n for n, info in INFOS.items() if info.supports_complex and not info.step_requires_closure]


@pytest.mark.parametrize("name", COMPLEX)
def test_joined_to_an_optimizer_of_complex_numbers_it_changes_nothing(name):
    case = Case(name, "default", {})

    def build(params):
        return clip_gradients(torchs(name)(params), Norm(math.inf))

    keywords = {"dtype": torch.complex64}
    assert is_same(outcome(build, **keywords), torchs_outcome(case, {}, **keywords))


# the norm is clipped


@each_implementation
@each_class
def test_a_factor_is_as_precise_as_the_weights_that_it_goes_to(name, implementation):
    """In float64, by the formula: g·min(1, 1/‖g‖)."""

    def by_formula(params):
        norm = math.sqrt(sum(float((p.grad**2).sum()) for p in params))
        for p in params:
            p.grad *= min(1.0, 1 / norm)

    keywords = {"dtype": torch.float64}
    case = Case(name, "default", {"lr": 0.1})
    expected = torchs_outcome(case, kernel_for(implementation, {}), clip=by_formula, **keywords)
    found = our_outcome(case, {"clipping_level": 1.0}, implementation, **keywords)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-14)


@each_implementation
@each_of_ours_and_tensors
def test_norm_at_one_is_torchs_clipping_and_then_torchs_step(case, implementation):
    keywords = {"dtype": torch.float64}
    expected = torchs_outcome(case, kernel_for(implementation, case.settings), clip=clip_to_one, **keywords)
    found = our_outcome(case, {"clipping_level": 1.0}, implementation, **keywords)
    if isinstance(expected, type):
        assert found is expected
    else:  # torch divides by the norm + 1e-6
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.complex64, torch.complex128], ids=str)
@each_class
def test_norm_at_one_of_complex_gradients_is_torchs_too(name, dtype):
    case = Case(name, "default", {})
    expected = torchs_outcome(case, {}, clip=clip_to_one, dtype=dtype)
    found = our_outcome(case, {"clipping_level": 1.0}, "as it comes", dtype=dtype)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


@each_of_torchs
def test_norm_at_one_joined_to_any_of_torchs_optimizers(case):
    cls = INFOS[case.name].optim_cls
    keywords = {"shapes": shapes_of(case.name), "dtype": torch.float64}
    found = outcome(lambda params: clip_gradients(cls(params, **case.fresh()), Norm(1.0)), **keywords)
    expected = torchs_outcome(case, {}, clip=clip_to_one, **keywords)
    assert not isinstance(expected, type)
    # torch's Muon computes in bfloat16, which may round the other way
    close = {"rtol": 1e-2, "atol": 1e-2} if case.name == "Muon" else {"rtol": 1e-5, "atol": 1e-6}
    torch.testing.assert_close(found, expected, **close)


@each_of_ours
def test_foreach_loop_and_fused_agree_where_it_clips(case):
    found = {}
    for name in IMPLEMENTATIONS:
        found[name] = our_outcome(case, {"clipping_level": 1.0}, name)
        assert not isinstance(found[name], type)
    for name in ("fused", "foreach", "as it comes"):
        torch.testing.assert_close(found[name], found["loop"], rtol=1e-5, atol=1e-6)


def lbfgs(settings, clipping):
    """The weights after a few rounds of LBFGS on a quadratic, clipped by a rule, by "hand" or not (None)."""
    torch.manual_seed(0)
    p = nn.Parameter(3 * torch.randn(6, dtype=torch.float64))
    scales = torch.arange(1, 7, dtype=torch.float64)
    sign = -1 if settings.get("maximize") else 1
    optimizer = torch.optim.LBFGS([p], **copy.deepcopy(settings), max_iter=3)
    if clipping not in (None, "hand"):
        clip_gradients(optimizer, clipping)

    def closure():
        optimizer.zero_grad()
        loss = sign * (scales * (p - 1) ** 2).sum() / 2
        loss.backward()
        if clipping == "hand":  # torch's clipping divides by the norm + 1e-6, which these steps blow up
            p.grad *= min(1.0, 1 / float(p.grad.norm()))
        return loss

    optimizer.step(closure)
    return p.detach()


LBFGS_CASES = cases_of("LBFGS")


@pytest.mark.parametrize("case", LBFGS_CASES, ids=ids(LBFGS_CASES))
def test_the_closures_of_lbfgs(case):
    plain = lbfgs(case.settings, None)
    for rule in IDLE_RULES.values():
        assert torch.equal(lbfgs(case.settings, rule), plain)
    clipped = lbfgs(case.settings, "hand")
    assert not torch.equal(clipped, plain)
    torch.testing.assert_close(lbfgs(case.settings, Norm(1.0)), clipped, rtol=1e-8, atol=1e-8)


# checkpoints


@pytest.mark.parametrize("clipping_type", ["none", "norm", "auto"])
@each_of_ours_and_tensors
def test_saved_and_loaded_it_goes_on_to_the_bit(case, clipping_type):
    def build(params):
        return OURS[case.name](params, **case.fresh(), clipping_type=clipping_type)

    straight = outcome(build, steps=6)
    params = make_parameters()
    first = build(params)
    go(params, first, range(3))
    second = build(params)
    second.load_state_dict(saved(first.state_dict()))
    go(params, second, range(3, 6))
    assert is_same(result(params, second), straight)


@pytest.mark.parametrize("clipping_type", ["none", "norm", "uclip"])
@each_of_ours
def test_a_plain_checkpoint_of_torchs_class_goes_on_here(case, clipping_type):
    """Clipped from then on."""
    ours, theirs = make_parameters(dtype=torch.float64), make_parameters(dtype=torch.float64)
    oracle = torchs(case.name)(theirs, **case.fresh())
    go(theirs, oracle, range(3))
    with torch.no_grad():
        for p, q in zip(ours, theirs, strict=True):
            p.copy_(q)
    level = {} if clipping_type == "none" else {"clipping_level": 1e9}
    optimizer = OURS[case.name](ours, lr=123.0, clipping_type=clipping_type, **level)
    optimizer.load_state_dict(saved(oracle.state_dict()))
    go(ours, optimizer, range(3, 6))
    go(theirs, oracle, range(3, 6))
    torch.testing.assert_close(result(ours, optimizer), result(theirs, oracle), rtol=1e-12, atol=1e-14)


NEVER_CLIP = {**IDLE, "auto": {"clipping_type": "auto", "p_autoclip": 1.0}}
NEVER_CLIP["uclip"] = {"clipping_type": "uclip", "clipping_level": 1e9}


@pytest.mark.parametrize("idle", NEVER_CLIP)
@each_of_ours
def test_our_checkpoint_goes_on_in_torchs_class(case, idle):
    """Also one with a memory, which torch does not mind."""
    params = make_parameters()
    optimizer = OURS[case.name](params, **case.fresh(), **NEVER_CLIP[idle])
    go(params, optimizer, range(3))
    later = torchs(case.name)(params, lr=123.0)
    later.load_state_dict(saved(optimizer.state_dict()))
    go(params, later, range(3, 6))
    expected = torchs_outcome(case, {}, steps=6)
    torch.testing.assert_close(result(params, later), expected, rtol=1e-5, atol=1e-6)


@each_class
def test_a_copy_and_the_original_make_the_same_steps(name):
    ours = make_parameters()
    optimizer = OURS[name](ours, lr=0.01, clipping_level=1.0)
    go(ours, optimizer, range(3))
    theirs, other = copy.deepcopy((ours, optimizer))
    go(ours, optimizer, range(3, 6))
    go(theirs, other, range(3, 6))
    assert same(result(theirs, other), result(ours, optimizer))


# hooks


def log_of(cls, **settings):
    """What hooks of a user's are called with, by an optimizer of `cls` that steps, saves and loads."""
    params, log = make_parameters(), []
    optimizer = cls(params, lr=0.01, **settings)

    def step_hook(words):
        def hook(own, args, kwargs):
            log.append((words, own is optimizer, len(args), sorted(kwargs), [p.grad is None for p in params]))

        return hook

    def save_hook(own, *rest):
        log.append(("save", own is optimizer, len(rest)))

    def save_post_hook(own, state_dict):
        log.append(("saved", own is optimizer, sorted(state_dict)))
        return {**state_dict, "more": 1}

    def load_hook(own, state_dict):
        log.append(("load", own is optimizer, sorted(state_dict)))
        without = dict(state_dict)
        without.pop("more")
        without["param_groups"] = [{**group, "lr": 0.5} for group in without["param_groups"]]
        return without

    def load_post_hook(own):
        log.append(("loaded", own is optimizer, own.param_groups[0]["lr"]))

    first = optimizer.register_step_pre_hook(step_hook("first before"))
    optimizer.register_step_pre_hook(step_hook("second before"))
    optimizer.register_step_post_hook(step_hook("after"))
    optimizer.register_state_dict_pre_hook(save_hook)
    optimizer.register_state_dict_post_hook(save_post_hook)
    optimizer.register_load_state_dict_pre_hook(load_hook)
    optimizer.register_load_state_dict_post_hook(load_post_hook)
    go(params, optimizer, range(2))
    set_gradients(params, 2)
    optimizer.step(lambda: 7.0)
    optimizer.step(closure=lambda: 7.0)
    first.remove()
    optimizer.step()
    log.append(sorted(optimizer.state_dict()))
    optimizer.load_state_dict(optimizer.state_dict())
    return log


@pytest.mark.parametrize("clipping_type", ["none", "norm", "auto"])
@each_class
def test_a_users_hooks_are_called_as_by_torchs_class(name, clipping_type):
    assert log_of(OURS[name], clipping_type=clipping_type) == log_of(torchs(name))


@each_class
def test_a_hook_may_give_the_step_another_closure(name):
    found = []
    for cls, settings in ((torchs(name), {}), (OURS[name], {"clipping_level": math.inf})):
        params = make_parameters()
        optimizer = cls(params, lr=0.01, **settings)

        def other_closure(params=params):
            set_gradients(params, 7)
            return 3.0

        def hook(own, args, kwargs, closure=other_closure):
            return (args[0], closure), {}

        optimizer.register_step_pre_hook(hook)
        assert optimizer.step(lambda: 5.0) == 3.0
        found.append([p.detach() for p in params])
    assert same(*found)


@each_class
def test_a_state_dict_that_a_hook_changed_is_the_one_that_is_loaded(name):
    """Rather than the one that was given."""
    params = make_parameters()
    optimizer = OURS[name](params, lr=0.01, clipping_type="auto")
    go(params, optimizer, range(3))
    state_dict = saved(optimizer.state_dict())
    other = OURS[name](params, lr=0.01, clipping_type="auto")

    def hook(own, given):
        groups = [{**group, "lr": 0.25} for group in given["param_groups"]]
        return {**given, "param_groups": groups}

    other.register_load_state_dict_pre_hook(hook)
    other.load_state_dict(state_dict)
    assert [group["lr"] for group in other.param_groups] == [0.25]
    assert [group["lr"] for group in state_dict["param_groups"]] == [0.01]


# groups, names, late groups, a meta device


def in_two_groups(params):
    return [{"params": params[:2], "lr": 0.3}, {"params": params[2:], "weight_decay": 0.2}]


@pytest.mark.parametrize("level", [math.inf, 1.0])
@each_class
def test_groups_with_settings_of_their_own(name, level):
    """The norm is that of all of them."""
    settings = {"lr": 0.05, "weight_decay": 0.01}
    found = outcome(lambda params: OURS[name](in_two_groups(params), clipping_level=level, **settings))
    clip = None if level == math.inf else clip_to_one
    expected = outcome(lambda params: torchs(name)(in_two_groups(params), **FUSED, **settings), clip=clip)
    if level == math.inf:
        assert is_same(found, expected)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def model_of_two_layers():
    torch.manual_seed(4)
    return nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2))


@each_class
def test_named_parameters(name):
    models = [model_of_two_layers() for _ in range(2)]
    theirs = torchs(name)(list(models[0].named_parameters()), lr=0.1, **FUSED)
    ours = OURS[name](models[1].named_parameters(), lr=0.1, clipping_level=math.inf)
    for model, optimizer in zip(models, (theirs, ours), strict=True):
        go(list(model.parameters()), optimizer, range(3))
    assert same(*[[p.detach() for p in model.parameters()] for model in models])
    names = [name for name, _ in models[1].named_parameters()]
    assert ours.param_groups[0]["param_names"] == names
    assert saved(ours.state_dict())["param_groups"][0]["param_names"] == names
    ours.load_state_dict(saved(ours.state_dict()))
    assert ours.param_groups[0]["param_names"] == names


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("level", [math.inf, 1.0])
@each_class
def test_a_group_that_comes_later(name, level, dtype):
    results = []
    for ours in (False, True):
        params, late = make_parameters(), make_parameters(((3, 2), (7,)), dtype)
        settings = {"clipping_level": level} if ours else FUSED
        optimizer = (OURS if ours else INFOS)[name]
        optimizer = (optimizer if ours else optimizer.optim_cls)(params, lr=0.02, **settings)
        clip = clip_to_one if not ours and level == 1.0 else None
        go(params, optimizer, range(3), clip)
        optimizer.add_param_group({"params": late, "lr": 0.3})
        go([*params, *late], optimizer, range(3, 6), clip)
        results.append(result([*params, *late], optimizer))
    expected, found = results
    if level == math.inf:
        assert same(found, expected)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


@pytest.fixture
def swapped_parameters():
    """A parameter that a module moves to another device stays the same object."""
    before = torch.__future__.get_swap_module_params_on_conversion()
    torch.__future__.set_swap_module_params_on_conversion(True)
    yield
    torch.__future__.set_swap_module_params_on_conversion(before)


@pytest.mark.parametrize("clipping_type", ["none", "norm", "auto", "adagc", "uclip"])
@each_class
@pytest.mark.usefixtures("swapped_parameters")
def test_built_on_the_meta_device_and_then_materialised(name, clipping_type):
    """As torch's class built on the weights that are there at last."""
    values = model_of_two_layers().state_dict()
    with torch.device("meta"):
        model = model_of_two_layers()
    optimizer = OURS[name](model.parameters(), lr=0.1, clipping_type=clipping_type)
    model.to_empty(device="cpu")
    assert optimizer.param_groups[0]["params"][0] is model[0].weight
    model.load_state_dict(values)
    params = list(model.parameters())
    plain = model_of_two_layers()
    oracle = torchs(name)(plain.parameters(), lr=0.1, **FUSED)
    theirs = list(plain.parameters())
    for _ in range(3):
        for p, q in zip(params, theirs, strict=True):  # a norm below every level, and always the same
            p.grad, q.grad = torch.full_like(p, 0.01), torch.full_like(q, 0.01)
        optimizer.step()
        oracle.step()
        torch.testing.assert_close(params, theirs, rtol=1e-6, atol=1e-7)


@each_class
def test_a_step_on_the_meta_device(name):
    """By which memory is estimated: torch's classes make it."""
    with torch.device("meta"):
        model = model_of_two_layers()
    optimizer = OURS[name](model.parameters(), lr=0.1, clipping_type="none")
    for p in model.parameters():
        p.grad = torch.empty_like(p)
    optimizer.step()
    assert all(p.is_meta for p in model.parameters())


# mistakes


def mistakes():
    """(words, class of ours, a row of torch's table of mistakes)."""
    rows = {cls: INFOS[name].optim_error_inputs_func("cpu", torch.float32) for name, cls in OURS.items()}
    for cls in (SPAM, StableSPAM):
        rows[cls] = INFOS["AdamW"].optim_error_inputs_func("cpu", torch.float32)
    for cls in (Lion, Muon, ACClip, ClippedSSTM):
        rows[cls] = TABLE.get_error_inputs_for_all_optims("cpu", torch.float32)
    found = []
    for cls, of_class in rows.items():
        for row in of_class:
            found.append((f"{cls.__name__}: {row.optimizer_error_input.desc}", cls, row))
    return found


def build_and_step(cls, params, settings):
    optimizer = cls(params, **settings)
    for group in optimizer.param_groups:
        set_gradients(group["params"], 0)
    optimizer.step()


MISTAKES = mistakes()


@pytest.mark.parametrize(("cls", "row"), [m[1:] for m in MISTAKES], ids=[m[0] for m in MISTAKES])
def test_a_mistake_is_the_same_error_as_torchs(cls, row):
    given = row.optimizer_error_input
    params = make_parameters() if given.params is None else given.params
    with pytest.raises(row.error_type):  # a warning is an error in these tests
        build_and_step(cls, params, given.kwargs)


@pytest.mark.parametrize("settings", [{"foreach": True, "fused": True}, {"lr": -1.0}], ids=str)
@each_class
def test_further_mistakes_are_the_same_error_as_torchs(name, settings):
    with pytest.raises(Exception) as theirs:  # noqa: PT011 (torch says which)
        torchs(name)(make_parameters(), **settings)
    with pytest.raises(theirs.type):
        OURS[name](make_parameters(), **settings)


@pytest.mark.parametrize("cls", [*OURS.values(), SPAM, StableSPAM])
def test_a_step_that_is_to_be_differentiated_is_refused(cls):
    """Its clipping is not."""
    with pytest.raises(ValueError, match="differentiable"):
        cls(make_parameters(), lr=0.1, differentiable=True)


@pytest.mark.parametrize("name", [n for n, info in INFOS.items() if "differentiable" in info.supported_impls])
def test_joining_an_optimizer_that_is_differentiated_is_refused(name):
    optimizer = INFOS[name].optim_cls(make_parameters(), differentiable=True)
    with pytest.raises(ValueError, match="differentiable"):
        clip_gradients(optimizer, Norm(1.0))


@each_class
def test_every_setting_of_torchs_class_is_one_of_ours_with_the_same_default(name):
    ours = inspect.signature(OURS[name]).parameters
    theirs = inspect.signature(torchs(name)).parameters
    for word, parameter in theirs.items():
        assert word in ours
        if word not in ("params", "weight_decay", "decoupled_weight_decay"):  # those three by their value
            assert ours[word].default == parameter.default, word
    ours, theirs = (cls(make_parameters()).defaults for cls in (OURS[name], torchs(name)))
    assert {word: ours[word] for word in theirs} == theirs


# SPAM and Stable-SPAM with everything off

OFF = {"threshold": math.inf, "reset_every": 10**9, "warmup": 0}


def adam_settings():
    return {"lr": 0.02, "betas": (0.8, 0.95), "eps": 1e-7, "weight_decay": 0.3}


def torchs_adamw(implementation, **keywords):
    kernel = implementation or FUSED
    return outcome(lambda params: torch.optim.AdamW(params, **adam_settings(), **kernel), **keywords)


@each_implementation
def test_spam_with_everything_off_is_torchs_adamw_to_the_bit(implementation):
    chosen = IMPLEMENTATIONS[implementation]
    found = outcome(lambda params: SPAM(params, **adam_settings(), **OFF, **chosen), steps=8)
    assert is_same(found, torchs_adamw(chosen, steps=8))


@each_implementation
def test_stable_spam_with_every_group_exempt_and_no_reset_is_torchs_adamw_to_the_bit(implementation):
    chosen = IMPLEMENTATIONS[implementation]

    def build(params):
        groups = [{"params": params, "clipping_level": math.inf}]
        return StableSPAM(groups, **adam_settings(), reset_every=10**9, **chosen)

    assert is_same(outcome(build, steps=8), torchs_adamw(chosen, steps=8))


@each_implementation
def test_spam_behind_a_norm_with_everything_else_off_is_clipped_adamw(implementation):
    chosen = IMPLEMENTATIONS[implementation]
    clipping = {"clipping_type": "norm", "clipping_level": 1.0}
    found = outcome(lambda params: SPAM(params, **adam_settings(), **OFF, **clipping, **chosen))
    expected = torchs_adamw(chosen, clip=clip_to_one)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


@each_implementation
def test_stable_spam_without_memory_is_torchs_adamw_on_gradients_of_norm_one(implementation):
    """With γ = 0 every running mean is what is seen now: μ̂ = M cuts nothing, â/(√b̂ + ε) = ‖g‖/(‖g‖ + ε)."""
    chosen = IMPLEMENTATIONS[implementation]
    gammas = {"gamma1": 0.0, "gamma2": 0.0, "gamma3": 0.0}

    def to_norm_one(params):
        for p in params:
            p.grad /= torch.linalg.vector_norm(p.grad) + adam_settings()["eps"]

    def build(params):
        return StableSPAM(params, **adam_settings(), **gammas, reset_every=10**9, **chosen)

    expected = torchs_adamw(chosen, clip=to_norm_one, dtype=torch.float64)
    torch.testing.assert_close(outcome(build, dtype=torch.float64), expected, rtol=1e-5, atol=1e-6)
