"""Reddit: PyG's files, neighbour sampling, exact evaluation."""

from __future__ import annotations

import pickle
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import scipy.sparse
import torch
from torch import Tensor

from clipbench.errors import UserError
from clipbench.task.content import cache_folder
from clipbench.tasks.reddit import Graph, GraphNet, MiniReddit, Reddit, communities, read_raw

# 0 – 1 – 2, 3 – 0, and 4 alone
EDGES = torch.tensor([[0, 1, 1, 2, 0, 3], [1, 0, 2, 1, 3, 0]])
NEIGHBOURS: dict[int, list[int]] = {0: [1, 3], 1: [0, 2], 2: [1], 3: [0], 4: []}


def features(nodes: int, size: int = 4) -> Tensor:
    return torch.randn(nodes, size, generator=torch.Generator().manual_seed(0))


def exact(net: GraphNet, graph: Graph) -> Tensor:
    return net(graph.x, [graph.everything] * 2)


def write_raw(
    folder: Path, feature: np.ndarray, label: list[int], node_types: list[int], edges: Tensor = EDGES
) -> Path:
    (folder / "raw").mkdir(parents=True)
    np.savez(
        folder / "raw/reddit_data.npz",
        feature=feature,
        label=np.array(label),
        node_types=np.array(node_types),
    )
    row, column = edges.numpy()
    graph = scipy.sparse.coo_matrix((np.ones(len(row)), (row, column)), shape=[int(edges.max()) + 1] * 2)
    scipy.sparse.save_npz(folder / "raw/reddit_graph.npz", graph)
    return folder


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    return write_raw(tmp_path / "reddit", features(5).numpy(), [2, 0, 2, 1, 2], [1, 2, 1, 3, 3])


def reddit(folder: Path, batch_size: int = 2) -> Reddit:
    return Reddit(batch_size, str(folder), fanouts=[3, 2], hidden=8)


def test_the_splits_are_those_of_the_file(raw: Path):
    task = reddit(raw)
    assert {split: nodes.tolist() for split, nodes in task.nodes.items()} == {
        "train": [0, 2],
        "val": [1],
        "test": [3, 4],
    }
    assert task.data == f"a graph of 5 nodes ({raw}), 3 classes, 6 edges, 2/1/2 nodes (train/val/test)"


def test_the_majority_of_training_is_right_on_one_test_node_of_two(raw: Path):
    assert reddit(raw).baseline() == ("majority class", {"accuracy": 0.5})


def test_a_second_loading_needs_no_write_permission(raw: Path):
    assert reddit(raw).prepare() == reddit(raw).prepare()


def test_exact_evaluation_is_the_formula():
    graph, net = Graph(features(5), EDGES), GraphNet(4, 8, 3)

    def layer(x: Tensor, rel: torch.nn.Linear, root: torch.nn.Linear) -> Tensor:
        means = torch.stack(
            [x[near].mean(0) if near else torch.zeros(x.shape[1]) for near in NEIGHBOURS.values()]
        )
        return means @ rel.weight.T + rel.bias + x @ root.weight.T

    hidden = layer(graph.x, net.hidden.lin_rel, net.hidden.lin_root).relu()
    expected = layer(hidden, net.output.lin_rel, net.output.lin_root)
    torch.testing.assert_close(exact(net, graph), expected)


def test_edges_of_one_direction_lead_from_source_to_target():
    graph = Graph(torch.tensor([[1.0], [2.0]]), torch.tensor([[0], [1]]))
    assert (graph.everything.edges @ graph.x).tolist() == [[0.0], [1.0]]


def test_a_ring_sampled_whole_gives_the_exact_forward():
    """Where every node has one neighbour, one draw is every neighbour."""
    n = 12
    ring = torch.stack([torch.arange(n), (torch.arange(n) + 1) % n])
    graph, net = Graph(features(n), ring), GraphNet(4, 8, 3)
    nodes = torch.tensor([5, 0, 11])
    sampled = net(graph.x, graph.sample(nodes, (1, 1), torch.Generator().manual_seed(0)))
    torch.testing.assert_close(sampled, exact(net, graph)[nodes])


def test_many_draws_approach_the_exact_forward():
    graph, net = Graph(features(5), EDGES), GraphNet(4, 8, 3)
    sampled = net(graph.x, graph.sample(torch.arange(5), (1000, 1000), torch.Generator().manual_seed(0)))
    torch.testing.assert_close(sampled, exact(net, graph), atol=0.05, rtol=0)


def test_a_node_without_neighbours_is_exact_whatever_is_drawn():
    graph, net = Graph(features(5), EDGES), GraphNet(4, 8, 3)
    sampled = net(graph.x, graph.sample(torch.tensor([4]), (3, 2), torch.Generator().manual_seed(0)))
    torch.testing.assert_close(sampled, exact(net, graph)[[4]])


