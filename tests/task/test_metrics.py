"""Our metrics against torchmetrics', and any metrics at all: in a dict, in a collection, in a checkpoint, a
user's own of eight lines.
"""

from __future__ import annotations

import io

import numpy as np
import pytest
import torch
import torchmetrics
from torch import Tensor
from torchmetrics import classification as theirs
from transformers.utils import ModelOutput

from clipbench.errors import UserError
from clipbench.optim.laws import Waits
from clipbench.task import MetricSet
from clipbench.task.metrics import (
    Accuracy,
    ConfusionMetric,
    MatthewsCorrelation,
    MeanIoU,
    MeanSquaredError,
    TopKAccuracy,
)
from clipbench.task.tree import detached, map_tensors, on_device, rows, tensors, widened
from clipbench.train.metrics import BufferedMetrics

VOID = 255


def drawn(classes: int, n: int = 400, seed: int = 0, skill: float = 1.0) -> tuple[Tensor, Tensor]:
    """Scores that are right more often than chance, against targets of unequal frequency."""
    rng = torch.Generator().manual_seed(seed)
    frequencies = torch.arange(1.0, classes + 1)
    targets = torch.multinomial(frequencies, n, replacement=True, generator=rng)
    scores = torch.randn(n, classes, generator=rng)
    scores[torch.arange(n), targets] += skill
    return scores, targets


def value(metric, *batches: tuple[Tensor, Tensor]) -> float:
    for outputs, targets in batches:
        metric.update(outputs, targets)
    return float(metric.compute())


PAIRS = {
    "accuracy": (lambda n: Accuracy(n), lambda n: theirs.MulticlassAccuracy(n, average="micro")),
    "mcc": (lambda n: MatthewsCorrelation(n), lambda n: theirs.MulticlassMatthewsCorrCoef(n)),
    "miou": (lambda n: MeanIoU(n), lambda n: theirs.MulticlassJaccardIndex(n)),
    "top1": (lambda n: TopKAccuracy(1), lambda n: theirs.MulticlassAccuracy(n, average="micro")),
    "top2": (lambda n: TopKAccuracy(2), lambda n: theirs.MulticlassAccuracy(n, top_k=2, average="micro")),
}


@pytest.mark.parametrize("classes", [2, 3, 11])
@pytest.mark.parametrize("name", PAIRS)
def test_over_batches_of_many_sizes_it_is_torchmetrics(name: str, classes: int):
    ours, oracle = (make(classes) for make in PAIRS[name])
    batches = [drawn(classes, n, seed) for seed, n in enumerate((1, 7, 64, 400))]
    assert value(ours, *batches) == pytest.approx(value(oracle, *batches), rel=1e-6)


@pytest.mark.parametrize("name", PAIRS)
def test_classes_that_never_occur_count_as_in_torchmetrics(name: str):
    """Of seven classes, 2 and 5 are neither targets nor answers."""
    scores, targets = drawn(7)
    scores[:, [2, 5]] = -100.0
    targets[(targets == 2) | (targets == 5)] = 0
    ours, oracle = (make(7) for make in PAIRS[name])
    assert value(ours, (scores, targets)) == pytest.approx(value(oracle, (scores, targets)), rel=1e-6)


@pytest.mark.parametrize("name", PAIRS)
@pytest.mark.parametrize("right", [True, False])
def test_a_batch_of_one(name: str, right: bool):
    scores = torch.tensor([[0.1, 3.0, 0.2, -1.0]])
    target = torch.tensor([1 if right else 3])
    ours, oracle = (make(4) for make in PAIRS[name])
    assert value(ours, (scores, target)) == pytest.approx(value(oracle, (scores, target)))


@pytest.mark.parametrize("name", PAIRS)
def test_bfloat16_scores_are_ranked_as_they_are(name: str):
    """In bfloat16 many scores are equal; those of torchmetrics are argmax's too, so the first of them is the
    answer.
    """
    scores, targets = drawn(5, 2000)
    halves = scores.bfloat16()
    ours, oracle = (make(5) for make in PAIRS[name])
    expected = value(oracle, (halves.float(), targets))
    assert value(ours, (halves.float(), targets)) == pytest.approx(
        expected, abs=2e-3 if name == "top2" else 1e-7
    )
    assert value(PAIRS[name][0](5), (halves, targets)) == pytest.approx(expected, abs=2e-3)


