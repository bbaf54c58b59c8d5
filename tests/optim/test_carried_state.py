"""Whatever carries torch's optimizers carries ours: to the bit, as if nothing had carried them."""

import copy
import pickle
from functools import partial

import pytest
import torch
import torch.distributed.checkpoint as dcp
import torch.multiprocessing as mp
from conftest import set_gradients, small_model, weights
from optim_helpers import same, saved
from torch import nn
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_optimizer_state_dict,
    set_optimizer_state_dict,
)

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
    clip_stats,
    make_rule,
)
from clipbench.optim.memory import rule_memories

SGD = {"lr": 0.1, "momentum": 0.9}


def joined(params):
    return clip_gradients(torch.optim.RMSprop(params, lr=0.01), make_rule("quadratic_rand_auto", window=20))


OPTIMIZERS = {
    "plain sgd, none": partial(ClippedSGD, lr=0.1, clipping_type="none"),
    "plain sgd, random": partial(ClippedSGD, lr=0.1, clipping_type="linear_rand_norm", clipping_level=0.3),
    "sgd, auto": partial(ClippedSGD, **SGD, clipping_type="auto", window=20),
    "sgd, random auto": partial(ClippedSGD, **SGD, clipping_type="quadratic_rand_auto", window=20, beta=0.5),
    "sgd, uclip": partial(ClippedSGD, **SGD, clipping_type="uclip"),
    "adam, zclip": partial(ClippedAdam, lr=0.01, clipping_type="zclip", warmup_steps=2),
    "adamw, norm": partial(ClippedAdamW, lr=0.01),
    "adamw, adagc": partial(ClippedAdamW, lr=0.01, clipping_type="adagc", warmup_steps=2),
    "adamw, block_rms": partial(ClippedAdamW, lr=0.01, clipping_type="block_rms"),
    "spam": partial(SPAM, lr=0.01, reset_every=5, warmup=2, pause=1, threshold=4.0),
    "spam, zclip": partial(SPAM, lr=0.01, reset_every=5, warmup=2, clipping_type="zclip"),
    "stable spam": partial(StableSPAM, lr=0.01, reset_every=5),
    "sstm": partial(ClippedSSTM, lr=0.1, L=1.0, clipping_type="uclip"),
    "acclip": partial(ACClip, lr=0.1),
    "lion": partial(Lion, lr=0.01),
    "muon": partial(Muon, lr=0.01),
    "joined rmsprop": joined,
}
each_optimizer = pytest.mark.parametrize("name", OPTIMIZERS)


def go(model, optimizer, numbers):
    for number in numbers:
        set_gradients(model, number, 3.0)
        optimizer.step()
    optimizer.zero_grad()
    return weights(model)


def build(name, seed=0, dtype=torch.float32):
    model = small_model(seed).to(dtype)
    return model, OPTIMIZERS[name](model.parameters())


def load(name, model, dtype=torch.float32):
    """A fresh optimizer of another model that has the weights of `model`."""
    other, optimizer = build(name, 1, dtype)
    other.load_state_dict(model.state_dict())
    return other, optimizer


def by_file(name, model, optimizer, folder):
    other, fresh = load(name, model)
    fresh.load_state_dict(saved(optimizer.state_dict()))
    return other, fresh


def by_deepcopy(name, model, optimizer, folder):
    return _attached(name, *copy.deepcopy((model, optimizer)))


def by_pickle(name, model, optimizer, folder):
    return _attached(name, *pickle.loads(pickle.dumps((model, optimizer))))


def _attached(name, model, optimizer):
    """A bare join is told to be lost by a copy, and is to be made again."""
    if name == "joined rmsprop":
        fresh = joined(model.parameters())
        fresh.load_state_dict(optimizer.state_dict())
        return model, fresh
    return model, optimizer


def by_dcp(name, model, optimizer, folder, **options):
    other, fresh = load(name, model)
    options = StateDictOptions(**options)
    state = copy.deepcopy(get_optimizer_state_dict(model, optimizer, options=options))  # it shares tensors
    set_optimizer_state_dict(other, fresh, state, options=options)
    return other, fresh


def by_dcp_files(name, model, optimizer, folder, **options):
    options = StateDictOptions(**options)
    state = {"optimizer": get_optimizer_state_dict(model, optimizer, options=options)}
    dcp.save(state, checkpoint_id=folder / "checkpoint", no_dist=True)
    other, fresh = load(name, model)
    read = {"optimizer": get_optimizer_state_dict(other, fresh, options=options)}
    dcp.load(read, checkpoint_id=folder / "checkpoint", no_dist=True)
    set_optimizer_state_dict(other, fresh, read["optimizer"], options=options)
    return other, fresh