def test_neighbours_are_drawn_uniformly():
    star = torch.stack([torch.arange(1, 6), torch.zeros(5, dtype=torch.long)])
    n = 50_000
    hop = Graph(features(6), star).sample(torch.tensor([0]), (n,), torch.Generator().manual_seed(0))[0]
    counts = hop.edges.col_indices().bincount(minlength=6)
    assert counts[0] == 0
    assert (counts[1:] - n / 5).abs().max() < 4 * (n * 0.2 * 0.8) ** 0.5


def test_gradients_of_a_sampled_batch_are_those_of_its_edges():
    """Twice the same neighbour counts twice."""
    graph, net = Graph(features(5), EDGES), GraphNet(4, 8, 3)
    first, last = graph.sample(torch.tensor([1, 4]), (3, 2), torch.Generator().manual_seed(0))
    sources = first.edges.col_indices().reshape(-1, 2)
    x, weight = graph.x, (sources.new_tensor([len(NEIGHBOURS[int(i)]) for i in first.targets]) > 0)[:, None]
    hidden = (net.hidden.lin_rel(x[sources].mean(1) * weight) + net.hidden.lin_root(x[first.targets])).relu()
    means = torch.stack([hidden[2:5].mean(0), torch.zeros(8)])
    expected = net.output.lin_rel(means) + net.output.lin_root(hidden[:2])
    params = list(net.parameters())
    torch.testing.assert_close(
        torch.autograd.grad(net(x, [first, last]).square().sum(), params),
        torch.autograd.grad(expected.square().sum(), params),
    )


def test_batches_depend_on_the_generator_alone():
    task = MiniReddit(16, (4, 3), 8)

    def drawn(global_seed: int, seed: int) -> list[Tensor]:
        torch.manual_seed(global_seed)
        batches = islice(task.train_batches(torch.Generator().manual_seed(seed)), 3)
        return [batch.hops[0].edges.col_indices() for batch in batches]

    assert all(torch.equal(a, b) for a, b in zip(drawn(0, seed=1), drawn(9, seed=1), strict=True))
    assert not all(torch.equal(a, b) for a, b in zip(drawn(0, seed=1), drawn(0, seed=2), strict=True))


def test_bf16_trains_and_evaluates(raw: Path):
    task = reddit(raw)
    model = task.model(torch.Generator())
    with torch.autocast("cpu", torch.bfloat16):
        for batch in (next(task.train_batches(torch.Generator())), *task.eval_batches("test")):
            task.loss(*task.forward(model, batch)).backward()


@pytest.mark.parametrize("name", ["reddit_data.npz", "reddit_graph.npz"])
def test_a_missing_file_is_named(raw: Path, name: str):
    (raw / "raw" / name).unlink()
    with pytest.raises(UserError, match=rf"there is no raw/{name}.*clipbench prepare.*task\.data=DIR"):
        _ = reddit(raw).data


@pytest.mark.parametrize("name", ["reddit_data.npz", "reddit_graph.npz"])
def test_half_a_file_is_refused(raw: Path, name: str):
    path = raw / "raw" / name
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(UserError, match=f"is damaged: raw/{name}"):
        _ = reddit(raw).data


