"""Reber strings: the grammar against regular expressions, the pairs, and the task that is made of them."""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from functools import cache
from itertools import islice, product

import pytest
import torch

from clipbench.errors import UserError
from clipbench.task.seeds import fresh_model, generator
from clipbench.tasks.draws import Draws
from clipbench.tasks.reber import MiniReber, Reber
from clipbench.tasks.reber_grammar import LONGEST, SHORTEST, SYMBOLS, is_reber, pairs, string, ways
from clipbench.tasks.recurrent import GATES

# The upper and the lower way through the diagram, and between them as often as one likes.
LOWER = "T*V(?:V|PS)"
PLAIN = re.compile(f"B(?:TS*X(?:S|X(?:T*VPX)*(?:{LOWER}))|P(?:T*VPX)*(?:{LOWER}))E")
EMBEDDED = re.compile(f"B(?:T{PLAIN.pattern}T|P{PLAIN.pattern}P)E")


def reber(scale: type[Reber] = MiniReber, **keywords) -> Reber:
    sizes = {"batch_size": 8, "model": "lstm", "embedded": False, "embedding": 4, "hidden": 6, "layers": 2}
    return scale(**{**sizes, **keywords})


@cache
def drawn(embedded: bool) -> list[tuple[str, str]]:
    return pairs(2750, embedded)


def changes(one: str, other: str) -> list[int]:
    return [i for i, (a, b) in enumerate(zip(one, other, strict=True)) if a != b]


def test_splitmix_gives_its_published_numbers():
    """Of the seed 1234567, as the reference implementation prints them."""
    draws = Draws(1234567)
    expected = [6457827717110365317, 3203168211198807973, 9817491932198370423, 4593380528125082431]
    assert [draws.bits() for _ in expected] == expected


def test_every_text_of_up_to_seven_symbols_is_what_the_expression_says():
    accepted = 0
    for length in range(8):
        for symbols in product(SYMBOLS, repeat=length):
            text = "".join(symbols)
            expected = PLAIN.fullmatch(text) is not None
            assert is_reber(text) == expected, text
            accepted += expected
    assert accepted == sum(ways(0, length) for length in range(8)) > 5


@pytest.mark.parametrize("length", [5, 9, 14])
def test_ranks_number_the_strings_of_a_length_without_a_gap(length):
    found = {string(rank, length) for rank in range(ways(0, length))}
    assert len(found) == ways(0, length)
    assert all(len(text) == length and PLAIN.fullmatch(text) for text in found)


@pytest.mark.parametrize("text", ["BTSXSE", "BPVVE", "BTXXVPSE", "BTSSXXTVVE"])
def test_known_strings_are_taken_and_their_embedded_ones(text):
    assert is_reber(text)
    assert is_reber(f"BT{text}TE", embedded=True)
    assert not is_reber(f"BT{text}PE", embedded=True)
    assert not is_reber(text, embedded=True)
    assert not is_reber(text + "E")


@pytest.mark.parametrize(("embedded", "grammar"), [(False, PLAIN), (True, EMBEDDED)])
def test_of_each_pair_one_is_of_the_grammar_and_the_other_misses_it_by_a_symbol(embedded, grammar):
    frame = 4 if embedded else 0
    for valid, broken in drawn(embedded):
        assert grammar.fullmatch(valid)
        assert not grammar.fullmatch(broken)
        assert is_reber(valid, embedded)
        assert not is_reber(broken, embedded)
        assert len(changes(valid, broken)) == 1
        assert SHORTEST <= len(valid) - frame <= LONGEST
    assert max(len(valid) for valid, _ in drawn(embedded)) == LONGEST + frame


def test_half_of_the_embedded_ones_are_right_but_for_what_must_be_remembered():
    kinds: Counter[bool] = Counter()
    for valid, broken in drawn(True):
        place = changes(valid, broken)[0]
        kinds[place in (1, len(valid) - 2) and broken[place] in "TP"] += 1
    assert 0.5 <= kinds[True] / len(drawn(True)) < 0.53  # the other half does it by chance at times