@pytest.mark.parametrize(
    ("ours", "oracle"),
    [
        (Accuracy(6, ignore_index=VOID), theirs.MulticlassAccuracy(6, ignore_index=VOID, average="micro")),
        (MeanIoU(6, ignore_index=VOID), theirs.MulticlassJaccardIndex(6, ignore_index=VOID)),
        (MatthewsCorrelation(6, ignore_index=VOID), theirs.MulticlassMatthewsCorrCoef(6, ignore_index=VOID)),
        (
            TopKAccuracy(2, ignore_index=VOID),
            theirs.MulticlassAccuracy(6, top_k=2, ignore_index=VOID, average="micro"),
        ),
    ],
    ids=["accuracy", "miou", "mcc", "top2"],
)
def test_void_pixels_are_not_counted(ours, oracle):
    rng = torch.Generator().manual_seed(1)
    for share in (0.0, 0.3, 0.9):
        outputs = torch.randn(3, 6, 9, 8, generator=rng)
        targets = torch.randint(5, (3, 9, 8), generator=rng)
        targets[torch.rand(targets.shape, generator=rng) < share] = VOID
        ours.update(outputs, targets)
        oracle.update(outputs, targets)
    assert float(ours.compute()) == pytest.approx(float(oracle.compute()), rel=1e-6)


@pytest.mark.parametrize("kind", [Accuracy, MeanIoU, MatthewsCorrelation])
def test_a_batch_of_void_alone_changes_nothing(kind: type[ConfusionMetric]):
    one, other = kind(4, ignore_index=VOID), kind(4, ignore_index=VOID)
    batch = drawn(4)
    void = (torch.randn(10, 4), torch.full((10,), VOID))
    assert value(one, batch, void) == value(other, batch)


@pytest.mark.parametrize("classes", [2, 5])
@pytest.mark.parametrize("alike", ["answers", "targets", "both"])
def test_matthews_correlation_is_zero_where_all_are_alike(classes: int, alike: str):
    scores, targets = drawn(classes)
    if alike != "targets":
        scores[:, 1] = 100.0
    if alike != "answers":
        targets[:] = 1
    assert value(MatthewsCorrelation(classes), (scores, targets)) == 0


def test_matthews_correlation_of_opposites_is_minus_one():
    scores, targets = drawn(2)
    targets = 1 - scores.argmax(1)
    assert value(MatthewsCorrelation(2), (scores, targets)) == pytest.approx(-1)


def test_mean_squared_error_is_torchmetrics():
    rng = torch.Generator().manual_seed(0)
    ours, oracle = MeanSquaredError(), torchmetrics.MeanSquaredError()
    for n in (1, 5, 300):
        pair = torch.randn(n, 3, generator=rng), 10 * torch.randn(n, 3, generator=rng)
        ours.update(*pair)
        oracle.update(*pair)
    assert float(ours.compute()) == float(oracle.compute())
    with pytest.raises(ValueError, match=r"outputs \(4, 1\) and targets \(4,\)"):
        ours.update(torch.zeros(4, 1), torch.zeros(4))


def test_metrics_that_share_a_matrix_are_those_that_count_their_own():
    accuracy = Accuracy(5)
    shared = MetricSet({"accuracy": accuracy, "miou": MeanIoU(5, counted_by=accuracy)})
    alone = MetricSet({"accuracy": Accuracy(5), "miou": MeanIoU(5)})
    for seed in range(3):
        shared.update(*drawn(5, seed=seed))
        alone.update(*drawn(5, seed=seed))
    assert shared.values() == alone.values()
    shared.reset()
    alone.reset()
    shared.update(*drawn(5, seed=9))
    alone.update(*drawn(5, seed=9))
    assert shared.values() == alone.values()


@pytest.mark.parametrize(
    "metric",
    [Accuracy(3, VOID), MatthewsCorrelation(3), MeanIoU(3, VOID), TopKAccuracy(2, VOID), MeanSquaredError()],
    ids=lambda metric: type(metric).__name__,
)
def test_an_update_never_waits(metric):
    scores, targets = drawn(3)
    with Waits() as waits:
        metric.update(scores, scores if isinstance(metric, MeanSquaredError) else targets)
    assert waits.count == 0


# --- any metrics


class MeanAbsoluteError:
    """The example of `Metric`'s docstring."""

    higher_is_better = False

    def __init__(self):
        self.reset()

    def reset(self):
        self.total, self.count = 0.0, 0

    def update(self, outputs, targets):
        self.total = self.total + (outputs - targets).abs().sum()
        self.count += targets.numel()

    def compute(self):
        return self.total / self.count


