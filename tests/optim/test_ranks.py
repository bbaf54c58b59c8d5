"""Several processes give what one gives: DDP, fully_shard, FSDP1, ZeroRedundancyOptimizer and DTensors.

The processes are begun once and go through all of rank_cases.py; each test looks at one case. What is right
is said by a single process with the whole batch, and for `norm` by torch's own clip_grad_norm_ and AdamW.
"""

from __future__ import annotations

import functools
import os
import pickle
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest
import rank_cases
import torch
from rank_cases import COUNTED, FOUR, KEPT_APART, RANDOM, STEPS, TWO, WAYS_OF

from clipbench.optim import RULES, TIED

if not torch.distributed.is_available():
    pytest.skip("this torch is built without torch.distributed", allow_module_level=True)

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
PAGE = ROOT / "docs" / "optimizers-with-frameworks.md"
LIMIT = 240
"""Seconds, for all processes together; they take about 20."""


# what the processes saw


@pytest.fixture(scope="module")
def seen(tmp_path_factory):
    """{case: what each rank saw of it}, of two processes and of four, which run at the same time."""
    begun = []
    for ranks in (2, 4):
        folder = tmp_path_factory.mktemp(f"of_{ranks}")
        begun.append((ranks, folder, [start(rank, ranks, folder) for rank in range(ranks)]))
    until = time.monotonic() + LIMIT
    found = {}
    for ranks, folder, processes in begun:
        for process in processes:
            wait(process, until)
        for name, outcomes in outcomes_in(folder, ranks).items():
            found[name] = outcomes
        found[f"errors of {ranks}"] = [(folder / f"errors_{rank}").read_text() for rank in range(ranks)]
    return found