@pytest.mark.parametrize(
    ("embedded", "expected"),
    [(False, "87dd00d52cdcd0c4"), (True, "a9571f8247600af1")],
)
def test_the_strings_are_the_same_everywhere(embedded, expected):
    text = "\n".join(" ".join(pair) for pair in drawn(embedded))
    assert hashlib.sha256(text.encode()).hexdigest()[:16] == expected


@pytest.mark.parametrize("scale", [MiniReber, Reber])
def test_the_splits_share_no_string_and_half_of_each_is_valid_at_every_length(scale):
    task = reber(scale)
    seen: set[tuple[int, ...]] = set()
    for split, size in scale.sizes.items():
        strings, labels = task.parts[split]
        assert len(strings) == len(labels) == size
        assert int(labels.sum()) * 2 == size
        lengths = torch.tensor([len(each) for each in strings])
        for valid in (0, 1):
            assert torch.equal(lengths[labels == valid].sort().values, lengths[::2].sort().values)
        before = len(seen)
        seen.update(tuple(each.tolist()) for each in strings)
        assert len(seen) == before + size


def test_the_full_sizes_are_the_published_ones():
    assert Reber.sizes["train"] + Reber.sizes["val"] == 18750
    assert Reber.sizes["test"] == 6250


def test_test_strings_are_as_long_as_those_of_training():
    task = reber()
    means = []
    for split in ("train", "test"):
        means.append(sum(map(len, task.parts[split][0])) / len(task.parts[split][0]))
    assert means[0] == pytest.approx(means[1], abs=1)  # shuffled: unshuffled the last are 2 longer


def test_a_batch_holds_the_strings_and_their_labels():
    task = reber()
    symbols, lengths, labels = next(task.train_batches(generator(0, "data")))
    for row, length, label in zip(symbols, lengths, labels, strict=True):
        text = "".join(SYMBOLS[i - 1] for i in row[:length])
        assert is_reber(text) == bool(label)
        assert not row[length:].any()


def test_the_majority_class_is_right_in_half():
    assert reber().baseline() == ("majority class", {"accuracy": 0.5})


@pytest.mark.parametrize("kind", GATES)
def test_the_answer_does_not_depend_on_the_padding(kind):
    task = reber(model=kind)
    model = fresh_model(task, 0).eval()
    symbols, lengths, labels = next(iter(task.eval_batches("val")))
    wider = torch.nn.functional.pad(symbols, (0, 9))
    with torch.no_grad():
        found, _ = task.forward(model, (symbols, lengths, labels))
        torch.testing.assert_close(task.forward(model, (wider, lengths, labels))[0], found)
        for i in (0, 1, 2):
            alone = symbols[i : i + 1, : lengths[i]], lengths[i : i + 1], labels[i : i + 1]
            torch.testing.assert_close(task.forward(model, alone)[0][0], found[i])


def test_an_lstm_learns_a_few_strings_by_heart():
    task = reber(hidden=16, layers=1)
    batch = next(islice(task.train_batches(generator(0, "data")), 1))
    model = fresh_model(task, 0)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.02)
    for _ in range(100):
        optimizer.zero_grad()
        loss = task.loss(*task.forward(model, batch))
        loss.backward()
        optimizer.step()
    assert loss.item() < 0.05  # it begins at ln 2


@pytest.mark.parametrize(
    ("keywords", "message"),
    [
        ({"model": "lstn"}, "Unknown task.model 'lstn'. Did you mean 'lstm'?"),
        ({"embedded": "yes"}, "task.embedded must be true or false, got 'yes'."),
        ({"embedding": 0}, "task.embedding must be a whole number of at least 1, got 0."),
        ({"hidden": "wide"}, "task.hidden must be a whole number"),
        ({"recurrent_init": "identity"}, "not for lstm"),
    ],
)
def test_what_cannot_be_is_one_message(keywords, message):
    with pytest.raises(UserError) as error:
        reber(**keywords).model(torch.Generator())
    assert message in str(error.value)