class Median(MeanAbsoluteError):
    """Keeps lists, numpy's numbers, a function and a device."""

    def reset(self):
        self.seen, self.batches, self.kind, self.device = [], np.int64(0), torch.median, torch.device("cpu")

    def update(self, outputs, targets):
        self.seen.append((outputs - targets).abs())
        self.batches = self.batches + np.int64(1)

    def compute(self):
        return self.kind(torch.cat(self.seen))


class Collecting(MeanAbsoluteError):
    def __init__(self):
        self.seen = np.zeros(3)


class WithStateDict(Collecting):
    def reset(self):
        self.seen = np.zeros(1)

    def update(self, outputs, targets):
        self.seen = np.append(self.seen, (outputs - targets).abs().mean())

    def compute(self):
        return self.seen.mean()

    def state_dict(self):
        return {"seen": torch.from_numpy(self.seen)}

    def load_state_dict(self, state):
        self.seen = state["seen"].numpy()


MADE = {
    "ours": lambda: {"mse": MeanSquaredError()},
    "a user's own": lambda: {"mae": MeanAbsoluteError(), "median": Median()},
    "one with a state_dict": lambda: {"mean": WithStateDict()},
    "torchmetrics' in a dict": lambda: {"mse": torchmetrics.MeanSquaredError(), "r2": torchmetrics.R2Score()},
    "a MetricCollection": lambda: torchmetrics.MetricCollection(
        {"mse": torchmetrics.MeanSquaredError(), "mae": torchmetrics.MeanAbsoluteError()}
    ),
}


def pair(seed: int, n: int = 16) -> tuple[Tensor, Tensor]:
    rng = torch.Generator().manual_seed(seed)
    return torch.randn(n, generator=rng), torch.randn(n, generator=rng)


def through_a_file(state):
    """As a checkpoint: without pickled objects."""
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


@pytest.mark.parametrize("kind", MADE)
def test_any_metrics_go_on_from_a_checkpoint_bit_for_bit(kind: str):
    whole, cut, resumed = (BufferedMetrics(MetricSet(MADE[kind](), torch.device("cpu"))) for _ in range(3))
    for seed in range(40):  # past the 32 that may wait
        whole.update(*pair(seed))
        cut.update(*pair(seed))
    resumed.load_state_dict(through_a_file(cut.state_dict()), torch.device("cpu"))
    for seed in range(40, 50):
        whole.update(*pair(seed))
        resumed.update(*pair(seed))
    expected = whole.take_values()
    assert resumed.take_values() == expected
    assert set(expected) == {str(name) for name in MADE[kind]()}
    for metrics in (whole, resumed):  # and both have started anew
        metrics.update(*pair(99))
    assert whole.take_values() == resumed.take_values()


@pytest.mark.parametrize("kind", MADE)
def test_joined_batches_are_the_batches(kind: str):
    buffered, plain = BufferedMetrics(MetricSet(MADE[kind]())), MetricSet(MADE[kind]())
    for seed, n in enumerate((16, 16, 16, 3, 16)):
        buffered.update(*pair(seed, n))
        plain.update(*pair(seed, n))
    # WithStateDict is a mean over updates, and so knows how they were joined
    if kind != "one with a state_dict":
        assert buffered.take_values() == pytest.approx(plain.values(), rel=1e-5)


def test_mean_and_median_of_a_users_own_are_numpys():
    metrics = MetricSet(MADE["a user's own"](), torch.device("cpu"))
    differences = []
    for seed in range(3):
        outputs, targets = pair(seed, 17)
        metrics.update(outputs, targets)
        differences.append((outputs - targets).abs().numpy())
    everything = np.concatenate(differences)
    assert metrics.values() == pytest.approx({"mae": everything.mean(), "median": np.median(everything)})


def test_what_a_checkpoint_cannot_hold_is_refused_before_the_first_step():
    with pytest.raises(
        UserError, match=r"'bins' \(Collecting\) keeps a ndarray in 'seen'.*Keep tensors.*state_dict"
    ):
        BufferedMetrics(MetricSet({"bins": Collecting()}))


def test_a_metric_that_makes_new_tensors_at_reset_finds_them_on_the_device():
    """'meta' stands for a device that is not the CPU."""

    class Fresh(MeanAbsoluteError):
        def reset(self):
            self.total, self.count = torch.zeros(()), 0

    metric = Fresh()
    metrics = MetricSet({"mae": metric}, torch.device("meta"))
    assert metric.total.device.type == "meta"
    metrics.reset()
    assert metric.total.device.type == "meta"
    ours = MeanIoU(3)
    MetricSet({"miou": ours}, torch.device("meta"))
    assert ours.matrix.device.type == "meta"


