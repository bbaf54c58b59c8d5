"""Reddit: the community of a post, from its words and from the posts that share commenters with it.

Two GraphConv layers.
"""

from __future__ import annotations

import os
import secrets
import shutil
import warnings
import zipfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from scipy.sparse import load_npz
from torch import Tensor, nn

from clipbench.errors import UserError
from clipbench.task import Metric, Task, majority, shuffled
from clipbench.task.metrics import Accuracy
from clipbench.task.prepared import one_at_a_time, prepared
from clipbench.task.spikes import Spike, spoiled_pair
from clipbench.tasks.communities import communities
from clipbench.tasks.reddit_graph import Batch, Graph, GraphNet, Hop

with warnings.catch_warnings():  # PyG's own, while it is imported
    warnings.filterwarnings("ignore", r"`torch\.jit\.script` is deprecated")
    from torch_geometric.data import Data
    from torch_geometric.datasets import reddit as pyg_reddit
    from torch_geometric.utils import coalesce

__all__ = ["Batch", "Graph", "GraphNet", "Hop", "MiniReddit", "Reddit", "communities"]

RAW = ("raw/reddit_data.npz", "raw/reddit_graph.npz")
PUBLISHED = (232_965, 602)  # posts and features of the graph that is called Reddit


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
        """Reddit only where it is: any graph in its two files is taken."""
        is_reddit = tuple(self.loaded.x.shape) == PUBLISHED
        name = "Reddit" if is_reddit else f"a graph of {self.loaded.num_nodes} nodes"
        return f"{name} ({self.folder})"

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

    def spoiled(self, batch: Batch, spike: Spike, rng: torch.Generator) -> Batch:
        """Labels are shuffled among the nodes of the batch; the features of all nodes are scaled."""
        if spike.kind == "inputs":
            return batch._replace(x=batch.x * spike.size)
        if spike.kind == "repeat":
            raise UserError(
                "spike.kind=repeat: the nodes of a graph have no copies. task=reddit takes labels or inputs."
            )
        _, labels = spoiled_pair(batch.nodes, batch.labels, spike, rng)
        return batch._replace(labels=labels)

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return nn.functional.cross_entropy(outputs, targets)

    def metrics(self) -> Mapping[str, Metric]:
        return {"accuracy": Accuracy(self.classes)}

    def baseline(self) -> tuple[str, dict[str, float]]:
        train, test = self.loaded.y[self.nodes["train"]], self.loaded.y[self.nodes["test"]]
        return "majority class", majority(self.metrics(), train, [test], self.classes)

    @classmethod
    def data_files(cls, key: str, path: Path) -> Iterable[Path]:
        """The two archives in raw/."""
        return raw_files(path) if key == "data" else super().data_files(key, path)

    def prepare(self) -> str:
        if missing_files(self.folder):
            fetch(self.folder)
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


def raw_files(folder: Path) -> list[Path]:
    """UserError where one is missing."""
    missing = missing_files(folder)
    if missing:
        raise UserError(f"task.data={folder}: there is no {missing[0]}. {remedy()}")
    return [folder / name for name in RAW]


def fetch(folder: Path) -> None:
    """The published archive's two files into `folder`/raw, each moved into place whole; by one process at a
    time.
    """
    raw, partial = folder / "raw", folder / f".partial-{secrets.token_hex(4)}"
    with one_at_a_time(raw):
        if not missing_files(folder):
            return
        try:
            partial.mkdir(parents=True)
            pyg_reddit.extract_zip(pyg_reddit.download_url(pyg_reddit.Reddit.url, str(partial)), str(partial))
            raw.mkdir(exist_ok=True)
            for name in missing_files(folder):
                os.replace(partial / Path(name).name, folder / name)
        except Exception as error:  # of the network, of the archive, of the disk
            raise UserError(f"Cannot fetch Reddit into {folder}: {error}. {remedy()}") from error
        finally:
            shutil.rmtree(partial, ignore_errors=True)


def load(folder: Path) -> Data:
    """The graph of raw/, as PyG's Reddit has it. What PyG keeps in processed/ is a pickle: it is not read.

    Sorting the edges takes a minute; the result is kept in the user's cache folder.
    """
    found = prepared("reddit", folder, raw_files(folder), lambda: read_raw(folder))
    return Data(**found)


def read_raw(folder: Path) -> dict[str, Tensor]:
    """x, y, edge_index and the masks. UserError names the file that is damaged, or says what contradicts
    what.
    """
    with _reading(folder, RAW[0]) as path, np.load(path, allow_pickle=False) as data:
        x = torch.from_numpy(data["feature"]).float()
        y = torch.from_numpy(data["label"]).long()
        split = torch.from_numpy(data["node_types"])
    with _reading(folder, RAW[1]) as path:
        adjacency = load_npz(path).tocoo()
        edges = torch.stack([torch.from_numpy(adjacency.row), torch.from_numpy(adjacency.col)]).long()
    found = {"x": x, "y": y, "edge_index": edges}
    for number, name in enumerate(("train", "val", "test"), 1):
        found[f"{name}_mask"] = split == number
    _check_graph(folder, Data(**found))
    found["edge_index"] = coalesce(edges, num_nodes=len(x))
    return found


@contextmanager
def _reading(folder: Path, name: str) -> Iterator[Path]:
    """UserError for what goes wrong: passing trouble of the disk as such, everything else as damage."""
    path = folder / name
    try:
        with open(path, "rb") as file:
            whole = zipfile.is_zipfile(file)
        if not whole:
            raise damaged(folder, f"{name} is not a whole archive")
        yield path
    except UserError:
        raise
    except MemoryError:
        raise
    except OSError as error:
        raise UserError(f"Cannot read {path}: {error}. Mend its permissions or try again.") from error
    except Exception as error:  # no common type: zip, npz, arrays of another kind
        raise damaged(folder, f"{name}: {error}") from error


def _check_graph(folder: Path, data: Data) -> None:
    """UserError where features, labels, splits and edges contradict each other."""
    n = len(data.x)
    if not n == len(data.y) == len(data.train_mask):
        raise damaged(folder, f"{n} features, {len(data.y)} labels, {len(data.train_mask)} node_types")
    edges = data.edge_index
    if data.num_edges == 0 or edges.max() >= n or edges.min() < 0:
        raise damaged(folder, f"no edges, or edges to nodes beyond the {n} that have features")
    every_split = data.train_mask.any() and data.val_mask.any() and data.test_mask.any()
    if data.y.min() < 0 or not every_split:
        raise damaged(folder, "negative labels, or no nodes of node_types 1 (train), 2 (val) or 3 (test)")


def damaged(folder: Path, reason: str) -> UserError:
    return UserError(
        f"Reddit in {folder} is damaged: {reason}. Put whole files in place of the damaged ones. {remedy()}"
    )


def remedy() -> str:
    return (
        "Run `clipbench prepare task=reddit scale=full` where there is a network, "
        f"or give task.data=DIR, a folder with {' and '.join(RAW)} as DGL publishes them."
    )
