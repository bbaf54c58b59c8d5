"""Batches of a map-style dataset through worker processes.

What comes out does not depend on how many there are.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Generator, Iterator
from itertools import islice
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset, default_collate

from clipbench.errors import UserError
from clipbench.task import Batch, Batches, shuffled
from clipbench.task.images import decode

__all__ = ["LoadedBatches", "decode", "ordered_batches", "random_batches", "whole_number"]

Draw = tuple[int, int]
"""(index of a sample, seed of its augmentation)"""


def random_batches(
    dataset: Dataset, batch_size: int, rng: torch.Generator, workers: int | None
) -> Iterator[Batch]:
    """Shuffled batches without end; order and augmentation come from `rng` alone, for any number of workers.

    With workers, `rng` runs ahead of the batches (they are fetched early), so its state cannot be used to
    resume: `skip` can. UserError where there is nothing to train on.
    """
    size = len(dataset)  # type: ignore[arg-type]  # torch's Dataset has no __len__ in its stubs
    if not size:
        raise UserError(
            "There are no training images left once a tenth of them is held out for validation. Add some."
        )
    return LoadedBatches(dataset, _random_draws(size, batch_size, rng), workers)


def _random_draws(n: int, batch_size: int, rng: torch.Generator) -> Iterator[list[Draw]]:
    for indices in shuffled(n, batch_size, rng):
        seeds = torch.randint(2**62, (len(indices),), generator=rng)
        yield list(zip(indices.tolist(), seeds.tolist(), strict=True))


def ordered_batches(dataset: Dataset, batch_size: int, workers: int | None) -> Iterator[Batch]:
    """Every sample once, in order; the last batch may be smaller.

    A transform that draws does so from seed 0.
    """
    size = len(dataset)  # type: ignore[arg-type]
    return LoadedBatches(dataset, _ordered_draws(size, batch_size), workers)


def _ordered_draws(n: int, batch_size: int) -> Iterator[list[Draw]]:
    for start in range(0, n, batch_size):
        end = min(start + batch_size, n)
        yield [(i, 0) for i in range(start, end)]


class LoadedBatches(Batches):
    """The batches of `draws`, lists of (index, seed).

    The worker processes end when it is exhausted, closed or forgotten.
    """

    def __init__(self, dataset: Dataset, draws: Iterator[list[Draw]], workers: int | None) -> None:
        self.dataset, self.draws = dataset, draws
        self.workers = _cores() if workers is None else workers
        self.loaded = self._load()

    def skip(self, number: int) -> None:
        """Leave out `number` batches without decoding them. Before the first one is taken."""
        for _ in islice(self.draws, number):
            pass

    def __next__(self) -> Batch:
        batch, seconds = next(self.loaded)
        if self.workers:
            self.interval = seconds / self.workers
        return batch

    def close(self) -> None:
        self.loaded.close()

    def _load(self) -> Generator[tuple[Batch, float], None, None]:
        loader: DataLoader = DataLoader(
            _Seeded(self.dataset),
            batch_sampler=self.draws,  # type: ignore[arg-type]
            num_workers=self.workers,
            collate_fn=_collate,
            pin_memory=torch.cuda.is_available(),
            worker_init_fn=_leave_interrupts_to_the_run,
            # Without one of its own, every pass would draw a number from torch's global generator.
            generator=torch.Generator(),
        )
        for batch in loader:
            if isinstance(batch, UserError):
                raise batch
            yield batch


def whole_number(name: str, value: Any, least: int = 1, largest: float = float("inf")) -> int:
    """`value`, checked: a setting that counts something."""
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= largest:
        limits = f"of at least {least}" if largest == float("inf") else f"from {least} to {largest}"
        raise UserError(f"{name} must be a whole number {limits}, got {value!r}.")
    return value


class _Seeded(Dataset):
    """dataset[index] with torch's CPU generator seeded for this sample.

    A UserError is returned: raised in a worker, it would arrive wrapped in the worker's traceback.
    """

    def __init__(self, dataset: Dataset) -> None:
        self.dataset = dataset

    def __getitem__(self, draw: Draw) -> tuple[Any, float]:
        """(sample, the seconds that it took)"""
        index, seed = draw
        started = time.perf_counter()
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)  # torch.manual_seed would seed the run's GPU too
            try:
                return self.dataset[index], time.perf_counter() - started
            except UserError as error:
                return error, 0.0


def _collate(timed: list[tuple[Any, float]]) -> Any:
    """(batch, the seconds that it took), or the first UserError among the samples."""
    started = time.perf_counter()
    samples, seconds = zip(*timed, strict=True)
    for sample in samples:
        if isinstance(sample, UserError):
            return sample
    batch = default_collate(list(samples))
    return batch, sum(seconds) + time.perf_counter() - started


def _leave_interrupts_to_the_run(_: int) -> None:
    """Ctrl-C reaches every process of a terminal; a worker that ended would fail the step that the run wants
    to finish.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _cores(limit: int = 16) -> int:
    if hasattr(os, "sched_getaffinity"):
        return min(len(os.sched_getaffinity(0)), limit)
    return min(os.cpu_count() or 1, limit)