def test_outputs_of_several_tensors_are_counted_as_they_come():
    class Perplexity:
        higher_is_better = False

        def __init__(self):
            self.reset()

        def reset(self):
            self.loss, self.tokens, self.updates = 0.0, 0, 0

        def update(self, outputs, targets):
            loss_sum, tokens = outputs
            self.loss, self.tokens = self.loss + loss_sum, self.tokens + tokens
            self.updates += 1

        def compute(self):
            return (self.loss / self.tokens).exp()

    metric = Perplexity()
    metrics = BufferedMetrics(MetricSet({"perplexity": metric}))
    for n in (3, 5):
        metrics.update((torch.tensor(2.0 * n), torch.tensor(n)), torch.zeros(n))
    assert metric.updates == 2
    assert metrics.take_values() == {"perplexity": pytest.approx(np.exp(2.0))}


# --- trees


def test_trees_keep_their_shape():
    class Pair(tuple):
        pass

    graph = torch.ones(2, requires_grad=True) * 2
    tree = {"a": [graph.bfloat16(), "text"], "b": (torch.ones(2, dtype=torch.float64), 3)}
    found = widened(detached(tree))
    assert [t.dtype for t in tensors(found)] == [torch.float32, torch.float64]
    assert not any(t.requires_grad for t in tensors(found))
    assert (found["a"][1], found["b"][1]) == ("text", 3)
    assert rows(tree) == 2
    assert rows((torch.ones(2), torch.ones(3))) is None
    assert rows(torch.ones(())) is None
    assert isinstance(map_tensors(Tensor.neg, Pair([torch.ones(1)])), Pair)


def test_the_outputs_of_transformers_keep_their_attributes():
    outputs = ModelOutput(logits=torch.ones(2, dtype=torch.bfloat16), loss=torch.ones(()))
    found = on_device(widened(outputs), torch.device("cpu"))
    assert found.logits is found["logits"]
    assert found.logits.dtype == torch.float32
    assert outputs.logits.dtype == torch.bfloat16


def test_the_state_that_version_0_1_saved_is_taken():
    """It was a torchmetrics collection's; of two that share a matrix one had counted, or both."""
    scores, targets = torch.randn(40, 7), torch.randint(7, (40,))
    matrix = theirs.MulticlassConfusionMatrix(7)
    matrix.update(scores, targets)
    top = torchmetrics.MetricCollection(
        {f"top{k}": theirs.MulticlassAccuracy(7, k, average="micro") for k in (1, 5)}, compute_groups=False
    )
    top.persistent(True)
    top.update(scores, targets)
    for stale in (torch.zeros(7, 7), matrix.confmat):
        iou = MeanIoU(7)
        found = MetricSet({"miou": iou, "accuracy": Accuracy(7, counted_by=iou)})
        found.load_state_dict({"miou.confmat": matrix.confmat.clone(), "accuracy.confmat": stale})
        expected = theirs.MulticlassAccuracy(7, average="micro")(scores, targets)
        assert found.values()["accuracy"] == pytest.approx(float(expected))
    found = MetricSet({"top1": TopKAccuracy(1), "top5": TopKAccuracy(5)})
    found.load_state_dict(top.state_dict())
    assert found.values() == pytest.approx({name: float(value) for name, value in top.compute().items()})
    collection = torchmetrics.MetricCollection({"mse": torchmetrics.MeanSquaredError()})
    found = MetricSet(collection)
    found.update(scores, scores + 2)
    again = MetricSet(torchmetrics.MetricCollection({"mse": torchmetrics.MeanSquaredError()}))
    again.load_state_dict(collection.state_dict())
    for metrics in (found, again):
        metrics.update(scores, scores)
    assert again.values() == found.values() == {"mse": 2.0}


class Slotted:
    """A metric without a __dict__."""

    __slots__ = ("total",)
    higher_is_better = True

    def __init__(self):
        self.reset()

    def reset(self):
        self.total = torch.zeros(())

    def update(self, outputs, targets):
        self.total = self.total + (outputs - targets).sum()

    def compute(self):
        return self.total


def test_a_metric_with_slots_is_placed_and_saved():
    one, other = (MetricSet({"sum": Slotted()}, torch.device("cpu")) for _ in range(2))
    one.update(torch.ones(3), torch.zeros(3))
    other.load_state_dict(one.state_dict())
    assert other.values() == {"sum": 3.0}
