"""Studies in which nothing differs, run by the program itself: how many call a difference?

python scripts/null_studies.py [STUDIES] [FIRST]      one line a study, then the count

Each is a real study of a tiny task: none and two rules of a user's that do the same under other names. All
multiply the gradient by 1, to a hundred-thousandth; the task's labels are noisy, with noise that is anew in
each run. So runs at one seed differ as they do where a method is nothing but another name. Tuning, stopping
early, final runs and the verdict are those of `clipbench study`; runs are made one after the other in this
process, so that a study gives the same numbers again. The first is drawn with study number FIRST.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from scipy.stats import binom

from clipbench.analysis.comparison import rankings
from clipbench.analysis.groups import read_groups
from clipbench.analysis.verdict import judge
from clipbench.api import finished_row, make_run
from clipbench.interrupt import never
from clipbench.runs.plan import Plan
from clipbench.studies.contest import contests
from clipbench.studies.protocol import run_study
from clipbench.sweeps.outcome import SweepOutcome

REPETITIONS, TRIALS, STEPS = 5, 4, 30
STATED = 0.05

TASK = '''"""y = Wx, with labels whose noise is anew in every run."""

import torch
from torch import nn

from clipbench.task import Task, shuffled
from clipbench.task.metrics import MeanSquaredError

NOISE = torch.Generator()


class Noisy(Task):
    headline = "mse"
    splits = ("val", "test")
    data = "64 points near a plane"

    def __init__(self, batch_size=8):
        self.steps_per_epoch = 64 / batch_size
        self.batch_size = batch_size
        rng = torch.Generator().manual_seed(1)
        self.x = torch.randn(128, 5, generator=rng)
        self.y = self.x @ torch.randn(5, 1, generator=rng)

    def model(self, rng):
        return nn.Linear(5, 1)

    def train_batches(self, rng):
        for index in shuffled(64, self.batch_size, rng):
            yield self.x[index], self.y[index]

    def eval_batches(self, split):
        rows = slice(64, 96) if split == "val" else slice(96, 128)
        yield self.x[rows], self.y[rows]

    def forward(self, model, batch):
        x, y = batch
        if model.training:
            y = y + torch.randn(y.shape, generator=NOISE)
        return model(x), y

    def loss(self, outputs, targets):
        return nn.functional.mse_loss(outputs, targets)

    def metrics(self):
        return {"mse": MeanSquaredError()}
'''

RULES = '''"""Two names of one rule; each step counts as clipped, by a hundred-thousandth."""

from dataclasses import dataclass

from clipbench.optim import Rule


@dataclass(frozen=True)
class First(Rule):
    """α = 1 − 10⁻⁵"""

    def __call__(self, grads, params, state, rng):
        return grads.norm * 0 + (1 - 1e-5), state


@dataclass(frozen=True)
class Second(First):
    """α = 1 − 10⁻⁵"""
'''

STUDY = f"""methods: [none, "own_rules:First", "own_rules:Second"]
trials: {TRIALS}
repetitions: {REPETITIONS}
halving: 3
length: 1
draws: 0
space:
  lr: {{log: [0.1, 30]}}
"""

OVERRIDES = (
    "task=noisy",
    "optim=sgd",
    "study=same",
    f"steps={STEPS}",
    f"eval_every={STEPS // 3}",
    "threads=1",
)


@dataclass(frozen=True)
class Told:
    """What a study told: the verdict's kind, its sentence, and how many comparisons called anything."""

    kind: str
    sentence: str
    calls: int


def prepare(folder: Path) -> None:
    """A user's folder: the task, the rules and the study."""
    (folder / "task").mkdir()
    (folder / "task" / "noisy.yaml").write_text(
        "name: noisy\n_target_: own_noise.Noisy\nbatch_size: ${batch_size}\n"
    )
    (folder / "own_noise.py").write_text(TASK)
    (folder / "own_rules.py").write_text(RULES)
    (folder / "study").mkdir()
    (folder / "study" / "same.yaml").write_text(STUDY)


def studies(folder: Path, numbers: Sequence[int]) -> Iterator[Told]:
    """One study for each number, in a folder that is prepared. The number seeds its draws and its noise."""
    with _inside(folder):
        for number in numbers:
            results = folder / f"results_{number}"
            found = contests([*OVERRIDES, f"study.draws={number}", f"results={results}"], folder)
            importlib.import_module("own_noise").NOISE.manual_seed(number)
            outcome = run_study(found, _make_here)
            if outcome.shortfall or outcome.mistakes:
                raise RuntimeError(" ".join([*outcome.shortfall, *outcome.mistakes]))
            yield told(results)


def _make_here(plans: list[Plan]) -> SweepOutcome:
    """In this process, one after the other."""
    statuses = {}
    for plan in plans:
        row = finished_row(plan) or make_run(plan, never)
        assert row is not None
        statuses[plan.run] = row["status"]
    return SweepOutcome(tuple(plans), statuses)


def told(results: Path) -> Told:
    [group] = read_groups(results)
    [ranking] = rankings(group)
    calls = 0
    for comparison in ranking.comparisons.values():
        if comparison.difference.n > REPETITIONS or comparison.tests < 2:
            raise RuntimeError(f"{results} holds another study than this one.")
        calls += comparison.different or comparison.divergence.different
    verdict = judge(ranking)
    if (calls > 0) != (verdict.kind in ("helps", "hurts", "mixed")):
        raise RuntimeError(f"The verdict says other than its comparisons: {verdict.sentence}")
    return Told(verdict.kind, verdict.sentence, calls)


@contextlib.contextmanager
def _inside(folder: Path) -> Iterator[None]:
    """Where the modules of `folder` can be imported, as by a user in it."""
    before, path = Path.cwd(), list(sys.path)
    os.chdir(folder)
    sys.path.insert(0, str(folder))
    try:
        yield
    finally:
        os.chdir(before)
        sys.path[:] = path
        for name in ("own_noise", "own_rules"):
            sys.modules.pop(name, None)


def main(count: int, first: int) -> None:
    kinds: Counter[str] = Counter()
    false = 0
    start = time.perf_counter()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        prepare(folder)
        for number, study in enumerate(studies(folder, range(first, first + count)), first):
            kinds[study.kind] += 1
            false += study.calls > 0
            print(f"{number}: {study.kind}. {study.sentence}", flush=True)
    minutes = (time.perf_counter() - start) / 60
    most = int(binom.ppf(0.999, count, STATED))
    print(
        f"\n{false} of {count} studies call a difference ({100 * false / count:.1f} %), where at most 5 % are"
    )
    print(f"stated; more than {most} would be less likely than 1 in 1000. Verdicts: {dict(kinds)}.")
    print(f"{minutes:.1f} minutes.")


if __name__ == "__main__":
    numbers = [int(each) for each in sys.argv[1:]]
    main(*numbers, *(60, 0)[len(numbers) :])
