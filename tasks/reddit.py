"""Reddit: the community of a post, from its words and from the posts that share commenters with it. Two GraphConv layers."""

from __future__ import annotations

import warnings
import zipfile
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torchmetrics import MetricCollection

from clipbench.errors import UserError
from clipbench.task import Task, majority, shuffled
from clipbench.tasks.counts import Accuracy

with warnings.catch_warnings():  # PyG's own, while it is imported
    warnings.filterwarnings("ignore", r"`torch\.jit\.script` is deprecated")
    from torch_geometric.data import Data
    from torch_geometric.datasets import Reddit as PyGReddit
    from torch_geometric.nn import GraphConv

RAW = ("raw/reddit_data.npz", "raw/reddit_graph.npz")


class Hop(NamedTuple):
    """The edges of one layer. An edge's weight of 0 makes it count as a neighbour without features."""

    edges: Tensor  # source and target (2, E), or sparse (targets, sources)
    weights: Tensor | None  # (E,); a sparse matrix holds its own
    targets: Tensor  # their places among the sources (targets,)


class Batch(NamedTuple):
    """The features of the whole graph, the edges to see, and the nodes to classify."""

    x: Tensor  # (nodes, F)
    hops: list[Hop]
    nodes: Tensor  # places among the last hop's targets (N,)
    labels: Tensor  # (N,)


class Graph:
    """Features (nodes, F), and for each node the sources of the edges that lead to it, on the device of `x`."""

    def __init__(self, x: Tensor, edges: Tensor) -> None:
        targets, order = edges[1].sort(stable=True)
        self.x, self.sources = x, edges[0][order]
        self.starts = nn.functional.pad(targets.bincount(minlength=len(x)).cumsum(0), (1, 0))  # (nodes + 1,)
        self.degrees = self.starts.diff()

    @cached_property
    def everything(self) -> Hop:
        """Every edge."""
        return Hop(
            self.sparse(self.starts, self.sources, self.x.new_ones(len(self.sources))),
            None,
            self.arange(len(self.x)),
        )

    def sample(self, nodes: Tensor, fanouts: Sequence[int], rng: torch.Generator) -> list[Hop]:
        """`fanouts[0]` neighbours of each of `nodes`, `fanouts[1]` of each of all these, …; the last hop leads to `nodes`.

        Drawn uniformly with replacement. A node without neighbours gets weights of 0, which make their mean 0.
        """
        n, fanout = len(nodes), fanouts[0]
        degrees = self.degrees[nodes, None]
        draws = torch.randint(2**62, (n, fanout), generator=rng, device=rng.device) % degrees.clamp(min=1)
        sources = self.sources[(self.starts[nodes, None] + draws).clamp(max=len(self.sources) - 1)].flatten()
        weights = (degrees > 0).to(self.x.dtype).repeat_interleave(fanout)
        if (
            len(fanouts) == 1
        ):  # features need no gradient: the sparse product does without a message for every edge
            return [Hop(self.sparse(self.arange(n + 1) * fanout, sources, weights), None, nodes)]
        edges = torch.stack([n + self.arange(n * fanout), self.arange(n).repeat_interleave(fanout)])
        return [
            *self.sample(torch.cat([nodes, sources]), fanouts[1:], rng),
            Hop(edges, weights, self.arange(n)),
        ]

    def sparse(self, starts: Tensor, sources: Tensor, weights: Tensor) -> Tensor:
        size = (len(starts) - 1, len(self.x))
        with warnings.catch_warnings():
            warnings.filterwarnings(
                "ignore",
                "Sparse (CSR tensor support is in beta|invariant checks are implicitly)",
                UserWarning,
            )
            return torch.sparse_csr_tensor(starts, sources, weights, size, check_invariants=False)

    def arange(self, n: int) -> Tensor:
        return torch.arange(n, device=self.x.device)


class GraphNet(nn.Module):
    """GraphConv, relu, GraphConv: W₁ x_i + W₂ mean_j x_j + b over the sources j of the edges to i."""

    def __init__(self, features: int, hidden: int, classes: int) -> None:
        super().__init__()
        self.hidden = GraphConv(features, hidden, aggr="mean")
        self.output = GraphConv(hidden, classes, aggr="mean")

    def forward(self, x: Tensor, hops: list[Hop]) -> Tensor:
        """Scores of the last hop's targets. (targets, classes)"""
        first, last = hops
        x = self.hidden((x, x[first.targets]), first.edges, first.weights).relu()
        x = x.float()  # under autocast it is not, and sparse products do not cast
        return self.output((x, x[last.targets]), last.edges, last.weights)