def start(rank, ranks, folder):
    paths = [str(HERE), str(ROOT), os.environ.get("PYTHONPATH", "")]
    own = {"OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(path for path in paths if path)}
    command = [sys.executable, rank_cases.__file__, str(rank), str(ranks), str(folder)]
    with open(folder / f"errors_{rank}", "w") as errors:
        return subprocess.Popen(command, env={**os.environ, **own}, stdout=errors, stderr=errors)


def wait(process, until):
    try:
        process.wait(max(until - time.monotonic(), 1))
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def outcomes_in(folder, ranks):
    """{case: the outcome of each rank that came to it}"""
    found = {}
    for rank in range(ranks):
        path = folder / f"seen_{rank}"
        if not path.exists():
            continue
        with path.open("rb") as file:
            while file.peek(1):
                name, outcome = pickle.load(file)
                found.setdefault(name, []).append(outcome)
    return found


@pytest.fixture(scope="module")
def of_case(seen):
    """name → what each rank saw; fails with the traceback where one raised."""

    def find(name):
        ranks = ranks_of(name)
        outcomes = seen.get(name, [])
        if len(outcomes) < ranks:
            words = "\n".join(text[-2000:] for text in seen[f"errors of {ranks}"])
            pytest.fail(f"{name}: {len(outcomes)} of {ranks} processes came to its end.\n{words}")
        for rank, outcome in enumerate(outcomes):
            if "error" in outcome:
                pytest.fail(f"{name}, rank {rank}:\n{outcome['traceback']}")
        return [outcome["seen"] for outcome in outcomes]

    return find


@pytest.fixture(scope="module")
def refusals(seen):
    """name → (class, words) of the error of each rank."""

    def find(name):
        outcomes = seen.get(name, [])
        assert len(outcomes) == 2, f"{name}: {len(outcomes)} of 2 processes came to its end"
        for outcome in outcomes:
            assert "error" in outcome, f"{name}: {outcome.get('seen')}"
        return [(outcome["error"], outcome["words"]) for outcome in outcomes]

    return find


def ranks_of(name):
    return 4 if name.split(":")[0] in FOUR else 2


# what one process gives


def alone(kind, which, rule, **options):
    """Of the whole model with the whole batch. Nothing of our own clipping over ranks is in it."""
    return trained(model_of(kind), which, rule, **options)


trained = functools.cache(rank_cases.one_training)


def model_of(kind):
    return "even" if kind == "TP and FSDP" else "one process"


@functools.cache
def torchs_own(model, level):
    """Weights of torch's AdamW behind clip_grad_norm_, and the norms at each step."""
    place = rank_cases.Place(model)
    params = [p for _, p in place.named()]
    optimizer = torch.optim.AdamW(params, **rank_cases.CLASSES["ClippedAdamW"][1])
    norms = []
    for step in range(STEPS):
        place.backward(step)
        norms.append(float(torch.nn.utils.clip_grad_norm_(params, level)))
        optimizer.step()
    return place.weights(), norms


def assert_same(found, expected, words):
    """To rounding: the sums are taken in another order."""
    assert found.keys() == expected.keys(), words
    for name, value in expected.items():
        torch.testing.assert_close(
            found[name],
            value,
            rtol=1e-4,
            atol=2e-6,
            equal_nan=True,
            msg=lambda text, n=name: f"{words}{n}: {text}",
        )


def assert_stats(found, expected, words):
    for step, (ours, right) in enumerate(zip(found, expected, strict=True)):
        assert ours["plain"], words
        for name, value in right.items():
            assert ours[name] == pytest.approx(value, rel=1e-4, abs=1e-6, nan_ok=True), (
                f"{words}{name} at step {step}: {ours[name]}, but one process has {value}"
            )


def as_one(seen_by_ranks, expected):
    """Each rank saw what one process sees: weights and statistics."""
    for rank, found in enumerate(seen_by_ranks):
        assert_same(found["weights"], expected["weights"], f"rank {rank}, ")
        assert_stats(found["stats"], expected["stats"], f"rank {rank}, ")


def combinations(kinds, random=False, classes=False):
    """(kind, class, rule): of all rules but those with coins, of those, or of all classes."""
    found = []
    for kind in kinds:
        for which, rule in rank_cases.pairs(kind):
            by_class = rule == "norm" or (which == "ClippedAdamW" and rule == "layer_wise")
            wanted = classes if by_class and which != "ClippedSGD" else not classes
            if wanted and (rule in RANDOM) == random:
                found.append(pytest.param(kind, which, rule, id=f"{kind}-{which}-{rule}"))
    return found


# one process is worth comparing with


def test_every_rule_is_compared():
    assert rank_cases.RULES.keys() == RULES.keys() | TIED.keys()


@pytest.mark.parametrize("rule", [rule for rule in rank_cases.RULES if rule != "none"])
def test_every_rule_changes_the_weights_that_are_compared(rule):
    which = rank_cases.class_for(rule)
    clipped, plain = alone("DDP", which, rule)["weights"], alone("DDP", which, "none")["weights"]
    apart = max(float((clipped[name] - plain[name]).abs().max()) for name in plain)
    assert apart > 1e-3


@pytest.mark.parametrize("rule", RANDOM)
def test_coins_of_another_seed_give_other_weights(rule, monkeypatch):
    """Or the tests of coins below could not fail."""
    monkeypatch.setattr(rank_cases, "SEED", rank_cases.SEED + 1)
    other = rank_cases.one_training("one process", "ClippedSGD", rule)["weights"]
    ours = alone("DDP", "ClippedSGD", rule)["weights"]
    assert max(float((other[name] - ours[name]).abs().max()) for name in ours) > 1e-4


# each kind of training


@pytest.mark.parametrize(("kind", "which", "rule"), combinations((*TWO, *FOUR)))
def test_each_rule_gives_what_one_process_gives(kind, which, rule, of_case):
    as_one(of_case(f"{kind}: {which}, {rule}"), alone(kind, which, rule))


@pytest.mark.parametrize(("kind", "which", "rule"), combinations((*TWO, *FOUR), random=True))
def test_all_ranks_toss_the_coins_of_rank_0(kind, which, rule, of_case):
    as_one(of_case(f"{kind}: {which}, {rule}"), alone(kind, which, rule))


@pytest.mark.parametrize(("kind", "which", "rule"), combinations((*TWO, *FOUR), classes=True))
def test_each_optimizer_gives_what_one_process_gives(kind, which, rule, of_case):
    as_one(of_case(f"{kind}: {which}, {rule}"), alone(kind, which, rule))


@pytest.mark.parametrize("kind", [*TWO, *FOUR])
def test_norm_gives_what_torch_gives_with_clip_grad_norm(kind, of_case):
    weights, norms = torchs_own(model_of(kind), rank_cases.RULES["norm"]["clipping_level"])
    for found in of_case(f"{kind}: ClippedAdamW, norm"):
        assert_same(found["weights"], weights, "")
        assert [stats["grad_norm"] for stats in found["stats"]] == pytest.approx(norms, rel=1e-4)


@pytest.mark.parametrize("kind", [*TWO, *FOUR])
def test_clip_stats_are_plain_numbers_and_the_same_on_all_ranks(kind, of_case):
    first, *others = of_case(f"{kind}: ClippedAdamW, norm")
    assert all(stats["plain"] for stats in first["stats"])
    for other in others:
        assert other["stats"] == first["stats"]


@pytest.mark.parametrize(("kind", "which", "rule"), combinations((*TWO, *FOUR)))
def test_what_is_remembered_is_what_one_process_remembers(kind, which, rule, of_case):
    expected = alone(kind, which, rule)["memory"]
    whole = {key: value for key, value in expected.items() if key.startswith("group")}
    remembered_of = set()
    for found in of_case(f"{kind}: {which}, {rule}"):
        memory = found["memory"]
        assert_same({key: memory[key] for key in whole}, whole, "")
        for key in memory.keys() - whole.keys():
            assert_same({key: memory[key]}, {key: expected[key]}, "")
        remembered_of |= memory.keys()
    if not kind.startswith("FSDP1"):
        assert remembered_of == expected.keys()


@pytest.mark.parametrize("kind", [*TWO, *FOUR])
def test_a_nan_on_one_rank_is_skipped_on_all(kind, of_case):
    expected = alone(kind, "ClippedAdamW", "zclip", poison=2)
    found = of_case(f"{kind}: NaN")
    if kind != "mixed":  # which no fused kernel takes: there a gradient of zeros is stepped with
        as_one(found, expected)
    for one in found:
        assert [stats["skipped"] for stats in one["stats"]] == [0, 0, 1, 1, 1, 1]
        if kind == "mixed":
            assert_same(one["memory"], found[0]["memory"], "")
            continue
        assert_same(
            {key: value for key, value in one["memory"].items() if key.startswith("group")},
            {key: value for key, value in expected["memory"].items() if key.startswith("group")},
            "",
        )


@pytest.mark.parametrize("kind", [kind for kind in (*TWO, *FOUR) if kind != "mixed"])
def test_a_skipped_step_leaves_the_weights_as_they_are(kind, of_case):
    """To the bit: the fused kernel of AdamW leaves it out."""
    for found in of_case(f"{kind}: NaN"):
        before, after = found["around the poison"]
        for name, value in before.items():
            assert torch.equal(value, after[name])


@pytest.mark.parametrize("kind", TWO)
def test_a_nan_under_sgd_is_counted_on_all_ranks_and_reaches_no_weight(kind, of_case):
    """Without a fused kernel momentum goes on, on all ranks alike."""
    first, *others = of_case(f"{kind}: NaN under SGD")
    assert [stats["skipped"] for stats in first["stats"]] == [0, 0, 1, 1, 1, 1]
    for name, value in first["weights"].items():
        assert torch.isfinite(value).all()
        for other in others:
            assert torch.equal(other["weights"][name], value)
    for other in others:
        assert [stats["skipped"] for stats in other["stats"]] == [0, 0, 1, 1, 1, 1]


def special(name):
    return rank_cases.SPECIAL[name][1]


def specially(name, kind, of_case):
    as_one(of_case(f"{kind}: {name}"), rank_cases.SPECIAL[name][0]("one process"))


@pytest.mark.parametrize("kind", special("separate levels"))
def test_groups_at_levels_of_their_own_are_normed_over_all_ranks(kind, of_case):
    specially("separate levels", kind, of_case)


@pytest.mark.parametrize("kind", special("a frozen layer"))
def test_a_layer_may_be_frozen(kind, of_case):
    specially("a frozen layer", kind, of_case)


@pytest.mark.parametrize("kind", special("an unused layer"))
def test_a_layer_may_have_no_gradient_at_some_steps(kind, of_case):
    specially("an unused layer", kind, of_case)


@pytest.mark.parametrize("kind", special("one parameter"))
def test_a_rank_may_hold_nothing_at_all(kind, of_case):
    specially("one parameter", kind, of_case)


@pytest.mark.parametrize("kind", special("a generator of the user's"))
def test_a_generator_that_the_user_gives_is_rank_0s_too(kind, of_case):
    specially("a generator of the user's", kind, of_case)


def test_muon_steps_by_adamw_where_its_group_says_so(of_case):
    as_one(of_case("fully_shard: Muon without matrices"), rank_cases.muon_without_matrices("one process"))


@pytest.mark.parametrize("kind", [*TWO, *FOUR])
def test_a_step_warns_of_nothing(kind, of_case):
    """Of nothing that torch has deprecated either."""
    for which, rule in rank_cases.pairs(kind):
        for found in of_case(f"{kind}: {which}, {rule}"):
            assert found["warned"] == set(), (which, rule)


def test_process_groups_may_be_ended_and_begun_again(of_case):
    for found in of_case("process groups made anew"):
        for training in found:
            assert_same(training["weights"], alone("fully_shard", "StableSPAM", "norm")["weights"], "")


# what a step costs: collectives, as torch counts them


MORE = {"SPAM": 2, "StableSPAM": 2, "agc": 2, "block_rms": 2}
"""At most so many: they ask for a norm of what another norm has changed."""


def test_collectives_are_counted(of_case):
    assert of_case("one all_reduce") == [1, 1]


def sharded(combined):
    return [one for one in combined if one.values[0] in COUNTED and one.values[0] != "DDP"]


@pytest.mark.parametrize(
    ("kind", "which", "rule"),
    sharded(combinations(TWO) + combinations(TWO, random=True) + combinations(TWO, classes=True)),
)
def test_a_step_over_parts_of_a_gradient_makes_one_collective(kind, which, rule, of_case):
    for found in of_case(f"{kind}: {which}, {rule}"):
        most = MORE.get(which, MORE.get(rule, 1))
        if kind == "ZeRO" and rule in rank_cases.PER_TENSOR:
            most = 2  # the norm after clipping is of tensors that other ranks clip
        assert 1 <= found["collectives"] <= most


@pytest.mark.parametrize("kind", ["DDP", "Replicate"])
def test_a_step_over_whole_gradients_makes_no_collective(kind, of_case):
    for which, rule in rank_cases.pairs(kind):
        for found in of_case(f"{kind}: {which}, {rule}"):
            assert found["collectives"] == 0, (which, rule)


@pytest.mark.parametrize("kind", COUNTED)
def test_the_first_step_costs_no_more_but_for_a_rule_that_draws(kind, of_case):
    sums = 0 if kind == "DDP" else 1
    assert of_case(f"{kind}: first step, norm") == [sums, sums]
    drawn = of_case(f"{kind}: first step, linear_rand_norm")
    assert drawn == [sums + 1, sums + 1]


@pytest.mark.parametrize("which", ["norm", "layer_wise", "ClippedAdamW"])
def test_hsdp_sums_over_the_ranks_that_hold_other_parts_alone(which, of_case):
    name = f"HSDP: {which}, norm" if which.startswith("Clipped") else f"HSDP: ClippedSGD, {which}"
    for found in of_case(name):
        assert found["collectives"] == 1


# checkpoints


def checkpoints():
    found = []
    for kind, ways in WAYS_OF.items():
        for way in ways:
            for which, rule in rank_cases.REMEMBERS:
                if rank_cases.fits(kind, which, rule):
                    found.append(pytest.param(kind, which, rule, way, id=f"{kind}-{which}-{rule}-{way}"))
    return found


@pytest.mark.parametrize(("kind", "which", "rule", "way"), checkpoints())
def test_a_checkpoint_is_resumed_exactly(kind, which, rule, way, of_case):
    straight = of_case(f"{kind}: {which}, {rule}")
    resumed = of_case(f"{kind}: {which}, {rule}, {way}")
    for one, other in zip(straight, resumed, strict=True):
        for name, value in one["weights"].items():
            assert torch.equal(other["weights"][name], value), name
        assert other["memory"].keys() == one["memory"].keys()
        for name, value in one["memory"].items():
            assert torch.equal(other["memory"][name], value), name


@pytest.mark.parametrize(("kind", "way"), KEPT_APART)
def test_torchs_own_adamw_is_resumed_in_the_same_way(kind, way, of_case):
    """So that a failure of the test above is ours."""
    for found in of_case(f"{kind}: torch's AdamW, {way}"):
        for name, value in found["straight"].items():
            assert torch.equal(value, found["again"][name]), name


# refused in words


@pytest.mark.parametrize("name", rank_cases.REFUSED)
def test_rules_about_tensors_are_refused_where_fsdp1_has_flattened_them(name, refusals):
    for error, words in refusals(f"refused: {name}"):
        assert error in ("RuntimeError", "ValueError")
        assert "fully_shard" in words
        assert ("use_orig_params=True" in words) == (not name.startswith("agc"))


@pytest.mark.parametrize("kind", rank_cases.MUON_REFUSED)
def test_muon_is_refused_where_matrices_are_split(kind, refusals):
    for error, words in refusals(f"refused: Muon, {kind}"):
        assert error in ("RuntimeError", "ValueError")
        assert "Muon" in words
        assert "use_muon=False" in words


def test_muons_groups_are_refused_where_fsdp1_has_flattened_the_matrices(refusals):
    """Else all of them would be stepped by AdamW, without a word."""
    for error, words in refusals("refused: Muon.groups, FSDP1"):
        assert error in ("RuntimeError", "ValueError")
        assert "Muon" in words


@pytest.mark.parametrize("what", ["gradient", "parameter"])
def test_sums_that_are_still_to_be_made_are_refused(what, refusals):
    for error, words in refusals(f"refused: Partial {what}"):
        assert error == "RuntimeError"
        assert "edistribute" in words


# the page


def test_the_page_names_tests_that_exist():
    text = PAGE.read_text()
    named = re.findall(r"(test_\w+\.py)::(test_\w+)", text)
    assert named
    for file, name in named:
        assert f"def {name}(" in (HERE / file).read_text(), f"{file}::{name}"
