"""Batches through worker processes: reproducible, in order, one message for a mistake, no process left."""

from __future__ import annotations

import multiprocessing
import os
import signal
from itertools import islice

import pytest
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from clipbench.errors import UserError
from clipbench.task.loading import decode, ordered_batches, random_batches, whole_number

# Python 3.12 and later warn when a process with threads forks, as DataLoader does by default on Linux.
pytestmark = pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")


class Noisy(Dataset):
    """(index, a draw from torch's global generator), but for one index, which is somebody's mistake."""

    def __init__(self, n: int = 10, broken: int = -1) -> None:
        self.n, self.broken = n, broken

    def __len__(self) -> int:
        return self.n

    def __getitem__(self, index: int) -> tuple[int, Tensor]:
        if index == self.broken:
            raise UserError(f"sample {index} is broken. Mend it.")
        return index, torch.rand(3)


def stream(workers: int, seed: int = 0, count: int = 7) -> list[tuple[Tensor, Tensor]]:
    batches = random_batches(Noisy(), 4, torch.Generator().manual_seed(seed), workers)
    found = list(islice(batches, count))
    batches.close()  # type: ignore[attr-defined]
    return [(indices.clone(), draws.clone()) for indices, draws in found]


@pytest.mark.parametrize("workers", [0, 1, 2])
def test_the_stream_depends_on_rng_alone(workers: int):
    torch.manual_seed(1)
    expected = stream(0)
    torch.manual_seed(2)
    pairs = list(zip(stream(workers), expected, strict=True))
    assert all(torch.equal(a, b) for pair in pairs for a, b in zip(*pair, strict=True))


def test_two_seeds_give_two_streams():
    assert not torch.equal(stream(0, seed=0)[0][1], stream(0, seed=1)[0][1])


def test_a_sample_is_augmented_anew_every_epoch():
    epochs = {}
    for indices, draws in stream(0, count=20):
        for index, draw in zip(indices.tolist(), draws.tolist(), strict=True):
            epochs.setdefault(index, []).append(tuple(draw))
    assert all(len(set(draws)) == len(draws) > 1 for draws in epochs.values())


@pytest.mark.parametrize("workers", [0, 2])
def test_the_global_generator_is_left_alone(workers: int):
    before = torch.get_rng_state()
    stream(workers)
    list(ordered_batches(Noisy(), 4, workers))
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("workers", [0, 2])
def test_ordered_batches_are_every_sample_once_in_order(workers: int):
    assert [indices.tolist() for indices, _ in ordered_batches(Noisy(), 4, workers)] == [
        [0, 1, 2, 3],
        [4, 5, 6, 7],
        [8, 9],
    ]


@pytest.mark.parametrize("workers", [0, 2])
def test_a_mistake_found_in_a_worker_arrives_as_its_own_message(workers: int):
    batches = ordered_batches(Noisy(broken=5), 4, workers)
    assert next(iter(batches))[0].tolist() == [0, 1, 2, 3]
    with pytest.raises(UserError) as caught:
        list(batches)
    assert str(caught.value) == "sample 5 is broken. Mend it."


def test_workers_end_when_the_stream_is_closed():
    before = set(multiprocessing.active_children())
    batches = random_batches(Noisy(), 4, torch.Generator(), 2)
    next(batches)
    assert len(set(multiprocessing.active_children()) - before) == 2
    batches.close()  # type: ignore[attr-defined]
    assert set(multiprocessing.active_children()) <= before


def test_nothing_to_train_on_is_refused():
    with pytest.raises(UserError, match="no training images left"):
        random_batches(Noisy(0), 4, torch.Generator(), 0)


@pytest.mark.parametrize("content", [b"", b"not an image", b"\x89PNG\r\n\x1a\n\x00\x00"])
def test_a_file_that_does_not_decode_is_named(tmp_path, content: bytes):
    path = tmp_path / "bad.png"
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"bad\.png does not decode"):
        decode(str(path))


def test_half_an_image_does_not_decode(tmp_path):
    path = tmp_path / "half.png"
    Image.effect_noise((64, 64), 50).save(path)
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(UserError, match=r"half\.png does not decode"):
        decode(str(path))


@pytest.mark.parametrize("value", [0, -1, 1.5, "64", True, None])
def test_a_size_must_be_a_whole_number(value: object):
    with pytest.raises(UserError, match=r"task\.size must be a whole number of at least 1"):
        whole_number("task.size", value)


def test_ctrl_c_does_not_reach_the_workers():
    """A terminal sends it to every process; the run wants to finish its step first."""
    batches = random_batches(Noisy(), 4, torch.Generator().manual_seed(0), workers=2)
    found = list(islice(batches, 2))  # one of each: both have begun
    for worker in multiprocessing.active_children():
        os.kill(worker.pid, signal.SIGINT)  # type: ignore[arg-type]
    found += islice(batches, 5)
    batches.close()  # type: ignore[attr-defined]
    assert all(
        torch.equal(a, b) for pair in zip(found, stream(0), strict=True) for a, b in zip(*pair, strict=True)
    )