class Bomb:
    """A pickle that leaves a mark when it is read."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self):
        return (Path.touch, (self.mark,))


@pytest.mark.parametrize("name", ["processed/data.pt", "raw/reddit_data.npz", "raw/reddit_graph.npz"])
@pytest.mark.parametrize("form", ["pickle", "torch", "npz", "npy"])
def test_no_pickle_in_the_data_folder_is_ever_run(raw: Path, tmp_path: Path, name: str, form: str):
    mark, path = tmp_path / "mark", raw / name
    path.parent.mkdir(exist_ok=True)
    bomb = np.array([Bomb(mark)], dtype=object)
    if form == "pickle":
        path.write_bytes(pickle.dumps(Bomb(mark)))
    elif form == "torch":
        torch.save(Bomb(mark), path)
    else:
        with open(path, "wb") as file:
            arrays = dict.fromkeys(("feature", "label", "node_types", "row", "format"), bomb)
            np.savez(file, **arrays) if form == "npz" else np.save(file, bomb)
    with suppress(UserError):
        _ = reddit(raw).prepare()
    assert not mark.exists()


def test_raw_replaced_is_what_is_loaded(raw: Path, tmp_path: Path):
    before = reddit(raw).data
    (raw / "processed").mkdir()
    other = write_raw(tmp_path / "other", features(5).numpy(), [3, 0, 2, 1, 2], [1, 1, 2, 3, 3])
    for path in (other / "raw").iterdir():
        path.replace(raw / "raw" / path.name)
    assert "3 classes" in before
    assert "4 classes, 6 edges, 2/1/2 nodes" in reddit(raw).data


def copies() -> list[Path]:
    return list((cache_folder() / "prepared").glob("reddit-*"))


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.mark.usefixtures("cache")
@pytest.mark.parametrize("at", [0, 300, -3])
def test_a_broken_copy_is_made_again(raw: Path, at: int):
    expected = reddit(raw).loaded.edge_index
    [copy] = copies()
    content = bytearray(copy.read_bytes())
    content[at] ^= 0xFF
    copy.write_bytes(content if at else content[:40])
    assert torch.equal(reddit(raw).loaded.edge_index, expected)
    assert torch.equal(reddit(raw).loaded.x, features(5))


@pytest.mark.usefixtures("cache")
def test_several_at_once_prepare_it_once(raw: Path, monkeypatch: pytest.MonkeyPatch):
    made = []

    def slowly(folder: Path) -> dict[str, Tensor]:
        made.append(folder)
        time.sleep(0.2)
        return read_raw(folder)

    monkeypatch.setattr("clipbench.tasks.reddit.read_raw", slowly)
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda _: reddit(raw).data, range(4)))
    assert len(set(found)) == 1
    assert len(made) == 1


@pytest.mark.usefixtures("cache")
def test_without_a_place_for_a_copy_it_loads_all_the_same(raw: Path, tmp_path: Path):
    (tmp_path / "cache").touch()  # in the way of the folder, for root too
    (raw / "processed").touch()
    assert "3 classes" in reddit(raw).data


def test_no_advice_is_to_delete_the_original(raw: Path):
    (raw / "raw/reddit_graph.npz").write_bytes(b"half")
    with pytest.raises(UserError, match=r"raw/reddit_graph.npz is not a whole") as raised:
        _ = reddit(raw).data
    assert "elete" not in str(raised.value).replace(str(raw), "")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"label": [0, 1]}, "5 features, 2 labels"),
        ({"label": [0, 1, -1, 0, 1]}, "negative labels"),
        ({"node_types": [1, 1, 1, 2, 2]}, r"no nodes of .* 3 \(test\)"),
        ({"edges": EDGES + 2}, "nodes beyond the 5"),
    ],
)
def test_files_that_contradict_each_other_are_refused(tmp_path: Path, change: dict, message: str):
    whole = {"feature": features(5).numpy(), "label": [2, 0, 2, 1, 2], "node_types": [1, 2, 1, 3, 3]}
    with pytest.raises(UserError, match=message):
        _ = reddit(write_raw(tmp_path / "reddit", **{**whole, **change})).data


def test_offline_prepare_names_the_remedies_and_leaves_no_half_archive(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    def cut_off(url: str, folder: str) -> str:
        path = Path(folder) / "reddit.zip"
        path.write_bytes(b"half")
        raise OSError("connection lost")

    monkeypatch.setattr("torch_geometric.datasets.reddit.download_url", cut_off)
    with pytest.raises(UserError, match=r"Cannot fetch Reddit .* connection lost\..*task\.data=DIR"):
        reddit(tmp_path).prepare()
    assert not (tmp_path / "raw/reddit.zip").exists()


@pytest.mark.parametrize("fanouts", [10, [10], [10, 0], [10, 0.5], [5, 5, 5]])
def test_fanouts_are_two_positive_integers(fanouts: list[int]):
    with pytest.raises(UserError, match="two positive integers"):
        MiniReddit(16, fanouts, 8)


def test_the_width_is_a_positive_integer():
    with pytest.raises(UserError, match=r"task\.hidden=0"):
        MiniReddit(16, [2, 2], 0)


def test_a_device_without_sparse_products_is_refused():
    with pytest.raises(UserError, match="cpu and cuda only"):
        MiniReddit(16, [2, 2], 8, device="mps")


def test_the_mini_graph_is_undirected_without_loops_and_heavy_tailed():
    edges = communities().edge_index
    assert {*map(tuple, edges.T.tolist())} == {*map(tuple, edges.flip(0).T.tolist())}
    assert (edges[0] != edges[1]).all()
    degrees = edges[0].bincount().float()
    assert degrees.max() > 20 * degrees.mean()


def test_most_edges_of_the_mini_graph_stay_in_their_community():
    data = communities()
    same = (data.y[data.edge_index[0]] == data.y[data.edge_index[1]]).float().mean()
    assert 0.6 < same < 0.8


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_training_step_never_waits_for_the_gpu():
    task = MiniReddit(64, (5, 5), 16, device="cuda")
    model = task.model(torch.Generator()).cuda()
    batches = task.train_batches(torch.Generator())
    task.loss(*task.forward(model, next(batches))).backward()
    torch.cuda.set_sync_debug_mode("error")
    try:
        task.loss(*task.forward(model, next(batches))).backward()
    finally:
        torch.cuda.set_sync_debug_mode("default")
