"""Neighbour sampling and the GraphNet of `reddit`."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from functools import cached_property
from typing import NamedTuple

import torch
from torch import Tensor, nn

from clipbench.task.tree import widened

with warnings.catch_warnings():  # PyG's own, while it is imported
    warnings.filterwarnings("ignore", r"`torch\.jit\.script` is deprecated")
    from torch_geometric.nn import GraphConv


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
    """Features (nodes, F), and for each node the sources of the edges that lead to it, on `x.device`."""

    def __init__(self, x: Tensor, edges: Tensor) -> None:
        targets, order = edges[1].sort(stable=True)
        self.x, self.sources = x, edges[0][order]
        self.starts = nn.functional.pad(targets.bincount(minlength=len(x)).cumsum(0), (1, 0))  # (nodes + 1,)
        self.degrees = self.starts.diff()

    @cached_property
    def everything(self) -> Hop:
        """Every edge."""
        ones = self.x.new_ones(len(self.sources))
        return Hop(self.sparse(self.starts, self.sources, ones), None, self.arange(len(self.x)))

    def sample(self, nodes: Tensor, fanouts: Sequence[int], rng: torch.Generator) -> list[Hop]:
        """`fanouts[0]` neighbours of each of `nodes`, `fanouts[1]` of each of all these, …; the last hop
        leads to `nodes`.

        Drawn uniformly with replacement. A node without neighbours gets weights of 0: their mean is 0.
        """
        n, fanout = len(nodes), fanouts[0]
        degrees = self.degrees[nodes, None]
        draws = torch.randint(2**62, (n, fanout), generator=rng, device=rng.device)
        edges_drawn = self.starts[nodes, None] + draws % degrees.clamp(min=1)
        sources = self.sources[edges_drawn.clamp(max=len(self.sources) - 1)].flatten()
        weights = (degrees > 0).to(self.x.dtype).repeat_interleave(fanout)
        if len(fanouts) == 1:
            # Features need no gradient: the sparse product does without a message for every edge.
            return [Hop(self.sparse(self.arange(n + 1) * fanout, sources, weights), None, nodes)]
        farther = self.sample(torch.cat([nodes, sources]), fanouts[1:], rng)
        edges = torch.stack([n + self.arange(n * fanout), self.arange(n).repeat_interleave(fanout)])
        return [*farther, Hop(edges, weights, self.arange(n))]

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
        x = widened(x)  # under autocast it is half as wide, and sparse products do not cast
        return self.output((x, x[last.targets]), last.edges, last.weights)