def by_a_loop_that_moves(name, model, optimizer, folder):
    for state in optimizer.state.values():
        for key, value in state.items():
            if torch.is_tensor(value):
                state[key] = value.to("cpu", copy=True)
    for group in optimizer.param_groups:
        for key, value in group.items():
            if torch.is_tensor(value):
                group[key] = value.to("cpu", copy=True)
    return model, optimizer


CARRIERS = {
    "torch.save, weights_only": by_file,
    "deepcopy": by_deepcopy,
    "pickle": by_pickle,
    "DCP": by_dcp,
    "DCP, full": partial(by_dcp, full_state_dict=True),
    "DCP, flat": partial(by_dcp, flatten_optimizer_state_dict=True),
    "DCP files": by_dcp_files,
    "a loop that moves": by_a_loop_that_moves,
}


DIES_FOR_TORCHS_TOO = ("DCP, full",)
"""For SGD without momentum, which has no state."""


@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::UserWarning", "ignore::DeprecationWarning")
@pytest.mark.parametrize("steps", [4, 0], ids=["stepped", "fresh"])
@pytest.mark.parametrize("carrier", CARRIERS)
@each_optimizer
def test_it_goes_on_to_the_bit(name, carrier, steps, tmp_path):
    if name.startswith("plain sgd") and carrier in DIES_FOR_TORCHS_TOO:
        pytest.skip("torch's own SGD without momentum dies there")
    model, optimizer = build(name)
    go(model, optimizer, range(steps))
    other, resumed = CARRIERS[carrier](name, model, optimizer, tmp_path)
    if steps:
        torch.manual_seed(99)  # what is random must not come from the process
    found = go(other, resumed, range(4, 10))
    if other is not model:
        expected = go(model, optimizer, range(4, 10))
        assert rule_memories(**resumed.state_dict()).keys() == rule_memories(**optimizer.state_dict()).keys()
    else:
        straight, through = build(name)
        go(straight, through, range(steps))
        expected = go(straight, through, range(4, 10))
    assert same(found, expected)


@pytest.mark.parametrize("name", ["plain sgd, none", "plain sgd, random", "sgd, auto", "sgd, random auto"])
def test_looking_at_a_fresh_optimizer_by_dcp_changes_nothing(name):
    """It makes a step with gradients of zero and lr 0, which is no step for a memory or a coin."""
    model, optimizer = build(name)
    get_optimizer_state_dict(model, optimizer)
    straight, through = build(name)
    assert same(go(model, optimizer, range(8)), go(straight, through, range(8)))


@each_optimizer
def test_every_key_of_the_state_is_a_parameter_and_every_value_a_tensor(name):
    """So loops over it do what they do for torch's: `max(s["step"] for s in optimizer.state.values())`."""
    model, optimizer = build(name)
    go(model, optimizer, range(3))
    params = set(model.parameters())
    assert set(optimizer.state) <= params
    for state in optimizer.state.values():
        assert all(isinstance(value, torch.Tensor) for value in state.values())
    if isinstance(optimizer, torch.optim.Adam):
        assert max(float(state["step"]) for state in optimizer.state.values()) in (3.0, 4.0)


@pytest.mark.parametrize("name", ["sgd, uclip", "adamw, adagc", "stable spam", "sgd, random auto"])
def test_a_memory_keeps_its_precision_where_the_weights_have_less(name):
    """torch casts a parameter's state to the parameter's dtype when it loads."""
    model, optimizer = build(name, dtype=torch.bfloat16)

    def steps(model, optimizer, numbers):
        for number in numbers:
            set_gradients(model, number, 3.0, torch.bfloat16)
            optimizer.step()
        return weights(model)

    steps(model, optimizer, range(4))
    other, resumed = load(name, model, torch.bfloat16)
    resumed.load_state_dict(saved(optimizer.state_dict()))
    assert same(steps(other, resumed, range(4, 10)), steps(model, optimizer, range(4, 10)))


def _steps_in_a_process(given, found):
    for name, model, optimizer in given.get():
        found.put((name, [p.tolist() for p in go(model, optimizer, range(4, 8))]))