class Reddit(Task):
    """PyG's Reddit, from the folder `data`. Training sees `fanouts` sampled neighbours, nearest first; evaluation sees all."""

    headline = "accuracy"
    drawn = "the draw of neighbours"  # all neighbours of a batch's nodes and theirs are much of the graph

    def __init__(
        self, batch_size: int, data: str, fanouts: Sequence[int], hidden: int, device: str = "cpu"
    ) -> None:
        if not (
            isinstance(fanouts, Sequence)
            and len(fanouts) == 2
            and all(isinstance(n, int) and n > 0 for n in fanouts)
        ):
            raise UserError(
                f"task.fanouts={fanouts}; it takes two positive integers, one a layer. Give [10,10], for example."
            )
        if not (isinstance(hidden, int) and hidden > 0):
            raise UserError(
                f"task.hidden={hidden}; it takes a positive integer, the width of the hidden layer. Give 128, for example."
            )
        if torch.device(device).type not in ("cpu", "cuda"):
            raise UserError(
                f"device={device}: task=reddit needs sparse products, which are there for cpu and cuda only. Give device=cpu."
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
        return {split: self.loaded[f"{split}_mask"].nonzero()[:, 0] for split in ("train", "val", "test")}

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

    def metrics(self) -> MetricCollection:
        return MetricCollection({"accuracy": Accuracy(self.classes, validate_args=False)})

    def baseline(self) -> tuple[str, dict[str, float]]:
        train, test = (self.loaded.y[self.nodes[split]] for split in ("train", "test"))
        return "majority class", majority(self.metrics(), train, [test], self.classes)

    def prepare(self) -> str:
        if any(not (self.folder / name).is_file() for name in RAW):
            try:
                PyGReddit(str(self.folder))
            except Exception as error:  # of the network, of the archive, of the disk
                (self.folder / "raw" / "reddit.zip").unlink(
                    missing_ok=True
                )  # PyG would take a half of it for the whole
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


def load(folder: Path) -> Data:
    """PyG's Reddit without a download. The first time, PyG writes a copy to `folder`/processed."""
    if missing := [name for name in RAW if not (folder / name).is_file()]:
        raise UserError(f"task.data={folder}: there is no {missing[0]}. {remedy()}")
    if halves := [name for name in RAW if not zipfile.is_zipfile(folder / name)]:
        raise damaged(folder, f"{halves[0]} is not a whole archive")
    try:
        data = PyGReddit(str(folder))[0]
    except OSError as error:
        raise UserError(
            f"Cannot read {folder} or write PyG's copy of it, {folder / 'processed'}: {error}. Mend its permissions, or "
            f"copy raw/ to a folder of your own and give that with task.data=DIR."
        ) from error
    except Exception as error:  # no common type: zip, npz, pickle
        raise damaged(folder, str(error)) from error
    n = len(data.x)
    if not n == len(data.y) == len(data.train_mask):
        raise damaged(folder, f"{n} features, {len(data.y)} labels, {len(data.train_mask)} node_types")
    if data.num_edges == 0 or data.edge_index.max() >= n:
        raise damaged(folder, f"no edges, or edges to nodes beyond the {n} that have features")
    if data.y.min() < 0 or not all(data[f"{split}_mask"].any() for split in ("train", "val", "test")):
        raise damaged(folder, "negative labels, or no nodes of node_types 1 (train), 2 (val) or 3 (test)")
    return data


def damaged(folder: Path, reason: str) -> UserError:
    return UserError(f"Reddit in {folder} is damaged: {reason}. Delete its raw/ and processed/. {remedy()}")


def remedy() -> str:
    return (
        "Run `clipbench prepare task=reddit scale=full` where there is a network, "
        f"or give task.data=DIR, a folder with {' and '.join(RAW)} as DGL publishes them."
    )


def communities(nodes: int = 10000, classes: int = 41, features: int = 64, edges: int = 80000) -> Data:
    """A degree-corrected block model: an edge's first end is drawn in proportion to the nodes' weights, which are heavy-tailed;
    so is its second, with probability 0.7 from the community of the first. The features' noise is heavy-tailed too.

    Karrer and Newman 2011, arXiv 1008.3926.
    """
    rng = np.random.default_rng(0)
    shares = np.arange(3, classes + 3) ** -0.7
    labels = np.sort(rng.choice(classes, nodes, p=shares / shares.sum()))
    weights = np.append(
        0.0, np.cumsum(rng.pareto(1.5, nodes) + 0.5)
    )  # nodes are intervals: 0 from weights[0] to weights[1], …
    bounds = weights[np.searchsorted(labels, np.arange(classes + 1))]  # and so are communities

    first = draw(rng, np.zeros(edges), weights[-1], weights)
    inside = rng.random(edges) < 0.7
    low, high = (
        np.where(inside, bounds[labels[first]], 0.0),
        np.where(inside, bounds[labels[first] + 1], weights[-1]),
    )
    pair = np.stack([first, draw(rng, low, high, weights)])
    both = np.unique(np.concatenate([pair, pair[::-1]], axis=1), axis=1)

    x = 0.5 * rng.standard_normal((classes, features))[labels] + rng.standard_t(2, (nodes, features))
    part = rng.choice(3, nodes, p=[0.6, 0.15, 0.25])
    masks = {f"{split}_mask": torch.from_numpy(part == i) for i, split in enumerate(("train", "val", "test"))}
    edge_index = torch.from_numpy(both[:, both[0] != both[1]])
    return Data(torch.from_numpy(x).float(), edge_index, y=torch.from_numpy(labels), **masks)


def draw(rng: np.random.Generator, low: np.ndarray, high: np.ndarray, intervals: np.ndarray) -> np.ndarray:
    """The intervals that uniform numbers between `low` and `high` fall into."""
    return np.searchsorted(intervals, rng.uniform(low, high), side="right") - 1
