"""The adding problem: its targets by hand, what chance gives, and that the best is the least."""

from __future__ import annotations

import pytest

import clipbench
from clipbench.errors import UserError
from clipbench.record import tables
from clipbench.task.seeds import generator
from clipbench.tasks.adding import SIZES, Adding


def adding(**keywords) -> Adding:
    return Adding(**{"batch_size": 64, "length": 9, "model": "lstm", "hidden": 6, "layers": 1, **keywords})


@pytest.mark.parametrize("length", [2, 3, 9, 40])
def test_the_target_is_the_sum_of_the_one_marked_number_of_each_half(length):
    task = adding(length=length)
    inputs, sums = next(task.train_batches(generator(0, "data")))
    assert inputs.shape == (64, length, 2)
    for sequence, total in zip(inputs.tolist(), sums.tolist(), strict=True):
        marked = [i for i, (_, mark) in enumerate(sequence) if mark == 1]
        assert [mark for _, mark in sequence].count(0) == length - 2
        assert marked[0] < length // 2 <= marked[1]
        assert total == pytest.approx(sequence[marked[0]][0] + sequence[marked[1]][0], abs=1e-6)


def test_every_place_of_a_half_is_marked_as_often_as_the_others():
    inputs, _ = adding(batch_size=4000).draw(4000, generator(0, "data"))
    shares = inputs[:, :, 1].mean(0)
    for part, number in ((shares[:4], 4), (shares[4:], 5)):
        assert part.tolist() == pytest.approx([1 / number] * number, abs=0.035)  # five standard errors


def test_chance_is_one_sixth():
    """The variance of a sum of two uniform numbers; its standard error over n sums is √((1/15 − 1/36)/n)."""
    name, values = adding().baseline()
    assert name == "always the mean"
    assert values["mse"] == pytest.approx(1 / 6, abs=3 * ((1 / 15 - 1 / 36) / SIZES["test"]) ** 0.5)


def test_no_training_sequence_comes_again():
    task = adding()
    seen = set()
    batches = task.train_batches(generator(0, "data"))
    for _ in range(20):
        inputs, _ = next(batches)
        seen.update(tuple(row.flatten().tolist()) for row in inputs)
    assert len(seen) == 20 * 64


@pytest.mark.parametrize(("split", "size"), SIZES.items())
def test_a_split_has_its_size(split, size):
    assert sum(len(sums) for _, sums in adding().eval_batches(split)) == size


@pytest.mark.parametrize("length", [1, 2.5, "long", True])
def test_a_length_that_has_no_two_places_is_refused(length):
    with pytest.raises(UserError, match=r"task\.length must be a whole number of at least 2"):
        adding(length=length)


def test_the_best_is_the_least_error(tmp_path):
    """At a rate so high that the error rises and falls."""
    words = ["task=adding", "task.length=4", "task.model=rnn_tanh", "optim=sgd", "optim.lr=0.5", "threads=1"]
    row = clipbench.run([*words, "steps=8", "eval_every=1", f"results={tmp_path}"]).iloc[0]
    evals = tables.read(tmp_path, "evals")
    found = evals[(evals["split"] == "val") & (evals["metric"] == "mse")]["value"]
    assert found.is_monotonic_decreasing is found.is_monotonic_increasing is False
    assert row["best"] == found.min() < found.max()
    assert (row["headline"], row["baseline"]) == ("mse", "always the mean")
    assert row["baseline_test"] == pytest.approx(1 / 6, abs=0.01)