def test_a_stepped_optimizer_is_given_to_a_spawned_process():
    names = [name for name in OPTIMIZERS if name != "joined rmsprop"]
    given, expected = [], {}
    for name in names:
        model, optimizer = build(name)
        go(model, optimizer, range(4))
        given.append((name, model, optimizer))
        straight, through = build(name)
        go(straight, through, range(4))
        expected[name] = [p.tolist() for p in go(straight, through, range(4, 8))]
    context = mp.get_context("spawn")
    there, back = context.SimpleQueue(), context.SimpleQueue()
    process = context.Process(target=_steps_in_a_process, args=(there, back))
    process.start()
    there.put(given)
    found = dict(back.get() for _ in names)
    process.join()
    assert found == expected


# memory belongs to its parameter


def replaced(optimizer, group, larger):
    """As where points are added to a scene: the state goes on, what is per entry made longer."""
    old = group["params"][0]
    state = optimizer.state.pop(old, {})
    new = nn.Parameter(torch.cat([old.detach(), torch.zeros(larger, *old.shape[1:])]))
    for key in ("exp_avg", "exp_avg_sq", "momentum_buffer"):
        if key in state:
            state[key] = torch.cat([state[key], torch.zeros(larger, *old.shape[1:])])
    group["params"][0] = new
    optimizer.state[new] = state
    return new


@pytest.mark.parametrize("name", ["adagc", "uclip", "auto"])
@pytest.mark.parametrize("cls", [ClippedAdam, ClippedSGD])
def test_a_parameter_is_replaced_by_a_larger_one(name, cls):
    a, b = nn.Parameter(torch.zeros(3, 2)), nn.Parameter(torch.zeros(3, 2))
    optimizer = cls([{"params": [a]}, {"params": [b]}], lr=0.1, clipping_type=name)
    for _ in range(3):
        a.grad, b.grad = torch.ones(3, 2), torch.full((3, 2), 5.0)
        optimizer.step()
    memory = {key: value.clone() for key, value in optimizer.state[b].items() if "memory" in key}
    a = replaced(optimizer, optimizer.param_groups[0], 2)
    a.grad, b.grad = torch.zeros(5, 2), torch.zeros(3, 2)
    optimizer.step()
    assert torch.isfinite(a).all()
    for key, value in memory.items():
        assert optimizer.state[b][key].shape == value.shape
    if name == "adagc":  # a gradient of zeros leaves it alone
        assert torch.equal(optimizer.state[b]["clipping_memory_gamma"], memory["clipping_memory_gamma"])


def test_a_parameter_appended_to_the_first_group_takes_no_others_memory():
    a, b, late = (nn.Parameter(torch.zeros(2)) for _ in range(3))
    optimizer = ClippedSGD([{"params": [a]}, {"params": [b]}], lr=0.1, clipping_type="adagc", warmup_steps=1)
    a.grad, b.grad = torch.full((2,), 1e-3), torch.full((2,), 0.5)
    optimizer.step()
    before = float(optimizer.state[b]["clipping_memory_gamma"])
    optimizer.param_groups[0]["params"].append(late)
    late.grad = torch.full((2,), 1e-6)
    a.grad, b.grad = torch.zeros(2), torch.zeros(2)
    optimizer.step()
    assert float(optimizer.state[b]["clipping_memory_gamma"]) == before
    assert float(optimizer.state[late]["clipping_memory_gamma"]) == pytest.approx(1e-6 * 2**0.5)


# other people's checkpoints


@pytest.mark.parametrize("name", ["adamw, norm", "spam", "stable spam", "adamw, adagc"])
def test_a_checkpoint_of_torchs_adamw_loads(name):
    model = small_model()
    plain = torch.optim.AdamW(model.parameters(), lr=0.02)
    go(model, plain, range(3))
    other, optimizer = load(name, model)
    optimizer.load_state_dict(saved(plain.state_dict()))
    assert optimizer.param_groups[0]["lr"] == 0.02
    go(other, optimizer, range(3, 9))
    assert float(optimizer.state[next(other.parameters())]["step"]) >= 1
    assert clip_stats(optimizer).grad_norm > 0


@pytest.mark.parametrize("name", ["sstm", "acclip", "lion", "spam"])
def test_the_state_of_another_kind_of_optimizer_is_refused_before_anything_is_loaded(name):
    model = small_model()
    other = ClippedSGD(model.parameters(), **SGD)
    go(model, other, range(2))
    optimizer = OPTIMIZERS[name](small_model().parameters())
    before = optimizer.param_groups[0]["lr"]
    with pytest.raises(ValueError, match="Load it into the optimizer that it was saved from"):
        optimizer.load_state_dict(saved(other.state_dict()))
    assert optimizer.param_groups[0]["lr"] == before
    assert not optimizer.state
