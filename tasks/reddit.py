"""Reddit: the community of a post, from its words and from the posts that share commenters with it. Two GraphConv layers."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torchmetrics import MetricCollection
from torchmetrics.classification import MulticlassAccuracy

from clipbench.errors import UserError
from clipbench.task import Task, majority, shuffled

with warnings.catch_warnings():  # PyG's own, while it is imported
    warnings.filterwarnings("ignore", r"`torch\.jit\.script` is deprecated")
    from torch_geometric.data import Data
    from torch_geometric.datasets import Reddit as PyGReddit
    from torch_geometric.nn import GraphConv

RAW = ("raw/reddit_data.npz", "raw/reddit_graph.npz")


class Hop(NamedTuple):
    """The edges of one layer. Its targets are the first of its sources."""

    edges: Tensor  # (source, target) × E, or sparse (targets, sources)
    weights: Tensor | None  # (E,)
    targets: int


class Batch(NamedTuple):
    """A part of the graph, and the nodes in it that are to be classified."""

    x: Tensor  # features of the first hop's sources (sources, F)
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
        """Every edge, sparse: a layer's means are one product, where a message for every edge would not fit."""
        ones, n = self.x.new_ones(len(self.sources)), len(self.x)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Sparse CSR tensor support is in beta state", UserWarning)
            return Hop(torch.sparse_csr_tensor(self.starts, self.sources, ones, (n, n), check_invariants=True), None, n)

    def sample(self, nodes: Tensor, fanouts: Sequence[int], rng: torch.Generator) -> tuple[Tensor, list[Hop]]:
        """(features, hops), the last layer's hop last; its fanout comes first: neighbours drawn of each of `nodes`.

        Drawn uniformly with replacement. Where a node has no neighbours, weights of 0 make their mean 0.
        """
        hops: list[Hop] = []
        for fanout in fanouts:
            n, degrees = len(nodes), self.degrees[nodes, None]
            draws = torch.randint(2**62, (n, fanout), generator=rng, device=rng.device) % degrees.clamp(min=1)
            places = (self.starts[nodes, None] + draws).clamp(max=len(self.sources) - 1)
            sources = torch.arange(n, n + n * fanout, device=rng.device)
            targets = torch.arange(n, device=rng.device).repeat_interleave(fanout)
            weights = (degrees > 0).to(self.x.dtype).repeat_interleave(fanout)
            hops.insert(0, Hop(torch.stack([sources, targets]), weights, n))
            nodes = torch.cat([nodes, self.sources[places].flatten()])
        return self.x[nodes], hops


class GraphNet(nn.Module):
    """GraphConv, relu, GraphConv: W₁ x_i + W₂ mean_j x_j + b over the sources j of the edges to i."""

    def __init__(self, features: int, hidden: int, classes: int) -> None:
        super().__init__()
        self.convs = nn.ModuleList([GraphConv(features, hidden, aggr="mean"), GraphConv(hidden, classes, aggr="mean")])

    def forward(self, x: Tensor, hops: list[Hop]) -> Tensor:
        """Scores of the last hop's targets. (targets, classes)"""
        for conv, (edges, weights, n) in zip(self.convs, hops, strict=True):
            last = conv is self.convs[-1]
            x = x.float()  # under autocast it may not be, and sparse products do not cast
            x = conv((x, x[:n]), edges, weights)
            x = x if last else x.relu()
        return x


class Reddit(Task):
    """PyG's Reddit, from the folder `data`. Training sees `fanouts` sampled neighbours, nearest first; evaluation sees all."""

    headline = "accuracy"

    def __init__(self, batch_size: int, data: str, fanouts: Sequence[int], hidden: int, device: str = "cpu") -> None:
        if len(fanouts) != 2 or min(fanouts) < 1:
            raise UserError(f"task.fanouts={list(fanouts)}; it takes two positive integers, such as [10,10], one a layer.")
        if torch.device(device).type not in ("cpu", "cuda"):
            raise UserError(f"device={device}: task=reddit needs sparse products, which are there for cpu and cuda only.")
        self.folder = Path(data).expanduser()
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
            x, hops = self.graph.sample(nodes, self.fanouts, draws)
            yield Batch(x, hops, torch.arange(len(nodes), device=self.device), self.labels[nodes])

    def eval_batches(self, split: str) -> Iterator[Batch]:
        nodes = self.nodes[split].to(self.device)
        yield Batch(self.graph.x, [self.graph.everything] * 2, nodes, self.labels[nodes])

    def forward(self, model: nn.Module, batch: Batch) -> tuple[Tensor, Tensor]:
        return model(batch.x, batch.hops)[batch.nodes], batch.labels

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return nn.functional.cross_entropy(outputs, targets)

    def metrics(self) -> MetricCollection:
        return MetricCollection({"accuracy": MulticlassAccuracy(self.classes, average="micro", validate_args=False)})

    def baseline(self) -> tuple[str, dict[str, float]]:
        train, test = (self.loaded.y[self.nodes[split]] for split in ("train", "test"))
        return "majority class", majority(self.metrics(), train, [test], self.classes)

    def prepare(self) -> str:
        if any(not (self.folder / name).is_file() for name in RAW):
            try:
                PyGReddit(str(self.folder))
            except Exception as error:  # of the network, of the archive, of the disk
                (self.folder / "raw" / "reddit.zip").unlink(missing_ok=True)  # PyG would take a half of it for the whole
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


def load(folder: Path) -> Data:
    """PyG's Reddit without a download. The first time, PyG writes a copy to `folder`/processed."""
    if missing := [name for name in RAW if not (folder / name).is_file()]:
        raise UserError(f"task.data={folder}: there is no {missing[0]}. {remedy()}")
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


def communities(nodes: int = 10000, classes: int = 41, features: int = 64, mean_degree: int = 16) -> Data:
    """Degree-corrected stochastic block model (Karrer & Newman 2011): heavy-tailed degrees, noisy features.

    An end of an edge is drawn in proportion to a node's own weight; the other end with probability 0.7 from the same community.
    """
    rng = np.random.default_rng(0)
    shares = 1 / np.arange(3, classes + 3) ** 0.7
    labels = np.sort(rng.choice(classes, nodes, p=shares / shares.sum()))
    ends = rng.pareto(1.5, nodes) + 0.5
    total = np.cumsum(ends)
    bounds = np.searchsorted(labels, np.arange(classes + 1))
    edge = np.concatenate([[0.0], total])

    def draw(low: np.ndarray, high: np.ndarray) -> np.ndarray:
        return np.searchsorted(total, low + (high - low) * rng.random(len(low)), side="right").clip(max=nodes - 1)

    count = nodes * mean_degree // 2
    first = draw(np.zeros(count), np.full(count, total[-1]))
    inside = rng.random(count) < 0.7
    low = np.where(inside, edge[bounds[labels[first]]], 0.0)
    high = np.where(inside, edge[bounds[labels[first] + 1]], total[-1])
    second = draw(low, high)
    both = np.unique(np.concatenate([[first, second], [second, first]], axis=1)[:, :], axis=1)
    centres = rng.standard_normal((classes, features))
    x = 0.5 * centres[labels] + rng.standard_t(2, (nodes, features))
    part = rng.choice(3, nodes, p=[0.6, 0.15, 0.25])
    return Data(
        x=torch.from_numpy(x).float(),
        edge_index=torch.from_numpy(both[:, both[0] != both[1]]),
        y=torch.from_numpy(labels),
        train_mask=torch.from_numpy(part == 0),
        val_mask=torch.from_numpy(part == 1),
        test_mask=torch.from_numpy(part == 2),
    )
