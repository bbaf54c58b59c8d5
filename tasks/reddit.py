"""Reddit: the community of a post, from its words and from the posts that share commenters with it.

Two GraphConv layers.
"""

from __future__ import annotations

import warnings
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor, nn

from clipbench.errors import UserError
from clipbench.task import Metric, Task, majority, shuffled
from clipbench.task.metrics import Accuracy
from clipbench.tasks.communities import communities
from clipbench.tasks.reddit_graph import Batch, Graph, GraphNet, Hop

with warnings.catch_warnings():  # PyG's own, while it is imported
    warnings.filterwarnings("ignore", r"`torch\.jit\.script` is deprecated")
    from torch_geometric.data import Data
    from torch_geometric.datasets import Reddit as PyGReddit

__all__ = ["Batch", "Graph", "GraphNet", "Hop", "MiniReddit", "Reddit", "communities"]

RAW = ("raw/reddit_data.npz", "raw/reddit_graph.npz")


class Reddit(Task):
    """PyG's Reddit, from the folder `data`.

    Training sees `fanouts` sampled neighbours, nearest first; evaluation sees all.
    """

    headline = "accuracy"
    drawn = "the draw of neighbours"  # all neighbours of a batch's nodes and theirs are much of the graph

    def __init__(
        self, batch_size: int, data: str, fanouts: Sequence[int], hidden: int, device: str = "cpu"
    ) -> None:
        """`fanouts`: neighbours drawn a layer; `hidden`: width; `device`: where the graph lies."""
        if not (isinstance(fanouts, Sequence) and len(fanouts) == 2 and all(map(is_positive, fanouts))):
            raise UserError(
                f"task.fanouts={fanouts}; it takes two positive integers, one a layer. Give [10,10], for "
                "example."
            )
        if not is_positive(hidden):
            raise UserError(
                f"task.hidden={hidden}; it takes a positive integer, the width of the hidden layer. Give "
                "128, for example."
            )
        if torch.device(device).type not in ("cpu", "cuda"):
            raise UserError(
                f"device={device}: task=reddit needs sparse products, which are there for cpu and cuda only. "
                "Give device=cpu."
            )
        self.folder = Path(str(data)).expanduser()
        self.batch_size, self.fanouts, self.hidden, self.device = batch_size, tuple(fanouts), hidden, device

    @cached_property
    def loaded(self) -> Data:
        return load(self.folder)

    @cached_property
    def graph(self) -> Graph:
        return Graph(self.loaded.x.to(self.device), self.loaded.edge_index.to(self.device))

    @cached_property
    def nodes(self) -> dict[str, Tensor]:
        nodes = {}
        for split in ("train", "val", "test"):
            nodes[split] = self.loaded[f"{split}_mask"].nonzero()[:, 0]
        return nodes

    @cached_property
    def labels(self) -> Tensor:
        return self.loaded.y.to(self.device)

    @cached_property
    def classes(self) -> int:
        return int(self.loaded.y.max()) + 1

    @cached_property
    def data(self) -> str:  # type: ignore[override]
        sizes = "/".join(str(len(nodes)) for nodes in self.nodes.values())
        edges = self.loaded.num_edges
        return f"{self.source}, {self.classes} classes, {edges} edges, {sizes} nodes (train/val/test)"

    @property
    def source(self) -> str:
        return f"Reddit ({self.folder})"

    @cached_property
    def steps_per_epoch(self) -> float:  # type: ignore[override]
        return max(1, len(self.nodes["train"]) // self.batch_size)

    def model(self, rng: torch.Generator) -> nn.Module:
        return GraphNet(self.loaded.num_features, self.hidden, self.classes)

    def train_batches(self, rng: torch.Generator) -> Iterator[Batch]:
        """Neighbours are drawn by a generator on the device: on a GPU they are others than on a CPU."""
        draws = torch.Generator(self.device).manual_seed(int(torch.randint(2**62, (), generator=rng)))
        train = self.nodes["train"]
        for chosen in shuffled(len(train), self.batch_size, rng):
            nodes = train[chosen].to(self.device, non_blocking=True)
            hops = self.graph.sample(nodes, self.fanouts, draws)
            yield Batch(self.graph.x, hops, hops[-1].targets, self.labels[nodes])

    def eval_batches(self, split: str) -> Iterator[Batch]:
        nodes = self.nodes[split].to(self.device)
        yield Batch(self.graph.x, [self.graph.everything] * 2, nodes, self.labels[nodes])

    def forward(self, model: nn.Module, batch: Batch) -> tuple[Tensor, Tensor]:
        return model(batch.x, batch.hops)[batch.nodes], batch.labels

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return nn.functional.cross_entropy(outputs, targets)

    def metrics(self) -> Mapping[str, Metric]:
        return {"accuracy": Accuracy(self.classes)}

    def baseline(self) -> tuple[str, dict[str, float]]:
        train, test = self.loaded.y[self.nodes["train"]], self.loaded.y[self.nodes["test"]]
        return "majority class", majority(self.metrics(), train, [test], self.classes)

    def prepare(self) -> str:
        if missing_files(self.folder):
            try:
                PyGReddit(str(self.folder))
            except Exception as error:  # of the network, of the archive, of the disk
                half = self.folder / "raw" / "reddit.zip"  # PyG would take a half of it for the whole
                half.unlink(missing_ok=True)
                raise UserError(f"Cannot fetch Reddit into {self.folder}: {error}. {remedy()}") from error
        return self.data


class MiniReddit(Reddit):
    """A generated graph of communities."""

    source = "a generated community graph"

    def __init__(self, batch_size: int, fanouts: Sequence[int], hidden: int, device: str = "cpu") -> None:
        super().__init__(batch_size, "", fanouts, hidden, device)

    @cached_property
    def loaded(self) -> Data:
        return communities()

    def prepare(self) -> str:
        return self.data  # nothing to fetch


def is_positive(number: object) -> bool:
    return isinstance(number, int) and number > 0


def missing_files(folder: Path) -> list[str]:
    return [name for name in RAW if not (folder / name).is_file()]


def load(folder: Path) -> Data:
    """PyG's Reddit without a download. The first time, PyG writes a copy to `folder`/processed."""
    missing = missing_files(folder)
    if missing:
        raise UserError(f"task.data={folder}: there is no {missing[0]}. {remedy()}")
    halves = [name for name in RAW if not zipfile.is_zipfile(folder / name)]
    if halves:
        raise damaged(folder, f"{halves[0]} is not a whole archive")
    try:
        data = PyGReddit(str(folder))[0]
    except OSError as error:
        raise UserError(
            f"Cannot read {folder} or write PyG's copy of it, {folder / 'processed'}: {error}. Mend its "
            "permissions, or "
            f"copy raw/ to a folder of your own and give that with task.data=DIR."
        ) from error
    except Exception as error:  # no common type: zip, npz, pickle
        raise damaged(folder, str(error)) from error
    _check_graph(folder, data)
    return data


def _check_graph(folder: Path, data: Data) -> None:
    """UserError where features, labels, splits and edges contradict each other."""
    n = len(data.x)
    if not n == len(data.y) == len(data.train_mask):
        raise damaged(folder, f"{n} features, {len(data.y)} labels, {len(data.train_mask)} node_types")
    if data.num_edges == 0 or data.edge_index.max() >= n:
        raise damaged(folder, f"no edges, or edges to nodes beyond the {n} that have features")
    every_split = data.train_mask.any() and data.val_mask.any() and data.test_mask.any()
    if data.y.min() < 0 or not every_split:
        raise damaged(folder, "negative labels, or no nodes of node_types 1 (train), 2 (val) or 3 (test)")


def damaged(folder: Path, reason: str) -> UserError:
    return UserError(f"Reddit in {folder} is damaged: {reason}. Delete its raw/ and processed/. {remedy()}")


def remedy() -> str:
    return (
        "Run `clipbench prepare task=reddit scale=full` where there is a network, "
        f"or give task.data=DIR, a folder with {' and '.join(RAW)} as DGL publishes them."
    )
